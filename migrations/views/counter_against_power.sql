-- report.counter_against_power: GPUs' energy counters against their polled power over the last hour.
-- Definition: of the newest hour that is folded, and its windows in which both are known: counter_w is the counter's energy over time, polled_w the mean of polled power by
-- time; difference_share = counter_w / polled_w − 1. GPUs of nodes none of whose GPUs is more than 5 % apart in half of the windows that begin with the hour's quarters have no row:
-- all windows of a large fleet's hour are too many. Unit: W, 1. Source: METHODS of this project (Zeus issue 181).
-- Missing data: a GPU without a counter, or with fewer than 30 minutes of both, has no row.
-- needs: expanded
CREATE VIEW report.counter_against_power AS
WITH hour AS MATERIALIZED (
    SELECT mark.folded_1h - interval '1 hour' AS first, mark.folded_1h AS beyond FROM expanded.mark WHERE isfinite(mark.folded_1h)
), apart AS MATERIALIZED (
    SELECT w.node_id
    FROM hour
    CROSS JOIN generate_series(hour.first, hour.beyond - interval '15 minutes', interval '15 minutes') AS quarter (time)
    CROSS JOIN LATERAL (
        -- OFFSET 0: windows of a moment lie together, and are read by it.
        SELECT it.node_id, (
            SELECT max(abs(1000 * expanded.at(it.energy_mj, slot)::double precision
                / nullif(expanded.at(it.power_mean_mw, slot)::double precision * coalesce(it.each[slot][1], it.covered_ms), 0) - 1))
            FROM generate_series(1, it.slots) AS slot
            WHERE coalesce(it.each[slot][4], it.energy_method) = 1
        ) AS most
        FROM gigawatch.gpu_window AS it
        WHERE it.time = quarter.time
        OFFSET 0
    ) AS w
    GROUP BY 1
    HAVING 2 * count(*) FILTER (WHERE w.most > 0.05) >= count(*)
), sums AS (
    SELECT w.gpu_id, w.node_id, sum(w.energy_mj)::double precision AS energy_mj, sum(w.power_mean_mw::double precision * w.covered_ms) / 1000 AS polled_mj,
        sum(w.covered_ms) AS ms
    FROM apart
    CROSS JOIN LATERAL (
        SELECT it.* FROM expanded.gpu_window AS it
        WHERE it.node_id = apart.node_id AND it.time >= (SELECT first FROM hour) AND it.time < (SELECT beyond FROM hour)
            AND it.energy_method = 1 AND it.power_mean_mw IS NOT NULL
        OFFSET 0
    ) AS w
    GROUP BY 1, 2
)
SELECT
    site.name AS site,
    rack.name AS rack,
    sums.node_id,
    node.hostname,
    node.simulated,
    gpu.uuid AS gpu_uuid,
    gpu.index AS gpu_index,
    gpu.model AS gpu_model,
    hour.first AS time,
    sums.ms / 1000.0::double precision AS covered_s,
    sums.energy_mj / sums.ms AS counter_w,
    sums.polled_mj / sums.ms AS polled_w,
    sums.energy_mj / nullif(sums.polled_mj, 0) - 1 AS difference_share
FROM sums
CROSS JOIN hour
JOIN gigawatch.gpu USING (gpu_id)
JOIN gigawatch.node ON node.node_id = sums.node_id
JOIN gigawatch.site USING (site_id)
LEFT JOIN gigawatch.rack USING (rack_id)
WHERE sums.ms >= 1800000;
COMMENT ON VIEW report.counter_against_power IS 'GPUs'' energy counters against their polled power over the last hour';
COMMENT ON COLUMN report.counter_against_power.site IS 'Name of the site';
COMMENT ON COLUMN report.counter_against_power.rack IS 'Name of the rack within its site';
COMMENT ON COLUMN report.counter_against_power.node_id IS 'Number of the node in this store';
COMMENT ON COLUMN report.counter_against_power.hostname IS 'Host name';
COMMENT ON COLUMN report.counter_against_power.simulated IS 'Whether the node''s data are simulated or replayed';
COMMENT ON COLUMN report.counter_against_power.gpu_uuid IS 'UUID of the physical GPU';
COMMENT ON COLUMN report.counter_against_power.gpu_index IS 'Index on its node';
COMMENT ON COLUMN report.counter_against_power.gpu_model IS 'Model, as the driver names it';
COMMENT ON COLUMN report.counter_against_power.time IS 'Start of the hour, UTC';
COMMENT ON COLUMN report.counter_against_power.covered_s IS 'Time of the hour in which both are known, s';
COMMENT ON COLUMN report.counter_against_power.counter_w IS 'The counter''s energy over that time, W';
COMMENT ON COLUMN report.counter_against_power.polled_w IS 'Mean of the polled power, W';
COMMENT ON COLUMN report.counter_against_power.difference_share IS 'The first over the second, minus 1';
