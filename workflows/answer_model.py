"""What a run and its activities say to each other about model calls outside conversations."""

from __future__ import annotations

from pydantic import JsonValue

from perdure.lineage import StepRef
from perdure.memory.conversations.contracts import Compact
from perdure.routing.contracts import (
    GenerateCall,
    Generation,
    ModelRecord,
    OutputRef,
)
from perdure.workflows.conversation_model import ForRun, TurnRecord, task_of
from perdure.workflows.run import Told


class AnswerCall(ForRun):
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

    @classmethod
    def of(cls, call: GenerateCall, told: Told) -> AnswerCall:
        """Return CALL in short, for a run that has TOLD this of itself."""
        return cls(
            **told,
            task="" if call.task == task_of(call.step.name) else call.task,
            inputs=call.inputs,
            output=call.output.name,
            json_schema=call.output.json_schema,
            tenant=call.tenant,
            agent=call.agent,
        )

    def whole(self, running: StepRef) -> GenerateCall:
        """Return the call at length, for the step that is RUNNING."""
        output = self.output
        return GenerateCall(
            step=self.step or running,
            task=self.task or task_of(running.name),
            inputs=self.inputs,
            output=OutputRef(name=output, json_schema=self.json_schema) if isinstance(output, str) else output,
            tenant=self.tenant,
            agent=self.agent,
        )


class Answer(Compact):
    """The result of the activity `perdure.generate`."""

    value: JsonValue
    confidence: float | None = None
    ask_below: float | None = None
    record: TurnRecord | ModelRecord
    """At length where the call named its step."""

    @classmethod
    def of(cls, generation: Generation) -> Answer:
        """Return GENERATION in short."""
        return cls(
            value=generation.value,
            confidence=None if generation.confidence is None else round(generation.confidence, 4),
            ask_below=generation.ask_below,
            record=TurnRecord.of(generation.record),
        )

    def whole(self, task: str) -> Generation:
        """Return what the call for TASK gave, at length."""
        record = self.record if isinstance(self.record, ModelRecord) else self.record.whole(task, self.value)
        return Generation(value=self.value, confidence=self.confidence, ask_below=self.ask_below, record=record)
