"""Which task goes to which tier, and which deployments serve a tier at what price: models.toml.

    [tasks.triage]
    tier = "small"
    instructions = "Decide what to do with a return request."
    examples = "triage.jsonl"          # relative to this file; what the keyless local deployment learns from
    text = ["request.message"]         # the input fields it reads; default: all of them
    ask_below = 0.6

    [deployments.local]
    tier = "small"
    model = "perdure-local/examples"
    input_usd_per_mtok = 0             # a price is always stated, also when it is nothing
    output_usd_per_mtok = 0

A tier's deployments are tried in the order of the file, one an attempt.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from perdure.errors import InvalidSettings, NoRoute
from perdure.routing.contracts import Tier
from perdure.routing.examples import Example, read_examples

LOCAL = "perdure-local/"
"""Model strings that start with this are answered inside the worker, without a key."""

SHIPPED = Path(__file__).parent / "models.toml"
"""The routing file in force when there is no other: keyless, for every tier."""


def _nano_usd(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        message = "write a number of US dollars per million tokens, e.g. 0.15, or 0 if it costs nothing"
        raise ValueError(message)  # pydantic turns no TypeError into a message
    nano = Decimal(value) * 1_000_000_000
    if not nano.is_finite() or nano < 0 or nano != nano.to_integral_value():
        raise ValueError("write US dollars per million tokens: 0 or more, with at most 9 decimals")
    return int(nano)


def _float(value: object) -> object:
    return float(value) if isinstance(value, Decimal) else value


def _list(value: object) -> object:
    return [value] if isinstance(value, str) else value


Price = Annotated[int, BeforeValidator(_nano_usd)]
Fraction = Annotated[float, BeforeValidator(_float), Field(ge=0, le=1)]
Seconds = Annotated[float, BeforeValidator(_float), Field(gt=0, le=3600)]
Names = Annotated[tuple[str, ...], BeforeValidator(_list)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str


class Deployment(_Table):
    """A pinned model behind a provider. One attempt of a step is one call to one deployment."""

    tier: Tier
    model: str = Field(pattern=r"^[^/\s]+/\S+$")
    """LiteLLM's model string, `PROVIDER/MODEL`."""
    api_base: str | None = Field(default=None, pattern=r"^https?://")
    api_key: str | None = Field(default=None, repr=False)
    """`env:NAME`: read from that variable when a call is made, and kept nowhere."""
    input_price: Price = Field(alias="input_usd_per_mtok")
    """Nano-USD per million prompt tokens; in the file US dollars per million."""
    output_price: Price = Field(alias="output_usd_per_mtok")
    """Nano-USD per million completion tokens; in the file US dollars per million."""
    timeout: Seconds = 60.0
    """Seconds that one call may take from end to end."""
    context: int = Field(default=128_000, ge=256)
    """How many tokens prompt and answer may have together."""
    max_tokens: int = Field(default=1024, ge=1)
    """How many tokens an answer may have."""
    structured: Literal["schema", "json", "none"] = "schema"
    """What the provider is told of the answer's form: its JSON schema, only that it is JSON, or nothing."""

    @field_validator("api_key")
    @classmethod
    def _refers(cls, key: str | None) -> str | None:
        if key is not None and not re.fullmatch(r"env:[A-Za-z_][A-Za-z0-9_]*", key):
            raise ValueError('write "env:NAME" and put the key into that environment variable; keys do not belong in files')
        return key

    @field_validator("model")
    @classmethod
    def _known(cls, model: str) -> str:
        if model.startswith(LOCAL) and model != f"{LOCAL}examples":
            raise ValueError(f'the only local model is "{LOCAL}examples"')
        return model

    @property
    def local(self) -> bool:
        """Whether it answers inside the worker."""
        return self.model.startswith(LOCAL)

    def cost(self, prompt_tokens: int, completion_tokens: int) -> int:
        """Return what PROMPT_TOKENS and COMPLETION_TOKENS cost, in nano-USD, rounded up once."""
        return -(-(prompt_tokens * self.input_price + completion_tokens * self.output_price) // 1_000_000)


class Task(_Table):
    """What a prompt is for, and which tier answers it."""

    tier: Tier
    instructions: str = ""
    """What the model is told to do; inline, or from `instructions_file`."""
    examples: tuple[Example, ...] = ()
    text: Names = ()
    """The input fields that are classified, as paths; none means all of them."""
    label: Names = ()
    """The output fields that make up a class; none means all but `why` and `confidence`."""
    ask_below: Fraction | None = None
    """Below this confidence a person should decide; routing passes it on with the answer."""


@dataclass(frozen=True)
class Routes:
    """What models.toml says, read and checked."""

    tasks: Mapping[str, Task]
    deployments: Mapping[str, Deployment]

    def task(self, name: str) -> Task:
        """Return the task called NAME. Raises `NoRoute` with the known ones."""
        if (found := self.tasks.get(name)) is None:
            known = ", ".join(sorted(self.tasks)) or "none"
            raise NoRoute(f"no route serves task {name!r}; known tasks: {known}. Add [tasks.{name}] to models.toml.")
        return found

    def serving(self, task: Task) -> tuple[Deployment, ...]:
        """Return the deployments that can answer TASK, in the order they are tried."""
        return tuple(one for one in self.deployments.values() if one.tier == task.tier and (task.examples or not one.local))


def load_routes(paths: Sequence[Path] = (SHIPPED,)) -> Routes:
    """Return the routes of the files at PATHS, merged. Raises `InvalidSettings` naming file, line, table and key.

    The first file comes first: what it defines holds, and its deployments are tried first. Of the others no two may
    define the same name.
    """
    tasks: dict[str, Task] = {}
    deployments: dict[str, Deployment] = {}
    origin: dict[str, Path] = {}
    for path in dict.fromkeys(path.absolute() for path in paths):
        file = _File(path)
        first = paths[0].absolute()
        deployments |= {
            name: one for name, one in file.deployments().items() if _new(f"deployments.{name}", path, origin, first)
        }
        tasks |= {name: one for name, one in file.tasks().items() if _new(f"tasks.{name}", path, origin, first)}
    routes = Routes(tasks, deployments)
    for task in tasks.values():
        _check_served(task, routes, origin[f"tasks.{task.name}"])
    return routes


def _new(table: str, path: Path, origin: dict[str, Path], first: Path) -> bool:
    if table not in origin:
        origin[table] = path
        return True
    if origin[table] != first:
        raise InvalidSettings(
            f"[{table}] is defined in {origin[table]} and in {path}. Rename one, or define it in {first}."
        )
    return False


def _check_served(task: Task, routes: Routes, path: Path) -> None:
    if routes.serving(task):
        return
    if any(one.tier == task.tier for one in routes.deployments.values()):
        raise InvalidSettings(
            f"{path}: [tasks.{task.name}] has no examples, and tier {task.tier!r} has only local deployments, which "
            "answer by examples. Add `examples`, or a deployment of a hosted model to the tier."
        )
    raise InvalidSettings(
        f"{path}: [tasks.{task.name}] wants tier {task.tier!r}, and no deployment has that tier. Add one."
    )


T = TypeVar("T", bound=_Table)


class _File:
    """One routing file: what it says, and on which line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._text = path.read_text("utf-8")
            self._tables: dict[str, Any] = tomllib.loads(self._text, parse_float=Decimal)
        except tomllib.TOMLDecodeError as error:
            raise InvalidSettings(f"{path} is not valid TOML: {error}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidSettings(
                f"routing file {path} cannot be read: {getattr(error, 'strerror', None) or error}"
            ) from None
        if unknown := sorted(self._tables.keys() - {"tasks", "deployments"}):
            raise self._wrong([unknown[0]], "unknown table; there are [tasks.NAME] and [deployments.NAME]")

    def deployments(self) -> dict[str, Deployment]:
        """Return the deployments of this file, in its order."""
        return {name: self._table(["deployments", name], table, Deployment) for name, table in self._named("deployments")}

    def tasks(self) -> dict[str, Task]:
        """Return the tasks of this file, with the files that they refer to read in."""
        return {name: self._task(name, dict(table)) for name, table in self._named("tasks")}

    def _task(self, name: str, table: dict[str, Any]) -> Task:
        where = ["tasks", name]
        if "instructions_file" in table:
            if "instructions" in table:
                raise self._wrong([*where, "instructions_file"], "there are `instructions` already; keep one of them")
            table["instructions"] = self._read([*where, "instructions_file"], table.pop("instructions_file"))
        examples = table.pop("examples", None)
        if examples is not None and not isinstance(examples, str):
            raise self._wrong([*where, "examples"], "write the path of a JSONL file, relative to this file")
        task = self._table(where, table, Task)
        return task.model_copy(update={"examples": read_examples(self.path.parent / examples)}) if examples else task

    def _named(self, kind: str) -> list[tuple[str, Any]]:
        tables = self._tables.get(kind, {})
        for name, table in tables.items() if isinstance(tables, dict) else [("", None)]:
            if not isinstance(table, dict):
                raise self._wrong([kind, name], f"write a table, [{kind}.NAME]")
        return list(tables.items())

    def _table(self, where: list[str], table: dict[str, Any], kind: type[T]) -> T:
        if "name" in table:
            raise self._wrong([*where, "name"], "unknown key; the name is in the table's header")
        try:
            return kind.model_validate({**table, "name": where[1]})
        except ValidationError as error:
            wrong = error.errors(include_input=False, include_url=False)[0]
            message = wrong["msg"].removeprefix("Value error, ")
            if wrong["type"] == "missing":
                price = "_usd_" in str(wrong["loc"])
                message = "is missing; a price is always stated, 0 if it costs nothing" if price else "is missing"
            elif wrong["type"] == "extra_forbidden":
                known = sorted(field.alias or name for name, field in kind.model_fields.items() if name != "name")
                message = f"unknown key; known: {', '.join(known)}"
            raise self._wrong([*where, *map(str, wrong["loc"])], message) from None

    def _read(self, where: list[str], name: object) -> str:
        if not isinstance(name, str):
            raise self._wrong(where, "write the path of a text file, relative to this file")
        try:
            return (self.path.parent / name).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise self._wrong(where, f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from None

    def _wrong(self, where: Sequence[str], message: str) -> InvalidSettings:
        line = self._line(where)
        table, key = ".".join(where[:2]), ".".join(where[2:])
        place = f"[{table}]" + (f" {key}" if key else "")
        return InvalidSettings(f"{self.path}{f', line {line}' if line else ''}: {place}: {message}")

    def _line(self, where: Sequence[str]) -> int | None:
        """Return the line of a table or of its key; the table's if the key is not there, None if that is not found."""
        header, key = ".".join(where[:2]), where[2] if len(where) > 2 else None
        found = None
        current = ""
        for number, line in enumerate(self._text.splitlines(), start=1):
            if match := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line):
                current = match[1].replace('"', "").replace("'", "")
                if current == header or (found is None and current.startswith(header + ".")):
                    found = number
            elif key and current == header and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
                return number
        return found
