"""Which answers were right, as people and steps say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from kits.routing import PROMPT, HashingEmbedder, Triage, asking, rows

from perdure.errors import InvalidInput
from perdure.routing import Router, load_routes
from perdure.routing.contracts import JudgeCall
from perdure.routing.escalation import (
    count_labels,
    import_labels,
    label_call,
    labels_of,
)
from perdure.routing.tables import LabelRow
from perdure.storage import Database

MODELS = """
[tasks.triage]
tier = "small"
examples = "examples.jsonl"

[deployments.local]
tier = "small"
model = "perdure-local/examples"
input_usd_per_mtok = 0
output_usd_per_mtok = 0
"""
EXAMPLES = """
{"inputs": {"message": "the cup is broken"}, "output": {"verdict": "refund"}}
{"inputs": {"message": "how do I clean it"}, "output": {"verdict": "answer"}}
"""


@pytest.fixture
async def router(database: Database, tmp_path: Path) -> Router:
    """A router that needs no provider."""
    (tmp_path / "models.toml").write_text(MODELS)
    (tmp_path / "examples.jsonl").write_text(EXAMPLES.strip())
    return Router(database, load_routes([tmp_path / "models.toml"]), HashingEmbedder())


async def answered(router: Router) -> str:
    """Have a call answered and return its id."""
    generation = await router.generate(asking(), attempt=1, output=Triage)
    return generation.record.call_id


def judging(call_id: str, *, correct: bool, step: str = "judge") -> JudgeCall:
    """What a step says of a call's answer."""
    own = asking().step.model_copy(update={"name": step})
    return JudgeCall(step=own, call_id=call_id, correct=correct, by="mara")


async def test_label_of_a_step(router: Router, database: Database) -> None:
    """A label has what is known of the call, and neither prompt nor answer."""
    call_id = await answered(router)

    await router.label_answer(judging(call_id, correct=False))

    [found] = await labels_of(database, "triage")
    [call] = await rows(database)
    assert (False, "small", "perdure-local/examples") == (found.correct, found.tier, found.model)
    assert (call["prompt_digest"], call["confidence"]) == (found.question, found.confidence)
    assert found.prompt_bytes > len(PROMPT)
    async with database.read() as connection:
        kept = str((await connection.execute(sa.select(LabelRow))).mappings().one())
    assert PROMPT not in kept
    assert "refund" not in kept


async def test_step_says_it_once(router: Router, database: Database) -> None:
    """A step that is tried again adds no label, and a later step corrects what an earlier one has said."""
    call_id = await answered(router)
    for _ in range(2):
        await router.label_answer(judging(call_id, correct=True))
    await router.label_answer(judging(call_id, correct=False, step="judge#2"))
    # A late attempt of the first step.
    await router.label_answer(judging(call_id, correct=True))

    [found] = await labels_of(database, "triage")

    assert not found.correct
    assert {"triage": {"small": 1}} == await count_labels(database)


async def test_reset_run_says_it_anew(router: Router, database: Database) -> None:
    """A run that was reset judges again, the same answer or the one that it got this time."""
    first, second = await answered(router), await answered(router)
    await router.label_answer(judging(first, correct=True))
    anew = judging(first, correct=False).step.model_copy(update={"run_id": "after the reset"})
    for call_id in (first, second):
        await router.label_answer(judging(call_id, correct=False).model_copy(update={"step": anew}))

    assert [False, False] == [each.correct for each in await labels_of(database, "triage")]


async def test_late_correction_by_a_person(router: Router, database: Database) -> None:
    """Whoever says it last is right, also at the command line."""
    call_id = await answered(router)
    await router.label_answer(judging(call_id, correct=True))

    await label_call(database, call_id, correct=False, by="ole")

    assert [False] == [each.correct for each in await labels_of(database, "triage")]


async def test_unknown_call(router: Router) -> None:
    """A call that was not recorded here cannot be judged."""
    with pytest.raises(InvalidInput, match="no call 'nope'"):
        await router.label_answer(judging("nope", correct=True))


LINE = {"task": "triage", "question": "q1", "tier": "large", "model": "openai/big", "correct": True, "cost_usd": 0.002}


async def test_import_twice(database: Database, tmp_path: Path) -> None:
    """A file that is read again changes nothing; a line that says otherwise corrects."""
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps(LINE) + "\n\n" + json.dumps({**LINE, "question": "q2", "correct": False}))
    for _ in range(2):
        assert 2 == await import_labels(database, path, by="mara")
    path.write_text(json.dumps({**LINE, "correct": False}))
    await import_labels(database, path, by="mara")

    found = {each.question: each for each in await labels_of(database, "triage")}

    assert {"q1": False, "q2": False} == {name: each.correct for name, each in found.items()}
    assert 2_000_000 == found["q1"].cost_nano_usd


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({**LINE, "prompt": "my cup is broken"}, "prompt: Extra inputs"),
        ({**LINE, "question": "my cup is broken"}, "question: String should match"),
        ({"task": "triage", "correct": True}, "write a `call_id`, or"),
        ({"call_id": "nope", "correct": True}, "no call 'nope'"),
    ],
)
async def test_lines_that_are_refused(
    sqlite_database: Database, tmp_path: Path, line: dict[str, object], said: str
) -> None:
    """A file with a wrong line, such as one with a text in it, brings nothing, and the message names the line."""
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps(LINE) + "\n" + json.dumps(line))

    with pytest.raises(InvalidInput, match=f"line 2: .*{said}"):
        await import_labels(sqlite_database, path, by="mara")

    assert [] == await labels_of(sqlite_database, "triage")
