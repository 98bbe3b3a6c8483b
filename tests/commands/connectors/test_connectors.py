"""How the command line shows whether ledger, targets and contracts agree, and has it put right."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kits.cli import TESTS, Perdure, environment, until
from kits.connectors import ShopProcess
from kits.watch import reserve_directly

from perdure.commands.exits import Exit


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this module's worker and commands keep their state."""
    return tmp_path_factory.mktemp("watched")


@pytest.fixture(scope="module")
def shop(home: Path) -> Iterator[ShopProcess]:
    """The stand-in shop, running."""
    shop = ShopProcess(home)
    shop.start()
    yield shop
    shop.stop()


@pytest.fixture(scope="module")
def settings(shop: ShopProcess) -> dict[str, str]:
    """The variables of this module's worker and commands."""
    connectors = {name: {"url": shop.url} for name in ("archive", "inventory", "payments")}
    return {
        "PERDURE_TASK_QUEUE": "watched",
        "PERDURE_CONNECTORS": json.dumps(connectors),
        "PERDURE_CONTRACT_AGE": "PT0S",
        "PERDURE_MODULES": '["processes.watch_desk"]',
    }


@pytest.fixture(scope="module")
def worker(temporal_address: str, home: Path, settings: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that serves the shop's refunds and stock."""
    with (home / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "perdure.worker"],
            cwd=TESTS,
            env=environment(temporal_address, home) | settings,
            stderr=log,
        )
    yield process
    alive = process.poll() is None
    process.terminate()
    process.wait(30)
    assert alive, (home / "worker.log").read_text()


