"""What `perdure conversation` does: read SQL, and have the owner of the index erase."""

from __future__ import annotations

from perdure.commands.memory.work import ask_index_owner, cli_step, open_records, print_forgotten
from perdure.commands.options import Format, Options
from perdure.commands.output import Column, emit, emit_rows, format_time, is_narrow, say, table
from perdure.commands.session import client_settings, parse_run, terminal_user
from perdure.errors import NotFound
from perdure.memory.contracts import Scope
from perdure.memory.records.requests import ConversationsCall, EraseConversationsCall, MemoryRequest

_COLUMNS = (
    "RUN",
    Column("CONVERSATION", drop=2),
    Column("MESSAGES", right=True, drop=3),
    Column("BEGUN", drop=4),
    Column("LAST", drop=1),
    "STATE",
)


async def list_conversations(options: Options, run: str | None, scope: Scope | None, *, narrower: bool, limit: int) -> None:
    """Print the conversations of RUN, of SCOPE, of both or all."""
    call = _which(options, run, None).model_copy(update={"scope": scope, "narrower": narrower, "limit": limit})
    async with open_records(client_settings()) as memory:
        found = await memory.conversations(call)
    if options.format is not Format.text:
        emit_rows(options.format, [each.model_dump(mode="json") for each in found])
        return
    if not found:
        say("no conversation is kept")
        return
    short = is_narrow()
    rows = [
        (
            f"{each.workflow_id}/{each.first_execution_run_id}",
            each.name,
            str(each.messages),
            format_time(each.begun_at, short=short),
            format_time(each.last_at, short=short),
            f"erased {format_time(each.erased_at, short=short)}" if each.erased_at else "held" if each.legal_hold else "",
        )
        for each in found
    ]
    table(_COLUMNS, rows)


async def erase(options: Options, run: str, *, name: str | None, why: str, dry_run: bool) -> None:
    """Erase what RUN said. Raises `NotFound` if it has no conversation."""
    which = _which(options, run, name)
    async with open_records(client_settings()) as memory:
        if not await memory.conversations(which):
            raise NotFound(f"run {run!r} has said nothing that is kept; `perdure conversation list` shows who has")
    call = EraseConversationsCall.model_validate(
        {
            **which.model_dump(include={"workflow_id", "first_execution_run_id", "namespace", "name"}),
            "step": cli_step("erase"),
            "why": why,
            "by": terminal_user(),
            "dry_run": dry_run,
        }
    )
    answer = await ask_index_owner(options, MemoryRequest(erase=call))
    assert answer.forgotten is not None
    print_forgotten(options, answer.forgotten)


async def hold(options: Options, run: str, *, name: str | None, held: bool) -> None:
    """Hold or release what RUN said. Raises `NotFound` if it has no conversation."""
    async with open_records(client_settings()) as memory:
        changed = await memory.hold_conversations(_which(options, run, name), held=held)
    if not changed.conversations:
        raise NotFound(f"run {run!r} has said nothing that is kept; `perdure conversation list` shows who has")
    if options.format is not Format.text:
        emit(changed.model_dump(mode="json"))
    say(f"{changed.conversations} conversations {'held' if held else 'released'}")


def _which(options: Options, run: str | None, name: str | None) -> ConversationsCall:
    workflow_id, run_id = parse_run(run) if run is not None else (None, None)
    return ConversationsCall(workflow_id=workflow_id, first_execution_run_id=run_id, namespace=options.namespace, name=name)
