"""A LangGraph store over perdure's memory: put, get, search, delete and list namespaces, within one scope.

Needs `pip install perdure[langgraph]`. What the graph puts are records with versions, expiry and a source; what it deletes
expires, so that it can still be read as of then.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

from langgraph.store.base import (
    BaseStore,
    GetOp,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
)

from perdure.errors import InvalidInput, NotFound
from perdure.lineage import Lineage, StepRef, digest
from perdure.memory.contracts import (
    MemoryRecord,
    Origin,
    RecallCall,
    RememberCall,
    Scope,
)
from perdure.memory.records.requests import ForgetCall, ListCall
from perdure.memory.store import Memory

LABEL = "langgraph"
NEAREST = 100
"""Of how many nearest records a search with a query keeps those of its namespace and filter."""


class PerdureStore(BaseStore):
    """A LangGraph store in SCOPE of MEMORY. Made in the event loop of MEMORY; other threads may use it too."""

    supports_ttl = True

    def __init__(self, memory: Memory, scope: Scope) -> None:
        self._memory = memory
        self._scope = scope
        self._loop = asyncio.get_running_loop()
        self._instance = str(uuid.uuid4())

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Do OPS in their order, from a thread other than that of the event loop."""
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            raise InvalidInput("this store works in the running event loop; call `abatch`, `aget`, `aput`... instead")
        return asyncio.run_coroutine_threadsafe(self.abatch(ops), self._loop).result()

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Do OPS in their order."""
        return [await self._do(op) for op in ops]

    async def _do(self, op: Op) -> Result:
        match op:
            case PutOp():
                await self._put(op)
                return None
            case GetOp():
                return await self._get(op)
            case SearchOp():
                return await self._search(op)
            case ListNamespacesOp():
                return await self._namespaces(op)
        raise InvalidInput(f"{type(op).__name__} is no operation that this store knows")

    async def _put(self, op: PutOp) -> None:
        memory_id = _memory_id(op.namespace, op.key)
        if op.value is None:
            call = ForgetCall(step=self._step(), scope=self._scope, how="expire", memory_id=memory_id, by=LABEL)
            await self._memory.forget(call)
            return
        kept = {"namespace": list(op.namespace), "key": op.key, "value": op.value}
        await self._memory.remember(
            RememberCall(
                step=self._step(),
                scope=self._scope,
                content=json.dumps(kept, ensure_ascii=False),
                kind="semantic",
                memory_id=memory_id,
                labels=(LABEL,),
                ttl=None if op.ttl is None else timedelta(minutes=op.ttl),
                origin=Origin(actor=LABEL),
            )
        )

    async def _get(self, op: GetOp) -> Item | None:
        try:
            record = await self._memory.get(_memory_id(op.namespace, op.key), self._scope)
        except NotFound:
            return None
        return Item(**await self._as_item(record))

    async def _search(self, op: SearchOp) -> list[SearchItem]:
        found: list[tuple[MemoryRecord, float | None]]
        if op.query:
            call = RecallCall(step=self._step(), query=op.query, scope=self._scope, limit=NEAREST)
            found = [(hit.record, hit.score) for hit in (await self._memory.recall(call)).hits]
        else:
            found = [(record, None) for record in await self._list_all()]
        wanted = [
            (record, score)
            for record, score in found
            if LABEL in record.labels and _is_match(json.loads(record.content), op)
        ]
        page = wanted[op.offset : op.offset + op.limit]
        return [SearchItem(**await self._as_item(record), score=score) for record, score in page]

    async def _namespaces(self, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        spaces = {tuple(json.loads(record.content)["namespace"]) for record in await self._list_all()}
        matching = {space for space in spaces if all(_meets_condition(space, each) for each in op.match_conditions or ())}
        cut = sorted({space[: op.max_depth] for space in matching})
        return cut[op.offset : op.offset + op.limit]

    async def _list_all(self) -> list[MemoryRecord]:
        records: list[MemoryRecord] = []
        after = ""
        while True:
            call = ListCall(step=self._step(), scope=self._scope, label=LABEL, limit=1000, after=after)
            page = await self._memory.list(call)
            records += page.records
            if not page.next:
                return records
            after = page.next

    async def _as_item(self, record: MemoryRecord) -> dict[str, Any]:
        kept = json.loads(record.content)
        created_at = record.recorded_at
        if record.version > 1:
            first, *_ = await self._memory.history(record.memory_id, self._scope)
            created_at = first.recorded_at
        return {
            "value": kept["value"],
            "key": kept["key"],
            "namespace": tuple(kept["namespace"]),
            "created_at": created_at,
            "updated_at": record.recorded_at,
        }

    def _step(self) -> StepRef:
        # LangGraph says nothing of runs or retries, so every operation is a step of its own.
        lineage = Lineage(namespace=LABEL, workflow_id=f"{self._scope}", first_execution_run_id=self._instance)
        return StepRef(lineage=lineage, name=str(uuid.uuid4()))


def _memory_id(namespace: tuple[str, ...], key: str) -> str:
    return digest([*namespace, [key]]).removeprefix("sha256:")


def _is_match(kept: dict[str, Any], op: SearchOp) -> bool:
    prefix = list(op.namespace_prefix)
    if kept["namespace"][: len(prefix)] != prefix:
        return False
    return all(_satisfies(kept["value"].get(name), condition) for name, condition in (op.filter or {}).items())


def _satisfies(value: Any, condition: Any) -> bool:
    if not isinstance(condition, dict) or not any(str(name).startswith("$") for name in condition):
        return bool(value == condition)
    compare: dict[str, Callable[[Any], bool]] = {
        "$eq": lambda other: value == other,
        "$ne": lambda other: value != other,
        "$gt": lambda other: value is not None and value > other,
        "$gte": lambda other: value is not None and value >= other,
        "$lt": lambda other: value is not None and value < other,
        "$lte": lambda other: value is not None and value <= other,
    }
    if strange := condition.keys() - compare.keys():
        raise InvalidInput(f"filter {min(strange)!r} is none of {', '.join(compare)}")
    return all(compare[name](other) for name, other in condition.items())


def _meets_condition(space: tuple[str, ...], condition: MatchCondition) -> bool:
    path = condition.path
    if len(space) < len(path):
        return False
    part = space[: len(path)] if condition.match_type == "prefix" else space[len(space) - len(path) :]
    return all(wanted in ("*", given) for given, wanted in zip(part, path, strict=True))
