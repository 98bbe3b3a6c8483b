"""What is said about how the ledger and the targets agree, and about repairs. Safe to import in workflow code."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from pydantic import Field, JsonValue

from perdure.connectors.contracts import EffectCall, Reversibility, Risk
from perdure.lineage import Frozen, StepRef, digest

FindingKind = Literal["missing", "duplicate", "changed", "unknown"]

FindingState = Literal["open", "repaired", "accepted", "gone"]

How = Literal["send again", "remove", "accept"]
FINDING_KINDS: tuple[FindingKind, ...] = ("missing", "duplicate", "changed", "unknown")

REPAIRING = "repair"
"""What stands for the namespace in the step of an effect that only a repair asks for."""


def repair_id(finding: str) -> str:
    """Return the workflow id of the repair of FINDING."""
    return f"repair-{finding}"


class Finding(Frozen):
    """Something in which the ledger and a target differ.

    `missing`: the ledger says it happened, and the target has none, or no longer. `duplicate`: the target has it more than
    once. `changed`: it is not at the target what the ledger recorded. `unknown`: it is at the target, and the ledger does
    not say that it happened.
    """

    id: str
    """The same difference has the same one in every report."""
    connector: str
    action: str
    kind: FindingKind
    state: FindingState = "open"
    """`gone`: a later comparison did not find it any more."""
    key: str = ""
    """The effect in the ledger; empty where there is none."""
    remote_ref: str = ""
    certain: bool = True
    """False: it looks so, and could be right as it is. A person has to know."""
    detail: str
    facts: dict[str, JsonValue] = Field(default_factory=dict)
    """What the target says."""
    recorded: dict[str, JsonValue] = Field(default_factory=dict)
    """What the ledger says."""
    at: datetime | None = None
    """When it was done, as far as anybody says."""
    first_report: str = ""
    last_report: str = ""
    opened_at: datetime | None = None
    closed_at: datetime | None = None
    closed_by: str = ""
    repair: str = ""
    """The key of the effect that repaired it."""
    openings: int = 1
    """How often it was opened: more than once if it had gone, or if its repair did not help."""


class Report(Frozen):
    """One comparison of the ledger with a target."""

    id: str
    connector: str
    actions: tuple[str, ...]
    since: datetime
    until: datetime
    at: datetime
    effects: int
    """How many effects of the ledger were compared."""
    listed: int
    """How many things the target listed."""
    unsettled: int = 0
    """How many effects were still open in the ledger, so that nothing can be said of them yet."""
    findings: tuple[Finding, ...] = ()
    """Those of this comparison, also those that were known before."""
    opened: tuple[str, ...] = ()
    """The ids of those that are new, or open again."""
    gone: tuple[str, ...] = ()
    """The ids of earlier ones that are no longer there."""

    @property
    def counts(self) -> dict[str, int]:
        """How many of each kind there are, those included that a person has accepted."""
        return {kind: sum(each.kind == kind for each in self.findings) for kind in FINDING_KINDS}


class ReconcileCall(Frozen):
    """The argument of the workflow and of the activity `perdure.reconcile`."""

    connector: str
    since: datetime | None = None
    """None: LOOK_BACK before the end of the last comparison; for the first one, everything."""
    until: datetime | None = None
    """None: as late as everything has settled."""
    look_back: timedelta = timedelta(hours=24)
    """How far each comparison goes back over what the last one saw: that is how late landings are found."""


class ReconcileResult(Frozen):
    """The result of the workflow and of the activity `perdure.reconcile`. The report itself is in the database."""

    report: str
    connector: str
    since: datetime
    until: datetime
    effects: int
    listed: int
    counts: dict[str, int]
    opened: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    swept: dict[str, int] = Field(default_factory=dict)
    """What came of the effects that were open before the comparison, as in `SettledOrphans`."""


class SettleOrphans(Frozen):
    """The argument of the workflow and of the activity `perdure.sweep`."""

    connector: str = ""
    """Empty: all that the worker has."""
    quiet: timedelta = timedelta(hours=1)
    """How long nobody must have asked for an effect before it is looked up, where its run is not known to Temporal."""


class SettledOrphans(Frozen):
    """The result of the workflow and of the activity `perdure.sweep`: what became of the effects that were open.

    `alive`: somebody still asks for it, so it was left alone. `found`: it is at the target. `absent`: it is not, and is
    proposed again. `parked`: a person has to find out. `unknown`: its target could not be asked. `unserved`: the worker
    does not have its action.
    """

    connector: str = ""
    counts: dict[str, int] = Field(default_factory=dict)
    """How many of each kind."""
    keys: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Which, but for those that are alive; a hundred of each at most."""
    open: dict[str, int] = Field(default_factory=dict)
    """How many effects of the database are in which state now, of those that have not ended or wait for a person."""


class RepairCall(Frozen):
    """The argument of the workflow `perdure.repair`."""

    finding: str
    how: How | None = None
    """None: what fits the kind of the finding."""
    of: str = "operations"
    """Who is asked for the approval."""
    within: timedelta = timedelta(days=7)
    by: str = ""
    """Who wants it repaired."""


class ProposeCall(Frozen):
    """The argument of the activity `perdure.propose_repair`."""

    step: StepRef
    finding: str
    how: How | None = None


class Proposal(Frozen):
    """What would be done about a finding. An approval binds to all of it."""

    finding: str
    kind: FindingKind
    how: How
    question: str
    detail: str
    risk: Risk = "low"
    reversibility: Reversibility = "irreversible"
    call: EffectCall | None = None
    """What would be performed; None where nothing is sent."""
    takes: timedelta = timedelta(seconds=30)
    """How long one attempt may take."""

    @property
    def digest(self) -> str:
        """The digest of everything that is proposed."""
        return digest(self.model_dump(mode="json"))


class CloseCall(Frozen):
    """The argument of the activity `perdure.close_finding`."""

    step: StepRef
    finding: str
    how: How
    by: str
    """Who approved it."""
    effect: str = ""
    """The key of the effect that repaired it."""


class RepairResult(Frozen):
    """The result of the workflow `perdure.repair`."""

    finding: str
    state: FindingState
    how: How
    by: str
    effect: str = ""
    remote_ref: str = ""
