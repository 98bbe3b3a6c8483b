"""How a task is answered without a provider and without a key: by its examples, inside the worker.

It stands behind LiteLLM as the custom provider `perdure-local`, so it gets the same messages as a hosted model and answers
in the same form. To go to a hosted model is to change the deployment's `model`.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from weakref import WeakValueDictionary

import numpy as np
from pydantic import JsonValue

from perdure.errors import InvalidSettings
from perdure.lineage import digest
from perdure.routing.providers._classifier import Classifier
from perdure.routing.routes import LOCAL, Example, Task, extract_text

_MOST_EXAMPLES = 2000
_FREE_TEXT = {"why", "confidence"}


class Embedder(Protocol):
    """What turns texts into vectors of length 1."""

    @property
    def version(self) -> str:
        """Changes whenever the vectors do."""
        ...

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """Return one vector for each of TEXTS, in their order."""
        ...


class LiteLlm(Protocol):
    """What we use of the module `litellm`. It is imported late and not followed by type checkers: it is too large."""

    CustomLLM: type
    custom_provider_map: list[dict[str, object]]
    suppress_debug_info: bool
    turn_off_message_logging: bool
    redact_messages_in_exceptions: bool
    DEFAULT_MAX_RETRIES: int
    disable_hf_tokenizer_download: bool | None

    async def acompletion(self, **arguments: object) -> object:
        """Make one call."""
        ...

    async def aembedding(self, **arguments: object) -> object:
        """Make one call for vectors."""
        ...


class _Message(Protocol):
    content: str | None
    provider_specific_fields: dict[str, object] | None


class Choice(Protocol):
    """One answer in it."""

    message: _Message
    finish_reason: str | None


class Completion(Protocol):
    """LiteLLM's answer, as far as we use it."""

    model: str | None
    choices: list[Choice]


@dataclass(frozen=True)
class LocalAnswer:
    """An answer by examples: the output as JSON, and how likely its class is the right one."""

    output: dict[str, JsonValue]
    confidence: float


class LocalModel:
    """One task's examples, learned."""

    def __init__(
        self, task: Task, embedder: Embedder, examples: Sequence[Example], classifier: Classifier, version: str
    ) -> None:
        self.key = uuid.uuid4().hex
        self.version = version
        self.unseen_accuracy = classifier.unseen_accuracy
        """The share of the examples that come out right when each is left out in turn."""
        self._task = task
        self._embedder = embedder
        self._examples = examples
        self._classifier = classifier

    @classmethod
    async def learn(cls, task: Task, embedder: Embedder, *, cache: Path | None = None) -> LocalModel:
        """Learn TASK's examples. Their vectors are kept in the folder CACHE, if given. Raises `InvalidSettings`."""
        examples, texts, labels = _distinct_examples(task)
        known = digest([embedder.version, *texts]).removeprefix("sha256:")
        vectors = await _vectors(texts, embedder, cache / f"{known}.npy" if cache else None)
        classifier = await asyncio.to_thread(Classifier, texts, vectors, labels)
        shown: list[JsonValue] = [example.model_dump(mode="json") for example in examples]
        version = digest([known, shown, list(task.text), list(task.label)]).removeprefix("sha256:")[:12]
        return cls(task, embedder, examples, classifier, f"examples-{version}")

    async def answer(self, inputs: Mapping[str, JsonValue], wanted: Mapping[str, JsonValue] | None) -> LocalAnswer:
        """Return the output of the class that INPUTS belong to. WANTED are the fields of the answer, None if not known."""
        text = extract_text(inputs, self._task.text)
        verdict = self._classifier.classify(text, (await self._embedder.embed([text]))[0])
        nearest = self._examples[verdict.nearest]
        output = dict(nearest.output)
        if "why" in output or "why" in (wanted or {}):
            output["why"] = _why(extract_text(nearest.inputs, self._task.text), output.get("why"))
        output.pop("confidence", None)
        if "confidence" in (wanted or {}):
            output["confidence"] = round(verdict.confidence, 4)
        return LocalAnswer(output, verdict.confidence)


