"""How models do, by deployment and version, for whoever asks the database: a view over the calls."""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

# A call without an answer does not say which version it failed at: it counts for the one that had answered before it.
_QUALITY = """
CREATE VIEW model_quality AS
WITH dated AS (
    SELECT deployment, model, task, outcome, milliseconds, cost_nano_usd, repairs, NULLIF(model_version, '') AS answered_by,
           COUNT(NULLIF(model_version, '')) OVER (PARTITION BY deployment, model ORDER BY sent_at, call_id) AS era
    FROM model_call
    WHERE outcome NOT IN ('cached', 'denied', 'sent')
),
named AS (
    SELECT deployment, model, task, outcome, milliseconds, cost_nano_usd, repairs,
           COALESCE(MAX(answered_by) OVER (PARTITION BY deployment, model, era), '') AS version
    FROM dated
),
ranked AS (
    SELECT named.*,
           ROW_NUMBER() OVER (PARTITION BY deployment, model, version ORDER BY milliseconds) AS nth,
           COUNT(*) OVER (PARTITION BY deployment, model, version) AS many
    FROM named
)
SELECT deployment, model, version,
       COUNT(*) AS calls,
       1.0 * SUM(CASE WHEN outcome IN ('unavailable', 'ambiguous', 'refused') THEN 1 ELSE 0 END) / COUNT(*) AS error_rate,
       1.0 * SUM(CASE WHEN outcome IN ('answered', 'unsure') THEN 1 ELSE 0 END)
           / NULLIF(SUM(CASE WHEN outcome IN ('answered', 'unsure', 'invalid') THEN 1 ELSE 0 END), 0) AS validity,
       SUM(CASE WHEN repairs <> '' THEN 1 ELSE 0 END) AS repaired,
       MAX(CASE WHEN nth * 100 < many * 50 + 100 THEN milliseconds END) AS p50_milliseconds,
       MAX(CASE WHEN nth * 100 < many * 95 + 100 THEN milliseconds END) AS p95_milliseconds,
       MAX(CASE WHEN nth * 100 < many * 99 + 100 THEN milliseconds END) AS p99_milliseconds,
       SUM(cost_nano_usd) AS cost_nano_usd
FROM ranked
GROUP BY deployment, model, version
"""


def upgrade() -> None:
    """Create `model_quality`."""
    op.execute(_QUALITY)


def downgrade() -> None:
    """Drop it."""
    op.execute("DROP VIEW model_quality")
