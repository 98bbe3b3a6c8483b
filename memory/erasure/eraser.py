"""How an erasure goes from an order to clean files: SQL first, then index, caches and the database's own files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa
import structlog
from sqlmodel import col

from perdure.errors import Unreachable
from perdure.lineage import Lineage, StepRef
from perdure.memory.conversations import erasure as conversation_erasure
from perdure.memory.erasure import archive, erasing
from perdure.memory.index import Feed
from perdure.memory.records import Retention, forgetting, scope_key, scope_of
from perdure.memory.records.requests import (
    ConversationsCall,
    EnforceRetention,
    EraseConversationsCall,
    ForgetCall,
    ForgetResult,
    ImportResult,
    RetentionReport,
)
from perdure.memory.tables import MemoryRow
from perdure.storage import Database

TABLES = (
    *("memory_record", "memory_source", "memory_derived", "memory_access", "memory_outbox", "memory_key"),
    *("message", "message_summary", "message_source", "conversation", "run_scope"),
    *("model_answer", "model_call"),
)
"""What an erasure takes rows from."""
TRACES = 100
"""For more texts than this, writing a database file anew is less work than looking for each of them."""
_RUN_FIELDS = {"workflow_id", "first_execution_run_id", "namespace", "name"}
log = structlog.get_logger(__name__)


class Eraser:
    """What erases from DATABASE and from the index behind FEED, and what RETENTION says is over for long enough."""

    def __init__(self, database: Database, feed: Feed, retention: Mapping[str, timedelta]) -> None:
        self._database = database
        self._feed = feed
        self._retention = Retention(dict(retention))

    async def erase(self, call: ForgetCall, now: datetime) -> ForgetResult:
        """Erase what CALL means with all that was derived from it. Raises `OnHold` if a hold keeps any of that."""
        order = erasing.ErasureOrder(step=call.step, scope=call.scope, cause="erase", why=call.why, by=call.by)
        where = forgetting.is_meant(call)

        def work(connection: sa.Connection) -> erasing.Erasure:
            rows = erasing.find_versions(connection, where, derived=True)
            talks = conversation_erasure.find_affected(connection, call, [row.version_id for row in rows])
            erasing.refuse_held(rows)
            conversation_erasure.refuse_held(talks)
            if call.dry_run:
                return erasing.preview(rows, talks)
            erased = erasing.erase(connection, rows, order, now, talks=talks)
            if call.everything:
                conversation_erasure.drop_run_scopes(connection, call.scope, narrower=call.narrower)
                erasing.destroy_keys(connection, {scope_key(call.scope)} | {row.scope_key for row in rows}, now)
            return erased

        return await self._finish(await self._database.transact(work), now, dry_run=call.dry_run)

    async def erase_conversations(self, call: EraseConversationsCall, now: datetime) -> ForgetResult:
        """Erase what a run said in its conversations. Raises `OnHold` if a hold keeps any."""
        order = erasing.ErasureOrder(step=call.step, scope=None, cause="erase", why=call.why, by=call.by)
        wanted = ConversationsCall.model_validate(call.model_dump(include=_RUN_FIELDS))

        def work(connection: sa.Connection) -> erasing.Erasure:
            ids = conversation_erasure.select_ids(connection, wanted) or ()
            talks = conversation_erasure.lock_conversations(connection, dict.fromkeys(ids, 1))
            conversation_erasure.refuse_held(talks)
            return erasing.preview([], talks) if call.dry_run else erasing.erase(connection, [], order, now, talks=talks)

        return await self._finish(await self._database.transact(work), now, dry_run=call.dry_run)

    async def enforce_retention(self, call: EnforceRetention, now: datetime) -> RetentionReport:
        """Erase what has been over for longer than its retention class keeps it; a dry run only tells."""

        def work(connection: sa.Connection) -> tuple[RetentionReport, list[str]]:
            rows, held = self._retention.find_overdue(connection, now, call.limit)
            due = tuple(forgetting.as_overdue(row) for row in rows[: forgetting.SHOWN])
            swept = RetentionReport(versions=len(rows), held=held, due=due, dry_run=call.dry_run)
            if call.dry_run or not rows:
                return swept, []
            receipts, texts = [], list[str]()
            for scope in {row.scope_key: scope_of(row) for row in rows}.values():
                # Locked and read again, for a hold may have come meanwhile.
                ids = [row.version_id for row in rows if row.scope_key == scope_key(scope)]
                where = col(MemoryRow.version_id).in_(ids) & ~col(MemoryRow.legal_hold)
                order = erasing.ErasureOrder(step=call.step or _retention_step(now), scope=scope, cause="retention")
                erased = erasing.erase(connection, erasing.find_versions(connection, where, derived=False), order, now)
                receipts.append(erased.receipt)
                texts += erased.texts
            return swept.model_copy(update={"receipts": tuple(receipts)}), texts

        swept, texts = await self._database.transact(work)
        complete = True if call.dry_run else await self.clean(texts, now)
        return swept.model_copy(update={"complete": complete})

    async def restore(self, lines: Iterable[str], now: datetime) -> tuple[archive.ImportedRows, ImportResult]:
        """Write LINES of an export, and erase here what they say was erased there."""
        imported = await self._database.transact(lambda connection: archive.restore(connection, lines, now))
        complete = await self.clean(imported.texts, now) if imported.erased else True
        return imported, ImportResult(added=len(imported.added), erased=len(imported.erased), complete=complete)

    async def unfinished(self) -> int:
        """Return how many erasures there are whose bytes may still be in files."""
        return len(await self._database.query(erasing.unfinished_receipts))

    async def clean(self, texts: Sequence[str] | None, now: datetime) -> bool:
        """Take what was erased out of the index, the caches and the files; TEXTS is what it said, None if nobody knows.

        Returns whether nothing is left.
        """
        receipts = await self._database.query(erasing.unfinished_receipts)
        if not receipts:
            return True
        if texts is not None:
            self._feed.forget(list(texts))
        # Texts that are too short to be told from others by chance are left to SQLite's own overwriting.
        few = texts is not None and len(texts) <= TRACES
        traces = [text.encode() for text in texts or () if len(text.encode()) >= 8] if few else None
        try:
            await self._feed.scrub()
            clean = await self._database.scrub(traces, tables=TABLES)
        except Unreachable as error:
            log.warning("erased, files not yet clean", receipts=receipts, error=error.message)
            return False
        if clean:
            await self._database.transact(lambda connection: erasing.mark_complete(connection, receipts, now))
        else:
            log.warning("erased, but other processes hold on to the database's files", receipts=receipts)
        return clean

    async def _finish(self, erased: erasing.Erasure, now: datetime, *, dry_run: bool) -> ForgetResult:
        """Clean the files of what ERASED names, and return what callers are told of it."""
        return ForgetResult(
            how="erase",
            memories=erased.memories[: forgetting.SHOWN],
            versions=len(erased.versions),
            receipt=erased.receipt,
            conversations=erased.conversations[: forgetting.SHOWN],
            messages=erased.messages,
            complete=dry_run or await self.clean(erased.texts, now),
            dry_run=dry_run,
        )


def _retention_step(now: datetime) -> StepRef:
    return StepRef(
        lineage=Lineage(namespace="perdure", workflow_id="sweep", first_execution_run_id=now.isoformat()), name="sweep"
    )
