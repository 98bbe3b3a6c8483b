"""How one prompt reaches one deployment: one call through LiteLLM, which neither retries, nor caches, nor falls back."""

from __future__ import annotations

import asyncio
import importlib
import logging
import math
import os
import threading
from dataclasses import dataclass
from typing import Any, cast

from perdure.errors import InvalidSettings
from perdure.routing.prompts import Form, Messages
from perdure.routing.providers.failures import ProviderFailure, classify
from perdure.routing.providers.local import (
    Choice,
    Completion,
    ExamplesProvider,
    LiteLlm,
    LocalModel,
    register,
)
from perdure.routing.routes import Deployment

# Read by LiteLLM while it is imported: otherwise it fetches a price list from the network and loads a stray .env file.
_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_OFFLINE_MODE": "true",
    "LITELLM_MODE": "PRODUCTION",
    "DEFAULT_MAX_RETRIES": "0",
}

_TOOL = "answer"
"""What the tool is called that an answer comes through where a deployment has tools and no schemas."""

_MOST_TOKENS = 100_000_000
"""More than any context holds. Who counts more has not counted."""

_loading = threading.Lock()
_loaded: tuple[LiteLlm, ExamplesProvider] | None = None


class ProviderFailed(Exception):
    """A call to a provider failed. Only what FAILURE tells may be shown."""

    def __init__(self, failure: ProviderFailure) -> None:
        super().__init__(failure.what)
        self.failure = failure


@dataclass(frozen=True)
class Reply:
    """What a provider answered."""

    text: str
    model: str
    """The model that answered, as the provider calls it."""
    finish: str
    """`stop`, `length`, `content_filter`, `refusal`..."""
    tokens: tuple[int, int] | None
    """Prompt and completion tokens; None if the provider did not count them."""
    cached_tokens: int = 0
    """How many of the prompt's tokens the provider had cached."""
    confidence: float | None = None


def load() -> tuple[LiteLlm, ExamplesProvider]:
    """Return LiteLLM, set up, and our provider in it. The first call imports it, which takes seconds: use a thread."""
    global _loaded
    with _loading:
        if _loaded is None:
            for name, value in _ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            litellm = cast(LiteLlm, importlib.import_module("litellm"))
            litellm.suppress_debug_info = True
            # For embeddings it takes `max_retries=0` for "not given", and would make three calls of one.
            litellm.DEFAULT_MAX_RETRIES = 0
            litellm.turn_off_message_logging = True
            litellm.redact_messages_in_exceptions = True
            _forbid_redirects(importlib.import_module("litellm.llms.custom_httpx.http_handler").AsyncHTTPHandler)
            # At debug level these write prompts, at info level addresses, which hold the key with some providers.
            for name in ("LiteLLM", "openai", "httpx", "httpcore"):
                logging.getLogger(name).setLevel(logging.WARNING)
            _loaded = litellm, register(litellm)
        return _loaded


def _forbid_redirects(handler: Any) -> None:  # LiteLLM is too large for the type checkers to follow
    """Have LiteLLM's HTTP clients follow no redirect: it would be a second call, and take the prompt to who knows whom."""
    import httpx

    create = handler.create_async_transport

    def created(**options: Any) -> httpx.AsyncBaseTransport:
        transport: httpx.AsyncBaseTransport = create(**options)
        if transport is None:  # LiteLLM would have left it to httpx
            transport = httpx.AsyncHTTPTransport(verify=options.get("ssl_context") or True)
        send = transport.handle_async_request

        async def straight(request: httpx.Request) -> httpx.Response:
            response = await send(request)
            if response.has_redirect_location:
                del response.headers["location"]
            return response

        transport.handle_async_request = straight  # type: ignore[method-assign]  # LiteLLM looks at the class
        return transport

    handler.create_async_transport = staticmethod(created)


