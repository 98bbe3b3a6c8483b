"""`perdure effects`, as it is typed."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Annotated

import typer

from perdure.commands.options import (
    AsOption,
    Options,
    ScheduleOption,
    UnscheduleOption,
    takes_options,
)
from perdure.commands.session import Session, run_with_session

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


class EffectFilter(StrEnum):
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
    state: Annotated[EffectFilter, typer.Option("--state", "-s", help="Only those in this state.")] = EffectFilter.parked,
    run: Annotated[
        str | None, typer.Option(help="Only those of this workflow id.", metavar="RUN", show_default=False)
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", help="At most so many, the newest first.", min=1, metavar="NUMBER")
    ] = 100,
) -> None:
    """List effects, the newest first: those that wait for a person, unless told otherwise."""
    from perdure.commands.effects.work import print_effects

    wanted = None if state is EffectFilter.all else state.value.replace("-", " ")
    asyncio.run(print_effects(options, wanted, run=run, limit=limit))


@app.command()
@takes_options
def show(options: Options, key: KeyArgument) -> None:
    """Show an effect: what was asked, what the target answered, who relies on it, and every transition with who said so."""
    from perdure.commands.effects.work import print_effect

    asyncio.run(print_effect(options, key))


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
    from perdure.commands.effects.work import ResolutionInput, resolve_and_report

    flags = {
        "happened": happened,
        "did not happen": did_not_happen,
        "send again": send_again,
        "new generation": as_new_generation,
    }
    given = ResolutionInput(
        key=key,
        verdicts=tuple(name for name, wanted in flags.items() if wanted),
        by=by,
        comment=comment,
        remote_ref=remote_ref,
        answer=answer,
        modules=tuple(module or ()),
    )
    asyncio.run(resolve_and_report(options, given))


@app.command()
@takes_options
def sweep(
    options: Options,
    connector: Annotated[
        str | None, typer.Option(help="Only those of this connector.", metavar="NAME", show_default=False)
    ] = None,
    every: ScheduleOption = None,
    stop: UnscheduleOption = False,
) -> None:
    """Find out what became of effects that runs left open when they were terminated.

    A worker looks them up and sends nothing. What nobody can tell is parked; then the exit code is 1. Comparisons with
    `perdure connectors reconcile` do the same for their connector.
    """

    async def work(session: Session) -> None:
        from perdure.commands.connectors.work import sweep_orphans

        await sweep_orphans(session, options, connector, every=every, stop=stop)

    run_with_session(work, options)


@app.command()
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
    from perdure.commands.effects.stream import print_events

    asyncio.run(print_events(options, after, limit=limit, kind=kind, follow=follow))


@app.command()
@takes_options
def publish(
    options: Options,
    url: Annotated[str, typer.Argument(help="The NATS server, e.g. nats://localhost:4222.", metavar="URL")],
    name: Annotated[str, typer.Option(help="The JetStream stream; it is made if needed.", metavar="NAME")] = "PERDURE",
    prefix: Annotated[str, typer.Option(help="What the subjects begin with.", metavar="SUBJECT")] = "perdure.events",
    once: Annotated[bool, typer.Option("--once", help="Publish what is there and end.")] = False,
) -> None:
    """Publish the stream of events to NATS JetStream, from where it was, until Ctrl-C."""
    from perdure.commands.effects.stream import publish_events

    asyncio.run(publish_events(options, url, name=name, prefix=prefix, once=once))
