"""What tests of the command line share: how a command ended, and its environment."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent.parent
PLAN = str(TESTS / "commands" / "note.yaml")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # whatever the command says
        """The one JSON value on stdout."""
        return json.loads(self.out)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The list of JSON values on stdout, or the lines of them."""
        found = json.loads(self.out) if self.out.startswith("[") else [json.loads(line) for line in self.out.splitlines()]
        return list(found)


Perdure = Callable[..., Ended]


def environment(address: str, home: Path) -> dict[str, str]:
    """Return the environment of a command."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PERDURE_", "TEMPORAL_", "COLUMNS"))}
    return kept | {"TEMPORAL_ADDRESS": address, "TEMPORAL_CONFIG_FILE": os.devnull, "PERDURE_HOME": str(home)}


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    """Return once HOLDS says so; it asks another process, which gives no event."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def ask(desk: Perdure, workflow_id: str, workflow: str = "Asks", *arguments: str) -> str:
    """Start WORKFLOW under WORKFLOW_ID, return when it waits for a person, and give back the id."""
    assert 0 == desk("run", workflow, "--id", workflow_id, "-d", *arguments).code
    until(lambda: workflow_id in {waits for waits, _ in waiting(desk)})
    return workflow_id


def waiting(desk: Perdure) -> set[tuple[str, str]]:
    """Return what people are asked: the run and the approval's name."""
    return {(row["workflow_id"], row["approval"]) for row in desk("approval", "list", "-o", "json").rows}


def read_terminal(descriptor: int) -> str:
    """Return all that is written to the terminal whose main side is DESCRIPTOR, until the other side is closed."""
    said = b""
    while True:
        try:
            data = os.read(descriptor, 4096)
        except OSError:  # Linux's way to say that the other end is closed
            data = b""
        if not data:
            return said.decode()
        said += data
