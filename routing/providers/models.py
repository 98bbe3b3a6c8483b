"""Which models a worker can call, and what it takes to have them ready: LiteLLM, learned examples, files, keys."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.routing.prompts import Form, Messages
from perdure.routing.providers import litellm as provider
from perdure.routing.providers.gguf import Gguf
from perdure.routing.providers.litellm import Reply
from perdure.routing.providers.local import Embedder, LocalModel
from perdure.routing.routes import Deployment, Task

if TYPE_CHECKING:
    from perdure.routing.load import Routes


@dataclass(frozen=True)
class Model:
    """The model of DEPLOYMENT, ready for one call of a task."""

    deployment: Deployment
    version: str = ""
    """Which one it is, where that is known before it answers: the digest of its file."""
    key: str | None = None
    examples: LocalModel | None = None
    file: Gguf | None = None

    async def complete(self, messages: Messages, form: Form, *, timeout: float, temperature: float) -> Reply:
        """Call it once with MESSAGES for an answer of FORM, within TIMEOUT seconds. Raises `ProviderFailed`."""
        if self.file is not None:
            return await self.file.complete(messages, form, timeout=timeout, temperature=temperature)
        return await provider.complete(
            self.deployment,
            messages,
            form,
            timeout=timeout,
            temperature=temperature,
            key=self.key,
            local=self.examples,
        )


class Models:
    """The models of ROUTES. EMBEDDER serves those that answer by examples, whose vectors are kept in the folder CACHE."""

    def __init__(self, routes: Routes, embedder: Embedder, *, cache: Path | None = None) -> None:
        self._routes = routes
        self._embedder = embedder
        self._cache = cache
        self._examples: Mapping[str, LocalModel] | None = None
        self._warming = asyncio.Lock()
        self._files = {name: Gguf(routes.deployments[name], place) for name, place in routes.files.items()}

    async def load_files(self) -> None:
        """Load the GGUF files, one after the other. Raises `InvalidSettings` with the line that names a bad one."""
        for model in self._files.values():
            await model.start()

    async def warm_up(self) -> None:
        """Import LiteLLM, which takes seconds, and learn the examples of tasks. Raises `InvalidSettings`."""
        async with self._warming:
            if self._examples is not None:
                return
            tasks = self._routes.tasks.values()
            asked = [one for task in tasks for one in self._routes.all_deployments_for(task)]
            if all(one.gguf for one in asked):  # or there are none, so there is no need to spend seconds on LiteLLM
                self._examples = {}
                return
            _, examples = await asyncio.to_thread(provider.load)
            learned = {}
            for task in tasks:
                if any(one.local for one in self._routes.all_deployments_for(task)):
                    learned[task.name] = await LocalModel.learn(task, self._embedder, cache=self._cache)
                    examples.add(learned[task.name])
            self._examples = learned

    async def prepare(self, deployment: Deployment, task: Task) -> Model:
        """Return the model of DEPLOYMENT, ready to answer TASK. Raises `InvalidSettings` if that cannot be."""
        if (file := self._files.get(deployment.name)) is not None:
            return Model(deployment, version=await file.version() if task.cache else "", file=file)
        if self._examples is None:
            await self.warm_up()
        if deployment.local:
            return Model(deployment, examples=(self._examples or {})[task.name])
        return Model(deployment, key=provider.read_key(deployment))

    def processes(self) -> list[int]:
        """Return the processes that run files now."""
        return [pid for model in self._files.values() if (pid := model.pid) is not None]

    async def close(self) -> None:
        """End the processes that run files."""
        for model in self._files.values():
            await model.close()
