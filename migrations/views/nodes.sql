-- report.nodes: what each node is and when it was last heard of.
-- Definition: one row per node that ever sent a batch.
-- Missing data: what an agent does not know is NULL.
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
    coalesce(node_now.last_seen, node.first_seen) AS last_seen,
    extract(epoch FROM now() - coalesce(node_now.last_seen, node.first_seen))::double precision AS silent_s,
    node_now.clock_offset_ms / 1000.0::double precision AS clock_offset_s,
    abs(node_now.clock_offset_ms) <= 2000 AS clock_ok
FROM gigawatch.node
LEFT JOIN gigawatch.node_now USING (node_id)
JOIN gigawatch.site USING (site_id)
LEFT JOIN gigawatch.rack USING (rack_id);
COMMENT ON VIEW report.nodes IS 'Nodes: what each is and when it was last heard of';
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
