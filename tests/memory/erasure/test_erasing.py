"""Tests of forgetting: over, wrong or erased; what a hold keeps; and that not a byte of what was erased is left."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from kits.memory import ADA, Ask, Clock, Say
from kits.postgres_server import Postgres

from perdure import storage
from perdure.errors import InvalidInput, NotFound, OnHold
from perdure.lineage import Lineage, StepRef
from perdure.memory import (
    Memory,
    MiniLm,
    Scope,
    customer,
    open_memory,
)
from perdure.memory.contracts import Origin
from perdure.memory.conversations import Messages, Summary
from perdure.memory.conversations.contracts import ConversationRef, NewMessage
from perdure.memory.index import EdgeIndex
from perdure.memory.records.requests import EnforceRetention, ForgetCall, HoldCall
from perdure.memory.tables import ReceiptRow
from perdure.settings import Settings
from perdure.storage import Database, open_database

Forget = Callable[..., ForgetCall]
SECRET = "the wombat sleeps under the orangery"


@pytest.fixture
def to_forget(step: Callable[[str], StepRef]) -> Forget:
    """Return a call that forgets: of Ada, and by a step of its own, unless the test says otherwise."""

    def call(how: str, memory_id: str | None = None, **fields: object) -> ForgetCall:
        named = {"step": step(f"forget {how} {memory_id} {sorted(fields)}"), "scope": ADA, "memory_id": memory_id}
        return ForgetCall.model_validate({**named, "how": how, **fields})

    return call


@pytest.mark.parametrize("how", ["expire", "retract"])
async def test_what_is_over_stays_readable_as_of_then(
    memory: Memory, clock: Clock, to_remember: Say, to_recall: Ask, *, to_forget: Forget, how: str
) -> None:
    """What was expired or retracted is not recalled from then on; a read as of before gives exactly what it gave then."""
    await memory.remember(to_remember("Ada lives in Graz", memory_id="home"))
    then = clock.move(timedelta(hours=1))
    before = await memory.recall(to_recall("Where does Ada live?"))
    at = clock.move(timedelta(hours=1))
    done = await memory.forget(to_forget(how, "home"))
    again = await memory.forget(to_forget(how, "home"))
    clock.move(timedelta(hours=1))

    assert (1, 0) == (done.versions, again.versions)
    assert [] == (await memory.recall(to_recall("Where does Ada live?"))).texts
    assert before == await memory.recall(to_recall("Where does Ada live?", as_of=then))
    assert [(at, how)] == [(each.forgotten_at, each.forgotten_as) for each in await memory.history("home", ADA)]
    with pytest.raises(NotFound):
        await memory.get("home", ADA)


async def test_what_was_forgotten_can_be_said_anew(
    sqlite_memory: Memory, clock: Clock, to_remember: Say, to_forget: Forget
) -> None:
    """A memory that was retracted goes on with its next version."""
    await sqlite_memory.remember(to_remember("Ada lives in Graz", memory_id="home"))
    await sqlite_memory.forget(to_forget("retract", "home"))
    clock.move(timedelta(hours=1))
    written = await sqlite_memory.remember(to_remember("Ada lives in Wien", memory_id="home"))

    assert (2, "Ada lives in Wien") == (written.version, (await sqlite_memory.get("home", ADA)).content)


async def test_erased_is_nowhere(memory: Memory, database: Database, *, to_remember: Say, to_forget: Forget) -> None:
    """No table and no point knows an erased memory; the receipt says that something was erased, and nothing of it."""
    first = await memory.remember(to_remember(SECRET, memory_id="pet", subject="wombat", labels=("orangery",)))
    await memory.remember(to_remember(f"{SECRET} no more", memory_id="pet", subject="wombat"))
    kept = await memory.remember(to_remember("Ada lives in Graz"))
    done = await memory.forget(to_forget("erase", "pet", why="she asked", by="dpo"))

    assert (2, ("pet",), True) == (done.versions, done.memories, done.complete)
    assert [] == await memory.history("pet", ADA)
    verified = await memory.verify()
    assert (1, 1, True) == (verified.records, verified.points, verified.sound)
    assert "wombat" not in await _everything(database)
    async with database.read() as connection:
        [receipt] = (await connection.execute(sa.select(ReceiptRow))).all()
    assert (done.receipt, "she asked", "dpo", 1, 2) == (
        *(receipt.receipt_id, receipt.why, receipt.requested_by),
        *(receipt.memories, receipt.versions),
    )
    assert receipt.completed_at is not None
    assert first.memory_id != kept.memory_id


async def _everything(database: Database) -> str:
    tables = ["memory_record", "memory_source", "memory_derived", "memory_outbox", "memory_access", "memory_tombstone"]
    async with database.read() as connection:
        rows = [(await connection.execute(sa.text(f"SELECT * FROM {table}"))).all() for table in [*tables, "memory_key"]]
    return str(rows)


async def test_step_does_not_bring_back_what_was_erased(
    memory: Memory, to_remember: Say, to_recall: Ask, to_forget: Forget
) -> None:
    """A step that is retried after its memory was erased writes nothing; a new one begins with other ids."""
    call = to_remember(SECRET, memory_id="pet")
    first = await memory.remember(call)
    await memory.forget(to_forget("erase", "pet"))
    retried = await memory.remember(call)
    anew = await memory.remember(to_remember("Ada has a cat", memory_id="pet"))

    assert (True, "") == (retried.erased, retried.version_id)
    assert (1, True) == (anew.version, first.version_id != anew.version_id)
    assert ["Ada has a cat"] == (await memory.recall(to_recall("pets"))).texts


async def test_what_was_derived_goes_too(
    memory: Memory, clock: Clock, *, to_remember: Say, to_recall: Ask, to_forget: Forget
) -> None:
    """What was made from an erased memory is erased with it, over several hands; and nobody can derive from it later."""
    source = await memory.remember(to_remember(SECRET))
    derived = to_remember("Ada keeps marsupials", memory_id="animals", origin=Origin(derived_from=(source.version_id,)))
    summary = await memory.remember(derived)
    await memory.remember(to_remember("She loves them", origin=Origin(derived_from=(summary.version_id,))))
    await memory.remember(to_remember("Ada keeps cats", memory_id="animals"))
    then = clock.move(timedelta(hours=1))
    done = await memory.forget(to_forget("erase", source.memory_id))
    late = await memory.remember(to_remember("A wombat, I said", origin=Origin(derived_from=(source.version_id,))))

    assert (3, True) == (done.versions, late.erased)
    assert ["Ada keeps cats"] == (await memory.recall(to_recall("animals"))).texts
    assert [("", True), ("Ada keeps cats", False)] == [
        (each.content, each.erased_at is not None) for each in await memory.history("animals", ADA)
    ]
    assert ["Ada keeps cats"] == (await memory.recall(to_recall("animals", as_of=then))).texts


async def test_derived_from_nothing_is_refused(sqlite_memory: Memory, to_remember: Say) -> None:
    """A source that is of another tenant, or of nobody, is refused."""
    foreign = await sqlite_memory.remember(to_remember("x", scope=customer("ada", tenant="acme")))
    for strange in (foreign.version_id, "nothing"):
        with pytest.raises(InvalidInput, match="derived_from names"):
            await sqlite_memory.remember(to_remember("y", origin=Origin(derived_from=(strange,))))


async def test_erases_a_person(
    memory: Memory, *, to_remember: Say, to_recall: Ask, to_forget: Forget, database: Database, clock: Clock
) -> None:
    """Everything of a user goes, in each session and of each agent; other users' and tenants' stays."""
    scopes = [ADA, Scope(user="ada", session="s1"), Scope(user="ada", agent="triage")]
    others = [customer("grace"), customer("ada", tenant="acme")]
    for scope in scopes + others:
        await memory.remember(to_remember(SECRET, scope=scope))
    done = await memory.forget(to_forget("erase", everything=True, narrower=True))

    assert 3 == done.versions
    assert [0, 0, 0, 1, 1] == [
        len((await memory.recall(to_recall("wombat", scope=scope))).hits) for scope in scopes + others
    ]


async def test_hold_wins(
    memory: Memory, clock: Clock, *, to_remember: Say, to_forget: Forget, step: Callable[[str], StepRef]
) -> None:
    """Neither an erasure nor a sweep takes what is held, nor its next version; lifted, they do."""
    await memory.remember(to_remember("the contract", memory_id="a", ttl=timedelta(days=1)))
    await memory.remember(to_remember("Ada lives in Graz", memory_id="b"))
    await memory.hold(HoldCall(step=step("hold"), scope=ADA, memory_id="a"))
    await memory.remember(to_remember("the contract, signed", memory_id="a", ttl=timedelta(days=1)))
    with pytest.raises(OnHold, match="keeps 1 of what would be erased: 'a'"):
        await memory.forget(to_forget("erase", everything=True))
    clock.move(timedelta(days=60))
    swept = await memory.sweep(EnforceRetention())

    assert (0, 2) == (swept.versions, swept.held)
    assert [2, 1] == [len(await memory.history(name, ADA)) for name in "ab"]
    await memory.hold(HoldCall(step=step("lift"), scope=ADA, memory_id="a", held=False))
    assert 2 == (await memory.sweep(EnforceRetention())).versions


async def test_sweep_takes_what_is_over_for_long_enough(
    memory: Memory, clock: Clock, *, to_remember: Say, to_forget: Forget
) -> None:
    """A sweep erases what was over longer ago than its class says; the dry run before it lists just that."""
    await memory.remember(to_remember("a code", memory_id="code", ttl=timedelta(days=1)))
    await memory.remember(to_remember("a tax file", memory_id="tax", ttl=timedelta(days=1), retention="seven years"))
    await memory.remember(to_remember("Ada lives in Graz", memory_id="home"))
    await memory.remember(to_remember("a rumour", memory_id="rumour"))
    clock.move(timedelta(days=15))
    await memory.forget(to_forget("retract", "rumour"))
    early = await memory.sweep(EnforceRetention())
    clock.move(timedelta(days=20))
    dry = await memory.sweep(EnforceRetention(dry_run=True))
    swept = await memory.sweep(EnforceRetention())

    assert (0, ["code"], ["code"]) == (
        early.versions,
        [due.memory_id for due in dry.due],
        [due.memory_id for due in swept.due],
    )
    assert (True, 1, True) == (dry.dry_run, len(swept.receipts), swept.complete)
    assert [0, 1, 1, 1] == [len(await memory.history(name, ADA)) for name in ("code", "tax", "home", "rumour")]


async def test_sweep_takes_superseded_versions_if_asked_to(
    database: Database, index: EdgeIndex, embedder: MiniLm, clock: Clock, *, to_remember: Say, to_recall: Ask
) -> None:
    """A class may say how long versions are kept after a later one holds; what holds, and who holds it, stays as it is."""
    memory = Memory(database, index, embedder, clock=clock, retention={"standard/superseded": timedelta(days=100)})
    then = clock.now
    for place in ("Graz", "Wien", "Linz"):
        await memory.remember(to_remember(f"lives in {place}", memory_id="home"))
        await memory.remember(to_remember(f"paid tax in {place}", memory_id="tax", retention="tax"))
        at = clock.move(timedelta(days=60))
    dry = await memory.sweep(EnforceRetention(dry_run=True))
    swept = await memory.sweep(EnforceRetention())

    assert [("home", 1, then + timedelta(days=60))] == [(each.memory_id, each.version, each.ended_at) for each in dry.due]
    assert (1, 1) == (dry.versions, swept.versions)
    assert ["", "lives in Wien", "lives in Linz"] == [each.content for each in await memory.history("home", ADA)]
    assert 3 == len(await memory.history("tax", ADA))
    assert "lives in Linz" == (await memory.get("home", ADA)).content
    assert "lives in Wien" == (await memory.get("home", ADA, as_of=at - timedelta(days=70))).content
    assert ["paid tax in Graz"] == (await memory.recall(to_recall("lives", as_of=then))).texts


async def test_older_version_does_not_come_back_when_a_later_one_is_swept(
    memory: Memory, clock: Clock, to_remember: Say, to_recall: Ask
) -> None:
    """What was superseded stays superseded when the record that superseded it has been erased."""
    await memory.remember(to_remember("Ada lives in Graz", memory_id="home"))
    clock.move(timedelta(hours=1))
    await memory.remember(to_remember("Ada stays in Wien", memory_id="home", ttl=timedelta(days=1)))
    then = clock.move(timedelta(days=40))

    assert 1 == (await memory.sweep(EnforceRetention())).versions
    assert [] == (await memory.recall(to_recall("Where is Ada?"))).texts
    assert [] == (await memory.recall(to_recall("Where is Ada?", valid_at=then, known_at=clock.now))).texts


# Bytes


async def test_no_byte_is_left(
    tmp_path: Path, embedder: MiniLm, *, to_remember: Say, to_forget: Forget, to_recall: Ask
) -> None:
    """After an erasure no file of the home holds a byte of it: not the database, its log, the index or leftovers."""
    settings = Settings(home=tmp_path)
    async with open_database(settings.database) as database, open_memory(settings, database, embedder=embedder) as memory:
        for number in range(60):
            pet = f"{SECRET} {number} " + "wombat " * (number * 20)
            await memory.remember(to_remember(pet, memory_id=f"pet {number % 20}", step=_plain(number)))
            await memory.remember(to_remember(f"order {number} " + "lamp " * number * 7))
        assert _found(tmp_path)
        for number in range(20):
            done = await memory.forget(to_forget("erase", f"pet {number}"))
            assert done.complete

        assert [] == _found(tmp_path)
        assert 60 == len((await memory.recall(to_recall("order", limit=100))).hits)
    assert [] == _found(tmp_path)


def _plain(number: int) -> StepRef:
    return StepRef.model_validate(
        {
            "lineage": {"namespace": "default", "workflow_id": "bytes", "first_execution_run_id": "1"},
            "name": f"remember {number}",
        }
    )


def _found(home: Path) -> list[Path]:
    # Not in this process: closing a file of SQLite's here would drop the locks that SQLite holds on it.
    found = subprocess.run(["grep", "-rlF", "wombat", str(home)], capture_output=True, text=True, check=False)
    assert found.returncode in (0, 1), found.stderr
    return [Path(line) for line in found.stdout.splitlines()]


async def test_no_byte_of_a_conversation_is_left(
    tmp_path: Path, embedder: MiniLm, *, to_remember: Say, to_forget: Forget
) -> None:
    """After an erasure no file of the home holds a byte of what was said: not of messages, summaries or their traces."""
    settings = Settings(home=tmp_path)
    async with open_database(settings.database) as database, open_memory(settings, database, embedder=embedder) as memory:
        pet = await memory.remember(to_remember("Ada keeps an animal", memory_id="pet"))
        await _talk(Messages(database, len), pet.version_id)
        await _to_disk(database)
        assert _found(tmp_path)
        done = await memory.forget(to_forget("erase", "pet"))

        assert ((121, True), []) == ((done.messages, done.complete), _found(tmp_path))
    assert [] == _found(tmp_path)


async def _talk(messages: Messages, version_id: str) -> None:
    """Let sixty questions be answered with a record, at length, and be summed up."""
    run = Lineage(namespace="default", workflow_id="talk", first_execution_run_id="1")
    ref = ConversationRef(name="desk")
    for number in range(60):
        question = NewMessage(role="user", content=f"{SECRET} {number} " + "wombat " * (number * 20))
        answer = NewMessage(role="assistant", content={"say": f"{SECRET}? " + base64.b64encode(os.urandom(2000)).decode()})
        ref = await messages.append(run, ref, [question, answer], made_from=[version_id])
    [*_, last] = (await messages.window(ref, 1)).messages
    summary = Summary("summary", last.position, last.number, f"{SECRET} again", {})
    await messages.keep_summary(summary, ref, lineage=run)


async def _to_disk(database: Database) -> None:
    """Have the database write everything to its files."""
    async with database.read() as connection:
        alone = await connection.execution_options(isolation_level="AUTOCOMMIT")
        if not database.sqlite:
            await alone.execute(sa.text("ANALYZE"))
        await alone.execute(sa.text("PRAGMA wal_checkpoint(PASSIVE)" if database.sqlite else "CHECKPOINT"))


async def test_no_byte_is_left_in_tables_of_postgres(
    postgres: Postgres,
    postgres_database: Database,
    index: EdgeIndex,
    embedder: MiniLm,
    *,
    to_remember: Say,
    to_forget: Forget,
) -> None:
    """After an erasure no table, index, TOAST table or statistic of the server holds a byte of it.

    Its write-ahead log does, until its segments go: with `wal_recycle` off, at the next switch and checkpoint.
    """
    data = postgres.folder / "run/data"
    memory = Memory(postgres_database, index, embedder)
    for number in range(20):
        long = base64.b64encode(os.urandom(4000)).decode()
        pet = to_remember(f"{SECRET} {number} {long}", memory_id="pet", subject="wombat", step=_plain(number))
        await memory.remember(pet)
        await memory.remember(to_remember(f"order {number}"))
    [*_, last] = await memory.history("pet", ADA)
    await _talk(Messages(postgres_database, len), last.version_id)
    await _to_disk(postgres_database)
    assert {"base", "pg_wal"} == {path.relative_to(data).parts[0] for path in _found(data)}
    done = await memory.forget(to_forget("erase", "pet"))
    await _to_disk(postgres_database)

    assert (20, 121, True) == (done.versions, done.messages, done.complete)
    assert {"pg_wal"} == {path.relative_to(data).parts[0] for path in _found(data)}
    for _ in range(2):
        postgres.run("SELECT pg_switch_wal()")
        postgres.run("CHECKPOINT")
    assert [] == _found(data)


@pytest.mark.parametrize("where", ["another table", "the records"])
async def test_says_when_tables_could_not_be_cleaned(
    postgres: Postgres,
    postgres_database: Database,
    index: EdgeIndex,
    embedder: MiniLm,
    monkeypatch: pytest.MonkeyPatch,
    *,
    to_remember: Say,
    to_forget: Forget,
    where: str,
) -> None:
    """While an older transaction may still see it, PostgreSQL keeps it: the erasure says so, and is completed later."""
    monkeypatch.setattr(storage, "PATIENCE", 1)
    memory = Memory(postgres_database, index, embedder)
    await memory.remember(to_remember(SECRET, memory_id="pet"))
    await _to_disk(postgres_database)
    async with postgres_database.read() as reader:
        await reader.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        await reader.execute(sa.text(f"SELECT * FROM {'alembic_version' if where == 'another table' else 'memory_record'}"))
        done = await memory.forget(to_forget("erase", "pet"))
        unfinished = (await memory.verify()).unfinished

    assert (False, 1) == (done.complete, unfinished)
    assert await memory.finish_erasures()
    await _to_disk(postgres_database)
    assert [] == _found(postgres.folder / "run/data/base")


DIES_WHILE_ERASING = """
import asyncio, os, signal, sys
from pathlib import Path
from perdure.memory import Memory, MiniLm
from perdure.memory.index import EdgeIndex
from perdure.memory.records.requests import ForgetCall
from perdure.storage import Database

