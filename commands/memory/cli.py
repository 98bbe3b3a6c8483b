"""`perdure memory`, as it is typed."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from perdure.commands.durations import parse_duration, parse_time
from perdure.commands.memory.scopes import optional_scope, required_scope
from perdure.commands.options import (
    AgentOption,
    Options,
    SessionOption,
    TenantOption,
    UnscheduleOption,
    UserOption,
    takes_options,
)
from perdure.commands.output import say
from perdure.commands.session import Session, run_with_session
from perdure.errors import InvalidInput

app = typer.Typer(
    help="See what agents know, and since when; forget, move and check it.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

AsOfOption = Annotated[
    datetime | None,
    typer.Option("--as-of", help="What was known then, e.g. 2026-11-17T09:00Z.", metavar="TIME", parser=parse_time),
]
IdArgument = Annotated[str, typer.Argument(help="The memory's id.", metavar="ID", show_default=False)]


class ForgetMode(StrEnum):
    """How a memory is forgotten."""

    expire = "expire"
    retract = "retract"
    erase = "erase"


@app.command()
@takes_options
def search(
    options: Options,
    query: Annotated[str, typer.Argument(help="What it should bear on.", metavar="QUERY", show_default=False)],
    *,
    user: UserOption = None,
    agent: AgentOption = None,
    session: SessionOption = None,
    tenant: TenantOption = "default",
    limit: Annotated[int, typer.Option("--limit", "-n", help="At most so many.", min=1, max=100, metavar="NUMBER")] = 5,
    as_of: AsOfOption = None,
    explain: Annotated[bool, typer.Option("--explain", help="Also say why each came: what every sign gave.")] = False,
) -> None:
    """Search memory, best first, now or as of then.

    The worker that owns the index is asked; where none does, the index is opened here.
    """
    from perdure.commands.memory.work import search as work

    asyncio.run(
        work(options, required_scope(tenant, agent, user, session), query, limit=limit, as_of=as_of, explain=explain)
    )


@app.command("list")
@takes_options
def list_memories(
    options: Options,
    *,
    user: UserOption = None,
    agent: AgentOption = None,
    session: SessionOption = None,
    tenant: TenantOption = "default",
    kind: Annotated[list[str] | None, typer.Option(help="Only of this kind; may be given again.", metavar="KIND")] = None,
    subject: Annotated[str | None, typer.Option(help="Only of this subject.", metavar="TEXT")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="At most so many.", min=1, metavar="NUMBER")] = 100,
    as_of: AsOfOption = None,
) -> None:
    """List what holds, in the order in which it was recorded."""
    from perdure.commands.memory.work import list_records as work

    scope = required_scope(tenant, agent, user, session)
    asyncio.run(work(options, scope, kinds=kind or [], subject=subject, limit=limit, as_of=as_of))


@app.command()
@takes_options
def show(
    options: Options,
    memory: IdArgument,
    *,
    user: UserOption = None,
    agent: AgentOption = None,
    session: SessionOption = None,
    tenant: TenantOption = "default",
    as_of: AsOfOption = None,
) -> None:
    """Show a memory: what it says, since when, and which step said so."""
    from perdure.commands.memory.work import show as work

    asyncio.run(work(options, required_scope(tenant, agent, user, session), memory, as_of=as_of))


@app.command()
@takes_options
def history(
    options: Options,
    memory: IdArgument,
    *,
    user: UserOption = None,
    agent: AgentOption = None,
    session: SessionOption = None,
    tenant: TenantOption = "default",
) -> None:
    """Show every version of a memory, also those that are over."""
    from perdure.commands.memory.work import history as work

    asyncio.run(work(options, required_scope(tenant, agent, user, session), memory))


@app.command()
@takes_options
def forget(
    options: Options,
    memory: Annotated[str | None, typer.Argument(help="The memory's id.", metavar="[ID]", show_default=False)] = None,
    *,
    how: Annotated[
        ForgetMode,
        typer.Option("--how", help="Its time is over, it was wrong, or every byte of it goes.", show_default=False),
    ],
    user: UserOption = None,
    agent: AgentOption = None,
    session: SessionOption = None,
    tenant: TenantOption = "default",
    subject: Annotated[str | None, typer.Option(help="Everything of this subject.", metavar="TEXT")] = None,
    everything: Annotated[bool, typer.Option("--everything", help="Everything in the scope.")] = False,
    narrower: Annotated[
        bool, typer.Option("--narrower", help="Also in scopes that name more: of a user, each session and agent.")
    ] = False,
    why: Annotated[str, typer.Option(help="Why; it goes into the receipt.", metavar="TEXT")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be forgotten.")] = False,
) -> None:
    """Forget memories: say that they are over or wrong, or erase them with all that was derived from them.

    What was expired or retracted can still be read as of then. What was erased is gone; a receipt without content stays.
    """
    from perdure.commands.memory.work import cli_step
    from perdure.commands.memory.work import forget as work
    from perdure.commands.session import terminal_user
    from perdure.memory.records.requests import ForgetCall

    if (memory is not None) + (subject is not None) + everything != 1:
        raise InvalidInput("say which: give the memory's ID, --subject or --everything")
    call = ForgetCall(
        step=cli_step("forget"),
        scope=required_scope(tenant, agent, user, session),
        how=how.value,
        memory_id=memory,
        subject=subject,
        everything=everything,
        narrower=narrower,
        why=why,
        by=terminal_user(),
        dry_run=dry_run,
    )
    asyncio.run(work(options, call))


@app.command()
@takes_options
def hold(
    options: Options,
    memory: Annotated[
        str | None, typer.Argument(help="The memory's id; none means all of the scope.", metavar="[ID]", show_default=False)
    ] = None,
    *,
    user: UserOption = None,
    agent: AgentOption = None,
    session: SessionOption = None,
    tenant: TenantOption = "default",
    release: Annotated[bool, typer.Option("--release", help="Lift the hold.")] = False,
) -> None:
    """Keep memories from being erased, by people and by sweeps, until the hold is lifted."""
    from perdure.commands.memory.work import hold as work

    asyncio.run(work(options, required_scope(tenant, agent, user, session), memory, held=not release))


@app.command()
@takes_options
def verify(
    options: Options,
    vectors: Annotated[
        bool, typer.Option("--vectors/--no-vectors", help="Also embed every text again and compare.")
    ] = True,
) -> None:
    """Compare the index with the database. Exit code 1 if anything differs."""
    from perdure.commands.memory.work import verify as work

    asyncio.run(work(options, vectors=vectors))


@app.command()
@takes_options
def reindex(options: Options) -> None:
    """Drop the index and fill it from the database; recalls wait meanwhile."""
    from perdure.commands.memory.work import reindex as work

    asyncio.run(work(options))


@app.command()
@takes_options
def stats(
    options: Options,
    *,
    user: UserOption = None,
    agent: AgentOption = None,
    session: SessionOption = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Of which tenant. Default: all.", metavar="NAME")] = None,
) -> None:
    """Count what is known and how it is used: hit rates, what was cited, what it cost."""
    from perdure.commands.memory.work import stats as work

    scope = optional_scope(tenant, agent, user, session)
    asyncio.run(work(options, scope, tenant))


@app.command("export")
@takes_options
def export(
    options: Options,
    *,
    user: UserOption = None,
    agent: AgentOption = None,
    session: SessionOption = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Of which tenant. Default: all.", metavar="NAME")] = None,
    erasures: Annotated[
        bool, typer.Option("--erasures", help="Only what was erased, without content: to keep beside backups.")
    ] = False,
) -> None:
    """Print memories with every version, source and receipt, for `import`: lines of JSON, or one list with -o json."""
    from perdure.commands.memory.work import export as work

    scope = optional_scope(tenant, agent, user, session)
    asyncio.run(work(options, scope, tenant, erasures=erasures))


@app.command("import")
@takes_options
def import_(
    options: Options,
    file: Annotated[Path, typer.Argument(help="What `export` printed.", exists=True, dir_okay=False, show_default=False)],
) -> None:
    """Write an export into this database: the same reads, also as of then.

    What was erased here stays erased, and what the export says was erased is erased here too.
    """
    from perdure.commands.memory.work import import_ as work

    asyncio.run(work(options, file))


@app.command()
@takes_options
def sweep(
    options: Options,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would go.")] = False,
    every: Annotated[
        timedelta | None,
        typer.Option(
            "--schedule",
            help="Do it from now on so often, on the worker, e.g. 1d; the first time at once.",
            metavar="EVERY",
            parser=parse_duration,
            show_default=False,
        ),
    ] = None,
    stop: UnscheduleOption = False,
) -> None:
    """Erase what has been over for longer than its retention class keeps it. A legal hold wins.

    `retention` in perdure.toml says how long each class keeps what is over; a class that is not named keeps it for ever.
    """

    async def work(session: Session) -> None:
        from perdure.commands.memory.work import sweep as sweep_on

        await sweep_on(session, options, dry_run=dry_run, every=every, stop=stop)

    run_with_session(work, options)


@app.command("serve-mcp")
@takes_options
def serve_mcp(
    options: Options,
    *,
    user: UserOption = None,
    agent: AgentOption = None,
    session: SessionOption = None,
    tenant: TenantOption = "default",
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", help="recall, remember or forget; may be given again. Default: recall.", metavar="VERB"),
    ] = None,
) -> None:
    """Serve this one scope's memory over MCP on stdin and stdout, for an agent outside of perdure.

    Where a worker owns the index, recalls go through it.
    """
    from perdure.commands.memory.work import serve_mcp as work
    from perdure.memory.mcp_server import VERBS

    verbs = frozenset(allow or ["recall"])
    if strange := verbs - VERBS:
        raise InvalidInput(f"--allow {min(strange)}: choose from {', '.join(sorted(VERBS))}")
    scope = required_scope(tenant, agent, user, session)
    say(f"serving {scope} on stdin and stdout: {', '.join(sorted(verbs))}")
    asyncio.run(work(options, scope, verbs))
