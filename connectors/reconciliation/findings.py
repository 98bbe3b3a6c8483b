"""What comparisons have found, and what became of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from pydantic import JsonValue
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import col

from perdure.connectors.events import add
from perdure.connectors.events.contracts import NewEvent
from perdure.connectors.reconciliation.contracts import Finding, FindingState, Report
from perdure.connectors.reconciliation.tables import FindingRow, ReportRow
from perdure.errors import NotFound
from perdure.storage import Database, now


class Findings:
    """The reports and findings of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, report: Report) -> Report:
        """Write REPORT down, open and close findings by it, and tell the stream; return it with how they stand now."""
        return await self._database.transact(lambda connection: _record(connection, report))

    async def report(self, id: str) -> Report:
        """Return the report called ID. Raises `NotFound`."""
        async with self._database.read() as connection:
            query = sa.select(col(ReportRow.report)).where(col(ReportRow.id) == id)
            found = (await connection.execute(query)).scalar_one_or_none()
        if found is None:
            raise NotFound(f"there is no report {id!r}; `perdure connectors reports` shows those there are")
        return Report.model_validate_json(found)

    async def reports(self, connector: str | None = None, *, limit: int = 20) -> Sequence[Report]:
        """Return the newest reports first, of one CONNECTOR if given."""
        query = sa.select(col(ReportRow.report)).order_by(col(ReportRow.at).desc(), col(ReportRow.id)).limit(limit)
        if connector is not None:
            query = query.where(col(ReportRow.connector) == connector)
        async with self._database.read() as connection:
            return [Report.model_validate_json(found) for found in (await connection.execute(query)).scalars()]

    async def last_report(self, connector: str) -> Report | None:
        """Return the newest report on CONNECTOR."""
        return next(iter(await self.reports(connector, limit=1)), None)

    async def finding(self, id: str) -> Finding:
        """Return the finding called ID, as it stands. Raises `NotFound`."""
        async with self._database.read() as connection:
            query = sa.select(FindingRow).where(col(FindingRow.id) == id)
            row = (await connection.execute(query)).mappings().one_or_none()
        if row is None:
            raise NotFound(f"there is no finding {id!r}; `perdure connectors findings` shows those that are open")
        return _to_finding(row)

    async def findings(
        self, connector: str | None = None, *, state: FindingState | None = "open", limit: int = 500
    ) -> Sequence[Finding]:
        """Return the findings in STATE (None: all), the newest first, of one CONNECTOR if given."""
        query = sa.select(FindingRow).order_by(col(FindingRow.opened_at).desc(), col(FindingRow.id)).limit(limit)
        if state is not None:
            query = query.where(col(FindingRow.state) == state)
        if connector is not None:
            query = query.where(col(FindingRow.connector) == connector)
        async with self._database.read() as connection:
            return [_to_finding(row) for row in (await connection.execute(query)).mappings()]

    async def open_counts(self, connector: str) -> dict[str, int]:
        """Return how many findings of CONNECTOR are open, by kind."""
        query = (
            sa.select(col(FindingRow.kind), sa.func.count())
            .where(col(FindingRow.connector) == connector, col(FindingRow.state) == "open")
            .group_by(col(FindingRow.kind))
        )
        async with self._database.read() as connection:
            return {str(row[0]): int(row[1]) for row in await connection.execute(query)}

    async def close(self, id: str, state: FindingState, *, by: str, repair: str = "") -> Finding:
        """Bring the finding called ID to STATE in the name of BY, and tell the stream. Twice is once."""
        await self._database.transact(lambda connection: _close(connection, id, state, by, repair))
        return await self.finding(id)


