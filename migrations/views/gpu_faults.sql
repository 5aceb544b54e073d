-- report.gpu_faults: GPUs whose memory is not well.
-- Definition: GPUs whose newest slow reading has a row remap that failed or waits, a page retirement that waits, or uncorrected errors since the driver was
-- loaded; looked for among the readings of the last 7 days, of which each GPU has one an hour. since is the first such reading of that time.
-- Missing data: of a node that is silent it says what was last read, for as long as the silence is told of (7 days).
-- needs: agents
CREATE VIEW report.gpu_faults AS
SELECT
    site.name AS site,
    rack.name AS rack,
    gpu.node_id,
    node.hostname,
    node.simulated,
    gpu.uuid AS gpu_uuid,
    gpu.index AS gpu_index,
    gpu.model AS gpu_model,
    gpu.serial,
    newest.time,
    ill.since,
    newest.row_remap_failed,
    newest.row_remap_pending,
    newest.page_retirement_pending,
    newest.ecc_volatile_uncorrected,
    newest.ecc_aggregate_uncorrected,
    newest.rows_remapped_uncorrected
FROM (
    SELECT health.gpu_id, min(health.time) AS since
    FROM gigawatch.gpu_health AS health
    WHERE (health.row_remap_failed OR health.row_remap_pending OR health.page_retirement_pending OR health.ecc_volatile_uncorrected > 0)
        AND health.time > now() - interval '7 days'
    GROUP BY 1
) AS ill
JOIN gigawatch.gpu USING (gpu_id)
JOIN expanded.kept_node USING (node_id)
JOIN gigawatch.node USING (node_id)
JOIN gigawatch.site USING (site_id)
LEFT JOIN gigawatch.rack USING (rack_id)
CROSS JOIN LATERAL (
    SELECT health.* FROM gigawatch.gpu_health AS health
    WHERE health.gpu_id = ill.gpu_id
    ORDER BY health.time DESC
    LIMIT 1
) AS newest
WHERE gpu.removed IS NULL
    AND (newest.row_remap_failed OR newest.row_remap_pending OR newest.page_retirement_pending OR newest.ecc_volatile_uncorrected > 0);
COMMENT ON VIEW report.gpu_faults IS 'GPUs whose memory is not well';
COMMENT ON COLUMN report.gpu_faults.site IS 'Name of the site';
COMMENT ON COLUMN report.gpu_faults.rack IS 'Name of the rack within its site';
COMMENT ON COLUMN report.gpu_faults.node_id IS 'Number of the node in this store';
COMMENT ON COLUMN report.gpu_faults.hostname IS 'Host name';
COMMENT ON COLUMN report.gpu_faults.simulated IS 'Whether the node''s data are simulated or replayed';
COMMENT ON COLUMN report.gpu_faults.gpu_uuid IS 'UUID of the physical GPU';
COMMENT ON COLUMN report.gpu_faults.gpu_index IS 'Index on its node';
COMMENT ON COLUMN report.gpu_faults.gpu_model IS 'Model, as the driver names it';
COMMENT ON COLUMN report.gpu_faults.serial IS 'Serial number';
COMMENT ON COLUMN report.gpu_faults.time IS 'When it was last read, UTC';
COMMENT ON COLUMN report.gpu_faults.since IS 'First such reading of the last 7 days, UTC';
COMMENT ON COLUMN report.gpu_faults.row_remap_failed IS 'A row remap failed: the GPU is to be replaced';
COMMENT ON COLUMN report.gpu_faults.row_remap_pending IS 'A row remap waits for a GPU reset';
COMMENT ON COLUMN report.gpu_faults.page_retirement_pending IS 'A page retirement waits for a reboot';
COMMENT ON COLUMN report.gpu_faults.ecc_volatile_uncorrected IS 'Uncorrected memory errors since the driver was loaded';
COMMENT ON COLUMN report.gpu_faults.ecc_aggregate_uncorrected IS 'Uncorrected memory errors in the GPU''s life';
COMMENT ON COLUMN report.gpu_faults.rows_remapped_uncorrected IS 'Rows remapped for uncorrected errors';
