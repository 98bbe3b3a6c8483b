"""How fast recall is among many records, what writing them costs, and whether the event loop stays free meanwhile.

Half of the records lie in one scope, the rest in scopes of two hundred; the questions go to both in turn. The texts are
made up: two hundred and fifty sentences about orders, each followed by words of a vocabulary in which few are frequent.
A record's vector is that of its sentence, from the real embedder, and noise, so that writing costs no embedding; what
that would cost is `embed_ms_per_text`. Questions are embedded for real. All of it goes through `Memory`: `import_`
writes the records and feeds the index, and while that goes on and the index builds its fast copy, a task that wants to
run each millisecond tells how long it had to wait. `event_loop_busy_ms` is the longest that one turn of the loop kept
the processor, which tells on a busy machine whose fault it was. In the same run the same vectors go to plain qdrant-
client in local mode, and the same words to BM25 in plain Python.

    python -m bench.memory_scale [--records 20000] [--questions 200] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import heapq
import json
import os
import random
import statistics
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from perdure.lineage import Lineage, StepRef, digest
from perdure.memory import (
    Memory,
    MiniLm,
    RecallCall,
    RememberCall,
    Scope,
)
from perdure.memory.index import EdgeIndex, Vector, Where
from perdure.memory.index.lexical import words_of_question
from perdure.memory.moments import microseconds
from perdure.memory.records import scope_key, version_id_of
from perdure.memory.records.records import thread_key
from perdure.storage import now, open_database

CHUNK = 500
"""How many records are imported at a time."""
SENTENCES = [
    f"{who} {what} {thing}"
    for who in ("The customer", "Our supplier", "The courier", "A reviewer", "The warehouse")
    for what in (
        "returned",
        "praised",
        "asked for",
        "lost",
        "replaced",
        "paid for",
        "broke",
        "reordered",
        "shipped",
        "kept",
    )
    for thing in (
        "the lamp",
        "two chairs",
        "a desk",
        "the rug",
        "a mirror",
        "the sofa",
        "a shelf",
        "the clock",
        "a vase",
        "it",
    )
]
VOCABULARY = [f"{first}{middle}{last}" for first in "bdfghklmnprstvz" for middle in "aeiou" for last in "bdfgklmnprst"]


class Made:
    """MiniLM for questions; for the made-up records the vector of their sentence and noise, at no cost."""

    name = "made"
    version = "1"
    dimensions = 384

    def __init__(self, model: MiniLm) -> None:
        self.model = model
        self.known: dict[str, np.ndarray[Any, Any]] = {}
        self.seconds = 0.0

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Return one vector for each of TEXTS."""
        made = [self._made(text) if " | " in text else None for text in texts]
        asked = iter(await self.model.embed([text for text, vector in zip(texts, made, strict=True) if vector is None]))
        return [next(asked) if vector is None else vector for vector in made]

    async def learn(self) -> None:
        """Embed the sentences."""
        started = time.perf_counter()
        vectors = await self.model.embed(SENTENCES)
        self.seconds = (time.perf_counter() - started) / len(SENTENCES)
        self.known = {text: np.array(vector) for text, vector in zip(SENTENCES, vectors, strict=True)}

    def _made(self, text: str) -> Vector:
        noise = np.random.default_rng(abs(hash(text))).normal(0, 0.03, self.dimensions)
        vector = self.known[text.partition(" | ")[0]] + noise
        return tuple((vector / np.linalg.norm(vector)).tolist())


class Waits:
    """How long a task that wants to run each millisecond had to wait for the event loop."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.busy: list[float] = []

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Watch the loop meanwhile."""
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _watch(self) -> None:
        while True:
            started, busy = time.perf_counter(), time.thread_time()
            await asyncio.sleep(0.001)
            self.seconds.append(time.perf_counter() - started - 0.001)
            self.busy.append(time.thread_time() - busy)


def scope_of(number: int) -> Scope:
    """Return the scope of record NUMBER."""
    return Scope(tenant="bench", user="large" if number % 2 else f"small {number // 400}")


def texts(records: int) -> Iterator[str]:
    """Yield the made-up texts."""
    chance = random.Random(7)  # noqa: S311  # the same each time
    weights = [1 / rank for rank in range(1, len(VOCABULARY) + 1)]
    for _ in range(records):
        yield f"{chance.choice(SENTENCES)} | {' '.join(chance.choices(VOCABULARY, weights, k=12))}"


def call(number: int, text: str) -> RememberCall:
    """Return the call that remembers TEXT."""
    run = Lineage(namespace="bench", workflow_id="scale", first_execution_run_id=f"run {number // 20}")
    return RememberCall(step=StepRef(lineage=run, name=str(number)), scope=scope_of(number), content=text)


