"""What the Temporal list can be filtered by."""

from __future__ import annotations

from datetime import datetime

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

PLAN = SearchAttributeKey.for_keyword("PerdurePlan")
"""The workflow's type, or the name of the plan that is interpreted."""

STATE = SearchAttributeKey.for_keyword("PerdureState")
"""running, waiting_approval, parked, completed, failed, cancelled, partially_compensated. The last is also that of a run
that is still taking back what it did and waits for a person. A terminated run keeps its last: filter on ExecutionStatus."""

RISK = SearchAttributeKey.for_keyword("PerdureRisk")
"""The highest risk among the actions and approvals so far: low, medium, high."""

COST = SearchAttributeKey.for_float("PerdureCostUsd")
"""What the run's model calls cost so far, in US dollars."""

APPROVAL_OWNER = SearchAttributeKey.for_keyword("PerdureApprovalOwner")
APPROVAL_DEADLINE: SearchAttributeKey[datetime] = SearchAttributeKey.for_datetime("PerdureApprovalDeadline")

TYPES = {
    PLAN.name: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    STATE.name: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    RISK.name: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    COST.name: IndexedValueType.INDEXED_VALUE_TYPE_DOUBLE,
    APPROVAL_OWNER.name: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    APPROVAL_DEADLINE.name: IndexedValueType.INDEXED_VALUE_TYPE_DATETIME,
}
"""What a namespace has to know before a run starts; `perdure dev` and the worker see to it."""


def listed_from_the_start(workflow: str, given: TypedSearchAttributes | None) -> TypedSearchAttributes:
    """Return what a run of WORKFLOW is started with, so that the list tells its state: what was GIVEN, and that it runs."""
    pairs = list(given.search_attributes) if given else []
    named = {pair.key.name for pair in pairs}
    ours: list[SearchAttributePair[str]] = [SearchAttributePair(STATE, "running"), SearchAttributePair(PLAN, workflow)]
    return TypedSearchAttributes([*pairs, *(pair for pair in ours if pair.key.name not in named)])
