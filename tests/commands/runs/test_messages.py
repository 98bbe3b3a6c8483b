"""What one says to a run at the command line."""

from __future__ import annotations

import pytest
from kits.cli import Perdure, until

from perdure.commands.exits import Exit


def test_a_signal_reaches_the_run(desk: Perdure) -> None:
    """`signal` sends its JSON, and the run goes on."""
    desk("run", "Waits", "--id", "signalled", "-d")

    ended = desk("signal", "signalled", "say", "-i", '"hello"')

    assert Exit.OK == ended.code
    until(lambda: "result hello" in desk("show", "signalled").out)
    assert '"hello"' in desk("query", "signalled", "word", "-o", "json").out


def test_a_mistyped_signal_is_told(desk: Perdure) -> None:
    """A signal that the run has no handler for is sent, with a warning that names those there are."""
    desk("run", "Waits", "--id", "misheard", "-d")
    until(lambda: bool(desk("query", "misheard", "word", "-o", "json").out))

    ended = desk("signal", "misheard", "sya", "-i", '"hello"')

    assert Exit.OK == ended.code
    assert "nothing happens until the run has a handler for 'sya'" in ended.err
    assert "say" in ended.err


def test_an_unknown_query_is_told(desk: Perdure) -> None:
    """A query that the run does not know is told with those it knows."""
    desk("run", "Waits", "--id", "queried", "-d")

    ended = desk("query", "queried", "wrod")

    assert Exit.USAGE == ended.code
    assert "known queries" in ended.err


def test_a_query_without_a_worker_is_told(perdure: Perdure, monkeypatch: pytest.MonkeyPatch) -> None:
    """A query that no worker answers ends with 3 and says what to start."""
    from datetime import timedelta

    monkeypatch.setattr("perdure.commands.runs.messages.ANSWER", timedelta(seconds=2))
    perdure("run", "Waits", "--id", "unanswered", "-d", "-q", "nobody-here")

    ended = perdure("query", "unanswered", "word")

    assert Exit.UNREACHABLE == ended.code
    assert "'nobody-here'" in ended.err


def test_a_cancelled_run_says_why(desk: Perdure) -> None:
    """`cancel` leaves its reason in the history, and the run ends as cancelled."""
    desk("run", "Waits", "--id", "cancelled", "-d")
    until(lambda: bool(desk("query", "cancelled", "word", "-o", "json").out))

    assert Exit.OK == desk("cancel", "cancelled", "--reason", "changed my mind").code

    until(lambda: "changed my mind" in desk("show", "cancelled").out)
    until(lambda: "cancelled" == desk("show", "cancelled", "-o", "json").json["run"]["state"])


@pytest.mark.parametrize("command", [["cancel"], ["signal"]])
def test_a_run_that_ended_cannot_be_spoken_to(desk: Perdure, command: list[str]) -> None:
    """Signals and cancellations for a closed run are refused."""
    desk("run", "Knocks", "-i", "1", "--id", "over")

    ended = desk(*command, "over", *(["say"] if command == ["signal"] else []))

    assert Exit.ERROR == ended.code
    assert "has ended (completed)" in ended.err
