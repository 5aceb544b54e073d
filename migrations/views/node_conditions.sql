-- report.node_conditions: what the GPUs of each node have in common: held down, hot, missing.
-- Definition: nodes that are there or whose silence is told of (7 days), each with its newest window as it was stored: one table's rows, so that a fleet of 75,000 nodes is
-- counted in a moment, where GPU by GPU (report.gpu_conditions) takes too long once thousands of nodes are affected. Unit: °C, K.
-- told_until is the end of its newest window of the node itself; without one, when its last batch came. A node that sends is silent, too, while what it sends is old
-- (told_until is within 90 s of its GPUs' newest window, and that is not of now): as long as a spool is being emptied nobody knows what is now.
-- Missing data: of a silent node it says what was when it was last heard of; silent tells. A node without a window has NULL.
-- needs: expanded, agents
CREATE VIEW report.node_conditions AS
SELECT
    site.name AS site,
    rack.name AS rack,
    now.node_id,
    node.hostname,
    now.simulated,
    now.gpu_model,
    now.gpus,
    stored.gpus_throttled,
    CASE WHEN now.unknown THEN greatest(stored.gpus_expected - stored.gpus, 0) ELSE now.gpus_missing END AS gpus_missing,
    now.unknown AS silent,
    stored.time,
    now.told_until,
    stored.clock_event_reasons,
    stored.gpu_temp_max_c,
    stored.temp_slowdown_c - stored.gpu_temp_max_c AS margin_to_slowdown_c
FROM expanded.node_state AS now
JOIN expanded.kept_node USING (node_id)
JOIN gigawatch.node_now AS stored USING (node_id)
JOIN gigawatch.node USING (node_id)
JOIN gigawatch.site ON site.site_id = now.site_id
LEFT JOIN gigawatch.rack ON rack.rack_id = now.rack_id;
COMMENT ON VIEW report.node_conditions IS 'What the GPUs of each node have in common: held down, hot, missing';
COMMENT ON COLUMN report.node_conditions.site IS 'Name of the site';
COMMENT ON COLUMN report.node_conditions.rack IS 'Name of the rack within its site';
COMMENT ON COLUMN report.node_conditions.node_id IS 'Number of the node in this store';
COMMENT ON COLUMN report.node_conditions.hostname IS 'Host name';
COMMENT ON COLUMN report.node_conditions.simulated IS 'Whether the node''s data are simulated or replayed';
COMMENT ON COLUMN report.node_conditions.gpu_model IS 'Model of its GPUs; absent where it has several';
COMMENT ON COLUMN report.node_conditions.gpus IS 'Physical GPUs that it has';
COMMENT ON COLUMN report.node_conditions.gpus_throttled IS 'Those held down by power cap, slowdown or brake, whichever it is';
COMMENT ON COLUMN report.node_conditions.gpus_missing IS 'Those that do not report while the node does';
COMMENT ON COLUMN report.node_conditions.silent IS 'Whether nothing of the node came for 60 s, or what comes is old';
COMMENT ON COLUMN report.node_conditions.time IS 'Start of its newest window, however old, UTC';
COMMENT ON COLUMN report.node_conditions.told_until IS 'End of its newest window of the node itself; without one, when its last batch came, UTC';
COMMENT ON COLUMN report.node_conditions.clock_event_reasons IS 'Union of the clock-event bits of its GPUs in that window';
COMMENT ON COLUMN report.node_conditions.gpu_temp_max_c IS 'Greatest GPU temperature in that window, °C';
COMMENT ON COLUMN report.node_conditions.margin_to_slowdown_c IS 'Least slowdown temperature of the GPUs minus that temperature, K';
