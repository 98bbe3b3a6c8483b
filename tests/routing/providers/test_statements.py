"""What providers say of errors, in the shapes that they say it in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta

import pytest
from pydantic import JsonValue

from perdure.routing.providers._statements import holds_error, holds_usage, read_statement

KEY = "sk-proj-abcdefghijklmnopqrstuvwxyz"


def anthropic(kind: str, message: str) -> JsonValue:
    """An error as Anthropic has it."""
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}


def google(code: int, status: str, message: str, *details: JsonValue) -> JsonValue:
    """An error as Google has it."""
    return {"error": {"code": code, "status": status, "message": message, "details": list(details)}}


def openai(code: str | int | None, message: str, kind: str = "invalid_request_error") -> JsonValue:
    """An error as OpenAI has it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


RETRY: JsonValue = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.5s"}
A_DAY: JsonValue = {
    "@type": "type.googleapis.com/google.rpc.QuotaFailure",
    "violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}],
}
BAD_KEY: JsonValue = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
AMAZON = {"x-amzn-errortype": "ThrottlingException:http://internal.amazon.com/coral/com.amazon.bedrock/"}


@pytest.mark.parametrize(
    ("status", "body", "meaning"),
    [
        # An empty account
        (
            400,
            anthropic("invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
            "no credit",
        ),
        (402, anthropic("billing_error", "Your payment failed"), "no credit"),
        (
            402,
            {"error": {"message": "Insufficient Balance", "type": "unknown_error", "code": "invalid_request_error"}},
            "no credit",
        ),
        (429, openai("insufficient_quota", "You exceeded your current quota", "insufficient_quota"), "no credit"),
        (429, {"message": "You have run out of credits"}, "no credit"),
        (403, {"error": "Your team has used all available credits or reached its monthly spending limit."}, "no credit"),
        (402, {"error": {"message": "This request requires more credits", "code": 402}}, "no credit"),
        (402, {"error": "You have exceeded your monthly included credits for Inference Providers."}, "no credit"),
        (429, google(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota, please check your plan", RETRY), ""),
        (
            429,
            google(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota, please check", A_DAY, RETRY),
            "no credit",
        ),
        (400, {"__type": "com.amazonaws#ServiceQuotaExceededException", "message": "no"}, "no credit"),
        # Too large
        (413, anthropic("request_too_large", "Request exceeds the maximum size"), "too long"),
        (400, anthropic("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"), "too long"),
        (400, anthropic("invalid_request_error", "input length and `max_tokens` exceed context limit"), "too long"),
        (400, openai("context_length_exceeded", "This model's maximum context length is 128000 tokens"), "too long"),
        (
            400,
            google(400, "INVALID_ARGUMENT", "The input token count (1200000) exceeds the maximum number of tokens"),
            "too long",
        ),
        (400, {"message": "Input is too long for requested model."}, "too long"),
        (
            400,
            {"object": "error", "message": "This model's maximum context length is 4096 tokens.", "code": 400},
            "too long",
        ),
        (
            422,
            {"detail": [{"msg": "Prompt contains 40000 tokens: too large for model with 32768 maximum context length"}]},
            "too long",
        ),
        (400, {"error": {"code": 400, "type": "exceed_context_size_error", "message": "the request exceeds"}}, "too long"),
        (400, {"message": "too many tokens: total number of tokens in the prompt exceeds the limit"}, "too long"),
        # Filtered
        (
            400,
            {"error": {"code": "content_filter", "innererror": {"code": "ResponsibleAIPolicyViolation"}, "message": "no"}},
            "withheld",
        ),
        (400, anthropic("invalid_request_error", "Output blocked by content filtering policy"), "withheld"),
        (400, openai("invalid_prompt", "Your prompt was flagged as potentially violating our usage policy"), "withheld"),
        (400, {"code": "DataInspectionFailed", "message": "Input data may contain inappropriate content."}, "withheld"),
        (403, {"error": {"message": "Input was flagged", "metadata": {"reasons": ["violence"]}, "code": 403}}, "withheld"),
        # A deployment that a person has to mend
        (401, anthropic("authentication_error", "invalid x-api-key"), "not this deployment"),
        (403, {"message": "You don't have access to the model with the specified model ID."}, "not this deployment"),
        (404, openai("model_not_found", "The model does not exist"), "not this deployment"),
        (404, {"error": {"code": "DeploymentNotFound", "message": "no"}}, "not this deployment"),
        (
            400,
            google(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", BAD_KEY),
            "not this deployment",
        ),
        (400, {"message": "The provided model identifier is invalid."}, "not this deployment"),
        (400, openai("model_decommissioned", "The model has been decommissioned"), "not this deployment"),
        # Busy
        (400, {"__type": "ThrottlingException", "message": "Rate exceeded"}, "busy"),
        (424, {"message": "The model returned the following errors: internal error"}, "busy"),
        (400, openai("rate_limit_exceeded", "Rate limit reached"), "busy"),
        # What the status says by itself
        (429, anthropic("rate_limit_error", "This request would exceed your rate limit"), ""),
        (529, anthropic("overloaded_error", "Overloaded"), ""),
        (400, anthropic("invalid_request_error", "messages: roles must alternate"), ""),
        (422, {"detail": "temperature must be at most 1"}, ""),
        (400, "canary", ""),
    ],
)
def test_meaning(status: int, body: JsonValue, meaning: str) -> None:
    """An empty account, a prompt too large, a filter, a wrong key and a limit are told by every provider's own words.

    (case 40: the same shape from 14 of 17 providers)
    """
    assert meaning == read_statement(status, {}, json.dumps(body).encode()).meaning


@pytest.mark.parametrize(
    ("body", "status", "meaning"),
    [
        ({"error": {"code": "insufficient_quota"}}, 429, "no credit"),
        ({"error": "text"}, 500, ""),
        ({"error": {"code": 503, "message": "no"}}, 503, ""),
        ({"error": {"code": "402", "message": "no"}}, 402, "no credit"),
        ({"error": {"type": "overloaded_error"}}, 503, ""),
        ({"error": "rate limit reached, try again in 20s"}, 503, ""),
        ({"error": {"type": "invalid_request_error", "message": "no such field"}}, 400, ""),
        ({"error": {"type": "invalid_request_error", "message": "prompt is too long"}}, 400, "too long"),
        ({"error": {"type": "authentication_error"}}, 403, "not this deployment"),
        ({"error": {"code": "content_filter"}}, 400, "withheld"),
        ({"type": "error", "error": {"type": "api_error"}}, 503, ""),
    ],
)
def test_error_in_a_success(body: JsonValue, status: int, meaning: str) -> None:
    """An error that comes with status 200 is read as if it came with its own (case 40: a 200 with an error)."""
    raw = json.dumps(body).encode()
    found = read_statement(200, {}, raw)

    assert holds_error(raw)
    assert (status, meaning) == (found.status, found.meaning)


@pytest.mark.parametrize(
    ("body", "holds"),
    [
        ({"choices": [], "error": None}, False),
        ([], False),
        ("error", False),
        ([{"error": {"code": 1}}], True),
        (None, False),
    ],
)
def test_no_error_in_a_success(body: JsonValue, holds: bool) -> None:
    """An answer that says that there is no error holds none."""
    assert holds == holds_error(json.dumps(body).encode())


def test_charged_error() -> None:
    """An error that counts tokens besides may have been charged."""
    assert holds_usage(b'{"error": {"code": 502}, "usage": {"prompt_tokens": 10, "completion_tokens": 3}}')
    assert not holds_usage(b'{"error": {"code": 502}, "usage": {"prompt_tokens": 0}}')


@pytest.mark.parametrize(
    ("status", "headers", "body", "wait"),
    [
        (429, {"retry-after": "7"}, {}, 7),
        (429, {"retry-after-ms": "250", "retry-after": "1"}, {}, 0.25),
        (429, {}, google(429, "RESOURCE_EXHAUSTED", "no", RETRY), 34.5),
        (429, {}, openai(None, "Rate limit reached for gpt-x. Please try again in 6m0s."), 360),
        (429, {}, openai(None, "Rate limit reached. Please try again in 823ms. Visit us"), 0.823),
        (429, {}, {"error": {"code": "429", "message": "Requests exceeded. Please retry after 20 seconds."}}, 20),
        (429, {}, {"message": "Too many requests, wait for 3 seconds"}, 3),
        (503, {}, {"error": "Model is currently loading", "estimated_time": 20}, None),
        (429, {}, {"message": "Too many tokens, please wait before trying again."}, None),
        (429, {"retry-after": "99999999999"}, {}, 3600),
        (400, {}, {"message": "try again in 20s"}, None),
    ],
)
def test_wait(status: int, headers: Mapping[str, str], body: JsonValue, wait: float | None) -> None:
    """How long to wait is heard wherever a provider says it: in a header, in a field, in words."""
    found = read_statement(status, headers, json.dumps(body).encode()).wait

    assert (None if wait is None else timedelta(seconds=wait)) == found


def test_codes() -> None:
    """What is kept of a statement is the code that says most, from headers as well, and never a key or a sentence."""
    assert (
        "context_length_exceeded"
        == read_statement(400, {}, json.dumps(openai("context_length_exceeded", "")).encode()).code
    )
    assert "ThrottlingException" == read_statement(429, AMAZON, b'{"message": "no"}').code
    assert "invalid_request_error" == read_statement(400, {}, json.dumps(openai(KEY, "no")).encode()).code
    assert "" == read_statement(400, {}, b'{"code": "a sentence: no"}').code
    assert "" == read_statement(400, {}, b"{" * 100_000).code


def test_what_was_asked_is_no_statement() -> None:
    """A message may go on with the prompt; what stands there says nothing."""
    body = openai(None, f"Invalid value for field `x`: {'a' * 400} your credit balance is too low")

    assert "" == read_statement(400, {}, json.dumps(body).encode()).meaning
