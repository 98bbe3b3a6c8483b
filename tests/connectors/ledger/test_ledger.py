"""The ledger's promises, one by one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import TypeVar

import pytest
import sqlalchemy as sa
from kits.connectors import AT_ONCE, QUICK, SETTLE, Bank, call, key_of, persist, step, undo

from perdure.connectors import Absent, CannotTell, EffectCall, EffectResult, Target
from perdure.connectors.contracts import Mechanism
from perdure.connectors.ledger import Ledger, lease_duration
from perdure.connectors.ledger.states import STALL
from perdure.errors import (
    AlreadyThere,
    EffectBusy,
    EffectConflict,
    EffectParked,
    EffectRejected,
    EffectUnknown,
    InvalidInput,
    NotFound,
    TargetUnavailable,
    UnknownAction,
    UnusableAnswer,
)
from perdure.storage import Database, now

T = TypeVar("T")


async def test_effect_is_recorded_with_its_receipt(any_ledger: Ledger, bank: Bank) -> None:
    """An effect that succeeds leaves its intent, its two transitions and the target's reference."""
    result = await any_ledger.perform(call())

    effect = await any_ledger.get(key_of(call()))
    assert result.receipt == effect.receipt
    assert ({"amount": 5}, "b-1", "response", 1) == (result.value, effect.remote_ref, effect.confirmed_by, effect.sent)
    assert ("succeeded", {"amount": 5}, {"amount": 5}) == (effect.state, effect.args, effect.response)
    assert [(None, "in flight"), ("in flight", "succeeded")] == await _course(any_ledger)
    assert [key_of(call())] == bank.paid


async def test_retry_returns_what_is_recorded(any_ledger: Ledger, bank: Bank) -> None:
    """A second attempt of an effect that has succeeded gets the recorded result; nothing is sent."""
    first = await any_ledger.perform(call())
    second = await any_ledger.perform(call())

    assert first == second
    assert 1 == len(bank.attempts)


async def test_intent_is_written_before_the_call(ledger: Ledger, bank: Bank) -> None:
    """While the target has not answered, the ledger says that a request is in flight."""
    bank.gate = asyncio.Event()
    attempt = asyncio.create_task(ledger.perform(call()))
    await bank.on_the_way.wait()

    assert "in flight" == (await ledger.get(key_of(call()))).state

    bank.gate.set()
    await attempt


async def test_second_attempt_waits_for_the_lease(ledger: Ledger, bank: Bank) -> None:
    """While an attempt is at work, another is told to come back when its lease is over, and sends nothing."""
    bank.gate = asyncio.Event()
    first = asyncio.create_task(ledger.perform(call()))
    await bank.on_the_way.wait()

    with pytest.raises(EffectBusy) as busy:
        await ledger.perform(call())

    bank.gate.set()
    await first
    assert 1 == len(bank.attempts)
    assert busy.value.retry_after is not None
    assert timedelta() < busy.value.retry_after <= lease_duration(QUICK)


async def test_many_at_once_send_once(any_ledger: Ledger, bank: Bank) -> None:
    """Ten attempts of one effect that come at the same moment make one; the others are told that it is busy."""
    results = await asyncio.gather(*(any_ledger.perform(call()) for _ in range(10)), return_exceptions=True)

    assert 1 == len(bank.attempts)
    assert {"EffectResult", "EffectBusy"} >= {type(result).__name__ for result in results}
    assert 1 == (await any_ledger.perform(call())).receipt.sent


async def test_lost_response_is_found(any_ledger: Ledger, bank: Bank) -> None:
    """When the response is lost, the effect is unknown; after the settle time it is found and succeeds by the probe."""
    bank.sends, bank.lands_anyway = [EffectUnknown("gone")], True
    with pytest.raises(EffectUnknown) as lost:
        await any_ledger.perform(call())
    unknown = await any_ledger.get(key_of(call()))

    result = await persist(lambda: any_ledger.perform(call()))

    assert ("unknown", SETTLE) == (unknown.state, lost.value.retry_after)
    assert (1, "probe", "b-found") == (len(bank.paid), result.receipt.confirmed_by, result.receipt.remote_ref)
    assert [(None, "in flight"), ("in flight", "unknown"), ("unknown", "claimed"), ("claimed", "succeeded")] == (
        await _course(any_ledger)
    )


