-- Schema expanded: arrays of a node's GPUs as rows, for the views of schema report alone.
-- Definition: one row per GPU of a row of the table. An array of one element stands for all slots of its row.
-- Missing data: a GPU without a window has no row; a row has no GPUs beyond its slots.
CREATE FUNCTION expanded.at(anyarray, integer) RETURNS anyelement LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS 'SELECT $1[least($2, cardinality($1))]';

-- How far a level is folded.
CREATE FUNCTION expanded.folded(in_level text) RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT coalesce((SELECT rollup.folded FROM gigawatch.rollup WHERE rollup.level = in_level), '-infinity');
END;

-- The same for views, whose functions would ask with the rights of the reader.
CREATE VIEW expanded.mark AS
SELECT of_1m.folded AS folded_1m, of_1h.folded AS folded_1h
FROM (SELECT coalesce(max(folded), '-infinity') AS folded FROM gigawatch.rollup WHERE level = '1m') AS of_1m,
    (SELECT coalesce(max(folded), '-infinity') AS folded FROM gigawatch.rollup WHERE level = '1h') AS of_1h;

-- The level that a step is read from: the coarsest whose buckets make it up.
CREATE FUNCTION expanded.level_for(step interval) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE
        WHEN extract(epoch FROM step) % 86400 = 0 THEN '1d'
        WHEN extract(epoch FROM step) % 3600 = 0 THEN '1h'
        WHEN extract(epoch FROM step) % 60 = 0 THEN '1m'
        ELSE 'raw'
    END;
END;

-- Where a part begins and ends that a level is read from: itself as far as it is folded, then the finer ones. Fleets
-- beyond 2,000 nodes are shown up to where minutes are folded: their windows are too many to be summed for a page.
CREATE FUNCTION expanded.first_of(part text, chosen text) RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE
        WHEN part = chosen THEN '-infinity'::timestamptz
        WHEN part = '1h' AND chosen = '1d' THEN expanded.folded('1d')
        WHEN part = '1m' AND chosen IN ('1d', '1h') THEN expanded.folded('1h')
        WHEN part = 'raw' THEN expanded.folded('1m')
        ELSE 'infinity'
    END;
END;
CREATE FUNCTION expanded.beyond_of(part text) RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE WHEN part = 'raw' THEN 'infinity' ELSE expanded.folded(part) END;
END;
CREATE FUNCTION expanded.is_large() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT count(*) > 2000 FROM (SELECT 1 FROM gigawatch.node LIMIT 2001) AS counted;
END;
-- Up to when a fleet's figures can be known now.
CREATE FUNCTION expanded.known_until() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE WHEN expanded.is_large() THEN greatest(expanded.folded('1m'), '2000-01-01Z') ELSE now() END;
END;

-- Each node as it is now, and its GPUs together; for report.nodes, and report.nodes_now. It is read from one table, so
-- that sums over the fleet need no other: readers join names from the left, which PostgreSQL leaves out where no column
-- of theirs is asked for.
CREATE VIEW expanded.node_state AS
SELECT
    now.node_id,
    now.site_id,
    now.rack_id,
    now.simulated,
    now.gpu_model,
    now.gpus_expected AS gpus,
    now.last_seen,
    now.clock_offset_ms,
    abs(now.clock_offset_ms) <= 2000 AS clock_ok,
    silent.yes AS silent,
    CASE WHEN fresh.yes THEN least(now.gpus, now.gpus_expected) ELSE 0 END AS gpus_reporting,
    CASE WHEN silent.yes THEN 0 WHEN fresh.yes THEN greatest(now.gpus_expected - now.gpus, 0) ELSE now.gpus_expected END
        AS gpus_missing,
    CASE WHEN silent.yes THEN now.gpus_expected ELSE 0 END AS gpus_silent,
    CASE WHEN fresh.yes THEN now.gpus_throttled ELSE 0 END AS gpus_throttled,
    CASE WHEN fresh.yes THEN now.time END AS window_time,
    CASE WHEN fresh.yes THEN now.power_mw / 1000.0::double precision END AS power_w,
    CASE WHEN fresh.yes THEN nullif(now.power_limit_mw, 0) / 1000.0::double precision END AS power_limit_w,
    CASE WHEN fresh.yes THEN now.gpu_util_pm / 10.0::double precision / nullif(now.gpu_util_gpus, 0) END
        AS gpu_util_pct,
    CASE WHEN fresh.yes THEN now.gpu_util_gpus ELSE 0 END AS gpu_util_gpus,
    CASE WHEN fresh.yes THEN now.gpu_temp_max_c END AS gpu_temp_max_c,
    CASE WHEN fresh.yes THEN now.temp_slowdown_c - now.gpu_temp_max_c END AS margin_to_slowdown_c,
    CASE WHEN fresh.yes THEN now.gpu_power_max_mw / 1000.0::double precision END AS gpu_power_max_w,
    CASE WHEN fresh.yes THEN now.gpu_util_max_pm / 10.0::double precision END AS gpu_util_max_pct
