"""What models.toml says, and what is said about one that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from perdure.errors import InvalidSettings, NoRoute
from perdure.routing import SHIPPED, Deployment, load_routes

Write = Callable[..., Path]

LOCAL = """
[deployments.local]
tier = "small"
model = "perdure-local/examples"
input_usd_per_mtok = 0
output_usd_per_mtok = 0
"""
HOSTED = """
[deployments.hosted]
tier = "small"
model = "openai/gpt"
input_usd_per_mtok = 0.15
output_usd_per_mtok = 0.6
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file and returns its path."""

    def write(text: str, name: str = "models.toml") -> Path:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_shipped_routes() -> None:
    """Without a models.toml every tier has a deployment that needs no key and costs nothing."""
    deployments = load_routes().deployments.values()

    assert {"small", "medium", "large"} == {one.tier for one in deployments}
    assert all(one.local and one.api_key is None and 0 == one.cost(10**9, 10**9) for one in deployments)


def test_files_beside_the_toml(write: Write) -> None:
    """Instructions and examples are read from files relative to models.toml."""
    write("Judge.", "module/judge.md")
    write('{"inputs": {"m": "a"}, "output": {"v": 1}}\n\n{"inputs": {"m": "b"}, "output": {"v": 2}}\n', "module/t.jsonl")
    path = write(
        '[tasks.t]\ntier = "small"\ninstructions_file = "judge.md"\nexamples = "t.jsonl"\n' + LOCAL, "module/models.toml"
    )

    task = load_routes([path]).task("t")

    assert ("Judge.", [{"v": 1}, {"v": 2}]) == (task.instructions, [example.output for example in task.examples])


def test_first_file_holds(write: Write) -> None:
    """The first file may redefine what a module's file brings, and its deployments are tried first."""
    own = write('[tasks.t]\ntier = "small"\ninstructions = "own"\n' + HOSTED)
    module = write(
        '[tasks.t]\ntier = "small"\ninstructions = "module"\n' + HOSTED.replace("hosted", "theirs"), "module.toml"
    )

    routes = load_routes([own, module])

    assert "own" == routes.task("t").instructions
    assert ["hosted", "theirs"] == [one.name for one in routes.deployments_for(routes.task("t"))]


def test_modules_must_not_clash(write: Write) -> None:
    """Two modules that define the same task are an error, since neither knows of the other."""
    first, second = (write('[tasks.t]\ntier = "small"\n' + HOSTED.replace("hosted", n), f"{n}.toml") for n in ("a", "b"))

    with pytest.raises(InvalidSettings, match=r"b.toml, line 1: \[tasks.t\]: is defined in .*a.toml as well"):
        load_routes([SHIPPED, first, second])


