"""Tests of `storage.GroupCommit`: writes that come at the same time share a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest
import sqlalchemy as sa

from perdure.storage import AdvisoryLock, Database, GroupCommit


@pytest.fixture
async def notes(database: Database) -> Database:
    """A database with a table of notes."""
    async with database.write() as connection:
        await connection.execute(sa.text("CREATE TABLE note (text VARCHAR PRIMARY KEY)"))
    return database


async def test_what_comes_during_a_commit_shares_the_next(notes: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is a transaction of its own, at once; all that comes during it are one."""
    transactions = 0
    transact = notes.transact

    async def counted(work: Callable[[sa.Connection], object]) -> object:
        nonlocal transactions
        transactions += 1
        return await transact(work)

    monkeypatch.setattr(notes, "transact", counted)
    commits = GroupCommit(notes)

    await asyncio.gather(*(commits.run(_write(f"note {number}")) for number in range(50)))

    assert 50 == len(await _notes(notes))
    assert transactions == 1


async def test_alone_it_is_a_transaction_at_once(notes: Database) -> None:
    """What comes alone is committed when its caller goes on, and its result is the caller's."""
    commits = GroupCommit(notes)

    written = [await commits.run(_write("one")), await commits.run(_write("two"))]

    assert ["one", "two"] == written == await _notes(notes)


async def test_a_refused_write_takes_no_other_along(notes: Database) -> None:
    """Who writes what the database refuses gets the error; what shared its transaction is written."""
    commits = GroupCommit(notes)
    await commits.run(_write("there already"))

    texts = ("new", "there already", "newer")
    outcomes = await asyncio.gather(*(commits.run(_write(text)) for text in texts), return_exceptions=True)

    assert ["new", sa.exc.IntegrityError, "newer"] == [
        outcome if isinstance(outcome, str) else type(outcome) for outcome in outcomes
    ]
    assert ["new", "newer", "there already"] == await _notes(notes)


async def test_rows_come_in_the_order_of_their_keys(notes: Database) -> None:
    """Two processes that write the same rows never wait for each other in a circle: each takes them by key."""
    commits = GroupCommit(notes)
    order: list[str] = []

    def write(key: str) -> Callable[[sa.Connection], None]:
        return lambda _: order.append(key)

    await asyncio.gather(*(commits.run(write(key), key=key) for key in ("c", "a", "b")))

    assert ["a", "b", "c"] == order


async def test_what_goes_with_the_rows_is_in_their_transaction(notes: Database) -> None:
    """What is written in the end for all of a transaction fails together with it."""

    def refuse(_connection: sa.Connection, results: Sequence[object]) -> None:
        raise RuntimeError(f"no event for {results}")

    commits = GroupCommit(notes, finish=refuse)

    with pytest.raises(RuntimeError, match=r"no event for \['one'\]"):
        await commits.run(_write("one"))

    assert [] == await _notes(notes)


async def test_who_was_cancelled_leaves_the_others_their_results(notes: Database) -> None:
    """A caller that is cancelled has its work done or not; the others hear of theirs."""
    commits = GroupCommit(notes)
    gone = asyncio.create_task(commits.run(_write("from one that left")))
    stays = asyncio.create_task(commits.run(_write("from one that stays")))
    await asyncio.sleep(0)

    gone.cancel()
    with suppress(asyncio.CancelledError):
        await gone

    assert "from one that stays" == await stays
    assert "from one that stays" in await _notes(notes)


async def test_exclusive_work_is_done_by_one_process_at_a_time(notes: Database) -> None:
    """What counts and then writes never counts the same in two processes, so no number is given twice."""
    processes = [GroupCommit(notes, lock=AdvisoryLock.MODEL_CALLS) for _ in range(4)]

    def count_and_write(connection: sa.Connection) -> None:
        count = connection.execute(sa.text("SELECT count(*) FROM note")).scalar_one()
        connection.execute(sa.text("INSERT INTO note VALUES (:text)"), {"text": f"{count:03}"})

    async def work(commits: GroupCommit) -> None:
        for _ in range(10):
            await commits.run(count_and_write, exclusive=True)

    await asyncio.gather(*(work(commits) for commits in processes))

    assert [f"{number:03}" for number in range(40)] == await _notes(notes)


def _write(text: str) -> Callable[[sa.Connection], str]:
    def write(connection: sa.Connection) -> str:
        connection.execute(sa.text("INSERT INTO note VALUES (:text)"), {"text": text})
        return text

    return write


async def _notes(database: Database) -> list[str]:
    async with database.read() as connection:
        return list((await connection.execute(sa.text("SELECT text FROM note ORDER BY text"))).scalars())
