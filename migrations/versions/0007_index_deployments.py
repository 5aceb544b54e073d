"""Rollups of one deployment are found without those of all others at the same time."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    for group in ("deployment", "serving", "latency"):
        for level in ("1m", "1h", "1d"):
            table = f"{group}_{level}"
            op.create_index(f"{table}_deployment_id_time_idx", table, ["deployment_id", "time"], schema="gigawatch")
