-- report.fleet_now: each GPU as it is now.
-- Definition: the newest window of the last five minutes of each GPU that its node still has.
-- state: reporting; missing (its node reports, it does not); silent (nothing of its node for 60 s, or what it sends is old).
-- Missing data: a GPU that does not report has NULL in every measurement, never its last value.
-- needs: expanded, clock_event_names
CREATE VIEW report.fleet_now AS
SELECT
    site.name AS site,
    rack.name AS rack,
    node.node_id,
    node.hostname,
    node.simulated,
    gpu.uuid AS gpu_uuid,
    gpu.index AS gpu_index,
    gpu.model AS gpu_model,
    CASE
        WHEN node_now.unknown THEN 'silent'
        WHEN newest.time IS NULL THEN 'missing'
        ELSE 'reporting'
    END AS state,
    newest.time,
    newest.energy_mj::double precision / newest.covered_ms AS power_w,
    newest.power_limit_mw / 1000.0::double precision AS power_limit_w,
    newest.gpu_util_pm / 10.0::double precision AS gpu_util_pct,
    newest.mem_util_pm / 10.0::double precision AS mem_util_pct,
    newest.gpu_temp_max_c,
    gpu.temp_slowdown_c - newest.gpu_temp_max_c AS margin_to_slowdown_c,
    newest.mem_temp_max_c,
    newest.mem_used_mib,
    gpu.mem_total_mib,
    newest.sm_clock_mhz,
    -- Power cap, hardware slowdown, thermal slowdowns, power brake.
    newest.clock_event_reasons & (4 + 8 + 32 + 64 + 128) <> 0 AS throttled,
    report.clock_event_names(newest.clock_event_reasons) AS clock_events
FROM gigawatch.gpu
JOIN gigawatch.node USING (node_id)
JOIN expanded.node_state AS node_now USING (node_id)
JOIN gigawatch.gpu_slot USING (node_id, gpu_id)
JOIN gigawatch.site ON site.site_id = node_now.site_id
LEFT JOIN gigawatch.rack ON rack.rack_id = node_now.rack_id
LEFT JOIN LATERAL (
    SELECT w.*
    FROM expanded.gpu_window AS w
    WHERE w.node_id = node.node_id AND w.slot = gpu_slot.slot
        AND w.time > now() - interval '5 minutes'
        -- A node's GPUs that stopped reporting long before its newest batch are missing, not slow.
        AND w.time > node_now.last_seen - interval '90 s'
        AND NOT node_now.unknown
    ORDER BY w.time DESC
    LIMIT 1
) AS newest ON true
WHERE gpu.removed IS NULL;
COMMENT ON VIEW report.fleet_now IS 'Each GPU as it is now';
COMMENT ON COLUMN report.fleet_now.site IS 'Site';
COMMENT ON COLUMN report.fleet_now.rack IS 'Rack';
COMMENT ON COLUMN report.fleet_now.node_id IS 'Number of the node in this store';
COMMENT ON COLUMN report.fleet_now.hostname IS 'Host name of the node';
COMMENT ON COLUMN report.fleet_now.simulated IS 'Whether the data are simulated or replayed';
COMMENT ON COLUMN report.fleet_now.gpu_uuid IS 'UUID of the physical GPU';
COMMENT ON COLUMN report.fleet_now.gpu_index IS 'Index on its node';
COMMENT ON COLUMN report.fleet_now.gpu_model IS 'Model, as the driver names it';
COMMENT ON COLUMN report.fleet_now.state IS 'reporting, missing (its node reports, it does not) or silent (its node does not)';
COMMENT ON COLUMN report.fleet_now.time IS 'Start of the newest window, UTC';
COMMENT ON COLUMN report.fleet_now.power_w IS 'Mean power over the newest window, W';
COMMENT ON COLUMN report.fleet_now.power_limit_w IS 'Enforced power limit, W';
COMMENT ON COLUMN report.fleet_now.gpu_util_pct IS 'Mean GPU utilisation, %';
COMMENT ON COLUMN report.fleet_now.mem_util_pct IS 'Mean memory-controller utilisation, %';
COMMENT ON COLUMN report.fleet_now.gpu_temp_max_c IS 'Greatest GPU temperature, °C';
COMMENT ON COLUMN report.fleet_now.margin_to_slowdown_c IS 'Slowdown temperature minus GPU temperature, °C';
COMMENT ON COLUMN report.fleet_now.mem_temp_max_c IS 'Greatest memory temperature, °C';
COMMENT ON COLUMN report.fleet_now.mem_used_mib IS 'Memory in use, MiB';
COMMENT ON COLUMN report.fleet_now.mem_total_mib IS 'Memory, MiB';
COMMENT ON COLUMN report.fleet_now.sm_clock_mhz IS 'Mean SM clock, MHz';
COMMENT ON COLUMN report.fleet_now.throttled IS 'Whether power, heat or the power brake held its clocks down';
COMMENT ON COLUMN report.fleet_now.clock_events IS 'Why its clocks were held down';
