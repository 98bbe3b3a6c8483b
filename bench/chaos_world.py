"""The targets of bench/chaos.py, behind fault proxies: a process that keeps books of what it was made to do.

    python -m bench.chaos_world '{"operations": FILE, "books": FILE, "postgres": SOCKET, "database": NAME, ...}'

Prints where everything listens, as JSON, and what the proxies did when it is ended by SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from email import message_from_bytes
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from bench.chaos_connectors import TABLE, Strikes
from bench.chaos_plan import HTTP, Operation, Pace, through

from perdure.connectors.testing import (
    Fault,
    Faults,
    HttpFaultProxy,
    TcpFaultProxy,
)
from perdure.connectors.testing.http_proxy import ProxiedRequest

_BRINK = {"postgres": b"COMMIT", "smtp": b"\r\n.\r\n"}
"""What a client sends when the target stands at the brink of acting."""
AT_WORK = 0.01
"""How many seconds a target that speaks HTTP takes at most to act."""


class Books:
    """What the targets were made to do, in a SQLite file that survives them."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        for statement in (
            "PRAGMA journal_mode=WAL",
            "PRAGMA synchronous=NORMAL",
            f"CREATE TABLE IF NOT EXISTS {TABLE} (id INTEGER PRIMARY KEY, target TEXT, op TEXT, reference TEXT)",
            f"CREATE INDEX IF NOT EXISTS by_reference ON {TABLE} (reference)",
        ):
            self._connection.execute(statement)

    def write(self, target: str, op: str, reference: str = "") -> int:
        """Write down that something was made, and return its number."""
        row = (target, op, reference)
        done = self._connection.execute(f"INSERT INTO {TABLE} (target, op, reference) VALUES (?, ?, ?)", row)  # noqa: S608
        return int(done.lastrowid or 0)

    def of(self, target: str, reference: str) -> list[dict[str, object]]:
        """Return what TARGET has made under REFERENCE."""
        query = f"SELECT id, op, reference FROM {TABLE} WHERE target = ? AND reference = ?"  # noqa: S608
        rows = self._connection.execute(query, (target, reference))
        return [{"id": id, "op": op, "reference": reference} for id, op, reference in rows]


