"""How memory is opened: with which index and embedder, and what happens when the settings name others than before."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import structlog

from perdure.errors import InvalidSettings, Unreachable
from perdure.memory.index import (
    MINILM,
    Claim,
    Embedder,
    Index,
    LoadEmbedder,
    MiniLm,
    claim_index,
    generation,
    load_embedder,
)
from perdure.memory.store import Memory
from perdure.settings import Settings
from perdure.storage import Database

if TYPE_CHECKING:
    from tenacity import RetryCallState

log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_memory(
    settings: Settings,
    database: Database,
    *,
    embedder: Embedder | None = None,
    previous: Embedder | None = None,
    load: LoadEmbedder = load_embedder,
) -> AsyncIterator[Memory]:
    """Open the memory that SETTINGS describe: on the Qdrant server of `index_url`, else in this process under `home`.

    Brings the index up to date first. EMBEDDER is used instead of the one that the settings name. If the index is still
    that of another embedder, recalls go on with it while EMBEDDER embeds everything in the background. The other one is
    PREVIOUS, else the one that the settings named before; if neither is to be had, recalls wait. Raises `IndexOwned` if
    another process has the embedded index, or if another index follows the database.

    LOAD finds an embedder by its name.
    """
    name = settings.embedder if embedder is None else _name(embedder, settings)
    embedder = embedder or await load(settings.embedder)
    place = _Location(settings)
    async with AsyncExitStack() as stack:
        claim = await stack.enter_async_context(
            claim_index(database, place=place.shown, holder=await place.holder(), shared=place.shared)
        )
        previous = previous or await _load_previous(claim, embedder, load)
        index, present = await place.open(embedder, previous, claim)
        memory = Memory(database, index, present, retention=settings.retention, claim=claim)
        stack.push_async_callback(memory.close)
        await claim.activate(generation(present), name if present is embedder else claim.embedder)
        await memory.catch_up()
        await memory.finish_erasures()
        if present is not embedder:
            upgrading = asyncio.create_task(_upgrade(memory, embedder, name), name="embed the memory anew")
            stack.push_async_callback(_stop, upgrading)
        yield memory


def _name(embedder: Embedder, settings: Settings) -> str:
    """Return by which name EMBEDDER can be loaded again, empty if by none."""
    if isinstance(embedder, MiniLm):
        return MINILM
    module, _, attribute = settings.embedder.partition(":")
    made_by = type(embedder)
    return settings.embedder if (made_by.__module__, made_by.__name__) == (module, attribute) else ""


async def _upgrade(memory: Memory, embedder: Embedder, name: str) -> None:
    from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential

    def tell(state: RetryCallState) -> None:
        error = state.outcome and state.outcome.exception()
        log.warning("the memory is not embedded anew yet, it is tried again", error=str(error))

    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(Unreachable), wait=wait_exponential(max=60), before_sleep=tell
    ):
        with attempt:
            await memory.upgrade(embedder, name)


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def _load_previous(claim: Claim, embedder: Embedder, load: LoadEmbedder) -> Embedder | None:
    """Return the embedder whose vectors are in force, if it is another one and can be loaded."""
    if claim.generation in ("", generation(embedder)):
        return None
    try:
        found = await load(claim.embedder) if claim.embedder else None
    except InvalidSettings as error:
        log.warning("the embedder before cannot be loaded", embedder=claim.embedder, error=error.message)
        found = None
    if found is not None and generation(found) == claim.generation:
        return found
    log.warning(
        "nobody knows the embedder before, so recalls wait until everything is embedded anew",
        before=claim.embedder or claim.generation,
        now=embedder.name,
    )
    return None


class _Location:
    """Where the settings want the index."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.index_url
        self._folder = settings.index_path.absolute()
        self._embedded = not self._url
        self.shared = bool(self._url) and self._url != ":memory:"
        here = self._url if self.shared else f"{socket.gethostname()}:{self._url or self._folder}"
        self.shown = here if self._embedded or self.shared else f"the memory of process {os.getpid()} on {here}"

    async def holder(self) -> str:
        """Return by which name the database may know the index."""
        if self.shared:
            return self._url.rstrip("/")
        if self._embedded:
            from perdure.memory.index import EdgeIndex

            return await EdgeIndex.read_holder(self._folder)
        return ""

    async def open(self, embedder: Embedder, previous: Embedder | None, claim: Claim) -> tuple[Index, Embedder]:
        """Return the index and the embedder whose vectors it holds: PREVIOUS as long as it is the index's."""
        if self._embedded:
            from perdure.memory.index import EdgeIndex

            if previous is not None and await EdgeIndex.holds(self._folder, previous):
                edge, present = await EdgeIndex.open(self._folder, previous, keep=embedder), previous
            else:
                edge, present = await EdgeIndex.open(self._folder, embedder), embedder
            await edge.write_holder(claim.holder)
            return edge, present
        from perdure.memory.index import ServerIndex

        name = claim.database_id
        if previous is not None and await ServerIndex.holds(self._url, previous, database_id=name):
            return await ServerIndex.open(self._url, previous, database_id=name), previous
        return await ServerIndex.open(self._url, embedder, database_id=name), embedder
