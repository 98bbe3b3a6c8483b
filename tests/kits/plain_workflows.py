"""Workflows that know nothing of perdure, in a module of their own for the sandbox."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow


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
