"""What each connector relies on at its target, and whether the target still offers it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, cast

import sqlalchemy as sa
import structlog
from pydantic import JsonValue
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import col

from perdure.connectors.contracts import AnyAction, Connector
from perdure.connectors.drift._compatibility import compare, worst
from perdure.connectors.drift.contracts import (
    ActionFact,
    Change,
    ConnectorFacts,
    Contract,
    ContractCheck,
    HasContract,
    HasPinnedContract,
)
from perdure.connectors.drift.tables import ConnectorRow, ContractCheckRow, ContractRow
from perdure.connectors.events import add
from perdure.connectors.events.contracts import NewEvent
from perdure.errors import NotFound, PerdureError
from perdure.lineage import Frozen, digest, model_digest
from perdure.storage import Database, now

log = structlog.get_logger(__name__)


class ReliedContract(Frozen):
    """The contract that a version of a connector relies on."""

    connector: str
    version: str
    contract: Contract
    digest: str
    declared: dict[str, str]
    """Per action the digest of what it was declared as."""
    accepted_by: str
    """Empty: it was the first that was seen, and nobody was asked."""
    at: datetime


class ContractMoved(PerdureError):
    """What was to be accepted is not what the target says any more."""


class Drift:
    """The contracts of one database, and the CONNECTORS of this process whose targets can be asked for theirs."""

    def __init__(self, database: Database, connectors: Mapping[str, Connector]) -> None:
        self._database = database
        self._connectors = connectors
        self.versions = {name: version(connector) for name, connector in connectors.items()}

    def find_self_describing(self, name: str) -> HasContract | None:
        """Return the connector called NAME if its target can be asked for its contract, as far as one can tell unasked."""
        connector = self._connectors.get(name)
        return connector if isinstance(connector, HasContract) else None

    async def register(self) -> None:
        """Write down which connectors this process serves, for lists."""
        if self._connectors:
            rows = [_connector_row(connector) for connector in self._connectors.values()]
            await self._database.transact(lambda connection: _upsert(connection, ConnectorRow, ("name",), rows))

    async def check(self, name: str) -> ContractCheck | None:
        """Compare the contract that the connector NAME relies on with the live one; None if its target has none to ask for.

        The first contract of a connector is the one that it was made from, else what the target says. That holds as well
        for an operation whose actions have been declared anew: who changed them has looked at the target. Raises
        `TargetUnavailable`, `NotFound`.
        """
        connector = self._connectors.get(name)
        if connector is None:
            raise NotFound(
                f"this worker has no connector {name!r}; it has: {', '.join(sorted(self._connectors)) or 'none'}"
            )
        if not isinstance(connector, HasContract) or (live := await connector.contract()) is None:
            return None
        relied = await self.relied_contract(name, version=version(connector))
        if relied is None:
            before = await self.relied_contract(name)
            first = (connector.pinned() if isinstance(connector, HasPinnedContract) else None) or live
            relied = await self._adopt(connector, first if before is None else _adapt(before, first, connector))
        # Comparing two large schemas may take a while, and nothing else should wait for it.
        changes = await asyncio.to_thread(compare, relied.contract, live)
        return await self._record(connector, relied, live, changes)

    async def accept(self, name: str, *, by: str, live: str | None = None) -> Sequence[ContractCheck]:
        """Rely from now on on what the last check of NAME found, in the name of BY: once a version of the connector.

        LIVE is the digest that `ContractCheck.live` gave: raises `ContractMoved` if the target says something else
        meanwhile, and `NotFound` if there was no check.
        """
        return await self._database.transact(lambda connection: _accept(connection, name, by, live))

    async def relied_contract(self, name: str, *, version: str | None = None) -> ReliedContract | None:
        """Return the contract that the connector NAME relies on, in this VERSION or in that of whoever took one last."""
        query = _select_relied(name, version)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        return None if row is None else _to_relied(row)

    async def last_checks(self, name: str | None = None) -> Sequence[ContractCheck]:
        """Return the last check of each version of each connector, or of those of NAME, the newest first."""
        query = sa.select(ContractCheckRow).order_by(col(ContractCheckRow.connector), col(ContractCheckRow.at).desc())
        if name is not None:
            query = query.where(col(ContractCheckRow.connector) == name)
        async with self._database.read() as connection:
            return [_to_check(row) for row in (await connection.execute(query)).mappings()]

    async def connectors(self) -> Sequence[ConnectorFacts]:
        """Return the connectors that workers of this database serve or have served, by name."""
        query = sa.select(col(ConnectorRow.facts)).order_by(col(ConnectorRow.name))
        async with self._database.read() as connection:
            return [ConnectorFacts.model_validate_json(facts) for facts in (await connection.execute(query)).scalars()]

    async def _adopt(self, connector: Connector, contract: Contract) -> ReliedContract:
        relied = ReliedContract(
            connector=connector.name,
            version=version(connector),
            contract=contract,
            digest=model_digest(contract),
            declared={action.name: declaration(action) for action in connector.actions.values()},
            accepted_by="",
            at=now(),
        )
        await self._database.transact(lambda connection: _rely(connection, relied, "contract.relied"))
        log.info(
            "contract recorded", connector=connector.name, digest=relied.digest, operations=sorted(contract.operations)
        )
        return relied

    async def _record(
        self, connector: Connector, relied: ReliedContract, live: Contract, changes: Sequence[Change]
    ) -> ContractCheck:
        checked = ContractCheck(
            connector=connector.name,
            version=relied.version,
            verdict=worst(changes),
            changes=tuple(changes),
            relied_on=relied.digest,
            live=model_digest(live),
            blocked=tuple(sorted(blocked_actions(changes, connector.actions))),
            at=now(),
        )

        def write(connection: sa.Connection) -> bool:
            before = connection.execute(_select_checks(checked.connector, checked.version)).mappings().one_or_none()
            _upsert(connection, ContractCheckRow, ("connector", "version"), [_check_row(checked, live)])
            if before is not None and (before["relied_on"], before["live"]) == (checked.relied_on, checked.live):
                return False
            if before is not None or checked.changes:
                add(connection, [_make_event(f"contract.{checked.verdict}", checked)])
            return True

        if await self._database.transact(write) and checked.changes:
            shown = [str(change) for change in changes[:20]]
            log.warning("contract changed", connector=connector.name, verdict=checked.verdict, changes=shown)
        return checked


def blocked_actions(changes: Sequence[Change], actions: Mapping[str, AnyAction]) -> set[str]:
    """Return those of ACTIONS that must not act until a person has accepted CHANGES: high-risk writes that rely on them."""
    touched = {name for change in changes if change.verdict in ("breaking", "wording") for name in change.actions}
    return {name for name in touched if name in actions and actions[name].risk == "high" and not actions[name].reads}


def version(connector: Connector) -> str:
    """Return the digest of everything that CONNECTOR declares: it changes with each of its actions."""
    return digest({action.name: declaration(action) for action in connector.actions.values()})


def declaration(action: AnyAction) -> str:
    """Return the digest of what ACTION relies on at its target: its models, and how its request is made."""
    made = {name: getattr(action, name, "") for name in ("request", "key", "probe", "found", "remote_ref")}
    models: dict[str, JsonValue] = {
        "input": action.input.model_json_schema(),
        "output": action.output.model_json_schema(),
    }
    return digest({"name": action.name, **{name: str(value) for name, value in made.items()}, **models})


def _adapt(before: ReliedContract, live: Contract, connector: Connector) -> Contract:
    # An operation is relied on as it was for as long as an action relies on it that was not declared anew since.
    now_declared = {action.name: declaration(action) for action in connector.actions.values()}
    operations = dict(live.operations)  # LIVE, or what the connector was made from
    for name, operation in before.contract.operations.items():
        if any(before.declared.get(action) == now_declared.get(action, "") for action in operation.actions):
            relying = live.operations[name].actions if name in live.operations else operation.actions
            operations[name] = operation.model_copy(update={"actions": relying})
    return live.model_copy(update={"operations": operations})


def _accept(connection: sa.Connection, name: str, by: str, live: str | None) -> list[ContractCheck]:
    query = _select_checks(name)
    checks = (
        connection.execute(query.with_for_update() if connection.dialect.name == "postgresql" else query).mappings().all()
    )
    if not checks:
        raise NotFound(f"the contract of {name!r} was never checked: `perdure connectors check {name}`")
    wanted = live or checks[0]["live"]
    if all(check["live"] != wanted for check in checks):
        raise ContractMoved(
            f"the contract of {name} is {checks[0]['live']} by now, not {wanted}. "
            f"Look at it again: `perdure connectors check {name}`"
        )
    accepted = []
    for check in checks:
        force = connection.execute(_select_relied(name, check["version"])).mappings().one()
        if check["live"] != wanted or check["live"] == check["relied_on"]:
            continue
        live_now = Contract.model_validate_json(check["contract"])
        relied = _to_relied(force).model_copy(
            update={"contract": live_now, "digest": check["live"], "accepted_by": by, "at": now()}
        )
        changes = cast(list[JsonValue], json.loads(check["changes"]))
        accepted.append(_rely(connection, relied, "contract.accepted", by=by, was=check["relied_on"], accepted=changes))
    return accepted or [_to_check(check) for check in checks]


def _rely(connection: sa.Connection, relied: ReliedContract, type: str, **said: JsonValue) -> ContractCheck:  # noqa: A002  see _event
    row = relied.model_dump(include={"connector", "version", "digest", "accepted_by", "at"})
    row |= {"contract": relied.contract.model_dump_json(), "relied": json.dumps(relied.declared)}
    connection.execute(sa.insert(ContractRow), row)
    checked = ContractCheck(
        connector=relied.connector,
        version=relied.version,
        verdict="same",
        relied_on=relied.digest,
        live=relied.digest,
        at=relied.at,
    )
    _upsert(connection, ContractCheckRow, ("connector", "version"), [_check_row(checked, relied.contract)])
    add(connection, [_make_event(type, checked, **said)])
    return checked


def _select_relied(name: str, version: str | None) -> sa.Select[Any]:
    query = sa.select(ContractRow).where(col(ContractRow.connector) == name).order_by(col(ContractRow.id).desc()).limit(1)
    return query if version is None else query.where(col(ContractRow.version) == version)


def _select_checks(name: str, version: str | None = None) -> sa.Select[Any]:
    query = sa.select(ContractCheckRow).where(col(ContractCheckRow.connector) == name)
    query = query.order_by(col(ContractCheckRow.at).desc())
    return query if version is None else query.where(col(ContractCheckRow.version) == version)


def _to_relied(row: sa.RowMapping) -> ReliedContract:
    values = {name: row[name] for name in ("connector", "version", "digest", "accepted_by", "at")}
    contract = Contract.model_validate_json(row["contract"])
    return ReliedContract(**values, contract=contract, declared=json.loads(row["relied"]))


def _to_check(row: sa.RowMapping) -> ContractCheck:
    values = {name: row[name] for name in ("connector", "version", "verdict", "relied_on", "live", "at")}
    return ContractCheck(**values, changes=json.loads(row["changes"]), blocked=json.loads(row["blocked"]))


def _check_row(checked: ContractCheck, live: Contract) -> dict[str, object]:
    return {
        **checked.model_dump(include={"connector", "version", "verdict", "relied_on", "live", "at"}),
        "contract": live.model_dump_json(),
        "changes": json.dumps([change.model_dump(mode="json") for change in checked.changes], ensure_ascii=False),
        "blocked": json.dumps(checked.blocked),
    }


def _make_event(type: str, checked: ContractCheck, **said: JsonValue) -> NewEvent:  # noqa: A002  CloudEvents calls it so
    data: dict[str, JsonValue] = {
        "verdict": checked.verdict,
        "relied_on": checked.relied_on,
        "live": checked.live,
        "changes": [change.model_dump(mode="json") for change in checked.changes],
        "blocked": list(checked.blocked),
        **said,
    }
    id = f"{type}:{checked.connector}:{checked.version}:{checked.live}:{checked.at.isoformat()}"
    return NewEvent(id=id, type=type, source=checked.connector, subject=checked.connector, data=data, at=checked.at)


def _connector_row(connector: Connector) -> dict[str, object]:
    listed = getattr(connector, "listed_actions", ())
    facts = ConnectorFacts(
        name=connector.name,
        version=version(connector),
        actions=tuple(
            ActionFact(
                name=action.name,
                risk=action.risk,
                reversibility=action.reversibility,
                reads=action.reads,
                undo=action.undo.action.name if action.undo else "",
                mechanism=action.target.mechanism,
                listed=action.name in listed,
            )
            for action in connector.actions.values()
        ),
    )
    return {"name": connector.name, "version": facts.version, "facts": facts.model_dump_json(), "seen_at": now()}


def _upsert(
    connection: sa.Connection,
    table: type[ConnectorRow] | type[ContractCheckRow],
    key: Sequence[str],
    rows: Sequence[Mapping[str, object]],
) -> None:
    insert = sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)
    changed = {name: insert.excluded[name] for name in rows[0] if name not in key}
    connection.execute(insert.on_conflict_do_update(index_elements=key, set_=changed), [dict(row) for row in rows])
