"""What models have cost, at the command line."""

from __future__ import annotations

from kits.cli import Perdure, until

from perdure.commands.exits import Exit


def test_cost_by_outcome(desk: Perdure) -> None:
    """`cost --by outcome` groups by how runs ended, with what a completed step has cost."""
    assert 0 == desk("run", "Desk", "--id", "costs-1", "-i", '{"message": "It arrived broken"}').code

    # The list of runs follows what happens with a delay.
    until(lambda: "completed" in {row["group"] for row in desk("cost", "--by", "outcome", "-o", "json").rows})
    [row] = [row for row in desk("cost", "--by", "outcome", "-o", "json").rows if row["group"] == "completed"]

    assert row["completed"] >= 1 and row["calls"] >= 1 and row["per_completed"] == 0


def test_cost_by_task(desk: Perdure) -> None:
    """`cost` prints a table, for all time or since a day."""
    assert 0 == desk("run", "Desk", "--id", "costs-2", "-i", '{"message": "It arrived broken"}').code

    assert "triage" in desk("cost", "--by", "task").out
    assert "all" in desk("cost").out
    assert "no model was called" in desk("cost", "--since", "2100-01-01").err
    assert Exit.USAGE == desk("cost", "--since", "yesterday").code


def test_no_budgets(desk: Perdure) -> None:
    """Where no budget was drawn on there is nothing to list or to raise."""
    assert "no budget was drawn on" in desk("budgets", "list").err
    said = desk("budgets", "raise", "cap", "--usd", "5")

    assert (Exit.ERROR, True) == (said.code, "`perdure budgets list`" in said.err)
    assert "has not been used yet" in said.err, "(case 80: odd texts)"
