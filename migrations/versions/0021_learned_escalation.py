"""Which answers were right, what was learned from that about a task, and which version judged a call."""

import sqlalchemy as sa
from alembic import op

from perdure.storage import UtcDateTime

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create `model_label` and `model_escalation`, and add what they need to `model_call`."""
    op.add_column("model_call", sa.Column("confidence", sa.Float(), nullable=True))
    op.add_column("model_call", sa.Column("prompt_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("model_call", sa.Column("escalation", sa.String(), nullable=False, server_default=""))
    op.create_table(
        "model_label",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("answer", sa.String(), nullable=False),
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("question", sa.String(), nullable=False),
        sa.Column("tier", sa.String(), nullable=False),
        sa.Column("deployment", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("confidence", sa.Float(), nullable=True),
        sa.Column("prompt_bytes", sa.Integer(), nullable=False),
        sa.Column("cost_nano_usd", sa.BigInteger(), nullable=False),
        sa.Column("correct", sa.Boolean(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
    )
    op.create_index("ix_model_label_task", "model_label", ["task", "at"])
    op.create_table(
        "model_escalation",
        sa.Column("task", sa.String(), primary_key=True),
        sa.Column("version", sa.Integer(), primary_key=True),
        sa.Column("adopted", sa.Boolean(), nullable=False),
        sa.Column("parameters", sa.Text(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("model_escalation")
    op.drop_index("ix_model_label_task", "model_label")
    op.drop_table("model_label")
    for name in ("escalation", "prompt_bytes", "confidence"):
        op.drop_column("model_call", name)
