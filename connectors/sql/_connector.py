"""How actions reach a SQL database: one transaction each, with a row of its own that says it was done.

Safe to import in workflow code: SQLAlchemy and the drivers come with the first call.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, NoReturn, cast

from pydantic import BaseModel, ValidationError

from perdure.connectors.configured import ConfiguredConnector, class_actions, shared_name
from perdure.connectors.contracts import (
    Absent,
    AnyAction,
    Attempt,
    CannotTell,
    Executed,
    Found,
    Listed,
    Probe,
)
from perdure.connectors.drift.contracts import Contract
from perdure.connectors.sql._action import SqlAction
from perdure.connectors.sql._contract import columns_in, from_columns
from perdure.connectors.sql._statement import escape_colons, find_json_parameters
from perdure.connectors.sql._values import UnbindableError, bind, explain
from perdure.errors import (
    EffectRejected,
    EffectUnknown,
    InvalidSettings,
    TargetUnavailable,
)

if TYPE_CHECKING:
    from sqlalchemy.engine import Compiled, RowMapping
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

__all__ = ["SqlAction", "SqlConnector"]

DDL = """\
CREATE TABLE IF NOT EXISTS perdure_effect (
    key VARCHAR(64) PRIMARY KEY,
    action TEXT NOT NULL,
    response TEXT,
    at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
)"""
"""The table of the rows that say which effects were done. Where the connector may not create it, somebody else has to."""

_BEGIN = "INSERT INTO perdure_effect (key, action) VALUES (:key, :action) ON CONFLICT (key) DO NOTHING"
_END = "UPDATE perdure_effect SET response = :response WHERE key = :key"
_LOOK = "SELECT response FROM perdure_effect WHERE key = :key"
# The column has the time of the session that wrote it, without saying which; the window is wide enough for any.
_LIST = "SELECT key, action, response, at FROM perdure_effect WHERE at >= :since ORDER BY at, key"
_ZONES = timedelta(days=1)
# Two transactions were in each other's way, or another holds what this one wants: the database has undone this one.
_TRY_AGAIN = {"40001", "40P01", "55P03", "57014"}

_Action = SqlAction[BaseModel, BaseModel]


class SqlConnector(ConfiguredConnector):
    """The actions of one database, declared as class attributes. Their names begin with its name.

        class Warehouse(SqlConnector):
            take = SqlAction(
                "warehouse.take", Take, Taken,
                statements=["UPDATE stock SET free = free - :count WHERE sku = :sku AND free >= :count RETURNING free"],
            )

    In the same transaction a row with the effect's key goes into the table `perdure_effect` of that database. So it is done
    together with the row or not at all, a repeat finds the row and does nothing, and a lost answer is read from it.
    """

    takes: ClassVar = {"url": "postgresql+asyncpg://user@host/name", "create_table": "no"}
    needs: ClassVar = ("url",)

    def __init__(self) -> None:
        every: list[_Action] = class_actions(self, SqlAction)
        super().__init__(shared_name(self, every), {action.name: cast(AnyAction, action) for action in every})
        self._reset()

    def _reset(self) -> None:
        self._engine: AsyncEngine | None = None
        self._table_is_there = False
        self._opening = asyncio.Lock()
        url = (self._options or {}).get("url", "")
        if url and not url.startswith(("env:", "postgresql+asyncpg://", "sqlite+aiosqlite:///")):
            raise InvalidSettings(f"{self.where} url has to begin with postgresql+asyncpg:// or sqlite+aiosqlite:///")

    async def execute(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Executed:
        """Do ACTION in one transaction; if its row is there, return that. Raises as `Connector.execute` says."""
        spec = _require_sql(action)
        committing = False
        async with self._connect(spec) as connection:
            try:
                transaction = await connection.begin()
                if spec.reads:
                    return Executed(await self._run_statements(connection, spec, args, ""))
                executed = await self._execute_once(connection, spec, args, attempt.key)
                committing = True
                await transaction.commit()
            except ValueError as error:
                raise EffectRejected(f"{error}; nothing was changed") from None
            except Exception as error:  # noqa: BLE001  it is raised again as what it means
                _raise_translated(error, spec, committing=committing)
        return executed

    async def probe(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Probe:
        """Look for the row of the effect of `attempt.key`. Raises `TargetUnavailable` where there is no answer."""
        spec = _require_sql(action)
        async with self._connect(spec) as connection:
            try:
                return await self._look_up(connection, spec, attempt.key)
            except Exception as error:  # noqa: BLE001  it is raised again as what it means
                _raise_translated(error, spec, committing=False)

    @property
    def listed_actions(self) -> Collection[str]:
        """All that write: each leaves its row."""
        return [action.name for action in self.actions.values() if not action.reads]

    async def listing(self, since: datetime, until: datetime) -> AsyncIterator[Listed]:
        """Yield what the rows say that was done. Raises `TargetUnavailable` where they cannot be read."""
        import sqlalchemy as sa

        spec = next((_require_sql(action) for action in self.actions.values() if not action.reads), None)
        if spec is None:
            return
        async with self._connect(spec) as connection:
            try:
                begin = (since - _ZONES).astimezone(UTC).replace(tzinfo=None)
                bound = sa.text(_LIST).bindparams(sa.bindparam("since", begin, sa.DateTime()))
                rows = (await connection.execute(bound)).mappings().all()
            except Exception as error:  # noqa: BLE001  it is raised again as what it means
                _raise_translated(error, spec, committing=False)
        for row in rows:
            if row["action"] in self.actions:
                yield _read_row(row)

    async def contract(self) -> Contract | None:
        """Ask the database for the columns that the statements name. Raises `TargetUnavailable`."""
        specs = [_require_sql(action) for action in self.actions.values()]
        async with self._connect(specs[0]) as connection:
            try:
                columns = await connection.run_sync(lambda sync: columns_in(sync, specs))
            except Exception as error:  # noqa: BLE001  it is raised again as what it means
                _raise_translated(error, specs[0], committing=False)
        return from_columns(columns, specs)

    async def close(self) -> None:
        """Close the connections."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.dispose()

    async def _execute_once(self, connection: AsyncConnection, spec: _Action, args: BaseModel, key: str) -> Executed:
        import sqlalchemy as sa

        # First, so that another attempt with this key waits here until it is known what becomes of this one.
        began = await connection.execute(sa.text(_BEGIN), {"key": key, "action": spec.name})
        if began.rowcount == 0:
            before = await self._look_up(connection, spec, key)
            if isinstance(before, Found):
                return before.executed
            raise EffectUnknown(f"{spec.name}: the row of this effect is there, and cannot be read")
        output = await self._run_statements(connection, spec, args, key)
        await connection.execute(sa.text(_END), {"key": key, "response": output.model_dump_json()})
        return Executed(output, remote_ref=key)

    async def _run_statements(self, connection: AsyncConnection, spec: _Action, args: BaseModel, key: str) -> BaseModel:
        import sqlalchemy as sa
        from sqlalchemy.exc import DBAPIError

        rows: Sequence[RowMapping] | None = None
        changed = 0
        for statement in spec.statements:
            values = spec.parameters(statement, args, key)
            text = sa.text(escape_colons(statement))
            try:
                result = await connection.execute(text, _bind_all(connection, spec, statement, values))
            except DBAPIError as error:
                _name_field(error, spec, text.compile(dialect=connection.dialect), values)
                raise
            rows = result.mappings().all() if result.returns_rows else None
            changed = max(result.rowcount, 0)
        return spec.read(None if rows is None else [dict(row) for row in rows], changed)

    async def _look_up(self, connection: AsyncConnection, spec: _Action, key: str) -> Probe:
        import sqlalchemy as sa

        found = (await connection.execute(sa.text(_LOOK), {"key": key})).one_or_none()
        if found is None:
            return Absent()
        try:
            return Found(Executed(spec.output.model_validate(json.loads(found[0])), remote_ref=key))
        except (ValidationError, ValueError, TypeError):
            return CannotTell(f"{spec.name}: its row is there, and what it recorded does not fit {spec.output.__name__}")

    @asynccontextmanager
    async def _connect(self, spec: _Action) -> AsyncIterator[AsyncConnection]:
        # Whatever goes wrong in here, nothing has been sent that could be committed.
        try:
            engine = await self._open_engine(spec)
            connection = await engine.connect()
        except (TargetUnavailable, InvalidSettings):
            raise
        except Exception as error:  # noqa: BLE001  each driver has errors of its own for this
            raise TargetUnavailable(f"{spec.name}: {self.name} cannot be reached ({type(error).__name__})") from None
        try:
            yield connection
        finally:
            await connection.close()

    async def _open_engine(self, spec: _Action) -> AsyncEngine:
        async with self._opening:
            if self._engine is None:
                self._engine = _create_engine(self.option("url"))
            if not self._table_is_there and not spec.reads:
                if self.option("create_table", "yes") != "no":
                    await _create_table(self._engine)
                self._table_is_there = True
            return self._engine


