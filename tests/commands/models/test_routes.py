"""Routes at the command line: who answers, which answers were right, and what is learned from that."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from kits.cli import Ended, Perdure

from perdure.commands.exits import Exit

MODELS = """
[tasks.triage]
tier = "small"
cascade = ["large"]

[tasks.plain]
tier = "large"

[deployments.little]
tier = "small"
model = "openai/little"
input_usd_per_mtok = 0.1
output_usd_per_mtok = 0.4

[deployments.big]
tier = "large"
model = "openai/big"
input_usd_per_mtok = 2
output_usd_per_mtok = 8
"""


@pytest.fixture
def routes(perdure: Perdure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Perdure:
    """Run `perdure routes` with a database and a routing file of this test's own."""
    (tmp_path / "models.toml").write_text(MODELS)
    monkeypatch.setenv("PERDURE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PERDURE_MODELS", str(tmp_path / "models.toml"))

    def run(*arguments: str) -> Ended:
        return perdure("routes", *arguments)

    return run


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """A file of labels where the stated confidence tells right from wrong."""
    chance = random.Random(3)
    lines = []
    for number in range(500):
        stated = round(chance.uniform(0.3, 1), 2)
        about = {"task": "triage", "question": f"sha256:{number}", "prompt_bytes": 200}
        little = {"tier": "small", "model": "openai/little", "confidence": stated, "cost_usd": 0.0001}
        big = {"tier": "large", "model": "openai/big", "cost_usd": 0.002}
        lines.append({**about, **little, "correct": chance.random() < stated})
        lines.append({**about, **big, "correct": chance.random() < 0.96})
    path = tmp_path / "labels.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_learned_from_a_file(routes: Perdure, judged: Path) -> None:
    """Labels are brought, the curve is shown, what is learned is kept with a version, and it says how to use it."""
    assert "1000 answers are judged" in routes("label", "--from", str(judged), "--as", "mara").err

    shown = routes("evaluate")
    assert "by who is right" in shown.out
    assert "worth adopting: better than the tier alone" in shown.out
    [study] = routes("evaluate", "triage", "-o", "json").rows
    assert study["adopt"]
    assert {"small", "large", "random", "curve", "learned", "oracle"} == {point["policy"] for point in study["points"]}
    assert [None] == [row["version"] for row in routes("list", "-o", "json").rows if row["task"] == "triage"]

    learned = routes("learn", "triage")
    assert "version 1 holds" in learned.err
    assert 'escalate = "learned"' in learned.err
    assert 2 == routes("learn", "triage", "-o", "json").json["version"]

    listed = routes("list")
    assert "off (version 2)" in listed.out
    assert "small: little, then large: big" in listed.out
    assert "in force" in {point["policy"] for point in routes("evaluate", "-o", "json").rows[0]["points"]}


def test_too_few_labels(routes: Perdure) -> None:
    """Without labels it says how many it takes, and writes nothing."""
    learned = routes("learn", "triage")

    assert (Exit.USAGE, True) == (
        learned.code,
        "it takes 100 judged questions of tier 'small' (there are 0)" in learned.err,
    )
    assert "it takes 100 judged questions" in routes("evaluate").err
    assert "Give it a `cascade`" in routes("learn", "plain").err
    assert "known tasks: " in routes("learn", "nope").err


def test_label_of_a_call(routes: Perdure) -> None:
    """A label is of one call or of a file, and says right or wrong."""
    assert "no call 'nope'" in routes("label", "nope", "--wrong").err
    assert Exit.USAGE == routes("label", "nope").code
    assert Exit.USAGE == routes("label").code
    assert Exit.USAGE == routes("label", "nope", "--wrong", "--from", "x.jsonl").code
    assert "x.jsonl cannot be read" in routes("label", "--from", "x.jsonl").err


def test_no_task_is_known(perdure: Perdure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no models.toml has a task, `routes list` says where it looks for one."""
    monkeypatch.setenv("PERDURE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PERDURE_MODELS", raising=False)
    monkeypatch.chdir(tmp_path)

    ended = perdure("routes", "list")

    assert (0, "", True) == (ended.code, ended.out, "set PERDURE_MODELS" in ended.err)
