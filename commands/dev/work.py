"""What `perdure dev` does between its start and its end."""

from __future__ import annotations

import asyncio
import json
import signal
from dataclasses import dataclass

from perdure.commands.dev.server import DevServer
from perdure.commands.dev.worker_process import WorkerProcess
from perdure.commands.links import DEV_SERVER_FILE, Links
from perdure.commands.options import Format, Options
from perdure.commands.output import emit_line, say
from perdure.errors import Unreachable
from perdure.settings import Settings, load_settings


@dataclass(frozen=True)
class DevOptions:
    """What was asked for."""

    modules: list[str]
    port: int
    ui_port: int
    headless: bool
    worker: bool


async def run(options: Options, wanted: DevOptions) -> None:
    """Run server and worker until a signal comes or one of them cannot go on."""
    settings = load_settings()
    stop = _stop_on_signals()
    server = DevServer(settings.home, port=wanted.port, ui_port=wanted.ui_port, headless=wanted.headless)
    async with server:
        note = settings.home / DEV_SERVER_FILE
        note.write_text(json.dumps({"address": server.address, "ui": server.ui}), "utf-8")
        try:
            _announce(options, wanted, server, settings)
            await _until(stop, server, wanted, settings)
        finally:
            note.unlink(missing_ok=True)
    say("stopped")


async def _until(stop: asyncio.Queue[str], server: DevServer, wanted: DevOptions, settings: Settings) -> None:
    worker = WorkerProcess(wanted.modules, address=server.address, namespace=server.namespace, say=say)
    stopped = asyncio.create_task(stop.get())
    down = asyncio.create_task(server.process.wait())
    kept = asyncio.create_task(worker.supervise() if wanted.worker else asyncio.Event().wait())
    try:
        await asyncio.wait({stopped, down, kept}, return_when=asyncio.FIRST_COMPLETED)
        if kept.done():
            await kept
        if down.done() and not stopped.done():
            raise Unreachable(f"the Temporal server ended with code {down.result()}; its log is {server.log}")
        drain = settings.drain.total_seconds()
        say(f"{stopped.result()}: stopping, running steps may finish (at most {drain:g} s; once more to stop at once)")
        await _drain(worker, stop, patience=drain + 5)
    finally:
        worker.kill()
        for task in (stopped, down, kept):
            task.cancel()
        await asyncio.gather(stopped, down, kept, return_exceptions=True)


async def _drain(worker: WorkerProcess, stop: asyncio.Queue[str], *, patience: float) -> None:
    stopping = asyncio.create_task(worker.stop(patience=patience))
    again = asyncio.create_task(stop.get())
    await asyncio.wait({stopping, again}, return_when=asyncio.FIRST_COMPLETED)
    if again.done():
        worker.kill()
    again.cancel()
    await stopping


def _announce(options: Options, wanted: DevOptions, server: DevServer, settings: Settings) -> None:
    links = Links(server.ui, server.namespace)
    if options.format is not Format.text:
        emit_line(
            {
                "address": server.address,
                "namespace": server.namespace,
                "ui": server.ui,
                "task_queue": settings.task_queue,
                "home": str(settings.home),
                "pid": server.process.pid,
            }
        )
        return
    served = ", ".join([*wanted.modules, *settings.modules]) or "plans only; name modules to serve your own workflows"
    say(f"Temporal   {server.address}, namespace {server.namespace} (log: {server.log})")
    if server.ui:
        say(f"Web UI     {links.runs()}")
    if wanted.worker:
        say(f"Worker     task queue {settings.task_queue}: {served}")
    if server.port != 7233:
        say(f"Elsewhere  export TEMPORAL_ADDRESS={server.address}")
    say("Ctrl-C stops everything; state stays in " + str(settings.home))


def _stop_on_signals() -> asyncio.Queue[str]:
    stop: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.put_nowait, number.name)
    return stop
