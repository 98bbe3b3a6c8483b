"""Messages of conversations, each once, and summaries of the oldest."""

import sqlalchemy as sa
from alembic import op

from perdure.storage import UtcDateTime

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables `message` and `message_summary`."""
    op.create_table(
        "message",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("before", sa.String(), nullable=False),
        sa.Column("conversation", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("content", sa.String(), nullable=False),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("workflow_id", sa.String(), nullable=False),
        sa.Column("first_execution_run_id", sa.String(), nullable=False),
        sa.Column("stored_at", UtcDateTime(), nullable=False),
    )
    op.create_index("ix_message_position", "message", ["conversation", "position"])
    op.create_index("ix_message_run", "message", ["workflow_id", "first_execution_run_id"])
    op.create_table(
        "message_summary",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("conversation", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("content", sa.String(), nullable=False),
        sa.Column("record", sa.String(), nullable=False),
        sa.Column("stored_at", UtcDateTime(), nullable=False),
    )
    op.create_index("ix_message_summary_conversation", "message_summary", ["conversation"])


def downgrade() -> None:
    """Drop them."""
    op.drop_table("message_summary")
    op.drop_table("message")
