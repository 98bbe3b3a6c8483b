"""Tests of connectors/events/nats.py, against a NATS server of the tests' own."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sysconfig
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nats
import pytest
from nats.aio.msg import Msg

from perdure.connectors.events import Stream, publisher
from perdure.connectors.events.contracts import NewEvent
from perdure.connectors.events.nats import CURSOR, parse_message
from perdure.errors import Unreachable
from perdure.storage import Database

AT = datetime(2026, 11, 23, tzinfo=UTC)


def events(*ids: str, kind: str = "inbound.paid") -> list[NewEvent]:
    """Return an event for each of IDS."""
    return [NewEvent(id=id, type=kind, source="bank", at=AT) for id in ids]


@pytest.fixture
def nats_url(tmp_path: Path) -> Iterator[str]:
    """The URL of a NATS server with JetStream, running."""
    program = str(Path(sysconfig.get_path("scripts"), "nats-server"))
    options = ["-a", "127.0.0.1", "-p", "-1", "-js", "-sd", str(tmp_path)]
    server = subprocess.Popen([program, *options], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    said = []
    for line in server.stderr:
        said.append(line)
        if "Server is ready" in line:
            break
    [port] = re.findall(r"Listening for client connections on 127\.0\.0\.1:(\d+)", "".join(said))
    yield f"nats://127.0.0.1:{port}"
    server.terminate()
    server.communicate(timeout=10)


@asynccontextmanager
async def received(url: str) -> AsyncIterator[list[Msg]]:
    """Yield everything that JetStream has."""
    client = await nats.connect(url)
    jetstream = client.jetstream()
    count = (await jetstream.stream_info("PERDURE")).state.messages
    subscription = await jetstream.pull_subscribe("perdure.events.>", stream="PERDURE")
    yield await subscription.fetch(count, timeout=10) if count else []
    await client.close()


async def test_events_are_published_in_order(database: Database, nats_url: str) -> None:
    """Each event comes as a message on the subject of its type, in order, with its id and its cursor."""
    stream = Stream(database)
    await stream.append(*events("a", "b"), *events("c", kind="effect.in flight"))
    async with publisher(stream, nats_url) as publishing:
        assert 3 == await publishing.catch_up()
        assert 0 == await publishing.catch_up()

    async with received(nats_url) as messages:
        assert ["perdure.events.inbound.paid"] * 2 + ["perdure.events.effect.in_flight"] == [
            each.subject for each in messages
        ]
        assert list(await stream.events()) == [parse_message(each.data) for each in messages]
        assert ["a", "b", "c"] == [(each.headers or {})["Nats-Msg-Id"] for each in messages]


async def test_it_goes_on_where_it_was(database: Database, nats_url: str) -> None:
    """Another publisher goes on after the last event."""
    stream = Stream(database)
    await stream.append(*events("a"))
    async with publisher(stream, nats_url) as first:
        await first.catch_up()
    await stream.append(*events("b"))
    async with publisher(stream, nats_url) as second:
        assert 1 == await second.catch_up()

    async with received(nats_url) as messages:
        assert ["a", "b"] == [parse_message(each.data).id for each in messages]


async def test_a_publisher_that_died_before_it_wrote_down_how_far_it_was(database: Database, nats_url: str) -> None:
    """What JetStream has is not sent again, though the database does not know: also when the duplicate window is over."""
    stream = Stream(database)
    await stream.append(*events("a", "b"))
    [first, _] = await stream.events()
    async with publisher(stream, nats_url) as dying:
        await dying._publish(first)
    async with publisher(stream, nats_url) as next_one:
        assert 1 == await next_one.catch_up()

    async with received(nats_url) as messages:
        assert ["a", "b"] == [parse_message(each.data).id for each in messages]


async def test_two_publishers_at_once(database: Database, nats_url: str) -> None:
    """What two publishers send is there once: JetStream drops the second one by its id."""
    stream = Stream(database)
    await stream.append(*events(*map(str, range(50))))
    async with publisher(stream, nats_url) as one, publisher(stream, nats_url) as other:
        await asyncio.gather(one.catch_up(), other.catch_up())

    async with received(nats_url) as messages:
        assert 50 == len(messages)
        assert {str(number) for number in range(50)} == {parse_message(each.data).id for each in messages}


async def test_following(database: Database, nats_url: str) -> None:
    """What comes later is published as it comes."""
    stream = Stream(database)
    client = await nats.connect(nats_url)
    heard = await client.subscribe("perdure.events.>")
    async with publisher(stream, nats_url) as publishing:
        running = asyncio.create_task(publishing.run())
        await stream.append(*events("a"))
        message = await heard.next_msg(timeout=10)
        running.cancel()
    await client.close()

    assert "a" == parse_message(message.data).id
    assert str((await stream.events())[0].cursor) == (message.headers or {})[CURSOR]


async def test_nobody_there(sqlite_database: Database) -> None:
    """A server that does not answer is said to be unreachable, without the password in its address."""
    with pytest.raises(Unreachable, match=r"nats://127\.0\.0\.1:9") as unreachable:
        async with publisher(Stream(sqlite_database), "nats://me:hidden@127.0.0.1:9", wait=timedelta(milliseconds=5)):
            pass
    assert "hidden" not in unreachable.value.message
