"""What a command prints: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TextIO

from pydantic import BaseModel, JsonValue

from perdure.commands.options import Format

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# What could move the cursor, recolour a terminal or turn the reading direction: histories hold other people's text.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def emit(value: object) -> None:
    """Print VALUE on stdout as one JSON value, indented on a terminal."""
    indent = 2 if sys.stdout.isatty() else None
    _write(sys.stdout, to_json(value, indent=indent))


def emit_line(value: object) -> None:
    """Print VALUE on stdout as one line of JSON, at once."""
    _write(sys.stdout, to_json(value))
    sys.stdout.flush()


def emit_rows(how: Format, rows: Iterable[object]) -> None:
    """Print ROWS on stdout as HOW says: one JSON list, or a line of JSON each."""
    if how is Format.json:
        emit(list(rows))
        return
    for row in rows:
        emit_line(row)


@dataclass(frozen=True)
class Column:
    """A column of a table, and what becomes of it where the terminal is too narrow for all.

    A column is never cut, so that what stands in it can be copied, unless LEAST says to how many characters. DROP says
    which columns go first, the highest number before the others; 0 stays. With WRAP a long text goes on in the next line.
    """

    name: str
    right: bool = False
    least: int | None = None
    drop: int = 0
    wrap: bool = False


def table(columns: Sequence[Column | str], rows: Sequence[Sequence[str | Text]]) -> None:
    """Print ROWS under the names of COLUMNS on stdout. A bare name is a column that is neither cut nor left out."""
    from rich.text import Text

    console = stdout_console()
    heads = [Column(each) if isinstance(each, str) else each for each in columns]
    cells = [[each if isinstance(each, Text) else Text(printable(each)) for each in row] for row in rows]
    natural = [
        max(len(head.name), *(row[index].cell_len for row in cells)) if cells else len(head.name)
        for index, head in enumerate(heads)
    ]
    widths = _fit(heads, natural, console.width)
    for row in ([Text(head.name, style="dim") for head in heads], *cells):
        parts = {index: _lines(row[index], heads[index], width, console) for index, width in widths.items()}
        for number in range(max(map(len, parts.values()))):
            line = Text(_GAP).join(
                _pad(lines[number] if number < len(lines) else Text(), heads[index], widths[index])
                for index, lines in parts.items()
            )
            line.rstrip()
            console.print(line, soft_wrap=True)


def is_narrow() -> bool:
    """Whether stdout is a terminal on which a date and time in full would take room from what matters more."""
    return stdout_console().width < 110


def say(message: str) -> None:
    """Tell the user MESSAGE on stderr."""
    _write(sys.stderr, printable(message))
    sys.stderr.flush()


def stdout_console() -> Console:
    """Return the console on stdout."""
    return _console(sys.stdout)


def stderr_console() -> Console:
    """Return the console on stderr."""
    return _console(sys.stderr)


def to_json(value: object, *, indent: int | None = None) -> str:
    """Return VALUE as JSON whose every character is safe to show."""
    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    text = json.dumps(data, ensure_ascii=False, indent=indent, default=_default, allow_nan=False)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}" if found[0] != "\n" else "\n", text)


def printable(text: str) -> str:
    """Return TEXT without characters that a terminal would act on."""
    return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", text)


def one_line(value: JsonValue, limit: int = 0) -> str:
    """Return VALUE as one line; text stays as it is. LIMIT cuts it to that many characters."""
    text = printable(" ".join(value.split()) if isinstance(value, str) else to_json(value))
    return text if not limit or len(text) <= limit else text[: limit - 1] + "…"


def describe_verdict(verdict: str) -> str:
    """Return what somebody has done who said VERDICT of an approval."""
    return {"approve": "approved", "reject": "rejected", "request changes": "changes requested"}.get(verdict, verdict)


def format_duration(span: timedelta | None) -> str:
    """Return SPAN as people write it."""
    if span is None:
        return ""
    seconds = max(0.0, span.total_seconds())
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def format_time(time: datetime | None, *, short: bool = False) -> str:
    """Return TIME in UTC, to the second; SHORT for a list on a narrow terminal, to the minute and without the year."""
    if short:
        return f"{time.astimezone(UTC):%m-%d %H:%M}" if time else ""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if time else ""


def format_usd(nano_usd: int) -> str:
    """Return NANO_USD in dollars, with as many digits as it needs to be seen."""
    usd = nano_usd / 1e9
    if usd == 0 or usd >= 0.01:
        return f"${usd:.2f}"
    return f"${usd:.6f}".rstrip("0") if usd >= 0.000001 else "<$0.000001"


_GAP = "  "


def _fit(columns: Sequence[Column], natural: Sequence[int], room: int) -> dict[int, int]:
    """Return the columns that are shown, by their index, and how wide each is, for a line of ROOM characters."""
    shown = list(range(len(columns)))

    def least(index: int) -> int:
        shortest = columns[index].least
        return natural[index] if shortest is None else min(natural[index], shortest)

    def needed() -> int:
        return sum(map(least, shown)) + len(_GAP) * (len(shown) - 1)

    while needed() > room:
        first = max(shown, key=lambda index: columns[index].drop)
        if not columns[first].drop:
            break
        shown.remove(first)
    widths, spare = {index: least(index) for index in shown}, max(0, room - needed())
    # What is left over goes to the columns that were cut, those that need least of it first.
    cut = sorted((index for index in shown if widths[index] < natural[index]), key=lambda index: natural[index])
    for position, index in enumerate(cut):
        more = min(natural[index] - widths[index], spare // (len(cut) - position))
        widths[index] += more
        spare -= more
    return widths


def _lines(cell: Text, column: Column, width: int, console: Console) -> list[Text]:
    if cell.cell_len <= width:
        return [cell]
    if column.wrap:
        return list(cell.wrap(console, width)) or [cell]
    short = cell.copy()
    short.truncate(width, overflow="ellipsis")
    return [short]


def _pad(cell: Text, column: Column, width: int) -> Text:
    padded, missing = cell.copy(), max(0, width - cell.cell_len)
    (padded.pad_left if column.right else padded.pad_right)(missing)
    return padded


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    # Nobody reads a pipe 80 columns wide: nothing is cut or wrapped there.
    width = None if stream.isatty() or "COLUMNS" in os.environ else 10_000
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def _default(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)


def _write(stream: TextIO, text: str) -> None:
    stream.write(text + "\n")