FROM gigawatch.node_now AS now
-- A SELECT of its own is evaluated once for all rows.
CROSS JOIN LATERAL (SELECT now.last_seen < (SELECT now() - interval '60 s') AS yes) AS silent
CROSS JOIN LATERAL (
    SELECT NOT silent.yes AND now.time > (SELECT now() - interval '5 minutes')
        AND now.time > now.last_seen - interval '90 s' AS yes
) AS fresh;

CREATE VIEW expanded.gpu_window AS
SELECT
    w.time,
    w.node_id,
    s.slot,
    s.gpu_id,
    coalesce(w.each[s.slot][1], w.covered_ms) AS covered_ms,
    coalesce(w.each[s.slot][2], w.ticks_taken) AS ticks_taken,
    coalesce(w.each[s.slot][3], w.ticks_expected) AS ticks_expected,
    nullif(coalesce(w.each[s.slot][4], w.energy_method), 0) AS energy_method,
    expanded.at(w.energy_mj, s.slot) AS energy_mj,
    expanded.at(w.power_mean_mw, s.slot) AS power_mean_mw,
    expanded.at(w.power_min_mw, s.slot) AS power_min_mw,
    expanded.at(w.power_max_mw, s.slot) AS power_max_mw,
    expanded.at(w.power_limit_mw, s.slot) AS power_limit_mw,
    expanded.at(w.mem_used_mib, s.slot) AS mem_used_mib,
    expanded.at(w.gpu_util_pm, s.slot) AS gpu_util_pm,
    expanded.at(w.mem_util_pm, s.slot) AS mem_util_pm,
    expanded.at(w.gpu_temp_max_c, s.slot) AS gpu_temp_max_c,
    expanded.at(w.mem_temp_max_c, s.slot) AS mem_temp_max_c,
    expanded.at(w.sm_clock_mhz, s.slot) AS sm_clock_mhz,
    expanded.at(w.mem_clock_mhz, s.slot) AS mem_clock_mhz,
    expanded.at(w.fan_pct, s.slot) AS fan_pct,
    expanded.at(w.clock_event_reasons, s.slot) AS clock_event_reasons,
    expanded.at(w.pcie_tx_kib, s.slot) AS pcie_tx_kib,
    expanded.at(w.pcie_rx_kib, s.slot) AS pcie_rx_kib,
    expanded.at(w.nvlink_tx_kib, s.slot) AS nvlink_tx_kib,
    expanded.at(w.nvlink_rx_kib, s.slot) AS nvlink_rx_kib
FROM gigawatch.gpu_window AS w
JOIN gigawatch.gpu_slot AS s ON s.node_id = w.node_id AND s.slot <= w.slots
WHERE w.each IS NULL OR w.each[s.slot][1] > 0;

-- A window as a bucket of its own.
CREATE VIEW expanded.gpu_raw AS
SELECT
    time, node_id, slot, gpu_id,
    covered_ms,
    energy_mj,
    CASE WHEN energy_mj IS NOT NULL THEN covered_ms END AS energy_ms,
    CASE WHEN energy_method = 2 THEN energy_mj END AS energy_interpolated_mj,
    CASE WHEN energy_method = 3 THEN energy_mj END AS energy_integrated_mj,
    CASE WHEN energy_method = 4 THEN energy_mj END AS energy_estimated_mj,
    power_min_mw,
    power_max_mw,
    power_limit_mw,
    mem_used_mib,
    gpu_util_pm * covered_ms AS gpu_util_pm_ms,
    CASE WHEN gpu_util_pm IS NOT NULL THEN covered_ms END AS gpu_util_ms,
    mem_util_pm * covered_ms AS mem_util_pm_ms,
    CASE WHEN mem_util_pm IS NOT NULL THEN covered_ms END AS mem_util_ms,
    sm_clock_mhz * covered_ms AS sm_clock_mhz_ms,
    CASE WHEN sm_clock_mhz IS NOT NULL THEN covered_ms END AS sm_clock_ms,
    mem_clock_mhz * covered_ms AS mem_clock_mhz_ms,
    CASE WHEN mem_clock_mhz IS NOT NULL THEN covered_ms END AS mem_clock_ms,
    gpu_temp_max_c,
    mem_temp_max_c,
    fan_pct,
    clock_event_reasons,
    CASE WHEN clock_event_reasons & 236 <> 0 THEN covered_ms END AS throttled_ms,
    pcie_tx_kib,
    pcie_rx_kib,
    CASE WHEN coalesce(pcie_tx_kib, pcie_rx_kib) IS NOT NULL THEN covered_ms END AS pcie_ms,
    nvlink_tx_kib,
    nvlink_rx_kib,
    CASE WHEN coalesce(nvlink_tx_kib, nvlink_rx_kib) IS NOT NULL THEN covered_ms END AS nvlink_ms,
    ticks_taken,
    ticks_expected
