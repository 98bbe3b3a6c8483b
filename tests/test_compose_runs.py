"""Tests of docker-compose.temporal.yml: what its commands do, which are taken from the file itself.

The images of others are not run. perdure's services are: the same commands with the same environment, on this machine's
PostgreSQL and Temporal dev server.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import sysconfig
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kits.compose_file import Service, seconds, services
from kits.toy_workflows import Asks
from kits.workflows import Handle
from stand_ins.qdrant import qdrant_stand_in
from temporalio.client import Client

from perdure import storage
from perdure.commands.dev import child_process
from perdure.governance.contracts import (
    APPROVALS,
    DECIDE,
    ApprovalRequest,
    DecisionCall,
)
from perdure.plugin import PerdurePlugin
from perdure.settings import Settings
from perdure.visibility import missing_search_attributes

pytestmark = pytest.mark.faults

if TYPE_CHECKING:
    from kits.postgres_server import Postgres

BIN = Path(sysconfig.get_path("scripts"))


def test_temporal_schema(tmp_path: Path) -> None:
    """The job makes both databases, then their version tables, then the newest schema, and stops at the first failure.

    Temporal's tool comes in its image only, so a STAND-IN here writes down how it was called.
    """
    tool = tmp_path / "temporal-sql-tool"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n! grep -q update-schema {tmp_path}/calls\n')
    tool.chmod(0o755)
    job = services()["temporal-schema"]
    done = subprocess.run(job["command"], env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=False)
    call = "--plugin postgres12 --ep temporal-db -p 5432 -u temporal --db temporal "

    assert 0 != done.returncode
    assert [
        call + "create",
        call + "setup-schema -v 0.0",
        call + "update-schema -d /etc/temporal/schema/postgresql/v12/temporal/versioned",
    ] == (tmp_path / "calls").read_text().splitlines()


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_qdrant_health(status: int, healthy: bool) -> None:
    """Qdrant's health check goes by its answer, not by an open port. What answers here is a STAND-IN for the server."""
    with _answers(status) as port:
        check = [part.replace("/6333", f"/{port}") for part in services()["qdrant"]["healthcheck"]["test"]]
        done = subprocess.run(check[1:], check=False, timeout=10)

    assert healthy == (done.returncode == 0)


async def test_two_workers(postgres: Postgres, temporal_address: str, tmp_path: Path) -> None:
    """The jobs prepare an empty database and a new namespace; a run that one of two workers began is ended by the other."""
    database = postgres.url(postgres.create())
    namespace = f"compose-{uuid.uuid4()}"
    made = services(
        TEMPORAL_ADDRESS=temporal_address, TEMPORAL_NAMESPACE=namespace, PERDURE_MODULES='["kits.toy_workflows"]'
    )
    made["temporal-namespace"]["environment"]["TEMPORAL_ADDRESS"] = temporal_address
    async with AsyncExitStack() as stack:
        # No Qdrant server comes as a package, and workers of one database share one.
        index = (await stack.enter_async_context(qdrant_stand_in())).url
        for job in ("temporal-namespace", "temporal-namespace", "perdure-setup", "perdure-setup"):  # again is nothing
            assert 0 == await _ended(made[job], _here(made[job], database, index, tmp_path / job))
        prepared = storage.Database(database)
        stack.push_async_callback(prepared.close)
        revision = await prepared.revision()
        plugin = PerdurePlugin(Settings(home=tmp_path, database_url=database))
        stack.push_async_callback(plugin.close)
        client = await Client.connect(temporal_address, namespace=namespace, plugins=[plugin])
        missing = await missing_search_attributes(client)
        workers = {}
        for number in range(made["worker"]["deploy"]["replicas"]):
            environment = _here(made["worker"], database, index, tmp_path / f"worker-{number}")
            assert not await _healthy(made["worker"], environment)
            worker = await child_process.start(_command(made["worker"]["command"]), env=environment)
            stack.push_async_callback(child_process.stop, worker, patience=5)
            workers[worker.pid] = (worker, environment)
        async with asyncio.timeout(60):
            for worker, environment in workers.values():
                while not await _healthy(made["worker"], environment):  # as Docker does
                    assert worker.returncode is None
                    await asyncio.sleep(0.2)

        queue = made["worker"]["environment"]["PERDURE_TASK_QUEUE"]
        handle: Handle = await client.start_workflow(Asks.run, 1, id="r-1", task_queue=queue)
        request = await _asked(handle)
        first = (await _who(handle))[-1]
        code = await child_process.stop(workers[first][0], patience=seconds(made["worker"]["stop_grace_period"]))
        decision = DecisionCall(approval=request.approval, digest=request.digest, verdict="approve", by="mara")
        await handle.execute_update(DECIDE, decision)

        assert "mara" == await handle.result()
        assert 0 == code
        assert set(workers) == set(await _who(handle))
        assert (storage.HEAD, []) == (revision, missing)


def _here(service: Service, database: str, index: str, home: Path) -> dict[str, str]:
    """Return the environment of SERVICE, with the places of this machine, for a process in the folder of the tests."""
    declared: dict[str, str] = service["environment"]
    home.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {
        "PERDURE_DATABASE_URL": database,
        "PERDURE_INDEX_URL": index,
        "PERDURE_HOME": str(home),
        "PERDURE_METRICS_ADDRESS": f"127.0.0.1:{port}",
    }
    path = f"{BIN}:{os.environ['PATH']}"
    around = {"PATH": path, "HOME": str(home), "PYTHONPATH": str(Path(__file__).parent), "PERDURE_CONFIG": os.devnull}
    return around | declared | {name: value for name, value in places.items() if name in declared}


def _command(command: Sequence[str]) -> list[str]:
    programs = {"perdure": str(BIN / "perdure"), "python": sys.executable, "sh": "/bin/sh"}
    return [programs[command[0]], *command[1:]]


async def _ended(service: Service, environment: Mapping[str, str]) -> int:
    return await (await child_process.start(_command(service["command"]), env=environment)).wait()


async def _healthy(service: Service, environment: Mapping[str, str]) -> bool:
    check = _command(service["healthcheck"]["test"][1:])
    quiet = asyncio.subprocess.DEVNULL
    return 0 == await (await child_process.start(check, env=environment, stderr=quiet)).wait()


async def _asked(handle: Handle) -> ApprovalRequest:
    while True:
        found: list[ApprovalRequest] = await handle.query(APPROVALS, result_type=list[ApprovalRequest])
        if found:
            return found[0]
        await asyncio.sleep(0.05)  # a query cannot be waited on


async def _who(handle: Handle) -> list[int]:
    """Return the processes that moved the run on, one for each time."""
    history = await handle.fetch_history()
    done = [event.workflow_task_completed_event_attributes.identity for event in history.events]
    return [int(identity.rpartition(":")[2]) for identity in done if identity]


@contextmanager
def _answers(status: int) -> Iterator[int]:
    """Serve HTTP on a free port, which is yielded: /readyz is answered with STATUS."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  its name there
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
