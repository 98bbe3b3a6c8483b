"""Where the returns desk refunds: a STAND-IN for a shop's API, for demos and tests. No real money moves.

    python -m perdure.examples.returns_desk.shop --port 8100 --db shop.db --orders orders.json

Like many real APIs it does nothing against repeats: a request sent twice makes two refunds, whatever headers it has. On
demand it loses requests (the connection drops before anything is done), loses responses (it drops after) and lets requests
land late (it drops at once, and what was asked for is done some time after). Its books are in SQLite and survive a kill.
It describes itself at `/openapi.json`, and `POST /release` puts another version of that, and of itself, into service.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Literal, cast
from urllib.parse import parse_qs, urlsplit

from perdure.examples.returns_desk.shop_api import (
    RELEASES,
    document,
    translate_refund,
    translate_request,
)
from perdure.examples.returns_desk.shop_books import Books, Json, RequestRefused

NOTICE = "a stand-in for a shop's API, for demos and tests: no real money moves"

Fault = Literal["none", "lose request", "lose response", "land late"]
_FAULTS: tuple[Fault, ...] = ("none", "lose request", "lose response", "land late")


@dataclass(frozen=True)
class Odds:
    """How often which fault comes, and what comes next for sure."""

    lose_requests: float = 0.0
    lose_responses: float = 0.0
    land_late: float = 0.0
    late: float = 0.5
    """How many seconds later a late request lands."""
    latency: float = 0.0
    """How many seconds a writing request takes before anything is done."""
    seed: int | None = None
    next: tuple[Fault, ...] = ()
    """The faults of the next writing requests, before chance decides."""

    def __post_init__(self) -> None:
        shares = (self.lose_requests, self.lose_responses, self.land_late)
        if min(shares) < 0 or sum(shares) > 1 or min(self.late, self.latency) < 0:
            raise ValueError(
                "the shares of the faults are between 0 and 1, no more than 1 together, and times are not negative"
            )
        if not set(self.next) <= set(_FAULTS):
            raise ValueError(f"next: a fault is one of {', '.join(_FAULTS)}")


@dataclass
class Faults:
    """What goes wrong with writing requests."""

    odds: Odds
    counts: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _random: random.Random = field(default_factory=random.Random)

    def set(self, change: Mapping[str, object]) -> None:
        """Change the odds. Raises `TypeError` or `ValueError` if CHANGE makes no sense."""
        with self._lock:
            change = dict(change) | ({"next": tuple(cast(list[Fault], change["next"]))} if "next" in change else {})
            self.odds = replace(self.odds, **change)  # type: ignore[arg-type]  # checked by Odds
            if change.get("seed") is not None:
                self._random.seed(self.odds.seed)

    def draw(self) -> Fault:
        """Return what goes wrong with the next writing request."""
        with self._lock:
            fault = self._draw()
            self.counts[fault] += 1
            return fault

    def _draw(self) -> Fault:
        if self.odds.next:
            first, *rest = self.odds.next
            self.odds = replace(self.odds, next=tuple(rest))
            return first
        point = self._random.random()
        for fault, share in zip(
            _FAULTS[1:], (self.odds.lose_requests, self.odds.lose_responses, self.odds.land_late), strict=True
        ):
            if point < share:
                return fault
            point -= share
        return "none"

    def to_json(self) -> Json:
        """Return the odds and how often which fault came."""
        with self._lock:
            return {**asdict(self.odds), "drawn": dict(self.counts)}


class Shop(ThreadingHTTPServer):
    """The shop's API over its BOOKS."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int, books: Books, faults: Faults) -> None:
        super().__init__(("127.0.0.1", port), _Conversation)
        self.books = books
        self.faults = faults
        self.release = RELEASES[0]

    def handle_error(self, request: object, client_address: object) -> None:
        """Take it quietly when a client has gone; anything else is a bug of ours."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # the library's own two arguments


class _Conversation(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "stand-in-shop"
    disable_nagle_algorithm = True
    server: Shop  # pyright: ignore[reportIncompatibleVariableOverride]  BaseHTTPRequestHandler knows only some server

    def do_GET(self) -> None:
        """Answer a look-up."""
        self._serve(self._look_up)

    def do_POST(self) -> None:
        """Answer what changes something, faults included."""
        length = int(self.headers.get("Content-Length") or 0)
        content = self.rfile.read(length)
        if len(content) < length:
            self.close_connection = True
            return
        path = urlsplit(self.path).path
        if path == "/faults":
            self._serve(lambda: self._set_faults(_parse_body(content)))
            return
        if path == "/release":
            self._serve(lambda: self._set_release(_parse_body(content)))
            return
        time.sleep(self.server.faults.odds.latency)
        fault = self.server.faults.draw()
        if fault == "none":
            self._serve(lambda: self._change(path, _parse_body(content)))
            return
        if fault == "lose response":
            self._change_unheard(path, content)
        elif fault == "land late":
            late = threading.Timer(self.server.faults.odds.late, self._change_unheard, (path, content))
            late.daemon = True
            late.start()
        self._hang_up()

    def _look_up(self) -> tuple[int, object]:
        path, query = (
            urlsplit(self.path).path,
            {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()},
        )
        books = self.server.books
        match path.strip("/").split("/"):
            case [""]:
                return 200, {"what": NOTICE}
            case ["openapi.json"]:
                return 200, document(self.server.release)
            case ["orders", number]:
                return 200, books.order(number)
            case ["refunds"]:
                return 200, [
                    translate_refund(self.server.release, refund) for refund in books.refunds(query.get("reference"))
                ]
            case ["reservations"]:
                return 200, books.reservations(query.get("reference"), query.get("released_by"))
            case ["faults"]:
                return 200, self.server.faults.to_json()
        raise RequestRefused(404, f"there is nothing at {path}")

    def _change(self, path: str, asked: Json) -> tuple[int, object]:
        match path.strip("/").split("/"):
            case ["refunds"]:
                release = self.server.release
                return 201, translate_refund(release, self.server.books.refund(translate_request(release, asked)))
            case ["reservations"]:
                return 201, self.server.books.reserve(asked)
            case ["reservations", name, "release"]:
                return 200, self.server.books.release(name, asked)
        raise RequestRefused(404, f"there is nothing at {path}")

    def _set_faults(self, asked: Json) -> tuple[int, object]:
        try:
            self.server.faults.set(asked)
        except (TypeError, ValueError) as error:
            raise RequestRefused(422, str(error)) from None
        return 200, self.server.faults.to_json()

    def _set_release(self, asked: Json) -> tuple[int, object]:
        if asked.get("release") not in RELEASES:
            raise RequestRefused(422, f"release is one of {', '.join(RELEASES)}")
        self.server.release = str(asked["release"])
        return 200, {"release": self.server.release}

    def _change_unheard(self, path: str, content: bytes) -> None:
        try:
            self._change(path, _parse_body(content))
        except RequestRefused:
            self.server.faults.counts["refused unheard"] += 1

    def _serve(self, answer: Callable[[], tuple[int, object]]) -> None:
        try:
            status, body = answer()
        except RequestRefused as refused:
            status, body = refused.status, {"error": refused.error}
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name is the standard library's
        """Say nothing: the books tell what happened."""


def main(arguments: list[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    options = _parser().parse_args(arguments)
    odds = Odds(options.lose_requests, options.lose_responses, options.land_late, options.late, options.latency)
    faults = Faults(odds)
    faults.set({"seed": options.seed})
    books = Books(options.db, json.loads(options.orders.read_text()))
    shop = Shop(options.port, books, faults)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        # shutdown() waits for the loop that this handler interrupts.
        threading.Thread(target=shop.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    port = shop.server_address[1]
    sys.stderr.write(f"This is {NOTICE}. It listens on http://127.0.0.1:{port}\n")
    sys.stdout.write(json.dumps({"ready": True, "what": NOTICE, "port": port, "url": f"http://127.0.0.1:{port}"}) + "\n")
    sys.stdout.flush()
    shop.serve_forever(poll_interval=0.05)
    shop.server_close()
    books.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="shop", description=f"This is {NOTICE}.")
    parser.add_argument("--port", type=int, default=0, help="0 takes any free one")
    parser.add_argument("--db", type=Path, required=True, help="the SQLite file of the books")
    parser.add_argument("--orders", type=Path, required=True, help="a JSON list of orders")
    parser.add_argument("--lose-requests", type=float, default=0.0, metavar="SHARE")
    parser.add_argument("--lose-responses", type=float, default=0.0, metavar="SHARE")
    parser.add_argument("--land-late", type=float, default=0.0, metavar="SHARE")
    parser.add_argument("--late", type=float, default=0.5, metavar="SECONDS")
    parser.add_argument("--latency", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=None)
    return parser


def _parse_body(content: bytes) -> Json:
    try:
        parsed = json.loads(content or b"{}")
    except ValueError:
        raise RequestRefused(400, "the body is not JSON") from None
    if not isinstance(parsed, dict):
        raise RequestRefused(400, "the body is not an object")
    return parsed


if __name__ == "__main__":
    main()
