"""When a run goes on as a new one, so that its history stays far from the server's limits."""

from __future__ import annotations

from temporalio import workflow


async def renew(*args: object, events: int | None = None) -> None:
    """Continue as new with ARGS, the workflow's inputs, if the history has become long; else return at once.

    Long is what the server says (4,096 events or 4 MiB by default), or more than EVENTS. Conversations, with what was said
    and not answered yet, step names and costs go along by themselves; the workflow's own attributes do not. Call it between
    two turns of a loop, outside of a saga and of signal handlers.
    """
    info = workflow.info()
    if not (info.is_continue_as_new_suggested() or (events is not None and info.get_current_history_length() > events)):
        return
    await workflow.wait_condition(workflow.all_handlers_finished)
    workflow.continue_as_new(args=args)