async def pattern(embedder: Made, folder: Path) -> dict[str, dict[str, Any]]:
    """Return the lines that `export` gives of one memory, by their kind."""
    async with open_database(f"sqlite+aiosqlite:///{folder}/pattern.sqlite") as database:
        memory = Memory(database, await EdgeIndex.open(folder / "pattern", embedder), embedder)
        try:
            await memory.remember(call(0, f"{SENTENCES[0]} | pattern"))
            return {
                kind: values
                for line in [json.loads(line) async for line in memory.export()]
                for kind, values in line.items()
            }
        finally:
            await memory.close()


def lines_of(made: dict[str, dict[str, Any]], first: int, some: Sequence[str]) -> list[str]:
    """Return the lines by which `import_` writes the records from number FIRST on, with the texts of SOME."""
    lines: list[dict[str, Any]] = [{"export": made["export"]}]
    sources = []
    for number, text in enumerate(some, start=first):
        said, name = call(number, text), f"{number:012}"
        scope = scope_key(said.scope)
        when = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=number)).isoformat()
        changed = {
            "version_id": version_id_of(scope, name, 0, 1),
            "memory_id": name,
            "chain": f"m:{name}",
            "write_key": name,
            "scope_key": scope,
            **{f"scope_{field}": value for field, value in said.scope},
            "content": text,
            "content_hash": digest(text),
            "thread": thread_key(scope, said.step),
            "recorded_at": when,
            "valid_from": when,
        }
        lines.append({"record": made["record"] | changed})
        run = {"first_execution_run_id": said.step.lineage.first_execution_run_id, "step": said.step.name}
        sources.append({"source": made["source"] | run | {"version_id": changed["version_id"]}})
    return [json.dumps(line) for line in (*lines, *sources)]


async def write(memory: Memory, made: dict[str, dict[str, Any]], every: Sequence[str]) -> float:
    """Write records with the texts of EVERY through `import_`, index and all. Returns how many seconds that took."""
    seconds = 0.0
    for first in range(0, len(every), CHUNK):
        lines = await asyncio.to_thread(lines_of, made, first, every[first : first + CHUNK])
        started = time.perf_counter()
        await memory.import_(lines)
        seconds += time.perf_counter() - started
    return seconds


