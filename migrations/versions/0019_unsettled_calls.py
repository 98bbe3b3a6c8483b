"""Model calls that nobody has settled: until when one is waited for, and which budgets hold money back for it."""

import sqlalchemy as sa
from alembic import op

from perdure.storage import UtcDateTime

revision = "0019"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, and an index of the calls on their way."""
    op.add_column("model_call", sa.Column("due_at", UtcDateTime(), nullable=True))
    op.add_column("model_call", sa.Column("held_in", sa.String(), nullable=False, server_default=""))
    sent = sa.text("outcome = 'sent'")
    op.create_index("ix_model_call_sent", "model_call", ["due_at"], sqlite_where=sent, postgresql_where=sent)


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_model_call_sent", "model_call")
    op.drop_column("model_call", "held_in")
    op.drop_column("model_call", "due_at")
