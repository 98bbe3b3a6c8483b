"""The vector index inside this process: qdrant-edge in a folder that one process owns."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar, cast

import structlog

from perdure.errors import IndexOwned, InvalidSettings, Unreachable
from perdure.memory.embed import Embedder, Vector
from perdure.memory.index import Entry, Near, Point

if TYPE_CHECKING:
    from qdrant_edge import EdgeShard

T = TypeVar("T")
log = structlog.get_logger(__name__)


class EdgeIndex:
    """An `Index` in FOLDER. Searches exactly, which takes 0.2 ms at 1,000 points and about 20 ms at 100,000.

    Made by `open`. One thread does every call, because the library says nothing about concurrent use.
    """

    def __init__(self, folder: Path, lock: int, embedder: Embedder) -> None:
        self._folder = folder
        self._lock = lock
        self._shard_folder = folder / f"vectors-{embedder.version}"
        self._dimensions = embedder.dimensions
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="perdure-index")
        self._shard: EdgeShard | None = None
        self._unflushed = 0
        self._closed = False
        self.version = f"qdrant-edge {installed('qdrant-edge-py')}, {embedder.name} {embedder.version}"

    @classmethod
    async def open(cls, folder: Path, embedder: Embedder, *, wait: timedelta = timedelta(seconds=2)) -> Self:
        """Open the index in FOLDER, or make it. What cannot be read is dropped: it is filled again from SQL.

        Raises `IndexOwned` if another process still owns it after WAIT; a killed owner needs a moment to be gone.
        """
        index = cls(folder, await _own(folder, wait), embedder)
        try:
            await index._call(index._load)
        except BaseException:
            await index.close()
            raise
        return index

    async def upsert(self, points: Sequence[Point]) -> None:
        """Put POINTS in, in place of older ones of the same versions."""
        if points:
            await self._call(lambda: self._upsert(points))

    async def delete(self, version_ids: Sequence[str]) -> None:
        """Take the points of VERSION_IDS out."""
        if version_ids:
            from qdrant_edge import UpdateOperation

            await self._call(lambda: self._open.update(UpdateOperation.delete_points(list(version_ids))))

    async def query(self, vector: Vector, *, scope: str, at: int, limit: int, ends_after: int | None = None) -> list[Near]:
        """Return up to LIMIT points in SCOPE that could be recalled AT that microsecond, nearest to VECTOR first."""
        return await self._call(lambda: self._query(vector, scope, (at, at if ends_after is None else ends_after), limit))

    async def present(self, version_ids: Sequence[str]) -> set[str]:
        """Return those of VERSION_IDS that have a point."""
        found = await self._call(lambda: self._open.retrieve(list(version_ids), False, False))
        return {str(record.id) for record in found}

    async def count(self) -> int:
        """Return how many points there are."""
        from qdrant_edge import CountRequest

        return await self._call(lambda: self._open.count(CountRequest(exact=True)))

    async def scan(self, *, after: str = "", limit: int = 256) -> list[Entry]:
        """Return up to LIMIT points in the order of their ids, from the first beyond AFTER on."""
        return await self._call(lambda: self._scan(after, limit))

    async def scrub(self) -> None:
        """Write the files anew, so that nothing of what was deleted is left in them."""
        await self._call(self._scrub)

    async def clear(self) -> None:
        """Drop every point together with its files."""
        await self._call(self._make_anew)

    async def close(self) -> None:
        """Write everything out and give the folder free."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._run(self._close)
        finally:
            self._thread.shutdown()
            os.close(self._lock)

    @property
    def _open(self) -> EdgeShard:
        assert self._shard is not None, "`_load` comes first"
        return self._shard

    async def _call(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise Unreachable(f"the vector index in {self._folder} is closed")
        return await self._run(work)

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except Exception as error:  # the library raises nothing more precise
            raise Unreachable(
                f"the vector index in {self._folder} failed: {error}. Check the disk; if it goes on, stop the worker, "
                "delete that folder and start again: the index is filled from the database"
            ) from error

    def _load(self) -> None:
        from qdrant_edge import EdgeShard

        for old in self._folder.glob("vectors-*"):
            if old != self._shard_folder:  # another embedder's vectors cannot be compared with ours
                shutil.rmtree(old)
        if not self._shard_folder.exists():
            self._make_anew()
            return
        try:
            self._shard = EdgeShard.load(str(self._shard_folder))
        except Exception as error:  # noqa: BLE001  # the library raises nothing more precise
            log.warning("vector index unreadable, made anew", folder=str(self._shard_folder), error=str(error))
            self._make_anew()

    def _make_anew(self) -> None:
        from qdrant_edge import (
            Distance,
            EdgeConfig,
            EdgeShard,
            EdgeVectorParams,
            KeywordIndexParams,
            PayloadSchemaType,
            UpdateOperation,
        )

        self._close()
        shutil.rmtree(self._shard_folder, ignore_errors=True)
        self._shard_folder.mkdir()
        vectors = EdgeVectorParams(size=self._dimensions, distance=Distance.Cosine)
        self._shard = EdgeShard.create(str(self._shard_folder), EdgeConfig(vectors=vectors))
        self._shard.update(UpdateOperation.create_field_index("scope", KeywordIndexParams(is_tenant=True)))
        for field in ("since", "until"):
            self._shard.update(UpdateOperation.create_field_index(field, PayloadSchemaType.Integer))

    def _upsert(self, points: Sequence[Point]) -> None:
        from qdrant_edge import Point as EdgePoint
        from qdrant_edge import UpdateOperation

        made = [
            EdgePoint(
                point.version_id, list(point.vector), {"scope": point.scope, "since": point.since, "until": point.until}
            )
            for point in points
        ]
        self._open.update(UpdateOperation.upsert_points(made))
        self._unflushed += len(points)
        if self._unflushed >= 1000:  # the write-ahead log survives kill -9 without this, but grows until then
            self._open.flush()
            self._unflushed = 0

    def _scan(self, after: str, limit: int) -> list[Entry]:
        from qdrant_edge import ScrollRequest

        # The offset is the first id wanted, so the last one of the page before comes again.
        request = ScrollRequest(offset=after or None, limit=limit + 1, with_payload=True, with_vector=True)
        found, _ = self._open.scroll(request)
        entries = []
        for record in found:
            payload, vector = record.payload or {}, cast("list[float]", record.vector)
            if str(record.id) != after:
                entries.append(Entry(str(record.id), payload["scope"], payload["since"], payload["until"], tuple(vector)))
        return entries[:limit]

    def _scrub(self) -> None:
        # What is deleted stays in a shard's files until they are merged, so the points that stand move to a new shard.
        old = self._open
        aside = self._shard_folder.with_name(self._shard_folder.name + ".old")
        shutil.rmtree(aside, ignore_errors=True)
        points: list[Entry] = []
        while page := self._scan(points[-1].version_id if points else "", 1000):
            points += page
        old.close()
        self._shard = None
        # A crash from here on leaves no index or half of one: it is filled from SQL at the next start.
        self._shard_folder.rename(aside)
        shutil.rmtree(aside)
        self._make_anew()
        for start in range(0, len(points), 1000):
            self._upsert(
                [
                    Point(each.version_id, each.scope, each.since, each.until, each.vector)
                    for each in points[start : start + 1000]
                ]
            )
        self._open.flush()

    def _query(self, vector: Vector, scope: str, at: tuple[int, int], limit: int) -> list[Near]:
        from qdrant_edge import FieldCondition, Filter, MatchValue, Query, QueryRequest, RangeFloat

        visible = Filter(
            must=[
                FieldCondition("scope", match=MatchValue(scope)),
                FieldCondition("since", range=RangeFloat(lte=at[0])),
                FieldCondition("until", range=RangeFloat(gt=at[1])),
            ]
        )
        found = self._open.query(QueryRequest(limit=limit, query=Query.Nearest(list(vector)), filter=visible))
        return [Near(str(point.id), point.score) for point in found]

    def _close(self) -> None:
        shard, self._shard = self._shard, None
        if shard is not None:
            shard.flush()
            shard.close()


async def _own(folder: Path, wait: timedelta) -> int:
    from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

    retrying = AsyncRetrying(
        retry=retry_if_exception_type(IndexOwned), stop=stop_after_delay(wait), wait=wait_fixed(0.05), reraise=True
    )
    return await retrying(asyncio.to_thread, _lock, folder)


def _lock(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The kernel lets go of this lock when its owner dies, however it dies; the pid inside only serves the message.
        file = os.open(folder / "owner.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise InvalidSettings(
            f"the vector index cannot be kept in {folder}: {error.strerror}. "
            "Set PERDURE_HOME to a folder that can be written"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(file, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(file)
        raise IndexOwned(
            f"the vector index in {folder} is owned by process {pid}. Stop that process, or set PERDURE_INDEX_URL "
            "to a Qdrant server, which several processes can share"
        ) from None
    os.ftruncate(file, 0)
    os.pwrite(file, str(os.getpid()).encode(), 0)
    return file
