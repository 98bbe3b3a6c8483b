"""Where large payloads are: in the database, beside the history, under the hash of their content."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence

from temporalio.api.common.v1 import Payload
from temporalio.converter import (
    StorageDriver,
    StorageDriverClaim,
    StorageDriverRetrieveContext,
    StorageDriverStoreContext,
)

from perdure.errors import NotFound
from perdure.settings import Settings
from perdure.storage import Database, without_password


class PayloadStore(StorageDriver):
    """Large payloads in the database, under the hash of their content.

    Storing again what is there is a no-op, which replay relies on: the Replayer stores once more.
    """

    def __init__(self, open_database: Callable[[], Awaitable[Database]]) -> None:
        self._open = open_database

    def name(self) -> str:
        """Return the name that claims in histories refer to."""
        return "perdure.database"

    def type(self) -> str:
        """Return the kind of driver, the same in every language."""
        return "perdure.database"

    async def store(self, context: StorageDriverStoreContext, payloads: Sequence[Payload]) -> list[StorageDriverClaim]:
        """Write PAYLOADS and return how to find them again."""
        from perdure.governance import tables

        rows = {_hash_payload(payload): payload.SerializeToString(deterministic=True) for payload in payloads}
        database = await self._open()
        async with database.write() as connection:
            await tables.insert_payloads(connection, rows, sqlite=database.sqlite)
        return [StorageDriverClaim(claim_data={"sha256": _hash_payload(payload)}) for payload in payloads]

    async def retrieve(self, context: StorageDriverRetrieveContext, claims: Sequence[StorageDriverClaim]) -> list[Payload]:
        """Read the payloads that CLAIMS point to, and check that they are what was stored."""
        from perdure.governance import tables

        wanted = [claim.claim_data["sha256"] for claim in claims]
        database = await self._open()
        async with database.read() as connection:
            found = await tables.select_payloads(connection, wanted)
        missing = [address for address in wanted if address not in found]
        if missing:
            raise NotFound(
                f"payload {missing[0]} is not in {without_password(database.url)}. "
                f"The history was recorded with another database: "
                "set PERDURE_DATABASE_URL to that one."
            )
        return [_verify_payload(address, found[address]) for address in wanted]


class LazyDatabase:
    """A database that is opened when it is first needed: most clients never see a large payload."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._by_loop: dict[asyncio.AbstractEventLoop, Database] = {}
        self._shared: Database | None = None

    def use(self, database: Database | None) -> None:
        """Use DATABASE, which somebody else opens and closes."""
        self._shared = database

    async def __call__(self) -> Database:
        """Return the database, its schema up to date."""
        if self._shared is not None:
            return self._shared
        loop = asyncio.get_running_loop()
        if loop not in self._by_loop:
            database = Database(self._settings.database)
            await database.migrate()
            self._by_loop[loop] = database
        return self._by_loop[loop]

    async def close(self) -> None:
        """Close what was opened here."""
        database = self._by_loop.pop(asyncio.get_running_loop(), None)
        if database is not None:
            await database.close()


def _hash_payload(payload: Payload) -> str:
    return hashlib.sha256(payload.SerializeToString(deterministic=True)).hexdigest()


def _verify_payload(address: str, stored: bytes) -> Payload:
    if hashlib.sha256(stored).hexdigest() != address:
        raise NotFound(f"payload {address} was changed in the database: its content does not fit its address any more")
    return Payload.FromString(stored)
