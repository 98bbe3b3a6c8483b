"""What perdure keeps about a run inside its workflow: step names, spend, open approvals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypedDict
from weakref import WeakKeyDictionary

from pydantic import JsonValue
from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.common import SearchAttributeUpdate

from perdure.connectors.ledger.contracts import ParkedEffect
from perdure.errors import InvalidInput
from perdure.governance.contracts import (
    DECIDE,
    PLACEHOLDER,
    ApprovalRequest,
    Decision,
    DecisionCall,
)
from perdure.lineage import Continues, Frozen, Lineage, RunStart, StepRef, first_run_of_lineage
from perdure.memory.contracts import CompactModel, Scope
from perdure.memory.conversations.contracts import (
    ConversationRef,
    NewMessage,
    PackReceipt,
)
from perdure.routing.contracts import BatchAnswer
from perdure.workflows.attributes import COST, PLAN, RISK, STATE

CARRIED = "perdure-carried"
"""The header in which a run hands its step counts to its continuation, or the memo, where headers would be in clear."""

CONTINUES = "perdure-continues"
"""The header in which a run that may be retried or be followed by another says that what comes is its continuation."""

OWN_LINEAGE = "perdure.lineage"
"""The patch since which each retry of a workflow and each run by cron has a lineage of its own."""

_RISKS = ("low", "medium", "high")
# The Web UI sends the text that it draws in the address of a request, which has to stay short.
_ABOUT_SHOWN = 1200
_SHOWN = 30


class ContinuedConversation(CompactModel):
    """How a conversation goes on in the continuation of its run: two digests, and what was not stored yet."""

    ref: ConversationRef
    new: tuple[NewMessage, ...] = ()
    full: bool = False
    of: tuple[Scope, ...] = ()


class CallContext(TypedDict):
    """What a run tells its activities about itself."""

    first_run: str
    plan: str
    namespace: str


class Continuation(Frozen):
    """What a run hands to its continuation in a header, so that step names stay unique in the lineage."""

    counts: dict[str, int] = {}
    spent_nano_usd: int = 0
    plan: str = ""
    conversations: tuple[ContinuedConversation, ...] = ()


@dataclass
class OpenConversation:
    """A conversation of the run: the reference to what is stored, and what is not stored yet."""

    ref: ConversationRef
    new: list[NewMessage] = field(default_factory=list)
    of: dict[Scope, bool] = field(default_factory=dict)
    """Whose it is, and whether a step has stored that."""
    full: bool = False
    """Whether its oldest messages are to be summarised before the next turn."""
    packed: PackReceipt | None = None
    """The receipt of the last turn's context."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Its steps take turns, for each goes on from what the one before said."""

    @property
    def unstored_scopes(self) -> tuple[Scope, ...]:
        """Whose it is, as far as no step has stored that yet."""
        return tuple(scope for scope, stored in self.of.items() if not stored)


@dataclass
class OpenApproval:
    """A request that waits, and the decision once it is there."""

    request: ApprovalRequest
    accept_unverified: bool | None = None
    """The worker's policy; None until the request is written down."""
    decision: Decision | None = None
    ignored: list[str] = field(default_factory=list)
    """Why signals that came for it did not count."""


