"""How a canary stands, what both its arms have done, and who has said what of it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Literal, cast

import sqlalchemy as sa

from perdure.errors import InvalidInput, NotFound
from perdure.routing.canary.canary import Arm, Canary
from perdure.routing.canary.rollback import Counts, Rule, problem
from perdure.routing.tables import (
    CanaryArmRow,
    CanaryDecisionRow,
    CanaryRow,
    ModelCallRow,
)
from perdure.storage import AdvisoryLock, Database, GroupCommit, now

State = Literal["running", "rolled back", "promoted"]

_ROWS = CanaryRow.__table__  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # SQLModel's
_ARMS = CanaryArmRow.__table__  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # as above
_DECISIONS = CanaryDecisionRow.__table__  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # as above
_CALLS = ModelCallRow.__table__  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # as above

_THIS = _ROWS.c.id == sa.bindparam("of_canary")
_READ = sa.select(_ROWS.c.state, _ROWS.c.rule).where(_THIS)
_COUNTED = tuple(Counts.model_fields)
_COUNTS = sa.select(_ARMS).where(_ARMS.c.canary == sa.bindparam("of_canary"))
_ADD = (
    sa.update(_ARMS)
    .where(_ARMS.c.canary == sa.bindparam("of_canary"), _ARMS.c.arm == sa.bindparam("of_arm"))
    .values({name: _ARMS.c[name] + sa.bindparam(f"more_{name}") for name in _COUNTED})
)


@dataclass(frozen=True)
class CanaryStateChanged:
    """A canary's state changed since the call chose by it: it has to choose anew."""

    state: State


@dataclass(frozen=True)
class CanaryAssignment:
    """The part of one call in CANARY: the ARM of its run, and how the canary stands as far as this process knows."""

    canary: Canary
    arm: Arm
    state: State
    first: bool
    """Whether it is the first of its step."""
    tries_canary: bool
    """Whether it asks what the canary tries."""

    @property
    def is_compared(self) -> bool:
        """Whether the arms are compared by it."""
        return self.state == "running" and self.first and (self.tries_canary or self.arm == "control")

    def check_state(self, connection: sa.Connection) -> CanaryStateChanged | None:
        """Return how the canary stands if that is not as STATE says. No other process may write at the same time."""
        if not self.first:
            return None
        rule = self.canary.table.rule.model_dump_json()
        row = connection.execute(_READ, {"of_canary": self.canary.id}).one_or_none()
        if row is None:
            connection.execute(sa.insert(_ROWS), _new_row(self.canary, rule))
            return None if self.state == "running" else CanaryStateChanged("running")
        state = cast(State, row[0])
        if row[1] != rule and state == "running":
            connection.execute(sa.update(_ROWS).where(_THIS).values(rule=rule), {"of_canary": self.canary.id})
        return None if state == self.state else CanaryStateChanged(state)

    def settle(self, connection: sa.Connection, outcome: str, *, milliseconds: int, nano_usd: int) -> str:
        """Count a call that ended with OUTCOME. Returns why the canary is rolled back by it; empty: it is not."""
        if not self.is_compared or outcome == "cancelled":
            return ""
        answered = outcome in ("answered", "unsure", "invalid")
        more = {
            "calls": 1,
            "failed": not answered,
            "valid": outcome == "answered",
            "unsure": outcome == "unsure",
            "log_milliseconds": log(max(milliseconds, 1)) if answered else 0.0,
            "cost_nano_usd": nano_usd if answered else 0,
        }
        _add(connection, self.canary.id, self.arm, more)
        return _apply_rule(connection, self.canary.id)


def record_verdict(connection: sa.Connection, call_id: str, *, correct: bool) -> tuple[str, str]:
    """Note whether the answer of a recorded call was CORRECT; the last word counts.

    It counts if the arms are compared by it. Returns the canary, and why that is rolled back by it; empty: it is not.
    """
    this = _CALLS.c.call_id == call_id
    columns = (_CALLS.c.canary, _CALLS.c.arm, _CALLS.c.trial, _CALLS.c.overridden)
    row = connection.execute(sa.select(*columns).where(this)).one_or_none()
    if row is None or row[3] is (not correct):
        return "", ""
    canary, arm, trial, before = row
    connection.execute(sa.update(_CALLS).where(this).values(overridden=not correct))
    if not trial:
        return "", ""
    _add(connection, canary, arm, {"judged": before is None, "overridden": (not correct) - bool(before)})
    return canary, _apply_rule(connection, canary)


