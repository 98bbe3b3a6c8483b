"""How the stand-in shop describes itself, and what it becomes when its makers release another version. See `shop`."""

from __future__ import annotations

from perdure.examples.returns_desk.shop_books import Json, RequestRefused

RELEASES = ("first", "compatible", "breaking")
"""`compatible` takes a note with a refund and tells when it was made; `breaking` calls the amount `amount_minor`."""

_TEXT: Json = {"type": "string"}
_NUMBER: Json = {"type": "integer", "minimum": 1}


def document(release: str) -> Json:
    """Return the shop's OpenAPI document."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Stand-in shop", "version": release},
        "paths": {
            "/orders/{order}": {"get": _operation(None, _ref("Order"))},
            "/refunds": {
                "get": _operation(None, {"type": "array", "items": _ref("Refund")}),
                "post": _operation(_ref("NewRefund"), _ref("Refund"), status="201"),
            },
            "/reservations": {
                "get": _operation(None, {"type": "array", "items": _ref("Reservation")}),
                "post": _operation(_ref("NewReservation"), _ref("Reservation"), status="201"),
            },
            "/reservations/{id}/release": {"post": _operation(_ref("Release"), _ref("Reservation"))},
        },
        "components": {"schemas": _schemas(release)},
    }


def translate_request(release: str, asked: Json) -> Json:
    """Return what ASKED of this RELEASE means in the shop's books."""
    if release != "breaking":
        return asked
    if "amount_minor" not in asked:
        raise RequestRefused(422, "amount_minor is not a positive number of minor units")
    return {**{name: value for name, value in asked.items() if name != "amount"}, "amount": asked["amount_minor"]}


def translate_refund(release: str, refund: Json) -> Json:
    """Return how this RELEASE tells of REFUND."""
    if release != "breaking":
        return refund
    return {("amount_minor" if name == "amount" else name): value for name, value in refund.items()}


def _schemas(release: str) -> Json:
    amount = "amount_minor" if release == "breaking" else "amount"
    new: Json = {"order": _TEXT, amount: _NUMBER, "currency": _TEXT, "reference": _TEXT, "reason": _TEXT}
    made: Json = {"id": _TEXT, "order": _TEXT, amount: _NUMBER, "currency": _TEXT, "reference": _TEXT, "reason": _TEXT}
    if release == "compatible":
        new["note"] = _TEXT
        made["created_at"] = _TEXT
    or_none: Json = {"type": ["string", "null"]}
    order = dict.fromkeys(("order", "customer", "item", "currency", "bought_on"), _TEXT)
    return {
        "Order": _object(
            {
                **order,
                "amount": _NUMBER,
                "delivered_on": or_none,
                "final_sale": {"type": "boolean"},
                "stock": {"type": "integer"},
            }
        ),
        "NewRefund": _object(new, required=["order", amount]),
        "Refund": _object(made),
        "NewReservation": _object({"order": _TEXT, "reference": _TEXT}, required=["order"]),
        "Reservation": _object(
            {"id": _TEXT, "order": _TEXT, "reference": _TEXT, "released_by": or_none, "released_at": or_none}
        ),
        "Release": _object({"released_by": _TEXT}, required=[]),
    }


def _operation(request: Json | None, response: Json, *, status: str = "200") -> Json:
    said: Json = {"responses": {status: {"description": "done", "content": {"application/json": {"schema": response}}}}}
    return said if request is None else {"requestBody": {"content": {"application/json": {"schema": request}}}, **said}


def _object(properties: Json, *, required: list[str] | None = None) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties) if required is None else required}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}
