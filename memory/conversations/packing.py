"""What of a conversation and of memory goes into N tokens: the same material always gives the same prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import rfc8785
from pydantic import JsonValue

from perdure.errors import InvalidInput
from perdure.memory.contracts import MemoryRecord
from perdure.memory.conversations.contracts import PackReceipt
from perdure.memory.conversations.messages import Message, Window

Count: TypeAlias = Callable[[str], int]
"""Estimates the tokens of a text. Two texts together never have more than the sum of theirs."""

Entry: TypeAlias = Mapping[str, JsonValue]


@dataclass(frozen=True)
class PackableRecord:
    """A memory record as a prompt shows it, under the name by which the receipt calls it."""

    id: str
    entry: Entry
    version_id: str = ""


def label_record(record: MemoryRecord) -> PackableRecord:
    """Return RECORD with where it came from. It is data, whoever wrote it: the label says so to the model."""
    return PackableRecord(
        f"{record.memory_id}@{record.version}",
        {
            "content": record.content,
            "kind": record.kind,
            "recorded_at": record.recorded_at.isoformat(),
            "source": record.source,
            "trust": "untrusted",
        },
        record.version_id,
    )


def pack(
    window: Window, records: Sequence[PackableRecord], *, tokens: int, count: Count, gone: Sequence[str] = ()
) -> tuple[dict[str, JsonValue], PackReceipt]:
    """Return what of WINDOW and RECORDS (best first) fits into TOKENS, as inputs of a prompt, and the receipt.

    In this order: the run's state, which has to fit into half; the summary of the oldest messages, cut to a quarter if
    need be; the newest message, cut if it does not fit by itself; records up to a third; messages back from the newest, as
    long as each fits; records again. What is between is left out with a note of how many. GONE names records that were
    wanted and are not there any more. Raises `InvalidInput` if the state is too large.
    """
    return _Packing(count, tokens).fill(window, records, gone)


@dataclass
class _Packing:
    count: Count
    budget: int
    cut: int = 0
    _left: int = field(init=False)

    def __post_init__(self) -> None:
        self._left = self.budget - self._cost({"conversation": [], "records": [], "state": None})

    def fill(
        self, window: Window, records: Sequence[PackableRecord], gone: Sequence[str]
    ) -> tuple[dict[str, JsonValue], PackReceipt]:
        inputs: dict[str, JsonValue] = {}
        if window.state is not None:
            self._take_state(window.state)
            inputs["state"] = window.state
        head: list[JsonValue] = []
        if window.summary is not None:
            head += self._take_summary(window.summary.content, window.summary.number)
        chosen = self._take_newest(window)
        third = self._left // 3
        taken = self._take_records(records, range(len(records)), min(third, self._left))
        chosen = self._take_older(window, chosen)
        taken = sorted(
            {*taken, *self._take_records(records, [at for at in range(len(records)) if at not in taken], self._left)}
        )
        left_out = window.earlier + len(window.messages) - len(chosen)
        if left_out:
            head.append({"role": "note", "content": _LEFT_OUT.format(left_out)})
        said = [*head, *(dict(entry) for entry in chosen)]
        if said:
            inputs["conversation"] = said
        if taken:
            inputs["records"] = [dict(records[at].entry) for at in taken]
        return inputs, PackReceipt(
            tokens=self._cost(inputs),
            first=window.messages[-len(chosen)].number if chosen else 1,
            last=window.messages[-1].number if chosen else 0,
            left_out=left_out,
            summarised=window.summary.number if window.summary else 0,
            cut=self.cut,
            records=tuple(records[at].id for at in taken),
            records_left_out=(*(one.id for at, one in enumerate(records) if at not in taken), *gone),
        )

    def _take_state(self, state: JsonValue) -> None:
        cost = self._cost(state)
        if cost > self.budget // 2:
            raise InvalidInput(
                f"the conversation's state has {cost} tokens; half of the context, {self.budget // 2}, is for it. Keep "
                "less in the state, or give the context more tokens."
            )
        self._left -= cost

    def _take_summary(self, text: str, number: int) -> list[JsonValue]:
        entry: dict[str, JsonValue] = {"role": "summary", "content": text, "messages": number}
        return [dict(fitting) for fitting in [self._fit(entry, min(self.budget // 4, self._left))] if fitting]

    def _take_newest(self, window: Window) -> list[Entry]:
        # Room for the note, should any message be left out.
        self._left -= self._cost({"role": "note", "content": _LEFT_OUT.format(10**9)})
        if not window.messages:
            return []
        entry = self._fit(window.messages[-1].entry, self._left)
        return [entry] if entry else []

    def _take_older(self, window: Window, chosen: list[Entry]) -> list[Entry]:
        older: Sequence[Message] = window.messages[:-1] if chosen else ()
        for message in reversed(older):
            cost = self._cost(message.entry)
            if cost > self._left:
                break
            self._left -= cost
            chosen = [message.entry, *chosen]
        return chosen

    def _take_records(self, records: Sequence[PackableRecord], which: Sequence[int], room: int) -> list[int]:
        taken = []
        for at in which:
            cost = self._cost(records[at].entry)
            if cost <= room:
                room -= cost
                self._left -= cost
                taken.append(at)
        return taken

    def _fit(self, entry: Entry, room: int) -> Entry | None:
        """Return ENTRY, cut if it does not fit into ROOM, or None if not even its frame does."""
        cost = self._cost(entry)
        if cost <= room:
            self._left -= cost
            return entry
        content = entry["content"]
        text = content if isinstance(content, str) else rfc8785.dumps(content).decode()
        fits, most = -1, len(text) - 1
        while fits < most:
            half = (fits + most + 1) // 2
            if self._cost({**entry, "content": text[:half], "cut": len(text) - half}) <= room:
                fits = half
            else:
                most = half - 1
        if fits < 0:
            return None
        self.cut += len(text) - fits
        shortened = {**entry, "content": text[:fits], "cut": len(text) - fits}
        self._left -= self._cost(shortened)
        return shortened

    def _cost(self, value: JsonValue | Entry) -> int:
        # And one for the comma.
        whole: JsonValue = dict(value) if isinstance(value, Mapping) else value
        return self.count(rfc8785.dumps(whole).decode()) + 1


_LEFT_OUT = "{} earlier messages are left out"
