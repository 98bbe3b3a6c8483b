"""What a plan is: a graph of steps as data, written by a person or proposed by a model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from math import isfinite
from typing import Annotated, Literal

import cel
from pydantic import BaseModel, ConfigDict, Discriminator, Field, JsonValue, Tag, model_validator

from perdure.connectors.contracts import PARKED_WITHIN
from perdure.errors import PlanError
from perdure.workflows.conversation_model import SUMMARY, TOKENS

_EXPRESSION = re.compile(r"\$\{((?:[^{}]|\{[^{}]*\})*)\}")
_ID = r"^[a-z][a-z0-9_]*$"
_RESERVED = ("input",)
_BOUND = re.compile(r"\.(?:all|exists|exists_one|filter|map)\(\s*([a-zA-Z_]\w*)\s*,")


class _Model(BaseModel):
    # Fields may be written as `with` and `if`-like words that Python reserves, hence the aliases.
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class _Step(_Model):
    id: str = Field(pattern=_ID)
    needs: tuple[str, ...] = ()
    """Steps that have to end first, besides those its expressions mention."""
    when: str | None = None
    """A CEL condition; if it is false the step is skipped and its value is null."""


class PlanContext(_Model):
    """What of the conversation and of recalled records goes into a prompt."""

    tokens: int = Field(default=TOKENS, ge=64)
    records: tuple[str, ...] = ()
    """Ids of recall steps."""
    summary: str = SUMMARY
    """The task that sums up the oldest messages, if the routes have it."""


class PlanScope(_Model):
    """A memory scope whose parts may be expressions."""

    tenant: str = "default"
    agent: str | None = None
    user: str | None = None
    session: str | None = None


class GenerateStep(_Step):
    """Ask a model."""

    generate: str
    """The task."""
    inputs: dict[str, JsonValue] = Field(default_factory=dict)
    output: dict[str, JsonValue] | str
    """A JSON schema, or `module:Class` of a model that the worker has loaded."""
    lane: Literal["now", "batch"] = "now"
    """`batch` if it can wait. A turn of a conversation can't."""
    conversation: str | None = Field(default=None, min_length=1, max_length=200)
    """The conversation that it is a turn of; steps of one conversation wait for each other."""
    message: JsonValue = None
    """What the user says in the conversation before the model answers."""
    scope: PlanScope | None = None
    """Whose conversation it is."""
    context: PlanContext | None = None

    @model_validator(mode="after")
    def _message_is_said_somewhere(self) -> GenerateStep:
        if self.message is not None and self.conversation is None:
            raise ValueError("a message is part of a conversation: give the step a `conversation`")
        if self.scope is not None and self.conversation is None:
            raise ValueError("the scope is that of a conversation: give the step a `conversation`")
        if self.lane == "batch" and (self.conversation is not None or self.context is not None):
            raise ValueError("a step with a `conversation` or a `context` is asked at once: leave out `lane`")
        return self


class RecallStep(_Step):
    """Recall from memory."""

    recall: str
    scope: PlanScope
    limit: int = Field(default=5, ge=1, le=100)


class RememberStep(_Step):
    """Write to memory."""

    remember: str
    scope: PlanScope
    ttl: timedelta | None = None


class ActStep(_Step):
    """Do an action of a connector."""

    act: str
    args: dict[str, JsonValue] = Field(default_factory=dict, alias="with")
    item: str = ""
    otherwise: Literal["fail", "continue"] = "fail"
    """What it does when the target says no; `continue` gives the value {failed: true, why}."""
    parked_within: timedelta = PARKED_WITHIN
    """How long it waits for a person when nobody can tell what happened."""


class ApprovalStep(_Step):
    """Ask a person."""

    approval: str
    """The question."""
    of: str
    within: timedelta = timedelta(days=2)
    about: JsonValue = None
    risk: str = "medium"
    """low, medium or high; may be an expression."""
    otherwise: Literal["fail", "continue"] = "fail"
    """What anything but an approval does; `continue` gives the value {approved: false, why}."""


def _kind(value: object) -> str | None:
    known = ("generate", "recall", "remember", "act", "approval")
    if isinstance(value, dict):
        return next((kind for kind in known if kind in value), None)
    return next((kind for kind in known if hasattr(value, kind)), None)


PlanStep = Annotated[
    Annotated[GenerateStep, Tag("generate")]
    | Annotated[RecallStep, Tag("recall")]
    | Annotated[RememberStep, Tag("remember")]
    | Annotated[ActStep, Tag("act")]
    | Annotated[ApprovalStep, Tag("approval")],
    Discriminator(
        _kind,
        custom_error_type="unknown_step",
        custom_error_message="a step says one of: generate, recall, remember, act, approval",
    ),
]


