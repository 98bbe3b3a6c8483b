"""What a trace says of a model call: spans by OpenTelemetry's conventions for generative AI, without the prompt.

Names: opentelemetry.io/docs/specs/semconv/gen-ai, and `llm.cost.*` of OpenInference: OpenTelemetry has none for money.
Prompts and answers go along only if OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT is `true`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

if TYPE_CHECKING:
    from opentelemetry.trace import Span
    from opentelemetry.util.types import AttributeValue

    from perdure.routing.calls.calls import ModelCall, Settlement
    from perdure.routing.prompts import Messages
    from perdure.routing.providers import Reply

CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""The variable that lets prompts and answers into spans. Its name is OpenTelemetry's."""

_PROVIDERS = {"azure": "azure.ai.openai", "bedrock": "aws.bedrock", "gemini": "gcp.gemini", "vertex_ai": "gcp.vertex_ai"}
_tracer = trace.get_tracer("perdure.routing")


@contextmanager
def start_span(
    call: ModelCall, messages: Messages, *, temperature: float | None = None, operation: str = "chat"
) -> Iterator[Span]:
    """Put a client span around CALL, which is a `chat` or `embeddings`."""
    deployment = call.deployment
    with _tracer.start_as_current_span(
        f"{operation} {deployment.model.partition('/')[2]}",
        kind=SpanKind.CLIENT,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        if span.is_recording():
            span.set_attributes(_request_attributes(call, operation))
            if temperature is not None:
                span.set_attributes(_sampling_attributes(call, temperature))
            if messages and _wants_content():
                span.set_attribute("gen_ai.input.messages", _messages(messages))
        yield span


def end_span(span: Span, call: ModelCall, settled: Settlement, reply: Reply | None = None) -> None:
    """Write on SPAN how CALL ended."""
    if not span.is_recording():
        return
    if reply is not None:
        span.set_attributes(_response_attributes(call, settled, reply))
        if _wants_content():
            answer: Messages = [{"role": "assistant", "content": reply.text}]
            span.set_attribute("gen_ai.output.messages", _messages(answer))
    span.set_attribute("perdure.outcome", settled.outcome)
    if settled.outcome != "answered":
        # Not the problems: a validator's words may be about the answer.
        kind = settled.outcome if reply is not None else settled.error or settled.outcome
        span.set_attribute("error.type", kind)
        span.set_status(Status(StatusCode.ERROR, kind))


def provider_name(model: str) -> str:
    """Return what OpenTelemetry calls the provider of a LiteLLM MODEL string."""
    name = model.partition("/")[0]
    return _PROVIDERS.get(name, name)


def _sampling_attributes(call: ModelCall, temperature: float) -> dict[str, AttributeValue]:
    return {
        "gen_ai.request.max_tokens": call.deployment.max_tokens,
        "gen_ai.request.temperature": temperature,
        "gen_ai.output.type": "json",
    }


def _request_attributes(call: ModelCall, operation: str) -> dict[str, AttributeValue]:
    deployment = call.deployment
    step = call.call.step
    asked: dict[str, AttributeValue] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": provider_name(deployment.model),
        "gen_ai.request.model": deployment.model.partition("/")[2],
        "perdure.task": call.call.task,
        "perdure.tier": deployment.tier,
        "perdure.deployment": deployment.name,
        "perdure.attempt": call.attempt,
        "perdure.step": step.name,
        "perdure.tenant": call.call.tenant,
        "temporalWorkflowID": step.lineage.workflow_id,
        "temporalRunID": step.run_id,
    }
    if call.assignment is not None:
        asked |= {"perdure.canary": call.canary, "perdure.arm": call.arm}
    if deployment.api_base:
        where = urlsplit(deployment.api_base)
        asked["server.address"] = where.hostname or ""
        if where.port:
            asked["server.port"] = where.port
    return asked


def _response_attributes(call: ModelCall, settled: Settlement, reply: Reply) -> dict[str, AttributeValue]:
    deployment, usage = call.deployment, settled.usage
    prompt = deployment.cost(usage.prompt_tokens, 0, cached_tokens=settled.cached_tokens)
    return {
        "gen_ai.response.model": reply.model,
        "gen_ai.response.finish_reasons": [reply.finish],
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": settled.cached_tokens,
        "llm.cost.prompt": prompt / 1e9,
        "llm.cost.completion": (usage.cost_nano_usd - prompt) / 1e9,
        "llm.cost.total": usage.cost_nano_usd / 1e9,
    }


def _wants_content() -> bool:
    return os.environ.get(CONTENT, "").lower() == "true"


def _messages(messages: Messages) -> str:
    return json.dumps(
        [{"role": each["role"], "parts": [{"type": "text", "content": each["content"]}]} for each in messages],
        ensure_ascii=False,
    )
