"""Who performs the operations of bench/chaos.py: a process with a ledger, and a client that simply retries."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal, Protocol, TypeVar

import sqlalchemy as sa
from bench.chaos_connectors import TABLE, Doom, Strikes, argument, connectors
from bench.chaos_plan import HTTP, Operation, Pace
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from perdure.connectors import (
    Connector,
    EffectCall,
    UndoCall,
    effect_key,
)
from perdure.connectors.ledger import Ledger
from perdure.connectors.testing import Faults
from perdure.errors import EffectParked, EffectRejected, PerdureError
from perdure.lineage import Frozen, Lineage, StepRef
from perdure.storage import Database

T = TypeVar("T")

Ending = Literal["done", "refused", "parked", "cancelled", "given up", "unknown"]
"""What whoever asked for an operation was told in the end."""
Sabotage = Literal["", "new key"]
"""How the ledger is broken on purpose, to see that the counting notices."""

PATIENCE: Final = timedelta(minutes=15)
"""How long an operation may take to come to an end before it counts as unknown."""
TRIES: Final = 4
"""How often the naive client tries: once, and three times again."""
_PAUSE: Final = timedelta(milliseconds=100)


class Told(Frozen):
    """What a process of the bench is told."""

    client: Literal["perdure", "naive"]
    operations: str
    """The file with all operations."""
    addresses: dict[str, str]
    """Where the targets are, by connector."""
    ledgers: dict[str, str]
    """The URLs of the ledgers' databases."""
    results: str
    """The file to which endings are added, a line each."""
    pace: Pace
    sabotage: Sabotage = ""


class Client(Protocol):
    """Performs operations."""

    async def act(self, operation: Operation, asker: int) -> Ending:
        """Perform OPERATION for the asker with that number, until it has come to an end."""
        ...

    async def reset(self, operation: Operation) -> Ending:
        """Perform OPERATION, and again as the run that a reset makes."""
        ...

    async def cancel(self, operation: Operation) -> Ending:
        """Perform OPERATION, and be cancelled on the way."""
        ...


