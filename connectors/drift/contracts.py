"""How a target describes what it offers, and what is said when that changed. Safe to import in workflow code."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Protocol, runtime_checkable

from pydantic import Field, JsonValue

from perdure.connectors.contracts import Reversibility, Risk
from perdure.lineage import Frozen

ContractSource = Literal["openapi", "graphql", "json-schema", "mcp", "samples", "sql"]


class Operation(Frozen):
    """One thing that a target offers, and how it has to be spoken to."""

    request: dict[str, JsonValue] | None = None
    """JSON Schema of what is sent; None where the target does not say."""
    response: dict[str, JsonValue] | None = None
    """JSON Schema of what comes back; None where the target does not say."""
    description: str = ""
    """Words that a model may act on, as those of an MCP tool. Leave out what only people read."""
    annotations: dict[str, JsonValue] = Field(default_factory=dict)
    """Claims about it, as those of an MCP tool: whether it only reads, whether it destroys."""
    actions: tuple[str, ...] = ()
    """The actions that rely on it."""


class Contract(Frozen):
    """What a target says about how it wants to be spoken to: operations by name."""

    source: ContractSource
    operations: dict[str, Operation]


@runtime_checkable
class HasContract(Protocol):
    """What a connector offers besides, so that a change of its target is seen before it does harm."""

    async def contract(self) -> Contract | None:
        """Ask the target for the contract that the actions rely on. None: it has none to ask for.

        Raises `TargetUnavailable`.
        """
        ...


@runtime_checkable
class HasPinnedContract(Protocol):
    """What a connector offers besides that was made from a description which somebody keeps and has looked at."""

    def pinned(self) -> Contract | None:
        """Return the contract in that description: it is relied on from the start, whatever the target says by then."""
        ...


Verdict = Literal["same", "compatible", "wording", "breaking"]


class Change(Frozen):
    """One difference between the contract that is relied on and the live one."""

    operation: str
    side: Literal["request", "response", "operation", "description", "annotations"]
    path: str = ""
    """Where in the schema, e.g. `/amount` or `/lines/*/sku`."""
    what: str
    verdict: Verdict
    actions: tuple[str, ...] = ()
    """The actions that rely on it."""

    def __str__(self) -> str:
        return f"{self.operation} {self.side}{' ' + self.path if self.path else ''}: {self.what}"


class ContractCheck(Frozen):
    """How the contract that a connector relies on compares with the live one."""

    connector: str
    version: str = ""
    """The connector's version: the digest of everything that it declares."""
    verdict: Verdict
    changes: tuple[Change, ...] = ()
    relied_on: str
    """Digest of the contract in force."""
    live: str
    """Digest of what the target said: what `accept` binds to."""
    blocked: tuple[str, ...] = ()
    """The high-risk actions that are not performed until somebody accepts the change."""
    at: datetime

    def verdict_on(self, action: str) -> Verdict:
        """Return the worst verdict of the changes that ACTION relies on. The worst come first."""
        found: list[Verdict] = [change.verdict for change in self.changes if action in change.actions]
        return found[0] if found else "same"


class CheckContractCall(Frozen):
    """The argument of the workflow and of the activity `perdure.check_contract`."""

    connector: str


class ContractState(Frozen):
    """The result of the workflow and of the activity `perdure.check_contract`."""

    connector: str
    checked: ContractCheck | None = None
    """None: its target has no contract to ask for."""


class ActionFact(Frozen):
    """What is told of an action in lists."""

    name: str
    risk: Risk
    reversibility: Reversibility
    reads: bool
    undo: str = ""
    mechanism: str = ""
    listed: bool = False


class ConnectorFacts(Frozen):
    """What is told of a connector in lists."""

    name: str
    version: str
    actions: tuple[ActionFact, ...]
