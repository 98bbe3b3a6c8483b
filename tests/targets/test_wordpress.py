"""Tests of the WordPress connector against a real site: every fault, every action."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
from kits.connectors import key_of, persist, step, undo
from kits.wordpress import Site
from pydantic import JsonValue

from perdure.connectors import EffectCall, EffectResult, Target
from perdure.connectors.drift._compatibility import compare
from perdure.connectors.ledger import Ledger
from perdure.connectors.reconciliation._compare import find_differences
from perdure.connectors.testing import (
    Case,
    Fault,
    HttpFaultProxy,
    check,
)
from perdure.connectors.wordpress import Draft, WordPressConnector
from perdure.errors import EffectRejected
from perdure.storage import Database

pytestmark = pytest.mark.targets

BRISK = Target(mechanism="natural-key", settle=timedelta(seconds=1.5), deadline=timedelta(seconds=8))
FAULTS: list[Fault] = ["lose request", "lose response", "land late", "500 after commit", "truncate"]


@pytest.fixture
async def proxy(site: Site) -> AsyncIterator[HttpFaultProxy]:
    """What has requests to the site go wrong."""
    async with HttpFaultProxy(site.url) as proxy:
        yield proxy


@pytest.fixture
async def connector(site: Site, proxy: HttpFaultProxy) -> AsyncIterator[WordPressConnector]:
    """The connector, behind the proxy."""
    connector = WordPressConnector().with_options({**site.options, "url": proxy.url})
    connector._actions = {name: replace(action, target=BRISK) for name, action in connector.actions.items()}
    yield connector
    await connector.close()


@pytest.fixture
def ledger(sqlite_database: Database, connector: WordPressConnector) -> Ledger:
    """A ledger before it."""
    return Ledger(sqlite_database, {"wordpress": connector})


async def test_drafts_under_every_fault(site: Site, proxy: HttpFaultProxy, connector: WordPressConnector) -> None:
    """Under every fault a draft is made once; a client that retries makes some of them twice."""

    async def drafts(args: Draft) -> int:
        return len(site.titled(args.title))

    matrix = await check(
        Case(
            connector=connector,
            action=connector.draft,
            args=lambda number: Draft(title=f"Number {number} of the matrix", content="<p>one</p>"),
            count=drafts,
            proxy=proxy,
            target=BRISK,
        )
    )

    assert [] == matrix.problems
    assert 5 <= matrix.total().naive.duplicates


@pytest.mark.parametrize("fault", FAULTS)
async def test_lost_answer_of_a_change(site: Site, proxy: HttpFaultProxy, ledger: Ledger, fault: Fault) -> None:
    """Publishing, taking back and trashing are found by the post's state, and are undone as they were done."""
    post = site.saved()
    states = []
    for verb in ("publish", "unpublish", "trash"):
        proxy.faults.script(fault)
        change = _call(verb, post=post)
        done = await persist(lambda change=change: ledger.perform(change))  # type: ignore[misc]  # its default is bound
        await proxy.faults.wait_until_settled()
        states.append((_value(done)["status"], site.one(post)["status"]))

    assert [("publish", "publish"), ("draft", "draft"), ("trash", "trash")] == states


@pytest.mark.parametrize("fault", FAULTS)
async def test_lost_answer_of_a_restoration(site: Site, proxy: HttpFaultProxy, ledger: Ledger, fault: Fault) -> None:
    """A revision is restored once, and undoing that goes forward to what was there before."""
    post = site.saved("<p>one \\ 'two'</p>", "<p>another</p>")
    newest, earlier = site.revisions(post)
    proxy.faults.script(fault)
    restore = _call("restore", post=post, revision=earlier, newest=newest)
    restored = await persist(lambda: ledger.perform(restore))
    await proxy.faults.wait_until_settled()

    assert "<p>one \\ 'two'</p>" == _value(restored)["content"]
    assert 3 == len(site.revisions(post))
    assert "compensated" == (await ledger.undo(undo(restore))).outcome
    assert ("<p>another</p>", 4) == (_raw(site.one(post), "content"), len(site.revisions(post)))


async def test_draft_that_is_published_and_taken_back(site: Site, ledger: Ledger) -> None:
    """A saga that fails leaves the post in the trash, under the names that the site has for that."""
    draft = _call("draft", title="Größe & Gewicht", content="<p>\\ 'x' \"y\"</p>", categories=[1])
    made = _value(await ledger.perform(draft))
    publish = _call("publish", post=made["id"], slug="size-and-weight")
    published = _value(await ledger.perform(publish))
    undone = [(await ledger.undo(undo(each))).outcome for each in (publish, draft)]

    assert f"gr-e-gewicht-{key_of(draft)}" == made["slug"]
    assert ("<p>\\ 'x' \"y\"</p>", "Größe & Gewicht") == (made["content"], made["title"])
    assert ("publish", "size-and-weight") == (published["status"], published["slug"])
    assert ["compensated", "compensated"] == undone
    assert "trash" == site.one(cast(int, made["id"]))["status"]