where = sys.argv[4]

class DyingDatabase(Database):
    async def transact(self, work):
        def dying(connection):
            done = work(connection)
            if where == "before the commit":
                os.kill(os.getpid(), signal.SIGKILL)
            return done
        return await super().transact(dying)

class DyingIndex(EdgeIndex):
    async def delete(self, version_ids):
        if where == "before the index":
            os.kill(os.getpid(), signal.SIGKILL)
        await super().delete(version_ids)

    async def scrub(self):
        if where == "before the files":
            os.kill(os.getpid(), signal.SIGKILL)
        await super().scrub()

async def main(url, folder, call, where):
    embedder = MiniLm()
    index = await DyingIndex.open(Path(folder), embedder)
    database = DyingDatabase(url)
    if where == "after the files":
        scrub = database.scrub
        async def scrub_and_die(*arguments, **named):
            await scrub(*arguments, **named)
            os.kill(os.getpid(), signal.SIGKILL)
        database.scrub = scrub_and_die
    if where == "after the index":
        async def die(*_, **__):
            os.kill(os.getpid(), signal.SIGKILL)
        database.scrub = die
    await Memory(database, index, embedder).forget(ForgetCall.model_validate_json(call))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "where", ["before the commit", "before the index", "before the files", "after the index", "after the files"]
)
async def test_kill_while_erasing_leaves_nothing(
    tmp_path: Path, embedder: MiniLm, *, to_remember: Say, to_forget: Forget, to_recall: Ask, where: str
) -> None:
    """An erasure whose process is killed is finished by the next one: nothing is recalled or said, no byte is left.

    If it was killed before it was written down, nothing is gone, and doing it again does it.
    """
    settings = Settings(home=tmp_path)
    async with open_database(settings.database) as database:
        async with open_memory(settings, database, embedder=embedder) as memory:
            pet = await memory.remember(to_remember(SECRET, memory_id="pet", step=_plain(1)))
            await memory.remember(to_remember("Ada lives in Graz"))
            await _talk(Messages(database, len), pet.version_id)
        forget = to_forget("erase", "pet")
        call = forget.model_dump_json()
        arguments = [database.url, str(settings.index_path), call, where]
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", DIES_WHILE_ERASING, *arguments)
        assert -signal.SIGKILL == await process.wait()

        async with open_memory(settings, database, embedder=embedder) as memory:
            assert (where == "before the commit") == bool(_found(tmp_path))
            again = await memory.forget(forget)
            assert (1, 121, True) == (again.versions, again.messages, again.complete)
            assert ["Ada lives in Graz"] == (await memory.recall(to_recall("wombat"))).texts
            assert (await memory.verify()).sound
            assert [] == _found(tmp_path)


