"""How one prompt reaches one deployment: one call through LiteLLM, which neither retries, nor caches, nor falls back."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import math
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar, cast

from pydantic import JsonValue

from perdure.errors import InvalidSettings
from perdure.routing.prompts import Form, Messages
from perdure.routing.providers.failures import ProviderFailure, classify, error_in_answer
from perdure.routing.providers.local import (
    Completion,
    ExamplesProvider,
    LiteLlm,
    LocalModel,
    register,
)
from perdure.routing.providers.wire import Wire, install
from perdure.routing.routes import Deployment

# Read by LiteLLM while it is imported or later: otherwise it fetches price lists and such from the network, at the first
# call with some providers, and loads a stray .env file. What the environment says otherwise does not count.
_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_AUTOROUTER_PRESETS": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_LOCAL_POLICY_TEMPLATES": "True",
    "LITELLM_MODE": "PRODUCTION",
    "DEFAULT_MAX_RETRIES": "0",
}

_TOOL = "answer"
"""What the tool is called that an answer comes through where a deployment has tools and no schemas."""

_MOST_TOKENS = 100_000_000
"""More than any context holds. Who counts more has not counted."""

T = TypeVar("T")

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
    tokens: tuple[int | None, int | None] | None
    """Prompt and completion tokens; None for what the provider did not count, or not credibly."""
    cached_tokens: int = 0
    """How many of the prompt's tokens the provider had cached."""
    confidence: float | None = None
    written: int = 0
    """How many bytes the model wrote, as far as that shows: its thoughts as well, and what does not count as its answer."""


def load() -> tuple[LiteLlm, ExamplesProvider]:
    """Return LiteLLM, set up, and our provider in it. The first call imports it, which takes seconds: use a thread."""
    global _loaded
    with _loading:
        if _loaded is None:
            for name, value in _ENVIRONMENT.items():
                os.environ[name] = value
            litellm = cast(LiteLlm, importlib.import_module("litellm"))
            litellm.suppress_debug_info = True
            # For embeddings it takes `max_retries=0` for "not given", and would make three calls of one.
            litellm.DEFAULT_MAX_RETRIES = 0
            litellm.turn_off_message_logging = True
            litellm.redact_messages_in_exceptions = True
            litellm.disable_hf_tokenizer_download = True
            install()
            # At debug level these write prompts, at info level addresses, which hold the key with some providers.
            for name in ("LiteLLM", "openai", "httpx", "httpcore"):
                logging.getLogger(name).setLevel(logging.WARNING)
            _loaded = litellm, register(litellm)
        return _loaded


async def call(
    function: str,
    arguments: Mapping[str, object],
    *,
    timeout: float,
    read: Callable[[object], T],
    wire: Wire | None = None,
) -> T:
    """Make one call of LiteLLM's FUNCTION with ARGUMENTS within TIMEOUT seconds and return what READ makes of it.

    Raises `ProviderFailed`.

    WIRE is what watches it, if it is to be other than usual.
    """
    litellm, _ = await asyncio.to_thread(load) if _loaded is None else _loaded
    wire = wire or Wire()
    failure: ProviderFailure | None
    try:
        # LiteLLM's time-out is for each read; a provider that trickles would hold on for ever.
        async with asyncio.timeout(timeout):
            with wire.watch():
                # Temporal owns retries, so every attempt is in the history.
                response = await getattr(litellm, function)(timeout=timeout, num_retries=0, max_retries=0, **arguments)
        failure = error_in_answer(wire) if wire.watches_answers else None
        if failure is None:
            return read(response)
    except Exception as error:  # noqa: BLE001  # clients raise what they like; all of it is classified
        failure = classify(error, wire, timeout=timeout)
    # Not inside the except block: the original error may hold the prompt, and would go along as the context.
    raise ProviderFailed(failure)


async def complete(
    deployment: Deployment,
    messages: Messages,
    form: Form,
    *,
    timeout: float,
    temperature: float = 0,
    key: str | None = None,
    local: LocalModel | None = None,
    wire: Wire | None = None,
) -> Reply:
    """Call DEPLOYMENT once with MESSAGES for an answer of FORM, within TIMEOUT seconds. Raises `ProviderFailed`.

    KEY is what `read_key` returned. LOCAL are the learned examples; a local deployment needs them. WIRE watches the call.
    """
    arguments: dict[str, object] = {"perdure_examples": local.key} if local else {"api_key": key}
    if deployment.api_base:
        arguments["api_base"] = deployment.api_base
    arguments |= {
        "model": deployment.model,
        "messages": messages,
        **output_arguments(deployment, form),
        "temperature": temperature,
        "max_tokens": deployment.max_tokens,
        "drop_params": True,
    }
    offered = offered_tools(deployment)
    return await call(
        "acompletion",
        arguments,
        timeout=timeout,
        read=lambda response: _reply(cast(Completion, response), offered),
        wire=wire,
    )


