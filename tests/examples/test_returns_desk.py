"""Tests of examples/returns_desk: the Python workflow, the plan, and what the shop's books say after every kind of trouble."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from connectors_kit import ShopProcess
from returns_kit import CASES, Desk, open_desk, open_shop

from perdure.examples.returns_desk.models import Outcome

FLOWS = pytest.mark.parametrize("plan", [False, True], ids=["python", "plan"])


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[ShopProcess]:
    """The stand-in shop in its own process."""
    with open_shop(tmp_path, "R-1", "R-2", "R-3") as shop:
        yield shop


@pytest.fixture
async def desk(temporal_address: str, tmp_path: Path, shop: ShopProcess) -> AsyncIterator[Desk]:
    """A desk with its worker in this process."""
    async with open_desk(temporal_address, tmp_path, shop) as desk:
        yield desk


# What comes out


async def test_python_and_plan_give_the_same_outcomes(temporal_address, tmp_path):
    """Each way through the procedure ends as it should, and the plan ends as the workflow does, receipts aside."""
    outcomes: list[dict[str, Outcome]] = []
    for plan in (False, True):
        home = tmp_path / f"plan-{plan}"
        home.mkdir()
        with open_shop(home) as shop:
            async with open_desk(temporal_address, home, shop) as desk:
                handles = {name: await desk.start(case.request, plan=plan) for name, case in CASES.items()}
                ended = await asyncio.gather(*(desk.end(CASES[name], handle) for name, handle in handles.items()))
                outcomes.append(dict(zip(handles, ended, strict=True)))
    python, yaml = ({name: shown(each) for name, each in ended.items()} for ended in outcomes)

    assert {name: case.ends for name, case in CASES.items()} == {
        name: {key: value for key, value in each.items() if key != "why"} for name, each in python.items()
    }
    assert python == yaml


def shown(outcome: Outcome) -> dict[str, object]:
    """Return all of OUTCOME but the receipt."""
    return outcome.model_dump(exclude={"receipt"})
