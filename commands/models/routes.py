"""`perdure routes`: where tasks go, which answers were right, and whether learning from that is worth it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.commands.approvals.cli import AsOption
from perdure.commands.options import Format, Options, takes_options
from perdure.commands.output import (
    dollars,
    emit,
    emit_line,
    out,
    plain,
    say,
)
from perdure.commands.session import client_settings
from perdure.errors import InvalidInput
from perdure.lineage import Frozen

if TYPE_CHECKING:
    from perdure.routing.escalation import Point, Study
    from perdure.routing.load import Routes
    from perdure.routing.routes import Task
    from perdure.storage import Database

app = typer.Typer(
    help="See where tasks go, say which answers were right, and learn when a larger model is worth asking.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

TaskArgument = Annotated[str, typer.Argument(help="Its name in models.toml.", metavar="TASK", show_default=False)]
TargetOption = Annotated[
    float,
    typer.Option(
        "--quality", help="The quality wanted, as a share of the larger tier's.", min=0.5, max=1.0, metavar="SHARE"
    ),
]
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


class _Row(Frozen):
    """What is listed of a task."""

    task: str
    tiers: tuple[str, ...]
    deployments: tuple[tuple[str, ...], ...]
    escalate: str | None
    version: int | None
    adopted: bool | None
    judged: dict[str, int]


@app.command("list")
@takes_options
def list_routes(options: Options) -> None:
    """List the tasks: the tiers they go to, how many answers were judged, and the learned escalation in force."""

    async def work() -> None:
        from perdure.routing.escalation import counts, versions
        from perdure.storage import open_database

        routes = _routes()
        async with open_database(client_settings().database) as database:
            judged = await counts(database)
            newest = {each.task: each for each in reversed(await versions(database))}
        rows = []
        for task in routes.tasks.values():
            found = newest.get(task.name)
            rows.append(
                _Row(
                    task=task.name,
                    tiers=task.tiers,
                    deployments=tuple(tuple(each.name for each in routes.serving(task, tier)) for tier in task.tiers),
                    escalate=task.escalate,
                    version=found.version if found else None,
                    adopted=found.adopted if found else None,
                    judged=judged.get(task.name, {}),
                )
            )
        if options.format is Format.json:
            emit([row.model_dump(mode="json") for row in rows])
        elif options.format is Format.jsonl:
            for row in rows:
                emit_line(row)
        elif not rows:
            say("no task is known here: set PERDURE_MODELS to the models.toml that has them, or go to its folder")
        else:
            _table(("TASK", "GOES TO", "ESCALATION", "JUDGED"), [_route(row) for row in rows], right=("JUDGED",))

    asyncio.run(work())


@app.command("label")
@takes_options
def label_answer(
    options: Options,
    call: Annotated[
        str | None,
        typer.Argument(help="The call: `call_id` of the answer's record.", metavar="CALL", show_default=False),
    ] = None,
    correct: Annotated[
        bool | None, typer.Option("--correct/--wrong", help="Whether its answer was right.", show_default=False)
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--from", help="A JSONL file with a label a line, in place of CALL.", metavar="FILE", show_default=False
        ),
    ] = None,
    *,
    by: AsOption = None,
) -> None:
    """Say whether an answer was right, or bring a file of labels. The last word about an answer counts.

    A line of the file has `correct`, and `call_id`; or, for an answer that was not made here, `task`, `question` (a digest
    that stands for it, never its text), `tier` and `model`, and if known `confidence`, `prompt_bytes` and `cost_usd`.
    """
    if (call is None) == (file is None) or (call is None) != (correct is None):
        raise InvalidInput("write a call with --correct or --wrong, or --from FILE")

    async def work() -> None:
        from perdure.commands.runs.work import user
        from perdure.routing.escalation import import_labels, label
        from perdure.storage import open_database

        who = by or user()
        async with open_database(client_settings().database) as database:
            if file is not None:
                count = await import_labels(database, file, by=who)
                told, data = f"{count} answers are judged", {"labels": count}
            else:
                done = await label(database, call or "", correct=bool(correct), by=who)
                told = f"the answer to {done.task} was {'right' if done.correct else 'wrong'}"
                data = done.model_dump(mode="json")
        if options.format is Format.text:
            say(told)
        else:
            emit(data)

    asyncio.run(work())


@app.command()
@takes_options
def evaluate(
    options: Options,
    task: Annotated[
        str | None, typer.Argument(help="Only this task of models.toml.", metavar="TASK", show_default=False)
    ] = None,
    quality: TargetOption = 0.95,
) -> None:
    """Show what quality costs: by tier, at random, and with escalation learned from judged answers. Changes nothing.

    A part of the judged questions is kept aside; all figures are of these. Quality stands with its 95 % interval.
    """

    async def work() -> None:
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

    asyncio.run(work())


@app.command()
@takes_options
def learn(options: Options, task: TaskArgument, quality: TargetOption = 0.95, *, by: AsOption = None) -> None:
    """Learn when TASK is to ask its larger tier. It holds only if it beats the tier on questions kept aside.

    What was learned gets a version, and the newest decides for runs that begin from now on, if the task has `escalate =
    "learned"`. Where it is not better, the tier alone decides, also in place of an earlier version.
    """

    async def work() -> None:
        from perdure.commands.runs.work import user
        from perdure.routing.escalation import keep
        from perdure.storage import open_database

        routes = _routes()
        found = routes.task(task)
        async with open_database(client_settings().database) as database:
            study = await _study(database, routes, found, quality)
            version = await keep(
                database,
                task,
                study.escalation,
                adopted=study.adopt,
                evidence=study.model_dump_json(exclude={"escalation"}),
                by=by or user(),
            )
        if options.format is not Format.text:
            emit({"version": version, **study.model_dump(mode="json")})
            return
        _print(options, [study])
        say(f"version {version} {'holds' if study.adopt else 'is not adopted, and the tier alone decides'}")
        if study.adopt and found.escalate is None:
            say(f'it does nothing until [tasks.{task}] has escalate = "learned" in models.toml')

    asyncio.run(work())


def _routes() -> Routes:
    from perdure.routing.load import load_routes, own_files
    from perdure.routing.routes import SHIPPED

    return load_routes([*own_files(client_settings().models), SHIPPED])


async def _study(database: Database, routes: Routes, task: Task, quality: float) -> Study:
    from perdure.routing.escalation import labels_of, study, versions

    kept = await versions(database, task.name)
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
        out().print(
            f"{plain(each.task)}: learned from {each.learned_from} questions, judged on {each.kept_aside} kept aside; "
            f"answers of both tiers are known for {each.both_judged}"
        )
        rows = [_cells(point) for point in each.points]
        numbers = ("THRESHOLD", "TO LARGER", "QUALITY", "INTERVAL", "A CALL", "A RIGHT ANSWER")
        _table(("", *numbers), rows, right=numbers)
        out().print(f"{'worth adopting' if each.adopt else 'not worth adopting'}: {plain(each.why)}")


def _cells(point: Point) -> tuple[str, ...]:
    quality = point.quality
    return (
        _POLICIES[point.policy],
        f"{point.threshold:.3f}" if point.threshold is not None else "",
        f"{point.share:.1%}",
        f"{quality.value:.1%}",
        f"{quality.low:.1%} to {quality.high:.1%}",
        dollars(round(point.cost_per_call)),
        dollars(round(point.cost_per_correct)) if point.cost_per_correct is not None else "-",
    )


def _route(row: _Row) -> tuple[str, ...]:
    goes = ", then ".join(f"{tier}: {' or '.join(names)}" for tier, names in zip(row.tiers, row.deployments, strict=True))
    learned = (
        "nothing learned yet" if row.version is None else f"version {row.version}{'' if row.adopted else ', not adopted'}"
    )
    if row.escalate is None:
        learned = "" if row.version is None else f"off ({learned})"
    return row.task, goes, learned, str(sum(row.judged.values()))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in header:
        numeric = name in right
        table.add_column(name, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    out().print(table)
