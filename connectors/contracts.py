"""What a connector can do, and what is said when it does it. Safe to import in workflow code.

An `Action` is declared once, beside its input and output models, and says how its target behaves when something goes wrong:
that is what the ledger acts on. Nothing here opens a connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar, cast, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from perdure.lazy import lazy
from perdure.lineage import Frozen, StepRef, digest

In = TypeVar("In", bound=BaseModel)
Out = TypeVar("Out", bound=BaseModel)
UndoIn = TypeVar("UndoIn", bound=BaseModel)
UndoOut = TypeVar("UndoOut", bound=BaseModel)
T = TypeVar("T")

Risk = Literal["low", "medium", "high"]
Reversibility = Literal["compensatable", "pivot", "retriable", "irreversible"]
Mechanism = Literal["header", "natural-key", "none"]
EffectState = Literal["proposed", "claimed", "in flight", "succeeded", "failed", "unknown", "parked", "compensated"]
Confirmation = Literal["response", "probe", "person", "none"]


PARKED_WITHIN = timedelta(days=14)
"""How long a run waits for a person to resolve a parked effect, unless it says otherwise."""


class Target(Frozen):
    """How the system behind an action behaves when a call goes wrong. The ledger acts on this, so state what was tried."""

    mechanism: Mechanism = "none"
    """`header`: the target itself drops repeats of a key. `natural-key`: it stores a reference of ours that can be looked
    up. `none`: neither, so an unknown outcome goes to a person."""
    key_lifetime: timedelta | None = None
    """How long a `header` key is honoured; past it the effect is looked up, never sent again. None: for ever."""
    replays_errors: bool = False
    """Whether a `header` target answers a repeat with the first answer even if that was an error. Then sending again after
    a second lost answer tells nothing new, and the effect is looked up."""
    changed_body: Literal["refused", "first answer", "done again"] = "refused"
    """What a `header` target does with a known key and another body. The ledger never sends that: it parks the changed
    intent. What was tried is stated here for whoever writes to the target by other ways."""
    settle: timedelta = timedelta(seconds=1)
    """How long a request may still land after the connection is gone, and until a look-up or list shows what has landed.
    "Absent" proves nothing before that."""
    deadline: timedelta = timedelta(seconds=10)
    """How long one call may take."""
    looks: int = Field(default=5, ge=1)
    """After how many look-ups that could not tell, or answers from which nobody can tell, a person is asked."""
    losses: int = Field(default=20, ge=1)
    """After how many requests whose answers were lost a person is asked, where each look-up says that it is not there. Each
    waits twice as long as the one before, five minutes at most."""


@dataclass(frozen=True)
class Undo(Generic[In, Out]):
    """How an action is undone: another action, and its argument made from what was asked and what was answered."""

    action: Action[BaseModel, BaseModel]
    argue: Callable[[In, Out], BaseModel]


@dataclass(frozen=True)
class Action(Generic[In, Out]):
    """Something a connector can do. The name is `connector.verb` and never changes: it is on the wire and in the ledger."""

    name: str
    input: type[In]
    output: type[Out]
    risk: Risk = "medium"
    reversibility: Reversibility = "irreversible"
    reads: bool = False
    """Whether it only looks: then there is no effect, no key and no ledger row."""
    target: Target = field(default_factory=Target)
    undo: Undo[In, Out] | None = None
    remove: Undo[In, Out] | None = None
    """How one that should not be at the target is taken away, where that is not what `undo` does."""
    describe: Callable[[In], str] | None = None
    """One line for people, e.g. `refund 12.00 EUR for order 1042`; no secrets."""
    assume: Callable[[In, str], Executed] | None = None
    """What it answered to the input under the effect's key, where that follows, once a person says that it happened."""
    once_per: tuple[str, ...] = ()
    """The fields of the input that name what may happen once in the world, whatever run asks: a business key."""

    def __post_init__(self) -> None:
        connector, _, verb = self.name.partition(".")
        if not connector or not verb:
            raise ValueError(f"action name {self.name!r} is not `connector.verb`")
        if self.reversibility == "compensatable" and self.undo is None and not self.reads:
            raise ValueError(f"action {self.name} says it is compensatable and has no undo")
        if self.reversibility == "pivot" and self.undo is not None:
            raise ValueError(f"action {self.name} says it is a pivot, which nothing takes back, and has an undo")
        unknown = sorted(set(self.once_per) - set(self.input.model_fields))
        if unknown:
            raise ValueError(f"action {self.name}: {self.input.__name__} has no field {', '.join(unknown)} for once_per")

    @property
    def connector(self) -> str:
        """The name of the connector that does it."""
        return self.name.partition(".")[0]


