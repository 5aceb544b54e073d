-- report.counter_against_power: GPUs' energy counters against their polled power over the last hour.
-- Definition: of the newest hour that is folded, and its windows in which both are known: counter_w is the counter's energy over time, polled_w the mean of polled power by
-- time; difference_share = counter_w / polled_w − 1. GPUs of nodes whose sums of both over the hour are within 1 % have no row: with up to ten GPUs one alone cannot be 10 % off
-- there. Unit: W, 1. Source: METHODS of this project (Zeus issue 181).
-- Missing data: a GPU without a counter, or with fewer than 30 minutes of both, has no row.
-- needs: expanded
CREATE VIEW report.counter_against_power AS
WITH hour AS MATERIALIZED (
    SELECT mark.folded_1h - interval '1 hour' AS first, mark.folded_1h AS beyond FROM expanded.mark
), apart AS MATERIALIZED (
    SELECT g.node_id
    FROM gigawatch.gpu_1h AS g
    JOIN gigawatch.node_1h AS n ON n.node_id = g.node_id AND n.time = g.time
    CROSS JOIN LATERAL (
        SELECT sum(1000.0 * expanded.at(g.energy_mj, slot) / nullif(expanded.at(g.energy_ms, slot), 0)) AS mw FROM generate_series(1, g.slots) AS slot
    ) AS counted
    WHERE g.time >= (SELECT first FROM hour) AND g.time < (SELECT beyond FROM hour) AND n.time >= (SELECT first FROM hour) AND n.time < (SELECT beyond FROM hour)
        AND n.ticks_summed > 0 AND n.tick_power_mw > 0
        AND abs(counted.mw * n.ticks_summed / n.tick_power_mw - 1) > 0.01
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