def _read_row(row: RowMapping) -> Listed:
    try:
        facts = json.loads(row["response"])
    except (ValueError, TypeError):
        facts = {}
    # No time: in which zone it was written down, nobody knows.
    return Listed(
        action=row["action"], remote_ref=row["key"], key=row["key"], facts=facts if isinstance(facts, dict) else {}
    )


def _bind_all(
    connection: AsyncConnection, spec: _Action, statement: str, values: Mapping[str, object]
) -> dict[str, object]:
    sqlite, as_json = connection.dialect.name == "sqlite", find_json_parameters(statement)
    bound: dict[str, object] = {}
    for name, value in values.items():
        try:
            bound[name] = bind(value, sqlite=sqlite, as_json=name in as_json)
        except UnbindableError as error:
            raise EffectRejected(f"{spec.name}: the field {name} cannot be sent: {error}; nothing was changed") from None
    return bound


def _name_field(error: DBAPIError, spec: _Action, statement: Compiled, values: Mapping[str, object]) -> None:
    """Raise what ERROR says of a value, with the name of its field: the driver counts, and quotes the value."""
    said = str(error.orig)
    found = re.search(r"invalid input for query argument \$(\d+)", said)
    names: Sequence[str] = getattr(statement, "positiontup", None) or []
    if found and int(found[1]) <= len(names):
        name = names[int(found[1]) - 1]
        why = explain(said, values[name]).replace(":field", f":{name}")
        raise EffectRejected(f"{spec.name}: the field {name} cannot be sent: {why}; nothing was changed") from None


