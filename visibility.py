"""What a namespace has to know before runs can be listed by what perdure writes about them."""

from __future__ import annotations

from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode
from tenacity import AsyncRetrying, RetryError, retry_if_result, stop_after_delay, wait_fixed

from perdure.errors import (
    InvalidSettings,
    NotAllowed,
    PerdureError,
    Unreachable,
)
from perdure.workflows import attributes


async def ensure_search_attributes(client: Client) -> list[str]:
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


async def missing_search_attributes(client: Client) -> list[str]:
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


async def _search_attributes(client: Client) -> set[str] | None:
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
