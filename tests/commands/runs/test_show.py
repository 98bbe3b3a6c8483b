"""What the audit trail and the list show."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from kits.cli import Perdure, ask, until

from perdure.commands.exits import Exit


def test_the_trail_has_everything(desk: Perdure) -> None:
    """`show` prints each step with inputs, model, cost, memory, receipt and decision."""
    desk("run", "Desk", "-i", json.dumps({"message": "first", "customer": "trail"}))
    ask(desk, "trail", "Desk", "-i", json.dumps({"message": "second", "customer": "trail", "ask": True}))
    desk("approval", "approve", "trail", "--as", "bob", "-c", "go")
    until(lambda: "completed" in desk("show", "trail").out)

    shown = desk("show", "trail").out

    for said in (
        "recall  default:user=trail:",
        "noted: first",
        "(local-small)",
        "$0.00",
        "editor: Write it down? (risk high",
        "bound to sha256:",
        "approved by bob (name not verified, update,",
        "): go",
        "null.write act  receipt",
        "key  pe-",
        "completed",
    ):
        assert said in shown


def test_the_trail_as_json_is_typed(desk: Perdure) -> None:
    """`show -o json` gives the run's facts and the steps with their essentials."""
    desk("run", "Desk", "-i", '{"message": "x"}', "--id", "typed")

    said = desk("show", "typed", "-o", "json").json
    steps = {step["kind"]: step for step in said["steps"]}

    assert ["recall", "generate", "act", "remember"] == list(steps)
    assert "small" == steps["generate"]["model"]["tier"]
    assert "null.write" == steps["act"]["receipt"]["action"]
    assert {"text": "x"} == steps["act"]["inputs"]["args"]


def test_large_values_are_read_from_where_they_are_kept(
    desk: Perdure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A payload kept outside the history is shown; where its database is not at hand the rest is shown all the same."""
    desk("run", "Desk", "-i", json.dumps({"message": "long " * 10_000}), "--id", "large")

    here = desk("show", "large", "--full").out
    monkeypatch.setenv("PERDURE_HOME", str(tmp_path))
    elsewhere = desk("show", "large").out

    assert here.count("long long long") > 1
    assert "bytes that cannot be read" in elsewhere
    assert "null.write" in elsewhere


def test_other_peoples_text_cannot_move_the_cursor(desk: Perdure) -> None:
    """Control characters in values are not sent to the terminal, also not in JSON."""
    evil = "\x1b[2J\u202e\x9b31m"
    desk("run", "Desk", "-i", json.dumps({"message": evil}), "--id", "evil")

    shown = desk("show", "evil").out
    as_json = desk("show", "evil", "-o", "json")

    assert not set(evil) & {"\x1b", "\u202e", "\x9b"} & set(shown)
    assert not {"\x1b", "\u202e", "\x9b"} & set(as_json.out)
    assert evil == as_json.json["run"]["inputs"]["message"]


def test_nothing_is_lost_in_a_narrow_terminal(desk: Perdure, monkeypatch: pytest.MonkeyPatch) -> None:
    """In 50 columns the lines are wrapped: receipts and decisions stay readable."""
    desk("run", "Desk", "-i", '{"message": "x"}', "--id", "narrow")
    monkeypatch.setenv("COLUMNS", "50")

    shown = desk("show", "narrow").out

    assert 50 >= max(len(line) for line in shown.splitlines())
    assert "receipt" in shown


def test_an_unknown_run_is_told(perdure: Perdure) -> None:
    """A run that is not there is told with what to do."""
    ended = perdure("show", "nope")

    assert Exit.ERROR == ended.code
    assert "no run 'nope'" in ended.err
    assert "perdure list" in ended.err


def test_an_earlier_run_of_an_id_can_be_shown(desk: Perdure) -> None:
    """WORKFLOW_ID/RUN_ID names one run among several of the same workflow id."""
    first = desk("run", "Knocks", "-i", "1", "--id", "again", "-o", "json").json["run_id"]
    desk("run", "Knocks", "-i", "1", "--id", "again", "--again")

    said = desk("show", f"again/{first}", "-o", "json").json

    assert first == said["run"]["run_id"]


def test_runs_are_listed_and_filtered(desk: Perdure) -> None:
    """`list` finds runs by state, plan and visibility query."""
    desk("run", "Knocks", "-i", "1", "--id", "listed")
    desk("run", "Waits", "--id", "listed-too", "-d")

    def ids(*filters: str) -> set[object]:
        return {row["workflow_id"] for row in desk("list", "-n", "200", "-o", "json", *filters).rows}

    assert "listed" in ids("--state", "completed", "--plan", "Knocks")
    assert "listed" not in ids("--state", "running")
    assert "listed-too" in ids("-s", "running", "--query", 'WorkflowType="Waits"')
    assert set() == ids("--plan", 'a" OR "b')
    assert "listed" in desk("list", "-n", "200").out


def test_a_bad_query_is_told(perdure: Perdure) -> None:
    """A visibility query that cannot be read ends with 2."""
    ended = perdure("list", "--query", "foo bar")

    assert Exit.USAGE == ended.code
    assert "not a visibility query" in ended.err


def test_no_run_found_is_said(perdure: Perdure) -> None:
    """An empty list says so on stderr, and is an empty list in JSON."""
    assert "no run found" in perdure("list", "--plan", "nothing").err
    assert [] == perdure("list", "--plan", "nothing", "-o", "json").rows


def test_links_lead_to_the_web_ui_of_the_dev_server(desk: Perdure, home: Path, temporal_address: str) -> None:
    """Where `perdure dev` says that it has a Web UI, links lead there."""
    note = home / "dev.json"
    note.write_text(json.dumps({"address": temporal_address, "ui": "http://127.0.0.1:1"}))
    desk("run", "Knocks", "-i", "1", "--id", "with/slash")

    shown = desk("show", "with/slash").out
    note.unlink()

    assert "http://127.0.0.1:1/namespaces/default/workflows/with%2Fslash/" in shown
    assert os.linesep in shown
