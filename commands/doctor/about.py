"""`perdure version` and `perdure completion`."""

from __future__ import annotations

import platform
from enum import StrEnum
from typing import Annotated

import typer

from perdure.commands.options import Format, Options, takes_options
from perdure.commands.output import emit

COMPLETE = "_PERDURE_COMPLETE"
"""The variable through which a shell asks for completions."""


class Shell(StrEnum):
    """Shells that completion is known for."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


@takes_options
def version(options: Options) -> None:
    """Print the versions of what is installed."""
    found = versions()
    if options.format is not Format.text:
        emit(found)
        return
    for name, value in found.items():
        typer.echo(f"{name:16} {value}")


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


def versions() -> dict[str, str]:
    """Return what is installed."""
    import subprocess
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    from perdure import __version__
    from perdure.commands.dev.server import program
    from perdure.errors import InvalidSettings

    found = {"perdure": __version__, "python": platform.python_version()}
    for name in ("temporalio", "litellm", "pydantic"):
        try:
            found[name] = installed(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    try:
        said = subprocess.run([program(), "--version"], capture_output=True, text=True, timeout=10, check=True)
        found["temporal server"] = said.stdout.strip().removeprefix("temporal version ")
    except (InvalidSettings, OSError, subprocess.SubprocessError) as error:
        found["temporal server"] = f"not installed ({str(error).splitlines()[0]})"
    return found
