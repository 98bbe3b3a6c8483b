"""The stream of events, and what comparing the ledger with its targets found."""

import sqlalchemy as sa
from alembic import op

from perdure.storage import UtcDateTime

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_LONG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the tables `stream`, `stream_cursor`, `reconciliation` and `finding`."""
    op.create_table(
        "stream",
        sa.Column("cursor", _LONG, primary_key=True),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("data", sa.String(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.UniqueConstraint("id"),
        # Without it SQLite gives the number of a last row that was removed to the next one.
        sqlite_autoincrement=True,
    )
    op.create_table(
        "stream_cursor",
        sa.Column("reader", sa.String(), primary_key=True),
        sa.Column("cursor", _LONG, nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
    )
    op.create_table(
        "reconciliation",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("connector", sa.String(), nullable=False),
        sa.Column("report", sa.String(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
    )
    op.create_index("ix_reconciliation_connector", "reconciliation", ["connector"])
    op.create_table(
        "finding",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("connector", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("remote_ref", sa.String(), nullable=False),
        sa.Column("certain", sa.Boolean(), nullable=False),
        sa.Column("detail", sa.String(), nullable=False),
        sa.Column("facts", sa.String(), nullable=False),
        sa.Column("recorded", sa.String(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=True),
        sa.Column("first_report", sa.String(), nullable=False),
        sa.Column("last_report", sa.String(), nullable=False),
        sa.Column("opened_at", UtcDateTime(), nullable=False),
        sa.Column("closed_at", UtcDateTime(), nullable=True),
        sa.Column("closed_by", sa.String(), nullable=False),
        sa.Column("repair", sa.String(), nullable=False),
        sa.Column("openings", sa.Integer(), nullable=False),
    )
    op.create_index("ix_finding_connector", "finding", ["connector"])
    op.create_index("ix_finding_state", "finding", ["state"])


def downgrade() -> None:
    """Drop them."""
    for table in ("finding", "reconciliation", "stream_cursor", "stream"):
        op.drop_table(table)
