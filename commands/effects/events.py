"""`perdure effects events` and `publish`: what happened, as a stream that others can follow."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.commands.options import Format, Options, takes_options
from perdure.commands.output import (
    at,
    emit,
    emit_line,
    one_line,
    plain,
    say,
)
from perdure.commands.session import client_settings

if TYPE_CHECKING:
    from pydantic import JsonValue

    from perdure.connectors.events.contracts import StreamEvent


@takes_options
def events(
    options: Options,
    after: Annotated[int, typer.Option(help="Only those after this cursor.", min=0, metavar="CURSOR")] = 0,
    limit: Annotated[int, typer.Option("--limit", "-n", help="At most so many.", min=1, metavar="NUMBER")] = 100,
    kind: Annotated[
        str,
        typer.Option(
            "--type",
            help="Only of this type or below it: effect, finding, reconciliation, contract, inbound.",
            metavar="TYPE",
            show_default=False,
        ),
    ] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes; ends with Ctrl-C.")] = False,
) -> None:
    """Print the stream of events, oldest first: transitions of effects, findings, contracts, webhooks.

    Ask for what comes after the last cursor that you have seen, and you miss none and see none twice.
    """

    async def work() -> None:
        from perdure.connectors.events import Stream
        from perdure.storage import open_database

        async with open_database(client_settings().database) as database:
            stream = Stream(database)
            if follow:
                async for event in stream.follow(after, kind=kind):
                    _line(options, event)
                return
            found = await stream.events(after, limit=limit, kind=kind)
        if options.format is Format.json:
            emit([event.model_dump(mode="json") for event in found])
            return
        for event in found:
            _line(options, event)

    asyncio.run(work())


@takes_options
def publish(
    options: Options,
    url: Annotated[str, typer.Argument(help="The NATS server, e.g. nats://localhost:4222.", metavar="URL")],
    name: Annotated[str, typer.Option(help="The JetStream stream; it is made if needed.", metavar="NAME")] = "PERDURE",
    prefix: Annotated[str, typer.Option(help="What the subjects begin with.", metavar="SUBJECT")] = "perdure.events",
    once: Annotated[bool, typer.Option("--once", help="Publish what is there and end.")] = False,
) -> None:
    """Publish the stream of events to NATS JetStream, from where it was, until Ctrl-C."""

    async def work() -> None:
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

    asyncio.run(work())


def _line(options: Options, event: StreamEvent) -> None:
    if options.format is not Format.text:
        emit_line(event)
        return
    told: dict[str, JsonValue] = {name: value for name, value in event.data.items() if value not in (None, "", [], {})}
    typer.echo(plain(f"{event.cursor:>6} {at(event.at)} {event.type} {event.subject} {one_line(told, 160)}"))
