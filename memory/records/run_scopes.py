"""Whose a run is: which scopes it, or a conversation of it, had to do with."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import col

from perdure.lineage import Lineage, digest
from perdure.memory.contracts import Scope
from perdure.memory.records.tables import RunScopeRow


def scope_key(scope: Scope) -> str:
    """Return the digest of SCOPE by which SQL and the index select exactly its records."""
    return digest([scope.tenant, scope.agent, scope.user, scope.session]).removeprefix("sha256:")[:32]


def record_run_scopes(connection: sa.Connection, lineage: Lineage, scopes: Sequence[Scope], conversation: str = "") -> None:
    """Write down that the run LINEAGE, or its CONVERSATION, had to do with SCOPES; once is enough."""
    row, run = RunScopeRow, {**lineage.model_dump(), "conversation": conversation}
    keys = {scope_key(scope): scope for scope in scopes}
    if not keys:
        return
    # Looked up first, for nearly always it is known: an insert would have another process's step of the run wait for us.
    mine = [row.__table__.c[name] == value for name, value in run.items()]  # type: ignore[attr-defined]
    known = connection.execute(sa.select(col(row.scope_key)).where(*mine, col(row.scope_key).in_(keys))).scalars()
    for key in keys.keys() - set(known):
        values = {**run, "scope_key": key, **{f"scope_{name}": value for name, value in keys[key]}}
        connection.execute(_INSERT[connection.dialect.name], [values])


def is_in_scope(scope: Scope, *, narrower: bool) -> sa.ColumnElement[bool]:
    """Return the condition that a row of `run_scope` is of SCOPE or, if NARROWER, of one that names more."""
    row = RunScopeRow
    if not narrower:
        return col(row.scope_key) == scope_key(scope)
    columns = {
        "tenant": col(row.scope_tenant),
        "agent": col(row.scope_agent),
        "user": col(row.scope_user),
        "session": col(row.scope_session),
    }
    return sa.and_(*(columns[name] == value for name, value in scope if value is not None))


_INSERT = {
    "sqlite": sqlite.insert(RunScopeRow).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(RunScopeRow).on_conflict_do_nothing(),
}
