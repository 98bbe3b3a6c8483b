"""Tests of the servers that speak OpenAI's API: llama.cpp's own, and the words and habits of vLLM and Ollama."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from kits.llama_server import llama_server
from kits.routing import KEY, HashingEmbedder, asking, rows
from kits.tiny_gguf import write_gguf
from pydantic import BaseModel, JsonValue
from stand_ins.provider import Sends, Stub

from perdure.errors import ModelRefused, ModelUnavailable
from perdure.routing import OutputRef, Router, load_routes
from perdure.storage import Database


class Verdict(BaseModel):
    """What the tests ask for."""

    verdict: Literal["refund", "reject"]


WANTED = OutputRef(name=f"{Verdict.__module__}:Verdict")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """llama.cpp's server with a tiny model, behind a key."""
    with llama_server(write_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf"), key=KEY) as address:
        yield address


@pytest.fixture
def at_llama(
    llama: str, tmp_path: Path, sqlite_database: Database, litellm_is_warm: None, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Router]:
    """Makes a router whose deployment is llama.cpp's server; OPTIONS are more lines of it."""
    monkeypatch.setenv("LLAMA_KEY", KEY)

    def make(options: str = "") -> Router:
        (tmp_path / "models.toml").write_text(
            f'[tasks.triage]\ntier = "small"\n[deployments.llama]\ntier = "small"\nmodel = "openai/org/tiny:q4"\n'
            f'api_base = "{llama}"\napi_key = "env:LLAMA_KEY"\ninput_usd_per_mtok = 0\noutput_usd_per_mtok = 0\n{options}'
        )
        return Router(sqlite_database, load_routes([tmp_path / "models.toml"]), HashingEmbedder())

    return make


async def test_llama_cpp_keeps_to_the_schema(at_llama: Callable[[str], Router], sqlite_database: Database) -> None:
    """llama.cpp's server makes a grammar of the schema, counts the tokens, and is asked once."""
    generation = await at_llama("").generate(asking(output=WANTED), attempt=1, output=Verdict)

    [row] = await rows(sqlite_database)
    assert Verdict.model_validate(generation.value)
    assert ("answered", False, "org/tiny:q4") == (row["outcome"], row["estimated"], row["model_version"])
    assert row["prompt_tokens"] > 100


async def test_llama_cpp_says_that_the_context_is_too_small(at_llama: Callable[[str], Router]) -> None:
    """Inputs that are too long for llama.cpp's context go to another deployment, and not to it again."""
    with pytest.raises(ModelRefused, match="larger `context`"):
        await at_llama("").generate(asking(output=WANTED, message="word " * 1000), attempt=1, output=Verdict)


async def test_llama_cpp_says_that_it_cannot_make_a_grammar(at_llama: Callable[[str], Router]) -> None:
    """A schema beyond llama.cpp's grammars is refused, and the message names the key that helps."""
    schema: dict[str, JsonValue] = {"type": "array", "items": {"type": "integer"}, "minItems": 10**6}

    with pytest.raises(ModelRefused, match="`structured = "):
        await at_llama("").generate(asking(output=OutputRef(name="odd", json_schema=schema)), attempt=1, output=None)


def _http(status: int, body: JsonValue) -> Sends:
    data = json.dumps(body).encode()
    head = (
        f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\nconnection: close\r\n\r\n"
    )
    return Sends(head.encode() + data)


def _answer(*, finish: str | None = "stop", usage: bool = True, more: dict[str, JsonValue] | None = None) -> JsonValue:
    message: dict[str, JsonValue] = {"role": "assistant", "content": '{"verdict": "refund"}', **(more or {})}
    told: dict[str, JsonValue] = {
        "id": "chatcmpl-123",
        "object": "chat.completion",
        "created": 1,
        "model": "org/tiny:q4",
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
    }
    counted: JsonValue = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "prompt_tokens_details": None}
    return {**told, "usage": counted} if usage else told


