"""How runs are listed: the search attributes that a namespace has to know, and what a run is started with."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import temporalio.client
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import (
    CreateScheduleInput,
    ScheduleActionStartWorkflow,
    ScheduleHandle,
    StartWorkflowInput,
    StartWorkflowUpdateWithStartInput,
    UpdateWithStartStartWorkflowInput,
    WorkflowHandle,
    WorkflowUpdateHandle,
)
from temporalio.common import TypedSearchAttributes
from temporalio.service import OperatorService, RPCError, RPCStatusCode
from tenacity import AsyncRetrying, RetryError, retry_if_exception, retry_if_result, stop_after_delay, wait_fixed

from perdure.errors import (
    InvalidSettings,
    NotAllowed,
    PerdureError,
    Unreachable,
)
from perdure.workflows import attributes

TASK_TIMEOUT = timedelta(seconds=2)
"""How long a worker may take over a workflow task before another gets it: what a kill -9 costs a run between steps."""

T = TypeVar("T")


class Operated(Protocol):
    """A namespace and who administers it, such as a client has them."""

    @property
    def operator_service(self) -> OperatorService:
        """What adds search attributes."""
        ...

    @property
    def namespace(self) -> str:
        """Its name."""
        ...


@dataclass(frozen=True)
class Namespace:
    """A namespace, and the service that administers it."""

    operator_service: OperatorService
    namespace: str


class StartInterceptor(temporalio.client.Interceptor):
    """The client interceptor: runs start with perdure's state in the list and a short workflow task timeout."""

    def __init__(self, namespace: Operated | None = None) -> None:
        self._namespace = namespace

    def intercept_client(self, next: temporalio.client.OutboundInterceptor) -> temporalio.client.OutboundInterceptor:
        """Put it before NEXT."""
        return _Start(next, self._namespace)


class _Start(temporalio.client.OutboundInterceptor):
    def __init__(self, next: temporalio.client.OutboundInterceptor, namespace: Operated | None) -> None:
        super().__init__(next)
        self._namespace = namespace

    async def start_workflow(self, input: StartWorkflowInput) -> WorkflowHandle[Any, Any]:
        return await self._listed(input, lambda: self.next.start_workflow(input))

    async def start_update_with_start_workflow(self, input: StartWorkflowUpdateWithStartInput) -> WorkflowUpdateHandle[Any]:
        return await self._listed(input.start_workflow_input, lambda: self.next.start_update_with_start_workflow(input))

    async def create_schedule(self, input: CreateScheduleInput) -> ScheduleHandle:
        action = input.schedule.action
        if not isinstance(action, ScheduleActionStartWorkflow) or action.untyped_search_attributes:
            return await self.next.create_schedule(input)
        listed = copy.copy(action)
        listed.typed_search_attributes = attributes.listed_from_the_start(action.workflow, action.typed_search_attributes)
        with_it = replace(input, schedule=replace(input.schedule, action=listed))
        return await self._when_known(lambda: self.next.create_schedule(with_it), lambda: self.next.create_schedule(input))

    async def _listed(
        self, start: StartWorkflowInput | UpdateWithStartStartWorkflowInput, send: Callable[[], Awaitable[T]]
    ) -> T:
        """Start what is about to START as a run that is listed, and SEND it."""
        if start.task_timeout is None:
            start.task_timeout = TASK_TIMEOUT
        given = start.search_attributes
        if given is not None and not isinstance(given, TypedSearchAttributes):
            return await send()
        start.search_attributes = attributes.listed_from_the_start(start.workflow, given)

        def send_unlisted() -> Awaitable[T]:
            start.search_attributes = given
            return send()

        return await self._when_known(send, send_unlisted)

    async def _when_known(self, send: Callable[[], Awaitable[T]], send_unlisted: Callable[[], Awaitable[T]]) -> T:
        """SEND once the namespace knows what it is listed by, or unlisted where this connection may not add that."""
        try:
            return await send()
        except RPCError as error:
            if self._namespace is None or not _lacks_attributes(error):
                raise
        try:
            await ensure_search_attributes(self._namespace)
        except (InvalidSettings, NotAllowed):
            return await send_unlisted()
        # A server shows what was added before it takes it.
        known = AsyncRetrying(
            retry=retry_if_exception(_lacks_attributes), stop=stop_after_delay(10), wait=wait_fixed(0.1), reraise=True
        )

        async def once_more() -> T:
            return await send()

        return await known(once_more)


