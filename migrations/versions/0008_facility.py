"""Halls, meters and what they feed; what meters counted."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

METER_ROLES = (
    "utility",
    "generation",
    "fuel",
    "ups_in",
    "ups_out",
    "pdu",
    "it",
    "cooling",
    "pump",
    "lighting",
    "water",
    "heat_reuse",
    "heat_removed",
    "temperature",
    "other",
)


def upgrade() -> None:
    """Apply."""
    for table in ("configured_pue", "grid_intensity", "tariff"):
        op.create_index(f"{table}_stop_idx", table, ["stop"], unique=False, schema="gigawatch")
    op.create_table(
        "facility_1d",
        sa.Column("time", sa.DateTime(timezone=True), nullable=False, comment="Start of the bucket"),
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("hall_id", sa.Integer(), nullable=True, comment="Absent: of the whole site"),
        sa.Column("role", sa.Text(), nullable=False, comment="What they count"),
        sa.Column("meters", sa.SmallInteger(), nullable=False, comment="Meters whose values are wanted: the most"),
        sa.Column("wanted_ms", sa.BigInteger(), nullable=False, comment="Meter-time that is wanted, ms"),
        sa.Column("energy_mj", sa.BigInteger(), nullable=True, comment="Energy, of fuel that of its volume, mJ"),
        sa.Column("energy_ms", sa.BigInteger(), nullable=False, comment="Meter-time for which that is known, ms"),
        sa.Column("energy_interpolated_mj", sa.BigInteger(), nullable=False, comment="Part interpolated over gaps, mJ"),
        sa.Column(
            "energy_integrated_mj", sa.BigInteger(), nullable=False, comment="Part integrated from polled power, mJ"
        ),
        sa.Column(
            "energy_estimated_mj", sa.BigInteger(), nullable=False, comment="Part estimated over a new register, mJ"
        ),
        sa.Column("volume_ml", sa.BigInteger(), nullable=True, comment="Water or fuel, mL"),
        sa.Column("volume_ms", sa.BigInteger(), nullable=False, comment="Meter-time for which that is known, ms"),
        sa.Column(
            "temp_mc_ms", sa.BigInteger(), nullable=True, comment="Temperature times time, thousandths of 1 °C times ms"
        ),
        sa.Column("temp_ms", sa.BigInteger(), nullable=False, comment="Meter-time with that, ms"),
        sa.UniqueConstraint(
            "time", "site_id", "hall_id", "role", name="facility_1d_bucket_key", postgresql_nulls_not_distinct=True
        ),
        schema="gigawatch",
        comment="What the meters of one role in a hall, or of none, counted in 1d: the sums of meter_1d",
    )
    op.create_index(
        "facility_1d_site_id_time_idx", "facility_1d", ["site_id", "time"], unique=False, schema="gigawatch"
    )
    op.create_table(
        "facility_1h",
        sa.Column("time", sa.DateTime(timezone=True), nullable=False, comment="Start of the bucket"),
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("hall_id", sa.Integer(), nullable=True, comment="Absent: of the whole site"),
        sa.Column("role", sa.Text(), nullable=False, comment="What they count"),
        sa.Column("meters", sa.SmallInteger(), nullable=False, comment="Meters whose values are wanted: the most"),
        sa.Column("wanted_ms", sa.BigInteger(), nullable=False, comment="Meter-time that is wanted, ms"),
        sa.Column("energy_mj", sa.BigInteger(), nullable=True, comment="Energy, of fuel that of its volume, mJ"),
        sa.Column("energy_ms", sa.BigInteger(), nullable=False, comment="Meter-time for which that is known, ms"),
        sa.Column("energy_interpolated_mj", sa.BigInteger(), nullable=False, comment="Part interpolated over gaps, mJ"),
        sa.Column(
            "energy_integrated_mj", sa.BigInteger(), nullable=False, comment="Part integrated from polled power, mJ"
        ),
        sa.Column(
            "energy_estimated_mj", sa.BigInteger(), nullable=False, comment="Part estimated over a new register, mJ"
        ),
        sa.Column("volume_ml", sa.BigInteger(), nullable=True, comment="Water or fuel, mL"),
        sa.Column("volume_ms", sa.BigInteger(), nullable=False, comment="Meter-time for which that is known, ms"),
        sa.Column(
            "temp_mc_ms", sa.BigInteger(), nullable=True, comment="Temperature times time, thousandths of 1 °C times ms"
        ),
        sa.Column("temp_ms", sa.BigInteger(), nullable=False, comment="Meter-time with that, ms"),
        sa.UniqueConstraint(
            "time", "site_id", "hall_id", "role", name="facility_1h_bucket_key", postgresql_nulls_not_distinct=True
        ),
        schema="gigawatch",
        comment="What the meters of one role in a hall, or of none, counted in 1h: the sums of meter_1h",
    )
    op.create_index(
        "facility_1h_site_id_time_idx", "facility_1h", ["site_id", "time"], unique=False, schema="gigawatch"
    )
    op.create_table(
        "facility_ratio_1d",
        sa.Column("time", sa.DateTime(timezone=True), nullable=False, comment="Start of the bucket"),
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("hall_id", sa.Integer(), nullable=True, comment="Absent: of the whole site"),
        sa.Column("figure", sa.Text(), nullable=False, comment="pue, wue, wue_potable, wue_fresh, erf, ref, cer"),
        sa.Column(
            "category",
            sa.SmallInteger(),
            nullable=True,
            comment="Where E_IT is metered: 1 UPS output, 2 PDU output, 3 IT input",
        ),
        sa.Column("numerator", sa.BigInteger(), nullable=False, comment="Energy, mJ; of wue water, mL"),
        sa.Column("denominator", sa.BigInteger(), nullable=False, comment="Energy, mJ"),
        sa.Column("hours", sa.SmallInteger(), nullable=False, comment="Hours that are in both"),
        sa.Column(
            "missing_h", sa.SmallInteger(), nullable=False, comment="Hours in neither, since a meter was not known"
        ),
        sa.Column(
            "faulty_h", sa.SmallInteger(), nullable=False, comment="Hours in neither, since a meter cannot be right"
        ),
        sa.Column("numerator_meters", sa.SmallInteger(), nullable=False, comment="Meters of the numerator: the most"),
        sa.Column(
            "denominator_meters", sa.SmallInteger(), nullable=False, comment="Meters of the denominator: the most"
        ),
        sa.CheckConstraint(
            "figure IN ('pue', 'wue', 'wue_potable', 'wue_fresh', 'erf', 'ref', 'cer')",
            name="facility_ratio_1d_figure_check",
        ),
        sa.UniqueConstraint(
            "time",
            "site_id",
            "hall_id",
            "figure",
            "category",
            name="facility_ratio_1d_bucket_key",
            postgresql_nulls_not_distinct=True,
        ),
        schema="gigawatch",
        comment="Both sums of each ratio of a site, or a hall, in 1d",
    )
    op.create_index(
        "facility_ratio_1d_figure_time_idx",
        "facility_ratio_1d",
        ["figure", "time", "category"],
        unique=False,
        schema="gigawatch",
        postgresql_where=sa.text("hall_id IS NULL"),
    )
    op.create_index(
        "facility_ratio_1d_pue_idx",
        "facility_ratio_1d",
        ["category", "site_id", "time"],
        unique=False,
        schema="gigawatch",
        postgresql_include=["numerator", "denominator", "hours"],
        postgresql_where=sa.text("figure = 'pue' AND hall_id IS NULL"),
    )
    op.create_index(
        "facility_ratio_1d_site_id_time_idx",
        "facility_ratio_1d",
        ["site_id", "time"],
        unique=False,
        schema="gigawatch",
    )
    op.create_table(
        "facility_ratio_1h",
        sa.Column("time", sa.DateTime(timezone=True), nullable=False, comment="Start of the bucket"),
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("hall_id", sa.Integer(), nullable=True, comment="Absent: of the whole site"),
        sa.Column("figure", sa.Text(), nullable=False, comment="pue, wue, wue_potable, wue_fresh, erf, ref, cer"),
        sa.Column(
            "category",
            sa.SmallInteger(),
            nullable=True,
            comment="Where E_IT is metered: 1 UPS output, 2 PDU output, 3 IT input",
        ),
        sa.Column("numerator", sa.BigInteger(), nullable=False, comment="Energy, mJ; of wue water, mL"),
        sa.Column("denominator", sa.BigInteger(), nullable=False, comment="Energy, mJ"),
        sa.Column("hours", sa.SmallInteger(), nullable=False, comment="Hours that are in both"),
        sa.Column(
            "missing_h", sa.SmallInteger(), nullable=False, comment="Hours in neither, since a meter was not known"
        ),
        sa.Column(
            "faulty_h", sa.SmallInteger(), nullable=False, comment="Hours in neither, since a meter cannot be right"
        ),
        sa.Column("numerator_meters", sa.SmallInteger(), nullable=False, comment="Meters of the numerator: the most"),
        sa.Column(
            "denominator_meters", sa.SmallInteger(), nullable=False, comment="Meters of the denominator: the most"
        ),
        sa.CheckConstraint(
            "figure IN ('pue', 'wue', 'wue_potable', 'wue_fresh', 'erf', 'ref', 'cer')",
            name="facility_ratio_1h_figure_check",
        ),
        sa.UniqueConstraint(
            "time",
            "site_id",
            "hall_id",
            "figure",
            "category",
            name="facility_ratio_1h_bucket_key",
            postgresql_nulls_not_distinct=True,
        ),
        schema="gigawatch",
        comment="Both sums of each ratio of a site, or a hall, in 1h",
    )
    op.create_index(
        "facility_ratio_1h_figure_time_idx",
        "facility_ratio_1h",
        ["figure", "time", "category"],
        unique=False,
        schema="gigawatch",
        postgresql_where=sa.text("hall_id IS NULL"),
    )
    op.create_index(
        "facility_ratio_1h_pue_idx",
        "facility_ratio_1h",
        ["category", "site_id", "time"],
        unique=False,
        schema="gigawatch",
        postgresql_include=["numerator", "denominator", "hours"],
        postgresql_where=sa.text("figure = 'pue' AND hall_id IS NULL"),
    )
    op.create_index(
        "facility_ratio_1h_site_id_time_idx",
        "facility_ratio_1h",
        ["site_id", "time"],
        unique=False,
        schema="gigawatch",
    )
    op.create_table(
        "meter_1d",
        sa.Column("time", sa.DateTime(timezone=True), nullable=False, comment="Start of the bucket"),
        sa.Column("meter_id", sa.Integer(), nullable=False),
        sa.Column("covered_ms", sa.BigInteger(), nullable=False, comment="Time with windows, ms"),
        sa.Column("energy_mj", sa.BigInteger(), nullable=True, comment="Electricity, or of a heat meter heat, mJ"),
        sa.Column("energy_ms", sa.BigInteger(), nullable=False, comment="Time for which that is known, ms"),
        sa.Column("energy_interpolated_mj", sa.BigInteger(), nullable=False, comment="Part interpolated over gaps, mJ"),
        sa.Column(
            "energy_integrated_mj", sa.BigInteger(), nullable=False, comment="Part integrated from polled power, mJ"
        ),
        sa.Column(
            "energy_estimated_mj", sa.BigInteger(), nullable=False, comment="Part estimated over a new register, mJ"
        ),
        sa.Column(
            "polled_mj",
            sa.BigInteger(),
            nullable=True,
            comment="Polled power times time, mJ; below 0 it flowed the other way",
        ),
        sa.Column("polled_ms", sa.BigInteger(), nullable=False, comment="Time with that, ms"),
        sa.Column("power_min_mw", sa.BigInteger(), nullable=True, comment="Least polled power, mW"),
        sa.Column("power_max_mw", sa.BigInteger(), nullable=True, comment="Greatest polled power, mW"),
        sa.Column("current_max_ma", sa.BigInteger(), nullable=True, comment="Greatest current of a phase, mA"),
        sa.Column("volume_ml", sa.BigInteger(), nullable=True, comment="Water or fuel, mL"),
        sa.Column("volume_ms", sa.BigInteger(), nullable=False, comment="Time for which that is known, ms"),
        sa.Column(
            "temp_mc_ms", sa.BigInteger(), nullable=True, comment="Temperature times time, thousandths of 1 °C times ms"
        ),
        sa.Column("temp_ms", sa.BigInteger(), nullable=False, comment="Time with that, ms"),
        sa.Column("readings_taken", sa.Integer(), nullable=False, comment="Readings taken"),
        sa.Column(
            "readings_expected", sa.Integer(), nullable=True, comment="Readings due; absent: it is a sum of others"
        ),
        sa.Column("rejected_readings", sa.BigInteger(), nullable=False, comment="Readings refused as impossible"),
        sa.Column("stuck_h", sa.SmallInteger(), nullable=False, comment="Hours in which it stood still"),
        sa.Column("reversed_h", sa.SmallInteger(), nullable=False, comment="Hours in which power flowed the other way"),
        schema="gigawatch",
        comment="What one meter counted in 1d: folded windows",
    )
    op.create_index("meter_1d_meter_id_time_idx", "meter_1d", ["meter_id", "time"], unique=True, schema="gigawatch")
    op.create_index(
        "meter_1d_time_idx",
        "meter_1d",
        ["time"],
        unique=False,
        schema="gigawatch",
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 32},
    )
    op.create_table(
        "meter_1h",
        sa.Column("time", sa.DateTime(timezone=True), nullable=False, comment="Start of the bucket"),
        sa.Column("meter_id", sa.Integer(), nullable=False),
        sa.Column("covered_ms", sa.BigInteger(), nullable=False, comment="Time with windows, ms"),
        sa.Column("energy_mj", sa.BigInteger(), nullable=True, comment="Electricity, or of a heat meter heat, mJ"),
        sa.Column("energy_ms", sa.BigInteger(), nullable=False, comment="Time for which that is known, ms"),
        sa.Column("energy_interpolated_mj", sa.BigInteger(), nullable=False, comment="Part interpolated over gaps, mJ"),
        sa.Column(
            "energy_integrated_mj", sa.BigInteger(), nullable=False, comment="Part integrated from polled power, mJ"
        ),
        sa.Column(
            "energy_estimated_mj", sa.BigInteger(), nullable=False, comment="Part estimated over a new register, mJ"
        ),
        sa.Column(
            "polled_mj",
            sa.BigInteger(),
            nullable=True,
            comment="Polled power times time, mJ; below 0 it flowed the other way",
        ),
        sa.Column("polled_ms", sa.BigInteger(), nullable=False, comment="Time with that, ms"),
        sa.Column("power_min_mw", sa.BigInteger(), nullable=True, comment="Least polled power, mW"),
        sa.Column("power_max_mw", sa.BigInteger(), nullable=True, comment="Greatest polled power, mW"),
        sa.Column("current_max_ma", sa.BigInteger(), nullable=True, comment="Greatest current of a phase, mA"),
        sa.Column("volume_ml", sa.BigInteger(), nullable=True, comment="Water or fuel, mL"),
        sa.Column("volume_ms", sa.BigInteger(), nullable=False, comment="Time for which that is known, ms"),
        sa.Column(
            "temp_mc_ms", sa.BigInteger(), nullable=True, comment="Temperature times time, thousandths of 1 °C times ms"
        ),
        sa.Column("temp_ms", sa.BigInteger(), nullable=False, comment="Time with that, ms"),
        sa.Column("readings_taken", sa.Integer(), nullable=False, comment="Readings taken"),
        sa.Column(
            "readings_expected", sa.Integer(), nullable=True, comment="Readings due; absent: it is a sum of others"
        ),
        sa.Column("rejected_readings", sa.BigInteger(), nullable=False, comment="Readings refused as impossible"),
        sa.Column("stuck_h", sa.SmallInteger(), nullable=False, comment="Hours in which it stood still"),
        sa.Column("reversed_h", sa.SmallInteger(), nullable=False, comment="Hours in which power flowed the other way"),
        schema="gigawatch",
        comment="What one meter counted in 1h: folded windows",
    )
    op.create_index("meter_1h_meter_id_time_idx", "meter_1h", ["meter_id", "time"], unique=True, schema="gigawatch")
    op.create_index(
        "meter_1h_time_idx",
        "meter_1h",
        ["time"],
        unique=False,
        schema="gigawatch",
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 32},
    )
    op.create_table(
        "meter_window",
        sa.Column("time", sa.DateTime(timezone=True), nullable=False, comment="Start of the window"),
        sa.Column("meter_id", sa.Integer(), nullable=False),
        sa.Column("covered_ms", sa.Integer(), nullable=False, comment="Time for which energy or volume is known, ms"),
        sa.Column("readings_taken", sa.SmallInteger(), nullable=False, comment="Readings taken"),
        sa.Column("readings_expected", sa.SmallInteger(), nullable=False, comment="Readings due"),
        sa.Column(
            "energy_method",
            sa.SmallInteger(),
            nullable=True,
            comment="1 register, 2 interpolated, 3 integrated, 4 estimated; the weakest used",
        ),
        sa.Column("energy_mj", sa.BigInteger(), nullable=True, comment="Electricity, or of a heat meter heat, mJ"),
        sa.Column(
            "power_mean_mw",
            sa.BigInteger(),
            nullable=True,
            comment="Mean of the polled power, mW; below 0 it flows the other way",
        ),
        sa.Column("power_min_mw", sa.BigInteger(), nullable=True, comment="Least polled power, mW"),
        sa.Column("power_max_mw", sa.BigInteger(), nullable=True, comment="Greatest polled power, mW"),
        sa.Column("current_max_ma", sa.BigInteger(), nullable=True, comment="Greatest current of a phase, mA"),
        sa.Column("volume_ml", sa.BigInteger(), nullable=True, comment="Water or fuel, mL"),
        sa.Column("temp_mean_mc", sa.Integer(), nullable=True, comment="Mean temperature, thousandths of 1 °C"),
        sa.Column("rejected_readings", sa.BigInteger(), nullable=False, comment="Readings refused as impossible"),
        sa.Column(
            "doubt",
            sa.SmallInteger(),
            nullable=True,
            comment="Why not all energy is told: 1 register stands still, 2 power is reversed",
        ),
        schema="gigawatch",
        comment="What one meter counted in one window",
    )
    op.create_index(
        "meter_window_meter_id_time_idx", "meter_window", ["meter_id", "time"], unique=True, schema="gigawatch"
    )
    op.create_index(
        "meter_window_time_idx",
        "meter_window",
        ["time"],
        unique=False,
        schema="gigawatch",
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 32},
    )
    op.create_table(
        "hall",
        sa.Column("hall_id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False, comment="Name of the hall within its site"),
        sa.ForeignKeyConstraint(["site_id"], ["gigawatch.site.site_id"], name="hall_site_id_fkey"),
        sa.PrimaryKeyConstraint("hall_id", name="hall_pkey"),
        sa.UniqueConstraint("site_id", "name", name="hall_site_id_name_key"),
        schema="gigawatch",
        comment="A hall of a site, from the topology",
    )
    op.create_table(
        "power_budget",
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False, comment="site, hall, row or rack"),
        sa.Column("name", sa.Text(), nullable=False, comment="Of what; a row's is HALL/ROW"),
        sa.Column("budget_mw", sa.BigInteger(), nullable=False, comment="Power that it may draw, mW"),
        sa.CheckConstraint("scope IN ('site', 'hall', 'row', 'rack')", name="power_budget_scope_check"),
        sa.ForeignKeyConstraint(["site_id"], ["gigawatch.site.site_id"], name="power_budget_site_id_fkey"),
        sa.UniqueConstraint("site_id", "scope", "name", name="power_budget_site_id_scope_name_key"),
        schema="gigawatch",
        comment="Power that parts of a site may draw, from the topology",
    )
    op.create_table(
        "topology",
        sa.Column("topology_id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column(
            "applied",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When it came into force",
        ),
        sa.Column("source", sa.Text(), nullable=False, comment="The file's name"),
        sa.Column("sha256", sa.Text(), nullable=False, comment="Of the file"),
        sa.Column("document", postgresql.JSON(), nullable=False, comment="The site as it was declared"),
        sa.ForeignKeyConstraint(["site_id"], ["gigawatch.site.site_id"], name="topology_site_id_fkey"),
        sa.PrimaryKeyConstraint("topology_id", name="topology_pkey"),
        schema="gigawatch",
        comment="Each site's halls, racks and meters as they were declared, the newest in force",
    )
    op.create_index("topology_site_id_idx", "topology", ["site_id"], unique=False, schema="gigawatch")
    op.create_table(
        "meter",
        sa.Column("meter_id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False, comment="Name of the meter within its site"),
        sa.Column(
            "role",
            sa.Text(),
            nullable=True,
            comment="What it counts; absent where the topology does not know it: it is in no figure",
        ),
        sa.Column(
            "virtual", sa.Boolean(), server_default="false", nullable=False, comment="Whether it is a sum of others"
        ),
        sa.Column(
            "hall_id", sa.Integer(), nullable=True, comment="Hall that it is of; absent where it is of the whole site"
        ),
        sa.Column("node", sa.Text(), nullable=True, comment="Host name of the node whose power it measures"),
        sa.Column("feed", sa.Text(), nullable=True, comment="Of redundant feeds, which: A or B"),
        sa.Column("rated_mw", sa.BigInteger(), nullable=True, comment="Most power that can flow through it, mW"),
        sa.Column("breaker_ma", sa.BigInteger(), nullable=True, comment="Rating of its breaker, mA"),
        sa.Column("contract_mw", sa.BigInteger(), nullable=True, comment="Most power by contract, mW"),
        sa.Column("fuel_j_per_l", sa.BigInteger(), nullable=True, comment="Energy of a litre of fuel, J"),
        sa.Column(
            "potable",
            sa.Boolean(),
            nullable=True,
            comment="Of a water meter, whether it is drinking water; absent where nobody said",
        ),
        sa.Column(
            "fresh",
            sa.Boolean(),
            nullable=True,
            comment="Of a water meter, whether it is fresh water; absent where nobody said",
        ),
        sa.Column(
            "backup",
            sa.Boolean(),
            server_default="false",
            nullable=False,
            comment="Whether it is a backup generator's",
        ),
        sa.Column(
            "since",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="Figures want it from this moment on; absent: always",
        ),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True, comment="Up to this moment; absent: for ever"),
        sa.Column(
            "simulated", sa.Boolean(), server_default="false", nullable=False, comment="Whether its data are simulated"
        ),
        sa.Column("node_id", sa.Integer(), nullable=True, comment="Whose agent read it last; absent where none did"),
        sa.Column(
            "last_seen", sa.DateTime(timezone=True), nullable=True, comment="When the server last stored a window of it"
        ),
        sa.CheckConstraint("feed IN ('A', 'B')", name="meter_feed_check"),
        sa.CheckConstraint(f"role IN {METER_ROLES}", name="meter_role_check"),
        sa.ForeignKeyConstraint(["hall_id"], ["gigawatch.hall.hall_id"], name="meter_hall_id_fkey"),
        sa.ForeignKeyConstraint(["node_id"], ["gigawatch.node.node_id"], name="meter_node_id_fkey"),
        sa.ForeignKeyConstraint(["site_id"], ["gigawatch.site.site_id"], name="meter_site_id_fkey"),
        sa.PrimaryKeyConstraint("meter_id", name="meter_pkey"),
        sa.UniqueConstraint("site_id", "name", name="meter_site_id_name_key"),
        schema="gigawatch",
        comment="A meter of a site's facility",
        postgresql_with={"fillfactor": 50},
    )
    op.create_table(
        "meter_feed",
        sa.Column("meter_id", sa.Integer(), nullable=False, comment="Upstream"),
        sa.Column("fed_id", sa.Integer(), nullable=False, comment="Downstream"),
        sa.ForeignKeyConstraint(["fed_id"], ["gigawatch.meter.meter_id"], name="meter_feed_fed_id_fkey"),
        sa.ForeignKeyConstraint(["meter_id"], ["gigawatch.meter.meter_id"], name="meter_feed_meter_id_fkey"),
        sa.PrimaryKeyConstraint("meter_id", "fed_id", name="meter_feed_pkey"),
        schema="gigawatch",
        comment="Which meter's energy goes on through which others",
    )
    op.create_index("meter_feed_fed_id_idx", "meter_feed", ["fed_id"], unique=False, schema="gigawatch")
    op.create_table(
        "meter_rack",
        sa.Column("meter_id", sa.Integer(), nullable=False),
        sa.Column("rack_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["meter_id"], ["gigawatch.meter.meter_id"], name="meter_rack_meter_id_fkey"),
        sa.ForeignKeyConstraint(["rack_id"], ["gigawatch.rack.rack_id"], name="meter_rack_rack_id_fkey"),
        sa.PrimaryKeyConstraint("meter_id", "rack_id", name="meter_rack_pkey"),
        schema="gigawatch",
        comment="Which racks a meter feeds",
    )
    op.create_index("meter_rack_rack_id_idx", "meter_rack", ["rack_id"], unique=False, schema="gigawatch")
    op.create_table(
        "meter_term",
        sa.Column("meter_id", sa.Integer(), nullable=False, comment="The virtual meter"),
        sa.Column("term_id", sa.Integer(), nullable=False, comment="One that is added or subtracted"),
        sa.Column("sign", sa.SmallInteger(), nullable=False, comment="1 added, -1 subtracted"),
        sa.CheckConstraint("sign IN (1, -1)", name="meter_term_sign_check"),
        sa.ForeignKeyConstraint(["meter_id"], ["gigawatch.meter.meter_id"], name="meter_term_meter_id_fkey"),
        sa.ForeignKeyConstraint(["term_id"], ["gigawatch.meter.meter_id"], name="meter_term_term_id_fkey"),
        sa.PrimaryKeyConstraint("meter_id", "term_id", name="meter_term_pkey"),
        schema="gigawatch",
        comment="What a virtual meter is the sum of",
    )
    op.add_column(
        "rack",
        sa.Column(
            "hall_id", sa.Integer(), nullable=True, comment="Where it stands; absent where the topology does not say"
        ),
        schema="gigawatch",
    )
    op.add_column("rack", sa.Column("row", sa.Text(), nullable=True, comment="Row of its hall"), schema="gigawatch")
    op.create_foreign_key(
        "rack_hall_id_fkey",
        "rack",
        "hall",
        ["hall_id"],
        ["hall_id"],
        source_schema="gigawatch",
        referent_schema="gigawatch",
    )
    op.alter_column(
        "rollup",
        "level",
        existing_type=sa.TEXT(),
        comment="1m, 1h or 1d, the same of deployments: deployment_1m, …; meter_1h",
        existing_comment="1m, 1h or 1d, and the same of deployments: deployment_1m, …",
        existing_nullable=False,
        schema="gigawatch",
    )
    op.alter_column(
        "rollup_dirty",
        "level",
        existing_type=sa.TEXT(),
        comment="1m, 1h or 1d; 1s for a node window that site_second lacks; deployment_1m, …; meter_1h, facility_1d",
        existing_comment="1m, 1h or 1d; 1s for a node window that site_second lacks; deployment_1m, …",
        existing_nullable=False,
        schema="gigawatch",
    )
    op.alter_column(
        "rollup_dirty",
        "node_id",
        existing_type=sa.INTEGER(),
        comment="The node, or the deployment, of meter_1h the meter, else the site",
        existing_comment="The node; at levels of deployments the deployment",
        existing_nullable=False,
        schema="gigawatch",
    )
