"""The index inside this installation: a qdrant-edge shard in a folder, served by a child process of its owner."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from array import array
from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import timedelta
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Self

import structlog

from perdure.errors import IndexOwned, InvalidSettings, Unreachable
from perdure.memory.index._shard_process import ShardProcess
from perdure.memory.index.embed import Embedder, Vector
from perdure.memory.index.lexical import (
    LEXICON,
    NO_WORDS,
    Words,
    load_words,
)
from perdure.memory.index.protocol import (
    Index,
    Match,
    Matches,
    Point,
    Where,
    generation,
)

BATCH = 64
log = structlog.get_logger(__name__)


class EdgeIndex:
    """An `Index` in FOLDER. Made by `open`.

    Every call of the library stops all threads of the process that makes it, so the shard lives in a child process. Once
    OPTIMIZE_FROM points came in, and as many as before, a second child builds a fast copy and takes the first one's place;
    until then a search looks at every point of the scope, which takes 4 ms for 10,000 points.
    """

    def __init__(
        self,
        folder: Path,
        lock: int | None,
        embedder: Embedder,
        *,
        optimize_from: int = 10_000,
        follows: EdgeIndex | None = None,
    ) -> None:
        self._folder = folder
        self._lock = lock
        self._generation = generation(embedder)
        self._dimensions = embedder.dimensions
        self._live: ShardProcess | None = None
        self._starting = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._optimize_from = optimize_from
        self._plain = 0  # points that came in since the last copy was optimized
        self._optimized = 0
        self._changed: set[str] | None = None  # what changed while a copy is made
        self._copying: asyncio.Task[None] | None = None
        self._follows = follows
        self._closed = False
        self.version = f"qdrant-edge {installed('qdrant-edge-py')}, {embedder.name} {embedder.version}, {LEXICON}"

    @classmethod
    async def open(
        cls,
        folder: Path,
        embedder: Embedder,
        *,
        wait: timedelta = timedelta(seconds=2),
        optimize_from: int = 10_000,
        keep: Embedder | None = None,
    ) -> Self:
        """Open the index in FOLDER, or make it. What cannot be read is dropped: it is filled again from SQL.

        What other embedders left is dropped too, except what is being built for KEEP.
        Raises `IndexOwned` if another process still owns it after WAIT; a killed owner needs a moment to be gone.
        """
        index = cls(folder, await _acquire(folder, wait), embedder, optimize_from=optimize_from)
        try:
            await asyncio.to_thread(index._tidy, keep)
            await asyncio.to_thread(load_words)  # the library would else be imported amid the first record
            await index._shard()
            index._plain = await index.count() - index._optimized
            index._optimize_if_large()
        except BaseException:
            await index.close()
            raise
        return index

    @staticmethod
    async def holds(folder: Path, embedder: Embedder) -> bool:
        """Return whether the index in FOLDER is that of EMBEDDER."""
        name, _ = await asyncio.to_thread(_current, folder)
        return name.startswith(f"{generation(embedder)}.")

    @staticmethod
    async def read_holder(folder: Path) -> str:
        """Return what was last written by `name_holder` into FOLDER; empty if nothing."""
        try:
            return await asyncio.to_thread((folder / "holder").read_text)
        except OSError:
            return ""

    async def write_holder(self, name: str) -> None:
        """Write down by which NAME the database knows this index from now on."""
        await asyncio.to_thread(_write, self._folder / "holder", name)

    async def upsert(self, points: Sequence[Point]) -> None:
        """Put POINTS in, in place of older ones of the same versions."""
        for start in range(0, len(points), BATCH):
            some = points[start : start + BATCH]
            async with self._writing:
                await self._call("upsert", [_row(point) for point in some])
                self._note([point.version_id for point in some])
            self._plain += len(some)
        self._optimize_if_large()

    async def delete(self, version_ids: Sequence[str]) -> None:
        """Take the points of VERSION_IDS out."""
        if version_ids:
            async with self._writing:
                await self._call("delete", list(version_ids))
                self._note(version_ids)

    async def query(self, vector: Vector, *, words: Words = NO_WORDS, where: Where, limit: int) -> Matches:
        """Return up to LIMIT points nearest to VECTOR, and up to LIMIT that share most WORDS, of those that fit WHERE."""
        return _as_matches(await self._call("query", _pack(vector), list(words.numbers), asdict(where), limit))

    async def score(self, vector: Vector, *, words: Words, where: Where, among: Collection[str]) -> Matches:
        """Return the scores of those versions AMONG the given that fit WHERE."""
        if not among:
            return Matches()
        return _as_matches(await self._call("score", _pack(vector), list(words.numbers), asdict(where), list(among)))

    async def named(self, names: Collection[int], *, where: Where) -> set[int]:
        """Return those of NAMES that stand in the subject of a point that fits WHERE."""
        return set(await self._call("named", list(names), asdict(where))) if names else set()

    async def present(self, version_ids: Sequence[str]) -> set[str]:
        """Return those of VERSION_IDS that have a point."""
        return set(await self._call("present", list(version_ids)))

    async def count(self) -> int:
        """Return how many points there are."""
        count: int = await self._call("count")
        return count

    async def scan(self, *, after: str = "", limit: int = 256) -> list[Point]:
        """Return up to LIMIT points in the order of their ids, from the first beyond AFTER on."""
        return [_as_point(row) for row in await self._call("page", after, limit)]

    async def scrub(self) -> None:
        """Write the files anew, so that nothing of what was deleted is left in them."""
        await self._stop_copying()
        if self._follows is not None:  # it is being filled, which is cheaper to begin again than to copy
            await self.clear()
            return
        await self._copy(optimize=False)
        self._optimize_if_large()

    async def clear(self) -> None:
        """Drop every point together with its files."""
        await self._stop_copying()
        async with self._writing, self._starting:
            self._check()
            await self._end_live()
            before = await asyncio.to_thread(self._name)
            name = before if self._follows else self._next_name()
            await asyncio.to_thread(self._point_to, name)
            await asyncio.to_thread(_remove, self._folder / before)
            self._live = await ShardProcess.start(self._folder / name, self._dimensions)
            self._plain = self._optimized = 0

    async def wait_until_optimized(self) -> None:
        """Wait until no faster copy is being built any more."""
        if self._copying is not None:
            await asyncio.wait([self._copying])

    async def successor(self, embedder: Embedder) -> Index:
        """Return an index beside this one for the vectors of EMBEDDER: empty, or as far as an earlier attempt came."""
        index = EdgeIndex(self._folder, None, embedder, optimize_from=self._optimize_from, follows=self)
        await index.count()  # starts its process
        return index

    async def succeed(self) -> None:
        """Become the index that is opened from now on; the one it follows is closed and dropped."""
        assert self._follows is not None, "`successor` made it"
        before, self._follows = self._follows, None
        live = await self._shard()
        self._lock = await before.hand_over()
        await asyncio.to_thread(self._point_to, live.folder.name)
        await before.close()
        await asyncio.to_thread(self._drop, {live.folder.name})
        self._optimize_if_large()

    async def hand_over(self) -> int | None:
        """Return the lock on the folder, which is the successor's from now on; `close` leaves it alone then."""
        await self._stop_copying()
        lock, self._lock = self._lock, None
        return lock

    async def close(self) -> None:
        """Write everything out and give the folder free."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._stop_copying()
            await self._end_live()
        finally:
            if self._lock is not None:
                os.close(self._lock)

    async def _call(self, name: str, *arguments: Any) -> Any:
        return await (await self._shard()).call(name, *arguments)

    async def _shard(self) -> ShardProcess:
        self._check()
        if self._live is not None and not self._live.gone:
            return self._live
        async with self._starting:
            if self._live is None or self._live.gone:
                await self._end_live()
                self._check()
                name = await asyncio.to_thread(self._name)
                self._live = await ShardProcess.start(self._folder / name, self._dimensions)
                if self._live.remade:
                    log.warning("vector index unreadable, made anew", folder=name, error=self._live.remade)
            return self._live

    def _check(self) -> None:
        if self._closed:
            raise Unreachable(f"the vector index in {self._folder} is closed")

    async def _end_live(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            await live.close()

    def _note(self, version_ids: Collection[str]) -> None:
        if self._changed is not None:
            self._changed.update(version_ids)

    def _optimize_if_large(self) -> None:
        large = self._plain >= max(self._optimize_from, self._optimized)
        if large and self._copying is None and self._follows is None and not self._closed:
            self._copying = asyncio.create_task(self._optimize())

    async def _optimize(self) -> None:
        try:
            await self._copy(optimize=True)
        except (Unreachable, OSError) as error:
            log.warning("no faster copy of the vector index was built, the present one stays", error=str(error))
        finally:
            self._copying = None

    async def _stop_copying(self) -> None:
        if self._copying is not None:
            self._copying.cancel()
            await asyncio.wait([self._copying])

    async def _copy(self, *, optimize: bool) -> None:
        """Fill a new shard from the present one, if OPTIMIZE make it fast, and let it take the other's place.

        Reads and writes go on meanwhile; what they changed is brought over at the end. Whoever is killed when: the present
        shard is what counts, and the copy is from the moment that the file `current` names it.
        """
        live = await self._shard()
        self._changed = set()
        plain = self._plain
        name = self._next_name()
        copy: ShardProcess | None = None
        try:
            copy = await ShardProcess.start(self._folder / name, self._dimensions)
            after = ""
            while rows := await live.call("page", after, BATCH):
                await copy.call("upsert", rows)
                after = rows[-1][0]
            if optimize:
                await copy.call("optimize")
            await self._bring_over(live, copy)
            async with self._writing, self._starting:
                await self._bring_over(live, copy)
                await copy.call("flush")
                count: int = await copy.call("count")
                self._plain = self._plain - plain if optimize else count
                self._optimized = count - self._plain
                await asyncio.to_thread(self._point_to, name)
                self._live = copy
        except BaseException:
            if copy is not None:
                await copy.kill()
            await asyncio.to_thread(_remove, self._folder / name)
            raise
        finally:
            self._changed = None
        await live.close()
        await asyncio.to_thread(_remove, live.folder)

    async def _bring_over(self, live: ShardProcess, copy: ShardProcess) -> None:
        while self._changed:
            some = [self._changed.pop() for _ in range(min(BATCH, len(self._changed)))]
            rows = await live.call("rows", some)
            await copy.call("delete", list(set(some) - {row[0] for row in rows}))
            await copy.call("upsert", rows)

    def _name(self) -> str:
        """Return the folder of our shard: the one that `current` names, if it is of our generation."""
        if self._follows is not None:
            return f"{self._generation}.1"
        name, optimized = _current(self._folder)
        if name.startswith(f"{self._generation}."):
            self._optimized = optimized
            return name
        name = self._next_name()
        self._point_to(name)
        return name

    def _next_name(self) -> str:
        numbers = [int(path.suffix[1:]) for path in self._folder.glob(f"{self._generation}.*") if path.suffix[1:].isdigit()]
        return f"{self._generation}.{max(numbers, default=0) + 1}"

    def _point_to(self, name: str) -> None:
        if self._follows is not None:  # not complete yet
            return
        _write(self._folder / "current", f"{name} {self._optimized}")

    def _tidy(self, keep: Embedder | None) -> None:
        """Drop what is not ours, what a build that was killed left behind, and what is of no embedder that we know."""
        self._drop({self._name(), f"{generation(keep)}.1" if keep else ""})

    def _drop(self, kept: Collection[str]) -> None:
        for path in self._folder.iterdir():
            if path.is_dir() and path.name not in kept:
                _remove(path)


def _current(folder: Path) -> tuple[str, int]:
    try:
        name, optimized = (folder / "current").read_text().rsplit(" ", 1)
        return name, int(optimized)
    except (OSError, ValueError):
        return "", 0


def _write(file: Path, text: str) -> None:
    """Have FILE say TEXT, or what it said before, whenever we are killed."""
    new = file.with_suffix(".new")
    with new.open("w") as writing:
        writing.write(text)
        writing.flush()
        os.fsync(writing.fileno())
    new.replace(file)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_name(f"{folder.name}.lock").unlink(missing_ok=True)


def _pack(vector: Vector) -> bytes:
    return array("f", vector).tobytes()


def _row(point: Point) -> tuple[object, ...]:
    payload = {
        "scope": point.scope,
        "since": point.since,
        "until": point.until,
        "kind": point.kind,
        "valid": point.valid,
        "names": list(point.names),
    }
    return point.version_id, _pack(point.vector), list(point.words.numbers), list(point.words.weights), payload


def _as_point(row: tuple[str, bytes, list[int], list[float], dict[str, Any]]) -> Point:
    version_id, vector, numbers, weights, payload = row
    payload = {**payload, "names": tuple(payload["names"])}
    return Point(
        version_id=version_id, vector=tuple(array("f", vector)), words=Words(tuple(numbers), tuple(weights)), **payload
    )


def _as_matches(answer: tuple[list[tuple[str, float]], list[tuple[str, float]]]) -> Matches:
    dense, lexical = answer
    return Matches([Match(*one) for one in dense], [Match(*one) for one in lexical])


async def _acquire(folder: Path, wait: timedelta) -> int:
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
