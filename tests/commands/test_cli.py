"""The command line as a whole: help, exit codes, what never happens."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from kits.cli import TESTS, Perdure, environment, read_terminal, until

from perdure.cli import app
from perdure.commands.exits import Exit

CLI = [sys.executable, "-m", "perdure.cli"]


def commands(group: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield every command below GROUP with its path."""
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


ALL = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", ALL, ids=lambda path: " ".join(path) or "perdure")
def test_everything_has_a_help_text(path: tuple[str, ...]) -> None:
    """Each command, argument and option says what it is for."""
    command = ALL[path]

    assert getattr(command, "help", "")
    params = getattr(command, "params", [])
    assert [] == [param.name for param in params if param.name != "help" and not param.help]


def test_help_loads_nothing_heavy() -> None:
    """`perdure --help` imports neither Temporal nor databases nor models."""
    heavy = ("temporalio", "litellm", "sqlmodel", "sqlalchemy", "pydantic_settings", "rich.console", "httpx", "qdrant")
    code = f"""
import sys
from perdure.cli import call
call(["--help"]); call(["run", "--help"])
print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "[]" == ended.stderr.strip()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], Exit.OK),
        (["version"], Exit.OK),
        ([], Exit.USAGE),
        (["frobnicate"], Exit.USAGE),
        (["run"], Exit.USAGE),
        (["run", "--frob", "x"], Exit.USAGE),
        (["list", "--state", "odd"], Exit.USAGE),
        (["list", "-n", "0"], Exit.USAGE),
        (["completion", "tcsh"], Exit.USAGE),
        (["list", "--address", "127.0.0.1:1"], Exit.UNREACHABLE),
        (["list", "--address", "nonsense"], Exit.UNREACHABLE),
        (["list", "--namespace", "nope"], Exit.ERROR),
        (["list", "--profile", "nope"], Exit.ERROR),
        (["dev", "--port", "99999"], Exit.USAGE),
        (["dev", "--ui-port", "-1"], Exit.USAGE),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_exit_codes_and_no_traceback(perdure: Perdure, arguments: list[str], code: Exit) -> None:
    """Each kind of end has its exit code, one message, and never a traceback."""
    ended = perdure(*arguments)

    assert code == ended.code
    assert "Traceback" not in ended.out + ended.err
    assert code == Exit.OK or ended.err.strip() or ended.out.strip()


@pytest.mark.parametrize(
    ("variable", "value"),
    [("PERDURE_TASKQUEUE", "x"), ("PERDURE_CONFIG", "missing.toml"), ("PERDURE_HOME", __file__ + "/x")],
)
def test_a_wrong_setting_ends_with_2(perdure: Perdure, monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    """A wrong setting is one message and exit code 2, as what is typed wrong is (case 80: PERDURE_* and PERDURE_HOME)."""
    monkeypatch.setenv(variable, value)

    ended = perdure("list")

    assert (Exit.USAGE, 1) == (ended.code, len(ended.err.splitlines()))
    assert variable in ended.err


def test_no_permission_ends_with_4(perdure: Perdure, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not let us in ends with 4."""
    from perdure.errors import NotAllowed

    async def refuse(*_: object, **__: object) -> None:
        raise NotAllowed("check TEMPORAL_API_KEY")

    monkeypatch.setattr("perdure.connection.connect", refuse)

    assert Exit.NOT_ALLOWED == perdure("list").code


def test_a_bug_is_told_in_one_line(perdure: Perdure, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody thought of is one line, with how to see more; PERDURE_DEBUG shows it."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("perdure.commands.doctor.versions.read_versions", broken)
    short = perdure("version")
    monkeypatch.setenv("PERDURE_DEBUG", "1")
    long = perdure("version")

    assert (Exit.ERROR, 1) == (short.code, len(short.err.splitlines()))
    assert "PERDURE_DEBUG=1" in short.err
    assert "Traceback" in long.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(perdure: Perdure, shell: str) -> None:
    """`completion SHELL` prints what the shell has to load."""
    ended = perdure("completion", shell)

    assert Exit.OK == ended.code, ended.err
    assert "_PERDURE_COMPLETE" in ended.out


def test_completion_completes(temporal_address: str, home: Path) -> None:
    """The shell's question is answered with the commands there are."""
    asked = {"_PERDURE_COMPLETE": "complete_bash", "COMP_WORDS": "perdure appr", "COMP_CWORD": "1"}

    ended = subprocess.run(
        CLI, env=environment(temporal_address, home) | asked, capture_output=True, text=True, check=False
    )

    assert ["approval"] == ended.stdout.split()


def test_an_interrupted_watch_leaves_the_run(desk: Perdure, temporal_address: str, home: Path) -> None:
    """Ctrl-C while watching ends with 130 and says that the run goes on."""
    # A shell has what it starts in the background ignore Ctrl-C, and so has whatever that starts, such as these tests.
    heeding = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", heeding, *CLI, "run", "Waits", "--id", "interrupted"],
        env=environment(temporal_address, home),
        cwd=TESTS,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: "worked" in desk("show", "interrupted", "-o", "json").out)

    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)

    assert Exit.INTERRUPTED == process.returncode
    assert "the run goes on" in said
    assert "Traceback" not in said
    assert "running" == desk("show", "interrupted", "-o", "json").json["run"]["state"]


def test_a_closed_pipe_is_no_error(desk: Perdure, temporal_address: str, home: Path) -> None:
    """`perdure list | head -1` ends quietly."""
    for number in range(3):
        desk("run", "Waits", "--id", f"piped-{number}", "-d")

    shell = " ".join([*CLI, "list", "-o", "jsonl", "| head -1"])
    ended = subprocess.run(
        shell, shell=True, env=environment(temporal_address, home), capture_output=True, text=True, check=False
    )

    assert "" == ended.stderr


def test_a_terminal_sees_a_live_tree(desk: Perdure, temporal_address: str, home: Path) -> None:
    """On a terminal the run is drawn live, result last, and NO_COLOR takes the colours out."""
    desk("list")

    def on_terminal(**extra: str) -> str:
        main, child = pty.openpty()
        process = subprocess.Popen(
            [*CLI, "run", "Knocks", "-i", "2"],
            env=environment(temporal_address, home) | {"TERM": "xterm", "COLUMNS": "70", **extra},
            stdout=child,
            stderr=child,
        )
        os.close(child)
        said = read_terminal(main)
        assert 0 == process.wait(30)
        os.close(main)
        return said

    colourful, plain = on_terminal(), on_terminal(NO_COLOR="1")

    assert "tests.knock" in colourful
    assert '"open"' == colourful.split()[-1]
    assert "\x1b[32m" in colourful
    assert "\x1b[32m" not in plain


def test_a_worker_that_cannot_start_says_why(temporal_address: str, home: Path) -> None:
    """`perdure worker` with a module that is not there ends with 1 and one message."""
    ended = subprocess.run(
        [*CLI, "worker", "no_such_module"],
        env=environment(temporal_address, home),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert Exit.ERROR == ended.returncode
    assert "module 'no_such_module' cannot be found" in ended.stderr
    assert "Traceback" not in ended.stderr
