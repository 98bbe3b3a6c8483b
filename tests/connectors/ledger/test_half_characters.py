"""Tests of what becomes of half a character, which no UTF-8 can hold, wherever it comes from (case 16)."""

from __future__ import annotations

from datetime import timedelta
from typing import cast

import pytest
from kits.connectors import AT_ONCE, Bank, call, persist
from pydantic import BaseModel, JsonValue

from perdure.activities.boundary import to_failure
from perdure.connectors import Action, AnyAction, Attempt, EffectCall, Executed, Probe, Target
from perdure.connectors.ledger import Ledger
from perdure.errors import EffectRejected, InvalidInput, TargetUnavailable
from perdure.storage import Database

HALF = "cut \ud83d"
WHOLE = "cut \ufffd"


class Said(BaseModel):
    """Whatever a target says."""

    note: JsonValue = None


class Talker(Bank):
    """A target whose answers, references and refusals hold half an emoji."""

    @property
    def actions(self) -> dict[str, AnyAction]:
        """The actions by full name."""
        pay = Action("bank.pay", Said, Said, target=self.target)
        look = Action("bank.balance", Said, Said, reads=True, target=self.target)
        return {action.name: cast(AnyAction, action) for action in (pay, look)}

    async def execute(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Executed:
        """Do it, and say so."""
        await super().execute(action, args, attempt) if self.sends else self.attempts.append(attempt)
        return Executed(Said(note=[HALF]), remote_ref=f"r {HALF}")

    async def probe(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Probe:
        """Look it up."""
        return await super().probe(action, args, attempt)


@pytest.mark.parametrize("mechanism", ["natural-key", "header", "none"])
async def test_an_answer_with_half_a_character_is_recorded(database: Database, mechanism: str) -> None:
    """It is sent once and recorded with U+FFFD, whatever the mechanism, in SQLite and PostgreSQL."""
    talker = Talker(target=Target.model_validate({**AT_ONCE.model_dump(), "mechanism": mechanism}))
    ledger = Ledger(database, {"bank": talker})

    done = await ledger.perform(EffectCall(step=call().step, action="bank.pay", args={"note": 1}))

    effect = await ledger.get(done.receipt.key)
    assert 1 == len(talker.attempts)
    assert {"note": [WHOLE]} == done.value == effect.response
    assert f"r {WHOLE}" == done.receipt.remote_ref == effect.remote_ref


async def test_a_look_with_half_a_character(database: Database) -> None:
    """What is read is made whole as well."""
    ledger = Ledger(database, {"bank": Talker(target=AT_ONCE)})

    done = await ledger.perform(EffectCall(step=call().step, action="bank.balance", args={"note": 1}))

    assert {"note": [WHOLE]} == done.value


async def test_a_refusal_with_half_a_character(database: Database) -> None:
    """What a target says when it refuses is recorded in the ledger, and as a failure that can be written down."""
    talker = Talker(target=AT_ONCE, sends=[EffectRejected(f"no: {HALF}")])
    ledger = Ledger(database, {"bank": talker})

    with pytest.raises(EffectRejected) as refused:
        await persist(lambda: ledger.perform(EffectCall(step=call().step, action="bank.pay", args={"note": 1})))

    [effect] = await ledger.list()
    assert ("failed", f"no: {WHOLE}") == (effect.state, effect.error)
    assert f"no: {WHOLE}" == to_failure(refused.value).message


async def test_half_a_character_in_an_argument_is_refused(database: Database) -> None:
    """What cannot be written down is refused at once, before anything is sent."""
    talker = Talker(target=AT_ONCE)

    with pytest.raises(InvalidInput, match="half a character"):
        await Ledger(database, {"bank": talker}).perform(
            EffectCall(step=call().step, action="bank.pay", args={"note": HALF})
        )

    assert [] == talker.attempts


def test_no_target_has_a_step_wait_for_years() -> None:
    """However long a target says to wait, the step is tried again within the hour (case 12)."""
    failure = to_failure(TargetUnavailable("later", retry_after=timedelta(days=20_786)))

    assert timedelta(hours=1) == failure.next_retry_delay
