"""The vector index on a Qdrant server, which several workers share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version as installed
from typing import TYPE_CHECKING

from perdure.errors import InvalidSettings, Unreachable
from perdure.memory.embed import Embedder, Vector
from perdure.memory.index import Entry, Near, Point

if TYPE_CHECKING:
    from qdrant_client import AsyncQdrantClient


class ServerIndex:
    """An `Index` in one collection of a Qdrant server. Made by `open`, or by `over` from a client that you made.

    The collection is named after the embedder's version, so another embedder never finds vectors it cannot compare with.
    """

    def __init__(self, client: AsyncQdrantClient, embedder: Embedder, *, where: str) -> None:
        self._client = client
        self._where = where
        self._dimensions = embedder.dimensions
        self._collection = f"perdure_memory_{embedder.version}"
        self.version = f"qdrant-client {installed('qdrant-client')}, {embedder.name} {embedder.version}"

    @classmethod
    async def open(cls, url: str, embedder: Embedder) -> ServerIndex:
        """Connect to the Qdrant server at URL and make the collection if it is missing."""
        from qdrant_client import AsyncQdrantClient

        try:
            # The check of versions would be a blocking request here, and only warns.
            client = AsyncQdrantClient(url=url, timeout=10, check_compatibility=False)
        except ValueError as error:
            raise InvalidSettings(f"PERDURE_INDEX_URL is not the URL of a Qdrant server: {error}") from error
        try:
            return await cls.over(client, embedder, where=url)
        except BaseException:
            await client.close()
            raise

    @classmethod
    async def over(cls, client: AsyncQdrantClient, embedder: Embedder, *, where: str = "the given client") -> ServerIndex:
        """Use CLIENT, for instance `AsyncQdrantClient(":memory:")`, and make the collection if it is missing."""
        index = cls(client, embedder, where=where)
        await index._make_if_missing()
        return index

    async def upsert(self, points: Sequence[Point]) -> None:
        """Put POINTS in, in place of older ones of the same versions, and wait until they are found."""
        if not points:
            return
        from qdrant_client.models import PointStruct

        made = [
            PointStruct(
                id=point.version_id,
                vector=list(point.vector),
                payload={"scope": point.scope, "since": point.since, "until": point.until},
            )
            for point in points
        ]
        async with self._reached():
            await self._client.upsert(self._collection, points=made, wait=True)

    async def delete(self, version_ids: Sequence[str]) -> None:
        """Take the points of VERSION_IDS out."""
        if not version_ids:
            return
        from qdrant_client.models import PointIdsList

        async with self._reached():
            await self._client.delete(self._collection, points_selector=PointIdsList(points=list(version_ids)), wait=True)

    async def query(self, vector: Vector, *, scope: str, at: int, limit: int, ends_after: int | None = None) -> list[Near]:
        """Return up to LIMIT points in SCOPE that could be recalled AT that microsecond, nearest to VECTOR first."""
        from qdrant_client.models import FieldCondition, Filter, MatchValue, Range

        visible = Filter(
            must=[
                FieldCondition(key="scope", match=MatchValue(value=scope)),
                FieldCondition(key="since", range=Range(lte=at)),
                FieldCondition(key="until", range=Range(gt=at if ends_after is None else ends_after)),
            ]
        )
        async with self._reached():
            found = await self._client.query_points(
                self._collection, query=list(vector), query_filter=visible, limit=limit, with_payload=False
            )
        return [Near(str(point.id), point.score) for point in found.points]

    async def present(self, version_ids: Sequence[str]) -> set[str]:
        """Return those of VERSION_IDS that have a point."""
        async with self._reached():
            found = await self._client.retrieve(self._collection, ids=list(version_ids), with_payload=False)
        return {str(record.id) for record in found}

    async def count(self) -> int:
        """Return how many points there are."""
        async with self._reached():
            return (await self._client.count(self._collection, exact=True)).count

    async def scan(self, *, after: str = "", limit: int = 256) -> list[Entry]:
        """Return up to LIMIT points in the order of their ids, from the first beyond AFTER on."""
        async with self._reached():
            # The offset is the first id wanted, so the last one of the page before comes again.
            found, _ = await self._client.scroll(
                self._collection, limit=limit + 1, offset=after or None, with_payload=True, with_vectors=True
            )
        return [
            Entry(str(each.id), each.payload["scope"], each.payload["since"], each.payload["until"], _vector(each.vector))
            for each in found
            if each.payload is not None and str(each.id) != after
        ][:limit]

    async def scrub(self) -> None:
        """Do nothing: a server merges its segments itself, by the optimizer settings of the collection."""

    async def clear(self) -> None:
        """Drop the collection and make it anew."""
        async with self._reached():
            await self._client.delete_collection(self._collection)
        await self._make_if_missing()

    async def close(self) -> None:
        """Close the connections, also those of a client that was handed in."""
        await self._client.close()

    async def _make_if_missing(self) -> None:
        from qdrant_client.http.exceptions import UnexpectedResponse
        from qdrant_client.models import Distance, KeywordIndexParams, KeywordIndexType, PayloadSchemaType, VectorParams

        async with self._reached():
            if not await self._client.collection_exists(self._collection):
                try:
                    await self._client.create_collection(
                        self._collection, vectors_config=VectorParams(size=self._dimensions, distance=Distance.COSINE)
                    )
                except UnexpectedResponse as error:
                    if error.status_code != 409:  # another worker made it just now
                        raise
            if self._local:
                return
            # Again at every start: who made the collection may have died before this.
            tenant = KeywordIndexParams(type=KeywordIndexType.KEYWORD, is_tenant=True)
            await self._client.create_payload_index(self._collection, "scope", field_schema=tenant, wait=True)
            for field in ("since", "until"):
                await self._client.create_payload_index(
                    self._collection, field, field_schema=PayloadSchemaType.INTEGER, wait=True
                )

    @property
    def _local(self) -> bool:
        # qdrant-client's stand-in has no payload indexes and warns when asked for one.
        options = self._client.init_options
        return options.get("location") == ":memory:" or bool(options.get("path"))

    @asynccontextmanager
    async def _reached(self) -> AsyncIterator[None]:
        from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

        try:
            yield
        except UnexpectedResponse as error:
            if error.status_code in (401, 403):
                raise InvalidSettings(
                    f"the Qdrant server at {self._where} refused us with {error.status_code}: it wants a key. "
                    "Hand `Memory` a `ServerIndex.over` a client that has one"
                ) from error
            raise Unreachable(
                f"the Qdrant server at {self._where} answered {error.status_code}: {error.reason_phrase}"
            ) from error
        except ApiException as error:
            raise Unreachable(
                f"the Qdrant server at {self._where} does not answer: {error}. Check PERDURE_INDEX_URL and that it runs"
            ) from error


def _vector(vector: object) -> Vector:
    assert isinstance(vector, list), "the collection has one plain vector a point"
    return tuple(vector)
