"""What one run did, out of Temporal's history."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.commands.options import Format, Options
from perdure.commands.output import emit, emit_rows, printable, stdout_console

if TYPE_CHECKING:
    from perdure.commands.session import Session
    from perdure.timetravel.contracts import Timeline


async def print_run(session: Session, options: Options, run: str, *, full: bool) -> None:
    """Print what RUN did, step by step; FULL cuts nothing."""
    timeline = await read_timeline(session, run)
    if options.format is Format.json:
        emit(timeline)
    elif options.format is Format.jsonl:
        emit_rows(options.format, timeline.steps)
    else:
        _print(timeline, session.links.run(timeline.run.workflow_id, timeline.run.run_id), full=full)


async def read_timeline(session: Session, run: str) -> Timeline:
    """Return the timeline of RUN as it stands, attempts under way included."""
    from perdure.timetravel.timeline import TimelineBuilder

    _, description = await session.find_run(run)
    builder = TimelineBuilder(session.converter, workflow_id=description.id)
    pinned = session.client.get_workflow_handle(description.id, run_id=description.run_id)
    async for event in pinned.fetch_history_events():
        await builder.feed(event)
    await builder.feed_pending(description.raw_description.pending_activities)
    return builder.timeline


def _print(timeline: Timeline, link: str, *, full: bool) -> None:
    from rich.text import Text
    from rich.tree import Tree

    from perdure.commands.runs import tree

    console = stdout_console()
    root = Tree(Text("\n").join(tree.run_headline(timeline, link)), guide_style="dim")
    for step in timeline.steps:
        node = root.add(tree.step_line(step))
        for detail in tree.step_details(step, full=full):
            value = detail.startswith(("in ", "out ")) and not full
            node.add(Text(printable(detail), style="dim", no_wrap=value, overflow="ellipsis" if value else "fold"))
    console.print(root)
    for text in tree.run_ending(timeline, full=full):
        console.print(text)