async def test_nothing_is_looked_up_before_the_target_has_settled(ledger: Ledger, bank: Bank) -> None:
    """An attempt that comes before the settle time is over is sent away with the rest of it: absence proves nothing yet."""
    bank.sends = [EffectUnknown("gone")]
    with pytest.raises(EffectUnknown):
        await ledger.perform(call())

    with pytest.raises(EffectUnknown) as early:
        await ledger.perform(call())

    assert [] == bank.probes
    assert early.value.retry_after is not None
    assert timedelta() < early.value.retry_after <= SETTLE


async def test_lost_request_is_sent_again_once_absence_is_proven(any_ledger: Ledger, bank: Bank) -> None:
    """When the request is lost, the probe finds nothing after the settle time, and it is sent again under a new fence."""
    bank.sends = [EffectUnknown("gone")]

    result = await persist(lambda: any_ledger.perform(call()))

    assert (2, 1) == (result.receipt.sent, len(bank.paid))
    assert bank.attempts[0].key == bank.attempts[1].key
    assert bank.attempts[0].fence < bank.attempts[1].fence


@pytest.mark.parametrize(
    ("landed", "blind", "state"), [(True, False, "succeeded"), (False, False, "proposed"), (True, True, "parked")]
)
async def test_settling_finds_out_and_sends_nothing(
    any_ledger: Ledger, bank: Bank, landed: bool, blind: bool, state: str
) -> None:
    """What became of an effect that nobody asks for any more is found out. One that is not there may still be asked for."""
    bank.sends, bank.lands_anyway = [EffectUnknown("gone")], landed
    bank.looks = [CannotTell("blind")] * bank.target.looks if blind else []
    with pytest.raises(EffectUnknown):
        await any_ledger.perform(call())

    settled = await persist(lambda: any_ledger.settle(undo(call())))

    assert (state, 1, int(landed)) == (settled.state, len(bank.attempts), len(bank.paid))
    if state != "parked":
        await any_ledger.perform(call())
        assert 1 == len(bank.paid)


async def test_nothing_to_settle(any_ledger: Ledger, bank: Bank) -> None:
    """What had not begun is left alone, and what was closed before it had begun too: nobody knows its arguments."""
    first = await any_ledger.settle(undo(call()))
    await any_ledger.undo(undo(call()))

    second = await any_ledger.settle(undo(call()))

    assert (None, "failed") == (first.state, second.state)


async def test_who_cannot_tell_asks_a_person(ledger: Ledger, bank: Bank) -> None:
    """A probe that cannot tell is repeated; after the declared number of looks the effect is parked and not sent again."""
    bank.target = AT_ONCE
    bank.sends, bank.looks = [EffectUnknown("gone")], [CannotTell("two of them")] * 3

    with pytest.raises(EffectParked, match="two of them"):
        await persist(lambda: ledger.perform(call()))

    with pytest.raises(EffectParked):
        await ledger.perform(call())
    assert "parked" == (await ledger.get(key_of(call()))).state
    assert 1 == len(bank.attempts)


async def test_target_that_is_down_is_not_a_look(ledger: Ledger, bank: Bank) -> None:
    """A target that cannot be asked for a while does not park an effect."""
    down = TargetUnavailable("down", retry_after=timedelta(milliseconds=10))
    bank.sends, bank.looks, bank.lands_anyway = [EffectUnknown("gone")], [down] * 6, True

    result = await persist(lambda: ledger.perform(call()))

    assert ("probe", 1) == (result.receipt.confirmed_by, len(bank.paid))


async def test_connector_that_breaks_leaves_an_unknown_effect(ledger: Ledger, bank: Bank) -> None:
    """Whatever a connector raises while sending, the effect is unknown; its text, which may hold a secret, is not kept."""
    bank.sends = [RuntimeError("https://bank?api_key=hunter2")]

    with pytest.raises(EffectUnknown) as lost:
        await ledger.perform(call())

    effect = await ledger.get(key_of(call()))
    assert "unknown" == effect.state
    assert "hunter2" not in effect.error + str(lost.value)
    assert "RuntimeError" in effect.error


async def test_broken_probe_ends_with_a_person(ledger: Ledger, bank: Bank) -> None:
    """A probe that raises what it should not counts as one that cannot tell."""
    bank.target = AT_ONCE
    bank.sends, bank.looks = [EffectUnknown("gone")], [KeyError("id")] * 3

    with pytest.raises(EffectParked, match="KeyError"):
        await persist(lambda: ledger.perform(call()))


