"""How money is taken and given back: payment intents and refunds by the Stripe API."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import ClassVar, Final, Generic, cast
from urllib.parse import urlencode

from pydantic import BaseModel, Field, JsonValue

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
from perdure.connectors.http import HttpAction, HttpConnector, Item, Listing, Request, parse_time
from perdure.errors import EffectRejected
from perdure.lineage import Frozen

__all__ = ["Capture", "Intent", "Pay", "Payment", "Refund", "RefundDone", "StripeConnector"]

STRIPE: Final = Target(mechanism="natural-key", settle=timedelta(seconds=5), deadline=timedelta(seconds=30))
"""Looked up by list and metadata, which show a new object at once; the search API does not. The Idempotency-Key goes along,
but is not relied on: it is forgotten after a day, and it repeats errors as well."""

_KEY: Final = "perdure_key"
_ACTION: Final = "perdure_action"
_PAGES: Final = 10
_PAGE: Final = "limit=100&starting_after={after}"
_INTENTS: Final = Listing(f"GET /v1/payment_intents?{_PAGE}", items="data", at="created", newest_first=True)
_REFUNDS: Final = Listing(f"GET /v1/refunds?{_PAGE}", items="data", at="created", newest_first=True)
_PREPARED: Final = frozenset({"requires_payment_method", "requires_confirmation"})
_STATUSES: Final = _PREPARED | {
    "processing",
    "requires_action",
    "requires_capture",
    "succeeded",
    "canceled",
    "pending",
    "failed",
}
"""Those of payment intents and refunds. With another nobody here can tell whether something has happened."""


class Pay(Frozen):
    """What to take, in minor units of the currency, by which payment method."""

    amount: int = Field(gt=0)
    currency: str = Field(pattern=r"^[a-z]{3}$")
    payment_method: str
    customer: str = ""
    metadata: dict[str, str] = Field(default_factory=dict)


class Intent(Frozen):
    """Which payment intent."""

    payment: str = Field(pattern=r"^pi_\w+$")


class Capture(Frozen):
    """Which authorised payment to take, and how much of it; None: all."""

    payment: str = Field(pattern=r"^pi_\w+$")
    amount: int | None = Field(default=None, gt=0)


class Payment(Frozen):
    """A payment intent as it stands. `requires_action`, after `confirm`: the customer goes on, e.g. in their bank's app."""

    id: str
    amount: int
    currency: str
    status: str


class Refund(Frozen):
    """How much of which payment to give back, in minor units; None: all of it."""

    payment: str = Field(pattern=r"^pi_\w+$")
    amount: int | None = Field(default=None, gt=0)
    metadata: dict[str, str] = Field(default_factory=dict)


class RefundDone(Frozen):
    """What was given back. One that is `pending` or waits for the customer is not: it is looked up again, then parked."""

    id: str
    amount: int
    currency: str
    status: str


@dataclass(frozen=True)
class StripeAction(HttpAction[In, Out], Generic[In, Out]):
    """An action on Stripe: found by our key in the metadata of a listed object, or by the status of a known one."""

    list_path: Callable[[In], str] | None = None
    """Makes the path of the list that the object would be in."""
    success_statuses: frozenset[str] = frozenset()
    """The statuses with which it has happened."""
    pending_statuses: frozenset[str] = frozenset()
    """Those with which it may still happen or not. With any other that is known it has not."""
    counts_unkeyed: bool = False
    """Whether whatever is listed counts, also what has no key of ours."""

    def __post_init__(self) -> None:
        Action.__post_init__(self)  # the probe is not HttpAction's

    def build_request(self, args: In, key: str) -> Request:
        """Return the request that does the action with ARGS under the effect's KEY."""
        request = super().build_request(args, key)
        body = dict(request.body) if isinstance(request.body, dict) else {}
        body.pop(self.key, None)  # not a field here
        if self.list_path is not None:
            given = body.get("metadata")
            ours: dict[str, JsonValue] = {_KEY: key, _ACTION: self.name}
            body["metadata"] = {**(given if isinstance(given, dict) else {}), **ours}
        return replace(request, body=None if self.reads else body)

    def parse_result(self, answer: JsonValue) -> Executed:
        """Read ANSWER. Raises `EffectRejected` where its status says that it failed, `ValueError` where nobody can tell."""
        executed = super().parse_result(answer)
        if not self.reads and (why := self.judge_status(answer)) is not None:
            if isinstance(why, Absent):
                raise EffectRejected(f"{self.name}: {self.connector} says {_describe_status(answer)}")
            raise ValueError(why.why)
        return executed

    def judge_status(self, answer: JsonValue) -> Absent | CannotTell | None:
        """Return what the status of ANSWER says of whether it has happened; None: it has."""
        status = answer.get("status") if isinstance(answer, dict) else None
        if status in self.success_statuses:
            return None
        if status in self.pending_statuses or status not in _STATUSES:
            return CannotTell(f"it is {_describe_status(answer)}, which is neither done nor failed")
        return Absent()

    def key_headers(self, key: str) -> dict[str, str]:
        """Return the headers that carry the effect's KEY."""
        return {} if self.reads else {"Idempotency-Key": key}

    def parse_listing(self, items: Iterable[Item]) -> list[Listed]:
        """Read ITEMS of the list: those that this action made, and if ALL_LISTED those that nobody here made."""
        return [self._read_item(item) for item in items if self._is_mine(item)]

    def _is_mine(self, item: Item) -> bool:
        metadata = _metadata(item)
        # Before it was stored with the key, what made an intent cannot be told. It is looked up by its key then.
        return metadata.get(_ACTION) == self.name or (self.counts_unkeyed and _ACTION not in metadata)

    def _read_item(self, item: Item) -> Listed:
        # A status goes on changing, and nobody is to blame for that.
        facts = {name: item[name] for name in self.output.model_fields if name in item and name != "status"}
        if isinstance(payment := item.get("payment_intent"), str):
            facts["payment"] = payment
        return Listed(
            action=self.name,
            remote_ref=str(item.get(self.remote_ref)),
            key=str(_metadata(item).get(_KEY, "")),
            facts=facts,
            at=parse_time(item.get("created")),
            # Of a payment that was given back its status says nothing.
            stands=False if isinstance(self.judge_status(dict(item)), Absent) else None,
        )


