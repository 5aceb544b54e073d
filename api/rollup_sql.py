"""The statements that fold windows into minutes, hours and days, by node, rack and site."""

from typing import Literal

from msgspec import Struct

MOST_BUCKETS = 4_000
"""Buckets of nodes in one transaction, about a second's work."""
THROTTLED = 4 + 8 + 32 + 64 + 128
"""Clock-event bits: power cap, hardware slowdown, thermal slowdowns, power brake."""


class Metric(Struct, frozen=True):
    """A column of gpu_1m, gpu_1h and gpu_1d."""

    name: str
    raw: str
    """Of a window, as an expression over its columns; empty for what no window knows, but its node."""
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
    Metric("host_mj", ""),
    Metric("host_ms", ""),
)
NARROW = {"gpu_temp_max_c": "smallint", "mem_temp_max_c": "smallint", "fan_pct": "smallint"} | dict.fromkeys(
    ("clock_event_reasons", "pcie_tx_kib", "pcie_rx_kib", "nvlink_tx_kib", "nvlink_rx_kib"), "bigint"
)
LARGE = {
    "energy_mj", "energy_interpolated_mj", "energy_integrated_mj", "energy_estimated_mj", "gpu_util_pm_ms",
    "mem_util_pm_ms", "sm_clock_mhz_ms", "mem_clock_mhz_ms", "host_mj",
}  # fmt: skip
"""Sums that need more than an integer from the hour on."""

GROUP_SUMS = (
    "gpus", "gpus_known", "power_mw", "covered_ms", "energy_mj", "energy_ms", "energy_interpolated_mj",
    "energy_integrated_mj", "energy_estimated_mj", "gpu_util_pm_ms", "gpu_util_ms", "throttled_ms", "host_mj",
    "host_ms",
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


# What a metered node used beside its GPUs, in shares by the GPUs' time. Only where all of them answered is their sum
# the node's own, and a meter that shows less than they use is wrong.
WITH_HOSTS = f"""
        WITH metered AS MATERIALIZED (
            SELECT n.time, n.node_id, n.node_power_mw_ms / n.node_power_ms AS node_mw
            FROM keys JOIN gigawatch.node_1m AS n ON n.node_id = keys.node_id AND n.time = keys.time
                AND {WITHIN.format(table="n")}
            WHERE n.node_power_ms > 0 AND n.ticks_summed = n.ticks_taken
        ), host AS MATERIALIZED (
            SELECT time, node_id, node_mw - sum(energy_mj * 1000 / energy_ms) AS mw, count(covered_ms) AS gpus
            FROM metered JOIN of_windows USING (time, node_id)
            GROUP BY time, node_id, node_mw
            HAVING count(energy_ms) = count(covered_ms) AND node_mw >= sum(energy_mj * 1000 / energy_ms)
        )
        SELECT of_windows.*, (host.mw * covered_ms / 1000 / host.gpus)::bigint AS host_mj,
            CASE WHEN host.mw IS NOT NULL THEN covered_ms END AS host_ms
        FROM of_windows LEFT JOIN host USING (time, node_id)"""


def gpu_sql(level: str, keys: str) -> str:
    """The statement that folds the GPUs' buckets of these keys, and what difference that makes to racks and sites."""
    source = {"1m": "gpu_window", "1h": "gpu_1m", "1d": "gpu_1h"}[level]
    if source == "gpu_window":
        columns = of_slot()
        folded = ", ".join(f"{it.how}({it.raw}) AS {it.name}" for it in METRICS if it.raw)
        added = WITH_HOSTS
    else:
        columns = ", ".join(f"expanded.at(w.{it.name}, slot) AS {it.name}" for it in METRICS)
        folded = ", ".join(f"{it.how}({it.name}) AS {it.name}" for it in METRICS)
        added = "SELECT * FROM of_windows"
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
    WITH keys AS MATERIALIZED ({bounded(keys)}), of_windows AS MATERIALIZED (
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
    ), folded AS MATERIALIZED (
        {added}
    ), found AS MATERIALIZED (
        {bounded("SELECT DISTINCT time, node_id FROM folded")}
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


def bounded(keys: str) -> str:
    """Keys with their bound, which never cuts any: the planner would make hash tables for millions of them."""
    return f"SELECT * FROM ({keys}) AS keys LIMIT {MOST_BUCKETS}"


def of_slot() -> str:
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
    SELECT keys.time, keys.node_id, of_node.* FROM ({bounded(keys)}) AS keys
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
