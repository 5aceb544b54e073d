"""PUE of the sites over time, as configured."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "configured_pue",
        sa.Column("import_id", sa.Integer(), sa.ForeignKey("gigawatch.factor_import.import_id"), nullable=False),
        sa.Column("site_id", sa.Integer(), sa.ForeignKey("gigawatch.site.site_id"), nullable=False),
        sa.Column("start", sa.DateTime(timezone=True), nullable=False, comment="From this moment on; a whole minute"),
        sa.Column(
            "stop",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="Up to this moment, which is not part of it; a whole minute",
        ),
        sa.Column(
            "pue",
            sa.Numeric(),
            nullable=False,
            comment="Energy of the facility over that of its IT equipment",
        ),
        sa.Column(
            "retired", sa.DateTime(timezone=True), comment="When it was replaced or removed; absent while it counts"
        ),
        sa.CheckConstraint("pue BETWEEN 1 AND 5", name="configured_pue_pue_check"),
        sa.CheckConstraint("start < stop", name="configured_pue_start_check"),
        sa.CheckConstraint(
            "date_bin('00:01:00', start, '2000-01-01 00:00:00+00') = start"
            " AND date_bin('00:01:00', stop, '2000-01-01 00:00:00+00') = stop",
            name="configured_pue_minutes_check",
        ),
        postgresql.ExcludeConstraint(
            (sa.text("int4range(site_id, site_id, '[]')"), "&&"),
            (sa.text("tstzrange(start, stop)"), "&&"),
            where=sa.text("retired IS NULL"),
            name="configured_pue_time_excl",
        ),
        schema="gigawatch",
        comment="PUE of a site over time as somebody configured it; not measured",
    )
    op.create_index("configured_pue_import_id_idx", "configured_pue", ["import_id"], schema="gigawatch")
    op.create_table_comment(
        "factor_import", "Prices, grid intensities or configured PUE that were taken in at once", schema="gigawatch"
    )
