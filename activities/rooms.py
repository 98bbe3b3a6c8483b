"""The rooms that a worker's activities work in: opened once, shared by the workers of a plugin, closed after the last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.settings import Settings

if TYPE_CHECKING:
    from perdure.connectors.contracts import Connector
    from perdure.connectors.ledger import Ledger
    from perdure.connectors.watch import Watch
    from perdure.governance.approvals import Approvals
    from perdure.governance.payloads import LazyDatabase
    from perdure.memory.conversations import Messages
    from perdure.memory.store import Memory
    from perdure.routing.batches import Batches
    from perdure.routing.router import Router


@dataclass(frozen=True)
class OpenRooms:
    """What the activities work with."""

    memory: Memory
    messages: Messages
    router: Router
    batches: Batches
    ledger: Ledger
    watch: Watch
    approvals: Approvals
    accept_unverified: bool
    queued: frozenset[str]
    """The connectors that have a task queue of their own."""


class Rooms:
    """What SETTINGS, CONNECTORS and ROUTES describe, open while a worker uses it. DATABASE gets the one that is open."""

    def __init__(
        self, settings: Settings, *, connectors: Sequence[Connector], routes: Sequence[Path], database: LazyDatabase
    ) -> None:
        self._settings = settings
        self._connectors = list(connectors)
        self._routes = list(routes)
        self._database = database
        self._open: OpenRooms | None = None
        self._stack = AsyncExitStack()
        self._users = 0
        self._turn = asyncio.Lock()
        self.warm = asyncio.Event()
        """Set once they are open and what is slow to import is imported."""

    @property
    def open(self) -> OpenRooms:
        """The open rooms. Raises `RuntimeError` if no worker uses them."""
        if self._open is None:
            raise RuntimeError("the rooms are not open: run the worker with PerdurePlugin, which opens them")
        return self._open

    @asynccontextmanager
    async def use(self) -> AsyncIterator[OpenRooms]:
        """Open the rooms, unless another worker uses them already; close them if no other does at the end."""
        async with self._turn:
            if self._open is None:
                self._open = await self._enter()
            self._users += 1
        try:
            yield self._open
        finally:
            async with self._turn:
                self._users -= 1
                if not self._users:
                    self._open = None
                    await self._stack.aclose()

    async def _enter(self) -> OpenRooms:
        async with AsyncExitStack() as stack:
            rooms = await self._open_in(stack)
            self._stack = stack.pop_all()
        return rooms

    async def _open_in(self, stack: AsyncExitStack) -> OpenRooms:
        from perdure.activities.embedders import embedder_loader
        from perdure.connectors.configured import ConfiguredConnector
        from perdure.connectors.ledger import Ledger
        from perdure.connectors.watch import Watch
        from perdure.governance.approvals import Approvals
        from perdure.memory.conversations import Messages
        from perdure.memory.index import MINILM, MiniLm
        from perdure.memory.opening import open_memory
        from perdure.routing.batches import Batches
        from perdure.routing.load import load_routes, own_files
        from perdure.routing.prompts import estimate_tokens
        from perdure.routing.router import Router
        from perdure.routing.routes import SHIPPED
        from perdure.storage import open_database
        from perdure.workflows.plan import describe_actions

        settings = self._settings
        routes = load_routes([*own_files(settings.models), *self._routes, SHIPPED])
        for connector in self._connectors:
            stack.push_async_callback(connector.close)
        database = await stack.enter_async_context(open_database(settings.database))
        for connector in self._connectors:
            if isinstance(connector, ConfiguredConnector):
                connector.share(database)
        embedder = await MiniLm.load()
        # Tasks were learned by this one, so it stays theirs when memory has another.
        shared = embedder if settings.embedder == MINILM else None
        load = embedder_loader(database, lambda: routes)
        memory = await stack.enter_async_context(open_memory(settings, database, embedder=shared, load=load))
        router = Router(database, routes, embedder, cache=settings.home / "examples")
        stack.push_async_callback(router.close)
        await router.load_files()
        # LiteLLM takes seconds to import: the worker serves everything else meanwhile.
        warming = asyncio.create_task(router.warm_up(), name="import litellm")
        warming.add_done_callback(lambda _: self.warm.set())
        stack.push_async_callback(_cancel, warming)
        connectors = {connector.name: connector for connector in self._connectors}
        watch = Watch.over(database, connectors, fresh=settings.contract_age)
        await watch.drift.register()
        describe_actions(action for connector in self._connectors for action in connector.actions.values())
        self._database.use(database)
        stack.callback(self._database.use, None)
        return OpenRooms(
            memory=memory,
            messages=Messages(database, estimate_tokens),
            router=router,
            batches=Batches(database, router),
            ledger=Ledger(database, connectors, guard=watch.guard),
            watch=watch,
            approvals=Approvals(database),
            accept_unverified=settings.unverified_decisions == "allow",
            queued=frozenset(settings.connector_queues),
        )


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
