"""What a task's worked examples are: inputs and the output that was right for them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field, JsonValue, ValidationError

from perdure.documents import read_json
from perdure.errors import InvalidSettings, Malformed
from perdure.lineage import Frozen


class Example(Frozen):
    """One line of an examples file."""

    inputs: dict[str, JsonValue] = Field(min_length=1)
    output: dict[str, JsonValue] = Field(min_length=1)


def read_examples(path: Path) -> tuple[Example, ...]:
    """Return the examples of the JSONL file at PATH. Raises `InvalidSettings` naming the file and the line."""
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"examples file {path} cannot be read: {_first_line(error)}") from None
    examples = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            examples.append(Example.model_validate(read_json(line)))
        except Malformed as error:
            what = "it is not JSON: " if error.syntax else ""
            raise InvalidSettings(f"{path}, line {number}: {what}{error.problem} in column {error.column}.") from None
        except ValidationError as error:
            wrong = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(map(str, wrong["loc"]))
            raise InvalidSettings(
                f"{path}, line {number}: {place + ': ' if place else ''}{wrong['msg']}. "
                'A line is {"inputs": {...}, "output": {...}}.'
            ) from None
    return tuple(examples)


def extract_text(inputs: Mapping[str, JsonValue], fields: Sequence[str]) -> str:
    """Return what FIELDS of INPUTS say, one a line. A field is a path such as `request.message`; none means everything."""
    if not fields:
        return "\n".join(_text(value) for _, value in sorted(inputs.items()))
    return "\n".join(said for field in fields if (said := _text(_at(inputs, field))))


def _at(inputs: Mapping[str, JsonValue], field: str) -> JsonValue:
    found: JsonValue = dict(inputs)
    for name in field.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _text(value: JsonValue) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(filter(None, map(_text, value)))
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _first_line(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).splitlines()[0]
