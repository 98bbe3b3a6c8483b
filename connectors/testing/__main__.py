"""The fault proxy as a process of its own: `python -m perdure.connectors.testing --target http://127.0.0.1:8100`."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from datetime import timedelta
from typing import cast

from perdure.connectors.testing.faults import EVERY_FAULT, Fault, Faults
from perdure.connectors.testing.http_proxy import HttpFaultProxy
from perdure.connectors.testing.tcp_proxy import POSSIBLE, TcpFaultProxy


def main(arguments: list[str] | None = None) -> None:
    """Stand before a target until SIGTERM or SIGINT, then print how often which fault came."""
    parser = _parser()
    options = parser.parse_args(arguments)
    http = options.target.startswith(("http://", "https://"))
    given = vars(options)
    odds = {fault: given[_name(fault)] for fault in EVERY_FAULT if given.get(_name(fault))}
    try:
        faults = Faults(
            odds=cast(dict[Fault, float], odds),
            seed=options.seed,
            late=timedelta(seconds=options.late),
            retry_after=timedelta(seconds=options.retry_after),
            possible=EVERY_FAULT if http else POSSIBLE,
        )
    except ValueError as error:
        parser.error(str(error))
    asyncio.run(_stand(options, faults, http=http))


async def _stand(options: argparse.Namespace, faults: Faults, *, http: bool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if http:
        async with HttpFaultProxy(options.target, faults, port=options.port) as proxy:
            _say({"ready": True, "url": proxy.url})
            await stop.wait()
    else:
        async with TcpFaultProxy(options.target, at=options.at.encode(), faults=faults, port=options.port) as tcp:
            _say({"ready": True, "host": tcp.host, "port": tcp.port})
            await stop.wait()
    _say({"drawn": dict(faults.drawn)})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m perdure.connectors.testing", description="A proxy that has requests to TARGET go wrong."
    )
    parser.add_argument("--target", required=True, help="http://HOST:PORT, or HOST:PORT, or the path of a Unix socket")
    parser.add_argument("--port", type=int, default=0, help="0 takes any free one")
    parser.add_argument("--at", default="", help="without HTTP: faults strike where the client sends this, e.g. COMMIT")
    for fault in EVERY_FAULT[1:]:
        parser.add_argument(f"--{_name(fault).replace('_', '-')}", type=float, default=0.0, metavar="SHARE")
    parser.add_argument("--late", type=float, default=0.5, metavar="SECONDS")
    parser.add_argument("--retry-after", type=int, default=1, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=None)
    return parser


def _name(fault: str) -> str:
    return fault.replace(" ", "_")


def _say(facts: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
