"""`perdure doctor`: what is wrong here, and what to do about it."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from perdure.commands.exits import Exit
from perdure.commands.options import Format, Options, takes_options
from perdure.commands.output import (
    emit,
    emit_line,
    out,
    plain,
)


@takes_options
def doctor(
    options: Options,
    fix: Annotated[bool, typer.Option("--fix", help="Register the search attributes that the namespace lacks.")] = False,
    migrate: Annotated[bool, typer.Option("--migrate", help="Bring the database's schema up to date.")] = False,
) -> None:
    """Check everything perdure stands on.

    Each line says ok, warn or fail, and what to do; the exit code is 1 if something fails.
    """
    from perdure.commands.doctor.work import check_all

    found = asyncio.run(check_all(options, fix=fix, migrate=migrate))
    if options.format is Format.json:
        emit([check.model_dump(mode="json") for check in found])
    elif options.format is Format.jsonl:
        for check in found:
            emit_line(check)
    else:
        from rich.text import Text

        console = out()
        for check in found:
            style = {"ok": "green", "warn": "yellow", "fail": "red"}[check.state]
            text = Text(f"{check.state:4} ", style=style)
            text.append(plain(f"{check.name}: {check.said}"), style="default")
            console.print(text)
            if check.todo:
                console.print(Text(plain("     " + check.todo.replace("\n", "\n     "))))
    if any(check.state == "fail" for check in found):
        raise typer.Exit(Exit.ERROR)
