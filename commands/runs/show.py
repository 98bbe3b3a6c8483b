"""`perdure show`: the audit trail of one run, out of Temporal's history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from perdure.commands.options import Format, Options, takes_options
from perdure.commands.output import (
    emit,
    emit_line,
    out,
    plain,
)
from perdure.commands.session import Session, perform

if TYPE_CHECKING:
    from perdure.timetravel.contracts import Timeline

RunArgument = Annotated[
    str, typer.Argument(help="The run: its workflow id, or WORKFLOW_ID/RUN_ID.", metavar="RUN", show_default=False)
]


@takes_options
def show(
    options: Options,
    run: RunArgument,
    full: Annotated[bool, typer.Option("--full", help="Cut nothing: whole inputs and results.")] = False,
) -> None:
    """Show what a run did, step by step.

    Read from Temporal's history: each step with its inputs, model and cost, memory used, receipt, who approved what, and
    its attempts and why they failed.
    """

    async def work(session: Session) -> None:
        timeline = await read(session, run)
        if options.format is Format.json:
            emit(timeline)
        elif options.format is Format.jsonl:
            for step in timeline.steps:
                emit_line(step)
        else:
            _print(timeline, session.links.run(timeline.run.workflow_id, timeline.run.run_id), full=full)

    perform(work, options)


async def read(session: Session, run: str) -> Timeline:
    """Return the timeline of RUN as it stands, attempts under way included."""
    from perdure.timetravel.timeline import Scribe

    _, description = await session.find(run)
    scribe = Scribe(session.converter, workflow_id=description.id)
    pinned = session.client.get_workflow_handle(description.id, run_id=description.run_id)
    async for event in pinned.fetch_history_events():
        await scribe.feed(event)
    await scribe.pending(description.raw_description.pending_activities)
    return scribe.timeline


def _print(timeline: Timeline, link: str, *, full: bool) -> None:
    from rich.text import Text
    from rich.tree import Tree

    from perdure.commands.runs import tree

    console = out()
    root = Tree(Text("\n").join(tree.headline(timeline, link)), guide_style="dim")
    for step in timeline.steps:
        node = root.add(tree.line(step))
        for detail in tree.details(step, full=full):
            value = detail.startswith(("in ", "out ")) and not full
            node.add(Text(plain(detail), style="dim", no_wrap=value, overflow="ellipsis" if value else "fold"))
    console.print(root)
    for text in tree.ending(timeline, full=full):
        console.print(text)
