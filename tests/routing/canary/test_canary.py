"""Which runs try a canary, and what models.toml has to say of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from kits.routing import of_run

from perdure.errors import InvalidSettings
from perdure.routing import GenerateCall, load_routes
from perdure.routing.canary import Canary, CanaryTable

FILE = """
[tasks.triage]
tier = "small"
instructions = "Judge."
[tasks.sort]
tier = "small"
[tasks.hard]
tier = "large"
"""
HOSTED = """
[deployments.{name}]
tier = "{tier}"
model = "openai/{name}"
input_usd_per_mtok = 1
output_usd_per_mtok = 1
"""
FILE += HOSTED.format(name="first", tier="small") + HOSTED.format(name="next", tier="small")
FILE += HOSTED.format(name="big", tier="large")
CANARY = '[canaries.newer]\ntask = "triage"\ndeployment = "next"\nweight = 0.1\n'
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes models.toml and returns its path."""

    def write(text: str) -> Path:
        (tmp_path / "models.toml").write_text(text)
        return tmp_path / "models.toml"

    return write


def canary(**table: object) -> Canary:
    """A canary of the task triage."""
    given = {"name": "newer", "task": "triage", "instructions": "Judge well.", **table}
    return Canary(CanaryTable.model_validate(given), None, "small")


def test_share_of_runs() -> None:
    """As many runs try it as its weight says, and the same ones each time."""
    calls = [of_run(number) for number in range(5_000)]
    arms = [canary(weight=0.1).arm(call) for call in calls]

    assert 430 <= arms.count("canary") <= 570
    assert arms == [canary(weight=0.1).arm(call) for call in calls]


def test_arm_of_a_run() -> None:
    """All steps of a run are in one arm, also after a reset or a continue-as-new, and in whatever namespace."""
    drawn = canary(weight=0.5)

    def others(call: GenerateCall) -> list[GenerateCall]:
        step = call.step
        elsewhere = step.lineage.model_copy(update={"namespace": "ReplayNamespace"})
        changes = [("name", "mood#7"), ("run_id", "after-a-reset"), ("lineage", elsewhere)]
        return [call.model_copy(update={"step": step.model_copy(update=dict([change]))}) for change in changes]

    for number in range(50):
        call = of_run(number)
        assert {drawn.arm(call)} == {drawn.arm(other) for other in others(call)}


def test_larger_weight_keeps_runs() -> None:
    """Who has tried it still tries it when its weight is raised, and another canary draws others."""
    calls = [of_run(number) for number in range(500)]
    few, more = (
        {n for n, call in enumerate(calls) if canary(weight=weight).arm(call) == "canary"} for weight in (0.1, 0.3)
    )
    other = {n for n, call in enumerate(calls) if canary(name="other", weight=0.3).arm(call) == "canary"}

    assert few < more
    assert more != other


def test_cohort() -> None:
    """A canary is tried by the tenants it names, or by a share of tenants, each of them as a whole."""
    named = canary(per="tenant", of=["acme"])
    drawn = canary(per="tenant", weight=0.5)
    calls = [of_run(number, tenant=tenant) for number in range(20) for tenant in ("acme", "globex", "initech", "umbrella")]

    assert {("acme", "canary"), ("globex", "control")} < {(call.tenant, named.arm(call)) for call in calls}
    assert 4 == len({(call.tenant, drawn.arm(call)) for call in calls})


def test_version() -> None:
    """Its id changes with what it tries, and not with who tries it or by what it is rolled back."""
    one = canary(weight=0.1).id

    assert one.startswith("newer@")
    assert one == canary(weight=0.5, max_drop=0.1).id == canary(per="tenant", of=["acme"]).id
    assert one != canary(weight=0.1, instructions="Judge better.").id


def test_canary_serves_nobody_else(write: Write) -> None:
    """The deployment that a canary tries is not among those that serve the others; the task finds its canary."""
    routes = load_routes([write(FILE + CANARY)])
    triage, sort = routes.task("triage"), routes.task("sort")

    assert ["first"] == [one.name for one in routes.deployments_for(triage)]
    found = routes.canary(triage)
    assert found is not None and found.deployment is not None
    assert ("next", None) == (found.deployment.name, routes.canary(sort))


