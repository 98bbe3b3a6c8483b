"""A Vendure shop: how it is started and filled, and what it says when it is asked from beside the connector."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import httpx
from kits.targets import HERE, TARGETS, free_port, running, wait_for
from pydantic import JsonValue

Json = dict[str, JsonValue]


@dataclass
class Shop:
    """A shop with one article, and orders of it."""

    url: str
    """Its admin API."""
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=60))
    variants: list[str] = field(default_factory=list)
    shipping: str = ""
    customer: str = ""

    def ask(self, query: str, **variables: JsonValue) -> JsonValue:
        """Return what the one root field of QUERY answers."""
        answer = self.client.post(self.url, json={"query": query, "variables": variables}).raise_for_status()
        read = cast("dict[str, dict[str, JsonValue]]", answer.json())
        assert "errors" not in read, read
        if token := answer.headers.get("vendure-auth-token"):
            self.client.headers["Authorization"] = f"Bearer {token}"
            self.client.cookies.clear()
        return next(iter(read["data"].values()))

    def fill(self, variants: int) -> None:
        """Make what an order needs, and an article in so many VARIANTS, a hundred thousand of each in stock."""
        self.log_in()
        country = self._made("createCountry", "CreateCountryInput", {"code": "AT", "enabled": True, **_named("Austria")})
        zone = self._made("createZone", "CreateZoneInput", {"name": "EU", "memberIds": [country]})
        tax = self._made("createTaxCategory", "CreateTaxCategoryInput", {"name": "standard", "isDefault": True})
        rate: Json = {"name": "0", "enabled": True, "value": 0, "categoryId": tax, "zoneId": zone}
        self._made("createTaxRate", "CreateTaxRateInput", rate)
        channel: Json = {"id": "1", "defaultTaxZoneId": zone, "defaultShippingZoneId": zone}
        self.ask("mutation($input: UpdateChannelInput!) { updateChannel(input: $input) { __typename } }", input=channel)
        shipping: Json = {
            "code": "post",
            "fulfillmentHandler": "manual-fulfillment",
            "translations": [{"languageCode": "en", "name": "Post", "description": ""}],
            "checker": _operation("default-shipping-eligibility-checker", orderMinimum="0"),
            "calculator": _operation("default-shipping-calculator", rate="0", taxRate="0", includesTax="auto"),
        }
        self.shipping = self._made("createShippingMethod", "CreateShippingMethodInput", shipping)
        payment: Json = {
            "code": "card",
            "enabled": True,
            "handler": _operation("card"),
            **_named("Card"),
        }
        self._made("createPaymentMethod", "CreatePaymentMethodInput", payment)
        self.customer = self._customer()
        self.variants = self._variants(variants)

    def log_in(self) -> None:
        """Log in. Whoever logs out ends all sessions of that user."""
        self.client.headers.pop("Authorization", None)
        self.ask('mutation { login(username: "superadmin", password: "superadmin") { __typename } }')

    def order(self, quantity: int, *, by: str = "card") -> tuple[str, str, str]:
        """Make an order of QUANTITY pieces of the first variant that is paid for, and return its id, code and payment.

        Paid BY `card`, a refund is settled at once; paid otherwise, somebody has to settle it.
        """
        order = cast(Json, self.ask("mutation { createDraftOrder { id code } }"))
        of: Json = {"order": order["id"]}
        item: Json = {"productVariantId": self.variants[0], "quantity": quantity}
        self._on_order(of, "addItemToDraftOrder(orderId: $order, input: $input)", "AddItemToDraftOrderInput", item)
        self._on_order(of, "setCustomerForDraftOrder(orderId: $order, customerId: $input)", "ID", self.customer)
        address: Json = {"streetLine1": "x", "countryCode": "AT"}
        self._on_order(of, "setDraftOrderShippingAddress(orderId: $order, input: $input)", "CreateAddressInput", address)
        self._on_order(of, "setDraftOrderShippingMethod(orderId: $order, shippingMethodId: $input)", "ID", self.shipping)
        self._on_order(of, "transitionOrderToState(id: $order, state: $input)", "String", "ArrangingPayment")
        paid: Json = {"orderId": order["id"], "method": by, "transactionId": "t", "metadata": {}}
        answer = self.ask(
            "mutation($input: ManualPaymentInput!) { addManualPaymentToOrder(input: $input) "
            "{ ... on Order { payments { id } } } }",
            input=paid,
        )
        payments = cast("list[Json]", cast(Json, answer)["payments"])
        return str(order["id"]), str(order["code"]), str(payments[0]["id"])

    def ship(self, order: str) -> None:
        """Send all of ORDER, so that it is sold."""
        lines = cast(
            "dict[str, list[Json]]", self.ask("query($id: ID!) { order(id: $id) { lines { id quantity } } }", id=order)
        )
        sent: list[JsonValue] = [{"orderLineId": line["id"], "quantity": line["quantity"]} for line in lines["lines"]]
        given: Json = {"lines": sent, "handler": _operation("manual-fulfillment", method="post", trackingCode="1")}
        query = "mutation($input: FulfillOrderInput!) { addFulfillmentToOrder(input: $input) { __typename } }"
        assert {"__typename": "Fulfillment"} == self.ask(query, input=given)

    def refund(self, payment: str, amount: int, *, reason: str) -> None:
        """Give AMOUNT of PAYMENT back, as somebody in the admin's pages does."""
        rest: Json = {"lines": [], "shipping": 0, "adjustment": 0}
        query = "mutation($input: RefundOrderInput!) { refundOrder(input: $input) { ... on Refund { id } } }"
        assert self.ask(query, input={"paymentId": payment, "amount": amount, "reason": reason, **rest})

    def refunds(self, order: str) -> list[Json]:
        """Return the refunds of ORDER."""
        answer = self.ask("query($id: ID!) { order(id: $id) { payments { refunds { id total state reason } } } }", id=order)
        payments = cast("list[dict[str, list[Json]]]", cast(Json, answer)["payments"])
        return [refund for payment in payments for refund in payment["refunds"]]

    def history(self, order: str, kind: str) -> list[Json]:
        """Return what the entries of KIND in the history of ORDER say."""
        options = f'options: {{filter: {{type: {{eq: "{kind}"}}}}, take: 1000}}'
        answer = self.ask(f"query($id: ID!) {{ order(id: $id) {{ history({options}) {{ items {{ data }} }} }} }}", id=order)
        return [entry["data"] for entry in cast("dict[str, dict[str, list[dict[str, Json]]]]", answer)["history"]["items"]]

    def adjustments(self, variant: str) -> list[int]:
        """Return by how much the stock of VARIANT was set up or down, each time."""
        answer = self.ask(
            "query($id: ID!) { productVariant(id: $id) { stockMovements(options: {type: ADJUSTMENT}) "
            "{ items { ... on StockAdjustment { quantity } } } } }",
            id=variant,
        )
        return [
            one["quantity"] for one in cast("dict[str, dict[str, list[dict[str, int]]]]", answer)["stockMovements"]["items"]
        ]

    def _customer(self) -> str:
        asked: Json = {"firstName": "A", "lastName": "B", "emailAddress": "a@example.org"}
        query = "mutation($input: CreateCustomerInput!) { createCustomer(input: $input) { ... on Customer { id } } }"
        return str(cast(Json, self.ask(query, input=asked))["id"])

    def _variants(self, number: int) -> list[str]:
        product = {"translations": [{"languageCode": "en", "name": "Kettle", "slug": "kettle", "description": ""}]}
        of = self._made("createProduct", "CreateProductInput", cast(Json, product))
        options: list[JsonValue] = [{"code": f"o{each}", **_named(f"o{each}")} for each in range(number)]
        made = "createProductOptionGroup(input: $input) { id options { id } }"
        query = f"mutation($input: CreateProductOptionGroupInput!) {{ {made} }}"
        group = cast(Json, self.ask(query, input={"code": "group", "options": options, **_named("group")}))
        add = "mutation($of: ID!, $group: ID!) { addOptionGroupToProduct(productId: $of, optionGroupId: $group) { id } }"
        self.ask(add, of=of, group=group["id"])
        variants: list[JsonValue] = [
            {
                "productId": of,
                "sku": f"K{each}",
                "price": 100,
                "stockOnHand": 100_000,
                "trackInventory": "TRUE",
                "optionIds": [option["id"]],
                **_named(f"Kettle {each}"),
            }
            for each, option in enumerate(cast("list[Json]", group["options"]))
        ]
        query = "mutation($input: [CreateProductVariantInput!]!) { createProductVariants(input: $input) { id } }"
        return [str(each["id"]) for each in cast("list[Json]", self.ask(query, input=variants))]

    def _made(self, mutation: str, kind: str, given: Json) -> str:
        answer = self.ask(f"mutation($input: {kind}!) {{ {mutation}(input: $input) {{ id }} }}", input=given)
        return str(cast(Json, answer)["id"])

    def _on_order(self, of: Json, mutation: str, kind: str, given: JsonValue) -> None:
        # All of them answer an order, or an error with these two fields.
        query = f"mutation($order: ID!, $input: {kind}!) {{ {mutation} {{ __typename }} }}"
        answer = cast(Json, self.ask(query, input=given, **of))
        assert "Order" == answer["__typename"], answer


def _named(name: str) -> Json:
    return {"translations": [{"languageCode": "en", "name": name}]}


def _operation(code: str, **arguments: str) -> Json:
    given: list[JsonValue] = [{"name": name, "value": value} for name, value in arguments.items()]
    return {"code": code, "arguments": given}


@contextmanager
def a_shop(folder: Path, *, variants: int) -> Iterator[Shop]:
    """Run a Vendure shop whose article has so many VARIANTS."""
    port = free_port()
    environment = {"NODE_PATH": str(TARGETS / "node_modules"), "VENDURE_DISABLE_TELEMETRY": "true"}
    command = [str(TARGETS / "node"), str(HERE / "vendure/shop.js"), str(port), str(folder)]
    with running(command, folder, environment) as process:
        wait_for(f"http://127.0.0.1:{port}/health", process)
        shop = Shop(f"http://127.0.0.1:{port}/admin-api")
        shop.fill(variants)
        yield shop
        shop.client.close()
