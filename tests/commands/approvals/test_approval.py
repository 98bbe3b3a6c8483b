"""How people are asked and decide at the command line."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from kits.cli import Perdure, ask, environment, read_terminal, until, waiting

from perdure.commands.exits import Exit


@pytest.fixture
def asked(desk: Perdure, request: pytest.FixtureRequest) -> str:
    """A run that asks an editor first and then an owner; it waits for the editor."""
    return ask(desk, f"asked-{request.node.name}")


def test_open_approvals_are_listed(desk: Perdure, asked: str) -> None:
    """`approval list` shows what people are asked across runs."""
    found = {row["workflow_id"]: row for row in desk("approval", "list", "-o", "json").rows}

    facts = [found[asked][name] for name in ("approval", "question", "of", "state")]
    assert ["first", "First?", "editor", "open"] == facts
    assert asked in desk("approval", "list").out
    assert [] == desk("approval", "list", "--of", "nobody", "-o", "jsonl").rows


def test_requests_of_runs_that_ended_are_not_listed(desk: Perdure, asked: str) -> None:
    """A cancelled run withdraws its request, which is shown as that and not as open."""
    assert (asked, "first") in waiting(desk)

    desk("cancel", asked)

    until(lambda: (asked, "first") not in waiting(desk))
    until(lambda: asked in desk("approval", "list", "--state", "withdrawn").out)


def test_what_is_asked_can_be_read(desk: Perdure, asked: str) -> None:
    """`approval show` prints the question and the digest that a decision binds to."""
    text = desk("approval", "show", asked).out
    said = desk("approval", "show", asked, "-o", "json").json["request"]

    assert "First?" in text
    assert said["digest"] in text


def test_approving_lets_the_run_go_on(desk: Perdure, asked: str) -> None:
    """`approve` decides the one open request, under the name given, and the run asks its next."""
    first = desk("approval", "approve", asked, "--as", "bob", "-c", "fine", "-o", "json").json
    until(lambda: (asked, "second") in waiting(desk))
    second = desk("approval", "approve", asked, "--as", "eve").err

    assert ("approve", "bob", "fine", False) == tuple(first[name] for name in ("verdict", "by", "comment", "verified"))
    assert "nobody verified that name" in second
    until(lambda: '["bob", "eve"]' in desk("show", asked).out)


def test_what_is_decided_is_shown_first(desk: Perdure) -> None:
    """Question, deadline and what it is about stand before the decision (case 80: `approve` shows nothing)."""
    run = ask(desk, "shown-first", "Desk", "-i", '{"message": "three kettles", "ask": true}')

    said = desk("approval", "approve", run, "--as", "bob").err

    assert "Write it down?\n  asked of editor, risk high, until " in said
    assert 'about {"message": "three kettles"}' in said


def test_a_person_at_a_terminal_is_asked(desk: Perdure, asked: str, temporal_address: str, home: Path) -> None:
    """On a terminal `approve` asks whether to go on, and no answer but yes decides (case 80: `approve` shows nothing)."""

    def answered(answer: bytes) -> tuple[int, str]:
        main, child = pty.openpty()
        command = [sys.executable, "-m", "perdure.cli", "approval", "approve", asked, "first", "--as", "bob"]
        process = subprocess.Popen(
            command, env=environment(temporal_address, home), stdin=child, stdout=child, stderr=child
        )
        os.close(child)
        os.write(main, answer)
        said = read_terminal(main)
        code = process.wait(30)
        os.close(main)
        return code, said

    no, yes = answered(b"n\n"), answered(b"y\n")

    assert (Exit.ERROR, True, True) == (no[0], "First?" in no[1], "nothing was decided" in no[1])
    assert (Exit.OK, True) == (yes[0], "approved: " in yes[1])


def test_approving_twice_is_approving_once(desk: Perdure, asked: str) -> None:
    """The same decision sent again ends well and changes nothing."""
    desk("approval", "approve", asked, "first", "--as", "bob")

    again = desk("approval", "approve", asked, "first", "--as", "bob")

    assert Exit.OK == again.code
    assert 1 == desk("show", asked, "-o", "jsonl").out.count('"kind": "decision"')


def test_another_decision_comes_too_late(desk: Perdure, asked: str) -> None:
    """Somebody else's decision on a closed request is refused with who decided (case 80: odd texts)."""
    desk("approval", "approve", asked, "first", "--as", "bob")

    late = desk("approval", "reject", asked, "first", "--as", "eve", "-c", "no")

    assert Exit.ERROR == late.code
    assert "was approved already, by bob at" in late.err


def test_a_digest_that_does_not_fit_is_refused(desk: Perdure, asked: str) -> None:
    """`--digest` binds the decision to what was read."""
    ended = desk("approval", "approve", asked, "--digest", "sha256:other")

    assert Exit.ERROR == ended.code
    assert "has changed" in ended.err


@pytest.mark.parametrize("command", ["reject", "request-changes"])
def test_saying_no_needs_a_reason(desk: Perdure, asked: str, command: str) -> None:
    """A rejection and a request for changes without a comment are refused."""
    ended = desk("approval", command, asked)

    assert Exit.USAGE == ended.code
    assert "give one with --comment" in ended.err


def test_changes_can_be_requested(desk: Perdure, asked: str) -> None:
    """`request-changes` tells the run what to change."""
    desk("approval", "request-changes", asked, "-c", "shorter, please")
    until(lambda: "ChangesRequested" in desk("show", asked).out)

    run = desk("show", asked, "-o", "json").json["run"]

    assert "ChangesRequested" == run["failure"]["type"]
    assert "shorter, please" in run["failure"]["message"]


def test_a_name_that_is_not_asked_is_told(desk: Perdure, asked: str) -> None:
    """An unknown approval is told with those there are."""
    ended = desk("approval", "approve", asked, "third")

    assert Exit.ERROR == ended.code
    assert "it has: first (open)" in ended.err


def test_a_run_that_asks_nothing_is_told(desk: Perdure) -> None:
    """Deciding where nothing is asked says so (case 80: odd texts)."""
    desk("run", "Waits", "--id", "asks-nothing", "-d")

    ended = desk("approval", "approve", "asks-nothing")

    assert Exit.ERROR == ended.code
    assert "has no approval to decide" in ended.err
