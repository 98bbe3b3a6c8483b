"""Tests of `Memory.remember`: once per step, versions that follow one another, nothing that cannot be stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from kits.memory import ADA, Ask, Clock, Say

from perdure.errors import InvalidInput, NotFound
from perdure.lineage import StepRef
from perdure.memory import (
    Memory,
    MiniLm,
    Scope,
    customer,
)
from perdure.memory.index import EdgeIndex
from perdure.storage import Database


async def test_same_step_writes_once(memory: Memory, index: EdgeIndex, to_remember: Say) -> None:
    """A step that is retried gets the answer of its first attempt and writes nothing more."""
    first = await memory.remember(to_remember("Ada moved to Graz"))
    again = await memory.remember(to_remember("Ada moved to Graz"))

    assert first == again
    assert 1 == len(await memory.history(first.memory_id, ADA))
    assert 1 == await index.count()


async def test_same_step_races_itself_and_writes_once(
    database: Database, index: EdgeIndex, embedder: MiniLm, to_remember: Say
) -> None:
    """Attempts of one step that overlap, in two workers, write one record between them."""
    other_database = Database(database.url)
    one, other = Memory(database, index, embedder), Memory(other_database, index, embedder)

    written = await asyncio.gather(*(worker.remember(to_remember("Ada moved to Graz")) for worker in [one, other] * 8))
    await other_database.close()

    assert 1 == len(set(written))
    assert 1 == len(await one.history(written[0].memory_id, ADA))


async def test_run_id_does_not_matter(sqlite_memory: Memory, step: Callable[[str], StepRef], to_remember: Say) -> None:
    """A reset gives the run another run id; a step that it repeats still writes once."""
    before, after = (step("note").model_copy(update={"run_id": run_id}) for run_id in ("a", "b"))
    first = await sqlite_memory.remember(to_remember("Ada moved to Graz", step=before))
    again = await sqlite_memory.remember(to_remember("Ada moved to Graz", step=after))

    assert first == again


async def test_same_step_with_other_content_is_the_next_version(
    memory: Memory, step: Callable[[str], StepRef], to_remember: Say
) -> None:
    """A reset run that says something else at the same step replaces what it said; a late first attempt changes nothing."""
    first = await memory.remember(to_remember("refunded, the lamp was broken", step=step("note")))
    second = await memory.remember(to_remember("rejected, the lamp was used", step=step("note")))
    late = await memory.remember(to_remember("refunded, the lamp was broken", step=step("note")))

    assert (first.memory_id, 2) == (second.memory_id, second.version)
    assert first == late
    assert "rejected, the lamp was used" == (await memory.get(first.memory_id, ADA)).content


async def test_next_version_supersedes(memory: Memory, clock: Clock, to_remember: Say) -> None:
    """Naming a memory writes its next version; the old one stays, with its end."""
    first = await memory.remember(to_remember("Ada lives in Graz", memory_id="home"))
    moved = clock.move(timedelta(days=1))
    second = await memory.remember(to_remember("Ada lives in Wien", memory_id="home"))

    assert ("home", 1, "home", 2) == (first.memory_id, first.version, second.memory_id, second.version)
    assert "Ada lives in Wien" == (await memory.get("home", ADA)).content
    assert [moved, None] == [record.superseded_at for record in await memory.history("home", ADA)]


async def test_versions_that_race_follow_one_another(memory: Memory, to_remember: Say) -> None:
    """Of versions written at the same time each gets its number, and exactly one is in force."""
    await asyncio.gather(*(memory.remember(to_remember(f"Ada has {n} orders", memory_id="orders")) for n in range(8)))

    history = await memory.history("orders", ADA)
    assert list(range(1, 9)) == [record.version for record in history]
    assert [8] == [record.version for record in history if record.superseded_at is None]
    assert sorted(record.recorded_at for record in history) == [record.recorded_at for record in history]


async def test_clock_that_steps_back_keeps_the_order(sqlite_memory: Memory, clock: Clock, to_remember: Say) -> None:
    """A version written after another one counts from after it, whatever the clock says."""
    await sqlite_memory.remember(to_remember("Ada lives in Graz", memory_id="home"))
    clock.move(-timedelta(hours=1))
    await sqlite_memory.remember(to_remember("Ada lives in Wien", memory_id="home"))

    before, after = await sqlite_memory.history("home", ADA)
    assert before.recorded_at < after.recorded_at
    assert "Ada lives in Wien" == (await sqlite_memory.get("home", ADA)).content


async def test_version_for_later_leaves_the_present_one(
    sqlite_memory: Memory, clock: Clock, to_remember: Say, to_recall: Ask
) -> None:
    """What becomes valid next week replaces what holds today next week."""
    next_week = clock.now + timedelta(days=7)
    await sqlite_memory.remember(to_remember("Ada lives in Graz", memory_id="home"))
    clock.move(timedelta(minutes=1))
    await sqlite_memory.remember(to_remember("Ada lives in Wien", memory_id="home", valid_from=next_week))

    today = await sqlite_memory.recall(to_recall("Where does Ada live?"))
    clock.move(timedelta(days=7))
    then = await sqlite_memory.recall(to_recall("Where does Ada live?"))
    assert (["Ada lives in Graz"], ["Ada lives in Wien"]) == (today.texts, then.texts)


async def test_a_name_means_another_memory_in_another_scope(sqlite_memory: Memory, to_remember: Say) -> None:
    """Nobody can supersede, or read, another customer's memory by naming it."""
    grace = customer("grace")
    await sqlite_memory.remember(to_remember("Ada lives in Graz", memory_id="home"))
    await sqlite_memory.remember(to_remember("Grace lives in New York", memory_id="home", scope=grace))
    await sqlite_memory.remember(to_remember("Ada likes tea", memory_id="taste"))

    assert "Ada lives in Graz" == (await sqlite_memory.get("home", ADA)).content
    assert "Grace lives in New York" == (await sqlite_memory.get("home", grace)).content
    with pytest.raises(NotFound, match="taste"):
        await sqlite_memory.get("taste", grace)


