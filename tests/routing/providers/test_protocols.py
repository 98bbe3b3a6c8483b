"""One attempt is one call, booked for what it may have cost and rerouted by what was said, in six protocols."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from kits.routing import KEY, HashingEmbedder, Triage, asking, of_run, rows
from kits.socket_guard import guarded_sockets
from pydantic import JsonValue
from stand_ins.protocols import (
    PROTOCOLS,
    Behaviour,
    Breaks,
    Error,
    Errs,
    Hangs,
    Protocol,
    Providers,
    Says,
    Sends,
    providers,
)

from perdure.errors import ModelError, ModelRefused, ModelUnavailable
from perdure.routing import Router, load_routes
from perdure.routing.calls import budget_states
from perdure.routing.providers import CircuitBreakers
from perdure.storage import Database

COST = 200 * 150 + 10 * 600
every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)
Made = Callable[..., Router]


@pytest.fixture
async def world(litellm_is_warm: None, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Providers]:
    """Six providers on loopback."""
    monkeypatch.setenv("STUB_KEY", KEY)
    monkeypatch.setenv("AZURE_API_VERSION", "2024-10-21")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    async with providers() as found:
        yield found


@pytest.fixture
def made(tmp_path: Path, world: Providers, sqlite_database: Database) -> Made:
    """Makes a router whose deployments speak PROTOCOLS, in this order."""

    def make(*protocols: Protocol, task: str = "", breakers: CircuitBreakers | None = None, **more: str) -> Router:
        text = f'[tasks.triage]\ntier = "small"\ninstructions = "Judge."\n{task}\n[budgets.all]\nper = "all"\nusd = 1000\n'
        text += "".join(world.deployment(protocol, **more) for protocol in protocols)
        (tmp_path / "models.toml").write_text(text)
        return Router(sqlite_database, load_routes([tmp_path / "models.toml"]), HashingEmbedder(), breakers=breakers)

    return make


@every_protocol
async def test_answer(made: Made, world: Providers, sqlite_database: Database, protocol: Protocol) -> None:
    """An answer is one call with the key where the provider wants it, and booked as the provider counts."""
    generation = await made(protocol).generate(asking(), attempt=1, output=Triage)

    [request] = world.requests
    assert "refund" == Triage.model_validate(generation.value).verdict
    assert (COST, 1) == (generation.record.usage.cost_nano_usd, generation.record.provider_calls)
    assert any(KEY in value for value in request.headers.values())


LOST: tuple[Behaviour, ...] = (
    Breaks(),
    Breaks(after=0.2),
    Breaks(reset=False),
    Breaks("head"),
    Breaks("head", reset=False),
    Breaks("body"),
    Breaks("body", reset=False),
    Sends(b"<html>Sign in</html>"),
    Sends(b""),
    Sends(b"[]"),
    Hangs(),
)


@every_protocol
async def test_lost_answer(made: Made, world: Providers, sqlite_database: Database, protocol: Protocol) -> None:
    """Work whose answer is lost is one call, ambiguous, and booked at the most it can cost.

    (case 40: reads the request, works, resets the connection; LiteLLM would call some of them twice)
    """
    found = []
    for number, behaviour in enumerate(LOST):
        world.choose = lambda _, behaviour=behaviour: behaviour  # type: ignore[misc]  # bound now
        router = made(protocol, timeout="1" if isinstance(behaviour, Hangs) else "30")
        with pytest.raises(ModelUnavailable):
            await router.generate(of_run(number), attempt=1, output=Triage)
        row = (await rows(sqlite_database))[-1]
        found.append((behaviour, world.calls, row["outcome"], row["cost_nano_usd"]))

    [budget] = await budget_states(sqlite_database)
    reserved = [row["reserved_nano_usd"] for row in await rows(sqlite_database)]
    assert [(behaviour, number, "ambiguous", 0) for number, behaviour in enumerate(LOST, start=1)] == found
    assert (sum(reserved), 0) == (budget.spent, budget.reserved)
    assert COST < min(reserved)


@every_protocol
async def test_never_reached(made: Made, sqlite_database: Database, protocol: Protocol) -> None:
    """What failed before the request was sent is unreachable, and costs nothing."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    no_tls = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async with server:
        for number, address in enumerate(("http://127.0.0.1:9", no_tls, "http://nowhere.invalid")):
            with pytest.raises(ModelUnavailable, match="could not be reached"):
                await made(protocol, api_base=f'"{address}"').generate(of_run(number), attempt=1, output=Triage)

    [budget] = await budget_states(sqlite_database)
    found = [(row["outcome"], row["error"]) for row in await rows(sqlite_database)]
    assert ([("unavailable", "unreachable")] * 3, 0) == (found, budget.spent)


