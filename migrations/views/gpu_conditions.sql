-- report.gpu_conditions: GPUs that are, or whose neighbours on the node are, held down or close to it now.
-- Definition: GPUs of the nodes whose newest window has one of the clock-event bits 0x8, 0x20, 0x40 or 0x80, or in which the hottest GPU is within 15 K of
-- its slowdown temperature, for as long as their silence is told of (7 days); of each GPU its newest window, as report.fleet_now has it. Other nodes' GPUs have no
-- row: so that it takes a fleet of 75,000 nodes little more than those that are not well. Unit: °C, K, W, MHz.
-- Missing data: while a GPU does not report, or its node is silent, its measurements are NULL.
-- needs: expanded, clock_event_names, agents
CREATE VIEW report.gpu_conditions AS
SELECT
    site.name AS site,
    rack.name AS rack,
    now.node_id,
    node.hostname,
    now.simulated,
    gpu.uuid AS gpu_uuid,
    gpu.index AS gpu_index,
    gpu.model AS gpu_model,
    newest.time,
    newest.clock_event_reasons,
    report.clock_event_names(newest.clock_event_reasons) AS clock_events,
    newest.gpu_temp_max_c,
    newest.mem_temp_max_c,
    gpu.temp_slowdown_c,
    gpu.temp_slowdown_c - newest.gpu_temp_max_c AS margin_to_slowdown_c,
    newest.sm_clock_mhz,
    newest.energy_mj::double precision / newest.covered_ms AS power_w,
    newest.power_limit_mw / 1000.0::double precision AS power_limit_w,
    now.clock_event_reasons AS node_clock_event_reasons,
    now.temp_slowdown_c - now.gpu_temp_max_c AS node_margin_to_slowdown_c
FROM gigawatch.node_now AS now
JOIN expanded.kept_node USING (node_id)
JOIN gigawatch.node USING (node_id)
JOIN gigawatch.site ON site.site_id = now.site_id
LEFT JOIN gigawatch.rack ON rack.rack_id = now.rack_id
CROSS JOIN LATERAL (
    -- OFFSET 0: looked up by node, where a plain join would begin with all GPUs.
    SELECT gpu.*, gpu_slot.slot
    FROM gigawatch.gpu_slot
    JOIN gigawatch.gpu USING (gpu_id)
    WHERE gpu_slot.node_id = now.node_id AND gpu.node_id = now.node_id AND gpu.removed IS NULL
    OFFSET 0
) AS gpu
LEFT JOIN LATERAL (
    -- As expanded.gpu_window, of the columns that are shown alone: thousands of GPUs may be held down at once.
    SELECT
        w.time,
        coalesce(w.each[gpu.slot][1], w.covered_ms) AS covered_ms,
        expanded.at(w.energy_mj, gpu.slot) AS energy_mj,
        expanded.at(w.power_limit_mw, gpu.slot) AS power_limit_mw,
        expanded.at(w.gpu_temp_max_c, gpu.slot) AS gpu_temp_max_c,
        expanded.at(w.mem_temp_max_c, gpu.slot) AS mem_temp_max_c,
        expanded.at(w.sm_clock_mhz, gpu.slot) AS sm_clock_mhz,
        expanded.at(w.clock_event_reasons, gpu.slot) AS clock_event_reasons
    FROM gigawatch.gpu_window AS w
    WHERE w.node_id = now.node_id AND w.slots >= gpu.slot AND (w.each IS NULL OR w.each[gpu.slot][1] > 0)
        AND w.time > now() - interval '5 minutes'
        AND w.time > now.last_seen - interval '90 s'
        AND now.last_seen >= now() - interval '60 s'
    ORDER BY w.time DESC
    LIMIT 1
) AS newest ON true
WHERE now.clock_event_reasons & (8 + 32 + 64 + 128) <> 0 OR now.temp_slowdown_c - now.gpu_temp_max_c <= 15;
COMMENT ON VIEW report.gpu_conditions IS 'GPUs of nodes on which one is held down or close to it now';
COMMENT ON COLUMN report.gpu_conditions.site IS 'Name of the site';
COMMENT ON COLUMN report.gpu_conditions.rack IS 'Name of the rack within its site';
COMMENT ON COLUMN report.gpu_conditions.node_id IS 'Number of the node in this store';
COMMENT ON COLUMN report.gpu_conditions.hostname IS 'Host name';
COMMENT ON COLUMN report.gpu_conditions.simulated IS 'Whether the node''s data are simulated or replayed';
COMMENT ON COLUMN report.gpu_conditions.gpu_uuid IS 'UUID of the physical GPU';
COMMENT ON COLUMN report.gpu_conditions.gpu_index IS 'Index on its node';
COMMENT ON COLUMN report.gpu_conditions.gpu_model IS 'Model, as the driver names it';
COMMENT ON COLUMN report.gpu_conditions.time IS 'Start of its newest window; absent while it does not report, UTC';
COMMENT ON COLUMN report.gpu_conditions.clock_event_reasons IS 'Union of NVML''s clock-event bits in that window';
COMMENT ON COLUMN report.gpu_conditions.clock_events IS 'Their names';
COMMENT ON COLUMN report.gpu_conditions.gpu_temp_max_c IS 'Greatest GPU temperature, °C';
COMMENT ON COLUMN report.gpu_conditions.mem_temp_max_c IS 'Greatest memory temperature, °C';
COMMENT ON COLUMN report.gpu_conditions.temp_slowdown_c IS 'Temperature at which it slows down, °C';
COMMENT ON COLUMN report.gpu_conditions.margin_to_slowdown_c IS 'That minus its greatest temperature, K';
COMMENT ON COLUMN report.gpu_conditions.sm_clock_mhz IS 'Mean SM clock, MHz';
COMMENT ON COLUMN report.gpu_conditions.power_w IS 'Mean power: energy over covered time, W';
COMMENT ON COLUMN report.gpu_conditions.power_limit_w IS 'Enforced power limit, W';
COMMENT ON COLUMN report.gpu_conditions.node_clock_event_reasons IS 'Union of the bits of all GPUs of the node in its newest window, however old';
COMMENT ON COLUMN report.gpu_conditions.node_margin_to_slowdown_c IS 'Least slowdown temperature of the GPUs minus their greatest temperature in that window, K';
