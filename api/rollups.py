"""Folds windows into minutes, hours and days: each node's buckets once, and again what came late.

Whatever a bucket holds is a sum, an extreme or a union, so that a coarser bucket is folded from finer ones, and sums
over racks and sites take the difference that a bucket makes. The work is linear in new data: a bucket of a node
reads that node's rows alone, by index.

A minute is *closed* before it is folded: from then on ingest marks what it writes there (rollup_dirty). Closing waits
for the transactions under way (CLOSE_LOCK), so that each window is either seen by the fold or marked. Each
step runs in one REPEATABLE READ transaction with the mark of how far it came: stopped at any point, the next
leader goes on there, and nothing is folded twice.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import psycopg
from msgspec import Struct
from psycopg import IsolationLevel

from gigawatch.schema import LEVELS

CLOSE_LOCK = 0x6769_6763
"""Held shared by each transaction that writes windows, and exclusively to close minutes."""
COMPRESS_LOCK = 0x6769_6770
"""Held exclusively while a chunk is compressed, and shared while late data are folded."""
SETTLED = timedelta(seconds=20)
"""A minute is closed so long after its end: by then windows of 10 s have come, and few have to be folded again."""
MOST_BUCKETS = 4_000
"""Buckets of nodes in one transaction, about a second's work."""
THROTTLED = 4 + 8 + 32 + 64 + 128
"""Clock-event bits: power cap, hardware slowdown, thermal slowdowns, power brake."""
log = logging.getLogger(__name__)


class Metric(Struct, frozen=True):
    """A column of gpu_1m, gpu_1h and gpu_1d."""

    name: str
    raw: str
    """Of a window, as an expression over its columns."""
    how: Literal["sum", "min", "max", "bit_or"] = "sum"


def _where(condition: str, value: str) -> str:
    return f"CASE WHEN {condition} THEN {value} END"


METRICS = (
    Metric("covered_ms", "covered_ms"),
    Metric("energy_mj", "energy_mj"),
    Metric("energy_ms", _where("energy_mj IS NOT NULL", "covered_ms")),
    Metric("energy_interpolated_mj", _where("energy_method = 2", "energy_mj")),
    Metric("energy_integrated_mj", _where("energy_method = 3", "energy_mj")),
    Metric("energy_estimated_mj", _where("energy_method = 4", "energy_mj")),
    Metric("power_min_mw", "power_min_mw", "min"),
    Metric("power_max_mw", "power_max_mw", "max"),
    Metric("power_limit_mw", "power_limit_mw", "max"),
    Metric("mem_used_mib", "mem_used_mib", "max"),
    Metric("gpu_util_pm_ms", "gpu_util_pm * covered_ms"),
    Metric("gpu_util_ms", _where("gpu_util_pm IS NOT NULL", "covered_ms")),
    Metric("mem_util_pm_ms", "mem_util_pm * covered_ms"),
    Metric("mem_util_ms", _where("mem_util_pm IS NOT NULL", "covered_ms")),
    Metric("sm_clock_mhz_ms", "sm_clock_mhz * covered_ms"),
    Metric("sm_clock_ms", _where("sm_clock_mhz IS NOT NULL", "covered_ms")),
    Metric("mem_clock_mhz_ms", "mem_clock_mhz * covered_ms"),
    Metric("mem_clock_ms", _where("mem_clock_mhz IS NOT NULL", "covered_ms")),
    Metric("gpu_temp_max_c", "gpu_temp_max_c", "max"),
    Metric("mem_temp_max_c", "mem_temp_max_c", "max"),
    Metric("fan_pct", "fan_pct", "max"),
    Metric("clock_event_reasons", "clock_event_reasons", "bit_or"),
    Metric("throttled_ms", _where(f"clock_event_reasons & {THROTTLED} <> 0", "covered_ms")),
    Metric("pcie_tx_kib", "pcie_tx_kib"),
    Metric("pcie_rx_kib", "pcie_rx_kib"),
    Metric("pcie_ms", _where("coalesce(pcie_tx_kib, pcie_rx_kib) IS NOT NULL", "covered_ms")),
    Metric("nvlink_tx_kib", "nvlink_tx_kib"),
    Metric("nvlink_rx_kib", "nvlink_rx_kib"),
    Metric("nvlink_ms", _where("coalesce(nvlink_tx_kib, nvlink_rx_kib) IS NOT NULL", "covered_ms")),
    Metric("ticks_taken", "ticks_taken"),
    Metric("ticks_expected", "ticks_expected"),
)
NARROW = {"gpu_temp_max_c": "smallint", "mem_temp_max_c": "smallint", "fan_pct": "smallint"} | dict.fromkeys(
    ("clock_event_reasons", "pcie_tx_kib", "pcie_rx_kib", "nvlink_tx_kib", "nvlink_rx_kib"), "bigint"
)
LARGE = {
    "energy_mj", "energy_interpolated_mj", "energy_integrated_mj", "energy_estimated_mj", "gpu_util_pm_ms",
    "mem_util_pm_ms", "sm_clock_mhz_ms", "mem_clock_mhz_ms",
}  # fmt: skip
"""Sums that need more than an integer from the hour on."""

