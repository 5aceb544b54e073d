-- report.events: what happened on nodes and GPUs.
-- Definition: one row per event that an agent or the server recorded.
-- Missing data: gpu_uuid is NULL for an event of the whole node; received is NULL for events that were stored before it was noted.
CREATE VIEW report.events AS
SELECT
    event.time,
    site.name AS site,
    rack.name AS rack,
    node.node_id,
    node.hostname,
    node.simulated,
    gpu.uuid AS gpu_uuid,
    gpu.index AS gpu_index,
    event.kind,
    event.severity,
    event.code,
    event.message,
    event.received
FROM gigawatch.event
JOIN gigawatch.node USING (node_id)
JOIN gigawatch.site USING (site_id)
LEFT JOIN gigawatch.rack USING (rack_id)
LEFT JOIN gigawatch.gpu ON gpu.gpu_id = event.gpu_id;
COMMENT ON VIEW report.events IS 'What happened on nodes and GPUs';
COMMENT ON COLUMN report.events.time IS 'When it happened, UTC';
COMMENT ON COLUMN report.events.site IS 'Site';
COMMENT ON COLUMN report.events.rack IS 'Rack';
COMMENT ON COLUMN report.events.node_id IS 'Number of the node in this store';
COMMENT ON COLUMN report.events.hostname IS 'Host name of the node';
COMMENT ON COLUMN report.events.simulated IS 'Whether the node''s data are simulated or replayed';
COMMENT ON COLUMN report.events.gpu_uuid IS 'UUID of the GPU; NULL for an event of the whole node';
COMMENT ON COLUMN report.events.gpu_index IS 'Index of the GPU on its node';
COMMENT ON COLUMN report.events.kind IS 'xid, gpu_lost, gpu_back, …: docs/events.md lists them';
COMMENT ON COLUMN report.events.severity IS 'info, warning or critical';
COMMENT ON COLUMN report.events.code IS 'The XID, for kind xid';
COMMENT ON COLUMN report.events.message IS 'What happened, in words';
COMMENT ON COLUMN report.events.received IS 'When the server stored it, UTC: later than time where an agent could not send';
