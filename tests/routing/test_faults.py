"""What providers do wrong, how each of it is taken, and what is booked for it."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
from collections.abc import Callable, Mapping
from datetime import timedelta

import pytest
from kits.routing import KEY, PROMPT, Triage, asking, rows
from pydantic import JsonValue
from stand_ins.provider import Answers, Behaviour, Sends, Stub, completion, says, stub_provider

from perdure.errors import ModelError, ModelRefused, ModelUnavailable
from perdure.routing import Router
from perdure.routing.calls import budget_states
from perdure.routing.providers import CircuitBreakers
from perdure.storage import Database

Routed = Callable[..., Router]
GOOD = '{"verdict": "refund"}'
COST = 21_000
ESTIMATED = 86_550
"""What the same costs where nobody counts: a token a byte."""
WRITTEN = 27_600
"""What it costs where nobody counts the answer,"""
ASKED = 79_950
"""and where nobody counts the prompt."""
LOST = "most"
"""Booked as what it may have cost at most."""
HTML = b"<html>Sign in</html>"
ELSEWHERE = {"location": "http://127.0.0.1:9/v1/chat/completions"}


def used(**tokens: JsonValue) -> Sends:
    """An answer with a strange count of tokens."""
    return completion(GOOD, usage={"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110, **tokens})


def said(message: JsonValue) -> Sends:
    """An answer with a message of another shape."""
    return completion(message=message)


def fails(number: int, message: str = "no", headers: Mapping[str, str] | None = None, **more: JsonValue) -> Sends:
    """An error with MESSAGE, which repeats the prompt and the key."""
    return says(number, {"error": {"message": f"{message} {PROMPT} {KEY}", **more}}, headers)


def page(status: int) -> Sends:
    """An error that is a page for people, as whoever stands before a provider shows it."""
    return says(status, HTML, {"content-type": "text/html"})


def plain(completed: Sends) -> bytes:
    """The body of COMPLETED."""
    return completed.bytes.partition(b"\r\n\r\n")[2]


def choice(verdict: str) -> JsonValue:
    """One of several answers."""
    return {"finish_reason": "stop", "message": {"role": "assistant", "content": json.dumps({"verdict": verdict})}}


TOOL: JsonValue = [{"id": "1", "type": "function", "function": {"name": "x", "arguments": GOOD}}]

# What happens, how it counts, what is noted as its error, what is booked.
FAULTS: list[tuple[str, Behaviour, str, str, int | str]] = [
    ("fine", completion(GOOD), "answered", "", COST),
    # Answers that are none
    ("an error in a 200", says(200, {"error": {"message": "no", "code": 503}}), "unavailable", "503", 0),
    ("HTML", says(200, HTML, {"content-type": "text/html"}), "ambiguous", "unreadable", LOST),
    ("HTML as JSON", says(200, HTML), "ambiguous", "unreadable", LOST),
    ("nothing", says(200, b""), "ambiguous", "unreadable", LOST),
    ("no content", says(204, b""), "ambiguous", "unreadable", LOST),
    ("a list", says(200, []), "ambiguous", "unreadable", LOST),
    ("a text", says(200, "hello"), "ambiguous", "unreadable", LOST),
    ("latin-1", says(200, '{"é": 1}'.encode("latin-1")), "ambiguous", "unreadable", LOST),
    ("no choices", completion(without="choices"), "ambiguous", "unreadable", LOST),
    ("null for choices", completion(choices=None), "ambiguous", "unreadable", LOST),
    (
        "content in parts",
        said({"role": "assistant", "content": [{"type": "text", "text": GOOD}]}),
        "ambiguous",
        "unreadable",
        LOST,
    ),
    ("garbage for gzip", says(200, b"\x1f\x8b no", {"content-encoding": "gzip"}), "ambiguous", "connection", LOST),
    (
        "cut off",
        Sends(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10\r\n{\r\n"),
        "ambiguous",
        "connection",
        LOST,
    ),
    ("no chunks", Sends(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}"), "ambiguous", "connection", LOST),
    ("no HTTP", Sends(b"\x00\xff hello\r\n\r\n"), "ambiguous", "connection", LOST),
    ("only 100", Sends(b"HTTP/1.1 100 Continue\r\n\r\n"), "ambiguous", "connection", LOST),
    # Strange answers
    ("gzip", says(200, gzip.compress(plain(completion(GOOD))), {"content-encoding": "gzip"}), "answered", "", COST),
    ("BOM", says(200, b"\xef\xbb\xbf" + plain(completion(GOOD))), "answered", "", COST),
    ("another model", completion(GOOD, model="other"), "answered", "", COST),
    ("no model", completion(GOOD, model=None), "answered", "", COST),
    ("a model with a null byte", completion(GOOD, model="a\x00b"), "answered", "", COST),
    ("half a character for a model", completion(GOOD, model="\ud800"), "answered", "", COST),
    ("a long model", completion(GOOD, model="x" * 9000), "answered", "", COST),
    ("finish null", completion(choices=[{"message": {"role": "assistant", "content": GOOD}}]), "answered", "", COST),
    (
        "a tool that was not asked for",
        said({"role": "assistant", "content": None, "tool_calls": TOOL}),
        "invalid",
        "the answer is empty",
        COST,
    ),
    ("empty refusal", said({"role": "assistant", "content": GOOD, "refusal": ""}), "answered", "", COST),
    ("refusal", said({"role": "assistant", "content": None, "refusal": "no"}), "refused", "refused to answer", COST),
    ("empty choices", completion(choices=[]), "invalid", "the answer is empty", COST),
    ("the same twice", completion(choices=[choice("a"), choice("a")]), "answered", "", COST),
    ("two answers", completion(choices=[choice("a"), choice("b")]), "invalid", "there are several JSON", COST),
    ("content null", said({"role": "assistant", "content": None}), "invalid", "the answer is empty", COST),
    ("longer than allowed", Answers(json.dumps({"verdict": "x" * 9000}), tokens=(100, 9000)), "answered", "", 5_415_000),
    # Counts of tokens
    ("no usage", completion(GOOD, without="usage"), "answered", "", ESTIMATED),
    ("usage null", completion(GOOD, usage=None), "answered", "", ESTIMATED),
    ("usage empty", completion(GOOD, usage={}), "answered", "", ESTIMATED),
    ("tokens null", used(prompt_tokens=None, completion_tokens=None), "answered", "", ESTIMATED),
    ("tokens below zero", used(prompt_tokens=-5, completion_tokens=-5), "answered", "", ESTIMATED),
    ("one below zero", used(completion_tokens=-5), "answered", "", WRITTEN),
    ("tokens past all bounds", used(prompt_tokens=10**30), "answered", "", ASKED),
    ("more than any context", used(prompt_tokens=10**12), "answered", "", ASKED),
    ("nothing written, it says", used(completion_tokens=0, total_tokens=100), "answered", "", WRITTEN),
    ("nothing asked, it says", used(prompt_tokens=0, total_tokens=10), "answered", "", ASKED),
    ("thoughts in the total only", used(total_tokens=610), "answered", "", 321_000),
    (
        "thoughts beside the answer",
        used(total_tokens=None, completion_tokens_details={"reasoning_tokens": 500}),
        "answered",
        "",
        321_000,
    ),
    ("less than can be", used(prompt_tokens=3, completion_tokens=1, total_tokens=4), "answered", "", ESTIMATED),
    ("more written than the context holds", used(completion_tokens=10**7), "answered", "", WRITTEN),
    ("tokens in text", used(prompt_tokens="100", completion_tokens="10"), "answered", "", COST),
    ("more cached than sent", used(prompt_tokens_details={"cached_tokens": 500}), "answered", "", COST),
    ("cached below zero", used(prompt_tokens_details={"cached_tokens": -500}), "answered", "", COST),
    ("no usage for half a character", completion("\ud800", without="usage"), "invalid", "the answer is cut off", 75_750),
    # Errors
    *(
        (str(status), page(status), "unavailable", str(status), 0)
        for status in (408, 500, 501, 502, 503, 521, 522, 525, 529)
    ),
    *((str(status), page(status), "ambiguous", str(status), LOST) for status in (499, 504, 520, 524)),
    *((str(status), says(status, b"", ELSEWHERE), "unavailable", str(status), 0) for status in (301, 302, 303, 307, 308)),
    *((str(status), fails(status), "refused", str(status), 0) for status in (400, 401, 402, 403, 404, 413, 418, 422, 451)),
    *((str(status), fails(status), "unavailable", str(status), 0) for status in (409, 425, 429)),
    ("no credit", fails(429, code="insufficient_quota"), "refused", "429 insufficient_quota", 0),
    ("no credit, in words", fails(429, "You exceeded your current quota."), "refused", "429 insufficient_quota", 0),
    ("no credit, as 400", fails(400, "Your credit balance is too low"), "refused", "400 insufficient_quota", 0),
    (
        "limit a minute",
        fails(429, "You exceeded your current quota", status="RESOURCE_EXHAUSTED"),
        "unavailable",
        "429 RESOURCE_EXHAUSTED",
        0,
    ),
    ("too long", fails(400, code="context_length_exceeded"), "refused", "400 context_length_exceeded", 0),
    ("too long, in words", fails(400, "prompt is too long: 210000 tokens"), "refused", "400 context_length_exceeded", 0),
]


async def test_faults(routed: Routed, stub: Stub, sqlite_database: Database) -> None:
    """Each fault is one call, counts as what it is, is booked at what is known of its price, and tells no secret."""
    days = itertools.count()
    # Whoever fails is tried again the next day, which comes whenever somebody looks.
    breakers = CircuitBreakers(lambda: next(days) * 86400)
    router = routed(more='\n[budgets.all]\nper = "all"\nusd = 1000\n', breakers=breakers)
    found = []
    told = ""
    for number, (name, behaviour, *_) in enumerate(FAULTS):
        stub.will(behaviour)
        stub.plan.clear()
        step = asking().step.model_copy(update={"name": f"step-{number}"})
        try:
            await router.generate(asking().model_copy(update={"step": step}), attempt=1, output=Triage)
        except ModelError as error:
            told += f"{error} {error.facts}"
        row = (await rows(sqlite_database))[-1]
        lost = row["outcome"] == "ambiguous" and row["reserved_nano_usd"] > 0 == row["cost_nano_usd"]
        found.append((name, row["step"], row["outcome"], row["error"], LOST if lost else row["cost_nano_usd"]))

    [budget] = await budget_states(sqlite_database)
    booked = sum(
        row["reserved_nano_usd"] if row["outcome"] == "ambiguous" else row["cost_nano_usd"]
        for row in await rows(sqlite_database)
    )
    wanted = [
        (name, f"step-{number}", outcome, error, cost) for number, (name, _, outcome, error, cost) in enumerate(FAULTS)
    ]
    assert wanted == [(*each[:3], _start(each[3], like=want[3]), each[4]) for each, want in zip(found, wanted, strict=True)]
    assert (len(FAULTS), 0, booked) == (stub.calls, budget.reserved, budget.spent)
    assert PROMPT not in told
    assert KEY not in told


async def test_no_redirects(routed: Routed, stub: Stub) -> None:
    """A provider that says to ask elsewhere is not obeyed: neither prompt nor key go there, and a person is told."""
    async with stub_provider() as elsewhere:
        stub.will(says(307, b"", {"location": f"{elsewhere.url}/chat/completions"}))

        with pytest.raises(ModelUnavailable, match="answered 307"):
            await routed().generate(asking(), attempt=1, output=Triage)

    assert (1, 0) == (stub.calls, elsewhere.calls)


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ({"retry-after": "7"}, timedelta(seconds=7)),
        ({"retry-after-ms": "1500"}, timedelta(seconds=1.5)),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "0"}, timedelta(0)),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "99999999999"}, timedelta(hours=1)),
        ({"retry-after": "Wed, 21 Oct 2099 07:28:00 GMT"}, timedelta(hours=1)),
        ({"retry-after": "Wed, 21 Oct 1999 07:28:00 GMT"}, timedelta(0)),
        ({"retry-after": "Wed, 99 Oct 99999 07:28:00 GMT"}, None),
    ],
)
async def test_retry_after(routed: Routed, stub: Stub, header: dict[str, str], wait: timedelta | None) -> None:
    """A provider is waited for as long as it says, an hour at most; what is no time is not heard."""
    stub.will(fails(429, headers=header))

    with pytest.raises(ModelUnavailable) as caught:
        await routed().generate(asking(), attempt=1, output=Triage)

    assert wait == caught.value.retry_after


@pytest.mark.parametrize(
    "base",
    ["http://127.0.0.1:9/v1", "http://nowhere.invalid/v1", "https://127.0.0.1:{port}/v1"],
    ids=["port", "name", "TLS"],
)
async def test_never_reached(routed: Routed, stub: Stub, sqlite_database: Database, base: str) -> None:
    """Where no connection comes about nothing can have been charged."""
    # Not the stub: it would wait for the end of a request, and this one speaks no TLS.
    server = await asyncio.start_server(_no_tls, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async with server:
        with pytest.raises(ModelUnavailable, match="could not be reached"):
            await routed(api_base=f'"{base.format(port=port)}"').generate(asking(), attempt=1, output=Triage)

    [row] = await rows(sqlite_database)
    assert ("unavailable", "unreachable") == (row["outcome"], row["error"])


async def test_refusal_is_no_reason_to_ask_again(routed: Routed, stub: Stub) -> None:
    """An empty account is asked no more by this step, also where the provider says so in words only."""
    stub.will(fails(400, "Your credit balance is too low"), Answers(GOOD))
    router = routed(deployments=["first", "second"])
    with pytest.raises(ModelUnavailable, match="goes to deployment 'second'"):
        await router.generate(asking(), attempt=1, output=Triage)

    generation = await router.generate(asking(), attempt=2, output=Triage)

    assert "second" == generation.record.deployment
    stub.will(fails(402))
    with pytest.raises(ModelRefused):
        await routed().generate(asking(), attempt=1, output=Triage)


async def _no_tls(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 no TLS here\r\n\r\n")
    await writer.drain()
    writer.close()


def _start(error: str, *, like: str) -> str:
    return like if like and error.startswith(like) else error
