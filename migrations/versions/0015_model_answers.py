"""Answers of models that are kept for a time, and which version of a model answered last."""

import sqlalchemy as sa
from alembic import op

from perdure.storage import UtcDateTime

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create `model_answer` and `model_version`."""
    op.create_table(
        "model_answer",
        sa.Column("key", sa.String(), primary_key=True),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("model_version", sa.String(), nullable=False),
        sa.Column("value", sa.Text(), nullable=True),
        sa.Column("answer_digest", sa.String(), nullable=False),
        sa.Column("confidence", sa.Float(), nullable=True),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("completion_tokens", sa.Integer(), nullable=False),
        sa.Column("cost_nano_usd", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("held_until", UtcDateTime(), nullable=False),
    )
    op.create_index("ix_model_answer_expires_at", "model_answer", ["expires_at"])
    op.create_table(
        "model_version",
        sa.Column("model", sa.String(), primary_key=True),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("seen_at", UtcDateTime(), nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("model_version")
    op.drop_table("model_answer")
