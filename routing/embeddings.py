"""How texts become vectors at a provider: one recorded call for a few texts, at a known price and within the budgets."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, cast

from pydantic import JsonValue

from perdure.errors import InvalidSettings, ModelRefused, ModelUnavailable
from perdure.lineage import Lineage, StepRef, digest
from perdure.routing.calls import BudgetDenial, ModelCall, Settlement, end_span, find_accounts, start_span
from perdure.routing.contracts import GenerateCall, OutputRef, Usage
from perdure.routing.prompts import estimate_tokens
from perdure.routing.providers import litellm as provider
from perdure.storage import AdvisoryLock, Database, GroupCommit, now

if TYPE_CHECKING:
    from perdure.routing.load import Routes
    from perdure.routing.routes import Deployment

_NOBODY = StepRef(lineage=Lineage(namespace="", workflow_id="", first_execution_run_id=""), name="embed")
_RUNS = ("run", "workflow")
_REMEMBERED = 256

Vector = tuple[float, ...]


class _TokenCount(Protocol):
    prompt_tokens: int | None


class _EmbeddingResponse(Protocol):
    model: str | None
    data: list[dict[str, object]]
    usage: _TokenCount | None


class ModelEmbedder:
    """The model of [embeddings.NAME] in ROUTES as what memory embeds with. Calls are recorded in DATABASE, for TENANT.

    Raises `InvalidSettings` if there is no such table.
    """

    def __init__(self, database: Database, routes: Routes, name: str, *, tenant: str = "default") -> None:
        if (table := routes.embeddings.get(name)) is None:
            known = ", ".join(sorted(routes.embeddings)) or "none"
            raise InvalidSettings(f"there is no [embeddings.{name}] in models.toml; known: {known}. Add it.")
        self._table = table
        self._routes = routes
        self._tenant = tenant
        self._commits = GroupCommit(database, lock=AdvisoryLock.MODEL_CALLS)
        self._recent: OrderedDict[str, Vector] = OrderedDict()

    @property
    def name(self) -> str:
        """The model."""
        return self._table.model

    @property
    def version(self) -> str:
        """Changes with the model, where it is served, how much of a text it reads, and `revision` in models.toml."""
        table = self._table
        facts: list[JsonValue] = [table.model, table.api_base or "", table.dimensions, table.context, table.revision]
        return digest(facts).removeprefix("sha256:")[:12]

    @property
    def dimensions(self) -> int:
        """How long a vector is."""
        return self._table.dimensions

    async def embed(self, texts: Sequence[str], *, step: StepRef | None = None) -> list[Vector]:
        """Return one vector of length 1 for each of TEXTS, in their order, on behalf of STEP.

        At most `at_once` texts go in one call, and none twice. Texts seen a moment ago cost nothing. Raises
        `ModelUnavailable`, after `retry_after` if that is set, `ModelRefused`, `BudgetSpent`, `BudgetReserved`,
        `InvalidSettings`.
        """
        found = {text: self._recent[text] for text in texts if text in self._recent}
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        for start in range(0, len(missing), self._table.at_once):
            asked = missing[start : start + self._table.at_once]
            vectors = await self._call([_truncate(text, self._table.context) for text in asked], step or _NOBODY)
            found |= zip(asked, vectors, strict=True)
            # Before the next call, which may fail: what was paid for is not asked again.
            self._remember({text: found[text] for text in asked})
        return [found[text] for text in texts]

    def forget(self, texts: Sequence[str]) -> None:
        """Keep nothing of TEXTS."""
        for text in texts:
            self._recent.pop(text, None)

    def _remember(self, vectors: dict[str, Vector]) -> None:
        self._recent |= vectors
        while len(self._recent) > _REMEMBERED:
            self._recent.popitem(last=False)

    async def _call(self, texts: list[str], step: StepRef) -> list[Vector]:
        deployment = self._table.deployment(now())
        most = deployment.cost(sum(len(text.encode()) + 8 for text in texts), 0)
        asked = GenerateCall(
            step=step, task=f"embeddings.{self._table.name}", output=OutputRef(name="vectors"), tenant=self._tenant
        )
        drawn = find_accounts(self._routes, asked) if most else ()
        call = ModelCall(
            asked,
            deployment,
            1,
            prompt_digest=digest(list(texts)),
            lane="embeddings",
            reserved_nano_usd=most,
            accounts=tuple(account for account in drawn if step is not _NOBODY or account.budget.per not in _RUNS),
        )
        key = provider.read_key(deployment)
        await asyncio.to_thread(provider.load)
        try:
            denial = await self._commits.run(call.begin, exclusive=call.exclusive)
            if isinstance(denial, BudgetDenial):
                raise denial.as_error(())
            return await self._make(call, deployment, texts, key)
        except asyncio.CancelledError:
            await self._settle(call, Settlement("cancelled", error="cancelled"))
            raise

    async def _make(self, call: ModelCall, deployment: Deployment, texts: list[str], key: str | None) -> list[Vector]:
        where = f"embeddings {self._table.name!r} ({deployment.model})"
        with start_span(call, [], operation="embeddings") as span:
            try:
                reply = await _embed(deployment, texts, key)
            except provider.ProviderFailed as error:
                failure = error.failure
            else:
                settled, vectors, wrong = self._read(reply, deployment, texts)
                await self._settle(call, settled)
                end_span(span, call, settled)
                if wrong:
                    raise InvalidSettings(f"{where} {wrong}")
                return vectors
            settled = Settlement(failure.outcome, error=failure.kind, status=failure.status)
            await self._settle(call, settled)
            end_span(span, call, settled)
        if failure.verdict == "again":
            raise ModelUnavailable(f"{where} {failure.what}. It is tried again.", retry_after=failure.retry_after)
        raise ModelRefused(f"{where} {failure.what}. {failure.remedy}")

    def _read(
        self, reply: _EmbeddingResponse, deployment: Deployment, texts: list[str]
    ) -> tuple[Settlement, list[Vector], str]:
        """Return how the call ended, the vectors, and what is wrong with them, if anything is."""
        found = sorted(reply.data or [], key=lambda each: cast(int, each.get("index", 0)))
        vectors = [cast("list[float]", each.get("embedding")) for each in found]
        counted = reply.usage.prompt_tokens if reply.usage is not None else None
        tokens = counted or sum(estimate_tokens(text) for text in texts)
        wrong = ""
        if len(vectors) != len(texts):
            wrong = f"gave {len(vectors)} vectors for {len(texts)} texts. Use a model that embeds."
        elif any(len(vector) != self._table.dimensions for vector in vectors):
            wrong = f"gives vectors of {len(vectors[0])} numbers. Write `dimensions = {len(vectors[0])}` in models.toml."
        settled = Settlement(
            "invalid" if wrong else "answered",
            error=wrong,
            model_version=reply.model or "",
            usage=Usage(prompt_tokens=tokens, cost_nano_usd=deployment.cost(tokens, 0)),
            estimated=not counted,
        )
        return settled, [] if wrong else [_normalize(vector) for vector in vectors], wrong

    async def _settle(self, call: ModelCall, settled: Settlement) -> None:
        await self._commits.run(lambda connection: call.settle(connection, settled), exclusive=call.exclusive)


async def _embed(deployment: Deployment, texts: list[str], key: str | None) -> _EmbeddingResponse:
    """Make the one call of TEXTS to DEPLOYMENT. Raises `ProviderFailed`."""
    arguments: dict[str, object] = {
        "model": deployment.model,
        "input": texts,
        "api_key": key,
        # Not every server has the other one, base64.
        "encoding_format": "float",
        "drop_params": True,
        **({"api_base": deployment.api_base} if deployment.api_base else {}),
    }
    return await provider.call(
        "aembedding", arguments, timeout=deployment.timeout, read=lambda response: cast(_EmbeddingResponse, response)
    )


def _truncate(text: str, context: int) -> str:
    """Return as much of TEXT as is sure to fit into CONTEXT tokens; something, as providers refuse an empty one."""
    if (tokens := estimate_tokens(text)) > context:
        text = text[: len(text) * context // tokens]
    return text or " "


def _normalize(vector: list[float]) -> Vector:
    length = math.sqrt(math.fsum(value * value for value in vector)) or 1.0
    return tuple(value / length for value in vector)