FROM expanded.gpu_window;

CREATE VIEW expanded.gpu_1m AS
SELECT
    w.time, w.node_id, w.site_id, w.rack_id, s.slot, s.gpu_id,
    expanded.at(w.covered_ms, s.slot) AS covered_ms,
    expanded.at(w.energy_mj, s.slot) AS energy_mj,
    expanded.at(w.energy_ms, s.slot) AS energy_ms,
    expanded.at(w.energy_interpolated_mj, s.slot) AS energy_interpolated_mj,
    expanded.at(w.energy_integrated_mj, s.slot) AS energy_integrated_mj,
    expanded.at(w.energy_estimated_mj, s.slot) AS energy_estimated_mj,
    expanded.at(w.power_min_mw, s.slot) AS power_min_mw,
    expanded.at(w.power_max_mw, s.slot) AS power_max_mw,
    expanded.at(w.power_limit_mw, s.slot) AS power_limit_mw,
    expanded.at(w.mem_used_mib, s.slot) AS mem_used_mib,
    expanded.at(w.gpu_util_pm_ms, s.slot) AS gpu_util_pm_ms,
    expanded.at(w.gpu_util_ms, s.slot) AS gpu_util_ms,
    expanded.at(w.mem_util_pm_ms, s.slot) AS mem_util_pm_ms,
    expanded.at(w.mem_util_ms, s.slot) AS mem_util_ms,
    expanded.at(w.sm_clock_mhz_ms, s.slot) AS sm_clock_mhz_ms,
    expanded.at(w.sm_clock_ms, s.slot) AS sm_clock_ms,
    expanded.at(w.mem_clock_mhz_ms, s.slot) AS mem_clock_mhz_ms,
    expanded.at(w.mem_clock_ms, s.slot) AS mem_clock_ms,
    expanded.at(w.gpu_temp_max_c, s.slot) AS gpu_temp_max_c,
    expanded.at(w.mem_temp_max_c, s.slot) AS mem_temp_max_c,
    expanded.at(w.fan_pct, s.slot) AS fan_pct,
    expanded.at(w.clock_event_reasons, s.slot) AS clock_event_reasons,
    expanded.at(w.throttled_ms, s.slot) AS throttled_ms,
    expanded.at(w.pcie_tx_kib, s.slot) AS pcie_tx_kib,
    expanded.at(w.pcie_rx_kib, s.slot) AS pcie_rx_kib,
    expanded.at(w.pcie_ms, s.slot) AS pcie_ms,
    expanded.at(w.nvlink_tx_kib, s.slot) AS nvlink_tx_kib,
    expanded.at(w.nvlink_rx_kib, s.slot) AS nvlink_rx_kib,
    expanded.at(w.nvlink_ms, s.slot) AS nvlink_ms,
    expanded.at(w.ticks_taken, s.slot) AS ticks_taken,
    expanded.at(w.ticks_expected, s.slot) AS ticks_expected
FROM gigawatch.gpu_1m AS w
JOIN gigawatch.gpu_slot AS s ON s.node_id = w.node_id AND s.slot <= w.slots
WHERE expanded.at(w.covered_ms, s.slot) IS NOT NULL;

