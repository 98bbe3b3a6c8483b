"""What docker-compose.temporal.yml says once its variables are filled in, as Docker Compose would read it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import yaml

import perdure

ROOT = Path(perdure.__file__).parent
COMPOSE = ROOT / "docker-compose.temporal.yml"
EXAMPLE = ROOT / ".env.example"

Service: TypeAlias = dict[str, Any]

_DOLLAR = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>\w+)(?:(?P<how>:[-?])(?P<rest>[^{}$]*))?\}|(?P<stray>))")


def source() -> dict[str, Any]:
    """Return the file with its anchors resolved and its variables as they stand."""
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return found


def services(**given: str) -> dict[str, Service]:
    """Return the services by name, with the variables of .env.example, made-up passwords, and what is GIVEN on top."""
    made_up = {name: "m4de0up" for name in example() if name.endswith("PASSWORD")}
    filled: dict[str, Service] = _filled(source()["services"], example() | made_up | given)
    return filled


def example() -> dict[str, str]:
    """Return what .env.example sets."""
    lines = [line for line in EXAMPLE.read_text().splitlines() if line and not line.startswith("#")]
    return {name: value.strip("'") for name, _, value in (line.partition("=") for line in lines)}


def offered() -> dict[str, str]:
    """Return the defaults that .env.example shows in comments."""
    return dict(re.findall(r"^#(\w+)=(.*)$", EXAMPLE.read_text(), re.MULTILINE))


def variables() -> dict[str, set[str]]:
    """Return each variable that the file asks for with the defaults it has there; "?" where it has to be set."""
    found: dict[str, set[str]] = {}
    for match in _DOLLAR.finditer(yaml.safe_dump(source())):
        if match["name"]:
            found.setdefault(match["name"], set()).add("?" if match["how"] == ":?" else match["rest"] or "")
    return found


def seconds(duration: str) -> float:
    """Return how long DURATION is, such as `1m` or `40s`."""
    number, unit = duration[:-1], duration[-1]
    return float(number) * {"s": 1, "m": 60}[unit]


def _filled(value: Any, env: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _DOLLAR.sub(lambda match: _value(match, env), value)
    if isinstance(value, dict):
        return {key: _filled(each, env) for key, each in value.items()}
    return [_filled(each, env) for each in value] if isinstance(value, list) else value


def _value(match: re.Match[str], env: Mapping[str, str]) -> str:
    if match["dollar"]:
        return "$"
    if not match["name"]:
        raise ValueError(f"a lone $ in {match.string!r}: Compose wants $$ for what a shell is to see")
    if found := env.get(match["name"], ""):
        return found
    if match["how"] == ":-":
        return match["rest"]
    raise ValueError(f"{match['name']} has to be set")
