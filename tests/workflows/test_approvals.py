"""Tests of workflows/approvals.py: which answers count."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import timedelta
from pathlib import Path

import pytest
from kits.toy_workflows import Asks, AsksAbout, AsksTwoAtOnce
from kits.workflows import Handle, OpenWorker
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import Client, WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.common import SearchAttributeKey
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from perdure.connectors.null import NullConnector
from perdure.governance.approvals import Approvals
from perdure.governance.contracts import (
    APPROVALS,
    DECIDE,
    ApprovalRequest,
    Decision,
    DecisionCall,
)
from perdure.plugin import PerdurePlugin
from perdure.settings import Settings
from perdure.storage import open_database


def decision(request: ApprovalRequest, verdict: str = "approve", by: str = "mara", comment: str = "") -> DecisionCall:
    """Return what a reviewer sends about REQUEST."""
    return DecisionCall.model_validate(
        {"approval": request.approval, "digest": request.digest, "verdict": verdict, "by": by, "comment": comment}
    )


async def details(handle: Handle) -> str:
    """Return what the Web UI shows above the run."""
    metadata = await handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
    return str(metadata.current_details)


async def open_request(handle: Handle, count: int = 1) -> list[ApprovalRequest]:
    """Return the run's open approvals as soon as there are COUNT."""
    while True:
        found: list[ApprovalRequest] = await handle.query(APPROVALS, result_type=list[ApprovalRequest])
        if len(found) >= count:
            return found
        await asyncio.sleep(0.05)  # a query cannot be waited on


async def test_an_approval_lets_the_run_go_on(governed: OpenWorker) -> None:
    """The run waits, takes the decision, and the decision says that nobody verified its sender."""
    async with governed(Asks) as desk:
        handle = await desk.start(Asks.run, 1)
        [request] = await open_request(handle)
        before = dict(desk.null.effects)
        decided = await handle.execute_update(DECIDE, decision(request), result_type=Decision)

        assert "mara" == await handle.result()
        assert not before
        assert not decided.verified
        assert await desk.replays(handle, [Asks])


async def test_a_decision_on_something_else_does_not_count(governed: OpenWorker) -> None:
    """A decision binds to the digest of what was asked: with another digest it is refused and the run goes on waiting."""
    async with governed(Asks) as desk:
        handle = await desk.start(Asks.run, 1)
        other = await desk.start(Asks.run, 1)
        [request], [foreign] = await open_request(handle), await open_request(other)

        with pytest.raises(WorkflowUpdateFailedError) as refused:
            await handle.execute_update(DECIDE, decision(foreign))
        assert request.digest != foreign.digest
        assert "digest does not fit" in str(refused.value.cause)
        assert [request] == await open_request(handle)


async def test_deciding_twice_decides_once(governed: OpenWorker) -> None:
    """The same decision again gives the first answer; another one is told who decided."""
    async with governed(AsksTwoAtOnce) as desk:
        handle = await desk.start(AsksTwoAtOnce.run, 1)
        first, second = await open_request(handle, 2)
        once = await handle.execute_update(DECIDE, decision(first), result_type=Decision)
        twice = await handle.execute_update(DECIDE, decision(first), result_type=Decision)

        with pytest.raises(WorkflowUpdateFailedError) as refused:
            await handle.execute_update(DECIDE, decision(first, "reject", comment="no"))
        await handle.execute_update(DECIDE, decision(second, by="ole"))

        assert once == twice
        assert "already decided: approve by mara" in str(refused.value.cause)
        assert ["mara", "ole"] == await handle.result()


async def test_a_rejection_fails_the_run_with_who_and_why(governed: OpenWorker) -> None:
    """A rejection raises, and nothing behind it happens."""
    async with governed(Asks) as desk:
        handle = await desk.start(Asks.run, 1)
        [request] = await open_request(handle)
        await handle.execute_update(DECIDE, decision(request, "reject", comment="not this one"))

        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        cause = failed.value.cause
        assert isinstance(cause, ApplicationError)
        assert "Rejected" == cause.type
        assert "mara rejected 'Write it?': not this one" == cause.message
        assert not desk.null.effects


async def test_a_rejection_without_a_reason_is_refused() -> None:
    """Reject and request changes need a comment."""
    with pytest.raises(ValueError, match="needs a comment that says why"):
        DecisionCall(approval="a", digest="d", verdict="reject", by="mara")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"by": "YOUR NAME"}, "write your name in place of 'YOUR NAME'"),
        ({"by": " your name "}, "write your name in place of 'YOUR NAME'"),
        ({"verdict": "reject"}, "'reject' needs a comment that says why"),
        ({"verdict": "refuse"}, "verdict: Input should be 'approve', 'reject' or 'request changes'"),
        ({"by": None}, "by: Input should be a valid string"),
        ({"name": "mara"}, "there is no field 'name'"),
    ],
)
async def test_what_is_no_decision_is_answered_in_one_line(
    governed: OpenWorker, changes: dict[str, object], said: str
) -> None:
    """What the Web UI sends is refused in words, without a traceback, and the run waits on (case 80: the Web UI)."""
    async with governed(Asks) as desk:
        handle = await desk.start(Asks.run, 1)
        [request] = await open_request(handle)

        with pytest.raises(WorkflowUpdateFailedError) as refused:
            await handle.execute_update(DECIDE, decision(request).model_dump() | changes)

        cause = refused.value.cause
        assert isinstance(cause, ApplicationError)
        assert (said, "DecisionRefused") == (cause.message, cause.type)
        assert cause.failure is not None
        assert not cause.failure.stack_trace
        assert not cause.failure.HasField("cause")
        assert [request] == await open_request(handle)


