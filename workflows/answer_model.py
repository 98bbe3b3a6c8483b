"""What a run and its activities say to each other about model calls outside conversations."""

from __future__ import annotations

from pydantic import JsonValue

from perdure.lineage import StepRef
from perdure.memory.contracts import CompactModel
from perdure.routing.contracts import (
    GenerateCall,
    Generation,
    ModelRecord,
    OutputRef,
)
from perdure.workflows.conversation_model import RunCall, TurnRecord, task_name


class AnswerCall(RunCall):
    """The argument of the activity `perdure.generate`: a `GenerateCall` without what the activity finds out by itself."""

    step: StepRef | None = None
    """Calls before this name their step, and are answered at length. Remove after 2027-06."""
    task: str = ""
    """Empty: its step is called `generate:TASK`."""
    inputs: dict[str, JsonValue] = {}
    output: str | OutputRef
    json_schema: dict[str, JsonValue] | None = None
    tenant: str = "default"
    agent: str = ""

    def to_generate_call(self, running: StepRef) -> GenerateCall:
        """Return the call as the router takes it, for the step that is RUNNING."""
        output = self.output
        return GenerateCall(
            step=self.step or running,
            task=self.task or task_name(running.name),
            inputs=self.inputs,
            output=OutputRef(name=output, json_schema=self.json_schema) if isinstance(output, str) else output,
            tenant=self.tenant,
            agent=self.agent,
        )


class Answer(CompactModel):
    """The result of the activity `perdure.generate`."""

    value: JsonValue
    confidence: float | None = None
    ask_below: float | None = None
    record: TurnRecord | ModelRecord
    """At length where the call named its step."""

    @classmethod
    def from_generation(cls, generation: Generation) -> Answer:
        """Return GENERATION in short."""
        return cls(
            value=generation.value,
            confidence=None if generation.confidence is None else round(generation.confidence, 4),
            ask_below=generation.ask_below,
            record=TurnRecord.from_record(generation.record),
        )

    def to_generation(self, task: str) -> Generation:
        """Return what the call for TASK gave."""
        record = self.record if isinstance(self.record, ModelRecord) else self.record.to_record(task, self.value)
        return Generation(value=self.value, confidence=self.confidence, ask_below=self.ask_below, record=record)
