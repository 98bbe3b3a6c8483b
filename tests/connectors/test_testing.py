"""Tests of the test kit: it passes what keeps its word and finds what does not."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest
from kits.connectors import Bank, Paid, Pay, QuickPayments, ShopProcess
from pydantic import BaseModel

from perdure.connectors import (
    Absent,
    AnyAction,
    Attempt,
    Executed,
    Found,
    Listed,
    Probe,
    Target,
)
from perdure.connectors.testing import (
    Case,
    Fault,
    Faults,
    HttpFaultProxy,
    TcpFaultProxy,
    check,
)
from perdure.connectors.testing.__main__ import main
from perdure.errors import EffectRejected
from perdure.examples.returns_desk.desk_connectors import Refund

BRISK = Target(mechanism="natural-key", settle=timedelta(seconds=0.2), deadline=timedelta(seconds=1))
BRISKER = BRISK.model_copy(update={"settle": timedelta(seconds=0.1), "deadline": timedelta(seconds=0.3)})


@pytest.fixture
async def proxy(shop: ShopProcess) -> AsyncIterator[HttpFaultProxy]:
    """A fault proxy before the shop."""
    async with HttpFaultProxy(shop.url) as proxy:
        yield proxy


# The matrix


async def test_http_connector_keeps_its_word(shop: ShopProcess, proxy: HttpFaultProxy) -> None:
    """Under every fault HttpConnector's refunds happen once, and those of a client that retries happen twice."""
    payments = QuickPayments().with_options({"url": proxy.url})

    async def refunds(args: Refund) -> int:
        return sum(refund["order"] == args.order for refund in await shop.refunds())

    matrix = await check(
        Case(
            connector=payments,
            action=QuickPayments.refund,
            args=lambda number: Refund(order=f"R-{1001 + number}", amount=10),
            count=refunds,
            proxy=proxy,
            target=BRISK,
            operations=2,
        )
    )
    await payments.close()

    assert [] == matrix.problems
    doubled = {row.fault for row in matrix.rows if row.naive.duplicates}
    assert {"lose response", "land late", "500 after commit", "truncate", "worker dies after sending"} <= doubled


async def test_without_a_proxy() -> None:
    """A connector that has no network is tried at the seam to the ledger."""
    matrix = await check(_bank_case(_Bank()))

    assert [] == matrix.problems
    assert ["none", "lose request", "lose response", "land late", "429"] == [row.fault for row in matrix.rows][:5]
    assert 0 < matrix.total().naive.duplicates


async def test_nothing_to_go_by_is_parked() -> None:
    """Of a target without key and probe, what was lost is parked and never doubled; what has an answer is not."""
    matrix = await check(_bank_case(_Bank(target=BRISKER.model_copy(update={"mechanism": "none"}))))
    parked = {row.fault: row.perdure.parked for row in matrix.rows}

    assert [] == matrix.problems
    assert (0, 2, 2, 0) == (parked["none"], parked["lose request"], parked["lose response"], parked["429"])


async def test_probe_that_lies_is_found() -> None:
    """A connector whose probe never finds anything makes duplicates, and the matrix says where."""
    matrix = await check(_bank_case(_Blind()))

    assert "bank.pay was done, and its probe says: absent" in matrix.problems
    assert "lose response: 2 happened more than once" in matrix.problems
    assert "PROBLEM: lose response" in str(matrix)


async def test_key_that_is_not_honoured_is_found() -> None:
    """A connector that says its target drops repeats of a key, where it does not, is found out."""
    bank = _Bank(target=BRISKER.model_copy(update={"mechanism": "header"}), forgetful=True)

    assert "lose response: 2 happened more than once" in (await check(_bank_case(bank))).problems


async def test_refusal_of_good_arguments_is_found() -> None:
    """A connector that refuses what it should do is found before any fault."""
    bank = _Bank(sends=[EffectRejected("no")])

    assert "with nothing going wrong, bank.pay failed: no" in (await check(_bank_case(bank))).problems


async def test_probe_that_goes_by_the_arguments_is_found() -> None:
    """A probe that takes what somebody else did with the same arguments for ours is found, although no fault shows it."""
    matrix = await check(_bank_case(_Gullible()))

    assert [True] == [problem.endswith("It has to look for the key") for problem in matrix.problems]


async def test_listing_that_lacks_something_is_found() -> None:
    """A connector that says its list is complete, and leaves out what was done, is found."""
    problems = (await check(_bank_case(_Listless()))).problems

    assert [True] == [problem.endswith("under its key the listing has nothing") for problem in problems]


