"""What can be done with the posts of a WordPress site, by its REST API. Safe to import in workflow code."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, Final, Generic, cast
from urllib.parse import urlsplit

from pydantic import BaseModel, JsonValue

from perdure.connectors.contracts import (
    Absent,
    Action,
    AnyAction,
    Attempt,
    CannotTell,
    Executed,
    Found,
    In,
    Listed,
    Out,
    Probe,
    Target,
    undo_by,
)
from perdure.connectors.drift.contracts import Contract, Operation
from perdure.connectors.http import HttpAction, HttpConnector, Item, Request, decode_json
from perdure.connectors.wordpress._posts import (
    Draft,
    Post,
    PostId,
    Publish,
    Restore,
    draft_body,
    make_slug,
    newest_revision,
    raw_texts,
    read_post,
    undo_restore,
)
from perdure.connectors.wordpress._schema import read_operation
from perdure.errors import EffectRejected, EffectUnknown, TargetUnavailable

if TYPE_CHECKING:
    import httpx

__all__ = ["Draft", "Post", "PostId", "Publish", "Restore", "WordPressConnector"]

WORDPRESS: Final = Target(mechanism="natural-key", settle=timedelta(seconds=30), deadline=timedelta(seconds=30))
"""It has no idempotency keys. PHP goes on when the connection is gone, by default for up to 30 seconds."""

_STATUSES: Final = "publish,future,draft,pending,private,trash"
_PAGE: Final = 100
_LIVE: Final = frozenset({"publish", "future"})
_KEY: Final = re.compile(r"(pe-[0-9a-f]{16,})(?:-\d+)?(?:__trashed)?$")


@dataclass(frozen=True)
class WordPressAction(HttpAction[In, Out], Generic[In, Out]):
    """An action on posts: found by our key in the slug, or by the status of a known post."""

    is_done: Callable[[str], bool] | None = None
    """Says of the status of a known post whether the action has happened."""

    def __post_init__(self) -> None:
        Action.__post_init__(self)  # the probe is not HttpAction's

    def build_request(self, args: In, key: str) -> Request:
        """Return the request that does the action with ARGS under the effect's KEY."""
        request = super().build_request(args, key)
        body = dict(request.body) if isinstance(request.body, dict) else None
        if body is not None:
            body.pop(self.key, None)  # not a field here
            if isinstance(args, Draft):
                body["slug"] = make_slug(args, key)
        return replace(request, body=body)

    def parse_listing(self, items: Iterable[Item]) -> list[Listed]:
        """Read ITEMS of the site's list."""
        return [
            Listed(
                action=self.name,
                remote_ref=str(item["id"]),
                key=found[1] if (found := _KEY.search(str(item.get("slug")))) else "",
                # All the rest may be changed by whoever edits the site.
                facts={"id": item["id"]},
                stands=item.get("status") != "trash",
            )
            for item in items
        ]


_Action = WordPressAction[BaseModel, BaseModel]


