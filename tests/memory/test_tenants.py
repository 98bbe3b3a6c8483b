"""Tests of two who share a memory and try to read each other: by every verb, with foreign ids and odd names."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from kits.memory import ADA, Ask, Clock, Say
from langgraph.store.base import SearchItem
from mcp.client.client import Client
from pydantic import ValidationError

from perdure.errors import InvalidInput, NotFound
from perdure.lineage import StepRef
from perdure.memory import Memory, Scope, customer
from perdure.memory.contracts import Origin, RememberResult
from perdure.memory.langgraph import PerdureStore
from perdure.memory.mcp_server import VERBS, mcp_server
from perdure.memory.records.requests import (
    ConsolidateCall,
    FeedbackCall,
    ForgetCall,
    HoldCall,
    ListCall,
    PinCall,
    StatsCall,
    UpdateCall,
)

SECRET = "Ada's safe opens with 4711"
EVE = customer("ada", tenant="eve")
"""Another tenant's user of the same name."""
NAMES = [
    *("*", "%", "_afe", "", "safe' OR '1'='1", "../safe", "SAFE", "safe ", "\u0455afe", "safe\n", "😀"),
    *("x" * 5000, "default:user=ada", "[]", "null"),
]
"""Ids that somebody might try, the Cyrillic one among them."""
ALIKE = [
    *(
        customer("Ada"),
        customer("ada "),
        customer("\u0430da"),
        customer("ada\u200b"),
        customer("%"),
        customer("*"),
        customer("ad_"),
    ),
    *(Scope(agent="ada"), Scope(session="ada"), Scope(user="ada", session="s"), Scope(user="ada", agent="*"), EVE),
    *(customer("ada", tenant="Default"), customer("ada", tenant="*"), customer("default:user=ada")),
]
"""Scopes that look like Ada's."""


@pytest.fixture
async def safe(memory: Memory, to_remember: Say, clock: Clock) -> RememberResult:
    """Ada's secret, in two versions."""
    await memory.remember(to_remember("Ada has a safe", memory_id="safe"))
    clock.move(timedelta(hours=1))
    written = await memory.remember(to_remember(SECRET, memory_id="safe", subject="safe"))
    clock.move(timedelta(hours=1))
    return written


async def _adas(memory: Memory) -> list[str]:
    return [line async for line in memory.export(scope=ADA) if not line.startswith('{"access"')]


@pytest.mark.parametrize("scope", ALIKE, ids=str)
async def test_scopes_that_look_alike_are_others(
    memory: Memory, safe: RememberResult, scope: Scope, clock: Clock, *, to_recall: Ask, step: Callable[[str], StepRef]
) -> None:
    """Nothing of Ada is read in a scope that is not exactly hers, now or as of then; and nothing of hers changes."""
    before = await _adas(memory)
    for times in ({}, {"as_of": clock.now - timedelta(minutes=30)}):
        assert () == (await memory.recall(to_recall(SECRET, scope=scope, **times))).hits
        assert () == (await memory.list(ListCall(step=step("list"), scope=scope, **times))).records
        with pytest.raises(NotFound):
            await memory.get("safe", scope, **times)
    assert [] == await memory.history("safe", scope)
    assert ["export"] == [line[2:8] async for line in memory.export(scope=scope) if SECRET in line or line[2:8] != "access"]
    for how in ("expire", "retract", "erase"):
        call = ForgetCall(step=step(f"{how} {scope}"), scope=scope, how=how, everything=True)
        assert 0 == (await memory.forget(call)).versions
    for attempt in (
        memory.pin(PinCall(step=step("pin"), scope=scope, memory_id="safe")),
        memory.hold(HoldCall(step=step("hold"), scope=scope)),
        memory.update(UpdateCall(step=step("update"), scope=scope, memory_id="safe", content="mine")),
    ):
        with pytest.raises(NotFound):
            await attempt
    assert 0 == (await memory.stats(StatsCall(scope=scope))).versions
    assert before == await _adas(memory)


async def test_odd_ids_find_nothing(
    memory: Memory, safe: RememberResult, *, to_remember: Say, to_recall: Ask, step: Callable[[str], StepRef]
) -> None:
    """No id finds another's memory, and each is answered by not found or an error that names it, on both databases."""
    before = await _adas(memory)
    for number, name in enumerate([*NAMES, safe.version_id, "safe"]):
        assert [] == await memory.history(name, EVE)
        for attempt in (
            memory.get(name, EVE),
            memory.pin(PinCall(step=step("pin"), scope=EVE, memory_id=name)),
            memory.hold(HoldCall(step=step("hold"), scope=EVE, memory_id=name)),
            memory.update(UpdateCall(step=step("update"), scope=EVE, memory_id=name, content="mine")),
        ):
            with pytest.raises((NotFound, InvalidInput)):
                await attempt
        listed = ListCall(step=step("list"), scope=EVE, subject=name, predicate=name, label=name)
        assert () == (await memory.list(listed)).records
        assert () == (await memory.recall(to_recall(name, scope=EVE, subject=name))).hits
        for how in ("expire", "erase"):
            for which in ({"memory_id": name}, {"subject": name}):
                call = ForgetCall(step=step(f"{how} {number}"), scope=EVE, how=how, **which)
                assert 0 == (await memory.forget(call)).versions
        said = FeedbackCall(step=step("say"), scope=EVE, version_ids=(name,), cited=True)
        assert 0 == (await memory.feedback(said)).count
        with pytest.raises(InvalidInput):
            await memory.consolidate(
                ConsolidateCall(step=step(f"c {number}"), scope=EVE, version_ids=(name,), content="mine")
            )
    assert before == await _adas(memory)
    assert 1 == (await memory.remember(to_remember("mine", scope=EVE, memory_id="safe"))).version


