"""How parked effects are seen and resolved at the command line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from kits.cli import Perdure, until

from perdure.commands.exits import Exit

HAPPENED = ("--happened", "--remote-ref", "7", "--module", "kits.cli_workflows")


@pytest.fixture
def run(desk: Perdure, request: pytest.FixtureRequest) -> str:
    """A run that waits for a person to say what became of its effect."""
    workflow_id = f"parked-{request.node.name}"
    assert 0 == desk("run", "Stores", "--id", workflow_id, "-d", "-i", '"a thing"').code
    until(lambda: bool(effects(desk, "--run", workflow_id)))
    return workflow_id


def effects(desk: Perdure, *arguments: str) -> list[dict[str, Any]]:
    """Return what `effects list` lists."""
    return desk("effects", "list", "-o", "json", *arguments).rows


def test_parked_effects_are_listed(desk: Perdure, run: str) -> None:
    """`effects list` shows what waits for a person across runs, with why, and the run shows as parked."""
    [effect] = effects(desk, "--run", run)

    assert ("box.put", "parked", {"text": "a thing"}) == (effect["action"], effect["state"], effect["args"])
    assert effect["key"][:15] in desk("effects", "list").out
    assert "the box is shut" in desk("effects", "list").out
    assert [] == effects(desk, "--run", run, "--state", "succeeded")
    assert [effect] == desk("effects", "list", "--state", "all", "--run", run, "-o", "jsonl").rows
    until(lambda: run in desk("list", "--state", "parked").out)


def test_a_parked_run_says_so_and_what_to_do(desk: Perdure) -> None:
    """`run` and `show` call a parked run parked, with the command that goes on with it (case 80: a parked run)."""
    ended = desk("run", "Stores", "--id", "shown-parked", "-i", '"a thing"', "--wait", "5", "-o", "json")
    [effect] = effects(desk, "--run", "shown-parked")

    text = desk("show", "shown-parked").out

    assert (Exit.WAITING, "parked") == (ended.code, ended.json["state"])
    assert [effect["key"]] == [parked["effect"] for parked in ended.json["parked"]]
    assert "Stores  parked" in text.splitlines()[0]
    assert f"perdure effects resolve {effect['key']} --comment WHY with --happened --remote-ref REF" in text

    desk("effects", "resolve", effect["key"], "--did-not-happen", "-c", "looked", "--as", "mara")
    until(lambda: "running" != desk("show", "shown-parked", "-o", "json").json["run"]["state"])
    assert "effects resolve" not in desk("show", "shown-parked").out.splitlines()[-1]


def test_an_effect_shows_its_course(desk: Perdure, run: str) -> None:
    """`effects show` prints what was asked and every transition; the beginning of a key is enough."""
    [effect] = effects(desk, "--run", run)

    text = desk("effects", "show", effect["key"][:14]).out
    found = desk("effects", "show", effect["key"], "-o", "json").json

    for said in (effect["key"], run, "a thing", "begins -> in flight", "claimed -> parked"):
        assert said in text
    assert effect == found["effect"]
    assert "parked" == found["events"][-1]["after"]


def test_what_happened_lets_the_run_go_on(desk: Perdure, run: str) -> None:
    """`resolve --happened` gives the step the target's reference, and who said so is kept."""
    [effect] = effects(desk, "--run", run)

    ended = desk("effects", "resolve", effect["key"], *HAPPENED, "-c", "I saw it", "--as", "mara")

    assert Exit.OK == ended.code, ended.err
    assert f"told {run}" in ended.err
    assert "nobody verified that name" in ended.err
    until(lambda: "completed" == json.loads(desk("show", run, "-o", "json").out)["run"]["state"])
    assert "7" == json.loads(desk("show", run, "-o", "json").out)["run"]["result"]
    assert "parked -> succeeded, mara (not verified): happened: I saw it" in desk("effects", "show", effect["key"]).out


def test_what_is_sent_again_is_sent_once_more(desk: Perdure, run: str) -> None:
    """`resolve --send-again` has the run send it under the same key, and go on."""
    [effect] = effects(desk, "--run", run)

    said = desk("effects", "resolve", effect["key"], "--send-again", "-c", "it is not there", "-o", "json").json

    assert [run] == said["told"]
    until(lambda: "completed" == json.loads(desk("show", run, "-o", "json").out)["run"]["state"])
    [after] = effects(desk, "--run", run, "--state", "succeeded")
    assert 2 == after["sent"]


