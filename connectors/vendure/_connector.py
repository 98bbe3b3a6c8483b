"""What can be done in a Vendure shop: orders, refunds and stock, by its admin API. Safe to import in workflow code."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, Final, cast

from pydantic import BaseModel, JsonValue

from perdure.connectors.contracts import (
    AnyAction,
    Attempt,
    Executed,
    Listed,
    Target,
    undo_by,
)
from perdure.connectors.graphql import GraphqlAction, GraphqlConnector
from perdure.connectors.http import HttpAction, Request
from perdure.connectors.vendure import _reading as reading
from perdure.connectors.vendure._models import (
    AdjustStock,
    Cancel,
    CancelledLine,
    Note,
    Noted,
    NoteOf,
    Order,
    OrderCode,
    OrderState,
    Refund,
    Refunded,
    SettleRefund,
    Sku,
    StockLevel,
)
from perdure.errors import EffectRejected

if TYPE_CHECKING:
    import httpx

    from perdure.connectors.vendure._login import Session

__all__ = [
    "AdjustStock",
    "Cancel",
    "CancelledLine",
    "Note",
    "NoteOf",
    "Noted",
    "Order",
    "OrderCode",
    "OrderState",
    "Refund",
    "Refunded",
    "SettleRefund",
    "Sku",
    "StockLevel",
    "VendureConnector",
]

VENDURE: Final = Target(mechanism="natural-key", settle=timedelta(seconds=10), deadline=timedelta(seconds=30))
"""It has no idempotency keys. A request that it has begun goes on when the connection is gone."""

_REFUND: Final = "id total state reason transaction: transactionId"
_ORDER: Final = (
    "id code state total: totalWithTax currency: currencyCode lines { id quantity productVariant { id sku } } "
    f"payments {{ id amount state method refunds {{ {_REFUND} }} }}"
)
_LEVEL: Final = "stockLevels { stockLocationId stockOnHand stockAllocated }"
_ADJUSTED: Final = (
    f"id {_LEVEL} stockMovements(options: {{type: ADJUSTMENT, skip: $adjustments, take: 10}}) "
    "{ totalItems items { ... on StockAdjustment { quantity } } }"
)
_ERROR: Final = "... on ErrorResult { errorCode message }"
_REFUNDS_OF: Final = f"query($order: ID!) {{ order(id: $order) {{ payments {{ refunds {{ {_REFUND} }} }} }} }}"
_ORDERS: Final = (
    "query($after: DateTime!, $skip: Int!) { orders(options: {filter: {orderPlacedAt: {after: $after}}, sort: {id: ASC}, "
    f"skip: $skip, take: 100}}) {{ items {{ id payments {{ id refunds {{ {_REFUND} createdAt }} }} }} }} }}"
)


def _history(kind: str) -> str:
    options = f'options: {{filter: {{type: {{eq: "{kind}"}}}}, sort: {{id: DESC}}, take: 1000}}'
    return f"id state history({options}) {{ totalItems items {{ id data }} }}"


class VendureConnector(GraphqlConnector):
    """A shop that runs Vendure 3. `url` is its admin API, such as `https://shop.example/admin-api`.

    It needs `user` and `password` of an administrator with the permissions ReadOrder, UpdateOrder, ReadCatalog and
    UpdateCatalog; or a `token` or `header.NAME` that lets it in.
    """

    takes: ClassVar = {
        "url": "https://shop.example/admin-api",
        "user": "perdure",
        "password": "env:SHOP_PASSWORD",
        "token": "env:SHOP_TOKEN",
        r"header\.[\w-]+": "env:SHOP_KEY",
    }
    # Vendure throws these within the transaction of the operation.
    refusals = (*GraphqlConnector.refusals, "ENTITY_NOT_FOUND", "ILLEGAL_OPERATION", "USER_INPUT_ERROR")
    refundable: timedelta = timedelta(days=365)
    """How old an order may be that is looked through for refunds when the ledger is compared with the shop."""

    def __init__(self, name: str = "vendure") -> None:
        self.order = GraphqlAction(
            f"{name}.order",
            OrderCode,
            Order,
            document="query($code: String!) { orders(options: {filter: {code: {eq: $code}}, take: 1}) { items { "
            f"{_ORDER} }} }} }}",
            read=lambda root, asked, _: reading.read_order(root, asked.code),
            reads=True,
            target=VENDURE,
        )
        self.refund = GraphqlAction(
            f"{name}.refund",
            Refund,
            Refunded,
            document="mutation($input: RefundOrderInput!) { refundOrder(input: $input) { "
            f"... on Refund {{ {_REFUND} }} {_ERROR} }} }}",
            variables=reading.refund_variables,
            read=reading.read_refund,
            look=_REFUNDS_OF,
            matches=reading.find_refunds,
            target=VENDURE,
            risk="high",
            reversibility="irreversible",
            describe=lambda refund: f"refund {refund.amount} of payment {refund.payment} of order {refund.order}",
        )
        self.settle_refund = GraphqlAction(
            f"{name}.settle_refund",
            SettleRefund,
            Refunded,
            document="mutation($input: SettleRefundInput!) { settleRefund(input: $input) { "
            f"... on Refund {{ {_REFUND} }} {_ERROR} }} }}",
            variables=lambda asked, _: {"input": {"id": asked.refund, "transactionId": asked.transaction}},
            read=reading.read_refund,
            look=_REFUNDS_OF,
            matches=lambda root, asked, _: [
                each for each in reading.read_refunds(root) if each["id"] == asked.refund and each["state"] == "Settled"
            ],
            target=VENDURE,
            reversibility="irreversible",
            describe=lambda asked: f"note that refund {asked.refund} was paid out as {asked.transaction}",
        )
        self.cancel = GraphqlAction(
            f"{name}.cancel",
            Cancel,
            OrderState,
            document="mutation($input: CancelOrderInput!) { cancelOrder(input: $input) { "
            f"... on Order {{ id state }} {_ERROR} }} }}",
            variables=reading.cancel_variables,
            look=f"query($order: ID!) {{ order(id: $order) {{ {_history('ORDER_CANCELLATION')} }} }}",
            matches=reading.find_cancellation,
            target=VENDURE,
            risk="high",
            reversibility="irreversible",
            describe=lambda asked: f"cancel {len(asked.lines) or 'all'} lines of order {asked.order}",
        )
        self.delete_note = GraphqlAction(
            f"{name}.delete_note",
            NoteOf,
            Noted,
            document="mutation($note: ID!) { deleteOrderNote(id: $note) { result message } }",
            variables=lambda asked, _: {"note": asked.note},
            read=reading.read_deletion,
            look=f"query($order: ID!) {{ order(id: $order) {{ {_history('ORDER_NOTE')} }} }}",
            matches=reading.find_deletion,
            target=VENDURE,
            risk="low",
            reversibility="retriable",
            describe=lambda asked: f"delete note {asked.note} of order {asked.order}",
        )
        self.note = GraphqlAction(
            f"{name}.note",
            Note,
            Noted,
            document="mutation($input: AddNoteToOrderInput!) { addNoteToOrder(input: $input) { "
            f"{_history('ORDER_NOTE')} }} }}",
            variables=lambda note, key: {
                "input": {"id": note.order, "note": reading.append_key(note.text, key), "isPublic": note.public}
            },
            read=lambda root, _, key: reading.read_note(root, key),
            look=f"query($order: ID!) {{ order(id: $order) {{ {_history('ORDER_NOTE')} }} }}",
            matches=lambda root, _, key: reading.find_notes(root, key),
            target=VENDURE,
            risk="low",
            reversibility="compensatable",
            undo=undo_by(self.delete_note, lambda asked, made: NoteOf(order=asked.order, note=made.id)),
            describe=lambda note: f"add a note to order {note.order}",
        )
        self.stock = GraphqlAction(
            f"{name}.stock",
            Sku,
            StockLevel,
            document="query($sku: String!) { productVariants(options: {filter: {sku: {eq: $sku}}, take: 2}) { items { "
            f"id {_LEVEL} stockMovements(options: {{type: ADJUSTMENT, take: 1}}) {{ totalItems }} }} }} }}",
            variables=lambda asked, _: {"sku": asked.sku},
            read=lambda root, asked, _: reading.read_stock(root, asked),
            remote_ref="variant",
            reads=True,
            target=VENDURE,
        )
        adjust = GraphqlAction(
            f"{name}.adjust_stock",
            AdjustStock,
            StockLevel,
            document="mutation($input: [UpdateProductVariantInput!]!, $adjustments: Int!) "
            f"{{ updateProductVariants(input: $input) {{ {_ADJUSTED} }} }}",
            read=lambda root, asked, _: reading.read_level(root[0] if isinstance(root, list) else None, asked.location),
            look=f"query($variant: ID!, $adjustments: Int!) {{ productVariant(id: $variant) {{ {_ADJUSTED} }} }}",
            matches=reading.find_adjustment,
            remote_ref="variant",
            target=VENDURE,
            reversibility="retriable",
            once_per=("variant", "location", "adjustments"),
            describe=lambda asked: f"set the stock of variant {asked.variant} from {asked.on_hand} to {asked.to}",
        )
        self.adjust_stock = replace(adjust, reversibility="compensatable", undo=undo_by(adjust, reading.undo_adjustment))
        every = (
            self.order,
            self.refund,
            self.settle_refund,
            self.cancel,
            self.note,
            self.delete_note,
            self.stock,
            self.adjust_stock,
        )
        super().__init__(*cast("tuple[HttpAction[BaseModel, BaseModel], ...]", every))

    def _reset(self) -> None:
        super()._reset()
        self._session: Session | None = None

    async def auth_headers(self, within: timedelta) -> dict[str, str]:
        """Return, WITHIN that time, the headers that say who asks."""
        headers = await super().auth_headers(within)
        if not self.option("user"):
            return headers
        from perdure.connectors.vendure._login import Session

        assert self._client is not None
        if self._session is None:
            self._session = Session(self.option("url"), self.option("user"), self.option("password"))
        return headers | await self._session.auth_headers(self._client, within)

    async def renew_login(self, request: httpx.Request, attempt: Attempt) -> bool:
        """Say whether the session is over, so that the next attempt begins another one."""
        if self._session is None or self._client is None:
            return False
        return await self._session.is_over(self._client, request.headers, attempt.deadline / 2)

    async def execute(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Executed:
        """Send the operation of ACTION once. Raises as `Connector.execute` says."""
        if not isinstance(args, AdjustStock):
            return await super().execute(action, args, attempt)
        assert isinstance(action, GraphqlAction)
        now = await self.ask(action, action.build_probe(args, attempt.key), attempt)
        try:
            level = reading.read_level(now, args.location)
        except ValueError as error:
            raise EffectRejected(f"{action.name}: {error}") from None
        if level["adjustments"] != args.adjustments:
            refusal = EffectRejected(f"{action.name}: the stock was set by others since that reading; read it again")
            return await self.raise_unless_found(action, args, attempt, refusal)
        # What was sold since the reading stays sold. The API has no conditional write, so a sale between our look and our
        # write is the one thing that can be lost.
        to = cast(int, level["on_hand"]) + args.to - args.on_hand
        stock: JsonValue = [{"stockLocationId": args.location, "stockOnHand": to}]
        given: dict[str, JsonValue] = {
            "input": [{"id": args.variant, "stockLevels": stock}],
            "adjustments": args.adjustments,
        }
        return await super().execute(replace(action, variables=lambda *_: given), args, attempt)

    @property
    def listed_actions(self) -> Collection[str]:
        """Refunds: what was given back is what has to agree."""
        return [self.refund.name]

    async def listing(self, since: datetime, until: datetime) -> AsyncIterator[Listed]:
        """Yield the refunds of the time SINCE to UNTIL.

        The shop lists them by order only, and an order does not say that it got one, so all of a year's are read.
        """
        attempt = Attempt(key="", fence=0, deadline=VENDURE.deadline)
        skip = 0
        while True:
            asked: JsonValue = {"after": (since - self.refundable).isoformat(), "skip": skip}
            request = Request("POST", "", {"query": _ORDERS, "variables": asked})
            page = await self.ask(cast("GraphqlAction[BaseModel, BaseModel]", self.refund), request, attempt)
            orders = page.get("items") if isinstance(page, dict) else None
            if not isinstance(orders, list):
                raise EffectRejected(f"{self.name} answered its orders, and there is no list in it")
            for order in orders:
                for listed in reading.list_refunds(self.refund.name, order):
                    if listed.at is None or since <= listed.at < until:
                        yield listed
            skip += len(orders)
            if not orders:
                return
