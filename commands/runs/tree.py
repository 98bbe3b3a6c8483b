"""How a step reads: one line, and what stands under it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from perdure.commands.output import (
    describe_verdict,
    format_duration,
    format_time,
    format_usd,
    one_line,
    printable,
)
from perdure.governance.contracts import DECIDE

if TYPE_CHECKING:
    from pydantic import JsonValue
    from rich.text import Text

    from perdure.timetravel.contracts import RunFacts, Step, Timeline

_MARKS = {
    "done": ("✓", "+", "green"),
    "failed": ("✗", "x", "red"),
    "cancelled": ("∅", "-", "dim"),
    "retrying": ("↻", "~", "yellow"),
    "running": ("•", ">", "cyan"),
    "scheduled": ("○", "o", "dim"),
}
_ENDS = {
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
    "terminated": "red",
    "timed out": "red",
    "continued": "cyan",
    "running": "cyan",
}
_PARKED_VERDICTS = "with --happened --remote-ref REF, --did-not-happen or --send-again"
MAX_SHOWN = 240
"""How many characters of a value a line shows when not everything is wanted."""


def step_line(step: Step) -> Text:
    """Return STEP as one line: how it stands, its name, what it is about, what came of it, how long it took."""
    from rich.text import Text

    mark, ascii_mark, style = _MARKS[step.state]
    text = Text(overflow="fold")
    text.append(mark if _unicode() else ascii_mark, style=style)
    text.append(f" {printable(step.name)}", style="bold")
    if step.kind not in (step.name, "activity"):
        text.append(f" {step.kind}", style="dim")
    for part in filter(None, (step_subject(step), step_outcome(step))):
        text.append(f"  {part}")
    if trouble := _trouble(step):
        text.append(f"  {trouble}", style="red" if step.state == "failed" else "yellow")
    if span := _span(step):
        text.append(f"  {span}", style="dim")
    return text


def step_subject(step: Step) -> str:
    """Return what STEP is about, unless its name says it already."""
    summary = one_line(step.summary, MAX_SHOWN)
    if step.kind in ("ask", "decision", "recall", "remember", "undo") or summary == step.name:
        return ""
    if step.kind == "generate" and summary == f"Ask a model: {step.name.removeprefix('generate:')}":
        return ""
    return summary


def step_outcome(step: Step) -> str:
    """Return what came of STEP, in a few words."""
    match step.kind:
        case "generate" if step.model:
            record = step.model
            tokens = f"{record.usage.prompt_tokens}+{record.usage.completion_tokens} tokens"
            sure = f", {step.confidence:.0%} sure" if step.confidence is not None else ""
            return f"{record.model} ({record.deployment}){sure}, {tokens}, {format_usd(record.usage.cost_nano_usd)}"
        case "recall" if step.memory:
            found = ", ".join(f"{name} v{version} ({score:.2f})" for name, version, score in step.memory.returned)
            return f"{step.memory.scope}: {found or 'nothing known'}"
        case "remember" if step.remembered:
            return f"{step.remembered.memory_id} v{step.remembered.version}"
        case "act" | "undo":
            return ", ".join(filter(None, (step.outcome, _receipt(step))))
        case "ask" if step.request:
            request = step.request
            return printable(
                f"{request.of}: {request.question} (risk {request.risk}, until {format_time(request.deadline)})"
            )
        case "decision":
            return _decision(step)
        case "timer":
            return f"until {format_time(step.next_attempt)}" if step.open else ""
        case "signal" | "update":
            return printable(f"{_message(step)} from {step.by}")
        case "child" | "sent":
            return printable(f"{'run' if step.kind == 'child' else 'to'} {step.child}")
        case "cancel":
            return printable(f"from {step.by}")
    return ""


def step_details(step: Step, *, full: bool) -> Iterator[str]:
    """Yield the lines under STEP: what it was given, what it answered; whole with FULL."""
    limit = 0 if full else MAX_SHOWN
    given, answer = (step.inputs, step.result) if full else (_given(step), _answer(step))
    if given not in (None, [], {}):
        yield f"in   {one_line(given, limit)}"
    if answer is not None:
        yield f"out  {one_line(answer, limit)}"
    if step.receipt:
        # A read has no key: it may be repeated, so nothing has to be recognised.
        key = f"key  {step.receipt.key}, " if step.receipt.key else ""
        yield printable(f"{key}answer {step.receipt.response_digest or 'not digested'}")
    if step.request:
        yield printable(f"bound to {step.request.digest}")
    if full and step.by:
        yield printable(f"by   {step.by}")


def run_headline(timeline: Timeline, link: str = "") -> Iterator[Text]:
    """Yield the lines that say what run this is and how it stands."""
    from rich.text import Text

    run = timeline.run
    state = "waiting for approval" if timeline.open_approvals else "parked" if timeline.parked else run.state
    first = Text(printable(run.workflow_id), style="bold")
    first.append(f"  {printable(run.plan or run.workflow_type)}", style="not bold")
    first.append(f"  {state}", style=f"not bold {_ENDS.get(state, 'yellow')}")
    first.append("  " + ", ".join(filter(None, (_run_span(run), _spent(run)))), style="not bold dim")
    yield first
    began = f"run {run.run_id}, started by {run.started_by} at {format_time(run.started)}, {run.events} events"
    yield Text(printable(began), style="dim")
    if run.summary:
        yield Text(one_line(run.summary, MAX_SHOWN), style="dim")
    for name, value in (("reset of", run.reset_from), ("continues", run.continued_from), ("child of", run.parent)):
        if value:
            yield Text(printable(f"{name} {value}"), style="dim")
    if link:
        yield Text(link, style="dim")


def run_ending(timeline: Timeline, *, full: bool = True) -> Iterator[Text]:
    """Yield the lines that say how the run ended, or what it waits for."""
    from rich.text import Text

    run, limit = timeline.run, 0 if full else MAX_SHOWN
    for request in timeline.open_approvals:
        yield Text(
            printable(f"waits for {request.of} until {format_time(request.deadline)}: {request.question}"), style="yellow"
        )
        yield Text(printable(f"  perdure approval approve {run.workflow_id}{_which(timeline, request.approval)}"))
    for parked in timeline.parked:
        verdicts = "with --as-new-generation or --did-not-happen" if parked.changed else _PARKED_VERDICTS
        yield Text(printable(f"{parked.step} waits for a person: {parked.why}"), style="yellow")
        yield Text(printable(f"  perdure effects show {parked.effect}"))
        yield Text(printable(f"  perdure effects resolve {parked.effect} --comment WHY {verdicts}"))
    if run.blocked:
        yield Text(printable(f"its code cannot go on: {run.blocked}"), style="red")
    for failure in run.failure.chain if run.failure else []:
        yield Text(printable(str(failure)), style="red")
    if run.continued_to:
        yield Text(printable(f"goes on as run {run.continued_to}"))
    if run.result is not None:
        yield Text(f"result {one_line(run.result, limit)}")


def _receipt(step: Step) -> str:
    if step.receipt is None:
        return ""
    receipt = step.receipt
    parts = [f"receipt {receipt.remote_ref}" if receipt.remote_ref else ""]
    parts.append("found by a look-up" if receipt.confirmed_by == "probe" else "")
    parts.append(f"sent {receipt.sent} times" if receipt.sent > 1 else "")
    return printable(", ".join(filter(None, parts)))


def _decision(step: Step) -> str:
    decision = step.decision
    if decision is None:
        return f"nobody decided: {step.outcome}" if step.outcome else ""
    said = describe_verdict(decision.verdict)
    checked = "verified" if decision.verified else "name not verified"
    comment = f": {one_line(decision.comment, MAX_SHOWN)}" if decision.comment else ""
    return printable(f"{said} by {decision.by} ({checked}, {decision.via}, {format_time(decision.decided_at)}){comment}")


def _message(step: Step) -> str:
    said = step.inputs
    if step.name == DECIDE and isinstance(said, dict):
        return f"{said.get('verdict')} {said.get('approval')} as {said.get('by')}"
    return one_line(said, 80)


def _trouble(step: Step) -> str:
    if step.failure is None and step.attempts <= 1:
        return ""
    said = one_line(str(step.failure), MAX_SHOWN) if step.failure else ""
    if step.state == "failed":
        return f"{said}{f' ({step.attempts} attempts)' if step.attempts > 1 else ''}"
    if step.open:
        again = (
            f", next {format_time(step.next_attempt)}"
            if step.next_attempt and step.next_attempt > datetime.now(UTC)
            else ""
        )
        return f"attempt {step.attempts}{again}; {said}" if said else f"attempt {step.attempts}"
    return f"attempt {step.attempts}; before: {said}" if said else f"attempt {step.attempts}"


def _span(step: Step) -> str:
    # A local activity's start is not recorded, and a message takes no time.
    if step.ended is None or step.local or step.kind in ("signal", "update", "cancel"):
        return ""
    return format_duration(step.ended - step.scheduled)


def _run_span(run: RunFacts) -> str:
    return format_duration((run.ended or datetime.now(UTC)) - run.started) if run.started else ""


def _spent(run: RunFacts) -> str:
    if not run.model_calls:
        return ""
    return f"{run.model_calls} model call{'s' if run.model_calls > 1 else ''}, {format_usd(run.cost_nano_usd)}"


def _which(timeline: Timeline, approval: str) -> str:
    return f" {approval}" if len(timeline.open_approvals) > 1 else ""


def _given(step: Step) -> JsonValue:
    """Return what STEP was called with, without what its line says already."""
    call = step.inputs
    if not isinstance(call, dict) or step.kind in ("activity", "child", "sent"):
        return None if step.kind in ("signal", "update") else call
    match step.kind:
        case "generate":
            return call.get("inputs")
        case "act":
            return call.get("args")
        case "remember":
            return call.get("content")
        case "ask":
            return step.request.about if step.request else call
        case "decision" | "undo" | "signal" | "update":
            return None
    return call


def _answer(step: Step) -> JsonValue:
    """Return what STEP answered, without what its line says already."""
    result = step.result
    if not isinstance(result, dict):
        return result
    match step.kind:
        case "generate" | "act":
            return result.get("value")
        case "recall":
            hits = result.get("hits")
            return [_content(hit) for hit in hits] if isinstance(hits, list) and hits else None
        case "ask" | "decision" | "remember" | "undo" | "update":
            return None
    return result


def _content(hit: JsonValue) -> JsonValue:
    record = hit.get("record") if isinstance(hit, dict) else None
    return record.get("content") if isinstance(record, dict) else hit


def _unicode() -> bool:
    # The real stream: a live view puts something else in its place.
    encoding = getattr(sys.__stderr__, "encoding", None) or "ascii"
    return encoding.lower().startswith("utf")
