"""A stand-in for a Qdrant server: its REST protocol over a socket, checked by qdrant-client's models of it.

What is asked is answered by qdrant-client's local mode, so it searches as that does. It can be stopped and started again
with what it holds, and tells what it was asked. There is no package of the server itself.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from pydantic import TypeAdapter
from qdrant_client import QdrantClient, models
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


class QdrantStandIn:
    """A server at `url`, once `start` is done."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        """Method, path below the collection and body of each request."""
        self.fail_with = 0
        """The status that every request gets instead of an answer, if not 0."""
        self._holds = QdrantClient(":memory:")
        self._serving: tuple[uvicorn.Server, asyncio.Task[None]] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = int(free.getsockname()[1])
        self._app = Starlette(
            routes=[
                Route("/collections/{name}/exists", self._exists),
                Route("/collections/{name}", self._collection, methods=["PUT", "DELETE"]),
                Route("/collections/{name}/{what:path}", self._points, methods=["PUT", "POST"]),
            ]
        )

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def collections(self) -> list[str]:
        """What it has."""
        return sorted(each.name for each in self._holds.get_collections().collections)

    async def start(self) -> None:
        """Answer from now on."""
        config = uvicorn.Config(self._app, port=self._port, log_config=None, lifespan="off", timeout_graceful_shutdown=5)
        server = uvicorn.Server(config)
        taken = socket.socket()
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", self._port))
        taken.listen()
        self._serving = server, asyncio.create_task(_serve(server, taken))

    async def stop(self) -> None:
        """Refuse connections from now on. What it holds stays."""
        if self._serving is not None:
            server, task = self._serving
            server.should_exit = True
            await task
            self._serving = None

    async def _exists(self, request: Request) -> JSONResponse:
        return self._answer(request, None, {"exists": self._holds.collection_exists(request.path_params["name"])})

    async def _collection(self, request: Request) -> JSONResponse:
        name = request.path_params["name"]
        if request.method == "DELETE":
            return self._answer(request, None, self._holds.delete_collection(name))
        body = await request.json()
        wanted = models.CreateCollection.model_validate(body)
        if self._holds.collection_exists(name):
            return JSONResponse({"status": {"error": f"Collection `{name}` already exists!"}}, 409)
        self._holds.create_collection(name, vectors_config=wanted.vectors, sparse_vectors_config=wanted.sparse_vectors)
        return self._answer(request, body, True)

    async def _points(self, request: Request) -> JSONResponse:
        name, what, body = request.path_params["name"], request.path_params["what"], await request.json()
        if not self._holds.collection_exists(name):
            return JSONResponse({"status": {"error": f"Not found: Collection `{name}` doesn't exist!"}}, 404)
        done = {"operation_id": 1, "status": "completed"}
        holds = self._holds
        match request.method, what:
            case "PUT", "index":
                models.CreateFieldIndex.model_validate(body)
                return self._answer(request, body, done)
            case "PUT", "points":
                holds.upsert(name, models.PointsList.model_validate(body).points)
                return self._answer(request, body, done)
            case "POST", "points/delete":
                holds.delete(name, models.PointIdsList.model_validate(body))
                return self._answer(request, body, done)
            case "POST", "points/query/batch":
                asked = models.QueryRequestBatch.model_validate(body).searches
                return self._answer(request, body, holds.query_batch_points(name, asked))
            case "POST", "points":
                wanted = models.PointRequest.model_validate(body)
                found = holds.retrieve(name, wanted.ids, bool(wanted.with_payload), with_vectors=bool(wanted.with_vector))
                return self._answer(request, body, found)
            case "POST", "points/count":
                return self._answer(request, body, holds.count(name))
            case "POST", "points/scroll":
                page = models.ScrollRequest.model_validate(body)
                points, after = holds.scroll(
                    name, limit=page.limit or 10, offset=page.offset, with_payload=True, with_vectors=True
                )
                return self._answer(request, body, {"points": points, "next_page_offset": after})
        return JSONResponse({"status": {"error": f"the stand-in knows no {request.method} {what}"}}, 501)

    def _answer(self, request: Request, body: object, result: object) -> JSONResponse:
        if self.fail_with:
            return JSONResponse({"status": {"error": "as told"}}, self.fail_with, headers={"Retry-After": "1"})
        self.asked.append((request.method, request.path_params.get("what", ""), body))
        said = TypeAdapter(object).dump_python(result, mode="json", exclude_none=True)
        return JSONResponse({"result": said, "status": "ok", "time": 0.001})


@asynccontextmanager
async def qdrant_stand_in() -> AsyncIterator[QdrantStandIn]:
    """Yield one that runs."""
    server = QdrantStandIn()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def _serve(server: uvicorn.Server, taken: socket.socket) -> None:
    # Not `serve`, which takes over the signals of the process.
    await server._serve([taken])
