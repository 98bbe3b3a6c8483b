"""What tests stand on: real databases and real Temporal servers, all from packages, none of them installed by hand."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sysconfig
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from kits.postgres_server import Postgres
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

from perdure import storage
from perdure.storage import Database
from perdure.workflows import attributes

BIN = Path(sysconfig.get_path("scripts"))
"""Where packages put their programs: the Temporal dev server and test server."""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Say how many `-n auto` is: one more than there are cores, as tests wait for servers and processes now and then."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a developer's own PERDURE_* and TEMPORAL_* variables out of the tests."""
    for name in [name for name in os.environ if name.startswith(("PERDURE_", "TEMPORAL_"))]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _loud_temporal() -> Iterator[None]:
    """Undo what a command that runs in the tests' process does: it silences the SDK, as it has a terminal to itself."""
    logger = logging.getLogger("temporalio")
    level = logger.level
    yield
    logger.setLevel(level)


# Databases


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a migrated, empty database of this test's own: once SQLite, once PostgreSQL."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A migrated, empty database: the test runs once on SQLite and once on PostgreSQL."""
    async with storage.open_database(database_url) as database:
        yield database


@pytest.fixture
async def sqlite_database(sqlite_url: str) -> AsyncIterator[Database]:
    """A migrated, empty SQLite database."""
    async with storage.open_database(sqlite_url) as database:
        yield database


@pytest.fixture
async def postgres_database(postgres_url: str) -> AsyncIterator[Database]:
    """A migrated, empty PostgreSQL database."""
    async with storage.open_database(postgres_url) as database:
        yield database


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """The URL of a migrated, empty SQLite database."""
    shutil.copy(sqlite_template, tmp_path / "perdure.db")
    return _sqlite(tmp_path / "perdure.db")


@pytest.fixture
def postgres_url(postgres: Postgres, postgres_template: str) -> Iterator[str]:
    """The URL of a migrated, empty PostgreSQL database."""
    name = postgres.create(template=postgres_template)
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture(params=["sqlite", "postgres"])
def blank_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without any table: once SQLite, once PostgreSQL."""
    if request.param == "sqlite":
        yield _sqlite(tmp_path / "blank.db")
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    name = postgres.create()
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file that tests copy."""
    path = tmp_path_factory.mktemp("template") / "perdure.db"
    asyncio.run(_prepare(_sqlite(path)))
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres: Postgres) -> str:
    """The name of a migrated PostgreSQL database that tests copy."""
    name = postgres.create()
    asyncio.run(_prepare(postgres.url(name)))
    return name


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server of this test session's own, on a Unix socket."""
    folder = Path(tempfile.mkdtemp(prefix="perdure-pg-"))  # not tmp_path: a socket's path may have 107 bytes only
    server = Postgres(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


def _sqlite(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


async def _prepare(url: str) -> None:
    async with storage.open_database(url):
        pass


# Temporal


@pytest.fixture(scope="session")
def temporal_address() -> Iterator[str]:
    """The address of a Temporal dev server of this test session's own, with perdure's search attributes."""
    with asyncio.Runner() as runner:
        environment = runner.run(
            WorkflowEnvironment.start_local(
                dev_server_existing_path=str(BIN / "temporal"),
                search_attributes=[
                    attributes.PLAN,
                    attributes.STATE,
                    attributes.RISK,
                    attributes.COST,
                    attributes.APPROVAL_OWNER,
                    attributes.APPROVAL_DEADLINE,
                ],
                # An idle history shard polls 20 times a second by default, which costs 40 ms a step.
                dev_server_extra_args=[
                    "--dynamic-config-value",
                    "history.transferProcessorMaxPollRPS=5000",
                    "--dynamic-config-value",
                    "history.timerProcessorMaxPollRPS=5000",
                ],
            )
        )
        yield environment.client.service_client.config.target_host
        runner.run(environment.shutdown())


@pytest.fixture
async def temporal(temporal_address: str) -> WorkflowEnvironment:
    """The session's Temporal dev server, through a client of this test's own. Pass `perdure.PerdurePlugin` to workers."""
    client = await Client.connect(temporal_address, data_converter=pydantic_data_converter)
    return WorkflowEnvironment.from_client(client)


@pytest.fixture
async def time_skipping() -> AsyncIterator[WorkflowEnvironment]:
    """A Temporal test server of this test's own, which skips the time that a run waits."""
    async with await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=str(BIN / "temporal-test-server"), data_converter=pydantic_data_converter
    ) as environment:
        yield environment
