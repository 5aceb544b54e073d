"""Alerts: rules, their state, silences, and what is put out to targets; tokens of operators."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "alert",
        sa.Column("alert_id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False, comment="Name of the rule"),
        sa.Column("fingerprint", sa.Text(), nullable=False, comment="Of rule and labels: which thing it is about"),
        sa.Column(
            "labels", postgresql.JSONB(), nullable=False, comment="Which thing it is about, by name of the label"
        ),
        sa.Column("severity", sa.Text(), nullable=False, comment="info, warning or critical"),
        sa.Column("state", sa.Text(), nullable=False, comment="pending, firing or resolved"),
        sa.Column("value", sa.Double(), nullable=True, comment="As last measured, in the rule's unit"),
        sa.Column("summary", sa.Text(), nullable=False, comment="What is wrong, in a sentence"),
        sa.Column(
            "details",
            postgresql.JSONB(),
            nullable=False,
            comment="What explains it: the other columns of the rule's row",
        ),
        sa.Column(
            "racks",
            postgresql.ARRAY(sa.Text()),
            nullable=True,
            comment="Racks of its site that it covers; absent where it covers none",
        ),
        sa.Column(
            "simulated", sa.Boolean(), server_default="false", nullable=False, comment="Whether the data are simulated"
        ),
        sa.Column("started", sa.DateTime(timezone=True), nullable=False, comment="When its condition first held"),
        sa.Column("held", sa.DateTime(timezone=True), nullable=False, comment="When its condition last held"),
        sa.Column(
            "ceased",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When its condition was first seen not to hold any more; absent while it holds",
        ),
        sa.Column(
            "unknown_since",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="Since when there are no data to tell; absent where there are",
        ),
        sa.Column(
            "fired", sa.DateTime(timezone=True), nullable=True, comment="When it began to fire; absent while pending"
        ),
        sa.Column("resolved", sa.DateTime(timezone=True), nullable=True, comment="When it ended; absent before"),
        sa.Column(
            "flaps", sa.SmallInteger(), server_default="0", nullable=False, comment="Times that it ceased and came back"
        ),
        sa.Column(
            "inhibited_by",
            sa.BigInteger(),
            nullable=True,
            comment="The firing alert that explains it; absent where none does",
        ),
        sa.Column(
            "silenced_by",
            sa.Integer(),
            nullable=True,
            comment="The silence that keeps it quiet; absent where none does",
        ),
        sa.Column(
            "acknowledged",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When somebody took it on; absent where nobody did",
        ),
        sa.Column("acknowledged_by", sa.Text(), nullable=True, comment="Who"),
        sa.Column("acknowledgement", sa.Text(), nullable=True, comment="What they said"),
        sa.CheckConstraint("severity IN ('info', 'warning', 'critical')", name="severity"),
        sa.CheckConstraint("state IN ('pending', 'firing', 'resolved')", name="state"),
        sa.PrimaryKeyConstraint("alert_id", name="alert_pkey"),
        schema="gigawatch",
        comment="Alerts: each time that a rule's condition held for one thing",
        postgresql_with={"fillfactor": 50},
    )
    op.create_index(
        "alert_fingerprint_idx",
        "alert",
        ["fingerprint"],
        unique=True,
        schema="gigawatch",
        postgresql_where=sa.text("state <> 'resolved'"),
    )
    op.create_index("alert_resolved_idx", "alert", ["resolved"], unique=False, schema="gigawatch")
    op.create_index("alert_rule_started_idx", "alert", ["rule", "started"], unique=False, schema="gigawatch")
    op.create_table(
        "alert_budget",
        sa.Column("name", sa.Text(), nullable=False, comment="Name of the budget"),
        sa.Column(
            "deployments",
            postgresql.ARRAY(sa.Text()),
            comment="Deployments that it is of, which may end in *; absent: it is of a site",
        ),
        sa.Column("site", sa.Text(), comment="Site that it is of; absent: of all"),
        sa.Column(
            "time_zone",
            sa.Text(),
            server_default="UTC",
            nullable=False,
            comment="Whose calendar months count: IANA name",
        ),
        sa.Column("energy_mj", sa.BigInteger(), comment="Energy that may be used in a calendar month, mJ"),
        sa.Column("cost", sa.Numeric(), comment="What that may cost, in the currency"),
        sa.Column("currency", sa.Text(), comment="ISO 4217 code"),
        sa.Column("co2e_g", sa.BigInteger(), comment="What it may emit, gCO2e"),
        sa.CheckConstraint("(cost IS NULL) = (currency IS NULL)", name="currency"),
        sa.PrimaryKeyConstraint("name", name="alert_budget_pkey"),
        schema="gigawatch",
        comment="What tenants, deployments and sites may use in a month, from the configuration in force",
    )
    op.create_table(
        "rule_login",
        sa.Column("role", sa.Text(), nullable=False, comment="Name of the role, which may do what reports may"),
        sa.Column("password", sa.Text(), nullable=False, comment="Its password"),
        sa.PrimaryKeyConstraint("role", name="rule_login_pkey"),
        schema="gigawatch",
        comment="What rules of alerts log in as: one row, or none where it could not be made",
    )
    op.create_table(
        "alert_configuration",
        sa.Column("configuration_id", sa.Integer(), sa.Identity(), nullable=False),
        sa.Column(
            "applied",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When it came into force",
        ),
        sa.Column(
            "author", sa.Text(), nullable=False, comment="Who applied it: the token's name, or the user on the server"
        ),
        sa.Column("source", sa.Text(), nullable=False, comment="The file's name"),
        sa.Column("sha256", sa.Text(), nullable=False, comment="Of the file"),
        sa.Column(
            "document",
            postgresql.JSON(),
            nullable=False,
            comment="Rules, routes, targets and budgets as they were declared",
        ),
        sa.PrimaryKeyConstraint("configuration_id", name="alert_configuration_pkey"),
        schema="gigawatch",
        comment="What alerts are configured to do; the newest is in force",
    )
    op.create_table(
        "alert_delivery",
        sa.Column("delivery_id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column(
            "key", sa.Uuid(), nullable=False, comment="The same at each attempt: receivers know duplicates by it"
        ),
        sa.Column("target", sa.Text(), nullable=False, comment="Whom it is for"),
        sa.Column("group_key", sa.Text(), nullable=False, comment="Of the group that it tells of"),
        sa.Column("why", sa.Text(), nullable=False, comment="new, changed, resolved, repeat or test"),
        sa.Column("state", sa.Text(), server_default="waiting", nullable=False, comment="waiting, sent or dead"),
        sa.Column(
            "created",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When it was put out",
        ),
        sa.Column(
            "due",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="No attempt before then",
        ),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False, comment="Attempts so far"),
        sa.Column("tried", sa.DateTime(timezone=True), nullable=True, comment="When the last attempt began"),
        sa.Column("duration_ms", sa.Integer(), nullable=True, comment="How long that took, ms"),
        sa.Column(
            "status", sa.Integer(), nullable=True, comment="What it answered: HTTP status; absent where it did not"
        ),
        sa.Column(
            "answer", sa.Text(), nullable=True, comment="The first of what it answered, or why it could not be asked"
        ),
        sa.Column("notification", postgresql.JSONB(), nullable=False, comment="What to tell"),
        sa.CheckConstraint("state IN ('waiting', 'sent', 'dead')", name="state"),
        sa.PrimaryKeyConstraint("delivery_id", name="alert_delivery_pkey"),
        sa.UniqueConstraint("key", name="alert_delivery_key_key"),
        schema="gigawatch",
        comment="The outbox: what targets are to be told, in order of each",
    )
    op.create_index("alert_delivery_created_idx", "alert_delivery", ["created"], unique=False, schema="gigawatch")
    op.create_index(
        "alert_delivery_target_idx",
        "alert_delivery",
        ["target", "delivery_id"],
        unique=False,
        schema="gigawatch",
        postgresql_where=sa.text("state = 'waiting'"),
    )
    op.create_table(
        "alert_group",
        sa.Column("group_id", sa.Integer(), sa.Identity(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False, comment="Of route and labels"),
        sa.Column("target", sa.Text(), nullable=False, comment="Whom it tells"),
        sa.Column(
            "labels",
            postgresql.JSONB(),
            nullable=False,
            comment="What its alerts have in common, by which they are grouped",
        ),
        sa.Column(
            "due",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When its target is told next; absent where nothing is to be told",
        ),
        sa.Column(
            "told",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When a notification was last put out; absent before the first",
        ),
        sa.Column(
            "told_alerts",
            postgresql.JSONB(),
            server_default="{}",
            nullable=False,
            comment="What was told, by number of the alert",
        ),
        sa.Column(
            "hurried",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Notifications in a row before their interval",
        ),
        sa.PrimaryKeyConstraint("group_id", name="alert_group_pkey"),
        sa.UniqueConstraint("key", name="alert_group_key_key"),
        schema="gigawatch",
        comment="Alerts that one target is told of together",
    )
    op.create_index("alert_group_due_idx", "alert_group", ["due"], unique=False, schema="gigawatch")
    op.create_table(
        "alert_rule",
        sa.Column("name", sa.Text(), nullable=False, comment="Name of the rule"),
        sa.Column("origin", sa.Text(), nullable=False, comment="shipped with Gigawatch, or own"),
        sa.Column("enabled", sa.Boolean(), nullable=False, comment="Whether it is evaluated"),
        sa.Column(
            "severity", sa.Text(), nullable=False, comment="info, warning or critical, where its rows say nothing else"
        ),
        sa.Column("unit", sa.Text(), nullable=True, comment="Of the value"),
        sa.Column("about", sa.Text(), nullable=False, comment="What it is about, in a sentence"),
        sa.Column("summary", sa.Text(), nullable=False, comment="Of an alert, with the names of columns in braces"),
        sa.Column("runbook", sa.Text(), nullable=True, comment="Where it is told what to do"),
        sa.Column("sql", sa.Text(), nullable=False, comment="The SELECT, one row for each thing that is wrong"),
        sa.Column(
            "thresholds", postgresql.JSONB(), nullable=False, comment="Numbers that the SELECT compares with, by name"
        ),
        sa.Column("for_s", sa.Integer(), nullable=False, comment="How long it must hold before it fires, s"),
        sa.Column("keep_firing_for_s", sa.Integer(), nullable=False, comment="How long it fires on after it ceased, s"),
        sa.Column("interval_s", sa.Integer(), nullable=False, comment="Interval of its evaluations, s"),
        sa.Column(
            "evaluated",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="Start of its last evaluation; absent before the first",
        ),
        sa.Column("duration_ms", sa.Integer(), nullable=True, comment="How long that took, ms"),
        sa.Column("rows", sa.Integer(), nullable=True, comment="Rows that it gave; absent where it failed"),
        sa.Column("error", sa.Text(), nullable=True, comment="Why it failed; absent where it did not"),
        sa.Column(
            "failing_since",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="First of the failures in a row; absent where the last did not fail",
        ),
        sa.Column("evaluations", sa.BigInteger(), server_default="0", nullable=False, comment="Evaluations so far"),
        sa.Column("failures", sa.BigInteger(), server_default="0", nullable=False, comment="Those of them that failed"),
        sa.Column(
            "missed",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="Evaluations that were due and left out",
        ),
        sa.CheckConstraint("origin IN ('shipped', 'own')", name="origin"),
        sa.CheckConstraint("severity IN ('info', 'warning', 'critical')", name="severity"),
        sa.PrimaryKeyConstraint("name", name="alert_rule_pkey"),
        schema="gigawatch",
        comment="The rules in force, each with its last evaluation",
        postgresql_with={"fillfactor": 50},
    )
    op.create_table(
        "alert_silence",
        sa.Column("silence_id", sa.Integer(), sa.Identity(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False, comment="silence or maintenance"),
        sa.Column(
            "matchers",
            postgresql.JSONB(),
            nullable=False,
            comment="What it silences: label, operator and value, all of which hold",
        ),
        sa.Column("starts", sa.DateTime(timezone=True), nullable=False, comment="From when"),
        sa.Column("ends", sa.DateTime(timezone=True), nullable=False, comment="Until when"),
        sa.Column("author", sa.Text(), nullable=False, comment="Who made it"),
        sa.Column("reason", sa.Text(), nullable=False, comment="Why"),
        sa.Column(
            "created",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When it was made",
        ),
        sa.Column(
            "ended_by", sa.Text(), nullable=True, comment="Who ended it before its time; absent where nobody did"
        ),
        sa.CheckConstraint("kind IN ('silence', 'maintenance')", name="kind"),
        sa.CheckConstraint("ends >= starts", name="ends"),
        sa.PrimaryKeyConstraint("silence_id", name="alert_silence_pkey"),
        schema="gigawatch",
        comment="Alerts that nobody is told of for a while",
    )
    op.create_index("alert_silence_ends_idx", "alert_silence", ["ends"], unique=False, schema="gigawatch")
    op.create_table(
        "alert_target",
        sa.Column("name", sa.Text(), nullable=False, comment="Name of the target"),
        sa.Column("kind", sa.Text(), nullable=False, comment="What it speaks: alertmanager, slack, …"),
        sa.Column("address", sa.Text(), nullable=False, comment="Scheme and host of it: paths may be secret"),
        sa.Column(
            "failures", sa.Integer(), server_default="0", nullable=False, comment="Attempts in a row that failed"
        ),
        sa.Column(
            "open_until",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="No attempt before then: its circuit breaker is open; absent where it is not",
        ),
        sa.Column("succeeded", sa.DateTime(timezone=True), nullable=True, comment="When it last took something"),
        sa.Column("failed", sa.DateTime(timezone=True), nullable=True, comment="When an attempt last failed"),
        sa.Column("error", sa.Text(), nullable=True, comment="Why"),
        sa.PrimaryKeyConstraint("name", name="alert_target_pkey"),
        schema="gigawatch",
        comment="Whom alerts are sent to, and how that goes",
        postgresql_with={"fillfactor": 50},
    )
    op.create_table(
        "alert_change",
        sa.Column("time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When"),
        sa.Column("alert_id", sa.BigInteger(), nullable=False),
        sa.Column("change", sa.Text(), nullable=False, comment="fired, severity, flapped, resolved, acknowledged, …"),
        sa.Column("author", sa.Text(), nullable=True, comment="Who did it; absent where the rule did"),
        sa.Column("note", sa.Text(), nullable=True, comment="What there is to say of it"),
        sa.ForeignKeyConstraint(
            ["alert_id"], ["gigawatch.alert.alert_id"], name="alert_change_alert_id_fkey", ondelete="CASCADE"
        ),
        schema="gigawatch",
        comment="What became of each alert",
    )
    op.create_index(
        "alert_change_alert_id_time_idx", "alert_change", ["alert_id", "time"], unique=False, schema="gigawatch"
    )
    op.create_table(
        "weighed_1h",
        sa.Column("time", sa.DateTime(timezone=True), nullable=False, comment="Start of the hour"),
        sa.Column(
            "kind",
            sa.Text(),
            nullable=False,
            comment="What it is weighed by: price, or location for its carbon intensity",
        ),
        sa.Column("deployment_id", sa.Integer(), nullable=False, comment="Of deployments; 0: of all GPUs of the site"),
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("gpu_model", sa.Text(), nullable=False, comment="Model of the GPUs"),
        sa.Column("pue", sa.Numeric(), comment="The site's configured PUE; absent where there is none"),
        sa.Column("unit", sa.Text(), comment="Of the price; absent for intensities, and without a price"),
        sa.Column("energy_mj", sa.Numeric(), nullable=False, comment="Energy of the GPUs, mJ"),
        sa.Column("host_mj", sa.Numeric(), nullable=False, comment="Share of the metered hosts' own energy, mJ"),
        sa.Column("unmetered_ms", sa.Numeric(), nullable=False, comment="GPU-time for which that is not known, ms"),
        sa.Column("weighed_energy", sa.Numeric(), comment="energy_mj times the factor by kWh; absent without one"),
        sa.Column("weighed_host", sa.Numeric(), comment="host_mj times that"),
        sa.Column("weighed_unmetered", sa.Numeric(), comment="unmetered_ms times that"),
        schema="gigawatch",
        comment="Energy by the hour, weighed by price and carbon intensity, of 40 days: what budgets are sums of",
    )
    op.create_index("weighed_1h_time_kind_idx", "weighed_1h", ["time", "kind"], unique=False, schema="gigawatch")
    for table, comment in (
        ("rollup", "1m, 1h or 1d, the same of deployments: deployment_1m, …; meter_1h, weighed_1h"),
        (
            "rollup_dirty",
            "1m, 1h, 1d; 1s of nodes missing in site_second; deployment_1m, …; meter_1h, facility_1d, weighed_1h",
        ),
    ):
        op.alter_column(table, "level", existing_type=sa.TEXT(), comment=comment, schema="gigawatch")
    # Without a default for those that are there: what is old is not told as if it had just come.
    op.add_column(
        "event",
        sa.Column(
            "received",
            sa.DateTime(timezone=True),
            comment="When the server stored it; absent where it is older than this column",
        ),
        schema="gigawatch",
    )
    op.alter_column("event", "received", server_default=sa.text("now()"), schema="gigawatch")
    op.create_index("event_received_idx", "event", ["received"], schema="gigawatch")
    op.create_index(
        "gpu_health_ill_idx",
        "gpu_health",
        ["time"],
        schema="gigawatch",
        postgresql_where=sa.text(
            "row_remap_failed OR row_remap_pending OR page_retirement_pending OR ecc_volatile_uncorrected > 0"
        ),
    )
    # Which GPUs a rule must look at is told by their nodes: 75,000 short rows, not 600,000 GPUs' newest windows.
    for column in (
        sa.Column("clock_event_reasons", sa.BigInteger(), comment="Union of the GPUs' clock-event bits"),
        sa.Column("mem_temp_max_c", sa.SmallInteger(), comment="Greatest memory temperature, °C"),
        sa.Column("told_until", sa.DateTime(timezone=True), comment="End of its newest window of the node itself"),
    ):
        op.add_column("node_now", column, schema="gigawatch")
    op.alter_column(
        "api_token",
        "role",
        existing_type=sa.TEXT(),
        comment="agent may send, viewer read, operator also silence and acknowledge alerts, admin do all",
        existing_comment="agent may send batches, viewer may read, admin may do both",
        existing_nullable=False,
        schema="gigawatch",
    )
    op.drop_constraint(op.f("api_token_role_check"), "api_token", schema="gigawatch", type_="check")
    op.create_check_constraint(
        op.f("api_token_role_check"),
        "api_token",
        "role IN ('agent', 'viewer', 'operator', 'admin')",
        schema="gigawatch",
    )