def test_task_without_examples_skips_local(write: Write) -> None:
    """Local deployments answer by examples only, so a task without any goes to the others of its tier."""
    routes = load_routes([write('[tasks.t]\ntier = "small"\n' + LOCAL + HOSTED)])

    assert ["hosted"] == [one.name for one in routes.deployments_for(routes.task("t"))]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[tasks.t]\ntier = "tiny"\n' + HOSTED, r"models.toml, line 2: \[tasks.t\] tier: Input should be 'small'"),
        (
            '[tasks.t]\ntier = "small"\nteir = 1\n' + HOSTED,
            r"line 3: \[tasks.t\] teir: unknown key; known: ask_below, budget",
        ),
        (
            '[tasks.t]\nask_below = 2\ntier = "small"\n' + HOSTED,
            r"line 2: \[tasks.t\] ask_below: .*less than or equal to 1",
        ),
        ('[tasks.t]\ntier = "small"\nname = "x"\n' + HOSTED, r"line 3: \[tasks.t\] name: unknown key"),
        (
            '[tasks.t]\ntier = "large"\n' + HOSTED,
            r"line 2: \[tasks.t\] tier: no deployment has tier 'large'. Add one",
        ),
        (
            '[tasks.t]\ntier = "small"\n' + LOCAL,
            r"line 2: \[tasks.t\] tier: tier 'small' has only local deployments, which answer by examples",
        ),
        (
            '[tasks.t]\ntier = "small"\nexamples = "no.jsonl"\n' + LOCAL,
            r"examples file .*no.jsonl cannot be read: No such file",
        ),
        ('[tasks.t]\ntier = "small"\nexamples = 3\n' + LOCAL, r"line 3: \[tasks.t\] examples: write the path"),
        ('[tasks.t]\ntier = "small"\ninstructions_file = "no.md"\n' + HOSTED, r"line 3: .*no.md cannot be read"),
        (
            '[tasks.t]\ntier = "small"\nescalate = "learned"\n' + HOSTED,
            r"line 1: \[tasks.t\]: `escalate` needs a `cascade`",
        ),
        (
            '[tasks.t]\ntier = "small"\nescalate = "always"\n' + HOSTED,
            r"line 3: \[tasks.t\] escalate: Input should be 'learned'",
        ),
        (
            HOSTED.replace("input_usd_per_mtok = 0.15\n", ""),
            r"line 2: \[deployments.hosted\] input_usd_per_mtok: is missing; a price",
        ),
        (HOSTED.replace("0.15", '"0.15"'), r"line 5: .* input_usd_per_mtok: write a number"),
        (HOSTED.replace("0.15", "-1"), r"input_usd_per_mtok: write US dollars per million tokens: 0 or more"),
        (HOSTED.replace("0.15", "nan"), r"input_usd_per_mtok: write US dollars"),
        (HOSTED.replace("0.15", "0.0000000001"), r"at most 9 decimals"),
        (HOSTED.replace("openai/", ""), r"line 4: \[deployments.hosted\] model: "),
        (
            LOCAL.replace("/examples", "/exmaples"),
            r'model: the local models are "perdure-local/examples" and "perdure-local/gguf"',
        ),
        (HOSTED + 'api_key = "sk-canary"\n', r'line 7: .* api_key: write "env:NAME"'),
        (HOSTED + "timeout = 0\n", r"line 7: .* timeout: Input should be greater than 0"),
        (
            '[tasks.t]\ntier = "small"\ncascade = ["large"]\n' + HOSTED,
            r"line 3: \[tasks.t\] cascade: no deployment has tier 'large'",
        ),
        ('[tasks.t]\ntier = "large"\ncascade = "small"\n' + HOSTED, r"line 1: \[tasks.t\]: .*the smaller first"),
        ('[tasks.t]\ntier = "small"\ncache = 5\n' + HOSTED, r'line 3: \[tasks.t\] cache: write a time such as "15m"'),
        ('[tasks.t]\ntier = "small"\ncache = "1d"\ntemperature = 1\n' + HOSTED, r"line 1: \[tasks.t\]: `cache` keeps"),
        (
            '[tasks.t]\ntier = "small"\nresidency = "eu"\n' + HOSTED,
            r"line 2: .*is in a region that `residency` allows: eu",
        ),
        (
            HOSTED + "[[deployments.hosted.prices]]\nsince = 2027-01-01\ninput_usd_per_mtok = 1\n",
            r"line 7: \[deployments.hosted\] prices.0.output_usd_per_mtok: is missing; a price is always stated",
        ),
        (HOSTED + '[[deployments.hosted.prices]]\nsince = "soon"\n', r"line 7: .*since: write a day without quotes"),
        ('[budgets.b]\nper = "moon"\nusd = 1\n', r"line 2: \[budgets.b\] per: Input should be 'run'"),
        ('[budgets.b]\nper = "run"\nusd = "1"\n', r"line 3: \[budgets.b\] usd: write a number of US dollars"),
        ('[budgets.b]\nper = "run"\nof = "x"\nusd = 1\n', r"line 1: \[budgets.b\]: `of` names one workflow type"),
        ("[task.t]\n", r"line 1: \[task\]: unknown table"),
        ("tasks = 1\n", r"\[tasks.\]: write a table, \[tasks.NAME\]"),
        ("[tasks]\nt = 1\n", r"\[tasks.t\]: write a table"),
        ("[tasks.t\n", r"models.toml is not valid TOML: .*line 1"),
    ],
)
def test_wrong_file(write: Write, text: str, said: str) -> None:
    """A wrong models.toml is refused at start-up, naming file, line, table and key, and repeating no key."""
    with pytest.raises(InvalidSettings, match=said) as caught:
        load_routes([write(text)])

    assert "sk-canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "it is not JSON: "),
        ('{"inputs": {"m": "a", "m": "b"}, "output": {"v": 1}}', "`m` stands twice"),
        ('{"inputs": {"m": "a"}, "output": {"v": NaN}}', "NaN is not a JSON value"),
        ('{"inputs": {"m": "a"}}', "output: Field required"),
        ('{"inputs": {}, "output": {"v": 1}}', "inputs: "),
    ],
)
def test_wrong_examples(write: Write, line: str, said: str) -> None:
    """A wrong line of an examples file is named by its number."""
    write('{"inputs": {"m": "a"}, "output": {"v": 1}}\n' + line, "t.jsonl")

    with pytest.raises(InvalidSettings, match=rf"t.jsonl, line 2: {said}"):
        load_routes([write('[tasks.t]\ntier = "small"\nexamples = "t.jsonl"\n' + LOCAL)])


