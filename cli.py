"""The command `perdure`. Each subcommand imports what it needs when it runs, so that help and completion come at once."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence

import typer

from perdure.commands.approvals import cli as approvals
from perdure.commands.connectors import cli as connectors
from perdure.commands.conversations import cli as conversations
from perdure.commands.dev import cli as dev
from perdure.commands.doctor import cli as doctor
from perdure.commands.effects import cli as effects
from perdure.commands.exits import Exit, explain
from perdure.commands.memory import cli as memory
from perdure.commands.models import cli as models
from perdure.commands.options import (
    AddressOption,
    NamespaceOption,
    Options,
    OutputOption,
    ProfileOption,
    global_options,
)
from perdure.commands.runs import cli as runs

app = typer.Typer(
    name="perdure",
    help="Durable, governed AI workflows on Temporal: agents that finish the job, and can prove it.",
    epilog=(
        "Exit codes: 0 ok, 1 error, 2 usage, 3 unreachable, 4 not allowed, 5 run failed, 6 rejected by a reviewer, "
        "8 still waiting, 9 nondeterministic, 130 interrupted."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.callback()
def _before(
    output: OutputOption = None,
    address: AddressOption = None,
    namespace: NamespaceOption = None,
    profile: ProfileOption = None,
) -> None:
    global_options.set(Options(output=output, address=address, namespace=namespace, profile=profile))


# A family without a name puts its commands beside the others. The order is the one of --help.
app.add_typer(dev.app)
app.add_typer(runs.app)
app.add_typer(approvals.app, name="approval")
app.add_typer(effects.app, name="effects")
app.add_typer(connectors.app, name="connectors")
app.add_typer(memory.app, name="memory")
app.add_typer(conversations.app, name="conversation")
app.add_typer(models.app)
app.add_typer(doctor.app)


def main() -> None:
    """Run the command line and end the process."""
    code = call(sys.argv[1:])
    with contextlib.suppress(BrokenPipeError):  # e.g. `perdure list | head`
        sys.stdout.flush()
    with contextlib.suppress(BrokenPipeError):
        sys.stderr.flush()
    # The SDK's threads can abort an interpreter that shuts down (sdk-python#300).
    os._exit(code)


def call(arguments: Sequence[str]) -> int:
    """Run the command line ARGUMENTS and return the exit code. No traceback reaches the user."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a character gets a question mark, not an error.
            stream.reconfigure(errors="replace")
    if doctor.COMPLETE in os.environ:
        from typer import completion as shells

        # A shell asks for completions. Typer does this only where its own options for it are in the help.
        shells.completion_init()  # type: ignore[attr-defined]  # pyright: ignore[reportPrivateImportUsage]
    try:
        app(list(arguments), prog_name="perdure")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else Exit.ERROR
    except BrokenPipeError:
        return Exit.OK
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # the last place where anything can be said
        return explain(error)
    return Exit.OK


if __name__ == "__main__":
    main()
