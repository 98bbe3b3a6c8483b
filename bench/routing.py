"""What a model call through perdure costs beside the client it stands on.

The same request goes to a stub that speaks OpenAI's API, in a process of its own: by httpx, by `litellm.acompletion`, by
`litellm.Router` and by perdure's router with its record in SQLite, interleaved. CPU is that of this process with all its
threads. Then: a hit of the cache, a hundred identical questions at once, and what it takes to import perdure and to start
its command line.

    python -m bench.routing [--rounds 5] [--calls 100] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from perdure.lineage import Lineage, StepRef
from perdure.routing import (
    GenerateCall,
    OutputRef,
    Router,
    load_routes,
)
from perdure.routing.prompts import Form, render
from perdure.routing.providers.litellm import load
from perdure.storage import open_database

Call = Callable[[int], Awaitable[object]]

CLIENTS = ("httpx", "acompletion", "litellm_router", "perdure", "perdure_with_budget")
MODELS = """
[tasks.triage]
tier = "small"
instructions = "Judge the return request."

[tasks.kept]
tier = "small"
instructions = "Judge the return request."
cache = "1d"

[deployments.stub]
tier = "small"
model = "openai/stub"
api_base = "{url}"
input_usd_per_mtok = 0.15
output_usd_per_mtok = 0.6
"""
BUDGET = """
[budgets.run]
per = "run"
usd = 1000000
"""
ANSWER = json.dumps(
    {
        "id": "stub",
        "object": "chat.completion",
        "created": 1,
        "model": "stub-2026-11-01",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": '{"verdict": "refund", "why": "it is broken"}'},
            }
        ],
        "usage": {"prompt_tokens": 200, "completion_tokens": 20, "total_tokens": 220},
    }
).encode()


class Triage(BaseModel):
    """What is asked for."""

    verdict: str
    why: str = ""


async def serve() -> None:
    """Answer every request the same, on a port that is printed."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                await reader.readexactly(int(length[1]) if length else 0)
                lines = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(ANSWER)}\r\n\r\n"
                writer.write(lines.encode() + ANSWER)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@asynccontextmanager
