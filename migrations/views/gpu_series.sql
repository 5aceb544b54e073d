-- report.gpu_series(): all metrics of the GPUs of a node, or of one GPU, over time.
-- Definition: power_w is Σ energy / Σ covered time; utilisation and clocks are means weighted by covered time;
-- temperatures and memory are maxima; throughput is Σ bytes / Σ covered time; energy_method is the weakest used.
-- Missing data: a bin without windows has no row; a metric that was not read in a bin is NULL.
-- needs: gpu_windows, clock_event_names
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
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT
        date_bin(step, w.time, '2000-01-01Z'),
        w.gpu_uuid,
        w.gpu_index,
        sum(w.energy_j),
        sum(w.covered_s) FILTER (WHERE w.energy_j IS NOT NULL),
        sum(w.energy_j) / sum(w.covered_s) FILTER (WHERE w.energy_j IS NOT NULL),
        min(w.power_min_w),
        max(w.power_max_w),
        max(w.power_limit_w),
        sum(w.gpu_util_pct * w.covered_s) / sum(w.covered_s) FILTER (WHERE w.gpu_util_pct IS NOT NULL),
        sum(w.mem_util_pct * w.covered_s) / sum(w.covered_s) FILTER (WHERE w.mem_util_pct IS NOT NULL),
        max(w.gpu_temp_max_c),
        max(w.mem_temp_max_c),
        sum(w.sm_clock_mhz * w.covered_s) / sum(w.covered_s) FILTER (WHERE w.sm_clock_mhz IS NOT NULL),
        sum(w.mem_clock_mhz * w.covered_s) / sum(w.covered_s) FILTER (WHERE w.mem_clock_mhz IS NOT NULL),
        max(w.mem_used_mib),
        max(w.fan_pct),
        sum(w.pcie_tx_kib) / 1024 / sum(w.covered_s) FILTER (WHERE w.pcie_tx_kib IS NOT NULL),
        sum(w.pcie_rx_kib) / 1024 / sum(w.covered_s) FILTER (WHERE w.pcie_rx_kib IS NOT NULL),
        sum(w.nvlink_tx_kib) / 1024 / sum(w.covered_s) FILTER (WHERE w.nvlink_tx_kib IS NOT NULL),
        sum(w.nvlink_rx_kib) / 1024 / sum(w.covered_s) FILTER (WHERE w.nvlink_rx_kib IS NOT NULL),
        bit_or(w.clock_event_reasons),
        report.clock_event_names(bit_or(w.clock_event_reasons)),
        (ARRAY['counter', 'interpolated', 'integrated', 'estimated'])[max(
            array_position(ARRAY['counter', 'interpolated', 'integrated', 'estimated'], w.energy_method))]
    FROM report.gpu_windows AS w
    WHERE w.time >= start AND w.time < stop
        AND (in_gpu_uuid IS NULL OR w.gpu_uuid = in_gpu_uuid)
        AND (in_node_id IS NULL OR w.node_id = in_node_id)
    GROUP BY 1, 2, 3
    ORDER BY 1, 3, 2;
END;
COMMENT ON FUNCTION report.gpu_series IS
    'Power (W), energy (J), utilisation (%), temperature (°C), clocks (MHz), memory (MiB) and throughput (MiB/s) '
    'of one GPU or of a node''s GPUs, from start to stop by step';
