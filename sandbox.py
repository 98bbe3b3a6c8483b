"""How workflow code is run in Temporal's sandbox, without compiling the same lines again for each payload.

The SDK runs each call into a workflow's sandbox as a string of source, compiled anew, and asks the workflow once for each
payload in which serialization context it is. What is compiled is kept, and the context, which comes from the workflow's own
records and imports nothing, is read directly. The rest of the sandbox is the SDK's. See docs/decisions/0035.
"""

from __future__ import annotations

import threading
from dataclasses import fields
from functools import cache
from types import CodeType
from typing import TYPE_CHECKING, Any, cast

from temporalio import workflow
from temporalio.worker import WorkflowInstance, WorkflowInstanceDetails
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner
from temporalio.worker.workflow_sandbox._runner import _Instance  # pinned to a minor version; tests/test_sandbox.py

if TYPE_CHECKING:
    from temporalio.converter import SerializationContext
    from temporalio.converter._extstore import StorageDriverStoreContext
    from temporalio.worker._command_aware_visitor import CommandInfo


class CompilingSandbox(SandboxedWorkflowRunner):
    """The SDK's sandbox, which keeps what it has compiled."""

    @classmethod
    def of(cls, runner: SandboxedWorkflowRunner) -> SandboxedWorkflowRunner:
        """Return what runs as RUNNER does; RUNNER itself if it is of a class that somebody derived."""
        if type(runner) is not SandboxedWorkflowRunner:
            return runner
        return cls(**{each.name: getattr(runner, each.name) for each in fields(runner) if each.init})

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        """Return a sandbox for the run of DET."""
        return _CompilingInstance(det, self.runner_class, self.restrictions)


class _CompilingInstance(_Instance):
    def _run_code(self, code: str, **extra_globals: Any) -> None:
        self.globals_and_locals |= extra_globals
        try:
            workflow.unsafe._set_in_sandbox(True)  # noqa: SLF001  as the method that this stands for
            self._current_thread_id = threading.get_ident()
            exec(_compiled(code), self.globals_and_locals, self.globals_and_locals)  # noqa: S102  the SDK's own lines
        finally:
            workflow.unsafe._set_in_sandbox(False)  # noqa: SLF001
            self._current_thread_id = None
            for name in extra_globals:
                self.globals_and_locals.pop(name, None)

    def get_serialization_context(self, command_info: CommandInfo | None) -> SerializationContext | None:
        return cast("SerializationContext | None", self._inside.get_serialization_context(command_info))

    def get_external_store_context(self, command_info: CommandInfo | None) -> StorageDriverStoreContext:
        return cast("StorageDriverStoreContext", self._inside.get_external_store_context(command_info))

    @property
    def _inside(self) -> Any:
        return self.globals_and_locals["__temporal_in_sandbox"]


@cache
def _compiled(code: str) -> CodeType:
    # A few lines of the SDK and one for each workflow class: the cache does not grow with runs.
    return compile(code, "workflow_sandbox.py", "exec")
