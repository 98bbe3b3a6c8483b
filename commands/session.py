"""How a command talks to Temporal: one governed client, closed at the end."""

from __future__ import annotations

import asyncio
import getpass
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perdure.commands.options import Options
from perdure.errors import NotAllowed, NotFound, Unreachable

if TYPE_CHECKING:
    from temporalio.client import Client, WorkflowExecutionDescription, WorkflowHandle
    from temporalio.converter import DataConverter

    from perdure.commands.links import Links
    from perdure.settings import Settings

PATIENCE = 10.0
"""Seconds that a server may take to answer before a command gives up."""


@dataclass(frozen=True)
class Session:
    """A connection and what goes with it."""

    client: Client
    settings: Settings
    links: Links

    @property
    def converter(self) -> DataConverter:
        """What decodes this connection's payloads."""
        return self.client.data_converter

    async def find_run(self, run: str) -> tuple[WorkflowHandle[object, object], WorkflowExecutionDescription]:
        """Return the run called RUN, `WORKFLOW_ID` or `WORKFLOW_ID/RUN_ID`. Raises `NotFound` if there is none."""
        from temporalio.service import RPCError, RPCStatusCode

        workflow_id, run_id = parse_run(run)
        handle: WorkflowHandle[object, object] = self.client.get_workflow_handle(workflow_id, run_id=run_id)
        try:
            return handle, await handle.describe()
        except RPCError as error:
            if error.status not in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
                raise
            raise NotFound(
                f"no run {run!r} in namespace {self.client.namespace!r}. `perdure list` shows the runs there are; give a "
                "workflow id, or WORKFLOW_ID/RUN_ID for an earlier run of it."
            ) from None


@asynccontextmanager
async def open_session(options: Options) -> AsyncIterator[Session]:
    """Yield a session as OPTIONS say. Raises `Unreachable`, `NotAllowed` or `InvalidSettings`; never hangs."""
    from perdure.commands.links import Links
    from perdure.connection import connect
    from perdure.plugin import PerdurePlugin

    settings = client_settings()
    plugin = PerdurePlugin(settings)
    try:
        async with asyncio.timeout(PATIENCE):
            client = await connect(plugin, profile=options.profile, address=options.address, namespace=options.namespace)
    except TimeoutError:
        where = options.address or os.environ.get("TEMPORAL_ADDRESS") or "localhost:7233"
        raise Unreachable(f"no Temporal server answers at {where} within {PATIENCE:.0f} s. Check the address.") from None
    try:
        yield Session(client, settings, Links.of(client, settings))
    finally:
        await plugin.close()


def client_settings() -> Settings:
    """Return the settings for a process that runs no steps: it serves no metrics and logs errors only."""
    from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig

    from perdure import telemetry
    from perdure.settings import load_settings

    settings = load_settings().model_copy(update={"metrics_address": "", "log_level": "error", "tracing": "off"})
    telemetry.configure(settings)
    # What goes wrong is told once, by the command itself, and stdout is for results: the SDK's core would log there.
    logging.getLogger("temporalio").setLevel(logging.CRITICAL)
    Runtime.set_default(Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(filter="off"))), error_if_already_set=False)
    return settings


def run_with_session(work: Callable[[Session], Coroutine[object, object, None]], options: Options) -> None:
    """Run WORK with a session."""

    async def go() -> None:
        async with open_session(options) as session:
            await work(session)

    asyncio.run(go())


def parse_run(run: str) -> tuple[str, str | None]:
    """Return workflow id and run id of what a user calls RUN."""
    workflow_id, slash, run_id = run.rpartition("/")
    # Workflow ids may have slashes, run ids are UUIDs.
    if slash and len(run_id) == 36 and run_id.count("-") == 4:
        return workflow_id, run_id
    return run, None


def refuse_unverified(settings: Settings) -> None:
    """Raise `NotAllowed` if SETTINGS let no decision count whose sender nobody verified. Call it before any decision."""
    if settings.unverified_decisions == "refuse":
        raise NotAllowed("nobody verifies who types a command, and these settings refuse that (unverified_decisions)")


def terminal_user() -> str:
    """Return the name of the person at this terminal, as the operating system has it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # No such user, e.g. in a container that runs under a bare number.
        return "somebody"
