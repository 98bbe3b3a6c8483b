"""What is known of a run while the events of its history are read."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.history.v1 import HistoryEvent
from temporalio.converter import DataConverter

from perdure.timetravel.contracts import (
    RunFacts,
    Step,
    StepKind,
    StepState,
)
from perdure.timetravel.decode import decode_result
from perdure.timetravel.payloads import Decoder


class TimelineDraft:
    """A timeline that is being built: the run's facts and its steps as the events so far tell them."""

    def __init__(self, converter: DataConverter, workflow_id: str) -> None:
        self.decode = Decoder(converter)
        self.run = RunFacts(workflow_id=workflow_id)
        self.steps: dict[int, Step] = {}
        self._aliases: dict[str, int] = {}

    def set_run_facts(self, **facts: object) -> None:
        """Write FACTS of the run down."""
        self.run = self.run.model_copy(update=facts)

    async def begin_step(self, event: HistoryEvent, kind: StepKind, name: str, **facts: object) -> Step:
        """Write down that a step began with EVENT."""
        known: dict[str, object] = {
            "id": event.event_id,
            "kind": kind,
            "name": name,
            "state": "scheduled",
            "scheduled": to_utc(event.event_time),
            "summary": await self.decode.text(event.user_metadata.summary),
        }
        step = self.steps[event.event_id] = Step.model_validate(known | facts)
        return step

    def update_step(self, begun: int, **facts: object) -> Step:
        """Write FACTS of the step down that began with the event BEGUN."""
        step = self.steps[begun] = self.steps[begun].model_copy(update=facts)
        return step

    def end_step(self, begun: int, state: StepState, event: HistoryEvent, **facts: object) -> Step:
        """Write down that the step that began with the event BEGUN ended with EVENT in STATE."""
        known: dict[str, object] = {"state": state, "ended": to_utc(event.event_time), "next_attempt": None}
        step = self.update_step(begun, **(known | facts))
        found = decode_result(step)
        if found.model is not None:
            usage = found.model.usage
            self.set_run_facts(
                cost_nano_usd=self.run.cost_nano_usd + usage.cost_nano_usd,
                model_calls=self.run.model_calls + found.model.provider_calls,
                prompt_tokens=self.run.prompt_tokens + usage.prompt_tokens,
                completion_tokens=self.run.completion_tokens + usage.completion_tokens,
            )
        matters = {name: value for name, value in vars(found).items() if value not in (None, "")}
        return self.update_step(begun, **matters)

    def add_alias(self, name: str, begun: int) -> None:
        """Remember that NAME stands for the step that began with the event BEGUN."""
        self._aliases[name] = begun

    def find_step(self, name: str) -> Step | None:
        """Return the step that NAME stands for."""
        return self.steps.get(self._aliases.get(name, 0))


def to_utc(stamp: Timestamp) -> datetime:
    """Return STAMP as an aware time in UTC."""
    return stamp.ToDatetime(tzinfo=UTC)
