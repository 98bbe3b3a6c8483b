"""Approvals: requests to people and what became of them."""

import sqlalchemy as sa
from alembic import op

from perdure.storage import UtcDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table `approval`."""
    op.create_table(
        "approval",
        sa.Column("namespace", sa.String(), primary_key=True),
        sa.Column("workflow_id", sa.String(), primary_key=True),
        sa.Column("first_execution_run_id", sa.String(), primary_key=True),
        sa.Column("approval", sa.String(), primary_key=True),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("workflow_type", sa.String(), nullable=False),
        sa.Column("question", sa.String(), nullable=False),
        sa.Column("of", sa.String(), nullable=False),
        sa.Column("risk", sa.String(), nullable=False),
        sa.Column("about", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("asked_at", UtcDateTime(), nullable=False),
        sa.Column("deadline", UtcDateTime(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("verdict", sa.String(), nullable=True),
        sa.Column("by", sa.String(), nullable=True),
        sa.Column("comment", sa.String(), nullable=True),
        sa.Column("verified", sa.Boolean(), nullable=True),
        sa.Column("via", sa.String(), nullable=True),
        sa.Column("closed_at", UtcDateTime(), nullable=True),
    )
    op.create_index("ix_approval_deadline", "approval", ["deadline"])
    op.create_index("ix_approval_state", "approval", ["state"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("approval")
