"""Tests of `judge` in workflows, and of approvals that are about a model's answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from kits.returns import decide, open_request
from kits.toy_workflows import JudgesWhatIsGone, SaysWhatWasRight
from kits.workflows import OpenWorker
from stand_ins.provider import Answers, Stub, stub_provider
from temporalio.client import WorkflowFailureError

from perdure.errors import InvalidInput
from perdure.governance.contracts import Verdict
from perdure.routing.contracts import Generation, ModelRecord
from perdure.routing.escalation import labels_of
from perdure.storage import open_database
from perdure.workflows import judge

GOOD = Answers('{"verdict": "refund", "edge_case": false, "why": "it is broken"}')


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    """A provider on loopback."""
    async with stub_provider() as provider:
        yield provider


@pytest.mark.parametrize(("verdict", "correct"), [("approve", True), ("reject", False), ("request changes", False)])
async def test_labels_of_a_run(
    governed: OpenWorker, stub: Stub, tmp_path: Path, verdict: Verdict, *, correct: bool
) -> None:
    """The step labels the answer; who approves or rejects corrects that, and who wants changes leaves it."""
    (tmp_path / "models.toml").write_text(
        f'[tasks.triage]\ntier = "small"\n[deployments.one]\ntier = "small"\nmodel = "openai/stub"\n'
        f'api_base = "{stub.url}"\n'
        "input_usd_per_mtok = 0.15\noutput_usd_per_mtok = 0.6\n"
    )
    stub.will(GOOD)
    async with governed(SaysWhatWasRight, settings={"models": tmp_path / "models.toml"}) as desk:
        handle = await desk.start(SaysWhatWasRight.run, "my cup came broken")
        await decide(handle, await open_request(handle), verdict)
        if verdict == "approve":
            await handle.result()
        else:
            with pytest.raises(WorkflowFailureError):
                await handle.result()

        assert await desk.replays(handle, [SaysWhatWasRight])
        async with open_database(desk.settings.database) as database:
            assert [correct] == [each.correct for each in await labels_of(database, "triage")]


async def test_decision_about_what_is_gone(governed: OpenWorker) -> None:
    """A decision holds, also where the call that it is about was never recorded."""
    async with governed(JudgesWhatIsGone) as desk:
        handle = await desk.start(JudgesWhatIsGone.run, "gone")
        await decide(handle, await open_request(handle), "approve")

        assert "mara" == await handle.result()


async def test_answer_of_a_person() -> None:
    """What a person has answered cannot be judged as a model's."""
    by_hand = ModelRecord(task="triage", tier="small", deployment="person", model="mara", provider_calls=0)

    with pytest.raises(InvalidInput, match="came from a person"):
        await judge(Generation(value={}, record=by_hand), correct=True)
