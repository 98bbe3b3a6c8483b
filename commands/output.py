"""What a command prints: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TextIO

from pydantic import BaseModel, JsonValue

if TYPE_CHECKING:
    from rich.console import Console

# What could move the cursor, recolour a terminal or turn the reading direction: histories hold other people's text.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def emit(value: object) -> None:
    """Print VALUE on stdout as one JSON value, indented on a terminal."""
    indent = 2 if sys.stdout.isatty() else None
    _write(sys.stdout, as_text(value, indent=indent))


def emit_line(value: object) -> None:
    """Print VALUE on stdout as one line of JSON, at once."""
    _write(sys.stdout, as_text(value))
    sys.stdout.flush()


def say(message: str) -> None:
    """Tell the user MESSAGE on stderr."""
    _write(sys.stderr, plain(message))
    sys.stderr.flush()


def out() -> Console:
    """Return the console on stdout."""
    return _console(sys.stdout)


def err() -> Console:
    """Return the console on stderr."""
    return _console(sys.stderr)


def as_text(value: object, *, indent: int | None = None) -> str:
    """Return VALUE as JSON whose every character is safe to show."""
    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    text = json.dumps(data, ensure_ascii=False, indent=indent, default=_default, allow_nan=False)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}" if found[0] != "\n" else "\n", text)


def plain(text: str) -> str:
    """Return TEXT without characters that a terminal would act on."""
    return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", text)


def one_line(value: JsonValue, limit: int = 0) -> str:
    """Return VALUE as one line; text stays as it is. LIMIT cuts it to that many characters."""
    text = plain(" ".join(value.split()) if isinstance(value, str) else as_text(value))
    return text if not limit or len(text) <= limit else text[: limit - 1] + "…"


def took(span: timedelta | None) -> str:
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


def at(time: datetime | None) -> str:
    """Return TIME in UTC, to the second."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if time else ""


def dollars(nano_usd: int) -> str:
    """Return NANO_USD in dollars, with as many digits as it needs to be seen."""
    usd = nano_usd / 1e9
    if usd == 0 or usd >= 0.01:
        return f"${usd:.2f}"
    return f"${usd:.6f}".rstrip("0") if usd >= 0.000001 else "<$0.000001"


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
