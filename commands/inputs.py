"""What a user gives a command: JSON and plans, with errors that name the place."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from perdure import documents
from perdure.errors import InvalidInput, Malformed, PlanError

if TYPE_CHECKING:
    from pydantic import JsonValue, ValidationError

    from perdure.workflows.plan_model import Plan

PLAN_SUFFIXES = (".yaml", ".yml", ".json")


def read_json(given: str | None) -> JsonValue:
    """Return the value of GIVEN: JSON, `@FILE` or `-` for stdin. Raises `InvalidInput` with the position of a mistake."""
    if given is None:
        return None
    text, source = _text(given)
    try:
        return documents.read_json(text)
    except Malformed as error:
        said = f"{source} is not JSON: {error.message}" if error.syntax else f"{source}, {error.message}"
        hint = "" if text.strip() else " It is empty."
        raise InvalidInput(
            f"{said}.{hint}{_pointed_at(text, error)}\nGive JSON in single quotes, @FILE, or - for stdin."
        ) from None


def is_plan(name: str) -> bool:
    """Whether NAME is a plan's file and not a workflow's name."""
    return name.endswith(PLAN_SUFFIXES)


def read_plan(path: Path) -> Plan:
    """Return the plan in the file PATH. Raises `PlanError` with a line for each thing that is wrong."""
    from pydantic import ValidationError

    from perdure.workflows.plan_model import Plan

    text = _file(path, "plan")
    written_as, read = ("JSON", documents.read_json) if path.suffix == ".json" else ("YAML", documents.read_yaml)
    try:
        data = read(text)
    except Malformed as error:
        if error.syntax:
            raise PlanError(f"{path} is not {written_as}: {error.message}") from None
        raise PlanError(f"{path}: {error.message}{_inside(error)}") from None
    if not isinstance(data, dict):
        raise PlanError(f"{path}: a plan is a mapping with `name` and `steps`; this file holds {_name_of(data)}")
    try:
        return Plan.model_validate(data)
    except ValidationError as error:
        raise PlanError("\n".join(f"{path}: {line}" for line in _wrong(error, data))) from None


def _inside(error: Malformed) -> str:
    """Return where a key stands twice: in which step, if one can tell, or under which other keys."""
    match error.path:
        case ():
            return ""
        case ("steps", int()) if isinstance(id := error.inside.get("id"), str):
            return f" in step {id}"
        case path:
            return f" in {'.'.join(map(str, path))}"


def _pointed_at(text: str, error: Malformed) -> str:
    """Return the line that ERROR is about, with a mark under the place."""
    lines = text.removeprefix("\ufeff").split("\n")
    if not 0 < error.line <= len(lines) or not lines[error.line - 1].strip():
        return ""
    # The input may be one line of any length.
    begin = max(0, error.column - 81)
    shown = lines[error.line - 1][begin : begin + 120].rstrip().encode("utf-8", "replace").decode()
    return f"\n  {shown}\n  {' ' * (error.column - 1 - begin)}^"


def describe_first(error: ValidationError) -> str:
    """Return the first thing that is wrong with what was typed, in words."""
    first = error.errors(include_input=False, include_url=False)[0]
    place, message = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return f"there is no {place}"
    if first["type"] == "missing":
        return f"{place} is missing"
    return f"{place}: {message}" if place else message


def _wrong(error: ValidationError, data: Mapping[str, object]) -> list[str]:
    lines = []
    found = error.errors(include_url=False, include_input=False)
    for item in found:
        if item["type"] == "too_short" and any(
            each["loc"][: len(item["loc"])] == item["loc"] for each in found if each != item
        ):
            continue  # those that are wrong were not counted
        place = _place(item["loc"], data)
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "there is no such field; check its spelling and indentation"
        elif item["type"] == "missing":
            message = "is missing; add it"
        lines.append(f"{place}: {message}" if place else message)
    return lines


def _place(location: tuple[int | str, ...], data: object) -> str:
    """Return LOCATION as a path in the file: without the names pydantic gives to the branches of a union."""
    parts = []
    inside: object = data
    for position, part in enumerate(location):
        if isinstance(part, str) and position > 1 and location[position - 2] == "steps":
            continue  # the kind of step, which the file says by its fields
        parts.append(str(part))
        inside = inside[part] if _has(inside, part) else None  # type: ignore[index]  # checked by _has
        if len(parts) == 2 and parts[0] == "steps" and isinstance(inside, dict) and isinstance(inside.get("id"), str):
            parts[-1] += f" ({inside['id']})"
    return ".".join(parts)


def _has(value: object, part: int | str) -> bool:
    if isinstance(value, dict):
        return part in value
    return isinstance(value, list) and isinstance(part, int) and part < len(value)


def _text(given: str) -> tuple[str, str]:
    if given == "-":
        try:
            return sys.stdin.read(), "stdin"
        except UnicodeDecodeError as error:
            raise InvalidInput(f"stdin is not UTF-8 text: {error.reason} at byte {error.start}") from None
    if given.startswith("@"):
        return _file(Path(given[1:]), "input file"), given[1:]
    return given, "the input"


def _file(path: Path, what: str) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{what} {path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise InvalidInput(f"{what} {path} cannot be read: {error.strerror}. Looked in {Path.cwd()}.") from None


def _name_of(value: object) -> str:
    if value is None:
        return "nothing"
    return "a list" if isinstance(value, list) else f"a {type(value).__name__}"
