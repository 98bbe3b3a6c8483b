"""Which address a request goes to: what the settings say, what the action says, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import parse_qsl, unquote, unquote_plus, urlsplit

from perdure.connectors.http._encoding import quote_value

__all__ = ["check_address", "check_path", "join", "secrets_in"]

_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f]")


def check_address(address: str) -> str:
    """Return why nothing can be sent to ADDRESS, the `url` of a connector; empty if something can."""
    if _UNPRINTABLE.search(address):
        return "it has a space or a control character in it"
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return "its host or port is not one"
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname or port == 0:
        return "it is not like https://host/path"
    if "#" in address:
        return "it has a `#`, and what comes after that is never sent"
    if found := re.search(r"{([^{}]*)}", address):
        return f"nothing was put in the place of {found[0]}"
    return ""


def check_path(template: str) -> str:
    """Return why TEMPLATE, a path that an action declares, cannot be sent as it is written; empty if it can."""
    if "#" in template:
        return "it has a `#`, and what comes after that is never sent; write %23 for the sign itself"
    if any(part in (".", "..") for part in template.partition("?")[0].split("/")):
        return "it has the segment `.` or `..`, which is another address"
    return ""


def join(base: str, path: str, keys: Sequence[tuple[str, str]] = ()) -> str:
    """Return the address of PATH, with its query, below BASE, with KEYS in the query as well.

    An empty PATH is BASE itself, to the letter. A query that BASE has stays a query.
    """
    parts = urlsplit(base)
    path, _, query = path.partition("?")
    added = [f"{quote_value(name)}={quote_value(value)}" for name, value in keys]
    if not path and not query and not added:
        return base
    pairs: dict[str, str] = {}
    for pair in filter(None, [*parts.query.split("&"), *query.split("&"), *added]):
        # Equal pairs once: a link to a next page often repeats the parameters that it was asked with.
        pairs.setdefault(unquote_plus(pair), pair)
    query = "&".join(pairs.values())
    path = parts.path.rstrip("/") + path if path else parts.path
    return f"{parts.scheme}://{parts.netloc}{path}" + (f"?{query}" if query else "")


def secrets_in(address: str) -> list[str]:
    """Return what is secret in ADDRESS: the password before its host and the values of its query."""
    parts = urlsplit(address)
    values = [value for _, value in parse_qsl(parts.query)]
    return [value for value in (unquote(parts.password or ""), *values) if len(value) > 3]
