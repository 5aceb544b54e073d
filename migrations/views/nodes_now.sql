-- report.nodes_now: each node as it is now, its GPUs of one model together.
-- Definition: the node's newest window of the last five minutes, as it was stored. States of its GPUs: reporting;
-- missing (the node reports, the GPU does not); silent (nothing of the node for 60 s, or what it sends is old).
-- Missing data: a node that is silent has NULL in every measurement, never its last value.
-- needs: fleet_now, expanded
CREATE VIEW report.nodes_now AS
SELECT
    now.node_id,
    site.name AS site,
    rack.name AS rack,
    node.hostname,
    now.simulated,
    now.gpu_model,
    now.gpus,
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
    now.silent,
    now.clock_ok
FROM expanded.node_state AS now
LEFT JOIN gigawatch.node USING (node_id)
LEFT JOIN gigawatch.site ON site.site_id = now.site_id
LEFT JOIN gigawatch.rack ON rack.rack_id = now.rack_id
WHERE now.gpu_model IS NOT NULL
UNION ALL
-- Nodes with GPUs of several models, which are few, GPU by GPU.
SELECT
    of_model.*,
    now.silent,
    now.clock_ok
FROM (
    SELECT
        node_id,
        min(site),
        min(rack),
        min(hostname),
        bool_or(simulated),
        gpu_model,
        count(*)::smallint,
        count(*) FILTER (WHERE state = 'reporting')::integer,
        count(*) FILTER (WHERE state = 'missing')::integer,
        count(*) FILTER (WHERE state = 'silent')::integer,
        count(*) FILTER (WHERE throttled)::integer,
        max(time),
        sum(power_w),
        sum(power_limit_w),
        avg(gpu_util_pct),
        count(gpu_util_pct)::integer,
        max(gpu_temp_max_c),
        min(margin_to_slowdown_c),
        max(power_w),
        max(gpu_util_pct)
    FROM report.fleet_now
    WHERE node_id IN (SELECT it.node_id FROM gigawatch.node_now AS it WHERE it.gpu_model IS NULL AND it.gpus_expected > 0)
    GROUP BY node_id, gpu_model
) AS of_model
JOIN expanded.node_state AS now USING (node_id);
COMMENT ON VIEW report.nodes_now IS 'Each node as it is now, its GPUs of one model together';
COMMENT ON COLUMN report.nodes_now.node_id IS 'Number of the node in this store';
COMMENT ON COLUMN report.nodes_now.site IS 'Site';
COMMENT ON COLUMN report.nodes_now.rack IS 'Rack';
COMMENT ON COLUMN report.nodes_now.hostname IS 'Host name of the node';
COMMENT ON COLUMN report.nodes_now.simulated IS 'Whether the data are simulated or replayed';
COMMENT ON COLUMN report.nodes_now.gpu_model IS 'Model of the GPUs, as the driver names it';
COMMENT ON COLUMN report.nodes_now.gpus IS 'Physical GPUs of this model that the node has';
COMMENT ON COLUMN report.nodes_now.gpus_reporting IS 'Those with a window now';
COMMENT ON COLUMN report.nodes_now.gpus_missing IS 'Those without one, while the node reports';
COMMENT ON COLUMN report.nodes_now.gpus_silent IS 'Those of a node that is silent, or tells what is old';
COMMENT ON COLUMN report.nodes_now.gpus_throttled IS 'Those held down by power cap, slowdown or power brake';
COMMENT ON COLUMN report.nodes_now.window_time IS 'Start of the newest window, UTC';
COMMENT ON COLUMN report.nodes_now.power_w IS 'Mean power of the GPUs over the newest window, W';
COMMENT ON COLUMN report.nodes_now.power_limit_w IS 'Enforced power limits of the GPUs together, W';
COMMENT ON COLUMN report.nodes_now.gpu_util_pct IS 'Mean utilisation, %';
COMMENT ON COLUMN report.nodes_now.gpu_util_gpus IS 'GPUs in that mean';
COMMENT ON COLUMN report.nodes_now.gpu_temp_max_c IS 'Greatest GPU temperature, °C';
COMMENT ON COLUMN report.nodes_now.margin_to_slowdown_c IS
    'Least slowdown temperature of the GPUs minus their greatest temperature, K';
COMMENT ON COLUMN report.nodes_now.gpu_power_max_w IS 'Greatest power of one of the GPUs, W';
COMMENT ON COLUMN report.nodes_now.gpu_util_max_pct IS 'Greatest utilisation of one of the GPUs, %';
COMMENT ON COLUMN report.nodes_now.silent IS 'Whether nothing of the node came for 60 s, or what comes is old';
COMMENT ON COLUMN report.nodes_now.clock_ok IS 'Whether its clock is within 2 s of the server''s';