@dataclass
class Run:
    """The state of one run. Replay builds it anew, so nothing in it may come from outside the history."""

    run_id: str
    workflow_type: str
    find_lineage: Callable[[], tuple[Lineage, bool]]
    """Its lineage, and whether what came before it in its chain, if anything, belongs to that. To find it may be a command,
    so a run that takes no step of perdure's is not asked."""
    counts: dict[str, int] = field(default_factory=dict)
    spent_nano_usd: int = 0
    risk: str = ""
    plan: str = ""
    approvals: dict[str, OpenApproval] = field(default_factory=dict)
    decisions: dict[str, Decision] = field(default_factory=dict)
    parked: list[ParkedEffect] = field(default_factory=list)
    """What it waits for a person to resolve."""
    resolution_signals: dict[str, int] = field(default_factory=dict)
    """When it was last told that an effect was resolved, by key, in the order of the signals."""
    batch_answers: dict[str, BatchAnswer] = field(default_factory=dict)
    """What batches have brought for its steps."""
    unwinding: int = 0
    """How many sagas are just taking back what they did."""
    conversations: dict[str, OpenConversation] = field(default_factory=dict)
    trail: list[str] = field(default_factory=list)
    """What was done so far, a line a step, for the run's page."""
    database: str = ""
    """The id of the database that its effects are in, once one has happened."""
    listed: bool = False
    """Whether the list tells its state: it does from the start, or from its first step of perdure's on."""
    _namespace_told: bool = False

    @property
    def lineage(self) -> Lineage:
        """Its lineage."""
        return self._found[0]

    @cached_property
    def _found(self) -> tuple[Lineage, bool]:
        return self.find_lineage()

    def step(self, wanted: str) -> StepRef:
        """Return the reference of the next step called WANTED: the second one of a name becomes `NAME#2`, and so on."""
        if "#" in wanted or not wanted:
            raise InvalidInput(f"step name {wanted!r}: give it a name without '#', which tells repeated steps apart")
        name = self.next_name(wanted)
        self.counts[wanted] = self.counts.get(wanted, 0) + 1
        return self.step_named(name)

    def next_name(self, wanted: str) -> str:
        """Return the name that the next step called WANTED will have."""
        count = self.counts.get(wanted, 0) + 1
        return wanted if count == 1 else f"{wanted}#{count}"

    def step_named(self, name: str) -> StepRef:
        """Return the reference of the step that has exactly this NAME."""
        return StepRef(lineage=self.lineage, name=name, run_id=self.run_id, workflow_type=self.plan or self.workflow_type)

    def call_context(self, *, recorded: bool = True) -> CallContext:
        """Return what an activity cannot find out about the run by itself; of local ones no argument is RECORDED."""
        first = self.lineage.first_execution_run_id
        namespace = self.lineage.namespace if recorded and not self._namespace_told else ""
        self._namespace_told |= recorded
        return {"first_run": "" if first == self.run_id else first, "plan": self.plan, "namespace": namespace}

    @property
    def state(self) -> str:
        """What the list shows of it while it runs."""
        if self.approvals:
            return "waiting_approval"
        if self.parked:
            return "partially_compensated" if self.unwinding else "parked"
        return "running"

    def list_it(self) -> None:
        """Have the list tell the run's state, if it does not yet. Each step of perdure's does so before anything else."""
        if not self.listed:
            self.listed = True
            _ = self.lineage  # which may be a command, and comes first
            workflow.upsert_search_attributes([STATE.value_set("running"), PLAN.value_set(self.plan or self.workflow_type)])

    def spend(self, nano_usd: int) -> None:
        """Add to what the run's model calls cost."""
        self.spent_nano_usd += nano_usd

    def note_done(self, what: str) -> None:
        """Note that WHAT was done, and show it on the run's page in the Web UI."""
        self.trail.append(what)
        self.show()

    def show(self) -> None:
        """Bring the run's page up to date: who is waited for, then the last steps. Costs no event."""
        parts = [_details(self, waiting) for waiting in self.approvals.values() if waiting.decision is None]
        parts += [_parked_details(waiting) for waiting in self.parked]
        if self.trail:
            left_out = len(self.trail) - _SHOWN
            head = [f"1. ({left_out} earlier steps)"] if left_out > 0 else []
            parts.append("\n".join(["### Done so far", "", *head, *(f"1. {line}" for line in self.trail[-_SHOWN:])]))
        workflow.set_current_details("\n\n".join(parts))

    def note_risk(self, risk: str) -> list[SearchAttributeUpdate[str]]:
        """Return the update of the risk attribute if RISK is higher than any before."""
        if risk not in _RISKS or (self.risk and _RISKS.index(risk) <= _RISKS.index(self.risk)):
            return []
        self.risk = risk
        return [RISK.value_set(risk)]

    def cost_update(self) -> list[SearchAttributeUpdate[float]]:
        """Return the update of the cost attribute, if anything was spent on models."""
        return [COST.value_set(self.spent_nano_usd / 1e9)] if self.spent_nano_usd else []

    def headers(self, *, may_be_retried: bool) -> dict[str, Payload]:
        """Return what the continuation is told in headers. Where it MAY_BE_RETRIED as a whole, a retry gets them too."""
        told = {CARRIED: self.continuation().model_dump_json(exclude_unset=True)}
        info = workflow.info()
        first = self.lineage.first_execution_run_id
        if may_be_retried or info.cron_schedule or first != info.first_execution_run_id:
            told[CONTINUES] = Continues(first=first, after=self.run_id).model_dump_json()
        return {name: Payload(metadata={"encoding": b"json/plain"}, data=text.encode()) for name, text in told.items()}

    def continuation(self) -> Continuation:
        """Return what the continuation has to know."""
        talks = tuple(
            ContinuedConversation(ref=each.ref, new=tuple(each.new), full=each.full, of=each.unstored_scopes)
            for each in self.conversations.values()
        )
        carried = Continuation(counts=self.counts, spent_nano_usd=self.spent_nano_usd, plan=self.plan)
        # Only if there are any: a worker of before there were conversations refuses the field.
        return carried.model_copy(update={"conversations": talks}) if talks else carried

    def take_over(self, carried: Continuation) -> None:
        """Go on from what a run CARRIED over: the one before this, or the one before that which this does anew."""
        self.plan = carried.plan
        if self._found[1]:
            self.counts, self.spent_nano_usd = dict(carried.counts), carried.spent_nano_usd
        for each in carried.conversations:
            talk = self.conversations.setdefault(each.ref.name, OpenConversation(each.ref))
            talk.ref, talk.full = each.ref, each.full
            # A signal's handler comes before the run's own code, and may have said something already.
            talk.new[:0] = each.new
            talk.of = {**dict.fromkeys(each.of, False), **talk.of}


