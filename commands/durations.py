"""How spans and moments of time are typed: `90s`, `15m`, `6h`, `2d`; `2026-11-17`, `2026-11-17T09:00Z`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import typer

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_duration(text: str) -> timedelta:
    """Return the span that TEXT says. Raises what Typer shows as an error of usage."""
    found = re.fullmatch(r"(\d+)\s*([smhdw])", text.strip())
    if found is None or not int(found[1]):
        raise typer.BadParameter(f"{text!r} is no span of time; write 90s, 15m, 6h, 2d or 1w")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def parse_time(text: str) -> datetime:
    """Return the moment that TEXT says; without a zone it is in UTC. Raises what Typer shows as an error of usage."""
    try:
        said = datetime.fromisoformat(text.strip())
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no moment; write 2026-11-17, 2026-11-17T09:00Z or ...+01:00") from None
    return said if said.tzinfo else said.replace(tzinfo=UTC)
