"""The stream of events, printed and published: what happened, for others to follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from perdure.commands.options import Format, Options
from perdure.commands.output import (
    emit,
    emit_line,
    format_time,
    one_line,
    printable,
    say,
)
from perdure.commands.session import client_settings

if TYPE_CHECKING:
    from pydantic import JsonValue

    from perdure.connectors.events.contracts import StreamEvent


async def print_events(options: Options, after: int, *, limit: int, kind: str, follow: bool) -> None:
    """Print at most LIMIT events of KIND after the cursor AFTER, or, with FOLLOW, all that come until Ctrl-C."""
    from perdure.connectors.events import Stream
    from perdure.storage import open_database

    async with open_database(client_settings().database) as database:
        stream = Stream(database)
        if follow:
            async for event in stream.follow(after, kind=kind):
                _print(options, event)
            return
        found = await stream.events(after, limit=limit, kind=kind)
    if options.format is Format.json:
        emit([event.model_dump(mode="json") for event in found])
        return
    for event in found:
        _print(options, event)


async def publish_events(options: Options, url: str, *, name: str, prefix: str, once: bool) -> None:
    """Publish to the NATS server at URL what it has not got yet, and go on with what comes unless ONCE."""
    from perdure.connectors.events import Stream, publisher
    from perdure.storage import open_database

    async with (
        open_database(client_settings().database) as database,
        publisher(Stream(database), url, name=name, prefix=prefix) as publishing,
    ):
        count = await publishing.catch_up()
        if options.format is Format.text:
            say(f"published {count} events to {name}")
        else:
            emit_line({"published": count, "stream": name})
        if not once:
            await publishing.run()


def _print(options: Options, event: StreamEvent) -> None:
    if options.format is not Format.text:
        emit_line(event)
        return
    data: dict[str, JsonValue] = {name: value for name, value in event.data.items() if value not in (None, "", [], {})}
    typer.echo(printable(f"{event.cursor:>6} {format_time(event.at)} {event.type} {event.subject} {one_line(data, 160)}"))
