"""The ledger against every order of events: a simulated target and clock, driven by hypothesis."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar, cast, get_args

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from kits.connectors import step
from pydantic import BaseModel, JsonValue
from sqlmodel import col

from perdure.connectors import (
    Absent,
    Action,
    AnyAction,
    Attempt,
    CannotTell,
    Effect,
    EffectCall,
    EffectEvent,
    EffectState,
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
from perdure.connectors.ledger.states import FINAL_STATES, TRANSITIONS
from perdure.connectors.ledger.tables import EffectEventRow
from perdure.connectors.reconciliation import Sweeper
from perdure.connectors.reconciliation.contracts import SettleOrphans
from perdure.errors import (
    EffectError,
    EffectRejected,
    EffectUnknown,
    TargetUnavailable,
)
from perdure.lineage import Frozen, Lineage, StepRef
from perdure.storage import Database

T = TypeVar("T")

WHICH = st.integers(0, 2)
"""Which of the steps, counted from the newest."""
DEADLINE, SETTLE, LIFETIME = timedelta(seconds=10), timedelta(seconds=5), timedelta(seconds=90)
FAULTS = ("lost response", "lands late", "lost request", "none", "refused", "not taken")


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
        until = self.now + span
        while due := sorted((each for each in self.coming if each[0] <= until), key=lambda each: each[0]):
            self.coming.remove(due[0])
            self.now, action, key, args = due[0]
            self.land(action, key, args)
        self.now = until

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
    """A few effects at a time, attempted by workers that fail, die or stand still, by runs that change their minds or take
    back what they did; a person, and time.
    """

    template: ClassVar[Path]
    mechanism: ClassVar[Mechanism]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="perdure-execution-"))
        shutil.copy(self.template, self.folder / "perdure.db")
        self.hanging: list[asyncio.Task[object]] = []
        self.final: dict[str, EffectState] = {}
        self.steps: list[Step] = []
        """What was asked for, the newest last."""
        self.answered: set[Step] = set()
        self.effects: list[Effect] = []
        """How the ledger stood after the last rule."""
        self.world = World(self.mechanism)
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
            self.ledger = self._ledger()
            return None
        finally:
            self.database.dies = None
            self.world.faults = []

    # What runs and workers do

    @rule(which=WHICH, faults=st.lists(st.sampled_from(FAULTS), min_size=1, max_size=3))
    def attempt(self, which: int, faults: list[str]) -> None:
        """One attempt for each of FAULTS, the next at once."""
        step = self._open(which)
        for fault in faults:
            self.world.faults = [fault]
            if self._run(self.ledger.perform(step.call())):
                self.answered.add(step)

    @rule(which=WHICH, fault=st.sampled_from(FAULTS), writes=st.integers(1, 3), after=st.booleans())
    def attempt_and_die(self, which: int, fault: str, writes: int, after: bool) -> None:
        """The process dies before or after one of its writes."""
        self.world.faults, self.database.dies, self.database.after = [fault], writes, after
        self._run(self.ledger.perform(self._open(which).call()))

    @precondition(lambda self: len(self.hanging) < 2)
    @rule(which=WHICH, fault=st.sampled_from(FAULTS))
    def attempt_and_hang(self, which: int, fault: str) -> None:
        """Another worker takes it and stands still with the request on its way."""
        self._hang(self._open(which), fault)

    @precondition(lambda self: not self.hanging)
    @rule(which=WHICH, first=st.sampled_from(FAULTS), then=st.sampled_from(FAULTS), late=st.sampled_from([13, 18]))
    def two_writers(self, which: int, first: str, then: str, late: int) -> None:
        """A worker that stands still is overtaken by a second one; the first goes on while that one is at work."""
        step = self._open(which)
        self._hang(step, first)
        self.pass_time(late)
        self._hang(step, then)
        while self.hanging:
            self.wake()

    def _hang(self, step: Step, fault: str) -> None:
        self.world.hold, self.world.faults = True, [fault]
        before = len(self.world.gates)
        task: asyncio.Task[object] = self.loop.create_task(self._ledger().perform(step.call()))

        async def begun() -> None:
            while not task.done() and len(self.world.gates) == before:  # noqa: ASYNC110  it may also end without
                await asyncio.sleep(0)

        self.loop.run_until_complete(begun())
        self.world.hold, self.world.faults = False, []
        self.hanging.append(task)

    @precondition(lambda self: self.hanging)
    @rule()
    def wake(self) -> None:
        """The first worker that stood still goes on."""
        task = self.hanging.pop(0)
        if self.world.gates:
            self.world.gates.pop(0).set()
        with suppress(EffectError):
            self.loop.run_until_complete(asyncio.wait_for(task, 5))

    @precondition(lambda self: self.steps)
    @rule(which=WHICH, faults=st.lists(st.sampled_from(FAULTS), min_size=1, max_size=2))
    def undo(self, which: int, faults: list[str]) -> None:
        for fault in faults:
            self.world.faults = [fault]
            self._run(self.ledger.undo(self._step(which).undo()))

    @precondition(lambda self: self.steps)
    @rule(which=WHICH, writes=st.integers(1, 4), after=st.booleans())
    def undo_and_die(self, which: int, writes: int, after: bool) -> None:
        self.database.dies, self.database.after = writes, after
        self._run(self.ledger.undo(self._step(which).undo()))

    @precondition(lambda self: self.steps)
    @rule(which=WHICH)
    def change_of_mind(self, which: int) -> None:
        """The same step asks for another sum, as a model may after a reset."""
        self._run(self.ledger.perform(self._step(which).call(amount=6)))

    # What people and time do

    @rule(seconds=st.sampled_from([4, 6, 13, 18, 120]))
    def pass_time(self, seconds: int) -> None:
        self.world.pass_time(timedelta(seconds=seconds))

    @precondition(lambda self: not self.world.cannot_tell)
    @rule(times=st.integers(1, 2))
    def close_the_books(self, times: int) -> None:
        self.world.cannot_tell = times

    @precondition(lambda self: any(effect.state == "parked" for effect in self.effects))
    @rule(verdict=st.sampled_from(["again", "did not happen"]))
    def resolve(self, verdict: str) -> None:
        """A person looks at the target and says what is so of everything that is parked."""
        for effect in [each for each in self.effects if each.state == "parked"]:
            self._resolve(effect, again=verdict == "again")

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

    @precondition(lambda self: any(effect.state not in FINAL_STATES for effect in self.effects))
    @rule(alive=st.booleans())
    def sweep(self, alive: bool) -> None:
        """What nobody asks for any more is looked up."""
        sweeper = Sweeper(self.database, {"bank": self.world}, clock=lambda: self.world.now)

        async def said(lineage: Lineage) -> bool:
            return alive

        self._run(sweeper.sweep(SettleOrphans(), said))

    # What holds at any time

    @invariant()
    def holds(self) -> None:
        effects, events = self._all(), self._events()
        while (later := self._all()) != effects:  # a worker that stood still goes on while these are read
            effects, events = later, self._events()
        self.effects = effects
        self._nothing_is_done_twice({effect.key for effect in effects if effect.beside})
        for effect in effects:
            self._says_no_more_than_is_true(effect)
            self._what_has_ended_has_ended(effect)
            _is_explained(effect, events[effect.key])

    def _nothing_is_done_twice(self, beside: set[str]) -> None:
        keys = Counter(key for _, key, _ in self.world.books)
        assert not [key for key, count in keys.items() if count > 1], "the target has done something twice"
        undone = {undo for action, undo, _ in self.world.books if action == "bank.back"}
        standing = [key for action, key, _ in self.world.books if action == "bank.once" and undo_key(key) not in undone]
        assert len(set(standing) - beside) <= 1, "what may stand once stands twice"

    def _says_no_more_than_is_true(self, effect: Effect) -> None:
        there = {key for _, key, _ in self.world.books}
        coming = {key for _, _, key, _ in self.world.coming}
        if effect.state in ("succeeded", "compensated"):
            assert effect.key in there, f"{effect.key} is {effect.state} and was never done"
        if effect.state == "compensated":
            assert undo_key(effect.key) in there, f"{effect.key} is compensated and was never undone"
        if effect.state in ("failed", "proposed"):
            assert effect.key not in there | coming, f"{effect.key} is {effect.state} and was done"

    def _what_has_ended_has_ended(self, effect: Effect) -> None:
        before = self.final.get(effect.key)
        if before in ("failed", "compensated"):
            assert effect.state == before
        if before == "succeeded":
            assert effect.state in ("succeeded", "compensated")
        if effect.state in ("succeeded", "failed", "compensated"):
            self.final[effect.key] = effect.state

    def _open(self, which: int) -> Step:
        """Return a step that waits for its answer: one that has asked before, or that of a new run."""
        waiting = [each for each in self.steps[-3:] if each not in self.answered]
        if which < len(waiting):
            return waiting[which]
        self.steps.append(Step(f"w-{len(self.steps)}", once=which > 0))
        return self.steps[-1]

    def _step(self, which: int) -> Step:
        return self.steps[-1 - which % len(self.steps)]

    def _all(self) -> list[Effect]:
        return list(self.loop.run_until_complete(self.ledger.list(limit=1000)))

    def _events(self) -> dict[str, list[EffectEvent]]:
        async def read() -> Sequence[sa.RowMapping]:
            async with self.database.read() as connection:
                query = sa.select(EffectEventRow).order_by(col(EffectEventRow.id))
                return (await connection.execute(query)).mappings().all()

        found: defaultdict[str, list[EffectEvent]] = defaultdict(list)
        for row in self.loop.run_until_complete(read()):
            found[row["key"]].append(EffectEvent.model_validate(dict(row)))
        return found

    # What holds in the end

    def teardown(self) -> None:
        try:
            self._settle()
            self.holds()
            self._everything_has_ended()
        finally:
            for task in self.hanging:
                task.cancel()
            self.loop.run_until_complete(self.database.close())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
            shutil.rmtree(self.folder)

    def _settle(self) -> None:
        """The world works again: everything that was asked for is asked for until it has ended, or until it is parked."""
        self.world.cannot_tell = 0
        while self.hanging:
            self.wake()
        for _ in range(4):
            for each in self.steps:
                self._run(self.ledger.perform(each.call()))
            self.world.pass_time(timedelta(seconds=20))
        for undo in [effect for effect in self._all() if effect.undo_of and effect.state not in FINAL_STATES]:
            for _ in range(3):
                self._run(self.ledger.undo(UndoCall(step=undo.step, effect=undo.undo_of or "", action="bank.pay")))
                self.world.pass_time(timedelta(seconds=20))

    def _everything_has_ended(self) -> None:
        for effect in self._all():
            # Nothing of what is proposed is at the target. It may stay so only if its run has come to want something else.
            unwanted = {"proposed"} if effect.args.get("amount", 5) != 5 else set()
            assert effect.state in FINAL_STATES | unwanted, f"{effect.key} is still {effect.state}"


def _is_explained(effect: Effect, events: list[EffectEvent]) -> None:
    """Check that each transition of EFFECT has its event, is one that may be, and was made under the newest fence."""
    states, fences = [event.after for event in events], [event.fence for event in events if event.before != event.after]
    assert effect.state == states[-1], "a transition has no event"
    assert [None, *states[:-1]] == [event.before for event in events], "a transition has no event"
    assert fences == sorted(fences), "somebody wrote under a fence that was no longer in force"
    for event in events:
        assert event.before == event.after or event.after in TRANSITIONS[event.before]
        by_nobody = event.before == "parked" and event.after not in ("parked", "failed")
        assert event.by or not by_nobody, "what was parked went on without a person"


class Step(NamedTuple):
    """The step of a run: it pays on the run's own account, or what may be paid ONCE in the world."""

    run: str
    once: bool

    @property
    def ref(self) -> StepRef:
        """The reference of the step."""
        return step("pay", workflow_id=self.run, first_execution_run_id=self.run, run_id=self.run)

    def call(self, amount: int = 5) -> EffectCall:
        """Return what the step asks for."""
        args: dict[str, JsonValue] = {"order": "o-1" if self.once else self.run, "amount": amount}
        return EffectCall(step=self.ref, action="bank.once" if self.once else "bank.pay", args=args)

    def undo(self) -> UndoCall:
        """Return what takes that back."""
        return UndoCall(step=self.ref, effect=effect_key(self.ref), action=self.call().action)


@pytest.mark.parametrize("mechanism", get_args(Mechanism))
def test_any_course_of_events(sqlite_template: Path, mechanism: Mechanism) -> None:
    """Whatever happens in whatever order: nothing is done twice, nothing is lost, and what has ended has ended.

    Always the same courses, and found as they are: to shrink one takes minutes, and `phases` may be left out for that.
    """
    AnyCourse.template, AnyCourse.mechanism = sqlite_template, mechanism
    run_state_machine_as_test(
        AnyCourse,
        settings=settings(
            max_examples=25,
            stateful_step_count=20,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
