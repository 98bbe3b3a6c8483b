"""How a target's list is read page by page. Safe to import in workflow code."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote, urlencode, urljoin, urlsplit

from pydantic import JsonValue

from perdure.connectors.http._address import check_path

Item = Mapping[str, JsonValue]


@dataclass(frozen=True)
class Listing:
    """Where a target lists what an action has made, and what its items say.

        Listing("GET /refunds?created_after={since}&starting_after={after}", items="data", at="created_at")

    `{since}` and `{until}` stand for times (RFC 3339), `{since_unix}` and `{until_unix}` for seconds, `{page}` for 1, 2, 3
    and so on until a page is empty, `{after}` for the reference of the last item so far. A query parameter that is empty
    is left out.
    """

    request: str
    key: str = ""
    """The item's field with our key. Empty: the action's `key`."""
    at: str = ""
    """The item's field that says when it was made, as RFC 3339 or in seconds."""
    items: str = ""
    """Where the answer has its list, e.g. `data`; empty if the answer is the list."""
    next: str = ""
    """Where the answer has the address of the next page, e.g. `links.next`; `Link` if that header has it (RFC 8288)."""
    newest_first: bool = False
    """Whether the newest come first: then it is not read on from an item that was made, by `at`, before the window."""
    volatile: tuple[str, ...] = ()
    """Fields of the output that may change at the target without that being anybody's mistake."""
    stands: Callable[[Item], bool] | None = None
    """Says of an item whether it is still in force, where the target goes on listing what is not."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"GET /\S*", self.request):
            raise ValueError(f"listing {self.request!r} is not like `GET /path`")
        if wrong := check_path(self.request.removeprefix("GET ")):
            raise ValueError(f"listing {self.request!r} cannot be sent: {wrong}")
        if strange := set(_FIELD.findall(self.request)) - _FIELDS:
            raise ValueError(
                f"listing {self.request!r}: {', '.join(sorted(strange))} is none of {', '.join(sorted(_FIELDS))}"
            )

    @property
    def has_pages(self) -> bool:
        """Whether there is a second page to ask for."""
        return bool(self.next) or "{page}" in self.request or "{after}" in self.request

    def page_path(self, since: datetime, until: datetime, *, page: int, after: str) -> str:
        """Return the path and query to ask for."""
        values = {
            "since": _rfc3339(since),
            "until": _rfc3339(until),
            "since_unix": str(int(since.timestamp())),
            "until_unix": str(int(until.timestamp())),
            "page": str(page),
            "after": after,
        }
        path, _, query = self.request.removeprefix("GET ").partition("?")
        path = _FIELD.sub(lambda field: quote(values[field[1]], safe=""), path)
        asked = [(name, _FIELD.sub(lambda field: values[field[1]], value)) for name, value in parse_qsl(query, True)]
        query = urlencode([(name, value) for name, value in asked if value])
        return f"{path}?{query}" if query else path

    def parse_items(self, answer: JsonValue) -> list[Item]:
        """Return the items of ANSWER. Raises `ValueError` if there is no list in it."""
        found = value_at(answer, self.items)
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise ValueError("it has no list of objects" + (f" at {self.items!r}" if self.items else ""))
        return [item for item in found if isinstance(item, dict)]

    def is_past(self, items: Sequence[Item], since: datetime) -> bool:
        """Say whether what comes after ITEMS was made before SINCE."""
        last = parse_time(items[-1].get(self.at)) if self.newest_first and items else None
        return last is not None and last < since

    def next_page(self, answer: JsonValue, link: str, base: str, here: str) -> str | None:
        """Return the path of the page after ANSWER, below BASE, or None if that was the last.

        ANSWER came with the header LINK from the address HERE. Raises `ValueError` if the next page is not below BASE, on
        another host say: our credentials do not go there.
        """
        address: JsonValue = _next_link(link) if self.next == "Link" else value_at(answer, self.next) if self.next else None
        if not isinstance(address, str) or not address:
            return None
        there, ours = urlsplit(urljoin(here, address)), urlsplit(base)
        if (there.scheme, there.hostname, there.port) != (ours.scheme, ours.hostname, ours.port):
            raise ValueError("its next page is on another host")
        root = ours.path.rstrip("/")
        if not (there.path + "/").startswith(root + "/"):
            raise ValueError("its next page is outside of the connector's url")
        path = there.path.removeprefix(root)
        return f"{path}?{there.query}" if there.query else path


def value_at(answer: JsonValue, where: str) -> JsonValue:
    """Return what ANSWER has at WHERE, names joined by dots; None if it is not there."""
    for part in filter(None, where.split(".")):
        answer = answer.get(part) if isinstance(answer, dict) else None
    return answer


def parse_time(value: JsonValue) -> datetime | None:
    """Read VALUE as a time: RFC 3339, or seconds since 1970. None if it is neither."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return datetime.fromtimestamp(value, UTC)
    if not isinstance(value, str):
        return None
    try:
        read = datetime.fromisoformat(value)
    except ValueError:
        return None
    # Some systems leave the zone out; those that we know of mean UTC by that.
    return read if read.tzinfo else read.replace(tzinfo=UTC)


_FIELD = re.compile(r"{(\w+)}")
_LINK = re.compile(r'<([^>]*)>((?:\s*;\s*[\w*-]+(?:\s*=\s*(?:"(?:[^"\\]|\\.)*"|[^",;\s]+))?)*)')
_REL = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^",;\s]+))', re.IGNORECASE)
_FIELDS = {"since", "until", "since_unix", "until_unix", "page", "after"}


def _next_link(header: str) -> str | None:
    """Return the address of the relation `next` in HEADER (RFC 8288)."""
    for address, parameters in _LINK.findall(header):
        relation = _REL.search(parameters)
        if relation and "next" in (relation[1] or relation[2] or "").lower().split():
            return str(address)
    return None


def _rfc3339(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
