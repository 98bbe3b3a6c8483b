"""`perdure cost`, `models`, `budgets`, `canary` and `routes`, as they are typed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from perdure.commands.options import AsOption, Options, takes_options
from perdure.errors import InvalidInput

app = typer.Typer()

budgets = typer.Typer(
    help="See what budgets of models have left, and raise one.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
canary = typer.Typer(
    help="See how models or prompts do that some runs try, and decide about them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
routes = typer.Typer(
    help="See where tasks go, say which answers were right, and learn when a larger model is worth asking.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SinceOption = Annotated[
    str | None, typer.Option(help="Only calls from this day or time on, in UTC.", metavar="DATE", show_default=False)
]
CanaryArgument = Annotated[
    str, typer.Argument(help="Its name in models.toml, or NAME@VERSION.", metavar="NAME", show_default=False)
]
CommentOption = Annotated[str, typer.Option("--comment", "-c", help="Why.", metavar="TEXT", show_default=False)]
TaskArgument = Annotated[str, typer.Argument(help="Its name in models.toml.", metavar="TASK", show_default=False)]
TargetOption = Annotated[
    float,
    typer.Option(
        "--quality", help="The quality wanted, as a share of the larger tier's.", min=0.5, max=1.0, metavar="SHARE"
    ),
]


class CostGroup(StrEnum):
    """What costs can be grouped by."""

    workflow = "workflow"
    task = "task"
    model = "model"
    deployment = "deployment"
    tier = "tier"
    tenant = "tenant"
    agent = "agent"
    day = "day"
    run = "run"
    outcome = "outcome"


@app.command()
@takes_options
def cost(
    options: Options,
    by: Annotated[
        CostGroup | None, typer.Option("--by", help="Group by this. `outcome`: by how the runs ended.", show_default=False)
    ] = None,
    since: SinceOption = None,
    until: Annotated[
        str | None, typer.Option(help="Only calls before this day or time, in UTC.", metavar="DATE", show_default=False)
    ] = None,
) -> None:
    """Show what models have cost: by group, and for each completed step, with its retries and with steps that failed.

    AT RISK is the most that calls may have cost besides whose answer nobody saw. SAVED is what the cache and batches saved.
    """
    from perdure.commands.models.work import print_costs

    asyncio.run(print_costs(options, by.value if by else None, _time(since), _time(until)))


@app.command()
@takes_options
def models(
    options: Options,
    since: SinceOption = None,
) -> None:
    """Show how models have done, by deployment and version: errors, answers that fitted, latency and cost."""
    from perdure.commands.models.work import print_qualities

    asyncio.run(print_qualities(options, _time(since)))


@budgets.command("list")
@takes_options
def list_budgets(options: Options) -> None:
    """List the budgets that were drawn on: what is spent, held back for calls in progress, and raised by people."""
    from perdure.commands.models.work import print_budgets

    asyncio.run(print_budgets(options))


@budgets.command("raise")
@takes_options
def raise_budget(
    options: Options,
    budget: Annotated[str, typer.Argument(help="Its name in models.toml.", metavar="BUDGET", show_default=False)],
    usd: Annotated[
        float, typer.Option("--usd", help="By how many US dollars.", min=0.01, metavar="DOLLARS", show_default=False)
    ],
    *,
    subject: Annotated[
        str | None,
        typer.Option(
            help="Whose: the run, workflow type, agent, tenant or task, if `list` shows several.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="The day or month, if `list` shows several.", metavar="DATE", show_default=False)
    ] = None,
    comment: Annotated[str, typer.Option("--comment", "-c", help="Why.", metavar="TEXT", show_default=False)] = "",
    by: AsOption = None,
) -> None:
    """Let a budget that was drawn on spend more, for one subject and time. It is written down who said so."""
    from perdure.commands.models.work import raise_and_report

    asyncio.run(raise_and_report(options, budget, usd, subject=subject, since=since, comment=comment, by=by))


@canary.command("list")
@takes_options
def list_canaries(options: Options) -> None:
    """List the canaries that calls have taken part in, and how they stand.

    ANSWERED and VALID are shares of the first calls of steps.
    """
    from perdure.commands.models.canary import print_canaries

    asyncio.run(print_canaries(options))


@canary.command("show")
@takes_options
def show_canary(options: Options, name: CanaryArgument) -> None:
    """Show both arms of a canary side by side, and how strong the evidence against it is.

    The arms are compared by the first calls of steps. A canary is rolled back when the evidence reaches what is needed.
    """
    from perdure.commands.models.canary import print_canary

    asyncio.run(print_canary(options, name))


@canary.command()
@takes_options
def promote(options: Options, name: CanaryArgument, *, comment: CommentOption = "", by: AsOption = None) -> None:
    """Have all runs do what a canary tries, until models.toml says so itself."""
    from perdure.commands.models.canary import decide_and_report

    asyncio.run(decide_and_report(options, name, "promoted", by=by, why=comment))


@canary.command()
@takes_options
def rollback(options: Options, name: CanaryArgument, *, comment: CommentOption = "", by: AsOption = None) -> None:
    """Have no run try a canary any more."""
    from perdure.commands.models.canary import decide_and_report

    asyncio.run(decide_and_report(options, name, "rolled back", by=by, why=comment))


@canary.command()
@takes_options
def reset(options: Options, name: CanaryArgument, *, comment: CommentOption = "", by: AsOption = None) -> None:
    """Begin a canary anew, with nothing counted, also one that was rolled back or promoted."""
    from perdure.commands.models.canary import decide_and_report

    asyncio.run(decide_and_report(options, name, "running", by=by, why=comment))


@routes.command("list")
@takes_options
def list_routes(options: Options) -> None:
    """List the tasks: the tiers they go to, how many answers were judged, and the learned escalation in force."""
    from perdure.commands.models.routes import print_routes

    asyncio.run(print_routes(options))


@routes.command("label")
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

    from perdure.commands.models.routes import label_and_report

    asyncio.run(label_and_report(options, call, correct=correct, file=file, by=by))


@routes.command()
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
    from perdure.commands.models.routes import print_evaluation

    asyncio.run(print_evaluation(options, task, quality))


@routes.command()
@takes_options
def learn(options: Options, task: TaskArgument, quality: TargetOption = 0.95, *, by: AsOption = None) -> None:
    """Learn when TASK is to ask its larger tier. It holds only if it beats the tier on questions kept aside.

    What was learned gets a version, and the newest decides for runs that begin from now on, if the task has `escalate =
    "learned"`. Where it is not better, the tier alone decides, also in place of an earlier version.
    """
    from perdure.commands.models.routes import learn_and_report

    asyncio.run(learn_and_report(options, task, quality, by=by))


def _time(given: str | None) -> datetime | None:
    if given is None:
        return None
    try:
        found = datetime.fromisoformat(given)
    except ValueError:
        raise InvalidInput(f"{given!r} is no date; write 2026-11-23, or 2026-11-23T09:30") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


app.add_typer(budgets, name="budgets")
app.add_typer(canary, name="canary")
app.add_typer(routes, name="routes")
