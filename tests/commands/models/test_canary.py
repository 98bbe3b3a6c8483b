"""Canaries at the command line."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa
from kits.cli import Perdure

from perdure.commands.exits import Exit
from perdure.routing.canary import Arm, Canary, CanaryAssignment, CanaryTable
from perdure.storage import open_database

CANARY = Canary(
    CanaryTable.model_validate({"name": "newer", "task": "triage", "instructions": "Judge better.", "weight": 0.5}),
    None,
    "small",
)


@pytest.fixture
def counted(perdure: Perdure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Perdure:
    """Run `perdure` where 30 calls of each arm were counted, all valid but for one of the canary's."""
    monkeypatch.setenv("PERDURE_HOME", str(tmp_path))

    def count(connection: sa.Connection) -> None:
        arms: tuple[Arm, Arm] = ("canary", "control")
        for arm in arms:
            part = CanaryAssignment(CANARY, arm, "running", first=True, tries_canary=arm == "canary")
            part.check_state(connection)
            for number in range(30):
                outcome = "invalid" if arm == "canary" and number == 0 else "answered"
                part.settle(connection, outcome, milliseconds=20, nano_usd=1_000_000)

    async def fill() -> None:
        async with open_database(f"sqlite+aiosqlite:///{tmp_path}/perdure.db") as database:
            await database.transact(count)

    asyncio.run(fill())
    return perdure


def test_list_and_show(counted: Perdure) -> None:
    """`canary list` and `show` have both arms' counts, as text and as JSON, and the evidence against the canary."""
    [row] = counted("canary", "list", "-o", "json").rows
    shown = counted("canary", "show", "newer", "-o", "json").json

    assert (CANARY.id, "running", 30, 29, 30) == (
        row["id"],
        row["state"],
        row["canary"]["calls"],
        row["canary"]["valid"],
        row["control"]["valid"],
    )
    assert ["canary", "control"] == [side["arm"] for side in shown["sides"]]
    valid = shown["comparisons"][0]
    assert valid["canary"] < valid["control"] == 1.0 and valid["log_evidence"] < valid["needed"]
    assert "96.7%" in counted("canary", "list").out
    text = counted("canary", "show", "newer").out
    assert "$0.001" in text and "evidence against it in valid answers: 0.0" in text and ", of 300 needed" in text


def test_decide(counted: Perdure) -> None:
    """`promote`, `rollback` and `reset` say who has decided what, and what to write into models.toml."""
    promoted = counted("canary", "promote", "newer", "--as", "ada", "-c", "as good, and cheaper")
    back = counted("canary", "rollback", CANARY.id, "--as", "bob", "-c", "rude")
    again = counted("canary", "promote", "newer")
    reset = counted("canary", "reset", "newer", "--as", "ada", "-o", "json")

    assert f"{CANARY.id} is promoted, as ada said (nobody verified that name)" in promoted.err
    assert "give [tasks.triage] the instructions of [canaries.newer], and take [canaries.newer] out." in promoted.err
    assert f"{CANARY.id} is rolled back, as bob said" in back.err
    assert Exit.USAGE == again.code and "Begin anew first: `perdure canary reset newer`" in again.err
    assert ("running", 0) == (reset.json["state"], reset.json["canary"]["calls"])
    said = counted("canary", "show", "newer").out
    assert "promoted, by ada: as good, and cheaper" in said and "rolled back, by bob: rude" in said


def test_unverified(counted: Perdure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where unverified decisions do not count a terminal promotes nothing, and may still go back."""
    monkeypatch.setenv("PERDURE_UNVERIFIED_DECISIONS", "refuse")

    assert Exit.NOT_ALLOWED == counted("canary", "promote", "newer").code
    assert Exit.NOT_ALLOWED == counted("canary", "reset", "newer").code
    assert Exit.OK == counted("canary", "rollback", "newer").code


def test_nothing_there(perdure: Perdure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no call has taken part in a canary there is nothing to list or to decide."""
    monkeypatch.setenv("PERDURE_HOME", str(tmp_path))

    assert "[canaries.NAME] in models.toml makes one" in perdure("canary", "list").err
    said = perdure("canary", "show", "newer")
    assert Exit.ERROR == said.code and "no call has taken part in a canary 'newer'" in said.err