async def test_untaken_request_is_tried_again(ledger: Ledger, bank: Bank) -> None:
    """When the target did not take the request, the effect is proposed as before and the next attempt sends it."""
    bank.sends = [TargetUnavailable("closed", retry_after=timedelta(seconds=7))]
    with pytest.raises(TargetUnavailable) as closed:
        await ledger.perform(call())
    proposed = await ledger.get(key_of(call()))

    result = await ledger.perform(call())

    assert ("proposed", None, timedelta(seconds=7)) == (proposed.state, proposed.doubt_until, closed.value.retry_after)
    assert ("response", 1, []) == (result.receipt.confirmed_by, len(bank.paid), bank.probes)


async def test_refusal_is_final(ledger: Ledger, bank: Bank) -> None:
    """What the target refused has failed; a retry gets the same refusal and nothing is sent."""
    bank.sends = [EffectRejected("no such order")]

    for _ in range(2):
        with pytest.raises(EffectRejected, match="no such order"):
            await ledger.perform(call())

    assert ("failed", 1) == ((await ledger.get(key_of(call()))).state, len(bank.attempts))


async def test_at_most_once_without_key_and_probe(ledger: Ledger, bank: Bank) -> None:
    """A target that drops no repeats and cannot be asked gets a request once; when the answer is lost, a person decides."""
    bank.target = Target(mechanism="none", deadline=timedelta(seconds=1))
    bank.sends = [EffectUnknown("gone")]

    for _ in range(2):
        with pytest.raises(EffectParked):
            await ledger.perform(call())

    assert (1, []) == (len(bank.attempts), bank.probes)


async def test_honoured_key_is_sent_again_at_once(ledger: Ledger, bank: Bank) -> None:
    """A target that drops repeats of a key gets the same key again, without a probe, and does it once."""
    bank.target = Target(mechanism="header", settle=SETTLE, deadline=timedelta(seconds=1))
    bank.sends, bank.lands_anyway = [EffectUnknown("gone")], True
    with pytest.raises(EffectUnknown):
        await ledger.perform(call())

    result = await ledger.perform(call())

    assert ("response", 2, 1, []) == (result.receipt.confirmed_by, result.receipt.sent, len(bank.paid), bank.probes)


async def test_expired_key_is_looked_up_and_never_sent(ledger: Ledger, bank: Bank) -> None:
    """Past the key's lifetime a lost effect is looked up; the key would not keep a repeat from acting."""
    bank.target = Target(mechanism="header", key_lifetime=SETTLE, settle=SETTLE, deadline=timedelta(seconds=1))
    bank.sends, bank.lands_anyway = [EffectUnknown("gone")], True

    result = await persist(lambda: ledger.perform(call()))

    assert ("probe", 1, 1) == (result.receipt.confirmed_by, len(bank.attempts), len(bank.paid))


async def test_unavailable_target_does_not_clear_an_old_doubt(ledger: Ledger, bank: Bank) -> None:
    """When a lost request is sent again and that is not taken, the effect stays unknown: the first may have landed."""
    bank.target = Target(mechanism="header", settle=SETTLE, deadline=timedelta(seconds=1))
    bank.sends = [EffectUnknown("gone"), TargetUnavailable("closed")]
    for _ in range(2):
        with pytest.raises(EffectUnknown):
            await ledger.perform(call())

    effect = await ledger.get(key_of(call()))

    assert "unknown" == effect.state
    assert effect.doubt_until is not None


async def test_refusal_before_the_target_has_settled_is_not_final(ledger: Ledger, bank: Bank) -> None:
    """A refusal of a repeat counts only once the lost request can no longer land after it."""
    bank.target = Target(mechanism="header", settle=SETTLE, deadline=timedelta(seconds=1))
    bank.sends = [EffectUnknown("gone"), *[EffectRejected("no")] * 9]
    for _ in range(2):
        with pytest.raises(EffectUnknown):
            await ledger.perform(call())
    early = await ledger.get(key_of(call()))

    with pytest.raises(EffectRejected):
        await persist(lambda: ledger.perform(call()))

    assert ["unknown", "failed"] == [early.state, (await ledger.get(key_of(call()))).state]


async def test_other_arguments_are_refused(any_ledger: Ledger, bank: Bank) -> None:
    """The same key with other arguments is a conflict: nothing is sent, and a receipt that is there stays."""
    await any_ledger.perform(call(amount=5))
    before = await any_ledger.get(key_of(call()))

    with pytest.raises(EffectConflict):
        await any_ledger.perform(call(amount=6))

    assert before == await any_ledger.get(key_of(call()))
    assert 1 == len(bank.attempts)
    assert "other arguments" in (await any_ledger.events(key_of(call())))[-1].note


