"""Tests of sandbox.py: workflow code runs as in the SDK's sandbox, and nothing is compiled twice."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Sequence

import pytest
from kits.context_workflows import Child, Contexts, OpensAFile, echo
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, WorkflowFailureError
from temporalio.converter import DataConverter, PayloadCodec, SerializationContext, WithSerializationContext
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from perdure import sandbox
from perdure.sandbox import CompilingSandbox


class Recorder(PayloadCodec, WithSerializationContext):
    """A codec that writes down in which contexts it is asked, and changes nothing."""

    def __init__(self, seen: list[str], context: SerializationContext | None = None) -> None:
        self.seen, self.context = seen, context

    def with_context(self, context: SerializationContext) -> Recorder:
        """Return one that knows CONTEXT."""
        return Recorder(self.seen, context)

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Write down the context."""
        self.seen.append(f"encode {self.context}")
        return list(payloads)

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Write down the context."""
        self.seen.append(f"decode {self.context}")
        return list(payloads)


async def contexts(temporal: WorkflowEnvironment, runner: WorkflowRunner) -> tuple[list[str], list[str]]:
    """Return what `Contexts` returns under RUNNER, and the contexts of its payloads, without what is unique to the run."""
    seen: list[str] = []
    converter = dataclasses.replace(DataConverter.default, payload_codec=Recorder(seen))
    client = await Client.connect(temporal.client.service_client.config.target_host, data_converter=converter)
    name = str(uuid.uuid4())
    async with Worker(
        client,
        task_queue=name,
        workflows=[Contexts, Child],
        activities=[echo],
        workflow_runner=runner,
        max_cached_workflows=0,
    ):
        result = await client.execute_workflow(Contexts.run, name, id=name, task_queue=name)
    return result, sorted({each.replace(name, "RUN") for each in seen})


async def test_contexts_are_those_of_the_sdk(temporal: WorkflowEnvironment) -> None:
    """A codec is asked in the contexts of the SDK's own sandbox: of activities, local ones, children and signals."""
    theirs = await contexts(temporal, SandboxedWorkflowRunner())
    ours = await contexts(temporal, CompilingSandbox())

    assert theirs == ours
    assert any("is_local=True" in each for each in ours[1])
    assert any("RUN-child" in each for each in ours[1])


async def test_nothing_is_compiled_twice(temporal: WorkflowEnvironment) -> None:
    """A second run compiles nothing."""
    await contexts(temporal, CompilingSandbox())
    before = sandbox._compiled.cache_info().misses

    await contexts(temporal, CompilingSandbox())

    assert before == sandbox._compiled.cache_info().misses


def test_what_somebody_derived_stays() -> None:
    """A runner of a class of somebody's own is left alone, and the SDK's keeps its restrictions."""

    class Own(SandboxedWorkflowRunner):
        """Somebody's own."""

    own = Own()
    plain = SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules("numpy"))

    assert own is CompilingSandbox.of(own)
    assert plain.restrictions == CompilingSandbox.of(plain).restrictions


async def test_the_sandbox_still_refuses(temporal: WorkflowEnvironment) -> None:
    """What the SDK's sandbox refuses in workflow code is refused."""
    name = str(uuid.uuid4())
    async with Worker(
        temporal.client,
        task_queue=name,
        workflows=[OpensAFile],
        workflow_runner=CompilingSandbox(),
        workflow_failure_exception_types=[Exception],
    ):
        with pytest.raises(WorkflowFailureError) as caught:
            await temporal.client.execute_workflow(OpensAFile.run, id=name, task_queue=name)

    assert "Cannot access __builtins__.open" in str(caught.value.cause)
