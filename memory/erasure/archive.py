"""How memories leave as lines of JSON and come back: every version with its times and source, and what was erased."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

import sqlalchemy as sa
from pydantic import ValidationError
from sqlmodel import SQLModel, col

from perdure.errors import InvalidInput
from perdure.lineage import Lineage, StepRef, digest
from perdure.memory.contracts import Scope
from perdure.memory.conversations import erasure as conversations
from perdure.memory.erasure import erasing
from perdure.memory.records import (
    enqueue,
    require_zone,
    scope_key,
    scope_of,
    version_id_of,
)
from perdure.memory.tables import (
    AccessRow,
    DerivedRow,
    MemoryRow,
    ReceiptRow,
    SourceRow,
    TombstoneRow,
)
from perdure.storage import Database, UtcDateTime

FORMAT = "perdure memory"
VERSION = 1
PAGE = 500
_TABLES: dict[str, type[SQLModel]] = {
    "record": MemoryRow,
    "source": SourceRow,
    "derived": DerivedRow,
    "receipt": ReceiptRow,
    "tombstone": TombstoneRow,
    "access": AccessRow,
}
"""In the order in which they have to come back."""
_DEFAULTS: dict[str, dict[str, object]] = {"receipt": {"conversations": 0, "messages": 0}}
"""What columns hold that exports had not from the beginning."""


async def export(
    database: Database, *, scope: Scope | None = None, tenant: str | None = None, erasures: bool = False
) -> AsyncIterator[str]:
    """Yield the memories of SCOPE or TENANT, or all, as lines of JSON, from one moment's view of the database.

    With ERASURES only what was erased of them, without content.
    """
    yield _line("export", {"format": FORMAT, "version": VERSION})
    async with database.read() as connection:
        if connection.dialect.name == "postgresql":
            await connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        for kind, table in _TABLES.items():
            if erasures and kind not in ("receipt", "tombstone"):
                continue
            rows = await connection.stream(
                sa.select(table).where(_is_exported(table, scope, tenant)).order_by(*_primary_key(table))
            )
            async for row in rows:
                yield _line(kind, dict(row._mapping))  # noqa: SLF001  how SQLAlchemy calls a row as a dict


@dataclass(frozen=True)
class ImportedRows:
    """What an import changed. The texts are only for finding what is left of them in files."""

    added: list[str] = field(default_factory=list)
    erased: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list, repr=False)
    skipped: set[str] = field(default_factory=set, repr=False)
    """Versions of the import that stand here already, or were erased here."""


def restore(connection: sa.Connection, lines: Iterable[str], now: datetime) -> ImportedRows:
    """Write LINES that `export` gave, and return the versions that the index has to be told of.

    What stands already stays as it is, unless LINES say that it was erased; then it is erased here too, with what was
    derived from it. What was erased here is left out. Raises `InvalidInput`, before anything is kept, for a line that is
    not of an export, a record that was changed, or one of which another text stands here.
    """
    counted = enumerate(lines, start=1)
    _check_head(*next(counted, (1, "")))
    done = ImportedRows()
    page: list[dict[str, object]] = []
    kind = ""
    for number, line in counted:
        if not line.strip():
            continue
        now_kind, values = _read(number, line)
        if now_kind != kind or len(page) >= PAGE:
            _write(connection, kind, page, now, done)
            page, kind = [], now_kind
        page.append(values)
    _write(connection, kind, page, now, done)
    enqueue(connection, done.added, now)
    return done


def _write(
    connection: sa.Connection, kind: str, page: Sequence[dict[str, object]], now: datetime, done: ImportedRows
) -> None:
    if kind == "tombstone":
        _erase_existing(connection, [str(row["version_id"]) for row in page], now, done)
    done.added.extend(_insert(connection, kind, page, done.skipped))


def _erase_existing(connection: sa.Connection, version_ids: Sequence[str], now: datetime, done: ImportedRows) -> None:
    """Erase what stands of VERSION_IDS, each scope's against a receipt of its own. Raises `OnHold` if it is held."""
    standing = col(MemoryRow.version_id).in_(version_ids) & col(MemoryRow.erased_at).is_(None)
    rows = erasing.find_versions(connection, standing, derived=True)
    talks = conversations.lock_conversations(
        connection, conversations.find_answers_from(connection, [row.version_id for row in rows])
    )
    erasing.refuse_held(rows)
    conversations.refuse_held(talks)
    lineage = Lineage(namespace="perdure", workflow_id="import", first_execution_run_id=now.isoformat())
    for key in dict.fromkeys(row.scope_key for row in rows):
        mine = [row for row in rows if row.scope_key == key]
        step = StepRef(lineage=lineage, name=mine[0].version_id)
        order = erasing.ErasureOrder(
            step=step, scope=scope_of(mine[0]), cause="erase", why="erased where the import comes from"
        )
        erased = erasing.erase(connection, mine, order, now, talks=talks)
        done.erased.extend(erased.versions)
        done.texts.extend(erased.texts)
        talks = []


def _insert(connection: sa.Connection, kind: str, page: Sequence[dict[str, object]], skipped: set[str]) -> list[str]:
    if not page:
        return []
    table = _TABLES[kind]
    fresh = [row for row in page if row.get("version_id") not in skipped] if kind in ("source", "derived") else page
    if kind == "record":
        fresh = _new_records(connection, page, skipped)
    else:
        keys = [column.name for column in _primary_key(table)]
        known = _existing_keys(connection, table, fresh)
        fresh = [row for row in fresh if tuple(row[key] for key in keys) not in known]
    if fresh:
        connection.execute(sa.insert(table), fresh)
    return [str(row["version_id"]) for row in fresh if row["erased_at"] is None] if kind == "record" else []