async def test_other_arguments_park_an_open_effect(any_ledger: Ledger, bank: Bank) -> None:
    """An effect that is not done yet is parked by a conflict, so that neither of the two intents is carried out."""
    bank.sends = [TargetUnavailable("closed")]
    with pytest.raises(TargetUnavailable):
        await any_ledger.perform(call(amount=5))

    with pytest.raises(EffectConflict):
        await any_ledger.perform(call(amount=6))

    with pytest.raises(EffectParked):
        await any_ledger.perform(call(amount=5))
    assert [] == bank.paid


async def test_other_arguments_leave_a_request_in_flight_alone(ledger: Ledger, bank: Bank) -> None:
    """A conflict does not take the fence from an attempt at work: what that does is recorded."""
    bank.gate = asyncio.Event()
    first = asyncio.create_task(ledger.perform(call(amount=5)))
    await bank.on_the_way.wait()
    with pytest.raises(EffectConflict):
        await ledger.perform(call(amount=6))

    bank.gate.set()
    await first

    assert "succeeded" == (await ledger.get(key_of(call()))).state


async def test_lost_fence_changes_nothing(any_ledger: Ledger, bank: Bank, database: Database) -> None:
    """An attempt whose effect another has taken over writes nothing; what it learnt is kept as an event."""
    bank.gate = asyncio.Event()
    first = asyncio.create_task(any_ledger.perform(call()))
    await bank.on_the_way.wait()
    async with database.write() as connection:
        await connection.execute(sa.text("UPDATE effect SET fence = fence + 1, state = 'claimed'"))

    bank.gate.set()
    with pytest.raises(EffectBusy):
        await first

    assert "claimed" == (await any_ledger.get(key_of(call()))).state
    assert "'b-1'" in (await any_ledger.events(key_of(call())))[-1].note


@pytest.mark.parametrize("mechanism", ["natural-key", "header"])
async def test_two_workers_race_on_one_key(database: Database, mechanism: Mechanism) -> None:
    """Two workers, each with a database of its own, are asked for the same effects at once, and answers are lost."""
    bank = Bank(target=AT_ONCE.model_copy(update={"mechanism": mechanism}), lands_anyway=True)
    bank.sends = [EffectUnknown("gone"), None] * 5
    second = Database(database.url)
    workers = [Ledger(each, {"bank": bank}) for each in (database, second)]
    calls = [call(name=f"pay-{number}") for number in range(5)]

    done = await asyncio.gather(*(persist(partial(worker.perform, each)) for each in calls for worker in workers))

    await second.close()
    assert dict.fromkeys(map(key_of, calls), 1) == Counter(bank.paid)
    assert len(calls) == len({result.receipt.key for result in done})
    assert all(one == other for one, other in zip(done[::2], done[1::2], strict=True))


@pytest.mark.parametrize("mechanism", ["none", "natural-key", "header"])
async def test_a_last_word_is_not_written_over(database: Database, bank: Bank, mechanism: Mechanism) -> None:
    """Who read the row before its holder wrote how it ended changes nothing: a success stays one, and nothing is sent."""
    bank.target, bank.gate = QUICK.model_copy(update={"mechanism": mechanism}), asyncio.Event()
    holder = asyncio.create_task(Ledger(database, {"bank": bank}).perform(call()))
    await bank.on_the_way.wait()
    slow = SlowDatabase(database.url)
    later = Ledger(slow, {"bank": bank}, clock=lambda: now() + timedelta(minutes=1))
    other = asyncio.create_task(later.perform(call()))
    await slow.about_to_write.wait()
    bank.gate.set()
    done = await holder
    slow.may_write.set()

    with pytest.raises(EffectBusy):
        await other
    assert done == await later.perform(call())
    assert ("succeeded", 1, 0) == ((await later.get(key_of(call()))).state, len(bank.attempts), len(bank.probes))
    await slow.close()


async def test_attempt_that_was_held_up_does_not_send(database: Database, bank: Bank) -> None:
    """A process that stood still between claim and send does not send: by now another may have taken the effect over."""
    times = iter([now(), now() + STALL * 1.5])
    ledger = Ledger(database, {"bank": bank}, clock=lambda: next(times, now()))
    with pytest.raises(TargetUnavailable, match="stood still"):
        await ledger.perform(call())

    assert [] == bank.attempts


