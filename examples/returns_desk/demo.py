"""The returns desk from end to end: sixty requests, a killed worker, a reviewer, and the books compared at the end."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowHistory
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.worker import Replayer

from perdure.commands.inputs import read_plan
from perdure.connectors.ledger import Ledger
from perdure.errors import InvalidSettings, PerdureError
from perdure.examples.returns_desk.desk import ReturnsTriage
from perdure.examples.returns_desk.models import Outcome, ReturnRequest
from perdure.examples.returns_desk.stage import DATA, Stage
from perdure.governance.approvals import ApprovalEntry, Approvals
from perdure.governance.contracts import DECIDE, Decision, DecisionCall
from perdure.lineage import Frozen
from perdure.plugin import PerdurePlugin
from perdure.routing.calls import total_spending
from perdure.storage import Database, open_database
from perdure.workflows import PlanRun

REVIEWER = "demo-reviewer"
"""Who decides when nobody sits at the terminal. A name, not an identity: the audit trail says unverified."""


class Label(Frozen):
    """What a person who knows the desk says about a request."""

    id: str
    verdict: str
    edge_case: bool = False
    why: str = ""
    part: str
    language: str = "en"
    duplicate_of: str | None = None
    refund_wanted: bool = False
    reviewer: str | None = None


class Report(Frozen):
    """What the demo found out. The refunds are counted in the shop's own books."""

    requests: int
    repeated: int
    """Requests that were the same mail again: their run existed already."""
    refunds_wanted: int
    refunds_in_books: int
    duplicates: int
    lost: int
    rejected: int
    customers_asked: int
    approvals: int
    decided_by_people: int
    reviewer: str
    worker_kills: int
    effects_in_flight_at_kills: int
    resumed_after_seconds: list[float]
    model_calls: int
    cost_usd: float
    accuracy_unseen: float
    unseen: int
    histories_replayed: int
    seconds: float
    web_ui: str
    home: str

    @property
    def books_agree(self) -> bool:
        """Whether the shop's books hold each refund that the desk decided on, once, and nothing else."""
        return not self.duplicates and not self.lost and self.refunds_in_books == self.refunds_wanted


@dataclass
class Progress:
    """What a live view shows while the demo runs."""

    started: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    waiting: int = 0
    refunds: int = 0
    in_flight: int = 0
    worker: int = 0
    kills: int = 0
    messages: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Kill:
    at: datetime
    pid: int
    in_flight: int


Decide = Callable[[ApprovalEntry], Awaitable[DecisionCall]]


