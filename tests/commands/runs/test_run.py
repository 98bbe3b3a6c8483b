"""Starting and watching runs at the command line, with good and bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from kits.cli import PLAN, Perdure, environment, until, waiting

from perdure.commands.exits import Exit

MAIL = '{"message": "The kettle arrived with a crack in the lid."}'


def test_a_workflow_by_name_runs_to_its_result(desk: Perdure) -> None:
    """`run NAME -i JSON` prints the result on stdout, and on stderr how it got there."""
    ended = desk("run", "Desk", "-i", MAIL)

    assert Exit.OK == ended.code, ended.err
    assert {"verdict", "number"} == set(ended.json)
    for step in ("recall", "generate:triage", "null.write", "remember", "completed"):
        assert step in ended.err


def test_json_is_one_object(desk: Perdure) -> None:
    """`-o json` prints one object with what programs need, and nothing else on stdout."""
    ended = desk("run", "Desk", "-i", MAIL, "--id", "one-object", "-o", "json")

    said = ended.json
    assert ("one-object", "completed", "Desk") == (said["workflow_id"], said["state"], said["plan"])
    assert {"run_id", "result", "cost_usd", "model_calls", "seconds", "steps"} <= said.keys()
    assert 1 == said["model_calls"]


def test_jsonl_streams_steps_and_ends_with_the_run(desk: Perdure) -> None:
    """`-o jsonl` prints each change of a step as it comes, and last the run."""
    ended = desk("run", "Knocks", "-i", "2", "-o", "jsonl")

    lines = ended.rows
    assert ["step"] * (len(lines) - 1) + ["run"] == [line["event"] for line in lines]
    assert "open" == lines[-1]["result"]


def test_options_may_stand_before_the_command(desk: Perdure) -> None:
    """`perdure -o json run` is `perdure run -o json`."""
    ended = desk("-o", "json", "run", "Knocks", "-i", "1")

    assert "completed" == ended.json["state"]


def test_a_plan_runs(desk: Perdure) -> None:
    """`run PLAN.yaml` runs the plan under its own name."""
    ended = desk("run", PLAN, "-i", '{"text": "abc"}', "-o", "json")

    assert Exit.OK == ended.code, ended.err
    assert ("note", "perdure.plan", "completed") == tuple(ended.json[name] for name in ("plan", "workflow_type", "state"))


def test_the_input_comes_from_a_file_or_stdin(desk: Perdure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-i @FILE` and `-i -` read JSON from there."""
    (tmp_path / "times.json").write_text("1")
    with (tmp_path / "times.json").open() as file:
        monkeypatch.setattr("sys.stdin", file)

        from_file = desk("run", "Knocks", "-i", f"@{tmp_path / 'times.json'}")
        from_stdin = desk("run", "Knocks", "-i", "-")

    assert ("open", "open") == (json.loads(from_file.out), json.loads(from_stdin.out))


def test_continuations_are_followed(desk: Perdure) -> None:
    """A run that continues as new is watched to the end of its last run."""
    ended = desk("run", "Counts", "-i", "2", "-o", "json")

    assert ("completed", "done") == (ended.json["state"], ended.json["result"])


def test_a_failed_run_ends_with_5(desk: Perdure) -> None:
    """A run that fails gives exit code 5, says why, and what it undid."""
    mail = json.dumps({"message": "x", "fail": True})

    ended = desk("run", "Desk", "-i", mail)

    assert Exit.RUN_FAILED == ended.code
    assert "Told: told to fail" in ended.err
    assert "undo:null.write undo  compensated" in ended.err
    assert "" == ended.out


def test_a_failed_run_in_json_has_an_error(desk: Perdure) -> None:
    """`-o json` says type and message of the failure instead of a result."""
    ended = desk("run", "Desk", "-i", json.dumps({"message": "x", "fail": True}), "-o", "json")

    assert Exit.RUN_FAILED == ended.code
    assert {"type": "Told", "message": "told to fail"} == ended.json["error"]
    assert "result" not in ended.json


def test_a_rejected_run_ends_with_6(desk: Perdure, temporal_address: str, home: Path) -> None:
    """A run that fails because a reviewer said no gives exit code 6."""
    watching = subprocess.Popen(
        [sys.executable, "-m", "perdure.cli", "run", "Asks", "--id", "no"],
        env=environment(temporal_address, home),
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: ("no", "first") in waiting(desk))

    desk("approval", "reject", "no", "-c", "not now", "--as", "eve")
    _, said = watching.communicate(timeout=60)

    assert Exit.REJECTED == watching.returncode
    assert "eve rejected 'First?': not now" in said


