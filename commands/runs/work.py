"""What `perdure run` does: read what was given, start the run, watch it, say how it ended."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import typer

from perdure.commands.exits import Exit
from perdure.commands.inputs import is_plan, read_json, read_plan
from perdure.commands.on_worker import explain_no_worker, last_poll
from perdure.commands.options import Format, Options
from perdure.commands.output import (
    emit,
    emit_line,
    one_line,
    say,
    stderr_console,
    to_json,
)
from perdure.commands.runs import follow
from perdure.commands.runs.views import view
from perdure.commands.session import terminal_user
from perdure.errors import InvalidInput

if TYPE_CHECKING:
    from pydantic import JsonValue
    from temporalio.client import WorkflowHandle

    from perdure.commands.session import Session
    from perdure.timetravel.contracts import Timeline
    from perdure.workflows.plan_model import Plan


_MISFIT = re.compile(r"does not fit: |was started with \d+ inputs")


@dataclass(frozen=True)
class Start:
    """What is to be started, and how it is watched."""

    workflow: str
    plan: Plan | None
    has_input: bool
    input: JsonValue
    workflow_id: str
    again: bool
    task_queue: str | None
    detach: bool
    wait: float | None

    @classmethod
    def read(
        cls,
        workflow: str,
        given: str | None,
        *,
        workflow_id: str | None,
        again: bool,
        task_queue: str | None,
        detach: bool,
        wait: float | None,
    ) -> Start:
        """Return what was asked for, read and checked as far as that goes without a server."""
        if again and workflow_id is None:
            raise InvalidInput("--again goes with --id: without it each run has an id of its own")
        plan = read_plan(Path(workflow)) if is_plan(workflow) else None
        value = read_json(given)
        if plan is not None:
            from perdure.activities.plan_check import check_input

            check_input(plan, value)
        return cls(
            workflow=workflow,
            plan=plan,
            has_input=given is not None,
            input=value,
            workflow_id=workflow_id or f"{plan.name if plan else workflow}-{uuid4().hex[:8]}",
            again=again,
            task_queue=task_queue,
            detach=detach,
            wait=wait,
        )


async def start_and_watch(session: Session, options: Options, start: Start) -> None:
    """Start the run and, unless it is detached, watch it; end with the exit code that says how it went."""
    handle = await _start(session, start)
    run_id = handle.first_execution_run_id or handle.result_run_id or ""
    link = session.links.run(handle.id, run_id)
    if start.detach:
        await _detached(session, options, start, handle.id, run_id)
        return
    say(f"started {handle.id}" + (f"  {link}" if link else ""))
    until = None if start.wait is None else time.monotonic() + start.wait
    try:
        with view(sys.stderr, lines=options.format is Format.jsonl) as shown:
            timeline = await follow.follow(session, handle.id, run_id, shown, until=until)
    except follow.UnknownWorkflow as error:
        # Nothing of it has run, and nothing ever would.
        await handle.terminate(error.message)
        await _remove(session, handle.id, run_id)
        raise
    except BaseException:
        say(f"the run goes on: `perdure show {handle.id}` shows it, `perdure cancel {handle.id}` ends it")
        raise
    if (misfit := _misfit(timeline)) is not None:
        await _remove(session, handle.id, run_id)
        raise InvalidInput(misfit)
    _finish(options, timeline, link)


async def _start(session: Session, start: Start) -> WorkflowHandle[object, object]:
    from temporalio.common import SearchAttributePair, TypedSearchAttributes, WorkflowIDReusePolicy
    from temporalio.exceptions import WorkflowAlreadyStartedError

    from perdure.workflows import PlanRun, attributes

    plan, attached = start.plan, TypedSearchAttributes.empty
    if plan is not None:
        attached = TypedSearchAttributes([SearchAttributePair(attributes.PLAN, plan.name)])
    arguments = [PlanRun(plan=plan, input=start.input)] if plan else [start.input] if start.has_input else []
    try:
        return await session.client.start_workflow(
            "perdure.plan" if plan else start.workflow,
            args=arguments,
            id=start.workflow_id,
            task_queue=start.task_queue or session.settings.task_queue,
            # What a run has done is not done twice because a script, or a person, starts it a second time.
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE
            if start.again
            else WorkflowIDReusePolicy.REJECT_DUPLICATE,
            search_attributes=attached,
            static_summary=_summary(start),
            static_details=_details(start),
        )
    except WorkflowAlreadyStartedError:
        raise await _used_already(session, start.workflow_id) from None


def _misfit(timeline: Timeline) -> str | None:
    """Return why the input does not fit the workflow, if that is why none of its code has run."""
    failure = timeline.run.failure
    if failure is None or timeline.steps or failure.type != "InvalidInput" or not _MISFIT.search(failure.message):
        return None
    return f"the input does not fit workflow {timeline.run.workflow_type}: {failure.message}"


async def _remove(session: Session, workflow_id: str, run_id: str) -> None:
    """Have a run deleted that has done nothing, so that what was mistyped does not stay in the list.

    The server does it some seconds later; until then the id counts as used.
    """
    from temporalio.api.common.v1 import WorkflowExecution
    from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest
    from temporalio.service import RPCError

    execution = WorkflowExecution(workflow_id=workflow_id, run_id=run_id)
    try:
        await session.client.workflow_service.delete_workflow_execution(
            DeleteWorkflowExecutionRequest(namespace=session.client.namespace, workflow_execution=execution)
        )
    except RPCError as error:  # not everybody who may start runs may delete them
        say(f"perdure: {workflow_id} did nothing and stays in the list: {error.message}")


async def _used_already(session: Session, workflow_id: str) -> InvalidInput:
    _, description = await session.find_run(workflow_id)
    state = description.status.name.lower().replace("_", " ") if description.status else "closed"
    if state == "running":
        return InvalidInput(
            f"a run with the id {workflow_id!r} is running: `perdure show {workflow_id}`. Give another --id."
        )
    return InvalidInput(
        f"a run with the id {workflow_id!r} was started before and is {state}: `perdure show {workflow_id}`. An id is used "
        "once. Give another --id, or --again to do it all once more."
    )


async def _detached(session: Session, options: Options, start: Start, workflow_id: str, run_id: str) -> None:
    link = session.links.run(workflow_id, run_id)
    queue = start.task_queue or session.settings.task_queue
    if await last_poll(session.client, queue) is None:
        say(f"perdure: {await explain_no_worker(session.client, queue)}")
    if options.format is Format.text:
        say(f"started {workflow_id}" + (f"  {link}" if link else ""))
        sys.stdout.write(workflow_id + "\n")
        return
    emit_line({"workflow_id": workflow_id, "run_id": run_id, "state": "running", "link": link})


def _finish(options: Options, timeline: Timeline, link: str) -> None:
    run = timeline.run
    if options.format is Format.json:
        emit(run_summary(timeline, link))
    elif options.format is Format.jsonl:
        emit_line({"event": "run", **run_summary(timeline, link)})
    else:
        from perdure.commands.runs import tree

        console = stderr_console()
        console.print(next(tree.run_headline(timeline)))
        for text in tree.run_ending(timeline):
            if not text.plain.startswith("result "):
                console.print(text)
        if run.state == "completed":
            sys.stdout.write(to_json(run.result, indent=2) + "\n")
    if run.state == "running":
        raise typer.Exit(Exit.WAITING)
    if run.state != "completed":
        raise typer.Exit(Exit.REJECTED if run.rejected else Exit.RUN_FAILED)


def run_summary(timeline: Timeline, link: str = "") -> dict[str, object]:
    """Return what programs want to know of a run."""
    run = timeline.run
    error = {"type": run.failure.type, "message": run.failure.message} if run.failure else None
    return {
        "workflow_id": run.workflow_id,
        "run_id": run.run_id,
        "workflow_type": run.workflow_type,
        "plan": run.plan,
        "state": _state(timeline),
        **({"error": error} if error else {"result": run.result}),
        "cost_usd": run.cost_usd,
        "model_calls": run.model_calls,
        "prompt_tokens": run.prompt_tokens,
        "completion_tokens": run.completion_tokens,
        "steps": len(timeline.steps),
        "started": run.started,
        "ended": run.ended,
        "seconds": (run.ended - run.started).total_seconds() if run.started and run.ended else None,
        "approvals": [request.model_dump(mode="json") for request in timeline.open_approvals],
        "parked": [parked.model_dump(mode="json") for parked in timeline.parked],
        "link": link,
    }


def _state(timeline: Timeline) -> str:
    if timeline.open_approvals:
        return "waiting_approval"
    return "parked" if timeline.parked else timeline.run.state.replace(" ", "_")


def _summary(start: Start) -> str:
    if start.plan is None:
        return f"{start.workflow}, started by {terminal_user()}"
    said = start.plan.description or f"plan of {len(start.plan.steps)} steps, started by {terminal_user()}"
    return one_line(f"{start.plan.name}: {said}", 200)


def _details(start: Start) -> str:
    """Return what the Web UI shows above the run. No input: these details travel in URLs."""
    if start.plan is None:
        return f"Started by {terminal_user()} with `perdure run {start.workflow}`."
    steps = [f"1. `{step.id}`{_when(step.when)}" for step in start.plan.steps]
    text = "\n".join([start.plan.description, "", *steps, "", f"Started by {terminal_user()} with `perdure run`."]).strip()
    return text if len(text) <= 5000 else text[:5000] + "…"


def _when(condition: str | None) -> str:
    return f" when `{condition}`" if condition else ""
