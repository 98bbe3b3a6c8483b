"""`perdure approval`, as it is typed."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.commands.options import AsOption, Options, RunArgument, takes_options
from perdure.commands.session import Session, run_with_session

if TYPE_CHECKING:
    from perdure.governance.contracts import Verdict

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


class ApprovalFilter(StrEnum):
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
    state: Annotated[ApprovalFilter, typer.Option("--state", "-s", help="Only those in this state.")] = ApprovalFilter.open,
    of: Annotated[
        str | None, typer.Option(help="Only those that this role or person is asked.", metavar="WHO", show_default=False)
    ] = None,
) -> None:
    """List approvals across runs, the nearest deadline first."""

    async def work(session: Session) -> None:
        from perdure.commands.approvals.work import print_approvals

        await print_approvals(session, options, None if state is ApprovalFilter.all else state.value, of)

    run_with_session(work, options)


@app.command()
@takes_options
def show(options: Options, run: RunArgument, approval: NameArgument = None) -> None:
    """Show what is asked: the question, what it is about, until when, and the digest that a decision binds to."""

    async def work(session: Session) -> None:
        from perdure.commands.approvals.work import print_request

        await print_request(session, options, run, approval)

    run_with_session(work, options)


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
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask again on a terminal. A --digest is not asked about either.")
    ] = False,
) -> None:
    """Approve what a run asks; the run goes on. Deciding twice the same does nothing more.

    What is approved is shown first; on a terminal you are asked whether to go on.
    """
    _decide(options, run, approval, "approve", by=by, comment=comment, digest=digest, confirmed=yes)


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
    _decide(options, run, approval, "reject", by=by, comment=comment, digest=digest)


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
    _decide(options, run, approval, "request changes", by=by, comment=comment, digest=digest)


def _decide(
    options: Options,
    run: str,
    approval: str | None,
    verdict: Verdict,
    *,
    by: str | None,
    comment: str,
    digest: str | None,
    confirmed: bool = True,
) -> None:
    async def work(session: Session) -> None:
        from perdure.commands.approvals.work import DecisionInput, decide_and_report

        await decide_and_report(session, options, DecisionInput(run, approval, verdict, by, comment, digest, confirmed))

    run_with_session(work, options)
