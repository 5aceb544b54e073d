"""Windows written straight into the store, as rows of one GPU each: simple to make, change and delete in SQL."""

from sqlalchemy import Connection, text

from api.copying import METRICS

KINDS = {
    **dict.fromkeys(METRICS, "integer"),
    **{name: "smallint" for name in METRICS if name.endswith(("_pm", "_c", "_mhz", "_pct"))},
    **{name: "bigint" for name in METRICS if name.endswith("_kib") or name == "clock_event_reasons"},
}


def make(connection: Connection) -> None:
    """A temporary table flat_window: time, gpu_id, bookkeeping and metrics."""
    metrics = ", ".join(f"{name} {KINDS[name]}" for name in METRICS)
    connection.execute(
        text(
            "CREATE TEMPORARY TABLE flat_window (time timestamptz NOT NULL, gpu_id integer NOT NULL, covered_ms int,"
            f" ticks_taken smallint, ticks_expected smallint, energy_method smallint, {metrics}) ON COMMIT DROP"
        )
    )


def store(connection: Connection) -> None:
    """The rows of flat_window as the API would have stored them, each node's slots and newest window too."""
    metrics = ", ".join(f"CASE WHEN count({name}) > 0 THEN array_agg({name} ORDER BY slot) END" for name in METRICS)
    filled = ", ".join(f"flat_window.{name}" for name in METRICS)
    for sql in (
        """INSERT INTO gigawatch.gpu_slot (node_id, slot, gpu_id)
        SELECT node_id, row_number() OVER (PARTITION BY node_id ORDER BY index, gpu_id), gpu_id FROM gigawatch.gpu
        ON CONFLICT DO NOTHING""",
        f"""INSERT INTO gigawatch.gpu_window (time, node_id, slots, covered_ms, ticks_taken, ticks_expected,
            energy_method, each, {", ".join(METRICS)})
        SELECT time, node_id, count(*), max(covered_ms), max(ticks_taken), max(ticks_expected),
            coalesce(max(energy_method), 0),
            array_agg(ARRAY[coalesce(covered_ms, 0), coalesce(ticks_taken, 0), coalesce(ticks_expected, 0),
                coalesce(energy_method, 0)]::integer[] ORDER BY slot),
            {metrics}
        FROM (
            SELECT windows.time, windows.node_id, slot, covered_ms, ticks_taken, ticks_expected, energy_method, {filled}
            FROM (SELECT time, node_id FROM flat_window JOIN gigawatch.gpu USING (gpu_id) GROUP BY 1, 2) AS windows
            JOIN gigawatch.gpu_slot USING (node_id)
            LEFT JOIN flat_window ON flat_window.gpu_id = gpu_slot.gpu_id AND flat_window.time = windows.time
        ) AS filled
        GROUP BY time, node_id""",
        """INSERT INTO gigawatch.node_now (node_id, last_seen, clock_offset_ms, time, gpus, gpus_throttled, power_mw,
            power_limit_mw, gpu_util_pm, gpu_util_gpus, gpu_temp_max_c, gpu_power_max_mw, gpu_util_max_pm,
            clock_event_reasons, mem_temp_max_c, site_id, rack_id, simulated, gpus_expected, temp_slowdown_c, gpu_model)
        SELECT DISTINCT ON (node_id) node_id, time + max(covered_ms) * interval '1 ms', 0, time, count(*),
            count(*) FILTER (WHERE clock_event_reasons & 236 <> 0), sum(energy_mj::bigint * 1000 / covered_ms),
            sum(flat_window.power_limit_mw), sum(gpu_util_pm), count(gpu_util_pm), max(gpu_temp_max_c),
            max(energy_mj::bigint * 1000 / covered_ms), max(gpu_util_pm),
            bit_or(clock_event_reasons), max(mem_temp_max_c), site_id, rack_id, simulated,
            its.gpus, its.temp_slowdown_c, its.gpu_model
        FROM flat_window JOIN gigawatch.gpu USING (gpu_id) JOIN gigawatch.node USING (node_id) JOIN (
            SELECT node_id, count(*) AS gpus, min(temp_slowdown_c) AS temp_slowdown_c,
                CASE WHEN min(model) = max(model) THEN min(model) END AS gpu_model
            FROM gigawatch.gpu WHERE removed IS NULL GROUP BY node_id
        ) AS its USING (node_id)
        GROUP BY node_id, time, site_id, rack_id, simulated, its.gpus, its.temp_slowdown_c, its.gpu_model
        ORDER BY node_id, time DESC""",
        "DROP TABLE flat_window",
    ):
        connection.execute(text(sql))