_Action = StripeAction[BaseModel, BaseModel]


class StripeConnector(HttpConnector):
    """Payments by Stripe, or by what speaks its API. It needs `token`, a secret or restricted key.

    `authorize` reserves money, `capture` takes it, `cancel` lets go of it; `charge` does the first two at once; `refund`
    gives it back. `create` and `confirm` are for payments that the customer completes in a browser.
    """

    takes: ClassVar = {"token": "env:STRIPE_KEY", **HttpConnector.takes}
    needs: ClassVar = ("token",)
    default_url: ClassVar = "https://api.stripe.com"

    def __init__(self, name: str = "stripe") -> None:
        def intents(_: Pay) -> str:
            return "/v1/payment_intents"

        self.payment = StripeAction(
            f"{name}.payment", Intent, Payment, request="GET /v1/payment_intents/{payment}", reads=True, target=STRIPE
        )
        self.cancel = StripeAction(
            f"{name}.cancel",
            Intent,
            Payment,
            request="POST /v1/payment_intents/{payment}/cancel",
            success_statuses=frozenset({"canceled"}),
            pending_statuses=frozenset({"processing"}),
            target=STRIPE,
            reversibility="retriable",
            describe=lambda intent: f"cancel payment {intent.payment}",
        )
        self.refund = StripeAction(
            f"{name}.refund",
            Refund,
            RefundDone,
            request="POST /v1/refunds",
            body=lambda refund: _drop_nulls(
                {"payment_intent": refund.payment, "amount": refund.amount, "metadata": dict(refund.metadata)}
            ),
            list_path=lambda refund: f"/v1/refunds?payment_intent={refund.payment}",
            success_statuses=frozenset({"succeeded"}),
            pending_statuses=frozenset({"pending", "requires_action"}),
            listing=_REFUNDS,
            counts_unkeyed=True,
            target=STRIPE,
            risk="high",
            reversibility="irreversible",
            describe=lambda refund: f"refund {'all' if refund.amount is None else refund.amount} of {refund.payment}",
        )
        self.capture = StripeAction(
            f"{name}.capture",
            Capture,
            Payment,
            request="POST /v1/payment_intents/{payment}/capture",
            body=lambda capture: _drop_nulls({"amount_to_capture": capture.amount}),
            success_statuses=frozenset({"succeeded"}),
            pending_statuses=frozenset({"processing"}),
            target=STRIPE,
            risk="high",
            reversibility="pivot",
            describe=lambda capture: f"capture {'all' if capture.amount is None else capture.amount} of {capture.payment}",
        )
        self.confirm = StripeAction(
            f"{name}.confirm",
            Intent,
            Payment,
            request="POST /v1/payment_intents/{payment}/confirm",
            # What the customer has to do next is the customer's.
            success_statuses=frozenset({"succeeded", "requires_capture", "requires_action"}),
            pending_statuses=frozenset({"processing"}),
            target=STRIPE,
            risk="high",
            reversibility="pivot",
            describe=lambda intent: f"confirm payment {intent.payment}",
        )
        self.create = StripeAction(
            f"{name}.create",
            Pay,
            Payment,
            request="POST /v1/payment_intents",
            body=_pay_body,
            list_path=intents,
            success_statuses=_STATUSES - {"canceled", "failed"},
            listing=_INTENTS,
            target=STRIPE,
            reversibility="compensatable",
            undo=undo_by(self.cancel, lambda _, made: Intent(payment=made.id)),
            describe=lambda pay: f"prepare a payment of {pay.amount} {pay.currency}",
        )
        self.authorize = StripeAction(
            f"{name}.authorize",
            Pay,
            Payment,
            request="POST /v1/payment_intents",
            body=lambda pay: {**_pay_body(pay), "confirm": True, "capture_method": "manual"},
            list_path=intents,
            success_statuses=frozenset({"requires_capture", "succeeded"}),
            pending_statuses=frozenset({"processing", "requires_action"}),
            listing=_INTENTS,
            target=STRIPE,
            risk="high",
            reversibility="compensatable",
            undo=undo_by(self.cancel, lambda _, made: Intent(payment=made.id)),
            describe=lambda pay: f"reserve {pay.amount} {pay.currency}",
        )
        self.charge = StripeAction(
            f"{name}.charge",
            Pay,
            Payment,
            request="POST /v1/payment_intents",
            body=lambda pay: {**_pay_body(pay), "confirm": True, "capture_method": "automatic"},
            list_path=intents,
            success_statuses=frozenset({"succeeded"}),
            pending_statuses=frozenset({"processing", "requires_action", "requires_capture"}),
            listing=_INTENTS,
            target=STRIPE,
            risk="high",
            reversibility="compensatable",
            undo=undo_by(self.refund, lambda _, made: Refund(payment=made.id)),
            describe=lambda pay: f"charge {pay.amount} {pay.currency}",
        )
        every = (
            self.payment,
            self.create,
            self.confirm,
            self.authorize,
            self.capture,
            self.charge,
            self.cancel,
            self.refund,
        )
        super().__init__(*cast("tuple[_Action, ...]", every))

    def encode_body(self, spec: AnyAction, request: Request, key: str) -> tuple[bytes | None, dict[str, str]]:
        """Return the content of REQUEST, as a form."""
        if request.body is None:
            return None, {}
        return urlencode(list(_flatten("", request.body))).encode(), {"Content-Type": "application/x-www-form-urlencoded"}

    async def probe(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Probe:
        """Look for the object that has our key, or at the state of the one that was to be changed."""
        assert isinstance(action, StripeAction)
        if action.list_path is not None:
            return await self._find_in_list(action, action.list_path(args), attempt)
        look = replace(self.payment, success_statuses=action.success_statuses)
        answer = await self.get_json(look, Request("GET", f"/v1/payment_intents/{vars(args)['payment']}"), attempt)
        if not isinstance(answer, dict):
            return CannotTell(f"{action.name}: the payment cannot be looked up")
        return _judge(action, answer)

    async def _find_in_list(self, action: _Action, path: str, attempt: Attempt) -> Probe:
        after = ""
        for _ in range(_PAGES):
            page = f"{path}{'&' if '?' in path else '?'}limit=100{after}"
            answer = await self.get_json(cast("_Action", self.payment), Request("GET", page), attempt)
            objects = answer.get("data") if isinstance(answer, dict) else None
            if not isinstance(answer, dict) or not isinstance(objects, list):
                return CannotTell(f"{action.name}: the list has no data")
            for each in objects:
                if isinstance(each, dict) and _metadata(each).get(_KEY) == attempt.key:
                    return _judge(action, each)
            last = objects[-1] if objects else None
            if not answer.get("has_more") or not isinstance(last, dict):
                return Absent()
            after = f"&starting_after={last['id']}"
        return CannotTell(f"{action.name}: it is not among the newest {_PAGES * 100}, and there are more")


def _metadata(item: Item) -> Mapping[str, JsonValue]:
    metadata = item.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def _judge(action: _Action, found: dict[str, JsonValue]) -> Probe:
    if (undecided := action.judge_status(found)) is not None:
        # Where it was declined or has failed, asking again says so, and cannot do it twice.
        return undecided
    try:
        return Found(action.parse_result(found))
    except ValueError as error:
        return CannotTell(f"{action.name}: it is there, and {error}")


def _describe_status(answer: JsonValue) -> str:
    item = answer if isinstance(answer, dict) else {}
    error = item.get("last_payment_error")
    reasons = [
        item.get("failure_reason"),
        item.get("cancellation_reason"),
        error.get("code") if isinstance(error, dict) else None,
    ]
    why = ", ".join(str(reason) for reason in reasons if reason)
    return f"{item.get('status')!r}{f' ({why})' if why else ''}"


def _pay_body(pay: Pay) -> dict[str, JsonValue]:
    return _drop_nulls(
        {
            "amount": pay.amount,
            "currency": pay.currency,
            "payment_method": pay.payment_method,
            "customer": pay.customer or None,
            "metadata": dict(pay.metadata),
        }
    )


def _drop_nulls(values: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    return {name: value for name, value in values.items() if value is not None}


def _flatten(name: str, value: JsonValue) -> Iterator[tuple[str, str]]:
    # As Stripe's forms have it: metadata[perdure_key]=..., and true for True.
    if isinstance(value, dict):
        for inner, each in value.items():
            yield from _flatten(f"{name}[{inner}]" if name else inner, each)
    elif isinstance(value, bool):
        yield name, str(value).lower()
    elif value is not None:
        yield name, str(value)
