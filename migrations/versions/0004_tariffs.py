"""Prices and carbon intensities of the sites' energy over time."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "factor_import",
        sa.Column("import_id", sa.Integer(), sa.Identity(), primary_key=True),
        sa.Column("site_id", sa.Integer(), sa.ForeignKey("gigawatch.site.site_id"), nullable=False),
        sa.Column("source", sa.Text(), nullable=False, comment="Where the values come from"),
        sa.Column(
            "version",
            sa.Text(),
            nullable=False,
            comment="Version of the source; by default the file's SHA-256, 12 digits",
        ),
        sa.Column(
            "imported",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.func.now(),
            comment="When they were taken in",
        ),
        schema="gigawatch",
        comment="A file of prices or grid intensities that was taken in",
    )
    _make(
        "tariff",
        sa.Column(
            "price_per_kwh",
            sa.Numeric(),
            nullable=False,
            comment="Price, in the currency per kWh; may be below 0",
        ),
        sa.Column("currency", sa.Text(), nullable=False, comment="ISO 4217 code"),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name="tariff_currency_check"),
        kinds={"time": ""},
        comment="Price of a site's energy over time",
    )
    _make(
        "grid_intensity",
        sa.Column("method", sa.Text(), nullable=False, comment="location: of the grid; market: of what was bought"),
        sa.Column(
            "instrument", sa.Text(), comment="What was bought, for method market: guarantees of origin, a PPA, …"
        ),
        sa.Column("g_per_kwh", sa.Numeric(), nullable=False, comment="Carbon intensity, gCO2e/kWh"),
        sa.Column("estimated", sa.Boolean(), nullable=False, comment="Whether the source calls the value an estimate"),
        sa.CheckConstraint("method IN ('location', 'market')", name="grid_intensity_method_check"),
        sa.CheckConstraint("(method = 'market') = (instrument IS NOT NULL)", name="grid_intensity_instrument_check"),
        sa.CheckConstraint("g_per_kwh >= 0", name="grid_intensity_g_per_kwh_check"),
        kinds={"location": " AND method = 'location'", "market": " AND method = 'market'"},
        comment="Carbon intensity of a site's energy over time, by each method of accounting",
    )


def _make(name: str, *columns: sa.schema.SchemaItem, kinds: dict[str, str], comment: str) -> None:
    op.create_table(
        name,
        sa.Column("import_id", sa.Integer(), sa.ForeignKey("gigawatch.factor_import.import_id"), nullable=False),
        sa.Column("site_id", sa.Integer(), sa.ForeignKey("gigawatch.site.site_id"), nullable=False),
        sa.Column("start", sa.DateTime(timezone=True), nullable=False, comment="From this moment on; a whole minute"),
        sa.Column(
            "stop",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="Up to this moment, which is not part of it; a whole minute",
        ),
        *columns,
        sa.Column(
            "retired", sa.DateTime(timezone=True), comment="When it was replaced or removed; absent while it counts"
        ),
        sa.CheckConstraint("start < stop", name=f"{name}_start_check"),
        sa.CheckConstraint(
            "date_bin('00:01:00', start, '2000-01-01 00:00:00+00') = start"
            " AND date_bin('00:01:00', stop, '2000-01-01 00:00:00+00') = stop",
            name=f"{name}_minutes_check",
        ),
        *(
            postgresql.ExcludeConstraint(
                (sa.text("int4range(site_id, site_id, '[]')"), "&&"),
                (sa.text("tstzrange(start, stop)"), "&&"),
                where=sa.text(f"retired IS NULL{condition}"),
                name=f"{name}_{kind}_excl",
            )
            for kind, condition in kinds.items()
        ),
        schema="gigawatch",
        comment=comment,
    )
    op.create_index(f"{name}_import_id_idx", name, ["import_id"], schema="gigawatch")
