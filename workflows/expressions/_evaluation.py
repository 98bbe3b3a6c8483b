"""What an expression gives: a tree becomes functions that call each other, from names to a value."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, Final

from perdure.workflows.expressions._functions import FUNCTIONS, METHODS, TYPES, check_int, no_such
from perdure.workflows.expressions._syntax import (
    Binary,
    Call,
    Conditional,
    Constant,
    Index,
    ListOf,
    Logical,
    Macro,
    MapOf,
    Name,
    Node,
    Select,
    SyntaxProblem,
    Unary,
    children,
    count_nodes,
)
from perdure.workflows.expressions._values import (
    MAX_INT,
    Duration,
    EvaluationProblem,
    MixedMap,
    Timestamp,
    UInt,
    Work,
    as_numbers,
    name_of_type,
    same,
)

__all__ = ["Evaluate", "Scope", "build", "free_names", "leads_on"]


class Scope:
    """What the names stand for, and how much work is left."""

    __slots__ = ("bound", "names", "work")

    def __init__(self, names: Mapping[str, object], work: Work, bound: Mapping[str, object] | None = None) -> None:
        self.names = names
        self.work = work
        self.bound: dict[str, object] = dict(bound or {})
        """What macros bind, which hides names."""


Evaluate = Callable[[Scope], object]


def free_names(node: Node, bound: frozenset[str] = frozenset()) -> frozenset[str]:
    """Return the names in NODE that no macro binds there."""
    match node:
        case Constant():
            return frozenset()
        case Name(name=name, absolute=absolute):
            return frozenset() if name in bound and not absolute else frozenset({name})
        case Select() if _path(node) in TYPES:
            return frozenset()
        case Macro():
            inner = free_names(node.body, bound | {node.variable})
            if node.filter is not None:
                inner |= free_names(node.filter, bound | {node.variable})
            return inner | free_names(node.range, bound)
    return frozenset().union(*(free_names(each, bound) for each in children(node)))


def leads_on(node: Node) -> bool:
    """Return whether NODE only leads to a part of what a name stands for, as in `input.lines[0]`."""
    match node:
        case Name():
            return True
        case Select(operand=operand, test=False) | Index(operand=operand, index=Constant()):
            return leads_on(operand)
    return False


def build(node: Node) -> Evaluate:
    """Return what evaluates NODE. Raises `SyntaxProblem` if it calls what isn't there."""
    match node:
        case Constant(value=value):
            return lambda _: value
        case Name():
            return _name(node)
        case Select():
            return _select(node)
        case Index():
            return _index(build(node.operand), build(node.index))
        case Call():
            return _call(node)
        case ListOf():
            items = [build(each) for each in node.items]
            return lambda scope: [each(scope) for each in items]
        case MapOf():
            return _map([(build(key), build(value)) for key, value in node.entries])
        case Logical():
            return _logical([build(each) for each in node.terms], decisive=node.operator == "||")
        case Unary():
            return _unary(node.operator, build(node.operand))
        case Binary():
            return _binary(node.operator, build(node.left), build(node.right))
        case Conditional():
            return _conditional(build(node.condition), build(node.yes), build(node.no))
        case Macro():
            return _macro(node)


def _name(node: Name) -> Evaluate:
    name = node.name

    def evaluate(scope: Scope) -> object:
        if not node.absolute and name in scope.bound:
            return scope.bound[name]
        if name in scope.names:
            return scope.names[name]
        if name in TYPES:
            return TYPES[name]
        raise EvaluationProblem(f"there is no {name!r}")

    return evaluate


def _path(node: Node) -> str:
    match node:
        case Name(name=name):
            return name
        case Select(operand=operand, field=field, test=False):
            return f"{path}.{field}" if (path := _path(operand)) else ""
    return ""


def _select(node: Select) -> Evaluate:
    if (path := _path(node)) in TYPES and not node.test:
        return lambda _: TYPES[path]
    operand, field = build(node.operand), node.field

    def select(scope: Scope) -> object:
        value = operand(scope)
        if not isinstance(value, Mapping):
            raise EvaluationProblem(f"there is no {field!r} in a value of type {name_of_type(value)}")
        if field not in value:
            raise EvaluationProblem(f"there is no {field!r}{_instead(value)}")
        return value[field]

    def test(scope: Scope) -> object:
        value = operand(scope)
        if not isinstance(value, Mapping):
            raise EvaluationProblem(f"has() looks for {field!r} in a map, not in a value of type {name_of_type(value)}")
        return field in value

    return test if node.test else select


def _instead(value: Mapping[object, object]) -> str:
    # Ten and no more: another side of an `||` may make up for this, many times over.
    known = [str(each)[:40] for each in islice(value, 10)]
    return f"; there is {', '.join(known)}{', ...' if len(value) > 10 else ''}" if known else ""


