"""`perdure approval`: what people are asked, and what they say."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from perdure.commands.options import Format, Options, takes_options
from perdure.commands.output import (
    at,
    emit,
    emit_line,
    one_line,
    out,
    plain,
    say,
)
from perdure.commands.runs.show import RunArgument
from perdure.commands.session import Session, perform

app = typer.Typer(
    help="See what people are asked, and decide.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

NameArgument = Annotated[
    str | None,
    typer.Argument(
        help="The approval's name; needed only where the run waits for several.", metavar="[APPROVAL]", show_default=False
    ),
]
AsOption = Annotated[
    str | None,
    typer.Option("--as", help="Who decides. Default: the user of this terminal. Nobody verifies it.", metavar="NAME"),
]
DigestOption = Annotated[
    str | None,
    typer.Option(
        help="Decide only if this is the digest of what is asked, as `approval list -o json` and `show` print it.",
        metavar="SHA256",
        show_default=False,
    ),
]
CommentOption = Annotated[
    str,
    typer.Option(
        "--comment", "-c", help="Why; it goes to the run and into the history.", metavar="TEXT", show_default=False
    ),
]
WhyOption = Annotated[
    str, typer.Option("--comment", "-c", help="Why; needed, it goes to the run.", metavar="TEXT", show_default=False)
]


class Asked(StrEnum):
    """Which approvals to list."""

    open = "open"
    decided = "decided"
    expired = "expired"
    withdrawn = "withdrawn"
    all = "all"


@app.command("list")
@takes_options
def list_approvals(
    options: Options,
    state: Annotated[Asked, typer.Option("--state", "-s", help="Only those in this state.")] = Asked.open,
    of: Annotated[
        str | None, typer.Option(help="Only those that this role or person is asked.", metavar="WHO", show_default=False)
    ] = None,
) -> None:
    """List approvals across runs, the nearest deadline first."""

    async def work(session: Session) -> None:
        from perdure.commands.approvals.work import listed

        found = await listed(session, None if state is Asked.all else state.value, of)
        if options.format is Format.json:
            emit([each.model_dump(mode="json") for each in found])
        elif options.format is Format.jsonl:
            for each in found:
                emit_line(each)
        elif not found:
            say("nobody is asked anything" if state is Asked.open else f"no approvals are {state.value}")
        else:
            from rich.table import Table
            from rich.text import Text

            table = Table(box=None, pad_edge=False, header_style="dim")
            for name in ("RUN", "APPROVAL", "OF", "RISK", "UNTIL", "STATE", "QUESTION"):
                table.add_column(name, no_wrap=True, overflow="ellipsis")
            for each in found:
                stands = f"{each.verdict} by {each.by}" if each.verdict else each.state
                cells = (
                    each.workflow_id,
                    each.approval,
                    each.of,
                    each.risk,
                    at(each.deadline),
                    stands,
                    one_line(each.question),
                )
                table.add_row(*(Text(plain(cell)) for cell in cells))
            out().print(table)

    perform(work, options)


@app.command()
@takes_options
def show(options: Options, run: RunArgument, approval: NameArgument = None) -> None:
    """Show what is asked: the question, what it is about, until when, and the digest that a decision binds to."""

    async def work(session: Session) -> None:
        from perdure.commands.approvals.work import find_request

        found = await find_request(session, run, approval)
        if options.format is not Format.text:
            emit(found.model_dump(mode="json"))
            return
        request = found.request
        rows = [
            ("run", found.workflow_id),
            ("approval", request.approval),
            ("question", request.question),
            ("of", request.of),
            ("risk", request.risk),
            ("asked", at(request.asked_at)),
            ("until", at(request.deadline)),
            ("about", one_line(request.about)),
            ("digest", request.digest),
            ("state", "open" if found.decision is None and not found.ended else found.stands),
        ]
        for name, value in rows:
            typer.echo(plain(f"{name:9} {value}"))

    perform(work, options)


@app.command()
@takes_options
def approve(
    options: Options,
    run: RunArgument,
    approval: NameArgument = None,
    *,
    by: AsOption = None,
    comment: CommentOption = "",
    digest: DigestOption = None,
) -> None:
    """Approve what a run asks; the run goes on. Deciding twice the same does nothing more."""
    from perdure.commands.approvals.work import Said

    _decide(options, Said(run, approval, "approve", by, comment, digest))


@app.command()
@takes_options
def reject(
    options: Options,
    run: RunArgument,
    approval: NameArgument = None,
    *,
    by: AsOption = None,
    comment: WhyOption = "",
    digest: DigestOption = None,
) -> None:
    """Reject what a run asks."""
    from perdure.commands.approvals.work import Said

    _decide(options, Said(run, approval, "reject", by, comment, digest))


@app.command("request-changes")
@takes_options
def request_changes(
    options: Options,
    run: RunArgument,
    approval: NameArgument = None,
    *,
    by: AsOption = None,
    comment: WhyOption = "",
    digest: DigestOption = None,
) -> None:
    """Ask for changes before you decide; the run is told what to change."""
    from perdure.commands.approvals.work import Said

    _decide(options, Said(run, approval, "request changes", by, comment, digest))


def _decide(options: Options, said: object) -> None:
    from perdure.commands.approvals.work import Said, decide

    assert isinstance(said, Said)

    async def work(session: Session) -> None:
        decision = await decide(session, said)
        if options.format is not Format.text:
            emit({"workflow_id": said.workflow_id, **decision.model_dump(mode="json")})
            return
        note = "" if decision.verified else " (nobody verified that name)"
        say(f"{decision.verdict}: {said.workflow_id} {decision.approval}, by {decision.by}{note}")

    perform(work, options)