async def rehearse(
    deployment: Deployment, messages: Messages, form: Form, *, temperature: float
) -> dict[str, JsonValue] | None:
    """Return the body that `complete` would send, without sending it. None: it would send none."""
    wire = Wire(rehearsal=True)
    with suppress(ProviderFailed):  # as it has to
        await complete(deployment, messages, form, timeout=60, temperature=temperature, key="none", wire=wire)
    body: dict[str, JsonValue] | None = json.loads(wire.rehearsed) if wire.rehearsed else None
    return body


def _reply(response: Completion, offered: Set[str]) -> Reply:
    """Return what RESPONSE says, where it was OFFERED these tools to say it by."""
    model = as_printable(response.model)
    usage = getattr(response, "usage", None)
    tokens = parse_usage(
        getattr(usage, "prompt_tokens", None),
        getattr(usage, "completion_tokens", None),
        total=getattr(usage, "total_tokens", None),
        reasoning=getattr(getattr(usage, "completion_tokens_details", None), "reasoning_tokens", None),
    )
    choices = response.choices or []
    if not choices:
        return Reply("", model, "empty", tokens)
    # Several answers where one was asked for, like several tool calls, are refused when the text is read.
    texts = [answer_text(*_calls(choice.message), choice.message.content, offered) for choice in choices]
    message = choices[0].message
    called = any(name in offered for name in _calls(message)[0])
    stated = (getattr(message, "provider_specific_fields", None) or {}).get("confidence")
    return Reply(
        text="\n".join(dict.fromkeys(texts)),
        model=model,
        finish="refusal" if _refusal(message) and not called else choices[0].finish_reason or "",
        tokens=tokens,
        cached_tokens=_cached(usage),
        confidence=as_confidence(stated),
        written=sum(_size_written(choice.message) for choice in choices),
    )


def _calls(message: object) -> tuple[list[str], list[str]]:
    """Return the names of the tools that MESSAGE calls, and the arguments of each."""
    calls = getattr(message, "tool_calls", None) or ()
    return [call.function.name or "" for call in calls], [call.function.arguments or "" for call in calls]


def answer_text(names: Sequence[str], arguments: Sequence[str], content: str | None, offered: Set[str]) -> str:
    """Return what a message says that calls tools by NAMES with ARGUMENTS. Only calls of those OFFERED say anything."""
    called = [argument for name, argument in zip(names, arguments, strict=True) if name in offered]
    return "\n".join(called) or content or ""


def _size_written(message: object) -> int:
    """Return how many bytes the model has written: also thoughts, and calls of tools that nobody offered."""
    names, arguments = _calls(message)
    texts = [getattr(message, "content", None), getattr(message, "reasoning_content", None), *names, *arguments]
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts if isinstance(text, str))


def parse_usage(
    prompt: object, completion: object, *, total: object = None, reasoning: object = None
) -> tuple[int | None, int | None] | None:
    """Return the tokens that a provider has counted, None for what it has not, or not credibly. None: nothing of either.

    TOTAL and REASONING may tell of tokens that the answer has cost besides those of COMPLETION.
    """
    asked, written, all_of_it, thought = (_as_count(each) for each in (prompt, completion, total, reasoning))
    if asked is not None and written is not None:
        # Some count thoughts in the total only, or beside the answer.
        if all_of_it is not None:
            written = max(written, all_of_it - asked)
        if thought is not None and thought > written:
            written += thought
    return (asked, written) if asked is not None or written is not None else None


def _as_count(value: object) -> int | None:
    number = int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 10 else value
    if isinstance(number, float) and number.is_integer() and abs(number) <= _MOST_TOKENS:
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number <= _MOST_TOKENS:
        return None
    return number


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
    where = f"deployment {deployment.name!r} reads its key from the variable {name}, which"
    if not (key := os.environ.get(name)):
        raise InvalidSettings(f"{where} is not set. Set it.")
    if key.strip() != key:
        raise InvalidSettings(f"{where} begins or ends with a space or a line break. Take that away.")
    if not re.fullmatch(r"[!#-~]+", key):
        raise InvalidSettings(f"{where} holds a quote, a space or a character that no key has. Set it to the key alone.")
    return key


def offered_tools(deployment: Deployment) -> Set[str]:
    """Return the tools that DEPLOYMENT is offered to answer by."""
    return {_TOOL} if deployment.structured == "tool" else set()


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
