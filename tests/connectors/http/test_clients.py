"""Tests of who asks for the effects of the fault matrix."""

from __future__ import annotations

import itertools
from datetime import timedelta

from kits.connectors import Bank, Pay

from perdure.connectors.ledger import Ledger
from perdure.connectors.testing.at_the_seam import Seam
from perdure.connectors.testing.clients import LedgerClient
from perdure.storage import Database, now


async def test_cancelled_before_anything_is_sent(sqlite_database: Database, bank: Bank) -> None:
    """An attempt that ends before it sends anything cannot be cancelled on its way, and the next one goes on."""
    seam = Seam(bank, None, None)
    minutes = itertools.count()
    # A worker that stands still after its claim does not send.
    held_up = Ledger(sqlite_database, {"bank": seam}, clock=lambda: now() - timedelta(hours=1) + next(minutes) * _MINUTE)
    workers = [(seam, held_up), (seam, Ledger(sqlite_database, {"bank": seam}))]

    assert "done" == await LedgerClient(workers, "bank.pay", Pay(amount=5)).act_after_cancel()
    assert 1 == len(bank.paid)


_MINUTE = timedelta(minutes=1)
