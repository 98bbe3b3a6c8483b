"""Which run and which step is this, in a way that survives the retry of a step, reset and continue-as-new."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import NamedTuple

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
    """The run that began it. A retry of the whole workflow and each run by cron begin one of their own, though Temporal
    calls the first run of all of them their first execution."""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.workflow_id}/{self.first_execution_run_id}"


class Continues(Frozen):
    """What a run says in a header to its continuation: that it goes on with the lineage that begins with the run FIRST."""

    first: str
    after: str
    """The run that said so. Temporal hands the header on to a retry of the run and to its successor by cron as well, and
    those come after another run."""


class RunStart(NamedTuple):
    """What Temporal says of how a run began: the same after a reset, which copies the event."""

    first_run: str
    """The first of its chain of continuations, retries and runs by cron."""
    run: str
    """The run that began so; after a reset it goes on under another id."""
    after: str
    """The run before it in the chain; empty if it is the first."""
    attempt: int
    cron: bool


def first_run_of_lineage(
    start: RunStart, said: Continues | None, *, carried: bool, by_chain_before: Callable[[], bool]
) -> str:
    """Return the id of the run with which the lineage of a run begins that started as START.

    Only a continue-as-new goes on with what the run before it did, and SAID is that it is one. A retry of the whole
    workflow or the next run by cron does everything anew. Workers of 0.1 CARRIED things over without saying so.
    BY_CHAIN_BEFORE tells whether the run began when all of a chain counted as one lineage.
    """
    if not start.after:
        return start.first_run
    if said is not None and said.after == start.after:
        return said.first
    if carried and start.attempt == 1 and not start.cron:
        return start.first_run
    return start.first_run if by_chain_before() else start.run


class StepRef(Frozen):
    """One step of a run: its name is unique within the lineage."""

    lineage: Lineage
    name: str
    run_id: str = ""
    workflow_type: str = ""

    def __str__(self) -> str:
        return f"{self.lineage}/{self.name}"


def digest(value: JsonValue) -> str:
    """Return `sha256:HEX` over VALUE's canonical JSON (RFC 8785), so that equal values have equal digests.

    Raises `ValueError` for what is no JSON: infinity, not a number, half a character.
    """
    try:
        content = rfc8785.dumps(value)
    except rfc8785.IntegerDomainError:
        # Whole numbers beyond 2**53 have no canonical form, and bounds of 64 bits stand in many a schema.
        content = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    return "sha256:" + hashlib.sha256(content).hexdigest()


def model_digest(value: BaseModel) -> str:
    """Return the `digest` of VALUE as it goes over the wire."""
    return digest(value.model_dump(mode="json"))
