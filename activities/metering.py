"""What the worker's metrics say of model calls: Prometheus gets them with those of Temporal's SDK."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from temporalio import activity

from perdure.errors import ModelError
from perdure.routing.contracts import GenerateCall, Generation

_versions: dict[str, str] = {}
"""What answered last, by deployment, as the provider calls it: a failed call does not say whom it failed at."""


def count_answer(call: GenerateCall, generation: Generation) -> None:
    """Count a call that brought an answer, or one that the cache has saved."""
    record = generation.record
    if not record.cached:
        _versions[record.deployment] = record.model
    tried = {"deployment": record.deployment, "task": call.task, "arm": record.arm}
    before_ms = sum(each.milliseconds for each in record.earlier)
    before_cost = sum(each.cost_nano_usd for each in record.earlier)
    outcome = "cached" if record.cached else "answered"
    _count(tried, outcome, record.milliseconds - before_ms, record.usage.cost_nano_usd - before_cost)


def count_failure(call: GenerateCall, error: ModelError) -> None:
    """Count the attempt that ended with ERROR, if it called anybody."""
    attempts = error.facts.get("attempts")
    last = attempts[-1] if isinstance(attempts, list) and attempts else None
    if not isinstance(last, Mapping) or last.get("attempt") != activity.info().attempt:
        return
    tried = {"deployment": str(last.get("deployment", "")), "task": call.task, "arm": str(last.get("arm", ""))}
    _count(tried, str(last.get("outcome")), int(last.get("milliseconds", 0)), int(last.get("cost_nano_usd", 0)))


def count_rollbacks(canaries: Sequence[str]) -> None:
    """Count the CANARIES that a call has rolled back."""
    for canary in canaries:
        counter = activity.metric_meter().create_counter("perdure_canary_rollbacks", "Canaries rolled back by their rule")
        counter.add(1, {"canary": canary})


def _count(tried: dict[str, str], outcome: str, milliseconds: int, nano_usd: int) -> None:
    version = _versions.get(tried["deployment"], "")
    meter = activity.metric_meter().with_additional_attributes({**tried, "version": version})
    meter.create_counter("perdure_model_calls", "Model calls, by how they ended").add(1, {"outcome": outcome})
    if outcome == "cached":
        return
    meter.create_histogram_float("gen_ai_client_operation_duration", "How long model calls take", "s").record(
        milliseconds / 1000, {"outcome": outcome}
    )
    cost = meter.create_histogram_float("perdure_model_call_cost", "What model calls cost, in US dollars", "usd")
    cost.record(nano_usd / 1e9, {"outcome": outcome})