class Demo:
    """One performance on STAGE. DECIDE answers an open approval; PLAN runs the YAML plan instead of the Python workflow."""

    def __init__(self, stage: Stage, *, kills: int, plan: bool, decide: Decide, say: Callable[[str], None]) -> None:
        self._stage = stage
        self._kills = kills
        self._plan = plan
        self.decide = decide
        self._deciders: Counter[str] = Counter()
        self._say = say
        self._killed: list[_Kill] = []
        self._decided = 0
        self._repeated = 0
        self.progress = Progress(worker=stage.worker_pid)
        self.requests = [ReturnRequest.model_validate(each) for each in read_lines(DATA / "requests.jsonl")]
        self.labels = {label.id: label for label in map(Label.model_validate, read_lines(DATA / "labels.jsonl"))}

    async def run(self) -> Report:
        """Perform, compare the books, and return what was found."""
        began = time.monotonic()
        async with open_database(self._stage.settings.database) as database:
            runs = await self._start()
            ended = asyncio.ensure_future(asyncio.gather(*(self._outcome(handle) for handle in runs.values())))
            helpers = [asyncio.create_task(self._kill_in_flight(database)), asyncio.create_task(self._review(database))]
            try:
                await _first_failure(ended, helpers)
            finally:
                for helper in helpers:
                    helper.cancel()
                await asyncio.gather(*helpers, return_exceptions=True)
            outcomes = dict(zip(runs, ended.result(), strict=True))
            return await self._report(database, runs, outcomes, time.monotonic() - began)

    async def _start(self) -> dict[str, WorkflowHandle[object, object]]:
        """Start a run for each request, named after the order, so that the same mail twice is one run."""
        runs: dict[str, WorkflowHandle[object, object]] = {}
        for request in self.requests:
            try:
                runs[request.id] = await self._start_one(self._stage.client, request)
            except WorkflowAlreadyStartedError:
                self._repeated += 1
                self._say(f"{request.id} is about {request.order} again: its run exists already")
            self.progress.started = len(runs)
        self._say(f"{len(runs)} runs started, {self._repeated} requests were the same mail again")
        return runs

    async def _start_one(self, client: Client, request: ReturnRequest) -> WorkflowHandle[object, object]:
        name = f"return-{request.order or request.id}"
        summary = f"{request.id}: {request.subject or request.message[:60]}"
        workflow, given = (
            ("perdure.plan", PlanRun(plan=read_plan(DATA.parent / "returns.yaml"), input=request.model_dump(mode="json")))
            if self._plan
            else ("ReturnsTriage", request)
        )
        return await client.start_workflow(
            workflow,
            given,
            id=name,
            task_queue=self._stage.settings.task_queue,
            result_type=Outcome,
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            static_summary=summary,
            static_details=f"customer {request.customer}, order {request.order or '?'}, received {request.received}",
        )

    async def _outcome(self, handle: WorkflowHandle[object, object]) -> Outcome | None:
        try:
            outcome = await handle.result()
        except WorkflowFailureError as error:
            self._say(f"{handle.id} failed: {error.cause}")
            self.progress.ended["failed"] += 1
            return None
        assert isinstance(outcome, Outcome)
        self.progress.ended["refunded" if outcome.refunded else outcome.verdict] += 1
        return outcome

    async def _kill_in_flight(self, database: Database) -> None:
        """Kill the worker with -9 while refunds are in flight, and start another, as often as wanted."""
        ledger = Ledger(database, {})
        async for count in self._refunds_in_flight(ledger):
            if len(self._killed) == self._kills:
                continue
            # The later kills come when the desk is busy again, not at the first effect that is retried.
            if not count or self.progress.refunds < len(self._killed) * 8:
                continue
            pid = await self._stage.kill_worker()
            self._killed.append(_Kill(datetime.now(UTC), pid, count))
            self._say(f"killed worker {pid} with -9 while {count} refund{'s were' if count > 1 else ' was'} in flight")
            self.progress.kills += 1
            self.progress.worker = await self._stage.start_worker()
            self._say(f"started worker {self.progress.worker}; the runs go on where they were")

    async def _refunds_in_flight(self, ledger: Ledger) -> AsyncIterator[int]:
        while True:
            flying = await ledger.list(state="in flight")
            done = await ledger.list(state="succeeded", limit=1000)
            self.progress.refunds = sum(effect.action == "payments.refund" for effect in done)
            self.progress.in_flight = sum(effect.action == "payments.refund" for effect in flying)
            yield self.progress.in_flight
            await asyncio.sleep(0.03)  # another process writes the ledger: there is no event to wait for

    async def _review(self, database: Database) -> None:
        """Decide every approval that opens."""
        approvals = Approvals(database)
        asked: set[tuple[str, str]] = set()
        while True:
            waiting = [each for each in await approvals.list() if (each.workflow_id, each.approval) not in asked]
            self.progress.waiting = len(waiting)
            for each in waiting:
                call = await self.decide(each)
                handle = self._stage.client.get_workflow_handle(each.workflow_id)
                await handle.execute_update(DECIDE, call, id=f"{call.digest}-{call.verdict}", result_type=Decision)
                asked.add((each.workflow_id, each.approval))
                self._decided += 1
                self._deciders[call.by] += 1
            await asyncio.sleep(0.2)  # as above

    async def _report(
        self,
        database: Database,
        runs: Mapping[str, WorkflowHandle[object, object]],
        outcomes: Mapping[str, Outcome | None],
        seconds: float,
    ) -> Report:
        books = await self._stage.books()
        orders = Counter(str(refund["order"]) for refund in books)
        by_id = {request.id: request for request in self.requests}
        wanted = {by_id[name].order for name, outcome in outcomes.items() if outcome and outcome.refunded}
        histories = [await handle.fetch_history() for handle in runs.values()]
        calls, cost = await total_spending(database)
        right, unseen = self._accuracy(outcomes)
        return Report(
            requests=len(self.requests),
            repeated=self._repeated,
            refunds_wanted=len(wanted),
            refunds_in_books=len(books),
            duplicates=sum(count - 1 for count in orders.values()),
            lost=len(wanted - orders.keys()),
            rejected=self.progress.ended["reject"],
            customers_asked=self.progress.ended["ask"],
            approvals=self._decided,
            decided_by_people=sum(outcome is not None and outcome.decided_by == "person" for outcome in outcomes.values()),
            reviewer=self._describe_deciders(),
            worker_kills=len(self._killed),
            effects_in_flight_at_kills=sum(kill.in_flight for kill in self._killed),
            resumed_after_seconds=[_seconds_to_resume(histories, kill) for kill in self._killed],
            model_calls=calls,
            cost_usd=cost / 1e9,
            accuracy_unseen=round(right / unseen, 3) if unseen else 0.0,
            unseen=unseen,
            histories_replayed=await self._replay(histories),
            seconds=round(seconds, 1),
            web_ui=self._stage.server.ui,
            home=str(self._stage.home),
        )

    def _describe_deciders(self) -> str:
        """Return who decided: the name, or the names with how many decisions each made."""
        if len(self._deciders) < 2:
            return next(iter(self._deciders), REVIEWER)
        return " and ".join(f"{name} ({count})" for name, count in self._deciders.most_common())

    def _accuracy(self, outcomes: Mapping[str, Outcome | None]) -> tuple[int, int]:
        unseen = {name: outcome for name, outcome in outcomes.items() if outcome and self.labels[name].part == "unseen"}
        return sum(outcome.proposed == self.labels[name].verdict for name, outcome in unseen.items()), len(unseen)

    async def _replay(self, histories: Sequence[WorkflowHistory]) -> int:
        """Replay every history through today's code and return how many gave the same decisions."""
        replayer = Replayer(workflows=[ReturnsTriage], plugins=[PerdurePlugin(self._stage.settings)])

        async def each() -> AsyncIterator[WorkflowHistory]:
            for history in histories:
                yield history

        results = await replayer.replay_workflows(each(), raise_on_replay_failure=False)
        if results.replay_failures:
            raise PerdureError(
                f"{len(results.replay_failures)} histories do not replay: {next(iter(results.replay_failures.values()))}"
            )
        return len(histories)


