"""Memory: both times, facts, provenance, use and erasure. Rows that are there keep their ids and what they say."""

import sqlalchemy as sa
from alembic import op

from perdure.storage import UtcDateTime

revision = "0010"
down_revision = "0009"

_USE = """
CREATE VIEW memory_use AS
SELECT record.version_id, record.memory_id, record.scope_key, record.scope_tenant, record.kind,
       COUNT(access.access_id) AS recalls,
       COUNT(DISTINCT access.namespace || '/' || access.workflow_id || '/' || access.first_execution_run_id) AS runs,
       COALESCE(SUM(CASE WHEN access.cited THEN 1 ELSE 0 END), 0) AS cited,
       COALESCE(SUM(CASE WHEN access.cited IS NOT NULL THEN 1 ELSE 0 END), 0) AS judged,
       COALESCE(SUM(access.useful), 0) AS useful,
       MAX(access.accessed_at) AS last_used_at,
       MAX(source.cost_nano_usd) AS cost_nano_usd
FROM memory_record AS record
JOIN memory_source AS source ON source.version_id = record.version_id
LEFT JOIN memory_access AS access ON access.version_id = record.version_id
WHERE record.erased_at IS NULL
GROUP BY record.version_id, record.memory_id, record.scope_key, record.scope_tenant, record.kind
"""

_USE_BY_RUN = """
CREATE VIEW memory_use_by_run AS
SELECT namespace, workflow_id, first_execution_run_id, step, scope_key, scope_tenant, version_id, memory_id, rank, score,
       cited, useful, accessed_at
FROM memory_access
WHERE version_id IS NOT NULL
"""

_HITS = """
CREATE VIEW memory_hits AS
SELECT scope_key, scope_tenant, COUNT(*) AS recalls, SUM(found) AS with_hits
FROM (SELECT scope_key, scope_tenant, namespace, workflow_id, first_execution_run_id, step, query_digest,
             MAX(CASE WHEN version_id IS NULL THEN 0 ELSE 1 END) AS found
      FROM memory_access
      GROUP BY scope_key, scope_tenant, namespace, workflow_id, first_execution_run_id, step, query_digest) AS recall
GROUP BY scope_key, scope_tenant
"""


def upgrade() -> None:
    """Add the columns, the tables and the views."""
    _widen_records()
    _create_sources()
    _create_use()
    _create_erasure()
    _fill(op.get_bind())
    for view in (_USE, _USE_BY_RUN, _HITS):
        op.execute(view)


def downgrade() -> None:
    """Drop them."""
    for view in ("memory_hits", "memory_use_by_run", "memory_use"):
        op.execute(f"DROP VIEW {view}")
    for table in ("memory_key", "memory_tombstone", "erasure_receipt", "memory_access", "memory_derived", "memory_source"):
        op.drop_table(table)
    for index in ("forgotten_at", "listed", "chain"):
        op.drop_index(f"ix_memory_record_{index}", "memory_record")
    with op.batch_alter_table("memory_record") as batch:
        for column in _added():
            batch.drop_column(column.name)


