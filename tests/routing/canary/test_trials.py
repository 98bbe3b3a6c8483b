"""A canary against a provider on loopback: who tries it, what is counted, how it is rolled back, what people decide."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from kits.routing import Triage, of_run, rows
from stand_ins.provider import Answers, Behaviour, Fails, Hangs, Sends, Stub

from perdure import storage
from perdure.errors import InvalidInput, ModelError, NotFound
from perdure.routing import GenerateCall, Generation, Router
from perdure.routing.batches import Batches
from perdure.routing.calls import costs
from perdure.routing.canary import Report, decide, list_canaries, report
from perdure.routing.contracts import JudgeCall
from perdure.routing.escalation import label_call
from perdure.storage import Database

Routed = Callable[..., Router]
GOOD = Answers('{"verdict": "refund", "confidence": 0.9}')
DEAR = Answers('{"verdict": "refund", "confidence": 0.9}', tokens=(100, 1000))
WRONG = Answers('{"verdict": 7}')
NEWER = '\n[canaries.newer]\ntask = "triage"\ndeployment = "next"\nweight = 0.5\n'
PROMPT = '\n[canaries.newer]\ntask = "triage"\ninstructions = "Judge better."\nweight = 0.5\n'
TRIES, DOES_NOT = 2, 1
"""A run that tries `newer` by a weight of a half, and one that does not."""


class Sure(Triage):
    """An answer that says how sure it is."""

    confidence: float = 1.0


@pytest.fixture
async def other_database(database_url: str) -> AsyncIterator[Database]:
    """The same database as another process sees it."""
    async with storage.open_database(database_url) as database:
        yield database


async def step(router: Router, call: GenerateCall) -> Generation:
    """Do what Temporal does with a step: try again as long as the error says that it may help."""
    for attempt in range(1, 9):
        try:
            return await router.generate(call, attempt=attempt, output=Sure)
        except ModelError as error:
            if not error.retryable:
                raise
    raise AssertionError("eight attempts were not enough")


def by_model(**behaviours: Behaviour) -> Callable[[str], Behaviour]:
    """What the stub does for each deployment; the others answer."""
    return lambda model: behaviours.get(model.removeprefix("stub-"), GOOD)


async def test_who_tries_it(routed: Routed, stub: Stub, sqlite_database: Database) -> None:
    """Runs of the canary's arm ask its deployment first, the others never; both are recorded with arm and version."""
    stub.will(GOOD)
    router = routed(deployments=["first", "next"], more=NEWER)

    tried = await step(router, of_run(TRIES))
    other = await step(router, of_run(DOES_NOT))

    assert (["stub-next", "stub-first"], "canary newer") == (stub.models, tried.record.switched)
    assert [("canary", "next"), ("control", "first")] == [(one.record.arm, one.record.deployment) for one in (tried, other)]
    id = router.routes.canaries["newer"].id
    found = [(row["canary"], row["arm"], row["trial"]) for row in await rows(sqlite_database)]
    assert [(id, "canary", True), (id, "control", True)] == found
    assert {id} == {tried.record.canary, other.record.canary}


async def test_other_instructions(routed: Routed, stub: Stub, sqlite_database: Database) -> None:
    """A canary of instructions puts these to the deployment that serves the others, under a version of their own."""
    stub.will(GOOD)
    router = routed(more=PROMPT)

    await step(router, of_run(TRIES))
    await step(router, of_run(DOES_NOT))

    told = [messages[0]["content"].partition("\n")[0] for messages in stub.messages]
    assert ["Judge better.", "Judge the return request."] == told
    assert 2 == len({row["prompt_version"] for row in await rows(sqlite_database)})


FAULTS = [Fails(400), Fails(401), Fails(429, "insufficient_quota"), Fails(503), Sends(), Hangs()]
FAULTS += [WRONG, Answers("no JSON"), Answers("", refusal="no"), Answers("", finish="content_filter")]
FAULTS += [Answers('{"verdict": "refund", "confidence": 0.1}')]


