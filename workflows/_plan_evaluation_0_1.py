"""How runs begun before perdure 0.2 evaluate their plans: as 0.1.0 did, mistakes included, so they go on as they began.

Histories before 0.2 rely on it, and pyproject.toml on common-expression-language for it. Remove both after 2027-03.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from math import isfinite
from typing import TYPE_CHECKING, Protocol, cast

from pydantic import JsonValue

from perdure.errors import PlanError

if TYPE_CHECKING:
    from perdure.workflows.plan_model import Plan, PlanStep

_EXPRESSION = re.compile(r"\$\{((?:[^{}]|\{[^{}]*\})*)\}")
_BOUND = re.compile(r"\.(?:all|exists|exists_one|filter|map)\(\s*([a-zA-Z_]\w*)\s*,")
_KNOWN = "input"


def mentioned_steps(step: PlanStep, ids: set[str]) -> set[str]:
    """Return which of IDS the expressions of STEP mention. Raises ValueError as 0.1.0 did."""
    body = step.model_dump(mode="json", exclude={"id", "needs", "when", "output"})
    found = [*_expressions(body), *([step.when] if step.when else [])]
    return _mentioned(found, {*ids, _KNOWN}, f"step {step.id!r}") - {_KNOWN}


def check(plan: Plan) -> None:
    """Raise ValueError if 0.1.0 refused an expression of PLAN that is in no step."""
    _mentioned(list(_expressions(plan.outcome)), {*(step.id for step in plan.steps), _KNOWN}, "outcome")


def render(value: JsonValue, names: Mapping[str, JsonValue], place: str) -> JsonValue:
    """Return VALUE with its `${...}` evaluated over NAMES. Raises `PlanError` naming PLACE."""
    if isinstance(value, dict):
        return {key: render(each, names, place) for key, each in value.items()}
    if isinstance(value, list):
        return [render(each, names, place) for each in value]
    if not isinstance(value, str):
        return value
    whole = _EXPRESSION.fullmatch(value)
    if whole:
        return evaluate(whole[1], names, place)
    return _EXPRESSION.sub(lambda match: as_text(evaluate(match[1], names, place)), value)


def evaluate(expression: str, names: Mapping[str, JsonValue], place: str) -> JsonValue:
    """Return what the EXPRESSION gives over NAMES. Raises `PlanError` naming PLACE."""
    try:
        return _plain(_compile(expression).execute({**names, "day": _day}))
    except Exception as error:  # noqa: BLE001  its errors have no common class, and one that got away would stall the run
        said = f"there is no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise PlanError(f"{place}: {expression!r} cannot be evaluated: {said}") from None


def as_text(value: JsonValue) -> str:
    """Return VALUE as it stands inside a text: nothing for null."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


class _Program(Protocol):
    def variables(self) -> list[str]: ...
    def execute(self, context: Mapping[str, object]) -> object: ...


class _Cel(Protocol):
    def compile(self, expression: str) -> _Program: ...


@lru_cache(maxsize=1024)
def _compile(expression: str) -> _Program:
    return _cel().compile(expression)


@lru_cache(maxsize=1)
def _cel() -> _Cel:
    # Its `__init__` imports a command line: a second of work in the middle of a workflow.
    package = find_spec("cel")
    spec = PathFinder.find_spec("cel", list(package.submodule_search_locations or [])) if package else None
    if spec is None or spec.loader is None:
        raise ImportError("runs begun before perdure 0.2 need the package common-expression-language")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return cast(_Cel, module)


def _expressions(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield from _EXPRESSION.findall(value)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _expressions(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _expressions(each)


def _mentioned(found: list[str], known: set[str], place: str) -> set[str]:
    mentioned: set[str] = set()
    for expression in found:
        try:
            names = set(_compile(expression).variables()) - set(_BOUND.findall(expression))
        except ValueError as error:
            raise ValueError(f"{place}: {expression!r} is not a CEL expression: {str(error).splitlines()[0]}") from None
        strange = sorted(names - known)
        if strange:
            raise ValueError(f"{place}: {expression!r} mentions {strange[0]!r}; known: {', '.join(sorted(known))}")
        mentioned |= names
    return mentioned


def _plain(value: object) -> JsonValue:
    match value:
        case None | bool() | int() | str():
            return value
        case float() if isfinite(value):
            return value
        case datetime():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case list():
            return [_plain(each) for each in value]
        case dict():
            return {str(key): _plain(each) for key, each in value.items()}
    raise TypeError(f"it gives {value!r}, which JSON cannot hold")


def _day(text: str) -> datetime:
    return datetime.fromisoformat(text[:10]).replace(tzinfo=UTC)
