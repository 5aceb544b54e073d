-- report.gpus_missing: GPUs that do not report while their node does.
-- Definition: GPUs that the node's inventory has, without a window of the last 5 minutes that is not older than 90 s before what the node tells, by
-- report.node_conditions; of nodes that were heard of in the last 60 s. Of nodes that are silent, or tell what is old, those that were missing before, for as long as the silence is
-- told of (7 days); silent then says so. Nodes with all of their GPUs are left out by their row, so that it takes a large fleet little.
-- Missing data: last_window is NULL where there was none for a day. Whether a GPU of a silent node is still missing nobody knows.
-- needs: node_conditions
CREATE VIEW report.gpus_missing AS
SELECT
    now.site,
    now.rack,
    now.node_id,
    now.hostname,
    now.simulated,
    gpu.uuid AS gpu_uuid,
    gpu.index AS gpu_index,
    gpu.model AS gpu_model,
    gpu.pci_bus_id,
    gpu.serial,
    last.time AS last_window,
    now.gpus,
    now.gpus_missing,
    now.silent
FROM (SELECT its.* FROM report.node_conditions AS its WHERE its.gpus_missing > 0 OFFSET 0) AS now
CROSS JOIN LATERAL (
    -- OFFSET 0: looked up by node, where a plain join would begin with all GPUs.
    SELECT gpu.*, gpu_slot.slot
    FROM gigawatch.gpu_slot
    JOIN gigawatch.gpu USING (gpu_id)
    WHERE gpu_slot.node_id = now.node_id AND gpu.node_id = now.node_id AND gpu.removed IS NULL
    OFFSET 0
) AS gpu
LEFT JOIN LATERAL (
    SELECT w.time
    FROM gigawatch.gpu_window AS w
    WHERE w.node_id = now.node_id AND w.slots >= gpu.slot AND (w.each IS NULL OR w.each[gpu.slot][1] > 0) AND w.time > now() - interval '1 day'
    ORDER BY w.time DESC
    LIMIT 1
) AS last ON true
WHERE coalesce(last.time <= now.told_until - interval '90 s' OR NOT now.silent AND last.time <= now() - interval '5 minutes', true);
COMMENT ON VIEW report.gpus_missing IS 'GPUs that do not report while their node does';
COMMENT ON COLUMN report.gpus_missing.site IS 'Name of the site';
COMMENT ON COLUMN report.gpus_missing.rack IS 'Name of the rack within its site';
COMMENT ON COLUMN report.gpus_missing.node_id IS 'Number of the node in this store';
COMMENT ON COLUMN report.gpus_missing.hostname IS 'Host name';
COMMENT ON COLUMN report.gpus_missing.simulated IS 'Whether the node''s data are simulated or replayed';
COMMENT ON COLUMN report.gpus_missing.gpu_uuid IS 'UUID of the physical GPU';
COMMENT ON COLUMN report.gpus_missing.gpu_index IS 'Index on its node';
COMMENT ON COLUMN report.gpus_missing.gpu_model IS 'Model, as the driver names it';
COMMENT ON COLUMN report.gpus_missing.pci_bus_id IS 'PCI address';
COMMENT ON COLUMN report.gpus_missing.serial IS 'Serial number';
COMMENT ON COLUMN report.gpus_missing.last_window IS 'Start of its last window; absent where it had none for a day, UTC';
COMMENT ON COLUMN report.gpus_missing.gpus IS 'Physical GPUs of the node';
COMMENT ON COLUMN report.gpus_missing.gpus_missing IS 'Those of them that do not report';
COMMENT ON COLUMN report.gpus_missing.silent IS 'Whether the node fell silent since, or tells what is old';
