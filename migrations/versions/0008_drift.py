"""Which connectors there are, which contracts they rely on, and how those compare with the live ones."""

import sqlalchemy as sa
from alembic import op

from perdure.storage import UtcDateTime

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables `connector`, `contract` and `contract_check`."""
    op.create_table(
        "connector",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("facts", sa.String(), nullable=False),
        sa.Column("seen_at", UtcDateTime(), nullable=False),
    )
    op.create_table(
        "contract",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("connector", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("contract", sa.String(), nullable=False),
        sa.Column("relied", sa.String(), nullable=False),
        sa.Column("accepted_by", sa.String(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
    )
    op.create_index("ix_contract_connector", "contract", ["connector"])
    op.create_table(
        "contract_check",
        sa.Column("connector", sa.String(), primary_key=True),
        sa.Column("version", sa.String(), primary_key=True),
        sa.Column("relied_on", sa.String(), nullable=False),
        sa.Column("live", sa.String(), nullable=False),
        sa.Column("contract", sa.String(), nullable=False),
        sa.Column("changes", sa.String(), nullable=False),
        sa.Column("verdict", sa.String(), nullable=False),
        sa.Column("blocked", sa.String(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    for table in ("contract_check", "contract", "connector"):
        op.drop_table(table)
