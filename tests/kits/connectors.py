"""What the tests of connectors/ share: a scripted target, the shop as a process, a caller that retries as Temporal does."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TypeVar, cast

import httpx
from pydantic import BaseModel, JsonValue

from perdure.connectors import (
    Absent,
    Action,
    AnyAction,
    Attempt,
    EffectCall,
    Executed,
    Found,
    HttpAction,
    HttpConnector,
    Probe,
    Target,
    UndoCall,
    effect_key,
    undo_by,
)
from perdure.errors import EffectError
from perdure.examples.returns_desk.desk_connectors import (
    Refund,
    RefundDone,
    Release,
    Released,
    Reserve,
    Reserved,
)
from perdure.lineage import Frozen, Lineage, StepRef

T = TypeVar("T")

SETTLE = timedelta(seconds=0.3)
"""What the tests' targets need to settle. The shop lands late after half of it."""
QUICK = Target(mechanism="natural-key", settle=SETTLE, deadline=timedelta(seconds=1), looks=3)
AT_ONCE = QUICK.model_copy(update={"settle": timedelta(milliseconds=10)})


def step(
    name: str = "pay", *, workflow_id: str = "w-1", first_execution_run_id: str = "r-1", run_id: str = "r-1"
) -> StepRef:
    """Return a step of a run."""
    lineage = Lineage(namespace="default", workflow_id=workflow_id, first_execution_run_id=first_execution_run_id)
    return StepRef(lineage=lineage, name=name, run_id=run_id, workflow_type="Desk")


def call(action: str = "bank.pay", name: str = "pay", **args: JsonValue) -> EffectCall:
    """Return the call of ACTION from the step NAME."""
    return EffectCall(step=step(name), action=action, args=args or {"amount": 5})


def undo(effect: EffectCall) -> UndoCall:
    """Return the call that undoes EFFECT."""
    return UndoCall(step=step(f"undo:{effect.step.name}"), effect=key_of(effect), action=effect.action)


def key_of(effect: EffectCall) -> str:
    """Return the key of EFFECT."""
    return effect_key(effect.step, item=effect.item, generation=effect.generation)


async def persist(attempt: Callable[[], Awaitable[T]], *, most: int = 30) -> T:
    """Call ATTEMPT until it returns, waiting after each failure for as long as that says, as Temporal's retries do."""
    for _ in range(most):
        try:
            return await attempt()
        except EffectError as error:
            if not error.retryable:
                raise
            await asyncio.sleep((error.retry_after or timedelta(milliseconds=20)).total_seconds())
    raise AssertionError(f"still not done after {most} attempts")


class Pay(Frozen):
    """How much to pay."""

    amount: int


class Paid(Frozen):
    """What was paid."""

    amount: int


@dataclass
class Bank:
    """A target in this process. SENDS and LOOKS say what goes wrong next; None or nothing left means that it works."""

    target: Target = QUICK
    sends: list[Exception | None] = field(default_factory=list)
    looks: list[Probe | Exception] = field(default_factory=list)
    lands_anyway: bool = False
    """Whether a payment is made although the send fails: a lost response."""
    paid: list[str] = field(default_factory=list)
    """The keys of the payments made."""
    returned: list[str] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    probes: list[Attempt] = field(default_factory=list)
    on_the_way: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a send has begun."""
    gate: asyncio.Event | None = None
    """What a send waits for before it is answered."""

    @property
    def name(self) -> str:
        """The part of the action names before the dot."""
        return "bank"

    @property
    def actions(self) -> Mapping[str, AnyAction]:
        """The actions by full name."""
        back = Action("bank.give_back", Pay, Paid, target=self.target)
        pay = Action(
            "bank.pay",
            Pay,
            Paid,
            reversibility="compensatable",
            target=self.target,
            undo=undo_by(back, lambda asked, _: Pay(amount=asked.amount)),
        )
        look = Action("bank.balance", Pay, Paid, reads=True, target=self.target)
        final = Action("bank.wire", Pay, Paid, target=self.target)
        return {action.name: cast(AnyAction, action) for action in (back, pay, look, final)}

    async def execute(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Executed:
        """Pay, unless something is to go wrong."""
        self.attempts.append(attempt)
        self.on_the_way.set()
        if self.gate is not None:
            await self.gate.wait()
        wrong = self.sends.pop(0) if self.sends else None
        if wrong is None or self.lands_anyway:
            made = self.returned if action.name == "bank.give_back" else self.paid
            if self.target.mechanism != "header" or attempt.key not in made:
                made.append(attempt.key)
        if wrong is not None:
            raise wrong
        return Executed(Paid.model_validate(args.model_dump()), remote_ref=f"b-{len(self.paid)}")

    async def probe(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Probe:
        """Look the payment up."""
        self.probes.append(attempt)
        if self.looks:
            look = self.looks.pop(0)
            if isinstance(look, Exception):
                raise look
            return look
        if attempt.key in self.paid + self.returned:
            return Found(Executed(Paid.model_validate(args.model_dump()), remote_ref="b-found"))
        return Absent()

    async def close(self) -> None:
        """Do nothing."""


class QuickPayments(HttpConnector):
    """The shop's refunds, with a settle time that a test can wait for."""

    refund = HttpAction(
        "payments.refund",
        Refund,
        RefundDone,
        request="POST /refunds",
        key="reference",
        probe="GET /refunds?reference={key}",
        target=QUICK,
    )


