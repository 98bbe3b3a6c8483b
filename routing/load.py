"""What a routing file says: read, checked, and told by line where it is wrong."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from perdure.errors import InvalidSettings, NoRoute
from perdure.routing.canary import Canary, CanaryTable
from perdure.routing.contracts import Tier
from perdure.routing.prompts import holds_secret
from perdure.routing.routes import (
    SHIPPED,
    Budget,
    Deployment,
    Embeddings,
    Table,
    Task,
    read_examples,
)


@dataclass(frozen=True)
class Routes:
    """What models.toml says, read and checked."""

    tasks: Mapping[str, Task]
    deployments: Mapping[str, Deployment]
    budgets: Mapping[str, Budget] = field(default_factory=dict)
    canaries: Mapping[str, Canary] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    """Where the file of each GGUF deployment is named: routing file, line and key."""
    embeddings: Mapping[str, Embeddings] = field(default_factory=dict)

    def task(self, name: str) -> Task:
        """Return the task called NAME. Raises `NoRoute` with the known ones."""
        if (found := self.tasks.get(name)) is None:
            known = ", ".join(sorted(self.tasks)) or "none"
            raise NoRoute(f"no route serves task {name!r}; known tasks: {known}. Add [tasks.{name}] to models.toml.")
        return found

    def deployments_for(self, task: Task, tier: Tier | None = None) -> tuple[Deployment, ...]:
        """Return the deployments of TIER, the task's own by default, that can answer TASK, in the order they are tried.

        One that a canary tries is not among them: whoever does not try it goes on as before.
        """
        wanted = tier or task.tier
        tried = {each.table.deployment for each in self.canaries.values()}
        return tuple(
            one
            for one in self.deployments.values()
            if one.tier == wanted and one.name not in tried and may_serve(one, task)
        )

    def all_deployments_for(self, task: Task) -> tuple[Deployment, ...]:
        """Return all deployments that TASK may ask, also what a canary tries."""
        canary = self.canary(task)
        tried = (canary.deployment,) if canary is not None and canary.deployment is not None else ()
        return (*tried, *(one for tier in task.tiers for one in self.deployments_for(task, tier)))

    def canary(self, task: Task) -> Canary | None:
        """Return the canary that TASK takes part in, if any."""
        return next((each for each in self.canaries.values() if each.covers(task)), None)


def may_serve(deployment: Deployment, task: Task) -> bool:
    """Return whether DEPLOYMENT can answer TASK: a local one needs examples, a hosted one a region that is allowed."""
    if deployment.local:  # it is served here
        return bool(task.examples)
    if deployment.gguf:  # here as well
        return True
    return not task.residency or deployment.region in task.residency


def own_files(models: Path | None) -> list[Path]:
    """Return the routing file that is somebody's own: MODELS of the settings, else models.toml of the working directory."""
    if models is not None:
        return [models]
    here = Path("models.toml")
    return [here] if here.is_file() else []


def load_routes(paths: Sequence[Path] = (SHIPPED,)) -> Routes:
    """Return the routes of the files at PATHS, merged. Raises `InvalidSettings` naming file, line, table and key.

    The first file comes first: what it defines holds, and its deployments are tried first. Of the others no two may
    define the same name.
    """
    tasks: dict[str, Task] = {}
    deployments: dict[str, Deployment] = {}
    budgets: dict[str, Budget] = {}
    canaries: dict[str, CanaryTable] = {}
    embeddings: dict[str, Embeddings] = {}
    origin: dict[str, _File] = {}
    files = [_File(path) for path in dict.fromkeys(path.absolute() for path in paths)]
    for file in files:
        new = partial(_is_new, file=file, origin=origin, files=files)
        deployments |= {name: one for name, one in file.deployments().items() if new("deployments", name)}
        tasks |= {name: one for name, one in file.tasks().items() if new("tasks", name)}
        embeddings |= {name: one for name, one in file.embeddings().items() if new("embeddings", name)}
        budgets |= {name: one for name, one in file.budgets().items() if new("budgets", name)}
        canaries |= {name: one for name, one in file.canaries().items() if new("canaries", name)}
    tried = {name: _resolve_canary(one, tasks, deployments, origin[f"canaries.{name}"]) for name, one in canaries.items()}
    named = {name: origin[f"deployments.{name}"] for name, one in deployments.items() if one.gguf}
    places = {name: file.locate(["deployments", name, "file"]) for name, file in named.items()}
    routes = Routes(tasks, deployments, budgets | _daily_budgets(tasks), tried, places, embeddings)
    for canary in tried.values():
        _check_canary(canary, routes, origin[f"canaries.{canary.name}"])
    for task in tasks.values():
        _check_served(task, routes, origin[f"tasks.{task.name}"])
    return routes


