"""Budgets of models: what is held back and spent, and who raised one."""

import sqlalchemy as sa
from alembic import op

from perdure.storage import UtcDateTime

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create `model_budget` and `model_budget_raise`."""
    op.create_table(
        "model_budget",
        sa.Column("budget", sa.String(), primary_key=True),
        sa.Column("subject", sa.String(), primary_key=True),
        sa.Column("since", sa.String(), primary_key=True),
        sa.Column("reserved_nano_usd", sa.BigInteger(), nullable=False),
        sa.Column("spent_nano_usd", sa.BigInteger(), nullable=False),
        sa.Column("raised_nano_usd", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "model_budget_raise",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("budget", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("since", sa.String(), nullable=False),
        sa.Column("nano_usd", sa.BigInteger(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("model_budget_raise")
    op.drop_table("model_budget")
