"""Where the modules and names of 0.1.0 are now, so that imports which were written for it hold. Remove after 2027-06."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, cast

_MODULES = {
    "connectors.askers": "connectors.ledger.dependents",
    "connectors.compare": "connectors.reconciliation._compare",
    "connectors.compatible": "connectors.drift._compatibility",
    "connectors.contracts": "connectors.ledger.contracts connectors.drift.contracts",
    "connectors.course": "connectors.ledger._execution",
    "connectors.drift": "connectors.drift.drift",
    "connectors.findings": "connectors.reconciliation.findings",
    "connectors.grants": "connectors.http._oauth",
    "connectors.guard": "connectors.drift.guard",
    "connectors.http": "connectors.http.connector",
    "connectors.http_action": "connectors.http.action",
    "connectors.http_contract": "connectors.http._contract",
    "connectors.http_listing": "connectors.http.listing",
    "connectors.identity": "connectors.ledger._key_claim",
    "connectors.inbound": "connectors.events._inbound",
    "connectors.journal": "connectors.ledger.journal",
    "connectors.ledger": "connectors.ledger.ledger",
    "connectors.nats": "connectors.events.nats",
    "connectors.openapi": "connectors.openapi.connector",
    "connectors.openapi_action": "connectors.openapi._action",
    "connectors.openapi_document": "connectors.openapi._document",
    "connectors.openapi_operations": "connectors.openapi._operations",
    "connectors.openapi_schemas": "connectors.openapi._schemas",
    "connectors.openapi_use": "connectors.openapi._use",
    "connectors.reconcile": "connectors.reconciliation.reconcile",
    "connectors.repair": "connectors.reconciliation.repair",
    "connectors.resolving": "connectors.ledger._resolution",
    "connectors.sql": "connectors.sql._connector",
    "connectors.sql_action": "connectors.sql._action",
    "connectors.sql_contract": "connectors.sql._contract",
    "connectors.states": "connectors.ledger.states",
    "connectors.stream": "connectors.events.stream",
    "connectors.sweep": "connectors.reconciliation.orphans",
    "connectors.tables": "connectors.ledger.tables connectors.http.tables",
    "connectors.tokens": "connectors.http._token_cache",
    "connectors.vendure": "connectors.vendure._connector",
    "connectors.vendure_login": "connectors.vendure._login",
    "connectors.vendure_models": "connectors.vendure._models",
    "connectors.vendure_reading": "connectors.vendure._reading",
    "connectors.watch_tables": "connectors.drift.tables connectors.events.tables connectors.reconciliation.tables",
    "connectors.watched": "connectors.drift.contracts connectors.reconciliation.contracts connectors.events.contracts",
    "connectors.wordpress": "connectors.wordpress._connector",
    "connectors.wordpress_posts": "connectors.wordpress._posts",
    "connectors.wordpress_schema": "connectors.wordpress._schema",
    "memory.archive": "memory.erasure.archive",
    "memory.belonging": "memory.records.run_scopes",
    "memory.building": "memory.index.building",
    "memory.changing": "memory.records.changing",
    "memory.checking": "memory.index.checking",
    "memory.claiming": "memory.index.ownership",
    "memory.conversation": "memory.conversations.contracts",
    "memory.conversation_tables": "memory.conversations.tables memory.records.tables",
    "memory.conversations": "memory.conversations.erasure",
    "memory.edge": "memory.index.edge",
    "memory.embed": "memory.index.embed",
    "memory.erasing": "memory.erasure.erasing",
    "memory.feeding": "memory.index.sync",
    "memory.forgetting": "memory.records.forgetting",
    "memory.index": "memory.index.protocol memory.moments",
    "memory.lexical": "memory.index.lexical",
    "memory.messages": "memory.conversations.messages",
    "memory.packing": "memory.conversations.packing",
    "memory.ranking": "memory.recall.ranking",
    "memory.reading": "memory.records.reading",
    "memory.recalling": "memory.recall.recalling",
    "memory.records": "memory.records.records",
    "memory.server": "memory.index.qdrant",
    "memory.shard": "memory.index._shard",
    "memory.shard_process": "memory.index._shard_process",
    "memory.sources": "memory.conversations._sources",
    "memory.usage": "memory.records.usage",
    "memory.verbs": "memory.records.requests",
    "routing.answers": "routing.prompts.answers",
    "routing.arms": "routing.attempts.canaries",
    "routing.batch_api": "routing.batches._batch_api",
    "routing.batches": "routing.batches.batches",
    "routing.breakers": "routing.providers.breakers",
    "routing.budgets": "routing.calls.budgets",
    "routing.cache": "routing.calls.cache",
    "routing.calls": "routing.calls.calls",
    "routing.canary": "routing.canary.canary",
    "routing.canary_report": "routing.canary.comparison",
    "routing.checks": "routing.prompts.checks",
    "routing.classifier": "routing.providers._classifier",
    "routing.config": "routing.routes.config routing.load",
    "routing.escalation": "routing.escalation.escalation",
    "routing.evidence": "routing.canary._evidence",
    "routing.examples": "routing.routes.examples",
    "routing.exchange": "routing.attempts.attempt",
    "routing.failures": "routing.providers.failures",
    "routing.gguf": "routing.providers.gguf",
    "routing.gguf_run": "routing.providers._gguf_run",
    "routing.inputs": "routing.prompts.inputs",
    "routing.labels": "routing.escalation.labels",
    "routing.ladder": "routing.attempts.ladder",
    "routing.learning": "routing.escalation._learning",
    "routing.local": "routing.providers.local",
    "routing.prompts": "routing.prompts.prompts",
    "routing.provider": "routing.providers.litellm",
    "routing.reading": "routing.prompts.reading",
    "routing.repeats": "routing.calls.recovery",
    "routing.rollback": "routing.canary.rollback",
    "routing.spans": "routing.calls.spans",
    "routing.spending": "routing.calls.spending",
    "routing.study": "routing.escalation.evaluation",
    "routing.trials": "routing.canary.trials",
    "workflows.ending": "workflows.cancellation",
    "workflows.judging": "workflows.labels",
    "workflows.memories": "workflows.memory",
    "workflows.steps": "workflows.effects workflows.generation workflows.memory workflows.call",
}
"""What a module was called, and what holds now what was in it, both without `perdure.`."""

_NAMES = {
    "Asker": "Dependent",
    "Checked": "ContractCheck",
    "Collecting": "CollectorState",
    "Compact": "CompactModel",
    "Configured": "ConfiguredConnector",
    "Contracted": "HasContract",
    "Conversed": "ConversationInfo",
    "Enqueued": "EnqueueResult",
    "Fanned": "FanResult",
    "Labelled": "LabelResult",
    "Packed": "PackReceipt",
    "Pinned": "HasPinnedContract",
    "Polled": "PollResult",
    "Raised": "RaiseResult",
    "Reconciled": "ReconcileResult",
    "Recorded": "RecordResult",
    "Relied": "ReliedContract",
    "Remembered": "RememberResult",
    "Repaired": "RepairResult",
    "Scribe": "TimelineBuilder",
    "Settled": "SettleResult",
    "Submitted": "SubmitResult",
    "SweepCall": "SettleOrphans",
    "Swept": "SettledOrphans",
    "Terse": "CompactModel",
    "Undone": "UndoResult",
    "Verified": "VerifiedRequest",
    "asked_and_answered": "tool_exchange",
    "bind": "digest_request",
    "blocked": "blocked_actions",
    "connector_of": "shared_name",
    "declared": "class_actions",
    "declared_in": "connector_from_settings",
    "fits": "find_misfit",
    "governance.approvals.Listed": "ApprovalEntry",
    "governance.contracts.Asked": "AskResult",
    "inlined": "inline_references",
    "judge": "label_answer",
    "look": "look_up",
    "memory.verbs.Changed": "ChangeCount",
    "memory.verbs.Due": "OverdueVersion",
    "memory.verbs.Forgotten": "ForgetResult",
    "memory.verbs.Found": "ExplainedReceipt",
    "memory.verbs.Got": "GetResult",
    "memory.verbs.How": "ForgetMode",
    "memory.verbs.Listed": "RecordPage",
    "memory.verbs.Restored": "ImportResult",
    "memory.verbs.SweepCall": "EnforceRetention",
    "memory.verbs.Swept": "RetentionReport",
    "memory.verbs.Verified": "IndexReport",
    "most_tokens": "estimate_tokens",
    "narrowed": "keep_properties",
    "shape": "normalize_path",
    "spent": "total_spending",
    "workflows.plan_model.compiled": "parse_expression",
}
"""What was called so, wherever it is now. A name that two modules had says in which one it was."""


def find(module: str, name: str) -> object:
    """Return what MODULE called NAME in 0.1.0. Raises `AttributeError` if there was no such thing."""
    here = module.removeprefix("perdure.")
    for place in _MODULES.get(here, "").split():
        new = import_module(f"perdure.{place}")
        if hasattr(new, name):
            return getattr(new, name)
    renamed = _NAMES.get(f"{here}.{name}") or _NAMES.get(name)
    if renamed is not None:
        return getattr(import_module(module), renamed)
    raise AttributeError(f"module {module!r} has no attribute {name!r}")


class _Moved(ModuleType):
    """A module of 0.1.0 that is no more: it has what is elsewhere now."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return find(self.__name__, name)


class _Finder:
    """What `sys.meta_path` asks, and what loads. Not by `importlib.abc`, which takes a tenth of a second to import."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        known = fullname.startswith("perdure.") and fullname.removeprefix("perdure.") in _MODULES
        return ModuleSpec(fullname, cast(Any, self)) if known else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Moved(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: what it has is found when it is asked for."""


def install() -> None:
    """Have Python find the modules of 0.1.0 where nothing else has their names."""
    # Last, so that it is asked only for what is nowhere else.
    sys.meta_path.append(_Finder())
