"""What the process does that owns a shard: the library holds Python's lock in every call, so it gets a process of its own.

Started by `shard_process` as a script; imports nothing of ours, so that it is there in a moment. Reads requests from
standard input, writes answers to standard output, in order: eight bytes of length, then `marshal`. Ends with its input.
"""

from __future__ import annotations

import ctypes
import fcntl
import marshal
import os
import signal
import struct
import sys
from array import array
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from qdrant_edge import (
    CountRequest,
    Distance,
    EdgeConfig,
    EdgeShard,
    EdgeSparseVectorParams,
    EdgeVectorParams,
    FieldCondition,
    Filter,
    HasIdCondition,
    HnswIndexConfig,
    IdfParams,
    IntegerIndexParams,
    KeywordIndexParams,
    MatchAny,
    MatchValue,
    Modifier,
    Point,
    Query,
    QueryBatchRequest,
    QueryRequest,
    RangeFloat,
    Record,
    ScoredPoint,
    ScrollRequest,
    SearchParams,
    SparseVector,
    UpdateOperation,
)

Row: TypeAlias = tuple[str, bytes, list[int], list[float], dict[str, Any]]
"""A point as it goes through the pipe: id, vector as 4-byte floats, words, their weights, payload."""
Scores: TypeAlias = list[tuple[str, float]]
FLUSH_EVERY = 5_000
"""The write-ahead log survives kill -9 without this, but grows until then."""
INDEX_FROM = 500
"""How many points are searched faster by an index per field. Making one takes a tenth of a second, however few."""
FIELDS: dict[str, Any] = {
    "scope": KeywordIndexParams(is_tenant=True),
    # No graph for these: it would take minutes to build, and every search has a scope, which has one.
    **dict.fromkeys(("since", "until", "valid"), IntegerIndexParams(lookup=False, range=True, enable_hnsw=False)),
    "names": IntegerIndexParams(lookup=True, range=False, enable_hnsw=False),
    "kind": KeywordIndexParams(enable_hnsw=False),
}


class Shard:
    """The shard in FOLDER with vectors of DIMENSIONS numbers; made if there is none, or if it cannot be read."""

    def __init__(self, folder: Path, dimensions: int) -> None:
        self.remade = ""
        if not folder.exists():
            self._shard = _make(folder, dimensions)
        else:
            try:
                self._shard = EdgeShard.load(str(folder))
            except Exception as error:  # noqa: BLE001  # the library raises nothing more precise
                self.remade = str(error)
                _remove(folder)
                self._shard = _make(folder, dimensions)
        self._unflushed = 0
        self._indexed = set(self._shard.info().payload_schema) >= set(FIELDS)

    def upsert(self, rows: list[Row]) -> None:
        """Put ROWS in, in place of older ones."""
        self._shard.update(UpdateOperation.upsert_points([_point(row) for row in rows]))
        if not self._indexed and self.count() >= INDEX_FROM:
            for field, schema in FIELDS.items():
                self._shard.update(UpdateOperation.create_field_index(field, schema))
            self._indexed = True
        self._unflushed += len(rows)
        if self._unflushed >= FLUSH_EVERY:
            self.flush()

    def delete(self, ids: list[str]) -> None:
        """Take the points of IDS out."""
        self._shard.update(UpdateOperation.delete_points(list(ids)))

    def query(self, vector: bytes, words: list[int], where: dict[str, Any], limit: int) -> tuple[Scores, Scores]:
        """Return the nearest by meaning and by words."""
        return self._search(vector, words, where, limit, Filter(must=_base(where) + _wanted(where)))

    def score(self, vector: bytes, words: list[int], where: dict[str, Any], among: list[str]) -> tuple[Scores, Scores]:
        """Return the scores of AMONG."""
        chosen = Filter(must=[*_base(where), *_wanted(where), HasIdCondition(set(among))])
        return self._search(vector, words, where, len(among), chosen)

    def named(self, names: list[int], where: dict[str, Any]) -> list[int]:
        """Return those of NAMES that a point has."""
        found = []
        for name in names:
            one = Filter(must=[*_base(where), *_wanted(where), FieldCondition("names", match=MatchValue(name))])
            records, _ = self._shard.scroll(ScrollRequest(limit=1, filter=one, with_payload=False, with_vector=False))
            if records:
                found.append(name)
        return found

    def present(self, ids: list[str]) -> list[str]:
        """Return those of IDS that have a point."""
        return [str(record.id) for record in self._shard.retrieve(list(ids), False, False)]

    def count(self) -> int:
        """Return how many points there are."""
        return self._shard.count(CountRequest(exact=True))

    def rows(self, ids: list[str]) -> list[Row]:
        """Return the points of IDS, as far as there are any."""
        return [_row(record) for record in self._shard.retrieve(list(ids), True, True)]

    def page(self, after: str, limit: int) -> list[Row]:
        """Return up to LIMIT points in the order of their ids, from the first beyond AFTER on."""
        request = ScrollRequest(offset=after or None, limit=limit + 1, with_payload=True, with_vector=True)
        records, _ = self._shard.scroll(request)
        return [_row(record) for record in records if str(record.id) != after][:limit]

    def optimize(self) -> None:
        """Build what makes searching a large shard fast. Takes minutes for 100,000 points."""
        self._shard.optimize()
        self.flush()

    def flush(self) -> None:
        """Write everything out."""
        self._shard.flush()
        self._unflushed = 0

    def close(self) -> None:
        """Write everything out and let go of the files."""
        self._shard.flush()
        self._shard.close()

    def _search(
        self, vector: bytes, words: list[int], where: dict[str, Any], limit: int, visible: Filter
    ) -> tuple[Scores, Scores]:
        dense = QueryRequest(limit=limit, query=Query.Nearest(_floats(vector), using="dense"), filter=visible)
        if not words:
            return _scores(self._shard.query(dense)), []
        question = SparseVector(words, [1.0] * len(words))
        lexical = QueryRequest(
            limit=limit,
            query=Query.Nearest(question, using="words"),
            filter=visible,
            params=SearchParams(idf=IdfParams(corpus=Filter(must=_base(where)))),
        )
        by_meaning, by_words = self._shard.query_batch(QueryBatchRequest([dense, lexical]))
        return _scores(by_meaning), _scores(by_words)


