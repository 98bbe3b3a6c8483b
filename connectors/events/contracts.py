"""What an event of the stream says. Safe to import in workflow code."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field, JsonValue

from perdure.lineage import Frozen


class NewEvent(Frozen):
    """Something that happened, before it has its place in the stream."""

    id: str = Field(min_length=1)
    """The same event twice has the same one, whoever brings it."""
    type: str
    """`effect.STATE`, `finding.STATE`, `reconciliation.done`, `contract.VERDICT`, `contract.accepted`, `inbound.TYPE`."""
    source: str
    """The connector, or whoever sent it."""
    subject: str = ""
    """What it is about: an effect's key, a finding's id."""
    data: dict[str, JsonValue] = Field(default_factory=dict)
    at: datetime


class StreamEvent(NewEvent):
    """An event of the stream. CURSOR goes up; who has read up to one asks for those after it."""

    cursor: int
