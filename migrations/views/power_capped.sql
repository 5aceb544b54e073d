-- report.power_capped: GPUs that their power cap held down for more than half of the last hour.
-- Definition: of the newest hour that is folded, GPUs held down by power cap, slowdown or brake for more than 30 minutes. capped_s is that time where bit 0x4 alone was
-- among the hour's reasons, else the minutes with this bit. capped_share = capped_s / covered_s. Unit: s, 1.
-- Missing data: an hour without a window has no row.
-- needs: expanded
CREATE VIEW report.power_capped AS
SELECT
    site.name AS site,
    rack.name AS rack,
    it.node_id,
    node.hostname,
    node.simulated,
    gpu.uuid AS gpu_uuid,
    gpu.index AS gpu_index,
    gpu.model AS gpu_model,
    it.time,
    it.covered_ms / 1000.0::double precision AS covered_s,
    capped.ms / 1000.0::double precision AS capped_s,
    capped.ms::double precision / it.covered_ms AS capped_share,
    it.power_limit_mw / 1000.0::double precision AS power_limit_w
FROM (
    SELECT g.time, g.node_id, s.slot, s.gpu_id, expanded.at(g.covered_ms, s.slot) AS covered_ms, expanded.at(g.throttled_ms, s.slot) AS throttled_ms,
        expanded.at(g.clock_event_reasons, s.slot) AS reasons, expanded.at(g.power_limit_mw, s.slot) AS power_limit_mw
    FROM gigawatch.gpu_1h AS g
    JOIN gigawatch.gpu_slot AS s ON s.node_id = g.node_id AND s.slot <= g.slots
    WHERE g.time >= (SELECT mark.folded_1h - interval '1 hour' FROM expanded.mark) AND g.time < (SELECT mark.folded_1h FROM expanded.mark)
        AND 1800000 < ANY (g.throttled_ms)
    -- Nodes are left out by their row before its GPUs are looked at.
    OFFSET 0
) AS it
JOIN gigawatch.gpu USING (gpu_id)
JOIN gigawatch.node ON node.node_id = it.node_id
JOIN gigawatch.site USING (site_id)
LEFT JOIN gigawatch.rack USING (rack_id)
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN it.reasons & (8 + 32 + 64 + 128) = 0 THEN it.throttled_ms
        ELSE (
            SELECT 60000 * count(*) FROM gigawatch.gpu_1m AS m
            WHERE m.node_id = it.node_id AND m.time >= it.time AND m.time < it.time + interval '1 hour'
                AND expanded.at(m.clock_event_reasons, it.slot) & 4 <> 0
        )
    END AS ms
) AS capped
WHERE it.throttled_ms > 1800000 AND it.reasons & 4 <> 0 AND capped.ms > 1800000;
COMMENT ON VIEW report.power_capped IS 'GPUs that their power cap held down for more than half of the last hour';
COMMENT ON COLUMN report.power_capped.site IS 'Name of the site';
COMMENT ON COLUMN report.power_capped.rack IS 'Name of the rack within its site';
COMMENT ON COLUMN report.power_capped.node_id IS 'Number of the node in this store';
COMMENT ON COLUMN report.power_capped.hostname IS 'Host name';
COMMENT ON COLUMN report.power_capped.simulated IS 'Whether the node''s data are simulated or replayed';
COMMENT ON COLUMN report.power_capped.gpu_uuid IS 'UUID of the physical GPU';
COMMENT ON COLUMN report.power_capped.gpu_index IS 'Index on its node';
COMMENT ON COLUMN report.power_capped.gpu_model IS 'Model, as the driver names it';
COMMENT ON COLUMN report.power_capped.time IS 'Start of the hour, UTC';
COMMENT ON COLUMN report.power_capped.covered_s IS 'Time with windows in the hour, s';
COMMENT ON COLUMN report.power_capped.capped_s IS 'Time in windows with a power cap, s';
COMMENT ON COLUMN report.power_capped.capped_share IS 'That over the time with windows, 1';
COMMENT ON COLUMN report.power_capped.power_limit_w IS 'Greatest enforced power limit, W';
