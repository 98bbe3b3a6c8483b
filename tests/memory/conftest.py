"""What the tests of memory stand on: a real index, real vectors, a clock that the test moves, short ways to say a call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from kits.memory import ADA, Ask, Clock, Say

from perdure.lineage import Lineage, StepRef
from perdure.memory import (
    Memory,
    MiniLm,
    RecallCall,
    RememberCall,
)
from perdure.memory.index import EdgeIndex
from perdure.storage import Database


@pytest.fixture
def clock() -> Clock:
    """A clock at noon of 2026-03-01."""
    return Clock()


@pytest.fixture(scope="session")
def embedder() -> MiniLm:
    """The real model, loaded once."""
    return asyncio.run(MiniLm.load())


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
def to_remember(step: Callable[[str], StepRef]) -> Say:
    """Return a call that remembers CONTENT: of Ada, and by a step of its own, unless the test says otherwise."""

    def call(content: str, **fields: object) -> RememberCall:
        return RememberCall.model_validate(
            {"step": step(f"remember {content}"), "scope": ADA, "content": content, **fields}
        )

    return call


@pytest.fixture
def to_recall(step: Callable[[str], StepRef]) -> Ask:
    """Return a call that recalls QUERY: of Ada, unless the test says otherwise."""

    def call(query: str, **fields: object) -> RecallCall:
        return RecallCall.model_validate({"step": step("recall"), "query": query, "scope": ADA, **fields})

    return call
