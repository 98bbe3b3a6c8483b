"""What tests of effects that happen once in the world share: a till that pays each line of an order once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from kits.connectors import AT_ONCE, step
from pydantic import BaseModel

from perdure.connectors import (
    Absent,
    Action,
    AnyAction,
    Attempt,
    CannotTell,
    EffectCall,
    Executed,
    Found,
    Probe,
    Resolution,
    Target,
    UndoCall,
    effect_key,
    undo_by,
)
from perdure.connectors.ledger.contracts import Verdict
from perdure.errors import EffectUnknown
from perdure.lineage import Frozen


class Bill(Frozen):
    """What to pay for which line of an order."""

    order: str
    line: int
    amount: int


class Paid(Frozen):
    """What was paid, under which number."""

    id: str
    amount: int


class Back(Frozen):
    """Which payment to take back."""

    id: str


@dataclass
class Till:
    """A target in this process. SENDS says what goes wrong next; None or nothing left means that it works."""

    target: Target = AT_ONCE
    sends: list[Exception | None] = field(default_factory=list)
    lands_anyway: bool = False
    """Whether it acts although the send fails: a lost response."""
    blind: bool = False
    """Whether it can tell nobody what it has done."""
    books: dict[str, Executed] = field(default_factory=dict)
    """What was done, by the effect's key."""
    done: list[str] = field(default_factory=list)
    """The actions that were done, in order."""

    @property
    def name(self) -> str:
        return "till"

    @property
    def actions(self) -> Mapping[str, AnyAction]:
        back = Action("till.back", Back, Back, target=self.target)
        pay = Action(
            "till.pay",
            Bill,
            Paid,
            reversibility="compensatable",
            target=self.target,
            once_per=("order", "line"),
            undo=undo_by(back, lambda _, paid: Back(id=paid.id)),
        )
        return {action.name: cast(AnyAction, action) for action in (back, pay)}

    @property
    def stands(self) -> int:
        """How many payments were made and not taken back."""
        return self.done.count("till.pay") - self.done.count("till.back")

    async def execute(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Executed:
        """Act, unless something is to go wrong."""
        wrong = self.sends.pop(0) if self.sends else None
        if wrong is None or self.lands_anyway:
            self.done.append(action.name)
            number = f"t-{len(self.done)}"
            output = Paid(id=number, amount=args.amount) if isinstance(args, Bill) else args
            self.books[attempt.key] = Executed(output, remote_ref=number)
        if wrong is not None:
            raise wrong
        return self.books[attempt.key]

    async def probe(self, action: AnyAction, args: BaseModel, attempt: Attempt) -> Probe:
        """Look it up in the books."""
        if self.blind:
            return CannotTell("it keeps no books")
        return Found(self.books[attempt.key]) if attempt.key in self.books else Absent()

    async def close(self) -> None:
        """Do nothing."""


def bill(run: str = "w-1", *, order: str = "o-1", amount: int = 5, name: str = "pay") -> EffectCall:
    """Return the call with which RUN pays the first line of ORDER."""
    args = Bill(order=order, line=1, amount=amount).model_dump(mode="json")
    at = step(name, workflow_id=run, first_execution_run_id=f"{run}-1", run_id=f"{run}-1")
    return EffectCall(step=at, action="till.pay", args=args)


def key_of(call: EffectCall, generation: int = 0) -> str:
    """Return the key of CALL's GENERATION."""
    return effect_key(call.step, item=call.item, generation=generation)


def undo(call: EffectCall) -> UndoCall:
    """Return the call that undoes CALL."""
    return UndoCall(step=call.step, effect=key_of(call), action=call.action)


def said(key: str, verdict: Verdict, *, by: str = "mara", comment: str = "I looked", **more: str) -> Resolution:
    """Return what a person says about the effect under KEY."""
    return Resolution.model_validate({"effect": key, "verdict": verdict, "by": by, "comment": comment, **more})


def lost() -> EffectUnknown:
    """Return the error of a call whose answer was lost."""
    return EffectUnknown("gone")
