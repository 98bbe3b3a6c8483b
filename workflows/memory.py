"""The steps that recall, write, change and forget what the agents know."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from pydantic import BaseModel
from temporalio import workflow
from temporalio.exceptions import ActivityError

from perdure.memory.contracts import (
    Kind,
    MemoryRecord,
    Origin,
    Recall,
    RecallCall,
    RememberCall,
    RememberResult,
    Scope,
)
from perdure.memory.records.requests import (
    ChangeCount,
    ConsolidateCall,
    FeedbackCall,
    ForgetCall,
    ForgetMode,
    ForgetResult,
    GetCall,
    GetResult,
    History,
    HistoryCall,
    ListCall,
    PinCall,
    RecordPage,
    UpdateCall,
)
from perdure.routing.contracts import ModelRecord
from perdure.workflows.call import LOOKUP_RETRIES, execute, one_line, raise_translated
from perdure.workflows.run import current_run

R = TypeVar("R", bound=BaseModel)


async def recall(
    query: str,
    *,
    scope: Scope,
    limit: int = 5,
    as_of: datetime | None = None,
    kinds: Sequence[Kind] = (),
    subject: str | None = None,
    since: datetime | None = None,
    before: datetime | None = None,
    recency: float = 0.0,
    importance: float = 0.0,
    explain: bool = False,
    name: str | None = None,
    summary: str | None = None,
) -> Recall:
    """Return up to LIMIT live memory records in SCOPE that bear on QUERY, best first, with the recall receipt.

    AS_OF asks what was known and held then. Of all records only those of KINDS, of exactly SUBJECT, and true SINCE or
    BEFORE a moment. RECENCY and IMPORTANCE are what a record of now, and one of importance 1, gets added to its score.
    With EXPLAIN each hit says why it came.
    A look-up without effect, so it runs as a local activity: one event instead of six.
    """
    run = current_run()
    run.list_it()
    step = run.step(name or "recall")
    summary = summary or f"Recall what is known of {_scope_name(scope)}"
    try:
        found: Recall = await workflow.execute_local_activity(
            "perdure.recall",
            activity_id=step.name,
            arg=RecallCall(
                step=step,
                query=query,
                scope=scope,
                limit=limit,
                as_of=as_of,
                kinds=tuple(kinds),
                subject=subject,
                since=since,
                before=before,
                recency=recency,
                importance=importance,
                explain=explain,
            ),
            result_type=Recall,
            summary=summary,
            start_to_close_timeout=timedelta(seconds=30),
            retry_policy=LOOKUP_RETRIES,
        )
    except ActivityError as error:
        raise_translated(error)
    run.note_done(f"{one_line(summary)}: {len(found.hits)} found")
    return found


async def remember(
    scope: Scope,
    content: str,
    *,
    kind: Kind = "episodic",
    subject: str | None = None,
    predicate: str | None = None,
    memory_id: str | None = None,
    ttl: timedelta | None = None,
    valid_from: datetime | None = None,
    valid_to: datetime | None = None,
    confidence: float | None = None,
    labels: Sequence[str] = (),
    retention: str = "standard",
    origin: Origin | None = None,
    made_by: ModelRecord | None = None,
    name: str | None = None,
    summary: str | None = None,
) -> RememberResult:
    """Write CONTENT to the memory of SCOPE; it expires after TTL. With MEMORY_ID it becomes that memory's next version.

    SUBJECT and PREDICATE name a fact that has one value at a time: what is written supersedes what was known of it. ORIGIN
    says where it comes from besides this step; MADE_BY is the `record` of the model's answer that it is.
    """
    step = current_run().step(name or "remember")
    call = RememberCall(
        step=step,
        scope=scope,
        content=content,
        kind=kind,
        subject=subject,
        predicate=predicate,
        memory_id=memory_id,
        ttl=ttl,
        valid_from=valid_from,
        valid_to=valid_to,
        confidence=confidence,
        labels=tuple(labels),
        retention=retention,
        origin=_stamp(origin, made_by),
    )
    return await _execute_step(
        "perdure.remember", call, RememberResult, step.name, summary or f"Remember something of {_scope_name(scope)}"
    )


async def get_memory(
    scope: Scope, memory_id: str, *, as_of: datetime | None = None, name: str | None = None, summary: str | None = None
) -> MemoryRecord | None:
    """Return what MEMORY_ID of SCOPE says now, or said AS_OF then; None if nothing holds."""
    step = current_run().step(name or "get memory")
    call = GetCall(step=step, scope=scope, memory_id=memory_id, as_of=as_of)
    summary = summary or f"Read a memory of {_scope_name(scope)}"
    return (await _execute_step("perdure.get_memory", call, GetResult, step.name, summary)).record


async def list_memories(
    scope: Scope,
    *,
    kinds: Sequence[Kind] = (),
    subject: str | None = None,
    predicate: str | None = None,
    label: str | None = None,
    as_of: datetime | None = None,
    limit: int = 100,
    after: str = "",
    name: str | None = None,
    summary: str | None = None,
) -> RecordPage:
    """Return a page of the records of SCOPE that hold, in the order they were recorded; AFTER is the `next` of the last."""
    step = current_run().step(name or "list memories")
    call = ListCall(
        step=step,
        scope=scope,
        kinds=tuple(kinds),
        subject=subject,
        predicate=predicate,
        label=label,
        as_of=as_of,
        limit=limit,
        after=after,
    )
    summary = summary or f"List memories of {_scope_name(scope)}"
    return await _execute_step("perdure.list_memories", call, RecordPage, step.name, summary)


async def memory_history(
    scope: Scope, memory_id: str, *, name: str | None = None, summary: str | None = None
) -> Sequence[MemoryRecord]:
    """Return every stored version of MEMORY_ID of SCOPE, oldest first, also those that are over."""
    step = current_run().step(name or "memory history")
    call = HistoryCall(step=step, scope=scope, memory_id=memory_id)
    summary = summary or f"Read the history of a memory of {_scope_name(scope)}"
    return (await _execute_step("perdure.memory_history", call, History, step.name, summary)).records


async def update_memory(
    scope: Scope,
    memory_id: str,
    *,
    content: str | None = None,
    labels: Sequence[str] | None = None,
    confidence: float | None = None,
    importance: float | None = None,
    ttl: timedelta | None = None,
    expected: int | None = None,
    origin: Origin | None = None,
    name: str | None = None,
    summary: str | None = None,
) -> RememberResult:
    """Write the next version of MEMORY_ID with what is given; the rest stays. EXPECTED is the version you read."""
    step = current_run().step(name or "update memory")
    call = UpdateCall(
        step=step,
        scope=scope,
        memory_id=memory_id,
        content=content,
        labels=None if labels is None else tuple(labels),
        confidence=confidence,
        importance=importance,
        ttl=ttl,
        expected=expected,
        origin=_stamp(origin),
    )
    summary = summary or f"Update a memory of {_scope_name(scope)}"
    return await _execute_step("perdure.update_memory", call, RememberResult, step.name, summary)


async def forget(
    scope: Scope,
    memory_id: str | None = None,
    *,
    how: ForgetMode,
    subject: str | None = None,
    everything: bool = False,
    narrower: bool = False,
    why: str = "",
    name: str | None = None,
    summary: str | None = None,
) -> ForgetResult:
    """Say that MEMORY_ID, what is known of SUBJECT, or EVERYTHING in SCOPE is over or wrong, or erase it to the last byte.

    Raises `OnHold` if a legal hold keeps what would be erased.
    """
    step = current_run().step(name or "forget")
    call = ForgetCall(
        step=step,
        scope=scope,
        how=how,
        memory_id=memory_id,
        subject=subject,
        everything=everything,
        narrower=narrower,
        why=why,
        by=step.workflow_type,
    )
    summary = summary or f"Forget ({how}) something of {_scope_name(scope)}"
    return await _execute_step("perdure.forget", call, ForgetResult, step.name, summary, timeout=timedelta(minutes=10))


async def feedback(
    recalled: Recall,
    *,
    cited: Sequence[str] | None = None,
    useful: int | None = None,
    name: str | None = None,
    summary: str | None = None,
) -> ChangeCount:
    """Say of RECALLED which `version_id` were CITED, the others were not, and how USEFUL it was: 1, 0 or -1."""
    versions = [hit.record.version_id for hit in recalled.hits]
    relied_on = set(cited or ())
    chosen = [("cited", True, [each for each in versions if each in relied_on])]
    chosen += [("not cited", False, [each for each in versions if each not in relied_on])]
    count = 0
    for suffix, was_cited, ids in chosen if cited is not None else [("", None, versions)]:
        if ids:
            step = current_run().step(" ".join(filter(None, (name or "feedback", suffix))))
            call = FeedbackCall(
                step=step, scope=recalled.receipt.scope, version_ids=tuple(ids), cited=was_cited, useful=useful
            )
            done = await _execute_step(
                "perdure.feedback", call, ChangeCount, step.name, summary or "Say what memories were good for"
            )
            count += done.count
    return ChangeCount(count=count)


async def pin(
    scope: Scope, memory_id: str, *, pinned: bool = True, name: str | None = None, summary: str | None = None
) -> ChangeCount:
    """Keep MEMORY_ID of SCOPE from being retired by a consolidation, or let it go again."""
    step = current_run().step(name or "pin")
    call = PinCall(step=step, scope=scope, memory_id=memory_id, pinned=pinned)
    summary = summary or f"{'Pin' if pinned else 'Unpin'} a memory of {_scope_name(scope)}"
    return await _execute_step("perdure.pin", call, ChangeCount, step.name, summary)


async def consolidate(
    scope: Scope,
    records: Sequence[MemoryRecord],
    content: str,
    *,
    kind: Kind = "semantic",
    subject: str | None = None,
    predicate: str | None = None,
    retire: bool = True,
    origin: Origin | None = None,
    name: str | None = None,
    summary: str | None = None,
) -> RememberResult:
    """Write CONTENT, which says what RECORDS say together, as one record derived from them; with RETIRE they expire."""
    step = current_run().step(name or "consolidate")
    call = ConsolidateCall(
        step=step,
        scope=scope,
        version_ids=tuple(record.version_id for record in records),
        content=content,
        kind=kind,
        subject=subject,
        predicate=predicate,
        retire=retire,
        origin=_stamp(origin),
    )
    summary = summary or f"Make one memory of {len(records)} of {_scope_name(scope)}"
    return await _execute_step("perdure.consolidate", call, RememberResult, step.name, summary)


def _stamp(origin: Origin | None, made_by: ModelRecord | None = None) -> Origin:
    """Return ORIGIN with the event of this run's history after which it was said, and the model it was MADE_BY."""
    known: dict[str, object] = {"event": workflow.info().get_current_history_length()}
    if made_by is not None:
        known |= {"model": made_by.model, "cost_nano_usd": made_by.usage.cost_nano_usd}
    return (origin or Origin()).model_copy(update=known)


async def _execute_step(
    activity: str, call: BaseModel, result: type[R], id: str, summary: str, *, timeout: timedelta = timedelta(seconds=60)
) -> R:
    return await execute(activity, call, result, id=id, summary=summary, timeout=timeout, retries=LOOKUP_RETRIES)


def _scope_name(scope: Scope) -> str:
    """Return SCOPE as a summary names it."""
    parts = scope.model_dump(exclude={"tenant"}, exclude_none=True)
    return ", ".join(f"{name} {value}" for name, value in parts.items())