async def test_what_no_database_takes_is_named(
    memory: Memory, to_recall: Ask, to_remember: Say, step: Callable[[str], StepRef]
) -> None:
    """A NUL in a name or text is an error that a step does not retry for ever, whatever the database."""
    nul = "safe\x00"
    attempts = [
        memory.get(nul, ADA),
        memory.history(nul, ADA),
        memory.history("safe", customer(nul)),
        memory.recall(to_recall("x", scope=Scope(agent=nul))),
        memory.list(ListCall(step=step("l"), scope=ADA, subject=nul)),
        memory.recall(to_recall("x", subject=nul)),
        memory.remember(to_remember(nul)),
        memory.update(UpdateCall(step=step("u"), scope=ADA, memory_id="safe", content=nul)),
        memory.forget(ForgetCall(step=step("f"), scope=ADA, how="expire", subject=nul)),
        memory.forget(ForgetCall(step=step("f"), scope=ADA, how="erase", memory_id="safe", why=nul)),
        memory.pin(PinCall(step=step("p"), scope=ADA, memory_id=nul)),
        memory.hold(HoldCall(step=step("h"), scope=ADA, memory_id=nul)),
        memory.feedback(FeedbackCall(step=step("s"), scope=ADA, version_ids=(nul,), cited=True)),
        memory.consolidate(ConsolidateCall(step=step("c"), scope=ADA, version_ids=(nul,), content="x")),
    ]
    for attempt in attempts:
        with pytest.raises(InvalidInput, match="holds a NUL character"):
            await attempt


async def test_nothing_is_told_of_anothers_ids(
    memory: Memory, safe: RememberResult, *, to_remember: Say, step: Callable[[str], StepRef]
) -> None:
    """Whether another tenant's version is there, was erased, or never was: who derives from it gets the same answer."""
    said = []
    for known in (safe.version_id, "never"):
        for erased in (False, True):
            if erased and known != "never":
                await memory.forget(ForgetCall(step=step("erase"), scope=ADA, how="erase", memory_id="safe"))
            with pytest.raises(InvalidInput) as refused:
                await memory.remember(to_remember("x", scope=EVE, origin=Origin(derived_from=(known,))))
            said.append(refused.value.message.replace(known, "ID"))

    assert 1 == len(set(said))


@pytest.mark.parametrize("parts", [{"user": ""}, {"user": " "}, {"user": "ada", "session": ""}, {}])
@pytest.mark.parametrize("tenant", ["default", " "])
def test_empty_names_are_no_scope(parts: dict[str, str], tenant: str) -> None:
    """A name that is empty or blank names nobody, so there is no scope of all the nameless."""
    with pytest.raises(ValidationError):
        Scope(tenant=tenant, **parts)
    with pytest.raises(InvalidInput, match="a customer without a name is nobody"):
        customer(" ")


async def test_mcp_and_langgraph_stay_in_their_scope(
    sqlite_memory: Memory, to_remember: Say, step: Callable[[str], StepRef]
) -> None:
    """What is behind other interfaces is confined as well: no id, namespace, filter or time leads to another's record."""
    hers = PerdureStore(sqlite_memory, ADA)
    await hers.aput(("safe",), "code", {"text": SECRET})
    written = await sqlite_memory.remember(to_remember(SECRET, memory_id="safe"))
    [item] = (await sqlite_memory.list(ListCall(step=step("l"), scope=ADA, label="langgraph"))).records
    store = PerdureStore(sqlite_memory, EVE)
    found: list[Any] = [await store.aget(("safe",), "code"), await store.aget((), "safe")]
    searched: list[SearchItem] = [
        *await store.asearch((), query=SECRET),
        *await store.asearch(("safe",)),
        *await store.asearch((), filter={"text": {"$ne": ""}}),
    ]
    spaces = await store.alist_namespaces(prefix=("*",))
    await store.adelete(("safe",), "code")
    async with Client(mcp_server(sqlite_memory, EVE, VERBS)) as client:
        answers = [
            await client.call_tool("recall", {"query": SECRET, "limit": 100}),
            await client.call_tool("recall", {"query": SECRET, "as_of": "2026-03-01T12:00:00Z"}),
            await client.call_tool("recall", {"query": SECRET, "scope": {"user": "ada"}, "user": "ada"}),
            await client.call_tool("remember", {"content": "mine", "memory_id": "safe"}),
            *[
                await client.call_tool("forget", {"memory_id": id})
                for id in ("safe", item.memory_id, written.version_id, "*")
            ],
            await client.call_tool("recall", {"query": SECRET, "as_of": "yesterday"}),
            await client.call_tool("recall", {"query": SECRET, "limit": 10**9}),
            await client.call_tool("remember", {"content": "x", "days": -1}),
        ]

    assert ([None, None], [], []) == (found, searched, spaces)
    assert SECRET not in str(answers[:2]) + str(answers[3:])
    assert "4711" not in "".join(str(answer.content) for answer in answers)
    assert [True] * 3 == [answer.is_error for answer in answers[-3:]]
    assert SECRET == (await sqlite_memory.get("safe", ADA)).content
    kept = await hers.aget(("safe",), "code")
    assert kept is not None and {"text": SECRET} == kept.value
