"""Workflows with payloads of each kind, and one that the sandbox refuses, in a module of their own for the sandbox."""

from __future__ import annotations

from datetime import timedelta

from temporalio import activity, workflow


@activity.defn(name="echo")
async def echo(text: str) -> str:
    """Return TEXT."""
    return text


@workflow.defn
class Child:
    """Returns what it is told by a signal."""

    @workflow.init
    def __init__(self, text: str) -> None:
        self.told = ""

    @workflow.run
    async def run(self, text: str) -> str:
        """Return TEXT and what comes."""
        await workflow.wait_condition(lambda: bool(self.told))
        return text + self.told

    @workflow.signal
    def note(self, text: str) -> None:
        """Take TEXT."""
        self.told = text


@workflow.defn
class Contexts:
    """Has payloads of each kind: an activity's, a local one's, a child's, a signal's, its own."""

    @workflow.run
    async def run(self, queue: str) -> list[str]:
        """Return what came back."""
        here = workflow.info().workflow_id
        wait = timedelta(seconds=30)
        made = await workflow.execute_activity("echo", "a", activity_id="one", start_to_close_timeout=wait, result_type=str)
        near = await workflow.execute_local_activity(echo, "b", start_to_close_timeout=wait)
        child = await workflow.start_child_workflow(Child.run, "c", id=f"{here}-child")
        await workflow.get_external_workflow_handle(child.id).signal("note", "d")
        return [made, near, await child]


@workflow.defn
class OpensAFile:
    """Does what a workflow may not."""

    @workflow.run
    async def run(self) -> None:
        """Open a file."""
        open("/etc/hostname").close()  # noqa: ASYNC230, PTH123  what the sandbox knows
