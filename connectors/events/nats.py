"""How the stream of events gets into NATS JetStream: in order, each once, from where it was.

Wants the extra `nats` (`pip install perdure[nats]`).
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from perdure.connectors.events.contracts import StreamEvent
from perdure.connectors.events.stream import Stream
from perdure.errors import InvalidSettings, Unreachable

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.js import JetStreamContext

log = structlog.get_logger(__name__)

CURSOR = "Perdure-Cursor"
"""The header with an event's cursor."""

_BATCH = 200


class Publisher:
    """Publishes the events of STREAM to the subjects `PREFIX.TYPE` of the JetStream stream called NAME.

    It goes on after the last event that JetStream has, so a crash between the two leaves neither a gap nor a second one.
    What two publishers send at the same time is dropped there by the event's id, as long as the duplicate window lasts.
    """

    def __init__(self, stream: Stream, jetstream: JetStreamContext, *, name: str, prefix: str) -> None:
        self._stream = stream
        self._jetstream = jetstream
        self._name = name
        self._prefix = prefix
        self._reader = f"nats {name} {prefix}"
        self._after: int | None = None

    async def catch_up(self) -> int:
        """Publish what is new and return how many events that were. Raises `Unreachable`; then nothing is lost."""
        count = 0
        while events := await self._stream.events(await self._position(), limit=_BATCH):
            for event in events:
                await self._publish(event)
                self._after = event.cursor
            await self._stream.save_cursor(self._reader, events[-1].cursor)
            count += len(events)
        return count

    async def run(self) -> None:
        """Publish what is new, for ever."""
        async for event in self._stream.follow(await self._position()):
            await self._publish(event)
            await self._stream.save_cursor(self._reader, event.cursor)

    async def _publish(self, event: StreamEvent) -> None:
        from nats.errors import Error

        headers = {"Nats-Msg-Id": event.id, CURSOR: str(event.cursor), "Content-Type": "application/json"}
        try:
            await self._jetstream.publish(
                self._subject(event.type), event.model_dump_json().encode(), stream=self._name, headers=headers
            )
        except Error as error:
            raise Unreachable(f"NATS did not take event {event.cursor} of type {event.type}: {error}") from error

    async def _position(self) -> int:
        if self._after is None:
            # The database may be behind if the last process died, and JetStream if it has been emptied.
            self._after = max(await self._stream.read_cursor(self._reader), await self._last_published())
        return self._after

    async def _last_published(self) -> int:
        from nats.js.errors import NotFoundError

        try:
            message = await self._jetstream.get_last_msg(self._name, f"{self._prefix}.>")
        except NotFoundError:
            return 0
        return int((message.headers or {}).get(CURSOR, "0"))

    def _subject(self, type: str) -> str:  # noqa: A002  CloudEvents calls it so
        return f"{self._prefix}.{re.sub(r'[^A-Za-z0-9_.-]', '_', type)}"


@asynccontextmanager
async def publisher(
    stream: Stream,
    url: str,
    *,
    name: str = "PERDURE",
    prefix: str = "perdure.events",
    duplicates: timedelta = timedelta(minutes=10),
    wait: timedelta = timedelta(seconds=2),
) -> AsyncIterator[Publisher]:
    """Connect to the NATS server at URL and yield what publishes STREAM there; the JetStream stream NAME is made if needed.

    A server that does not answer is asked ten times more, with WAIT in between. Raises `Unreachable`, and
    `InvalidSettings` if the extra is not installed.
    """
    try:
        import nats
        from nats.errors import Error, NoServersError
        from nats.js.api import StreamConfig
        from nats.js.errors import NotFoundError
    except ImportError:
        raise InvalidSettings("publishing to NATS needs the extra: pip install 'perdure[nats]'") from None

    async def gone(error: Exception) -> None:
        log.warning("NATS connection", error=str(error) or type(error).__name__)

    try:
        client: Client = await nats.connect(
            url, error_cb=gone, max_reconnect_attempts=10, reconnect_time_wait=wait.total_seconds(), connect_timeout=5
        )
    except (OSError, NoServersError, Error) as error:
        raise Unreachable(f"no NATS server answers at {_redact_url(url)}: {error or type(error).__name__}") from None
    try:
        jetstream = client.jetstream()
        try:
            await jetstream.stream_info(name)
        except NotFoundError:
            window = duplicates.total_seconds()
            await jetstream.add_stream(StreamConfig(name=name, subjects=[f"{prefix}.>"], duplicate_window=window))
        yield Publisher(stream, jetstream, name=name, prefix=prefix)
    finally:
        await client.close()


def _redact_url(url: str) -> str:
    return re.sub(r"//[^@/]*@", "//", url)


def parse_message(data: bytes) -> StreamEvent:
    """Return the event in a message's DATA."""
    return StreamEvent.model_validate(json.loads(data))
