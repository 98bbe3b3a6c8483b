"""A provider on loopback, a router that calls it, and a small embedder."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import pytest
from kits.routing import KEY, HashingEmbedder
from stand_ins.provider import Stub, stub_provider

from perdure.routing import Router, load_routes
from perdure.routing.providers import CircuitBreakers
from perdure.routing.providers import litellm as provider
from perdure.storage import Database


@pytest.fixture
def embedder() -> HashingEmbedder:
    """A small embedder that says what it was given."""
    return HashingEmbedder()


@pytest.fixture(scope="session")
def litellm_is_warm() -> None:
    """Make LiteLLM's first call, which imports for seconds: tests with short time-outs must not wait for that."""

    async def call() -> None:
        litellm, _ = provider.load()
        nobody: dict[str, object] = {"api_base": "http://127.0.0.1:9/v1", "api_key": "none", "timeout": 60}
        with contextlib.suppress(Exception):
            await litellm.acompletion(
                model="openai/nobody", messages=[{"role": "user", "content": ""}], num_retries=0, max_retries=0, **nobody
            )

    asyncio.run(call())


@pytest.fixture
async def stub(litellm_is_warm: None, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stub]:
    """A provider on loopback."""
    monkeypatch.setenv("STUB_KEY", KEY)
    async with stub_provider() as provider:
        yield provider


@pytest.fixture
def routed(tmp_path: Path, stub: Stub, sqlite_database: Database, embedder: HashingEmbedder) -> Callable[..., Router]:
    """Makes a router whose deployments, `first`, `second`..., are all the stub: TIERS are those of other tiers.

    TASK is added to the task's table, and MORE to the file.
    """

    def make(
        *,
        deployments: Sequence[str] = ("first",),
        tiers: Mapping[str, str] | None = None,
        database: Database | None = None,
        task: str = "",
        more: str = "",
        breakers: CircuitBreakers | None = None,
        **options: str,
    ) -> Router:
        text = f'[tasks.triage]\ntier = "small"\ninstructions = "Judge the return request."\n{task}\n'
        for name, tier in {**dict.fromkeys(deployments, "small"), **(tiers or {})}.items():
            settings = {
                "tier": f'"{tier}"',
                "model": f'"openai/stub-{name}"',
                "api_base": f'"{stub.url}"',
                "api_key": '"env:STUB_KEY"',
                "input_usd_per_mtok": "0.15",
                "output_usd_per_mtok": "0.6",
                "timeout": "30",
                **options,
            }
            text += f"[deployments.{name}]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items())
        (tmp_path / "models.toml").write_text(text + more)
        routes = load_routes([tmp_path / "models.toml"])
        return Router(database or sqlite_database, routes, embedder, breakers=breakers)

    return make