def _new_records(
    connection: sa.Connection, page: Sequence[dict[str, object]], skipped: set[str]
) -> list[dict[str, object]]:
    ids = [str(row["version_id"]) for row in page]
    stands = sa.select(col(MemoryRow.version_id), col(MemoryRow.content_hash)).where(col(MemoryRow.version_id).in_(ids))
    hashes = {row.version_id: row.content_hash for row in connection.execute(stands)}
    buried = sa.select(col(TombstoneRow.version_id)).where(col(TombstoneRow.version_id).in_(ids))
    erased = set(connection.execute(buried).scalars())
    fresh = []
    for row in page:
        version_id = str(row["version_id"])
        if (
            row["erased_at"] is None
            and version_id not in erased
            and hashes.get(version_id, row["content_hash"]) != row["content_hash"]
        ):
            raise InvalidInput(
                f"memory {row['memory_id']!r} version {row['version']} says something else here than in the export; "
                "import into an empty home, or export again"
            )
        if version_id in hashes or version_id in erased:
            skipped.add(version_id)
        else:
            fresh.append(row)
    return fresh


def _existing_keys(
    connection: sa.Connection, table: type[SQLModel], rows: Sequence[dict[str, object]]
) -> set[tuple[object, ...]]:
    first, *_ = columns = _primary_key(table)
    found = sa.select(*columns).where(first.in_([row[first.name] for row in rows]))
    return {tuple(row) for row in connection.execute(found)}


def _check_head(number: int, line: str) -> None:
    kind, values = _parse(number, line)
    if kind != "export" or values.get("format") != FORMAT:
        raise InvalidInput(
            f"line {number} is not the head of an export of memories; give what `perdure memory export` wrote"
        )
    if values.get("version") != VERSION:
        raise InvalidInput(f"the export has version {values.get('version')}, and this perdure reads {VERSION}; upgrade it")


def _read(number: int, line: str) -> tuple[str, dict[str, object]]:
    """Return the kind of LINE and its values as SQL wants them."""
    kind, values = _parse(number, line)
    if kind not in _TABLES:
        raise InvalidInput(f"line {number}: {kind!r} is none of {', '.join(_TABLES)}")
    columns = {column.name: column for column in _columns(_TABLES[kind])}
    # Exports of before 0016 lack these.
    values = {**_DEFAULTS.get(kind, {}), **values}
    if strange := values.keys() ^ columns.keys():
        raise InvalidInput(f"line {number}: a {kind} with or without {min(strange)!r} is not of this version of perdure")
    try:
        for name, column in columns.items():
            if isinstance(column.type, UtcDateTime) and values[name] is not None:
                moment = values[name] = datetime.fromisoformat(str(values[name]))
                require_zone(name, moment)
    except ValueError as error:
        raise InvalidInput(f"line {number}: {error}") from None
    if kind == "record":
        _check_record(number, values)
    return kind, values


def _check_record(number: int, values: dict[str, object]) -> None:
    try:
        scope = Scope.model_validate({name: values[f"scope_{name}"] for name in ("tenant", "agent", "user", "session")})
    except ValidationError:
        raise InvalidInput(f"line {number}: memory {values['memory_id']!r} is of nobody") from None
    named = version_id_of(
        scope_key(scope), str(values["memory_id"]), int(str(values["epoch"])), int(str(values["version"]))
    )
    whole = values["erased_at"] is not None or digest(str(values["content"])) == values["content_hash"]
    if values["scope_key"] != scope_key(scope) or values["version_id"] != named or not whole:
        raise InvalidInput(f"line {number}: memory {values['memory_id']!r} was changed after it was exported")


def _parse(number: int, line: str) -> tuple[str, dict[str, object]]:
    try:
        read = json.loads(line)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"line {number} is not JSON: {error.msg}") from None
    if not isinstance(read, dict) or len(read) != 1 or not isinstance(next(iter(read.values())), dict):
        raise InvalidInput(f'line {number} is not of the form {{"record": {{...}}}}')
    [(kind, values)] = read.items()
    return kind, values


def _line(kind: str, values: dict[str, Any]) -> str:
    return json.dumps({kind: values}, ensure_ascii=False, default=lambda moment: moment.isoformat())


def _is_exported(table: type[SQLModel], scope: Scope | None, tenant: str | None) -> sa.ColumnElement[bool]:
    if table in (SourceRow, DerivedRow):
        records = sa.select(col(MemoryRow.version_id)).where(_is_exported(MemoryRow, scope, tenant))
        return cast("sa.ColumnElement[str]", _columns(table)["version_id"]).in_(records)
    if table is TombstoneRow:
        receipts = sa.select(col(ReceiptRow.receipt_id)).where(_is_exported(ReceiptRow, scope, tenant))
        return col(TombstoneRow.receipt_id).in_(receipts)
    columns = _columns(table)
    if scope is not None:
        return columns["scope_key"] == scope_key(scope)
    return columns["scope_tenant"] == tenant if tenant is not None else sa.true()


def _columns(table: type[SQLModel]) -> sa.sql.base.ReadOnlyColumnCollection[str, sa.ColumnElement[Any]]:
    columns: sa.sql.base.ReadOnlyColumnCollection[str, sa.ColumnElement[Any]] = sa.inspect(table).local_table.c
    return columns


def _primary_key(table: type[SQLModel]) -> list[sa.ColumnElement[Any]]:
    return list(sa.inspect(table).primary_key)
