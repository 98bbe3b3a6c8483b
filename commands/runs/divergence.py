"""Where a replay parts from what was recorded: the recorded step, and the line of code that does something else."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import temporalio
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHistory
from temporalio.worker import (
    Interceptor,
    StartActivityInput,
    StartChildWorkflowInput,
    StartLocalActivityInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)
from temporalio.workflow import ActivityHandle, ChildWorkflowHandle

import perdure
from perdure.timetravel.contracts import Timeline

_OURS = str(Path(perdure.__file__).parent)
# Written as users write.
_EXAMPLES = str(Path(_OURS, "examples"))
_SDK = str(Path(temporalio.__file__).parent)
_STDLIB = sysconfig.get_path("stdlib")


@dataclass(frozen=True)
class Call:
    """One thing that the workflow's code asks of Temporal while it is replayed."""

    kind: str
    """The activity's or workflow's type."""
    id: str
    source: str
    """FILE:LINE of the user's code, as far as it is on the stack."""
    local: bool = False
    """A local activity is recorded when it ends, so its place among the others says nothing."""

    @property
    def name(self) -> str:
        """The step's name, or what it is."""
        return self.id.partition(":")[2] or self.id or self.kind

    def __str__(self) -> str:
        return f"{self.name!r} ({self.kind}{f', {self.source}' if self.source else ''})"


class Recorder(Interceptor):
    """The worker interceptor that writes down what the replayed code does, in order."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        """Return the interceptor that Temporal creates for the run."""
        calls = self.calls

        class Inbound(WorkflowInboundInterceptor):
            def init(self, outbound: WorkflowOutboundInterceptor) -> None:
                super().init(_Outbound(outbound, calls))

        return Inbound


class _Outbound(WorkflowOutboundInterceptor):
    def __init__(self, next: WorkflowOutboundInterceptor, calls: list[Call]) -> None:
        super().__init__(next)
        self._calls = calls

    def start_activity(self, input: StartActivityInput) -> ActivityHandle[Any]:
        self._calls.append(Call(input.activity, input.activity_id or "", _source()))
        return super().start_activity(input)

    def start_local_activity(self, input: StartLocalActivityInput) -> ActivityHandle[Any]:
        self._calls.append(Call(input.activity, input.activity_id or "", _source(), local=True))
        return super().start_local_activity(input)

    async def start_child_workflow(self, input: StartChildWorkflowInput) -> ChildWorkflowHandle[Any, Any]:
        self._calls.append(Call(input.workflow, input.id, _source()))
        return await super().start_child_workflow(input)


def describe_divergence(timeline: Timeline, history: WorkflowHistory, calls: Sequence[Call]) -> str:
    """Return which step was recorded where the code did something else, and what CALLS say of the code; else nothing."""
    recorded = [step for step in map(_read, history.events) if step is not None]
    made = [call for call in calls if not call.local]
    same = 0
    while same < min(len(recorded), len(made)) and _fits(made[same], recorded[same]):
        same += 1
    names = {step.id: step.name for step in timeline.steps}
    looked_up = [step for step in timeline.steps if step.local][sum(call.local for call in calls) :]
    if same < len(recorded):
        event = recorded[same]
        did = f"the run did {names.get(event.event, event.name)!r} ({event.kind}) at event {event.event}"
    elif looked_up:
        did = f"the run did {looked_up[0].name!r} (perdure.{looked_up[0].kind}) at event {looked_up[0].id}"
    else:
        did = "the run did no more step"
    if same < len(made):
        return f"{did}, where the code does {made[same]}"
    # It has stopped before its next step: at a timer or a message, say, or in a local activity.
    last = calls[-1] if calls else None
    if last is None:
        return f"{did}, where the code does something else at its beginning"
    if last.local:
        return f"{did}, where the code does {last}"
    return f"{did}, where the code does something else after {last}"


@dataclass(frozen=True)
class _Recorded:
    event: int
    kind: str
    id: str

    @property
    def name(self) -> str:
        return self.id.partition(":")[2] or self.id


def _read(event: Any) -> _Recorded | None:
    if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
        activity = event.activity_task_scheduled_event_attributes
        return _Recorded(event.event_id, activity.activity_type.name, activity.activity_id)
    if event.event_type == EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED:
        child = event.start_child_workflow_execution_initiated_event_attributes
        return _Recorded(event.event_id, child.workflow_type.name, child.workflow_id)
    return None


def _fits(call: Call, recorded: _Recorded) -> bool:
    # An activity without an id gets its number from the SDK.
    return call.kind == recorded.kind and (not call.id or call.id == recorded.id)


def _source() -> str:
    """Return FILE:LINE of the innermost frame that is the user's."""
    frame = sys._getframe(1)  # noqa: SLF001  the stack's cheapest view, used by logging as well
    while not _is_users(frame.f_code.co_filename):
        if frame.f_back is None:
            return ""
        frame = frame.f_back
    path = Path(frame.f_code.co_filename)
    return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{frame.f_lineno}"


def _is_users(path: str) -> bool:
    if path.startswith(_OURS):
        return path.startswith(_EXAMPLES)
    return not path.startswith((_SDK, "<")) and (not path.startswith(_STDLIB) or "site-packages" in path)
