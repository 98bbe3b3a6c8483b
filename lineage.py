"""Which run and which step is this, in a way that survives retry, reset and continue-as-new."""

from __future__ import annotations

import hashlib

import rfc8785
from pydantic import BaseModel, ConfigDict, JsonValue


class Frozen(BaseModel):
    """A model that crosses the wire: immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Lineage(Frozen):
    """The run, named by what a reset or a continue-as-new leaves alone.

    The run id changes with a reset and the activity id does not, so neither may be part of an effect's key.
    """

    namespace: str
    workflow_id: str
    first_execution_run_id: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.workflow_id}/{self.first_execution_run_id}"


class StepRef(Frozen):
    """One step of a run: its name is unique within the lineage."""

    lineage: Lineage
    name: str
    run_id: str = ""
    workflow_type: str = ""

    def __str__(self) -> str:
        return f"{self.lineage}/{self.name}"


def digest(value: JsonValue) -> str:
    """Return `sha256:HEX` over VALUE's canonical JSON (RFC 8785), so that equal values have equal digests."""
    return "sha256:" + hashlib.sha256(rfc8785.dumps(value)).hexdigest()


def model_digest(value: BaseModel) -> str:
    """Return the `digest` of VALUE as it goes over the wire."""
    return digest(value.model_dump(mode="json"))
