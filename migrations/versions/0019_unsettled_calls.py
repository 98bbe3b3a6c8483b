"""Model calls whose workers die: until when one is waited for, which budgets hold money for it, and what it has brought."""

import sqlalchemy as sa
from alembic import op

from perdure.storage import UtcDateTime

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, and an index of the calls on their way."""
    op.add_column("model_call", sa.Column("due_at", UtcDateTime(), nullable=True))
    op.add_column("model_call", sa.Column("held_in", sa.String(), nullable=False, server_default=""))
    op.add_column("model_call", sa.Column("answer", sa.Text(), nullable=True))
    sent = sa.text("outcome = 'sent'")
    op.create_index("ix_model_call_sent", "model_call", ["due_at"], sqlite_where=sent, postgresql_where=sent)
    kept = sa.text("answer IS NOT NULL")
    op.create_index("ix_model_call_answer", "model_call", ["settled_at"], sqlite_where=kept, postgresql_where=kept)


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_model_call_answer", "model_call")
    op.drop_index("ix_model_call_sent", "model_call")
    op.drop_column("model_call", "answer")
    op.drop_column("model_call", "held_in")
    op.drop_column("model_call", "due_at")
