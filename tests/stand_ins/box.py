"""A target for tests of workflows: a box into which things are put, with one action of each kind, and faults to order."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import cast

from pydantic import BaseModel

from perdure.connectors.contracts import (
    Absent,
    Action,
    AnyAction,
    Attempt,
    CannotTell,
    Executed,
    Found,
    Probe,
    Reversibility,
    Target,
    undo_by,
)
from perdure.errors import EffectRejected, EffectUnknown
from perdure.lineage import Frozen

TARGET = Target(mechanism="natural-key", settle=timedelta(milliseconds=10), deadline=timedelta(seconds=5), looks=1)


class Thing(Frozen):
    """A thing."""

    text: str


class Entry(Frozen):
    """What is in the box, under which number."""

    id: str
    text: str


class Taken(Frozen):
    """What is taken out."""

    id: str


def _final(verb: str, kind: Reversibility) -> Action[Thing, Entry]:
    return Action(f"box.{verb}", Thing, Entry, reversibility=kind, target=TARGET)


take = Action("box.take", Taken, Taken, reversibility="retriable", target=TARGET)
put = Action(
    "box.put",
    Thing,
    Entry,
    reversibility="compensatable",
    target=TARGET,
    undo=undo_by(take, lambda _, entry: Taken(id=entry.id)),
)
once = Action("box.once", Thing, Entry, target=TARGET, once_per=("text",))
labelled = Action("box.labelled", Entry, Entry, target=TARGET, once_per=("id",))
seal = _final("seal", "pivot")
label = _final("label", "retriable")
ship = _final("ship", "irreversible")
VERBS = {"put": put, "seal": seal, "label": label, "ship": ship}


class Box:
    """The connector, and the box itself: what is in it is in `inside`, by the effects' keys."""

    name = "box"
    actions: Mapping[str, AnyAction] = {
        each.name: cast(AnyAction, each) for each in (put, take, once, labelled, seal, label, ship)
    }

    def __init__(self) -> None:
        self.done: list[str] = []
        """Verb and text of what was done, in order."""
        self.inside: dict[str, str] = {}
        """The texts of what was done and not taken out again, by number."""
        self.wrong: dict[str, list[str]] = {}
        """What goes wrong with a verb next: `lost` request, `silent` after the work, `refused`."""
        self.blind = False
        """Whether it can tell nobody what was done."""
        self.before: Callable[[str], Awaitable[None]] = _nothing
        """Called with the verb before anything is done, and whatever it waits for keeps the request on its way."""
        self.begun: dict[str, asyncio.Event] = {}
        self._answers: dict[str, Executed] = {}
        self.sent: Counter[str] = Counter()

    @property
    def texts(self) -> list[str]:
        """What is in the box, in order."""
        return list(self.inside.values())

    async def execute(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Executed:
        """Do it, unless something is to go wrong."""
        verb = action.name.partition(".")[2]
        self.sent[attempt.key] += 1
        await self.before(verb)
        wrong = self.wrong.get(verb, [])
        fault = wrong.pop(0) if wrong else ""
        if fault == "refused":
            raise EffectRejected(f"the box does not {verb} that")
        if fault != "lost":
            self._answers[attempt.key] = self._do(verb, args)
        if fault:
            raise EffectUnknown("the connection ended")
        return self._answers[attempt.key]

    def _do(self, verb: str, args: BaseModel) -> Executed:
        if isinstance(args, Taken):
            self.done.append(f"take {self.inside.pop(args.id)}")
            return Executed(args, remote_ref=args.id)
        text = str(getattr(args, "text", ""))
        self.done.append(f"{verb} {text}")
        number = str(len(self.done))
        self.inside[number] = text
        return Executed(Entry(id=number, text=text), remote_ref=number)

    async def probe(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Probe:
        """Look whether it was done."""
        if self.blind:
            return CannotTell("the box is shut")
        answer = self._answers.get(attempt.key)
        return Found(answer) if answer else Absent()

    async def close(self) -> None:
        """Do nothing: there is no connection."""


async def _nothing(verb: str) -> None:
    return None
