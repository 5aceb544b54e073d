-- report.rack_budgets: what each rack with a budget draws now.
-- Definition: power_w is the sum of the meters that feed the rack and nothing else, each by its newest window, which ended no longer ago than 5 minutes or three of its length; of a
-- rack without such meters that of its nodes' GPUs (basis gpus), which is less than the rack draws. use_share = power_w / budget_w. Unit: W, 1.
-- Missing data: a sum lacks no part: where one of the meters, or one of the nodes that were heard of in the last hour, does not tell, power_w is NULL.
-- needs: capacity, expanded
CREATE VIEW report.rack_budgets AS
WITH of_meters AS MATERIALIZED (
    SELECT m.site_id, m.name, count(*) AS meters, count(w.power_mw) AS known, sum(w.power_mw) AS power_mw
    FROM expanded.budget_meter AS m
    LEFT JOIN LATERAL (
        SELECT coalesce(it.power_mean_mw, it.energy_mj * 1000 / it.covered_ms) AS power_mw
        FROM (
            SELECT * FROM gigawatch.meter_window AS newest
            WHERE newest.meter_id = m.meter_id AND newest.time > now() - interval '1 day'
            ORDER BY newest.time DESC LIMIT 1
        ) AS it
        WHERE it.time + it.covered_ms * interval '1 ms' >= now() - greatest(interval '5 minutes', 3 * it.covered_ms * interval '1 ms')
    ) AS w ON true
    WHERE m.scope = 'rack'
    GROUP BY 1, 2
), of_gpus AS MATERIALIZED (
    SELECT n.rack_id, count(*) AS nodes, count(n.power_w) AS known, sum(n.power_w) AS power_w, bool_or(n.simulated) AS simulated
    FROM expanded.node_state AS n
    WHERE n.rack_id IS NOT NULL AND n.last_seen > now() - interval '1 hour'
    GROUP BY 1
)
SELECT
    site.name AS site,
    rack.name AS rack,
    CASE WHEN m.meters > 0 THEN 'meters' WHEN g.nodes > 0 THEN 'gpus' END AS basis,
    b.budget_mw / 1000.0::double precision AS budget_w,
    its.power_w,
    its.power_w / nullif(b.budget_mw / 1000.0::double precision, 0) AS use_share,
    coalesce(m.meters, 0) AS meters,
    g.nodes,
    coalesce(g.simulated, false) AS simulated
FROM gigawatch.power_budget AS b
JOIN gigawatch.site USING (site_id)
LEFT JOIN gigawatch.rack ON rack.site_id = b.site_id AND rack.name = b.name
LEFT JOIN of_meters AS m ON m.site_id = b.site_id AND m.name = b.name
LEFT JOIN of_gpus AS g ON g.rack_id = rack.rack_id
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN m.meters > 0 THEN CASE WHEN m.known = m.meters THEN m.power_mw / 1000.0::double precision END
        WHEN g.known = g.nodes THEN g.power_w
    END AS power_w
) AS its
WHERE b.scope = 'rack';
COMMENT ON VIEW report.rack_budgets IS 'What each rack with a budget draws now';
COMMENT ON COLUMN report.rack_budgets.site IS 'Name of the site';
COMMENT ON COLUMN report.rack_budgets.rack IS 'Name of the rack within its site';
COMMENT ON COLUMN report.rack_budgets.basis IS 'meters, or gpus where no meter feeds it alone: then it draws more; absent where there is neither';
COMMENT ON COLUMN report.rack_budgets.budget_w IS 'Power that it may draw, W';
COMMENT ON COLUMN report.rack_budgets.power_w IS 'What it draws now, W';
COMMENT ON COLUMN report.rack_budgets.use_share IS 'That over its budget, 1';
COMMENT ON COLUMN report.rack_budgets.meters IS 'Meters in the sum';
COMMENT ON COLUMN report.rack_budgets.nodes IS 'Nodes of the rack that were heard of in the last hour';
COMMENT ON COLUMN report.rack_budgets.simulated IS 'Whether data of its nodes are simulated';