async def remember(memory: Memory, records: int, some: int) -> float:
    """Return how many records a second are remembered one by one."""
    started = time.perf_counter()
    for number, text in enumerate(texts(some), start=records // 2 + 1):
        await memory.remember(call(2 * number, text + " once more"))
    return some / (time.perf_counter() - started)


def questions(count: int) -> list[tuple[Scope, str]]:
    """Return COUNT questions, about the large scope and small ones in turn."""
    chance = random.Random(11)  # noqa: S311  # the same each time
    return [(scope_of(number), f"{chance.choice(SENTENCES)}?") for number in range(count)]


async def query_index(index: EdgeIndex, embedder: Made, asked: Sequence[tuple[Scope, str]]) -> list[float]:
    """Return how long the index takes for each question, in milliseconds."""
    took = []
    for scope, question in asked:
        [vector] = await embedder.embed([question])
        where = Where(scope_key(scope), microseconds(now()))
        started = time.perf_counter()
        await index.query(vector, words=words_of_question(question), where=where, limit=80)
        took.append((time.perf_counter() - started) * 1000)
    return took


async def recall(memory: Memory, embedder: Made, asked: Sequence[tuple[Scope, str]]) -> list[float]:
    """Return how long a whole recall takes for each question: embedding, index, check in SQL, receipt."""
    took = []
    for number, (scope, question) in enumerate(asked):
        run = Lineage(namespace="bench", workflow_id="ask", first_execution_run_id=str(number))
        embedder.model.forget([question])
        started = time.perf_counter()
        await memory.recall(RecallCall(step=StepRef(lineage=run, name="ask"), query=question, scope=scope, limit=10))
        took.append((time.perf_counter() - started) * 1000)
    return took


async def agreement(index: EdgeIndex, embedder: Made, asked: Sequence[tuple[Scope, str]], every: Sequence[str]) -> float:
    """Return which share of the ten nearest in the large scope the index finds."""
    numbers = [number for number in range(len(every)) if number % 2]
    large = scope_of(1)
    matrix = np.array(await embedder.embed([every[number] for number in numbers]), np.float32)
    shares = []
    for _, question in asked:
        [vector] = await embedder.embed([question])
        nearest = np.argsort(-(matrix @ np.array(vector, np.float32)), kind="stable")[:10]
        wanted = {version_id_of(scope_key(large), f"{numbers[place]:012}", 0, 1) for place in nearest}
        found = await index.query(vector, where=Where(scope_key(large), microseconds(now())), limit=10)
        shares.append(len(wanted & {near.version_id for near in found.dense}) / 10)
    return statistics.fmean(shares)


async def plain_qdrant(embedder: Made, every: Sequence[str], asked: Sequence[tuple[Scope, str]]) -> dict[str, float]:
    """Return what qdrant-client's local mode does with the same vectors and scopes."""
    from qdrant_client import QdrantClient
    from qdrant_client.models import Distance, FieldCondition, Filter, MatchValue, PointStruct, VectorParams

    client = QdrantClient(":memory:")
    client.create_collection("plain", vectors_config=VectorParams(size=embedder.dimensions, distance=Distance.COSINE))
    seconds = 0.0
    for first in range(0, len(every), CHUNK):
        vectors = await embedder.embed(every[first : first + CHUNK])
        points = [
            PointStruct(id=first + place, vector=list(vector), payload={"scope": scope_key(scope_of(first + place))})
            for place, vector in enumerate(vectors)
        ]
        started = time.perf_counter()
        client.upsert("plain", points)
        seconds += time.perf_counter() - started
    took = []
    for scope, question in asked:
        [vector] = await embedder.embed([question])
        mine = Filter(must=[FieldCondition(key="scope", match=MatchValue(value=scope_key(scope)))])
        started = time.perf_counter()
        client.query_points("plain", query=list(vector), query_filter=mine, limit=80)
        took.append((time.perf_counter() - started) * 1000)
    client.close()
    return {"plain_qdrant_query_p50_ms": _at(took, 50), "plain_qdrant_insert_per_second": round(len(every) / seconds)}


def plain_bm25(every: Sequence[str], asked: Sequence[tuple[Scope, str]]) -> dict[str, float]:
    """Return what BM25 does in plain Python, with a list of postings for each scope."""
    postings: dict[Scope, dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    sizes: Counter[Scope] = Counter()
    for number, text in enumerate(every):
        scope = scope_of(number)
        sizes[scope] += 1
        for word, times in Counter(text.lower().split()).items():
            postings[scope][word].append((number, times * 2.2 / (times + 1.2)))
    took = []
    for scope, question in asked:
        started = time.perf_counter()
        scores: dict[int, float] = defaultdict(float)
        for word in question.lower().rstrip("?").split():
            listed = postings[scope].get(word, [])
            rare = float(np.log(1 + (sizes[scope] - len(listed) + 0.5) / (len(listed) + 0.5)))
            for number, weight in listed:
                scores[number] += rare * weight
        heapq.nlargest(80, scores.items(), key=lambda one: one[1])
        took.append((time.perf_counter() - started) * 1000)
    return {"plain_bm25_query_p50_ms": _at(took, 50)}


async def run(records: int, asking: int, folder: Path) -> dict[str, float]:
    """Return the figures."""
    embedder = Made(await MiniLm.load())
    await embedder.learn()
    asked = questions(asking)
    every = list(texts(records))
    made = await pattern(embedder, folder)
    async with open_database(f"sqlite+aiosqlite:///{folder}/memory.sqlite") as database:
        index = await EdgeIndex.open(folder / "index", embedder)
        memory = Memory(database, index, embedder)
        await memory.catch_up()
        gc.collect()
        gc.freeze()  # what is loaded by now stays: looking through it again and again would be most of the waiting
        waits = Waits()
        async with waits.watched():
            seconds = await write(memory, made, every)
            one_by_one = await remember(memory, records, 200)
            started = time.perf_counter()
            await index.wait_until_optimized()
            optimizing = time.perf_counter() - started
        await query_index(index, embedder, asked[:20])  # the first ones read the files
        queries = await query_index(index, embedder, asked)
        await recall(memory, embedder, asked[:10])
        recalls = await recall(memory, embedder, asked)
        rss = _rss_mb()
        agreed = await agreement(index, embedder, asked[:20], every)
        await memory.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that it was not made for so many
        plain = await plain_qdrant(embedder, every, asked[:6])
    return {
        "records": records,
        "index_query_p50_ms": _at(queries, 50),
        "index_query_p99_ms": _at(queries, 99),
        "recall_p50_ms": _at(recalls, 50),
        "recall_p99_ms": _at(recalls, 99),
        "event_loop_stall_ms": round(max(waits.seconds) * 1000, 1),
        "event_loop_busy_ms": round(max(waits.busy) * 1000, 1),
        "insert_per_second": round(records / seconds),
        "remember_per_second": round(one_by_one),
        "rss_mb": rss,
        "embed_ms_per_text": round(embedder.seconds * 1000, 2),
        "nearest_agreement_at_10": round(agreed, 3),
        "optimizing_seconds_after_writing": round(optimizing, 1),
        **plain,
        **plain_bm25(every, asked),
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="How fast is recall among many records, and what do they cost?")
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--questions", type=int, default=200, help="how many are asked")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = asyncio.run(run(options.records, options.questions, Path(folder)))
    print(json.dumps(result) if options.json else "\n".join(f"{name:36}{value}" for name, value in result.items()))


def _at(values: Sequence[float], percent: int) -> float:
    return round(float(np.percentile(values, percent)), 2)


def _rss_mb() -> float:
    """Return the memory of this process and of its children."""
    pids = [os.getpid()]
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            pids += [int(child) for child in (task / "children").read_text().split()]
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


if __name__ == "__main__":
    main()
