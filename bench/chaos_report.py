"""How bench/chaos.py tells what it has found: to programs and to people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from bench.chaos_count import Tally, as_json
from bench.chaos_stage import Performed


def result(performed: Performed) -> dict[str, object]:
    """Return what was found as the one JSON object."""
    ours, naive = performed.perdure, performed.naive
    return {
        "perdure": as_json(ours),
        "naive": as_json(naive),
        "seed": performed.settings.seed,
        "lanes": {name: tally.operations for name, tally in sorted(ours.by_lane.items())},
        "by_target": _both(ours.by_target, naive.by_target),
        "by_fault": _both(ours.by_fault, naive.by_fault),
        "cost": asdict(performed.cost),
        "facts": performed.facts,
        "left_out": performed.left_out,
        "wrong": ours.wrong[:10],
    }


def table(performed: Performed) -> str:
    """Return what was found for people."""
    lines = [
        f"{'':32}{'through the ledger':^40}{'a client that retries':^30}",
        f"{'':32}{'ops':>6}{'twice':>7}{'lost':>6}{'unknown':>9}{'parked':>8}    {'twice':>7}{'lost':>6}{'unknown':>9}",
    ]
    target = ""
    for (at, fault), tally in sorted(performed.perdure.by_cell.items()):
        if at != target:
            lines.append(at)
            target = at
        lines.append(f"  {fault:30}{_row(tally, performed.naive.by_cell[at, fault])}")
    lines += [f"{'all':32}{_row(performed.perdure.total, performed.naive.total)}", ""]
    facts, cost = performed.facts["perdure"], performed.cost
    lanes = performed.perdure.by_lane
    if "temporal" in lanes:
        runs = facts["temporal"]
        lines.append(
            f"{lanes['temporal'].operations} operations went through {runs['runs']} workflow runs, with {runs['resets']} "
            f"resets, {runs['cancellations']} cancellations and {sum(runs['killed'].values())} workers killed with -9"
        )
    if "workers" in lanes:
        killed = facts["workers"]["killed"]
        lines.append(
            f"{lanes['workers'].operations} went through plain worker processes, {sum(killed.values())} of them killed "
            f"with -9 at {len(killed)} points"
        )
    lines.append(
        f"an effect on a healthy target takes {cost.ledger_ms} ms, {cost.naive_ms} ms without a ledger "
        f"({cost.ledger_ms_at_once} and {cost.naive_ms_at_once} ms when 25 go on at once), "
        f"with {cost.database_writes:g} writes to the database"
    )
    lines += [f"left out: {each}" for each in performed.left_out]
    lines += [f"WRONG: {each}" for each in performed.perdure.wrong[:10]]
    return "\n".join(lines)


def _both(ours: Mapping[str, Tally], naive: Mapping[str, Tally]) -> dict[str, dict[str, dict[str, int]]]:
    return {name: {"perdure": asdict(ours[name]), "naive": asdict(naive[name])} for name in sorted(ours)}


def _row(ours: Tally, naive: Tally) -> str:
    left = f"{ours.operations:>6}{ours.duplicates:>7}{ours.lost:>6}{ours.unknown_unparked:>9}{ours.parked:>8}"
    return f"{left}    {naive.duplicates:>7}{naive.lost:>6}{naive.unknown_unparked:>9}"
