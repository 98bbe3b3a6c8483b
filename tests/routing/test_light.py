"""What importing routing loads."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {"litellm", "openai", "numpy", "httpx", "sqlmodel", "jsonschema", "json_repair"}


def test_contracts_are_light() -> None:
    """Workflow code gets the contracts without anything heavy."""
    assert set() == _loaded("from perdure.routing import GenerateCall, Generated, OutputRef")


def test_litellm_waits_for_the_warm_up() -> None:
    """Not even the router loads LiteLLM before it is needed."""
    assert not {"litellm", "openai"} & _loaded(
        "from perdure.routing import Router, load_routes, resolve_output; load_routes()"
    )


def test_without_a_task_litellm_is_never_needed() -> None:
    """A worker that has nothing to ask a model about spends no seconds on LiteLLM."""
    assert not {"litellm", "openai"} & _loaded(
        "import asyncio; from perdure.routing import Router, load_routes; "
        "asyncio.run(Router(None, load_routes(), None).warm_up())"
    )


def _loaded(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*[name for name in {sorted(HEAVY)!r} if name in sys.modules])"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
