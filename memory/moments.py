"""How moments are written as numbers, in SQL and in an index alike."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

FOR_EVER = 2**53 - 1
"""The end of what has no end, in microseconds: the largest integer that JSON and doubles carry exactly."""


def microseconds(moment: datetime) -> int:
    """Return MOMENT as whole microseconds since 1970, exactly."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