ELSEWHERE: tuple[Error, ...] = ("no credit", "too long", "withheld", "key", "model", "200")
AGAIN: tuple[Error, ...] = ("rate", "overloaded", "server", "gateway")


@every_protocol
async def test_goes_elsewhere(made: Made, world: Providers, sqlite_database: Database, protocol: Protocol) -> None:
    """Out of credit, too large, filtered, a key or a model that is not taken go to the next deployment, everywhere.

    (case 40: Anthropic's 400, 402, 413, and 14 of 17 providers; a 200 with an error)
    """
    other: Protocol = "mistral" if protocol == "openai" else "openai"
    went = []
    for number, kind in enumerate(ELSEWHERE):
        world.choose = lambda request, kind=kind: Errs(kind) if request.protocol == protocol else Says()  # type: ignore[misc]
        router = made(protocol, other)
        with pytest.raises(ModelUnavailable, match=f"next attempt goes to deployment '{other}'"):
            await router.generate(of_run(number), attempt=1, output=Triage)
        generation = await router.generate(of_run(number), attempt=2, output=Triage)
        failed = (await rows(sqlite_database))[-2]
        went.append((kind, generation.record.deployment, failed["outcome"], failed["cost_nano_usd"]))
        with pytest.raises(ModelRefused):
            await made(protocol).generate(of_run(100 + number), attempt=1, output=Triage)

    assert [(kind, other, "refused", 0) for kind in ELSEWHERE] == went
    assert 3 * len(ELSEWHERE) == world.calls


@every_protocol
async def test_passes(made: Made, world: Providers, sqlite_database: Database, protocol: Protocol) -> None:
    """What passes is one call, costs nothing, and is tried again."""
    for number, kind in enumerate(AGAIN):
        world.choose = lambda _, kind=kind: Errs(kind)  # type: ignore[misc]  # bound now
        with pytest.raises(ModelUnavailable, match="It is tried again"):
            await made(protocol).generate(of_run(number), attempt=1, output=Triage)

    found = [(row["outcome"], row["cost_nano_usd"]) for row in await rows(sqlite_database)]
    assert ([("unavailable", 0)] * len(AGAIN), len(AGAIN)) == (found, world.calls)


@every_protocol
async def test_refused(made: Made, world: Providers, protocol: Protocol) -> None:
    """A request that is wrong in itself is one call, and goes nowhere else."""
    world.choose = lambda _: Errs("invalid")

    with pytest.raises(ModelRefused):
        await made(protocol, "openai" if protocol != "openai" else "mistral").generate(asking(), attempt=1, output=Triage)

    assert 1 == world.calls


LIES: tuple[dict[str, JsonValue], ...] = (
    {"prompt": 200, "completion": 0, "total": 200},
    {"prompt": 200, "completion": -3, "total": 197},
    {"prompt": 200, "completion": 10**15, "total": 10**15},
)


@every_protocol
async def test_lies_about_the_answer(made: Made, world: Providers, sqlite_database: Database, protocol: Protocol) -> None:
    """A count that cannot be true is not believed: what was written costs at most a token a byte (case 40: usage)."""
    router = made(protocol)
    for number, lies in enumerate(LIES):
        world.choose = lambda _, lies=lies: Says(lies=lies)  # type: ignore[misc]  # bound now
        await router.generate(of_run(number), attempt=1, output=Triage)

    found = [(row["estimated"], row["cost_nano_usd"]) for row in await rows(sqlite_database)]
    assert [(True, 200 * 150 + 21 * 600)] * len(LIES) == found


@every_protocol
async def test_no_usage(made: Made, world: Providers, sqlite_database: Database, protocol: Protocol) -> None:
    """Where nothing is counted, the answer is either booked above what it costs, or as the most it can cost."""
    world.choose = lambda _: Says(lies={})

    with contextlib.suppress(ModelUnavailable):
        await made(protocol).generate(asking(), attempt=1, output=Triage)

    [row] = await rows(sqlite_database)
    [budget] = await budget_states(sqlite_database)
    assert 1 == world.calls
    assert row["estimated"] or row["outcome"] == "ambiguous"
    assert COST <= budget.spent