async def test_cancelled_attempt_is_recorded(any_ledger: Ledger, bank: Bank) -> None:
    """A cancellation is answered when the request in flight has ended and is recorded, however often it comes."""
    bank.gate = asyncio.Event()
    attempt = asyncio.create_task(any_ledger.perform(call()))
    await bank.on_the_way.wait()
    for _ in range(3):
        attempt.cancel()
        await asyncio.sleep(0)

    assert not attempt.done()
    bank.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await attempt

    assert "succeeded" == (await any_ledger.get(key_of(call()))).state
    assert "b-1" == (await any_ledger.perform(call())).receipt.remote_ref


async def test_cancelled_attempt_that_fails_is_recorded(ledger: Ledger, bank: Bank) -> None:
    """Also what fails after the cancellation is recorded, and nobody is told of an unheard exception."""
    bank.gate, bank.sends = asyncio.Event(), [EffectRejected("no")]
    attempt = asyncio.create_task(ledger.perform(call()))
    await bank.on_the_way.wait()
    attempt.cancel()
    await asyncio.sleep(0)
    bank.gate.set()

    with pytest.raises(asyncio.CancelledError):
        await attempt

    assert "failed" == (await ledger.get(key_of(call()))).state


async def test_connector_is_held_to_the_deadline(ledger: Ledger, bank: Bank) -> None:
    """A connector that does not answer before the deadline leaves an unknown effect, well before the lease is over."""
    bank.target = QUICK.model_copy(update={"deadline": timedelta(milliseconds=50)})
    bank.gate = asyncio.Event()

    with pytest.raises(EffectUnknown, match="before the deadline"):
        await ledger.perform(call())

    assert "unknown" == (await ledger.get(key_of(call()))).state


async def test_look_up_has_no_row(ledger: Ledger, bank: Bank) -> None:
    """An action that only looks leaves nothing in the ledger, and whatever fails may be tried again."""
    bank.sends = [EffectUnknown("gone")]
    with pytest.raises(TargetUnavailable):
        await ledger.perform(call("bank.balance"))

    result = await ledger.perform(call("bank.balance"))

    assert ("none", "") == (result.receipt.confirmed_by, result.receipt.key)
    assert [] == list(await ledger.list())


async def test_words_of_the_target_are_stored_whatever_they_are(any_ledger: Ledger, bank: Bank) -> None:
    """A NUL in what the target says does not keep its refusal out of the ledger."""
    bank.sends = [EffectRejected("no\0pe")]
    with pytest.raises(EffectRejected):
        await any_ledger.perform(call())

    assert ("failed", "nope") == (
        (await any_ledger.get(key_of(call()))).state,
        (await any_ledger.get(key_of(call()))).error,
    )


async def test_write_that_the_database_refuses_takes_no_other_along(postgres_database: Database, bank: Bank) -> None:
    """Of effects whose writes share a transaction, one that cannot be stored fails alone."""
    ledger = Ledger(postgres_database, {"bank": bank})
    calls = [call(name=str(number)) for number in range(6)]
    calls[3] = calls[3].model_copy(update={"item": "\0"})

    results = await asyncio.gather(*(ledger.perform(one) for one in calls), return_exceptions=True)

    assert [3] == [number for number, result in enumerate(results) if isinstance(result, Exception)]
    assert 5 == len(await ledger.list(state="succeeded")) == len(bank.paid)


async def test_key_survives_reset_and_continue_as_new(ledger: Ledger, bank: Bank) -> None:
    """The same step of another run in the same lineage is the same effect; an item or a generation makes another one."""
    await ledger.perform(EffectCall(step=step(run_id="r-1"), action="bank.pay", args={"amount": 5}))
    await ledger.perform(EffectCall(step=step(run_id="r-2"), action="bank.pay", args={"amount": 5}))
    after_reset = len(bank.paid)
    await ledger.perform(EffectCall(step=step(), action="bank.pay", args={"amount": 5}, item="line 2"))
    await ledger.perform(EffectCall(step=step(), action="bank.pay", args={"amount": 5}, generation=1))
    await ledger.perform(EffectCall(step=step(first_execution_run_id="r-9"), action="bank.pay", args={"amount": 5}))

    assert (1, 4, 4) == (after_reset, len(bank.paid), len(set(bank.paid)))


