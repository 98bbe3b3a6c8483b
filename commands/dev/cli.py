"""`perdure dev`, `demo` and `worker`, as they are typed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from perdure.commands.exits import Exit
from perdure.commands.options import Options, takes_options
from perdure.errors import InvalidInput

app = typer.Typer()


@app.command()
@takes_options
def dev(
    options: Options,
    modules: Annotated[
        list[str] | None,
        typer.Argument(
            help="Importable modules to serve with their workflows, activities and connectors, besides those of "
            "perdure.toml.",
            metavar="MODULES",
            show_default=False,
        ),
    ] = None,
    *,
    port: Annotated[
        int, typer.Option(help="The Temporal server's port; 0 takes a free one.", metavar="PORT", min=0, max=65535)
    ] = 7233,
    ui_port: Annotated[
        int,
        typer.Option(
            help="The Web UI's port; 0 takes PORT + 1000, or a free one.",
            metavar="PORT",
            min=0,
            max=65535,
            show_default=False,
        ),
    ] = 0,
    headless: Annotated[bool, typer.Option("--headless", help="Leave the Temporal Web UI out.")] = False,
    no_worker: Annotated[bool, typer.Option("--no-worker", help="Start the server only.")] = False,
) -> None:
    """Start a Temporal server and a worker on this machine.

    Ctrl-C stops both. State is kept in ./.perdure, so runs go on where they were when you start it again. The worker is
    started again when it dies, a kill -9 included.
    """
    if options.address or options.namespace or options.profile:
        raise InvalidInput("`perdure dev` starts a server of its own: use --port, not --address and the like")
    from perdure.commands.dev.work import DevOptions, run

    asyncio.run(
        run(options, DevOptions(modules=modules or [], port=port, ui_port=ui_port, headless=headless, worker=not no_worker))
    )


@app.command()
@takes_options
def demo(  # noqa: PLR0917  Typer makes an option of each
    options: Options,
    kills: Annotated[
        int, typer.Option(help="How often to kill the worker while refunds are in flight.", min=0, max=10)
    ] = 2,
    plan: Annotated[bool, typer.Option("--plan", help="Run the YAML plan instead of the Python workflow.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Let the demo reviewer decide, also on a terminal.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the Temporal Web UI up afterwards, until Ctrl-C.")] = False,
    home: Annotated[
        Path, typer.Option(help="Where the demo keeps its files; what an earlier one left there is removed.", metavar="DIR")
    ] = Path(".perdure/demo"),
    database_url: Annotated[
        str,
        typer.Option(help="Use this database instead of SQLite, e.g. postgresql://USER:PASSWORD@HOST/NAME.", metavar="URL"),
    ] = "",
    models: Annotated[
        Path | None, typer.Option(help="A routing file that goes before the keyless one.", metavar="FILE", exists=True)
    ] = None,
) -> None:
    """Watch sixty return requests through triage, refunds, a kill -9 and approvals, on this machine, without keys.

    Exits with 0 only if the shop's own books agree with what the desk decided: no refund twice, none lost.
    """
    from perdure.commands.dev.demo import DemoOptions, run

    report = asyncio.run(
        run(
            options,
            DemoOptions(
                kills=kills, plan=plan, ask=not yes, keep=keep, home=home, database_url=database_url, models=models
            ),
        )
    )
    if not report.books_agree:
        raise typer.Exit(Exit.ERROR)


@app.command()
@takes_options
def worker(
    options: Options,
    modules: Annotated[
        list[str] | None,
        typer.Argument(
            help="Importable modules whose workflows, activities and connectors to serve, besides those of perdure.toml.",
            metavar="MODULES",
            show_default=False,
        ),
    ] = None,
    task_queue: Annotated[
        str | None,
        typer.Option(
            "--task-queue", "-q", help="The task queue to poll. Default: PERDURE_TASK_QUEUE, else perdure.", metavar="NAME"
        ),
    ] = None,
) -> None:
    """Serve workflows, activities and connectors of modules.

    SIGTERM or Ctrl-C stops it; running steps may finish first.
    """
    # The worker is also `python -m perdure.worker`, which reads Temporal's own variables.
    for name, value in (
        ("TEMPORAL_ADDRESS", options.address),
        ("TEMPORAL_NAMESPACE", options.namespace),
        ("TEMPORAL_PROFILE", options.profile),
        ("PERDURE_TASK_QUEUE", task_queue),
    ):
        if value is not None:
            os.environ[name] = value
    from perdure.worker import main

    main(modules or [])
