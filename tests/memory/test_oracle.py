"""Tests of memory against an oracle: random operations with lag, crashes, retries and several writers at once.

The embedder costs nothing, for it is the reads that are on trial: each asks for everything that a scope holds.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from kits.memory import Clock, Letters
from kits.memory_oracle import Oracle, Said

from perdure.errors import NotFound
from perdure.lineage import Lineage, StepRef
from perdure.memory import (
    Memory,
    RecallCall,
    RememberCall,
    Scope,
    customer,
)
from perdure.memory.contracts import Origin
from perdure.memory.index import EdgeIndex, Point
from perdure.memory.records import records
from perdure.memory.records.requests import (
    ForgetCall,
    ListCall,
    UpdateCall,
    VerifyCall,
)
from perdure.storage import Database, open_database

SCOPES = [customer("ada"), customer("ada", tenant="acme"), Scope(user="ada", session="s1"), Scope(agent="triage")]
MEMORIES = [f"memory {number}" for number in range(8)]
FACTS = [("ada", "lives in"), ("ada", "prefers"), ("order 1042", "state")]


class LaggingIndex(EdgeIndex):
    """An index that, while told to, forgets what it is given and still answers."""

    lagging = False

    async def upsert(self, points: Sequence[Point]) -> None:
        if not self.lagging:
            await super().upsert(points)

    async def delete(self, version_ids: Sequence[str]) -> None:
        if not self.lagging:
            await super().delete(version_ids)


@dataclass
class Trial:
    """A memory, what it should say, and the chance that decides what happens next."""

    database: Database
    other: Database
    folder: Path
    clock: Clock
    index: LaggingIndex
    chance: random.Random
    oracle: Oracle = field(default_factory=Oracle)
    turn: int = 0
    reads: int = 0
    names: dict[tuple[Scope, str], str] = field(default_factory=dict)
    """The memory id of each fact."""
    calls: list[RememberCall] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began = self.clock.now
        self.restart()

    def restart(self) -> None:
        """Begin anew as a process that was killed does: with nothing in memory but what is on disk."""
        self.memory = Memory(self.database, self.index, Letters(), clock=self.clock)
        self.second = Memory(self.other, self.index, Letters(), clock=self.clock)

    def step(self, name: str = "") -> StepRef:
        """Return a step that nobody had before."""
        lineage = Lineage(namespace="default", workflow_id="trial", first_execution_run_id="1")
        return StepRef(lineage=lineage, name=f"{name or 'step'} {self.turn}.{self.chance.random()}")

    def moment(self) -> datetime:
        """Return a moment between the beginning and now, often now."""
        return self.began + (self.clock.now - self.began) * self.chance.choice([1.0, self.chance.random()])

    def to_say(self, scope: Scope, **fields: object) -> tuple[str, RememberCall]:
        """Return something to remember, and by which name the oracle knows the memory."""
        chance, now = self.chance, self.clock.now
        told = [each for (owner, _), versions in self.oracle.told.items() if owner == scope for each in versions[-1:]]
        sources = [each for each in told if not each.erased and each.recorded_at < now]
        derived = [chance.choice(sources).content] if sources and chance.random() < 0.1 else []
        content = f"{scope} says {self.turn} {chance.random()}"
        said: dict[str, object] = {"step": self.step(), "scope": scope, "content": content}
        name = chance.choice(MEMORIES)
        if chance.random() < 0.3:
            subject, predicate = chance.choice(FACTS)
            name = f"{subject} {predicate}"
            said |= {"subject": chance.choice([subject, subject.upper()]), "predicate": f" {predicate}"}
        else:
            said |= {"memory_id": name}
        if chance.random() < 0.4:
            said["ttl"] = timedelta(hours=chance.randint(1, 200))
        if chance.random() < 0.5:
            said["valid_from"] = now + timedelta(hours=chance.randint(-60, 30))
            if chance.random() < 0.4:
                said["valid_to"] = now + timedelta(hours=chance.randint(31, 90))
        if derived:
            said["origin"] = Origin(derived_from=tuple(self.ids[content] for content in derived))
        return name, RememberCall.model_validate({**said, **fields})

    ids: dict[str, str] = field(default_factory=dict)
    """The version id of each content."""

    def note(self, name: str, call: RememberCall, version_id: str, recorded_at: datetime) -> None:
        """Tell the oracle what was written."""
        contents = {version_id: content for content, version_id in self.ids.items()}
        self.ids[call.content] = version_id
        said = Said(
            content=call.content,
            recorded_at=recorded_at,
            valid_from=call.valid_from or recorded_at,
            valid_to=call.valid_to,
            expires_at=recorded_at + call.ttl if call.ttl else None,
            derived_from=tuple(contents[each] for each in call.origin.derived_from),
        )
        self.oracle.say(call.scope, name, said)

    async def remember(self) -> None:
        """Say something, now and then by a writer that is killed before it tells the index."""
        name, call = self.to_say(self.chance.choice(SCOPES))
        now = self.clock.now
        if self.chance.random() < 0.1:
            written = await self.database.transact(lambda connection: records.write(connection, call, now))
            remembered = written.remembered
        else:
            remembered = await self.chance.choice([self.memory, self.second]).remember(call)
        self.names[call.scope, name] = remembered.memory_id
        self.calls.append(call)
        self.note(name, call, remembered.version_id, now)

    async def several(self) -> None:
        """Say several things of one memory at once, from two processes' connections."""
        scope = self.chance.choice(SCOPES)
        name = self.chance.choice(MEMORIES)
        calls = []
        for _ in range(4):
            self.turn += 1
            plain = {"subject": None, "predicate": None, "memory_id": name, "origin": Origin()}
            calls.append(self.to_say(scope, **plain)[1])
        writers = [self.memory, self.second] * 2
        done = await asyncio.gather(*(writer.remember(call) for writer, call in zip(writers, calls, strict=True)))
        history = {each.version_id: each.recorded_at for each in await self.memory.history(name, scope)}
        for remembered, call in sorted(zip(done, calls, strict=True), key=lambda pair: pair[0].version):
            self.note(name, call, remembered.version_id, history[remembered.version_id])
            self.names[scope, name] = name

    async def retry(self) -> None:
        """Say something again that was said before, as a step does whose first answer was lost."""
        if self.calls:
            await self.memory.remember(self.chance.choice(self.calls[-50:]))

    async def update(self) -> None:
        """Change one memory."""
        scope, name, memory_id = self.pick()
        versions = self.oracle.told.get((scope, name), [])
        now = self.clock.now
        call = UpdateCall(step=self.step(), scope=scope, memory_id=memory_id, content=f"{scope} corrects {self.turn}")
        if not versions or versions[-1].erased or not versions[-1].standing(now):
            with pytest.raises(NotFound):
                await self.memory.update(call)
            return
        remembered = await self.memory.update(call)
        self.ids[str(call.content)] = remembered.version_id
        said = Said(str(call.content), now, now, expires_at=versions[-1].expires_at)
        self.oracle.say(scope, name, said)

    async def forget(self) -> None:
        """End a memory."""
        scope, name, memory_id = self.pick()
        how = self.chance.choice(["expire", "retract"])
        await self.memory.forget(
            ForgetCall.model_validate({"step": self.step(), "scope": scope, "how": how, "memory_id": memory_id})
        )
        self.oracle.forget(scope, name, self.clock.now)

    async def erase(self) -> None:
        """Erase a memory."""
        scope, name, memory_id = self.pick()
        done = await self.memory.forget(ForgetCall(step=self.step(), scope=scope, how="erase", memory_id=memory_id))
        assert done.complete
        self.oracle.erase(scope, name)

    async def crash(self) -> None:
        """Kill the process; the index opens as the disk has it."""
        await self.index.close()
        self.index = await LaggingIndex.open(self.folder, Letters())
        self.restart()

    async def lag(self) -> None:
        """Let the index miss some changes and answer all the same: it may lack, and never says what SQL does not."""
        self.index.lagging = True
        for _ in range(5):
            self.clock.move(timedelta(minutes=self.chance.randint(1, 90)))
            await self.chance.choice([self.remember, self.forget, self.several])()
            await self.recall(complete=False)
        self.index.lagging = False
        await self.memory.reindex()

    async def recall(self, *, complete: bool = True) -> None:
        """Ask for everything, as of now or then."""
        scope = self.chance.choice(SCOPES)
        known_at = self.moment()
        valid_at = self.chance.choice([known_at, self.moment() + timedelta(hours=self.chance.choice([0, 20]))])
        memory = self.chance.choice([self.memory, self.second])
        call = RecallCall(step=self.step(), query="?", scope=scope, limit=100, valid_at=valid_at, known_at=known_at)
        found = set((await memory.recall(call)).texts)
        wanted = self.oracle.live(scope, valid_at, known_at)
        assert found == wanted if complete else found <= wanted, (self.turn, found ^ wanted)
        self.reads += 1

    async def get(self) -> None:
        """Ask for one memory, as of now or then."""
        scope, name, memory_id = self.pick()
        at = self.moment()
        try:
            found = (await self.memory.get(memory_id, scope, as_of=at)).content
        except NotFound:
            found = None
        assert self.oracle.holds(scope, name, at, at) == found, self.turn
        self.reads += 1

    async def list(self) -> None:
        """List a scope, as of now or then."""
        scope, at = self.chance.choice(SCOPES), self.moment()
        listed = await self.memory.list(ListCall(step=self.step(), scope=scope, as_of=at))
        assert self.oracle.live(scope, at, at) == {each.content for each in listed.records}, self.turn
        self.reads += 1

    def pick(self) -> tuple[Scope, str, str]:
        """Return a memory: its scope, how the oracle calls it, and its id."""
        scope = self.chance.choice(SCOPES)
        name = self.chance.choice([*MEMORIES, *(" ".join(fact) for fact in FACTS)])
        return scope, name, self.names.get((scope, name), name)

    async def run(self, operations: int) -> None:
        """Do that many OPERATIONS."""
        chances: list[tuple[Callable[[], Awaitable[None]], float]] = [
            (self.remember, 34),
            (self.recall, 24),
            (self.get, 16),
            (self.list, 8),
            (self.update, 5),
            (self.retry, 4),
            (self.forget, 4),
            (self.several, 2),
            (self.crash, 0.5),
            (self.erase, 0.7),
            (self.lag, 0.15),
        ]
        kinds, weights = zip(*chances, strict=True)
        while self.turn < operations:
            self.turn += 1
            self.clock.move(timedelta(minutes=self.chance.randint(1, 90)))
            await self.chance.choices(kinds, weights)[0]()


@asynccontextmanager
async def trial(url: str, folder: Path, *, seed: int) -> AsyncIterator[Trial]:
    """Yield a trial over the database at URL with its index in FOLDER."""
    async with open_database(url) as database, open_database(url) as other:
        index = await LaggingIndex.open(folder / "index", Letters())
        tried = Trial(database, other, folder / "index", Clock(), index, random.Random(seed))
        try:
            yield tried
        finally:
            await tried.index.close()


async def _try(url: str, folder: Path, *, seed: int, operations: int) -> None:
    async with trial(url, folder, seed=seed) as tried:
        await tried.run(operations)
        verified = await tried.memory.verify(VerifyCall(vectors=False))

        assert tried.reads > operations * 0.4
        assert verified.sound, verified


async def test_agrees_with_the_oracle(database_url: str, tmp_path: Path) -> None:
    """Whatever happens in whatever order: nothing stale, expired, foreign or erased is read, and nothing is missing."""
    await _try(database_url, tmp_path, seed=11, operations=600)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [1, 2])
async def test_agrees_with_the_oracle_for_long(database_url: str, tmp_path: Path, seed: int) -> None:
    """The same over ten thousand operations."""
    await _try(database_url, tmp_path, seed=seed, operations=10_000)
