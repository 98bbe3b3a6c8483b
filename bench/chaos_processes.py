"""How the processes of bench/chaos.py are started: tied to it, and in an environment of their own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from perdure.commands.dev import child_process

ROOT = Path(__file__).resolve().parent.parent
_NOT_OURS = ("PERDURE_", "TEMPORAL_", "SSL_CERT_", "PYTHONDONTWRITEBYTECODE")


async def start(
    module: str, argument: str, home: Path, *, more: Mapping[str, str] | None = None, says: bool = True
) -> asyncio.subprocess.Process:
    """Start MODULE with ARGUMENT. What it SAYS on stdout is read from a pipe; all else goes to the file `log` in HOME."""
    with (home / "log").open("ab") as log:
        return await child_process.start(
            [sys.executable, "-m", module, argument],
            env=environment(home) | dict(more or {}),
            stdout=asyncio.subprocess.PIPE if says else log.fileno(),
            stderr=log.fileno(),
        )


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a process that keeps its files in HOME."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_OURS)}
    return kept | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [kept.get("PYTHONPATH")])]),
        # Many processes that live for a moment: none of them should compile the modules again.
        "PYTHONPYCACHEPREFIX": kept.get("PYTHONPYCACHEPREFIX", str(home.parent / "bytecode")),
        # Nothing here speaks TLS, and each of them would read all the certificates that there are.
        "SSL_CERT_DIR": str(home),
        "PERDURE_CONFIG": os.devnull,
        "TEMPORAL_CONFIG_FILE": os.devnull,
    }
