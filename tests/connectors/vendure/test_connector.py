"""What a Vendure shop is asked, and what is made of answers that a real one gave."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import cast

import httpx
import pytest
from kits.recorded import KEY, Recorded, answered, execute, probe
from pydantic import JsonValue

from perdure.connectors import Absent, CannotTell, Found
from perdure.connectors.vendure import (
    AdjustStock,
    Cancel,
    CancelledLine,
    Note,
    NoteOf,
    OrderCode,
    Refund,
    SettleRefund,
    Sku,
    StockLevel,
    VendureConnector,
)
from perdure.errors import EffectRejected, EffectUnknown, TargetUnavailable

REFUND = Refund(order="1", payment="1", amount=120, reason="dented")
ADJUST = AdjustStock(variant="2", location="1", on_hand=100_000, adjustments=1, to=100_005)


@pytest.fixture
def recorded() -> Recorded:
    """What a shop answered."""
    return Recorded("vendure")


@pytest.fixture
async def vendure(recorded: Recorded) -> AsyncIterator[VendureConnector]:
    """The connector, let in by a token."""
    connector = VendureConnector().with_options({"url": "http://shop/admin-api", "token": "t"})
    async with answered(connector, recorded):
        yield connector


async def test_refund_carries_the_key_in_its_reason(recorded: Recorded, vendure: VendureConnector) -> None:
    """The reason, which the shop stores, ends with the key; there is no other place for it."""
    recorded.next("refunded")
    done = await execute(vendure, vendure.refund, REFUND)

    assert ("1", 120, "Pending") == (done.remote_ref, *_fields(done.output, "total", "state"))
    assert ["POST /admin-api"] == recorded.paths()
    assert {"paymentId": "1", "amount": 120, "reason": f"dented [{KEY}]"}.items() <= _input(recorded).items()


async def test_probe_of_a_refund(recorded: Recorded, vendure: VendureConnector) -> None:
    """A refund is found by its key among those of its order, and is not there if none has it."""
    recorded.next("no refunds", "refunds")

    assert Absent() == await probe(vendure, vendure.refund, REFUND)
    found = await probe(vendure, vendure.refund, REFUND)
    assert isinstance(found, Found)
    assert "1" == found.executed.remote_ref
    assert [{"order": "1"}] * 2 == [_variables(body) for body in recorded.bodies()]


@pytest.mark.parametrize(
    ("change", "expected"),
    [({"state": "Failed"}, Absent), ({"reason": "dented"}, Absent), ({"reason": f"[{KEY}] dented"}, Absent)],
)
async def test_refund_that_is_not_ours_or_has_failed(
    recorded: Recorded, vendure: VendureConnector, change: dict[str, JsonValue], expected: type[object]
) -> None:
    """Another reason, or a refund that the provider has turned down, is no refund of ours."""
    recorded.next(_order([{**_recorded_refund(recorded), **change}]))

    assert isinstance(await probe(vendure, vendure.refund, REFUND), expected)


async def test_a_refund_that_failed_has_not_happened(recorded: Recorded, vendure: VendureConnector) -> None:
    """A refund that is answered as failed is refused, as the look-up has it (case 09)."""
    failed: JsonValue = {"refundOrder": {**_recorded_refund(recorded), "state": "Failed"}}
    recorded.next(_json({"data": failed}), _order([{**_recorded_refund(recorded), "state": "Failed"}]))

    with pytest.raises(EffectRejected, match="has failed at the payment provider"):
        await execute(vendure, vendure.refund, REFUND)


async def test_two_refunds_with_one_key(recorded: Recorded, vendure: VendureConnector) -> None:
    """Where the shop has it twice, nobody can say which one is ours."""
    recorded.next(_order([_recorded_refund(recorded)] * 2))

    assert isinstance(await probe(vendure, vendure.refund, REFUND), CannotTell)


async def test_refusal(recorded: Recorded, vendure: VendureConnector) -> None:
    """The shop's no is final once it is seen that the refund is not there."""
    recorded.next("refused", "no refunds")

    with pytest.raises(EffectRejected, match="exceeds the refundable amount"):
        await execute(vendure, vendure.refund, REFUND)


