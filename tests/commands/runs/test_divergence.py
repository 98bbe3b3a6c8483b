"""What a replay that diverges says: the recorded step, and the line of code that does something else."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from histories import changed
from temporalio.client import WorkflowHistory

from perdure.commands.runs.replay import ReplayFailure, replay_history
from perdure.settings import Settings

HISTORIES = Path(__file__).parents[2] / "histories"


async def diverge(name: str, workflow: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReplayFailure:
    """Replay the stored history NAME with WORKFLOW and return how that failed."""
    module = ModuleType("careless")
    module.__dict__[workflow.__name__] = workflow
    monkeypatch.setitem(sys.modules, "careless", module)
    recorded = json.loads((HISTORIES / f"{name}@0.1.0.json").read_text())
    run = recorded["events"][0]["workflowExecutionStartedEventAttributes"]["workflowId"]
    history = WorkflowHistory.from_json(run, recorded)
    failure = await replay_history(Settings(home=tmp_path), history, "default", ["careless"], patience=60)
    assert failure is not None
    return failure


@pytest.mark.parametrize(
    ("name", "workflow", "did", "does", "statement"),
    [
        ("remembers", changed.RecallsFirst, "'remember' (perdure.remember) at event 5", "'recall'", "await recall("),
        ("approved", changed.WritesFirst, "'approval' (perdure.ask) at event 5", "'null.write'", "await act("),
        ("returns-by-model", changed.RefundsFirst, "'inventory.reserve'", "'payments.refund'", "refund = await"),
        ("saga-fails", changed.WritesOther, "'null.write#2' (perdure.act) at event 12", "'second'", '"second"'),
    ],
)
async def test_step_and_line_are_named(
    *, name: str, workflow: type, did: str, does: str, statement: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step that was recorded and the line that does another are named (case 80: replay that diverges)."""
    failure = await diverge(name, workflow, tmp_path, monkeypatch)

    assert failure.nondeterministic
    assert f"the run did {did}" in failure.message
    assert f"where the code does {does} (" in failure.message
    lines, first = inspect.getsourcelines(workflow)
    [number] = [first + index for index, line in enumerate(lines) if statement in line][:1]
    assert f"changed.py:{number})" in failure.message
    assert "TMPRL1100" in failure.message


@pytest.mark.parametrize(
    ("name", "workflow", "did", "after"),
    [
        ("remembers", changed.ForgetsToRecall, "the run did 'recall' (perdure.recall) at event 11", "'remember'"),
        ("returns-by-model", changed.ForgetsToRemember, "the run did 'remember' (perdure.remember)", "'payments.refund'"),
    ],
)
async def test_a_step_that_is_gone_is_named(
    *, name: str, workflow: type, did: str, after: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the code ends early, the step that it lacks is named, and the last line that fitted (case 80: replay)."""
    failure = await diverge(name, workflow, tmp_path, monkeypatch)

    assert did in failure.message
    assert f"where the code does something else after {after} (" in failure.message
    assert "changed.py:" in failure.message
