"""How this process reaches Temporal: its own TEMPORAL_* variables and TOML profiles, nothing of ours."""

from __future__ import annotations

import os
import socket
from datetime import timedelta

import temporalio.client
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.envconfig import ClientConfig, ClientConnectConfig
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig
from temporalio.service import RPCError, RPCStatusCode
from tenacity import (
    AsyncRetrying,
    RetryError,
    retry_if_exception_type,
    retry_if_result,
    stop_after_delay,
    wait_fixed,
    wait_random_exponential,
)

from perdure.errors import InvalidSettings, NotAllowed, Unreachable
from perdure.plugin import PerdurePlugin
from perdure.workflows import attributes


async def connect(
    plugin: PerdurePlugin | None = None,
    *,
    profile: str | None = None,
    address: str | None = None,
    namespace: str | None = None,
    patience: timedelta = timedelta(0),
    role: str = "client",
) -> Client:
    """Return a governed client. ADDRESS and NAMESPACE go before the profile's; PATIENCE is how long to wait for the server.

    Raises `Unreachable` if no server answers, `NotAllowed` if it does not let us in, `InvalidSettings` for a bad profile.
    """
    plugin = plugin or PerdurePlugin()
    try:
        config = ClientConfig.load_client_connect_config(profile=profile)
    except (RuntimeError, ValueError, OSError) as error:
        raise InvalidSettings(f"Temporal's configuration cannot be read: {error}. Look at TEMPORAL_CONFIG_FILE.") from None
    target = address or config.get("target_host") or "localhost:7233"
    config["target_host"] = target
    config["namespace"] = namespace or config.get("namespace") or "default"
    identity = f"perdure-{role}@{socket.gethostname()}:{os.getpid()}"
    attempts = AsyncRetrying(
        retry=retry_if_exception_type(Unreachable),
        stop=stop_after_delay(patience.total_seconds()),
        wait=wait_random_exponential(multiplier=0.1, max=2),
        reraise=True,
    )
    try:
        async for attempt in attempts:
            with attempt:
                return await _connect_once(config, plugin, identity)
    except RetryError as error:
        raise Unreachable(f"no Temporal server answers at {target}") from error
    raise AssertionError("tenacity returns or raises")


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


def runtime(metrics_address: str) -> Runtime | None:
    """Return a runtime that serves Prometheus metrics at METRICS_ADDRESS, or None for the default one."""
    if not metrics_address:
        return None
    try:
        return Runtime(telemetry=TelemetryConfig(metrics=PrometheusConfig(bind_address=metrics_address)))
    except ValueError as error:
        raise InvalidSettings(
            f"metrics cannot be served at {metrics_address!r}: {error}. Change PERDURE_METRICS_ADDRESS."
        ) from None


async def _connect_once(config: ClientConnectConfig, plugin: PerdurePlugin, identity: str) -> Client:
    target, namespace = config.get("target_host", ""), config.get("namespace", "")
    try:
        client = await Client.connect(
            **config, identity=identity, plugins=_plugins(plugin), runtime=runtime(plugin.settings.metrics_address)
        )
    except RuntimeError as error:
        said = str(error)
        if "Unauthenticated" in said or "PermissionDenied" in said:
            raise NotAllowed(f"Temporal at {target} does not let us in: check TEMPORAL_API_KEY or the TLS files") from None
        raise Unreachable(
            f"no Temporal server answers at {target}. Start one with `perdure dev`, or set TEMPORAL_ADDRESS."
        ) from None
    except ValueError as error:
        raise InvalidSettings(f"TEMPORAL_ADDRESS {target!r} is not HOST:PORT: {error}") from None
    from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest

    try:
        await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=namespace))
    except RPCError as error:
        raise _refused(error, namespace) from None
    return client


def _plugins(plugin: PerdurePlugin) -> list[temporalio.client.Plugin]:
    if plugin.settings.tracing == "off":
        return [plugin]
    from temporalio.contrib.opentelemetry import OpenTelemetryPlugin

    return [plugin, OpenTelemetryPlugin(add_temporal_spans=True)]


async def _search_attributes(client: Client) -> set[str] | None:
    """Return the custom search attributes of the namespace; None from a server that cannot list them (the test server)."""
    try:
        answer = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=client.namespace)
        )
    except RPCError as error:
        if error.status == RPCStatusCode.UNIMPLEMENTED:
            return None
        raise _refused(error, client.namespace) from None
    return set(answer.custom_attributes)


def _refused(error: RPCError, namespace: str) -> Exception:
    if error.status == RPCStatusCode.NOT_FOUND:
        return InvalidSettings(f"Temporal has no namespace {namespace!r}. Set TEMPORAL_NAMESPACE, or create it.")
    if error.status in (RPCStatusCode.UNAUTHENTICATED, RPCStatusCode.PERMISSION_DENIED):
        return NotAllowed(f"Temporal does not let us into namespace {namespace!r}: {error.message}")
    return Unreachable(f"Temporal does not answer: {error.message}")
