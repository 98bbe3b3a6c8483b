"""How actions reach a system that speaks GraphQL over HTTP. Safe to import in workflow code."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Generic, cast

from pydantic import BaseModel, JsonValue

from perdure.connectors.contracts import (
    Absent,
    Action,
    AnyAction,
    Attempt,
    CannotTell,
    Executed,
    Found,
    In,
    Out,
    Probe,
)
from perdure.connectors.drift.contracts import Contract
from perdure.connectors.http import HttpAction, HttpConnector, Request, parse_retry_after
from perdure.connectors.paging import find_more_anywhere
from perdure.connectors.schemas import from_graphql
from perdure.errors import EffectRejected, EffectUnknown, TargetUnavailable, UnusableAnswer

if TYPE_CHECKING:
    import httpx

Variables = dict[str, JsonValue]
Matches = Callable[[JsonValue, In, str], Sequence[JsonValue]]


@dataclass(frozen=True)
class GraphqlAction(HttpAction[In, Out], Generic[In, Out]):
    """An action that is one GraphQL operation with one field at its root, and how its effect is found again.

    Name the fields of DOCUMENT as the output has them (`total: totalWithTax`). An answer whose `errorCode` is set is a
    refusal, so ask for it: `... on ErrorResult { errorCode message }`.
    """

    request: str = "POST /"
    document: str = ""
    variables: Callable[[In, str], Variables] | None = None
    """Makes the variables from the input and the effect's key; by default they are the input."""
    read: Callable[[JsonValue, In, str], JsonValue] | None = None
    """Makes the output of what the root field answered, the input and the effect's key, where it is not simply that."""
    look: str = ""
    """The query that finds the effect. The input's fields are its variables, as far as it asks for them."""
    matches: Matches[In] | None = None
    """Picks from what the root field of LOOK answered all that is the effect of the input and the key."""

    def __post_init__(self) -> None:
        Action.__post_init__(self)  # the probe is not HttpAction's
        if not _OPERATION.match(self.document):
            raise ValueError(f"action {self.name}: its document is not a query or a mutation")
        if not self.reads and self.target.mechanism == "natural-key" and not (self.look and self.matches):
            raise ValueError(f"action {self.name}: a natural-key target needs `look` and `matches`")

    def build_request(self, args: In, key: str) -> Request:
        """Return the request that does the action with ARGS under the effect's KEY."""
        given = self.variables(args, key) if self.variables else args.model_dump(mode="json")
        return Request("POST", "", {"query": self.document, "variables": given})

    def build_probe(self, args: In, key: str) -> Request:
        """Return the request that finds the effect of KEY."""
        wanted = set(re.findall(r"\$(\w+)\s*:", self.look))
        given = {name: value for name, value in args.model_dump(mode="json").items() if name in wanted}
        return Request("POST", "", {"query": self.look, "variables": given})

    def read_answer(self, root: JsonValue, args: In, key: str) -> Executed:
        """Read ROOT, what the root field of the operation with ARGS under KEY answered.

        Raises `EffectRejected` if it is a refusal, `ValueError` where it does not fit.
        """
        if isinstance(root, dict) and root.get("errorCode"):
            raise EffectRejected(f"{self.name}: {self.connector} says no: {root.get('message') or root['errorCode']}")
        return self.parse_result(self.read(root, args, key) if self.read else root)

    def read_lookup(self, root: JsonValue, args: In, key: str) -> Probe:
        """Read ROOT, what the root field of the query that looks for the effect of ARGS under KEY answered."""
        assert self.matches is not None
        try:
            found = self.matches(root, args, key)
        except ValueError as error:
            return CannotTell(f"{self.name}: {error}")
        if not found and (more := find_more_anywhere(root)):
            return CannotTell(f"{self.name}: what was answered does not have it, and {more} says that there is more")
        if not found:
            return Absent()
        if len(found) > 1:
            return CannotTell(f"{self.name}: {len(found)} have this key, where one should")
        try:
            return Found(self.parse_result(found[0]))
        except ValueError as error:
            return CannotTell(f"{self.name}: it is there, and {error}")

    @property
    def operations(self) -> Iterator[str]:
        """The operations that it relies on, such as `mutation refundOrder`."""
        for document in filter(None, (self.document, self.look)):
            if (names := _OPERATION.match(document)) is not None:
                yield f"{names[1]} {names[2]}"


_Graphql = GraphqlAction[BaseModel, BaseModel]


