"""Tests of embeddings at a provider: one recorded call, within the budgets, and what memory can work with."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from kits.llama_server import llama_server
from kits.routing import KEY, rows
from kits.tiny_gguf import write_gguf
from stand_ins.provider import Answers, Fails, Sends, Stub

from perdure.activities.embedders import embedder_loader
from perdure.errors import (
    BudgetSpent,
    InvalidSettings,
    ModelRefused,
    ModelUnavailable,
    Unreachable,
)
from perdure.lineage import Lineage, StepRef
from perdure.memory import (
    RecallCall,
    RememberCall,
    customer,
    open_memory,
)
from perdure.routing import ModelEmbedder, load_routes
from perdure.routing.calls import budget_states
from perdure.settings import Settings
from perdure.storage import Database

Embedding = Callable[..., ModelEmbedder]
GOOD = Answers("", tokens=(40, 0), model="vectors-2026-11-01")


@pytest.fixture
def embedding(tmp_path: Path, stub: Stub, sqlite_database: Database) -> Embedding:
    """Makes an embedder at the stub; OPTIONS are more lines for its table, MORE for the file."""

    def make(options: str = "", *, more: str = "", dimensions: int = 3, database: Database | None = None) -> ModelEmbedder:
        (tmp_path / "models.toml").write_text(
            f'[embeddings.memory]\nmodel = "openai/stub-vectors"\ndimensions = {dimensions}\ninput_usd_per_mtok = 0.02\n'
            f'api_base = "{stub.url}"\napi_key = "env:STUB_KEY"\n{options}\n{more}'
        )
        return ModelEmbedder(database or sqlite_database, load_routes([tmp_path / "models.toml"]), "memory")

    return make


async def test_vectors(embedding: Embedding, stub: Stub, database: Database) -> None:
    """Each text has its vector of length 1, in their order, by one call that is recorded with tokens, price and version."""
    stub.will(GOOD)

    vectors = await embedding(database=database).embed(["a lamp", "eels", "a lamp"])

    [row] = await rows(database)
    assert vectors[0] == vectors[2] != vectors[1]
    assert vectors[0] == pytest.approx([value / math.sqrt(3**2 + 1 + 6**2) for value in (3, 1, 6)])
    assert [["a lamp", "eels"]] == stub.embedded
    assert ("embeddings.memory", "embeddings", "openai/stub-vectors", "vectors-2026-11-01", "answered", 40, 800) == tuple(
        row[key] for key in ("task", "lane", "model", "model_version", "outcome", "prompt_tokens", "cost_nano_usd")
    )


async def test_calls_of_few_texts(embedding: Embedding, stub: Stub) -> None:
    """Many texts go in several calls, and what was paid for is not asked again when a later call fails."""
    stub.will(GOOD, Fails(503), GOOD)
    embedder = embedding("at_once = 2")
    texts = ["one", "two", "three", "four"]

    with pytest.raises(ModelUnavailable):
        await embedder.embed(texts)
    vectors = await embedder.embed(texts)

    assert 4 == len(vectors)
    assert [["one", "two"], ["three", "four"], ["three", "four"]] == stub.embedded


async def test_forgets(embedding: Embedding, stub: Stub) -> None:
    """A text is kept for a moment, until it is to be forgotten."""
    stub.will(GOOD)
    embedder = embedding()
    for _ in range(2):
        await embedder.embed(["secret"])
    embedder.forget(["secret"])
    await embedder.embed(["secret"])

    assert 2 == len(stub.embedded)


@pytest.mark.parametrize(
    "case",
    [
        (Fails(429, headers={"retry-after": "7"}), "unavailable", ModelUnavailable),
        (Fails(503), "unavailable", ModelUnavailable),
        (Sends(b""), "ambiguous", ModelUnavailable),
        (Fails(401), "refused", ModelRefused),
        (Fails(400, "context_length_exceeded"), "refused", ModelRefused),
    ],
)
async def test_failures(
    embedding: Embedding,
    stub: Stub,
    sqlite_database: Database,
    case: tuple[Fails | Sends, str, type[Exception]],
) -> None:
    """A failure is classified as one of a completion, after one call, and what may have been charged is on the books."""
    behaviour, outcome, error = case
    stub.will(behaviour)

    with pytest.raises(error) as caught:
        await embedding().embed(["a lamp"])

    [row] = await rows(sqlite_database)
    assert (outcome, 1) == (row["outcome"], len(stub.received) or 1)
    assert 0 < row["reserved_nano_usd"]
    if isinstance(behaviour, Fails) and behaviour.headers:
        assert timedelta(seconds=7) == getattr(caught.value, "retry_after", None)


async def test_budget(embedding: Embedding, stub: Stub, sqlite_database: Database) -> None:
    """Vectors draw on the budgets that concern them; one that is too empty is an error before any call."""
    stub.will(GOOD)
    embedder = embedding(more='[budgets.all]\nper = "all"\nusd = 0.000001\n[budgets.run]\nper = "run"\nusd = 0')
    await embedder.embed(["a lamp"])

    with pytest.raises(BudgetSpent, match="budget 'all'"):
        await embedder.embed(["a much longer text about a lamp"])

    [state] = await budget_states(sqlite_database)
    assert (1, "all", 800, 0) == (len(stub.embedded), state.budget, state.spent, state.reserved)


async def test_cancelled(embedding: Embedding, stub: Stub, sqlite_database: Database) -> None:
    """A call that is cancelled may have been charged."""
    stub.choose = lambda _: Sends(b"")
    asked = asyncio.create_task(embedding().embed(["a lamp"]))
    await stub.arrived.wait()
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)

    [row] = await rows(sqlite_database)
    assert row["outcome"] in ("cancelled", "ambiguous")


async def test_other_dimensions(embedding: Embedding, stub: Stub) -> None:
    """Vectors of another length than the file says are an error that names the right one."""
    stub.will(GOOD)

    with pytest.raises(InvalidSettings, match=r"vectors of 3 numbers\. Write `dimensions = 3`"):
        await embedding(dimensions=4).embed(["a lamp"])


async def test_a_long_text_is_cut(embedding: Embedding, stub: Stub) -> None:
    """Of a text that is longer than the model reads, the beginning is sent; an empty one is sent as a space."""
    stub.will(GOOD)

    await embedding("context = 16").embed(["lamp " * 1000, ""])

    [[long, empty]] = stub.embedded
    assert (47, " ") == (len(long), empty)


def test_version(embedding: Embedding) -> None:
    """The version changes with what the vectors depend on, and not with the price or the key."""
    versions = [embedding(options).version for options in ("", "timeout = 5", 'revision = "2"', "context = 100")]

    assert versions[0] == versions[1]
    assert 3 == len(set(versions))


async def test_no_such_table(tmp_path: Path, sqlite_database: Database) -> None:
    """A name that is not in models.toml is an error that says which there are."""
    (tmp_path / "models.toml").write_text("")
    with pytest.raises(InvalidSettings, match=r"no \[embeddings.memory\] in models.toml; known: none"):
        ModelEmbedder(sqlite_database, load_routes([tmp_path / "models.toml"]), "memory")


async def test_llama_cpp_embeds(
    tmp_path: Path, sqlite_database: Database, litellm_is_warm: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp's own server gives vectors by the same call."""
    monkeypatch.setenv("LLAMA_KEY", KEY)
    with llama_server(write_gguf(tmp_path / "tiny.gguf"), key=KEY, embeddings=True) as address:
        (tmp_path / "models.toml").write_text(
            f'[embeddings.memory]\nmodel = "openai/org/tiny:q4"\ndimensions = 32\ninput_usd_per_mtok = 0\n'
            f'api_base = "{address}"\napi_key = "env:LLAMA_KEY"'
        )
        embedder = ModelEmbedder(sqlite_database, load_routes([tmp_path / "models.toml"]), "memory")
        one, other = await embedder.embed(["a lamp", "an eel"])

    [row] = await rows(sqlite_database)
    assert 32 == len(one) == len(other)
    assert 1 == pytest.approx(sum(value * value for value in one))
    assert (False, "answered") == (row["estimated"], row["outcome"])


