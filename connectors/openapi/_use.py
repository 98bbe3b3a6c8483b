"""What somebody says of an operation of an OpenAPI document, so that it can become an action."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from pydantic import Field, JsonValue, field_validator

from perdure.connectors.contracts import Mechanism, Reversibility, Risk
from perdure.connectors.http import Listing
from perdure.lineage import Frozen

__all__ = ["Undoing", "Use", "Value"]

Value = str | int | float | bool | None | list[JsonValue] | dict[str, JsonValue]
"""A constant, or a runtime expression as in OpenAPI's links: `$response.body#/id`, `$request.path.order`."""

EXPRESSION: Final = re.compile(r"\$(response\.body|request\.body|request\.(?:path|query|header)\.([^#]+))(?:#((?:/.*)?))?")


class Undoing(Frozen):
    """Which action takes another one back, and where its arguments come from."""

    action: str
    """The name of another action of the same connector, without the connector's."""
    args: Mapping[str, Value]
    """Its arguments by name."""

    @field_validator("args")
    @classmethod
    def _expressions(cls, args: Mapping[str, Value]) -> Mapping[str, Value]:
        for name, value in args.items():
            if isinstance(value, str) and value.startswith("$") and not EXPRESSION.fullmatch(value):
                raise ValueError(
                    f"{name}: {value!r} is none of $response.body#/FIELD, $request.body#/FIELD, $request.path.NAME, "
                    "$request.query.NAME and $request.header.NAME"
                )
        return args


class Use(Frozen):
    """How one operation becomes an action. What is not said is taken to be so that nothing happens twice."""

    operation: str
    """Its operationId, or `METHOD /path`."""
    risk: Risk | None = None
    """None: low if it only reads, else high."""
    reads: bool | None = None
    """Whether it only looks. None: a GET does, anything else does not."""
    reversibility: Reversibility | None = None
    """None: compensatable if it has an undo, else irreversible."""
    undo: Undoing | None = None
    remove: Undoing | None = None
    """How one that should not be at the target is taken away, where that is not what `undo` does."""
    mechanism: Mechanism = "none"
    key: str = ""
    """For `header` the header with the effect's key, Idempotency-Key if empty; for `natural-key` the field of the body."""
    key_lifetime: timedelta | None = None
    replays_errors: bool = False
    probe: str = ""
    """The request that finds an effect by its `{key}`, e.g. `GET /refunds?reference={key}`."""
    found: str = ""
    """Where the probe's answer has its list of matches, e.g. `data`; empty if the answer is the list, or the one match."""
    probe_next: str = ""
    """Where the probe's answer has the address of its next page, e.g. `links.next`, or `Link` for that header."""
    remote_ref: str = "id"
    """The field of the answer by which the target calls what now exists."""
    settle: timedelta = timedelta(seconds=5)
    deadline: timedelta = timedelta(seconds=30)
    untouched: tuple[int, ...] = (429,)
    """The statuses with which the target says that it has done nothing and may be asked again."""
    exists: tuple[int, ...] = ()
    """The statuses with which the target refuses what it has already: it is looked up again then."""
    once_per: tuple[str, ...] = ()
    """The arguments that name what may happen once in the world, whatever run asks."""
    describe: str = ""
    """One line for people, e.g. `refund {amount} for order {order}`; no secrets."""
    fixed: Mapping[str, JsonValue] = Field(default_factory=dict)
    """Arguments that are always the same. Who uses the action does not give them."""
    content_type: str = ""
    """Which of the described media types the body is sent as. Empty: JSON if it is one of them, and the only kind of it."""
    answer: tuple[str, ...] = ()
    """The fields of the answer that are read and relied on. Empty: all that are described."""
    listing: Listing | None = None
    """Where the target lists what the action has made."""