@pytest.fixture
def desk(
    perdure: Perdure, worker: subprocess.Popen[bytes], settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Perdure:
    """Run `perdure` while this module's worker runs."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return perdure


@pytest.fixture
def extra(desk: Perdure, shop: ShopProcess, request: pytest.FixtureRequest) -> str:
    """What the shop calls a slot that is reserved twice under one key."""
    orders = [f"R-{number}" for number in range(1001, 1100)]
    order = orders[hash(request.node.name) % len(orders)]
    key = desk("run", "Pays", "-i", json.dumps(order), "-o", "json").json["result"]
    effects = [each for each in events(desk) if each["subject"] == key]
    assert effects
    [reserved] = [
        each["subject"]
        for each in events(desk, "effect.succeeded")
        if each["data"]["action"] == "inventory.reserve"
        and each["data"]["workflow_id"] == effects[0]["data"]["workflow_id"]
    ]
    return asyncio.run(reserve_directly(shop, order, reserved))


def events(desk: Perdure, kind: str = "effect", after: int = 0) -> list[dict[str, Any]]:
    """Return the stream."""
    return list(desk("effects", "events", "--type", kind, "--after", str(after), "-n", "1000", "-o", "jsonl").rows)


def release(shop: ShopProcess, name: str) -> None:
    """Have the shop's makers put the release NAME into service."""
    asyncio.run(shop.ask("POST", "/release", {"release": name}))


def test_what_was_never_compared_is_not_said_to_agree(desk: Perdure) -> None:
    """`findings` of a connector that nobody compared says so (case 80: `connectors findings`)."""
    until(lambda: "inventory" in desk("connectors", "list").out)
    never = desk("connectors", "findings", "inventory")
    until(lambda: Exit.UNREACHABLE != desk("connectors", "reconcile", "inventory").code)
    compared = desk("connectors", "findings", "inventory")
    repaired = desk("connectors", "findings", "inventory", "-s", "repaired")

    assert (Exit.OK, True) == (never.code, "never compared: inventory" in never.err)
    assert "agree" not in never.err
    assert "never compared" not in compared.err
    assert "no finding is repaired" in repaired.err


def test_from_the_comparison_to_the_repair(desk: Perdure, extra: str) -> None:
    """`reconcile` finds it, `repair` asks, `approval approve` lets it be done, and the next `reconcile` finds it gone."""
    compared = desk("connectors", "reconcile", "inventory", "-o", "json")
    [finding] = [each for each in compared.json["findings"] if each["remote_ref"] == extra]
    listed = desk("connectors", "findings", "inventory")
    asked = desk("connectors", "repair", f"{compared.json['id']}/{finding['id']}", "-o", "json").json
    again = desk("connectors", "repair", finding["id"])
    desk("approval", "approve", asked["workflow_id"], "--as", "mara")
    until(lambda: finding["id"] not in desk("connectors", "findings", "inventory").out)
    after = desk("connectors", "reconcile", "inventory", "-o", "json")

    assert (Exit.ERROR, Exit.OK) == (compared.code, after.code)
    assert finding["id"] in listed.out and extra in listed.out
    assert f"release {extra}" in asked["request"]["question"] or extra in asked["request"]["question"]
    assert Exit.USAGE == again.code and "is asked already" in again.err
    assert [] == [each for each in after.json["findings"] if each["remote_ref"] == extra]
    closed = [
        each for each in desk("connectors", "findings", "-s", "repaired", "-o", "json").rows if each["id"] == finding["id"]
    ]
    assert "mara" == closed[0]["closed_by"]


def test_reports(desk: Perdure, extra: str) -> None:
    """`reports` lists comparisons, and `report` shows one with what it found."""
    made = desk("connectors", "reconcile", "inventory", "-o", "json").json

    assert made["id"] in desk("connectors", "reports", "inventory").out
    assert extra in desk("connectors", "report", made["id"]).out
    assert Exit.ERROR == desk("connectors", "report", "r-none").code


def test_what_agents_can_do(desk: Perdure) -> None:
    """`connectors list` shows each action with its risk, its undo and how its contract stands."""
    until(lambda: "inventory.reserve" in desk("connectors", "list").out)  # a worker tells when it is up
    desk("connectors", "check")
    lines = desk("connectors", "list").out.splitlines()
    reserve = next(line.split() for line in lines if line.startswith("inventory.reserve"))

    assert ["inventory.reserve", "low", "natural-key", "inventory.release", "yes", "same"] == reserve
    assert {"archive", "inventory", "payments"} == {row["name"] for row in desk("connectors", "list", "-o", "jsonl").rows}


def test_a_document_that_is_gone_hides_no_other(desk: Perdure) -> None:
    """Where one target's description cannot be had, the others are checked and shown, and that one is named (case 70)."""
    until(lambda: "archive" in desk("connectors", "list").out)
    checked = desk("connectors", "check")
    rows = desk("connectors", "check", "-o", "jsonl").rows
    alone = desk("connectors", "check", "archive")

    assert (Exit.ERROR, Exit.ERROR) == (checked.code, alone.code)
    assert "payments" in checked.out + checked.err
    assert "archive: its contract could not be checked: " in checked.err
    assert {"archive": True, "inventory": False, "payments": False} == {row["connector"]: "error" in row for row in rows}


def test_who_is_not_verified_accepts_nothing(desk: Perdure, monkeypatch: pytest.MonkeyPatch) -> None:
    """With unverified_decisions = refuse, a contract is not accepted by typing a name: held writes stay held (case 70)."""
    desk("connectors", "check", "payments")
    monkeypatch.setenv("PERDURE_UNVERIFIED_DECISIONS", "refuse")

    refused = desk("connectors", "accept", "payments", "--as", "mara")

    assert Exit.NOT_ALLOWED == refused.code
    assert "unverified_decisions" in refused.err


def test_a_release_that_breaks(desk: Perdure, shop: ShopProcess) -> None:
    """`check` says what broke and what is blocked, `accept` binds to its digest, and then nothing is blocked."""
    assert Exit.OK == desk("connectors", "check", "payments").code
    release(shop, "breaking")
    broken = desk("connectors", "check", "payments")
    [checked] = [row["checked"] for row in desk("connectors", "check", "payments", "-o", "json").rows]
    blocked = desk("connectors", "list").out
    stale = desk("connectors", "accept", "payments", "--digest", "sha256:old")
    accepted = desk("connectors", "accept", "payments", "--digest", checked["live"], "--as", "mara")
    after = desk("connectors", "check", "payments")
    release(shop, "first")
    desk("connectors", "check", "payments")
    back = desk("connectors", "accept", "payments")

    assert (Exit.ERROR, Exit.ERROR) == (broken.code, stale.code)
    assert (Exit.OK, Exit.OK, Exit.OK) == (accepted.code, after.code, back.code)
    assert "/amount_minor: is new and needed" in broken.out
    assert f"perdure connectors accept payments --digest {checked['live']}" in broken.err
    assert "blocked" in blocked
    assert "accepted by mara" in accepted.err
    assert "contract.accepted" in desk("effects", "events", "--type", "contract").out


def test_the_stream_goes_on_after_a_cursor(desk: Perdure) -> None:
    """`effects events --after` shows what came after the last one that was seen."""
    desk("run", "Pays", "-i", '"R-1050"')
    seen = events(desk)
    after = int(str(seen[1]["cursor"]))

    assert seen[2:] == events(desk, after=after)
    assert f"{after:>6} " in desk("effects", "events", "-n", "1000").out


def test_schedules(desk: Perdure) -> None:
    """`--schedule` makes a schedule whose first run comes at once, again changes it, and `--unschedule` ends it."""
    before = len(desk("connectors", "reports", "payments", "-o", "jsonl").rows)
    made = desk("connectors", "reconcile", "payments", "--schedule", "1h")
    until(lambda: len(desk("connectors", "reports", "payments", "-o", "jsonl").rows) > before)
    changed = desk("connectors", "reconcile", "payments", "--schedule", "2h")
    ended = desk("connectors", "reconcile", "payments", "--unschedule")
    again = desk("connectors", "reconcile", "payments", "--unschedule")

    assert [Exit.OK, Exit.OK, Exit.OK, Exit.ERROR] == [each.code for each in (made, changed, ended, again)]
    assert "every 1h" in made.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("reconcile", "nobody"), Exit.ERROR, "this worker has no connector 'nobody'"),
        (("check", "nobody"), Exit.ERROR, "no worker on this database serves a connector 'nobody'"),
        (("accept", "nobody"), Exit.ERROR, "was never checked"),
        (("repair", "f-none"), Exit.ERROR, "no finding 'f-none'"),
        (("reconcile", "payments", "--schedule", "often"), Exit.USAGE, "no span of time"),
    ],
)
def test_what_cannot_be(desk: Perdure, arguments: tuple[str, ...], code: Exit, said: str) -> None:
    """What is not there, or cannot be read, is said with what there is."""
    ended = desk("connectors", *arguments)

    assert code == ended.code
    assert said in " ".join(ended.err.split())
