"""How the demo is shown: a live view, the questions to a reviewer, and the summary."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from perdure.commands.options import Format, Options
from perdure.commands.output import (
    emit,
    format_usd,
    one_line,
    printable,
    stderr_console,
    stdout_console,
)
from perdure.commands.session import terminal_user
from perdure.examples.returns_desk.demo import (
    REVIEWER,
    Decide,
    Demo,
    Progress,
    Report,
    decide_by_labels,
)
from perdure.examples.returns_desk.stage import Stage
from perdure.governance.approvals import ApprovalEntry
from perdure.governance.contracts import DecisionCall


@dataclass(frozen=True)
class DemoOptions:
    """What the command line asked for."""

    kills: int
    plan: bool
    ask: bool
    keep: bool
    home: Path
    database_url: str
    models: Path | None


async def run(options: Options, wanted: DemoOptions) -> Report:
    """Perform the demo as WANTED, show it on stderr and print the summary on stdout."""
    view = View()
    async with Stage(wanted.home, database_url=wanted.database_url, models=wanted.models, say=view.say) as stage:
        asked = wanted.ask and sys.stdin.isatty() and sys.stderr.isatty()
        demo = Demo(stage, kills=wanted.kills, plan=wanted.plan, decide=_never, say=view.say)
        labels = decide_by_labels(demo.labels, demo.requests, REVIEWER)
        demo.decide = Reviewer(view, labels, terminal_user()).decide if asked else labels
        if not asked:
            view.say(f"approvals are decided by {REVIEWER} as the requests are labelled; nobody verified that name")
        async with view.showing(demo.progress):
            report = await demo.run()
        if options.format is Format.text:
            show(report)
        else:
            emit(report)
        if wanted.keep:
            view.say(f"the Web UI stays up at {report.web_ui} until Ctrl-C")
            await asyncio.Event().wait()
    return report


class View:
    """What the person at the terminal sees meanwhile: one block that changes, or lines where there is no terminal."""

    def __init__(self) -> None:
        self._console = stderr_console()
        self._live: Live | None = None
        self._asking = False
        self._held: list[Text] = []
        self._began = time.monotonic()

    def say(self, message: str) -> None:
        """Print MESSAGE above the live block; while somebody is asked it waits."""
        line = Text(f"{time.monotonic() - self._began:6.1f} s  {printable(message)}")
        if self._asking:
            self._held.append(line)
            return
        (self._live.console if self._live else self._console).print(line)

    @asynccontextmanager
    async def showing(self, progress: Progress) -> AsyncIterator[None]:
        """Show PROGRESS live for as long as the block lasts, on a terminal only."""
        if not self._console.is_terminal:
            yield
            return
        with Live(
            get_renderable=lambda: _block(progress), console=self._console, refresh_per_second=8, transient=True
        ) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    async def question(self, text: Text) -> str:
        """Stop the live block, ask TEXT, go on, and return the line that was typed; empty when there is no more input."""
        live, self._live, self._asking = self._live, None, True
        if live:
            live.stop()
        self._console.print(text, end="")
        answer: str = await asyncio.to_thread(sys.stdin.readline)
        self._asking = False
        for line in self._held:
            self._console.print(line)
        self._held.clear()
        if live:
            live.start()
            self._live = live
        return answer


class Reviewer:
    """The person at the terminal: decides one by one, or leaves the rest to the labels."""

    def __init__(self, view: View, labels: Decide, name: str) -> None:
        self._view = view
        self._labels = labels
        self._name = name
        self._rest = False

    async def decide(self, request: ApprovalEntry) -> DecisionCall:
        """Ask about REQUEST and return the decision."""
        suggested = await self._labels(request)
        if self._rest:
            return suggested
        about = request.about if isinstance(request.about, dict) else {}
        mail = about.get("request")
        message = one_line(str(mail.get("message", "")) if isinstance(mail, dict) else "", 300)
        prompt = ("  refund it? [y]es, [n]o, [a]ll the rest as the desk would: ", "bold")
        text = Text.assemble(
            "\n",
            (printable(request.question), "bold"),
            f"\n  {_amount(about.get('order'))}risk {request.risk}\n  {message}",
            f"\n  a desk that knows would say: {suggested.verdict} ({printable(suggested.comment)})\n",
            prompt,
        )
        answer = (await self._view.question(text)).lower()
        while answer and answer.strip()[:1] not in ("y", "n", "a"):
            text = Text.assemble(f"  {printable(answer.strip())!r} is none of y, n and a\n", prompt)
            answer = (await self._view.question(text)).lower()
        # Whoever closes the input leaves the rest, too.
        answer = answer.strip() or "a"
        self._rest = answer.startswith("a")
        if self._rest:
            return suggested
        verdict = "approve" if answer.startswith("y") else "reject"
        return suggested.model_copy(update={"verdict": verdict, "by": self._name, "comment": "decided at the terminal"})


def _amount(order: JsonValue) -> str:
    if not isinstance(order, dict) or not isinstance(cents := order.get("amount"), int):
        return ""
    return printable(f"{cents / 100:,.2f} {order.get('currency', '')}, ")


def show(report: Report) -> None:
    """Print REPORT for people, on stdout."""
    console = stdout_console()
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    agree = "the books agree" if report.books_agree else "THE BOOKS DO NOT AGREE"
    resumed = ", ".join(f"{seconds:g} s" for seconds in report.resumed_after_seconds) or "-"
    rows = {
        "Requests": f"{report.requests}, of which {report.repeated} were the same mail again",
        "Refunded": f"{report.refunds_wanted} wanted, {report.refunds_in_books} in the shop's books: {agree}",
        "Twice / lost": f"{report.duplicates} / {report.lost}",
        "Rejected": str(report.rejected),
        "Customer asked": str(report.customers_asked),
        "By people": f"{report.decided_by_people}, {report.approvals} approvals by {report.reviewer} (unverified)",
        "Model calls": f"{report.model_calls}, {format_usd(round(report.cost_usd * 1e9))}",
        "Accuracy": f"{report.accuracy_unseen:.0%} of the {report.unseen} requests that the model never saw",
        "Worker killed": f"{report.worker_kills} times with {report.effects_in_flight_at_kills} refunds in flight; "
        f"went on after {resumed}",
        "Replayed": f"{report.histories_replayed} histories, each with the same decisions",
        "Took": f"{report.seconds:g} s",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(Group(Text(), table, Text()))
    console.print(
        f"Look at it: PERDURE_HOME={report.home} perdure dev, then http://localhost:8233 or `perdure show return-R-1001`."
    )


def _block(progress: Progress) -> Table:
    table = Table(box=None, pad_edge=False)
    columns = {
        "runs": f"{progress.ended.total()}/{progress.started}",
        "refunded": str(progress.ended["refunded"]),
        "rejected": str(progress.ended["reject"]),
        "waiting for people": str(progress.waiting),
        "refunds in flight": str(progress.in_flight),
        "worker": f"{progress.worker or ''} killed {progress.kills}x",
    }
    for name in columns:
        table.add_column(name)
    table.add_row(*columns.values())
    return table


async def _never(request: ApprovalEntry) -> DecisionCall:
    raise AssertionError(f"nobody was asked to decide {request.approval}")