async def test_record_says_where_it_comes_from(memory: Memory, clock: Clock, to_remember: Say) -> None:
    """A record keeps everything that was said about it, and the step that said it."""
    scope = Scope(tenant="acme", agent="triage", user="ada", session="s1")
    call = to_remember("Ada likes tea", scope=scope, kind="semantic", subject="taste", ttl=timedelta(days=1))
    written = await memory.remember(call)

    record = await memory.get(written.memory_id, scope)
    assert (scope, "semantic", "taste") == (record.scope, record.kind, record.subject)
    assert (clock.now, clock.now, clock.now + timedelta(days=1)) == (
        record.recorded_at,
        record.valid_from,
        record.expires_at,
    )
    assert "default/returns/1042/first/remember Ada likes tea" == record.source
    assert written.content_hash == record.content_hash


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"subject": "a\0b"}, "subject holds a NUL"),
        ({"scope": customer("a\0b")}, "scope.user holds a NUL"),
        ({"memory_id": ""}, "memory_id has 0 characters"),
        ({"memory_id": "x" * 201}, "memory_id has 201 characters"),
        ({"ttl": timedelta(0)}, "ttl 0:00:00"),
        ({"ttl": timedelta.max}, "1,000 years"),
        ({"valid_from": datetime(2026, 3, 1)}, "valid_from 2026-03-01T00:00:00 has no zone"),  # noqa: DTZ001  # the point
    ],
)
async def test_what_cannot_be_stored_is_refused(
    sqlite_memory: Memory, to_remember: Say, fields: dict[str, object], said: str
) -> None:
    """A value that one of the databases cannot keep is refused by both, with the field's name."""
    with pytest.raises(InvalidInput, match=said):
        await sqlite_memory.remember(to_remember("Ada likes tea", **fields))
