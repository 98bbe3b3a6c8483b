"""How actions reach a system that speaks GraphQL over HTTP. Safe to import in workflow code."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Generic, NoReturn, cast

from pydantic import BaseModel, JsonValue

from perdure.connectors._graphql_document import Document, parse_document
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
from perdure.connectors.http import HttpAction, HttpConnector, Request, build_request, parse_retry_after, value_at
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

    Name the fields of DOCUMENT as the output has them (`total: totalWithTax`). Ask for what says that it was refused:
    `... on ErrorResult { errorCode message }`, `userErrors { message }`. An answer that has it is a refusal.
    """

    request: str = "POST /"
    document: str = ""
    variables: Callable[[In, str], Variables] | None = None
    """Makes the variables from the input and the effect's key; by default they are those of the input's fields that the
    document declares. A field whose default is null is left out when it is null, any other null is sent."""
    read: Callable[[JsonValue, In, str], JsonValue] | None = None
    """Makes the output of what the root field answered, the input and the effect's key, where it is not simply that."""
    look: str = ""
    """The query that finds the effect. The input's fields are its variables, as far as it asks for them."""
    refused_in: tuple[str, ...] | None = None
    """The fields of the answer that hold refusals, as paths such as `refund.errors`: lists or texts that are empty where
    there is none, or a flag that is false. None: what is called so by custom, `errorCode`, `userErrors`, `success`."""
    untouched_codes: tuple[str, ...] = ()
    """The codes of errors with which the target says that it has done nothing and may later, besides the connector's."""
    matches: Matches[In] | None = None
    """Picks from what the root field of LOOK answered all that is the effect of the input and the key."""

    def __post_init__(self) -> None:
        Action.__post_init__(self)  # the probe is not HttpAction's
        if self._parse("document", self.document).kind == "query" and not self.reads:
            raise ValueError(f"action {self.name}: its document is a query, so say `reads=True`")
        if self.look and self._parse("look", self.look).kind != "query":
            raise ValueError(f"action {self.name}: its look is not a query")
        if not self.reads and self.target.mechanism == "natural-key" and not (self.look and self.matches):
            raise ValueError(f"action {self.name}: a natural-key target needs `look` and `matches`")

    def build_request(self, args: In, key: str) -> Request:
        """Return the request that does the action with ARGS under the effect's KEY."""
        given = self.variables(args, key) if self.variables else self._default_variables(self.document, args)
        return Request("POST", "", {"query": self.document, "variables": given})

    def build_probe(self, args: In, key: str) -> Request:
        """Return the request that finds the effect of KEY."""
        return Request("POST", "", {"query": self.look, "variables": self._default_variables(self.look, args)})

    def read_answer(self, root: JsonValue, args: In, key: str) -> Executed:
        """Read ROOT, what the root field of the operation with ARGS under KEY answered.

        Raises `EffectRejected` if it is a refusal, `ValueError` where it does not fit.
        """
        for said in self._find_refusals(root):
            if not self.reads and isinstance(root, dict) and _has_result(root, self.refused_in or ()):
                raise ValueError(f"says both that it was refused ({said}) and what was made")
            raise EffectRejected(f"{self.name}: {self.connector} says no: {said}")
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
            parsed = parse_document(document)
            yield f"{parsed.kind} {parsed.root}"

    def _parse(self, what: str, document: str) -> Document:
        try:
            return parse_document(document)
        except ValueError as error:
            raise ValueError(f"action {self.name}: its {what} {error}") from None

    def _default_variables(self, document: str, args: In) -> Variables:
        declared = {variable.name for variable in parse_document(document).variables}
        fields = type(args).model_fields
        # A run passes on every field. Null is a value to GraphQL, and what was not given is none.
        return {
            name: value
            for name, value in args.model_dump(mode="json").items()
            if name in declared and (value is not None or name not in fields or fields[name].get_default() is not None)
        }

    def _find_refusals(self, root: JsonValue) -> Iterator[str]:
        """Yield what ROOT says of why it was refused."""
        if not isinstance(root, dict):
            return
        if self.refused_in is not None:
            found = {path: value_at(root, path) for path in self.refused_in}
        elif self.reads:
            found = {"errorCode": root.get("errorCode")}
        else:
            found = {name: value for name, value in root.items() if _REFUSAL.search(name)}
            if str(root.get("__typename", "")).endswith("Error"):
                found["__typename"] = root["__typename"]
        for path, value in found.items():
            if value is False or (value and value is not True):
                yield _describe_refusal(root, path, value)


