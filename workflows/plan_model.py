"""What a plan is: a graph of steps as data, written by a person or proposed by a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from perdure.connectors.contracts import PARKED_WITHIN
from perdure.errors import PlanError
from perdure.lazy import lazy
from perdure.workflows import _plan_evaluation_0_1
from perdure.workflows.conversation_model import SUMMARY, TOKENS
from perdure.workflows.expressions import (
    TYPE_NAMES,
    Expression,
    InvalidExpression,
    as_text,
    parse_expression,
    parse_template,
)

__all__ = [
    "ActStep",
    "ApprovalStep",
    "GenerateStep",
    "Plan",
    "PlanContext",
    "PlanScope",
    "PlanStep",
    "RecallStep",
    "RememberStep",
    "StoredPlan",
    "as_text",
    "check_expressions",
    "evaluate",
    "expressions",
    "render",
]

_ID = r"^[a-z][a-z0-9_]*$"
_INPUT = "input"


class _Model(BaseModel):
    # Fields may be written as `with` and `if`-like words that Python reserves, hence the aliases.
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class _Step(_Model):
    id: str = Field(pattern=_ID)
    needs: tuple[str, ...] = ()
    """Steps that have to end first, besides those its expressions mention."""
    when: str | None = None
    """A CEL condition; if it is false the step is skipped and its value is null."""

    templates: ClassVar[frozenset[str]] = frozenset()
    """The fields whose texts may hold `${...}`, however deep in them."""


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

    templates: ClassVar[frozenset[str]] = frozenset(
        {"inputs", "conversation", "message", "scope", "tenant", "agent", "or_ask"}
    )

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
    tenant: str = "default"
    """For whom it asks: budgets and the cache go by it. This and the next two may be expressions."""
    agent: str = ""
    or_ask: str = ""
    """The person or role that is asked for the answer when no model gives a valid one."""

    @model_validator(mode="after")
    def _message_is_said_somewhere(self) -> GenerateStep:
        if self.message is not None and self.conversation is None:
            raise ValueError("a message is part of a conversation: give the step a `conversation`")
        if self.scope is not None and self.conversation is None:
            raise ValueError("the scope is that of a conversation: give the step a `conversation`")
        if self.lane == "batch" and (self.conversation is not None or self.context is not None):
            raise ValueError("a step with a `conversation` or a `context` is asked at once: leave out `lane`")
        if self.or_ask and isinstance(self.output, str):
            raise ValueError(
                "what a person answers is checked against a JSON schema: write `output` as one, or leave out `or_ask`"
            )
        return self


class RecallStep(_Step):
    """Recall from memory."""

    templates: ClassVar[frozenset[str]] = frozenset({"recall", "scope"})

    recall: str
    scope: PlanScope
    limit: int = Field(default=5, ge=1, le=100)


class RememberStep(_Step):
    """Write to memory."""

    templates: ClassVar[frozenset[str]] = frozenset({"remember", "scope"})

    remember: str
    scope: PlanScope
    ttl: timedelta | None = None


class ActStep(_Step):
    """Do an action of a connector."""

    templates: ClassVar[frozenset[str]] = frozenset({"args", "item"})

    act: str
    args: dict[str, JsonValue] = Field(default_factory=dict, alias="with")
    item: str = ""
    otherwise: Literal["fail", "continue"] = "fail"
    """What it does when the target says no; `continue` gives the value {failed: true, why}."""
    parked_within: timedelta = PARKED_WITHIN
    """How long it waits for a person when nobody can tell what happened."""


class ApprovalStep(_Step):
    """Ask a person."""

    templates: ClassVar[frozenset[str]] = frozenset({"approval", "of", "about", "risk"})

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
    def _is_a_graph(self, info: ValidationInfo) -> Plan:
        ids = [step.id for step in self.steps]
        repeated = sorted({name for name in ids if ids.count(name) > 1})
        if repeated:
            raise ValueError(f"step id {repeated[0]!r} stands twice")
        if _INPUT in ids:
            raise ValueError(f"step id {_INPUT!r} is reserved for the plan's input")
        if info.context == _BEFORE_0_2:
            _plan_evaluation_0_1.check(self)
            graph = self.graph(_plan_evaluation_0_1.mentioned_steps)
        else:
            check_expressions(self)
            graph = self.graph()
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            raise ValueError(f"steps wait for each other: {' -> '.join(error.args[1])}") from None
        return self

    def graph(self, mentioned: Callable[[PlanStep, set[str]], set[str]] | None = None) -> dict[str, set[str]]:
        """Return, per step, the steps that end before it.

        Those under its `needs` and in its expressions, the recalls in its context, the turn before in its conversation.
        MENTIONED tells which steps the expressions of one mention, if it is not CEL's specification that says so.
        """
        find = mentioned or _mentioned_steps
        ids = {step.id for step in self.steps}
        graph = {step.id: _known_needs(step, ids) | find(step, ids) for step in self.steps}
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


def _accept_as_begun(value: object, validate: ValidatorFunctionWrapHandler) -> Plan:
    try:
        plan: Plan = validate(value)
    except ValidationError as error:
        # A run of before goes on with what 0.1.0 took. Remove after 2027-03.
        try:
            return Plan.model_validate(value, context=_BEFORE_0_2)
        except ValidationError:
            raise error from None
    return plan


_BEFORE_0_2 = "begun before 0.2"

StoredPlan = Annotated[Plan, WrapValidator(_accept_as_begun)]
"""A plan in the history of a run, which may have begun when expressions were read less strictly."""


def check_expressions(plan: Plan) -> None:
    """Raise ValueError, with a line for each, if a `${` in PLAN is not one of an expression over what is there."""
    known = {_INPUT, *(step.id for step in plan.steps)}
    problems = [f"step id {id!r} is a value in CEL: choose another" for id in sorted(known & {"true", "false", "null"})]
    problems += [problem for step in plan.steps for problem in _step_problems(step, known)]
    problems += _template_problems(plan.outcome, known, "outcome")
    problems += _literal_problems(plan.description, "description")
    problems += _schema_problems(plan.input, "input")
    if problems:
        raise ValueError("\n".join(problems))


def expressions(value: object) -> Iterator[str]:
    """Yield the CEL expressions inside VALUE's `${...}`, however deep. Raises `InvalidExpression`."""
    for _, text in _texts(value):
        for each in parse_template(text).expressions:
            yield each.source


