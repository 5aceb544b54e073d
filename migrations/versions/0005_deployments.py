"""What GPUs serve, what engines served, and the sums of both by deployment."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
LATENCIES = ("time_to_first_token", "inter_token_latency", "end_to_end_latency")


def upgrade() -> None:
    """Apply."""
    op.add_column(
        "gpu_window",
        sa.Column(
            "assignment_id",
            ARRAY(sa.Integer()),
            comment="What it served: a row of assignment; absent where it served nothing; by slot",
        ),
        schema="gigawatch",
    )
    for level in ("1m", "1h", "1d"):
        _add_hosts(level)
    _make_dimensions()
    _make_facts()
    for level in ("1m", "1h", "1d"):
        _make_rollups(level)
    for table, column, kind, comment in (
        ("rollup", "level", sa.Text(), "1m, 1h or 1d, and the same of deployments: deployment_1m, …"),
        (
            "rollup_dirty",
            "level",
            sa.Text(),
            "1m, 1h or 1d; 1s for a node window that site_second lacks; deployment_1m, …",
        ),
        ("rollup_dirty", "node_id", sa.Integer(), "The node; at levels of deployments the deployment"),
    ):
        op.alter_column(table, column, existing_type=kind, comment=comment, schema="gigawatch")


def _add_hosts(level: str) -> None:
    sums = sa.Integer() if level == "1m" else sa.BigInteger()
    for name, kind, comment in (
        ("host_mj", sums, "Share of the energy of its metered node beside the GPUs', mJ; by slot"),
        ("host_ms", sa.Integer(), "Time for which that is known, ms; by slot"),
    ):
        op.add_column(f"gpu_{level}", sa.Column(name, ARRAY(kind), comment=comment), schema="gigawatch")
    for group in ("rack", "site"):
        for name, comment in (
            ("host_mj", "Share of the metered hosts' own energy, mJ"),
            ("host_ms", "GPU-time for which that is known, ms"),
        ):
            op.add_column(
                f"{group}_{level}",
                sa.Column(name, sa.BigInteger(), nullable=False, server_default="0", comment=comment),
                schema="gigawatch",
            )


def _make_dimensions() -> None:
    _make(
        "deployment",
        sa.Column("deployment_id", sa.Integer(), sa.Identity(), primary_key=True),
        sa.Column(
            "name", sa.Text(), nullable=False, comment="Name, from the agents' configuration or from what they found"
        ),
        sa.Column("role", sa.Text(), nullable=False, comment="both, or prefill or decode where these run apart"),
        sa.UniqueConstraint("name", "role", name="deployment_name_role_key"),
        sa.CheckConstraint("role IN ('both', 'prefill', 'decode')", name="deployment_role_check"),
        comment="What GPUs serve: a deployment, or one role of it",
    )
    _make(
        "assignment",
        sa.Column("assignment_id", sa.Integer(), sa.Identity(), primary_key=True),
        sa.Column(
            "deployment_ids",
            ARRAY(sa.Integer()),
            nullable=False,
            comment="Deployments; several where they share a GPU at the same time",
        ),
        sa.Column(
            "endpoints",
            ARRAY(sa.Text()),
            nullable=False,
            comment="For each, the engine on the same node that the GPU works for; empty where that is on another node",
        ),
        sa.UniqueConstraint("deployment_ids", "endpoints", name="assignment_deployment_ids_endpoints_key"),
        comment="What a GPU serves at one time",
    )
    _make(
        "latency_bounds",
        sa.Column("bounds_id", sa.Integer(), sa.Identity(), primary_key=True),
        sa.Column("bounds_us", ARRAY(sa.BigInteger()), nullable=False, comment="Greatest latency of each bucket, µs"),
        sa.UniqueConstraint("bounds_us", name="latency_bounds_bounds_us_key"),
        comment="Buckets of engines' histograms, all but the last, which has no bound",
    )
    _make(
        "deployment_node",
        sa.Column("node_id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("deployment_id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column(
            "first_seen",
            TIME,
            nullable=False,
            comment="Start of the first minute that it was heard of on the node",
        ),
        sa.Column("first_token", TIME, comment="Start of the first window with a generated token; absent before"),
        comment="When each node began to serve a deployment",
    )


def _make_facts() -> None:
    counts = "How many lie in each bucket; the last, above all"
    _make(
        "serving_window",
        *_served(
            sa.Column("time", TIME, nullable=False, comment="Start of the window"),
            sa.Column("node_id", sa.Integer(), nullable=False, comment="Node whose agent read it"),
            sa.Column("deployment_id", sa.Integer(), nullable=False),
            sa.Column("endpoint", sa.Text(), nullable=False, comment="Host and port that were read"),
            sa.Column("engine", sa.Text(), nullable=False, comment="Engine: vllm, sglang, …"),
            sa.Column(
                "model", sa.Text(), nullable=False, comment="Model, as the engine names it; empty where it does not"
            ),
        ),
        *(
            column
            for latency in LATENCIES
            for column in (
                sa.Column(f"{latency}_bounds_id", sa.Integer(), comment=f"Buckets of {latency}_counts"),
                sa.Column(f"{latency}_counts", ARRAY(sa.BigInteger()), comment=counts),
            )
        ),
        comment="What one inference engine served of one model in one window",
    )
    _index("serving_window_key_idx", "node_id", "time", "deployment_id", "endpoint", "engine", "model", unique=True)
    _index("serving_window_deployment_id_time_idx", "deployment_id", "time")
    _index("serving_window_time_idx", "time", postgresql_using="brin", postgresql_with={"pages_per_range": 32})
    _make(
        "assigned_1m",
        *_used(
            sa.Column("time", TIME, nullable=False, comment="Start of the minute"),
            sa.Column("node_id", sa.Integer(), nullable=False),
            sa.Column("deployment_id", sa.Integer(), nullable=False),
            sa.Column("endpoint", sa.Text(), nullable=False, comment="As in assignment"),
            sa.Column(
                "site_id",
                sa.Integer(),
                nullable=False,
                comment="Where the node was when the minute was first folded",
            ),
            sa.Column("gpu_model", sa.Text(), nullable=False, comment="Model of the GPUs"),
            sa.Column("slots", ARRAY(sa.SmallInteger()), nullable=False, comment="The GPUs' slots"),
            sa.Column(
                "silent_min",
                sa.SmallInteger(),
                nullable=False,
                comment="Minutes without a window of these GPUs, which served it before; 0: they have some",
            ),
        ),
        comment="What the GPUs of one node used for one deployment in a minute; kept as long as windows are",
    )
    _index("assigned_1m_node_id_time_idx", "node_id", "time")
    _index("assigned_1m_deployment_id_time_idx", "deployment_id", "time")
    _index("assigned_1m_time_idx", "time", postgresql_using="brin", postgresql_with={"pages_per_range": 32})


def _make_rollups(level: str) -> None:
    key = ("time", "deployment_id", "site_id", "gpu_model")
    model = "Model, as the engine names it; empty where it does not"
    _make(
        f"deployment_{level}",
        *_used(
            *_of_deployment(_whole()),
            sa.Column(
                "gpus",
                sa.Integer(),
                nullable=False,
                comment="GPUs that it had in a minute, silent ones too, whole or not: the most",
            ),
            sa.Column(
                "gpus_silent",
                sa.Integer(),
                nullable=False,
                comment="Those of them without windows in a minute: the most",
            ),
        ),
        sa.UniqueConstraint(*key, "whole", name=f"deployment_{level}_bucket_key"),
        comment=f"What deployments used in {level}: the sums of assigned_1m",
    )
    _make(
        f"serving_{level}",
        *_served(
            *_of_deployment(
                sa.Column("engine", sa.Text(), nullable=False, comment="Engine: vllm, sglang, …"),
                sa.Column("model", sa.Text(), nullable=False, comment=model),
                _whole(),
            )
        ),
        sa.UniqueConstraint(*key, "engine", "model", "whole", name=f"serving_{level}_bucket_key"),
        comment=f"What deployments served in {level}: the sums of serving_window",
    )
    _make(
        f"latency_{level}",
        *_of_deployment(
            sa.Column("model", sa.Text(), nullable=False, comment=model),
            sa.Column("latency", sa.Text(), nullable=False, comment=", ".join(LATENCIES)),
            sa.Column("bounds_id", sa.Integer(), nullable=False, comment="Buckets of counts"),
            sa.Column("counts", ARRAY(sa.BigInteger()), nullable=False, comment="How many lie in each bucket"),
        ),
        sa.UniqueConstraint(*key, "model", "latency", "bounds_id", name=f"latency_{level}_bucket_key"),
        comment=f"Latencies that deployments' users felt in {level}: the sums of serving_window",
    )


def _make(name: str, *columns: sa.schema.SchemaItem, comment: str) -> None:
    op.create_table(name, *columns, schema="gigawatch", comment=comment)


def _index(name: str, *columns: str, **options: Any) -> None:
    table = "_".join(name.split("_")[:2])
    op.create_index(name, table, list(columns), schema="gigawatch", **options)


def _served(*key: sa.Column[Any]) -> list[sa.Column[Any]]:
    """What engines counted in a window or bucket."""
    return [
        *key,
        sa.Column("covered_ms", sa.BigInteger(), nullable=False, comment="Time for which the counts are known, ms"),
        sa.Column(
            "observed_ms", sa.BigInteger(), nullable=False, comment="Part of it that was not spread over a gap, ms"
        ),
        sa.Column("scrapes_taken", sa.Integer(), nullable=False, comment="Readings taken"),
        sa.Column("scrapes_expected", sa.Integer(), nullable=False, comment="Readings due"),
        sa.Column("prompt_tokens", sa.BigInteger(), comment="Tokens of prompts"),
        sa.Column("cached_tokens", sa.BigInteger(), comment="Tokens of prompts that came from the cache"),
        sa.Column("generated_tokens", sa.BigInteger(), comment="Tokens of answers"),
        sa.Column("requests_finished", sa.BigInteger(), comment="Requests that ended"),
        sa.Column("running_request_ms", sa.BigInteger(), comment="Running requests times observed time, ms"),
        sa.Column("waiting_request_ms", sa.BigInteger(), comment="Waiting requests times observed time, ms"),
        sa.Column("running_requests_max", sa.BigInteger(), comment="Most running requests"),
        sa.Column("active_ms", sa.BigInteger(), comment="Observed time with a request running, ms"),
        sa.Column("kv_cache_use_max_pm", sa.SmallInteger(), comment="Greatest use of the KV cache, per mille"),
    ]


def _used(*key: sa.Column[Any]) -> list[sa.Column[Any]]:
    """What GPUs used for a deployment in a bucket."""
    return [
        *key,
        sa.Column("expected_ms", sa.BigInteger(), nullable=False, comment="GPU-time that it had, silent GPUs too, ms"),
        sa.Column("covered_ms", sa.BigInteger(), nullable=False, comment="GPU-time with windows, ms"),
        sa.Column("energy_mj", sa.BigInteger(), nullable=False, comment="Energy, mJ"),
        sa.Column("energy_ms", sa.BigInteger(), nullable=False, comment="GPU-time for which the energy is known, ms"),
        sa.Column("energy_interpolated_mj", sa.BigInteger(), nullable=False, comment="Part interpolated over gaps, mJ"),
        sa.Column(
            "energy_integrated_mj", sa.BigInteger(), nullable=False, comment="Part integrated from polled power, mJ"
        ),
        sa.Column(
            "energy_estimated_mj", sa.BigInteger(), nullable=False, comment="Part estimated over counter resets, mJ"
        ),
        sa.Column("energy_shared_mj", sa.BigInteger(), nullable=False, comment="Part split evenly among several, mJ"),
        sa.Column("host_mj", sa.BigInteger(), nullable=False, comment="Share of the metered hosts' own energy, mJ"),
        sa.Column("host_ms", sa.BigInteger(), nullable=False, comment="GPU-time for which that is known, ms"),
        sa.Column("observed_mj", sa.BigInteger(), nullable=False, comment="Part whose engine was observed, mJ"),
        sa.Column("active_mj", sa.BigInteger(), nullable=False, comment="Part of that while requests ran, mJ"),
    ]


def _of_deployment(*more: sa.Column[Any]) -> list[sa.Column[Any]]:
    return [
        sa.Column("time", TIME, nullable=False, comment="Start of the bucket"),
        sa.Column("deployment_id", sa.Integer(), nullable=False),
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("gpu_model", sa.Text(), nullable=False, comment="Model of the GPUs"),
        *more,
    ]


def _whole() -> sa.Column[Any]:
    return sa.Column(
        "whole",
        sa.Boolean(),
        nullable=False,
        comment="Whether energy and tokens of these minutes are of the same GPUs and time, so that they may be divided",
    )
