"""Payloads too large for a history, under the hash of their content."""

import sqlalchemy as sa
from alembic import op

from perdure.storage import UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table `payload`."""
    op.create_table(
        "payload",
        sa.Column("sha256", sa.String(), primary_key=True),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("stored_at", UtcDateTime(), nullable=False),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("payload")
