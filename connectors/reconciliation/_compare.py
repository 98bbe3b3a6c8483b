"""In what the ledger and a target's list differ. Nothing here asks anybody."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import JsonValue

from perdure.connectors.contracts import AnyAction, Effect, Listed
from perdure.connectors.reconciliation.contracts import Finding, FindingKind
from perdure.lineage import digest


@dataclass
class Differences:
    """What came out of a comparison."""

    found: list[Finding] = field(default_factory=list)
    unlisted: list[Effect] = field(default_factory=list)
    """Effects that the list lacks, and that the target has to be asked for one by one: a list may have gaps."""
    unsettled: int = 0


def find_differences(
    actions: Mapping[str, AnyAction],
    effects: Sequence[Effect],
    listed: Sequence[Listed],
    *,
    since: datetime,
    until: datetime,
) -> Differences:
    """Compare EFFECTS, those of the window SINCE to UNTIL and all that LISTED names, with what the target has LISTED."""
    comparison = _Comparison(actions, effects, listed, since, until)
    result = Differences()
    for effect in effects:
        comparison.compare(effect, result)
    result.found += comparison.find_without_effect()
    return result


def missing_finding(effect: Effect, detail: str, *, certain: bool) -> Finding:
    """Return the finding that EFFECT is not at the target."""
    return _make_finding("missing", effect.action, detail, effect=effect, certain=certain)


class _Comparison:
    def __init__(
        self,
        actions: Mapping[str, AnyAction],
        effects: Sequence[Effect],
        listed: Sequence[Listed],
        since: datetime,
        until: datetime,
    ) -> None:
        self._actions = actions
        self._effects = {effect.key: effect for effect in effects}
        self._by_reference = {(effect.action, effect.remote_ref): effect for effect in effects if effect.remote_ref}
        self._since, self._until = since, until
        self._listed: defaultdict[str, list[Listed]] = defaultdict(list)
        self._unmatched: list[Listed] = []
        for each in listed:
            effect = self._find_effect(each)
            if effect is None:
                self._unmatched.append(each)
            else:
                self._listed[effect.key].append(each)

    def compare(self, effect: Effect, result: Differences) -> None:
        """Compare EFFECT with what the target has of it."""
        here = self._listed[effect.key]
        standing = [each for each in here if each.stands is not False]
        first = next((each for each in standing if each.remote_ref == effect.remote_ref), standing[0] if standing else None)
        if effect.state == "succeeded":
            self._compare_succeeded(effect, here, first, result)
        elif effect.state == "failed":
            result.found += [
                self._ghost_finding(effect, each, f"the ledger says that it failed: {effect.error}") for each in standing
            ]
            return
        elif effect.state == "compensated":
            # Many targets go on listing what was undone, and do not say so.
            undone = "the ledger says that it was undone, and it stands"
            result.found += [self._ghost_finding(effect, each, undone) for each in here if each.stands]
            return
        elif self._covers(effect.first_sent_at or effect.created_at):
            result.unsettled += 1
        result.found += [_duplicate_finding(effect, each, first) for each in standing if each is not first]

    def find_without_effect(self) -> Iterator[Finding]:
        """Yield what the target has and the ledger does not."""
        done: dict[tuple[str, ...], dict[str, Effect]] = {}
        for each in self._unmatched:
            if each.stands is False or not self._is_in_window(each):
                continue
            twin = self._find_twin(each, done)
            if twin is None:
                yield _make_finding("unknown", each.action, "the ledger knows nothing of it", listed=each)
                continue
            certain = bool(_once_per(self._actions[each.action]))
            detail = f"it is the same as {twin.remote_ref or twin.key}, and the ledger knows nothing of it"
            yield _make_finding("duplicate", each.action, detail, effect=twin, listed=each, certain=certain)

    def _compare_succeeded(self, effect: Effect, here: Sequence[Listed], first: Listed | None, result: Differences) -> None:
        if first is not None:
            result.found += _find_changes(effect, first)
        elif here:
            detail = "the target lists it as no longer in force"
            result.found.append(_make_finding("missing", effect.action, detail, effect=effect, listed=here[0]))
        elif self._covers(effect.first_sent_at or effect.created_at):
            result.unlisted.append(effect)

    def _find_effect(self, each: Listed) -> Effect | None:
        effect = self._effects.get(each.key) if each.key else self._by_reference.get((each.action, each.remote_ref))
        return effect if effect is not None and effect.action == each.action else None

    def _ghost_finding(self, effect: Effect, each: Listed, detail: str) -> Finding:
        return _make_finding("unknown", effect.action, detail, effect=effect, listed=each)

    def _find_twin(self, each: Listed, done: dict[tuple[str, ...], dict[str, Effect]]) -> Effect | None:
        """Return the effect that did the same for the business as EACH, if there is one."""
        action = self._actions[each.action]
        names = _once_per(action) or tuple(sorted(action.input.model_fields.keys() & each.facts.keys()))
        if not names or not set(names) <= each.facts.keys():
            return None
        index = (each.action, *names)
        if index not in done:
            happened = [one for one in self._effects.values() if one.action == each.action and one.state == "succeeded"]
            done[index] = {_facts_digest(one.args, names): one for one in happened if set(names) <= one.args.keys()}
        return done[index].get(_facts_digest(each.facts, names))

    def _is_in_window(self, each: Listed) -> bool:
        # The ledger writes a key down before it sends it. Without one, who made it is known when the answer is recorded.
        return each.at is None or (each.at >= self._since and (bool(each.key) or each.at < self._until))

    def _covers(self, at: datetime) -> bool:
        return self._since <= at < self._until


def _find_changes(effect: Effect, each: Listed) -> Iterable[Finding]:
    if not isinstance(effect.response, dict):
        return
    wrong = {
        name: value for name, value in each.facts.items() if name in effect.response and value != effect.response[name]
    }
    if wrong:
        was = {name: effect.response[name] for name in wrong}
        detail = "; ".join(f"{name} is {wrong[name]!r}, recorded was {was[name]!r}" for name in sorted(wrong))
        yield _make_finding("changed", effect.action, detail, effect=effect, listed=each, also=wrong)


def _duplicate_finding(effect: Effect, extra: Listed, first: Listed | None) -> Finding:
    detail = f"the target has it as {first.remote_ref} already" if first else "the target has it more than once"
    return _make_finding("duplicate", effect.action, detail, effect=effect, listed=extra)


def _make_finding(
    kind: FindingKind,
    action: str,
    detail: str,
    *,
    effect: Effect | None = None,
    listed: Listed | None = None,
    certain: bool = True,
    also: Mapping[str, JsonValue] | None = None,
) -> Finding:
    key = effect.key if effect else listed.key if listed else ""
    reference = listed.remote_ref if listed else effect.remote_ref if effect else ""
    # What a finding is about, so that it is the same one in every report. A second change is another finding.
    what = digest([kind, action, key, reference, dict(also or {})]).removeprefix("sha256:")
    recorded: dict[str, JsonValue] = {}
    if effect is not None:
        recorded = {
            "state": effect.state,
            "args": effect.args,
            "response": effect.response,
            "remote_ref": effect.remote_ref,
        }
    return Finding(
        id=f"f-{what[:16]}",
        connector=action.partition(".")[0],
        action=action,
        kind=kind,
        key=key,
        remote_ref=reference,
        certain=certain,
        detail=detail,
        facts=listed.facts if listed else {},
        recorded=recorded,
        at=(listed.at if listed else None) or (effect.first_sent_at if effect else None),
    )


def _once_per(action: AnyAction) -> tuple[str, ...]:
    """Return the fields of which ACTION says that it happens once in the world for each."""
    return tuple(getattr(action, "once_per", ()))


def _facts_digest(values: Mapping[str, JsonValue], names: Sequence[str]) -> str:
    return digest([values[name] for name in names])
