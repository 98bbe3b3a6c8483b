"""What `perdure memory` does: read SQL, and ask the worker, or open the index here, for what needs the index."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast

import typer

from perdure.commands.exits import Exit
from perdure.commands.on_worker import run_on_worker
from perdure.commands.options import Format, Options
from perdure.commands.output import (
    Column,
    emit,
    emit_rows,
    format_time,
    format_usd,
    one_line,
    printable,
    say,
    table,
)
from perdure.commands.scheduling import schedule_on_worker
from perdure.commands.session import client_settings, open_session, terminal_user
from perdure.errors import IndexOwned, NotFound
from perdure.lineage import Lineage, StepRef
from perdure.memory.contracts import (
    Kind,
    MemoryRecord,
    RecallCall,
    RecallHit,
    Scope,
)
from perdure.memory.records.requests import (
    EnforceRetention,
    ExplainedReceipt,
    ForgetCall,
    ForgetResult,
    HoldCall,
    IndexReport,
    ListCall,
    MemoryAnswer,
    MemoryRequest,
    ReindexCall,
    RetentionReport,
    StatsCall,
    VerifyCall,
)

if TYPE_CHECKING:
    from perdure.commands.session import Session
    from perdure.memory.store import Memory
    from perdure.routing.load import Routes
    from perdure.settings import Settings


RECALL_PATIENCE = timedelta(seconds=30)
"""How long the worker may take over a recall that another process asks for."""


async def search(options: Options, scope: Scope, query: str, *, limit: int, as_of: datetime | None, explain: bool) -> None:
    """Print what bears on QUERY; EXPLAIN adds why. What the records say is read here, so that no history holds it."""
    call = RecallCall(step=cli_step("search"), query=query, scope=scope, limit=limit, as_of=as_of, explain=explain)
    async with _open_recall(options) as memory:
        hits = (await memory.recall(call)).hits
    if options.format is not Format.text or not hits:
        _print(options, [hit.model_dump(mode="json") for hit in hits], "nothing bears on it")
        return
    why = (Column("WHY", least=16, drop=1),) if explain else ()
    columns = (Column("SCORE", right=True), "MEMORY", Column("RECORDED", drop=2), *why, Column("SAYS", least=20))
    rows = []
    for hit in hits:
        name, recorded, content = _row(hit.record)
        rows.append((f"{hit.score:.3f}", name, recorded, *((_why(hit),) if explain else ()), content))
    table(columns, rows)


def _why(hit: RecallHit) -> str:
    if hit.why is None:
        return ""
    signs = {name: value for name, value in hit.why if isinstance(value, float) and round(value, 2)}
    said = [f"{name.replace('_', ' ')} {value:+.2f}" for name, value in signs.items()]
    said += [f"about {', '.join(hit.why.subjects)}"] if hit.why.subjects else []
    said += [f"{len(hit.why.duplicates)} that say the same"] if hit.why.duplicates else []
    return ", ".join(said)


async def list_records(
    options: Options, scope: Scope, *, kinds: Sequence[str], subject: str | None, limit: int, as_of: datetime | None
) -> None:
    """Print the records of SCOPE that hold."""
    call = ListCall.model_validate(
        {
            "step": cli_step("list"),
            "scope": scope,
            "kinds": tuple(cast("Sequence[Kind]", kinds)),
            "subject": subject,
            "as_of": as_of,
            "limit": min(limit, 1000),
        }
    )
    async with open_records(client_settings()) as memory:
        listed = await memory.list(call)
    _print_records(options, listed.records, "nothing is known")


async def show(options: Options, scope: Scope, memory_id: str, *, as_of: datetime | None) -> None:
    """Print one memory with its provenance."""
    async with open_records(client_settings()) as memory:
        record = await memory.get(memory_id, scope, as_of=as_of)
    if options.format is not Format.text:
        emit(record.model_dump(mode="json"))
        return
    typer.echo(printable(record.content))
    facts = [
        ("memory", f"{record.memory_id} v{record.version}, {record.kind}, of {record.scope}"),
        ("fact", f"{record.subject}: {record.predicate}" if record.predicate else record.subject or ""),
        ("recorded", format_time(record.recorded_at)),
        ("valid", f"{format_time(record.valid_from)} - {format_time(record.valid_to) or 'open'}"),
        ("expires", format_time(record.expires_at)),
        ("labels", ", ".join(record.labels)),
        ("confidence", "" if record.confidence is None else f"{record.confidence:.2f}"),
        ("retention", record.retention),
        ("source", record.source),
    ]
    if record.provenance is not None:
        origin = record.provenance
        facts += [
            ("by", ", ".join(filter(None, (origin.actor, origin.step.workflow_type)))),
            ("model", f"{origin.model} {format_usd(origin.cost_nano_usd)}" if origin.model else ""),
            ("document", origin.uri),
            ("made from", ", ".join(origin.derived_from)),
        ]
    for name, fact in facts:
        if fact:
            typer.echo(printable(f"  {name:11}{one_line(fact)}"))


async def history(options: Options, scope: Scope, memory_id: str) -> None:
    """Print every version of a memory. Raises `NotFound` if there is none."""
    async with open_records(client_settings()) as memory:
        versions = await memory.history(memory_id, scope)
    if not versions:
        raise NotFound(f"no memory {memory_id!r} in scope {scope}; `perdure memory list` shows what there is")
    _print_records(options, versions, "")


async def forget(options: Options, call: ForgetCall) -> None:
    """Forget, and print what was."""
    answer = await ask_index_owner(options, MemoryRequest(forget=call))
    assert answer.forgotten is not None
    print_forgotten(options, answer.forgotten)


def print_forgotten(options: Options, done: ForgetResult) -> None:
    """Print what was forgotten."""
    if options.format is not Format.text:
        emit(done.model_dump(mode="json"))
    else:
        for named in (*done.memories, *done.conversations):
            typer.echo(printable(named))
    verb = {"expire": "expired", "retract": "retracted", "erase": "erased"}[done.how]
    would = "would be " if done.dry_run else ""
    said = f" and {done.messages} messages of conversations" if done.messages else ""
    say(f"{done.versions} versions{said} {would}{verb}" + (f", receipt {done.receipt}" if done.receipt else ""))
    if not done.complete:
        say("files may still hold bytes of it, for another process reads the database; the worker goes on trying")


async def hold(options: Options, scope: Scope, memory_id: str | None, *, held: bool) -> None:
    """Hold or release, and say how much."""
    async with open_records(client_settings()) as memory:
        call = HoldCall(step=cli_step("hold"), scope=scope, memory_id=memory_id, held=held)
        changed = await memory.hold(call)
    if options.format is not Format.text:
        emit(changed.model_dump(mode="json"))
    talks = f" and {changed.conversations} conversations" if changed.conversations else ""
    say(f"{changed.count} versions{talks} {'held' if held else 'released'}")


async def verify(options: Options, *, vectors: bool) -> None:
    """Compare index and SQL, print how they differ, and end with 1 if they do."""
    answer = await ask_index_owner(options, MemoryRequest(verify=VerifyCall(vectors=vectors)))
    assert answer.verified is not None
    verified = answer.verified
    if options.format is Format.text:
        _print_verified(verified)
    else:
        emit(verified.model_dump(mode="json") | {"sound": verified.sound})
    if not verified.sound:
        raise typer.Exit(Exit.ERROR)


async def reindex(options: Options) -> None:
    """Fill the index anew and say how much it holds."""
    answer = await ask_index_owner(options, MemoryRequest(reindex=ReindexCall()))
    assert answer.reindexed is not None
    if options.format is not Format.text:
        emit(answer.reindexed.model_dump(mode="json"))
    say(f"the index holds {answer.reindexed.count} versions")


async def stats(options: Options, scope: Scope | None, tenant: str | None) -> None:
    """Print how much is known and used."""
    async with open_records(client_settings()) as memory:
        counted = await memory.stats(StatsCall(scope=scope, tenant=tenant))
    if options.format is not Format.text:
        emit(counted.model_dump(mode="json") | {"hit_rate": counted.hit_rate})
        return
    kinds = ", ".join(f"{count} {kind}" for kind, count in counted.by_kind.items())
    typer.echo(f"memories   {counted.memories}, {counted.versions} versions, {counted.live} hold now: {kinds or 'none'}")
    typer.echo(f"held       {counted.held}; erased, times left: {counted.erased}; waiting for the index: {counted.waiting}")
    typer.echo(f"recalls    {counted.recalls}, {counted.hit_rate:.0%} found something, {counted.returned} records returned")
    typer.echo(f"cited      {counted.cited} of {counted.judged} that somebody judged")
    typer.echo(f"cost       {format_usd(counted.cost_nano_usd)} to come to know it")
    if counted.most_used:
        rows = [
            (each.memory_id, str(each.recalls), str(each.runs), str(each.cited), format_usd(round(each.cost_per_recall)))
            for each in counted.most_used
        ]
        numbers = (Column(name, right=True) for name in ("RECALLS", "RUNS", "CITED", "COST A RECALL"))
        table(("MOST USED", *numbers), rows)


async def export(options: Options, scope: Scope | None, tenant: str | None, *, erasures: bool) -> None:
    """Print an export: a line of JSON for each thing, or one JSON list."""
    one_list, count = options.format is Format.json, 0
    async with open_records(client_settings()) as memory:
        async for line in memory.export(scope=scope, tenant=tenant, erasures=erasures):
            typer.echo(f"{',' if count else '['}{line}" if one_list else line)
            count += 1
    if one_list:
        typer.echo("]" if count else "[]")


async def import_(options: Options, file: Path) -> None:
    """Write the export in FILE, and say how many versions were new, and how many it had erased here."""
    async with open_records(client_settings()) as memory:
        with file.open(encoding="utf-8") as lines:
            done = await memory.restore(_without_brackets(lines))
    if options.format is not Format.text:
        emit({"added": done.added, "erased": done.erased})
    erased = f", {done.erased} erased, as the export says" if done.erased else ""
    say(f"{done.added} versions added{erased}; the worker's next recall puts that in the index")


def _without_brackets(lines: Iterable[str]) -> Iterator[str]:
    """Yield LINES of an export, also of one that `export -o json` printed as a list."""
    for line in lines:
        text = line.strip()
        # No thing in an export is a list, so only the list around them begins and ends so.
        text = text[1:] if text[:1] in ("[", ",") else text
        if text not in ("", "]"):
            yield text


async def sweep(session: Session, options: Options, *, dry_run: bool, every: timedelta | None, stop: bool) -> None:
    """Sweep once, or on a schedule."""
    if every is not None or stop:
        await schedule_on_worker(session, "perdure.sweep_memory", "memory", EnforceRetention(), every, stop=stop)
        return
    swept = await run_on_worker(
        session, "perdure.sweep_memory", "memory", EnforceRetention(dry_run=dry_run), RetentionReport
    )
    if options.format is not Format.text:
        emit(swept.model_dump(mode="json"))
    elif swept.due:
        rows = [(each.memory_id, f"v{each.version}", each.retention, format_time(each.ended_at)) for each in swept.due]
        table(("MEMORY", "VERSION", Column("RETENTION", drop=1), "OVER SINCE"), rows)
    say(f"{swept.versions} versions {'would be erased' if dry_run else 'erased'}, {swept.held} held")


async def serve_mcp(options: Options, scope: Scope, verbs: frozenset[str]) -> None:
    """Serve SCOPE over MCP until stdin ends."""
    from perdure.memory.mcp_server import mcp_server

    async with _open_recall(options) as memory:
        await mcp_server(memory, scope, verbs).run_stdio_async()


def cli_step(verb: str) -> StepRef:
    """Return who asks: this command, now, as the user of this terminal."""
    moment = datetime.now(UTC).isoformat()
    lineage = Lineage(namespace="cli", workflow_id=f"perdure memory {verb}", first_execution_run_id=moment)
    return StepRef(lineage=lineage, name=terminal_user())


async def ask_index_owner(options: Options, request: MemoryRequest) -> MemoryAnswer:
    """Return what the owner of the index answers to REQUEST: this process if nobody else is, else the worker."""
    async with AsyncExitStack() as stack:
        memory = await _open_index(stack, client_settings())
        if memory is not None:
            return await _answer(memory, request)
        session = await stack.enter_async_context(open_session(options))
        return await run_on_worker(session, "perdure.memory_request", "memory", request, MemoryAnswer)


@asynccontextmanager
async def _open_recall(options: Options) -> AsyncIterator[Memory]:
    """Yield a memory that can recall: with the index if nobody owns it, else by way of the worker."""
    from perdure.memory.unindexed import records_only
    from perdure.storage import open_database

    settings = client_settings()
    async with AsyncExitStack() as stack:
        memory = await _open_index(stack, settings)
        if memory is None:
            session = await stack.enter_async_context(open_session(options))

            async def find(call: RecallCall) -> ExplainedReceipt:
                request = MemoryRequest(find=call)
                answer = await run_on_worker(
                    session, "perdure.memory_request", "memory", request, MemoryAnswer, patience=RECALL_PATIENCE
                )
                assert answer.found is not None
                return answer.found

            database = await stack.enter_async_context(open_database(settings.database))
            memory = records_only(database, find=find)
        yield memory


async def _open_index(stack: AsyncExitStack, settings: Settings) -> Memory | None:
    """Open the index for as long as STACK lasts; None if another process has it, or if it is not here."""
    from perdure.activities.embedders import embedder_loader
    from perdure.memory.opening import open_memory
    from perdure.storage import open_database

    if not settings.index_url and not settings.index_path.is_dir() and not _all_is_here(settings):
        return None
    database = await stack.enter_async_context(open_database(settings.database))
    try:
        load = embedder_loader(database, lambda: _routes(settings))
        return await stack.enter_async_context(open_memory(settings, database, load=load))
    except IndexOwned:
        return None


def _routes(settings: Settings) -> Routes:
    from perdure.routing.load import load_routes, own_files
    from perdure.routing.routes import SHIPPED

    return load_routes([*own_files(settings.models), SHIPPED])


def _all_is_here(settings: Settings) -> bool:
    """Say whether the database lies in the home as well, so that whoever owns an index of it has it here."""
    from sqlalchemy import make_url

    url = make_url(settings.database)
    file = url.database if url.get_backend_name() == "sqlite" else None
    return file is not None and Path(file).is_file() and Path(file).resolve().parent == settings.home.resolve()


async def _answer(memory: Memory, request: MemoryRequest) -> MemoryAnswer:
    from perdure.memory.records.requests import ChangeCount

    if request.forget is not None:
        return MemoryAnswer(forgotten=await memory.forget(request.forget))
    if request.erase is not None:
        return MemoryAnswer(forgotten=await memory.erase_conversations(request.erase))
    if request.verify is not None:
        return MemoryAnswer(verified=await memory.verify(request.verify))
    return MemoryAnswer(reindexed=ChangeCount(count=await memory.reindex()))


@asynccontextmanager
async def open_records(settings: Settings) -> AsyncIterator[Memory]:
    """Yield a memory that reads and writes SQL alone."""
    from perdure.memory.unindexed import records_only
    from perdure.storage import open_database

    async with open_database(settings.database) as database:
        yield records_only(database)


def _print_verified(verified: IndexReport) -> None:
    typer.echo(f"{verified.records} records, {verified.points} points, {verified.waiting} changes on their way")
    named = {
        "missing in the index": verified.missing,
        "in the index only": verified.extra,
        "in the index for another scope or time": verified.misplaced,
        "in the index with another vector": verified.misread,
        "changed in the database": verified.damaged,
    }
    for what, ids in named.items():
        for version_id in ids:
            typer.echo(printable(f"  {version_id}  {what}"))
    if verified.unfinished:
        say(f"{verified.unfinished} erasures may have left bytes in files; the worker goes on at its next start or sweep")
    say("they agree" if verified.sound else f"{verified.divergent} differ; `perdure memory reindex` fills the index anew")


def _print_records(options: Options, records: Sequence[MemoryRecord], nothing: str) -> None:
    if options.format is not Format.text or not records:
        _print(options, [each.model_dump(mode="json") for each in records], nothing)
        return
    rows = []
    for each in records:
        name, recorded, content = _row(each)
        rows.append((name, recorded, _end(each), content))
    table(("MEMORY", Column("RECORDED", drop=2), Column("ENDED", drop=1), Column("SAYS", least=20)), rows)


def _print(options: Options, found: Sequence[object], nothing: str) -> None:
    if options.format is Format.text:
        say(nothing)
    else:
        emit_rows(options.format, found)


def _row(record: MemoryRecord) -> tuple[str, str, str]:
    return (
        f"{record.memory_id} v{record.version}",
        format_time(record.recorded_at),
        one_line(record.content, 80) or "(erased)",
    )


def _end(record: MemoryRecord) -> str:
    ends = {
        "erased": record.erased_at,
        record.forgotten_as or "forgotten": record.forgotten_at,
        "superseded": record.superseded_at,
        "expires": record.expires_at,
    }
    return next((f"{name} {format_time(end)}" for name, end in ends.items() if end is not None), "")