def _require_sql(action: AnyAction) -> _Action:
    if not isinstance(action, SqlAction):
        raise TypeError(f"action {action.name} is not a SqlAction")
    return action


def _create_engine(url: str) -> AsyncEngine:
    from sqlalchemy import event
    from sqlalchemy.ext.asyncio import create_async_engine

    if not url.startswith("sqlite"):
        return create_async_engine(url, pool_size=10, max_overflow=20, pool_pre_ping=True)
    engine = create_async_engine(url, connect_args={"timeout": 5})
    # The driver's own BEGIN is deferred: two that write then fail half way instead of waiting for each other.
    event.listen(engine.sync_engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
    event.listen(engine.sync_engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


async def _create_table(engine: AsyncEngine) -> None:
    import sqlalchemy as sa

    from perdure.storage import AdvisoryLock

    async with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            # Without this, two workers that come at once can collide in the catalogue.
            await connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({AdvisoryLock.TARGET_TABLE:d})"))
        await connection.execute(sa.text(DDL))


def _raise_translated(error: Exception, spec: _Action, *, committing: bool) -> NoReturn:
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError

    if isinstance(error, EffectRejected | EffectUnknown | TargetUnavailable):
        raise error
    # What a database says may quote values, so only its class and code are told.
    said = f"{type(error).__name__}{_code(error)}"
    if isinstance(error, DBAPIError) and not error.connection_invalidated and not _is_connection_lost(error):
        if _sqlstate(error) in _TRY_AGAIN or "locked" in str(error.orig):
            raise TargetUnavailable(f"{spec.name}: the database is busy ({said}); nothing was changed") from None
        if "perdure_effect" in str(error.orig):
            raise TargetUnavailable(
                f"{spec.name}: the database has no usable table perdure_effect ({said}). Create it: {' '.join(DDL.split())}"
            ) from None
        # An answer of the database to a statement or to the commit: it has undone everything.
        raise EffectRejected(f"{spec.name}: the database refused it ({said}); nothing was changed") from None
    if committing:
        raise EffectUnknown(f"{spec.name}: the connection ended while it was being committed ({said})") from None
    if isinstance(error, StatementError) and not isinstance(error, DBAPIError):
        raise EffectRejected(f"{spec.name}: the statement cannot be sent with these values ({said})") from None
    if isinstance(error, SQLAlchemyError | OSError) or type(error).__module__.startswith("asyncpg"):
        raise TargetUnavailable(
            f"{spec.name}: the connection ended before the commit ({said}); nothing was changed"
        ) from None
    raise error


def _sqlstate(error: Exception) -> str:
    return str(getattr(getattr(error, "orig", None), "sqlstate", None) or "")


def _code(error: Exception) -> str:
    return f" {code}" if (code := _sqlstate(error)) else ""


def _is_connection_lost(error: DBAPIError) -> bool:
    # Without a code the database itself has said nothing; SQLite has none and no connection that could be lost.
    return not _sqlstate(error) and type(error.orig).__module__.startswith("sqlalchemy.dialects.postgresql")
