"""What a step through perdure costs beside a bare Temporal activity.

The same sequence of ten steps runs as hand-written Temporal activities, as governed steps without an effect and as ledgered
effects on a null connector: interleaved, on one server, each with a worker process of its own. Ratios are medians over the
rounds of one run, because machines are noisy. Then the embedded server's settings are compared with a plain
`temporal server start-dev --db-filename`.

    python -m bench.overhead [--rounds 5] [--workflows 40] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from perdure.connectors.null import Entry, NullConnector, null
    from perdure.lineage import Frozen
    from perdure.workflows import act

ROOT = Path(__file__).parent.parent
STEPS = 10
VARIANTS = ("bare", "governed", "effect")


class Given(Frozen):
    """What a bare step takes and returns."""

    number: int


@activity.defn(name="bench.nothing")
async def nothing(given: Given) -> Given:
    """Do nothing."""
    return given


@workflow.defn(name="bench.bare")
class Bare:
    """Ten hand-written activities."""

    @workflow.run
    async def run(self, given: Given) -> int:
        """Return how many steps were done."""
        done = given
        for number in range(STEPS):
            done = await workflow.execute_activity(
                nothing, Given(number=number), start_to_close_timeout=timedelta(seconds=30), summary="nothing"
            )
        return done.number


@workflow.defn(name="bench.governed")
class Governed:
    """Ten governed steps that have no effect."""

    @workflow.run
    async def run(self, given: Given) -> int:
        """Return how many steps were done."""
        for _ in range(STEPS):
            await act(null.read, Entry())
        return STEPS


@workflow.defn(name="bench.effect")
class Effect:
    """Ten ledgered effects."""

    @workflow.run
    async def run(self, given: Given) -> int:
        """Return how many steps were done."""
        for _ in range(STEPS):
            await act(null.write, Entry())
        return STEPS


@dataclass
class Round:
    """What one variant did in one round."""

    steps_per_second: float
    latency_ms: float
    cpu_ms_per_step: float
    events_per_step: float
    bytes_per_step: float


class Lane:
    """One variant: a worker process and a client for it."""

    def __init__(self, variant: str, client: Client, process: asyncio.subprocess.Process) -> None:
        self.variant = variant
        self._client = client
        self._process = process

    async def round(self, workflows: int) -> Round:
        """Run WORKFLOWS at once, then three one after the other for the latency of an idle machine."""
        cpu = _cpu_seconds(self._process.pid)
        begin = time.perf_counter()
        await asyncio.gather(*(self._one() for _ in range(workflows)))
        seconds = time.perf_counter() - begin
        cpu = _cpu_seconds(self._process.pid) - cpu
        latencies = []
        last = ""
        for _ in range(3):
            begin = time.perf_counter()
            last = await self._one()
            latencies.append((time.perf_counter() - begin) / STEPS * 1000)
        history = await self._client.get_workflow_handle(last).fetch_history()
        return Round(
            steps_per_second=workflows * STEPS / seconds,
            latency_ms=statistics.median(latencies),
            cpu_ms_per_step=cpu * 1000 / (workflows * STEPS),
            events_per_step=len(history.events) / STEPS,
            bytes_per_step=sum(event.ByteSize() for event in history.events) / STEPS,
        )

    async def _one(self) -> str:
        name = f"{self.variant}-{uuid.uuid4()}"
        await self._client.execute_workflow(f"bench.{self.variant}", Given(number=0), id=name, task_queue=self.variant)
        return name


async def serve(variant: str, address: str) -> None:
    """Be the worker of VARIANT until the process is ended."""
    if variant == "bare":
        client = await Client.connect(address, data_converter=pydantic_data_converter)
        await Worker(client, task_queue=variant, workflows=[Bare], activities=[nothing]).run()
        return
    from perdure.plugin import PerdurePlugin

    client = await Client.connect(address, plugins=[PerdurePlugin(connectors=[NullConnector()])])
    await Worker(client, task_queue=variant, workflows=[Governed, Effect]).run()


@asynccontextmanager
async def lane(variant: str, address: str, home: Path) -> AsyncIterator[Lane]:
    """Start a worker process for VARIANT and stop it at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.overhead",
        "--serve",
        variant,
        "--address",
        address,
        env={**os.environ, "PERDURE_HOME": str(home / variant), "PERDURE_LOG_LEVEL": "error"},
        cwd=ROOT,
    )
    try:
        if variant == "bare":
            client = await Client.connect(address, data_converter=pydantic_data_converter)
        else:
            from perdure.plugin import PerdurePlugin
            from perdure.settings import Settings

            client = await Client.connect(address, plugins=[PerdurePlugin(Settings(home=home / variant))])
        yield Lane(variant, client, process)
    finally:
        process.terminate()
        await process.wait()


