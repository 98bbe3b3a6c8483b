"""How many calls of a strong model it takes for its quality, by ways to choose which questions it gets.

Mixtral and GPT-4 have answered the same questions of MMLU and GSM8K, and it is known which answers are right (bench/data/
routellm). Asked is for which share of the questions the strong model is needed to have 95 % and 99 % of its quality when

    random              it gets some at random,
    length              the longest questions,
    tfidf, minilm       those that a ridge regression on their words, or on their embedding, picks,
    learned             those that perdure's learned escalation picks (routing/escalation/_learning.py), by length alone,
    check               GSM8K: first those whose answer breaks off or miscalculates, then some at random,
    learned_with_check  GSM8K: those that learned escalation picks when the check is the stated confidence,
    oracle              those that only it answers right.

What is learned is learned from a part of the questions and measured on the others, once for each seed; of MMLU also with
whole subjects kept aside. Figures are means over the seeds. `learned_escalation` is the verdict of `perdure routes learn`.

    python -m bench.cascade [--data FOLDER] [--questions N] [--seeds 20] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import math
import operator
import re
import statistics
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from perdure.errors import InvalidInput
from perdure.lineage import digest
from perdure.memory.index import MiniLm
from perdure.routing import Deployment, Routes, Task
from perdure.routing.escalation import study
from perdure.routing.escalation._learning import (
    Case,
    Floats,
    learn,
    scores_of,
)
from perdure.routing.escalation.labels import Label

HERE = Path(__file__).parent / "data" / "routellm"
SMALL, LARGE = "mixtral-8x7b-instruct-v0.1", "gpt-4-1106-preview"
TARGETS = (0.95, 0.99)
ASIDE = 0.4
TASK = Task(name="bench", tier="small", cascade=("large",))


@dataclass(frozen=True)
class Question:
    """A question, and who has answered it right."""

    text: str
    subject: str
    small: bool
    large: bool
    check: float | None = None
    """1: the small model's answer ends, and its sums are right; 0: it does not; None: the answer is not known."""

    def case(self, *, checked: bool = False) -> Case:
        """Return it as learned escalation sees it."""
        return Case(
            digest(self.text),
            self.check if checked else None,
            len(self.text.encode()),
            float(self.small),
            float(self.large),
        )


def mmlu(folder: Path) -> list[Question]:
    """Return the questions of MMLU in FOLDER: the sample's, or RouteLLM's own files."""
    files = sorted((folder / "mmlu" / "responses").glob("mmlu_*.csv")) or [folder / "mmlu.csv"]
    return [
        Question(row["prompt"], row.get("subject") or file.stem, row[SMALL] == "True", row[LARGE] == "True")
        for file in files
        for row in _rows(file)
    ]


def gsm8k(folder: Path) -> list[Question]:
    """Return the questions of GSM8K in FOLDER: the sample's, or RouteLLM's own file."""
    whole = folder / "gsm8k" / "gsm8k_responses.csv"
    found = []
    for row in _rows(whole if whole.exists() else folder / "gsm8k.csv"):
        if (answer := row.get(f"{SMALL}_response")) is not None:
            steps, final = re.findall(r"<<([^<>]*)>>", answer), answer.partition("####")[2].strip()
        else:
            steps, final = row["steps"].split(";"), row["final"]
        found.append(
            Question(row["prompt"], "gsm8k", row[SMALL] == "True", row[LARGE] == "True", float(holds(steps, final)))
        )
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def holds(steps: Sequence[str], final: str) -> bool:
    """Say whether an answer ends with a number, FINAL, and the sums of its STEPS, such as `3*4=12`, are right."""
    if not re.fullmatch(r"\$?-?[\d,]+(\.\d+)?", final):
        return False
    return all(_right(step) for step in steps if step)


def _right(step: str) -> bool:
    left, *others = (calculated(side) for side in step.replace("\\", "").split("="))
    return left is not None and all(each is not None and math.isclose(left, each, rel_tol=0.01) for each in others)