def named(step: str) -> StepRef:
    """A step of a run."""
    return StepRef(lineage=Lineage(namespace="default", workflow_id="returns-1", first_execution_run_id="1"), name=step)


async def test_memory_recalls_by_it(embedding: Embedding, stub: Stub, sqlite_database: Database, tmp_path: Path) -> None:
    """By the name in the settings memory has it for its embedder: it embeds what is remembered and finds it again."""
    stub.will(GOOD)
    embedding()
    load = embedder_loader(sqlite_database, lambda: load_routes([tmp_path / "models.toml"]))
    settings = Settings(home=tmp_path, embedder="models:memory")

    async with open_memory(settings, sqlite_database, load=load) as memory:
        await memory.remember(RememberCall(step=named("remember"), scope=customer("ada"), content="aaaa"))
        found = await memory.recall(RecallCall(step=named("recall"), scope=customer("ada"), query="aaab"))

    assert ["aaaa"] == found.texts
    assert {"aaaa", "aaab"} == {text for texts in stub.embedded for text in texts}
    assert {"answered"} == {row["outcome"] for row in await rows(sqlite_database)}


async def test_memory_waits_for_it(embedding: Embedding, stub: Stub, sqlite_database: Database, tmp_path: Path) -> None:
    """While the provider fails memory is unreachable for a while, as it is without its index, and not broken."""
    stub.will(Fails(503, headers={"retry-after": "7"}))
    embedding()
    embedder = await embedder_loader(sqlite_database, lambda: load_routes([tmp_path / "models.toml"]))("models:memory")

    with pytest.raises(Unreachable, match="answered 503") as caught:
        await embedder.embed(["a lamp"])

    assert timedelta(seconds=7) == caught.value.retry_after
