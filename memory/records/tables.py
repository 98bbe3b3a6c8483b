"""How the scopes lie in SQL that a run had to do with."""

from __future__ import annotations

import sqlalchemy as sa
from sqlmodel import Field, SQLModel


class RunScopeRow(SQLModel, table=True):
    """That a run, or one conversation of it, had to do with a scope: so an erasure of the scope finds what was said."""

    __tablename__ = "run_scope"  # pyright: ignore[reportAssignmentType]  # how SQLModel wants it
    __table_args__ = (sa.Index("ix_run_scope_scope", "scope_key"), sa.Index("ix_run_scope_tenant", "scope_tenant"))

    namespace: str = Field(primary_key=True)
    workflow_id: str = Field(primary_key=True)
    first_execution_run_id: str = Field(primary_key=True)
    conversation: str = Field(primary_key=True)
    """The conversation that was said to be of the scope. Empty: the run recalled from the scope, or remembered in it."""
    scope_key: str = Field(primary_key=True)
    scope_tenant: str
    scope_agent: str | None = None
    scope_user: str | None = None
    scope_session: str | None = None