class WordPressConnector(HttpConnector):
    """A WordPress site. `url` is its address; `user` and `password` are those of an account, an author's or an editor's.

    The password is an application password (Users -> Profile), which WordPress takes over HTTPS only. Give perdure an
    account of its own: the ledger is compared with all that this account has written. TYPE is what the REST API calls the
    kind of post: `posts`, `pages`, or a type of the site's own.
    """

    takes: ClassVar = {
        "url": "https://blog.example",
        "user": "perdure",
        "password": "env:WORDPRESS_PASSWORD",
        r"header\.[\w-]+": "env:SITE_KEY",
    }
    needs: ClassVar = ("url", "user", "password")

    def __init__(self, name: str = "wordpress", *, type: str = "posts") -> None:  # noqa: A002  WordPress's word
        self._path = f"/wp-json/wp/v2/{type}"
        one = f"{self._path}/{{post}}"
        self.post = WordPressAction(
            f"{name}.post", PostId, Post, request=f"GET {one}?context=edit", answer=read_post, reads=True, target=WORDPRESS
        )
        self.trash = WordPressAction(
            f"{name}.trash",
            PostId,
            Post,
            request=f"DELETE {one}",
            answer=read_post,
            is_done=lambda status: status == "trash",
            target=WORDPRESS,
            reversibility="retriable",
            describe=lambda asked: f"move post {asked.post} to the trash",
        )
        self.draft = WordPressAction(
            f"{name}.draft",
            Draft,
            Post,
            request=f"POST {self._path}",
            body=draft_body,
            answer=read_post,
            target=WORDPRESS,
            risk="low",
            reversibility="compensatable",
            undo=undo_by(self.trash, lambda _, made: PostId(post=made.id)),
            describe=lambda draft: f"draft {draft.title!r}",
        )
        self.unpublish = WordPressAction(
            f"{name}.unpublish",
            PostId,
            Post,
            request=f"POST {one}",
            body=lambda _: {"status": "draft"},
            answer=read_post,
            is_done=lambda status: status not in _LIVE,
            target=WORDPRESS,
            reversibility="retriable",
            describe=lambda asked: f"make a draft of post {asked.post} again",
        )
        self.publish = WordPressAction(
            f"{name}.publish",
            Publish,
            Post,
            request=f"POST {one}",
            body=lambda asked: {"status": "publish", **({"slug": asked.slug} if asked.slug else {})},
            answer=read_post,
            is_done=lambda status: status in _LIVE,
            target=WORDPRESS,
            risk="high",
            reversibility="compensatable",
            undo=undo_by(self.unpublish, lambda asked, _: PostId(post=asked.post)),
            describe=lambda asked: f"publish post {asked.post}" + (f" as {asked.slug}" if asked.slug else ""),
        )
        restore = WordPressAction(
            f"{name}.restore",
            Restore,
            Post,
            request=f"POST {one}",
            answer=read_post,
            target=WORDPRESS,
            reversibility="retriable",
            describe=lambda asked: f"put post {asked.post} back to revision {asked.revision}",
        )
        self.restore = replace(restore, reversibility="compensatable", undo=undo_by(restore, undo_restore))
        every = (self.post, self.draft, self.publish, self.unpublish, self.restore, self.trash)
        super().__init__(*cast("tuple[HttpAction[BaseModel, BaseModel], ...]", every))

    async def auth_headers(self, within: timedelta) -> dict[str, str]:
        """Return, WITHIN that time, the headers that say who asks."""
        who = f"{self.option('user')}:{self.option('password')}".encode()
        return await super().auth_headers(within) | {"Authorization": f"Basic {base64.b64encode(who).decode()}"}

    def address(self, spec: AnyAction, request: Request) -> str:
        """Return the address that REQUEST of SPEC goes to. A site with plain permalinks has its API in `?rest_route=`."""
        parts = urlsplit(self.option("url"))
        others = [pair for pair in parts.query.split("&") if pair and not pair.startswith("rest_route=")]
        if "rest_route=" not in parts.query:
            return super().address(spec, request)
        path, _, query = request.path.partition("?")
        pairs = [f"rest_route={path.removeprefix('/wp-json')}", *others, *filter(None, [query])]
        return f"{parts.scheme}://{parts.netloc}{parts.path or '/'}?{'&'.join(pairs)}"

    def _describe_failure(self, spec: HttpAction[BaseModel, BaseModel], response: httpx.Response) -> str:
        said = super()._describe_failure(spec, response)
        # The API itself answers 404 for a post that is gone, with another code.
        if response.status_code != 404 or _has_api(response):
            return said
        return (
            f"{said}: the site has no REST API there. Turn on pretty permalinks, or set url to the address with "
            f"?rest_route=/ under {self.where}"
        )

    async def execute(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Executed:
        """Send the request of ACTION once. Raises as `Connector.execute` says."""
        spec = _wordpress_action(action)
        try:
            if isinstance(args, Restore):
                spec = await self._load_revision(spec, args, attempt)
            return await super().execute(spec, args, attempt)
        except EffectRejected as refusal:
            # An earlier attempt may have landed, or a person was quicker: a post cannot be put into the trash twice.
            if spec.reads or not isinstance(there := await self._probe_after_refusal(spec, args, attempt, refusal), Found):
                raise
            return there.executed

    async def probe(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Probe:
        """Look for the post that has our key, or at the one that was to be changed."""
        spec = _wordpress_action(action)
        if isinstance(args, Restore):
            return await self._probe_restore(spec, args, attempt)
        if isinstance(args, Draft):
            slug = make_slug(args, attempt.key)
            path = f"{self._path}?slug={slug},{slug}__trashed&status={_STATUSES}&context=edit"
            found = await self._get(path, attempt)
            if not isinstance(found, list) or len(found) > 1:
                how_many = "no list" if not isinstance(found, list) else f"{len(found)} posts"
                return CannotTell(f"{spec.name}: the site answered {how_many} for this key; one was expected")
            return _found_post(spec, found[0]) if found else Absent()
        post = await self._get(f"{self._path}/{vars(args)['post']}?context=edit", attempt)
        if not isinstance(post, dict):
            return CannotTell(f"{spec.name}: the post cannot be looked up")
        return _found_post(spec, post) if spec.is_done and spec.is_done(str(post.get("status"))) else Absent()

    @property
    def listed_actions(self) -> Collection[str]:
        """Drafts: each post began as one."""
        return [self.draft.name]

    async def listing(self, since: datetime, until: datetime) -> AsyncIterator[Listed]:
        """Yield the posts of our account that were made or changed since SINCE. The site does not tell which of the two."""
        attempt = Attempt(key="", fence=0, deadline=WORDPRESS.deadline)
        me = await self._get("/wp-json/wp/v2/users/me?context=edit&_fields=id", attempt)
        if not isinstance(me, dict):
            raise EffectRejected(f"{self.name} does not recognise our account: check `user` and `password`")
        changed = since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        query = f"author={me['id']}&modified_after={changed}&status={_STATUSES}&context=edit&_fields=id,slug,status"
        seen: set[str] = set()
        while True:
            page = await self._get(
                f"{self._path}?{query}&per_page={_PAGE}&orderby=id&order=asc&offset={len(seen)}", attempt
            )
            posts = [post for post in page if isinstance(post, dict)] if isinstance(page, list) else None
            if posts is None:
                raise EffectRejected(f"{self.name} does not list the posts of our account")
            for listed in self.draft.parse_listing(post for post in posts if str(post["id"]) not in seen):
                yield listed
            seen |= {str(post["id"]) for post in posts}
            if len(posts) < _PAGE:
                return

    async def contract(self) -> Contract | None:
        """Return what the site says of its posts: JSON Schema, by OPTIONS."""
        operations: dict[str, Operation] = {}
        for path in (self._path, f"{self._path}/0"):
            described = await self._fetch_schema(path)
            for action in map(_wordpress_action, self.actions.values()):
                method, _, template = action.request.partition("?")[0].partition(" ")
                if template.replace("{post}", "0") == path:
                    name = f"{method} {template}"
                    before = operations[name].actions if name in operations else ()
                    operations[name] = read_operation(
                        described, method, sends=_FIELDS_SENT, reads=_FIELDS_READ, actions=(*before, action.name)
                    )
        return Contract(source="json-schema", operations=operations)

    async def _fetch_schema(self, path: str) -> JsonValue:
        spec = cast("HttpAction[BaseModel, BaseModel]", self.post)
        attempt = Attempt(key="", fence=0, deadline=WORDPRESS.deadline)
        response = await self._send(spec, Request("OPTIONS", path), attempt, TargetUnavailable)
        if response.status_code != 200:
            raise TargetUnavailable(f"{self.name} answered {response.status_code} when it was asked to describe its posts")
        try:
            return cast(JsonValue, response.json())
        except ValueError:
            raise EffectRejected(f"{self.name} does not describe its posts in JSON: check `url`") from None

    async def _probe_after_refusal(
        self, spec: _Action, args: BaseModel, attempt: Attempt, refusal: EffectRejected
    ) -> Probe:
        try:
            return await self.probe(spec, args, attempt)
        except TargetUnavailable as error:
            raise EffectUnknown(
                f"{refusal.message}; whether it happened all the same is unknown: {error.message}"
            ) from None

    async def _load_revision(self, spec: _Action, asked: Restore, attempt: Attempt) -> _Action:
        """Return SPEC with the texts of the revision ASKED for. Raises `EffectRejected` if it is gone."""
        post = await self._get(f"{self._path}/{asked.post}?context=edit", attempt)
        wanted = await self._get(f"{self._path}/{asked.post}/revisions/{asked.revision}?context=edit", attempt)
        if not isinstance(post, dict) or not isinstance(wanted, dict):
            raise EffectRejected(
                f"{spec.name}: post {asked.post} has no revision {asked.revision} that this account may read"
            )
        if newest_revision(post) != asked.newest:
            raise EffectRejected(f"{spec.name}: post {asked.post} was saved since revision {asked.newest}; read it again")
        body = raw_texts(wanted)
        return replace(spec, body=lambda _: body)

    async def _probe_restore(self, spec: _Action, asked: Restore, attempt: Attempt) -> Probe:
        one = f"{self._path}/{asked.post}"
        post = await self._get(f"{one}?context=edit", attempt)
        wanted = await self._get(f"{one}/revisions/{asked.revision}?context=edit", attempt)
        revisions = await self._get(f"{one}/revisions?context=edit&per_page=100", attempt)
        if not isinstance(post, dict) or not isinstance(wanted, dict) or not isinstance(revisions, list):
            return CannotTell(f"{spec.name}: the post and its revisions cannot be looked up")
        since = [each for each in revisions if isinstance(each, dict) and cast(int, each["id"]) > asked.newest]
        if any(raw_texts(each) == raw_texts(wanted) for each in (since or [post])):
            return _found_post(spec, post)
        if since:
            return CannotTell(f"{spec.name}: the post was saved since revision {asked.newest}, with other content")
        return Absent()

    async def _get(self, path: str, attempt: Attempt) -> JsonValue:
        return await self.get_json(self.post, Request("GET", path), attempt)


_FIELDS_SENT: Final = ("id", "context", "status", "title", "content", "excerpt", "slug", "categories", "tags")
_FIELDS_READ: Final = ("id", "status", "slug", "link", "title", "content", "excerpt", "modified_gmt")


def _wordpress_action(action: AnyAction) -> _Action:
    if not isinstance(action, WordPressAction):
        raise TypeError(f"action {action.name} is not a WordPressAction")
    return action


def _has_api(response: httpx.Response) -> bool:
    try:
        answer = decode_json(response)
    except ValueError:
        return False
    return isinstance(answer, dict) and answer.get("code") not in (None, "rest_no_route")


def _found_post(spec: _Action, post: JsonValue) -> Probe:
    try:
        return Found(spec.parse_result(post))
    except ValueError as error:
        return CannotTell(f"{spec.name}: it is there, but {error}")
