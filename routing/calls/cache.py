"""Which answers are kept and given again: those to the same question of the same tenant, of the same model, for a time.

A question that is on its way is asked once: whoever asks it meanwhile waits for the answer, in whichever worker.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from weakref import WeakValueDictionary

import sqlalchemy as sa
from pydantic import JsonValue

from perdure.lineage import digest
from perdure.routing.contracts import GenerateCall, Usage
from perdure.routing.routes import Deployment, Task
from perdure.routing.tables import AnswerRow, ModelVersionRow
from perdure.storage import now

_ROWS = AnswerRow.__table__  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # SQLModel's
_VERSIONS = ModelVersionRow.__table__  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # as above

_READ = (
    sa.select(_ROWS, _VERSIONS.c.version.label("latest"))
    .outerjoin(_VERSIONS, _VERSIONS.c.model == _ROWS.c.model)
    .where(_ROWS.c.key == sa.bindparam("of_key"))
)
_HOLD = sa.update(_ROWS).where(_ROWS.c.key == sa.bindparam("of_key"))
_MINE = sa.and_(_ROWS.c.key == sa.bindparam("of_key"), _ROWS.c.holder == sa.bindparam("of_holder"))
_KEEP = sa.update(_ROWS).where(_MINE)
_RELEASE = sa.delete(_ROWS).where(_MINE)
_EXPIRED = sa.delete(_ROWS).where(_ROWS.c.expires_at < sa.bindparam("before"), _ROWS.c.held_until < sa.bindparam("before"))

GRACE = timedelta(seconds=5)
"""How much longer than the call may take a question counts as being asked: for the writing around it."""


@dataclass(frozen=True)
class CachedAnswer:
    """An answer that is kept, and what it has cost."""

    value: JsonValue
    answer_digest: str
    confidence: float | None
    model_version: str
    usage: Usage


@dataclass(frozen=True)
class InFlight:
    """Somebody is asking the same, UNTIL then at most."""

    until: datetime


@dataclass(frozen=True)
class CacheEntry:
    """What a call asks, as far as answers depend on it."""

    key: str
    model: str
    """The model and where it is served."""
    tenant: str
    task: str
    holder: str
    for_: timedelta
    timeout: float

    @classmethod
    def of(
        cls,
        call: GenerateCall,
        task: Task,
        deployment: Deployment,
        *,
        prompt: str,
        holder: str,
        timeout: float,
        canary: str = "",
        version: str = "",
    ) -> CacheEntry | None:
        """Return the question of CALL to DEPLOYMENT, whose prompt has the digest PROMPT. None: answers are not kept.

        What a CANARY tries has answers of its own. VERSION is the model's where the call need not tell it: that of a file.
        """
        if task.cache is None or deployment.local:
            return None
        model = f"{deployment.model} {deployment.api_base or version}".strip()
        # The prompt holds the output's schema. The version that has answered is compared when an answer is found.
        key = digest(
            [
                "chat",
                call.tenant,
                call.step.lineage.namespace,
                model,
                prompt,
                call.output.name,
                deployment.structured,
                deployment.max_tokens,
                str(task.temperature),
                list(task.validators),
                *([canary] if canary else []),
            ]
        )
        return cls(key, model, call.tenant, task.name, holder, task.cache, timeout)

    def look_up(self, connection: sa.Connection) -> CachedAnswer | InFlight | None:
        """Return the answer that is kept, or who asks for it; None: nobody does, so ask."""
        row = connection.execute(_READ, {"of_key": self.key}).mappings().one_or_none()
        if row is None:
            return None
        time = now()
        # An alias such as `gpt-5` may have moved on to another model: what the old one said is not what it says.
        current = row["latest"] is None or row["latest"] == row["model_version"]
        if row["value"] is not None and row["expires_at"] > time and current:
            usage = Usage(
                prompt_tokens=row["prompt_tokens"],
                completion_tokens=row["completion_tokens"],
                cost_nano_usd=row["cost_nano_usd"],
            )
            return CachedAnswer(
                json.loads(row["value"]), row["answer_digest"], row["confidence"], row["model_version"], usage
            )
        return InFlight(row["held_until"]) if row["held_until"] > time else None

    def claim(self, connection: sa.Connection) -> None:
        """Note that it is being asked now. No other process may do so at the same time."""
        time = now()
        held = {"holder": self.holder, "held_until": time + timedelta(seconds=self.timeout) + GRACE}
        if connection.execute(_HOLD.values(**held), {"of_key": self.key}).rowcount:
            return
        connection.execute(
            sa.insert(_ROWS),
            {
                "key": self.key,
                "tenant": self.tenant,
                "task": self.task,
                "model": self.model,
                "model_version": "",
                "value": None,
                "answer_digest": "",
                "confidence": None,
                "prompt_tokens": 0,
                "completion_tokens": 0,
                "cost_nano_usd": 0,
                "expires_at": time,
                **held,
            },
        )

    def store(self, connection: sa.Connection, kept: CachedAnswer) -> None:
        """Keep an answer, and let those who wait have it. What has expired goes."""
        time = now()
        connection.execute(
            _KEEP.values(
                value=json.dumps(kept.value, ensure_ascii=False),
                answer_digest=kept.answer_digest,
                confidence=kept.confidence,
                model_version=kept.model_version,
                prompt_tokens=kept.usage.prompt_tokens,
                completion_tokens=kept.usage.completion_tokens,
                cost_nano_usd=kept.usage.cost_nano_usd,
                expires_at=time + self.for_,
                held_until=time,
            ),
            {"of_key": self.key, "of_holder": self.holder},
        )
        self._note_version(connection, kept.model_version, time)
        connection.execute(_EXPIRED, {"before": time})

    def release(self, connection: sa.Connection) -> None:
        """Note that there is no answer, so that the next one asks."""
        connection.execute(_RELEASE, {"of_key": self.key, "of_holder": self.holder})

    def _note_version(self, connection: sa.Connection, version: str, time: datetime) -> None:
        this = _VERSIONS.c.model == self.model
        known = connection.execute(sa.select(_VERSIONS.c.version).where(this)).scalar_one_or_none()
        if known is None:
            connection.execute(sa.insert(_VERSIONS), {"model": self.model, "version": version, "seen_at": time})
        elif known != version:
            connection.execute(sa.update(_VERSIONS).where(this).values(version=version, seen_at=time))


class SingleFlight:
    """Who asks what in this process: one at a time asks a question, and the others take their turn after it."""

    def __init__(self) -> None:
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, question: CacheEntry | None) -> AsyncIterator[None]:
        """Wait until nobody else in this process asks QUESTION. Its answer is in the database then, if there was one."""
        if question is None:
            yield
            return
        turn = self._turns.setdefault(question.key, asyncio.Lock())
        async with turn:
            yield
