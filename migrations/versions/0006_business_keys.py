"""Effects that happen once in the world, and what people say about them."""

import sqlalchemy as sa
from alembic import op

from perdure.storage import UtcDateTime

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_HOLDS = sa.text("state NOT IN ('failed', 'compensated') AND NOT beside")


def upgrade() -> None:
    """Add business keys and changed intents to `effect`, people to `effect_event`, and the table `effect_asker`."""
    op.add_column("effect", sa.Column("business_key", sa.String(), nullable=True))
    op.add_column("effect", sa.Column("contradicts", sa.String(), nullable=True))
    op.add_column("effect", sa.Column("beside", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("effect", sa.Column("given_up", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_index("ix_effect_contradicts", "effect", ["contradicts"])
    op.create_index(
        "ux_effect_business_key",
        "effect",
        ["business_key"],
        unique=True,
        sqlite_where=_HOLDS,
        postgresql_where=_HOLDS,
    )
    op.add_column("effect_event", sa.Column("by", sa.String(), nullable=True))
    op.add_column("effect_event", sa.Column("verified", sa.Boolean(), nullable=True))
    op.create_table(
        "effect_asker",
        sa.Column("effect", sa.String(), primary_key=True),
        sa.Column("key", sa.String(), primary_key=True),
        sa.Column("workflow_id", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("step", sa.String(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
    )
    op.create_index("ix_effect_asker_key", "effect_asker", ["key"])


def downgrade() -> None:
    """Drop them."""
    op.drop_table("effect_asker")
    op.drop_column("effect_event", "verified")
    op.drop_column("effect_event", "by")
    op.drop_index("ux_effect_business_key", "effect")
    op.drop_index("ix_effect_contradicts", "effect")
    for name in ("given_up", "beside", "contradicts", "business_key"):
        op.drop_column("effect", name)
