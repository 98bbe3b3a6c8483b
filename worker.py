"""The process that does the work: `perdure worker`, or `python worker.py`.

It polls one task queue for workflow and activity tasks, serves the workflows, activities and connectors of the modules it
is given, and on SIGTERM lets running activities finish before it stops.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TypeVar, cast

import structlog
from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import Worker

from perdure import telemetry
from perdure.connection import connect
from perdure.connectors.contracts import Connector
from perdure.errors import InvalidSettings, NotAllowed, PerdureError
from perdure.plugin import PerdurePlugin
from perdure.settings import Settings, load_settings

log = structlog.get_logger(__name__)

T = TypeVar("T")


@dataclass
class WorkerModules:
    """What a worker serves, found in the modules it was given."""

    workflows: list[type] = field(default_factory=list)
    activities: list[Callable[..., object]] = field(default_factory=list)
    connectors: list[Connector] = field(default_factory=list)
    routes: list[Path] = field(default_factory=list)

    def plugin(self, settings: Settings) -> PerdurePlugin:
        """Return the plugin that serves the connectors and routes found."""
        return PerdurePlugin(settings, connectors=self.connectors, routes=self.routes)


def load_modules(names: Sequence[str], settings: Settings, *, configure: bool = True) -> WorkerModules:
    """Import the modules called NAMES and return what they define: workflows, activities, connectors, and ROUTES files.

    Connectors that the settings make from OpenAPI documents come along. Without CONFIGURE there are only those of the
    modules, as they are declared, which is enough for a replay.

    Raises `InvalidSettings` if one cannot be imported or defines nothing to serve.
    """
    served = WorkerModules()
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    for name in dict.fromkeys(names):  # the command line may name one that perdure.toml names as well
        _collect(_import_module(name), name, served)
    if not configure:
        return served
    served.connectors += _openapi_connectors(settings, served.connectors)
    served.connectors = [_configure(each, settings.connector_options(each.name)) for each in served.connectors]
    unused = settings.connectors.keys() - {connector.name for connector in served.connectors}
    if unused and names:
        log.warning("options for connectors that no module defines", connectors=sorted(unused))
    return served


async def run_worker(settings: Settings, modules: Sequence[str], *, stop: asyncio.Event | None = None) -> None:
    """Serve MODULES until STOP is set or the process gets SIGTERM or SIGINT; then drain."""
    served = load_modules(modules, settings)
    plugin = served.plugin(settings)
    client = await connect(plugin, patience=settings.patience, role="worker")
    stop = stop or _stop_on_signals()
    with ThreadPoolExecutor(settings.activity_slots, thread_name_prefix="perdure-activity") as executor:
        worker = _worker(client, settings, served, executor)
        running = asyncio.create_task(worker.run(), name="worker")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        settling = asyncio.create_task(freeze_gc(plugin), name="settle")
        log.info(
            "worker starting",
            task_queue=settings.task_queue,
            namespace=client.namespace,
            workflows=[_workflow_name(each) for each in served.workflows],
            connectors=[each.name for each in served.connectors],
            pid=os.getpid(),
        )
        # A worker that cannot start or that fails ends by itself; waiting for STOP alone would hide it.
        await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        settling.cancel()
        if not running.done():
            log.info("worker draining", at_most=settings.drain.total_seconds())
            await worker.shutdown()
        await running
    log.info("worker stopped")


def main(modules: Sequence[str] | None = None) -> None:
    """Run a worker for MODULES, else for those of the settings and the command line. Exits with 1 on bad configuration."""
    try:
        settings = load_settings()
        telemetry.configure(settings)
        asyncio.run(run_worker(settings, [*(modules if modules is not None else sys.argv[1:]), *settings.modules]))
        code = 0
    except PerdureError as error:
        sys.stderr.write(f"perdure worker: {error.message}\n")
        code = 4 if isinstance(error, NotAllowed) else 3 if error.retryable else 1
    except KeyboardInterrupt:
        # Before it served; from then on the signal means to drain.
        code = 130
    telemetry.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # The SDK's threads can abort an interpreter that shuts down (sdk-python#300); everything is drained and flushed here.
    os._exit(code)


async def freeze_gc(plugin: PerdurePlugin) -> None:
    """Take what is loaded for good out of the garbage collector's sight once everything is.

    These are half a million objects, most of them LiteLLM's. Each full collection looks through all of them while the
    event loop stands still: 280 ms, against less than 1 without them.
    """
    await plugin.rooms.warm.wait()
    gc.collect()
    gc.freeze()
    log.debug("garbage collector frozen", objects=gc.get_freeze_count())


def _worker(client: Client, settings: Settings, served: WorkerModules, executor: ThreadPoolExecutor) -> Worker:
    try:
        return Worker(
            client,
            task_queue=settings.task_queue,
            workflows=served.workflows,
            activities=served.activities,
            activity_executor=executor,
            graceful_shutdown_timeout=settings.drain,
        )
    except (RuntimeError, ValueError, TypeError) as error:
        # The SDK tries each workflow in the sandbox and looks for names that come twice; its reason is the cause.
        reason = " ".join(str(error.__cause__ or "").split())
        raise InvalidSettings(f"the worker cannot serve what it was given: {error}{reason and ': '}{reason}") from error


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (
            f"module {name!r} cannot be found"
            if error.name == name
            else f"module {name!r} needs {error.name!r}, which cannot be found"
        )
        raise InvalidSettings(
            f"{missing}. Give importable names, as in `perdure worker my_desk.workflows`; looked in {Path.cwd()}."
        ) from None
    except Exception as error:
        raise InvalidSettings(f"module {name!r} cannot be imported: {type(error).__name__}: {error}") from error


def _collect(module: ModuleType, name: str, served: WorkerModules) -> None:
    defines = False
    for value in vars(module).values():
        if isinstance(value, type) and _workflow_name(value) and not _workflow_name(value).startswith("perdure."):
            _add_once(served.workflows, value)
        elif callable(value) and not isinstance(value, type) and hasattr(value, "__temporal_activity_definition"):
            _add_once(served.activities, value)
        elif not isinstance(value, type) and _is_connector(value):
            _add_once(served.connectors, cast(Connector, value))
        else:
            continue
        # Also what another module has brought already, such as a connector that a workflow's module imports.
        defines = True
    routes = getattr(module, "ROUTES", None)
    if isinstance(routes, Path):
        _add_once(served.routes, routes)
    if not defines:
        raise InvalidSettings(
            f"module {name!r} defines no @workflow.defn class, no @activity.defn function and no connector; "
            "name the module that does"
        )


def _openapi_connectors(settings: Settings, defined: Sequence[Connector]) -> list[Connector]:
    names = {connector.name for connector in defined}
    if both := sorted(names & settings.openapi.keys()):
        raise InvalidSettings(
            f"the connector {both[0]!r} is defined by a module and by [openapi.{both[0]}]: drop one of them"
        )
    if not settings.openapi:
        return []
    from perdure.connectors.openapi import connector_from_settings

    return [connector_from_settings(name, section) for name, section in settings.openapi.items()]


def _configure(connector: Connector, options: Mapping[str, str]) -> Connector:
    # A connector that talks to nobody, such as one in the process, takes no options and has no `configured`.
    configured = getattr(connector, "configured", None)
    return cast(Connector, configured(options)) if configured is not None else connector


def _add_once(found: list[T], value: T) -> None:
    if not any(each is value for each in found):
        found.append(value)


def _is_connector(value: object) -> bool:
    return all(hasattr(value, name) for name in ("name", "actions", "execute", "probe", "close"))


def _workflow_name(value: type) -> str:
    definition = workflow._Definition.from_class(value)  # noqa: SLF001  the SDK has no public way to ask
    return (definition.name or "") if definition else ""


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


if __name__ == "__main__":
    main()