async def stub() -> AsyncIterator[str]:
    """Run the stub in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.routing", "--serve", stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent
    )
    assert process.stdout is not None
    port = int(await process.stdout.readline())
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        await process.wait()


def asking(number: int, task: str = "triage") -> GenerateCall:
    """One call: equal questions of different steps."""
    lineage = Lineage(namespace="default", workflow_id=f"run-{number}", first_execution_run_id=f"first-{number}")
    return GenerateCall(
        step=StepRef(lineage=lineage, name="triage", run_id=f"first-{number}", workflow_type="ReturnsTriage"),
        task=task,
        inputs={"message": "The kettle arrived in pieces and I want my money back", "order": "R-1"},
        output=OutputRef(name="bench.routing:Triage"),
    )


async def measure(rounds: int, calls: int) -> dict[str, object]:
    """Return CPU and latency a call, by client."""
    import httpx

    async with stub() as url:
        with tempfile.TemporaryDirectory() as folder:
            models = Path(folder) / "models.toml"
            models.write_text(MODELS.format(url=url))
            async with open_database(f"sqlite+aiosqlite:///{folder}/perdure.db") as database, httpx.AsyncClient() as http:
                router = Router(database, load_routes([models]), _NoEmbedder())
                models.write_text(MODELS.format(url=url) + BUDGET)
                budgeted = Router(database, load_routes([models]), _NoEmbedder())
                await router.warm_up()
                clients = _clients(url, http, router, budgeted)
                taken = await _interleaved(clients, rounds, calls)
                cache = await _cached(router, calls)
    cpu = {name: round(statistics.median(each[0] for each in taken[name]), 3) for name in CLIENTS}
    together = {name: round(statistics.median(each[2] for each in taken[name]), 3) for name in CLIENTS}

    def over(field: int, client: str) -> float:
        """Return what a call costs more than the bare one of the same round: the median over the rounds."""
        pairs = zip(taken[client], taken["acompletion"], strict=True)
        return round(statistics.median(ours[field] - bare[field] for ours, bare in pairs), 3)

    return {
        "cpu_ms_per_call": cpu,
        "cpu_ms_per_call_at_16": together,
        "p50_ms": {name: round(statistics.median(each[1] for each in taken[name]), 3) for name in CLIENTS},
        "cpu_ms_over_acompletion": over(0, "perdure"),
        "cpu_ms_over_acompletion_at_16": over(2, "perdure"),
        "cpu_ms_over_acompletion_with_budget": over(0, "perdure_with_budget"),
        **cache,
    }


def _clients(url: str, http: Any, router: Router, budgeted: Router) -> dict[str, Call]:  # httpx is imported late
    import importlib

    litellm = importlib.import_module("litellm")  # too large for the type checkers to follow
    load()
    form = Form(Triage, None)
    question = asking(0)
    messages = render("Judge the return request.", question.inputs, form.text)
    schema = {"type": "json_schema", "json_schema": {"name": "Triage", "schema": form.schema, "strict": False}}
    common = {"messages": messages, "response_format": schema, "temperature": 0, "max_tokens": 1024}
    once = {"num_retries": 0, "max_retries": 0, "timeout": 60, "drop_params": True}
    theirs = litellm.Router(
        model_list=[{"model_name": "stub", "litellm_params": {"model": "openai/stub", "api_base": url, "api_key": "none"}}],
        num_retries=0,
    )

    async def by_httpx(_: int) -> object:
        return (await http.post(f"{url}/chat/completions", json={"model": "stub", **common})).json()

    async def by_acompletion(_: int) -> object:
        return await litellm.acompletion(model="openai/stub", api_base=url, api_key="none", **common, **once)

    async def by_router(_: int) -> object:
        return await theirs.acompletion(model="stub", **common, timeout=60)

    async def by_perdure(number: int) -> object:
        return await router.generate(asking(number), attempt=1, output=Triage)

    async def by_budgeted(number: int) -> object:
        return await budgeted.generate(asking(number), attempt=1, output=Triage)

    return dict(zip(CLIENTS, (by_httpx, by_acompletion, by_router, by_perdure, by_budgeted), strict=True))


async def _interleaved(clients: dict[str, Call], rounds: int, calls: int) -> dict[str, list[tuple[float, float, float]]]:
    taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in clients}
    number = 0
    for call in clients.values():
        for _ in range(20):
            number += 1
            await call(number)
    for _ in range(rounds):
        for name, call in clients.items():
            latencies = []
            cpu = time.process_time()
            for _ in range(calls):
                number += 1
                begin = time.perf_counter()
                await call(number)
                latencies.append((time.perf_counter() - begin) * 1000)
            alone = (time.process_time() - cpu) * 1000 / calls
            cpu = time.process_time()
            for _ in range(max(calls // 16, 1)):
                number += 16
                await asyncio.gather(*(call(number - each) for each in range(16)))
            together = (time.process_time() - cpu) * 1000 / (max(calls // 16, 1) * 16)
            taken[name].append((alone, statistics.median(latencies), together))
    return taken


async def _cached(router: Router, calls: int) -> dict[str, float]:
    begin = time.process_time()
    flight = await asyncio.gather(
        *(router.generate(asking(number, "kept"), attempt=1, output=Triage) for number in range(100))
    )
    single = (time.process_time() - begin) * 1000 / 100
    begin = time.process_time()
    for number in range(calls):
        await router.generate(asking(100 + number, "kept"), attempt=1, output=Triage)
    hit = (time.process_time() - begin) * 1000 / calls
    return {
        "cache_hit_cpu_ms": round(hit, 3),
        "single_flight_cpu_ms_per_call": round(single, 3),
        "single_flight_provider_calls": sum(each.record.provider_calls for each in flight),
    }


class _NoEmbedder:
    version = "none"

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """Nothing local is asked for."""
        raise AssertionError("a local deployment was asked")


def start_up() -> dict[str, object]:
    """Return what `import perdure` and `perdure --help` take: CPU-bound, so the best of several."""

    def best(code: str) -> tuple[float, str]:
        seconds, said = [], ""
        for _ in range(5):
            begin = time.perf_counter()
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            seconds.append(time.perf_counter() - begin)
            said = done.stdout
        return min(seconds), said

    nothing, _ = best("pass")
    # Not getrusage: its maximum begins with that of the process which started this one.
    memory = "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    imported, kilobytes = best(f"import perdure\n{memory}")
    helped, told = best(
        "import sys, perdure.cli\n"
        "code = perdure.cli.call(['--help'])\n"
        "print('LITELLM', 'litellm' in sys.modules)\n" + memory
    )
    return {
        "import_perdure_s": round(imported - nothing, 3),
        "import_perdure_mib": round(int(kilobytes) / 1024, 1),
        "cli_help_s": round(helped, 3),
        "cli_help_mib": round(int(told.splitlines()[-1]) / 1024, 1),
        "litellm_imported_by_cli": "LITELLM True" in told,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=100, help="a round and client")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve())
        return
    found = asyncio.run(measure(given.rounds, given.calls)) | start_up()
    if given.json:
        print(json.dumps(found))
        return
    print(f"{'client':16} {'CPU ms':>8} {'at 16':>8} {'p50 ms':>8}")
    for name in CLIENTS:
        row = (found[key][name] for key in ("cpu_ms_per_call", "cpu_ms_per_call_at_16", "p50_ms"))  # type: ignore[index]  # dicts
        print(f"{name:16} " + " ".join(f"{value:8.2f}" for value in row))
    for key, value in found.items():
        if not isinstance(value, dict):
            print(f"{key:32} {value}")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main()