def decide_by_labels(labels: Mapping[str, Label], requests: Sequence[ReturnRequest], by: str) -> Decide:
    """Return a reviewer that decides as the labels say, in the name of BY."""
    wanted = {f"return-{request.order or request.id}": labels[request.id] for request in reversed(requests)}

    async def decide(open_one: ApprovalEntry) -> DecisionCall:
        label = wanted[open_one.workflow_id]
        return DecisionCall(
            approval=open_one.approval,
            digest=open_one.digest,
            verdict="approve" if label.refund_wanted else "reject",
            by=by,
            comment=label.why or "as labelled",
        )

    return decide


def read_lines(path: Path) -> list[dict[str, JsonValue]]:
    """Return the objects of a JSON Lines file."""
    try:
        return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise InvalidSettings(f"the demo's data {path} cannot be read: {error}") from None


async def _first_failure(ended: asyncio.Future[list[Outcome | None]], helpers: Sequence[asyncio.Task[None]]) -> None:
    """Wait until all runs have ended; a helper that fails before that fails the demo."""
    all_of_them: list[asyncio.Future[Any]] = [ended, *helpers]
    await asyncio.wait(all_of_them, return_when=asyncio.FIRST_COMPLETED)
    for helper in helpers:
        if helper.done():
            ended.cancel()
            await helper
    await ended


def _seconds_to_resume(histories: Sequence[WorkflowHistory], kill: _Kill) -> float:
    """Return how many seconds after KILL another worker completed the first step or workflow task."""
    gaps = []
    for history in histories:
        for event in history.events:
            task = event.workflow_task_completed_event_attributes
            step = event.activity_task_completed_event_attributes
            identity = task.identity or step.identity
            gap = event.event_time.ToDatetime(tzinfo=UTC) - kill.at
            if identity and not identity.endswith(f":{kill.pid}") and gap > timedelta(0):
                gaps.append(gap)
    return round(min(gaps, default=timedelta(0)).total_seconds(), 2)
