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

-- What a period is read from: the level chosen as far as it is folded, then each finer one from there on, then windows.
CREATE VIEW expanded.level AS
SELECT it.place, it.name, it.length,
    coalesce(lag(rollup.folded) OVER (ORDER BY it.place), '-infinity') AS first,
    CASE WHEN it.name = 'raw' THEN 'infinity' ELSE coalesce(rollup.folded, '-infinity') END AS beyond
FROM (
    VALUES (1, '1d', interval '1 day'), (2, '1h', '1 hour'), (3, '1m', '1 minute'), (4, 'raw', NULL)
) AS it (place, name, length)
LEFT JOIN gigawatch.rollup ON rollup.level = it.name;

CREATE FUNCTION expanded.parts(start timestamptz, stop timestamptz, chosen text)
RETURNS TABLE (level text, length interval, first timestamptz, beyond timestamptz)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT part.name, part.length, part.first, part.beyond
    FROM (
        SELECT it.name, it.length,
            greatest(start, CASE WHEN it.name = chosen THEN '-infinity' ELSE it.first END) AS first,
            least(stop, it.beyond) AS beyond
        FROM expanded.level AS it
        WHERE it.place >= (SELECT of_chosen.place FROM expanded.level AS of_chosen WHERE of_chosen.name = chosen)
    ) AS part
    WHERE part.first < part.beyond;
END;

-- Fleets beyond 2,000 nodes are shown up to where minutes are folded: their windows are too many to be summed for a
-- page.
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
    coalesce(now.told_until, now.last_seen) AS told_until,
    silent.yes AS silent,
    unknown.yes AS unknown,
    CASE WHEN fresh.yes THEN least(now.gpus, now.gpus_expected) ELSE 0 END AS gpus_reporting,
    CASE WHEN unknown.yes THEN 0 WHEN fresh.yes THEN greatest(now.gpus_expected - now.gpus, 0) ELSE now.gpus_expected END
        AS gpus_missing,
    CASE WHEN unknown.yes THEN now.gpus_expected ELSE 0 END AS gpus_silent,
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
CROSS JOIN LATERAL (
    SELECT now.time > (SELECT now() - interval '5 minutes') AND now.time > now.last_seen - interval '90 s' AS yes
) AS recent
-- While a spool is emptied, what a node sends is old, of itself as of its GPUs: nobody knows what is now. Without a window of
-- the node itself its batches tell of it.
CROSS JOIN LATERAL (
    SELECT coalesce(NOT recent.yes AND coalesce(now.told_until, now.last_seen) <= now.time + interval '90 s', false) AS yes
) AS old
CROSS JOIN LATERAL (SELECT now.last_seen < (SELECT now() - interval '60 s') AS yes) AS unheard
-- A clock that is off is said first of a node that sends: what it sends looks old.
CROSS JOIN LATERAL (SELECT unheard.yes OR old.yes AND abs(now.clock_offset_ms) <= 2000 AS yes) AS silent
CROSS JOIN LATERAL (SELECT unheard.yes OR old.yes AS yes) AS unknown
CROSS JOIN LATERAL (SELECT NOT unheard.yes AND recent.yes AS yes) AS fresh;

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
    expanded.at(w.nvlink_rx_kib, s.slot) AS nvlink_rx_kib,
    expanded.at(w.assignment_id, s.slot) AS assignment_id
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
    ticks_expected,
    -- Of a whole minute alone is it known what a host used beside its GPUs.
    NULL::bigint AS host_mj,
    NULL::integer AS host_ms
FROM expanded.gpu_window;

-- Rows of each level, an element of each array for each slot; and all levels together, for readers that take each of
-- expanded.parts() from the level it names. That name is a constant in each branch, so that PostgreSQL leaves out the
-- others and looks this one up by index. It takes equal types in all branches: those of days, for windows and minutes
-- have narrower ones. Branches that are joins, as these are, are looked up for a node by a subquery with LATERAL and
-- OFFSET 0: a join would read them from end to end.
DO $$
DECLARE
    level text;
    elements text;
    columns text;
BEGIN
    SELECT
        string_agg(format('expanded.at(w.%1$I, s.slot) AS %1$I', column_name), ', ' ORDER BY ordinal_position),
        string_agg(format('%1$I::%2$s', column_name, substr(udt_name, 2)), ', ' ORDER BY ordinal_position)
    INTO elements, columns
    FROM information_schema.columns
    WHERE table_schema = 'gigawatch' AND table_name = 'gpu_1d' AND data_type = 'ARRAY';

    FOREACH level IN ARRAY ARRAY['1m', '1h', '1d'] LOOP
        EXECUTE format('
            CREATE VIEW expanded.gpu_%1$s AS
            SELECT w.time, w.node_id, s.slot, s.gpu_id, %2$s
            FROM gigawatch.gpu_%1$s AS w
            JOIN gigawatch.gpu_slot AS s ON s.node_id = w.node_id AND s.slot <= w.slots
            WHERE expanded.at(w.covered_ms, s.slot) IS NOT NULL', level, elements);
    END LOOP;

    EXECUTE 'CREATE VIEW expanded.gpu_bucket AS ' || (
        SELECT string_agg(
            format('SELECT %1$L AS level, time, node_id, slot, gpu_id, %2$s FROM expanded.gpu_%1$s', it.level, columns),
            ' UNION ALL ')
        FROM unnest(ARRAY['1m', '1h', '1d', 'raw']) AS it (level)
    );
END $$;

-- The same of nodes, racks and sites. Of these, windows are summed for nodes alone.
CREATE VIEW expanded.node_bucket AS
SELECT '1m' AS level, it.* FROM gigawatch.node_1m AS it
UNION ALL
SELECT '1h', it.* FROM gigawatch.node_1h AS it
UNION ALL
SELECT '1d', it.* FROM gigawatch.node_1d AS it
UNION ALL
SELECT
    'raw', w.time, w.node_id,
    w.covered_ms::bigint,
    tick.sum_mw,
    tick.count::integer,
    tick.min_mw,
    tick.max_mw,
    w.cpu_energy_mj,
    CASE WHEN w.cpu_energy_mj IS NOT NULL THEN w.covered_ms END::bigint,
    w.dram_energy_mj,
    CASE WHEN w.dram_energy_mj IS NOT NULL THEN w.covered_ms END::bigint,
    w.node_power_mean_mw::bigint * w.covered_ms,
    CASE WHEN w.node_power_mean_mw IS NOT NULL THEN w.covered_ms END::bigint,
    w.node_power_max_mw,
    w.ticks_taken::integer,
    w.ticks_expected::integer,
    w.rejected_readings
FROM gigawatch.node_window AS w
CROSS JOIN LATERAL (
    SELECT sum(mw) AS sum_mw, count(mw) AS count, min(mw) AS min_mw, max(mw) AS max_mw
    FROM unnest(w.gpu_power_mw) AS tick (mw)
) AS tick;

-- Racks and sites, deployments, engines and latencies; what of these is not folded is not there.
DO $$
DECLARE
    kind text;
BEGIN
    FOREACH kind IN ARRAY ARRAY['rack', 'site', 'deployment', 'serving', 'latency'] LOOP
        EXECUTE format('CREATE VIEW expanded.%s_bucket AS ', kind) || (
            SELECT string_agg(format('SELECT %1$L AS level, it.* FROM gigawatch.%2$s_%1$s AS it', of.level, kind), ' UNION ALL ')
            FROM unnest(ARRAY['1m', '1h', '1d']) AS of (level)
        );
    END LOOP;
END $$;
