"""`perdure doctor`, `version` and `completion`, as they are typed."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Annotated

import typer

from perdure.commands.options import Format, Options, takes_options
from perdure.commands.output import emit

app = typer.Typer()

COMPLETE = "_PERDURE_COMPLETE"
"""The variable through which a shell asks for completions."""


class Shell(StrEnum):
    """Shells that completion is known for."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


@app.command()
@takes_options
def doctor(
    options: Options,
    fix: Annotated[bool, typer.Option("--fix", help="Register the search attributes that the namespace lacks.")] = False,
    migrate: Annotated[bool, typer.Option("--migrate", help="Bring the database's schema up to date.")] = False,
) -> None:
    """Check everything that perdure needs here.

    Each line says ok, warn or fail, and what to do; the exit code is 1 if something fails.
    """
    from perdure.commands.doctor.work import check_and_report

    asyncio.run(check_and_report(options, fix=fix, migrate=migrate))


@app.command()
@takes_options
def version(options: Options) -> None:
    """Print the versions of what is installed."""
    from perdure.commands.doctor.versions import read_versions

    found = read_versions()
    if options.format is not Format.text:
        emit(found)
        return
    for name, value in found.items():
        typer.echo(f"{name:16} {value}")


@app.command()
@takes_options
def completion(
    _: Options,
    shell: Annotated[Shell, typer.Argument(help="The shell: bash, zsh or fish.", metavar="SHELL", show_default=False)],
) -> None:
    """Print a completion script for a shell.

    In bash, put this into ~/.bashrc: eval "$(perdure completion bash)"
    """
    from typer import completion as shells

    # Typer offers this only as an option, which would stand in the help of every command.
    script: str = shells.get_completion_script(  # type: ignore[attr-defined]  # pyright: ignore[reportPrivateImportUsage]
        prog_name="perdure", complete_var=COMPLETE, shell=shell.value
    )
    typer.echo(script)