class ExamplesProvider:
    """LiteLLM's custom provider `perdure-local`; it finds the learned examples by the key that comes with the call."""

    def __init__(self) -> None:
        self._models: WeakValueDictionary[str, LocalModel] = WeakValueDictionary()

    def add(self, model: LocalModel) -> None:
        """Make MODEL known under its key, for as long as somebody holds it."""
        self._models[model.key] = model

    async def acompletion(
        self,
        *,
        messages: list[dict[str, str]],
        model_response: Completion,
        optional_params: dict[str, JsonValue],
        **_: object,
    ) -> Completion:
        """Answer as LiteLLM asks its custom providers to."""
        model = self._models[str(optional_params["perdure_examples"])]
        inputs = json.loads(next(message["content"] for message in messages if message["role"] == "user"))
        answer = await model.answer(inputs, _properties(optional_params.get("response_format")))
        choice = model_response.choices[0]
        choice.message.content = json.dumps(answer.output, ensure_ascii=False)
        choice.message.provider_specific_fields = {"confidence": answer.confidence}
        model_response.model = model.version
        return model_response


def register(litellm: LiteLlm) -> ExamplesProvider:
    """Register the provider with LITELLM and return it."""
    name = LOCAL.rstrip("/")
    provider: ExamplesProvider = type("ExamplesProvider", (ExamplesProvider, litellm.CustomLLM), {})()
    others = [item for item in litellm.custom_provider_map if item["provider"] != name]
    litellm.custom_provider_map = [*others, {"provider": name, "custom_handler": provider}]
    return provider


def _distinct_examples(task: Task) -> tuple[list[Example], list[str], list[int]]:
    """Return the examples of TASK without repeats, the text of each, and the number of its class."""
    where = f"the examples of task {task.name!r}"
    classes: dict[str, int] = {}
    seen: dict[str, int] = {}
    examples, texts, labels = [], [], []
    for example in task.examples:
        text = extract_text(example.inputs, task.text)
        if not text.strip():
            raise InvalidSettings(
                f"{where} hold one without text in {', '.join(task.text) or 'any field'}. Correct `text` in models.toml."
            )
        label = classes.setdefault(_label(example, task), len(classes))
        if seen.setdefault(text, label) != label:
            raise InvalidSettings(f"{where} hold the same text with two outputs: {_excerpt(text)!r}. Keep the right one.")
        if text not in texts:
            examples.append(example)
            texts.append(text)
            labels.append(label)
    if len(classes) < 2:
        raise InvalidSettings(
            f"{where} all have the same output, so there is nothing to tell apart. Add examples of another one."
        )
    if len(examples) > _MOST_EXAMPLES:
        raise InvalidSettings(f"{where} are {len(examples)}; the local deployment learns from {_MOST_EXAMPLES} at most.")
    return examples, texts, labels


def _label(example: Example, task: Task) -> str:
    if missing := [name for name in task.label if name not in example.output]:
        raise InvalidSettings(
            f"an example of task {task.name!r} has no {missing[0]!r} in its output, and `label` names it."
        )
    names = task.label or sorted(example.output.keys() - _FREE_TEXT)
    return json.dumps([[name, example.output[name]] for name in names], sort_keys=True)


async def _vectors(texts: list[str], embedder: Embedder, path: Path | None) -> np.ndarray:
    stored = await asyncio.to_thread(_load_vectors, path) if path is not None else None
    if stored is not None and len(stored) == len(texts):
        return stored
    vectors = np.asarray(await embedder.embed(texts), np.float32)
    if path is not None:
        await asyncio.to_thread(_save_vectors, path, vectors)
    return vectors


def _load_vectors(path: Path) -> np.ndarray | None:
    try:
        vectors: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError):  # not there, or cut short: it is only a cache
        return None
    return vectors


def _save_vectors(path: Path, vectors: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    with partial.open("wb") as file:
        np.save(file, vectors)
    partial.replace(path)


def _properties(response_format: object) -> Mapping[str, JsonValue] | None:
    form = response_format.get("json_schema") if isinstance(response_format, dict) else None
    schema = form.get("schema") if isinstance(form, dict) else None
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return properties if isinstance(properties, dict) else None


def _why(text: str, why: JsonValue) -> str:
    return f"like the example {_excerpt(text)!r}" + (f": {why}" if isinstance(why, str) and why else "")


def _excerpt(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else line[:79] + "…"
