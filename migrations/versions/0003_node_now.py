"""What is summed over the fleet as it is now is in one table."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    for column in (
        sa.Column("site_id", sa.Integer(), comment="Its site"),
        sa.Column("rack_id", sa.Integer(), comment="Its rack; absent where the agent's configuration names none"),
        sa.Column("simulated", sa.Boolean(), comment="Whether its data are simulated or replayed"),
        sa.Column(
            "gpus_expected",
            sa.SmallInteger(),
            nullable=False,
            server_default="0",
            comment="Physical GPUs that it has now",
        ),
        sa.Column("gpu_model", sa.Text(), comment="Model of its GPUs; absent where it has none, or several models"),
        sa.Column(
            "temp_slowdown_c", sa.SmallInteger(), comment="Least temperature at which one of its GPUs slows down, °C"
        ),
    ):
        op.add_column("node_now", column, schema="gigawatch")
    op.execute("""
        INSERT INTO gigawatch.node_now (node_id, last_seen, clock_offset_ms)
        SELECT node_id, first_seen, 0 FROM gigawatch.node ON CONFLICT DO NOTHING""")
    op.execute("""
        UPDATE gigawatch.node_now AS now SET site_id = node.site_id, rack_id = node.rack_id,
            simulated = node.simulated, gpus_expected = node.gpus, gpu_model = node.gpu_model,
            temp_slowdown_c = node.temp_slowdown_c
        FROM gigawatch.node WHERE node.node_id = now.node_id""")
    op.alter_column("node_now", "site_id", nullable=False, schema="gigawatch")
    op.alter_column("node_now", "simulated", nullable=False, schema="gigawatch")
    for name in ("gpus", "gpu_model", "temp_slowdown_c"):
        op.drop_column("node", name, schema="gigawatch")
