"""What was asked of people, across runs: the table that inboxes and lists read."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa
from pydantic import JsonValue
from sqlmodel import col

from perdure.governance.contracts import AskCall, RecordCall
from perdure.governance.tables import ApprovalRow, insert_ignore
from perdure.lazy import lazy
from perdure.lineage import Frozen, StepRef
from perdure.storage import Database


class ApprovalEntry(Frozen):
    """One approval as the table has it."""

    workflow_id: str
    first_execution_run_id: str
    run_id: str
    workflow_type: str
    approval: str
    question: str
    of: str
    risk: str
    about: JsonValue
    digest: str
    asked_at: datetime
    deadline: datetime
    state: str
    verdict: str | None
    by: str | None
    comment: str | None
    verified: bool | None
    via: str | None
    closed_at: datetime | None


class Approvals:
    """The approvals table. Writing twice from the same step writes once, so an activity may be retried."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ask(self, call: AskCall) -> None:
        """Write down that CALL's request is open."""
        request, step = call.request, call.step
        row = ApprovalRow(
            **step.lineage.model_dump(),
            approval=request.approval,
            run_id=step.run_id,
            workflow_type=step.workflow_type,
            question=request.question,
            of=request.of,
            risk=request.risk,
            about=json.dumps(request.about, ensure_ascii=False),
            digest=request.digest,
            asked_at=request.asked_at,
            deadline=request.deadline,
        )
        async with self._database.write() as connection:
            await connection.execute(insert_ignore(ApprovalRow, sqlite=self._database.sqlite), [row.model_dump()])

    async def record(self, call: RecordCall) -> None:
        """Write down how the request ended."""
        decision = call.decision
        said = decision.model_dump(include={"verdict", "by", "comment", "verified", "via"}) if decision else {}
        update = (
            sa.update(ApprovalRow)
            .where(*_match_approval(call.step, call.approval))
            .values(state=call.ended, closed_at=call.at, **said)
        )
        async with self._database.write() as connection:
            await connection.execute(update)

    async def list(
        self, *, state: str | None = "open", workflow_id: str | None = None, limit: int = 500
    ) -> list[ApprovalEntry]:
        """Return the approvals in STATE (None: all), those with the nearest deadline first."""
        query = sa.select(ApprovalRow).order_by(col(ApprovalRow.deadline), col(ApprovalRow.workflow_id)).limit(limit)
        if state is not None:
            query = query.where(col(ApprovalRow.state) == state)
        if workflow_id is not None:
            query = query.where(col(ApprovalRow.workflow_id) == workflow_id)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        names = ApprovalEntry.model_fields
        return [
            ApprovalEntry(**{name: row[name] for name in names if name != "about"}, about=json.loads(row["about"]))
            for row in rows
        ]


def _match_approval(step: StepRef, approval: str) -> list[sa.ColumnElement[bool]]:
    lineage = step.lineage
    return [
        col(ApprovalRow.namespace) == lineage.namespace,
        col(ApprovalRow.workflow_id) == lineage.workflow_id,
        col(ApprovalRow.first_execution_run_id) == lineage.first_execution_run_id,
        col(ApprovalRow.approval) == approval,
    ]


if not TYPE_CHECKING:
    # Names of 0.1.0; `perdure.moved` has them. Remove after 2027-06.
    __getattr__ = lazy(__name__, {})
