"""What an effect costs when its target costs nothing: a connector inside the process, for benchmarks and tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import cast

from pydantic import BaseModel

from perdure.connectors.contracts import (
    Absent,
    Action,
    AnyAction,
    Attempt,
    Executed,
    Found,
    Probe,
    Target,
    undo_by,
)
from perdure.lineage import Frozen


class Entry(Frozen):
    """Something to write."""

    text: str = ""


class Written(Frozen):
    """What was written, and under which number."""

    number: int
    text: str


class Erase(Frozen):
    """Which entry to erase."""

    number: int


class Erased(Frozen):
    """Which entry is gone."""

    number: int


class NullConnector:
    """Writes entries into nowhere and counts them by the effect's key: `effects[key]` above 1 is a duplicate."""

    erase = Action("null.erase", Erase, Erased, risk="low", target=Target(mechanism="natural-key"))
    write = Action(
        "null.write",
        Entry,
        Written,
        risk="low",
        reversibility="compensatable",
        target=Target(mechanism="natural-key"),
        undo=undo_by(erase, lambda _, written: Erase(number=written.number)),
    )
    read = Action("null.read", Entry, Written, risk="low", reads=True)

    def __init__(self) -> None:
        self.effects: Counter[str] = Counter()
        self._answers: dict[str, Executed] = {}

    @property
    def name(self) -> str:
        """The part of the action names before the dot."""
        return "null"

    @property
    def actions(self) -> Mapping[str, AnyAction]:
        """The actions by full name."""
        return {action.name: cast(AnyAction, action) for action in (self.write, self.erase, self.read)}

    async def execute(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Executed:
        """Count it."""
        if action.reads:
            return Executed(Written(number=0, text=""))
        self.effects[attempt.key] += 1
        number = self.effects.total()
        output = (
            Written(number=number, text=args.text) if isinstance(args, Entry) else Erased.model_validate(args.model_dump())
        )
        self._answers[attempt.key] = Executed(output, remote_ref=str(number))
        return self._answers[attempt.key]

    async def probe(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Probe:
        """Look it up among those counted."""
        answer = self._answers.get(attempt.key)
        return Found(answer) if answer else Absent()

    async def close(self) -> None:
        """Do nothing: there is no connection."""


null = NullConnector()