def load_counts(connection: sa.Connection, canary: str) -> dict[Arm, Counts]:
    """Return what the arms of the CANARY with that id have done."""
    found: dict[Arm, Counts] = {"canary": Counts(), "control": Counts()}
    for row in connection.execute(_COUNTS, {"of_canary": canary}).mappings():
        found[cast(Arm, row["arm"])] = Counts.model_validate({name: row[name] for name in _COUNTED})
    return found


async def decide(database: Database, name: str, state: State, *, by: str, why: str) -> sa.RowMapping:
    """Let the canary called NAME, or NAME@VERSION, stand as STATE says, because BY said so; return its row.

    `running` begins anew, with nothing counted. Raises `NotFound`, and `InvalidInput` if it stands so already.
    """

    def work(connection: sa.Connection) -> sa.RowMapping:
        row = find(connection, name)
        id, before = str(row["id"]), str(row["state"])
        if before == state and state != "running":
            who = row["by"] or "the rule"
            raise InvalidInput(f"{id} is {state} already, by {who}: {row['why']}")
        if (before, state) == ("rolled back", "promoted"):
            raise InvalidInput(f"{id} was rolled back: {row['why']}. Begin anew first: `perdure canary reset {name}`.")
        _set_state(connection, id, state, by=by, why=why)
        if state == "running":
            connection.execute(sa.delete(_ARMS).where(_ARMS.c.canary == id))
            connection.execute(sa.update(_ROWS).where(_THIS).values(since=_ROWS.c.at), {"of_canary": id})
        return connection.execute(sa.select(_ROWS).where(_THIS), {"of_canary": id}).mappings().one()

    return await GroupCommit(database, lock=AdvisoryLock.MODEL_CALLS).run(work, exclusive=True)


def find(connection: sa.Connection, name: str) -> sa.RowMapping:
    """Return the row of the canary called NAME, in its newest version, or NAME@VERSION. Raises `NotFound`."""
    plain, _, version = name.partition("@")
    query = sa.select(_ROWS).where(_ROWS.c.name == plain).order_by(_ROWS.c.since.desc())
    rows = [row for row in connection.execute(query).mappings() if row["id"].startswith(f"{plain}@{version}")]
    if not rows:
        raise NotFound(
            f"no call has taken part in a canary {name!r}. `perdure canary list` shows those that have had any. It begins "
            "when a worker has it in its models.toml and is asked for its task."
        )
    return rows[0]


def _apply_rule(connection: sa.Connection, canary: str) -> str:
    """Roll the CANARY with that id back if its rule says so, and return why."""
    row = connection.execute(_READ, {"of_canary": canary}).one_or_none()
    if row is None or row[0] != "running":
        return ""
    arms = load_counts(connection, canary)
    why = problem(Rule.model_validate_json(row[1]), arms["canary"], arms["control"])
    if why:
        _set_state(connection, canary, "rolled back", by="", why=why)
    return why


def _set_state(connection: sa.Connection, canary: str, state: State, *, by: str, why: str) -> None:
    said = {"state": state, "by": by, "why": why, "at": now()}
    connection.execute(sa.update(_ROWS).where(_THIS).values(**said), {"of_canary": canary})
    connection.execute(sa.insert(_DECISIONS), {"id": uuid.uuid4().hex, "canary": canary, **said})


def _add(connection: sa.Connection, canary: str, arm: str, more: Mapping[str, float]) -> None:
    number = {name: type(Counts.model_fields[name].default)(more.get(name, 0)) for name in _COUNTED}
    added = {f"more_{name}": value for name, value in number.items()}
    if not connection.execute(_ADD, {"of_canary": canary, "of_arm": arm, **added}).rowcount:
        connection.execute(sa.insert(_ARMS), {"canary": canary, "arm": arm, **number})


def _new_row(canary: Canary, rule: str) -> dict[str, object]:
    time = now()
    return {
        "id": canary.id,
        "name": canary.name,
        "tier": canary.tier,
        "adopting": canary.adopting,
        "rule": rule,
        "since": time,
        "state": "running",
        "by": "",
        "why": "",
        "at": time,
    }
