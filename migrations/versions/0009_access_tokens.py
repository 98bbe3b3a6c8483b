"""Access tokens of connectors: one for all workers, and who may get the next."""

import sqlalchemy as sa
from alembic import op

from perdure.storage import UtcDateTime

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table `access_token`."""
    op.create_table(
        "access_token",
        sa.Column("connector", sa.String(), primary_key=True),
        sa.Column("origin", sa.String(), nullable=False),
        sa.Column("sealed", sa.String(), nullable=True),
        sa.Column("obtained_at", UtcDateTime(), nullable=True),
        sa.Column("expires_at", UtcDateTime(), nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("lease_until", UtcDateTime(), nullable=True),
        sa.Column("refreshes", sa.Integer(), nullable=False),
        sa.Column("error", sa.String(), nullable=False),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("access_token")
