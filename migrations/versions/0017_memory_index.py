"""Which vector index follows the database."""

import uuid
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

from perdure.storage import UtcDateTime

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table `memory_index` with its one row: none follows yet."""
    table = op.create_table(
        "memory_index",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("database_id", sa.String(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("place", sa.String(), nullable=False),
        sa.Column("generation", sa.String(), nullable=False),
        sa.Column("embedder", sa.String(), nullable=False),
        sa.Column("settled", sa.Boolean(), nullable=False),
        sa.Column("since", UtcDateTime(), nullable=False),
    )
    nobody = {"holder": "", "place": "", "generation": "", "embedder": "", "settled": False}
    op.bulk_insert(table, [{"id": 1, "database_id": uuid.uuid4().hex[:8], **nobody, "since": datetime.now(UTC)}])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("memory_index")
