"""How a batch reaches a provider and comes back: files and batches of OpenAI's API, through LiteLLM without its retries."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from pydantic import JsonValue

from perdure.routing.providers import ProviderFailed, Reply, classify
from perdure.routing.providers import litellm as provider
from perdure.routing.routes import Deployment

TIMEOUT = 120.0
"""Seconds that one request about a batch may take."""

_NAME = "perdure_batch"
_PAGES = 20
"""So many times a hundred batches are looked through for one that may have been sent. Providers list the newest first."""
_ENDED = {"completed", "failed", "expired", "cancelled"}


@dataclass(frozen=True)
class BatchState:
    """What a provider says of a batch."""

    id: str
    status: str
    output_file: str | None
    error_file: str | None

    @property
    def ended(self) -> bool:
        """Whether nothing more comes of it."""
        return self.status in _ENDED


class _Batch(Protocol):
    id: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    metadata: Mapping[str, str] | None


class BatchApi:
    """The batch API of DEPLOYMENT's provider. Raises `ProviderFailed`."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        name = deployment.model.partition("/")[0]
        self._common: dict[str, object] = {
            "custom_llm_provider": name,
            "api_key": provider.read_key(deployment),
            "timeout": TIMEOUT,
            # Temporal owns retries, so every attempt is in the history.
            "max_retries": 0,
            "num_retries": 0,
        }
        if deployment.api_base:
            self._common["api_base"] = deployment.api_base

    async def find_batch(self, name: str) -> str | None:
        """Return the provider's id of the batch called NAME, if it has one."""
        after: dict[str, object] = {}
        for _ in range(_PAGES):
            listed = await self._call("alist_batches", limit=100, **after)
            batches = cast(Sequence[_Batch], getattr(listed, "data", None) or ())
            for batch in batches:
                if (batch.metadata or {}).get(_NAME) == name:
                    return batch.id
            if not batches or not getattr(listed, "has_more", False):
                return None
            after = {"after": batches[-1].id}
        return None

    async def submit(self, name: str, requests: Mapping[str, Mapping[str, JsonValue]]) -> str:
        """Send REQUESTS, bodies by id, as a batch called NAME and return the provider's id of it."""
        lines = [
            json.dumps({"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body})
            for key, body in requests.items()
        ]
        file = await self._call("acreate_file", file=(f"{name}.jsonl", "\n".join(lines).encode()), purpose="batch")
        batch = await self._call(
            "acreate_batch",
            completion_window="24h",
            endpoint="/v1/chat/completions",
            input_file_id=cast(_Batch, file).id,
            metadata={_NAME: name},
        )
        return cast(_Batch, batch).id

    async def state(self, id: str) -> BatchState:
        """Return how the batch with the provider's ID stands."""
        batch = cast(_Batch, await self._call("aretrieve_batch", batch_id=id))
        return BatchState(batch.id, batch.status, batch.output_file_id, batch.error_file_id)

    async def answers(self, state: BatchState) -> dict[str, Reply]:
        """Return the answers of a batch that has ended, by id. What failed is not among them."""
        found: dict[str, Reply] = {}
        if state.output_file is None:
            return found
        content = await self._call("afile_content", file_id=state.output_file)
        raw = cast(bytes, getattr(content, "content", b""))
        for line in raw.decode("utf-8", "replace").splitlines():
            read = _parse_line(line)
            if read is not None:
                found[read[0]] = read[1]
        return found

    async def _call(self, function: str, **arguments: object) -> object:
        litellm, _ = await asyncio.to_thread(provider.load)
        try:
            async with asyncio.timeout(TIMEOUT):
                return await getattr(litellm, function)(**arguments, **self._common)
        except Exception as error:  # noqa: BLE001  # clients raise what they like; all of it is classified
            failure = classify(error, timeout=TIMEOUT)
        # Not inside the except block: the original error may hold the prompt, and would go along as the context.
        raise ProviderFailed(failure)


def _parse_line(line: str) -> tuple[str, Reply] | None:
    """Return the id and the answer of one LINE of an output file; None if it holds no answer."""
    try:
        told = json.loads(line)
        response = told["response"]
        body = response["body"]
        choice, *others = body["choices"]
        message = choice["message"]
        usage = body.get("usage") or {}
        if response.get("status_code", 200) != 200:
            return None
        called = [call["function"]["arguments"] for call in message.get("tool_calls") or ()]
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        text = "\n".join(called) or message.get("content") or ""
        if not isinstance(text, str) or others:
            text = ""
        return str(told["custom_id"]), Reply(
            text=text,
            model=provider.as_printable(body.get("model")),
            finish="refusal" if message.get("refusal") and not called else str(choice.get("finish_reason") or ""),
            tokens=provider.parse_token_counts(usage.get("prompt_tokens"), usage.get("completion_tokens")),
            cached_tokens=max(cached, 0) if isinstance(cached, int) else 0,
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
