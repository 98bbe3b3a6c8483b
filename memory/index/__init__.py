"""Where a recall should look: the vector index, whichever it is, and how it follows SQL.

Must not break: one process owns an embedded index, no content lies in a point, and an index that lags or lies is
corrected by SQL. Another index implements `protocol` (`EdgeIndex` is the embedded one, `ServerIndex` a Qdrant server);
another embedder goes into `embed`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.memory.index.building import Generation
    from perdure.memory.index.checking import verify
    from perdure.memory.index.edge import EdgeIndex
    from perdure.memory.index.embed import (
        MINILM,
        Embedder,
        LoadEmbedder,
        MiniLm,
        Vector,
        load_embedder,
    )
    from perdure.memory.index.lexical import NO_WORDS, Words
    from perdure.memory.index.ownership import Claim, claim_index
    from perdure.memory.index.protocol import (
        Index,
        Match,
        Matches,
        Point,
        Where,
        generation,
    )
    from perdure.memory.index.qdrant import ServerIndex
    from perdure.memory.index.sync import Feed
else:
    __getattr__ = lazy(
        __name__,
        {
            "building": ["Generation"],
            "checking": ["verify"],
            "edge": ["EdgeIndex"],
            "embed": ["Embedder", "LoadEmbedder", "MINILM", "MiniLm", "Vector", "load_embedder"],
            "lexical": ["NO_WORDS", "Words"],
            "ownership": ["Claim", "claim_index"],
            "protocol": ["Index", "Match", "Matches", "Point", "Where", "generation"],
            "qdrant": ["ServerIndex"],
            "sync": ["Feed"],
        },
    )

__all__ = [
    "MINILM",
    "NO_WORDS",
    "Claim",
    "EdgeIndex",
    "Embedder",
    "Feed",
    "Generation",
    "Index",
    "LoadEmbedder",
    "Match",
    "Matches",
    "MiniLm",
    "Point",
    "ServerIndex",
    "Vector",
    "Where",
    "Words",
    "claim_index",
    "generation",
    "load_embedder",
    "verify",
]
