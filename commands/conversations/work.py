"""What `perdure conversation` does: read SQL, and have the owner of the index erase."""

from __future__ import annotations

from perdure.commands.memory.work import (
    answered,
    cli_step,
    print_forgotten,
    records,
    table,
)
from perdure.commands.options import Format, Options
from perdure.commands.output import (
    at,
    emit,
    emit_line,
    say,
)
from perdure.commands.runs.work import user
from perdure.commands.session import client_settings, named
from perdure.errors import NotFound
from perdure.memory.contracts import Scope
from perdure.memory.records.requests import ConversationsCall, EraseConversationsCall, MemoryRequest


async def list_conversations(options: Options, run: str | None, scope: Scope | None, *, narrower: bool, limit: int) -> None:
    """Print the conversations of RUN, of SCOPE, of both or all."""
    call = _which(options, run, None).model_copy(update={"scope": scope, "narrower": narrower, "limit": limit})
    async with records(client_settings()) as memory:
        found = await memory.conversations(call)
    if options.format is Format.json:
        emit([each.model_dump(mode="json") for each in found])
    elif options.format is Format.jsonl:
        for each in found:
            emit_line(each.model_dump(mode="json"))
    elif found:
        rows = [
            (
                *(f"{each.workflow_id}/{each.first_execution_run_id}", each.name, str(each.messages), at(each.begun_at)),
                *(
                    at(each.last_at),
                    f"erased {at(each.erased_at)}" if each.erased_at else "held" if each.legal_hold else "",
                ),
            )
            for each in found
        ]
        table(("RUN", "CONVERSATION", "MESSAGES", "BEGUN", "LAST", ""), rows)
    else:
        say("no conversation")


async def erase(options: Options, run: str, *, name: str | None, why: str, dry_run: bool) -> None:
    """Erase what RUN said. Raises `NotFound` if it has no conversation."""
    which = _which(options, run, name)
    async with records(client_settings()) as memory:
        if not await memory.conversations(which):
            raise NotFound(f"run {run!r} has said nothing that is kept; `perdure conversation list` shows who has")
    call = EraseConversationsCall.model_validate(
        {
            **which.model_dump(include={"workflow_id", "first_execution_run_id", "namespace", "name"}),
            "step": cli_step("erase"),
            "why": why,
            "by": user(),
            "dry_run": dry_run,
        }
    )
    answer = await answered(options, MemoryRequest(erase=call))
    assert answer.forgotten is not None
    print_forgotten(options, answer.forgotten)


async def hold(options: Options, run: str, *, name: str | None, held: bool) -> None:
    """Hold or release what RUN said. Raises `NotFound` if it has no conversation."""
    async with records(client_settings()) as memory:
        changed = await memory.hold_conversations(_which(options, run, name), held=held)
    if not changed.conversations:
        raise NotFound(f"run {run!r} has said nothing that is kept; `perdure conversation list` shows who has")
    if options.format is not Format.text:
        emit(changed.model_dump(mode="json"))
    say(f"{changed.conversations} conversations {'held' if held else 'released'}")


def _which(options: Options, run: str | None, name: str | None) -> ConversationsCall:
    workflow_id, run_id = named(run) if run is not None else (None, None)
    return ConversationsCall(workflow_id=workflow_id, first_execution_run_id=run_id, namespace=options.namespace, name=name)
