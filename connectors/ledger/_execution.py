"""How one effect gets from what was intended to what is known to have happened."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import NoReturn

from pydantic import BaseModel

from perdure.connectors.contracts import (
    AnyAction,
    Attempt,
    CannotTell,
    Confirmation,
    Connector,
    Effect,
    EffectResult,
    Executed,
    Found,
    Probe,
    Receipt,
)
from perdure.connectors.ledger._key_claim import awaits_approval, conflict_error
from perdure.connectors.ledger.journal import Claim, Intent, Journal
from perdure.connectors.ledger.states import (
    STALL,
    Move,
    lease_duration,
    next_move,
)
from perdure.connectors.wire import canonical_json, sha256, storable_text, with_whole_characters
from perdure.errors import (
    AlreadyThere,
    EffectBusy,
    EffectError,
    EffectParked,
    EffectRejected,
    EffectUnknown,
    TargetUnavailable,
    UnusableAnswer,
)
from perdure.storage import now

_LONGEST_PAUSE = timedelta(minutes=5)
"""How long an effect waits at most between one request whose answer was lost and the next."""

CLOSED_UNSENT = "it was undone before it was sent, so it is never sent"
ABANDONED = "its run has ended, and it is not at the target"


class EffectExecution:
    """One attempt to bring the effect of INTENT to its end, through CONNECTOR.

    Every method that sends or looks holds a claim, and writes what came of it under the claim's fence.
    """

    def __init__(self, journal: Journal, connector: Connector, intent: Intent) -> None:
        self._journal = journal
        self._connector = connector
        self._intent = intent
        self._target = intent.action.target
        self._now = journal.clock
        self._what = f"effect {intent.key} of {intent.action.name}"

    async def run(self, stands: Claim | Effect) -> EffectResult:
        """Bring the effect about that STANDS in the ledger, or return what is recorded of it."""
        if isinstance(stands, Claim):
            return await self._send(stands)
        found = stands
        move = next_move(found, self._target, self._now())
        if move.kind == "answer":
            return recorded_result(found, self._intent.action)
        if move.kind == "send":
            return await self._send(await self._journal.resend(found, self._intent))
        looked = await self._look_up(found, move)
        if isinstance(looked, Effect):
            return recorded_result(looked, self._intent.action)
        return await self._send(await self._journal.resend(looked, self._intent, proven_absent=True))

    async def resolve(self, found: Effect | None) -> Effect:
        """Find out what became of the effect FOUND, and close it for good if it is neither at the target nor on its way."""
        if found is None:
            # The attempt that was announced may still be about to write its intent: this keeps it from doing so.
            await self._journal.close(self._intent, error=CLOSED_UNSENT)
            found = await self._journal.get(self._intent.key)
        if awaits_approval(found):
            await self._journal.move(
                found, "failed", {"fence": found.fence + 1, "error": CLOSED_UNSENT}, note=CLOSED_UNSENT
            )
            return await self._journal.get(self._intent.key)
        move = next_move(found, self._target, self._now(), undoing=True)
        if move.kind == "answer":
            return found
        absent = found if move.kind == "send" else await self._look_up(found, move)
        if isinstance(absent, Effect) and absent.state == "succeeded":
            return absent
        changes = {"fence": absent.fence + 1, "lease_until": None, "doubt_until": None, "error": CLOSED_UNSENT}
        await self._journal.move(absent, "failed", changes, note=CLOSED_UNSENT)
        return await self._journal.get(self._intent.key)

    async def find_out(self, found: Effect, *, last: bool) -> Effect:
        """Look up what became of the effect FOUND, for which no run asks just now, and send nothing.

        What is neither at the target nor on its way is proposed again, for whoever may ask some day. An undo is parked:
        what it was to take back stands. Raises `EffectParked`; with LAST also where one look-up could not tell.
        """
        move = next_move(found, self._target, self._now(), undoing=True)
        if move.kind == "answer":
            return found
        absent = found if move.kind == "send" else await self._look_up(found, move, last=last)
        if isinstance(absent, Effect) and absent.state != "proposed":
            return absent
        if self._intent.undo_of:
            await self._park(absent, f"{ABANDONED}, so that {self._intent.undo_of} stands", doubt_until=None)
        if isinstance(absent, Claim):
            await self._journal.move(
                absent, "proposed", {"lease_until": None, "doubt_until": None, "error": ABANDONED}, note=ABANDONED
            )
        return await self._journal.get(self._intent.key)

    async def _look_up(self, found: Effect, move: Move, *, last: bool = False) -> Effect | Claim:
        # Returns the effect if it is at the target, or the claim under which it was found to be absent.
        if move.kind == "busy":
            raise EffectBusy(f"{self._what} is being performed by another attempt", retry_after=move.after)
        if move.kind == "settle":
            raise EffectUnknown(f"{self._what} may still land; it is looked up after that", retry_after=move.after)
        if move.kind == "park":
            await self._park(found, move.why)
        claim = await self._journal.claim(found, self._intent)
        probe = await self._probe(claim)
        if isinstance(probe, Found):
            await self._confirm(claim, probe.executed, "probe")
            return await self._journal.get(claim.key)
        if isinstance(probe, CannotTell):
            await self._record_uncertain_look(claim, probe.why, last=last)
        return claim

    async def _record_uncertain_look(self, claim: Claim, why: str, *, last: bool = False) -> NoReturn:
        looks = claim.looks + 1
        if last or looks >= self._target.looks:
            await self._park(claim, f"it was looked up {looks} times: {why}")
        await self._journal.move(claim, "unknown", {"lease_until": None, "looks": looks, "error": why}, note=why)
        raise EffectUnknown(f"{self._what} may have happened: {why}", retry_after=self._target.settle)

    async def _probe(self, claim: Claim) -> Probe:
        attempt = Attempt(key=claim.key, fence=claim.fence, deadline=self._target.deadline)
        try:
            async with asyncio.timeout(attempt.deadline.total_seconds()):
                return await self._connector.probe(self._intent.action, self._intent.args, attempt)
        except (TargetUnavailable, EffectUnknown, TimeoutError) as error:
            # It could not be asked, so this does not count as a look.
            why = f"{self._intent.action.connector} could not be asked: {_reason(error)}"
            await self._journal.move(claim, "unknown", {"lease_until": None, "error": why}, note=why)
            after = error.retry_after if isinstance(error, EffectError) else None
            raise EffectUnknown(f"{self._what} may have happened, and {why}", retry_after=after) from error
        except Exception as error:  # noqa: BLE001  a connector that breaks must end in `parked`, not in endless retries
            return CannotTell(f"the look-up failed: {_reason(error)}")

    async def _send(self, claim: Claim) -> EffectResult:
        try:
            executed = await self._execute(claim)
        except TargetUnavailable as error:
            await self._record_unsent(claim, error)
        except EffectRejected as error:
            return await self._handle_rejection(claim, error)
        except Exception as error:  # noqa: BLE001  whatever it is, the request may have been on its way
            await self._record_lost_answer(claim, error)
        return await self._confirm(claim, executed, "response")

    async def _execute(self, claim: Claim) -> Executed:
        attempt = Attempt(key=claim.key, fence=claim.fence, deadline=self._target.deadline)
        if self._now() > claim.lease_until - lease_duration(self._target) + STALL:
            # The process stood still after the claim. What it sent now could land when others take it for settled.
            raise TargetUnavailable(f"{self._what} was not sent: the worker stood still for too long before sending it")
        async with asyncio.timeout(attempt.deadline.total_seconds()):
            return await self._connector.execute(self._intent.action, self._intent.args, attempt)

    async def _confirm(self, claim: Claim, executed: Executed, by: Confirmation) -> EffectResult:
        value = with_whole_characters(executed.output.model_dump(mode="json"))
        response = canonical_json(value)
        receipt = Receipt(
            key=claim.key,
            action=self._intent.action.name,
            remote_ref=storable_text(executed.remote_ref),
            response_digest=sha256(response),
            confirmed_at=self._now(),
            confirmed_by=by,
            sent=claim.sent,
        )
        changes = {
            "lease_until": None,
            "doubt_until": None,
            "response": response.decode(),
            "response_digest": receipt.response_digest,
            "remote_ref": receipt.remote_ref,
            "confirmed_at": receipt.confirmed_at,
            "confirmed_by": by,
            "error": "",
        }
        try:
            await self._journal.move(claim, "succeeded", changes)
        except EffectBusy:
            # Whoever took it over decides, but what we know must not get lost.
            found = await self._journal.get(claim.key)
            await self._journal.note(claim, found.state, f"a late answer: at the target it is {receipt.remote_ref!r}")
            raise
        return EffectResult(value=value, receipt=receipt)

    async def _record_unsent(self, claim: Claim, error: TargetUnavailable) -> NoReturn:
        changes = {"lease_until": None, "doubt_until": claim.doubt_until, "error": error.message}
        if claim.doubt_until is None:
            await self._journal.move(claim, "proposed", changes, note=error.message)
            raise error
        # This request did nothing, but one before it may have.
        await self._journal.move(claim, "unknown", changes, note=error.message)
        raise EffectUnknown(error.message, retry_after=error.retry_after) from error

    async def _handle_rejection(self, claim: Claim, error: EffectRejected) -> EffectResult:
        if claim.doubt_until is not None:
            earlier = await self._look_for_earlier(claim, error)
            if earlier is not None:
                return await self._confirm(claim, earlier.executed, "probe")
        if self._intent.must or self._intent.undo_of:
            # There is no way back from here, so it is no end that the target says no.
            await self._park(claim, f"{self._intent.action.connector} refuses it: {error.message}", doubt_until=None)
        changes = {"lease_until": None, "doubt_until": None, "error": error.message}
        await self._journal.move(claim, "failed", changes, note=error.message)
        raise error

    async def _look_for_earlier(self, claim: Claim, error: EffectRejected) -> Found | None:
        """Return what an earlier request of CLAIM did, if it did: that this one was refused with ERROR says nothing of it.

        The target may have asked for a valid password before it looked at the key.
        """
        at = self._now()
        if claim.doubt_until is not None and at < claim.doubt_until:
            changes = {"lease_until": None, "doubt_until": claim.doubt_until, "error": error.message}
            await self._journal.move(claim, "unknown", changes, note=error.message)
            raise EffectUnknown(error.message, retry_after=claim.doubt_until - at) from error
        probe = await self._probe(claim)
        if isinstance(probe, CannotTell):
            await self._record_uncertain_look(claim, f"a repeat was refused, {error.message}, and {probe.why}")
        return probe if isinstance(probe, Found) else None

    async def _record_lost_answer(self, claim: Claim, error: Exception) -> NoReturn:
        answered = isinstance(error, UnusableAnswer | AlreadyThere)
        connector = self._intent.action.connector
        why = _reason(error) if answered else f"the answer of {connector} was lost: {_reason(error)}"
        if self._target.mechanism == "none":
            await self._park(claim, why)
        settled = self._now() + self._target.settle
        doubt_until = settled if claim.doubt_until is None else max(settled, claim.doubt_until)
        looks = claim.looks + 1 if self._target.replays_errors or answered else claim.looks
        losses = await self._journal.count_losses(claim.key) + 1
        absent_each_time = self._target.mechanism == "natural-key" and losses >= self._target.losses
        if absent_each_time or (answered and looks >= self._target.looks):
            # It would go on for ever. A target that is away is another thing: it cannot be looked up either.
            await self._park(claim, f"it was sent {claim.sent} times, and nobody can tell what came of it: {why}")
        changes = {"lease_until": None, "doubt_until": doubt_until, "looks": looks, "error": why}
        await self._journal.move(claim, "unknown", changes, note=why)
        asked = error.retry_after if isinstance(error, EffectError) else None
        pause = min(self._target.settle * 2 ** (losses - 1), max(_LONGEST_PAUSE, self._target.settle))
        raise EffectUnknown(f"{self._what} may have happened: {why}", retry_after=max(asked or pause, pause)) from error

    async def _park(self, held: Effect | Claim, why: str, **more: object) -> NoReturn:
        changes: dict[str, object] = {"fence": held.fence + 1, "lease_until": None, "error": why} | more
        await self._journal.move(held, "parked", changes, note=why)
        raise parked_error(held.key, self._intent.action, why)


async def perform_read(connector: Connector, action: AnyAction, args: BaseModel) -> EffectResult:
    """Do ACTION, which only looks: no key, no row, and whatever fails may be tried again."""
    attempt = Attempt(key="", fence=0, deadline=action.target.deadline)
    try:
        async with asyncio.timeout(attempt.deadline.total_seconds()):
            executed = await connector.execute(action, args, attempt)
    except (EffectUnknown, TimeoutError) as error:
        after = error.retry_after if isinstance(error, EffectError) else None
        raise TargetUnavailable(f"{action.name} did not answer: {_reason(error)}", retry_after=after) from error
    value = with_whole_characters(executed.output.model_dump(mode="json"))
    receipt = Receipt(
        key="",
        action=action.name,
        remote_ref=storable_text(executed.remote_ref),
        response_digest=sha256(canonical_json(value)),
        confirmed_at=now(),
        confirmed_by="none",
        sent=1,
    )
    return EffectResult(value=value, receipt=receipt)


def parked_error(key: str, action: AnyAction, why: str) -> EffectParked:
    """Return the error of an effect that waits for a person."""
    return EffectParked(
        f"effect {key} of {action.name} is parked: {why}. Find out at {action.connector} whether it happened, by that key, "
        "and say so with `perdure effects resolve`.",
        effect=key,
    )


def recorded_result(effect: Effect, action: AnyAction) -> EffectResult:
    """Return what is recorded of EFFECT, which has ended. Raises what it ended with, if that was not success."""
    if effect.state == "succeeded":
        return EffectResult(value=effect.response, receipt=effect.receipt)
    if effect.state == "failed":
        raise EffectRejected(effect.error)
    if effect.state == "compensated":
        raise EffectRejected(
            f"effect {effect.key} of {effect.action} was done and undone; to do it again, start another run"
        )
    raise conflict_error(effect) if awaits_approval(effect) else parked_error(effect.key, action, effect.error)


def _reason(error: BaseException) -> str:
    # The message of an error that is not ours may quote anything, secrets included.
    if isinstance(error, TimeoutError):
        return "no answer before the deadline"
    return error.message if isinstance(error, EffectError) else type(error).__name__