ANSWERS: dict[str, JsonValue] = {
    "vllm": {
        **_answer(more={"reasoning_content": None, "tool_calls": [], "refusal": None}),  # type: ignore[dict-item]
        "service_tier": None,
        "prompt_logprobs": None,
        "kv_transfer_params": None,
    },
    "ollama": {**_answer(), "system_fingerprint": "fp_ollama"},  # type: ignore[dict-item]
    "without usage": _answer(usage=False),
    "usage null": {**_answer(), "usage": None},  # type: ignore[dict-item]
    "no finish": _answer(finish=None),
    "finish eos": _answer(finish="eos"),
    "finish stop_sequence": _answer(finish="stop_sequence"),
    "thought first": _answer(more={"content": '<think>A lamp.</think>\n```json\n{"verdict": "refund"}\n```'}),
}


@pytest.mark.parametrize("body", ANSWERS.values(), ids=ANSWERS.keys())
async def test_answers_of_other_servers(
    routed: Callable[..., Router], stub: Stub, sqlite_database: Database, body: JsonValue
) -> None:
    """What vLLM, Ollama and others add, leave out or call otherwise does not get between an answer and its step."""
    stub.will(_http(200, body))

    generation = await routed().generate(asking(output=WANTED), attempt=1, output=Verdict)

    [row] = await rows(sqlite_database)
    assert {"verdict": "refund"} == generation.value
    assert (row["estimated"], row["prompt_tokens"] > 7) in ((True, True), (False, False))
    assert 0 < row["cost_nano_usd"]


@pytest.mark.parametrize("model", ["meta-llama/Llama-3.1-8B-Instruct", "qwen2.5:0.5b", "hf.co/org/tiny-GGUF:Q4_K_M"])
async def test_names_of_other_servers(routed: Callable[..., Router], stub: Stub, model: str) -> None:
    """Names of models with slashes and colons reach the server as they are in the file."""
    stub.will(_http(200, _answer()))

    await routed(model=f'"openai/{model}"').generate(asking(output=WANTED), attempt=1, output=Verdict)

    assert [model] == stub.models


ERRORS: dict[str, tuple[int, JsonValue, str, type[Exception]]] = {
    "vllm context": (
        400,
        {
            "object": "error",
            "message": "This model's maximum context length is 4096 tokens. However, you requested 9000 tokens (8000 in "
            "the messages, 1000 in the completion). Please reduce the length of the messages or completion.",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
        "context_length_exceeded",
        ModelRefused,
    ),
    "vllm unknown model": (
        404,
        {"error": {"message": "The model `x` does not exist.", "type": "NotFoundError", "param": "model", "code": 404}},
        "404 NotFoundError",
        ModelRefused,
    ),
    "ollama unknown model": (
        404,
        {
            "error": {
                "message": 'model "x" not found, try pulling it first',
                "type": "api_error",
                "param": None,
                "code": None,
            }
        },
        "404 api_error",
        ModelRefused,
    ),
    "llama.cpp context": (
        400,
        {
            "error": {
                "code": 400,
                "message": "request (4031 tokens) exceeds the available context size (2048 tokens), try increasing it",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 4031,
                "n_ctx": 2048,
            }
        },
        "exceed_context_size_error",
        ModelRefused,
    ),
    "llama.cpp loading": (
        503,
        {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}},
        "503 unavailable_error",
        ModelUnavailable,
    ),
    "no JSON": (502, "<html>Bad gateway</html>", "502", ModelUnavailable),
}


@pytest.mark.parametrize("case", ERRORS.values(), ids=ERRORS.keys())
async def test_errors_of_other_servers(
    routed: Callable[..., Router],
    stub: Stub,
    sqlite_database: Database,
    case: tuple[int, JsonValue, str, type[Exception]],
) -> None:
    """The error bodies of vLLM, Ollama and llama.cpp say what to do next, as those of OpenAI do."""
    status, body, kind, error = case
    stub.will(_http(status, body))

    with pytest.raises(error):
        await routed().generate(asking(output=WANTED), attempt=1, output=Verdict)

    [row] = await rows(sqlite_database)
    assert kind in row["error"]
    assert 1 == stub.calls
