"""Tests that bench/chaos.py counts what it says it counts: it finds nothing wrong with the ledger, and could."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from kits.e2e import PYTHON, ROOT, Ended

from perdure.connectors import EffectState

SMALL = ("--json", "--temporal", "0", "--targets", "http-listed,http-neither,sqlite")
"""A run without servers of Temporal and PostgreSQL."""
WRONG = ("duplicates", "lost", "unknown_unparked")


@pytest.mark.faults
@pytest.mark.timeout(300)
async def test_small_run_and_a_sabotaged_one(tmp_path: Path) -> None:
    """The ledger does nothing twice where the naive client does; one whose keys change with each attempt is found out."""
    honest = await chaos(tmp_path, *SMALL, "--operations", "24", "--faults", "lost response,429,triple delivery")
    sabotaged = await chaos(tmp_path, *SMALL, "--operations", "6", "--faults", "lost response", "--sabotage", "new key")

    ours, naive = honest.json["perdure"], honest.json["naive"]
    assert (0, 24, 0, 0, 0) == (honest.code, *(ours[name] for name in ("operations", *WRONG))), honest.out
    assert ours["parked"] >= 1
    assert naive["duplicates"] >= 24 / 3
    assert 1 == sabotaged.code
    assert sabotaged.json["perdure"]["duplicates"] >= 1


@pytest.mark.parametrize(
    ("made", "endings", "states", "wrong"),
    [
        (1, ["done"], ["succeeded"], {}),
        (0, ["refused"], ["failed"], {}),
        (0, ["cancelled"], [], {}),
        (0, ["cancelled"], ["proposed"], {}),
        (1, ["cancelled"], ["succeeded"], {}),
        (3, ["done"], ["succeeded"], {"duplicates": 2}),
        (0, ["done"], ["succeeded"], {"lost": 1}),
        (0, [], [], {"lost": 1, "unknown_unparked": 1}),
        (1, ["cancelled"], ["unknown"], {"unknown_unparked": 1}),
        (0, ["cancelled"], ["in flight"], {"unknown_unparked": 1}),
        (1, ["refused"], ["failed"], {"unknown_unparked": 1}),
        (1, ["unknown"], ["succeeded"], {"unknown_unparked": 1}),
        (0, ["refused"], ["parked"], {"parked": 1}),
        (2, ["parked"], ["parked"], {"parked": 1, "duplicates": 1}),
    ],
)
def test_what_counts_as_wrong(
    monkeypatch: pytest.MonkeyPatch, made: int, endings: list[str], states: list[EffectState], wrong: dict[str, int]
) -> None:
    """What is there too often, or is not and should be, or is known to nobody, counts. What is parked does not."""
    monkeypatch.syspath_prepend(str(ROOT))
    from bench.chaos_count import Outcome, Tally, judged

    assert Tally(operations=1, **wrong) == judged(Outcome(made, endings, states))


async def chaos(bytecode: Path, *options: str) -> Ended:
    """Run the bench with OPTIONS. Its processes share BYTECODE, so that each of them need not compile everything."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = await asyncio.create_subprocess_exec(
        *PYTHON,
        "-m",
        "bench.chaos",
        *options,
        cwd=ROOT,
        env=kept | {"PYTHONPYCACHEPREFIX": str(bytecode)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return Ended(await process.wait(), out.decode(), err.decode())
