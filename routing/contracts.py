"""What routing and its callers say to each other. Pure models: safe to import in workflow code."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from perdure.lazy import lazy
from perdure.lineage import Frozen, StepRef

T = TypeVar("T")
Tier = Literal["small", "medium", "large"]


class OutputRef(Frozen):
    """Which model an answer must fit: a class by name, so that its schema is not stored again with every call."""

    name: str
    """`module:QualifiedName`. The worker looks it up among loaded modules and never imports it."""
    json_schema: dict[str, JsonValue] | None = None
    """The schema itself, for outputs that no loaded class stands for."""


class GenerateCall(Frozen):
    """The argument of the activity `perdure.generate`."""

    step: StepRef
    task: str
    inputs: dict[str, JsonValue] = Field(default_factory=dict)
    output: OutputRef
    tenant: str = "default"
    """For whom: budgets and the cache tell tenants apart."""
    agent: str = ""
    """Who asks, for budgets of agents."""


class Usage(Frozen):
    """What provider calls took. Cost is in nano-USD: 1e-9 of a US dollar, an integer."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_nano_usd: int = 0


class Attempt(Frozen):
    """One attempt of a step: who was asked, what came of it, what it cost. Kept in the history with what came after it."""

    attempt: int
    deployment: str = ""
    tier: Tier | None = None
    outcome: str = "not recorded"
    """As in the table `model_call`; `not recorded` if the attempt ended before it asked anybody."""
    error: str = ""
    cost_nano_usd: int = 0
    at_risk_nano_usd: int = 0
    """The most that it may have cost if nobody saw the answer."""
    switched: str = ""
    """Why this deployment and not the first of the tier; empty if it is the first."""
    milliseconds: int = 0
    arm: str = ""
    canary: bool = False
    """Whether it tried what the canary tries."""


class ModelRecord(Frozen):
    """Which model answered, at what price: kept in the history and in SQL. Usage and time are of all attempts."""

    call_id: str = ""
    task: str
    tier: Tier
    deployment: str
    model: str
    usage: Usage = Usage()
    attempt: int = 1
    provider_calls: int = 1
    """Calls to a provider that the step has made: one an attempt, none for an answer out of the cache."""
    repaired: bool = False
    repairs: str = ""
    """What had to be mended before the answer could be read."""
    prompt_digest: str = ""
    prompt_version: str = ""
    """The version of the task's instructions."""
    arm: str = ""
    """`canary` or `control` where there is a canary; else empty."""
    canary: str = ""
    """Which, as NAME@VERSION."""
    escalation: str = ""
    """The version of the learned escalation that has judged the answer; `static`: none was in force; empty: no matter."""
    answer_digest: str = ""
    milliseconds: int = 0
    switched: str = ""
    """Why this deployment and not the first of the tier; empty if it is the first."""
    earlier: tuple[Attempt, ...] = ()
    """The attempts before this one."""
    cached: bool = False
    """Whether the answer came out of the cache."""
    batch: str = ""
    """The batch that it came in."""
    saved_nano_usd: int = 0
    """What that saved, or the batch."""


class EnqueueCall(Frozen):
    """The argument of the activity `perdure.enqueue`: put CALL into a batch, to be answered by a signal to its run."""

    call: GenerateCall


class EnqueueResult(Frozen):
    """Which deployment's batches a call has gone into, and how long its run waits for the answer; empty: into none."""

    deployment: str = ""
    within: timedelta = timedelta()


class CollectorState(Frozen):
    """The state of the workflow `perdure.batch_collector`: what waits for the next batch of DEPLOYMENT."""

    deployment: str
    size: int
    """So many calls make a batch."""
    wait: timedelta
    """So long the first of them waits for others."""
    poll: timedelta
    calls: tuple[GenerateCall, ...] = ()
    number: int = 0
    """How many batches there were before."""
    seen: tuple[str, ...] = ()
    """Digests of the calls that came last, so that one that comes twice is asked once."""
    since: datetime | None = None
    """Since when the first of the calls has waited."""


class BatchCall(Frozen):
    """A batch: the argument of the workflow `perdure.batch` and of its activities."""

    batch: str
    """Its name, which the provider keeps with it, so that it is found again after a crash."""
    deployment: str
    poll: timedelta
    calls: tuple[GenerateCall, ...]
    at_provider: str = ""
    """The provider's id of it, once it has one."""


class SubmitResult(Frozen):
    """The provider's id of a batch, empty if there was nothing to send; ADOPTED if an earlier attempt had sent it."""

    at_provider: str
    adopted: bool = False


class PollResult(Frozen):
    """Whether the provider has done with a batch, and its own word for it."""

    ended: bool
    status: str = ""


class FanResult(Frozen):
    """How many calls of a batch were answered, and how many go to a provider one by one."""

    answered: int
    stragglers: int


class BatchAnswer(Frozen):
    """What the signal `perdure.batch_answer` tells a run about its STEP. Without GENERATION it asks by itself: see WHY."""

    first_execution_run_id: str
    step: str
    generation: Generation | None = None
    why: str = ""
    cost_nano_usd: int = 0
    """What an answer that does not count has cost."""


class RaiseCall(Frozen):
    """The argument of the activity `perdure.raise_budget`: what BY has granted to a budget, once for STEP."""

    step: StepRef
    budget: str
    subject: str = ""
    since: str = ""
    nano_usd: int = Field(gt=0)
    by: str
    why: str = ""


class RaiseResult(Frozen):
    """What a budget allows from now on."""

    budget: str
    subject: str = ""
    limit_nano_usd: int


class JudgeCall(Frozen):
    """The argument of the activity `perdure.judge`: BY says whether an answer was right, once for STEP.

    Its call is CALL_ID or, where the history does not have that, the last one of this run that fits the rest.
    """

    step: StepRef
    call_id: str = ""
    task: str = ""
    deployment: str = ""
    prompt_digest: str = ""
    answer_digest: str = ""
    correct: bool
    by: str = ""
    source: Literal["step", "approval"] = "step"


class LabelResult(Frozen):
    """What is known of an answer from now on."""

    call_id: str
    task: str
    correct: bool


class Generation(Frozen):
    """The result of the activity `perdure.generate`: the answer as JSON, already valid against the output."""

    value: JsonValue
    confidence: float | None = None
    """0 to 1 if the deployment states one, else None."""
    ask_below: float | None = None
    """The task's threshold: below this confidence a person should decide. None: the task sets none."""
    record: ModelRecord

    @property
    def unsure(self) -> bool:
        """Whether the stated confidence is below the task's threshold."""
        return _unsure(self.confidence, self.ask_below)


class Generated(BaseModel, Generic[T]):
    """A valid answer and the record of how it came."""

    model_config = ConfigDict(frozen=True)

    value: T
    confidence: float | None = None
    ask_below: float | None = None
    record: ModelRecord

    @property
    def unsure(self) -> bool:
        """Whether the stated confidence is below the task's threshold."""
        return _unsure(self.confidence, self.ask_below)


def _unsure(confidence: float | None, ask_below: float | None) -> bool:
    return confidence is not None and ask_below is not None and confidence < ask_below


BatchAnswer.model_rebuild()

if not TYPE_CHECKING:
    # Names of 0.1.0; `perdure.moved` has them. Remove after 2027-06.
    __getattr__ = lazy(__name__, {})