async def test_bugs_are_reported() -> None:
    """What a connector raises besides our errors is a finding, and ends nothing."""
    bank = _Bank(sends=[KeyError("amount")])

    assert ["with nothing going wrong, bank.pay raised KeyError('amount'), which is no EffectError"] == [
        problem for problem in (await check(_bank_case(bank))).problems if "raised" in problem
    ]


async def test_action_that_reads() -> None:
    """An action that only looks has nothing to try."""
    case = _bank_case(_Bank())

    with pytest.raises(ValueError, match="only reads"):
        await check(replace(case, action=case.connector.actions["bank.balance"]))


# The proxies


async def test_faults_come_as_scripted_then_by_chance() -> None:
    """The script comes first; the same seed gives the same faults after that."""
    odds: dict[Fault, float] = {"lose request": 0.3, "429": 0.3}
    first, second = Faults(odds=odds, seed=3), Faults(odds=odds, seed=3)
    first.script("truncate")

    assert "truncate" == first.draw()
    drawn = [first.draw() for _ in range(50)]
    assert drawn == [second.draw() for _ in range(50)]
    assert {"none", "lose request", "429"} == set(drawn)


@pytest.mark.parametrize("odds", [{"429": 0.6, "503": 0.6}, {"429": -0.1}])
def test_shares_that_make_no_sense(odds: dict[Fault, float]) -> None:
    """Shares below 0 or above 1 together are refused."""
    with pytest.raises(ValueError, match="between 0 and 1"):
        Faults(odds=odds)


@pytest.mark.parametrize(
    ("fault", "status", "made"),
    [
        ("none", 201, 1),
        ("500 after commit", 500, 1),
        ("503", 503, 0),
        ("429", 429, 0),
        ("lose request", 0, 0),
        ("lose response", 0, 1),
        ("truncate", 0, 1),
        ("land late", 0, 1),
    ],
)
async def test_http_fault(shop: ShopProcess, proxy: HttpFaultProxy, fault: Fault, status: int, made: int) -> None:
    """Each fault is what it says: what the client sees, and what the target did."""
    proxy.faults.late = timedelta(milliseconds=50)
    proxy.faults.script(fault)
    async with httpx.AsyncClient(base_url=proxy.url) as client:
        try:
            seen = await client.post("/refunds", json={"order": "R-1001", "amount": 1, "currency": "EUR"})
        except httpx.HTTPError:
            seen = httpx.Response(0)
        await proxy.faults.wait_until_settled()
        # Reading is not struck, and goes on over the same connection where there still is one.
        refunds = (await client.get("/refunds")).json()

    assert (status, made) == (seen.status_code, len(refunds))
    assert ("1" if status in (429, 503) else None) == seen.headers.get("Retry-After")


async def test_http_body_in_chunks(shop: ShopProcess, proxy: HttpFaultProxy) -> None:
    """A body of unknown length passes."""

    async def body() -> AsyncIterator[bytes]:
        yield b'{"order": "R-1001", '
        yield b'"amount": 1, "currency": "EUR"}'

    async with httpx.AsyncClient(base_url=proxy.url) as client:
        assert 201 == (await client.post("/refunds", content=body())).status_code


async def test_proxy_before_nothing(proxy: HttpFaultProxy, shop: ShopProcess) -> None:
    """Where the target is down the connection ends without an answer."""
    shop.stop()
    async with httpx.AsyncClient(base_url=proxy.url) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/refunds")
    shop.start()


