"""A corpus of broken JSON: each text has one value or none, and never a wrong one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue

from perdure.routing.prompts import Misfit
from perdure.routing.prompts.reading import read_json

CORPUS = [json.loads(line) for line in (Path(__file__).parents[2] / "data/broken_json.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", [case for case in CORPUS if "refused" in case], ids=lambda case: repr(case["text"])[:60])
def test_refused(case: dict[str, Any]) -> None:
    """What is not one faithful JSON value is refused."""
    with pytest.raises(Misfit):
        read_json(case["text"])


@pytest.mark.parametrize("case", [case for case in CORPUS if "value" in case], ids=lambda case: repr(case["text"])[:60])
def test_read(case: dict[str, Any]) -> None:
    """One JSON value is read, also out of a fence or a sentence, and small slips are mended."""
    found, _ = read_json(case["text"])

    assert (case["value"], type(case["value"])) == (found, type(found))
    assert json.dumps(case["value"]) == json.dumps(found)


@pytest.mark.parametrize(
    ("text", "repaired"),
    [('{"a": 1}', False), ('```json\n{"a": 1}\n```', True), ("{'a': 1}", True), ("[1, 2]", False), ('"yes"', False)],
)
def test_repairs_are_told(text: str, repaired: bool) -> None:
    """What had to be picked out or mended is told, and what had not is not."""
    assert repaired is bool(read_json(text)[1])


@pytest.mark.parametrize(
    "text",
    [
        "word " * 1_000_000,
        '{"a": "' + "x" * 5_000_000 + '"}',
        '{"a": ' + "9" * 5000 + "}",
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        "[" * 10_000 + "]" * 10_000,
        "{'a':" * 10_000 + "1" + "}" * 10_000,
        "{" * 100_000,
        "{'a': [" + ("'x', " * 30_000) + "]}",
        "{'a': \"" + '"' * 99_000 + "}",
        "{'a': " + "/*" * 49_000 + "}",
    ],
    ids=[
        "prose",
        "long",
        "digits",
        "deep",
        "brackets",
        "deep and broken",
        "opened",
        "long and broken",
        "quotes",
        "comments",
    ],
)
def test_huge(text: str) -> None:
    """What is too long or too deep is refused, and not with another error."""
    with pytest.raises(Misfit):
        read_json(text)


@pytest.mark.parametrize("value", [{"a": "x" * 1_900_000}, list(range(200_000)), {f"k{n}": n for n in range(50_000)}])
def test_long(value: JsonValue) -> None:
    """A long answer is read if it is JSON."""
    assert value == read_json(json.dumps(value))[0]
