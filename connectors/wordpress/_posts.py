"""What is asked of WordPress about its posts, and how a post is read. Safe to import in workflow code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pydantic import Field, JsonValue

from perdure.lineage import Frozen

_TEXTS: Final = ("title", "content", "excerpt")


class PostId(Frozen):
    """Which post."""

    post: int = Field(gt=0)


class Draft(Frozen):
    """What to write. The content is HTML or blocks; categories and tags are ids of the site."""

    title: str = Field(min_length=1)
    content: str
    excerpt: str = ""
    slug: str = Field(default="", max_length=100)
    """How its address begins, before the key of the effect; by default as the title does."""
    categories: tuple[int, ...] = ()
    tags: tuple[int, ...] = ()


class Publish(Frozen):
    """Which post to show to the public, and under which SLUG; by default under the one that it has."""

    post: int = Field(gt=0)
    slug: str = Field(default="", max_length=200)


class Restore(Frozen):
    """To which earlier revision of a post to go back, and which was the newest when that was decided (`Post.revision`)."""

    post: int = Field(gt=0)
    revision: int = Field(gt=0)
    newest: int = Field(gt=0)


class Post(Frozen):
    """A post as it stands."""

    id: int
    status: str
    slug: str
    link: str
    title: str
    content: str
    excerpt: str
    modified: str
    revision: int
    """Its newest revision; 0 if it was not saved again since it was made."""


def make_slug(draft: Draft, key: str) -> str:
    """Return the slug of DRAFT, which ends with the effect's KEY. WordPress keeps 200 characters of it."""
    words = re.sub(r"[^a-z0-9]+", "-", (draft.slug or draft.title).lower()).strip("-")
    return f"{words[:100].strip('-')}-{key}".lstrip("-")


def draft_body(draft: Draft) -> JsonValue:
    """Return the body of the request for DRAFT."""
    body: dict[str, JsonValue] = {"status": "draft", "title": draft.title, "content": draft.content}
    if draft.excerpt:
        body["excerpt"] = draft.excerpt
    for name, ids in (("categories", draft.categories), ("tags", draft.tags)):
        if ids:
            body[name] = list(ids)
    return body


def read_post(answer: JsonValue) -> JsonValue:
    """Return the `Post` in ANSWER, which has to be in the context `edit`: with the texts as they were written."""
    if not isinstance(answer, dict):
        return answer
    plain = {name: answer.get(name) for name in ("id", "status", "slug", "link")}
    return {**plain, **raw_texts(answer), "modified": answer.get("modified_gmt"), "revision": newest_revision(answer)}


def raw_texts(post: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return the texts of POST, or of a revision of one, as they were written."""
    found = {name: post.get(name) for name in _TEXTS}
    return {name: text.get("raw") if isinstance(text, dict) else None for name, text in found.items()}


def newest_revision(post: Mapping[str, JsonValue]) -> int:
    """Return the number of the newest revision of POST; 0 if there is none."""
    links = post.get("_links")
    versions = links.get("predecessor-version") if isinstance(links, dict) else None
    first = versions[0] if isinstance(versions, list) and versions else None
    number = first.get("id") if isinstance(first, dict) else None
    return number if isinstance(number, int) else 0


def undo_restore(asked: Restore, made: Post) -> Restore:
    """Return what undoes the restoration ASKED for, after which the post was as MADE."""
    return Restore(post=asked.post, revision=asked.newest, newest=made.revision)
