"""Tests that today's workflow code does what recorded runs did. tests/histories/record.py records more of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from histories import changed
from histories.cases import LARGEST, RECORDED, WORKFLOWS
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

import perdure
from perdure.plugin import PerdurePlugin
from perdure.settings import Settings

FOLDER = Path(__file__).parent / "histories"
FILES = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
"""The stored histories, by NAME@VERSION."""


@pytest.mark.parametrize("name", FILES)
async def test_stored_histories_replay(name: str, tmp_path: Path) -> None:
    """A run of an earlier version would go on with today's code, and replaying it needs no database."""
    diverged = await replay(FILES[name], WORKFLOWS, tmp_path / "home")

    assert diverged is None, f"{name}.json does not replay: {diverged}"
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("name", "workflow"),
    [
        ("remembers", changed.RecallsFirst),
        ("approved", changed.WritesFirst),
        ("returns-by-model", changed.RefundsFirst),
        ("saga-fails", changed.WritesOther),
    ],
)
async def test_a_change_of_the_order_is_found(name: str, workflow: type, tmp_path: Path) -> None:
    """A history doesn't fit code whose steps come in another order or have other names: the check above can fail."""
    diverged = await replay(FILES[f"{name}@{perdure.__version__}"], [workflow], tmp_path / "home")

    assert diverged is not None
    assert "TMPRL1100" in diverged


def test_every_case_is_stored() -> None:
    """Each case of the recorder has a history of this version, and none is large."""
    assert {f"{name}@{perdure.__version__}" for name in RECORDED} <= set(FILES)
    assert LARGEST > max(path.stat().st_size for path in FOLDER.glob("*.json"))


async def replay(recorded: dict[str, Any], workflows: Sequence[type], home: Path) -> str | None:
    """Replay a RECORDED history with WORKFLOWS and return the first divergence, or None."""
    started = recorded["events"][0]["workflowExecutionStartedEventAttributes"]
    # Under its own id: a decision binds to the run.
    history = WorkflowHistory.from_json(started["workflowId"], recorded)
    replayer = Replayer(workflows=workflows, plugins=[PerdurePlugin(Settings(home=home))])
    result = await replayer.replay_workflow(history, raise_on_replay_failure=False)
    return None if result.replay_failure is None else str(result.replay_failure)