@pytest.mark.parametrize(
    ("fault", "answer", "heard"),
    [
        ("none", b"done", [b"hello", b"ACT"]),
        ("lose request", b"", [b"hello"]),
        ("lose response", b"", [b"hello", b"ACT"]),
        ("truncate", b"do", [b"hello", b"ACT"]),
        ("land late", b"", [b"hello", b"ACT"]),
    ],
)
async def test_tcp_fault(fault: Fault, answer: bytes, heard: list[bytes]) -> None:
    """A message that holds the word is struck; what comes before it passes."""
    listened: list[bytes] = []

    conversations: list[asyncio.Task[None] | None] = []

    async def target(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversations.append(asyncio.current_task())
        while data := await reader.read(100):
            listened.append(data)
            writer.write(b"done" if data == b"ACT" else b"well?")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(target, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with TcpFaultProxy(f"127.0.0.1:{port}", at=b"ACT") as proxy:
            proxy.faults.late = timedelta(milliseconds=20)
            proxy.faults.script(fault)
            reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
            writer.write(b"hello")
            greeting = await reader.readexactly(5)
            writer.write(b"ACT")
            said = await reader.read(100)
            writer.close()
            await proxy.faults.wait_until_settled()
            await asyncio.gather(*filter(None, conversations))

    assert (b"well?", answer, heard) == (greeting, said, listened)


async def test_tcp_knows_no_statuses() -> None:
    """A fault that takes HTTP cannot be scripted where there is none."""
    with pytest.raises(ValueError, match="'429' cannot happen here"):
        TcpFaultProxy("127.0.0.1:1").faults.script("429")


async def test_proxy_as_a_process(shop: ShopProcess) -> None:
    """The proxy runs by itself, tells its address, and at the end what it did."""
    command = ["-m", "perdure.connectors.testing", "--target", shop.url, "--lose-response", "1"]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    url = json.loads(await process.stdout.readline())["url"]
    async with httpx.AsyncClient(base_url=url) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post("/refunds", json={"order": "R-1001", "amount": 1, "currency": "EUR"})
    process.terminate()
    told = json.loads(await process.stdout.readline())

    assert ({"drawn": {"lose response": 1}}, 0) == (told, await process.wait())
    assert 1 == len(await shop.refunds())


CASES = """
from contextlib import asynccontextmanager
from datetime import timedelta

from perdure.connectors import Absent, Target
from perdure.connectors.null import Entry, NullConnector
from perdure.connectors.testing import Case

class Null(NullConnector):
    async def execute(self, action, args, attempt):
        written.append(args.text)
        return await super().execute(action, args, attempt)

class Blind(Null):
    async def probe(self, action, args, attempt):
        return Absent()

written = []
quick = Target(mechanism="natural-key", settle=timedelta(seconds=0.05), deadline=timedelta(seconds=0.2))

async def count(entry):
    return written.count(entry.text)

def case(connector):
    args = lambda number: Entry(text=f"{type(connector).__name__} {number}")
    return Case(connector=connector, action=Null.write, args=args, count=count, target=quick, operations=1, tries=2)

honest = case(Null())

@asynccontextmanager
async def blind():
    yield case(Blind())
"""


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("honest", 0, "through the ledger"),
        ("blind", 1, "PROBLEM: lose response: 1 happened more than once"),
        ("quick", 2, "has to be a Case"),
        ("none", 2, "cannot be found"),
    ],
)
def test_a_case_by_the_command(
    name: str,
    code: int,
    said: str,
    *,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`python -m perdure.connectors.testing MODULE:NAME` prints the table, and its exit code says whether all is well."""
    (tmp_path / "my_cases.py").write_text(CASES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_cases", raising=False)
    with pytest.raises(SystemExit) as ended:
        main([f"my_cases:{name}"])
    printed = capsys.readouterr()

    assert code == ended.value.code
    assert said in printed.out + printed.err


# A target in this process


class _Bank(Bank):
    """A bank whose payments can be told apart, and that may be worse than it says."""

    def __init__(
        self, target: Target = BRISKER, *, forgetful: bool = False, sends: list[Exception | None] | None = None
    ) -> None:
        super().__init__(target=target, sends=sends or [])
        self.forgetful = forgetful
        self.amounts: list[int] = []

    async def execute(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Executed:
        """Pay."""
        known = attempt.key in self.paid
        done = await super().execute(action, args, attempt)
        if not known or self.target.mechanism != "header" or self.forgetful:
            self.amounts.append(Pay.model_validate(args.model_dump()).amount)
        return Executed(done.output, remote_ref=f"b-{attempt.key}")

    async def probe(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Probe:
        """Look it up."""
        looked = await super().probe(action, args, attempt)
        return Found(Executed(looked.executed.output, f"b-{attempt.key}")) if isinstance(looked, Found) else looked


class _Blind(_Bank):
    async def probe(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Probe:
        """See nothing."""
        return Absent()


class _Gullible(_Bank):
    async def probe(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Probe:
        """Take any payment of that amount for ours."""
        looked = await super().probe(action, args, attempt)
        amount = Pay.model_validate(args.model_dump()).amount
        return Found(Executed(Paid(amount=amount), f"b-{attempt.key}")) if amount in self.amounts else looked


class _Listless(_Bank):
    listed_actions = ("bank.pay",)

    async def listing(self, since: datetime, until: datetime) -> AsyncIterator[Listed]:
        """Show somebody else's."""
        yield Listed(action="bank.pay", remote_ref="b-1", key="pe-else")


def _bank_case(bank: _Bank) -> Case[BaseModel, BaseModel]:
    async def payments(args: BaseModel) -> int:
        return bank.amounts.count(Pay.model_validate(args.model_dump()).amount)

    return Case(
        connector=bank,
        action=bank.actions["bank.pay"],
        args=lambda number: Pay(amount=number + 1),
        count=payments,
        operations=2,
    )