GROUP_SUMS = (
    "gpus", "gpus_known", "power_mw", "covered_ms", "energy_mj", "energy_ms", "energy_interpolated_mj",
    "energy_integrated_mj", "energy_estimated_mj", "gpu_util_pm_ms", "gpu_util_ms", "throttled_ms",
)  # fmt: skip
_GROUP_OF_GPU = {
    "gpus": "1",
    "gpus_known": "(energy_ms > 0)::integer",
    # Each GPU by its own covered time: a group's power is the sum of its GPUs' powers.
    "power_mw": "energy_mj::bigint * 1000 / nullif(energy_ms, 0)",
}

NODE_COLUMNS = (
    "covered_ms", "tick_power_mw", "ticks_summed", "tick_power_min_mw", "tick_power_max_mw", "cpu_energy_mj",
    "cpu_energy_ms", "dram_energy_mj", "dram_energy_ms", "node_power_mw_ms", "node_power_ms", "node_power_max_mw",
    "ticks_taken", "ticks_expected", "rejected_readings",
)  # fmt: skip
_NODE_OF_WINDOWS = """
    sum(w.covered_ms), sum(tick.sum_mw)::bigint, coalesce(sum(tick.count), 0), min(tick.min_mw), max(tick.max_mw),
    sum(w.cpu_energy_mj)::bigint, sum(w.covered_ms) FILTER (WHERE w.cpu_energy_mj IS NOT NULL),
    sum(w.dram_energy_mj)::bigint, sum(w.covered_ms) FILTER (WHERE w.dram_energy_mj IS NOT NULL),
    sum(w.node_power_mean_mw::bigint * w.covered_ms)::bigint,
    sum(w.covered_ms) FILTER (WHERE w.node_power_mean_mw IS NOT NULL), max(w.node_power_max_mw),
    sum(w.ticks_taken), sum(w.ticks_expected), sum(w.rejected_readings)::bigint"""
_NODE_OF_BUCKETS = ", ".join(
    f"{'min' if '_min_' in name else 'max' if '_max_' in name else 'sum'}(w.{name})" for name in NODE_COLUMNS
)

# Buckets to fold, as (time, node_id): all nodes of some numbers in some buckets, or those that are marked.
RANGE = """
    SELECT bucket AS time, node_id FROM gigawatch.node,
        generate_series(%(start)s, %(stop)s - %(width)s, %(width)s) AS bucket
    WHERE node_id >= %(first)s AND node_id < %(beyond)s"""
MARKED = "SELECT * FROM unnest(%(times)s::timestamptz[], %(node_ids)s::integer[]) AS marked (time, node_id)"


# All keys of a step lie between these: chunks beyond are left out once, and not for each key.
WITHIN = "{table}.time >= %(least)s AND {table}.time < %(most)s"


