"""What the answers of an HTTP target say: its JSON, its own words about a failure, and when to come again."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, NoReturn
from urllib.parse import urljoin, urlsplit

from pydantic import JsonValue

from perdure.connectors.wire import with_whole_characters

if TYPE_CHECKING:
    import httpx

__all__ = ["decode_json", "describe_redirect", "error_message", "parse_retry_after", "with_whole_characters"]

LONGEST: Final = timedelta(hours=1)
"""Nobody waits longer than this because a target says so: it is asked again, and may say so again."""
_NUMBER: Final = re.compile(r"\+?(\d{1,18}(?:\.\d*)?|\.\d+)", re.ASCII)
_EPOCH: Final = 1_000_000_000
"""A number of seconds as large as this is no wait but a time since 1970, and above the next one in milliseconds."""
_EPOCH_MS: Final = 100_000_000_000
_CHARSET: Final = re.compile(r";\s*charset=\"?([\w.:-]+)", re.IGNORECASE)


def parse_retry_after(response: httpx.Response) -> timedelta | None:
    """Return how long RESPONSE wants us to wait, in whole seconds and at most an hour; None if it does not say.

    RFC 9110, section 10.2.3, has seconds or a date. In the wild there are fractions, and the time since 1970.
    """
    value = response.headers.get("Retry-After", "").strip()
    wait = _seconds(value)
    if wait is None and "," in value:
        wait = _seconds(value.partition(",")[0].strip())  # two such headers
    if wait is None:
        return None
    return min(timedelta(seconds=max(math.ceil(wait), 0)), LONGEST) if wait < LONGEST.total_seconds() else LONGEST


def _seconds(value: str) -> float | None:
    now = datetime.now(UTC)
    if _NUMBER.fullmatch(value):
        number = float(value)
        if number >= _EPOCH_MS:
            number /= 1000
        return number if number < _EPOCH else number - now.timestamp()
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return ((when if when.tzinfo else when.replace(tzinfo=UTC)) - now).total_seconds()


def decode_json(response: httpx.Response) -> JsonValue:
    """Return the JSON of RESPONSE, an empty object if it has no content. Raises `ValueError` if it is not JSON."""
    if not response.content:
        return {}
    charset = _CHARSET.search(response.headers.get("Content-Type", ""))
    try:
        try:
            content: str | bytes = response.content
            parsed: JsonValue = json.loads(content, parse_constant=_refuse_constant)
        except UnicodeDecodeError:
            # JSON is UTF-8, and some say that theirs is not.
            content = response.content.decode(charset[1] if charset else "utf-8")
            parsed = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, LookupError, RecursionError):
        raise ValueError("its body is not JSON") from None
    return with_whole_characters(parsed) if b"\\u" in response.content else parsed


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def error_message(response: httpx.Response, limit: int = 200) -> str:
    """Return what RESPONSE says of the failure, in one line; empty if it says nothing that can be read."""
    try:
        body = decode_json(response)
    except ValueError:
        return ""
    for name in ("error", "message", "detail", "title"):
        body = body.get(name, body) if isinstance(body, dict) else body
    line = " ".join(body.split()) if isinstance(body, str) else ""
    return line if len(line) <= limit else line[: limit - 1] + "…"


def describe_redirect(response: httpx.Response) -> str:
    """Say how the address that RESPONSE redirects to differs from ours, without quoting it: addresses hold secrets."""
    here = urlsplit(str(response.request.url))
    try:
        there = urlsplit(urljoin(str(response.request.url), response.headers.get("Location", "")))
    except ValueError:
        return "it redirects to what is no address"
    if here.hostname != there.hostname:
        return f"it redirects to the host {there.hostname}"
    if here.scheme != there.scheme:
        return f"it redirects to {there.scheme}"
    if here.path + "/" == there.path:
        return "it redirects to the same path with a slash at its end"
    if here.path == there.path + "/":
        return "it redirects to the same path without the slash at its end"
    return "it redirects to another path"
