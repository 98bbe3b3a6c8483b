"""What a user gives a command: JSON and plans, with errors that name the place."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.errors import InvalidInput, NotFound, PlanError

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
        value: JsonValue = json.loads(text, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        line = text.splitlines()[error.lineno - 1] if text.strip() else ""
        hint = "" if text.strip() else " It is empty."
        raise InvalidInput(
            f"{source} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.{hint}"
            + (f"\n  {line[:120]}\n  {' ' * (min(error.colno, 121) - 1)}^" if line else "")
            + "\nGive JSON in single quotes, @FILE, or - for stdin."
        ) from None
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{source} is not JSON: {error}") from None
    return value


def is_plan(name: str) -> bool:
    """Whether NAME is a plan's file and not a workflow's name."""
    return name.endswith(PLAN_SUFFIXES)


def read_plan(path: Path) -> Plan:
    """Return the plan in the file PATH. Raises `PlanError` with a line for each thing that is wrong."""
    import yaml
    from pydantic import ValidationError

    from perdure.workflows.plan_model import Plan

    text = _file(path, "plan")
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PlanError(f"{path} is not YAML: {_yaml_problem(error)}") from None
    if not isinstance(data, dict):
        raise PlanError(f"{path}: a plan is a mapping with `name` and `steps`; this file holds {_name_of(data)}")
    try:
        return Plan.model_validate(data)
    except ValidationError as error:
        raise PlanError("\n".join(f"{path}: {line}" for line in _wrong(error, data))) from None


def _wrong(error: ValidationError, data: dict[str, object]) -> list[str]:
    lines = []
    for item in error.errors(include_url=False, include_input=False):
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
        return sys.stdin.read(), "stdin"
    if given.startswith("@"):
        return _file(Path(given[1:]), "input file"), given[1:]
    return given, "the input"


def _file(path: Path, what: str) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{what} {path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise NotFound(f"{what} {path} cannot be read: {error.strerror}. Looked in {Path.cwd()}.") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON value")


def _yaml_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{problem} at line {mark.line + 1}, column {mark.column + 1}" if mark else problem


def _name_of(value: object) -> str:
    if value is None:
        return "nothing"
    return "a list" if isinstance(value, list) else f"a {type(value).__name__}"
