"""The test kit as a command: the fault matrix of a case, or a fault proxy as a process of its own.

python -m perdure.connectors.testing my_tests:letters
python -m perdure.connectors.testing --target http://127.0.0.1:8100 --lose-response 0.2
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import inspect
import json
import signal
import sys
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import cast

from perdure.connectors.testing.faults import EVERY_FAULT, Fault, Faults
from perdure.connectors.testing.http_proxy import HttpFaultProxy
from perdure.connectors.testing.matrix import Case, Matrix, check
from perdure.connectors.testing.tcp_proxy import POSSIBLE, TcpFaultProxy
from perdure.errors import InvalidInput


def main(arguments: list[str] | None = None) -> None:
    """Run the fault matrix of a case, or stand before a target until SIGTERM or SIGINT and print which faults came.

    Exits with 1 if the connector of the case does not keep its word.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if bool(options.case) == bool(options.target):
        parser.error("give either a case, MODULE:NAME, or --target")
    if options.case:
        try:
            matrix = asyncio.run(_try_case(options.case))
        except InvalidInput as error:
            parser.error(error.message)
        sys.stdout.write(f"{matrix}\n")
        raise SystemExit(1 if matrix.problems else 0)
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
    asyncio.run(_serve(options, faults, http=http))


async def _try_case(name: str) -> Matrix:
    async with AsyncExitStack() as stack:
        made = _load(name)
        if callable(made):
            made = made()
        if isinstance(made, AbstractAsyncContextManager):
            made = await stack.enter_async_context(made)
        elif inspect.isawaitable(made):
            made = await made
        if not isinstance(made, Case):
            raise InvalidInput(f"{name} is {type(made).__name__}; it has to be a Case, or a function that makes one")
        try:
            return await check(made)
        finally:
            await made.connector.close()


def _load(name: str) -> object:
    module, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: object = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidInput(f"{name} cannot be found: {error}. Write MODULE:NAME, as in my_tests:letters") from None
    return found


async def _serve(options: argparse.Namespace, faults: Faults, *, http: bool) -> None:
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
        prog="python -m perdure.connectors.testing",
        description="Try a connector under every fault, or have a proxy make requests to TARGET go wrong.",
    )
    parser.add_argument(
        "case",
        nargs="?",
        metavar="MODULE:NAME",
        help="a Case to try, or a function that makes one, also async or an async context manager",
    )
    parser.add_argument("--target", help="http://HOST:PORT, or HOST:PORT, or the path of a Unix socket")
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
