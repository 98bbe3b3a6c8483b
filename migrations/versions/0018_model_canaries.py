"""Canaries of models and prompts: how they stand, what both arms have done, and what was decided."""

import sqlalchemy as sa
from alembic import op

from perdure.storage import UtcDateTime

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_COUNTS = ("calls", "failed", "valid", "unsure", "judged", "overridden")


def upgrade() -> None:
    """Create `model_canary`, `model_canary_arm` and `model_canary_decision`, and add what they need to `model_call`."""
    op.add_column("model_call", sa.Column("canary", sa.String(), nullable=False, server_default=""))
    op.add_column("model_call", sa.Column("trial", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("model_call", sa.Column("overridden", sa.Boolean(), nullable=True))
    only = sa.text("canary != ''")
    op.create_index("ix_model_call_canary", "model_call", ["canary", "sent_at"], sqlite_where=only, postgresql_where=only)
    op.create_table(
        "model_canary",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("tier", sa.String(), nullable=False),
        sa.Column("adopting", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("since", UtcDateTime(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
    )
    op.create_index("ix_model_canary_name", "model_canary", ["name"])
    op.create_table(
        "model_canary_arm",
        sa.Column("canary", sa.String(), primary_key=True),
        sa.Column("arm", sa.String(), primary_key=True),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in _COUNTS),
        sa.Column("log_milliseconds", sa.Float(), nullable=False),
        sa.Column("cost_nano_usd", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "model_canary_decision",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("canary", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
    )
    op.create_index("ix_model_canary_decision_canary", "model_canary_decision", ["canary"])


def downgrade() -> None:
    """Drop them."""
    op.drop_table("model_canary_decision")
    op.drop_table("model_canary_arm")
    op.drop_table("model_canary")
    op.drop_index("ix_model_call_canary", "model_call")
    for name in ("overridden", "trial", "canary"):
        op.drop_column("model_call", name)
