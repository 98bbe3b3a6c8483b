"""The vector index on a Qdrant server, which several workers share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version as installed
from typing import TYPE_CHECKING, cast

from perdure.errors import InvalidSettings, Unreachable
from perdure.memory.index.embed import Embedder, Vector
from perdure.memory.index.lexical import LEXICON, NO_WORDS, Words
from perdure.memory.index.protocol import (
    Index,
    Match,
    Matches,
    Point,
    Where,
    generation,
)

if TYPE_CHECKING:
    from qdrant_client import AsyncQdrantClient
    from qdrant_client.models import Condition, Filter, PointStruct, Record
    from qdrant_client.models import Vector as VectorOf

BATCH = 256


class ServerIndex:
    """An `Index` in one collection of a Qdrant server. Made by `open`, or by `over` from a client that you made.

    The collection is named after the embedder's version, so another embedder never finds vectors it cannot compare with,
    and after DATABASE_ID, so that two databases may use one server.
    """

    def __init__(
        self,
        client: AsyncQdrantClient,
        embedder: Embedder,
        *,
        where: str,
        database_id: str = "",
        follows: ServerIndex | None = None,
    ) -> None:
        self._client = client
        self._where = where
        self._database_id = database_id
        self._dimensions = embedder.dimensions
        self.collection = "_".join(filter(None, ("perdure_memory", database_id, generation(embedder))))
        self._follows = follows
        self.version = f"qdrant-client {installed('qdrant-client')}, {embedder.name} {embedder.version}, {LEXICON}"

    @classmethod
    async def open(cls, url: str, embedder: Embedder, *, database_id: str = "") -> ServerIndex:
        """Connect to the Qdrant server at URL and make the collection if it is missing. `:memory:` is for tests."""
        client = _client(url)
        try:
            return await cls.from_client(client, embedder, where=url, database_id=database_id)
        except BaseException:
            await client.close()
            raise

    @classmethod
    async def holds(cls, url: str, embedder: Embedder, *, database_id: str = "") -> bool:
        """Return whether the Qdrant server at URL has a collection of EMBEDDER."""
        client = _client(url)
        try:
            index = cls(client, embedder, where=url, database_id=database_id)
            async with index.translate_errors():
                return await client.collection_exists(index.collection)
        finally:
            await client.close()

    @classmethod
    async def from_client(
        cls,
        client: AsyncQdrantClient,
        embedder: Embedder,
        *,
        where: str = "the given client",
        database_id: str = "",
        follows: ServerIndex | None = None,
    ) -> ServerIndex:
        """Use CLIENT, for instance `AsyncQdrantClient(":memory:")`, and make the collection if it is missing.

        With FOLLOWS it is that one's successor, see `Index.successor`.
        """
        index = cls(client, embedder, where=where, database_id=database_id, follows=follows)
        await index._make_if_missing()
        return index

    async def upsert(self, points: Sequence[Point]) -> None:
        """Put POINTS in, in place of older ones of the same versions, and wait until they are found."""
        for start in range(0, len(points), BATCH):
            made = [_struct(point) for point in points[start : start + BATCH]]
            async with self.translate_errors():
                await self._client.upsert(self.collection, points=made, wait=True)

    async def delete(self, version_ids: Sequence[str]) -> None:
        """Take the points of VERSION_IDS out."""
        if not version_ids:
            return
        from qdrant_client.models import PointIdsList

        async with self.translate_errors():
            await self._client.delete(self.collection, points_selector=PointIdsList(points=list(version_ids)), wait=True)

    async def query(self, vector: Vector, *, words: Words = NO_WORDS, where: Where, limit: int) -> Matches:
        """Return up to LIMIT points nearest to VECTOR, and up to LIMIT that share most WORDS, of those that fit WHERE."""
        from qdrant_client.models import Filter

        return await self._search(vector, words, where, Filter(must=[*_base(where), *_wanted(where)]), limit)

    async def score(self, vector: Vector, *, words: Words, where: Where, among: Collection[str]) -> Matches:
        """Return the scores of those versions AMONG the given that fit WHERE."""
        from qdrant_client.models import Filter, HasIdCondition

        if not among:
            return Matches()
        chosen = Filter(must=[*_base(where), *_wanted(where), HasIdCondition(has_id=list(among))])
        return await self._search(vector, words, where, chosen, len(among))

    async def named(self, names: Collection[int], *, where: Where) -> set[int]:
        """Return those of NAMES that stand in the subject of a point that fits WHERE."""
        from qdrant_client.models import FieldCondition, Filter, MatchValue, QueryRequest

        asked = list(names)
        if not asked:
            return set()
        requests = []
        for name in asked:
            one = FieldCondition(key="names", match=MatchValue(value=name))
            requests.append(QueryRequest(filter=Filter(must=[*_base(where), *_wanted(where), one]), limit=1))
        async with self.translate_errors():
            answers = await self._client.query_batch_points(self.collection, requests=requests)
        return {name for name, answer in zip(asked, answers, strict=True) if answer.points}

    async def present(self, version_ids: Sequence[str]) -> set[str]:
        """Return those of VERSION_IDS that have a point."""
        async with self.translate_errors():
            found = await self._client.retrieve(self.collection, ids=list(version_ids), with_payload=False)
        return {str(record.id) for record in found}

    async def count(self) -> int:
        """Return how many points there are."""
        async with self.translate_errors():
            return (await self._client.count(self.collection, exact=True)).count

    async def scan(self, *, after: str = "", limit: int = 256) -> list[Point]:
        """Return up to LIMIT points in the order of their ids, from the first beyond AFTER on."""
        async with self.translate_errors():
            # The offset is the first id wanted, so the last one of the page before comes again.
            found, _ = await self._client.scroll(
                self.collection, limit=limit + 1, offset=after or None, with_payload=True, with_vectors=True
            )
        return [_point(record) for record in found if str(record.id) != after][:limit]

    async def scrub(self) -> None:
        """Do nothing: a server merges its segments itself, soon after a deletion by the settings of the collection."""

    async def clear(self) -> None:
        """Drop the collection and make it anew."""
        async with self.translate_errors():
            await self._client.delete_collection(self.collection)
        await self._make_if_missing()

    async def successor(self, embedder: Embedder) -> Index:
        """Return an index beside this one for the vectors of EMBEDDER: empty, or as far as an earlier attempt came."""
        return await ServerIndex.from_client(
            self._client, embedder, where=self._where, database_id=self._database_id, follows=self
        )

    async def succeed(self) -> None:
        """Become the index in use; the collection of the one it follows is dropped."""
        assert self._follows is not None, "`successor` made it"
        before, self._follows = self._follows, None
        async with self.translate_errors():
            await self._client.delete_collection(before.collection)

    async def close(self) -> None:
        """Close the connections, also those of a client that was handed in."""
        if self._follows is None:  # else the one it follows has the same client
            await self._client.close()

    async def _make_if_missing(self) -> None:
        from qdrant_client.http.exceptions import UnexpectedResponse
        from qdrant_client.models import (
            Distance,
            HnswConfigDiff,
            IntegerIndexParams,
            IntegerIndexType,
            KeywordIndexParams,
            KeywordIndexType,
            Modifier,
            OptimizersConfigDiff,
            SparseVectorParams,
            VectorParams,
        )

        async with self.translate_errors():
            if not await self._client.collection_exists(self.collection):
                try:
                    await self._client.create_collection(
                        self.collection,
                        vectors_config={"dense": VectorParams(size=self._dimensions, distance=Distance.COSINE)},
                        sparse_vectors_config={"words": SparseVectorParams(modifier=Modifier.IDF)},
                        hnsw_config=HnswConfigDiff(m=0, payload_m=16),
                        # What is erased should leave the server's files soon, also when it is little.
                        optimizers_config=OptimizersConfigDiff(deleted_threshold=0.001, vacuum_min_vector_number=100),
                    )
                except UnexpectedResponse as error:
                    if error.status_code != 409:  # another worker made it just now
                        raise
            if self._local:
                return
            # Again at every start: who made the collection may have died before this.
            tenant = KeywordIndexParams(type=KeywordIndexType.KEYWORD, is_tenant=True)
            await self._client.create_payload_index(self.collection, "scope", field_schema=tenant, wait=True)
            # No graph for these: every search has a scope, which has one.
            number = IntegerIndexParams(type=IntegerIndexType.INTEGER, lookup=True, range=True, enable_hnsw=False)
            kind = KeywordIndexParams(type=KeywordIndexType.KEYWORD, enable_hnsw=False)
            for field in ("since", "until", "valid", "names"):
                await self._client.create_payload_index(self.collection, field, field_schema=number, wait=True)
            await self._client.create_payload_index(self.collection, "kind", field_schema=kind, wait=True)

    async def _search(self, vector: Vector, words: Words, where: Where, visible: Filter, limit: int) -> Matches:
        from qdrant_client.models import Filter, IdfCorpusParams, QueryRequest, SearchParams, SparseVector

        requests = [QueryRequest(query=list(vector), using="dense", filter=visible, limit=limit)]
        if words.numbers:
            question = SparseVector(indices=list(words.numbers), values=[1.0] * len(words.numbers))
            corpus = SearchParams(idf=IdfCorpusParams(corpus=Filter(must=_base(where))))
            requests.append(QueryRequest(query=question, using="words", filter=visible, params=corpus, limit=limit))
        async with self.translate_errors():
            answers = await self._client.query_batch_points(self.collection, requests=requests)
        found = [[Match(str(point.id), point.score) for point in answer.points] for answer in answers]
        return Matches(*found)

    @property
    def _local(self) -> bool:
        # qdrant-client's stand-in has no payload indexes and warns when asked for one.
        options = self._client.init_options
        return options.get("location") == ":memory:" or bool(options.get("path"))

    @asynccontextmanager
    async def translate_errors(self) -> AsyncIterator[None]:
        """Turn what goes wrong between us and the server into our errors."""
        from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
        from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

        try:
            yield
        except ResourceExhaustedResponse as error:
            raise Unreachable(f"the Qdrant server at {self._where} is too busy: {error.message}") from error
        except UnexpectedResponse as error:
            if error.status_code in (401, 403):
                raise InvalidSettings(
                    f"the Qdrant server at {self._where} refused us with {error.status_code}: it wants a key. "
                    "Hand `Memory` the `ServerIndex.from_client` of a client that has one"
                ) from error
            raise Unreachable(
                f"the Qdrant server at {self._where} answered {error.status_code}: {error.reason_phrase}"
            ) from error
        except ApiException as error:
            raise Unreachable(
                f"the Qdrant server at {self._where} does not answer: {error}. Check PERDURE_INDEX_URL and that it runs"
            ) from error


def _client(url: str) -> AsyncQdrantClient:
    from qdrant_client import AsyncQdrantClient

    if url == ":memory:":
        return AsyncQdrantClient(":memory:")
    try:
        # The check of versions would be a blocking request here, and only warns.
        return AsyncQdrantClient(url=url, timeout=10, check_compatibility=False)
    except ValueError as error:
        raise InvalidSettings(f"PERDURE_INDEX_URL is not the URL of a Qdrant server: {error}") from error


def _base(where: Where) -> list[Condition]:
    from qdrant_client.models import FieldCondition, MatchValue, Range

    return [
        FieldCondition(key="scope", match=MatchValue(value=where.scope)),
        FieldCondition(key="since", range=Range(lte=where.at)),
        FieldCondition(key="until", range=Range(gt=where.at if where.ends_after is None else where.ends_after)),
    ]


def _wanted(where: Where) -> list[Condition]:
    from qdrant_client.models import FieldCondition, MatchAny, MatchValue, Range

    wanted: list[Condition] = [FieldCondition(key="names", match=MatchValue(value=name)) for name in where.names]
    if where.any_names:
        wanted.append(FieldCondition(key="names", match=MatchAny(any=list(where.any_names))))
    if where.kinds:
        wanted.append(FieldCondition(key="kind", match=MatchAny(any=list(where.kinds))))
    if where.valid_from is not None or where.valid_before is not None:
        wanted.append(FieldCondition(key="valid", range=Range(gte=where.valid_from, lt=where.valid_before)))
    return wanted


def _struct(point: Point) -> PointStruct:
    from qdrant_client.models import PointStruct, SparseVector

    vectors: dict[str, VectorOf] = {"dense": list(point.vector)}
    if point.words.numbers:
        vectors["words"] = SparseVector(indices=list(point.words.numbers), values=list(point.words.weights))
    payload = {"scope": point.scope, "since": point.since, "until": point.until, "kind": point.kind}
    return PointStruct(
        id=point.version_id, vector=vectors, payload={**payload, "valid": point.valid, "names": list(point.names)}
    )


def _point(record: Record) -> Point:
    from qdrant_client.models import SparseVector

    assert isinstance(record.vector, dict), "the vectors have names"
    assert record.payload is not None, "every point has one"
    words = record.vector.get("words")
    return Point(
        version_id=str(record.id),
        vector=tuple(cast("list[float]", record.vector["dense"])),
        words=Words(tuple(words.indices), tuple(words.values)) if isinstance(words, SparseVector) else Words(),
        **{**record.payload, "names": tuple(record.payload["names"])},
    )
