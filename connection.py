"""How this process reaches Temporal: its own TEMPORAL_* variables and TOML profiles, nothing of ours."""

from __future__ import annotations

import os
import socket
from datetime import timedelta

import temporalio.client
from temporalio.client import Client
from temporalio.envconfig import ClientConfig, ClientConnectConfig
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig
from temporalio.service import RPCError
from tenacity import (
    AsyncRetrying,
    RetryError,
    retry_if_exception_type,
    stop_after_delay,
    wait_random_exponential,
)

from perdure.errors import InvalidSettings, NotAllowed, Unreachable
from perdure.plugin import PerdurePlugin
from perdure.visibility import describe_refusal


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

    Raises `Unreachable` if no server answers, `NotAllowed` if it refuses access, `InvalidSettings` for a bad profile.
    """
    plugin = plugin or PerdurePlugin()
    try:
        config = ClientConfig.load_client_connect_config(profile=profile)
    except (RuntimeError, ValueError, OSError) as error:
        raise InvalidSettings(f"Temporal's configuration cannot be read: {error}. Look at TEMPORAL_CONFIG_FILE.") from None
    target = address or config.get("target_host") or "localhost:7233"
    config["target_host"] = target
    config["namespace"] = namespace or config.get("namespace") or "default"
    identity = f"{socket.gethostname()}:{os.getpid()}"
    if role != "worker":  # a worker's stands in nearly all events of a history, where it is clear what it is
        identity = f"perdure-{role}@{identity}"
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


# The SDK's own are for milliseconds. Seconds: opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics; cost: US dollars.
_BUCKETS = {
    "gen_ai_client_operation_duration": [0.01 * 2**power for power in range(14)],
    "perdure_model_call_cost": [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1, 3, 10],
}


def runtime(metrics_address: str) -> Runtime | None:
    """Return a runtime that serves Prometheus metrics at METRICS_ADDRESS, or None for the default one."""
    if not metrics_address:
        return None
    try:
        return Runtime(
            telemetry=TelemetryConfig(
                metrics=PrometheusConfig(bind_address=metrics_address, histogram_bucket_overrides=_BUCKETS)
            )
        )
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
            raise NotAllowed(f"Temporal at {target} refuses access: check TEMPORAL_API_KEY or the TLS files") from None
        raise Unreachable(
            f"no Temporal server answers at {target}. Start one with `perdure dev`, or set TEMPORAL_ADDRESS."
        ) from None
    except ValueError as error:
        raise InvalidSettings(f"TEMPORAL_ADDRESS {target!r} is not HOST:PORT: {error}") from None
    from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest

    try:
        await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=namespace))
    except RPCError as error:
        raise describe_refusal(error, namespace) from None
    return client


def _plugins(plugin: PerdurePlugin) -> list[temporalio.client.Plugin]:
    if plugin.settings.tracing == "off":
        return [plugin]
    from temporalio.contrib.opentelemetry import OpenTelemetryPlugin

    return [plugin, OpenTelemetryPlugin(add_temporal_spans=True)]