def test_canary_of_a_tier(write: Write) -> None:
    """A canary of a tier is tried by all tasks of that tier."""
    routes = load_routes([write(FILE + CANARY.replace('task = "triage"', 'tier = "small"'))])

    covered = [name for name, task in routes.tasks.items() if routes.canary(task)]
    assert ["triage", "sort"] == covered


def test_instructions_file(write: Write, tmp_path: Path) -> None:
    """Instructions to try may be in a file of their own."""
    (tmp_path / "triage-2.md").write_text("Judge well.")
    text = CANARY.replace('deployment = "next"', 'instructions_file = "triage-2.md"')

    found = load_routes([write(FILE + text)]).canaries["newer"]

    assert "Judge well." == found.table.instructions


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            CANARY.replace("triage", "triag"),
            r"line 2: \[canaries.newer\] task: there is no task 'triag'; known: hard, sort",
        ),
        (CANARY.replace("next", "nxt"), r"line 3: \[canaries.newer\] deployment: there is no deployment 'nxt'; known: big"),
        (
            CANARY.replace("weight", "wieght"),
            r"line 4: \[canaries.newer\] wieght: unknown key; known: deployment, false_roll",
        ),
        (CANARY.replace("0.1", "1.5"), r"line 4: \[canaries.newer\] weight: Input should be less than"),
        (CANARY.replace("0.1", "1"), r"line 4: \[canaries.newer\] weight: Input should be less than 1"),
        (CANARY + 'tier = "small"\n', r"line 1: \[canaries.newer\]: write `task`, or `tier`"),
        (CANARY.replace('deployment = "next"\n', ""), r"line 1: \[canaries.newer\]: there is nothing to try"),
        (
            CANARY.replace("weight = 0.1", 'of = "acme"'),
            r"line 1: \[canaries.newer\]: `of` names workflow types, agents or",
        ),
        (CANARY + 'per = "tenant"\nof = ["acme"]\n', r"line 1: \[canaries.newer\]: write `weight`, .* or `of`"),
        (CANARY.replace("newer", '"new@er"'), r"line 1: \[canaries.new@er\] name: take a name without @"),
        (CANARY + "min_calls = 2\n", r"line 5: \[canaries.newer\] min_calls: Input should be greater than or equal to 10"),
        (CANARY + "max_cost_ratio = 0.5\n", r"line 5: \[canaries.newer\] max_cost_ratio: Input should be greater than 1"),
        (CANARY + 'instructions_file = "no.md"\n', r"line 5: \[canaries.newer\] instructions_file: no.md cannot be read"),
        (
            CANARY + f'instructions = "Use sk-{"x" * 24}"\n',
            r"line 5: \[canaries.newer\] instructions: they hold what looks",
        ),
        (
            CANARY.replace("next", "big"),
            r"line 3: .* deployment: its tier is 'large', and that of task 'triage' is 'small'",
        ),
        (
            CANARY + CANARY.replace("newer", "other").replace('task = "triage"', 'tier = "small"'),
            r"line 6: \[canaries.other\] tier: task 'triage' takes part in canary 'newer' already",
        ),
        (
            CANARY + CANARY.replace("newer", "other"),
            r"line 6: \[canaries.other\] task: task 'triage' takes part in canary 'newer' already",
        ),
        (
            CANARY.replace("triage", "hard").replace("next", "big"),
            r"line \d+: \[tasks.hard\] tier: tier 'large' has only deployments that a canary tries",
        ),
        ("[canary.newer]\n", r"line 1: \[canary\]: unknown table; there are \[tasks.NAME\], .* and \[canaries.NAME\]"),
    ],
)
def test_wrong_canary(write: Write, text: str, said: str) -> None:
    """What is wrong with a canary is told with its line."""
    lines = text + FILE  # the canaries come first, so that their lines are known

    with pytest.raises(InvalidSettings, match=said):
        load_routes([write(lines)])


def test_residency(write: Write) -> None:
    """A canary sends nothing to where the task's inputs may not go."""
    text = FILE.replace('instructions = "Judge."', 'residency = "eu"') + CANARY
    text = text.replace('model = "openai/first"', 'model = "openai/first"\nregion = "eu"')

    with pytest.raises(InvalidSettings, match="'next' is not in a region that `residency` of task 'triage' allows: eu"):
        load_routes([write(text)])
