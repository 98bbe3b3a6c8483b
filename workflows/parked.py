"""How a run waits for a person who finds out what happened."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

from pydantic import JsonValue
from temporalio import workflow

from perdure.connectors.ledger.contracts import PARKED, RESOLVED, ParkedEffect
from perdure.errors import EffectConflict, EffectParked
from perdure.workflows import attributes
from perdure.workflows.run import Run, current_run

R = TypeVar("R")


async def wait_until_resolved(
    attempt: Callable[[], Awaitable[R]],
    *,
    step: str,
    action: str,
    within: timedelta,
    waits: Callable[[], None] = lambda: None,
) -> R:
    """Return what ATTEMPT of STEP gives, waiting at most WITHIN whenever it is parked; WAITS is called when that begins.

    What people say of a parked effect is in the ledger: the signal carries no authority, it only has the run ask again.
    """
    run = current_run()
    last_look = False
    while True:
        told = _last_signal(run)
        try:
            return await attempt()
        except (EffectParked, EffectConflict) as parked:
            # Failures that were recorded before effects could be resolved hold no key; then the step failed at once.
            if last_look or not parked.effect or within <= timedelta(0):
                raise
            at = workflow.now()
            waiting = ParkedEffect(
                key=parked.effect, step=step, action=action, why=parked.message, since=at, until=at + within
            )
            waits()
            # When nobody has said anything in time, the ledger is asked once more: a signal can get lost, a row cannot.
            last_look = not await _wait_for_signal(run, waiting, told)


def install_handlers(run: Run) -> None:
    """Give the run the signal that an effect was resolved, and the query for what is parked."""

    def resolved(given: JsonValue) -> None:
        """Ask the ledger again about an effect that a person has resolved: its key, or {"key": KEY}."""
        key = given.get("key") if isinstance(given, dict) else given
        if isinstance(key, str):
            run.resolution_signals[key] = _last_signal(run) + 1
        else:
            workflow.logger.warning("a signal %s without the key of an effect is ignored", RESOLVED)

    def parked() -> list[ParkedEffect]:
        """List the effects that this run waits for a person to resolve."""
        return run.parked

    workflow.set_signal_handler(RESOLVED, resolved)
    workflow.set_query_handler(PARKED, parked)


def show_state(run: Run) -> None:
    """Tell the list and the run's page what is waited for."""
    run.show()
    workflow.upsert_search_attributes([attributes.STATE.value_set(run.state)])


def _last_signal(run: Run) -> int:
    return max(run.resolution_signals.values(), default=0)


async def _wait_for_signal(run: Run, waiting: ParkedEffect, told: int) -> bool:
    """Wait until the run is told, after TOLD, that what it is WAITING for is resolved. Returns False if time is up."""

    def resolved() -> bool:
        return run.resolution_signals.get(waiting.key, 0) > told

    if resolved():
        return True
    run.parked.append(waiting)
    show_state(run)
    try:
        await workflow.wait_condition(
            resolved, timeout=waiting.until - waiting.since, timeout_summary=f"{waiting.step} is parked until then"
        )
    except TimeoutError:
        return False
    finally:
        run.parked.remove(waiting)
        show_state(run)
    return True
