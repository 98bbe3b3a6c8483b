"""Tests of what a record holds: facts that supersede, both times, where it comes from; and how it is changed and listed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from kits.memory import ADA, Ask, Clock, Say

from perdure.errors import InvalidInput, NotFound
from perdure.lineage import StepRef
from perdure.memory import Memory, customer
from perdure.memory.contracts import Origin
from perdure.memory.records.requests import (
    ConsolidateCall,
    ForgetCall,
    ListCall,
    PinCall,
    UpdateCall,
)
from perdure.storage import Database

HOME = {"subject": "Ada", "predicate": "lives in"}


# Facts


async def test_fact_supersedes_its_contradiction(memory: Memory, clock: Clock, to_remember: Say, to_recall: Ask) -> None:
    """Of two values of one fact the later one holds, whoever wrote it and however it is spelt; the old one as of then."""
    first = await memory.remember(to_remember("Graz", **HOME))
    then = clock.move(timedelta(days=1))
    second = await memory.remember(to_remember("Wien", subject=" ADA", predicate="Lives  in "))
    await memory.remember(to_remember("tea", subject="Ada", predicate="prefers"))

    assert (first.memory_id, 2) == (second.memory_id, second.version)
    assert {"Wien", "tea"} == set((await memory.recall(to_recall("Ada"))).texts)
    assert ["Graz"] == (await memory.recall(to_recall("Ada", as_of=then - timedelta(hours=1)))).texts
    assert "Graz" == (await memory.get(first.memory_id, ADA, as_of=then - timedelta(hours=1))).content


async def test_fact_supersedes_another_memory_of_it(memory: Memory, clock: Clock, to_remember: Say, to_recall: Ask) -> None:
    """A fact that was written under a name of its own is superseded by its contradiction under another name, too."""
    await memory.remember(to_remember("Graz", memory_id="crm", **HOME))
    clock.move(timedelta(days=1))
    await memory.remember(to_remember("Wien", memory_id="mail", **HOME))

    assert ["Wien"] == (await memory.recall(to_recall("Where?"))).texts
    with pytest.raises(NotFound):
        await memory.get("crm", ADA)


async def test_fact_of_another_scope_is_another(memory: Memory, to_remember: Say, to_recall: Ask) -> None:
    """The same subject and predicate in another scope say nothing about this one."""
    await memory.remember(to_remember("Graz", **HOME))
    await memory.remember(to_remember("Wien", scope=customer("grace"), **HOME))

    assert ["Graz"] == (await memory.recall(to_recall("Where?"))).texts


async def test_without_a_predicate_nothing_is_superseded(memory: Memory, to_remember: Say, to_recall: Ask) -> None:
    """Things that may be true side by side are kept side by side."""
    await memory.remember(to_remember("likes tea", subject="Ada"))
    await memory.remember(to_remember("likes coffee", subject="Ada"))

    assert {"likes tea", "likes coffee"} == set((await memory.recall(to_recall("drinks"))).texts)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"predicate": "lives in"}, "predicate goes with a subject"),
        ({"memory_id": "home", "subject": "Ada", "predicate": "prefers"}, "memory 'home' does not state 'prefers'"),
        ({"memory_id": "home", "expected": 7}, "is at version 1, not 7"),
        ({"labels": ("a\0",)}, "labels holds a NUL"),
    ],
)
async def test_what_does_not_fit_is_refused(
    sqlite_memory: Memory, to_remember: Say, fields: dict[str, object], said: str
) -> None:
    """A fact without subject, under the name of another fact, or after a version that is no longer the last, is refused."""
    await sqlite_memory.remember(to_remember("Graz", memory_id="home", **HOME))
    with pytest.raises(InvalidInput, match=said):
        await sqlite_memory.remember(to_remember("tea", **fields))


# Both times


async def test_correction_changes_what_was_true_and_not_what_was_known(
    memory: Memory, clock: Clock, to_remember: Say, to_recall: Ask
) -> None:
    """What is found out later about an earlier time is told to who asks now about then, and not to who asks as of then."""
    start = clock.now
    await memory.remember(to_remember("Graz", memory_id="home"))
    then = clock.move(timedelta(days=10))
    moved = start + timedelta(days=5)
    clock.move(timedelta(days=10))
    await memory.remember(to_remember("Wien", memory_id="home", valid_from=moved))

    async def home(**times: object) -> list[str]:
        return (await memory.recall(to_recall("Where?", **times))).texts

    assert ["Wien"] == await home()
    assert ["Graz"] == await home(as_of=then)
    assert ["Wien"] == await home(valid_at=then)
    assert ["Graz"] == await home(valid_at=start + timedelta(days=4))
    assert ["Graz"] == await home(valid_at=then, known_at=then)
    assert [] == await home(valid_at=start - timedelta(days=1))


async def test_what_ends_lets_the_earlier_hold_again(
    memory: Memory, clock: Clock, to_remember: Say, to_recall: Ask
) -> None:
    """A stay with a known end hides where somebody lives while it lasts."""
    await memory.remember(to_remember("Graz", memory_id="home"))
    clock.move(timedelta(days=1))
    stay = {"valid_from": clock.now, "valid_to": clock.now + timedelta(days=7)}
    await memory.remember(to_remember("Wien, for a week", memory_id="home", **stay))
    during = (await memory.recall(to_recall("Where?"))).texts
    next_month = (await memory.recall(to_recall("Where?", valid_at=clock.now + timedelta(days=30)))).texts
    clock.move(timedelta(days=8))

    assert ["Wien, for a week"] == during
    assert ["Graz"] == next_month == (await memory.recall(to_recall("Where?"))).texts


async def test_ends_before_it_begins_is_refused(sqlite_memory: Memory, clock: Clock, to_remember: Say) -> None:
    """A validity that is over before it begins is refused."""
    with pytest.raises(InvalidInput, match="is not after valid_from"):
        await sqlite_memory.remember(to_remember("x", valid_to=clock.now - timedelta(days=1)))


# Provenance


async def test_record_says_what_it_was_made_from(memory: Memory, to_remember: Say) -> None:
    """A record keeps its whole origin, and the step with its run."""
    source = await memory.remember(to_remember("she wrote from Wien"))
    origin = Origin(
        actor="mara",
        event=17,
        model="m-1",
        model_step="read",
        cost_nano_usd=5,
        uri="mail:7",
        derived_from=(source.version_id,),
    )
    said = {"confidence": 0.8, "importance": 0.3, "labels": ("move", "mail"), "retention": "crm", "legal_hold": True}
    written = await memory.remember(to_remember("Wien", origin=origin, **said, **HOME))

    [record] = await memory.history(written.memory_id, ADA)
    assert record.provenance is not None
    assert origin == Origin.model_validate(record.provenance.model_dump(exclude={"step"}))
    assert ("returns/1042", "remember Wien") == (record.provenance.step.lineage.workflow_id, record.provenance.step.name)
    assert said == {name: getattr(record, name) for name in said}
    assert ("Ada", "lives in", written.version_id) == (record.subject, record.predicate, record.version_id)


# Change


async def test_update_changes_what_is_given(
    memory: Memory, clock: Clock, to_remember: Say, step: Callable[[str], StepRef]
) -> None:
    """An update is the next version; what it leaves out stays, also the day on which it expires. A retry writes once."""
    said = {"labels": ("a",), "ttl": timedelta(days=9), "confidence": 0.5, **HOME}
    first = await memory.remember(to_remember("Graz", **said))
    expires_at = clock.now + timedelta(days=9)
    clock.move(timedelta(days=1))
    call = UpdateCall(step=step("fix"), scope=ADA, memory_id=first.memory_id, confidence=0.9, expected=1)
    second = await memory.update(call)

    assert second == await memory.update(call)
    record = await memory.get(first.memory_id, ADA)
    assert (2, "Graz", 0.9, ("a",), "lives in") == (
        *(record.version, record.content, record.confidence),
        *(record.labels, record.predicate),
    )
    assert expires_at == record.expires_at


async def test_update_of_nothing_is_refused(
    sqlite_memory: Memory, to_remember: Say, step: Callable[[str], StepRef]
) -> None:
    """What is not there, or over, is not updated; nor is what has changed since it was read."""
    await sqlite_memory.remember(to_remember("Graz", memory_id="home"))
    changed = UpdateCall(step=step("a"), scope=ADA, memory_id="home", content="Wien", expected=2)
    with pytest.raises(InvalidInput, match="is at version 1, not 2"):
        await sqlite_memory.update(changed)
    await sqlite_memory.forget(ForgetCall(step=step("b"), scope=ADA, how="retract", memory_id="home"))
    for name in ("home", "nothing"):
        with pytest.raises(NotFound, match="to go on from"):
            await sqlite_memory.update(UpdateCall(step=step("c"), scope=ADA, memory_id=name, content="Wien"))


async def test_consolidation_takes_the_place_of_its_sources(
    memory: Memory, clock: Clock, to_remember: Say, to_recall: Ask, *, step: Callable[[str], StepRef]
) -> None:
    """One record, derived from several, holds in their place; a pinned one stays, and a retry changes nothing."""
    written = [await memory.remember(to_remember(f"order {n} was late", memory_id=f"o{n}")) for n in range(3)]
    await memory.pin(PinCall(step=step("pin"), scope=ADA, memory_id="o0"))
    clock.move(timedelta(hours=1))
    ids = tuple(each.version_id for each in written)
    call = ConsolidateCall(step=step("sum up"), scope=ADA, version_ids=ids, content="orders are always late")
    one = await memory.consolidate(call)

    assert one == await memory.consolidate(call)
    assert {"orders are always late", "order 0 was late"} == set((await memory.recall(to_recall("orders"))).texts)
    record = await memory.get(one.memory_id, ADA)
    assert record.provenance is not None
    assert set(ids) == set(record.provenance.derived_from)
    with pytest.raises(InvalidInput, match="is none of scope"):
        await memory.consolidate(call.model_copy(update={"scope": customer("grace")}))


# Lists


async def test_lists_what_holds(memory: Memory, clock: Clock, to_remember: Say, *, step: Callable[[str], StepRef]) -> None:
    """A list gives exactly what holds, in order, by pages, filtered; as of then, what held then."""
    for number in range(5):
        kind = "episodic" if number % 2 else "semantic"
        await memory.remember(to_remember(f"note {number}", memory_id=f"n{number}", kind=kind, labels=(f'"l%{number}"',)))
        clock.move(timedelta(hours=1))
    then = clock.now
    await memory.remember(to_remember("of Grace", scope=customer("grace")))
    await memory.forget(ForgetCall(step=step("f"), scope=ADA, how="expire", memory_id="n0"))

    async def listed(**fields: object) -> list[str]:
        call = ListCall.model_validate({"step": step("list"), "scope": ADA, **fields})
        texts = []
        while True:
            page = await memory.list(call)
            texts += [record.content for record in page.records]
            if not page.next:
                return texts
            call = call.model_copy(update={"after": page.next})

    assert [f"note {n}" for n in range(1, 5)] == await listed() == await listed(limit=1)
    assert [f"note {n}" for n in range(5)] == await listed(as_of=then - timedelta(microseconds=1))
    assert ["note 2", "note 4"] == await listed(kinds=["semantic"])
    assert ["note 3"] == await listed(label='"l%3"')
    with pytest.raises(InvalidInput, match="is no `next` of a page"):
        await listed(after="x")


async def test_records_from_before_are_kept(blank_url: str) -> None:
    """A database of the version before keeps its records: they hold, say where they come from, and go on."""
    from importlib import import_module

    import sqlalchemy as sa
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    versions = "perdure.migrations.versions"

    def old(connection: sa.Connection) -> None:
        with Operations.context(MigrationContext.configure(connection)):
            import_module(f"{versions}.0002_memory").upgrade()
        at = "2026-03-01T12:00:00.000000+00:00"
        connection.execute(
            sa.text(
                "INSERT INTO memory_record (version_id, memory_id, version, write_key, scope_key, scope_tenant, "
                "scope_user, kind, content, content_hash, valid_from, recorded_at, source) "
                "VALUES ('v', 'home', 1, 'w', 's', 'default', 'ada', 'semantic', 'Graz', 'h', "
                f"'{at}', '{at}', 'default/returns/1042/first/note')"
            )
        )
        with Operations.context(MigrationContext.configure(connection)):
            import_module(f"{versions}.0010_memory_life").upgrade()

    database = Database(blank_url)
    async with database.write() as connection:
        await connection.run_sync(old)
        kept = await connection.execute(
            sa.text(
                "SELECT content, chain, epoch, workflow_id, step FROM memory_record "
                "JOIN memory_source ON memory_source.version_id = memory_record.version_id"
            )
        )
        assert [("Graz", "m:home", 0, "returns/1042", "note")] == [tuple(row) for row in kept]
    await database.close()
