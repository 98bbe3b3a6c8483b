"""Under which key of the ledger an intent stands: its own, that of a changed intent, or another run's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import NoReturn

from perdure.connectors.contracts import Effect, effect_key
from perdure.connectors.ledger.dependents import Dependents
from perdure.connectors.ledger.journal import Claim, Intent, Journal
from perdure.connectors.ledger.states import FINAL_STATES
from perdure.errors import EffectBusy, EffectConflict


async def claim_key(journal: Journal, dependents: Dependents, intent: Intent) -> tuple[Intent, Claim | Effect]:
    """Return INTENT under the key where it stands, with the claim if it is new there, else with the effect as it stands.

    Raises `EffectConflict` if it contradicts what stands: then it is written down as a changed intent for a person.
    """
    for _ in range(3):
        claim = await journal.open(intent)
        if claim is not None:
            return intent, claim
        own = await journal.find(intent.key)
        if own is not None:
            return (intent, own) if _is_same(own, intent) else await _claim_changed(journal, intent, own)
        assert intent.business_key is not None, "only a business key keeps an intent out whose own key is free"
        held = await journal.find_holder(intent.business_key)
        if held is None:
            continue  # it has just become free
        if not _is_same(held, intent):
            await _contradict(journal, intent, held, f"{intent.action.name} has happened once per its business key")
        if await dependents.join(held.key, intent):
            return replace(intent, key=held.key), held
        break
    raise EffectBusy(
        f"another run is just doing or undoing what {intent.action.name} may do once",
        retry_after=timedelta(seconds=1),
    )


def conflict_error(effect: Effect) -> EffectConflict:
    """Return the error of EFFECT, a changed intent that waits for a person."""
    return EffectConflict(
        f"effect {effect.key} of {effect.action} waits for a person: {effect.error}. Nothing was sent. "
        f"`perdure effects show {effect.key}`, then resolve it with --as-new-generation or --did-not-happen.",
        effect=effect.key,
    )


def awaits_approval(effect: Effect) -> bool:
    """Say whether EFFECT is a changed intent that nobody has approved."""
    return effect.state == "parked" and effect.contradicts is not None and effect.sent == 0


def _is_same(found: Effect, intent: Intent) -> bool:
    closed_unseen = not found.args_digest
    return closed_unseen or (found.action, found.args_digest) == (intent.action.name, intent.args_digest)


async def _claim_changed(journal: Journal, intent: Intent, own: Effect) -> tuple[Intent, Effect]:
    later = await journal.later_generations(own)
    same = next((each for each in later if _is_same(each, intent)), None)
    why = f"its key was used again with other arguments: {intent.action.name} {intent.args_digest}"
    for other in (own, *later):
        # What was at work when it was contradicted may have been left behind since, and nobody asks for it any more.
        if same is None or (other is not same and other.state in ("claimed", "in flight", "unknown")):
            await _set_aside(journal, other, why)
    if same is not None:
        return replace(intent, key=same.key, generation=same.generation), same
    generation = max(each.generation for each in (own, *later)) + 1
    key = effect_key(intent.step, item=intent.item, generation=generation)
    changed = replace(intent, key=key, generation=generation)
    return await _contradict(journal, changed, own, f"its step asked for something else earlier, {own.action}")


async def _set_aside(journal: Journal, found: Effect, what: str) -> None:
    """Park FOUND if it is open, so that neither of two intents is carried out; what has happened or happens stays."""
    at_work = found.lease_until is not None and journal.clock() < found.lease_until
    if found.state not in FINAL_STATES and not at_work:
        changes = {"fence": found.fence + 1, "lease_until": None, "error": what}
        await journal.move(found, "parked", changes, note=what)
    elif what not in {event.note for event in await journal.events(found.key)}:
        await journal.note(found, found.state, what)


async def _contradict(journal: Journal, intent: Intent, other: Effect, why: str) -> NoReturn:
    await journal.contradict(intent, other, why=f"{why}, see {other.key}")
    raise conflict_error(await journal.get(intent.key))


def find_unsettled(effects: Sequence[Effect]) -> Effect | None:
    """Return the first of EFFECTS of which it is not known yet whether it happened."""
    return next((each for each in effects if each.state not in ("succeeded", "failed", "compensated")), None)
