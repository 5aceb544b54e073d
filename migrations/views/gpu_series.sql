-- report.gpu_series(): all metrics of the GPUs of a node, or of one GPU, over time; without either there is no row.
-- Definition: power_w is Σ energy / Σ covered time; utilisation and clocks are means weighted by covered time;
-- temperatures and memory are maxima; throughput is Σ bytes / Σ covered time; energy_method is the weakest used.
-- Missing data: a bin without windows has no row; a metric that was not read in a bin is NULL.
-- Bins are read from the coarsest rollup that makes them up; what is not folded yet from windows.
-- needs: expanded, clock_event_names
CREATE FUNCTION report.gpu_series(
    start timestamptz,
    stop timestamptz,
    step interval DEFAULT '1 minute',
    in_gpu_uuid text DEFAULT NULL,
    in_node_id integer DEFAULT NULL
) RETURNS TABLE (
    "time" timestamptz, gpu_uuid text, gpu_index smallint, energy_j double precision,
    covered_s double precision, power_w double precision, power_min_w double precision,
    power_max_w double precision, power_limit_w double precision, gpu_util_pct double precision,
    mem_util_pct double precision, gpu_temp_max_c smallint, mem_temp_max_c smallint,
    sm_clock_mhz double precision, mem_clock_mhz double precision, mem_used_mib integer,
    fan_pct smallint, pcie_tx_mib_per_s double precision, pcie_rx_mib_per_s double precision,
    nvlink_tx_mib_per_s double precision, nvlink_rx_mib_per_s double precision,
    clock_event_reasons bigint, clock_events text[], energy_method text
)
LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog
BEGIN ATOMIC
    WITH wanted AS (
        -- By GPU or by node: with one condition for both, all slots would be read for one GPU.
        SELECT gpu_slot.node_id, gpu_slot.slot
        FROM gigawatch.gpu JOIN gigawatch.gpu_slot USING (gpu_id)
        WHERE gpu.uuid = in_gpu_uuid AND (in_node_id IS NULL OR gpu_slot.node_id = in_node_id)
        UNION ALL
        SELECT gpu_slot.node_id, gpu_slot.slot
        FROM gigawatch.gpu_slot
        WHERE in_gpu_uuid IS NULL AND gpu_slot.node_id = in_node_id
    )
    SELECT
        date_bin(step, w.time, '2000-01-01Z'),
        gpu.uuid,
        gpu.index,
        sum(w.energy_mj)::double precision / 1000,
        sum(w.energy_ms)::double precision / 1000,
        sum(w.energy_mj)::double precision / nullif(sum(w.energy_ms), 0),
        min(w.power_min_mw) / 1000.0::double precision,
        max(w.power_max_mw) / 1000.0::double precision,
        max(w.power_limit_mw) / 1000.0::double precision,
        sum(w.gpu_util_pm_ms)::double precision / nullif(sum(w.gpu_util_ms), 0) / 10,
        sum(w.mem_util_pm_ms)::double precision / nullif(sum(w.mem_util_ms), 0) / 10,
        max(w.gpu_temp_max_c),
        max(w.mem_temp_max_c),
        sum(w.sm_clock_mhz_ms)::double precision / nullif(sum(w.sm_clock_ms), 0),
        sum(w.mem_clock_mhz_ms)::double precision / nullif(sum(w.mem_clock_ms), 0),
        max(w.mem_used_mib),
        max(w.fan_pct),
        sum(w.pcie_tx_kib)::double precision / 1024 / (nullif(sum(w.pcie_ms), 0) / 1000.0::double precision),
        sum(w.pcie_rx_kib)::double precision / 1024 / (nullif(sum(w.pcie_ms), 0) / 1000.0::double precision),
        sum(w.nvlink_tx_kib)::double precision / 1024 / (nullif(sum(w.nvlink_ms), 0) / 1000.0::double precision),
        sum(w.nvlink_rx_kib)::double precision / 1024 / (nullif(sum(w.nvlink_ms), 0) / 1000.0::double precision),
        bit_or(w.clock_event_reasons),
        report.clock_event_names(bit_or(w.clock_event_reasons)),
        CASE
            WHEN sum(w.energy_estimated_mj) IS NOT NULL THEN 'estimated'
            WHEN sum(w.energy_integrated_mj) IS NOT NULL THEN 'integrated'
            WHEN sum(w.energy_interpolated_mj) IS NOT NULL THEN 'interpolated'
            WHEN sum(w.energy_mj) IS NOT NULL THEN 'counter'
        END
    FROM wanted
    CROSS JOIN expanded.parts(start, stop, expanded.level_for(step)) AS part
    CROSS JOIN LATERAL (
        SELECT it.* FROM expanded.gpu_bucket AS it
        WHERE it.level = part.level AND it.node_id = wanted.node_id AND it.slot = wanted.slot
            AND it.time >= part.first AND it.time < part.beyond
        OFFSET 0
    ) AS w
    JOIN gigawatch.gpu USING (gpu_id)
    GROUP BY 1, 2, 3
    ORDER BY 1, 3, 2;
END;
COMMENT ON FUNCTION report.gpu_series IS
    'Power (W), energy (J), utilisation (%), temperature (°C), clocks (MHz), memory (MiB) and throughput (MiB/s) '
    'of one GPU or of a node''s GPUs, from start to stop by step';