@pytest.mark.parametrize("fault", FAULTS)
async def test_never_fails_a_run(routed: Routed, stub: Stub, fault: Behaviour, sqlite_database: Database) -> None:
    """Whatever a canary does wrong, the step goes on by the others at once, which are asked as if it had not been."""
    stub.choose = by_model(next=fault)
    router = routed(
        deployments=["first", "next"],
        tiers={"big": "large"},
        task='cascade = "large"\nescalate_below = 0.5\nslow_after = 1\n',
        more=NEWER,
    )

    done = await step(router, of_run(TRIES))

    assert (["stub-next", "stub-first"], "first") == (stub.models, done.record.deployment)
    assert done.record.switched.startswith("after next: ")
    [tried, other] = await rows(sqlite_database)
    assert [("canary", True), ("canary", False)] == [(row["arm"], row["trial"]) for row in (tried, other)]


async def test_failed_instructions(routed: Routed, stub: Stub) -> None:
    """What is wrong with the answer to other instructions is not told to who answers the task's own."""
    stub.will(WRONG, GOOD)

    done = await step(routed(more=PROMPT), of_run(TRIES))

    first, second = stub.messages
    assert (2, "Judge the") == (len(second), second[0]["content"][:9])
    assert (2, 2) == (len(first), done.record.provider_calls)