_SIGNS: Mapping[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


def calculated(sum_: str) -> float | None:
    """Return the value of SUM_, of numbers, + - * / and brackets. None: it is none."""
    tokens = re.findall(r"\d+\.?\d*|\.\d+|\S", sum_)

    def value() -> float:
        first = tokens.pop(0)
        if first == "-":
            return -value()
        if first != "(":
            return float(first)
        inner = chain(("+", "-"), product)
        if tokens.pop(0) != ")":
            raise ValueError(sum_)
        return inner

    def product() -> float:
        return chain(("*", "/"), value)

    def chain(signs: tuple[str, str], part: Callable[[], float]) -> float:
        found = part()
        while tokens and tokens[0] in signs:
            found = _SIGNS[tokens.pop(0)](found, part())
        return found

    try:
        found = chain(("+", "-"), product)
    except (ValueError, IndexError, ZeroDivisionError):
        return None
    return None if tokens else found


def share_at(scores: Floats, small: Floats, large: Floats, target: float) -> float:
    """Return the share of calls of the strong model that it takes for TARGET of its quality, highest SCORES first.

    Of questions with the same score some go at random, so a score that says nothing is chance.
    """
    wanted = target * float(large.mean())
    quality, share = float(small.mean()), 0.0
    if quality >= wanted:
        return 0.0
    for score in sorted(set(scores.tolist()), reverse=True):
        group = scores == score
        more = float((large - small)[group].sum()) / len(scores)
        if quality + more >= wanted - 1e-12:
            return share + float(group.mean()) * min(1.0, (wanted - quality) / more)
        quality, share = quality + more, share + float(group.mean())
    return 1.0


Ranks = Callable[[Sequence[int], Sequence[int]], Floats]
"""Learns from the first questions and returns a score for each of the others."""


def ways(questions: Sequence[Question], vectors: Floats) -> dict[str, Ranks]:
    """Return the ways to choose. VECTORS are the embeddings of QUESTIONS."""
    small = np.array([float(each.small) for each in questions])
    large = np.array([float(each.large) for each in questions])
    words = bags([each.text for each in questions])
    lengths = np.array([float(len(each.text)) for each in questions])

    def ridge(inputs: Floats, strength: float) -> Ranks:
        def ranks(learning: Sequence[int], aside: Sequence[int]) -> Floats:
            known, gain = inputs[learning], (large - small)[learning]
            centre = known.mean(axis=0)
            kernel = (known - centre) @ (known - centre).T if len(known) <= inputs.shape[1] else None
            if kernel is not None:
                dual = np.linalg.solve(kernel + strength * np.eye(len(known)), gain - gain.mean())
                weights = (known - centre).T @ dual
            else:
                square = (known - centre).T @ (known - centre) + strength * np.eye(inputs.shape[1])
                weights = np.linalg.solve(square, (known - centre).T @ (gain - gain.mean()))
            found: Floats = (inputs[aside] - centre) @ weights
            return found

        return ranks

    def learned(*, checked: bool) -> Ranks:
        cases = [each.case(checked=checked) for each in questions]

        def ranks(learning: Sequence[int], aside: Sequence[int]) -> Floats:
            # Only how it ranks matters here, for every threshold is tried.
            found = learn([cases[at] for at in learning], task=TASK, models=(SMALL,), target=1.0)
            return scores_of(found, [cases[at] for at in aside]) if found else np.zeros(len(aside))

        return ranks

    found: dict[str, Ranks] = {
        "random": lambda _, aside: np.zeros(len(aside)),
        "length": lambda _, aside: lengths[aside],
        "tfidf": ridge(words, 1.0),
        "minilm": ridge(vectors, 1.0),
        "learned": learned(checked=False),
    }
    if all(each.check is not None for each in questions):
        failed = np.array([1 - (each.check or 0.0) for each in questions])
        found["check"] = lambda _, aside: failed[aside]
        found["learned_with_check"] = learned(checked=True)
    found["oracle"] = lambda _, aside: (large - small)[aside]
    return found


def bags(texts: Sequence[str], size: int = 2048) -> Floats:
    """Return TEXTS as words and pairs of words, weighted by rarity (tf-idf), hashed into SIZE dimensions."""
    found = np.zeros((len(texts), size))
    for row, text in enumerate(texts):
        words = re.findall(r"\w+", text.casefold())
        for term, count in Counter([*words, *map(" ".join, pairwise(words))]).items():
            found[row, zlib.crc32(term.encode()) % size] += 1 + math.log(count)
    found *= np.log((1 + len(texts)) / (1 + (found > 0).sum(axis=0))) + 1
    weighted: Floats = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    return weighted


def parted(questions: Sequence[Question], seed: int, *, by_subject: bool) -> tuple[list[int], list[int]]:
    """Return which of QUESTIONS are learned from, and which are kept aside."""
    random = np.random.default_rng(seed)
    keys = [each.subject for each in questions] if by_subject else [str(at) for at in range(len(questions))]
    names = sorted(set(keys))
    aside = set(random.permutation(names)[: max(1, round(ASIDE * len(names)))].tolist())
    return [at for at, key in enumerate(keys) if key not in aside], [at for at, key in enumerate(keys) if key in aside]


def measured(
    questions: Sequence[Question], vectors: Floats, seeds: int, *, by_subject: bool = False
) -> dict[str, dict[str, float]]:
    """Return what each way needs of the strong model, as mean and standard deviation over SEEDS."""
    small = np.array([float(each.small) for each in questions])
    large = np.array([float(each.large) for each in questions])
    shares: dict[str, dict[float, list[float]]] = {}
    every = ways(questions, vectors)
    for seed in range(seeds):
        learning, aside = parted(questions, seed, by_subject=by_subject)
        for name, ranks in every.items():
            scores = ranks(learning, aside)
            for target in TARGETS:
                share = share_at(scores, small[aside], large[aside], target)
                shares.setdefault(name, {}).setdefault(target, []).append(share)
    return {
        name: {
            key: round(figure, 3)
            for target, found in by_target.items()
            for key, figure in (
                (f"strong_share_at_{target * 100:.0f}", statistics.fmean(found)),
                (f"sd_at_{target * 100:.0f}", statistics.stdev(found) if len(found) > 1 else 0.0),
            )
        }
        for name, by_target in shares.items()
    }


def verdict(questions: Sequence[Question], *, checked: bool) -> dict[str, object]:
    """Return what `perdure routes learn` would say of QUESTIONS."""
    labels = []
    for each in questions:
        case = each.case(checked=checked)
        known = {"question": case.question, "prompt_bytes": case.prompt_bytes, "cost_nano_usd": 1}
        labels.append(
            Label.model_validate(
                {**known, "tier": "small", "model": f"openai/{SMALL}", "confidence": case.confidence, "correct": each.small}
            )
        )
        labels.append(
            Label.model_validate(
                {**known, "tier": "large", "model": f"openai/{LARGE}", "confidence": None, "correct": each.large}
            )
        )
    prices = {"input_usd_per_mtok": 0, "output_usd_per_mtok": 0}
    tiers = {"small": SMALL, "large": LARGE}
    deployments = {
        tier: Deployment.model_validate({"name": tier, "tier": tier, "model": f"openai/{model}", **prices})
        for tier, model in tiers.items()
    }
    try:
        found = study(TASK, Routes({"bench": TASK}, deployments), labels)
    except InvalidInput as error:  # a slice may be too small
        return {"adopted": False, "why": error.message, "kept_aside": 0}
    return {"adopted": found.adopt, "why": found.why, "kept_aside": found.kept_aside}


async def bench(folder: Path, seeds: int, *, most: int | None = None) -> dict[str, object]:
    """Measure on the questions in FOLDER, on MOST of each data set if given, spread over all."""
    embedder = await MiniLm.load()
    datasets: dict[str, object] = {}
    for name, every in (("mmlu", mmlu(folder)), ("gsm8k", gsm8k(folder))):
        questions = every[:: max(1, len(every) // most)] if most else every
        vectors = np.array(await embedder.embed([each.text for each in questions]))
        about = {
            "questions": len(questions),
            "small": round(statistics.fmean(each.small for each in questions), 3),
            "large": round(statistics.fmean(each.large for each in questions), 3),
        }
        checks = [False, True] if questions[0].check is not None else [False]
        verdicts = {("with_check" if each else "by_length"): verdict(questions, checked=each) for each in checks}
        datasets[name] = {**about, "methods": measured(questions, vectors, seeds), "learned_escalation": verdicts}
        if name == "mmlu":
            unseen = measured(questions, vectors, seeds, by_subject=True)
            datasets["mmlu_unseen_subjects"] = {**about, "methods": unseen}
    return {"datasets": datasets, "seeds": seeds, "sample": folder == HERE}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=HERE, help="a folder laid out as RouteLLM's routellm/evals")
    parser.add_argument("--questions", type=int, metavar="N", help="only about so many of each data set")
    parser.add_argument("--seeds", type=int, default=20, help="how many times the questions are parted")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    options = parser.parse_args()
    report = asyncio.run(bench(options.data, options.seeds, most=options.questions))
    if options.json:
        print(json.dumps(report))
        return
    for name, found in report["datasets"].items():  # type: ignore[attr-defined]  # a report is a tree
        print(f"{name}: {found['questions']} questions, right: {found['small']:.1%} small, {found['large']:.1%} strong")
        print(f"  {'':20} share of strong calls at 95 %      at 99 %  of its quality")
        for method, share in found["methods"].items():
            at_95, at_99 = (f"{share[f'strong_share_at_{at}']:.2f} ± {share[f'sd_at_{at}']:.2f}" for at in (95, 99))
            print(f"  {method:20} {at_95:>30} {at_99:>12}")
        for by, said in found.get("learned_escalation", {}).items():
            print(f"  learned escalation {by}: {'adopted' if said['adopted'] else 'not adopted'}: {said['why']}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
