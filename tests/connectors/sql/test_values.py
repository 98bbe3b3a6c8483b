"""Tests of the values that statements take, on both databases."""

from __future__ import annotations

import enum
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, cast

import pytest
from pydantic import BaseModel, ConfigDict, Field, create_model
from sqlalchemy.ext.asyncio import create_async_engine

from perdure.connectors import Attempt, Executed
from perdure.connectors.contracts import AnyAction
from perdure.connectors.sql import SqlAction, SqlConnector
from perdure.errors import EffectRejected

Run = Callable[..., Awaitable[Executed]]

ATTEMPT = Attempt(key="pe-1", fence=1, deadline=timedelta(seconds=10))
AWARE = datetime(2026, 11, 29, 12, 30, 1, 5, tzinfo=UTC)


class Colour(enum.Enum):
    """A choice."""

    RED = "red"


class Part(BaseModel):
    """A part of an input."""

    model_config = ConfigDict(frozen=True)

    name: str
    price: Decimal = Decimal("1.10")


CASES: list[tuple[object, str, object]] = [
    (Decimal, "numeric(40, 10)", Decimal("19.99")),
    (uuid.UUID, "uuid", uuid.UUID(int=7)),
    (timedelta, "interval", timedelta(days=1, seconds=2.5)),
    (date, "date", date(2026, 11, 29)),
    (time, "time", time(12, 30, 1)),
    (datetime, "timestamptz", AWARE),
    (datetime, "timestamp", AWARE.replace(tzinfo=None)),
    (bool, "boolean", True),
    (int, "bigint", 2**62),
    (float, "double precision", 0.1),
    (bytes, "bytea", b"\\0\\xff"),
    (str, "text", "it's :v; -- \U0001f600"),
    (Colour, "text", Colour.RED),
    (dict[str, int], "jsonb", {"a": 1}),
    (list[dict[str, str]], "jsonb", [{"a": "\u00fc"}]),
    (Part, "jsonb", Part(name="x")),
    (str | None, "text", None),
    (Decimal | None, "numeric", None),
]


@pytest.fixture
async def run(blank_url: str) -> AsyncIterator[Run]:
    """Runs statements of one action against a database: once SQLite, once PostgreSQL."""
    made: list[SqlConnector] = []

    async def run(kind: object, value: object, *statements: str, output: object = None) -> Executed:
        taken = create_model("In", __config__=ConfigDict(frozen=True), v=(cast("type[object]", kind), ...))
        given = create_model("Out", __config__=ConfigDict(frozen=True), v=(cast("type[object]", output or kind), ...))
        name = f"w.run{len(made)}"
        action = SqlAction(name, taken, given, statements=statements)
        connector = type("W", (SqlConnector,), {"run": action})().with_options({"url": blank_url})
        made.append(connector)
        attempt = Attempt(key=f"pe-{len(made)}", fence=1, deadline=ATTEMPT.deadline)
        return await cast("SqlConnector", connector).execute(cast(AnyAction, action), taken(v=value), attempt)

    yield run
    for connector in made:
        await connector.close()


@pytest.mark.parametrize(("kind", "column", "value"), CASES, ids=lambda each: str(getattr(each, "__name__", each))[:30])
async def test_values(run: Run, blank_url: str, kind: object, column: str, value: object) -> None:
    """What a model can hold goes into the column that is made for it, and comes out as it was (case 23)."""
    engine = create_async_engine(blank_url)
    async with engine.begin() as connection:
        await connection.exec_driver_sql(f"CREATE TABLE t (v {column})")
    await engine.dispose()
    done = await run(kind, value, "INSERT INTO t (v) VALUES (:v) RETURNING v")

    assert value == vars(done.output)["v"]


@pytest.mark.parametrize("blank_url", ["postgres"], indirect=True)  # SQLite has no ::
async def test_cast(run: Run) -> None:
    """A parameter may be cast as PostgreSQL has it (case 23)."""
    assert "a" == vars((await run(str, "a", "SELECT :v::text AS v")).output)["v"]
    assert {"a": [1]} == vars((await run(dict[str, list[int]], {"a": [1]}, "SELECT :v::jsonb AS v")).output)["v"]
    assert [1, 2] == vars((await run(list[int], [1, 2], "SELECT :v::jsonb AS v")).output)["v"]
    assert [2, 1] == vars((await run(list[int], [2, 1], "SELECT :v::int[] AS v")).output)["v"]


@pytest.mark.parametrize("blank_url", ["postgres"], indirect=True)  # SQLite takes every value anywhere
@pytest.mark.parametrize(
    ("case", "said"),
    [
        ((datetime, AWARE, "SELECT CAST(:v AS timestamp) AS v"), "the field v cannot be sent: it has a time zone"),
        (
            (int, 7, "SELECT :v::text AS v"),
            "the field v cannot be sent: it is a value of type int, and the statement wants str",
        ),
        ((str, "a", "SELECT :v::int AS v"), "the field v cannot be sent"),
        ((int, 2**40, "SELECT :v::int AS v"), "out of the range of int32"),
        ((str, "a\0b", "SELECT :v::text AS v"), "zero byte"),
    ],
)
async def test_value_that_postgresql_refuses(run: Run, case: tuple[object, object, str], said: str) -> None:
    """The refusal names the field and why, and quotes no value (case 23)."""
    with pytest.raises(EffectRejected, match=said) as refused:
        await run(*case)

    assert "2026" not in str(refused.value)
    assert "nothing was changed" in str(refused.value)


@pytest.mark.parametrize("blank_url", ["sqlite"], indirect=True)  # PostgreSQL has numerics
async def test_value_that_sqlite_refuses(run: Run) -> None:
    """A whole number beyond 64 bits names its field (case 23)."""
    with pytest.raises(EffectRejected, match="the field v cannot be sent: it is a whole number of more than 64 bits"):
        await run(Annotated[int, Field()], 2**70, "SELECT :v AS v")