async def test_list_is_by_state(any_ledger: Ledger, bank: Bank) -> None:
    """Effects are listed newest first, by state or by workflow."""
    await any_ledger.perform(call(name="a"))
    bank.sends = [EffectRejected("no")]
    with pytest.raises(EffectRejected):
        await any_ledger.perform(call(name="b"))

    assert ["b", "a"] == [effect.step.name for effect in await any_ledger.list()]
    assert ["b"] == [effect.step.name for effect in await any_ledger.list(state="failed")]
    assert ["b"] == [effect.step.name for effect in await any_ledger.list(workflow_id="w-1", limit=1)]
    assert [] == list(await any_ledger.list(workflow_id="w-2"))


async def test_wrong_calls_are_refused_before_anything_is_written(ledger: Ledger) -> None:
    """An unknown action or arguments that do not fit are said as such, and leave no row."""
    with pytest.raises(UnknownAction, match=r"bank\.fly.*bank\.balance"):
        await ledger.perform(call("bank.fly"))
    with pytest.raises(UnknownAction):
        await ledger.perform(call("moon.fly"))
    with pytest.raises(InvalidInput, match="amount"):
        await ledger.perform(call(amount="a lot"))
    with pytest.raises(NotFound):
        await ledger.get("pe-none")

    assert [] == list(await ledger.list())


class SlowDatabase(Database):
    """A database whose process stands still before its second write: the first finds that the key is there."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.writes = 0
        self.about_to_write, self.may_write = asyncio.Event(), asyncio.Event()

    async def transact(self, work: Callable[[sa.Connection], T]) -> T:
        """Do WORK, the second time not before it may."""
        self.writes += 1
        if self.writes == 2:
            self.about_to_write.set()
            await self.may_write.wait()
        return await super().transact(work)


async def _course(ledger: Ledger) -> list[tuple[str | None, str]]:
    return [(event.before, event.after) for event in await ledger.events(key_of(call()))]


@pytest.mark.parametrize("mechanism", ["natural-key", "header"])
async def test_nonsense_for_ever_comes_to_an_end(database: Database, mechanism: Mechanism) -> None:
    """A target that answers each request with what says nothing is put before a person with its last answer (case 70)."""
    bank = Bank(target=AT_ONCE.model_copy(update={"mechanism": mechanism}))
    bank.sends = [UnusableAnswer(f"it answered 200, but with error {number}") for number in range(100)]
    ledger = Ledger(database, {"bank": bank})

    with pytest.raises(EffectParked, match=r"it was sent 3 times, and nobody can tell .* with error 2"):
        await persist(lambda: ledger.perform(call()))

    assert 3 == bank.target.looks == len(bank.attempts)


async def test_losses_without_end_come_to_an_end(database: Database) -> None:
    """Where each look-up says that it is not there and each request is lost, a person is asked (case 70)."""
    bank = Bank(target=AT_ONCE.model_copy(update={"settle": timedelta(milliseconds=1), "losses": 4}))
    bank.sends = [EffectUnknown("gone")] * 100
    ledger = Ledger(database, {"bank": bank})
    waits = []

    async def attempt() -> EffectResult:
        try:
            return await ledger.perform(call())
        except EffectUnknown as error:
            waits.append(error.retry_after)
            raise

    with pytest.raises(EffectParked, match="it was sent 4 times"):
        await persist(attempt)

    assert [timedelta(milliseconds=1), timedelta(milliseconds=2), timedelta(milliseconds=4)] == waits


async def test_exists_is_looked_up_again(database: Database, bank: Bank) -> None:
    """The first answer is lost, the list lags behind, and the repeat is refused: it is found in the end (case 70)."""
    bank.sends, bank.lands_anyway = [EffectUnknown("gone"), AlreadyThere("409: the reference exists")], True
    bank.looks = [Absent()]
    ledger = Ledger(database, {"bank": bank})

    done = await persist(lambda: ledger.perform(call()))

    assert ("probe", 2) == (done.receipt.confirmed_by, len(bank.attempts))


async def test_what_exists_and_is_never_found_is_parked(database: Database) -> None:
    """A target that says it exists, and never shows it, is put before a person, and is no failure."""
    bank = Bank(target=AT_ONCE)
    bank.sends, bank.looks = [AlreadyThere("409: the reference exists")] * 9, [Absent()] * 9
    ledger = Ledger(database, {"bank": bank})

    with pytest.raises(EffectParked, match="409: the reference exists"):
        await persist(lambda: ledger.perform(call()))
