"""What a WordPress site is asked, and what is made of answers that a real one gave."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import cast

import httpx
import pytest
from kits.recorded import KEY, Recorded, answered, execute, probe
from pydantic import JsonValue

from perdure.connectors import Absent, CannotTell, Found
from perdure.connectors.wordpress import (
    Draft,
    Post,
    PostId,
    Publish,
    Restore,
    WordPressConnector,
)
from perdure.errors import (
    EffectRejected,
    EffectUnknown,
    InvalidSettings,
    TargetUnavailable,
)

DRAFT = Draft(title="Größe & Gewicht", content="<p>\\ 'x'</p>")
SLUG = f"gr-e-gewicht-{KEY}"
RESTORE = Restore(post=4, revision=6, newest=7)


@pytest.fixture
def recorded() -> Recorded:
    """What a site answered."""
    return Recorded("wordpress")


@pytest.fixture
async def site(recorded: Recorded) -> AsyncIterator[WordPressConnector]:
    """The connector."""
    connector = WordPressConnector().with_options({"url": "http://site", "user": "desk", "password": "hunter2 x"})
    async with answered(connector, recorded):
        yield connector


async def test_draft_carries_the_key_in_its_slug(recorded: Recorded, site: WordPressConnector) -> None:
    """The slug, which the site stores for drafts too, ends with the key; the password goes along as WordPress wants it."""
    recorded.next("drafted")
    done = await execute(site, site.draft, DRAFT)

    body = {"status": "draft", "title": DRAFT.title, "content": DRAFT.content, "slug": SLUG}
    assert (["POST /wp-json/wp/v2/posts"], [body]) == (recorded.paths(), recorded.bodies())
    assert "Basic ZGVzazpodW50ZXIyIHg=" == recorded.asked[0].headers["Authorization"]
    assert ("4", 0, DRAFT.content) == (done.remote_ref, *_fields(done.output, "revision", "content"))


@pytest.mark.parametrize(
    ("draft", "slug"),
    [
        (Draft(title="!!!", content=""), KEY),
        (Draft(title="x" * 300, content=""), f"{'x' * 100}-{KEY}"),
        (Draft(title="One", content="", slug="Sizes and more"), f"sizes-and-more-{KEY}"),
    ],
)
async def test_slugs(recorded: Recorded, site: WordPressConnector, draft: Draft, slug: str) -> None:
    """A slug has letters that WordPress leaves as they are, and is shorter than what it cuts off."""
    recorded.next("drafted")
    await execute(site, site.draft, draft)

    assert slug == cast("dict[str, JsonValue]", recorded.bodies()[0])["slug"]


async def test_probe_of_a_draft(recorded: Recorded, site: WordPressConnector) -> None:
    """A draft is looked up by its slug in every state that it may have by then, also by the slug of one in the trash."""
    recorded.next("no drafts", "drafts")

    assert Absent() == await probe(site, site.draft, DRAFT)
    assert isinstance(await probe(site, site.draft, DRAFT), Found)
    states = "publish,future,draft,pending,private,trash"
    path = f"/wp-json/wp/v2/posts?slug={SLUG},{SLUG}__trashed&status={states}&context=edit"
    assert [f"GET {path}"] * 2 == recorded.paths()


@pytest.mark.parametrize("answer", [httpx.Response(403, json={}), httpx.Response(200, json=[{"id": 1}, {"id": 2}])])
async def test_probe_takes_only_proof(recorded: Recorded, site: WordPressConnector, answer: httpx.Response) -> None:
    """A site that does not let us look, or has it twice, proves nothing."""
    recorded.next(answer)

    assert isinstance(await probe(site, site.draft, DRAFT), CannotTell)


async def test_publishing(recorded: Recorded, site: WordPressConnector) -> None:
    """A post is published under its slug or another, and found by its state."""
    recorded.next("published", "public post", "post")
    done = await execute(site, site.publish, Publish(post=4, slug="size"))

    assert ("publish", "size") == _fields(done.output, "status", "slug")
    assert [{"status": "publish", "slug": "size"}] == recorded.bodies()
    assert isinstance(await probe(site, site.publish, Publish(post=4)), Found)
    assert Absent() == await probe(site, site.publish, Publish(post=4))


async def test_taking_back(recorded: Recorded, site: WordPressConnector) -> None:
    """What was published becomes a draft, and a draft goes into the trash; the key leaves with neither."""
    recorded.next("unpublished", "trashed")
    await execute(site, site.unpublish, PostId(post=4))
    await execute(site, site.trash, PostId(post=4))

    assert ["POST /wp-json/wp/v2/posts/4", "DELETE /wp-json/wp/v2/posts/4"] == recorded.paths()
    assert [{"status": "draft"}, None] == recorded.bodies()


async def test_in_the_trash_already(recorded: Recorded, site: WordPressConnector) -> None:
    """A post that somebody has put into the trash is there."""
    recorded.next("trashed already", "post in the trash")

    assert ("trash",) == _fields((await execute(site, site.trash, PostId(post=4))).output, "status")


async def test_refusal(recorded: Recorded, site: WordPressConnector) -> None:
    """The site's no is final once it is seen that nothing is there; where that cannot be seen, the outcome is unknown."""
    no = httpx.Response(403, json={"code": "rest_cannot_publish", "message": "Sorry, you are not allowed to."})
    recorded.next(no, "post", no, httpx.Response(502))

    with pytest.raises(EffectRejected, match="Sorry, you are not allowed to"):
        await execute(site, site.publish, Publish(post=4))
    with pytest.raises(EffectUnknown, match="Sorry, you are not allowed to"):
        await execute(site, site.publish, Publish(post=4))