def render(value: JsonValue, names: Mapping[str, JsonValue], place: str) -> JsonValue:
    """Return VALUE with its `${...}` evaluated over NAMES. A string that is one expression keeps the type of its result.

    Raises `PlanError` naming PLACE.
    """
    if isinstance(value, dict):
        return {key: render(each, names, place) for key, each in value.items()}
    if isinstance(value, list):
        return [render(each, names, place) for each in value]
    if not isinstance(value, str):
        return value
    try:
        return parse_template(value).render(names)
    except InvalidExpression as error:
        raise PlanError(f"{place}: {error}") from None


def evaluate(expression: str, names: Mapping[str, JsonValue], place: str) -> JsonValue:
    """Return what the CEL EXPRESSION gives over NAMES. Raises `PlanError` naming PLACE."""
    try:
        return parse_expression(expression).evaluate(names)
    except InvalidExpression as error:
        raise PlanError(f"{place}: {error}") from None


def _known_needs(step: PlanStep, ids: set[str]) -> set[str]:
    unknown = [name for name in step.needs if name not in ids]
    if unknown:
        raise ValueError(
            f"step {step.id!r} needs {unknown[0]!r}, and there is no such step; steps: {', '.join(sorted(ids))}"
        )
    return set(step.needs)


def _mentioned_steps(step: PlanStep, ids: set[str]) -> set[str]:
    found = [each for _, text in _templates(step) for each in parse_template(text).expressions]
    if step.when is not None:
        found.append(parse_expression(step.when))
    return {name for each in found for name in each.names} & ids


