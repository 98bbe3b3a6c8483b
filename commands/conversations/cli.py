"""`perdure conversation`, as it is typed."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from perdure.commands.memory.scopes import optional_scope
from perdure.commands.options import (
    AgentOption,
    Options,
    SessionOption,
    TenantOption,
    UserOption,
    takes_options,
)
from perdure.errors import InvalidInput

app = typer.Typer(
    help="See which conversations runs have had; erase and hold them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConversationRunArgument = Annotated[
    str,
    typer.Argument(
        help="The workflow's id, or WORKFLOW_ID/RUN_ID with the id of its first run.", metavar="RUN", show_default=False
    ),
]
NameOption = Annotated[str | None, typer.Option("--name", help="Only the conversation of this name.", metavar="NAME")]


@app.command("list")
@takes_options
def list_conversations(
    options: Options,
    run: Annotated[
        str | None, typer.Argument(help="Only of this run: WORKFLOW_ID or WORKFLOW_ID/RUN_ID.", metavar="[RUN]")
    ] = None,
    *,
    user: UserOption = None,
    agent: AgentOption = None,
    session: SessionOption = None,
    tenant: TenantOption = "default",
    narrower: Annotated[
        bool, typer.Option("--narrower", help="Also of scopes that name more: of a user, each session and agent.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", help="At most so many.", min=1, metavar="NUMBER")] = 100,
) -> None:
    """List conversations, the oldest first, without what was said in them.

    With a scope: those that an erasure of everything in it would take.
    """
    from perdure.commands.conversations.work import list_conversations as work

    scope = optional_scope(tenant, agent, user, session)
    if tenant != "default" and scope is None:
        raise InvalidInput("say whose: --user, --agent or --session; a tenant alone would be everyone in it")
    asyncio.run(work(options, run, scope, narrower=narrower, limit=limit))


@app.command()
@takes_options
def erase(
    options: Options,
    run: ConversationRunArgument,
    *,
    name: NameOption = None,
    why: Annotated[str, typer.Option(help="Why; it goes into the receipt.", metavar="TEXT")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be erased.")] = False,
) -> None:
    """Erase what a run said, to the last byte of the database. A receipt without content stays; a legal hold wins.

    A run that still goes on is told so at its next turn. `perdure memory forget --how erase` takes the conversations of a
    user along. With --namespace only runs of that namespace are meant.
    """
    from perdure.commands.conversations.work import erase as work

    asyncio.run(work(options, run, name=name, why=why, dry_run=dry_run))


@app.command()
@takes_options
def hold(
    options: Options,
    run: ConversationRunArgument,
    *,
    name: NameOption = None,
    release: Annotated[bool, typer.Option("--release", help="Lift the hold.")] = False,
) -> None:
    """Keep what a run said, and what it says from now on, from being erased, until the hold is lifted."""
    from perdure.commands.conversations.work import hold as work

    asyncio.run(work(options, run, name=name, held=not release))
