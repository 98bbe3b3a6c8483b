"""Model calls: for whom, how much was held back for it, what it saved, and why it went where it went."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_TEXTS = ("tenant", "agent", "workflow_type", "switched", "repairs", "lane", "arm", "prompt_version")
_NUMBERS = ("reserved_nano_usd", "saved_nano_usd", "cached_tokens")


def upgrade() -> None:
    """Add the columns."""
    for name in _TEXTS:
        default = "default" if name == "tenant" else ""
        op.add_column("model_call", sa.Column(name, sa.String(), nullable=False, server_default=default))
    for name in _NUMBERS:
        op.add_column("model_call", sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Drop them."""
    for name in (*_TEXTS, *_NUMBERS):
        op.drop_column("model_call", name)
