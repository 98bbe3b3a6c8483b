"""What the demo plays on: an embedded Temporal server, the stand-in shop, and a worker that can be killed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType

from temporalio.client import Client

from perdure.commands.dev import child_process
from perdure.commands.dev.server import DevServer
from perdure.connection import connect
from perdure.errors import Unreachable
from perdure.plugin import PerdurePlugin
from perdure.settings import Settings

DATA = Path(__file__).parent / "data"
DESK = "perdure.examples.returns_desk.desk"
CONNECTORS = ("orders", "inventory", "payments")

FAULTS = {
    "--lose-requests": 0.06,
    "--lose-responses": 0.06,
    "--land-late": 0.06,
    "--late": 0.6,
    "--latency": 0.1,
    "--seed": 7,
}
"""What goes wrong at the shop, as shares of the writing requests; late and latency are seconds."""


class Stage:
    """Everything that runs, in processes of their own, as long as the block lasts. Its files are in HOME, made anew."""

    def __init__(
        self, home: Path, *, database_url: str = "", models: Path | None = None, say: Callable[[str], None]
    ) -> None:
        self.home = home.absolute()
        self.settings = Settings(home=self.home, database_url=database_url, models=models)
        self._say = say
        self._stack = AsyncExitStack()
        self._shop: asyncio.subprocess.Process | None = None
        self._worker: asyncio.subprocess.Process | None = None
        self.shop_url = ""
        self.server = DevServer(self.home, port=0)
        self.plugin = PerdurePlugin(self.settings)

    async def __aenter__(self) -> Stage:
        await asyncio.to_thread(_recreate, self.home)
        await self._stack.__aenter__()
        try:
            await self._stack.enter_async_context(self.server)
            self._say(f"Temporal server at {self.server.address}, Web UI {self.server.ui}")
            await self._open_shop()
            self._stack.push_async_callback(self._stop_worker)
            await self.start_worker()
            self.client: Client = await connect(self.plugin, address=self.server.address, role="demo")
            self._stack.push_async_callback(self.plugin.close)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def worker_pid(self) -> int:
        """The worker's process."""
        assert self._worker is not None, "no worker runs"
        return self._worker.pid

    async def start_worker(self) -> int:
        """Start a worker and return its pid."""
        with (self.home / "worker.log").open("ab") as log:
            self._worker = await child_process.start(
                [sys.executable, "-m", "perdure.worker", DESK],
                env=self._environment(),
                # The SDK's own warnings about a worker that was killed go to stdout, where a person is being asked.
                stdout=log.fileno(),
                stderr=log.fileno(),
            )
        return self._worker.pid

    async def kill_worker(self) -> int:
        """Kill the worker with SIGKILL and return the pid that it had."""
        pid = self.worker_pid
        assert self._worker is not None
        self._worker.kill()
        await self._worker.wait()
        return pid

    async def books(self) -> list[dict[str, object]]:
        """Return the refunds in the shop's own books."""
        import httpx

        async with httpx.AsyncClient(base_url=self.shop_url) as shop:
            answer = await shop.get("/refunds")
            answer.raise_for_status()
        found: list[dict[str, object]] = answer.json()
        return found

    async def _open_shop(self) -> None:
        command = [sys.executable, "-m", "perdure.examples.returns_desk.shop"]
        command += ["--db", str(self.home / "shop.db"), "--orders", str(DATA / "orders.json")]
        command += [str(part) for option in FAULTS.items() for part in option]
        with (self.home / "shop.log").open("ab") as log:
            shop = await child_process.start(command, stdout=asyncio.subprocess.PIPE, stderr=log.fileno())
        self._stack.push_async_callback(child_process.stop, shop, patience=5)
        assert shop.stdout is not None
        ready = await shop.stdout.readline()
        if not ready:
            said = child_process.last_lines(self.home / "shop.log")
            raise Unreachable(f"the stand-in shop ended at once. Its log ends:\n{said}")
        self.shop_url = json.loads(ready)["url"]
        self._say(f"a stand-in for the shop at {self.shop_url}; it loses requests and answers, and lets some land late")

    async def _stop_worker(self) -> None:
        if self._worker is not None:
            await child_process.stop(self._worker, patience=10)

    def _environment(self) -> dict[str, str]:
        # A developer's own settings and servers stay out of the demo.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TEMPORAL_", "PERDURE_"))}
        ours = {
            "TEMPORAL_ADDRESS": self.server.address,
            "TEMPORAL_CONFIG_FILE": os.devnull,
            "PERDURE_CONFIG": os.devnull,
            "PERDURE_HOME": str(self.home),
            "PERDURE_DATABASE_URL": self.settings.database_url,
            "PERDURE_LOG_FORMAT": "json",
            **{f"PERDURE_CONNECTORS__{name.upper()}__URL": self.shop_url for name in CONNECTORS},
        }
        if self.settings.models is not None:
            ours["PERDURE_MODELS"] = str(self.settings.models.absolute())
        return kept | ours


def _recreate(home: Path) -> None:
    if home.exists():
        shutil.rmtree(home)
    home.mkdir(parents=True)