def test_no_file(tmp_path: Path) -> None:
    """A routing file that is not there is named."""
    with pytest.raises(InvalidSettings, match=r"routing file .*none.toml cannot be read: No such file"):
        load_routes([tmp_path / "none.toml"])


def test_unknown_task(write: Write) -> None:
    """A task that nobody defined is named together with those that are known."""
    with pytest.raises(NoRoute, match=r"no route serves task 'x'; known tasks: none. Add \[tasks.x\]"):
        load_routes().task("x")


@pytest.mark.parametrize(
    ("price", "tokens", "nano_usd"),
    [
        ("0.15", 1, 150),
        ("3", 1, 3_000),
        ("0.0375", 1, 38),  # 37.5, rounded up once a call
        ("0.0375", 2, 75),
        ("0.1", 3, 300),  # 0.1 is not a binary fraction
        ("15", 10**12, 15 * 10**15),
        ("0.000000001", 1, 1),
        ("0", 10**9, 0),
    ],
)
def test_price(write: Write, price: str, tokens: int, nano_usd: int) -> None:
    """A price is exact: US dollars per million tokens in the file, whole nano-USD for a call, rounded up once."""
    deployment = load_routes([write(HOSTED.replace("0.15", price).replace("0.6", price))]).deployments["hosted"]

    assert nano_usd == deployment.cost(tokens, 0) == deployment.cost(0, tokens)


def test_key_is_not_shown(write: Write) -> None:
    """A deployment that is printed does not say where its key is."""
    deployment = load_routes([write(HOSTED + 'api_key = "env:MY_KEY"\n')]).deployments["hosted"]

    assert isinstance(deployment, Deployment) and "MY_KEY" not in repr(deployment)


def test_new_prices(write: Write) -> None:
    """A price that changes holds from its day on, and what was called before keeps its price."""
    prices = "[[deployments.hosted.prices]]\nsince = 2027-01-01\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = 2\n"
    hosted = load_routes([write(HOSTED + prices)]).deployments["hosted"]

    before, after = (hosted.with_prices_at(datetime(year, 12, 31, tzinfo=UTC)) for year in (2026, 2027))

    assert (150, 1000) == (before.cost(1, 0), after.cost(1, 0))
    assert (600, 2000) == (before.cost(0, 1), after.cost(0, 1))


def test_residency(write: Write) -> None:
    """Inputs of a task with `residency` go to deployments of these regions only."""
    own = HOSTED.replace("hosted", "eu") + 'region = "eu"\n'
    routes = load_routes([write('[tasks.t]\ntier = "small"\nresidency = ["eu"]\n' + HOSTED + own)])

    assert ["eu"] == [one.name for one in routes.deployments_for(routes.task("t"))]


def test_budget_of_a_task(write: Write) -> None:
    """The short form of a budget means what the long one says."""
    short = load_routes([write('[tasks.t]\ntier = "small"\nbudget_usd_per_day = 2.5\n' + HOSTED)]).budgets["t-a-day"]

    assert ("task", "t", 2_500_000_000, "day") == (short.per, short.of, short.limit, short.every)
