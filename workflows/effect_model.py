"""What a run and its activities say to each other about effects: what neither of them can find out by itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Self

from pydantic import JsonValue, model_validator

from perdure.connectors.contracts import (
    Confirmation,
    EffectCall,
    EffectResult,
    Receipt,
)
from perdure.lineage import StepRef
from perdure.memory.contracts import CompactModel
from perdure.workflows.conversation_model import (
    DIGEST,
    ConversationCall,
    base_name,
    to_base64,
    to_hex,
)

UNKNOWN_DATABASE = "?"
"""What stands in a call of a run that has done nothing yet: it wants to know in which database its effects are."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KEY = "pe-"


class ActCall(ConversationCall):
    """The argument of the activity `perdure.act`. In a conversation, the answer becomes its next message."""

    step: StepRef | None = None
    """The step whose effect it is, if it is not the one that runs: then the answer is at length."""
    action: str = ""
    """Empty: its step is called so."""
    args: dict[str, JsonValue]
    item: str = ""
    generation: int = 0
    must: bool = False
    instead_of: str = ""
    database: str = ""
    """The id of the database that the run's effects are in."""
    exact: bool = False
    """Whether a null in ARGS was written down as one, and does not stand for what was not given."""

    def to_effect_call(self, running: StepRef) -> EffectCall:
        """Return the call as the ledger takes it, for the step that is RUNNING."""
        return EffectCall(
            step=self.step or running,
            action=self.action or base_name(running.name),
            args=self.args,
            item=self.item,
            generation=self.generation,
            must=self.must,
            instead_of=self.instead_of,
            database="" if self.database == UNKNOWN_DATABASE else self.database,
            exact=self.exact,
        )


class ShortReceipt(CompactModel):
    """A `Receipt` without what the call says already."""

    key: str = ""
    """What comes after `pe-`, in base64: a third shorter than in hex."""
    ref: str = ""
    digest: str = ""
    """The answer's SHA-256 in base64."""
    at: int | None = None
    """When it was confirmed, in microseconds since 1970."""
    by: Confirmation = "response"
    sent: int = 1

    @classmethod
    def from_receipt(cls, receipt: Receipt) -> Self:
        """Return RECEIPT in short."""
        at = receipt.confirmed_at
        return cls(
            key=to_base64(receipt.key.removeprefix(_KEY)),
            ref=receipt.remote_ref,
            digest=to_base64(receipt.response_digest.removeprefix(DIGEST)),
            at=None if at is None else (at - _EPOCH) // timedelta(microseconds=1),
            by=receipt.confirmed_by,
            sent=receipt.sent,
        )

    def receipt(self, action: str) -> Receipt:
        """Return the receipt of ACTION at length."""
        return Receipt(
            key=_KEY + to_hex(self.key) if self.key else "",
            action=action,
            remote_ref=self.ref,
            response_digest=DIGEST + to_hex(self.digest) if self.digest else "",
            confirmed_at=None if self.at is None else _EPOCH + timedelta(microseconds=self.at),
            confirmed_by=self.by,
            sent=self.sent,
        )


class ActResult(ShortReceipt):
    """The result of the activity `perdure.act`: the receipt, and what the target answered."""

    value: JsonValue = None
    """Left out too if it is a message now."""
    database: str = ""
    """The id of the database that the effect is in, for a run that does not know it yet."""
    head: str = ""
    """The newest message afterwards. Empty: it follows from the arguments and the receipt."""

    @model_validator(mode="before")
    @classmethod
    def _shorten(cls, given: object) -> object:
        # What calls that name their step are answered. Remove after 2027-06.
        if isinstance(given, dict) and "receipt" in given:
            done = EffectResult.model_validate(given)
            return {**cls.from_receipt(done.receipt).model_dump(mode="json"), "value": done.value}
        return given
