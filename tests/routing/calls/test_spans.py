"""What spans and tables say of model calls, and what they do not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from kits.routing import KEY, PROMPT, Triage, asking
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from stand_ins.provider import Answers, Fails, Stub

from perdure.errors import AskAgain, ModelUnavailable
from perdure.routing import Router
from perdure.routing.calls import qualities, spans
from perdure.storage import Database

Routed = Callable[..., Router]
GOOD = Answers('{"verdict": "refund"}')


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """The spans that have ended."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(spans, "_tracer", trace.get_tracer("perdure.routing", tracer_provider=provider))
    return exporter


async def test_span(routed: Routed, stub: Stub, exported: InMemorySpanExporter) -> None:
    """A call is a client span by the conventions, with its cost, and without prompt, answer or key."""
    stub.will(GOOD)

    await routed().generate(asking(), attempt=1, output=Triage)

    [span] = exported.get_finished_spans()
    told = dict(span.attributes or {})
    assert ("chat stub-first", SpanKind.CLIENT) == (span.name, span.kind)
    assert {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "stub-first",
        "gen_ai.response.model": "stub-2026-11-01",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 10,
        "server.address": "127.0.0.1",
        "llm.cost.total": 0.000021,
        "perdure.outcome": "answered",
    }.items() <= told.items()
    assert PROMPT not in span.to_json() and KEY not in span.to_json() and "refund" not in span.to_json()


async def test_span_of_a_canary(routed: Routed, stub: Stub, exported: InMemorySpanExporter) -> None:
    """Where there is a canary, a span says which, and the arm of its run."""
    stub.will(GOOD)
    canary = '\n[canaries.newer]\ntask = "triage"\ninstructions = "Judge."\nper = "tenant"\nof = "default"\n'

    generation = await routed(more=canary).generate(asking(), attempt=1, output=Triage)

    [span] = exported.get_finished_spans()
    told = dict(span.attributes or {})
    assert ("canary", generation.record.canary) == (told["perdure.arm"], told["perdure.canary"])


async def test_content_by_choice(
    routed: Routed, stub: Stub, exported: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompt and answer are in the span if OpenTelemetry's variable says so."""
    monkeypatch.setenv(spans.CONTENT, "true")
    stub.will(GOOD)

    await routed().generate(asking(), attempt=1, output=Triage)

    [span] = exported.get_finished_spans()
    told = dict(span.attributes or {})
    assert PROMPT in str(told["gen_ai.input.messages"]) and "refund" in str(told["gen_ai.output.messages"])


async def test_failure(routed: Routed, stub: Stub, exported: InMemorySpanExporter) -> None:
    """A call that failed says how, and nothing of what the provider wrote."""
    stub.will(Fails(503, "busy"))
    with pytest.raises(ModelUnavailable):
        await routed().generate(asking(), attempt=1, output=Triage)

    [span] = exported.get_finished_spans()
    assert ("503 busy", False) == ((span.attributes or {})["error.type"], span.status.is_ok)
    assert not span.events and PROMPT not in span.to_json()


async def test_how_models_do(routed: Routed, stub: Stub, database: Database) -> None:
    """Error rate, validity, latency and cost are told by deployment."""
    stub.will(GOOD, Answers("no JSON"), GOOD, Fails(500))
    router = routed(database=database)
    for _ in range(4):
        try:
            await router.generate(asking(), attempt=1, output=Triage)
        except (AskAgain, ModelUnavailable):
            continue

    [first] = await qualities(database)

    assert "stub-2026-11-01" == first.version
    assert ("first", "openai/stub-first", 4, 0.25, 63_000) == (
        first.deployment,
        first.model,
        first.calls,
        first.error_rate,
        first.cost,
    )
    assert 0.66 < (first.validity or 0) < 0.67
    assert 0 < first.p50 <= first.p95 <= first.p99


async def test_how_versions_do(routed: Routed, stub: Stub, database: Database) -> None:
    """When the provider moves on to another version, the two are told apart, and an error counts for the one before it."""
    new = Answers('{"verdict": "refund"}', model="stub-2026-12-01")
    stub.will(Fails(500), GOOD, GOOD, Fails(500), new, Answers("no JSON", model="stub-2026-12-01"))
    router = routed(database=database)
    for _ in range(6):
        with contextlib.suppress(AskAgain, ModelUnavailable):
            await router.generate(asking(), attempt=1, output=Triage)

    found = await qualities(database)
    async with database.read() as connection:
        viewed = list((await connection.execute(sa.text("SELECT * FROM model_quality ORDER BY version"))).mappings())

    told = [("", 1, 1.0, None), ("stub-2026-11-01", 3, 1 / 3, 1.0), ("stub-2026-12-01", 2, 0.0, 0.5)]
    assert told == [(each.version, each.calls, each.error_rate, each.validity) for each in found]
    assert [(each.version, each.p50, each.p95, each.p99, each.cost) for each in found] == [
        (
            row["version"],
            row["p50_milliseconds"],
            row["p95_milliseconds"],
            row["p99_milliseconds"],
            int(row["cost_nano_usd"]),
        )
        for row in viewed
    ]
    rates = [
        (
            row["version"],
            row["calls"],
            float(row["error_rate"]),
            None if row["validity"] is None else float(row["validity"]),
        )
        for row in viewed
    ]
    assert pytest.approx([rate for _, _, rate, _ in told]) == [rate for _, _, rate, _ in rates]
    assert [validity for *_, validity in told] == [validity for *_, validity in rates]
