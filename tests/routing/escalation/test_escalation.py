"""Which learned escalation judges the answers of a call."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kits.routing import asking, rows
from pydantic import BaseModel
from stand_ins.provider import Answers, Fails, Stub

from perdure.errors import AskAgain, ModelUnavailable
from perdure.routing import GenerateCall, Router
from perdure.routing.calls import ModelCall
from perdure.routing.escalation import list_versions, load_active, save_version
from perdure.routing.escalation.escalation import Escalation
from perdure.storage import Database

SURE = Answers('{"verdict": "refund", "confidence": 0.9}')
UNSURE = Answers('{"verdict": "refund", "confidence": 0.4}')
LEARNED = 'cascade = ["large"]\nescalate = "learned"'


class Judged(BaseModel):
    """What the model is asked for."""

    verdict: str
    confidence: float


def escalation(*, below: float = 0.6, model: str = "openai/stub-first") -> Escalation:
    """One that asks the larger tier BELOW this confidence, whatever the question."""
    learned = Escalation(
        tier="small",
        models=(model,),
        centre=(0, 0, 0),
        spread=(1, 1, 1),
        small=(0, 3, 0, 0),
        large=(3, 0, 0, 0),
        threshold=0,
    )
    return learned.model_copy(update={"threshold": learned.gain(below, 0)})


async def adopted(database: Database, learned: Escalation | None = None, *, adopt: bool = True) -> int:
    """Keep what was LEARNED about the task."""
    return await save_version(database, "triage", learned or escalation(), adopted=adopt, evidence="{}", by="mara")


async def asked(router: Router, call: GenerateCall | None = None, *, attempt: int = 1) -> str:
    """The deployment that has given the answer to CALL, `larger` if the next attempt goes to the larger tier."""
    try:
        generation = await router.generate(call or asking(), attempt=attempt, output=Judged)
    except AskAgain:
        return "larger"
    return generation.record.deployment


@pytest.mark.parametrize(("answer", "by"), [(SURE, "first"), (UNSURE, "larger")])
async def test_learned_decides(
    routed: Callable[..., Router], sqlite_database: Database, stub: Stub, answer: Answers, by: str
) -> None:
    """An answer that is likely wrong by what was learned goes to the larger tier, and the record names the version."""
    version = await adopted(sqlite_database)
    stub.will(answer)
    router = routed(tiers={"big": "large"}, task=LEARNED)

    assert by == await asked(router)

    [row] = await rows(sqlite_database)
    assert (str(version), 0.4 if by == "larger" else 0.9) == (row["escalation"], row["confidence"])
    assert ("" if by == "first" else "learned escalation 1") == row["error"]


async def test_larger_tier_is_asked_next(routed: Callable[..., Router], sqlite_database: Database, stub: Stub) -> None:
    """The next attempt asks the larger tier, whose answer counts however sure it is."""
    await adopted(sqlite_database)
    stub.will(UNSURE, UNSURE)
    router = routed(tiers={"big": "large"}, task=LEARNED)
    assert "larger" == await asked(router)

    generation = await router.generate(asking(), attempt=2, output=Judged)

    assert ("big", "1") == (generation.record.deployment, generation.record.escalation)
    assert "learned escalation 1" in generation.record.switched


async def test_off_by_default(routed: Callable[..., Router], sqlite_database: Database, stub: Stub) -> None:
    """What was learned does nothing unless the task says `escalate = "learned"`."""
    await adopted(sqlite_database)
    stub.will(UNSURE)

    assert "first" == await asked(routed(tiers={"big": "large"}, task='cascade = ["large"]'))

    assert [""] == [row["escalation"] for row in await rows(sqlite_database)]


@pytest.mark.parametrize("adopt", [True, False, None])
async def test_static_tier(
    routed: Callable[..., Router], sqlite_database: Database, stub: Stub, *, adopt: bool | None
) -> None:
    """Where nothing was learned or adopted, or of another model, `escalate_below` decides, as without it."""
    if adopt is not None:
        await adopted(sqlite_database)
        await adopted(
            sqlite_database, escalation(below=0.1, model="openai/other" if adopt else "openai/stub-first"), adopt=adopt
        )
    stub.will(UNSURE, Answers('{"verdict": "refund", "confidence": 0.55}'))
    router = routed(tiers={"big": "large"}, task=f"{LEARNED}\nescalate_below = 0.5")

    assert "larger" == await asked(router)
    assert "first" == await asked(router, other_run("2"))

    errors = [(row["error"], row["escalation"]) for row in await rows(sqlite_database)]
    version = "2" if adopt else "static"
    assert [("confidence below 0.5", version), ("", version)] == errors


def other_run(run_id: str) -> GenerateCall:
    """The same question in another run."""
    call = asking()
    return call.model_copy(update={"step": call.step.model_copy(update={"run_id": run_id})})


@pytest.mark.parametrize("before", [True, False])
async def test_retries_use_one_version(
    routed: Callable[..., Router], sqlite_database: Database, stub: Stub, *, before: bool
) -> None:
    """What is learned while a run is under way judges runs that begin later, not the rest of this one."""
    if before:
        await adopted(sqlite_database)
    stub.will(Fails(503), SURE, SURE)
    router = routed(tiers={"big": "large"}, task=LEARNED)
    with pytest.raises(ModelUnavailable):
        await router.generate(asking(), attempt=1, output=Judged)
    await adopted(sqlite_database, escalation(below=0.99))

    assert "first" == await asked(router, attempt=2)
    assert "larger" == await asked(router, other_run("run-9"))

    first = "1" if before else "static"
    assert [first, first, "2" if before else "1"] == [row["escalation"] for row in await rows(sqlite_database)]


async def test_versions(database: Database) -> None:
    """Each learning is a version of its own, and the newest decides."""
    call = asking()
    assert "static" == (await load_active(database, call)).version

    assert 1 == await adopted(database)
    assert "1" == (await load_active(database, call)).version
    assert 2 == await adopted(database, adopt=False)
    assert "static" == (await load_active(database, call)).version
    assert 3 == await adopted(database, escalation(below=0.7))

    assert escalation(below=0.7) == (await load_active(database, call)).escalation
    assert [(3, True), (2, False), (1, True)] == [(each.version, each.adopted) for each in await list_versions(database)]


async def test_pinned_by_the_run(database: Database, routed: Callable[..., Router]) -> None:
    """A run goes on with the version of its first call, on both databases."""
    await adopted(database)
    deployment = routed().routes.deployments["first"]
    call = ModelCall(asking(), deployment, 1, prompt_digest="d", escalation="1")
    await database.transact(call.begin)
    await adopted(database, escalation(below=0.9))

    assert "1" == (await load_active(database, asking())).version
    assert "2" == (await load_active(database, other_run("later"))).version