def _index(operand: Evaluate, index: Evaluate) -> Evaluate:
    def evaluate(scope: Scope) -> object:
        value, at = operand(scope), index(scope)
        if isinstance(value, list):
            if isinstance(at, bool) or not isinstance(at, int | float) or at != at // 1:
                raise no_such("an index of a list", at)
            if not 0 <= at < len(value):
                raise EvaluationProblem(f"the list has {len(value)} items, and no number {int(at)} (the first is 0)")
            return value[int(at)]
        if isinstance(value, Mapping):
            if not _is_key(at):
                raise no_such("a key of a map", at)
            if at not in value:
                raise EvaluationProblem(f"there is no such key{_instead(value)}")
            return value[at]
        raise no_such("[]", value)

    return evaluate


def _is_key(value: object) -> bool:
    return isinstance(value, str | bool | int | float)


def _map(entries: list[tuple[Evaluate, Evaluate]]) -> Evaluate:
    def evaluate(scope: Scope) -> object:
        found = [(key(scope), value(scope)) for key, value in entries]
        for key, _ in found:
            if not isinstance(key, str | bool | int):
                raise no_such("a key of a map", key)
        mixed = MixedMap()
        for key, value in found:
            mixed.add(key, value)
        return dict(found) if all(isinstance(key, str) for key, _ in found) else mixed

    return evaluate


def _logical(terms: list[Evaluate], *, decisive: bool) -> Evaluate:
    sign = "||" if decisive else "&&"

    def evaluate(scope: Scope) -> object:
        # One term that decides makes up for others that fail, on whichever side.
        failed: EvaluationProblem | None = None
        for term in terms:
            try:
                value = term(scope)
            except EvaluationProblem as problem:
                failed = failed or problem
                continue
            if value is decisive:
                return decisive
            if not isinstance(value, bool):
                failed = failed or no_such(sign, value)
        if failed is not None:
            raise failed
        return not decisive

    return evaluate


def _conditional(condition: Evaluate, yes: Evaluate, no: Evaluate) -> Evaluate:
    def evaluate(scope: Scope) -> object:
        value = condition(scope)
        if not isinstance(value, bool):
            raise no_such("? :", value)
        return yes(scope) if value else no(scope)

    return evaluate


def _unary(sign: str, operand: Evaluate) -> Evaluate:
    def invert(scope: Scope) -> object:
        value = operand(scope)
        if not isinstance(value, bool):
            raise no_such("!", value)
        return not value

    def negate(scope: Scope) -> object:
        value = operand(scope)
        if isinstance(value, float) or type(value) is int:
            return -value if isinstance(value, float) else _in_range(-check_int(value))
        raise no_such("-", value)

    return invert if sign == "!" else negate


def _binary(sign: str, left: Evaluate, right: Evaluate) -> Evaluate:
    match sign:
        case "==":
            return lambda scope: same(left(scope), right(scope), scope.work)
        case "!=":
            return lambda scope: not same(left(scope), right(scope), scope.work)
        case "in":
            return lambda scope: _contains(right(scope), left(scope), scope.work)
        case "<" | "<=" | ">" | ">=":
            compare = _ORDERS[sign]
            return lambda scope: _ordered(sign, compare, left(scope), right(scope), scope.work)
    calculate = _ARITHMETIC[sign]
    return lambda scope: calculate(left(scope), right(scope), scope.work)


_ORDERS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _ordered(sign: str, compare: Callable[[Any, Any], bool], left: object, right: object, work: Work) -> bool:
    if isinstance(left, str | bytes):
        work.spend(len(left) // 10_000)
    if isinstance(left, bool | str | bytes | Timestamp | Duration):
        if type(left) is type(right):
            return compare(left, right)
    elif isinstance(left, int | float) and isinstance(right, int | float) and not isinstance(right, bool):
        return compare(*as_numbers(left, right))
    raise no_such(sign, left, right)


def _contains(container: object, value: object, work: Work) -> bool:
    if isinstance(container, list):
        return any(same(value, each, work) for each in container)
    if isinstance(container, Mapping):
        if not _is_key(value):
            raise no_such("in", value, container)
        return value in container
    raise no_such("in", value, container)


# --- arithmetic


def _in_range(value: int) -> int:
    if not -MAX_INT - 1 <= value <= MAX_INT:
        raise EvaluationProblem("the result has more than 64 bits")
    return value


def _uint_in_range(value: int) -> UInt:
    if not 0 <= value <= 2 * MAX_INT + 1:
        raise EvaluationProblem("the result is no unsigned integer of 64 bits")
    return UInt(value)


def _quotient(left: int, right: int) -> int:
    if right == 0:
        raise EvaluationProblem("an integer is divided by zero")
    return abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1)


def _remainder(left: int, right: int) -> int:
    if right == 0:
        raise EvaluationProblem("an integer is divided by zero")
    if left == -MAX_INT - 1 and right == -1:
        raise EvaluationProblem("the result has more than 64 bits")
    return left - right * _quotient(left, right)


def _divide(left: float, right: float) -> float:
    if right:
        return left / right
    return math.nan if left == 0 or math.isnan(left) else math.copysign(math.inf, left) * math.copysign(1.0, right)