async def test_refusal_of_what_is_there(recorded: Recorded, vendure: VendureConnector) -> None:
    """A no that comes after the refund was stored is not taken for one: the shop says so when it gets stuck half way."""
    stuck: JsonValue = {"refundOrder": {"errorCode": "REFUND_STATE_TRANSITION_ERROR", "message": "stuck"}}
    recorded.next(_json({"data": stuck}), "refunds")

    assert "1" == (await execute(vendure, vendure.refund, REFUND)).remote_ref


async def test_refusal_that_cannot_be_checked(recorded: Recorded, vendure: VendureConnector) -> None:
    """Where the look after a no gets no answer, the outcome is unknown."""
    recorded.next("refused", httpx.Response(502))

    with pytest.raises(EffectUnknown, match="exceeds the refundable amount"):
        await execute(vendure, vendure.refund, REFUND)


async def test_state_that_is_reached_already(recorded: Recorded, vendure: VendureConnector) -> None:
    """A refund that is settled already is settled."""
    recorded.next("settled already", "settled refunds")
    settle = SettleRefund(order="1", refund="1", transaction="tx-1")

    assert ("Settled",) == _fields((await execute(vendure, vendure.settle_refund, settle)).output, "state")


async def test_order(recorded: Recorded, vendure: VendureConnector) -> None:
    """An order has its lines, its payments and what was given back; a code that nobody has is a refusal."""
    recorded.next("order", "no order")
    order = (await execute(vendure, vendure.order, OrderCode(code="X"))).output

    assert {"id": "1", "state": "PaymentSettled", "total": 500}.items() <= order.model_dump().items()
    assert [("1", "K0", "1", 5)] == [tuple(line.values()) for line in order.model_dump()["lines"]]
    assert [120, 7] == [refund["total"] for refund in order.model_dump()["payments"][0]["refunds"]]
    with pytest.raises(EffectRejected, match="no order none"):
        await execute(vendure, vendure.order, OrderCode(code="none"))


async def test_note(recorded: Recorded, vendure: VendureConnector) -> None:
    """A note is found by its key in the answer, which is the whole order, and in the look-up alike."""
    recorded.next("no notes", "noted", _json({"data": {"order": _data(recorded, "noted", "addNoteToOrder")}}))
    note = Note(order="1", text="call back")

    assert Absent() == await probe(vendure, vendure.note, note)
    written = await execute(vendure, vendure.note, note)
    found = await probe(vendure, vendure.note, note)
    assert {"id": "1", "note": f"call back [{KEY}]", "isPublic": False} == _input(recorded, 1)
    assert Found(written) == found


async def test_history_that_is_not_all_there(recorded: Recorded, vendure: VendureConnector) -> None:
    """A list that ends before its end proves nothing."""
    history: JsonValue = {"totalItems": 2000, "items": [{"id": "9", "data": {"note": "x"}}]}
    recorded.next(_json({"data": {"order": {"id": "1", "state": "PaymentSettled", "history": history}}}))

    assert isinstance(await probe(vendure, vendure.note, Note(order="1", text="x")), CannotTell)


async def test_note_that_is_gone_already(recorded: Recorded, vendure: VendureConnector) -> None:
    """Deleting a note that somebody has deleted is done."""
    recorded.next("not deleted", "no notes")

    assert "7" == (await execute(vendure, vendure.delete_note, NoteOf(order="1", note="7"))).remote_ref


@pytest.mark.parametrize(
    ("cancel", "answer", "expected"),
    [
        (Cancel(order="1"), "not cancelled", Absent),
        (Cancel(order="1"), "cancellation", Found),
        (Cancel(order="1", lines=(CancelledLine(line="1", quantity=1),)), "cancellation", Found),
    ],
)
async def test_probe_of_a_cancellation(
    recorded: Recorded, vendure: VendureConnector, cancel: Cancel, answer: str, expected: type[object]
) -> None:
    """A cancellation is found by its key in the order's history."""
    recorded.next(answer)

    assert isinstance(await probe(vendure, vendure.cancel, cancel), expected)


async def test_cancelled_by_others(recorded: Recorded, vendure: VendureConnector) -> None:
    """An order that others have cancelled whole is cancelled; of a part of it that says nothing."""
    recorded.next(*[_json({"data": {"order": {"id": "1", "state": "Cancelled", "history": _NO_HISTORY}}})] * 2)
    part = Cancel(order="1", lines=(CancelledLine(line="1", quantity=1),))

    assert isinstance(await probe(vendure, vendure.cancel, Cancel(order="1")), Found)
    assert Absent() == await probe(vendure, vendure.cancel, part)