def gpu_sql(level: str, keys: str) -> str:
    """The statement that folds the GPUs' buckets of these keys, and what difference that makes to racks and sites."""
    source = {"1m": "gpu_window", "1h": "gpu_1m", "1d": "gpu_1h"}[level]
    if source == "gpu_window":
        columns = _of_slot()
        folded = ", ".join(f"{it.how}({it.raw}) AS {it.name}" for it in METRICS)
    else:
        columns = ", ".join(f"expanded.at(w.{it.name}, slot) AS {it.name}" for it in METRICS)
        folded = ", ".join(f"{it.how}({it.name}) AS {it.name}" for it in METRICS)
    table = f"gigawatch.gpu_{level}"
    names = ", ".join(it.name for it in METRICS)
    arrays = ", ".join(
        # One element stands for all; a metric that no GPU has is no array at all.
        f"CASE WHEN count({name}) = 0 THEN NULL"
        f" WHEN count(*) > 1 AND count({name}) = count(*) AND min({name}) = max({name})"
        f" THEN ARRAY[{_fitting(f'min({name})', kind)}] ELSE array_agg({_fitting(name, kind)} ORDER BY slot) END"
        for name, kind in ((it.name, _kind(level, it.name)) for it in METRICS)
    )
    update = ", ".join(f"{it.name} = excluded.{it.name}" for it in METRICS)
    sums = ", ".join(f"coalesce(sum({_GROUP_OF_GPU.get(name, name)}), 0) AS {name}" for name in GROUP_SUMS)
    minus = ", ".join(f"-coalesce(sum({_GROUP_OF_GPU.get(name, name)}), 0)" for name in GROUP_SUMS)
    old = ", ".join(f"expanded.at(old.{it.name}, slot) AS {it.name}" for it in METRICS)
    return f"""
    WITH keys AS MATERIALIZED ({_bounded(keys)}), folded AS MATERIALIZED (
        SELECT keys.time, keys.node_id, of_node.*
        FROM keys CROSS JOIN LATERAL (
            SELECT slot, {folded}
            FROM (
                SELECT slot, {columns}
                FROM gigawatch.{source} AS w CROSS JOIN LATERAL generate_series(1, w.slots) AS slot
                WHERE w.node_id = keys.node_id AND w.time >= keys.time AND w.time < keys.time + %(width)s
                    AND {WITHIN.format(table="w")}
            ) AS windows
            GROUP BY slot
        ) AS of_node
    ), found AS MATERIALIZED (
        {_bounded("SELECT DISTINCT time, node_id FROM folded")}
    ), old AS MATERIALIZED (
        SELECT old.* FROM found
        JOIN {table} AS old ON old.node_id = found.node_id AND old.time = found.time
            AND {WITHIN.format(table="old")}
    ), placed AS MATERIALIZED (
        -- A bucket stays where it was first folded, wherever the node is now.
        SELECT found.time, found.node_id, coalesce(old.site_id, node.site_id) AS site_id,
            CASE WHEN old.node_id IS NULL THEN node.rack_id ELSE old.rack_id END AS rack_id
        FROM found JOIN gigawatch.node USING (node_id) LEFT JOIN old USING (time, node_id)
    ), written AS (
        INSERT INTO {table} (time, node_id, site_id, rack_id, slots, {names})
        SELECT time, node_id, min(site_id), min(rack_id), max(slot), {arrays}
        FROM folded JOIN placed USING (time, node_id) GROUP BY time, node_id
        ON CONFLICT (node_id, time) DO UPDATE SET slots = excluded.slots, {update}
    ), change AS MATERIALIZED (
        SELECT time, site_id, rack_id, model AS gpu_model, {sums}, max(gpu_temp_max_c) AS gpu_temp_max_c
        FROM folded JOIN placed USING (time, node_id)
        JOIN gigawatch.gpu_slot USING (node_id, slot) JOIN gigawatch.gpu USING (gpu_id)
        WHERE covered_ms IS NOT NULL
        GROUP BY time, site_id, rack_id, model
        UNION ALL
        SELECT time, site_id, rack_id, model, {minus}, NULL
        FROM (
            SELECT old.time, old.node_id, old.site_id, old.rack_id, slot, {old}
            FROM old CROSS JOIN LATERAL generate_series(1, old.slots) AS slot
        ) AS before
        JOIN gigawatch.gpu_slot USING (node_id, slot) JOIN gigawatch.gpu USING (gpu_id)
        WHERE covered_ms IS NOT NULL
        GROUP BY time, site_id, rack_id, model
    ), racks AS ({_group_sql("rack", level)}), sites AS ({_group_sql("site", level)})
    SELECT count(*) FROM placed"""


def _bounded(keys: str) -> str:
    """Keys with their bound, which never cuts any: the planner would make hash tables for millions of them."""
    return f"SELECT * FROM ({keys}) AS keys LIMIT {MOST_BUCKETS}"


