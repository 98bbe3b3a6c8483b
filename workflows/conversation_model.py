"""What a run and its activities say to each other about conversations: little, for it is recorded with every turn."""

from __future__ import annotations

import base64
from typing import TypedDict

from pydantic import JsonValue

from perdure.lineage import digest
from perdure.memory.contracts import CompactModel, Scope
from perdure.memory.conversations.contracts import (
    ConversationRef,
    NewMessage,
    PackReceipt,
    RecordsRef,
)
from perdure.routing.contracts import (
    Attempt,
    ModelRecord,
    Tier,
    Usage,
)

TOKENS = 4000
SUMMARY = "summarise"
# Both are on the wire by being left out, so they never change.

_MAIN = "main"
DIGEST = "sha256:"


class ConversationPosition(TypedDict):
    """Where a call goes on in a conversation and what it says there: the fields of `InConversation`."""

    talk: str
    after: str
    summed: str
    begun: int
    new: tuple[NewMessage, ...]
    of: tuple[Scope, ...]


class RunCall(CompactModel):
    """What an activity cannot find out about its step by itself: the rest is not recorded again with every call."""

    first_run: str = ""
    """The first run's id, if this is a later one."""
    plan: str = ""
    namespace: str = ""
    """Said once a run, for whoever reads the history, which does not say it otherwise."""


class StoringCall(RunCall):
    """What every step says that stores something."""

    new: tuple[NewMessage, ...] = ()
    of: tuple[Scope, ...] = ()
    """Whose conversation it is, as far as no step has said so yet."""


class ConversationCall(StoringCall):
    """Where a call goes on in a conversation, in as few bytes as will do."""

    talk: str = ""
    """Its name. Empty: `main`, of which something is stored."""
    after: str = ""
    """Its newest message that is stored."""
    summed: str = ""
    """The summary that stands for the oldest messages."""
    begun: int = 0
    """How often it was begun anew."""

    @property
    def ref(self) -> ConversationRef | None:
        """The conversation. None: it is in none."""
        if not (self.talk or self.after):
            return None
        return ConversationRef(name=self.talk or _MAIN, head=self.after, summary=self.summed, begun=self.begun)


class ConverseCall(ConversationCall):
    """The argument of the activity `perdure.converse`."""

    task: str = ""
    """Empty: its step is called `generate:TASK`."""
    output: str
    json_schema: dict[str, JsonValue] | None = None
    inputs: dict[str, JsonValue] = {}
    conversation: ConversationRef | None = None
    """How calls before this said it; they are answered with the new head. Remove after 2027-06."""
    tokens: int = TOKENS
    records: tuple[RecordsRef, ...] = ()
    summary: str = SUMMARY
    tenant: str = "default"
    agent: str = ""