async def test_not_tried(routed: Routed, stub: Stub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A canary without its key, exceeding a budget, or with too small a context is passed over within the attempt."""
    stub.will(GOOD)
    dear = '\n[budgets.run]\nper = "run"\nusd = 0.01\n' + NEWER
    text = {
        "exceeds budget 'run'": ("input_usd_per_mtok = 0.15", "input_usd_per_mtok = 500"),
        "the inputs are too long for next": ("timeout = 30", "timeout = 30\ncontext = 256\nmax_tokens = 256"),
        "the variable NO_KEY, which is not set": ("env:STUB_KEY", "env:NO_KEY"),
    }
    for number, (said, (old, new)) in enumerate(text.items()):
        routed(deployments=["first", "next"], more=dear)
        head, mark, tail = (tmp_path / "models.toml").read_text().partition("[deployments.next]")
        changed = tail.replace(old, new, 1)
        router = routed(deployments=["first"], more=f"{mark}{changed}")
        assert head and number == stub.calls

        done = await router.generate(of_run(TRIES), attempt=1, output=Triage)

        assert ("first", "canary", 1) == (done.record.deployment, done.record.arm, done.record.attempt)
        assert done.record.switched.startswith("no canary: ") and said in done.record.switched


@pytest.mark.timeout(300)
async def test_leaves_a_budget_for_the_others(routed: Routed, stub: Stub, sqlite_database: Database) -> None:
    """A canary is not asked with the last of a budget: a call to the others has to fit in beside it."""
    stub.choose = by_model(next=WRONG)
    tight = '\n[budgets.run]\nper = "run"\nusd = {}\n' + NEWER
    most = (await _most(routed, sqlite_database)) / 1e9

    once = await step(routed(deployments=["first", "next"], more=tight.format(f"{most * 1.9:.9f}")), of_run(TRIES))
    both = await step(routed(deployments=["first", "next"], more=tight.format(f"{most * 2.1:.9f}")), of_run(6))

    assert ["stub-first", "stub-next", "stub-first"] == stub.models[1:]
    assert ("first", "first") == (once.record.deployment, both.record.deployment)


async def _most(routed: Routed, database: Database) -> int:
    """The most that a call can cost."""
    await step(routed(), of_run(DOES_NOT))
    [row] = await rows(database)
    return int(row["reserved_nano_usd"])


async def test_figures_are_the_invoice(routed: Routed, stub: Stub, database: Database) -> None:
    """Both arms' counts and costs are those of the provider's invoice, and what came after the first calls is with them."""
    asked: dict[str, list[Behaviour]] = {"stub-first": [], "stub-next": [], "stub-big": []}
    plan: dict[str, list[Behaviour]] = {
        "stub-first": [GOOD, GOOD, WRONG, WRONG, Fails(503)],
        "stub-next": [DEAR, WRONG, GOOD, Fails(503)],
        "stub-big": [GOOD],
    }

    def choose(model: str) -> Behaviour:
        found = plan[model][len(asked[model]) % len(plan[model])]
        asked[model].append(found)
        return found

    stub.choose = choose
    router = routed(
        deployments=["first", "next"], tiers={"big": "large"}, task='cascade = "large"', more=NEWER, database=database
    )

    for number in range(24):
        await step(router, of_run(number))

    found = await report(database, "newer")
    canary, control = found.sides
    nexts = asked["stub-next"]
    invalid = sum(each is WRONG for each in nexts)
    answers = [each for each in nexts if isinstance(each, Answers)]
    assert (24, 24) == (canary.steps + control.steps, canary.completed + control.completed)
    assert len(nexts) == canary.counted.calls == canary.steps
    assert (len(nexts) - len(answers), invalid) == (
        canary.counted.failed,
        canary.counted.invalid,
    )
    assert sum(_price(each) for each in answers) == canary.counted.cost_nano_usd
    others = [each for name in ("stub-first", "stub-big") for each in asked[name] if isinstance(each, Answers)]
    [all_of_it] = await costs(database)
    assert all_of_it.cost == canary.cost + control.cost == sum(map(_price, [*answers, *others]))
    assert control.steps == control.counted.calls == 24 - canary.steps
    assert 0 < canary.p50 <= canary.p95 and 0 < control.p50 <= control.p95
    assert 0 < len(asked["stub-big"]) == canary.escalated + control.escalated
    assert -(-canary.cost // canary.steps) == canary.per_completed


def _price(answer: Behaviour) -> int:
    assert isinstance(answer, Answers) and answer.tokens is not None
    return answer.tokens[0] * 150 + answer.tokens[1] * 600


@pytest.mark.timeout(300)
async def test_rolled_back(routed: Routed, stub: Stub, database: Database, other_database: Database) -> None:
    """A bad canary is rolled back by its calls, for good: in this worker, in others that had tried it, and in new ones."""
    stub.choose = by_model(next=WRONG)
    router, worker = (routed(deployments=["first", "next"], more=NEWER, database=one) for one in (database, other_database))
    await step(worker, of_run(TRIES))

    rolled_back: list[str] = []
    for number in range(60):
        await step(router, of_run(number))
        if rolled_back := router.take_rollbacks():
            break
    tried = stub.models.count("stub-next")
    later = [await step(one, of_run(TRIES)) for one in (router, worker, routed(database=database, more=""))]
    newcomer = routed(deployments=["first", "next"], more=NEWER, database=database)
    later.append(await step(newcomer, of_run(TRIES)))

    [standing] = await list_canaries(database)
    assert ([standing.id], "rolled back", "") == (rolled_back, standing.state, standing.by)
    assert standing.why.startswith("valid answers: 0.0%, and 100.0% of control's; by chance once in ")
    assert tried == stub.models.count("stub-next") == standing.canary.calls
    assert {"first"} == {one.record.deployment for one in later}
    assert ["control", "control", "", "control"] == [one.record.arm for one in later]


async def test_two_equal_arms(routed: Routed, stub: Stub, sqlite_database: Database) -> None:
    """A canary that does as well as the others is not rolled back."""
    plan = iter([GOOD, GOOD, GOOD, WRONG] * 100)
    stub.choose = lambda _: next(plan)
    router = routed(deployments=["first", "next"], more=NEWER)

    for number in range(40):
        await step(router, of_run(number))

    [standing] = await list_canaries(sqlite_database)
    assert ("running", []) == (standing.state, router.take_rollbacks())


async def test_promoted(routed: Routed, stub: Stub, database: Database) -> None:
    """After a person has promoted it all runs try it, also those of workers that were at it; a failure still goes on."""
    stub.choose = by_model(next=GOOD)
    router = routed(deployments=["first", "next"], more=NEWER, database=database)
    await step(router, of_run(DOES_NOT))

    await decide(database, "newer", "promoted", by="ada", why="as good, and cheaper")
    done = await step(router, of_run(DOES_NOT))
    stub.choose = by_model(next=WRONG)
    asked = of_run(DOES_NOT)
    # Another step: an answer that a step had before is not asked for again.
    other = asked.model_copy(update={"step": asked.step.model_copy(update={"name": "triage#2"})})
    saved = await step(router, other)

    assert ["stub-first", "stub-next", "stub-next", "stub-first"] == stub.models
    assert [("canary", "next"), ("canary", "first")] == [(one.record.arm, one.record.deployment) for one in (done, saved)]
    found = await report(database, "newer")
    assert ("promoted", "ada") == (found.status.state, found.status.by)
    assert "put [deployments.next] before the other deployments of tier 'small'" in found.status.adopting
    assert (1, 0) == (found.status.control.calls, found.status.canary.calls)  # nobody compares any more


async def test_decisions(routed: Routed, stub: Stub, database: Database) -> None:
    """What people decide is kept with who and why; a canary that was rolled back begins anew before it is promoted."""
    stub.will(GOOD)
    router = routed(deployments=["first", "next"], more=NEWER, database=database)
    with pytest.raises(NotFound, match="no call has taken part in a canary 'newer'"):
        await decide(database, "newer", "promoted", by="ada", why="")
    await step(router, of_run(TRIES))

    await decide(database, "newer", "rolled back", by="ada", why="it sounds rude")
    with pytest.raises(InvalidInput, match=r"was rolled back: it sounds rude. Begin anew first: `perdure canary reset new"):
        await decide(database, "newer", "promoted", by="bob", why="")
    with pytest.raises(InvalidInput, match="is rolled back already, by ada: it sounds"):
        await decide(database, "newer", "rolled back", by="bob", why="")
    during = await step(router, of_run(TRIES))
    await decide(database, "newer", "running", by="bob", why="another try")
    after = await step(router, of_run(TRIES))

    assert ["first", "next"] == [one.record.deployment for one in (during, after)]
    found = await report(database, "newer")
    assert [("rolled back", "ada"), ("running", "bob")] == [(each.state, each.by) for each in found.decisions]
    assert (1, 1) == (found.status.canary.calls, found.sides[0].steps)  # counted anew


async def test_changed_canary_begins_anew(routed: Routed, stub: Stub, sqlite_database: Database) -> None:
    """Other instructions are another version, with counts of its own; the one that was rolled back stays so."""
    stub.will(GOOD)
    await step(routed(more=PROMPT), of_run(TRIES))
    await decide(sqlite_database, "newer", "rolled back", by="ada", why="rude")

    reworded = await step(routed(more=PROMPT.replace("better", "best")), of_run(TRIES))
    same = await step(routed(more=PROMPT.replace("0.5", "0.6")), of_run(TRIES))

    assert ["canary", "control"] == [one.record.arm for one in (reworded, same)]
    assert {"running", "rolled back"} == {each.state for each in await list_canaries(sqlite_database)}


async def test_overridden(routed: Routed, stub: Stub, database: Database) -> None:
    """Answers that people have corrected are counted in their arm, by the last word on each, and roll a canary back."""
    stub.will(GOOD)
    router = routed(deployments=["first", "next"], more=NEWER, database=database)
    done = [await step(router, of_run(number)) for number in range(36)]
    tried = [one.record for one in done if one.record.arm == "canary"]

    for one in done:
        await label_call(database, one.record.call_id, correct=True, by="ada")
        await label_call(database, one.record.call_id, correct=True, by="bob")
    before = await report(database, "newer")
    for record in tried:
        await label_call(database, record.call_id, correct=False, by="ada")

    assert (len(tried), 0, 36 - len(tried)) == _judged(before)
    after = await report(database, "newer")
    assert after.sides[0].counted.overridden > 0 and "rolled back" == after.status.state
    assert after.status.why.startswith("judged answers that were right: ")


async def test_labels_are_overrides(routed: Routed, stub: Stub, database: Database) -> None:
    """What steps and people say of an answer counts in its arm, by the last word; a late attempt changes nothing."""
    stub.will(GOOD)
    router = routed(deployments=["first", "next"], more=NEWER, database=database)
    done = await step(router, of_run(TRIES))
    said = JudgeCall(step=of_run(TRIES).step, call_id=done.record.call_id, correct=False)

    await router.label_answer(said)
    wrong = _judged(await report(database, "newer"))
    await label_call(database, done.record.call_id, correct=True, by="ada")
    await router.label_answer(said)

    assert (1, 1, 0) == wrong
    assert (1, 0, 0) == _judged(await report(database, "newer"))


def _judged(found: Report) -> tuple[int, int, int]:
    canary, control = found.sides
    return canary.counted.judged, canary.counted.overridden, control.counted.judged


async def test_cache_is_not_shared(routed: Routed, stub: Stub, sqlite_database: Database) -> None:
    """An answer that is kept is given again within its arm only, also where both ask the same; it is not counted."""
    stub.will(GOOD)
    same = PROMPT.replace("Judge better.", "Judge the return request.")
    router = routed(task='cache = "1h"', more=same)

    first = await step(router, of_run(TRIES, message="the same"))
    other = await step(router, of_run(DOES_NOT, message="the same"))
    again = await step(router, of_run(TRIES, message="the same"))

    assert ([False, False, True], 2) == ([one.record.cached for one in (first, other, again)], stub.calls)
    found = await report(sqlite_database, "newer")
    assert (1, 1) == (found.sides[0].counted.calls, found.sides[1].counted.calls)


async def test_batches_go_on_as_before(routed: Routed, stub: Stub, sqlite_database: Database) -> None:
    """The batch lane takes no part: its calls go to the deployment that serves the others."""
    router = routed(deployments=["first", "next"], more=NEWER, batch_price="0.5")

    lane = Batches(sqlite_database, router).choose_deployment(of_run(TRIES))

    assert lane is not None and "first" == lane.name


async def test_cancelled(routed: Routed, stub: Stub, sqlite_database: Database) -> None:
    """A call that its run has cancelled says nothing of a canary."""
    stub.will(Hangs())
    router = routed(deployments=["first", "next"], more=NEWER)
    asking = asyncio.create_task(router.generate(of_run(TRIES), attempt=1, output=Triage))
    await stub.arrived.wait()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)

    [row] = await rows(sqlite_database)
    [standing] = await list_canaries(sqlite_database)
    assert ("cancelled", 0) == (row["outcome"], standing.canary.calls)
    assert timedelta(0) < row["settled_at"] - row["sent_at"]


async def test_at_once_in_two_workers(routed: Routed, stub: Stub, database: Database, other_database: Database) -> None:
    """Every call is counted once when two workers make many at the same time, and a rollback is decided once."""
    stub.choose = by_model(next=WRONG)
    workers = [routed(deployments=["first", "next"], more=NEWER, database=one) for one in (database, other_database)]

    await asyncio.gather(*(step(workers[number % 2], of_run(number)) for number in range(60)))

    found = await report(database, "newer")
    trials = [row for row in await rows(database) if row["trial"]]
    by_arm = {arm: sum(row["arm"] == arm for row in trials) for arm in ("canary", "control")}
    assert by_arm == {side.arm: side.counted.calls for side in found.sides}
    assert (stub.models.count("stub-next"), 60) == (by_arm["canary"], found.sides[0].steps + found.sides[1].steps)
    assert ["rolled back"] == [each.state for each in found.decisions]
    assert 1 == len(workers[0].take_rollbacks() + workers[1].take_rollbacks())


async def test_local_canary(routed: Routed, stub: Stub, sqlite_database: Database) -> None:
    """A hosted model can be compared with the keyless local deployment."""
    stub.will(GOOD)
    home = '\n[deployments.next]\ntier = "small"\nmodel = "perdure-local/examples"\n'
    home += "input_usd_per_mtok = 0\noutput_usd_per_mtok = 0\n"
    examples = Path(__file__).parents[1] / "examples.jsonl"
    router = routed(task=f'examples = "{examples}"\ntext = "message"\n', more=home + NEWER)

    done = await router.generate(of_run(TRIES, message="It arrived broken"), attempt=1, output=Triage)
    await step(router, of_run(DOES_NOT))

    assert ("next", "canary", 0, 1) == (
        done.record.deployment,
        done.record.arm,
        done.record.usage.cost_nano_usd,
        stub.calls,
    )