class Plan(_Model):
    """A declarative graph of steps. A step runs when what it needs has ended; others run at the same time."""

    perdure: Literal[1] = 1
    """The version of this format."""
    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    description: str = ""
    input: dict[str, JsonValue] = Field(default_factory=dict)
    """A JSON schema that the input has to fit; empty takes anything."""
    steps: tuple[PlanStep, ...] = Field(min_length=1)
    outcome: JsonValue = None
    """What the run returns, with expressions; default: every step's value by its id."""

    @model_validator(mode="after")
    def _is_a_graph(self) -> Plan:
        ids = [step.id for step in self.steps]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            raise ValueError(f"step id {twice[0]!r} stands twice")
        if set(ids) & set(_RESERVED):
            raise ValueError("step id 'input' is reserved for the plan's input")
        try:
            TopologicalSorter(self.graph()).prepare()
        except CycleError as error:
            raise ValueError(f"steps wait for each other: {' -> '.join(error.args[1])}") from None
        _check_names(expressions(self.outcome), {*ids, *_RESERVED}, "outcome")
        return self

    def graph(self) -> dict[str, set[str]]:
        """Return, per step, the steps that end before it.

        Those under its `needs` and in its expressions, the recalls in its context, the turn before in its conversation.
        """
        ids = {step.id for step in self.steps}
        graph = {step.id: _needs(step, ids) for step in self.steps}
        spoke: dict[str, str] = {}
        for step in self.steps:
            if isinstance(step, GenerateStep) and step.conversation is not None:
                # Turns come in the order in which they stand.
                graph[step.id] |= {spoke[step.conversation]} if step.conversation in spoke else set()
                spoke[step.conversation] = step.id
            if isinstance(step, GenerateStep):
                graph[step.id] |= self._recalls(step)
        return graph

    def _recalls(self, step: GenerateStep) -> set[str]:
        recalls = {each.id for each in self.steps if isinstance(each, RecallStep)}
        wanted = set(step.context.records if step.context else ())
        if strange := sorted(wanted - recalls):
            raise ValueError(f"step {step.id!r}: the records of its context are recall steps, and {strange[0]!r} is none")
        return wanted


def expressions(value: object) -> Iterator[str]:
    """Yield the CEL expressions inside VALUE's `${...}`, however deep."""
    if isinstance(value, str):
        yield from _EXPRESSION.findall(value)
    elif isinstance(value, dict):
        for each in value.values():
            yield from expressions(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from expressions(each)


def render(value: JsonValue, names: dict[str, JsonValue], place: str) -> JsonValue:
    """Return VALUE with its `${...}` evaluated over NAMES. A string that is one expression keeps the type of its result."""
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


def evaluate(expression: str, names: dict[str, JsonValue], place: str) -> JsonValue:
    """Return what the CEL EXPRESSION gives over NAMES. Raises `PlanError` naming PLACE."""
    try:
        return _plain(compiled(expression).execute({**names, **_FUNCTIONS}))
    except Exception as error:  # noqa: BLE001  CEL's errors have no common class, and one that got away would stall the run
        said = f"there is no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise PlanError(f"{place}: {expression!r} cannot be evaluated: {said}") from None


@lru_cache(maxsize=1024)
def compiled(expression: str) -> cel.Program:
    """Return the compiled EXPRESSION. Raises ValueError with the position if it is not CEL."""
    return cel.compile(expression)


def as_text(value: JsonValue) -> str:
    """Return VALUE as it stands inside a text: nothing for null."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _needs(step: PlanStep, ids: set[str]) -> set[str]:
    unknown = [name for name in step.needs if name not in ids]
    if unknown:
        raise ValueError(
            f"step {step.id!r} needs {unknown[0]!r}, and there is no such step; steps: {', '.join(sorted(ids))}"
        )
    body = step.model_dump(mode="json", exclude={"id", "needs", "when", "output"})
    found = [*expressions(body), *([step.when] if step.when else [])]
    return {*step.needs, *_check_names(found, {*ids, *_RESERVED}, f"step {step.id!r}")} - set(_RESERVED)


def _check_names(found: Iterator[str] | list[str], known: set[str], place: str) -> set[str]:
    mentioned: set[str] = set()
    for expression in found:
        try:
            names = set(compiled(expression).variables()) - set(_BOUND.findall(expression))
        except ValueError as error:
            raise ValueError(f"{place}: {expression!r} is not a CEL expression: {str(error).splitlines()[0]}") from None
        strange = sorted(names - known)
        if strange:
            raise ValueError(f"{place}: {expression!r} mentions {strange[0]!r}; known: {', '.join(sorted(known))}")
        mentioned |= names
    return mentioned


def _plain(value: object) -> JsonValue:
    """Return what CEL gave as JSON: times become ISO text, durations seconds."""
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


_FUNCTIONS = {"day": _day}
"""What expressions may call besides CEL's own functions: `day('2026-11-23...')` is the start of that day in UTC."""
