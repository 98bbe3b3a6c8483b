"""What SQL actions rely on: the columns of the tables that their statements name, as the database describes them."""

from __future__ import annotations

import datetime
import decimal
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, cast

from pydantic import BaseModel, JsonValue

from perdure.connectors.drift.contracts import Contract, Operation
from perdure.connectors.sql._action import SqlAction

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection
    from sqlalchemy.engine.interfaces import ReflectedColumn
    from sqlalchemy.types import TypeEngine

__all__ = ["columns_in", "from_columns"]

Columns = Mapping[str, Sequence["ReflectedColumn"]]

_KINDS: Final[Mapping[type, dict[str, JsonValue]]] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    decimal.Decimal: {"type": "number"},
    str: {"type": "string"},
    datetime.date: {"type": "string", "format": "date"},
    datetime.datetime: {"type": "string", "format": "date-time"},
    dict: {},
}


def columns_in(connection: Connection, actions: Iterable[SqlAction[BaseModel, BaseModel]]) -> Columns:
    """Return the columns of the tables and views that ACTIONS name, by table."""
    import sqlalchemy as sa

    said = "\n".join(statement for action in actions for statement in action.statements)
    inspector = sa.inspect(connection)
    known = [*inspector.get_table_names(), *inspector.get_view_names()]
    return {name: inspector.get_columns(name) for name in sorted(known) if _mentions(said, name)}


def from_columns(columns: Columns, actions: Sequence[SqlAction[BaseModel, BaseModel]]) -> Contract:
    """Return the contract of ACTIONS: for each action and table the columns that it names, or all if it says `*`.

    A column that an INSERT has to give, since it takes no null and has no default, is in it even if nothing names it.
    """
    found: dict[str, Operation] = {}
    for action in actions:
        said = "\n".join(action.statements)
        for table, every in columns.items():
            if not _mentions(said, table):
                continue
            inserts = re.search(rf"insert\s+into\s+\S*\b{re.escape(table)}\b", said, re.IGNORECASE) is not None
            named = [column for column in every if _mentions(said, column["name"]) or _EVERY.search(said)]
            needed = [column for column in every if inserts and _is_required(column)]
            taken = [*named, *(column for column in needed if column not in named)]
            found[f"{action.name} {table}"] = Operation(
                request=_object_schema(taken, [column["name"] for column in needed]),
                response=_object_schema(named, [column["name"] for column in named]),
                actions=(action.name,),
            )
    return Contract(source="sql", operations=found)


_EVERY: Final = re.compile(r"(?:select|returning|,)\s*(?:\w+\.)?\*", re.IGNORECASE)


def _object_schema(columns: Sequence[ReflectedColumn], required: Sequence[str]) -> dict[str, JsonValue]:
    properties: dict[str, JsonValue] = {column["name"]: _column_schema(column) for column in columns}
    return {"type": "object", "properties": properties, "required": cast(list[JsonValue], list(required))}


def _column_schema(column: ReflectedColumn) -> dict[str, JsonValue]:
    kind: TypeEngine[object] = column["type"]
    schema: dict[str, JsonValue]
    try:
        schema = dict(_KINDS.get(kind.python_type, {"type": "string", "format": str(kind).lower()}))
    except NotImplementedError:
        schema = {"type": "string", "format": str(kind).lower()}
    if isinstance(length := getattr(kind, "length", None), int):
        schema["maxLength"] = length
    return {"anyOf": [schema, {"type": "null"}]} if column["nullable"] and schema else schema


def _is_required(column: ReflectedColumn) -> bool:
    given_by_itself = column.get("default") is not None or column.get("identity") or column.get("computed")
    return not column["nullable"] and not given_by_itself and column.get("autoincrement") is not True


def _mentions(said: str, name: str) -> bool:
    return re.search(rf"(?<![:\w]){re.escape(name)}(?!\w)", said, re.IGNORECASE) is not None