_Graphql = GraphqlAction[BaseModel, BaseModel]


class GraphqlConnector(HttpConnector):
    """The GraphQL actions of one system. `url` is the address that takes the operations."""

    refusals: ClassVar[Collection[str]] = ("GRAPHQL_PARSE_FAILED", "GRAPHQL_VALIDATION_FAILED", "BAD_USER_INPUT")
    """The codes of errors with which the target says that it has done nothing."""
    untouched_codes: ClassVar[Collection[str]] = ("THROTTLED", "RATE_LIMITED", "TOO_MANY_REQUESTS", "SERVICE_UNAVAILABLE")
    """Those with which it says that it has done nothing, and may do so later."""

    async def execute(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Executed:
        """Send the operation of ACTION once. Raises as `Connector.execute` says."""
        spec = _require_graphql(action)
        open_end: type[EffectUnknown | TargetUnavailable] = TargetUnavailable if spec.reads else EffectUnknown
        try:
            root = await self.ask(spec, build_request(spec, args, attempt.key), attempt, open_end)
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
            self._raise_errors(spec, answer, open_end)
        data = answer.get("data")
        if not isinstance(data, dict) or len(data) != 1:
            raise open_end(f"{spec.name}: {self.name} answered no data")
        return next(iter(data.values()))

    def _raise_errors(
        self, spec: _Graphql, answer: dict[str, JsonValue], open_end: type[EffectUnknown | TargetUnavailable]
    ) -> NoReturn:
        said = self._quote_error(answer)
        errors = _errors(answer)
        codes = [_code_of(error) for error in errors]
        if codes and all(code in self.refusals for code in codes):
            raise EffectRejected(f"{spec.name}: {self.name} says no: {said}")
        if codes and all(code in (*self.untouched_codes, *spec.untouched_codes) for code in codes):
            raise TargetUnavailable(f"{spec.name}: {self.name} does not take it now: {said}")
        # Without `data` the request failed before anything of it was executed (GraphQL, 7.1.2).
        began = not errors or any("path" in error for error in errors) or any(code in _INTERNAL for code in codes)
        if "data" not in answer and not began:
            if any("locations" in error for error in errors):
                raise EffectRejected(f"{spec.name}: {self.name} says no: {said}")
            raise TargetUnavailable(f"{spec.name}: {self.name} did not begin it: {said}")
        raise open_end(f"{spec.name}: {self.name} failed: {said}")

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

_REFUSAL = re.compile(r"^(?:errorCode|error|success|successful|ok)$|[eE]rrors$")
"""How the fields are called that say that a mutation was refused."""
_INTERNAL: Final = ("INTERNAL_SERVER_ERROR", "INTERNAL_ERROR", "INTERNAL", "UNKNOWN")
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


def _errors(answer: JsonValue) -> list[dict[str, JsonValue]]:
    errors = answer.get("errors") if isinstance(answer, dict) else None
    return [each for each in errors if isinstance(each, dict)] if isinstance(errors, list) else []


def _first_error(answer: JsonValue) -> dict[str, JsonValue]:
    return next(iter(_errors(answer)), {})


def _error_code(answer: JsonValue) -> JsonValue:
    return _code_of(_first_error(answer))


def _code_of(error: dict[str, JsonValue]) -> JsonValue:
    """Return the code of ERROR, if it is of the operation itself.

    Below the root, the operation had been done when something in its answer went wrong.
    """
    path, extensions = error.get("path"), error.get("extensions")
    if isinstance(path, list) and len(path) > 1:
        return None
    code = extensions.get("code") if isinstance(extensions, dict) else None
    return code or error.get("type")


def _has_result(root: Mapping[str, JsonValue], refused_in: Sequence[str]) -> bool:
    """Say whether ROOT has, besides what says that it was refused, an object or a list of what was made."""
    names = {path.partition(".")[0] for path in refused_in}
    return any(
        isinstance(value, dict | list) and value and name not in names and not _REFUSAL.search(name)
        for name, value in root.items()
    )


def _describe_refusal(root: Mapping[str, JsonValue], path: str, value: JsonValue) -> str:
    items = value if isinstance(value, list) else [value]
    said = [str(each.get("message") or each.get("code") or each) if isinstance(each, dict) else str(each) for each in items]
    message = root.get("message")
    line = " ".join((str(message) if message and not isinstance(value, list) else "; ".join(said)).split())
    return (line if value is not False else f"{path} is false{f': {line}' if message else ''}")[:_MAX_QUOTE]


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
