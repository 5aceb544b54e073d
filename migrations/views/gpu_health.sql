-- report.gpu_health: the latest slow readings of each GPU, and its XIDs of the last day.
-- Definition: newest row of gpu_health; state is failed (row remap failed or a fatal XID in 24 h), degraded (a
-- reset or reboot is pending, or uncorrected errors since the driver was loaded), ok, or unknown (never read).
-- Fatal XIDs: 48, 64, 74, 79, 95, 119, 120, 140.
-- Missing data: what a GPU does not support is NULL.
-- needs: gpus
CREATE VIEW report.gpu_health AS
SELECT
    gpus.site,
    gpus.rack,
    gpus.node_id,
    gpus.hostname,
    gpus.simulated,
    gpus.gpu_uuid,
    gpus.gpu_index,
    gpus.gpu_model,
    newest.time,
    CASE
        WHEN newest.row_remap_failed OR coalesce(xids.fatal, false) THEN 'failed'
        WHEN newest.row_remap_pending OR newest.page_retirement_pending
            OR newest.ecc_volatile_uncorrected > 0 THEN 'degraded'
        WHEN newest.time IS NULL THEN 'unknown'
        ELSE 'ok'
    END AS state,
    newest.ecc_volatile_corrected,
    newest.ecc_volatile_uncorrected,
    newest.ecc_aggregate_corrected,
    newest.ecc_aggregate_uncorrected,
    newest.rows_remapped_corrected,
    newest.rows_remapped_uncorrected,
    newest.row_remap_pending,
    newest.row_remap_failed,
    newest.pages_retired,
    newest.page_retirement_pending,
    newest.pcie_replays,
    newest.performance_state,
    newest.processes,
    coalesce(xids.count, 0) AS xids_24h,
    xids.last AS last_xid,
    xids.last_time AS last_xid_time
FROM gigawatch.gpu
JOIN report.gpus ON gpus.gpu_uuid = gpu.uuid
LEFT JOIN LATERAL (
    SELECT gpu_health.*
    FROM gigawatch.gpu_health
    WHERE gpu_health.gpu_id = gpu.gpu_id
    ORDER BY gpu_health.time DESC
    LIMIT 1
) AS newest ON true
LEFT JOIN (
    SELECT
        event.gpu_id,
        count(*) AS count,
        bool_or(event.code IN (48, 64, 74, 79, 95, 119, 120, 140)) AS fatal,
        (array_agg(event.code ORDER BY event.time DESC))[1] AS last,
        max(event.time) AS last_time
    FROM gigawatch.event
    WHERE event.kind = 'xid' AND event.time > now() - interval '24 hours'
    GROUP BY event.gpu_id
) AS xids ON xids.gpu_id = gpu.gpu_id
WHERE gpu.removed IS NULL;
COMMENT ON VIEW report.gpu_health IS 'Latest slow readings of each GPU: memory errors, row remap, processes, XIDs';
COMMENT ON COLUMN report.gpu_health.site IS 'Site';
COMMENT ON COLUMN report.gpu_health.rack IS 'Rack';
COMMENT ON COLUMN report.gpu_health.node_id IS 'Number of the node in this store';
COMMENT ON COLUMN report.gpu_health.hostname IS 'Host name of the node';
COMMENT ON COLUMN report.gpu_health.simulated IS 'Whether the data are simulated or replayed';
COMMENT ON COLUMN report.gpu_health.gpu_uuid IS 'UUID of the physical GPU';
COMMENT ON COLUMN report.gpu_health.gpu_index IS 'Index on its node';
COMMENT ON COLUMN report.gpu_health.gpu_model IS 'Model, as the driver names it';
COMMENT ON COLUMN report.gpu_health.time IS 'When the readings last changed or were confirmed, UTC';
COMMENT ON COLUMN report.gpu_health.state IS 'ok, degraded, failed or unknown';
COMMENT ON COLUMN report.gpu_health.ecc_volatile_corrected IS 'Corrected memory errors since the driver was loaded';
COMMENT ON COLUMN report.gpu_health.ecc_volatile_uncorrected IS 'Uncorrected memory errors since the driver was loaded';
COMMENT ON COLUMN report.gpu_health.ecc_aggregate_corrected IS 'Corrected memory errors in the GPU''s life';
COMMENT ON COLUMN report.gpu_health.ecc_aggregate_uncorrected IS 'Uncorrected memory errors in the GPU''s life';
COMMENT ON COLUMN report.gpu_health.rows_remapped_corrected IS 'Rows remapped for corrected errors';
COMMENT ON COLUMN report.gpu_health.rows_remapped_uncorrected IS 'Rows remapped for uncorrected errors';
COMMENT ON COLUMN report.gpu_health.row_remap_pending IS 'Whether a row remap waits for a GPU reset';
COMMENT ON COLUMN report.gpu_health.row_remap_failed IS 'Whether a row remap failed';
COMMENT ON COLUMN report.gpu_health.pages_retired IS 'Memory pages retired';
COMMENT ON COLUMN report.gpu_health.page_retirement_pending IS 'Whether a page retirement waits for a reboot';
COMMENT ON COLUMN report.gpu_health.pcie_replays IS 'PCIe replays';
COMMENT ON COLUMN report.gpu_health.performance_state IS 'P-state, 0 the fastest';
COMMENT ON COLUMN report.gpu_health.processes IS 'Processes that hold memory of it: pid, name, mem_used_mib';
COMMENT ON COLUMN report.gpu_health.xids_24h IS 'XID errors of the last 24 hours';
COMMENT ON COLUMN report.gpu_health.last_xid IS 'The last of them';
COMMENT ON COLUMN report.gpu_health.last_xid_time IS 'When it happened, UTC';