def _of_slot() -> str:
    """Columns of a slot of gpu_window."""
    book = ("covered_ms", "ticks_taken", "ticks_expected", "energy_method")
    plain = [
        f"nullif(coalesce(w.each[slot][{place}], w.{name}), 0) AS {name}"
        if name == "covered_ms"
        else f"coalesce(w.each[slot][{place}], w.{name}) AS {name}"
        for place, name in enumerate(book, 1)
    ]
    arrays = (
        "energy_mj", "power_min_mw", "power_max_mw", "power_limit_mw", "mem_used_mib", "gpu_util_pm", "mem_util_pm",
        "gpu_temp_max_c", "mem_temp_max_c", "sm_clock_mhz", "mem_clock_mhz", "fan_pct", "clock_event_reasons",
        "pcie_tx_kib", "pcie_rx_kib", "nvlink_tx_kib", "nvlink_rx_kib",
    )  # fmt: skip
    return ", ".join([*plain, *(f"expanded.at(w.{name}, slot) AS {name}" for name in arrays)])


def _fitting(value: str, kind: str) -> str:
    """The value in its column's type; windows that overlap without end must not stop the fold of all others."""
    most = {"smallint": 2**15 - 1, "integer": 2**31 - 1, "bigint": 2**63 - 1}[kind]
    # Not least(), which would make a number of what is absent.
    return f"(CASE WHEN {value} > {most} THEN {most} ELSE {value} END)::{kind}"


def _kind(level: str, name: str) -> str:
    return NARROW.get(name) or ("bigint" if name in LARGE and level != "1m" else "integer")


def _group_sql(group: str, level: str) -> str:
    """The part of a fold that adds its change to the sums of racks or sites."""
    table = f"gigawatch.{group}_{level}"
    place = "site_id, rack_id" if group == "rack" else "site_id"
    sums = ", ".join(f"sum({name})" for name in GROUP_SUMS)
    add = ", ".join(f"{name} = {group}_{level}.{name} + excluded.{name}" for name in GROUP_SUMS)
    return f"""
        INSERT INTO {table} (time, {place}, gpu_model, {", ".join(GROUP_SUMS)}, gpu_temp_max_c)
        SELECT time, {place}, gpu_model, {sums}, max(gpu_temp_max_c) FROM change GROUP BY time, {place}, gpu_model
        ORDER BY time, {place}, gpu_model
        ON CONFLICT (time, {place}, gpu_model) DO UPDATE SET {add},
            gpu_temp_max_c = greatest({group}_{level}.gpu_temp_max_c, excluded.gpu_temp_max_c)"""


def node_sql(level: str, keys: str) -> str:
    """The statement that folds the nodes' buckets of these keys."""
    source = {"1m": "node_window", "1h": "node_1m", "1d": "node_1h"}[level]
    folded = _NODE_OF_WINDOWS if level == "1m" else _NODE_OF_BUCKETS
    ticks = (
        """CROSS JOIN LATERAL (
            SELECT sum(mw) AS sum_mw, count(mw) AS count, min(mw) AS min_mw, max(mw) AS max_mw
            FROM unnest(w.gpu_power_mw) AS tick (mw)
        ) AS tick"""
        if level == "1m"
        else ""
    )
    update = ", ".join(f"{name} = excluded.{name}" for name in NODE_COLUMNS)
    return f"""
    INSERT INTO gigawatch.node_{level} (time, node_id, {", ".join(NODE_COLUMNS)})
    SELECT keys.time, keys.node_id, of_node.* FROM ({_bounded(keys)}) AS keys
    CROSS JOIN LATERAL (
        SELECT {folded} FROM gigawatch.{source} AS w {ticks}
        WHERE w.node_id = keys.node_id AND w.time >= keys.time AND w.time < keys.time + %(width)s
            AND {WITHIN.format(table="w")}
        HAVING count(*) > 0
    ) AS of_node
    ON CONFLICT (node_id, time) DO UPDATE SET {update}"""


