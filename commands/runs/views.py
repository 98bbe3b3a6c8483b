"""How a run is shown while it goes on: a live tree on a terminal, lines elsewhere, JSON lines for programs."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from perdure.commands.output import (
    emit_line,
    format_duration,
    format_usd,
    printable,
    say,
    stderr_console,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

    from perdure.commands.runs.follow import View
    from perdure.timetravel.contracts import Step, Timeline

# What is in the history and no news to somebody who watches.
_QUIET_KINDS = ("timer", "check")


@contextmanager
def view(stream: TextIO, *, lines: bool) -> Iterator[View]:
    """Yield the view that fits STREAM (stderr); with LINES each change is also a JSON line on stdout."""
    shown: LiveView | PlainView = LiveView() if stream.isatty() else PlainView()
    with shown:
        yield JsonLines(shown) if lines else shown


class PlainView:
    """One line for each step that ended or is tried again."""

    def __init__(self) -> None:
        self._console = stderr_console()
        self._told: dict[int, tuple[str, int]] = {}

    def __enter__(self) -> PlainView:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def changed(self, step: Step) -> None:
        """Print STEP if there is news about it."""
        from perdure.commands.runs import tree

        news = (step.state, step.attempts if step.state == "retrying" else 0)
        if step.state in ("scheduled", "running") or self._told.get(step.id) == news or not is_news(step):
            return
        self._told[step.id] = news
        self._console.print(tree.step_line(step))

    def update(self, timeline: Timeline) -> None:
        """Print nothing: the steps have said it."""

    def note(self, message: str) -> None:
        """Print MESSAGE."""
        say(f"perdure: {message}")


class LiveView:
    """Steps that ended stand as lines; those under way move below them, with the run's time and cost."""

    def __init__(self) -> None:
        self._console = stderr_console()
        self._open: dict[int, Step] = {}
        self._timeline: Timeline | None = None
        self._began = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> LiveView:
        from rich.live import Live

        self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=8, transient=True)
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._live is not None
        self._live.stop()

    def changed(self, step: Step) -> None:
        """Show STEP below while it is open, and as a line for good once it has ended."""
        from perdure.commands.runs import tree

        if step.open:
            self._open[step.id] = step
            return
        self._open.pop(step.id, None)
        if is_news(step):
            self._console.print(tree.step_line(step))

    def update(self, timeline: Timeline) -> None:
        """Show how the run stands."""
        self._timeline = timeline

    def note(self, message: str) -> None:
        """Print MESSAGE above what moves."""
        self._console.print(printable(message), style="yellow")

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.spinner import Spinner
        from rich.text import Text

        from perdure.commands.runs import tree

        shown = [step for step in self._open.values() if not _is_deadline(step, self._timeline)]
        rows: list[RenderableType] = [_cut(tree.step_line(step)) for step in shown[-_room(self._console) :]]
        state = _cut(Text(elapsed_since(self._began), style="dim"))
        timeline = self._timeline
        if timeline is not None:
            run = timeline.run
            state.append(f"  {printable(run.workflow_id)}")
            if run.model_calls:
                state.append(f"  {format_usd(run.cost_nano_usd)}")
            for request in timeline.open_approvals:
                waits = f"waits for {request.of}: perdure approval approve {run.workflow_id}"
                rows.append(_cut(Text(printable(waits), style="yellow")))
            for parked in timeline.parked:
                waits = f"{parked.step} waits for a person: perdure effects resolve {parked.effect}"
                rows.append(_cut(Text(printable(waits), style="yellow")))
        return Group(*rows, Spinner("dots", text=state) if self._console.encoding.startswith("utf") else state)


class JsonLines:
    """Prints each change as a line of JSON on stdout, and shows it in another view."""

    def __init__(self, shown: View) -> None:
        self._shown = shown
        self._told: Step | None = None

    def changed(self, step: Step) -> None:
        """Print STEP as it stands."""
        emit_line({"event": "step", "step": step.model_dump(mode="json")})
        self._shown.changed(step)

    def update(self, timeline: Timeline) -> None:
        """Pass it on."""
        self._shown.update(timeline)

    def note(self, message: str) -> None:
        """Pass it on."""
        self._shown.note(message)


def is_news(step: Step) -> bool:
    """Whether somebody who watches wants to read of STEP."""
    return step.kind not in _QUIET_KINDS or step.state == "failed"


def elapsed_since(began: float) -> str:
    """Return the time since the monotonic time BEGAN."""
    from datetime import timedelta

    return format_duration(timedelta(seconds=time.monotonic() - began))


def _cut(text: Text) -> Text:
    # What moves keeps to one line each, or the terminal scrolls.
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _is_deadline(step: Step, timeline: Timeline | None) -> bool:
    """Whether STEP is the timer behind an open approval, which says its deadline itself."""
    if step.kind != "timer" or timeline is None or step.next_attempt is None:
        return False
    due = step.next_attempt
    return any(abs((due - request.deadline).total_seconds()) < 1 for request in timeline.open_approvals)


def _room(console: Console) -> int:
    return max(1, console.size.height - 6)