async def test_draft_that_somebody_has_trashed(site: Site, proxy: HttpFaultProxy, ledger: Ledger) -> None:
    """A draft whose answer was lost is found in the trash as well, and is not made again."""
    proxy.faults.script("lose response")
    draft = _call("draft", title="Into the trash", content="x")
    with pytest.raises(Exception, match="ended"):
        await ledger.perform(draft)
    site.client.delete(f"/posts/{site.titled('Into the trash')[0]['id']}").raise_for_status()
    found = await persist(lambda: ledger.perform(draft))

    assert ("trash", "probe") == (_value(found)["status"], found.receipt.confirmed_by)
    assert 1 == len(site.titled("Into the trash"))
    assert "compensated" == (await ledger.undo(undo(draft))).outcome


async def test_restoration_after_somebody_has_written(site: Site, ledger: Ledger) -> None:
    """Who decided by an old look is told so, and what was written since stays."""
    post = site.saved("one", "two")
    newest, earlier = site.revisions(post)
    site.post(f"/posts/{post}", content="three")

    with pytest.raises(EffectRejected, match="was saved since"):
        await ledger.perform(_call("restore", post=post, revision=earlier, newest=newest))
    assert "three" == _raw(site.one(post), "content")


async def test_look_at_a_post(site: Site, ledger: Ledger) -> None:
    """A look says which revision is the newest; what is not there is a refusal in the site's words."""
    post = site.saved("one")
    seen = _value(await ledger.perform(_call("post", post=post)))

    assert ("one", "draft", site.revisions(post)[0]) == (seen["content"], seen["status"], seen["revision"])
    with pytest.raises(EffectRejected, match="Invalid post ID"):
        await ledger.perform(_call("post", post=999_999))


async def test_wrong_password(site: Site, sqlite_database: Database) -> None:
    """A password that is wrong is in no error."""
    connector = WordPressConnector().with_options({**site.options, "password": "wrong wrong"})

    with pytest.raises(EffectRejected, match="not allowed to create posts") as refused:
        await Ledger(sqlite_database, {"wordpress": connector}).perform(_call("draft", title="x", content="x"))

    await connector.close()
    assert "wrong wrong" not in str(refused.value)


async def test_listing(site: Site, sqlite_database: Database) -> None:
    """Set against the ledger, the list shows a draft that was made twice and one that nobody asked for."""
    connector = WordPressConnector().with_options(site.options)
    ledger = Ledger(sqlite_database, {"wordpress": connector})
    since = datetime.now(UTC) - timedelta(seconds=2)
    draft = _call("draft", title="Listed", content="x")
    made = _value(await ledger.perform(draft))
    site.post("/posts", title="Listed", content="x", slug=made["slug"], status="draft")
    by_hand = site.saved()
    effect = await ledger.get(key_of(draft))
    until = datetime.now(UTC) + timedelta(days=1)
    new = [each async for each in connector.listing(since, until)]
    listed = [each for each in new if each.key == effect.key or each.remote_ref == str(by_hand)]
    await connector.close()

    result = find_differences(connector.actions, [effect], listed, since=since, until=until)

    assert ["duplicate", "unknown"] == sorted(finding.kind for finding in result.found)


async def test_contract(connector: WordPressConnector) -> None:
    """The contract has what is sent and read, and a status that is taken no longer breaks."""
    contract = await connector.contract()
    assert contract is not None
    name = "POST /wp-json/wp/v2/posts/{post}"
    publish = contract.operations[name]
    narrow: dict[str, JsonValue] = {"type": "object", "properties": {"status": {"type": "string", "enum": ["draft"]}}}
    changed = contract.model_copy(
        update={"operations": {**contract.operations, name: publish.model_copy(update={"request": narrow})}}
    )

    assert ("wordpress.publish", "wordpress.unpublish", "wordpress.restore") == publish.actions
    assert [] == compare(contract, contract)
    assert "breaking" in [change.verdict for change in compare(contract, changed)]


def _call(verb: str, **args: JsonValue) -> EffectCall:
    return EffectCall(step=step(verb, workflow_id=uuid.uuid4().hex), action=f"wordpress.{verb}", args=args)


def _value(result: EffectResult) -> dict[str, JsonValue]:
    assert isinstance(result.value, dict)
    return result.value


def _raw(post: dict[str, JsonValue], name: str) -> JsonValue:
    return cast("dict[str, JsonValue]", post[name])["raw"]