def test_watching_ends_with_8_while_the_run_waits(desk: Perdure) -> None:
    """`--wait` stops watching; the run goes on."""
    ended = desk("run", "Waits", "--wait", "1", "-o", "json")

    assert Exit.WAITING == ended.code
    assert "running" == ended.json["state"]


def test_detach_returns_at_once(desk: Perdure) -> None:
    """`--detach` prints the workflow id and leaves."""
    ended = desk("run", "Waits", "--id", "detached", "--detach")

    assert (Exit.OK, "detached\n") == (ended.code, ended.out)


def test_an_id_in_use_is_refused(desk: Perdure) -> None:
    """A second run under the id of one that goes on is refused with what to do."""
    desk("run", "Waits", "--id", "taken", "-d")

    ended = desk("run", "Waits", "--id", "taken", "-d")

    assert Exit.USAGE == ended.code
    assert "Give another --id" in ended.err


def test_an_id_is_used_once(desk: Perdure) -> None:
    """A second run under the id of one that has completed is refused, with how it stands (case 80: run --id twice)."""
    desk("run", "Knocks", "-i", "1", "--id", "used-once")

    ended = desk("run", "Knocks", "-i", "1", "--id", "used-once")

    assert Exit.USAGE == ended.code
    assert "was started before and is completed: `perdure show used-once`" in ended.err
    assert 1 == len(desk("list", "--query", 'WorkflowId="used-once"', "-o", "json").rows)


def test_an_id_is_used_again_when_told(desk: Perdure) -> None:
    """`--again` starts another run under an id whose run has ended (case 80: run --id twice)."""
    desk("run", "Knocks", "-i", "1", "--id", "used-again")

    ended = desk("run", "Knocks", "-i", "1", "--id", "used-again", "--again")

    assert Exit.OK == ended.code, ended.err


def test_again_needs_an_id(perdure: Perdure) -> None:
    """`--again` without an id is a mistake: there is nothing that was before."""
    assert Exit.USAGE == perdure("run", "Knocks", "--again").code


def test_an_unknown_workflow_is_told_and_leaves_nothing_behind(desk: Perdure) -> None:
    """A mistyped name ends with 2 and the names there are, and the run is removed (case 80: exit codes)."""
    ended = desk("run", "Dsk", "-i", "1", "--id", "mistyped")

    assert Exit.USAGE == ended.code
    assert "no workflow is called 'Dsk'" in ended.err
    assert "Desk" in ended.err
    assert "stays in the list" not in ended.err  # the server deletes it, when it comes to that