CREATE VIEW expanded.gpu_1h AS
SELECT
    w.time, w.node_id, w.site_id, w.rack_id, s.slot, s.gpu_id,
    expanded.at(w.covered_ms, s.slot) AS covered_ms,
    expanded.at(w.energy_mj, s.slot) AS energy_mj,
    expanded.at(w.energy_ms, s.slot) AS energy_ms,
    expanded.at(w.energy_interpolated_mj, s.slot) AS energy_interpolated_mj,
    expanded.at(w.energy_integrated_mj, s.slot) AS energy_integrated_mj,
    expanded.at(w.energy_estimated_mj, s.slot) AS energy_estimated_mj,
    expanded.at(w.power_min_mw, s.slot) AS power_min_mw,
    expanded.at(w.power_max_mw, s.slot) AS power_max_mw,
    expanded.at(w.power_limit_mw, s.slot) AS power_limit_mw,
    expanded.at(w.mem_used_mib, s.slot) AS mem_used_mib,
    expanded.at(w.gpu_util_pm_ms, s.slot) AS gpu_util_pm_ms,
    expanded.at(w.gpu_util_ms, s.slot) AS gpu_util_ms,
    expanded.at(w.mem_util_pm_ms, s.slot) AS mem_util_pm_ms,
    expanded.at(w.mem_util_ms, s.slot) AS mem_util_ms,
    expanded.at(w.sm_clock_mhz_ms, s.slot) AS sm_clock_mhz_ms,
    expanded.at(w.sm_clock_ms, s.slot) AS sm_clock_ms,
    expanded.at(w.mem_clock_mhz_ms, s.slot) AS mem_clock_mhz_ms,
    expanded.at(w.mem_clock_ms, s.slot) AS mem_clock_ms,
    expanded.at(w.gpu_temp_max_c, s.slot) AS gpu_temp_max_c,
    expanded.at(w.mem_temp_max_c, s.slot) AS mem_temp_max_c,
    expanded.at(w.fan_pct, s.slot) AS fan_pct,
    expanded.at(w.clock_event_reasons, s.slot) AS clock_event_reasons,
    expanded.at(w.throttled_ms, s.slot) AS throttled_ms,
    expanded.at(w.pcie_tx_kib, s.slot) AS pcie_tx_kib,
    expanded.at(w.pcie_rx_kib, s.slot) AS pcie_rx_kib,
    expanded.at(w.pcie_ms, s.slot) AS pcie_ms,
    expanded.at(w.nvlink_tx_kib, s.slot) AS nvlink_tx_kib,
    expanded.at(w.nvlink_rx_kib, s.slot) AS nvlink_rx_kib,
    expanded.at(w.nvlink_ms, s.slot) AS nvlink_ms,
    expanded.at(w.ticks_taken, s.slot) AS ticks_taken,
    expanded.at(w.ticks_expected, s.slot) AS ticks_expected
FROM gigawatch.gpu_1h AS w
JOIN gigawatch.gpu_slot AS s ON s.node_id = w.node_id AND s.slot <= w.slots
WHERE expanded.at(w.covered_ms, s.slot) IS NOT NULL;

CREATE VIEW expanded.gpu_1d AS
SELECT
    w.time, w.node_id, w.site_id, w.rack_id, s.slot, s.gpu_id,
    expanded.at(w.covered_ms, s.slot) AS covered_ms,
    expanded.at(w.energy_mj, s.slot) AS energy_mj,
    expanded.at(w.energy_ms, s.slot) AS energy_ms,
    expanded.at(w.energy_interpolated_mj, s.slot) AS energy_interpolated_mj,
    expanded.at(w.energy_integrated_mj, s.slot) AS energy_integrated_mj,
    expanded.at(w.energy_estimated_mj, s.slot) AS energy_estimated_mj,
    expanded.at(w.power_min_mw, s.slot) AS power_min_mw,
    expanded.at(w.power_max_mw, s.slot) AS power_max_mw,
    expanded.at(w.power_limit_mw, s.slot) AS power_limit_mw,
    expanded.at(w.mem_used_mib, s.slot) AS mem_used_mib,
    expanded.at(w.gpu_util_pm_ms, s.slot) AS gpu_util_pm_ms,
    expanded.at(w.gpu_util_ms, s.slot) AS gpu_util_ms,
    expanded.at(w.mem_util_pm_ms, s.slot) AS mem_util_pm_ms,
    expanded.at(w.mem_util_ms, s.slot) AS mem_util_ms,
    expanded.at(w.sm_clock_mhz_ms, s.slot) AS sm_clock_mhz_ms,
    expanded.at(w.sm_clock_ms, s.slot) AS sm_clock_ms,
    expanded.at(w.mem_clock_mhz_ms, s.slot) AS mem_clock_mhz_ms,
    expanded.at(w.mem_clock_ms, s.slot) AS mem_clock_ms,
    expanded.at(w.gpu_temp_max_c, s.slot) AS gpu_temp_max_c,
    expanded.at(w.mem_temp_max_c, s.slot) AS mem_temp_max_c,
    expanded.at(w.fan_pct, s.slot) AS fan_pct,
    expanded.at(w.clock_event_reasons, s.slot) AS clock_event_reasons,
    expanded.at(w.throttled_ms, s.slot) AS throttled_ms,
    expanded.at(w.pcie_tx_kib, s.slot) AS pcie_tx_kib,
    expanded.at(w.pcie_rx_kib, s.slot) AS pcie_rx_kib,
    expanded.at(w.pcie_ms, s.slot) AS pcie_ms,
    expanded.at(w.nvlink_tx_kib, s.slot) AS nvlink_tx_kib,
    expanded.at(w.nvlink_rx_kib, s.slot) AS nvlink_rx_kib,
    expanded.at(w.nvlink_ms, s.slot) AS nvlink_ms,
    expanded.at(w.ticks_taken, s.slot) AS ticks_taken,
    expanded.at(w.ticks_expected, s.slot) AS ticks_expected
FROM gigawatch.gpu_1d AS w
JOIN gigawatch.gpu_slot AS s ON s.node_id = w.node_id AND s.slot <= w.slots
WHERE expanded.at(w.covered_ms, s.slot) IS NOT NULL;