def _templates(step: PlanStep) -> Iterator[tuple[str, str]]:
    """Yield the texts of STEP that may hold expressions, by their paths in the file."""
    for field, value in _fields(step):
        if field in step.templates:
            yield from _texts(value, _alias(step, field))


def _fields(step: PlanStep) -> Iterator[tuple[str, object]]:
    return ((field, getattr(step, field)) for field in type(step).model_fields)


def _alias(step: PlanStep, field: str) -> str:
    return type(step).model_fields[field].alias or field


def _texts(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text in VALUE by its path, which begins with PATH."""
    match value:
        case str():
            yield path, value
        case BaseModel():
            yield from _texts(dict(value), path)
        case Mapping():
            for key, each in value.items():
                yield from _texts(each, f"{path}.{key}" if path else str(key))
        case list() | tuple():
            for index, each in enumerate(value):
                yield from _texts(each, f"{path}.{index}" if path else str(index))


def _step_problems(step: PlanStep, known: set[str]) -> Iterator[str]:
    for field, value in _fields(step):
        place = f"step {step.id!r}, {_alias(step, field)}"
        if field == "when":
            if step.when is not None:
                yield from _condition_problems(step.when, known, place)
        elif field in step.templates:
            yield from _template_problems(value, known, place)
        elif field == "output" and isinstance(value, dict):
            yield from _schema_problems(value, place)
        else:
            yield from _literal_problems(value, place)


def _template_problems(value: object, known: set[str], place: str) -> Iterator[str]:
    yield from _key_problems(value, place)
    for path, text in _texts(value, place):
        try:
            template = parse_template(text)
        except InvalidExpression as error:
            yield f"{path}: {error}"
        else:
            for each in template.expressions:
                yield from _name_problems(each, known, path)


def _condition_problems(condition: str, known: set[str], place: str) -> Iterator[str]:
    try:
        yield from _name_problems(parse_expression(condition), known, place)
    except InvalidExpression as error:
        hint = "; a condition is an expression as it stands, without `${}`" if condition.lstrip().startswith("${") else ""
        yield f"{place}: {error}{hint}"


def _name_problems(expression: Expression, known: set[str], place: str) -> Iterator[str]:
    if strange := sorted(expression.names - known - TYPE_NAMES):
        yield f"{place}: {expression.source!r} mentions {strange[0]!r}; known: {', '.join(sorted(known))}"


def _literal_problems(value: object, place: str) -> Iterator[str]:
    yield from _key_problems(value, place)
    for path, text in _texts(value, place):
        if "${" in text:
            yield f"{path}: `${{` stands where nothing is evaluated: {text[:60]!r}"


def _key_problems(value: object, place: str) -> Iterator[str]:
    match value:
        case Mapping():
            for key, each in value.items():
                if "${" in str(key):
                    yield f"{place}: `${{` stands in the key {str(key)[:60]!r}, and keys are not evaluated"
                yield from _key_problems(each, f"{place}.{key}")
        case list() | tuple():
            for index, each in enumerate(value):
                yield from _key_problems(each, f"{place}.{index}")


_PROSE = ("$comment", "description", "examples", "pattern", "title")


def _schema_problems(schema: object, place: str) -> Iterator[str]:
    """Yield where SCHEMA has `${`, which isn't evaluated there; prose and patterns may."""
    match schema:
        case str() if "${" in schema:
            yield f"{place}: `${{` stands in a JSON schema, where nothing is evaluated: {schema[:60]!r}"
        case Mapping():
            for key, each in schema.items():
                if key not in _PROSE or isinstance(each, Mapping):
                    yield from _schema_problems(each, f"{place}.{key}")
        case list():
            for index, each in enumerate(schema):
                yield from _schema_problems(each, f"{place}.{index}")


if not TYPE_CHECKING:
    # Names of 0.1.0; `perdure.moved` has them. Remove after 2027-06.
    __getattr__ = lazy(__name__, {})
