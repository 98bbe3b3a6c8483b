"""How a workflow is put on a schedule, so that a worker does something again and again."""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel

from perdure.commands.output import say
from perdure.commands.session import Session
from perdure.errors import NotFound

_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


async def schedule_on_worker(
    session: Session, workflow: str, name: str, call: BaseModel, every: timedelta | None, *, stop: bool
) -> None:
    """Have the worker run WORKFLOW with CALL from now on so often, or, with STOP, no more."""
    from temporalio.client import (
        Schedule,
        ScheduleActionStartWorkflow,
        ScheduleAlreadyRunningError,
        ScheduleIntervalSpec,
        ScheduleOverlapPolicy,
        SchedulePolicy,
        ScheduleSpec,
        ScheduleUpdate,
    )
    from temporalio.service import RPCError, RPCStatusCode

    id = f"{workflow}/{name}"
    handle = session.client.get_schedule_handle(id)
    if stop:
        try:
            await handle.delete()
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            raise NotFound(f"there is no schedule {id!r}") from None
        say(f"no more {id}")
        return
    assert every is not None
    schedule = Schedule(
        action=ScheduleActionStartWorkflow(
            workflow,
            call,
            id=f"{workflow.removeprefix('perdure.').replace('_', '-')}-{name}",
            task_queue=session.settings.task_queue,
            static_summary=f"{name}, on schedule",
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=every)]),
        # One that takes longer than the interval is not followed by a second one at the same time.
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP),
    )
    try:
        await session.client.create_schedule(id, schedule, trigger_immediately=True)
    except ScheduleAlreadyRunningError:
        await handle.update(lambda _: ScheduleUpdate(schedule=schedule))
        await handle.trigger()
    say(f"{id} every {format_interval(every)}, on task queue {session.settings.task_queue!r}")


def format_interval(time: timedelta) -> str:
    """Return TIME as it is given on a command line, e.g. 1d12h."""
    left, text = round(time.total_seconds()), ""
    for unit, seconds in _UNITS:
        count, left = divmod(left, seconds)
        text += f"{count}{unit}" if count else ""
    return text or "0s"