def test_the_same_again_only_tells_the_run(desk: Perdure, run: str) -> None:
    """Resolving twice in the same way ends well; in another way it comes too late."""
    [effect] = effects(desk, "--run", run)
    said = ("effects", "resolve", effect["key"], *HAPPENED, "-c", "I saw it", "--as", "mara")

    codes = [desk(*said).code, desk(*said).code]
    late = desk("effects", "resolve", effect["key"], "--did-not-happen", "-c", "no", "--as", "ole")

    assert [Exit.OK, Exit.OK] == codes
    assert (Exit.ERROR, True) == (late.code, "mara said" in late.err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-c", "why"], "say one of"),
        (["--happened", "--did-not-happen", "-c", "why"], "say one of"),
        (["--happened", "-c", "why", "--module", "kits.cli_workflows"], "remote reference"),
        (["--happened", "--remote-ref", "1", "--answer", "{", "-c", "why"], "not JSON"),
        (
            ["--happened", "--remote-ref", "1", "--answer", "{}", "-c", "why", "-m", "kits.cli_workflows"],
            "does not fit Entry",
        ),
        (["--send-again", "--remote-ref", "1", "-c", "why"], "go with --happened"),
        (["--did-not-happen", "-c", "  "], "comment"),
        (["--did-not-happen"], "--comment"),
    ],
)
def test_what_is_said_wrongly_changes_nothing(desk: Perdure, run: str, arguments: list[str], message: str) -> None:
    """A mistake in what is said ends with 2 and names it."""
    [effect] = effects(desk, "--run", run)

    ended = desk("effects", "resolve", effect["key"], *arguments)

    assert Exit.USAGE == ended.code, ended.err
    assert message in ended.err
    assert "parked" == effects(desk, "--run", run)[0]["state"]


def test_a_connector_nobody_named_is_asked_for(desk: Perdure, run: str) -> None:
    """Without the module of the connector nothing can be said to have happened, and the message says so."""
    [effect] = effects(desk, "--run", run)

    ended = desk("effects", "resolve", effect["key"], "--happened", "--remote-ref", "7", "-c", "I saw it")

    assert (Exit.ERROR, True) == (ended.code, "modules" in ended.err)


def test_policy_may_refuse_unverified_names(desk: Perdure, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With unverified_decisions = refuse, nobody resolves anything by typing a name."""
    [effect] = effects(desk, "--run", run)
    monkeypatch.setenv("PERDURE_UNVERIFIED_DECISIONS", "refuse")

    assert Exit.NOT_ALLOWED == desk("effects", "resolve", effect["key"], "--did-not-happen", "-c", "why").code


def test_a_run_that_cannot_be_told_is_told_later(desk: Perdure, run: str) -> None:
    """When Temporal is away, it is written down, and saying the same again tells the run."""
    [effect] = effects(desk, "--run", run)
    said = ("effects", "resolve", effect["key"], *HAPPENED, "-c", "I saw it")

    away = desk(*said, "--address", "127.0.0.1:1")
    back = desk(*said)

    assert (Exit.UNREACHABLE, True) == (away.code, "it is written down" in away.err)
    assert (Exit.OK, True) == (back.code, f"told {run}" in back.err)


def test_unknown_keys_end_with_1(desk: Perdure) -> None:
    """A key that there is not is said as such."""
    for command in (("show",), ("resolve", "--did-not-happen", "-c", "why")):
        ended = desk("effects", *command, "pe-none")
        assert (Exit.ERROR, True) == (ended.code, "no effect whose key begins" in ended.err)


def test_sweep_is_run_and_scheduled(desk: Perdure, run: str) -> None:
    """`sweep` looks for what ended runs left open, at once or on a schedule; what waits for a person goes on waiting."""
    until(lambda: desk("effects", "sweep", "--connector", "box").code == Exit.OK, seconds=100)
    swept = desk("effects", "sweep", "--connector", "box", "-o", "json")
    scheduled = desk("effects", "sweep", "--schedule", "1h")
    stopped = desk("effects", "sweep", "--unschedule")

    assert ({}, True) == (swept.json["counts"], swept.json["open"]["parked"] > 0), swept.out
    assert (Exit.OK, True) == (scheduled.code, "every 1h" in scheduled.err), scheduled.err
    assert (Exit.OK, True) == (stopped.code, "no more perdure.sweep" in stopped.err), stopped.err
    assert "parked" == effects(desk, "--run", run)[0]["state"]