async def test_restoration(recorded: Recorded, site: WordPressConnector) -> None:
    """What the revision said is what is written, once it is seen that nobody has written since."""
    recorded.next("post", "revision", "restored")
    done = await execute(site, site.restore, RESTORE)

    assert {"title": DRAFT.title, "content": "one", "excerpt": ""} == recorded.bodies()[2]
    assert ("one", 8) == _fields(done.output, "content", "revision")
    assert site.restore.undo is not None
    assert Restore(post=4, revision=7, newest=8) == site.restore.undo.argue(RESTORE, cast(Post, done.output))


async def test_restoration_after_somebody_has_written(recorded: Recorded, site: WordPressConnector) -> None:
    """What was written since the decision is not written over, and nothing is sent."""
    recorded.next("post", "revision", "post", "revision", "revisions")

    with pytest.raises(EffectRejected, match="was saved since revision 6"):
        await execute(site, site.restore, RESTORE.model_copy(update={"newest": 6}))
    assert {"GET"} == {request.method for request in recorded.asked}


async def test_probe_of_a_restoration(recorded: Recorded, site: WordPressConnector) -> None:
    """It is there if a newer revision says the same, not there if there is no newer one, and unclear otherwise."""
    recorded.next("post", "revision", "revisions")
    recorded.next("restored post", "revision", "restored revisions")
    recorded.next("post", "revision", "revisions")
    other = RESTORE.model_copy(update={"newest": 6})

    assert Absent() == await probe(site, site.restore, RESTORE)
    assert isinstance(await probe(site, site.restore, RESTORE), Found)
    assert isinstance(await probe(site, site.restore, other), CannotTell)


async def test_look(recorded: Recorded, site: WordPressConnector) -> None:
    """A post comes with its texts as they were written and its newest revision."""
    recorded.next("post", "no post")
    post = (await execute(site, site.post, PostId(post=4))).output

    assert (DRAFT.title, "two", 7, "draft") == _fields(post, "title", "content", "revision", "status")
    with pytest.raises(EffectRejected, match="Invalid post ID"):
        await execute(site, site.post, PostId(post=4))


async def test_listing(recorded: Recorded, site: WordPressConnector) -> None:
    """What our account has written is listed, with the key that is in the slug, also in that of a copy."""
    recorded.next("me", "posts")
    since, until = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
    listed = [each async for each in site.listing(since, until)]

    assert [("1", "", True), ("4", "", False), ("5", KEY, True)] == [
        (each.remote_ref, each.key, each.stands) for each in listed
    ]
    assert {"author": "1", "modified_after": "2026-11-01T00:00:00Z"}.items() <= _query(recorded, 1).items()


async def test_who_we_are(recorded: Recorded, site: WordPressConnector) -> None:
    """Nothing is listed as nobody: the whole site would look as if it were ours."""
    recorded.next(httpx.Response(401, json={}))

    with pytest.raises(EffectRejected, match="does not recognise our account"):
        _ = [each async for each in site.listing(datetime.now(UTC), datetime.now(UTC))]


async def test_contract(recorded: Recorded, site: WordPressConnector) -> None:
    """The contract is what the site says of what is sent and read, and nothing else."""
    recorded.next("options of all", "options of one")
    contract = await site.contract()
    assert contract is not None
    draft = contract.operations["POST /wp-json/wp/v2/posts"]
    look = contract.operations["GET /wp-json/wp/v2/posts/{post}"]

    assert ["OPTIONS /wp-json/wp/v2/posts", "OPTIONS /wp-json/wp/v2/posts/0"] == recorded.paths()
    assert {"title", "content", "status", "slug"} <= _properties(draft.request).keys()
    assert "ping_status" not in _properties(draft.request)
    assert "ping_status" not in _properties(draft.response)
    assert ("wordpress.post",) == look.actions
    assert {"type": "integer"} == _properties(look.response)["id"]


async def test_site_that_does_not_describe_itself(recorded: Recorded, site: WordPressConnector) -> None:
    """No description is no contract, and not one that lacks everything."""
    recorded.next(httpx.Response(503, json={}))

    with pytest.raises(TargetUnavailable, match="describe its posts"):
        await site.contract()


async def test_pages() -> None:
    """Another kind of post has another address."""
    pages = WordPressConnector("pages", type="pages").with_options({"url": "http://site", "user": "u", "password": "p"})
    recorded = Recorded("wordpress")
    async with answered(pages, recorded):
        recorded.next("drafted")
        await execute(pages, pages.draft, DRAFT)

    assert ["POST /wp-json/wp/v2/pages"] == recorded.paths()
    assert "pages.draft" == pages.draft.name


def test_options() -> None:
    """Without an account nothing can be done, so that is said at start-up."""
    with pytest.raises(InvalidSettings, match="needs user"):
        WordPressConnector().with_options({"url": "http://site"})


def _fields(model: object, *names: str) -> tuple[object, ...]:
    return tuple(getattr(model, name) for name in names)


def _query(recorded: Recorded, number: int) -> dict[str, str]:
    return dict(recorded.asked[number].url.params)


def _properties(schema: Mapping[str, JsonValue] | None) -> dict[str, JsonValue]:
    assert schema is not None
    return cast("dict[str, JsonValue]", schema["properties"])
