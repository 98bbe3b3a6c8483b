"""Conversations can be erased: which there are, whose they are, and which records went into them."""

import sqlalchemy as sa
from alembic import op

from perdure.storage import UtcDateTime

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_TEXTS = [
    *(("memory_record", column) for column in ("content", "subject", "predicate", "labels")),
    *(("message", column) for column in ("content", "name")),
    ("message_summary", "content"),
    ("model_answer", "value"),
]
"""What people or models have said."""


def upgrade() -> None:
    """Create the tables, and fill them for the conversations and runs that are there."""
    op.create_table(
        "conversation",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("workflow_id", sa.String(), nullable=False),
        sa.Column("first_execution_run_id", sa.String(), nullable=False),
        sa.Column("begun_at", UtcDateTime(), nullable=False),
        sa.Column("legal_hold", sa.Boolean(), nullable=False),
        sa.Column("erased_at", UtcDateTime(), nullable=True),
        sa.Column("erased_from", sa.Integer(), nullable=True),
        sa.Column("receipt_id", sa.String(), nullable=True),
    )
    op.create_index("ix_conversation_run", "conversation", ["workflow_id", "first_execution_run_id"])
    op.create_table(
        "message_source",
        sa.Column("version_id", sa.String(), primary_key=True),
        sa.Column("conversation", sa.String(), primary_key=True),
        sa.Column("position", sa.Integer(), primary_key=True, autoincrement=False),
    )
    op.create_index("ix_message_source_conversation", "message_source", ["conversation"])
    op.create_table(
        "run_scope",
        sa.Column("namespace", sa.String(), primary_key=True),
        sa.Column("workflow_id", sa.String(), primary_key=True),
        sa.Column("first_execution_run_id", sa.String(), primary_key=True),
        sa.Column("conversation", sa.String(), primary_key=True),
        sa.Column("scope_key", sa.String(), primary_key=True),
        sa.Column("scope_tenant", sa.String(), nullable=False),
        sa.Column("scope_agent", sa.String(), nullable=True),
        sa.Column("scope_user", sa.String(), nullable=True),
        sa.Column("scope_session", sa.String(), nullable=True),
    )
    op.create_index("ix_run_scope_scope", "run_scope", ["scope_key"])
    op.create_index("ix_run_scope_tenant", "run_scope", ["scope_tenant"])
    for name in ("conversations", "messages"):
        op.add_column("erasure_receipt", sa.Column(name, sa.Integer(), nullable=False, server_default="0"))
    # A fork goes on in the conversation of the run that it was made from: that one is it called after.
    op.execute(
        "INSERT INTO conversation (id, name, namespace, workflow_id, first_execution_run_id, begun_at, legal_hold) "
        "SELECT first.conversation, '', first.namespace, first.workflow_id, first.first_execution_run_id, "
        "first.stored_at, 1 = 0 FROM message AS first WHERE first.id = (SELECT MIN(other.id) FROM message AS other "
        "WHERE other.conversation = first.conversation AND other.position = 1)"
    )
    # Who remembered in a scope, and who recalled from it.
    op.execute(
        "INSERT INTO run_scope (namespace, workflow_id, first_execution_run_id, conversation, "
        "scope_key, scope_tenant, scope_agent, scope_user, scope_session) "
        "SELECT run.namespace, run.workflow_id, run.first_execution_run_id, '', "
        "record.scope_key, record.scope_tenant, record.scope_agent, record.scope_user, record.scope_session "
        "FROM (SELECT namespace, workflow_id, first_execution_run_id, version_id FROM memory_source "
        "UNION SELECT namespace, workflow_id, first_execution_run_id, version_id FROM memory_access) AS run "
        "JOIN memory_record AS record ON record.version_id = run.version_id GROUP BY 1, 2, 3, 5, 6, 7, 8, 9"
    )

    if op.get_bind().dialect.name == "postgresql":
        # ANALYZE would copy texts into pg_statistic, which no erasure can clean. A column's type is set for the statistics
        # that there are: they go with it.
        for table, column in _TEXTS:
            op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE {_type(table, column)}")
            op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET STATISTICS 0")


def _type(table: str, column: str) -> str:
    [kind] = [each["type"] for each in sa.inspect(op.get_bind()).get_columns(table) if each["name"] == column]
    return str(kind.compile(op.get_bind().dialect))


def downgrade() -> None:
    """Drop them."""
    for table in ("run_scope", "message_source", "conversation"):
        op.drop_table(table)
    with op.batch_alter_table("erasure_receipt") as batch:
        batch.drop_column("messages")
        batch.drop_column("conversations")
