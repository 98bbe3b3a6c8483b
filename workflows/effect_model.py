"""What a run and its activities say to each other about effects: what neither of them can find out by itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pydantic import JsonValue

from perdure.connectors.contracts import Confirmation, EffectCall, EffectResult, Receipt
from perdure.lineage import StepRef
from perdure.memory.conversation import Compact
from perdure.workflows.conversation_model import DIGEST, InConversation, Place, at_length, named_by, shortened

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KEY = "pe-"


class ActCall(InConversation):
    """The argument of the activity `perdure.act`. In a conversation, the answer becomes its next message."""

    step: StepRef | None = None
    """The step whose effect it is, if it is not the one that runs. Calls before this always say it; the answer is at length."""
    action: str = ""
    """Empty: its step is called so."""
    args: dict[str, JsonValue]
    item: str = ""
    generation: int = 0
    must: bool = False
    instead_of: str = ""

    @classmethod
    def of(cls, call: EffectCall, running: StepRef, *, first_run: str, plan: str, place: Place) -> ActCall:
        """Return CALL in short, for the step that is RUNNING in a run with this FIRST_RUN and PLAN."""
        told: dict[str, object] = {"step": call.step, "action": call.action}
        if call.step == running:
            told = {"first_run": first_run, "plan": plan}
            if call.action != named_by(running.name):
                told["action"] = call.action
        return cls.model_validate({**call.model_dump(exclude={"step", "action"}), **told, **place})

    def whole(self, running: StepRef) -> EffectCall:
        """Return the call at length, for the step that is RUNNING."""
        return EffectCall(
            step=self.step or running,
            action=self.action or named_by(running.name),
            args=self.args,
            item=self.item,
            generation=self.generation,
            must=self.must,
            instead_of=self.instead_of,
        )


class ShortReceipt(Compact):
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
    def of(cls, receipt: Receipt) -> ShortReceipt:
        """Return RECEIPT in short."""
        at = receipt.confirmed_at
        return cls(
            key=shortened(receipt.key.removeprefix(_KEY)),
            ref=receipt.remote_ref,
            digest=shortened(receipt.response_digest.removeprefix(DIGEST)),
            at=None if at is None else (at - _EPOCH) // timedelta(microseconds=1),
            by=receipt.confirmed_by,
            sent=receipt.sent,
        )

    def whole(self, action: str) -> Receipt:
        """Return the receipt of ACTION."""
        return Receipt(
            key=_KEY + at_length(self.key) if self.key else "",
            action=action,
            remote_ref=self.ref,
            response_digest=DIGEST + at_length(self.digest) if self.digest else "",
            confirmed_at=None if self.at is None else _EPOCH + timedelta(microseconds=self.at),
            confirmed_by=self.by,
            sent=self.sent,
        )


class Acted(Compact):
    """The result of the activity `perdure.act`."""

    value: JsonValue = None
    """What the target answered. Null too if that is a message now."""
    receipt: ShortReceipt | Receipt
    """In full where the call named its step."""
    head: str = ""
    """The newest message afterwards. Empty: it follows from the arguments and the receipt."""

    def whole(self, action: str) -> EffectResult:
        """Return what ACTION gave, at length."""
        receipt = self.receipt if isinstance(self.receipt, Receipt) else self.receipt.whole(action)
        return EffectResult(value=self.value, receipt=receipt)