def _is_new(kind: str, name: str, *, file: _File, origin: dict[str, _File], files: Sequence[_File]) -> bool:
    known = origin.setdefault(f"{kind}.{name}", file)
    if known is not file and known is not files[0]:
        raise file.error_at(
            [kind, name], f"is defined in {known.path} as well. Rename one, or define it in {files[0].path}."
        )
    return known is file


def _daily_budgets(tasks: Mapping[str, Task]) -> dict[str, Budget]:
    """Return the budgets that tasks state for themselves."""
    found: dict[str, Budget] = {}
    for name, task in tasks.items():
        if task.budget_usd_per_day is not None:
            own = f"{name}-a-day"
            dollars = Decimal(task.budget_usd_per_day) / 1_000_000_000
            table = {"name": own, "per": "task", "of": name, "usd": dollars, "every": "day"}
            found[own] = Budget.model_validate(table)
    return found


def _resolve_canary(
    table: CanaryTable, tasks: Mapping[str, Task], deployments: Mapping[str, Deployment], file: _File
) -> Canary:
    where = ["canaries", table.name]
    if table.task and table.task not in tasks:
        raise file.error_at([*where, "task"], f"there is no task {table.task!r}; known: {', '.join(sorted(tasks))}")
    if table.deployment and table.deployment not in deployments:
        known = ", ".join(sorted(deployments))
        raise file.error_at([*where, "deployment"], f"there is no deployment {table.deployment!r}; known: {known}")
    if table.instructions is not None and holds_secret(table.instructions):
        raise file.error_at([*where, "instructions"], "they hold what looks like a key, and prompts go to providers")
    return Canary(table, deployments.get(table.deployment), table.tier or tasks[table.task].tier)


def _check_canary(canary: Canary, routes: Routes, file: _File) -> None:
    table = canary.table
    where = ["canaries", canary.name]
    for task in routes.tasks.values():
        if not canary.covers(task):
            continue
        first = routes.canary(task)
        if first is not None and first is not canary:
            key = "task" if table.task else "tier"
            raise file.error_at(
                [*where, key], f"task {task.name!r} takes part in canary {first.name!r} already. Try one after the other."
            )
        if canary.deployment is not None and (why := _why_unfit(canary.deployment, task)):
            raise file.error_at([*where, "deployment"], why)


def _why_unfit(deployment: Deployment, task: Task) -> str:
    """Return why DEPLOYMENT cannot be tried for TASK; empty: it can."""
    if deployment.tier != task.tier:
        return f"its tier is {deployment.tier!r}, and that of task {task.name!r} is {task.tier!r}. Make them the same."
    if may_serve(deployment, task):
        return ""
    if deployment.local:
        return f"{deployment.name!r} answers by examples, and task {task.name!r} has none. Add `examples` to it."
    regions = ", ".join(task.residency)
    return f"{deployment.name!r} is not in a region that `residency` of task {task.name!r} allows: {regions}."


def _check_served(task: Task, routes: Routes, file: _File) -> None:
    for tier in task.tiers:
        if not routes.deployments_for(task, tier):
            key = "tier" if tier == task.tier else "cascade"
            raise file.error_at(["tasks", task.name, key], _why_unserved(task, tier, routes))


def _why_unserved(task: Task, tier: Tier, routes: Routes) -> str:
    there = [one for one in routes.deployments.values() if one.tier == tier]
    if not there:
        return f"no deployment has tier {tier!r}. Add one."
    there = [one for one in there if one.name not in {each.table.deployment for each in routes.canaries.values()}]
    if not there:
        return f"tier {tier!r} has only deployments that a canary tries. Add one that serves the others."
    if all(one.local for one in there) and not task.examples:
        return (
            f"tier {tier!r} has only local deployments, which answer by examples, and the task has none. Add `examples`, "
            "or a deployment of a hosted model to the tier."
        )
    return f"no deployment of tier {tier!r} is in a region that `residency` allows: {', '.join(task.residency)}. Add one."


T = TypeVar("T", bound=Table)
_KINDS = ("tasks", "deployments", "embeddings", "budgets", "canaries")