def _calculate(
    sign: str, of_ints: Callable[[int, int], int], of_doubles: Callable[[float, float], float] | None
) -> Callable[[object, object, Work], object]:
    def calculate(left: object, right: object, _: Work) -> object:
        if type(left) is int and type(right) is int:
            return _in_range(of_ints(check_int(left), check_int(right)))
        if isinstance(left, float) and isinstance(right, float) and of_doubles:
            return of_doubles(left, right)
        if isinstance(left, UInt) and isinstance(right, UInt):
            return _uint_in_range(of_ints(left, right))
        if isinstance(left, int | float) and isinstance(right, int | float):
            raise EvaluationProblem(f"{no_such(sign, left, right)}; convert one of them with int(), uint() or double()")
        raise no_such(sign, left, right)

    return calculate


def _plus_minus(sign: str) -> Callable[[object, object, Work], object]:
    of_numbers = (
        _calculate(sign, operator.add, lambda left, right: left + right)
        if sign == "+"
        else _calculate(sign, operator.sub, lambda left, right: left - right)
    )

    def calculate(left: object, right: object, work: Work) -> object:
        if sign == "+":
            if isinstance(left, str) and isinstance(right, str):
                work.spend((len(left) + len(right)) // 100)
                return left + right
            if isinstance(left, list) and isinstance(right, list):
                work.spend(len(left) + len(right))
                return left + right
            if isinstance(left, bytes) and isinstance(right, bytes):
                work.spend((len(left) + len(right)) // 100)
                return left + right
        match left, right:
            case Duration(), Duration():
                return Duration(left.nanos + right.nanos if sign == "+" else left.nanos - right.nanos)
            case Timestamp(), Duration():
                return Timestamp(left.nanos + right.nanos if sign == "+" else left.nanos - right.nanos)
            case Duration(), Timestamp() if sign == "+":
                return Timestamp(left.nanos + right.nanos)
            case Timestamp(), Timestamp() if sign == "-":
                return Duration(_in_range(left.nanos - right.nanos))
        return of_numbers(left, right, work)

    return calculate


_ARITHMETIC: Final = {
    "+": _plus_minus("+"),
    "-": _plus_minus("-"),
    "*": _calculate("*", operator.mul, operator.mul),
    "/": _calculate("/", _quotient, _divide),
    "%": _calculate("%", _remainder, None),
}


# --- calls and macros


def _call(node: Call) -> Evaluate:
    args = [build(each) for each in node.args]
    if node.target is None:
        if node.function not in FUNCTIONS:
            raise SyntaxProblem(f"there is no function {node.function!r}; there is {', '.join(FUNCTIONS)}", node.at)
        count, function = FUNCTIONS[node.function]
        counts: tuple[int, ...] = (count,)
    else:
        if node.function not in METHODS:
            raise SyntaxProblem(f"there is no method {node.function!r}; there is {', '.join(METHODS)}", node.at)
        counts, function = METHODS[node.function]
        args = [build(node.target), *args]
    if len(node.args) not in counts:
        wanted = " or ".join(map(str, counts))
        raise SyntaxProblem(f"{node.function}() takes {wanted} arguments, not {len(node.args)}", node.at)

    def call(scope: Scope) -> object:
        values = [each(scope) for each in args]
        for value in values:
            if isinstance(value, str | bytes):
                scope.work.spend(len(value) // 1000)
        return function(*values, scope.work)

    return call


def _macro(node: Macro) -> Evaluate:
    values = build(node.range)
    body = build(node.body)
    condition = build(node.filter) if node.filter is not None else None
    variable = node.variable

    cost = 1 + count_nodes(node.body) // 8 + (count_nodes(node.filter) // 8 if node.filter is not None else 0)

    def begin(scope: Scope) -> tuple[Iterable[object], Scope]:
        found = values(scope)
        if not isinstance(found, list | Mapping):
            raise no_such(f"{node.macro}()", found)
        return found, Scope(scope.names, scope.work, scope.bound)

    def holds(scope: Scope, test: Evaluate) -> bool:
        value = test(scope)
        if not isinstance(value, bool):
            raise no_such(f"the condition of {node.macro}()", value)
        return value

    def quantify(scope: Scope, *, decisive: bool) -> bool:
        items, inner = begin(scope)
        failed: EvaluationProblem | None = None
        for item in items:
            inner.work.spend(cost)
            inner.bound[variable] = item
            try:
                if holds(inner, body) is decisive:
                    return decisive
            except EvaluationProblem as problem:
                failed = failed or problem
        if failed is not None:
            raise failed
        return not decisive

    def select(scope: Scope, test: Evaluate | None, then: Evaluate | None) -> list[object]:
        items, inner = begin(scope)
        found = []
        for item in items:
            inner.work.spend(cost)
            inner.bound[variable] = item
            if test is None or holds(inner, test):
                found.append(item if then is None else then(inner))
        return found

    match node.macro:
        case "all":
            return lambda scope: quantify(scope, decisive=False)
        case "exists":
            return lambda scope: quantify(scope, decisive=True)
        case "exists_one" | "existsOne":
            return lambda scope: len(select(scope, body, None)) == 1
        case "filter":
            return lambda scope: select(scope, body, None)
    return lambda scope: select(scope, condition, body)