class QuickInventory(HttpConnector):
    """The shop's stock, with a settle time that a test can wait for."""

    release = HttpAction(
        "inventory.release",
        Release,
        Released,
        request="POST /reservations/{id}/release",
        key="released_by",
        probe="GET /reservations?released_by={key}",
        target=QUICK,
    )
    reserve = HttpAction(
        "inventory.reserve",
        Reserve,
        Reserved,
        request="POST /reservations",
        key="reference",
        probe="GET /reservations?reference={key}",
        target=QUICK,
        reversibility="compensatable",
        undo=undo_by(release, lambda _, slot: Release(id=slot.id)),
    )


ORDERS: list[dict[str, JsonValue]] = [
    {
        "order": f"R-{number}",
        "customer": "c-17",
        "item": "kettle",
        "amount": 4990,
        "currency": "EUR",
        "bought_on": "2026-10-03",
        "delivered_on": "2026-10-06",
        "final_sale": False,
        "stock": 3,
    }
    for number in range(1001, 1101)
]


@dataclass
class ShopProcess:
    """The stand-in shop in its own process."""

    folder: Path
    orders: Sequence[Mapping[str, JsonValue]] = field(default_factory=lambda: ORDERS)
    port: int = 0
    url: str = ""
    process: subprocess.Popen[str] | None = None

    def start(self, *options: str) -> None:
        """Start it, the second time on the same port and books. Returns when it is ready."""
        (self.folder / "orders.json").write_text(json.dumps(self.orders))
        command = [sys.executable, "-m", "perdure.examples.returns_desk.shop", "--port", str(self.port), *options]
        command += ["--db", str(self.folder / "shop.db"), "--orders", str(self.folder / "orders.json")]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        ready = json.loads(self.process.stdout.readline())
        self.port, self.url = ready["port"], ready["url"]

    def stop(self, *, kill: bool = False) -> int:
        """Stop it and return its exit code."""
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.kill() if kill else self.process.terminate()
        self.process.stdout.close()
        return self.process.wait(10)

    async def ask(self, method: str, path: str, body: Mapping[str, object] | None = None) -> tuple[int, JsonValue]:
        """Return the status and the JSON with which the shop answers."""
        async with httpx.AsyncClient(base_url=self.url) as client:
            response = await client.request(method, path, json=body)
            return response.status_code, response.json()

    async def faults(self, **odds: JsonValue) -> None:
        """Set what goes wrong from now on."""
        status, answer = await self.ask("POST", "/faults", odds)
        assert 200 == status, answer

    async def refunds(self) -> list[dict[str, JsonValue]]:
        """Return the shop's own books."""
        return cast(list[dict[str, JsonValue]], (await self.ask("GET", "/refunds"))[1])


@dataclass
class Server:
    """A server that answers each request with the next of ANSWERS, as they are, and then closes the connection."""

    answers: list[bytes] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    bodies: list[JsonValue] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:] if ": " in line)
        body = await reader.readexactly(int(lines.get("content-length", 0)))
        self.heads.append(head)
        self.contents.append(body)
        self.bodies.append(_json(body))
        answer = self.answers.pop(0)
        if answer == b"silence":
            await reader.read()
        writer.write(answer)
        writer.close()


def reply(status: int, body: JsonValue | bytes = b"", **headers: str) -> bytes:
    """Return the bytes of an answer."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(content)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


def _json(body: bytes) -> JsonValue:
    try:
        return cast(JsonValue, json.loads(body or b"null"))
    except ValueError:
        return body.decode(errors="replace")
