-- report.nodes: what each node is, when it was last heard of, and how it is now.
-- Definition: one row per node that ever sent a batch. What it measures now is its newest window of the last five
-- minutes, all its GPUs together. state: silent (nothing of it for 60 s), clock_off (its clock is off by more than 2 s),
-- gpus_missing (some of its GPUs do not report) or reporting; the first that holds.
-- Missing data: what an agent does not know is NULL; a silent node has NULL in every measurement, never its last value.
-- needs: expanded
CREATE VIEW report.nodes AS
SELECT
    node.node_id,
    node.hostname,
    node.machine_id,
    site.name AS site,
    rack.name AS rack,
    node.simulated,
    node.labels,
    node.agent_version,
    node.driver_version,
    node.cuda_version,
    node.cpu_model,
    node.gpus,
    node.first_seen,
    now.last_seen,
    extract(epoch FROM now() - now.last_seen)::double precision AS silent_s,
    now.clock_offset_ms / 1000.0::double precision AS clock_offset_s,
    abs(now.clock_offset_ms) <= 2000 AS clock_ok,
    CASE
        WHEN silent.yes THEN 'silent'
        WHEN abs(now.clock_offset_ms) > 2000 THEN 'clock_off'
        WHEN node.gpus > 0 AND (now.gpus < node.gpus OR fresh.yes IS NOT TRUE) THEN 'gpus_missing'
        ELSE 'reporting'
    END AS state,
    CASE
        WHEN node.gpu_model IS NOT NULL THEN ARRAY[node.gpu_model]
        ELSE ARRAY(
            SELECT DISTINCT gpu.model FROM gigawatch.gpu WHERE gpu.node_id = node.node_id AND gpu.removed IS NULL ORDER BY 1
        )
    END AS gpu_models,
    CASE WHEN fresh.yes THEN least(now.gpus, node.gpus) ELSE 0 END AS gpus_reporting,
    CASE WHEN silent.yes THEN 0 WHEN fresh.yes THEN greatest(node.gpus - now.gpus, 0) ELSE node.gpus END AS gpus_missing,
    CASE WHEN silent.yes THEN node.gpus ELSE 0 END AS gpus_silent,
    CASE WHEN fresh.yes THEN now.gpus_throttled ELSE 0 END AS gpus_throttled,
    CASE WHEN fresh.yes THEN now.time END AS window_time,
    CASE WHEN fresh.yes THEN now.power_mw / 1000.0::double precision END AS power_w,
    CASE WHEN fresh.yes THEN nullif(now.power_limit_mw, 0) / 1000.0::double precision END AS power_limit_w,
    CASE WHEN fresh.yes THEN now.gpu_util_pm / 10.0::double precision / nullif(now.gpu_util_gpus, 0) END
        AS gpu_util_pct,
    CASE WHEN fresh.yes THEN now.gpu_util_gpus ELSE 0 END AS gpu_util_gpus,
    CASE WHEN fresh.yes THEN now.gpu_temp_max_c END AS gpu_temp_max_c,
    CASE WHEN fresh.yes THEN node.temp_slowdown_c - now.gpu_temp_max_c END AS margin_to_slowdown_c,
    CASE WHEN fresh.yes THEN now.gpu_power_max_mw / 1000.0::double precision END AS gpu_power_max_w,
    CASE WHEN fresh.yes THEN now.gpu_util_max_pm / 10.0::double precision END AS gpu_util_max_pct,
    silent.yes AS silent
FROM gigawatch.node
JOIN gigawatch.node_now AS now USING (node_id)
JOIN gigawatch.site USING (site_id)
LEFT JOIN gigawatch.rack USING (rack_id)
CROSS JOIN LATERAL (SELECT now.last_seen < now() - interval '60 s' AS yes) AS silent
-- OFFSET 0 has it computed once for a row, not once for each of the columns.
CROSS JOIN LATERAL (SELECT expanded.is_fresh(now.last_seen, now.time) AS yes OFFSET 0) AS fresh;
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
    'silent (nothing of it for 60 s), clock_off (by more than 2 s), gpus_missing (some do not report) or reporting';
COMMENT ON COLUMN report.nodes.gpu_models IS 'Models of its GPUs, as the driver names them';
COMMENT ON COLUMN report.nodes.gpus_reporting IS 'Those with a window now';
COMMENT ON COLUMN report.nodes.gpus_missing IS 'Those without one, while the node reports';
COMMENT ON COLUMN report.nodes.gpus_silent IS 'Those of a node that is silent';
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
COMMENT ON COLUMN report.nodes.silent IS 'Whether nothing of the node came for 60 s';