def _record(connection: sa.Connection, report: Report) -> Report:
    if connection.dialect.name == "postgresql":
        # Two comparisons of one target at once would both open what they find.
        connection.execute(
            sa.text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": f"reconcile {report.connector}"}
        )
    known = _load_known(connection, report)
    stands: list[Finding] = []
    opened: list[str] = []
    for found in report.findings:
        before = known.get(found.id)
        if before is None:
            opened.append(found.id)
            stands.append(found.model_copy(update={"first_report": report.id, "opened_at": report.at}))
        elif _is_reopened(before, report.at):
            opened.append(found.id)
            kept = {"first_report": before.first_report, "opened_at": report.at, "openings": before.openings + 1}
            stands.append(found.model_copy(update=kept))
        else:
            kept = {name: getattr(before, name) for name in ("first_report", "opened_at", "openings", *_CLOSING_FIELDS)}
            stands.append(found.model_copy(update=kept))
    stands = [each.model_copy(update={"last_report": report.id}) for each in stands]
    here = {each.id for each in stands}
    gone = [
        each for each in known.values() if each.state == "open" and each.id not in here and _is_covered(each.at, report)
    ]
    gone = [each.model_copy(update={"state": "gone", "closed_at": report.at, "last_report": report.id}) for each in gone]
    _write(connection, [*stands, *gone])
    done = report.model_copy(
        update={"findings": tuple(stands), "opened": tuple(opened), "gone": tuple(each.id for each in gone)}
    )
    row = {"id": done.id, "connector": done.connector, "report": done.model_dump_json(), "at": done.at}
    connection.execute(sa.insert(ReportRow), row)
    events = [_make_event("finding.opened", each, done.at) for each in stands if each.id in opened]
    events += [_make_event("finding.gone", each, done.at) for each in gone]
    add(connection, [*events, _done_event(done)])
    return done


def _close(connection: sa.Connection, id: str, state: FindingState, by: str, repair: str) -> None:
    at = now()
    changed = connection.execute(
        sa.update(FindingRow)
        .where(col(FindingRow.id) == id, col(FindingRow.state) == "open")
        .values(state=state, closed_at=at, closed_by=by, repair=repair)
    )
    if changed.rowcount:
        row = connection.execute(sa.select(FindingRow).where(col(FindingRow.id) == id)).mappings().one()
        add(connection, [_make_event(f"finding.{state}", _to_finding(row), at)])


_CLOSING_FIELDS = ("state", "closed_at", "closed_by", "repair")


def _is_reopened(before: Finding, at: datetime) -> bool:
    """Say whether a finding that was closed BEFORE counts as open again when it is found AT a later time."""
    if before.state == "gone":
        return True
    # What was taken away and is still there was not taken away. What was sent again has a key of its own now.
    removed = before.state == "repaired" and before.kind in ("duplicate", "unknown")
    return removed and before.closed_at is not None and before.closed_at < at


def _is_covered(at: datetime | None, report: Report) -> bool:
    # The list goes on to the moment of the comparison. Only what is missing is not said of what is younger than `until`.
    return at is None or report.since <= at <= report.at


def _load_known(connection: sa.Connection, report: Report) -> dict[str, Finding]:
    """Return the findings that REPORT may change: those that are open, and those that it has itself."""
    ours = col(FindingRow.connector) == report.connector
    queries = [sa.select(FindingRow).where(ours, col(FindingRow.state) == "open")]
    ids = sorted({each.id for each in report.findings})
    parts = (ids[start : start + 500] for start in range(0, len(ids), 500))
    queries += [sa.select(FindingRow).where(col(FindingRow.id).in_(part)) for part in parts]
    return {row["id"]: _to_finding(row) for query in queries for row in connection.execute(query).mappings()}


def _write(connection: sa.Connection, findings: Sequence[Finding]) -> None:
    rows = [
        {**each.model_dump(), "facts": _json(each.facts), "recorded": _json(each.recorded)}
        for each in {each.id: each for each in findings}.values()
    ]
    if not rows:
        return
    insert = sqlite.insert(FindingRow) if connection.dialect.name == "sqlite" else postgresql.insert(FindingRow)
    changed = {name: insert.excluded[name] for name in rows[0] if name != "id"}
    connection.execute(insert.on_conflict_do_update(index_elements=["id"], set_=changed), rows)


def _make_event(type: str, finding: Finding, at: datetime) -> NewEvent:  # noqa: A002  CloudEvents calls it so
    data: dict[str, JsonValue] = finding.model_dump(mode="json", exclude={"facts", "recorded"})
    return NewEvent(
        id=f"{type}:{finding.id}:{at.isoformat()}",
        type=type,
        source=finding.connector,
        subject=finding.id,
        data=data,
        at=at,
    )


def _done_event(report: Report) -> NewEvent:
    data: dict[str, JsonValue] = report.model_dump(mode="json", exclude={"findings"})
    counts: dict[str, JsonValue] = {**report.counts}
    return NewEvent(
        id=f"reconciliation.done:{report.id}",
        type="reconciliation.done",
        source=report.connector,
        subject=report.id,
        data={**data, "counts": counts},
        at=report.at,
    )


def _to_finding(row: sa.RowMapping) -> Finding:
    return Finding(**{**row, "facts": json.loads(row["facts"]), "recorded": json.loads(row["recorded"])})


def _json(value: JsonValue) -> str:
    return json.dumps(value, ensure_ascii=False)