class GraphqlConnector(HttpConnector):
    """The GraphQL actions of one system. `url` is the address that takes the operations."""

    refusals: ClassVar[Collection[str]] = ("GRAPHQL_PARSE_FAILED", "GRAPHQL_VALIDATION_FAILED", "BAD_USER_INPUT")
    """The codes of errors with which the target says that it has done nothing."""

    async def execute(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Executed:
        """Send the operation of ACTION once. Raises as `Connector.execute` says."""
        spec = _require_graphql(action)
        open_end: type[EffectUnknown | TargetUnavailable] = TargetUnavailable if spec.reads else EffectUnknown
        try:
            root = await self.ask(spec, spec.build_request(args, attempt.key), attempt, open_end)
            return spec.read_answer(root, args, attempt.key)
        except EffectRejected as refusal:
            return await self.raise_unless_found(spec, args, attempt, refusal)
        except ValueError as error:
            kind = TargetUnavailable if spec.reads else UnusableAnswer
            raise kind(f"{spec.name}: {self.name} answered, and {error}") from None

    async def raise_unless_found(
        self, spec: _Graphql, args: BaseModel, attempt: Attempt, refusal: EffectRejected
    ) -> Executed:
        """Raise REFUSAL, unless the effect is at the target all the same.

        An earlier attempt may have landed, and some targets say no when they have done half of it.
        """
        if spec.reads or not spec.look:
            raise refusal
        try:
            there = await self.probe(spec, args, attempt)
        except TargetUnavailable as error:
            raise EffectUnknown(f"{refusal.message}; whether it is there all the same: {error.message}") from None
        if isinstance(there, Found):
            return there.executed
        raise refusal

    async def probe(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Probe:
        """Look for the effect of `attempt.key`. Raises `TargetUnavailable` where there is no answer."""
        spec = _require_graphql(action)
        if not spec.look:
            return CannotTell(f"{spec.name} declares no look")
        try:
            root = await self.ask(spec, spec.build_probe(args, attempt.key), attempt, TargetUnavailable)
        except EffectRejected as error:
            return CannotTell(error.message)
        return spec.read_lookup(root, args, attempt.key)

    async def ask(
        self,
        spec: _Graphql,
        request: Request,
        attempt: Attempt,
        open_end: type[EffectUnknown | TargetUnavailable] = TargetUnavailable,
    ) -> JsonValue:
        """Send REQUEST once and return what its root field answered.

        Raises `EffectRejected` where the target refused it before it did anything, OPEN_END where nobody knows.
        """
        response = await self._send(cast("HttpAction[BaseModel, BaseModel]", spec), request, attempt, open_end)
        status = response.status_code
        answer = _parse_json(response)
        if status in (429, *spec.untouched):
            raise TargetUnavailable(f"{spec.name}: {self.name} answered {status}", retry_after=parse_retry_after(response))
        if status in (401, 403) or _error_code(answer) in _ACCESS_DENIED:
            if await self.renew_login(response.request, attempt):
                raise TargetUnavailable(f"{spec.name}: {self.name} wants us to log in again, which the next attempt does")
            raise EffectRejected(f"{spec.name}: {self.name} does not allow it: {self._quote_error(answer)}")
        if 400 <= status < 500 and status != 408:
            raise EffectRejected(f"{spec.name}: {self.name} answered {status}: {self._quote_error(answer)}")
        if status in (301, 307, 308):
            raise EffectRejected(f"{spec.name}: {self.name} answered {status}, a redirect: check its url")
        if status != 200 or not isinstance(answer, dict):
            what = f"{status}" if answer else f"{status}, and it is not JSON"
            raise open_end(f"{spec.name}: {self.name} answered {what}", retry_after=parse_retry_after(response))
        if answer.get("errors"):
            if _error_code(answer) in self.refusals:
                raise EffectRejected(f"{spec.name}: {self.name} says no: {self._quote_error(answer)}")
            raise open_end(f"{spec.name}: {self.name} failed: {self._quote_error(answer)}")
        data = answer.get("data")
        if not isinstance(data, dict) or len(data) != 1:
            raise open_end(f"{spec.name}: {self.name} answered no data")
        return next(iter(data.values()))

    def _quote_error(self, answer: JsonValue) -> str:
        line = " ".join(str(_first_error(answer).get("message", "")).split())
        for option in self.option_names:
            if option not in ("url", "user") and (secret := self.option(option)):
                line = line.replace(secret, "***")
        return line if len(line) <= _MAX_QUOTE else line[: _MAX_QUOTE - 1] + "…"

    async def renew_login(self, request: httpx.Request, attempt: Attempt) -> bool:
        """Say whether the target refused REQUEST only because of how we had logged in, and another attempt may do."""
        return await self._token_expired(request)

    async def contract(self) -> Contract | None:
        """Return what the target's introspection says of the operations; None where it does not answer that."""
        relied: dict[str, list[_Graphql]] = {}
        for action in self.actions.values():
            for operation in _require_graphql(action).operations:
                relied.setdefault(operation, []).append(_require_graphql(action))
        spec = next(iter(relied.values()))[0]
        attempt = Attempt(key="", fence=0, deadline=spec.target.deadline)
        for query in _INTROSPECTIONS:
            try:
                schema = await self.ask(spec, Request("POST", "", {"query": query}), attempt)
            except EffectRejected:
                continue  # older servers do not tell of inputs that are deprecated, and many tell the public nothing
            return self._narrow(schema, relied)
        return None

    @staticmethod
    def _narrow(schema: JsonValue, relied: Mapping[str, Sequence[_Graphql]]) -> Contract:
        names = {operation: [action.name for action in actions] for operation, actions in relied.items()}
        whole = from_graphql({"__schema": schema}, names)
        narrow = {
            name: operation.model_copy(update={"response": _keep_read(operation.response, _words_in(relied[name]))})
            for name, operation in whole.operations.items()
        }
        return Contract(source=whole.source, operations=narrow)


_TYPE: Final = "kind name ofType { kind name ofType { kind name ofType { kind name } } }"
_INPUT: Final = f"name defaultValue type {{ {_TYPE} }}"
_INTROSPECTIONS: Final = tuple(
    "query { __schema { queryType { name } mutationType { name } types { kind name enumValues { name } "
    "possibleTypes { kind name } fields(includeDeprecated: true) { name "
    f"args{all_of} {{ {_INPUT} }} type {{ {_TYPE} }} }} "
    f"inputFields{all_of} {{ {_INPUT} }} }} }} }}"
    for all_of in ("(includeDeprecated: true)", "")
)
"""As much of the schema as a contract is made from."""

_OPERATION = re.compile(r"\s*(query|mutation)[^{]*{\s*(?:\w+\s*:\s*)?(\w+)")
_MAX_QUOTE: Final = 200
_ACCESS_DENIED = ("FORBIDDEN", "UNAUTHENTICATED")


def _require_graphql(action: AnyAction) -> _Graphql:
    if not isinstance(action, GraphqlAction):
        raise TypeError(f"action {action.name} is not a GraphqlAction")
    return action


def _parse_json(response: httpx.Response) -> JsonValue:
    try:
        answer: JsonValue = response.json()
    except ValueError:
        return None
    return answer


def _first_error(answer: JsonValue) -> dict[str, JsonValue]:
    errors = answer.get("errors") if isinstance(answer, dict) else None
    return errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}


def _error_code(answer: JsonValue) -> JsonValue:
    """Return the code of the error in ANSWER, if it is of the operation itself.

    Below the root, the operation had been done when something in its answer went wrong.
    """
    error = _first_error(answer)
    path, extensions = error.get("path"), error.get("extensions")
    below = isinstance(path, list) and len(path) > 1
    return extensions.get("code") if isinstance(extensions, dict) and not below else None


def _words_in(actions: Sequence[_Graphql]) -> set[str]:
    return {word for action in actions for word in re.findall(r"\w+", action.document + action.look)}


def _keep_read(schema: JsonValue, words: set[str]) -> JsonValue:
    """Return SCHEMA with those properties only that WORDS, the words of a document, name.

    Kinds of errors are left out: any of them is a refusal.
    """
    if not isinstance(schema, dict):
        return schema
    narrow: dict[str, JsonValue] = dict(schema)
    if isinstance(properties := schema.get("properties"), dict):
        narrow["properties"] = {name: _keep_read(each, words) for name, each in properties.items() if name in words}
    if isinstance(required := schema.get("required"), list):
        narrow["required"] = [name for name in required if name in words]
    if "items" in schema:
        narrow["items"] = _keep_read(schema["items"], words)
    if isinstance(parts := schema.get("anyOf"), list):
        kept = [part for part in parts if not _is_error(part)]
        narrow["anyOf"] = [_keep_read(part, words) for part in kept]
    return narrow


def _is_error(schema: JsonValue) -> bool:
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    return isinstance(properties, dict) and "errorCode" in properties
