"""What the demo asks the person at the terminal, and in whose name it decides."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from rich.text import Text

from perdure.commands.dev.demo import Reviewer, View
from perdure.examples.returns_desk.demo import REVIEWER
from perdure.governance.approvals import ApprovalEntry
from perdure.governance.contracts import DecisionCall

REQUEST = ApprovalEntry(
    workflow_id="return-R-1048",
    first_execution_run_id="r",
    run_id="r",
    workflow_type="ReturnsTriage",
    approval="approval",
    question="Refund order R-1048?",
    of="support-lead",
    risk="high",
    about={"request": {"message": "All four chairs broke."}, "order": {"amount": 31600, "currency": "EUR"}},
    asked_at=datetime(2026, 11, 23, tzinfo=UTC),
    deadline=datetime(2026, 11, 25, tzinfo=UTC),
    digest="sha256:1",
    state="open",
    verdict=None,
    by=None,
    comment=None,
    verified=None,
    via=None,
    closed_at=None,
)


class Typing(View):
    """A view at which somebody types ANSWERS."""

    def __init__(self, *answers: str) -> None:
        super().__init__()
        self._answers = list(answers)
        self.asked: list[str] = []

    async def question(self, text: Text) -> str:
        """Return the next answer."""
        self.asked.append(text.plain)
        return self._answers.pop(0)


async def as_labelled(request: ApprovalEntry) -> DecisionCall:
    """Decide as the labels do."""
    return DecisionCall(approval=request.approval, digest=request.digest, verdict="reject", by=REVIEWER, comment="late")


async def test_the_question_says_what_is_decided() -> None:
    """Amount, risk and mail stand in the question (case 80: the demo on a terminal)."""
    view = Typing("y\n")

    await Reviewer(view, as_labelled, "dana").decide(REQUEST)

    [asked] = view.asked
    for said in ("Refund order R-1048?", "316.00 EUR, risk high", "All four chairs broke.", "[y]es, [n]o"):
        assert said in asked


async def test_a_wrong_key_is_told() -> None:
    """What is none of the keys is said before it is asked again (case 80: the demo on a terminal)."""
    view = Typing("x\n", "\n", "n\n")

    decided = await Reviewer(view, as_labelled, "dana").decide(REQUEST)

    assert "'x' is none of y, n and a" in view.asked[1]
    assert ("reject", "dana") == (decided.verdict, decided.by)


@pytest.mark.parametrize("answer", ["a\n", ""])
async def test_who_decided_is_true(answer: str) -> None:
    """The person decides in their name, the labels in the demo reviewer's, also when the input ends (case 80: the demo)."""
    reviewer = Reviewer(Typing("y\n", answer), as_labelled, "dana")

    deciders = [(await reviewer.decide(REQUEST)).by for _ in range(3)]

    assert ["dana", REVIEWER, REVIEWER] == deciders
