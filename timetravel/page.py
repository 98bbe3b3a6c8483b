"""What is written down of a run while its events are read."""

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
from perdure.timetravel.decoding import Decoder
from perdure.timetravel.essentials import answered


class Page:
    """What is written down so far."""

    def __init__(self, converter: DataConverter, workflow_id: str) -> None:
        self.decode = Decoder(converter)
        self.run = RunFacts(workflow_id=workflow_id)
        self.steps: dict[int, Step] = {}
        self._ids: dict[str, int] = {}

    def note(self, **facts: object) -> None:
        """Write FACTS of the run down."""
        self.run = self.run.model_copy(update=facts)

    async def begin(self, event: HistoryEvent, kind: StepKind, name: str, **facts: object) -> Step:
        """Write down that a step began with EVENT."""
        known: dict[str, object] = {
            "id": event.event_id,
            "kind": kind,
            "name": name,
            "state": "scheduled",
            "scheduled": time_of(event.event_time),
            "summary": await self.decode.text(event.user_metadata.summary),
        }
        step = self.steps[event.event_id] = Step.model_validate(known | facts)
        return step

    def change(self, begun: int, **facts: object) -> Step:
        """Write FACTS of the step down that began with the event BEGUN."""
        step = self.steps[begun] = self.steps[begun].model_copy(update=facts)
        return step

    def end(self, begun: int, state: StepState, event: HistoryEvent, **facts: object) -> Step:
        """Write down that the step that began with the event BEGUN ended with EVENT in STATE."""
        known: dict[str, object] = {"state": state, "ended": time_of(event.event_time), "next_attempt": None}
        step = self.change(begun, **(known | facts))
        found = answered(step)
        if found.model is not None:
            usage = found.model.usage
            self.note(
                cost_nano_usd=self.run.cost_nano_usd + usage.cost_nano_usd,
                model_calls=self.run.model_calls + found.model.provider_calls,
                prompt_tokens=self.run.prompt_tokens + usage.prompt_tokens,
                completion_tokens=self.run.completion_tokens + usage.completion_tokens,
            )
        matters = {name: value for name, value in vars(found).items() if value not in (None, "")}
        return self.change(begun, **matters)

    def name(self, name: str, begun: int) -> None:
        """Remember that NAME stands for the step that began with the event BEGUN."""
        self._ids[name] = begun

    def step_of(self, name: str) -> Step | None:
        """Return the step that NAME stands for."""
        return self.steps.get(self._ids.get(name, 0))


def time_of(stamp: Timestamp) -> datetime:
    """Return STAMP as an aware time in UTC."""
    return stamp.ToDatetime(tzinfo=UTC)