def seconds_sql(windows: str) -> str:
    """The statement that adds node windows to their sites' seconds.

    A tick counts for its second; several in one second by their mean; one that stands for longer for each second.
    """
    return f"""
    WITH windows AS MATERIALIZED ({windows}), summed AS (
        SELECT second, site_id, sum(mw)::bigint AS power_mw, count(*)::integer AS nodes
        FROM (
            -- The usual tick needs no more than its place.
            SELECT node.site_id, mw, date_trunc('second', start) + (place - 1) * interval '1 s' AS second
            FROM (
                SELECT time AS start, node_id, unnest(gpu_power_mw) AS mw,
                    generate_series(1, cardinality(gpu_power_mw)) AS place
                FROM windows WHERE tick_ms = 1000
            ) AS tick
            JOIN gigawatch.node USING (node_id)
            WHERE mw IS NOT NULL
            UNION ALL
            SELECT node.site_id, sum(tick.mw) / count(*) AS mw, second
            FROM windows AS w
            JOIN gigawatch.node USING (node_id)
            CROSS JOIN LATERAL unnest(w.gpu_power_mw) WITH ORDINALITY AS tick (mw, place)
            CROSS JOIN LATERAL generate_series(
                date_trunc('second', w.time + (place - 1) * w.tick_ms * interval '1 ms'),
                date_trunc('second', w.time + least(place * w.tick_ms, w.covered_ms) * interval '1 ms'
                    - interval '1 us'),
                interval '1 s') AS second
            WHERE w.tick_ms <> 1000 AND tick.mw IS NOT NULL
            GROUP BY node.site_id, w.node_id, second
        ) AS of_node
        GROUP BY second, site_id
    )
    INSERT INTO gigawatch.site_second (time, site_id, power_mw, nodes)
    SELECT minute.time, minute.site_id, array_agg(coalesce(power_mw, 0) ORDER BY place),
        array_agg(coalesce(nodes, 0) ORDER BY place)
    FROM (SELECT DISTINCT date_bin('1 minute', second, '2000-01-01Z') AS time, site_id FROM summed) AS minute
    CROSS JOIN generate_series(0, 59) AS place
    LEFT JOIN summed ON summed.site_id = minute.site_id AND summed.second = minute.time + place * interval '1 s'
    GROUP BY minute.time, minute.site_id
    ON CONFLICT (site_id, time) DO UPDATE SET
        power_mw = ARRAY(SELECT a + b FROM unnest(site_second.power_mw, excluded.power_mw) AS added (a, b)),
        nodes = ARRAY(SELECT a + b FROM unnest(site_second.nodes, excluded.nodes) AS added (a, b))"""


# OFFSET 0 keeps the planner from turning a look-up by index for each key into a join with the whole history.
WINDOWS_OF_KEYS = f"""
    SELECT w.* FROM ({{keys}}) AS keys CROSS JOIN LATERAL (
        SELECT * FROM gigawatch.node_window AS w
        WHERE w.node_id = keys.node_id AND w.time >= keys.time AND w.time < keys.time + %(width)s
            AND {WITHIN.format(table="w")} OFFSET 0
    ) AS w"""
WINDOWS_MARKED = f"""
    SELECT w.* FROM ({MARKED}) AS marked CROSS JOIN LATERAL (
        SELECT * FROM gigawatch.node_window AS w
        WHERE w.node_id = marked.node_id AND w.time = marked.time AND {WITHIN.format(table="w")} OFFSET 0
    ) AS w"""


class Mark(Struct, frozen=True):
    """How far a level is folded."""

    closed: datetime
    folded: datetime
    node_id: int