@pytest.mark.parametrize("given", [[], ["a", "b"], ["approve"]])
async def test_an_update_that_is_no_object_is_answered(governed: OpenWorker, given: list[str]) -> None:
    """Nothing, two values or a bare word get an answer too (case 80: the Web UI)."""
    async with governed(Asks) as desk:
        handle = await desk.start(Asks.run, 1)
        [request] = await open_request(handle)

        with pytest.raises(WorkflowUpdateFailedError):
            await handle.execute_update(DECIDE, args=given)

        assert [request] == await open_request(handle)


async def test_the_placeholder_in_a_signal_is_ignored(governed: OpenWorker) -> None:
    """A signal in nobody's name does not count, and the run's page says so (case 80: the Web UI)."""
    async with governed(Asks) as desk:
        handle = await desk.start(Asks.run, 1)
        [request] = await open_request(handle)

        await handle.signal(DECIDE, decision(request, by="YOUR NAME").model_dump())
        page = await details(handle)
        assert "write your name in place of 'YOUR NAME'" in page

        await handle.execute_update(DECIDE, decision(request), result_type=Decision)
        assert "mara" == await handle.result()
        assert await desk.replays(handle, [Asks])


async def test_the_page_holds_what_a_reviewer_needs(governed: OpenWorker) -> None:
    """The page shows what is decided about, and JSON with all that a rejection needs (case 80: the Web UI)."""
    async with governed(AsksAbout) as desk:
        handle = await desk.start(AsksAbout.run, {"supplier": "Bahn AG", "amount": 89_000, "notes": "n" * 5000})
        [request] = await open_request(handle)

        page = await details(handle)

        [about, call] = re.findall(r"```json\n(.*?)\n```", page, re.DOTALL)
        assert '"supplier": "Bahn AG"' in about and '"amount": 89000' in about
        assert "prints all of it" in page and len(page) < 3000
        sent = json.loads(call) | {"by": "mara", "verdict": "reject", "comment": "not ours"}
        assert {"approval", "digest", "verdict", "by", "comment"} == sent.keys()
        decided = await handle.execute_update(DECIDE, sent, result_type=Decision)
        assert ("reject", request.digest) == (decided.verdict, decided.digest)


async def test_a_signal_from_the_web_ui_counts_as_unverified(governed: OpenWorker) -> None:
    """The mirrored signal decides like the update, also when malformed ones came before it."""
    async with governed(Asks) as desk:
        handle = await desk.start(Asks.run, 1)
        [request] = await open_request(handle)
        await handle.signal(DECIDE, {"approval": "nonsense"})
        await handle.signal(DECIDE, decision(request, by="typed by hand").model_dump())

        assert "typed by hand" == await handle.result()


async def test_policy_can_refuse_decisions_that_nobody_verified(governed: OpenWorker) -> None:
    """With unverified_decisions = refuse neither the update nor the signal counts."""
    async with governed(Asks, settings={"unverified_decisions": "refuse"}) as desk:
        handle = await desk.start(Asks.run, 1)
        [request] = await open_request(handle)
        await handle.signal(DECIDE, decision(request).model_dump())

        with pytest.raises(WorkflowUpdateFailedError) as refused:
            await handle.execute_update(DECIDE, decision(request))
        assert "is not verified" in str(refused.value.cause)
        assert [request] == await open_request(handle)


async def test_what_waits_can_be_listed(governed: OpenWorker) -> None:
    """The list shows state, owner and deadline while a run waits, and the approvals table how it ended."""
    async with governed(Asks) as desk:
        handle = await desk.start(Asks.run, 1)
        [request] = await open_request(handle)
        described = (await handle.describe()).typed_search_attributes
        await handle.execute_update(DECIDE, decision(request))
        await handle.result()

        assert "waiting_approval" == described[SearchAttributeKey.for_keyword("PerdureState")]
        assert "editor" == described[SearchAttributeKey.for_keyword("PerdureApprovalOwner")]
        assert request.deadline.replace(microsecond=0) == described[
            SearchAttributeKey.for_datetime("PerdureApprovalDeadline")
        ].replace(microsecond=0)
        async with open_database(desk.settings.database) as database:
            [row] = await Approvals(database).list(state="decided")
        assert ("approve", "mara", False) == (row.verdict, row.by, row.verified)


async def test_nobody_decides_in_time(time_skipping: WorkflowEnvironment, tmp_path: Path) -> None:
    """After the deadline the run fails with ApprovalExpired, days later, and the table says so."""
    settings = Settings(home=tmp_path, task_queue="late")
    plugin = PerdurePlugin(settings, connectors=[NullConnector()])
    client = await Client.connect(time_skipping.client.service_client.config.target_host, plugins=[plugin])
    async with Worker(client, task_queue="late", workflows=[Asks]):
        started = await time_skipping.get_current_time()
        handle = await time_skipping.client.start_workflow("Asks", 48, id="late", task_queue="late")

        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        assert isinstance(failed.value.cause, ApplicationError)
        assert "ApprovalExpired" == failed.value.cause.type
        assert await time_skipping.get_current_time() - started >= timedelta(hours=48)
        async with open_database(settings.database) as database:
            [row] = await Approvals(database).list(state="expired")
        assert row.verdict is None