class TurnRecord(CompactModel):
    """A `ModelRecord` without what the call and the answer say already. It stands in the history with every turn."""

    tier: Tier = "small"
    deployment: str
    model: str
    used: tuple[int, int, int] = (0, 0, 0)
    """Prompt tokens, completion tokens, nano-USD."""
    prompt: str
    """The prompt's SHA-256 in base64, a third shorter than in hex."""
    ms: int = 0
    attempt: int = 1
    provider_calls: int = 1
    repaired: bool = False
    repairs: str = ""
    switched: str = ""
    version: str = ""
    """Of the instructions."""
    arm: str = ""
    canary: str = ""
    escalation: str = ""
    """The version of the learned escalation."""
    earlier: tuple[Attempt, ...] = ()
    cached: bool = False
    saved: int = 0
    """Nano-USD."""

    @classmethod
    def from_record(cls, record: ModelRecord) -> TurnRecord:
        """Return RECORD in short."""
        usage = record.usage
        return cls(
            tier=record.tier,
            deployment=record.deployment,
            model=record.model,
            used=(usage.prompt_tokens, usage.completion_tokens, usage.cost_nano_usd),
            prompt=to_base64(record.prompt_digest.removeprefix(DIGEST)),
            ms=record.milliseconds,
            attempt=record.attempt,
            provider_calls=record.provider_calls,
            repaired=record.repaired,
            repairs=record.repairs,
            switched=record.switched,
            version=record.prompt_version,
            arm=record.arm,
            canary=record.canary,
            escalation=record.escalation,
            earlier=record.earlier,
            cached=record.cached,
            saved=record.saved_nano_usd,
        )

    def to_record(self, task: str, value: JsonValue) -> ModelRecord:
        """Return the record of the call for TASK that gave VALUE. Its row in SQL is found by the step and the attempt."""
        prompt_tokens, completion_tokens, cost = self.used
        return ModelRecord(
            task=task,
            tier=self.tier,
            deployment=self.deployment,
            model=self.model,
            usage=Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, cost_nano_usd=cost),
            attempt=self.attempt,
            provider_calls=self.provider_calls,
            repaired=self.repaired,
            prompt_digest=DIGEST + to_hex(self.prompt) if self.prompt else "",
            answer_digest=digest(value),
            milliseconds=self.ms,
            repairs=self.repairs,
            switched=self.switched,
            prompt_version=self.version,
            arm=self.arm,
            canary=self.canary,
            escalation=self.escalation,
            earlier=self.earlier,
            cached=self.cached,
            saved_nano_usd=self.saved,
        )


class Turn(CompactModel):
    """The result of the activity `perdure.converse`."""

    value: JsonValue
    confidence: float | None = None
    ask_below: float | None = None
    head: str = ""
    """The newest message afterwards. Empty: it follows from what was said."""
    packed: PackReceipt
    full: bool = False
    """Whether the oldest messages should be summarised before the next turn."""
    record: TurnRecord


class KeepCall(StoringCall):
    """The argument of the activity `perdure.keep`: store what is new."""

    conversation: ConversationRef


class LookCall(KeepCall):
    """The argument of the local activity `perdure.look`: read something and let it be the next message."""

    action: str
    args: dict[str, JsonValue]


class KeepResult(CompactModel):
    """The result of the activities `perdure.keep` and `perdure.look`: the conversation as it stands."""

    head: str


class SummariseCall(RunCall):
    """The argument of the activity `perdure.summarise`."""

    conversation: ConversationRef
    task: str
    tokens: int
    tenant: str = "default"
    agent: str = ""


class SummariseResult(CompactModel):
    """The result of the activity `perdure.summarise`. No record: there was nothing to sum up."""

    summary: str
    messages: int = 0
    record: TurnRecord | None = None


def position_in(
    ref: ConversationRef | None, new: tuple[NewMessage, ...] = (), of: tuple[Scope, ...] = ()
) -> ConversationPosition:
    """Return the fields of a call that goes on from REF, which is OF somebody, and says what is NEW. None: in none."""
    if ref is None:
        return {"talk": "", "after": "", "summed": "", "begun": 0, "new": new, "of": of}
    known = bool(ref.head) and ref.name == _MAIN
    return {
        "talk": "" if known else ref.name,
        "after": ref.head,
        "summed": ref.summary,
        "begun": ref.begun,
        "new": new,
        "of": of,
    }


def base_name(step: str) -> str:
    """Return what the step called STEP was called at first: the second of a name is `NAME#2`."""
    return step.partition("#")[0]


def task_name(step: str) -> str:
    """Return the task that the step called STEP is for, if it is called as such steps are by themselves."""
    return base_name(step).removeprefix("generate:")


def to_base64(digits: str) -> str:
    """Return what stands in the hex DIGITS in base64: a third shorter."""
    return base64.b64encode(bytes.fromhex(digits)).rstrip(b"=").decode()


def to_hex(text: str) -> str:
    """Return the hex digits of what `shortened` gave."""
    return base64.b64decode(text + "==").hex()
