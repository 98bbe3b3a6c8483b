"""How what a Vendure shop answers is read, and where it keeps the keys of effects: in reasons and notes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from pydantic import JsonValue

from perdure.connectors.contracts import Listed
from perdure.connectors.http import parse_time
from perdure.connectors.vendure._models import (
    AdjustStock,
    Cancel,
    NoteOf,
    Refund,
    Sku,
    StockLevel,
)
from perdure.errors import EffectRejected

Json = dict[str, JsonValue]

_KEY: Final = re.compile(r"\[(pe-[0-9a-f]{16,})\]$")


def append_key(text: str, key: str) -> str:
    """Return TEXT with KEY at its end."""
    return f"{text} [{key}]".lstrip()


def ends_with_key(text: JsonValue, key: str) -> bool:
    """Say whether TEXT ends with KEY."""
    return isinstance(text, str) and text.endswith(f"[{key}]")


def read_order(root: JsonValue, code: str) -> JsonValue:
    """Return the one order of ROOT. Raises `EffectRejected` if it is not there."""
    found = _items(root)
    if not found:
        raise EffectRejected(f"the shop has no order {code}")
    lines: list[JsonValue] = []
    for line in _dicts(found[0].get("lines")):
        variant = _dict(line.get("productVariant"))
        lines.append({"id": line["id"], "quantity": line["quantity"], "variant": variant["id"], "sku": variant["sku"]})
    return {**found[0], "payments": found[0].get("payments") or [], "lines": lines}


def read_refunds(root: JsonValue) -> list[Json]:
    """Return all refunds of the order ROOT. Raises `ValueError` if there is no such order."""
    if not isinstance(root, dict):
        raise ValueError("there is no such order")
    return [refund for payment in _dicts(root.get("payments")) for refund in _dicts(payment.get("refunds"))]


def refund_variables(asked: Refund, key: str) -> Json:
    """Return the variables of the refund ASKED for."""
    # Vendure 3.7 calls the last three optional, and fails without them.
    given: Json = {"paymentId": asked.payment, "amount": asked.amount, "reason": append_key(asked.reason, key)}
    return {"input": {**given, "lines": [], "shipping": 0, "adjustment": 0}}


def read_refund(root: JsonValue, _asked: object, _key: str) -> JsonValue:
    """Return the refund ROOT. Raises `EffectRejected` if the payment provider has turned it down."""
    if _dict(root).get("state") == "Failed":
        raise EffectRejected(f"refund {_dict(root).get('id')} has failed at the payment provider")
    return root


def find_refunds(root: JsonValue, _asked: Refund, key: str) -> list[JsonValue]:
    """Return the refunds of the order ROOT that have KEY. One that failed has not happened, so it is asked for again."""
    return [each for each in read_refunds(root) if ends_with_key(each.get("reason"), key) and each.get("state") != "Failed"]


def cancel_variables(asked: Cancel, key: str) -> Json:
    """Return the variables of the cancellation ASKED for."""
    lines: list[JsonValue] = [{"orderLineId": line.line, "quantity": line.quantity} for line in asked.lines]
    given: Json = {"orderId": asked.order, "reason": append_key(asked.reason, key), "cancelShipping": asked.shipping}
    return {"input": {**given, "lines": lines} if lines else given}


def find_cancellation(root: JsonValue, asked: Cancel, key: str) -> list[JsonValue]:
    """Return the order ROOT if it was cancelled under KEY, or if all of it is and all was to be."""
    found = any(ends_with_key(_dict(entry.get("data")).get("reason"), key) for entry in read_history(root))
    # An order that nobody has paid for yet is cancelled without an entry in its history.
    gone = isinstance(root, dict) and root.get("state") == "Cancelled" and not asked.lines
    return [root] if found or gone else []


def read_history(root: JsonValue) -> list[Json]:
    """Return the history of the order ROOT, of one kind. Raises `ValueError` if that is not all of it."""
    if not isinstance(root, dict):
        raise ValueError("there is no such order")
    history = _dict(root.get("history"))
    found = _dicts(history.get("items"))
    if history.get("totalItems") != len(found):
        raise ValueError(f"the order has {history.get('totalItems')} entries of this kind, and {len(found)} were shown")
    return found


def find_notes(root: JsonValue, key: str) -> list[JsonValue]:
    """Return the notes of the order ROOT that have KEY."""
    return [{"id": entry["id"]} for entry in read_history(root) if ends_with_key(_dict(entry.get("data")).get("note"), key)]


def read_note(root: JsonValue, key: str) -> JsonValue:
    """Return the note of the order ROOT that has KEY. Raises `ValueError` if there is none, or more than one."""
    (note,) = find_notes(root, key)
    return note


def read_deletion(root: JsonValue, asked: NoteOf, _key: str) -> JsonValue:
    """Return the note ASKED for, now that it is deleted. Raises `EffectRejected` if ROOT says otherwise."""
    if _dict(root).get("result") != "DELETED":
        raise EffectRejected(f"the shop did not delete note {asked.note}: {_dict(root).get('message')}")
    return {"id": asked.note}


def find_deletion(root: JsonValue, asked: NoteOf, _key: str) -> list[JsonValue]:
    """Return the note ASKED for if the order ROOT has it no longer."""
    return [] if any(entry["id"] == asked.note for entry in read_history(root)) else [{"id": asked.note}]


def read_stock(root: JsonValue, asked: Sku) -> JsonValue:
    """Return the level of the one variant in ROOT. Raises `EffectRejected` if there is none, or it is not clear which."""
    found = _items(root)
    places = [level["stockLocationId"] for level in _dicts(found[0].get("stockLevels"))] if len(found) == 1 else []
    if asked.location:
        places = [place for place in places if place == asked.location]
    if len(places) != 1:
        what = f"{len(found)} variants" if len(found) != 1 else f"{len(places)} locations"
        raise EffectRejected(f"the shop has {what} that {asked.sku} {asked.location} could mean".replace("  ", " "))
    return read_level(found[0], str(places[0]))


def read_level(variant: JsonValue, location: str) -> Json:
    """Return how much there is of VARIANT at LOCATION. Raises `ValueError` if it is not there."""
    found = _dict(variant)
    for each in _dicts(found.get("stockLevels")):
        if each["stockLocationId"] == location:
            return {
                "variant": found["id"],
                "location": location,
                "on_hand": each["stockOnHand"],
                "allocated": each["stockAllocated"],
                "adjustments": _dict(found.get("stockMovements"))["totalItems"],
            }
    raise ValueError(f"the shop has no such variant at location {location}")


def find_adjustment(root: JsonValue, asked: AdjustStock, _key: str) -> list[JsonValue]:
    """Return the level of the variant ROOT if its stock was set as ASKED since that reading."""
    since = _dicts(_dict(_dict(root).get("stockMovements")).get("items"))
    now = read_level(root, asked.location)
    if not since:
        return []
    if [asked.to - asked.on_hand] != [movement.get("quantity") for movement in since]:
        raise ValueError("its stock was set by others meanwhile")
    return [now]


def undo_adjustment(asked: AdjustStock, made: StockLevel) -> AdjustStock:
    """Return what undoes the adjustment ASKED for, after which the level was MADE."""
    return AdjustStock(
        variant=made.variant,
        location=made.location,
        on_hand=made.on_hand,
        adjustments=made.adjustments,
        to=made.on_hand - (asked.to - asked.on_hand),
    )


def list_refunds(action: str, root: JsonValue) -> Iterator[Listed]:
    """Yield the refunds of the order ROOT as things that ACTION makes."""
    found = _dict(root)
    for payment in _dicts(found.get("payments")):
        for refund in _dicts(payment.get("refunds")):
            key = _KEY.search(str(refund.get("reason")))
            yield Listed(
                action=action,
                remote_ref=str(refund["id"]),
                key=key[1] if key else "",
                # Its state and reference change when it is paid out.
                facts={
                    "order": found["id"],
                    "payment": payment["id"],
                    "amount": refund["total"],
                    "total": refund["total"],
                },
                at=parse_time(refund.get("createdAt")),
                stands=refund.get("state") != "Failed",
            )


def _items(root: JsonValue) -> list[Json]:
    return _dicts(_dict(root).get("items"))


def _dict(value: JsonValue) -> Json:
    return value if isinstance(value, dict) else {}


def _dicts(value: JsonValue) -> list[Json]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
