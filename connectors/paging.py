"""Whether an answer says that there is more than it holds: then what it lacks may be on another page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from pydantic import JsonValue

# As they are written without underscores, hyphens and capitals, by those systems whose descriptions we know.
_MORE: Final = {
    *("hasmore", "hasnext", "hasnextpage", "hasmoreitems", "moreresults", "istruncated", "truncated"),
    *("incompleteresults", "partial", "timedout"),
}
_NEXT: Final = {
    *("next", "nextpage", "nexturl", "nexturi", "nextlink", "nexthref", "nextpageurl", "nextpagelink"),
    *("nextcursor", "nextpagetoken", "nexttoken", "nextmarker", "continuationtoken", "odatanextlink"),
}
_TOTAL: Final = {"total", "totalcount", "totalitems", "totalresults", "totalelements", "totalentries", "count"}
_PAGES: Final = {"totalpages", "pagecount", "lastpage", "pages"}
_BESIDE: Final = {"meta", "metadata", "paging", "pagination", "pageinfo", "page", "links", "cursor", "cursors"}
_REL_NEXT: Final = re.compile(r";\s*rel\s*=\s*\"?[^\",;]*\bnext\b", re.IGNORECASE)


def find_more(answer: JsonValue, found: str = "", *, link: str = "") -> str:
    """Return the field by which ANSWER says that its list, at FOUND, goes on; empty if nothing says so.

    LINK is the header of that name (RFC 8288).
    """
    if _REL_NEXT.search(link):
        return "the header Link"
    around: list[dict[str, JsonValue]] = []
    for part in [*filter(None, found.split(".")), None]:
        if isinstance(answer, dict):
            around.append(answer)
            answer = answer.get(part) if part else answer
    shown = len(answer) if isinstance(answer, list) else None
    for place in around:
        beside = [value for name, value in place.items() if _plain(name) in _BESIDE]
        for one in (place, *(value for value in beside if isinstance(value, dict))):
            for name, value in one.items():
                if _goes_on(_plain(name), value, shown):
                    return name
    return ""


def find_more_anywhere(answer: JsonValue) -> str:
    """Return the field by which any list in ANSWER says that it goes on: for answers whose shape the caller chooses."""
    for place in _objects(answer):
        lists = [value for value in place.values() if isinstance(value, list)]
        shown = len(lists[0]) if len(lists) == 1 else None
        for name, value in place.items():
            if _goes_on(_plain(name), value, shown):
                return name
    return ""


def _goes_on(name: str, value: JsonValue, shown: int | None) -> bool:
    if name in _MORE:
        return value is True
    if name in _NEXT:
        return isinstance(value, str | int | dict) and bool(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return False
    return (name in _TOTAL and shown is not None and value > shown) or (name in _PAGES and value > 1)


def _objects(value: JsonValue) -> Iterator[dict[str, JsonValue]]:
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _objects(each)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
