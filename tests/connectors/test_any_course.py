"""The ledger against every order of events: a simulated target and clock, driven by hypothesis."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import pytest
import sqlalchemy as sa
from connectors_kit import step
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from pydantic import BaseModel

from perdure.connectors import (
    Absent,
    Action,
    AnyAction,
    Attempt,
    CannotTell,
    Effect,
    EffectCall,
    Executed,
    Found,
    Probe,
    Resolution,
    Target,
    UndoCall,
    effect_key,
    undo_by,
    undo_key,
)
from perdure.connectors.contracts import Mechanism
from perdure.connectors.ledger import Ledger
from perdure.connectors.states import TRANSITIONS
from perdure.errors import EffectError, EffectRejected, EffectUnknown, TargetUnavailable
from perdure.lineage import Frozen, StepRef
from perdure.storage import Database

T = TypeVar("T")

DEADLINE, SETTLE, LIFETIME = timedelta(seconds=10), timedelta(seconds=5), timedelta(seconds=90)
FAULTS = ("none", "lost request", "lost response", "lands late", "refused", "not taken")
STEPS = ("pay", "tip")
RUNS = ("w-1", "w-2")


class Sum(Frozen):
    """How much, for which order."""

    order: str
    amount: int


class Crash(Exception):
    """The process has died."""


@dataclass
class World:
    """The target and the clock: what arrives when, and what is in the books."""

    mechanism: Mechanism
    now: datetime = datetime(2026, 11, 23, tzinfo=UTC)
    books: list[tuple[str, str, Executed]] = field(default_factory=list)
    """Action, key and answer of everything that was done, in order."""
    coming: list[tuple[datetime, str, str, BaseModel]] = field(default_factory=list)
    """What is still on its way: when it lands, action, key, argument."""
    faults: list[str] = field(default_factory=list)
    gates: list[asyncio.Event] = field(default_factory=list)
    """What held requests wait for."""
    hold: bool = False
    cannot_tell: int = 0
    seen: dict[str, datetime] = field(default_factory=dict)
    """When a key was first seen, by a target that drops repeats."""

    @property
    def name(self) -> str:
        return "bank"

    @property
    def actions(self) -> Mapping[str, AnyAction]:
        lifetime = LIFETIME if self.mechanism == "header" else None
        target = Target(mechanism=self.mechanism, key_lifetime=lifetime, settle=SETTLE, deadline=DEADLINE, looks=2)
        back = Action("bank.back", Sum, Sum, target=target)
        pay = Action(
            "bank.pay", Sum, Sum, target=target, reversibility="compensatable", undo=undo_by(back, lambda asked, _: asked)
        )
        once = Action(
            "bank.once",
            Sum,
            Sum,
            target=target,
            reversibility="compensatable",
            undo=undo_by(back, lambda asked, _: asked),
            once_per=("order",),
        )
        return {action.name: cast(AnyAction, action) for action in (back, pay, once)}

    def pass_time(self, span: timedelta) -> None:
        """Let SPAN pass; what is on its way lands in time."""
        self.now += span
        due = [each for each in self.coming if each[0] <= self.now]
        self.coming = [each for each in self.coming if each[0] > self.now]
        for _, action, key, args in sorted(due, key=lambda each: each[0]):
            self.land(action, key, args)

    def land(self, action: str, key: str, args: BaseModel) -> Executed:
        """Do what was asked, unless it is a repeat that the target drops."""
        known = next((answer for _, each, answer in self.books if each == key), None)
        if self.mechanism == "header" and known is not None and self.now < self.seen[key] + LIFETIME:
            return known
        self.seen.setdefault(key, self.now)
        answer = Executed(args, remote_ref=f"b-{len(self.books)}")
        self.books.append((action, key, answer))
        return answer

    async def execute(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Executed:
        """Take a request, with what goes wrong next."""
        fault = self.faults.pop(0) if self.faults else "none"
        sent = self.now
        if self.hold:
            self.hold = False
            self.gates.append(asyncio.Event())
            await self.gates[-1].wait()
            if self.now >= sent + attempt.deadline:
                # The caller has given up, and the network may deliver until the target has settled, but no longer.
                if fault != "lost request" and self.now < sent + attempt.deadline + SETTLE:
                    self.land(action.name, attempt.key, args)
                raise EffectUnknown("no answer before the deadline")
        if fault == "not taken":
            raise TargetUnavailable("closed")
        if fault == "refused":
            raise EffectRejected("no")
        if fault == "lands late":
            self.coming.append((self.now + SETTLE - timedelta(milliseconds=1), action.name, attempt.key, args))
        elif fault != "lost request":
            answer = self.land(action.name, attempt.key, args)
            if fault == "none":
                return answer
        raise EffectUnknown("the connection ended")

    async def probe(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Probe:
        """Look into the books."""
        if self.cannot_tell:
            self.cannot_tell -= 1
            return CannotTell("the books are closed")
        answer = next((answer for _, key, answer in self.books if key == attempt.key), None)
        return Absent() if answer is None else Found(answer)

    async def close(self) -> None:
        """Do nothing."""


class MortalDatabase(Database):
    """A database whose process dies before or after its Nth write from now, when it is told to."""

    dies: int | None = None
    after: bool = False

    async def transact(self, work: Callable[[sa.Connection], T]) -> T:
        if self.dies is None:
            return await super().transact(work)
        self.dies -= 1
        if self.dies > 0:
            return await super().transact(work)
        if self.after and self.dies == 0:
            await super().transact(work)
        raise Crash


class AnyCourse(RuleBasedStateMachine):
    """Two runs with two steps each, two workers, one of which may hang, a person, and time."""

    template: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="perdure-course-"))
        shutil.copy(self.template, self.folder / "perdure.db")
        self.hanging: list[asyncio.Task[object]] = []
        self.final: dict[str, str] = {}
        self.undone: set[str] = set()
        self.asked: set[EffectCallId] = set()
        self.vouched: Counter[str] = Counter()

    @initialize(mechanism=st.sampled_from(["header", "natural-key", "none"]))
    def begin(self, mechanism: Mechanism) -> None:
        self.world = World(mechanism)
        self.database = MortalDatabase(f"sqlite+aiosqlite:///{self.folder / 'perdure.db'}")
        self.ledger = self._ledger()

    def _ledger(self) -> Ledger:
        return Ledger(self.database, {"bank": self.world}, clock=lambda: self.world.now)

    def _run(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Run WORK as an activity attempt: its errors are the ledger's own, or the process has died."""
        try:
            return self.loop.run_until_complete(work)
        except EffectError:
            return None
        except Crash:
            # The next attempt is another process's.
            self.database.dies = None
            self.ledger = self._ledger()
            return None

    # What runs and workers do

    @rule(
        run=st.sampled_from(RUNS),
        name=st.sampled_from(STEPS),
        amount=st.sampled_from([5, 5, 5, 6]),
        faults=st.lists(st.sampled_from(FAULTS), max_size=2),
    )
    def perform(self, run: str, name: str, amount: int, faults: list[str]) -> None:
        self.world.faults = list(faults)
        call = effect_call(run, name, amount)
        self.asked.add((run, name))
        self._run(self.ledger.perform(call))
        self.world.faults = []

    @rule(run=st.sampled_from(RUNS), name=st.sampled_from(STEPS), writes=st.integers(1, 3), after=st.booleans())
    def perform_and_die(self, run: str, name: str, writes: int, after: bool) -> None:
        self.database.dies, self.database.after = writes, after
        self.asked.add((run, name))
        self._run(self.ledger.perform(effect_call(run, name, 5)))
        self.database.dies = None

    @precondition(lambda self: len(self.hanging) < 2)
    @rule(run=st.sampled_from(RUNS), name=st.sampled_from(STEPS), fault=st.sampled_from(FAULTS))
    def perform_and_hang(self, run: str, name: str, fault: str) -> None:
        """Another worker takes it and stands still with the request on its way."""
        self.world.hold, self.world.faults = True, [fault]
        self.asked.add((run, name))
        before = len(self.world.gates)
        task: asyncio.Task[object] = self.loop.create_task(self._ledger().perform(effect_call(run, name, 5)))

        async def begun() -> None:
            while not task.done() and len(self.world.gates) == before:  # noqa: ASYNC110  it may also end without
                await asyncio.sleep(0.001)

        self.loop.run_until_complete(begun())
        self.world.hold, self.world.faults = False, []
        self._collect(task) if task.done() else self.hanging.append(task)

    @precondition(lambda self: self.hanging)
    @rule()
    def wake(self) -> None:
        """The worker that stood still goes on."""
        task = self.hanging.pop(0)
        for gate in self.world.gates:
            gate.set()
        self._collect(task)
        for other in self.hanging:
            self._collect(other)
        self.hanging = []

    def _collect(self, task: asyncio.Task[object]) -> None:
        with suppress(EffectError):
            self.loop.run_until_complete(task)

    @rule(run=st.sampled_from(RUNS), name=st.sampled_from(STEPS), faults=st.lists(st.sampled_from(FAULTS), max_size=2))
    def undo(self, run: str, name: str, faults: list[str]) -> None:
        self.world.faults = list(faults)
        self._run(self._undo(run, name))
        self.world.faults = []

    @rule(run=st.sampled_from(RUNS), name=st.sampled_from(STEPS), writes=st.integers(1, 4), after=st.booleans())
    def undo_and_die(self, run: str, name: str, writes: int, after: bool) -> None:
        self.database.dies, self.database.after = writes, after
        self._run(self._undo(run, name))
        self.database.dies = None

    async def _undo(self, run: str, name: str) -> None:
        at = ref(run, name)
        undone = await self.ledger.undo(UndoCall(step=at, effect=effect_key(at), action=ACTION[name]))
        if undone.outcome in ("compensated", "nothing to undo"):
            self.undone.add(effect_key(at))

    # What people and time do

    @rule(seconds=st.sampled_from([1, 4, 6, 12, 17, 120]))
    def pass_time(self, seconds: int) -> None:
        self.world.pass_time(timedelta(seconds=seconds))

    @rule(times=st.integers(1, 3))
    def close_the_books(self, times: int) -> None:
        self.world.cannot_tell = times

    @rule(rejects=st.booleans(), again=st.booleans())
    def resolve(self, rejects: bool, again: bool) -> None:
        """A person looks at the target and says what is so of everything that is parked."""
        for effect in self._run(self.ledger.list(state="parked")) or []:
            self._resolve(effect, again=again and not rejects)

    def _resolve(self, effect: Effect, *, again: bool) -> None:
        there = next((answer for _, key, answer in self.world.books if key == effect.key), None)
        unsent = effect.contradicts is not None and effect.sent == 0
        more: dict[str, object] = {}
        if there is not None:
            verdict, more = "happened", {"remote_ref": there.remote_ref, "answer": there.output.model_dump(mode="json")}
        else:
            verdict = ("new generation" if unsent else "send again") if again else "did not happen"
        said = {"effect": effect.key, "verdict": verdict, "by": "mara", "comment": "I looked"} | more
        self._run(self.ledger.resolve(Resolution.model_validate(said)))

    # What holds at any time

    @invariant()
    def nothing_is_done_twice(self) -> None:
        keys = Counter(key for _, key, _ in getattr(self, "world", World("none")).books)
        assert not [key for key, count in keys.items() if count > 1], "the target has done something twice"

    @invariant()
    def a_business_key_stands_once(self) -> None:
        if not hasattr(self, "world"):
            return
        undone = {undo for action, undo, _ in self.world.books if action == "bank.back"}
        standing = [key for action, key, _ in self.world.books if action == "bank.once" and undo_key(key) not in undone]
        beside = {effect.key for effect in self._all() if effect.beside}
        assert len(set(standing) - beside) <= 1, "what may stand once stands twice"

    @invariant()
    def the_ledger_says_no_more_than_is_true(self) -> None:
        if not hasattr(self, "world"):
            return
        there = {key for _, key, _ in self.world.books}
        coming = {key for _, _, key, _ in self.world.coming}
        for effect in self._all():
            if effect.state in ("succeeded", "compensated"):
                assert effect.key in there, f"{effect.key} is {effect.state} and was never done"
            if effect.state == "compensated":
                assert undo_key(effect.key) in there, f"{effect.key} is compensated and was never undone"
            if effect.state in ("failed", "proposed"):
                assert effect.key not in there | coming, f"{effect.key} is {effect.state} and was done"

    @invariant()
    def what_has_ended_has_ended(self) -> None:
        if not hasattr(self, "world"):
            return
        for effect in self._all():
            before = self.final.get(effect.key)
            if before in ("failed", "compensated"):
                assert effect.state == before
            if before == "succeeded":
                assert effect.state in ("succeeded", "compensated")
            if effect.state in ("succeeded", "failed", "compensated"):
                self.final[effect.key] = effect.state

    def _all(self) -> list[Effect]:
        return list(self.loop.run_until_complete(self.ledger.list(limit=1000)))

    # What holds in the end

    def teardown(self) -> None:
        try:
            if hasattr(self, "world"):
                self._settle()
                self._check_the_end()
        finally:
            for task in self.hanging:
                task.cancel()
            if hasattr(self, "world"):
                self.loop.run_until_complete(self.database.close())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
            shutil.rmtree(self.folder)

    def _settle(self) -> None:
        """The world works again: everything that was asked for is asked for until it has ended."""
        self.world.cannot_tell = 0
        while self.hanging:
            self.wake()
        for _ in range(6):
            for run, name in sorted(self.asked):
                self._run(self.ledger.perform(effect_call(run, name, 5)))
                self.world.pass_time(timedelta(seconds=20))
        for undo in [effect for effect in self._all() if effect.undo_of and effect.state not in ("succeeded", "failed")]:
            for _ in range(4):
                self._run(self.ledger.undo(UndoCall(step=undo.step, effect=undo.undo_of or "", action="bank.pay")))
                self.world.pass_time(timedelta(seconds=20))

    def _check_the_end(self) -> None:
        there = {key for _, key, _ in self.world.books}
        for effect in self._all():
            assert effect.state in ("succeeded", "failed", "compensated", "parked"), f"{effect.key} is still {effect.state}"
            if effect.key in there:
                assert effect.state != "failed", f"{effect.key} was done and is lost"
            events = self.loop.run_until_complete(self.ledger.events(effect.key))
            states = [event.after for event in events]
            assert effect.state == states[-1]
            for event, after in zip(events[1:], states, strict=False):
                assert event.before == after, "an event is missing"
            for event in events:
                assert event.before == event.after or event.after in TRANSITIONS[event.before]
                assert event.before != "parked" or event.after == "parked" or event.by or event.after == "failed"


EffectCallId = tuple[str, str]
ACTION = {"pay": "bank.pay", "tip": "bank.once"}


def ref(run: str, name: str) -> StepRef:
    """Return the step called NAME of RUN."""
    return step(name, workflow_id=run, first_execution_run_id=run, run_id=run)


def effect_call(run: str, name: str, amount: int) -> EffectCall:
    """Return the call of a run's step: `pay` is the run's own, `tip` may be paid once in the world."""
    order = "o-1" if name == "tip" else f"{run}-{name}"
    return EffectCall(step=ref(run, name), action=ACTION[name], args={"order": order, "amount": amount})


@pytest.mark.timeout(400)
def test_any_course_of_events(sqlite_template: Path) -> None:
    """Whatever happens in whatever order: nothing is done twice, nothing is lost, and what has ended has ended."""
    AnyCourse.template = sqlite_template
    run_state_machine_as_test(
        AnyCourse,
        settings=settings(
            max_examples=60,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