def _lacks_attributes(error: BaseException) -> bool:
    if not isinstance(error, RPCError) or error.status != RPCStatusCode.INVALID_ARGUMENT:
        return False
    return "search attribute" in error.message and any(name in error.message for name in attributes.TYPES)


async def ensure_search_attributes(client: Operated) -> list[str]:
    """Register perdure's search attributes where the namespace lacks them; return those that were added.

    Raises `InvalidSettings` with the commands to run where this connection may not add them.
    """
    missing = await missing_search_attributes(client)
    if not missing:
        return []
    types = {name: attributes.TYPES[name] for name in missing}
    try:
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace=client.namespace, search_attributes=types)
        )
    except RPCError as error:
        if error.status != RPCStatusCode.ALREADY_EXISTS:
            raise InvalidSettings(
                f"namespace {client.namespace!r} lacks search attributes and does not let this connection add them "
                f"({error.message}). Run:\n{search_attribute_commands(missing, client.namespace)}"
            ) from None
    # A server takes a moment until what was added can be used.
    shown = AsyncRetrying(
        retry=retry_if_result(lambda known: known is not None and not known.issuperset(missing)),
        stop=stop_after_delay(10),
        wait=wait_fixed(0.1),
    )
    try:
        await shown(_search_attributes, client)
    except RetryError:
        raise Unreachable(f"{', '.join(missing)} were added and the server does not show them after 10 s") from None
    return missing


async def missing_search_attributes(client: Operated) -> list[str]:
    """Return which of perdure's search attributes the namespace does not have, all of them if the server cannot tell."""
    known = await _search_attributes(client) or set()
    return [name for name in attributes.TYPES if name not in known]


def search_attribute_commands(names: list[str], namespace: str) -> str:
    """Return the commands of the temporal CLI that add NAMES."""
    kinds = {1: "Text", 2: "Keyword", 3: "Int", 4: "Double", 5: "Bool", 6: "Datetime"}
    return "\n".join(
        f"  temporal operator search-attribute create --namespace {namespace} --name {name} "
        f"--type {kinds[attributes.TYPES[name]]}"
        for name in names
    )


def describe_refusal(error: RPCError, namespace: str) -> PerdureError:
    """Return what a call to NAMESPACE that the server refused with ERROR means for the caller."""
    if error.status == RPCStatusCode.NOT_FOUND:
        return InvalidSettings(f"Temporal has no namespace {namespace!r}. Set TEMPORAL_NAMESPACE, or create it.")
    if error.status in (RPCStatusCode.UNAUTHENTICATED, RPCStatusCode.PERMISSION_DENIED):
        return NotAllowed(
            f"Temporal refuses access to namespace {namespace!r}: {error.message}. Check TEMPORAL_API_KEY or the TLS files"
        )
    return Unreachable(f"Temporal does not answer: {error.message}")


refused = describe_refusal
"""What 0.1.0 called it. Remove after 2027-06."""


async def _search_attributes(client: Operated) -> set[str] | None:
    """Return the custom search attributes of the namespace; None from a server that cannot list them (the test server)."""
    try:
        answer = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=client.namespace)
        )
    except RPCError as error:
        if error.status == RPCStatusCode.UNIMPLEMENTED:
            return None
        raise describe_refusal(error, client.namespace) from None
    return set(answer.custom_attributes)