async def complete(
    deployment: Deployment,
    messages: Messages,
    form: Form,
    *,
    timeout: float,
    temperature: float = 0,
    key: str | None = None,
    local: LocalModel | None = None,
) -> Reply:
    """Call DEPLOYMENT once with MESSAGES for an answer of FORM, within TIMEOUT seconds. Raises `ProviderFailed`.

    KEY is what `read_key` returned. LOCAL are the learned examples; a local deployment needs them.
    """
    litellm, _ = load()
    arguments: dict[str, object] = {"perdure_examples": local.key} if local else {"api_key": key}
    if deployment.api_base:
        arguments["api_base"] = deployment.api_base
    try:
        # LiteLLM's time-out is for each read; a provider that trickles would hold on for ever.
        async with asyncio.timeout(timeout):
            response = await litellm.acompletion(
                model=deployment.model,
                messages=messages,
                **output_arguments(deployment, form),
                temperature=temperature,
                max_tokens=deployment.max_tokens,
                drop_params=True,
                timeout=timeout,
                # Temporal owns retries, so every attempt is in the history.
                num_retries=0,
                max_retries=0,
                **arguments,
            )
        return _reply(cast(Completion, response))
    except Exception as error:  # noqa: BLE001  # clients raise what they like; all of it is classified
        failure = classify(error, timeout=timeout)
    # Not inside the except block: the original error may hold the prompt, and would go along as the context.
    raise ProviderFailed(failure)


def _reply(response: Completion) -> Reply:
    usage = getattr(response, "usage", None)
    tokens = parse_token_counts(getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None))
    model = as_printable(response.model)
    choices = response.choices or []
    # Several answers where one was asked for, like several tool calls, are refused when the text is read.
    texts = [_text(choice) for choice in choices]
    if not choices:
        return Reply("", model, "empty", tokens)
    choice = choices[0]
    called = getattr(choice.message, "tool_calls", None)
    stated = (getattr(choice.message, "provider_specific_fields", None) or {}).get("confidence")
    return Reply(
        text="\n".join(dict.fromkeys(texts)),
        model=model,
        finish="refusal" if _refusal(choice.message) and not called else choice.finish_reason or "",
        tokens=tokens,
        cached_tokens=_cached(usage),
        confidence=as_confidence(stated),
    )


def _text(choice: Choice) -> str:
    called = [call.function.arguments or "" for call in getattr(choice.message, "tool_calls", None) or ()]
    return "\n".join(called) or choice.message.content or ""


def parse_token_counts(prompt: object, completion: object) -> tuple[int, int] | None:
    """Return the tokens that a provider has counted. None: it has not, or its count cannot be true."""
    found = []
    for tokens in (prompt, completion):
        number = int(tokens) if isinstance(tokens, str) and tokens.isdecimal() and len(tokens) < 10 else tokens or 0
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= _MOST_TOKENS:
            return None
        found.append(number)
    return (found[0], found[1]) if any(found) else None


def as_printable(name: object) -> str:
    """Return what a provider calls its model, as every database can hold it."""
    return "".join(each for each in str(name or "")[:200] if each.isprintable())


def _refusal(message: object) -> object:
    """Return what a model wrote instead of an answer, where the provider tells the two apart."""
    fields = getattr(message, "provider_specific_fields", None) or {}
    return getattr(message, "refusal", None) or fields.get("refusal")


def _cached(usage: object) -> int:
    cached = getattr(getattr(usage, "prompt_tokens_details", None), "cached_tokens", None)
    return max(cached, 0) if isinstance(cached, int) else 0


def as_confidence(value: object) -> float | None:
    """Return VALUE if it is a confidence, a number from 0 to 1, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value) if 0 <= value <= 1 else None


def read_key(deployment: Deployment) -> str | None:
    """Return the key for one call to DEPLOYMENT, to be kept nowhere. None leaves it to LiteLLM's own variables."""
    if deployment.api_key is None:
        # A server of one's own often takes no key. LiteLLM would send it the one from OPENAI_API_KEY.
        return "none" if deployment.api_base else None
    name = deployment.api_key.removeprefix("env:")
    if not (key := os.environ.get(name)):
        raise InvalidSettings(
            f"deployment {deployment.name!r} reads its key from the variable {name}, which is not set. Set it."
        )
    return key


def output_arguments(deployment: Deployment, form: Form) -> dict[str, object]:
    """Return what the provider is told of the answer's form, as far as DEPLOYMENT understands it."""
    if deployment.structured == "none":
        return {}
    if deployment.structured == "tool" and form.schema:
        tool = {"name": _TOOL, "description": "Give the answer.", "parameters": form.schema}
        return {
            "tools": [{"type": "function", "function": tool}],
            "tool_choice": {"type": "function", "function": {"name": _TOOL}},
        }
    if deployment.structured == "json" or not form.schema:
        return {"response_format": {"type": "json_object"}}
    # Not strict: that allows only part of JSON schema. The answer is validated here in any case.
    schema = {"name": form.name, "schema": form.schema, "strict": False}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}
