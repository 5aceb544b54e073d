-- report.nodes: what each node is, when it was last heard of, and how it is now.
-- Definition: one row per node that ever sent a batch. What it measures now is its newest window of the last five
-- minutes, all its GPUs together. state: silent (nothing of it for 60 s, or what it sends is old), clock_off (its clock is off by more than 2 s),
-- gpus_missing (some of its GPUs do not report) or reporting; the first that holds.
-- Missing data: what an agent does not know is NULL; a silent node has NULL in every measurement, never its last value.
-- needs: expanded
CREATE VIEW report.nodes AS
SELECT
    now.node_id,
    node.hostname,
    node.machine_id,
    site.name AS site,
    rack.name AS rack,
    now.simulated,
    node.labels,
    node.agent_version,
    node.driver_version,
    node.cuda_version,
    node.cpu_model,
    now.gpus,
    node.first_seen,
    now.last_seen,
    extract(epoch FROM now() - now.last_seen)::double precision AS silent_s,
    now.clock_offset_ms / 1000.0::double precision AS clock_offset_s,
    now.clock_ok,
    CASE
        WHEN now.silent THEN 'silent'
        WHEN NOT now.clock_ok THEN 'clock_off'
        WHEN now.gpus_missing > 0 THEN 'gpus_missing'
        ELSE 'reporting'
    END AS state,
    CASE
        WHEN now.gpu_model IS NOT NULL THEN ARRAY[now.gpu_model]
        ELSE ARRAY(
            SELECT DISTINCT gpu.model FROM gigawatch.gpu WHERE gpu.node_id = now.node_id AND gpu.removed IS NULL ORDER BY 1
        )
    END AS gpu_models,
    now.gpus_reporting,
    now.gpus_missing,
    now.gpus_silent,
    now.gpus_throttled,
    now.window_time,
    now.power_w,
    now.power_limit_w,
    now.gpu_util_pct,
    now.gpu_util_gpus,
    now.gpu_temp_max_c,
    now.margin_to_slowdown_c,
    now.gpu_power_max_w,
    now.gpu_util_max_pct,
    now.silent
FROM expanded.node_state AS now
LEFT JOIN gigawatch.node USING (node_id)
LEFT JOIN gigawatch.site ON site.site_id = now.site_id
LEFT JOIN gigawatch.rack ON rack.rack_id = now.rack_id;
COMMENT ON VIEW report.nodes IS 'Nodes: what each is, when it was last heard of, and how it is now';
COMMENT ON COLUMN report.nodes.node_id IS 'Number of the node in this store';
COMMENT ON COLUMN report.nodes.hostname IS 'Host name';
COMMENT ON COLUMN report.nodes.machine_id IS 'The machine''s own lasting identity';
COMMENT ON COLUMN report.nodes.site IS 'Site';
COMMENT ON COLUMN report.nodes.rack IS 'Rack; NULL where the agent''s configuration names none';
COMMENT ON COLUMN report.nodes.simulated IS 'Whether its data are simulated or replayed, not measured here and now';
COMMENT ON COLUMN report.nodes.labels IS 'Labels from the agent''s configuration';
COMMENT ON COLUMN report.nodes.agent_version IS 'Version of the agent';
COMMENT ON COLUMN report.nodes.driver_version IS 'Version of the NVIDIA driver';
COMMENT ON COLUMN report.nodes.cuda_version IS 'Version of CUDA that the driver supports';
COMMENT ON COLUMN report.nodes.cpu_model IS 'Model of the CPU';
COMMENT ON COLUMN report.nodes.gpus IS 'Physical GPUs that it has now';
COMMENT ON COLUMN report.nodes.first_seen IS 'When it was first heard of, UTC';
COMMENT ON COLUMN report.nodes.last_seen IS 'When a batch of it was last stored, UTC';
COMMENT ON COLUMN report.nodes.silent_s IS 'Time since last_seen, s';
COMMENT ON COLUMN report.nodes.clock_offset_s IS 'Its clock minus the server''s at the last batch, s';
COMMENT ON COLUMN report.nodes.clock_ok IS 'Whether its clock is within 2 s of the server''s';
COMMENT ON COLUMN report.nodes.state IS
    'silent (nothing of it for 60 s, or what it sends is old), clock_off (by more than 2 s), gpus_missing (some do not report) or reporting';
COMMENT ON COLUMN report.nodes.gpu_models IS 'Models of its GPUs, as the driver names them';
COMMENT ON COLUMN report.nodes.gpus_reporting IS 'Those with a window now';
COMMENT ON COLUMN report.nodes.gpus_missing IS 'Those without one, while the node reports';
COMMENT ON COLUMN report.nodes.gpus_silent IS 'Those of a node that is silent, or tells what is old';
COMMENT ON COLUMN report.nodes.gpus_throttled IS 'Those held down by power cap, slowdown or power brake';
COMMENT ON COLUMN report.nodes.window_time IS 'Start of the newest window, UTC';
COMMENT ON COLUMN report.nodes.power_w IS 'Mean power of the GPUs over the newest window, W';
COMMENT ON COLUMN report.nodes.power_limit_w IS 'Enforced power limits of the GPUs together, W';
COMMENT ON COLUMN report.nodes.gpu_util_pct IS 'Mean utilisation, %';
COMMENT ON COLUMN report.nodes.gpu_util_gpus IS 'GPUs in that mean';
COMMENT ON COLUMN report.nodes.gpu_temp_max_c IS 'Greatest GPU temperature, °C';
COMMENT ON COLUMN report.nodes.margin_to_slowdown_c IS
    'Least slowdown temperature of the GPUs minus their greatest temperature, K';
COMMENT ON COLUMN report.nodes.gpu_power_max_w IS 'Greatest power of one of the GPUs, W';
COMMENT ON COLUMN report.nodes.gpu_util_max_pct IS 'Greatest utilisation of one of the GPUs, %';
COMMENT ON COLUMN report.nodes.silent IS 'Whether nothing of the node came for 60 s, or what comes is old';
