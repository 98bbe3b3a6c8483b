"""Answers that are kept: given again for nothing to the same tenant, asked for once, and not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest
import sqlalchemy as sa
from kits.routing import HashingEmbedder, Triage, asking, rows
from stand_ins.provider import Answers, Fails, Hangs, Stub

from perdure.errors import ModelUnavailable
from perdure.routing import OutputRef, Router
from perdure.routing.calls import costs
from perdure.routing.tables import AnswerRow
from perdure.storage import Database, now

Routed = Callable[..., Router]
CACHED = 'cache = "1d"\n'
GOOD = Answers('{"verdict": "refund"}')


def another(router: Router, database: Database) -> Router:
    """A router of another worker with the same routes."""
    return Router(database, router.routes, HashingEmbedder())


async def test_hit(routed: Routed, stub: Stub, database: Database) -> None:
    """The same question again is answered without a call, priced at nothing, and what it saved is counted."""
    stub.will(GOOD)
    router = routed(database=database, task=CACHED, more='\n[budgets.cap]\nper = "all"\nusd = 0.0015\n')

    first = await router.generate(asking(), attempt=1, output=Triage)
    second = await another(router, database).generate(asking(), attempt=1, output=Triage)

    assert (1, first.value, first.record.answer_digest) == (stub.calls, second.value, second.record.answer_digest)
    assert (True, 0, 0, 21_000) == (
        second.record.cached,
        second.record.provider_calls,
        second.record.usage.cost_nano_usd,
        second.record.saved_nano_usd,
    )
    [cost] = await costs(database)
    assert (1, 1, 21_000, 21_000) == (cost.calls, cost.hits, cost.cost, cost.saved)
    assert ["answered", "cached"] == [row["outcome"] for row in await rows(database)]


@pytest.mark.parametrize(
    "change",
    [
        {"tenant": "acme"},
        {"inputs": {"message": "another"}},
        {"output": OutputRef(name="kits.routing:Other")},
    ],
)
async def test_not_the_same(routed: Routed, stub: Stub, change: dict[str, object]) -> None:
    """Answers are not shared with another tenant, nor given to another question or for another output."""
    stub.will(GOOD)
    router = routed(task=CACHED)
    await router.generate(asking(), attempt=1, output=Triage)

    generation = await router.generate(asking().model_copy(update=change), attempt=1, output=Triage)

    assert (2, False) == (stub.calls, generation.record.cached)


async def test_not_by_default(routed: Routed, stub: Stub, sqlite_database: Database) -> None:
    """Without `cache` no answer is kept for others."""
    stub.will(GOOD)
    router = routed()
    for _ in range(2):
        await router.generate(asking(), attempt=1, output=Triage)

    async with sqlite_database.read() as connection:
        kept = (await connection.execute(sa.select(sa.func.count()).select_from(AnswerRow))).scalar()
    assert (2, 0) == (stub.calls, kept)


async def test_expires(routed: Routed, stub: Stub, sqlite_database: Database) -> None:
    """After its time an answer is asked for again."""
    stub.will(GOOD)
    router = routed(task=CACHED)
    await router.generate(asking(), attempt=1, output=Triage)
    async with sqlite_database.write() as connection:
        await connection.execute(sa.update(AnswerRow).values(expires_at=now() - timedelta(seconds=1)))

    await router.generate(asking(), attempt=1, output=Triage)
    await router.generate(asking(), attempt=1, output=Triage)

    assert 2 == stub.calls


async def test_another_version_has_answered(routed: Routed, stub: Stub) -> None:
    """When the provider answers with another version of the model, what the old one said is not given any more."""
    stub.will(GOOD, Answers(GOOD.text, model="stub-2026-12-01"))
    router = routed(task=CACHED)
    await router.generate(asking(), attempt=1, output=Triage)
    await router.generate(asking(message="another"), attempt=1, output=Triage)

    generation = await router.generate(asking(), attempt=1, output=Triage)

    assert (3, "stub-2026-12-01") == (stub.calls, generation.record.model)


async def test_asked_once(routed: Routed, stub: Stub, database: Database) -> None:
    """A hundred identical questions at the same time, of two workers, are one call."""
    stub.will(GOOD)
    one = routed(database=database, task=CACHED)
    other = another(one, database)

    generations = await asyncio.gather(
        *(router.generate(asking(), attempt=1, output=Triage) for router in (one, other) for _ in range(50))
    )

    assert 1 == stub.calls
    assert 99 == sum(generation.record.cached for generation in generations)
    assert 21_000 == sum(generation.record.usage.cost_nano_usd for generation in generations)


async def test_failure_lets_the_next_one_ask(routed: Routed, stub: Stub, database: Database) -> None:
    """When the one that asks fails, the next one asks; only its answer is kept."""
    stub.will(Fails(503), GOOD)
    router = routed(database=database, task=CACHED)

    ended = await asyncio.gather(
        *(router.generate(asking(), attempt=1, output=Triage) for _ in range(10)), return_exceptions=True
    )

    assert 2 == stub.calls
    assert [ModelUnavailable] == [type(each) for each in ended if isinstance(each, Exception)]


async def test_worker_that_died_is_not_waited_for(routed: Routed, stub: Stub, sqlite_database: Database) -> None:
    """A question that a dead worker was asking is asked anew when its time is up."""
    stub.will(Hangs(), GOOD)
    router = routed(task=CACHED)
    dying = asyncio.create_task(router.generate(asking(), attempt=1, output=Triage))
    await stub.arrived.wait()
    async with sqlite_database.write() as connection:
        await connection.execute(sa.update(AnswerRow).values(held_until=now()))

    generation = await another(router, sqlite_database).generate(asking(), attempt=1, output=Triage)

    assert (2, False) == (stub.calls, generation.record.cached)
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)


async def test_invalid_answers_are_not_kept(routed: Routed, stub: Stub) -> None:
    """What did not fit is not kept; the valid answer to the re-ask is, under the question that was asked first."""
    stub.will(Answers("no JSON"), GOOD)
    router = routed(task=CACHED)
    with pytest.raises(Exception, match="does not fit"):
        await router.generate(asking(), attempt=1, output=Triage)
    await router.generate(asking(), attempt=2, output=Triage)

    generation = await router.generate(asking(), attempt=1, output=Triage)

    assert (2, True) == (stub.calls, generation.record.cached)
