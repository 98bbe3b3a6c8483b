"""llama.cpp's own HTTP server, with OpenAI's API, out of the package xllamacpp: a real part for tests."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def llama_server(file: Path, *, context: int = 4096, key: str = "", embeddings: bool = False) -> Iterator[str]:
    """Serve the GGUF FILE on a free port of 127.0.0.1 and give the address for `api_base`."""
    native = importlib.import_module("xllamacpp")
    params = native.CommonParams()
    params.model.path = str(file)
    params.model_alias = {"org/tiny:q4"}
    params.n_ctx = context
    params.n_parallel = 1
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.warmup = False
    params.cache_ram_mib = 0
    params.embedding = embeddings
    if embeddings:
        params.pooling_type = native.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.api_keys = [key] if key else []
    params.verbosity = 0
    server = native.Server(params)
    yield f"{server.listening_address}/v1"
    del server
