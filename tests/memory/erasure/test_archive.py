"""Tests of what moves and what is compared: export and import, verification, and the use that is written down."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from kits.memory import ADA, Ask, Clock, Letters, Say

from perdure.errors import InvalidInput, OnHold, Unreachable
from perdure.lineage import Lineage, StepRef
from perdure.memory import Memory, Recall, customer
from perdure.memory.contracts import Origin
from perdure.memory.index import EdgeIndex, Point
from perdure.memory.records.requests import (
    FeedbackCall,
    ForgetCall,
    HoldCall,
    StatsCall,
    VerifyCall,
)
from perdure.memory.unindexed import records_only
from perdure.storage import Database, open_database

GRACE = customer("grace")


@asynccontextmanager
async def _home(folder: Path, clock: Clock) -> AsyncIterator[Memory]:
    index = await EdgeIndex.open(folder / "index", Letters())
    async with open_database(f"sqlite+aiosqlite:///{folder / 'perdure.db'}") as database:
        yield Memory(database, index, Letters(), clock=clock)
        await index.close()


async def _lived(memory: Memory, clock: Clock, to_remember: Say, step: Callable[[str], StepRef]) -> list[datetime]:
    """Let a life happen to MEMORY, and return moments of it."""
    moments = []
    home = {"subject": "Ada", "predicate": "lives in"}
    first = await memory.remember(to_remember("Graz", **home))
    moments.append(clock.move(timedelta(hours=1)))
    await memory.remember(to_remember("is on holiday", memory_id="away", ttl=timedelta(hours=5)))
    await memory.remember(to_remember("of Grace", scope=GRACE))
    moments.append(clock.move(timedelta(hours=1)))
    await memory.remember(to_remember("Wien", origin=Origin(derived_from=(first.version_id,)), **home))
    await memory.remember(to_remember("a secret", memory_id="secret"))
    moments.append(clock.move(timedelta(hours=1)))
    await memory.forget(ForgetCall(step=step("retract"), scope=ADA, how="retract", memory_id="away"))
    await memory.forget(ForgetCall(step=step("erase"), scope=ADA, how="erase", memory_id="secret"))
    moments.append(clock.move(timedelta(hours=9)))
    return moments


async def _reads(memory: Memory, moments: list[datetime], to_recall: Ask) -> list[Recall]:
    return [
        await memory.recall(to_recall("Ada", scope=scope, as_of=known, valid_at=valid))
        for scope in (ADA, GRACE)
        for known in moments
        for valid in moments
    ]


async def test_import_gives_the_same_reads(
    tmp_path: Path, database: Database, clock: Clock, to_remember: Say, *, to_recall: Ask, step: Callable[[str], StepRef]
) -> None:
    """An export that is imported into an empty home gives the same reads, also as of then, from either database."""
    index = await EdgeIndex.open(tmp_path / "first", Letters())
    memory = Memory(database, index, Letters(), clock=clock)
    moments = await _lived(memory, clock, to_remember, step)
    before = await _reads(memory, moments, to_recall)
    lines = [line async for line in memory.export()]
    history = await memory.history(before[0].hits[0].record.memory_id, ADA)
    await index.close()

    async with _home(tmp_path / "second", clock) as restored:
        assert 4 == await restored.import_(lines)
        assert before == await _reads(restored, moments, to_recall)
        assert history == await restored.history(history[0].memory_id, ADA)
        assert (await restored.verify()).sound
        assert 0 == await restored.import_(lines)


async def test_import_does_not_bring_back_what_was_erased(
    tmp_path: Path, clock: Clock, to_remember: Say, to_recall: Ask, *, step: Callable[[str], StepRef]
) -> None:
    """A backup from before an erasure, read into the home that erased, leaves it erased."""
    async with _home(tmp_path, clock) as memory:
        call = to_remember("a secret", memory_id="secret")
        await memory.remember(call)
        await memory.remember(to_remember("Graz"))
        backup = [line async for line in memory.export(scope=ADA)]
        await memory.forget(ForgetCall(step=step("erase"), scope=ADA, how="erase", memory_id="secret"))

        assert 0 == await memory.import_(backup)
        assert ["Graz"] == (await memory.recall(to_recall("secret"))).texts

        lines = [line async for line in memory.export(tenant="default")]
    async with _home(tmp_path / "other", clock) as other:
        await other.import_(lines)
        assert (await other.remember(call)).erased


@pytest.mark.parametrize("erasures", [True, False])
async def test_what_was_erased_is_erased_in_what_an_old_backup_brought_back(
    tmp_path: Path,
    database: Database,
    clock: Clock,
    to_remember: Say,
    *,
    to_recall: Ask,
    step: Callable[[str], StepRef],
    erasures: bool,
) -> None:
    """A new home cannot know of erasures: what an old export brings there goes with a later one, or its erasures alone."""
    async with _home(tmp_path / "first", clock) as memory:
        pet = await memory.remember(to_remember("a wombat", memory_id="pet"))
        home = await memory.remember(to_remember("Graz", memory_id="home"))
        clock.move(timedelta(hours=1))
        await memory.remember(to_remember("keeps animals", origin=Origin(derived_from=(pet.version_id,))))
        moved = to_remember("Wien, the wombat told", memory_id="home", origin=Origin(derived_from=(pet.version_id,)))
        await memory.remember(moved)
        old = [line async for line in memory.export()]
        clock.move(timedelta(hours=1))
        await memory.forget(ForgetCall(step=step("erase"), scope=ADA, how="erase", memory_id="pet"))
        new = [line async for line in memory.export(erasures=erasures)]
        expected = await _reads(memory, [clock.now - timedelta(minutes=m) for m in (0, 90, 150)], to_recall)
    index = await EdgeIndex.open(tmp_path / "second", Letters())
    restored = Memory(database, index, Letters(), clock=clock)
    brought = await restored.restore(old)
    late = await restored.remember(to_remember("Linz", memory_id="away", origin=Origin(derived_from=(pet.version_id,))))
    done = await restored.restore(new)
    again = await restored.restore([*old[:1], *old[1:]])

    assert "wombat" not in "".join(new)
    assert [(4, 0, True), (0, 4, True), (0, 0, True)] == [(r.added, r.erased, r.complete) for r in (brought, done, again)]
    assert expected == await _reads(restored, [clock.now - timedelta(minutes=m) for m in (0, 90, 150)], to_recall)
    assert [] == await restored.history(late.memory_id, ADA)
    assert ["Graz", ""] == [each.content for each in await restored.history(home.memory_id, ADA)]
    assert (await restored.verify()).sound
    await index.close()


async def test_import_stops_at_a_hold(
    tmp_path: Path, clock: Clock, to_remember: Say, *, step: Callable[[str], StepRef]
) -> None:
    """What is held here is not erased because it was erased elsewhere, and nothing of such an import is kept."""
    async with _home(tmp_path / "first", clock) as memory:
        await memory.remember(to_remember("a wombat", memory_id="pet"))
        old = [line async for line in memory.export()]
        await memory.forget(ForgetCall(step=step("erase"), scope=ADA, how="erase", memory_id="pet"))
        await memory.remember(to_remember("Graz"))
        new = [line async for line in memory.export()]
    async with _home(tmp_path / "second", clock) as restored:
        await restored.restore(old)
        await restored.hold(HoldCall(step=step("hold"), scope=ADA, memory_id="pet"))
        with pytest.raises(OnHold):
            await restored.restore(new)
        assert (1, 1) == ((await restored.stats()).versions, len(await restored.history("pet", ADA)))


async def test_export_of_before_conversations_is_read(
    tmp_path: Path, clock: Clock, to_remember: Say, *, step: Callable[[str], StepRef]
) -> None:
    """An export whose receipts do not count conversations yet is taken as one that had none."""
    async with _home(tmp_path / "first", clock) as memory:
        await memory.remember(to_remember("a wombat", memory_id="pet"))
        await memory.forget(ForgetCall(step=step("erase"), scope=ADA, how="erase", memory_id="pet"))
        lines = [json.loads(line) async for line in memory.export()]
    for line in lines:
        if "receipt" in line:
            del line["receipt"]["conversations"], line["receipt"]["messages"]
    async with _home(tmp_path / "second", clock) as restored:
        await restored.restore(map(json.dumps, lines))
        assert (await restored.remember(to_remember("a wombat", memory_id="pet"))).erased


async def test_export_is_of_one_scope(tmp_path: Path, clock: Clock, to_remember: Say) -> None:
    """An export of a scope holds nothing of another."""
    async with _home(tmp_path, clock) as memory:
        await memory.remember(to_remember("Graz"))
        await memory.remember(to_remember("New York", scope=GRACE))
        lines = [line async for line in memory.export(scope=ADA)]

    assert "New York" not in "".join(lines)
    assert ["export", "record", "source"] == [next(iter(json.loads(line))) for line in lines]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda lines: lines[3:], "line 1 is not"),
        (lambda lines: ["{}", *lines], "line 1 is not of the form"),
        (lambda lines: [lines[0].replace("1", "9")], "has version 9"),
        (lambda lines: [lines[0], lines[1].replace("Graz", "Wien")], "line 2: .* was changed after it was exported"),
        (lambda lines: [lines[0], lines[1].replace('"ada"', '"grace"')], "was changed after it was exported"),
        (lambda lines: [*lines[:2], lines[2].replace('"actor"', '"author"')], "line 3: a source with or"),
        (lambda lines: [*lines[:2], "x"], "line 3 is not JSON"),
        (lambda lines: [lines[0], '{"thing": {}}'], "'thing' is none of record"),
        (lambda lines: [lines[0], lines[1].replace("2026-03-01T", "someday")], "line 2: Invalid isoformat"),
    ],
)
async def test_changed_export_is_refused(
    tmp_path: Path, clock: Clock, to_remember: Say, *, changed: Callable[[list[str]], list[str]], said: str
) -> None:
    """An export that somebody changed is refused with the line, and nothing of it is kept."""
    async with _home(tmp_path / "a", clock) as memory:
        await memory.remember(to_remember("Graz"))
        lines = [line async for line in memory.export()]
    async with _home(tmp_path / "b", clock) as other:
        with pytest.raises(InvalidInput, match=said):
            await other.import_(changed(lines))
        assert 0 == (await other.stats()).versions


async def test_import_of_another_text_is_refused(tmp_path: Path, clock: Clock, to_remember: Say) -> None:
    """An export that says something else than stands under the same version is refused."""
    async with _home(tmp_path / "a", clock) as memory:
        await memory.remember(to_remember("Graz", memory_id="home"))
        lines = [line async for line in memory.export()]
    async with _home(tmp_path / "b", clock) as other:
        await other.remember(to_remember("Wien", memory_id="home"))
        with pytest.raises(InvalidInput, match="memory 'home' version 1 says something else here"):
            await other.import_(lines)


# Verification


async def _entries(index: EdgeIndex) -> list[Point]:
    entries: list[Point] = []
    while page := await index.scan(after=entries[-1].version_id if entries else "", limit=2):
        entries += page
    return entries


async def test_rebuilt_index_is_the_live_one(
    sqlite_memory: Memory, index: EdgeIndex, clock: Clock, to_remember: Say, step: Callable[[str], StepRef]
) -> None:
    """An index that is filled from SQL has the same points as the one that was fed, with the same times and vectors."""
    await _lived(sqlite_memory, clock, to_remember, step)
    live = await _entries(index)

    assert 4 == await sqlite_memory.reindex()
    made = await _entries(index)
    assert [replace(each, vector=()) for each in live] == [replace(each, vector=()) for each in made]
    assert all(each.words.numbers for each in made)
    # Alone and together with others, a text gets the same vector but for rounding.
    assert [pytest.approx(each.vector, abs=1e-5) for each in live] == [each.vector for each in made]


async def test_verify_finds_every_difference(
    memory: Memory, index: EdgeIndex, database: Database, to_remember: Say
) -> None:
    """A point that is missing, too much, in another scope or time, of another text, and a changed text are all named."""
    written = [await memory.remember(to_remember(f"Ada's order {n}", memory_id=f"order {n}")) for n in range(6)]
    missing, moved, shifted, other, changed, _ = (each.version_id for each in written)
    assert (await memory.verify()).sound
    entries = {entry.version_id: entry for entry in await _entries(index)}

    def point(id: str, **fields: object) -> Point:
        return Point(**{**vars(entries[id]), **fields})

    await index.delete([missing])
    stranger = "00000000-0000-0000-0000-00000000000a"
    wrong = tuple(-x for x in entries[other].vector)
    await index.upsert([point(moved, scope="x"), point(shifted, until=7), point(other, vector=wrong)])
    await index.upsert([point(moved, version_id=stranger)])
    async with database.write() as connection:
        await connection.execute(
            sa.text("UPDATE memory_record SET content = 'Ada has no orders' WHERE version_id = :id"), {"id": changed}
        )

    found = await memory.verify()
    assert ((missing,), (stranger,), {moved, shifted}) == (found.missing, found.extra, set(found.misplaced))
    assert ({other, changed}, (changed,), 6, False) == (set(found.misread), found.damaged, found.divergent, found.sound)
    assert () == (await memory.verify(VerifyCall(vectors=False))).misread
    await memory.reindex()
    assert 1 == (await memory.verify()).divergent


async def test_process_without_the_index_reads_and_writes_records(
    sqlite_memory: Memory, sqlite_database: Database, clock: Clock, to_remember: Say, to_recall: Ask
) -> None:
    """A second process writes to SQL alone; the owner of the index finds it at its next recall."""
    await sqlite_memory.remember(to_remember("Graz"))
    second = records_only(sqlite_database)
    written = await second.remember(to_remember("likes tea"))

    assert "likes tea" == (await second.get(written.memory_id, ADA)).content
    with pytest.raises(Unreachable, match="ask a worker"):
        await second.recall(to_recall("tea"))
    clock.move(timedelta(days=9999))
    assert {"likes tea", "Graz"} == set((await sqlite_memory.recall(to_recall("tea"))).texts)


# Use


async def test_use_is_written_down(memory: Memory, database: Database, to_remember: Say, *, to_recall: Ask) -> None:
    """Who recalled what, whether it was cited, its cost, and how often nothing was found: in `stats` and SQL views."""
    written = await memory.remember(to_remember("likes tea", origin=Origin(cost_nano_usd=600)))
    await memory.remember(to_remember("of Grace", scope=GRACE))
    for run in ("a", "b"):
        lineage = Lineage(namespace="default", workflow_id=run, first_execution_run_id="1")
        call = to_recall("tea", step=StepRef(lineage=lineage, name="recall"))
        await memory.recall(call)
        await memory.recall(call)
    said = FeedbackCall(
        step=StepRef(lineage=lineage, name="say"), scope=ADA, version_ids=(written.version_id,), cited=True, useful=1
    )
    concerned = await memory.feedback(said)
    await memory.recall(to_recall("tea", scope=customer("nobody")))

    stats = await memory.stats(StatsCall(scope=ADA))
    [used] = stats.most_used
    assert (1, (2, 2, 1, 1), 300) == (
        concerned.count,
        (used.recalls, used.runs, used.cited, used.useful),
        used.cost_per_recall,
    )
    assert (1, 1, 2, 1.0, 1, 1, 600) == (
        *(stats.versions, stats.live, stats.recalls, stats.hit_rate),
        *(stats.judged, stats.cited, stats.cost_nano_usd),
    )
    everyone = await memory.stats()
    assert (3, 2, 2, {"episodic": 2}) == (everyone.recalls, everyone.with_hits, everyone.memories, everyone.by_kind)
    async with database.read() as connection:
        runs = await connection.execute(sa.text("SELECT workflow_id, cited FROM memory_use_by_run ORDER BY workflow_id"))
        assert [("a", None), ("b", True)] == [(run, None if cited is None else bool(cited)) for run, cited in runs]