def serve(shard: Shard, requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer REQUESTS until they end or ask to close."""
    while (request := _read(requests)) is not None:
        number, name, arguments = request
        try:
            answer = (number, True, getattr(shard, name)(*arguments))
        except Exception as error:  # noqa: BLE001  # it is told to who asked
            answer = (number, False, f"{type(error).__name__}: {error}")
        data = marshal.dumps(answer)
        answers.write(struct.pack(">Q", len(data)) + data)
        answers.flush()
        if name == "close":
            return
    shard.close()


def _read(requests: BinaryIO) -> tuple[int, str, tuple[Any, ...]] | None:
    head = requests.read(8)
    if len(head) < 8:
        return None
    (length,) = struct.unpack(">Q", head)
    data = requests.read(length)
    if len(data) < length:
        return None
    request: tuple[int, str, tuple[Any, ...]] = marshal.loads(data)  # noqa: S302  # of the process that started us
    return request


def _make(folder: Path, dimensions: int) -> EdgeShard:
    folder.mkdir(parents=True)
    config = EdgeConfig(
        vectors={"dense": EdgeVectorParams(size=dimensions, distance=Distance.Cosine)},
        sparse_vectors={"words": EdgeSparseVectorParams(modifier=Modifier.Idf)},
        # A graph for each large scope, none over all of them; built on one core, for the worker needs the others.
        hnsw_config=HnswIndexConfig(
            m=0, payload_m=16, ef_construct=100, full_scan_threshold=10_000, max_indexing_threads=1
        ),
    )
    return EdgeShard.create(str(folder), config)


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)


def _base(where: dict[str, Any]) -> list[Any]:
    return [
        FieldCondition("scope", match=MatchValue(where["scope"])),
        FieldCondition("since", range=RangeFloat(lte=where["at"])),
        FieldCondition("until", range=RangeFloat(gt=where["at"] if where["ends_after"] is None else where["ends_after"])),
    ]


def _wanted(where: dict[str, Any]) -> list[Any]:
    wanted: list[Any] = [FieldCondition("names", match=MatchValue(name)) for name in where["names"]]
    if where["any_names"]:
        wanted.append(FieldCondition("names", match=MatchAny(list(where["any_names"]))))
    if where["kinds"]:
        wanted.append(FieldCondition("kind", match=MatchAny(list(where["kinds"]))))
    if where["valid_from"] is not None or where["valid_before"] is not None:
        wanted.append(FieldCondition("valid", range=RangeFloat(gte=where["valid_from"], lt=where["valid_before"])))
    return wanted


def _point(row: Row) -> Point:
    version_id, vector, numbers, weights, payload = row
    vectors: dict[str, Any] = {"dense": _floats(vector)}
    if numbers:
        vectors["words"] = SparseVector(numbers, weights)
    return Point(version_id, vectors, payload)


def _row(record: Record) -> Row:
    vectors: Any = record.vector
    words = vectors.get("words")
    numbers, weights = (list(words.indices), list(words.values)) if words is not None else ([], [])
    return str(record.id), array("f", vectors["dense"]).tobytes(), numbers, weights, dict(record.payload or {})


def _floats(vector: bytes) -> list[float]:
    return array("f", vector).tolist()


def _scores(points: list[ScoredPoint]) -> Scores:
    return [(str(point.id), point.score) for point in points]


def main(folder: Path, dimensions: int) -> None:
    """Own the shard in FOLDER until standard input ends."""
    # Who started us says when we end; Ctrl-C and a service manager's stop reach the whole group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":  # nobody reads the input during `optimize`, so the kernel has to tell
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the library may print must not be taken for an answer
    lock = os.open(folder.with_name(f"{folder.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    # Waits for a predecessor that is still ending. The kernel lets go of it, however the predecessor dies.
    fcntl.flock(lock, fcntl.LOCK_EX)
    shard = Shard(folder, dimensions)
    data = marshal.dumps((0, True, shard.remade))
    answers.write(struct.pack(">Q", len(data)) + data)
    answers.flush()
    serve(shard, requests, answers)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
