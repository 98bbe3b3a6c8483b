"""What one call puts on the wire, and what comes back, whatever LiteLLM does in between.

LiteLLM has a transport for each provider. Some send a request again by themselves when a connection breaks or a body is
refused, some fetch files, and each tells of failures in its own way. So we stand where all of them have to pass: a call
that is watched sends one request, fetches nothing, and its answer is known as it came.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

LONGEST = 64 * 1024 * 1024
"""So many bytes of an answer are read. What goes on longer counts as cut off."""

_current: ContextVar[Wire | None] = ContextVar("perdure_wire", default=None)


class NotSent(Exception):
    """A request that was not let through: a second one of the same call, or one for something else."""


@dataclass
class Wire:
    """What one call has put on the wire, and what came back."""

    requests: int = 0
    """Requests that were made, also those that reached nobody."""
    sent: bool = False
    """Whether any of the last one may have reached somebody."""
    status: int | None = None
    """The status that it was answered with."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Their names are in lower case."""
    body: bytes = b""
    complete: bool = False
    """Whether all of the answer arrived."""
    longest: int = LONGEST
    watches_answers: bool = True
    """Whether an answer that came as a success may be an error by its body. A file is whatever it is."""
    rehearsal: bool = False
    """Whether nothing is sent, and only what would be is kept."""
    rehearsed: bytes = b""
    _posted: dict[str, BaseException | None] = field(default_factory=dict)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Watch the requests that are made within, also by threads that LiteLLM starts there."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def admit(self, request: httpx.Request, *, blocking: bool = False) -> None:
        """Let REQUEST go out, or raise. BLOCKING: whoever makes it keeps its thread waiting."""
        if blocking and request.method == "GET":
            raise NotSent("a call fetches nothing besides")
        if self.rehearsal:
            self.rehearsed = request.content
            raise NotSent("this is a rehearsal")
        if request.method == "POST":  # others than the call itself may be asked again, say whether a job is done
            where = str(request.url.copy_with(query=None))
            if where in self._posted:
                raise self._posted[where] or NotSent("a call is one request")
            self._posted[where] = None
        self.requests += 1
        self.sent, self.status, self.headers, self.body, self.complete = False, None, {}, b"", False

    def fail(self, request: httpx.Request, error: BaseException) -> None:
        """Note that REQUEST ended with ERROR, which whoever makes it again gets again."""
        if request.method == "POST":
            self._posted[str(request.url.copy_with(query=None))] = error

    def begin_answer(self, response: httpx.Response) -> None:
        """Note the head of RESPONSE."""
        self.sent = True
        self.status = response.status_code
        self.headers = {name.lower(): value for name, value in response.headers.items()}

    def take(self, chunk: bytes, kept: bytearray) -> None:
        """Add CHUNK to what is KEPT of the answer. Raises `NotSent` if that is too much."""
        kept += chunk
        if len(kept) > self.longest:
            raise NotSent("the answer has no end")

    def end_answer(self, response: httpx.Response, kept: bytearray) -> httpx.Response:
        """Note that all of RESPONSE, which is what was KEPT, has arrived, and return it in one piece."""
        import httpx

        self.body, self.complete = bytes(kept), True
        # It is decoded, and of a length of its own. A redirect would be a second call, with the prompt, to who knows whom.
        gone = {"content-encoding", "content-length", "transfer-encoding", "location"}
        headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in gone]
        whole = httpx.Response(
            response.status_code,
            headers=headers,
            content=self.body,
            request=response.request,
            extensions=response.extensions,
        )
        whole.elapsed = timedelta()  # whoever asks wants a number
        return whole


def install() -> None:
    """Stand in the way of all requests that LiteLLM makes by httpx or aiohttp. Those that no `Wire` watches pass."""
    import httpx

    aiohttp_transport: Any = importlib.import_module("litellm.llms.custom_httpx.aiohttp_transport").LiteLLMAiohttpTransport
    for transport in (aiohttp_transport, httpx.AsyncHTTPTransport):
        _watch_async(transport)
    _watch_blocking(httpx.HTTPTransport)


def _watch_async(transport: Any) -> None:  # LiteLLM's classes are not followed by the type checkers
    send = transport.handle_async_request
    if getattr(send, "watched", False):
        return

    async def handle_async_request(self: Any, request: httpx.Request) -> httpx.Response:
        wire = _current.get()
        if wire is None:
            response: httpx.Response = await send(self, request)
            return response
        wire.admit(request)
        if hasattr(self, "get_valid_client_session"):
            _trace(self.get_valid_client_session())
        else:
            request.extensions = {**request.extensions, "trace": _note_async}
        try:
            response = await send(self, request)
            response.request = request
            wire.begin_answer(response)
            kept = bytearray()
            try:
                async for chunk in response.aiter_bytes():
                    wire.take(chunk, kept)
            except Exception:
                if response.status_code < 300:
                    raise
                # Its status says enough.
            finally:
                await response.aclose()
        except BaseException as error:
            wire.fail(request, error)
            raise
        return wire.end_answer(response, kept)

    handle_async_request.watched = True  # type: ignore[attr-defined]  # so that it is done once
    transport.handle_async_request = handle_async_request


def _watch_blocking(transport: Any) -> None:
    send = transport.handle_request
    if getattr(send, "watched", False):
        return

    def handle_request(self: Any, request: httpx.Request) -> httpx.Response:
        wire = _current.get()
        if wire is None:
            response: httpx.Response = send(self, request)
            return response
        wire.admit(request, blocking=True)
        request.extensions = {**request.extensions, "trace": _note}
        try:
            response = send(self, request)
            response.request = request
            wire.begin_answer(response)
            kept = bytearray()
            try:
                for chunk in response.iter_bytes():
                    wire.take(chunk, kept)
            except Exception:
                if response.status_code < 300:
                    raise
            finally:
                response.close()
        except BaseException as error:
            wire.fail(request, error)
            raise
        return wire.end_answer(response, kept)

    handle_request.watched = True  # type: ignore[attr-defined]  # so that it is done once
    transport.handle_request = handle_request


def _note(event: str, _: Mapping[str, object]) -> None:
    """Hear of an EVENT from httpcore: from here on the other side may have got something."""
    wire = _current.get()
    if wire is not None and event.endswith(".send_request_headers.started"):
        wire.sent = True


async def _note_async(event: str, info: Mapping[str, object]) -> None:
    _note(event, info)


_tracing: Any = None


def _trace(session: Any) -> None:
    """Have aiohttp say when a request of SESSION begins to be sent: until then no connection has come about."""
    global _tracing
    if _tracing is None:
        aiohttp: Any = importlib.import_module("aiohttp")
        _tracing = aiohttp.TraceConfig()
        _tracing.on_request_headers_sent.append(_note_headers)
        _tracing.freeze()
    if _tracing not in session.trace_configs:
        session.trace_configs.append(_tracing)


async def _note_headers(_: object, __: SimpleNamespace, ___: object) -> None:
    if (wire := _current.get()) is not None:
        wire.sent = True
