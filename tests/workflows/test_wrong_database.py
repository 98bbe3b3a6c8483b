"""Tests of runs whose worker comes back with another database (case 70)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from kits.box_workflows import Packing, Packs, Puts
from kits.connectors import Bank, call, persist, undo
from kits.workflows import Governed, Handle, OpenWorker
from stand_ins.box import Box
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import CancelledError

from perdure.connectors.ledger import Ledger
from perdure.errors import WrongDatabase
from perdure.storage import Database, open_database


class SlowBox(Box):
    """A box at which a lost answer is looked up only after a while, so that a worker can go meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        settle = timedelta(seconds=3)
        self.actions = {
            name: replace(action, target=action.target.model_copy(update={"settle": settle}))
            for name, action in Box.actions.items()
        }


class Places:
    """Workers on one task queue, each with a database in the folder it is started in."""

    def __init__(self, governed: OpenWorker, tmp_path: Path, box: Box) -> None:
        self._governed, self._path, self._box = governed, tmp_path, box

    @asynccontextmanager
    async def worker(self, folder: str) -> AsyncIterator[Governed]:
        """Start one in FOLDER."""
        settings: dict[str, Any] = {"home": self._path / folder, "task_queue": f"places-{self._path.name}"}
        async with self._governed(Packs, Puts, settings=settings, connectors=[self._box]) as worker:
            yield worker

    async def identity(self, folder: str) -> str:
        """Return the id of the database in FOLDER."""
        async with open_database(f"sqlite+aiosqlite:///{self._path / folder / 'perdure.db'}") as database:
            return await Ledger(database, {}).identity()


async def test_no_undo_is_skipped(governed: OpenWorker, tmp_path: Path) -> None:
    """A worker with an empty database does not take what has happened for nothing to undo: it waits for the right one."""
    box = Box()
    places = Places(governed, tmp_path, box)
    async with places.worker("here") as worker:
        handle = await worker.start(Packs.run, Packing(end="wait"))
        while len(box.inside) < 2:  # noqa: ASYNC110  the box only counts
            await asyncio.sleep(0.02)
    async with places.worker("elsewhere"):
        await handle.cancel()
        refused = await last_failure(handle)
        assert ["a", "b"] == box.texts
    async with places.worker("here"):
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()

    here, elsewhere = await places.identity("here"), await places.identity("elsewhere")
    assert f"effects of this run are in database {here}" in refused
    assert f"this worker has database {elsewhere}" in refused
    assert isinstance(failed.value.cause, CancelledError)
    assert [] == box.texts


async def test_what_is_on_its_way_is_not_sent_again(governed: OpenWorker, tmp_path: Path) -> None:
    """The first effect of a run is lost with its worker: one with another database neither sends nor gives it up."""
    box = SlowBox()
    box.wrong = {"put": ["silent"]}
    places = Places(governed, tmp_path, box)
    async with places.worker("here") as worker:
        handle = await worker.start(Puts.run, 300)
        while not box.done:  # noqa: ASYNC110  the box only counts
            await asyncio.sleep(0.02)
    async with places.worker("elsewhere"):
        refused = await last_failure(handle)
    async with places.worker("here"):
        assert "probe 1" == await handle.result()

    assert f"effects of this run are in database {await places.identity('here')}" in refused
    assert ["put a"] == box.done


async def test_a_run_of_before_knows_its_receipts(database: Database) -> None:
    """A run that knows no database yet, and has a receipt, is not told that there is nothing to undo."""
    ledger = Ledger(database, {"bank": Bank()})
    never_happened = await ledger.undo(undo(call(name="other")))

    with pytest.raises(WrongDatabase, match=r"the run has the receipt of effect pe-\w+ of bank.pay, and this worker has"):
        await ledger.undo(undo(call()).model_copy(update={"happened": True}))

    assert "nothing to undo" == never_happened.outcome


async def test_every_call_names_its_database(database: Database) -> None:
    """Effects, undos and look-ups for another database are refused before anything is written or sent."""
    bank = Bank()
    ledger = Ledger(database, {"bank": bank})
    right = call().model_copy(update={"database": await ledger.identity()})

    elsewhere = {"database": "0000aaaa"}

    with pytest.raises(WrongDatabase, match="in database 0000aaaa"):
        await ledger.perform(call().model_copy(update=elsewhere))
    with pytest.raises(WrongDatabase, match="in database 0000aaaa"):
        await ledger.undo(undo(call()).model_copy(update=elsewhere))
    with pytest.raises(WrongDatabase, match="in database 0000aaaa"):
        await ledger.settle(undo(call()).model_copy(update=elsewhere))
    assert [] == list(await ledger.list())

    await persist(lambda: ledger.perform(right))
    assert 1 == len(bank.paid)


async def last_failure(handle: Handle) -> str:
    """Return what a step of the run was refused with for its database, as soon as it is."""
    while True:
        described = await handle.describe()
        for each in described.raw_description.pending_activities:
            if each.last_failure.application_failure_info.type == WrongDatabase.__name__:
                return each.last_failure.message
        await asyncio.sleep(0.05)