def _added() -> list[sa.Column[object]]:
    return [
        sa.Column("epoch", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("chain", sa.String(), nullable=False, server_default=""),
        sa.Column("predicate", sa.String(), nullable=True),
        sa.Column("confidence", sa.Float(), nullable=True),
        sa.Column("importance", sa.Float(), nullable=True),
        sa.Column("labels", sa.JSON(), nullable=False, server_default="[]"),
        sa.Column("forgotten_at", UtcDateTime(), nullable=True),
        sa.Column("forgotten_as", sa.String(), nullable=True),
        sa.Column("erased_at", UtcDateTime(), nullable=True),
        sa.Column("retention_class", sa.String(), nullable=False, server_default="standard"),
        sa.Column("legal_hold", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("pinned", sa.Boolean(), nullable=False, server_default=sa.false()),
    ]


def _widen_records() -> None:
    for column in _added():
        op.add_column("memory_record", column)
    op.create_index("ix_memory_record_chain", "memory_record", ["scope_key", "chain", "recorded_at"])
    op.create_index("ix_memory_record_listed", "memory_record", ["scope_key", "recorded_at", "version_id"])
    op.create_index("ix_memory_record_forgotten_at", "memory_record", ["forgotten_at"])


def _create_sources() -> None:
    op.create_table(
        "memory_source",
        sa.Column("version_id", sa.String(), nullable=False),
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("workflow_id", sa.String(), nullable=False),
        sa.Column("first_execution_run_id", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("workflow_type", sa.String(), nullable=False),
        sa.Column("step", sa.String(), nullable=False),
        sa.Column("event", sa.Integer(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("model_step", sa.String(), nullable=False),
        sa.Column("cost_nano_usd", sa.BigInteger(), nullable=False),
        sa.Column("uri", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("version_id"),
        sa.ForeignKeyConstraint(["version_id"], ["memory_record.version_id"], ondelete="CASCADE"),
        sa.CheckConstraint("workflow_id <> '' AND step <> ''", name="ck_memory_source_step"),
    )
    op.create_index("ix_memory_source_run", "memory_source", ["namespace", "workflow_id", "first_execution_run_id"])
    op.create_table(
        "memory_derived",
        sa.Column("version_id", sa.String(), nullable=False),
        sa.Column("from_version_id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("version_id", "from_version_id"),
        sa.ForeignKeyConstraint(["version_id"], ["memory_record.version_id"], ondelete="CASCADE"),
    )
    op.create_index("ix_memory_derived_from_version_id", "memory_derived", ["from_version_id"])


def _create_use() -> None:
    op.create_table(
        "memory_access",
        sa.Column("access_id", sa.String(), nullable=False),
        sa.Column("scope_key", sa.String(), nullable=False),
        sa.Column("scope_tenant", sa.String(), nullable=False),
        sa.Column("version_id", sa.String(), nullable=True),
        sa.Column("memory_id", sa.String(), nullable=True),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("score", sa.Float(), nullable=False),
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("workflow_id", sa.String(), nullable=False),
        sa.Column("first_execution_run_id", sa.String(), nullable=False),
        sa.Column("step", sa.String(), nullable=False),
        sa.Column("query_digest", sa.String(), nullable=False),
        sa.Column("accessed_at", UtcDateTime(), nullable=False),
        sa.Column("cited", sa.Boolean(), nullable=True),
        sa.Column("useful", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("access_id"),
    )
    op.create_index("ix_memory_access_version_id", "memory_access", ["version_id"])
    op.create_index("ix_memory_access_scope", "memory_access", ["scope_key", "accessed_at"])
    op.create_index("ix_memory_access_run", "memory_access", ["namespace", "workflow_id", "first_execution_run_id", "step"])


def _create_erasure() -> None:
    op.create_table(
        "erasure_receipt",
        sa.Column("receipt_id", sa.String(), nullable=False),
        sa.Column("scope_tenant", sa.String(), nullable=False),
        sa.Column("scope_key", sa.String(), nullable=False),
        sa.Column("cause", sa.String(), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
        sa.Column("requested_by", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("erased_at", UtcDateTime(), nullable=False),
        sa.Column("memories", sa.Integer(), nullable=False),
        sa.Column("versions", sa.Integer(), nullable=False),
        sa.Column("completed_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("receipt_id"),
    )
    op.create_table(
        "memory_tombstone",
        sa.Column("version_id", sa.String(), nullable=False),
        sa.Column("receipt_id", sa.String(), nullable=False),
        sa.Column("memory_key", sa.String(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("step_key", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("version_id"),
    )
    for column in ("receipt_id", "memory_key", "step_key"):
        op.create_index(f"ix_memory_tombstone_{column}", "memory_tombstone", [column])
    op.create_table(
        "memory_key",
        sa.Column("scope_key", sa.String(), nullable=False),
        sa.Column("scope_tenant", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("destroyed_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("scope_key"),
    )


def _fill(connection: sa.Connection) -> None:
    connection.execute(sa.text("UPDATE memory_record SET chain = 'm:' || memory_id"))
    insert = sa.text(
        "INSERT INTO memory_source "
        "VALUES (:version_id, :namespace, :workflow_id, :first, '', '', :step, 0, '', '', '', 0, '')"
    )
    rows = connection.execute(sa.text("SELECT version_id, source FROM memory_record")).all()
    sources = [{"version_id": row.version_id, **_parts(row.source)} for row in rows]
    if sources:
        connection.execute(insert, sources)


def _parts(source: str) -> dict[str, str]:
    # Workflow ids may hold slashes; namespaces, run ids and nearly all steps do not.
    parts = source.split("/")
    if len(parts) < 4 or not all((parts[-1], "/".join(parts[1:-2]))):
        return {"namespace": "", "workflow_id": source, "first": "", "step": source}
    return {"namespace": parts[0], "workflow_id": "/".join(parts[1:-2]), "first": parts[-2], "step": parts[-1]}
