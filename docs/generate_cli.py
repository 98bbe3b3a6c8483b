"""Writes docs/cli.md out of the help of every command: `python docs/generate_cli.py`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

PAGE = Path(__file__).parent / "cli.md"

INTRODUCTION = """\
# The command line

<!-- Written by docs/generate_cli.py out of --help; edit the commands, not this page. -->

Results go to stdout, progress and messages to stderr, so `perdure run ... -o json | jq .result` works. The connection is
Temporal's own: `TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`, `TEMPORAL_PROFILE` and its TOML profiles; there is no second
configuration. `NO_COLOR` is honoured.

| exit code | meaning |
|---|---|
| 0 | ok |
| 1 | error |
| 2 | what was typed or set is wrong: an option, JSON, a plan, an input that does not fit, a setting |
| 3 | Temporal, a worker or the database does not answer |
| 4 | not allowed |
| 5 | the run failed, was cancelled or terminated |
| 6 | a reviewer rejected it or wants changes |
| 8 | the run still goes on |
| 9 | nondeterministic: the code does something else than what was recorded |
| 130 | interrupted; the run goes on |
"""


def page() -> str:
    """Return the page."""
    # The help is wrapped to the terminal's width.
    os.environ["TERMINAL_WIDTH"] = os.environ["COLUMNS"] = "100"
    import typer

    from perdure.cli import app

    sections = [f"## {name}\n\n```\n{text}\n```" for name, text in _helps(typer.main.get_command(app), "perdure", None)]
    return "\n\n".join([INTRODUCTION.rstrip(), *sections]) + "\n"


def _helps(command: object, name: str, parent: object) -> Iterator[tuple[str, str]]:
    """Yield the help of COMMAND, called NAME, and of those below it."""
    context = command.make_context(name, [], parent=parent, resilient_parsing=True)  # type: ignore[attr-defined]  # Typer's own
    text = "\n".join(line.rstrip() for line in command.get_help(context).rstrip().splitlines())  # type: ignore[attr-defined]
    yield context.command_path, text
    for below, each in getattr(command, "commands", {}).items():
        yield from _helps(each, below, context)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    sys.stdout.write(f"{PAGE} written\n")
