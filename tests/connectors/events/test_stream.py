"""Tests of connectors/events/stream.py."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import sqlalchemy as sa
from kits.connectors import Bank, call, key_of, undo

from perdure.connectors.events import Stream
from perdure.connectors.events.contracts import NewEvent
from perdure.connectors.ledger import Ledger
from perdure.storage import Database

AT = datetime(2026, 11, 23, tzinfo=UTC)


def event(id: str, kind: str = "inbound.paid") -> NewEvent:
    """Return an event with this ID."""
    return NewEvent(id=id, type=kind, source="bank", subject="s", data={"text": "Zürich", "n": 1}, at=AT)


async def test_events_come_back_in_order(database: Database) -> None:
    """Events come back as they were added, after the cursor that a reader has, as many as it wants."""
    stream = Stream(database)
    await stream.append(*(event(str(number)) for number in range(5)))

    first = await stream.events(limit=2)
    rest = await stream.events(first[-1].cursor)

    assert ["0", "1", "2", "3", "4"] == [each.id for each in [*first, *rest]]
    assert sorted(each.cursor for each in [*first, *rest]) == [each.cursor for each in [*first, *rest]]
    assert event("0") == NewEvent(**first[0].model_dump(exclude={"cursor"}))


async def test_an_event_is_there_once(database: Database) -> None:
    """An event that comes again is not added again, and adding says so."""
    stream = Stream(database)

    assert 2 == await stream.append(event("a"), event("b"))
    assert 1 == await stream.append(event("b"), event("c"))
    assert ["a", "b", "c"] == [each.id for each in await stream.events()]


async def test_transitions_of_effects_are_in_the_stream(database: Database, bank: Bank) -> None:
    """Every transition of an effect is in the stream once, in order, with what it is about and without its arguments."""
    ledger, stream = Ledger(database, {"bank": bank}), Stream(database)
    await ledger.perform(call(amount=77))
    before = await stream.events()
    await ledger.undo(undo(call(amount=77)))

    events = await stream.events()

    assert ["effect.in flight", "effect.succeeded"] == [each.type for each in before]
    assert list(before) == list(events)[:2]
    assert ["effect.in flight", "effect.succeeded", "effect.compensated"] == [each.type for each in events][2:]
    assert {"bank"} == {each.source for each in events}
    assert key_of(call(amount=77)) == events[0].subject
    assert "77" not in events[0].model_dump_json(include={"data"})


async def test_only_one_kind(database: Database, bank: Bank) -> None:
    """A reader that wants one kind gets that kind and those below it."""
    await Ledger(database, {"bank": bank}).perform(call())
    stream = Stream(database)
    await stream.append(event("a"), event("b", "inbound.paid.late"), event("c", "inbounded"))

    assert ["a", "b"] == [each.id for each in await stream.events(kind="inbound.paid")]
    assert 2 == len(await stream.events(kind="effect"))


async def test_no_reader_misses_what_is_written_at_the_same_time(database: Database, bank: Bank) -> None:
    """A reader that follows the cursor while many write sees every event, each once."""
    ledger, stream = Ledger(database, {"bank": bank}), Stream(database)
    seen: list[str] = []
    after = 0
    writing = asyncio.gather(
        *(ledger.perform(call(name=f"pay-{number}")) for number in range(60)),
        *(stream.append(event(f"in-{number}")) for number in range(60)),
    )
    while not writing.done() or len(seen) < 180:
        for each in await stream.events(after, limit=7):
            seen.append(each.id)
            after = each.cursor
    await writing

    assert 180 == len(set(seen)) == len(seen)


async def test_a_transaction_that_stays_open_hides_nothing(postgres_database: Database, bank: Bank) -> None:
    """A transition that commits after a later one is not passed over: it comes into the stream when it is there."""
    ledger, stream = Ledger(postgres_database, {"bank": bank}), Stream(postgres_database)
    insert = "INSERT INTO effect_event (key, fence, before, after, at, note) VALUES ('slow', 1, null, 'failed', now(), '')"
    async with postgres_database.write() as connection:
        await connection.execute(sa.text(insert))
        await asyncio.wait_for(ledger.perform(call()), 10)
        meanwhile = await stream.events()
    afterwards = await stream.events()

    assert [] == list(meanwhile)
    assert ["slow", key_of(call()), key_of(call())] == [each.subject for each in afterwards]


async def test_a_reader_goes_on_where_it_was(database: Database) -> None:
    """A reader's cursor is kept, and never goes back."""
    stream = Stream(database)

    assert 0 == await stream.read_cursor("mailer")
    await stream.save_cursor("mailer", 7)
    await stream.save_cursor("mailer", 3)
    assert 7 == await stream.read_cursor("mailer")


async def test_following(database: Database) -> None:
    """Who follows gets what is there and then what comes."""
    stream = Stream(database)
    await stream.append(event("a"))
    following = stream.follow()

    first = await anext(following)
    await stream.append(event("b"))

    assert ["a", "b"] == [first.id, (await anext(following)).id]
    await following.aclose()
