"""How much of what answers a question a recall finds, on conversations whose questions name their evidence.

Takes a file in the format of LoCoMo ("Evaluating Very Long-Term Conversational Memory of LLM Agents", Maharana et al.,
2024): `data/locomo10.json` of the repository snap-research/LoCoMo, licence CC BY-NC 4.0, which is why none is shipped.

Each turn is remembered through `Memory.remember`, as a step of a run per session, about who speaks, valid from the time of
the session; a photo's caption is part of what was said. Each question of the categories 1 to 4 is asked through
`Memory.recall` in its conversation. Recall at k is the share of a question's evidence turns among the first k, averaged
over the questions that have evidence. `bm25_recall_at_10` is what the words alone find in the same index.

    python -m bench.recall --data locomo10.json [--embedder MODULE:NAME] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import inspect
import json
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perdure.lineage import Lineage, StepRef
from perdure.memory import (
    Memory,
    MiniLm,
    RecallCall,
    RememberCall,
    Scope,
)
from perdure.memory.index import EdgeIndex, Embedder, Index, Where
from perdure.memory.index.lexical import words_of_question
from perdure.memory.moments import microseconds
from perdure.memory.records import scope_key
from perdure.storage import now, open_database


@dataclass(frozen=True)
class Turn:
    """What somebody said."""

    name: str
    session: int
    speaker: str
    said: datetime
    content: str


@dataclass(frozen=True)
class Asked:
    """What was found for one question: the shares of its evidence."""

    conversation: str
    category: int
    at_5: float
    at_10: float
    bm25_at_10: float
    seconds: float


def turns_of(conversation: dict[str, Any]) -> Iterator[Turn]:
    """Return the turns of CONVERSATION, in order."""
    sessions = sorted(int(match[1]) for key in conversation if (match := re.fullmatch(r"session_(\d+)", key)))
    for number in sessions:
        # "1:56 pm on 8 May, 2023", in nobody's zone.
        text = conversation[f"session_{number}_date_time"].replace(" on ", " ").replace(",", "")
        said = datetime.strptime(text, "%I:%M %p %d %B %Y").replace(tzinfo=UTC)
        for turn in conversation[f"session_{number}"]:
            caption = f" [shares a photo: {turn['blip_caption']}]" if turn.get("blip_caption") else ""
            content = (turn.get("text", "") + caption).strip() or "(nothing)"
            yield Turn(turn["dia_id"], number, turn["speaker"], said, content)


async def measure(sample: dict[str, Any], memory: Memory, index: Index, embedder: Embedder) -> list[Asked]:
    """Return what is found for each question of SAMPLE."""
    conversation = str(sample["sample_id"])
    scope = Scope(tenant="bench", session=conversation)
    names: dict[str, str] = {}
    turns = list(turns_of(sample["conversation"]))
    for start in range(0, len(turns), 64):
        some = turns[start : start + 64]
        await embedder.embed([turn.content for turn in some])  # together, which is faster than one by one
        for turn in some:
            run = Lineage(namespace="bench", workflow_id=conversation, first_execution_run_id=f"session {turn.session}")
            call = RememberCall(
                step=StepRef(lineage=run, name=turn.name),
                scope=scope,
                content=turn.content,
                subject=turn.speaker,
                valid_from=turn.said,
            )
            remembered = await memory.remember(call)
            names |= {remembered.memory_id: turn.name, remembered.version_id: turn.name}
    asked = []
    step = StepRef(
        lineage=Lineage(namespace="bench", workflow_id="ask", first_execution_run_id=conversation), name="recall"
    )
    for question in sample["qa"]:
        evidence = set(re.findall(r"D\d+:\d+", " ".join(question.get("evidence", [])))) & set(names.values())
        if question["category"] not in (1, 2, 3, 4) or not evidence:
            continue
        started = time.perf_counter()
        asks = RecallCall(step=step, query=question["question"], scope=scope, limit=10)
        found = [names[memory_id] for memory_id, _, _ in (await memory.recall(asks)).receipt.returned]
        took = time.perf_counter() - started
        by_words = await _by_words(question["question"], scope, index, names, embedder.dimensions)
        at_5, at_10, bm25 = (len(evidence & set(some)) / len(evidence) for some in (found[:5], found, by_words))
        asked.append(Asked(conversation, question["category"], at_5, at_10, bm25, took))
    return asked


async def _by_words(question: str, scope: Scope, index: Index, names: dict[str, str], dimensions: int) -> list[str]:
    where = Where(scope_key(scope), microseconds(now()))
    found = await index.query((1.0,) * dimensions, words=words_of_question(question), where=where, limit=10)
    return [names[near.version_id] for near in found.lexical]


async def run(samples: list[dict[str, Any]], embedder: Embedder) -> list[Asked]:
    """Return what is found for each question in SAMPLES."""
    asked: list[Asked] = []
    with tempfile.TemporaryDirectory() as folder:
        async with open_database(f"sqlite+aiosqlite:///{folder}/memory.sqlite") as database:
            index = await EdgeIndex.open(Path(folder) / "index", embedder)
            memory = Memory(database, index, embedder)
            try:
                for sample in samples:
                    asked += await measure(sample, memory, index, embedder)
            finally:
                await memory.close()
    return asked


def summary(asked: list[Asked]) -> dict[str, float]:
    """Return the means."""

    def mean(field: str) -> float:
        return round(statistics.fmean(getattr(each, field) for each in asked), 4)

    return {
        "recall_at_5": mean("at_5"),
        "recall_at_10": mean("at_10"),
        "bm25_recall_at_10": mean("bm25_at_10"),
        "questions": len(asked),
    }


def table(asked: list[Asked]) -> str:
    """Return the figures for people: by conversation, by category and in all."""
    groups = [(name, [each for each in asked if each.conversation == name]) for name in _names(asked)]
    groups += [(f"category {n}", [each for each in asked if each.category == n]) for n in (1, 2, 3, 4)]
    lines = [f"{'':24}{'recall@5':>10}{'recall@10':>11}{'BM25@10':>9}{'questions':>11}"]
    for name, group in [*groups, ("all", asked)]:
        if group:
            of = summary(group)
            lines.append(
                f"{name:24}{of['recall_at_5']:>10.3f}{of['recall_at_10']:>11.3f}{of['bm25_recall_at_10']:>9.3f}"
                f"{of['questions']:>11}"
            )
    lines.append(f"\none recall takes {statistics.median(each.seconds for each in asked) * 1000:.0f} ms (median)")
    return "\n".join(lines)


def _names(asked: list[Asked]) -> list[str]:
    return list(dict.fromkeys(each.conversation for each in asked))


async def load(name: str) -> Embedder:
    """Return the embedder called NAME: `minilm`, or `MODULE:NAME` of something that makes one."""
    if name == "minilm":
        return await MiniLm.load()
    module, _, attribute = name.partition(":")
    made = getattr(importlib.import_module(module), attribute)()
    embedder: Embedder = await made if inspect.isawaitable(made) else made
    return embedder


async def _main(options: argparse.Namespace, samples: list[dict[str, Any]]) -> list[Asked]:
    return await run(samples, await load(options.embedder))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="How much of what answers a question does a recall find?")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="a file in LoCoMo's format, e.g. data/locomo10.json of "
        "the repository snap-research/LoCoMo (CC BY-NC 4.0, so not shipped)",
    )
    parser.add_argument("--embedder", default="minilm", help="`minilm`, or MODULE:NAME of something that makes an Embedder")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    samples = json.loads(options.data.read_text())
    asked = asyncio.run(_main(options, samples if isinstance(samples, list) else [samples]))
    print(json.dumps(summary(asked)) if options.json else table(asked))


if __name__ == "__main__":
    main()
