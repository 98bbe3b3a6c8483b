"""How spans of time are typed: `90s`, `15m`, `6h`, `2d`."""

from __future__ import annotations

import re
from datetime import timedelta

import typer

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def span(text: str) -> timedelta:
    """Return the span that TEXT says. Raises what Typer shows as an error of usage."""
    found = re.fullmatch(r"(\d+)\s*([smhdw])", text.strip())
    if found is None or not int(found[1]):
        raise typer.BadParameter(f"{text!r} is no span of time; write 90s, 15m, 6h, 2d or 1w")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})
