"""What embeds for memory: the embedder that is shipped, one of the user's, or a model at a provider."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from perdure.errors import BudgetReserved, ModelUnavailable, Unreachable

if TYPE_CHECKING:
    from perdure.memory.index import Embedder, LoadEmbedder, Vector
    from perdure.routing.embeddings import ModelEmbedder
    from perdure.routing.load import Routes
    from perdure.storage import Database

MODELS = "models:"
"""What stands before the name of an [embeddings.NAME] of models.toml, where the settings name an embedder."""


def embedder_loader(database: Database, routes: Callable[[], Routes]) -> LoadEmbedder:
    """Return what finds the embedder that the settings call so; those of ROUTES record their calls in DATABASE."""

    async def load(name: str) -> Embedder:
        from perdure.memory.index import load_embedder
        from perdure.routing.embeddings import ModelEmbedder

        if name.startswith(MODELS):
            return ReachableEmbedder(ModelEmbedder(database, routes(), name.removeprefix(MODELS)))
        return await load_embedder(name)

    return load


class ReachableEmbedder:
    """MODEL as memory knows its parts: what fails for a while is unreachable, and its texts wait for the next time."""

    def __init__(self, model: ModelEmbedder) -> None:
        self._model = model
        self.name = model.name
        self.version = model.version
        self.dimensions = model.dimensions

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Return one vector of length 1 for each of TEXTS, in their order."""
        try:
            return await self._model.embed(texts)
        except (ModelUnavailable, BudgetReserved) as error:
            raise Unreachable(error.message, retry_after=error.retry_after) from None

    def forget(self, texts: Sequence[str]) -> None:
        """Keep nothing of TEXTS."""
        self._model.forget(texts)