@pytest.mark.parametrize("protocol", ["openai", "mistral", "azure"])
async def test_thoughts_in_the_total(made: Made, world: Providers, sqlite_database: Database, protocol: Protocol) -> None:
    """Thoughts that a provider counts in the total only are paid for (case 40: reasoning tokens only in `total_tokens`)."""
    world.choose = lambda _: Says(hidden=500)

    await made(protocol).generate(asking(), attempt=1, output=Triage)

    [row] = await rows(sqlite_database)
    assert (510, COST + 500 * 600) == (row["completion_tokens"], row["cost_nano_usd"])


@every_protocol
async def test_nobody_else_is_called(
    made: Made, world: Providers, monkeypatch: pytest.MonkeyPatch, protocol: Protocol
) -> None:
    """A call connects to its provider, and to nobody else: nothing is fetched, whatever the answer.

    (case 40: LiteLLM fetches a file at the first call of `anthropic/`)
    """
    behaviours: list[Behaviour] = [Says(), Errs("server"), Errs("invalid"), Breaks(), Says(lies={}), Says(finish="filter")]
    router = made(protocol)

    with guarded_sockets(monkeypatch) as hosts:
        for number, behaviour in enumerate(behaviours):
            world.choose = lambda _, behaviour=behaviour: behaviour  # type: ignore[misc]  # bound now
            with contextlib.suppress(ModelError):
                await router.generate(of_run(number), attempt=1, output=Triage)

    assert {"127.0.0.1"} == set(hosts)
    assert len(behaviours) == world.calls


@pytest.mark.parametrize("waiting", [5, 20])
async def test_one_call_after_a_cooldown(made: Made, world: Providers, waiting: int) -> None:
    """When the cooldown is over one call tries the provider, whatever waits; when it serves, all go on.

    (case 40: three 503s, then so many runs at once)
    """
    now = 0.0
    router = made("anthropic", breakers=CircuitBreakers(lambda: now))
    world.choose = lambda _: Errs("overloaded")
    for number in range(3):
        with pytest.raises(ModelUnavailable, match="tried again"):
            await router.generate(of_run(number), attempt=1, output=Triage)

    async def everybody(first: int) -> list[object]:
        runs = (router.generate(of_run(first + number), attempt=1, output=Triage) for number in range(waiting))
        return await asyncio.gather(*runs, return_exceptions=True)

    meanwhile = await everybody(100)
    calls = [world.calls]
    now = 31.0
    await everybody(200)
    calls.append(world.calls)
    now = 62.0
    world.choose = lambda _: Says()
    served = await everybody(300)

    assert [3, 4] == calls
    assert all(isinstance(each, ModelUnavailable) and each.retry_after for each in meanwhile)
    assert not [each for each in served if isinstance(each, BaseException)]
    assert 4 + waiting == world.calls


@every_protocol
async def test_one_wait_for_all(made: Made, world: Providers, protocol: Protocol) -> None:
    """What one run is told to wait all runs wait: nobody else calls meanwhile."""
    now = 0.0
    router = made(protocol, breakers=CircuitBreakers(lambda: now))
    world.choose = lambda _: Errs("rate", headers={"retry-after": "20"})
    with pytest.raises(ModelUnavailable):
        await router.generate(of_run(1), attempt=1, output=Triage)
    world.choose = lambda _: Says()

    now = 5.0
    with pytest.raises(ModelUnavailable, match=r"out of service.* in 15 s") as caught:
        await router.generate(of_run(2), attempt=1, output=Triage)
    now = 21.0
    await router.generate(of_run(2), attempt=2, output=Triage)

    assert caught.value.retry_after is not None
    assert (15, 2) == (caught.value.retry_after.total_seconds(), world.calls)


async def test_what_is_sent_alone(made: Made, world: Providers) -> None:
    """The stub has seen what it was meant to see: the question, once, in the words of each protocol."""
    for protocol in PROTOCOLS:
        await made(protocol).generate(of_run(PROTOCOLS.index(protocol)), attempt=1, output=Triage)

    assert len(PROTOCOLS) == world.calls
    assert all("Judge." in json.dumps(request.body) for request in world.requests)