async def test_lines_of_a_cancellation(recorded: Recorded, vendure: VendureConnector) -> None:
    """No lines mean the whole order, which the shop takes a missing field for."""
    recorded.next("cancelled", "cancelled")
    await execute(vendure, vendure.cancel, Cancel(order="1", reason="changed their mind", shipping=True))
    await execute(vendure, vendure.cancel, Cancel(order="1", lines=(CancelledLine(line="4", quantity=2),)))

    assert {"orderId": "1", "reason": f"changed their mind [{KEY}]", "cancelShipping": True} == _input(recorded)
    assert [{"orderLineId": "4", "quantity": 2}] == _input(recorded, 1)["lines"]
    assert f"[{KEY}]" == _input(recorded, 1)["reason"]


async def test_stock_is_set_by_the_reading(recorded: Recorded, vendure: VendureConnector) -> None:
    """The stock is looked at before it is set, and what was sold since the reading stays sold."""
    sold = _data(recorded, "stock before", "productVariant")
    sold["stockLevels"] = [{"stockLocationId": "1", "stockOnHand": 99_990, "stockAllocated": 0}]
    recorded.next(_json({"data": {"productVariant": sold}}), "stock set")
    done = await execute(vendure, vendure.adjust_stock, ADJUST)

    stock: JsonValue = [{"stockLocationId": "1", "stockOnHand": 99_995}]
    asked: JsonValue = {"input": [{"id": "2", "stockLevels": stock}], "adjustments": 1}
    assert asked == _variables(recorded.bodies()[1])
    assert StockLevel(variant="2", location="1", on_hand=100_005, allocated=0, adjustments=2) == done.output


async def test_stock_that_others_have_set(recorded: Recorded, vendure: VendureConnector) -> None:
    """When the stock was set since the reading, nothing is sent; if it was set as we would have, that was us."""
    recorded.next("stock after", "stock after")
    by_others = ADJUST.model_copy(update={"to": 100_009})
    assert "2" == (await execute(vendure, vendure.adjust_stock, ADJUST)).remote_ref

    recorded.next("stock after", "stock after", "stock after")
    with pytest.raises(EffectRejected, match="read it again"):
        await execute(vendure, vendure.adjust_stock, by_others)
    assert isinstance(await probe(vendure, vendure.adjust_stock, by_others), CannotTell)
    assert not any("mutation" in str(body) for body in recorded.bodies())


async def test_undo_of_an_adjustment(vendure: VendureConnector) -> None:
    """Its undo takes off what was added, by the reading that the adjustment itself gave."""
    made = StockLevel(variant="2", location="1", on_hand=99_995, allocated=0, adjustments=2)
    undo = vendure.adjust_stock.undo
    assert undo is not None

    assert {"on_hand": 99_995, "adjustments": 2, "to": 99_990}.items() <= undo.argue(ADJUST, made).model_dump().items()
    with pytest.raises(ValueError, match="is 5 already"):
        AdjustStock(variant="2", location="1", on_hand=5, adjustments=1, to=5)


async def test_stock_of_which_variant(recorded: Recorded, vendure: VendureConnector) -> None:
    """A variant is found by its number, and has to be one at one place."""
    recorded.next("stock", "stock")
    level = (await execute(vendure, vendure.stock, Sku(sku="K1"))).output

    assert ("2", "1", 100_000, 1) == _fields(level, "variant", "location", "on_hand", "adjustments")
    with pytest.raises(EffectRejected, match="0 locations that K1 7 could mean"):
        await execute(vendure, vendure.stock, Sku(sku="K1", location="7"))


async def test_log_in_once(recorded: Recorded) -> None:
    """The session that a log-in begins serves for what comes after."""
    connector = VendureConnector().with_options({"url": "http://shop/admin-api/", "user": "desk", "password": "hunter2"})
    async with answered(connector, recorded):
        recorded.next("login", "no refunds", "refunded")
        await probe(connector, connector.refund, REFUND)
        await execute(connector, connector.refund, REFUND)

    assert {"user": "desk", "password": "hunter2"} == _variables(recorded.bodies()[0])
    assert ["Bearer token"] * 2 == [request.headers["Authorization"] for request in recorded.asked[1:]]