class DoomedDatabase(Database):
    """A database whose process may die around a commit."""

    doom: Doom

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Do as any database does, and note it."""
        self.doom.before("write")
        async with super().write() as connection:
            yield connection
        self.doom.after("write")

    async def transact(self, work: Callable[[sa.Connection], T]) -> T:
        """Do as any database does, and note it; PostgreSQL comes through `write` anyway."""
        if not self.sqlite:
            return await super().transact(work)
        self.doom.before("write")
        done = await super().transact(work)
        self.doom.after("write")
        return done


@dataclass
class Ledgered:
    """Asks a ledger, and asks again as Temporal does."""

    ledger: Ledger
    sabotage: Sabotage = ""
    surprises: list[str] = field(default_factory=list)
    """What the ledger raised that is no error of its own."""

    async def act(self, operation: Operation, asker: int = 0, run: str = "run-1") -> Ending:
        """Ask until there is an end."""
        call = self._call(operation, asker, run)
        try:
            async with asyncio.timeout(PATIENCE.total_seconds()):
                return await self._persist(lambda: self.ledger.perform(self._spoilt(call)))
        except TimeoutError:
            return "unknown"

    async def reset(self, operation: Operation) -> Ending:
        """Ask as the run, and as the run that a reset makes: at once where the first has not ended."""
        first = asyncio.create_task(self.act(operation))
        if operation.pause is None:
            await first
        else:
            await asyncio.sleep(operation.pause)
        ending = await self.act(operation, run="run-2")
        await first
        return ending

    async def cancel(self, operation: Operation) -> Ending:
        """Ask, be cancelled, and find out what became of it, as a saga does."""
        attempt = asyncio.create_task(self.act(operation))
        await asyncio.sleep(operation.pause or 0)
        if attempt.done():
            return attempt.result()
        attempt.cancel()
        await asyncio.gather(attempt, return_exceptions=True)
        call = self._call(operation, 0, "run-1")
        undo = UndoCall(step=call.step, effect=effect_key(call.step), action=call.action)
        await self._persist(lambda: self.ledger.undo(undo))
        return "cancelled"

    async def _persist(self, attempt: Callable[[], Awaitable[object]]) -> Ending:
        while True:
            try:
                await attempt()
            except EffectParked:
                return "parked"
            except EffectRejected:
                return "refused"
            except PerdureError as error:
                if not error.retryable:
                    raise
                await asyncio.sleep((error.retry_after or _PAUSE).total_seconds())
            except SQLAlchemyError as error:
                # The ledger's own database: a step of a workflow is tried again then, too.
                self.surprises.append(type(error).__name__)
                await asyncio.sleep(_PAUSE.total_seconds())
            else:
                return "done"

    def _call(self, operation: Operation, asker: int, run: str) -> EffectCall:
        workflow_id = f"{operation.name}-{asker}" if operation.once else operation.name
        lineage = Lineage(namespace="chaos", workflow_id=workflow_id, first_execution_run_id="run-1")
        step = StepRef(lineage=lineage, name="make", run_id=run, workflow_type="Chaos")
        return EffectCall(step=step, action=operation.action, args=argument(operation).model_dump(mode="json"))

    def _spoilt(self, call: EffectCall) -> EffectCall:
        return call.model_copy(update={"item": uuid.uuid4().hex}) if self.sabotage == "new key" else call


class Naive:
    """Sends, and sends again when something goes wrong, up to three times; no key, as people write it."""

    def __init__(self, addresses: Mapping[str, str], pace: Pace, doom: Doom, operations: Sequence[Operation]) -> None:
        self._addresses = addresses
        self._pace = pace
        self._doom = doom
        self._strikes = Strikes([each for each in operations if each.target == "sqlite"])
        self._faults = Faults(late=timedelta(seconds=pace.late))
        self._engines: dict[str, AsyncEngine] = {}
        self._http: object = None

    async def act(self, operation: Operation, asker: int = 0) -> Ending:
        """Send until there is an answer."""
        for attempt in range(TRIES):
            try:
                self._doom.before("send")
                try:
                    async with asyncio.timeout(2 * self._pace.deadline):
                        await self._send(operation)
                finally:
                    self._doom.after("send")
            except Exception:  # noqa: BLE001  this is how people write it
                await asyncio.sleep(0.1 * 2**attempt)
            else:
                return "done"
        return "given up"

    async def reset(self, operation: Operation) -> Ending:
        """Be run, and be run again from the beginning."""
        first = asyncio.create_task(self.act(operation))
        if operation.pause is None:
            await first
        else:
            await asyncio.sleep(operation.pause)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
        return await self.act(operation)

    async def cancel(self, operation: Operation) -> Ending:
        """Be cancelled on the way."""
        attempt = asyncio.create_task(self.act(operation))
        await asyncio.sleep(operation.pause or 0)
        if attempt.done():
            return attempt.result()
        attempt.cancel()
        await asyncio.gather(attempt, return_exceptions=True)
        return "cancelled"

    async def close(self) -> None:
        """Let what is late land, and close the connections."""
        with suppress(Exception):  # nobody waits for what lands late
            await self._faults.wait_until_settled()
        for engine in self._engines.values():
            await engine.dispose()
        if self._http is not None:
            await self._http.aclose()  # type: ignore[attr-defined]

    async def _send(self, operation: Operation) -> None:
        address = self._addresses[operation.connector]
        if operation.target in HTTP:
            await self._post(f"{address}/{operation.target}", operation)
        elif operation.target == "smtp":
            await asyncio.to_thread(self._mail, address, operation)
        else:
            await self._insert(address, operation)

    async def _post(self, url: str, operation: Operation) -> None:
        import httpx

        if self._http is None:
            self._http = httpx.AsyncClient()
        assert isinstance(self._http, httpx.AsyncClient)
        response = await self._http.post(url, json={"op": operation.name}, timeout=self._pace.deadline)
        response.raise_for_status()
        response.json()

    def _mail(self, address: str, operation: Operation) -> None:
        import smtplib
        from email.message import EmailMessage

        host, _, port = address.rpartition(":")
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = "desk@shop.example", "customer@shop.example", operation.name
        message.set_content("It is on its way.")
        with smtplib.SMTP(host, int(port), timeout=self._pace.deadline) as server:
            server.send_message(message)

    async def _insert(self, url: str, operation: Operation) -> None:
        fault = self._strikes.next(operation.name) if operation.target == "sqlite" else "none"
        if fault == "land late":
            self._faults.land_later(self._committed(url, operation))
        if fault in ("lose request", "land late"):
            raise ConnectionError(fault)
        await self._committed(url, operation)
        if fault == "lose response":
            raise ConnectionError(fault)

    async def _committed(self, url: str, operation: Operation) -> None:
        if url not in self._engines:
            self._engines[url] = create_async_engine(url, connect_args={"timeout": 15} if "sqlite" in url else {})
        async with self._engines[url].begin() as connection:
            await connection.execute(sa.text(f"INSERT INTO {TABLE} (op) VALUES (:op)"), {"op": operation.name})  # noqa: S608


@asynccontextmanager
async def opened(told: Told, ledger: str, doom: Doom, operations: Sequence[Operation]) -> AsyncIterator[Client]:
    """Yield the client that TOLD names, at work with the database LEDGER."""
    if told.client == "naive":
        naive = Naive(told.addresses, told.pace, doom, operations)
        yield naive
        await naive.close()
        return
    database = DoomedDatabase(told.ledgers[ledger])
    database.doom = doom
    through: dict[str, Connector] = connectors(told.addresses, told.pace, doom=doom, operations=operations)
    yield Ledgered(Ledger(database, through), told.sabotage)
    for connector in through.values():
        await connector.close()
    await database.close()


def operations_in(path: str) -> list[Operation]:
    """Return the operations in the file PATH."""
    return [Operation.model_validate_json(line) for line in Path(path).read_text().splitlines()]
