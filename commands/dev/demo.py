"""`perdure demo`: the returns desk with a killed worker, a reviewer and the books compared, live."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from perdure.commands.exits import Exit
from perdure.commands.options import Options, takes_options


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
    from perdure.commands.dev.demo_work import Wanted, run

    report = asyncio.run(
        run(
            options,
            Wanted(kills=kills, plan=plan, ask=not yes, keep=keep, home=home, database_url=database_url, models=models),
        )
    )
    if not report.books_agree:
        raise typer.Exit(Exit.ERROR)
