"""Tests of what a user has: a folder of their own, with a `workflows` package of their own, and perdure from its wheel."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from kits.e2e import ROOT, Ended, call, environment, running
from kits.returns import DeskShop, open_shop

MODELS = '''
"""What the refund desk talks about."""

from typing import Literal

from perdure.workflows import Frozen


class Mail(Frozen):
    order: str
    customer: str
    amount: int
    message: str


class Verdict(Frozen):
    verdict: Literal["pay", "leave"]
    why: str


class Pay(Frozen):
    order: str
    amount: int


class Paid(Frozen):
    id: str
    amount: int


class Ended(Frozen):
    paid: bool
    by: str = ""
    receipt: str = ""
    known: int = 0
'''

BANK = '''
"""How the refund desk pays."""

from datetime import timedelta

from perdure.connectors import HttpAction, HttpConnector, Target
from workflows.models import Paid, Pay


class Bank(HttpConnector):
    pay = HttpAction(
        "bank.pay",
        Pay,
        Paid,
        request="POST /refunds",
        key="reference",
        probe="GET /refunds?reference={key}",
        target=Target(mechanism="natural-key", settle=timedelta(seconds=1)),
        describe=lambda wanted: f"pay {wanted.amount} for {wanted.order}",
    )


bank = Bank()
'''

REFUNDS = '''
"""The refund desk."""

from pathlib import Path

from temporalio import workflow

from perdure.workflows import Saga, approval, customer, generate, recall, remember
from workflows.bank import bank
from workflows.models import Ended, Mail, Pay, Verdict


@workflow.defn
class Refunds:
    @workflow.run
    async def run(self, mail: Mail) -> Ended:
        past = await recall(f"refunds of {mail.customer}", scope=customer(mail.customer))
        verdict = await generate("judge", Verdict, inputs={"mail": mail, "past": past})
        if verdict.value.verdict == "leave":
            return Ended(paid=False, known=len(past.texts))
        decision = await approval(f"Pay {mail.order}?", of="cashier", about=mail)
        async with Saga() as saga:
            paid = await saga.act(bank.pay, Pay(order=mail.order, amount=mail.amount))
        await remember(customer(mail.customer), f"paid {mail.order}")
        return Ended(paid=True, by=decision.by, receipt=paid.receipt.remote_ref, known=len(past.texts))
'''

ROUTES = """
[tasks.judge]
tier = "small"
instructions = "Say whether to pay."
examples = "examples.jsonl"
text = ["mail.message"]
label = ["verdict"]
"""

PAY, LEAVE = "the cup came in two halves", "I have drunk from this cup for years"
EXAMPLES = [
    {"inputs": {"mail": {"message": f"{message} {number}"}}, "output": {"verdict": verdict, "why": "As before."}}
    for number in range(5)
    for message, verdict in ((PAY, "pay"), (LEAVE, "leave"))
]


@dataclass
class Folder:
    """A user's folder and how they work in it."""

    path: Path
    python: tuple[str, ...]
    env: dict[str, str]
    shop: DeskShop

    async def perdure(self, *arguments: str) -> Ended:
        """Run a command."""
        return await call([*self.python, "-m", "perdure.cli", *arguments], self.env, cwd=self.path)

    async def asked(self, workflow_id: str) -> None:
        """Return when the run waits for a person."""
        for _ in range(20):
            listed = await self.perdure("approval", "list", "-o", "json")
            if any(each["workflow_id"] == workflow_id for each in listed.json):
                return
        raise AssertionError(f"{workflow_id} asked nobody")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which perdure's wheel is installed, without its dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    wheels = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels))
    (wheel,) = wheels.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    run(*pip, "--target", str(folder), str(wheel))
    return folder


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[DeskShop]:
    """The stand-in shop, whose refunds the user's bank makes."""
    with open_shop(tmp_path, "R-1", "R-2") as shop:
        yield shop


@pytest.fixture
async def folder(temporal_address: str, installed: Path, tmp_path: Path, shop: DeskShop) -> AsyncIterator[Folder]:
    """The user's folder, with a worker that was started in it."""
    mine = tmp_path / "mine"
    files = {
        "workflows/__init__.py": "",
        "workflows/models.py": MODELS,
        "workflows/bank.py": BANK,
        "workflows/refunds.py": REFUNDS,
        "models.toml": ROUTES,
        "examples.jsonl": "".join(json.dumps(line) + "\n" for line in EXAMPLES),
        "perdure.toml": f'task_queue = "{tmp_path.name}"\nhome = "state"\n\n[connectors.bank]\nurl = "{shop.url}"\n',
    }
    for name, text in files.items():
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_text(text)
    # Without site.py, so that the editable install of this repository isn't there.
    python = (sys.executable, "-S")
    env = environment(temporal_address, mine, {"PYTHONPATH": f"{installed}:{sysconfig.get_path('purelib')}"})
    del env["PERDURE_HOME"]
    desk = Folder(mine, python, env, shop)
    command = [*python, "-m", "perdure.worker", "workflows.refunds"]
    async with running(command, env, cwd=mine, log=tmp_path / "worker.log") as worker:
        await worker.says("worker starting")
        yield desk


async def test_perdure_is_the_wheel(folder: Folder, installed: Path) -> None:
    """The processes in the user's folder see the installed wheel and the user's own `workflows`."""
    code = "import perdure, workflows; print(perdure.__file__, workflows.__file__)"
    seen = await call([*folder.python, "-c", code], folder.env, cwd=folder.path)

    assert [str(installed / "perdure/__init__.py"), str(folder.path / "workflows/__init__.py")] == seen.out.split()


async def test_a_workflow_of_ones_own(folder: Folder) -> None:
    """The user's workflow runs by the command line: it asks, pays once, remembers, and the next run knows it."""
    mail = {"order": "R-1", "customer": "ann", "amount": 4990, "message": PAY}
    started = await folder.perdure("run", "Refunds", "--id", "mine-1", "-i", json.dumps(mail), "--detach")
    await folder.asked("mine-1")
    decided = await folder.perdure("approval", "approve", "mine-1", "--as", "mara", "-o", "json")
    shown = await folder.perdure("show", "mine-1", "-o", "json")
    again = await folder.perdure("run", "Refunds", "-i", json.dumps(mail | {"message": LEAVE}), "-o", "json")
    replayed = await folder.perdure("replay", "mine-1", "--module", "workflows.refunds")
    [refund] = await folder.shop.refunds()

    assert (0, "mine-1") == (started.code, started.out.strip()), started.err
    assert 0 == decided.code, decided.err
    assert 0 == shown.code, shown.err
    assert {"paid": True, "by": "mara", "receipt": refund["id"], "known": 0} == shown.json["run"]["result"]
    assert 0 == again.code, again.err
    assert {"paid": False, "by": "", "receipt": "", "known": 1} == again.json["result"]
    assert 0 == replayed.code, replayed.err


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        ('{"order": "R-1"}', 2, "Mail does not fit"),
        ('{"order": ', 2, "is not JSON"),
        ("[]", 2, "Mail does not fit"),
    ],
)
async def test_wrong_input(folder: Folder, given: str, code: int, said: str) -> None:
    """An input that doesn't fit is one message and an exit code, and nothing is paid."""
    ended = await folder.perdure("run", "Refunds", "-i", given)

    assert code == ended.code, ended.err
    assert said in ended.err
    assert "Traceback" not in ended.err
    assert [] == await folder.shop.refunds()


def run(*command: str) -> None:
    """Run COMMAND in the repository."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