class Service:
    """Three targets that speak HTTP: one drops repeats of a key, one can be asked for a reference, one does neither."""

    def __init__(self, books: Books, chance: random.Random, at_work: float) -> None:
        self._books = books
        self._chance = chance
        self._takes = at_work
        self._at_work: set[str] = set()

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                method, address, _ = head[0].split(" ", 2)
                status, answer = await self._answer(method, urlsplit(address), headers, body)
                content = json.dumps(answer).encode()
                writer.write(f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\n".encode())
                writer.write(f"Content-Length: {len(content)}\r\n\r\n".encode() + content)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the caller has gone
        finally:
            writer.close()

    async def _answer(self, method: str, address: Any, headers: dict[str, str], body: bytes) -> tuple[int, object]:
        target = address.path.strip("/")
        if target not in HTTP:
            return 404, {"error": "no such target"}
        if method == "GET":
            return 200, self._books.of(target, parse_qs(address.query).get("reference", [""])[0])
        asked = json.loads(body)
        if target == "http-header" and (key := headers.get("idempotency-key", "")):
            return await self._once(target, asked["op"], key)
        await self._work()
        reference = asked.get("reference", "") if target == "http-listed" else ""
        return 201, {"id": self._books.write(target, asked["op"], reference), "op": asked["op"], "reference": reference}

    async def _once(self, target: str, op: str, key: str) -> tuple[int, object]:
        if key in self._at_work:
            return 409, {"error": "the first request with this key is still at work"}
        before = self._books.of(target, key)
        if before:
            return 200, before[0]
        self._at_work.add(key)
        await self._work()
        self._at_work.discard(key)
        return 201, {"id": self._books.write(target, op, key), "op": op}

    async def _work(self) -> None:
        await asyncio.sleep(self._chance.uniform(0, self._takes))


class Mailbox:
    """What the mail server does with a mail: it writes the subject into BOOKS."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:  # noqa: N802  aiosmtpd's name
        """Take a mail."""
        self._books.write("smtp", str(message_from_bytes(envelope.content)["Subject"]))
        return "250 taken"


class TimedFaults(Faults):
    """Faults that know how late the latest landing was: a target that is later than it promised proves nothing."""

    latest = 0.0

    def land_later(self, landing: Coroutine[None, None, None]) -> None:
        """Run LANDING when it is late enough, and note when it was done."""
        began = time.monotonic()

        async def timed() -> None:
            await landing
            self.latest = max(self.latest, time.monotonic() - began)

        super().land_later(timed())


class World:
    """Every target and every proxy of one client, for as long as the block lasts."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.told = told
        self.pace = Pace(**told["pace"])
        self.operations = read_operations(Path(told["operations"]))
        self.addresses: dict[str, str] = {}
        self.direct = ""
        """Where the targets that speak HTTP are without a proxy."""
        self.faults: list[TimedFaults] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> World:
        books = Books(Path(self.told["books"]))
        if wanted := {each.target for each in self.operations} & set(HTTP):
            await self._http(books, wanted)
        if any(each.target == "smtp" for each in self.operations):
            await self._smtp(books)
        if self.told["postgres"]:
            await self._by_bytes("postgres", self.told["postgres"])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _http(self, books: Books, wanted: set[str]) -> None:
        service = Service(books, random.Random(self.told["seed"]), self.told["work"])  # noqa: S311  latency, not secrets
        server = await asyncio.start_server(service.converse, "127.0.0.1", 0)
        self._stack.callback(server.close)
        strikes = Strikes([each for each in self.operations if each.target in HTTP])
        faults = self._new_faults()

        def strike(asked: ProxiedRequest) -> bool:
            # The proxy draws right after this, so that each operation meets what the schedule has for it.
            faults.script(strikes.next(json.loads(asked.body)["op"]) if asked.method == "POST" else "none")
            return True

        self.direct = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        proxy = await self._stack.enter_async_context(HttpFaultProxy(self.direct, faults, strikes=strike))
        self.addresses |= {target.replace("-", "_"): proxy.url for target in wanted}

    async def _smtp(self, books: Books) -> None:
        from aiosmtpd.smtp import SMTP

        server = await asyncio.get_running_loop().create_server(
            lambda: SMTP(Mailbox(books), enable_SMTPUTF8=True), "127.0.0.1", 0
        )
        self._stack.callback(server.close)
        await self._by_bytes("smtp", f"127.0.0.1:{server.sockets[0].getsockname()[1]}")

    async def _by_bytes(self, target: str, address: str) -> None:
        self.addresses[target] = self._url(target, address)
        struck = [each for each in self.operations if each.target == target and each.strike != "none"]
        strikes: set[Fault] = {each.strike for each in struck}
        for strike in strikes:
            faults = self._new_faults()
            faults.script(
                *_in_a_row(strike, sum(each.strikes for each in struck if each.strike == strike), self.told["seed"])
            )
            proxy = await self._stack.enter_async_context(TcpFaultProxy(address, at=_BRINK[target], faults=faults))
            self.addresses[through(target, strike)] = self._url(target, f"{proxy.host}:{proxy.port}")

    def _url(self, target: str, address: str) -> str:
        if target == "smtp":
            return address
        name = self.told["database"]
        if "/" in address:
            return f"postgresql+asyncpg://postgres@/{name}?host={Path(address).parent}"
        return f"postgresql+asyncpg://postgres@{address}/{name}"

    def _new_faults(self) -> TimedFaults:
        self.faults.append(TimedFaults(late=timedelta(seconds=self.pace.late)))
        return self.faults[-1]


def read_operations(path: Path) -> list[Operation]:
    """Return the operations in the file PATH."""
    return [Operation.model_validate_json(line) for line in path.read_text().splitlines()]


def _in_a_row(strike: Fault, count: int, seed: int) -> Sequence[Fault]:
    """Return COUNT times STRIKE, with some that pass in between."""
    chance = random.Random(seed)  # noqa: S311  faults, not secrets
    drawn: list[Fault] = []
    while count:
        hit = chance.random() < 0.8
        drawn.append(strike if hit else "none")
        count -= hit
    return drawn


async def serve(told: dict[str, Any]) -> None:
    """Be the world until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with World(told) as world:
        print(json.dumps(world.addresses), flush=True)
        await stop.wait()
    drawn = sum((faults.drawn for faults in world.faults), Counter[Fault]())
    latest = max((faults.latest for faults in world.faults), default=0.0)
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = round(used.ru_utime + used.ru_stime, 1)
    print(json.dumps({"drawn": drawn, "latest_landing": round(latest, 2), "cpu_seconds": cpu}), flush=True)


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1])))