class Folder:
    """Brings the rollups up to date, on one connection.

    Args:
        connection: of the leader, in autocommit.
        tell: called with what is being done, in words, before each step.
    """

    def __init__(self, connection: "psycopg.Connection[Any]", tell: Callable[[str], None] = log.debug) -> None:
        self._connection = connection
        self._tell = tell
        connection.isolation_level = IsolationLevel.REPEATABLE_READ
        # Sums over a few thousand buckets fit; plans are for index look-ups, whatever the statistics say at the moment.
        # A step of late data may have to unpack all that it changes, however many rows are compressed with it; where
        # there is no TimescaleDB, its setting is a name like any other.
        for setting in ("jit = off", "work_mem = '256MB'", "max_parallel_workers_per_gather = 0",
                        "synchronous_commit = off", "enable_mergejoin = off",
                        "timescaledb.max_tuples_decompressed_per_dml_transaction = 0"):  # fmt: skip
            connection.execute(f"SET {setting}")

    def run(self, now: datetime, stopping: Callable[[], bool] = lambda: False) -> int:
        """Fold what is to be folded until it is done or stopping; how many buckets of nodes were.

        Args:
            now: the time.
            stopping: asked between steps.
        """
        buckets = 0
        before = _floor(now - SETTLED, LEVELS["1m"])
        for level, width in LEVELS.items():
            mark = self._close(level, _floor(before, width))
            if mark is None:
                return buckets
            buckets += self._fold_new(level, mark, stopping)
            buckets += self._fold_marked(level, stopping)
            before = self._mark(level).folded
            if stopping():
                break
        return buckets

    def _mark(self, level: str) -> Mark:
        row = self._connection.execute(
            "SELECT closed, folded, node_id FROM gigawatch.rollup WHERE level = %s", [level]
        ).fetchone()
        assert row is not None
        return Mark(*row)

    def _close(self, level: str, until: datetime) -> Mark | None:
        """Close buckets that end by then; None: there is nothing to fold yet."""
        if level != "1m":
            return self._set_closed(level, until)
        # Taken before the transaction, whose snapshot must have all that was committed without marks.
        self._connection.execute("SELECT pg_advisory_lock(%s)", [CLOSE_LOCK])
        try:
            return self._set_closed(level, until)
        finally:
            self._connection.execute("SELECT pg_advisory_unlock(%s)", [CLOSE_LOCK])

    def _set_closed(self, level: str, until: datetime) -> Mark | None:
        with self._connection.transaction():
            known = self._connection.execute("SELECT 1 FROM gigawatch.rollup WHERE level = %s", [level]).fetchone()
            if known is None:
                begin = self._first_window() if level == "1m" else self._first_minute()
                if begin is None:
                    return None
                start = min(_floor(begin, LEVELS[level]), until)
                self._connection.execute(
                    "INSERT INTO gigawatch.rollup (level, closed, folded, node_id) VALUES (%s, %s, %s, 0)",
                    [level, until, start],
                )
            self._connection.execute(
                "UPDATE gigawatch.rollup SET closed = %s WHERE level = %s AND closed < %s", [until, level, until]
            )
            return self._mark(level)

    def _first_minute(self) -> datetime | None:
        row = self._connection.execute(
            "SELECT least((SELECT min(time) FROM gigawatch.gpu_1m), (SELECT min(time) FROM gigawatch.node_1m))"
        ).fetchone()
        assert row is not None
        found: datetime | None = row[0]
        return found

    def _first_window(self) -> datetime | None:
        row = self._connection.execute(
            "SELECT least((SELECT min(time) FROM gigawatch.gpu_window), (SELECT min(time) FROM gigawatch.node_window))"
        ).fetchone()
        assert row is not None
        found: datetime | None = row[0]
        return found

    def _fold_new(self, level: str, mark: Mark, stopping: Callable[[], bool]) -> int:
        """Fold buckets that were closed since the last time."""
        width, buckets = LEVELS[level], 0
        row = self._connection.execute("SELECT coalesce(max(node_id), 0) FROM gigawatch.node").fetchone()
        assert row is not None
        nodes = row[0] + 1
        folded, first = mark.folded, mark.node_id
        while folded < mark.closed and not stopping():
            # Few nodes: several buckets at a time. Many: a part of them at a time.
            several = max(1, MOST_BUCKETS // nodes)
            stop = folded + width if first else min(mark.closed, folded + several * width)
            beyond = min(nodes, first + MOST_BUCKETS)
            self._tell(f"{level} of {folded:%Y-%m-%d %H:%M}, nodes {first} to {beyond - 1}")
            values = {
                "start": folded, "stop": stop, "width": width, "first": first, "beyond": beyond, "least": folded,
                "most": stop,
            }  # fmt: skip
            with self._connection.transaction():
                buckets += self._fold(level, RANGE, values, WINDOWS_OF_KEYS.format(keys=_bounded(RANGE)))
                if level == "1m":
                    # They are in the sums now, since this transaction's snapshot has both.
                    self._connection.execute(
                        "DELETE FROM gigawatch.rollup_dirty WHERE level = '1s'"
                        " AND time >= %(start)s AND time < %(stop)s AND node_id >= %(first)s AND node_id < %(beyond)s",
                        values,
                    )
                folded, first = (stop, 0) if beyond >= nodes else (folded, beyond)
                self._connection.execute(
                    "UPDATE gigawatch.rollup SET folded = %s, node_id = %s WHERE level = %s", [folded, first, level]
                )
        return buckets

    def _fold_marked(self, level: str, stopping: Callable[[], bool]) -> int:
        """Fold again what data came late for."""
        buckets = 0
        while not stopping():
            with self._uncompressing() as free:
                if not free:
                    # Late data wait for the next time; new data do not.
                    break
                with self._connection.transaction():
                    pairs = self._take_marked(level)
                    if pairs:
                        values = _marked(pairs, LEVELS[level]) | {"width": LEVELS[level]}
                        self._tell(f"{level} again: {len(pairs)} buckets from {min(pairs)[0]:%Y-%m-%d %H:%M} on")
                        buckets += self._fold(level, MARKED, values, None)
                        self._mark_above(level, pairs)
                    late = self._take_marked("1s") if level == "1m" else []
                    if late:
                        seconds = _marked(late, timedelta(milliseconds=1))
                        self._connection.execute(seconds_sql(WINDOWS_MARKED), seconds)
            if not pairs and not late:
                break
        return buckets

    @contextmanager
    def _uncompressing(self) -> Iterator[bool]:
        """Let no chunk be compressed meanwhile; False: one is being compressed now.

        Compression puts rows elsewhere: to a snapshot from before, they would be neither here nor there. Only what came
        late is folded from and into chunks so old.
        """
        taken = self._connection.execute("SELECT pg_try_advisory_lock_shared(%s)", [COMPRESS_LOCK]).fetchone()
        free = taken is not None and bool(taken[0])
        try:
            yield free
        finally:
            if free:
                self._connection.execute("SELECT pg_advisory_unlock_shared(%s)", [COMPRESS_LOCK])

    def _take_marked(self, level: str) -> list[tuple[datetime, int]]:
        """Some of what is marked in buckets that are folded; it is no longer marked if this transaction commits."""
        upper = "1m" if level == "1s" else level
        rows = self._connection.execute(
            "WITH taken AS ("
            "    SELECT DISTINCT time, node_id FROM gigawatch.rollup_dirty WHERE level = %(level)s"
            "    AND time < (SELECT folded FROM gigawatch.rollup WHERE level = %(upper)s) LIMIT %(most)s"
            "), gone AS ("
            "    DELETE FROM gigawatch.rollup_dirty USING taken WHERE level = %(level)s"
            "    AND rollup_dirty.time = taken.time AND rollup_dirty.node_id = taken.node_id"
            ") SELECT time, node_id FROM taken",
            {"level": level, "upper": upper, "most": MOST_BUCKETS},
        )
        return [(row[0], row[1]) for row in rows]

    def _mark_above(self, level: str, pairs: Sequence[tuple[datetime, int]]) -> None:
        levels = list(LEVELS)
        if level == levels[-1]:
            return
        above = levels[levels.index(level) + 1]
        marked = sorted({(_floor(time, LEVELS[above]), node_id) for time, node_id in pairs})
        self._connection.execute(
            "INSERT INTO gigawatch.rollup_dirty (level, time, node_id)"
            " SELECT %s, time, node_id FROM unnest(%s::timestamptz[], %s::integer[]) AS marked (time, node_id)"
            " WHERE time < (SELECT closed FROM gigawatch.rollup WHERE level = %s)",
            [above, [it[0] for it in marked], [it[1] for it in marked], above],
        )

    def _fold(self, level: str, keys: str, values: dict[str, Any], windows: str | None) -> int:
        """Fold the buckets of some keys; how many had anything."""
        row = self._connection.execute(gpu_sql(level, keys), values).fetchone()
        assert row is not None
        self._connection.execute(node_sql(level, keys), values)
        if level == "1m" and windows is not None:
            self._connection.execute(seconds_sql(windows), values)
        return int(row[0])


def _marked(pairs: Sequence[tuple[datetime, int]], width: timedelta) -> dict[str, Any]:
    """Parameters of MARKED, and between which times its buckets lie."""
    times = [it[0] for it in pairs]
    return {
        "times": times, "node_ids": [it[1] for it in pairs], "least": min(times), "most": max(times) + width,
    }  # fmt: skip


_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


def _floor(time: datetime, width: timedelta) -> datetime:
    """As date_bin() does it."""
    return _EPOCH + (time - _EPOCH) // width * width