AnyAction = Action[BaseModel, BaseModel]


def undo_by(action: Action[UndoIn, UndoOut], argue: Callable[[In, Out], UndoIn]) -> Undo[In, Out]:
    """Return the undo that performs ACTION with what ARGUE makes of the original's argument and answer."""
    return Undo(action=cast(AnyAction, action), argue=argue)


@dataclass(frozen=True)
class Attempt:
    """What a connector is told about one call: the effect's key, and how long it may take."""

    key: str
    fence: int
    deadline: timedelta


@dataclass(frozen=True)
class Executed:
    """What the target answered: the output and how the target calls what now exists there."""

    output: BaseModel
    remote_ref: str = ""


@dataclass(frozen=True)
class Found:
    """A probe found the effect at the target."""

    executed: Executed


@dataclass(frozen=True)
class Absent:
    """A probe asked the target and the effect is not there."""


@dataclass(frozen=True)
class CannotTell:
    """A probe could not find out."""

    why: str


Probe = Found | Absent | CannotTell


class Connector(Protocol):
    """What the ledger calls. An instance is registered with the worker under its name."""

    @property
    def name(self) -> str:
        """The part of the action names before the dot."""
        ...

    @property
    def actions(self) -> Mapping[str, AnyAction]:
        """The actions by full name."""
        ...

    async def execute(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Executed:
        """Do it, once, without retrying.

        Raises `TargetUnavailable` when nothing can have happened, `EffectRejected` when the target said no,
        `EffectUnknown` when it may have happened.
        """
        ...

    async def probe(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Probe:
        """Look up whether the effect of `attempt.key` exists at the target, by the stored natural key."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class Listed(Frozen):
    """Something that exists at the target, as its own list or event feed has it."""

    action: str
    """The action that makes such a thing."""
    remote_ref: str
    key: str = ""
    """The effect's key that the target has stored with it; empty if it has none."""
    facts: dict[str, JsonValue] = Field(default_factory=dict)
    """What it is, in the fields of the action's output."""
    at: datetime | None = None
    """When the target says it was made."""
    stands: bool | None = None
    """False: it is listed and no longer in force, cancelled or released, say. None: the target does not tell."""


@runtime_checkable
class Reconcilable(Protocol):
    """What a connector offers besides, so that the ledger can be compared with what its target says."""

    @property
    def listed_actions(self) -> Collection[str]:
        """The actions whose results `listing` shows completely. Those of others are not looked for."""
        ...

    def listing(self, since: datetime, until: datetime) -> AsyncIterator[Listed]:
        """Yield at least everything that the target says was made from SINCE to UNTIL, in any order.

        Raises `TargetUnavailable` when the target cannot say so now: half a list would make the rest look missing.
        """
        ...


def effect_key(step: StepRef, *, item: str = "", generation: int = 0) -> str:
    """Return the key of an effect: the same over retry, reset, crash and continue-as-new.

    GENERATION goes up only when a person approves that a changed intent is a new effect.
    """
    lineage = step.lineage
    who = digest([lineage.namespace, lineage.workflow_id, lineage.first_execution_run_id, step.name, item, generation])
    return "pe-" + who.removeprefix("sha256:")[:40]


def business_key(action: AnyAction, args: BaseModel) -> str | None:
    """Return what ACTION with ARGS may happen once per, in the whole world; None where the action does not say."""
    if not action.once_per:
        return None
    given = args.model_dump(mode="json", include=set(action.once_per))
    return "bk-" + digest([action.name, given]).removeprefix("sha256:")[:40]


def undo_key(key: str) -> str:
    """Return the key of the effect that undoes the effect under KEY: one undo an effect, whoever asks for it."""
    return "pe-" + digest(["undo", key]).removeprefix("sha256:")[:40]


class EffectCall(Frozen):
    """The argument of the activity `perdure.act`."""

    step: StepRef
    action: str
    args: dict[str, JsonValue]
    item: str = ""
    generation: int = 0
    must: bool = False
    """Whether the run can only go forward: then a refusal is no end, it is parked for a person."""
    instead_of: str = Field(default="", exclude_if=lambda key: not key)
    """The key of an effect that is gone at the target, where a person has approved that this is sent in its place."""
    database: str = Field(default="", exclude_if=lambda id: not id)
    """The id of the database that the run's effects are in; empty if the run does not know."""
    exact: bool = Field(default=False, exclude_if=lambda exact: not exact)
    """Whether ARGS were written down and not dumped by a model: then null is null, and does not stand for "not given"."""


class Receipt(Frozen):
    """What proves an effect: how the target calls it, and the digest of what it answered."""

    key: str
    action: str
    remote_ref: str = ""
    response_digest: str = ""
    confirmed_at: datetime | None = None
    confirmed_by: Confirmation = "response"
    """`probe`: the answer was lost and the effect was found at the target. `person`: somebody found it there and said so.
    `none`: a look-up, so no effect."""
    sent: int = 0
    """How often the request was sent; more than 1 only where that is safe."""


class EffectResult(Frozen):
    """The result of the activity `perdure.act`."""

    value: JsonValue
    receipt: Receipt


class Done(BaseModel, Generic[T]):
    """What an action answered, and the receipt."""

    model_config = ConfigDict(frozen=True)

    value: T
    receipt: Receipt


class UndoCall(Frozen):
    """The argument of the activity `perdure.undo`: which effect to undo, and the step that does it."""

    step: StepRef
    effect: str
    action: str
    args: dict[str, JsonValue] = Field(default_factory=dict)
    database: str = Field(default="", exclude_if=lambda id: not id)
    """The id of the database that the run's effects are in; empty if the run does not know."""
    happened: bool = Field(default=False, exclude_if=lambda happened: not happened)
    """Whether the run has the effect's receipt: then a database without it is not the one that it is in."""


class UndoResult(Frozen):
    """The result of the activity `perdure.undo`."""

    effect: str
    outcome: Literal["compensated", "nothing to undo", "stands", "kept"]
    """`stands`: it happened, and its action declares no undo. `kept`: another run relies on it and has it from now on."""
    receipt: Receipt | None = None


class SettleResult(Frozen):
    """The result of the activity `perdure.settle`."""

    effect: str
    state: EffectState | None
    """None: nothing of it had begun."""


class Effect(Frozen):
    """One effect as it stands in the ledger."""

    key: str
    action: str
    args: dict[str, JsonValue]
    args_digest: str
    step: StepRef
    item: str = ""
    generation: int = 0
    state: EffectState
    fence: int
    """Goes up whenever an attempt takes the effect; a write under an older fence changes nothing."""
    lease_until: datetime | None = None
    """Until when the attempt that holds the effect may be at work."""
    doubt_until: datetime | None = None
    """Until when a request whose outcome nobody knows may still land. None: there is no such request."""
    sent: int = 0
    first_sent_at: datetime | None = None
    last_sent_at: datetime | None = None
    looks: int = 0
    """How many look-ups could not tell."""
    response: JsonValue = None
    response_digest: str = ""
    remote_ref: str = ""
    confirmed_at: datetime | None = None
    confirmed_by: Confirmation | None = None
    error: str = ""
    undo_of: str | None = None
    """The key of the effect that this one undoes."""
    business_key: str | None = None
    """What it may happen once per. It is free again when the effect has failed or was undone."""
    contradicts: str | None = None
    """The key of the effect that has other arguments under the same step or business key. This one is what was asked for
    later; nothing of it is sent unless a person approves it as an effect of its own."""
    beside: bool = False
    """Whether it stands beside another of the same business key, by a person's word, and so does not hold that key. One
    that contradicts nothing was lost at the target and sent again."""
    given_up: bool = False
    """Whether its run has undone it while other runs relied on it, so that it is theirs."""
    created_at: datetime
    updated_at: datetime

    @property
    def replaced(self) -> bool:
        """Whether it was lost at the target after it had happened, and was sent again as a later generation."""
        return self.state == "succeeded" and self.beside and self.contradicts is None

    @property
    def receipt(self) -> Receipt:
        """What proves it, once it has succeeded."""
        return Receipt(
            key=self.key,
            action=self.action,
            remote_ref=self.remote_ref,
            response_digest=self.response_digest,
            confirmed_at=self.confirmed_at,
            confirmed_by=self.confirmed_by or "none",
            sent=self.sent,
        )


class EffectEvent(Frozen):
    """One transition of an effect: never changed, never removed."""

    id: int
    key: str
    fence: int
    before: EffectState | None
    """None where the effect began."""
    after: EffectState
    at: datetime
    note: str = ""
    by: str | None = None
    """The person who said so, where one did."""
    verified: bool | None = None
    """Whether somebody checked that BY really said it. A name typed into the CLI is not verified."""


if not TYPE_CHECKING:
    # What 0.1.0 had here is in `ledger.contracts` and `drift.contracts`. Remove after 2027-06.
    __getattr__ = lazy(__name__, {})