async def compare_steps(rounds: int, workflows: int, home: Path) -> dict[str, list[Round]]:
    """Return the rounds of each variant, interleaved on one embedded server."""
    from perdure.commands.dev.server import DevServer

    found: dict[str, list[Round]] = {variant: [] for variant in VARIANTS}
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(DevServer(home / "server", headless=True, port=0))
        lanes = [await stack.enter_async_context(lane(variant, server.address, home)) for variant in VARIANTS]
        for each in lanes:
            await each.round(5)  # the first run of a worker loads and compiles
        for number in range(rounds):
            order = lanes if number % 2 == 0 else lanes[::-1]
            for each in order:
                found[each.variant].append(await each.round(workflows))
    return found


async def compare_servers(rounds: int, workflows: int, home: Path) -> list[float]:
    """Return, per round, how many times the steps/s of a plain dev server the embedded one does, with bare activities."""
    from perdure.commands.dev.server import DevServer

    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(DevServer(home / "ours", headless=True, port=0))
        plain = await stack.enter_async_context(DevServer(home / "plain", headless=True, port=0, tuning=()))
        lanes = [await stack.enter_async_context(lane("bare", server.address, home)) for server in (ours, plain)]
        for each in lanes:
            await each.round(3)
        ratios = []
        for number in range(rounds):
            speeds = {}
            for index in (0, 1) if number % 2 == 0 else (1, 0):
                speeds[index] = (await lanes[index].round(workflows)).steps_per_second
            ratios.append(speeds[0] / speeds[1])
    return ratios


def summary(found: dict[str, list[Round]], servers: list[float]) -> dict[str, object]:
    """Return the medians over the rounds, ratios against bare Temporal."""

    def ratio(variant: str, field: str) -> float:
        pairs = zip(found[variant], found["bare"], strict=True)
        return round(statistics.median(float(getattr(ours, field) / getattr(bare, field)) for ours, bare in pairs), 3)

    def median(variant: str, field: str) -> float:
        return round(statistics.median(float(getattr(each, field)) for each in found[variant]), 2)

    return {
        "steps_per_second_ratio": ratio("governed", "steps_per_second"),
        "effect_steps_per_second_ratio": ratio("effect", "steps_per_second"),
        "step_latency_p50_ratio": ratio("governed", "latency_ms"),
        "effect_step_latency_p50_ratio": ratio("effect", "latency_ms"),
        "worker_cpu_ratio": ratio("governed", "cpu_ms_per_step"),
        "effect_worker_cpu_ratio": ratio("effect", "cpu_ms_per_step"),
        "events_per_step": median("governed", "events_per_step"),
        "history_bytes_per_step": median("governed", "bytes_per_step"),
        "dev_server_ratio": round(statistics.median(servers), 2),
        "rounds": len(found["bare"]),
        "variants": {
            variant: {field: median(variant, field) for field in Round.__dataclass_fields__} for variant in VARIANTS
        },
    }


def table(result: dict[str, object]) -> str:
    """Return RESULT for people."""
    variants = result["variants"]
    assert isinstance(variants, dict)
    fields = list(Round.__dataclass_fields__)
    lines = [f"{'':10}" + "".join(f"{field:>18}" for field in fields)]
    lines += [f"{name:10}" + "".join(f"{values[field]:>18.2f}" for field in fields) for name, values in variants.items()]
    lines += ["", *(f"{name:32}{value}" for name, value in result.items() if name != "variants")]
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark, or be one of its workers."""
    parser = argparse.ArgumentParser(description="What does a step through perdure cost beside a bare Temporal activity?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workflows", type=int, default=40, help="how many run at once in a round")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--serve", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve, options.address))
        return
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        found = asyncio.run(compare_steps(options.rounds, options.workflows, home))
        servers = asyncio.run(compare_servers(max(2, options.rounds - 2), max(10, options.workflows // 4), home))
    result = summary(found, servers)
    print(json.dumps(result) if options.json else table(result))


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
