"""How a batch reaches a provider and comes back: files and batches of OpenAI's API, through LiteLLM without its retries."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from pydantic import JsonValue

from perdure.routing.providers import Reply, Wire
from perdure.routing.providers import litellm as provider
from perdure.routing.routes import Deployment

TIMEOUT = 120.0
"""Seconds that one request about a batch may take."""

_NAME = "perdure_batch"
_PAGES = 20
"""So many times a hundred batches are looked through for one that may have been sent. Providers list the newest first."""
_LONGEST_FILE = 2**31
"""So many bytes of answers are read."""
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


@dataclass(frozen=True)
class BatchAnswers:
    """What a batch has brought: REPLIES by id, why others are UNREADABLE, and how many STRAYS nobody can give to a call."""

    replies: Mapping[str, Reply] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    strays: int = 0


class _Batch(Protocol):
    id: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    metadata: Mapping[str, str] | None


class BatchApi:
    """The batch API of DEPLOYMENT's provider. Raises `ProviderFailed`."""

    def __init__(self, deployment: Deployment) -> None:
        self._offered = provider.offered_tools(deployment)
        name = deployment.model.partition("/")[0]
        self._common: dict[str, object] = {
            "custom_llm_provider": name,
            "api_key": provider.read_key(deployment),
        }
        if deployment.api_base:
            self._common["api_base"] = deployment.api_base

    async def find_batch(self, name: str) -> str | None:
        """Return the provider's id of the batch called NAME, if it has one."""
        after: dict[str, Any] = {}
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

    async def answers(self, state: BatchState) -> BatchAnswers:
        """Return the answers of a batch that has ended. What failed is not among them."""
        if state.output_file is None:
            return BatchAnswers()
        wire = Wire(longest=_LONGEST_FILE, watches_answers=False)
        content = await self._call("afile_content", wire=wire, file_id=state.output_file)
        return read_answers(cast(bytes, getattr(content, "content", b"")), offered=self._offered)

    async def _call(self, function: str, *, wire: Wire | None = None, **arguments: Any) -> object:
        return await provider.call(
            function, {**arguments, **self._common}, timeout=TIMEOUT, read=lambda response: response, wire=wire
        )


def read_answers(content: bytes, *, offered: Set[str] = frozenset()) -> BatchAnswers:
    """Return what the CONTENT of an output file says, where models were OFFERED these tools to answer by."""
    replies: dict[str, Reply] = {}
    unreadable: dict[str, str] = {}
    lines: dict[str, bytes] = {}
    strays = 0
    # JSON Lines: only \n ends a line. Python's `splitlines` would take some characters inside of strings for ends as well.
    for line in content.split(b"\n"):
        if not line.strip():
            continue
        key, found = _parse_line(line, offered)
        if key is None:
            strays += 1
        elif lines.setdefault(key, line) != line:
            replies.pop(key, None)
            unreadable[key] = "two lines of the batch's answers have its id"
        elif isinstance(found, Reply):
            replies[key] = found
        elif found:
            unreadable[key] = found
    return BatchAnswers(replies, unreadable, strays)


def _parse_line(line: bytes, offered: Set[str]) -> tuple[str | None, Reply | str]:
    """Return the id of one LINE of an output file, None if that cannot be read, and its answer.

    A text in place of the answer says why it cannot be read; empty: there is none, since the call has failed.
    """
    try:
        told = json.loads(line)
        key = told["custom_id"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None, ""
    if not isinstance(key, str):
        return None, ""
    try:
        response = told.get("response")
        if response is None or response.get("status_code", 200) != 200:
            return key, ""
        return key, _parse_body(response["body"], offered)
    except (ValueError, LookupError, TypeError, AttributeError):
        return key, "its line of the batch's answers cannot be read"


def _parse_body(body: Mapping[str, Any], offered: Set[str]) -> Reply:
    choice, *others = body["choices"]
    message = choice["message"]
    content = message.get("content")
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    names, arguments = [call["name"] for call in calls], [call["arguments"] for call in calls]
    text = provider.answer_text(names, arguments, content, offered)
    usage = body.get("usage") or {}
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    refused = message.get("refusal") and not offered & set(names)
    seen = [content, message.get("reasoning_content"), *names, *arguments]
    return Reply(
        text=text if isinstance(text, str) and not others else "",
        model=provider.as_printable(body.get("model")),
        finish="refusal" if refused else str(choice.get("finish_reason") or ""),
        tokens=provider.parse_usage(
            usage.get("prompt_tokens"),
            usage.get("completion_tokens"),
            total=usage.get("total_tokens"),
            reasoning=(usage.get("completion_tokens_details") or {}).get("reasoning_tokens"),
        ),
        cached_tokens=max(cached, 0) if isinstance(cached, int) else 0,
        written=sum(len(each.encode("utf-8", "surrogatepass")) for each in seen if isinstance(each, str)),
    )