async def test_says_when_files_could_not_be_cleaned(
    tmp_path: Path, embedder: MiniLm, *, to_remember: Say, to_forget: Forget
) -> None:
    """While another process reads, the log cannot be emptied: the erasure says so, and is completed later."""
    settings = Settings(home=tmp_path)
    async with open_database(settings.database) as database, open_memory(settings, database, embedder=embedder) as memory:
        await memory.remember(to_remember(SECRET, memory_id="pet", step=_plain(1)))
        reader = sqlite3.connect(tmp_path / "perdure.db", isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM memory_record").fetchall()
        done = await memory.forget(to_forget("erase", "pet"))
        unfinished = (await memory.verify()).unfinished
        reader.close()

        assert (False, 1) == (done.complete, unfinished)
        assert await memory.finish_erasures()
        assert [] == _found(tmp_path)


READS = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
print(connection.execute("SELECT COUNT(*) FROM memory_record").fetchone()[0])
connection.close()
"""


async def test_what_is_written_after_an_erasure_is_kept(
    sqlite_database: Database, sqlite_memory: Memory, tmp_path: Path, *, to_remember: Say, to_forget: Forget
) -> None:
    """An erasure leaves SQLite's locks in place: another process that comes and goes takes no write away."""

    async def counted() -> str:
        reads = [sys.executable, "-c", READS, str(tmp_path / "perdure.db")]
        process = await asyncio.create_subprocess_exec(*reads, stdout=asyncio.subprocess.PIPE)
        return (await process.communicate())[0].decode().strip()

    await sqlite_memory.remember(to_remember(SECRET, memory_id="pet"))
    await sqlite_memory.forget(to_forget("erase", "pet"))
    before = await counted()
    await sqlite_memory.remember(to_remember("Ada lives in Graz"))

    assert ("0", "1") == (before, await counted())


async def test_cache_lets_go(sqlite_database: Database, index: EdgeIndex, to_remember: Say, to_forget: Forget) -> None:
    """The embedder's cache of recent texts keeps nothing of what was erased."""
    embedder = MiniLm()
    memory = Memory(sqlite_database, index, embedder)
    await memory.remember(to_remember(SECRET, memory_id="pet"))
    held = SECRET in embedder._recent
    await memory.forget(to_forget("erase", "pet"))

    assert (True, False) == (held, SECRET in embedder._recent)