def current_run() -> Run:
    """Return the state of the run whose workflow code is running."""
    loop = asyncio.get_running_loop()
    run = _runs.get(loop)
    if run is None:
        info = workflow.info()
        run = _runs[loop] = Run(info.run_id, info.workflow_type, _find_lineage)
    return run


def _find_lineage() -> tuple[Lineage, bool]:
    info = workflow.info()
    start = RunStart(
        first_run=info.first_execution_run_id,
        run=info.original_execution_run_id,
        after=info.continued_run_id or "",
        attempt=info.attempt,
        cron=bool(info.cron_schedule),
    )
    first = first_run_of_lineage(
        start,
        Continues.model_validate_json(info.headers[CONTINUES].data) if CONTINUES in info.headers else None,
        carried=CARRIED in info.headers or CARRIED in info.raw_memo,
        # Histories before this hold no such marker. Remove the question after 2027-06.
        by_chain_before=lambda: not workflow.patched(OWN_LINEAGE),
    )
    lineage = Lineage(namespace=info.namespace, workflow_id=info.workflow_id, first_execution_run_id=first)
    return lineage, not start.after or first != start.run


def upsert(*updates: Sequence[SearchAttributeUpdate[str] | SearchAttributeUpdate[float]]) -> None:
    """Write all UPDATES to the run's search attributes as one event; nothing to write is no event."""
    flat = [update for group in updates for update in group]
    if flat:
        workflow.upsert_search_attributes(flat)


def _details(run: Run, waiting: OpenApproval) -> str:
    request = waiting.request
    call = DecisionCall(approval=request.approval, digest=request.digest, verdict="approve", by=PLACEHOLDER)
    lines = [
        f"### Waiting for {request.of}: {request.question}",
        f"until {request.deadline:%Y-%m-%d %H:%M} UTC, risk {request.risk}",
        *_about(run, request.about),
        f"`perdure approval approve {run.lineage.workflow_id}`, or send this update or signal `{DECIDE}` with your name:",
        f"```json\n{call.model_dump_json(indent=2)}\n```",
        "`verdict` is `approve`, `reject` or `request changes`; the last two need a `comment`.",
        *(f"- did not count: {why}" for why in waiting.ignored),
    ]
    return "\n\n".join(lines)


def _about(run: Run, about: JsonValue) -> list[str]:
    if about in (None, "", [], {}):
        return []
    text = json.dumps(about, ensure_ascii=False, indent=2).replace("```", "~~~")
    if len(text) <= _ABOUT_SHOWN:
        return ["It is about:", f"```json\n{text}\n```"]
    whole = f"It is about this; `perdure approval show {run.lineage.workflow_id}` prints all of it:"
    return [whole, f"```json\n{text[:_ABOUT_SHOWN]}\n…\n```"]


def _parked_details(waiting: ParkedEffect) -> str:
    lines = [
        f"### Parked: {waiting.step} ({waiting.action})",
        waiting.why,
        f"until {waiting.until:%Y-%m-%d %H:%M} UTC; then the step fails",
        f"`perdure effects show {waiting.key}` tells what is known. Look at the target, then say what is so:",
        f"`perdure effects resolve {waiting.key} --comment WHY` with one of:",
        # The message of a changed intent names what it calls for.
        "`--as-new-generation`, `--did-not-happen`"
        if "--as-new-generation" in waiting.why
        else "`--happened --remote-ref REF`, `--did-not-happen`, `--send-again`",
    ]
    return "\n\n".join(lines)


# Each run has an event loop of its own, alive exactly as long as the run is cached; so the loop is the run's identity here.
# A workflow class of a user's may be a frozen dataclass or have slots, so nothing is hung on the instance.
_runs: WeakKeyDictionary[asyncio.AbstractEventLoop, Run] = WeakKeyDictionary()
