"""Model calls: one row a provider call."""

import sqlalchemy as sa
from alembic import op

from perdure.storage import UtcDateTime

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create `model_call`."""
    op.create_table(
        "model_call",
        sa.Column("call_id", sa.String(32), primary_key=True),
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("workflow_id", sa.String(), nullable=False),
        sa.Column("first_execution_run_id", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("step", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("tier", sa.String(), nullable=False),
        sa.Column("deployment", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("model_version", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("error", sa.String(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("completion_tokens", sa.Integer(), nullable=False),
        sa.Column("estimated", sa.Boolean(), nullable=False),
        sa.Column("cost_nano_usd", sa.BigInteger(), nullable=False),
        sa.Column("prompt_digest", sa.String(), nullable=False),
        sa.Column("answer_digest", sa.String(), nullable=False),
        sa.Column("sent_at", UtcDateTime(), nullable=False),
        sa.Column("settled_at", UtcDateTime(), nullable=True),
        sa.Column("milliseconds", sa.Integer(), nullable=False),
    )
    op.create_index("ix_model_call_step", "model_call", ["namespace", "workflow_id", "first_execution_run_id", "step"])
    op.create_index("ix_model_call_sent_at", "model_call", ["sent_at"])


def downgrade() -> None:
    """Drop `model_call`."""
    op.drop_table("model_call")
