"""Which database a run's effects are in."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create `ledger` and give the database the id that it keeps."""
    ledger = op.create_table("ledger", sa.Column("id", sa.String(), primary_key=True))
    op.bulk_insert(ledger, [{"id": secrets.token_hex(4)}])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("ledger")
