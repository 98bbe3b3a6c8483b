"""What `perdure replay` makes of histories and of what is none."""

from __future__ import annotations

import json
import subprocess
import sysconfig
from pathlib import Path

import pytest
from kits.cli import Perdure

from perdure.commands.exits import Exit

HISTORIES = sorted((Path(__file__).parents[2] / "timetravel" / "histories").glob("*.json"))


def test_a_run_replays(desk: Perdure) -> None:
    """`replay RUN` ends well while the code does what was recorded."""
    desk("run", "Desk", "-i", '{"message": "x"}', "--id", "replayed")

    ended = desk("replay", "replayed", "-m", "kits.cli_workflows", "-o", "json")

    assert Exit.OK == ended.code, ended.err
    assert True is ended.json["replayed"]


@pytest.mark.parametrize("history", HISTORIES, ids=lambda path: path.stem)
def test_stored_histories_replay(perdure: Perdure, history: Path) -> None:
    """Histories that were recorded from real runs replay with the code of today."""
    ended = perdure("replay", str(history), "-m", "kits.cli_workflows")

    assert Exit.OK == ended.code, ended.err


def test_changed_code_ends_with_9(perdure: Perdure, tmp_path: Path) -> None:
    """Code that does something else than what was recorded ends with 9 and names the event."""
    [history] = [path for path in HISTORIES if path.stem == "knocks"]
    recorded = history.read_text().replace('"tests.knock"', '"tests.ring"')
    (tmp_path / "changed.json").write_text(recorded)

    ended = perdure("replay", str(tmp_path / "changed.json"), "-m", "kits.cli_workflows", "-o", "json")

    assert Exit.NONDETERMINISTIC == ended.code
    assert True is ended.json["nondeterministic"]
    assert "tests.ring" in ended.err
    assert "stack_trace" not in ended.err


def test_a_history_of_the_temporal_cli_replays(desk: Perdure, temporal_address: str, tmp_path: Path) -> None:
    """What `temporal workflow show -o json` prints is a history."""
    desk("run", "Knocks", "-i", "1", "--id", "exported")
    temporal = Path(sysconfig.get_path("scripts")) / "temporal"
    command = [str(temporal), "workflow", "show", "-w", "exported", "-o", "json", "--address", temporal_address]
    shown = subprocess.run(command, capture_output=True, check=True, text=True)
    (tmp_path / "exported.json").write_text(shown.stdout)

    ended = desk("replay", str(tmp_path / "exported.json"), "-m", "kits.cli_workflows")

    assert Exit.OK == ended.code, ended.err


def test_code_that_is_not_given_is_told(perdure: Perdure) -> None:
    """A history whose workflow no module serves says which option to use."""
    ended = perdure("replay", str(HISTORIES[0]))

    assert Exit.ERROR == ended.code
    assert "--module" in ended.err


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("{", Exit.USAGE, "is not a history"),
        ("{}", Exit.USAGE, "is not a history"),
        ('{"events": []}', Exit.USAGE, "is not a history"),
        (json.dumps({"events": [{"eventId": "1", "eventType": "TimerFired"}]}), Exit.USAGE, "is not a history"),
        (None, Exit.USAGE, "cannot be read"),
    ],
)
def test_what_is_not_a_history_is_told(perdure: Perdure, tmp_path: Path, text: str | None, code: Exit, said: str) -> None:
    """Files that hold something else, or are not there, get one message."""
    path = tmp_path / "history.json"
    if text is not None:
        path.write_text(text)

    ended = perdure("replay", str(path), "-m", "kits.cli_workflows")

    assert code == ended.code
    assert said in ended.err


def test_a_run_that_no_worker_took_has_nothing_to_replay(perdure: Perdure) -> None:
    """A history without a completed workflow task is told at once."""
    perdure("run", "Knocks", "-i", "1", "--id", "not-begun", "-d", "-q", "nobody-polls")

    ended = perdure("replay", "not-begun", "-m", "kits.cli_workflows")

    assert Exit.ERROR == ended.code
    assert "nothing to replay" in ended.err
