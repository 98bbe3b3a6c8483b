"""What the tests of memory stand on: a real index, real vectors, a clock that the test moves, and short ways to say a call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from perdure.lineage import Lineage, StepRef
from perdure.memory import Memory, MiniLm, RecallCall, RememberCall, customer
from perdure.memory.edge import EdgeIndex
from perdure.storage import Database

ADA = customer("ada")


class Clock:
    """A clock that stands still until it is told to move."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def move(self, by: timedelta) -> datetime:
        """Move BY that much and return the new time."""
        self.now += by
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock at noon of 2026-03-01."""
    return Clock()


@pytest.fixture(scope="session")
def embedder() -> MiniLm:
    """The real model, loaded once."""
    return MiniLm()


@pytest.fixture
async def index(tmp_path: Path, embedder: MiniLm) -> AsyncIterator[EdgeIndex]:
    """An empty embedded index."""
    index = await EdgeIndex.open(tmp_path / "index", embedder)
    yield index
    await index.close()


@pytest.fixture
async def memory(database: Database, index: EdgeIndex, embedder: MiniLm, clock: Clock) -> Memory:
    """An empty memory: the test runs once on SQLite and once on PostgreSQL."""
    return Memory(database, index, embedder, clock=clock)


@pytest.fixture
async def sqlite_memory(sqlite_database: Database, index: EdgeIndex, embedder: MiniLm, clock: Clock) -> Memory:
    """An empty memory on SQLite, where the database makes no difference."""
    return Memory(sqlite_database, index, embedder, clock=clock)


@pytest.fixture
def step() -> Callable[[str], StepRef]:
    """Return the step of one and the same run that has this name."""
    lineage = Lineage(namespace="default", workflow_id="returns/1042", first_execution_run_id="first")
    return lambda name: StepRef(lineage=lineage, name=name)


@pytest.fixture
def to_remember(step: Callable[[str], StepRef]) -> Callable[..., RememberCall]:
    """Return a call that remembers CONTENT: of Ada, and by a step of its own, unless the test says otherwise."""

    def call(content: str, **fields: object) -> RememberCall:
        return RememberCall.model_validate(
            {"step": step(f"remember {content}"), "scope": ADA, "content": content, **fields}
        )

    return call


@pytest.fixture
def to_recall(step: Callable[[str], StepRef]) -> Callable[..., RecallCall]:
    """Return a call that recalls QUERY: of Ada, unless the test says otherwise."""

    def call(query: str, **fields: object) -> RecallCall:
        return RecallCall.model_validate({"step": step("recall"), "query": query, "scope": ADA, **fields})

    return call