class _File:
    """One routing file: what it says, and on which line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._text = path.read_text("utf-8-sig")
            self._tables: dict[str, Any] = tomllib.loads(self._text, parse_float=Decimal)
        except tomllib.TOMLDecodeError as error:
            raise InvalidSettings(f"{path} is not valid TOML: {error}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidSettings(
                f"routing file {path} cannot be read: {getattr(error, 'strerror', None) or error}"
            ) from None
        if unknown := sorted(self._tables.keys() - set(_KINDS)):
            *most, last = (f"[{kind}.NAME]" for kind in _KINDS)
            raise self.error_at([unknown[0]], f"unknown table; there are {', '.join(most)} and {last}")

    def deployments(self) -> dict[str, Deployment]:
        """Return the deployments of this file, in its order."""
        return {name: self._deployment(name, table) for name, table in self._tables_of("deployments")}

    def _deployment(self, name: str, table: dict[str, Any]) -> Deployment:
        where = ["deployments", name]
        deployment = self._table(where, table, Deployment)
        if deployment.file is None:
            return deployment
        file = self.path.parent / deployment.file
        from perdure.routing.providers import why_not_runnable  # only here: the command line reads routes as well

        if wrong := why_not_runnable(file):
            raise self.error_at([*where, "file"], wrong)
        return deployment.model_copy(update={"file": file})

    def embeddings(self) -> dict[str, Embeddings]:
        """Return the models for vectors of this file."""
        return {name: self._table(["embeddings", name], table, Embeddings) for name, table in self._tables_of("embeddings")}

    def budgets(self) -> dict[str, Budget]:
        """Return the budgets of this file."""
        return {name: self._table(["budgets", name], table, Budget) for name, table in self._tables_of("budgets")}

    def canaries(self) -> dict[str, CanaryTable]:
        """Return the canaries of this file, with the instructions that they refer to read in."""
        found: dict[str, CanaryTable] = {}
        for name, given in self._tables_of("canaries"):
            table = dict(given)
            self._read_instructions(["canaries", name], table)
            found[name] = self._table(["canaries", name], table, CanaryTable)
        return found

    def tasks(self) -> dict[str, Task]:
        """Return the tasks of this file, with the files that they refer to read in."""
        return {name: self._task(name, dict(table)) for name, table in self._tables_of("tasks")}

    def _task(self, name: str, table: dict[str, Any]) -> Task:
        where = ["tasks", name]
        self._read_instructions(where, table)
        examples = table.pop("examples", None)
        if examples is not None and not isinstance(examples, str):
            raise self.error_at([*where, "examples"], "write the path of a JSONL file, relative to this file")
        task = self._table(where, table, Task)
        return task.model_copy(update={"examples": read_examples(self.path.parent / examples)}) if examples else task

    def _tables_of(self, kind: str) -> list[tuple[str, Any]]:
        tables = self._tables.get(kind, {})
        for name, table in tables.items() if isinstance(tables, dict) else [("", None)]:
            if not isinstance(table, dict):
                raise self.error_at([kind, name], f"write a table, [{kind}.NAME]")
        return list(tables.items())

    def _table(self, where: list[str], table: dict[str, Any], kind: type[T]) -> T:
        if "name" in table:
            raise self.error_at([*where, "name"], "unknown key; the name is in the table's header")
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
            raise self.error_at([*where, *map(str, wrong["loc"])], message) from None

    def _read_instructions(self, where: list[str], table: dict[str, Any]) -> None:
        if "instructions_file" in table:
            if "instructions" in table:
                raise self.error_at([*where, "instructions_file"], "there are `instructions` already; keep one of them")
            table["instructions"] = self._read([*where, "instructions_file"], table.pop("instructions_file"))

    def _read(self, where: list[str], name: object) -> str:
        if not isinstance(name, str):
            raise self.error_at(where, "write the path of a text file, relative to this file")
        try:
            return (self.path.parent / name).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise self.error_at(where, f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from None

    def error_at(self, where: Sequence[str], message: str) -> InvalidSettings:
        """Return the error that says MESSAGE of the table, and key, at the path WHERE."""
        return InvalidSettings(f"{self.locate(where)}: {message}")

    def locate(self, where: Sequence[str]) -> str:
        """Return how the table, or key, at the path WHERE is told: with its file and line."""
        line = self._line(where)
        table, key = ".".join(where[:2]), ".".join(where[2:])
        return f"{self.path}{f', line {line}' if line else ''}: [{table}]" + (f" {key}" if key else "")

    def _line(self, where: Sequence[str]) -> int | None:
        """Return the line of a table or of its key; the table's if the key is not there, None if that is not found."""
        header, key = ".".join(where[:2]), where[2] if len(where) > 2 else None
        nth = int(where[3]) if len(where) > 3 and where[3].isdigit() else 0
        found = None
        current = ""
        for number, line in enumerate(self._text.splitlines(), start=1):
            if match := re.match(r"\s*\[\[?\s*([^\[\]]+?)\s*\]", line):
                current = match[1].replace('"', "").replace("'", "")
                if key and current == f"{header}.{key}":
                    if nth == 0:
                        return number
                    nth -= 1
                if current == header or (found is None and current.startswith(header + ".")):
                    found = number
            elif key and current == header and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
                return number
        return found
