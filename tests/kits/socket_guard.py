"""Who is connected to, so that a test can say that it is nobody else."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def guarded_sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Note the hosts that anybody in this process connects to or asks the address of; only loopback is reached."""
    seen: list[str] = []
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def note(host: object) -> None:
        seen.append(str(host))
        if str(host) not in {"127.0.0.1", "::1", "localhost", "None"}:
            raise OSError(f"no way to {host} from here")

    def connected(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            note(address[0])
        connect(self, address)

    def looked_up(host: Any, *given: Any, **more: Any) -> Any:
        note(host.decode() if isinstance(host, bytes) else host)
        return look_up(host, *given, **more)

    with monkeypatch.context() as patch:
        # asyncio connects by `sock_connect`, which calls the same; what it resolves comes through `getaddrinfo`.
        patch.setattr(socket.socket, "connect", connected)
        patch.setattr(socket, "getaddrinfo", looked_up)
        yield seen
