"""What a person may say about a parked effect, and what follows from it."""

from __future__ import annotations

from dataclasses import replace

from pydantic import BaseModel, JsonValue, ValidationError

from perdure.connectors.contracts import (
    AnyAction,
    Effect,
    EffectState,
    Executed,
    undo_key,
)
from perdure.connectors.ledger._key_claim import awaits_approval, find_unsettled
from perdure.connectors.ledger.contracts import Resolution
from perdure.connectors.ledger.journal import Journal
from perdure.connectors.wire import canonical_json, sha256
from perdure.errors import EffectUnknown, InvalidInput, NotParked

STATE_AFTER: dict[str, EffectState] = {
    "happened": "succeeded",
    "did not happen": "failed",
    "send again": "proposed",
    "new generation": "proposed",
}
"""The state to which each verdict brings a parked effect."""


async def resolve(journal: Journal, effect: Effect, said: Resolution, action: AnyAction | None) -> Effect:
    """Bring EFFECT to where SAID puts it, with who said it and why as an event. ACTION is needed if it happened."""
    if effect.state != "parked":
        return await _check_resolved_before(journal, effect, said)
    await _check(journal, effect, said)
    changes: dict[str, object] = {"fence": effect.fence + 1, "lease_until": None, "doubt_until": None, "error": ""}
    if said.verdict == "happened":
        assert action is not None
        changes |= _columns_if_happened(journal, effect, said, action)
    elif said.verdict == "did not happen":
        changes["error"] = f"{said.by} says that it did not happen: {said.comment}"
    else:
        changes |= {"looks": 0} | await _reclaim_business_key(journal, effect)
    note = f"{said.verdict}: {said.comment}"
    await journal.move(effect, STATE_AFTER[said.verdict], changes, note=note, by=said.by, verified=said.verified)
    if effect.undo_of and said.verdict == "happened":
        await mark_undone(journal, effect.undo_of, effect.key)
    return await journal.get(effect.key)


async def _check_resolved_before(journal: Journal, effect: Effect, said: Resolution) -> Effect:
    last = next((event for event in reversed(await journal.events(effect.key)) if event.by), None)
    if last is not None and (last.by, last.note) == (said.by, f"{said.verdict}: {said.comment}"):
        return effect
    by = f"; {last.by} said on {last.at:%Y-%m-%d %H:%M} UTC: {last.note}" if last else ""
    raise NotParked(f"effect {effect.key} is {effect.state}, not parked, so there is nothing to resolve{by}")


async def _check(journal: Journal, effect: Effect, said: Resolution) -> None:
    changed = awaits_approval(effect)
    if said.verdict == "send again" and changed:
        raise NotParked(f"effect {effect.key} is a changed intent that was never sent: approve it as a new generation")
    if said.verdict == "new generation":
        if not changed:
            raise NotParked(
                f"effect {effect.key} is no new intent, so a new generation does not fit: use "
                "--happened, --did-not-happen or --send-again"
            )
        await _check_settled(journal, effect)
    at = journal.clock()
    if said.verdict in ("did not happen", "send again") and effect.doubt_until is not None and at < effect.doubt_until:
        raise EffectUnknown(
            f"effect {effect.key} may still land until {effect.doubt_until:%H:%M:%S} UTC: look at the target after that",
            retry_after=effect.doubt_until - at,
        )


async def _check_settled(journal: Journal, effect: Effect) -> None:
    assert effect.contradicts is not None
    first = await journal.get(effect.contradicts)
    others = [each for each in await journal.later_generations(first) if each.key != effect.key]
    is_open = find_unsettled([first, *(each for each in others if not awaits_approval(each))])
    if is_open is not None:
        raise NotParked(
            f"effect {effect.key} cannot be approved while {is_open.key}, which it departs from, is {is_open.state}: "
            "resolve that first"
        )


def _columns_if_happened(journal: Journal, effect: Effect, said: Resolution, action: AnyAction) -> dict[str, object]:
    happened = _assume(effect, said, action)
    if not happened.remote_ref:
        raise InvalidInput("what happened has a name at the target: give it as the remote reference (--remote-ref)")
    response = canonical_json(happened.output.model_dump(mode="json"))
    return {
        "response": response.decode(),
        "response_digest": sha256(response),
        "remote_ref": happened.remote_ref,
        "confirmed_at": journal.clock(),
        "confirmed_by": "person",
    }


def _assume(effect: Effect, said: Resolution, action: AnyAction) -> Executed:
    if said.answer is None and action.assume is not None:
        assumed = action.assume(action.input.model_validate(effect.args), effect.key)
        return replace(assumed, remote_ref=said.remote_ref or assumed.remote_ref)
    return Executed(_parse_answer(effect, said, action), said.remote_ref)


def _parse_answer(effect: Effect, said: Resolution, action: AnyAction) -> BaseModel:
    guess: dict[str, JsonValue] = {name: effect.args[name] for name in action.output.model_fields if name in effect.args}
    reference = getattr(action, "remote_ref", "id")
    if reference in action.output.model_fields:
        guess[reference] = said.remote_ref
    try:
        return action.output.model_validate(guess if said.answer is None else said.answer)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'answer'}: {item['msg']}" for item in error.errors())
        how = "give what the target answered (--answer)" if said.answer is None else "look at its fields"
        raise InvalidInput(f"the answer does not fit {action.output.__name__} of {action.name}: {wrong}; {how}") from None


async def _reclaim_business_key(journal: Journal, effect: Effect) -> dict[str, object]:
    """Return whether EFFECT stands beside another of its business key when it goes on."""
    if effect.business_key is None or not effect.beside:
        return {}
    held = await journal.find_holder(effect.business_key)
    if held is None:
        return {"beside": False}
    first = await journal.get(effect.contradicts or "")
    mine = {first.key, *(each.key for each in await journal.later_generations(first))}
    if held.key not in mine:
        raise NotParked(
            f"effect {effect.key} cannot be approved: since it was asked for, {held.key} of run "
            f"{held.step.lineage.workflow_id} has done what may happen once per business key"
        )
    return {}


async def mark_undone(journal: Journal, original: str, undo: str) -> None:
    """Note that the effect under ORIGINAL was undone by the one under UNDO, if that is not noted yet."""
    assert undo == undo_key(original)
    effect = await journal.get(original)
    if effect.state == "succeeded":
        await journal.move(effect, "compensated", {"fence": effect.fence + 1}, note=f"undone by {undo}")
