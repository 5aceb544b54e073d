-- report.gpu_windows: what was measured, window by window, in the units that people use.
-- Definition: one row per physical GPU and window. power_w is energy over covered time.
-- Missing data: what a GPU does not support is NULL; a window that was not measured has no row.
-- needs: expanded
CREATE VIEW report.gpu_windows AS
SELECT
    gpu_window.time,
    gpus.site,
    gpus.rack,
    gpus.node_id,
    gpus.hostname,
    gpus.simulated,
    gpus.gpu_uuid,
    gpus.gpu_index,
    gpus.gpu_model,
    gpu_window.covered_ms / 1000.0::double precision AS covered_s,
    gpu_window.energy_mj / 1000.0::double precision AS energy_j,
    gpu_window.energy_mj::double precision / gpu_window.covered_ms AS power_w,
    gpu_window.power_mean_mw / 1000.0::double precision AS power_polled_w,
    gpu_window.power_min_mw / 1000.0::double precision AS power_min_w,
    gpu_window.power_max_mw / 1000.0::double precision AS power_max_w,
    gpu_window.power_limit_mw / 1000.0::double precision AS power_limit_w,
    (ARRAY['counter', 'interpolated', 'integrated', 'estimated'])[gpu_window.energy_method] AS energy_method,
    gpu_window.gpu_util_pm / 10.0::double precision AS gpu_util_pct,
    gpu_window.mem_util_pm / 10.0::double precision AS mem_util_pct,
    gpu_window.gpu_temp_max_c,
    gpu_window.mem_temp_max_c,
    gpu_window.sm_clock_mhz,
    gpu_window.mem_clock_mhz,
    gpu_window.mem_used_mib,
    gpu_window.fan_pct,
    gpu_window.clock_event_reasons,
    gpu_window.pcie_tx_kib,
    gpu_window.pcie_rx_kib,
    gpu_window.nvlink_tx_kib,
    gpu_window.nvlink_rx_kib,
    gpu_window.ticks_taken,
    gpu_window.ticks_expected
FROM expanded.gpu_window
JOIN (
    SELECT
        gpu_slot.node_id, gpu_slot.slot, gpu.uuid AS gpu_uuid, gpu.index AS gpu_index, gpu.model AS gpu_model,
        node.hostname, node.simulated, site.name AS site, rack.name AS rack
    FROM gigawatch.gpu_slot
    JOIN gigawatch.gpu USING (gpu_id)
    JOIN gigawatch.node ON node.node_id = gpu_slot.node_id
    JOIN gigawatch.site USING (site_id)
    LEFT JOIN gigawatch.rack USING (rack_id)
) AS gpus USING (node_id, slot);
COMMENT ON VIEW report.gpu_windows IS 'Measurements, one row per physical GPU and window';
COMMENT ON COLUMN report.gpu_windows.time IS 'Start of the window, UTC';
COMMENT ON COLUMN report.gpu_windows.site IS 'Site';
COMMENT ON COLUMN report.gpu_windows.rack IS 'Rack';
COMMENT ON COLUMN report.gpu_windows.node_id IS 'Number of the node in this store';
COMMENT ON COLUMN report.gpu_windows.hostname IS 'Host name of the node';
COMMENT ON COLUMN report.gpu_windows.simulated IS 'Whether the data are simulated or replayed';
COMMENT ON COLUMN report.gpu_windows.gpu_uuid IS 'UUID of the physical GPU';
COMMENT ON COLUMN report.gpu_windows.gpu_index IS 'Index on its node';
COMMENT ON COLUMN report.gpu_windows.gpu_model IS 'Model, as the driver names it';
COMMENT ON COLUMN report.gpu_windows.covered_s IS 'Time for which the energy is known, s';
COMMENT ON COLUMN report.gpu_windows.energy_j IS 'Energy, J';
COMMENT ON COLUMN report.gpu_windows.power_w IS 'Mean power: energy over covered time, W';
COMMENT ON COLUMN report.gpu_windows.power_polled_w IS 'Mean of the polled power, W: a cross-check of power_w';
COMMENT ON COLUMN report.gpu_windows.power_min_w IS 'Least polled power, W';
COMMENT ON COLUMN report.gpu_windows.power_max_w IS 'Greatest polled power, W';
COMMENT ON COLUMN report.gpu_windows.power_limit_w IS 'Enforced power limit, W';
COMMENT ON COLUMN report.gpu_windows.energy_method IS
    'How the energy was obtained: counter, interpolated, integrated or estimated; the weakest used';
COMMENT ON COLUMN report.gpu_windows.gpu_util_pct IS 'Mean GPU utilisation, %';
COMMENT ON COLUMN report.gpu_windows.mem_util_pct IS 'Mean memory-controller utilisation, %';
COMMENT ON COLUMN report.gpu_windows.gpu_temp_max_c IS 'Greatest GPU temperature, °C';
COMMENT ON COLUMN report.gpu_windows.mem_temp_max_c IS 'Greatest memory temperature, °C';
COMMENT ON COLUMN report.gpu_windows.sm_clock_mhz IS 'Mean SM clock, MHz';
COMMENT ON COLUMN report.gpu_windows.mem_clock_mhz IS 'Mean memory clock, MHz';
COMMENT ON COLUMN report.gpu_windows.mem_used_mib IS 'Greatest memory in use, MiB';
COMMENT ON COLUMN report.gpu_windows.fan_pct IS 'Fan speed, % of the maximum intended';
COMMENT ON COLUMN report.gpu_windows.clock_event_reasons IS
    'Union of NVML''s clock-event bits; report.clock_event_names() names them';
COMMENT ON COLUMN report.gpu_windows.pcie_tx_kib IS 'Sent over PCIe, KiB';
COMMENT ON COLUMN report.gpu_windows.pcie_rx_kib IS 'Received over PCIe, KiB';
COMMENT ON COLUMN report.gpu_windows.nvlink_tx_kib IS 'Sent over NVLink, KiB';
COMMENT ON COLUMN report.gpu_windows.nvlink_rx_kib IS 'Received over NVLink, KiB';
COMMENT ON COLUMN report.gpu_windows.ticks_taken IS 'Readings taken';
COMMENT ON COLUMN report.gpu_windows.ticks_expected IS 'Readings due';
