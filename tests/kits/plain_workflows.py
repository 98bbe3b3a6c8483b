"""Workflows that know nothing of perdure, in a module of their own for the sandbox."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio import activity, workflow
from temporalio.common import VersioningBehavior


@workflow.defn
class Ferry:
    """A workflow that crosses when it is called, whoever is still boarding."""

    def __init__(self) -> None:
        self._called = ""

    @workflow.run
    async def run(self, minutes: float) -> str:
        """Return who called."""
        await workflow.sleep(timedelta(minutes=minutes))
        await workflow.wait_condition(lambda: bool(self._called))
        return self._called

    @workflow.signal
    def call(self, name: str) -> None:
        """Have it cross."""
        self._called = name

    @workflow.update
    async def call_at_once(self, name: str) -> str:
        """Have it cross, and say so."""
        self._called = name
        return name

    @workflow.signal(unfinished_policy=workflow.HandlerUnfinishedPolicy.ABANDON)
    async def board(self, minutes: float) -> None:
        """Take a while to board."""
        await workflow.sleep(timedelta(minutes=minutes))

    @workflow.query
    def called(self) -> str:
        """Say who called."""
        return self._called


@workflow.defn
class Fleet:
    """A workflow that has a ferry cross as its child."""

    @workflow.run
    async def run(self, minutes: float) -> str:
        """Return who called the ferry."""
        ferry = await workflow.start_child_workflow(Ferry.run, minutes)
        await ferry.signal(Ferry.call, "the fleet")
        return await ferry


@dataclass
class Parcel:
    """Bytes, and a moment."""

    content: bytes
    seconds: int = 0


@activity.defn
async def carry_bytes(content: bytes) -> bytes:
    """Return CONTENT."""
    return content


@activity.defn
async def carry_message(moment: Timestamp) -> Timestamp:
    """Return MOMENT."""
    return moment


@workflow.defn
class Porter:
    """A workflow that carries what it is given through an activity and a local one."""

    @workflow.run
    async def run(self, load: Parcel) -> Parcel:
        """Return the load as it came back."""
        wait = timedelta(seconds=30)
        carried = await workflow.execute_activity(carry_bytes, load.content, start_to_close_timeout=wait)
        near = await workflow.execute_local_activity(carry_bytes, carried, start_to_close_timeout=wait)
        moment = await workflow.execute_activity(carry_message, Timestamp(seconds=7), start_to_close_timeout=wait)
        return Parcel(near, moment.seconds)


@workflow.defn
class Waits:
    """A workflow that tidies up when it is cancelled."""

    @workflow.run
    async def run(self) -> str:
        """Wait until somebody cancels it."""
        try:
            await workflow.wait_condition(lambda: False)
        except asyncio.CancelledError:
            await workflow.execute_activity(carry_bytes, b"tidy", start_to_close_timeout=timedelta(seconds=30))
            raise
        return ""


@workflow.defn(versioning_behavior=VersioningBehavior.PINNED)
class Pinned:
    """A workflow that stays with the version of the worker that began it."""

    @workflow.run
    async def run(self) -> str:
        """Return the build that runs it."""
        await workflow.sleep(timedelta(milliseconds=1))
        version = workflow.info().get_current_deployment_version()
        return version.build_id if version else ""