def test_nobody_to_do_the_work_is_said(perdure: Perdure, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that no worker takes says so and what to start, and goes on waiting."""
    monkeypatch.setattr("perdure.commands.on_worker.NO_WORKER_AFTER", 1.0)

    ended = perdure("run", "Desk", "-i", MAIL, "-q", f"empty-{uuid4()}", "--wait", "4")

    assert Exit.WAITING == ended.code
    assert "no worker polls task queue" in ended.err
    assert "perdure worker MODULES" in ended.err


def test_nobody_to_do_the_work_is_said_when_detached(perdure: Perdure) -> None:
    """`--detach` says it too, and returns."""
    ended = perdure("run", "Desk", "-i", MAIL, "-q", f"empty-{uuid4()}", "-d")

    assert Exit.OK == ended.code
    assert "no worker polls task queue" in ended.err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("-i", '{"mesage": "x"}'), "Mail does not fit: message: Field required"),
        (("-i", "[]"), "Mail does not fit"),
        ((), "Desk was started with 0 inputs; it takes mail"),
    ],
)
def test_an_input_that_does_not_fit_the_workflow_is_told(desk: Perdure, given: tuple[str, ...], said: str) -> None:
    """What does not fit ends with 2 and the field, nothing is done and the run is removed (case 80: exit codes)."""
    workflow_id = f"misfit-{len(said)}"

    ended = desk("run", "Desk", *given, "--id", workflow_id)

    assert Exit.USAGE == ended.code
    assert f"the input does not fit workflow Desk: {said}" in ended.err
    assert "stays in the list" not in ended.err  # the server deletes it, when it comes to that


def test_code_that_cannot_go_on_is_told(desk: Perdure) -> None:
    """A bug in workflow code, which Temporal retries for ever, is told and not waited for in silence."""
    ended = desk("run", "Breaks", "--wait", "3", "-o", "json")

    assert Exit.WAITING == ended.code
    assert "the workflow's code cannot go on: KeyError: 'a bug'" in ended.err


def test_retries_are_shown_while_they_happen(desk: Perdure) -> None:
    """Attempts that fail are shown with their reason, before the activity ends."""
    ended = desk("run", "Knocks", "-i", "100", "--wait", "4")

    assert Exit.WAITING == ended.code
    assert "TargetUnavailable: nobody opens" in ended.err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ('{"a": 1', "line 1, column 8"),
        ("", "It is empty"),
        ("{'a': 1}", "line 1, column 2"),
        ("[1, NaN]", "NaN is not a JSON value"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": 1, "a": 2}', "line 1, column 10: `a` stands twice"),
        ('{"note": "cut \\ud83d"}', "half a surrogate pair"),
        ("[0.1000000000000000055]", "has more digits than a number keeps"),
    ],
)
def test_bad_json_is_told_with_its_place(perdure: Perdure, given: str, said: str) -> None:
    """What is not JSON ends with 2 and says where, before any server is asked."""
    ended = perdure("run", "Desk", "-i", given, "--address", "127.0.0.1:1")

    assert Exit.USAGE == ended.code
    assert said in ended.err


def test_a_missing_input_file_is_told(perdure: Perdure) -> None:
    """`-i @FILE` with no such file names it and ends with 2 (case 80: exit codes)."""
    ended = perdure("run", "Desk", "-i", "@nowhere.json")

    assert Exit.USAGE == ended.code
    assert "nowhere.json cannot be read" in ended.err


def test_an_input_that_does_not_fit_the_plan_is_told_before_the_start(perdure: Perdure) -> None:
    """A plan's input is checked against its schema before anything is started."""
    ended = perdure("run", PLAN, "-i", '{"txt": 1}', "--address", "127.0.0.1:1")

    assert Exit.USAGE == ended.code
    assert "'text' is a required property" in ended.err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((), "the input has to be an object, and is null or was not given"),
        (("-i", "[1]"), "the input has to be an object, and is a list"),
        (("-i", '{"text": 1}'), "text has to be a text, and is 1"),
    ],
)
def test_a_misfit_is_told_in_words(perdure: Perdure, given: tuple[str, ...], said: str) -> None:
    """What does not fit a plan is told in JSON's words and not in Python's (case 80: `$: None is not of type`)."""
    ended = perdure("run", PLAN, *given, "--address", "127.0.0.1:1")

    assert Exit.USAGE == ended.code
    assert f"the input does not fit plan note: {said}" in ended.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps: [", "is not YAML"),
        ("- 1", "this file holds a list"),
        ("", "this file holds nothing"),
        ("name: x\nname: y\nsteps: []", "line 2, column 1: `name` stands twice (first in line 1)"),
        (
            "name: x\nsteps:\n- id: a\n  when: t\n  when: f",
            "line 5, column 3: `when` stands twice (first in line 4) in step a",
        ),
        ("name: x\nsteps: [{id: a, act: n.w, with: {1: x}}]", "line 2, column 34: the key `1` is not a text"),
        ("name: x\nsteps: []", "steps: Tuple should have at least 1 item"),
        ("steps: [{id: a, act: null.write}]", "name: is missing; add it"),
        ("name: x\nsteps: [{id: a, act: null.write, wth: 1}]", "steps.0 (a).wth: there is no such field"),
        ("name: x\nsteps: [{id: a, frob: 1}]", "steps.0 (a): a step says one of: generate"),
        ("name: x\nsteps: [{id: a, act: n.w, when: 'nope > 1'}]", "mentions 'nope'"),
        ("name: x\nsteps: [{id: a, act: n.w, needs: [b]}, {id: b, act: n.w, needs: [a]}]", "wait for each other"),
    ],
)
def test_a_bad_plan_is_told_with_its_place(perdure: Perdure, tmp_path: Path, text: str, said: str) -> None:
    """What is wrong with a plan is told by its path in the file."""
    path = tmp_path / "bad.yaml"
    path.write_text(text)

    ended = perdure("run", str(path))

    assert Exit.USAGE == ended.code
    assert said in ended.err
    assert str(path) in ended.err


def test_a_missing_plan_is_told(perdure: Perdure) -> None:
    """A plan file that is not there is named, with exit code 2 (case 80: exit codes)."""
    ended = perdure("run", "nowhere.yaml")

    assert Exit.USAGE == ended.code
    assert "plan nowhere.yaml cannot be read" in ended.err


def test_the_web_ui_gets_a_summary(desk: Perdure) -> None:
    """A run has a summary that says what it is, and details that list a plan's steps and no input."""
    desk("run", PLAN, "-i", '{"text": "secret"}', "--id", "summarised", "-d")
    until(lambda: desk("show", "summarised", "-o", "json").json["run"]["worked"])

    run = desk("show", "summarised", "-o", "json").json["run"]

    assert "note: Write a note, ask first if it is long." == run["summary"]
