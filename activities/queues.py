"""Who works off a connector's own queue, and how fast the server hands its effects out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

from temporalio.client import Client
from temporalio.worker import Worker

from perdure.settings import ConnectorQueue


@asynccontextmanager
async def serve_queues(
    queues: Mapping[str, ConnectorQueue],
    connectors: Collection[str],
    beside: Worker,
    activities: Sequence[Callable[..., object]],
) -> AsyncIterator[None]:
    """Work off those of the QUEUES that belong to CONNECTORS, by ACTIVITIES, with workers like BESIDE.

    Connectors may share a queue; the lowest of their limits holds for it.
    """
    limits: dict[str, float | None] = {}
    for connector in sorted(connectors & queues.keys()):
        queue = queues[connector]
        known = limits.get(queue.name)
        limits[queue.name] = min(filter(None, (known, queue.per_second)), default=None)
    # Without the plugin: it would open the rooms once more, and serve everything on each queue.
    config = beside.client.config(active_config=True)
    config["plugins"] = []
    client = Client(**config)
    like = beside.config(active_config=True)
    async with AsyncExitStack() as stack:
        for name, per_second in limits.items():
            worker = Worker(
                client,
                task_queue=name,
                activities=activities,
                interceptors=like.get("interceptors", []),
                identity=like.get("identity"),
                max_concurrent_activities=like.get("max_concurrent_activities"),
                max_task_queue_activities_per_second=per_second,
                graceful_shutdown_timeout=like.get("graceful_shutdown_timeout", timedelta()),
            )
            await stack.enter_async_context(worker)
        yield
