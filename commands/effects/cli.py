"""`perdure effects`: what was done to other systems, and what people say of what nobody else can know."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.commands.approvals.cli import AsOption
from perdure.commands.connectors.cli import EveryOption, StopOption
from perdure.commands.options import Format, Options, takes_options
from perdure.commands.output import (
    at,
    emit,
    emit_line,
    one_line,
    out,
    plain,
    say,
)
from perdure.commands.session import Session, client_settings, perform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perdure.commands.effects.work import Found
    from perdure.connectors.contracts import Effect

app = typer.Typer(
    help="See what was done to other systems, and resolve what is parked.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

KeyArgument = Annotated[
    str,
    typer.Argument(help="The effect's key, or enough of its beginning.", metavar="KEY", show_default=False),
]


class State(StrEnum):
    """Which effects to list."""

    parked = "parked"
    unknown = "unknown"
    in_flight = "in-flight"
    claimed = "claimed"
    proposed = "proposed"
    succeeded = "succeeded"
    failed = "failed"
    compensated = "compensated"
    all = "all"


@app.command("list")
@takes_options
def list_effects(
    options: Options,
    state: Annotated[State, typer.Option("--state", "-s", help="Only those in this state.")] = State.parked,
    run: Annotated[
        str | None, typer.Option(help="Only those of this workflow id.", metavar="RUN", show_default=False)
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", help="At most so many, the newest first.", min=1, metavar="NUMBER")
    ] = 100,
) -> None:
    """List effects, the newest first: those that wait for a person, unless told otherwise."""

    async def work() -> None:
        from perdure.commands.effects.work import opened

        async with opened(client_settings()) as ledger:
            wanted = None if state is State.all else state.value.replace("-", " ")
            found = await ledger.list(state=wanted, workflow_id=run, limit=limit)  # type: ignore[arg-type]  # State's are they
        if options.format is Format.json:
            emit([each.model_dump(mode="json") for each in found])
        elif options.format is Format.jsonl:
            for each in found:
                emit_line(each)
        elif not found:
            say("nothing is parked" if state is State.parked else "no such effects")
        else:
            _print_table(found)

    asyncio.run(work())


@app.command()
@takes_options
def show(options: Options, key: KeyArgument) -> None:
    """Show an effect: what was asked, what the target answered, who relies on it, and every transition with who said so."""

    async def work() -> None:
        from perdure.commands.effects.work import find, opened

        async with opened(client_settings()) as ledger:
            found = await find(ledger, key)
        if options.format is Format.text:
            _print(found)
        else:
            emit(found.model_dump(mode="json"))

    asyncio.run(work())


@app.command()
@takes_options
def resolve(
    options: Options,
    key: KeyArgument,
    *,
    happened: Annotated[
        bool, typer.Option("--happened", help="It is at the target, under --remote-ref: the step goes on with it.")
    ] = False,
    did_not_happen: Annotated[
        bool, typer.Option("--did-not-happen", help="It is not at the target and shall not be: the step fails.")
    ] = False,
    send_again: Annotated[
        bool, typer.Option("--send-again", help="It is not at the target: send it once more, under the same key.")
    ] = False,
    as_new_generation: Annotated[
        bool, typer.Option("--as-new-generation", help="What is asked for now is approved as an effect of its own.")
    ] = False,
    comment: Annotated[
        str,
        typer.Option("--comment", "-c", help="Why: what you saw at the target.", metavar="TEXT", show_default=False),
    ],
    by: AsOption = None,
    remote_ref: Annotated[
        str, typer.Option(help="How the target calls it, if it happened.", metavar="REF", show_default=False)
    ] = "",
    answer: Annotated[
        str | None,
        typer.Option(
            help="What the target answered, if it happened; else what was asked, with REF as its id.",
            metavar="JSON|@FILE|-",
            show_default=False,
        ),
    ] = None,
    module: Annotated[
        list[str] | None,
        typer.Option(
            "--module",
            "-m",
            help="The module that declares the connector, for --happened, if perdure.toml does not name it.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Say what became of a parked effect, having looked at the target. It is written down, and the run goes on.

    Saying the same again only tells the run once more.
    """
    from perdure.commands.effects.work import Said, resolve_effect

    flags = {
        "happened": happened,
        "did not happen": did_not_happen,
        "send again": send_again,
        "new generation": as_new_generation,
    }
    said = Said(
        key=key,
        verdicts=tuple(name for name, given in flags.items() if given),
        by=by,
        comment=comment,
        remote_ref=remote_ref,
        answer=answer,
        modules=tuple(module or ()),
    )

    async def work() -> None:
        resolved = await resolve_effect(options, said)
        if options.format is not Format.text:
            emit(resolved.model_dump(mode="json"))
            return
        effect = resolved.effect
        say(f"{effect.state}: {effect.key} {effect.action}, said {resolved.by} (nobody verified that name)")
        for name in resolved.told:
            say(f"told {name}")
        for name in resolved.ended:
            say(f"{name} has ended, so nothing goes on there")

    asyncio.run(work())


@app.command()
@takes_options
def sweep(
    options: Options,
    connector: Annotated[
        str | None, typer.Option(help="Only those of this connector.", metavar="NAME", show_default=False)
    ] = None,
    every: EveryOption = None,
    stop: StopOption = False,
) -> None:
    """Find out what became of effects that runs left open when they were terminated.

    A worker looks them up and sends nothing. What nobody can tell is parked; then the exit code is 1. Comparisons with
    `perdure connectors reconcile` do the same for their connector.
    """

    async def work(session: Session) -> None:
        from perdure.commands.connectors.work import sweep

        await sweep(session, options, connector, every=every, stop=stop)

    perform(work, options)


def _print_table(found: Sequence[Effect]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("KEY", "ACTION", "RUN", "STEP", "STATE", "SINCE", "WHY"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for each in found:
        cells = (
            each.key[:15],
            each.action,
            each.step.lineage.workflow_id,
            each.step.name,
            each.state,
            at(each.updated_at),
            one_line(each.error),
        )
        table.add_row(*(Text(plain(cell)) for cell in cells))
    out().print(table)


def _print(found: Found) -> None:
    effect = found.effect
    rows = [
        ("key", effect.key),
        ("action", effect.action),
        ("state", effect.state),
        ("why", one_line(effect.error)),
        ("run", effect.step.lineage.workflow_id),
        ("step", effect.step.name + (f", item {effect.item}" if effect.item else "")),
        ("asked", one_line(effect.args)),
        ("answer", one_line(effect.response) if effect.response is not None else ""),
        ("reference", effect.remote_ref),
        ("confirmed", f"by {effect.confirmed_by}, {at(effect.confirmed_at)}" if effect.confirmed_at else ""),
        ("sent", f"{effect.sent} times, last {at(effect.last_sent_at)}" if effect.sent else "never"),
        ("contradicts", effect.contradicts or ""),
        ("undoes", effect.undo_of or ""),
        ("undone by", found.undo or ""),
        *(("relied on", f"by {each.workflow_id}, step {each.step}") for each in found.askers),
    ]
    for name, value in rows:
        if value:
            typer.echo(plain(f"{name:12} {value}"))
    for event in found.events:
        who = f", {event.by}{'' if event.verified else ' (not verified)'}" if event.by else ""
        moved = f"{event.before or 'begins'} -> {event.after}" if event.before != event.after else "note"
        typer.echo(plain(f"{at(event.at)}  {moved}{who}{': ' if event.note else ''}{one_line(event.note)}"))
