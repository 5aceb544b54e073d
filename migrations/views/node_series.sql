-- report.node_series(): power of one node over time, by part. report.node_ticks(): its GPUs' power tick by tick.
-- Definition: gpu_power_w is the mean of the ticks; cpu and dram are RAPL energy over covered time; node_power_w
-- is the mean of the node's own meter (hwmon), weighted by covered time. Unit: W.
-- Missing data: a part that the node cannot read is NULL; a tick missed or lacking a GPU is left out of the mean.
-- Bins are read from the coarsest rollup that makes them up; what is not folded yet from windows.
-- needs: expanded
CREATE FUNCTION report.node_series(
    in_node_id integer,
    start timestamptz,
    stop timestamptz,
    step interval DEFAULT '1 minute'
) RETURNS TABLE (
    "time" timestamptz, gpu_power_w double precision, gpu_power_min_w double precision,
    gpu_power_max_w double precision, cpu_power_w double precision, dram_power_w double precision,
    node_power_w double precision, ticks_taken bigint, ticks_expected bigint, rejected_readings bigint
)
LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog
BEGIN ATOMIC
    WITH parts AS (
        SELECT w.time,
            w.covered_ms, w.tick_power_mw, w.ticks_summed, w.tick_power_min_mw, w.tick_power_max_mw, w.cpu_energy_mj,
            w.cpu_energy_ms, w.dram_energy_mj, w.dram_energy_ms, w.node_power_mw_ms, w.node_power_ms,
            w.node_power_max_mw, w.ticks_taken, w.ticks_expected, w.rejected_readings
        FROM gigawatch.node_1d AS w
        WHERE w.node_id = in_node_id
            AND w.time >= greatest(start, expanded.first_of('1d', expanded.level_for(step)))
            AND w.time < least(stop, expanded.beyond_of('1d'))
        UNION ALL
        SELECT w.time,
            w.covered_ms, w.tick_power_mw, w.ticks_summed, w.tick_power_min_mw, w.tick_power_max_mw, w.cpu_energy_mj,
            w.cpu_energy_ms, w.dram_energy_mj, w.dram_energy_ms, w.node_power_mw_ms, w.node_power_ms,
            w.node_power_max_mw, w.ticks_taken, w.ticks_expected, w.rejected_readings
        FROM gigawatch.node_1h AS w
        WHERE w.node_id = in_node_id
            AND w.time >= greatest(start, expanded.first_of('1h', expanded.level_for(step)))
            AND w.time < least(stop, expanded.beyond_of('1h'))
        UNION ALL
        SELECT w.time,
            w.covered_ms, w.tick_power_mw, w.ticks_summed, w.tick_power_min_mw, w.tick_power_max_mw, w.cpu_energy_mj,
            w.cpu_energy_ms, w.dram_energy_mj, w.dram_energy_ms, w.node_power_mw_ms, w.node_power_ms,
            w.node_power_max_mw, w.ticks_taken, w.ticks_expected, w.rejected_readings
        FROM gigawatch.node_1m AS w
        WHERE w.node_id = in_node_id
            AND w.time >= greatest(start, expanded.first_of('1m', expanded.level_for(step)))
            AND w.time < least(stop, expanded.beyond_of('1m'))
        UNION ALL
        SELECT w.time, w.covered_ms, tick.sum_mw, tick.count, tick.min_mw, tick.max_mw,
            w.cpu_energy_mj, CASE WHEN w.cpu_energy_mj IS NOT NULL THEN w.covered_ms END,
            w.dram_energy_mj, CASE WHEN w.dram_energy_mj IS NOT NULL THEN w.covered_ms END,
            w.node_power_mean_mw::bigint * w.covered_ms,
            CASE WHEN w.node_power_mean_mw IS NOT NULL THEN w.covered_ms END, w.node_power_max_mw,
            w.ticks_taken, w.ticks_expected, w.rejected_readings
        FROM gigawatch.node_window AS w
        CROSS JOIN LATERAL (
            SELECT sum(mw) AS sum_mw, count(mw) AS count, min(mw) AS min_mw, max(mw) AS max_mw
            FROM unnest(w.gpu_power_mw) AS tick (mw)
        ) AS tick
        WHERE w.node_id = in_node_id AND w.time < stop
            AND w.time >= greatest(start, expanded.first_of('raw', expanded.level_for(step)))
    )
    SELECT
        date_bin(step, w.time, '2000-01-01Z'),
        sum(w.tick_power_mw)::double precision / nullif(sum(w.ticks_summed), 0) / 1000,
        min(w.tick_power_min_mw) / 1000.0::double precision,
        max(w.tick_power_max_mw) / 1000.0::double precision,
        sum(w.cpu_energy_mj)::double precision / nullif(sum(w.cpu_energy_ms), 0),
        sum(w.dram_energy_mj)::double precision / nullif(sum(w.dram_energy_ms), 0),
        sum(w.node_power_mw_ms)::double precision / nullif(sum(w.node_power_ms), 0) / 1000,
        sum(w.ticks_taken)::bigint,
        sum(w.ticks_expected)::bigint,
        sum(w.rejected_readings)::bigint
    FROM parts AS w
    GROUP BY 1
    ORDER BY 1;
END;
COMMENT ON FUNCTION report.node_series IS
    'Power (W) of a node''s GPUs, CPUs, memory and of the whole node, from start to stop by step';

CREATE FUNCTION report.node_ticks(in_node_id integer, start timestamptz, stop timestamptz)
RETURNS TABLE ("time" timestamptz, gpu_power_w double precision)
LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog
BEGIN ATOMIC
    SELECT
        w.time + (tick.place - 1) * w.tick_ms * interval '1 millisecond',
        tick.mw / 1000.0::double precision
    FROM gigawatch.node_window AS w
    CROSS JOIN LATERAL unnest(w.gpu_power_mw) WITH ORDINALITY AS tick (mw, place)
    WHERE w.node_id = in_node_id AND w.time >= start AND w.time < stop
    ORDER BY 1;
END;
COMMENT ON FUNCTION report.node_ticks IS 'Power (W) of a node''s GPUs together, tick by tick';
