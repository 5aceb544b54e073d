-- report.idle(): all metered GPU energy, split by whether it served requests.
-- Definition: energy_j = active_j + provisioned_idle_j + unobserved_j + unallocated_j, exact to the millijoule. Active is the energy
-- of assigned GPUs while their engine ran requests: the part of each minute in which it did; provisioned idle the rest of it;
-- GPUs whose engine is on another node are split as those beside it are. Unobserved is the energy of assigned GPUs of whose
-- engine nobody knows whether it ran anything. Unallocated is that of GPUs assigned to nothing. Unit: J.
-- Missing data: it reaches up to where deployments are folded. Grouped by deployment or model there is nothing unallocated.
-- needs: deployments, power
CREATE FUNCTION report.idle(
    start timestamptz,
    stop timestamptz,
    step interval DEFAULT NULL,
    group_by text DEFAULT 'fleet',
    in_site text DEFAULT NULL,
    in_gpu_model text DEFAULT NULL,
    in_deployment text DEFAULT NULL
) RETURNS TABLE (
    "time" timestamptz, label text, energy_j numeric, active_j numeric, provisioned_idle_j numeric, unobserved_j numeric,
    unallocated_j numeric, coverage double precision
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    spans timestamptz[] := expanded.deployment_spans(start, stop, step);
    whole_spans timestamptz[] := expanded.deployment_spans(start, stop, NULL);
BEGIN
    PERFORM expanded.check_grouping(group_by);
    RETURN QUERY
    WITH names AS MATERIALIZED (
        SELECT * FROM expanded.deployment_names(whole_spans, group_by, in_deployment)
    ), used AS NOT MATERIALIZED (
        SELECT CASE WHEN step IS NULL THEN start ELSE date_bin(step, b.time, '2000-01-01Z') END AS bin,
            expanded.serving_label(group_by, site.name, b.gpu_model, d.name, d.model) AS label, b.*
        FROM expanded.used_by_deployments(spans, whole_spans, 'gpu', in_site, in_gpu_model, in_deployment) AS b
        JOIN names AS d USING (deployment_id)
        LEFT JOIN gigawatch.site USING (site_id)
    ), partly AS MATERIALIZED (
        SELECT DISTINCT u.deployment_id FROM used AS u WHERE u.gpu_mj <> u.observed_mj
    ), shared AS (
        -- Of what was not observed of a deployment, as much was active as of the rest of it. Most deployments are observed in
        -- full; only the others are looked at bucket by bucket. Of all GPUs of the deployment, of whatever group.
        SELECT o.*, sum(o.active_mj) OVER its / nullif(sum(o.observed_mj) OVER its, 0) AS active_share
        FROM (
            SELECT u.bin, u.label, u.level, u.time, u.deployment_id, sum(u.gpu_mj) AS energy_mj,
                sum(u.observed_mj) AS observed_mj, sum(u.active_mj) AS active_mj
            FROM used AS u WHERE u.deployment_id IN (SELECT partly.deployment_id FROM partly)
            GROUP BY 1, 2, 3, 4, 5
        ) AS o
        WINDOW its AS (PARTITION BY o.level, o.time, o.deployment_id)
    ), unsure AS (
        SELECT o.bin, o.label,
            sum(CASE WHEN o.energy_mj = o.observed_mj THEN 0
                ELSE round(o.active_mj + (o.energy_mj - o.observed_mj) * coalesce(o.active_share, 0)) - o.active_mj END)
                AS active_mj,
            sum(CASE WHEN o.active_share IS NULL THEN o.energy_mj ELSE 0 END) AS unobserved_mj
        FROM shared AS o
        GROUP BY 1, 2
    ), assigned AS (
        SELECT s.bin, s.label, s.energy_mj, s.energy_ms, s.expected_ms, s.active_mj + coalesce(p.active_mj, 0) AS active_mj,
            coalesce(p.unobserved_mj, 0) AS unobserved_mj
        FROM (
            SELECT u.bin, u.label, sum(u.gpu_mj) AS energy_mj, sum(u.energy_ms) AS energy_ms,
                sum(u.expected_ms) AS expected_ms, sum(u.active_mj) AS active_mj
            FROM used AS u GROUP BY 1, 2
        ) AS s
        LEFT JOIN unsure AS p USING (bin, label)
    ), metered AS (
        SELECT CASE WHEN step IS NULL THEN start ELSE date_bin(step, b.time, '2000-01-01Z') END AS bin,
            expanded.serving_label(group_by, site.name, b.gpu_model, NULL, NULL) AS label, sum(b.energy_mj) AS energy_mj
        FROM expanded.site_buckets(spans) AS b
        JOIN gigawatch.site USING (site_id)
        WHERE group_by NOT IN ('deployment', 'model') AND in_deployment IS NULL
            AND (in_site IS NULL OR site.name = in_site) AND (in_gpu_model IS NULL OR b.gpu_model = in_gpu_model)
        GROUP BY 1, 2
    )
    SELECT
        coalesce(m.bin, a.bin),
        coalesce(m.label, a.label),
        coalesce(m.energy_mj, a.energy_mj) / 1000,
        coalesce(a.active_mj, 0) / 1000,
        (coalesce(a.energy_mj, 0) - coalesce(a.active_mj, 0) - coalesce(a.unobserved_mj, 0)) / 1000,
        coalesce(a.unobserved_mj, 0) / 1000,
        (coalesce(m.energy_mj, a.energy_mj) - coalesce(a.energy_mj, 0)) / 1000,
        (a.energy_ms / nullif(a.expected_ms, 0))::double precision
    FROM metered AS m FULL JOIN assigned AS a USING (bin, label)
    ORDER BY 1, 2;
END
$$;
COMMENT ON FUNCTION report.idle IS
    'Metered GPU energy (J) from start to stop in its parts, which add up to it: active, provisioned idle, unobserved and '
    'unallocated; by step (whole minutes; NULL: the whole period) and by fleet, site, gpu_model, deployment or model; coverage '
    '(0 to 1) is of the assigned GPUs';
