"""How values are recorded: pydantic JSON, large ones beside the history, too large ones refused at once."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from pydantic import ValidationError
from temporalio.api.common.v1 import Payload
from temporalio.contrib.pydantic import PydanticPayloadConverter
from temporalio.converter import (
    DataConverter,
    ExternalStorage,
    StorageDriver,
    StorageDriverClaim,
    StorageDriverRetrieveContext,
    StorageDriverStoreContext,
)
from temporalio.exceptions import ApplicationError

from perdure.errors import NotFound
from perdure.settings import MiB, Settings
from perdure.storage import Database, without_password


class CheckedPayloadConverter(PydanticPayloadConverter):
    """The pydantic converter, with two errors made readable and final.

    A value above LIMIT bytes, or one that does not fit its type, would otherwise leave a workflow task retrying for ever.
    """

    limit = 16 * MiB

    def to_payloads(self, values: Sequence[object]) -> list[Payload]:
        """Return one payload a value. Raises `PayloadTooLarge` as a final failure."""
        payloads = super().to_payloads(values)
        for value, payload in zip(values, payloads, strict=True):
            if len(payload.data) > self.limit:
                raise ApplicationError(
                    f"a {type(value).__name__} of {len(payload.data):,} bytes is above the limit of {self.limit:,} bytes a "
                    "payload. Store it elsewhere and pass a reference, or raise payload_limit.",
                    type="PayloadTooLarge",
                    non_retryable=True,
                )
        return payloads

    def from_payloads(self, payloads: Sequence[Payload], type_hints: list[type] | None = None) -> list[object]:
        """Return one value a payload. Raises `InvalidInput`, naming the fields, as a final failure."""
        try:
            return super().from_payloads(payloads, type_hints)
        except ValidationError as error:
            raise ApplicationError(_describe_misfit(error), type="InvalidInput", non_retryable=True) from None


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


def data_converter(settings: Settings, database: LazyDatabase) -> DataConverter:
    """Return the converter of perdure's clients, workers and replayers."""
    converter = type("CheckedPayloadConverter", (CheckedPayloadConverter,), {"limit": settings.payload_limit})
    return replace(
        DataConverter(payload_converter_class=converter),
        external_storage=ExternalStorage(
            drivers=[PayloadStore(database)], payload_size_threshold=settings.payload_threshold
        ),
    )


def _hash_payload(payload: Payload) -> str:
    return hashlib.sha256(payload.SerializeToString(deterministic=True)).hexdigest()


def _verify_payload(address: str, stored: bytes) -> Payload:
    if hashlib.sha256(stored).hexdigest() != address:
        raise NotFound(f"payload {address} was changed in the database: its content does not fit its address any more")
    return Payload.FromString(stored)


def _describe_misfit(error: ValidationError) -> str:
    where = "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'the value'}: {item['msg']}" for item in error.errors(include_input=False)
    )
    return f"{error.title} does not fit: {where}"
