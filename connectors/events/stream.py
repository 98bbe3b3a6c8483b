"""What happened, in one order that any reader can follow: transitions of effects, findings, contracts, what others sent.

The ledger's own transitions are taken into the stream when it is read, so acting costs nothing more.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterable, Sequence
from datetime import timedelta

import sqlalchemy as sa
from pydantic import JsonValue
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import col

from perdure.connectors.events.contracts import NewEvent, StreamEvent
from perdure.connectors.events.tables import CursorRow, StreamRow
from perdure.connectors.ledger.tables import EffectEventRow, EffectRow
from perdure.storage import AdvisoryLock, Database, now

_LEDGER = "the stream, of the ledger"
_BATCH = 500
_TOGETHER = 100


class Stream:
    """The events of one database. Each is in it once, by its id, and a later one has a higher cursor."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, *events: NewEvent) -> int:
        """Add EVENTS and return how many of them were new."""
        return await self._database.transact(lambda connection: add(connection, events))

    async def find(self, id: str) -> StreamEvent | None:
        """Return the event with this ID, if it is there."""
        async with self._database.read() as connection:
            row = (await connection.execute(sa.select(StreamRow).where(col(StreamRow.id) == id))).mappings().one_or_none()
        return None if row is None else _to_event(row)

    async def events(self, after: int = 0, *, limit: int = 100, kind: str = "") -> Sequence[StreamEvent]:
        """Return up to LIMIT events after the cursor AFTER, oldest first, of type KIND or `KIND.*` if given."""
        await self.gather()
        query = sa.select(StreamRow).where(col(StreamRow.cursor) > after).order_by(col(StreamRow.cursor)).limit(limit)
        if kind:
            query = query.where(
                sa.or_(col(StreamRow.type) == kind, col(StreamRow.type).startswith(f"{kind}.", autoescape=True))
            )
        async with self._database.read() as connection:
            return [_to_event(row) for row in (await connection.execute(query)).mappings()]

    async def follow(
        self, after: int = 0, *, kind: str = "", every: timedelta = timedelta(seconds=0.5)
    ) -> AsyncGenerator[StreamEvent, None]:
        """Yield the events after the cursor AFTER, and then each new one, looking EVERY so often."""
        while True:
            found = await self.events(after, kind=kind)
            for event in found:
                after = event.cursor
                yield event
            if not found:
                # Writers are other processes, and neither database tells us of them.
                await asyncio.sleep(every.total_seconds())

    async def read_cursor(self, reader: str) -> int:
        """Return how far READER has come, 0 if it has not begun."""
        async with self._database.read() as connection:
            return await connection.run_sync(lambda sync: _read_cursor(sync, reader))

    async def save_cursor(self, reader: str, cursor: int) -> None:
        """Remember that READER has come as far as CURSOR. It never goes back."""
        await self._database.transact(lambda connection: _save_cursor(connection, reader, cursor))

    async def gather(self) -> None:
        """Take the ledger's new transitions into the stream."""
        async with self._database.read() as connection:
            if not await connection.run_sync(_is_behind):
                return
        while await self._database.transact(_gather) == _BATCH:
            pass


def add(connection: sa.Connection, events: Iterable[NewEvent]) -> int:
    """Add EVENTS within the transaction of CONNECTION and return how many were new."""
    rows = [event.model_dump(exclude={"data"}) | {"data": json.dumps(event.data, ensure_ascii=False)} for event in events]
    if not rows:
        return 0
    _lock_stream(connection)
    insert = sqlite.insert(StreamRow) if connection.dialect.name == "sqlite" else postgresql.insert(StreamRow)
    new = insert.on_conflict_do_nothing().returning(col(StreamRow.cursor))
    chunks = (rows[start : start + _TOGETHER] for start in range(0, len(rows), _TOGETHER))
    return sum(len(connection.execute(new.values(chunk)).all()) for chunk in chunks)


def _lock_stream(connection: sa.Connection) -> None:
    # A number is given before its row can be seen. Without this a reader could pass one that is not committed yet.
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({AdvisoryLock.EVENT_STREAM:d})"))


def _is_behind(connection: sa.Connection) -> bool:
    newest = connection.execute(sa.select(sa.func.max(col(EffectEventRow.id)))).scalar() or 0
    return newest > _read_cursor(connection, _LEDGER)


def _gather(connection: sa.Connection) -> int:
    _lock_stream(connection)
    if not _wait_for_ledger_writers(connection):
        return 0
    query = (
        sa.select(EffectEventRow, EffectRow)
        .join(EffectRow, col(EffectRow.key) == col(EffectEventRow.key), isouter=True)
        .where(col(EffectEventRow.id) > _read_cursor(connection, _LEDGER))
        .order_by(col(EffectEventRow.id))
        .limit(_BATCH)
    )
    found = (
        connection.execute(
            query.with_only_columns(
                *(column.label(f"event_{column.name}") for column in sa.inspect(EffectEventRow).columns),
                *(col(column) for column in (EffectRow.action, EffectRow.workflow_id, EffectRow.step, EffectRow.item)),
                *(col(column) for column in (EffectRow.generation, EffectRow.undo_of, EffectRow.remote_ref)),
            )
        )
        .mappings()
        .all()
    )
    if found:
        add(connection, [_transition_event(row) for row in found])
        _save_cursor(connection, _LEDGER, found[-1]["event_id"])
    return len(found)


def _wait_for_ledger_writers(connection: sa.Connection) -> bool:
    """Wait until no transaction of the ledger is open that has a number already. False if one stays open."""
    if connection.dialect.name != "postgresql":
        return True
    try:
        with connection.begin_nested():
            connection.execute(sa.text("SET LOCAL lock_timeout = '250ms'"))
            # Writers wait for this lock and it for them; both are a matter of milliseconds. It goes with the transaction.
            connection.execute(sa.text(f"LOCK TABLE {EffectEventRow.__tablename__} IN SHARE MODE"))
    except exc.DBAPIError as error:
        if getattr(error.orig, "sqlstate", "") != "55P03":
            raise
        return False
    return True


def _transition_event(row: sa.RowMapping) -> NewEvent:
    moved = row["event_before"] != row["event_after"]
    data: dict[str, JsonValue] = {
        name: row[name] for name in ("action", "workflow_id", "step", "item", "generation", "undo_of", "remote_ref")
    }
    data |= {"before": row["event_before"], "after": row["event_after"], "fence": row["event_fence"]}
    return NewEvent(
        id=f"{row['event_key']}:{row['event_id']}",
        type=f"effect.{row['event_after']}" if moved else "effect.noted",
        source=str(row["action"] or "").partition(".")[0],
        subject=row["event_key"],
        data=data | {"note": row["event_note"]},
        at=row["event_at"],
    )


def _read_cursor(connection: sa.Connection, reader: str) -> int:
    query = sa.select(col(CursorRow.cursor)).where(col(CursorRow.reader) == reader)
    return connection.execute(query).scalar() or 0


def _save_cursor(connection: sa.Connection, reader: str, cursor: int) -> None:
    insert = sqlite.insert(CursorRow) if connection.dialect.name == "sqlite" else postgresql.insert(CursorRow)
    forward = insert.on_conflict_do_update(
        index_elements=["reader"],
        set_={"cursor": insert.excluded.cursor, "at": insert.excluded.at},
        where=insert.excluded.cursor > col(CursorRow.cursor),
    )
    connection.execute(forward, {"reader": reader, "cursor": cursor, "at": now()})


def _to_event(row: sa.RowMapping) -> StreamEvent:
    return StreamEvent(**{**row, "data": json.loads(row["data"])})
