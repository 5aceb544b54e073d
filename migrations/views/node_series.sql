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
    FROM expanded.parts(start, stop, expanded.level_for(step)) AS part
    CROSS JOIN LATERAL (
        SELECT it.* FROM expanded.node_bucket AS it
        WHERE it.level = part.level AND it.node_id = in_node_id AND it.time >= part.first AND it.time < part.beyond
        OFFSET 0
    ) AS w
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