async def test_session_in_a_cookie(recorded: Recorded) -> None:
    """A shop that gives no token keeps the session in a cookie."""
    given = httpx.Response(200, headers={"Set-Cookie": "session=abc; path=/"}, json=_LOGGED_IN)
    connector = VendureConnector().with_options({"url": "http://shop/admin-api", "user": "desk", "password": "p"})
    async with answered(connector, recorded):
        recorded.next(given, "order")
        await execute(connector, connector.order, OrderCode(code="X"))

    assert "session=abc" == recorded.asked[1].headers["Cookie"]


async def test_session_that_is_over(recorded: Recorded) -> None:
    """When the shop knows the session no more, nothing was done and the next attempt logs in."""
    connector = VendureConnector().with_options({"url": "http://shop/admin-api", "user": "desk", "password": "p"})
    async with answered(connector, recorded):
        recorded.next("login", "forbidden", _json({"errors": [{"message": "no"}], "data": {"me": None}}), "login", "order")
        with pytest.raises(TargetUnavailable, match="log in again"):
            await execute(connector, connector.order, OrderCode(code="X"))
        await execute(connector, connector.order, OrderCode(code="X"))

    assert [True, False, False, True, False] == ["login(" in str(body) for body in recorded.bodies()]


async def test_permission_that_is_missing(recorded: Recorded) -> None:
    """When the session lasts, the shop means what it says."""
    connector = VendureConnector().with_options({"url": "http://shop/admin-api", "user": "desk", "password": "p"})
    async with answered(connector, recorded):
        recorded.next("login", "forbidden", _json({"data": {"me": {"id": "3"}}}))
        with pytest.raises(EffectRejected, match="does not allow it"):
            await execute(connector, connector.order, OrderCode(code="X"))


async def test_wrong_password(recorded: Recorded) -> None:
    """Who is not let in waits a while, and the password is in no error."""
    wrong: JsonValue = {"errorCode": "INVALID_CREDENTIALS_ERROR", "message": "The provided credentials are invalid"}
    connector = VendureConnector().with_options({"url": "http://shop/admin-api", "user": "desk", "password": "hunter2"})
    async with answered(connector, recorded):
        recorded.next(_json({"data": {"login": wrong}}))
        with pytest.raises(TargetUnavailable, match="check `user` and `password`") as refused:
            await execute(connector, connector.order, OrderCode(code="X"))

    assert timedelta(minutes=1) == refused.value.retry_after
    assert "hunter2" not in str(refused.value)


async def test_listing(recorded: Recorded, vendure: VendureConnector) -> None:
    """Refunds come with the key that is in their reason, by whomever they were made."""
    recorded.next("orders", "no orders")
    listed = [each async for each in vendure.listing(datetime(2026, 1, 1, tzinfo=UTC), datetime(2036, 1, 1, tzinfo=UTC))]

    assert [(KEY, 120, True), ("", 7, True)] == [(each.key, each.facts["amount"], each.stands) for each in listed]
    assert [0, 1] == [_variables(body)["skip"] for body in recorded.bodies()]


_NO_HISTORY: JsonValue = {"totalItems": 0, "items": []}
_LOGGED_IN: JsonValue = {"data": {"login": {"__typename": "CurrentUser"}}}


def _json(body: JsonValue) -> httpx.Response:
    return httpx.Response(200, json=body)


def _data(recorded: Recorded, name: str, field: str) -> dict[str, JsonValue]:
    return dict(cast("dict[str, dict[str, dict[str, JsonValue]]]", recorded.answers[name]["body"])["data"][field])


def _recorded_refund(recorded: Recorded) -> dict[str, JsonValue]:
    return _data(recorded, "refunded", "refundOrder")


def _order(refunds: list[dict[str, JsonValue]]) -> httpx.Response:
    return httpx.Response(200, json={"data": {"order": {"payments": [{"refunds": refunds}]}}})


def _variables(body: JsonValue) -> dict[str, JsonValue]:
    return cast("dict[str, dict[str, JsonValue]]", body)["variables"]


def _input(recorded: Recorded, number: int = 0) -> dict[str, JsonValue]:
    return cast("dict[str, JsonValue]", _variables(recorded.bodies()[number])["input"])


def _fields(model: object, *names: str) -> tuple[object, ...]:
    return tuple(getattr(model, name) for name in names)
