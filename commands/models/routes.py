"""Where tasks go, which answers were right, and whether learning from that is worth it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.commands.options import Format, Options
from perdure.commands.output import Column, emit, emit_line, emit_rows, format_usd, printable, say, stdout_console, table
from perdure.commands.session import client_settings, terminal_user
from perdure.errors import InvalidInput
from perdure.lineage import Frozen

if TYPE_CHECKING:
    from perdure.routing.escalation import Point, Study
    from perdure.routing.load import Routes
    from perdure.routing.routes import Task
    from perdure.storage import Database

_POLICIES = {
    "small": "the tier alone",
    "large": "the larger tier alone",
    "random": "at random",
    "curve": "by what was learned",
    "learned": "as learned",
    "in force": "as in force",
    "escalate_below": "by `escalate_below`",
    "oracle": "by who is right",
}
_ROUTES = (
    "TASK",
    Column("GOES TO", least=24, wrap=True),
    Column("ESCALATION", drop=1),
    Column("JUDGED", right=True, drop=2),
)
_STUDY = (
    "",
    Column("THRESHOLD", right=True, drop=2),
    Column("TO LARGER", right=True),
    Column("QUALITY", right=True),
    Column("INTERVAL", right=True, drop=1),
    Column("A CALL", right=True),
    Column("A RIGHT ANSWER", right=True, drop=3),
)


class _Row(Frozen):
    """What is listed of a task."""

    task: str
    tiers: tuple[str, ...]
    deployments: tuple[tuple[str, ...], ...]
    escalate: str | None
    version: int | None
    adopted: bool | None
    judged: dict[str, int]


async def print_routes(options: Options) -> None:
    """Print the tasks of models.toml: the tiers they go to, and what was learned about them."""
    from perdure.routing.escalation import count_labels, list_versions
    from perdure.storage import open_database

    routes = _routes()
    async with open_database(client_settings().database) as database:
        judged = await count_labels(database)
        newest = {each.task: each for each in reversed(await list_versions(database))}
    rows = []
    for task in routes.tasks.values():
        found = newest.get(task.name)
        rows.append(
            _Row(
                task=task.name,
                tiers=task.tiers,
                deployments=tuple(tuple(each.name for each in routes.deployments_for(task, tier)) for tier in task.tiers),
                escalate=task.escalate,
                version=found.version if found else None,
                adopted=found.adopted if found else None,
                judged=judged.get(task.name, {}),
            )
        )
    if options.format is not Format.text:
        emit_rows(options.format, [row.model_dump(mode="json") for row in rows])
    elif not rows:
        say("no task is known here: set PERDURE_MODELS to the models.toml that has them, or go to its folder")
    else:
        table(_ROUTES, [_route(row) for row in rows])


async def label_and_report(
    options: Options, call: str | None, *, correct: bool | None, file: Path | None, by: str | None
) -> None:
    """Write down whether the answer of CALL was right, or the labels in FILE."""
    from perdure.routing.escalation import import_labels, label_call
    from perdure.storage import open_database

    who = by or terminal_user()
    async with open_database(client_settings().database) as database:
        if file is not None:
            count = await import_labels(database, file, by=who)
            told, data = f"{count} answers are judged", {"labels": count}
        else:
            done = await label_call(database, call or "", correct=bool(correct), by=who)
            told = f"the answer to {done.task} was {'right' if done.correct else 'wrong'}"
            data = done.model_dump(mode="json")
    if options.format is Format.text:
        say(told)
    else:
        emit(data)


async def print_evaluation(options: Options, task: str | None, quality: float) -> None:
    """Print what QUALITY costs for TASK, or for every task with a larger tier."""
    from perdure.storage import open_database

    routes = _routes()
    named = [routes.task(task)] if task else [each for each in routes.tasks.values() if each.cascade]
    studies = []
    async with open_database(client_settings().database) as database:
        for each in named:
            try:
                studies.append(await _study(database, routes, each, quality))
            except InvalidInput as error:
                if task:
                    raise
                say(error.message)
    if not named:
        say("no task has a `cascade` in models.toml, so none has a larger tier to go to")
    _print(options, studies)


async def learn_and_report(options: Options, task: str, quality: float, *, by: str | None) -> None:
    """Learn when TASK is to ask its larger tier, keep what was learned, and say whether it holds."""
    from perdure.routing.escalation import save_version
    from perdure.storage import open_database

    routes = _routes()
    found = routes.task(task)
    async with open_database(client_settings().database) as database:
        study = await _study(database, routes, found, quality)
        version = await save_version(
            database,
            task,
            study.escalation,
            adopted=study.adopt,
            evidence=study.model_dump_json(exclude={"escalation"}),
            by=by or terminal_user(),
        )
    if options.format is not Format.text:
        emit({"version": version, **study.model_dump(mode="json")})
        return
    _print(options, [study])
    say(f"version {version} {'holds' if study.adopt else 'is not adopted, and the tier alone decides'}")
    if study.adopt and found.escalate is None:
        say(f'it does nothing until [tasks.{task}] has escalate = "learned" in models.toml')


def _routes() -> Routes:
    from perdure.routing.load import load_routes, own_files
    from perdure.routing.routes import SHIPPED

    return load_routes([*own_files(client_settings().models), SHIPPED])


async def _study(database: Database, routes: Routes, task: Task, quality: float) -> Study:
    from perdure.routing.escalation import labels_of, list_versions, study

    kept = await list_versions(database, task.name)
    current = kept[0].escalation if kept and kept[0].adopted else None
    return study(task, routes, await labels_of(database, task.name), target=quality, current=current)


def _print(options: Options, studies: Sequence[Study]) -> None:
    if options.format is Format.json:
        emit([each.model_dump(mode="json") for each in studies])
        return
    for each in studies:
        if options.format is Format.jsonl:
            emit_line(each)
            continue
        stdout_console().print(
            f"{printable(each.task)}: learned from {each.learned_from} questions, judged on {each.kept_aside} kept aside; "
            f"answers of both tiers are known for {each.both_judged}"
        )
        rows = [_cells(point) for point in each.points]
        table(_STUDY, rows)
        stdout_console().print(f"{'worth adopting' if each.adopt else 'not worth adopting'}: {printable(each.why)}")


def _cells(point: Point) -> tuple[str, ...]:
    quality = point.quality
    return (
        _POLICIES[point.policy],
        f"{point.threshold:.3f}" if point.threshold is not None else "",
        f"{point.share:.1%}",
        f"{quality.value:.1%}",
        f"{quality.low:.1%} to {quality.high:.1%}",
        format_usd(round(point.cost_per_call)),
        format_usd(round(point.cost_per_correct)) if point.cost_per_correct is not None else "-",
    )


def _route(row: _Row) -> tuple[str, ...]:
    goes = ", then ".join(f"{tier}: {' or '.join(names)}" for tier, names in zip(row.tiers, row.deployments, strict=True))
    learned = (
        "nothing learned yet" if row.version is None else f"version {row.version}{'' if row.adopted else ', not adopted'}"
    )
    if row.escalate is None:
        learned = "" if row.version is None else f"off ({learned})"
    return row.task, goes, learned, str(sum(row.judged.values()))
