"""A returns desk of the tests' own: one request for each way through the procedure, and a model that knows just those."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, cast

from kits.connectors import ShopProcess
from pydantic import JsonValue
from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkflowIDReusePolicy
from temporalio.worker import Worker

from perdure.commands.inputs import read_plan
from perdure.connectors.contracts import Connector
from perdure.examples.returns_desk import desk as returns
from perdure.examples.returns_desk.models import Outcome, ReturnRequest
from perdure.governance.contracts import (
    APPROVALS,
    DECIDE,
    ApprovalRequest,
    Decision,
    DecisionCall,
    Verdict,
)
from perdure.plugin import PerdurePlugin
from perdure.settings import Settings
from perdure.workflows import PlanRun

Handle: TypeAlias = WorkflowHandle[Any, Any]

PLAN = Path(returns.__file__).parent / "returns.yaml"

REFUND, REJECT, EDGE, ASK = ("refund", False), ("reject", False), ("refund", True), ("ask", True)
BROKEN = "The kettle arrived in pieces and I want my money back"
LATE = "I used the tent for four months and now I am tired of it"
HALF = "One of the two lamps works, the other one flickers sometimes"
PARTLY = "Three plates of twelve are chipped, the others are fine"
# Like the first and the second, as far as so few words can be.
VAGUE = "The kettle"
VAGUER = "The tent"

EXAMPLES = [(BROKEN, REFUND), (LATE, REJECT), (HALF, ASK), (PARTLY, EDGE)] * 8
"""What the model learns from. To it, digits are all alike, so a number makes texts differ that are the same to it."""

MODELS = """
[tasks.triage]
tier = "small"
examples = "examples.jsonl"
text = ["request.message"]
label = ["verdict", "edge_case"]
ask_below = 0.9
"""


@dataclass(frozen=True)
class Case:
    """A request, what a person says if asked, and how it has to end."""

    name: str
    message: str
    ends: dict[str, JsonValue]
    says: Verdict | None = None
    order: dict[str, JsonValue] | None = field(default_factory=dict)
    """What is special about the order; None: the shop has no such order."""
    number: str | None = None
    """The order's number in the request, if it isn't that of the case."""

    @property
    def order_number(self) -> str:
        """The number that the request names."""
        return f"R-{self.name}" if self.number is None else self.number

    @property
    def request(self) -> ReturnRequest:
        """The request as the shop's form sends it."""
        return ReturnRequest(
            id=self.name,
            received="2026-10-20",
            order=self.order_number,
            customer="c-17",
            amount=4990,
            message=self.message,
        )


def _ends(refunded: bool, proposed: str, verdict: str, by: str) -> dict[str, JsonValue]:
    return {"refunded": refunded, "proposed": proposed, "verdict": verdict, "decided_by": by}


CASES = {
    case.name: case
    for case in (
        Case("by-model", BROKEN, _ends(True, "refund", "refund", "model")),
        Case("rejected-by-model", LATE, _ends(False, "reject", "reject", "model")),
        Case("by-person", HALF, _ends(True, "ask", "refund", "person"), says="approve"),
        Case("rejected-by-person", HALF, _ends(False, "ask", "reject", "person"), says="reject"),
        Case("changes-wanted", PARTLY, _ends(False, "refund", "reject", "person"), says="request changes"),
        Case("edge-case", PARTLY, _ends(True, "refund", "refund", "person"), says="approve"),
        Case("unsure-refund", VAGUE, _ends(True, "refund", "refund", "person"), says="approve"),
        Case("unsure-reject", VAGUER, _ends(True, "reject", "refund", "person"), says="approve"),
        Case("expensive", BROKEN, _ends(True, "refund", "refund", "person"), says="approve", order={"amount": 10_001}),
        Case("of-another", BROKEN, _ends(False, "refund", "reject", "person"), says="reject", order={"customer": "c-99"}),
        Case("final-sale", BROKEN, _ends(True, "refund", "refund", "person"), says="approve", order={"final_sale": True}),
        Case(
            "too-late",
            BROKEN,
            _ends(False, "refund", "reject", "person"),
            says="reject",
            order={"delivered_on": "2026-09-19"},
        ),
        Case("just-in-time", BROKEN, _ends(True, "refund", "refund", "model"), order={"delivered_on": "2026-09-20"}),
        Case("not-delivered", BROKEN, _ends(True, "refund", "refund", "model"), order={"delivered_on": None}),
        Case("no-order", BROKEN, _ends(False, "ask", "ask", "rules"), order=None, number=""),
        Case("unknown-order", BROKEN, _ends(False, "ask", "ask", "rules"), order=None),
    )
}


def orders(*more: str) -> list[dict[str, JsonValue]]:
    """Return what the shop knows: the order of each case, and plain ones with the numbers MORE."""
    plain: dict[str, JsonValue] = {
        "customer": "c-17",
        "item": "kettle",
        "amount": 4990,
        "currency": "EUR",
        "bought_on": "2026-09-01",
        "delivered_on": "2026-10-06",
        "final_sale": False,
        "stock": 3,
    }
    special = [(case.order_number, case.order) for case in CASES.values() if case.order is not None]
    return [{"order": number, **plain, **change} for number, change in (*special, *((each, {}) for each in more))]


