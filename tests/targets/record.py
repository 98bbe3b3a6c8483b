"""Writes down what a Vendure shop and a WordPress site answer, for the tests that do without them: tests/data/*.json.

.venv/bin/python tests/targets/record.py
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import httpx

sys.path.insert(0, str(Path(__file__).parent.parent))

from kits.recorded import KEY, Recorded, execute, probe
from kits.vendure import Shop, a_shop
from kits.wordpress import Site, a_site

from perdure.connectors import HttpConnector
from perdure.connectors.contracts import Action, In, Out
from perdure.connectors.vendure import (
    AdjustStock,
    Cancel,
    Note,
    NoteOf,
    OrderCode,
    Refund,
    SettleRefund,
    Sku,
    VendureConnector,
)
from perdure.connectors.wordpress import (
    Draft,
    PostId,
    Publish,
    Restore,
    WordPressConnector,
)
from perdure.errors import EffectError

C = TypeVar("C", bound=HttpConnector)


class Recorder:
    """Has CONNECTOR act, and writes down under a name what it got last."""

    def __init__(self, connector: HttpConnector, system: str) -> None:
        self.connector = connector
        self.recorded = Recorded(system)
        self.recorded.answers = {}
        self._names: list[str] = []
        connector._client = httpx.AsyncClient(event_hooks={"response": [self._take]})

    async def execute(self, action: Action[In, Out], args: In, *names: str) -> None:
        """Do ACTION, whose answers are called NAMES; a name that is empty is not written down."""
        self._names = list(names)
        with suppress(EffectError):
            await execute(self.connector, action, args)
        assert not self._names, self._names

    async def probe(self, action: Action[In, Out], args: In, *names: str) -> None:
        """Look for what ACTION did."""
        self._names = list(names)
        await probe(self.connector, action, args)
        assert not self._names, self._names

    async def listing(self, *names: str) -> None:
        """Read the list of all that there is."""
        from datetime import UTC, datetime, timedelta

        self._names = list(names)
        now = datetime.now(UTC)
        assert isinstance(self.connector, VendureConnector | WordPressConnector)
        _ = [each async for each in self.connector.listing(now - timedelta(days=1), now)]
        assert not self._names, self._names

    async def _take(self, response: httpx.Response) -> None:
        name = self._names.pop(0)
        if name:
            await self.recorded.take(name, response)


async def vendure(shop: Shop) -> None:
    """Write down what a shop answers."""
    at = VendureConnector().with_options({"url": shop.url, "user": "superadmin", "password": "superadmin"})
    record = Recorder(at, "vendure")
    order, code, payment = shop.order(5, by="transfer")
    refund = Refund(order=order, payment=payment, amount=120, reason="dented")
    await record.probe(at.refund, refund, "login", "no refunds")
    await record.execute(at.refund, refund, "refunded")
    await record.probe(at.refund, refund, "refunds")
    await record.execute(at.refund, Refund(order=order, payment=payment, amount=9999), "refused", "")
    settle = SettleRefund(order=order, refund="1", transaction="tx-1")
    await record.execute(at.settle_refund, settle, "settled")
    await record.execute(at.settle_refund, settle, "settled already", "settled refunds")
    shop.refund(payment, 7, reason="by hand")
    await record.execute(at.order, OrderCode(code=code), "order")
    await record.execute(at.order, OrderCode(code="none"), "no order")
    note = Note(order=order, text="call back")
    await record.probe(at.note, note, "no notes")
    await record.execute(at.note, note, "noted")
    noted = shop.ask("query($id: ID!) { order(id: $id) { history(options: {filter: {type: {eq: \"ORDER_NOTE\"}}}) "
                     "{ items { id } } } }", id=order)  # fmt: skip
    which = NoteOf(order=order, note=str(noted["history"]["items"][0]["id"]))  # type: ignore[index,call-overload]
    await record.execute(at.delete_note, which, "deleted")
    await record.execute(at.delete_note, which, "not deleted", "")
    await record.execute(at.stock, Sku(sku="K1"), "stock")
    adjust = AdjustStock(variant="2", location="1", on_hand=100_000, adjustments=1, to=100_005)
    await record.execute(at.adjust_stock, adjust, "stock before", "stock set")
    await record.probe(at.adjust_stock, adjust, "stock after")
    await record.listing("orders", "no orders")
    cancel = Cancel(order=order, reason="changed their mind", shipping=True)
    await record.probe(at.cancel, cancel, "not cancelled")
    await record.execute(at.cancel, cancel, "cancelled")
    await record.probe(at.cancel, cancel, "cancellation")
    at._session = None
    shop.ask("mutation { logout { success } }")
    anonymous = VendureConnector().with_options({"url": shop.url, "token": "nobody"})
    other = Recorder(anonymous, "vendure")
    other.recorded = record.recorded
    await other.execute(anonymous.order, OrderCode(code=code), "forbidden")
    record.recorded.save()


async def wordpress(site: Site) -> None:
    """Write down what a site answers."""
    at = WordPressConnector().with_options(site.options)
    record = Recorder(at, "wordpress")
    draft = Draft(title="Größe & Gewicht", content="<p>\\ 'x'</p>")
    await record.probe(at.draft, draft, "no drafts")
    await record.execute(at.draft, draft, "drafted")
    await record.probe(at.draft, draft, "drafts")
    post = site.titled(draft.title)[0]["id"]
    assert isinstance(post, int)
    site.post("/posts", title="again", content="x", slug=f"x-{KEY}", status="draft")
    for content in ("one", "two"):
        site.post(f"/posts/{post}", content=content)
    newest, earlier = site.revisions(post)
    await record.execute(at.post, PostId(post=post), "post")
    await record.execute(at.post, PostId(post=999_999), "no post")
    restore = Restore(post=post, revision=earlier, newest=newest)
    await record.probe(at.restore, restore, "", "", "revisions")
    await record.execute(at.restore, restore, "", "revision", "restored")
    await record.probe(at.restore, restore, "restored post", "", "restored revisions")
    await record.execute(at.publish, Publish(post=post, slug="size"), "published")
    await record.probe(at.publish, Publish(post=post), "public post")
    await record.execute(at.unpublish, PostId(post=post), "unpublished")
    await record.execute(at.trash, PostId(post=post), "trashed")
    await record.execute(at.trash, PostId(post=post), "trashed already", "post in the trash")
    await record.listing("me", "posts")
    record._names = ["options of all", "options of one"]
    assert await at.contract()
    record.recorded.save()


def main() -> None:
    """Start both systems and write down what they answer."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "shop").mkdir()
        (Path(folder) / "site").mkdir()
        with a_shop(Path(folder) / "shop", variants=3) as shop:
            asyncio.run(vendure(shop))
        with a_site(Path(folder) / "site") as site:
            asyncio.run(wordpress(site))


if __name__ == "__main__":
    main()