def plain_request(order: str) -> ReturnRequest:
    """Return a request about ORDER that the model refunds without asking."""
    return CASES["by-model"].request.model_copy(update={"id": f"rq-{order}", "order": order})


def write_models(folder: Path) -> Path:
    """Write the routing file and the examples into FOLDER and return the routing file."""
    lines = [
        {
            "inputs": {"request": {"message": f"{message} {number % 10}{number // 10}"}},
            "output": {"verdict": verdict, "edge_case": edge, "why": f"Like: {message}."},
        }
        for number, (message, (verdict, edge)) in enumerate(EXAMPLES)
    ]
    (folder / "examples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "models.toml").write_text(MODELS)
    return folder / "models.toml"


class DeskShop(ShopProcess):
    """The stand-in shop with the orders of the cases."""

    def change_amount(self, order: str, amount: int) -> None:
        """Change what ORDER cost, as the shop's own people can; what was asked for before doesn't fit any more."""
        with closing(sqlite3.connect(self.folder / "shop.db", isolation_level=None)) as books:
            books.execute('UPDATE orders SET amount = ? WHERE "order" = ?', (amount, order))

    async def reservations(self) -> list[dict[str, JsonValue]]:
        """Return every reservation in the shop's books."""
        return cast(list[dict[str, JsonValue]], (await self.ask("GET", "/reservations"))[1])

    async def drawn(self) -> dict[str, int]:
        """Return how often which fault came."""
        shown = cast(dict[str, dict[str, int]], (await self.ask("GET", "/faults"))[1])
        return shown["drawn"]


@contextmanager
def open_shop(folder: Path, *more: str) -> Iterator[DeskShop]:
    """Run the stand-in shop with the orders of the cases and MORE."""
    shop = DeskShop(folder, orders=orders(*more))
    shop.start()
    try:
        yield shop
    finally:
        shop.stop()


@dataclass
class Desk:
    """A client of a worker that serves the desk, and the shop behind it."""

    client: Client
    settings: Settings
    shop: DeskShop

    async def start(self, request: ReturnRequest, *, plan: bool = False, id: str | None = None) -> Handle:
        """Start a run for REQUEST, as Python or as PLAN. Raises `WorkflowAlreadyStartedError` if ID is taken."""
        workflow, given = (
            ("perdure.plan", PlanRun(plan=read_plan(PLAN), input=request.model_dump(mode="json")))
            if plan
            else ("ReturnsTriage", request)
        )
        return await self.client.start_workflow(
            workflow,
            given,
            id=id or str(uuid.uuid4()),
            task_queue=self.settings.task_queue,
            result_type=Outcome,
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
        )

    async def end(self, case: Case, handle: Handle) -> Outcome:
        """Decide as CASE says, if it says anything, and return the outcome."""
        if case.says is not None:
            await decide(handle, await open_request(handle), case.says)
        return Outcome.model_validate(await handle.result())


@asynccontextmanager
async def open_desk(
    address: str,
    home: Path,
    shop: DeskShop,
    *,
    database_url: str = "",
    identity: str = "desk",
    more: Sequence[type] = (),
    connectors: Sequence[Connector] = (),
) -> AsyncIterator[Desk]:
    """Run a worker in this process that serves the desk against SHOP, and MORE workflows with their CONNECTORS."""
    settings = Settings(home=home, task_queue=str(uuid.uuid4()), database_url=database_url, models=write_models(home))
    of_the_shop = [each.with_options({"url": shop.url}) for each in (returns.orders, returns.inventory, returns.payments)]
    plugin = PerdurePlugin(settings, connectors=[*of_the_shop, *connectors], routes=[returns.ROUTES])
    client = await Client.connect(address, plugins=[plugin], identity=identity)
    async with Worker(client, task_queue=settings.task_queue, workflows=[returns.ReturnsTriage, *more]):
        yield Desk(client, settings, shop)


async def open_request(handle: Handle) -> ApprovalRequest:
    """Return the open approval of a run as soon as there is one. Raises `AssertionError` if the run ends without one."""
    ended = asyncio.ensure_future(handle.result())
    try:
        while not ended.done():
            found = await handle.query(APPROVALS, result_type=list[ApprovalRequest])
            if found:
                return ApprovalRequest.model_validate(found[0])
            await asyncio.wait((ended,), timeout=0.05)  # a query cannot be waited on
    finally:
        ended.cancel()
    raise AssertionError(f"{handle.id} asked nobody: {ended.result()}")


async def decide(
    handle: Handle, request: ApprovalRequest, verdict: Verdict, *, comment: str = "I know the customer"
) -> Decision:
    """Decide REQUEST as mara."""
    call = DecisionCall(approval=request.approval, digest=request.digest, verdict=verdict, by="mara", comment=comment)
    return Decision.model_validate(await handle.execute_update(DECIDE, call, result_type=Decision))
