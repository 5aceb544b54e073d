-- report.idle_draw(): power of GPUs that serve a deployment without a request, beside what is usual for their model.
-- Definition: of deployments that nobody saw run a request in the in_recent before at, as far as it is known: power_w is their energy over GPU-time, where all of their engines were observed.
-- baseline_w is the median over the minutes of the in_past before it in which deployments ran no request, of all deployments on GPUs of the model. excess = power_w / baseline_w − 1. Unit: W, 1.
-- Missing data: where an engine was not observed, or nothing was heard of the GPUs, which are taken to serve what they served for a day, power_w, excess and energy_j are NULL. With fewer than 30 such minutes there is no baseline. GPUs that are assigned to nothing are not looked at: nobody knows what they should do.
-- needs: deployments
CREATE FUNCTION report.idle_draw(
    at timestamptz DEFAULT now(),
    in_recent interval DEFAULT '5 minutes',
    in_past interval DEFAULT '7 days'
) RETURNS TABLE (
    site text, deployment text, gpu_model text, gpus integer, power_w double precision, baseline_w double precision, minutes bigint, excess double precision,
    energy_j double precision
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    until constant timestamptz := date_bin('1 minute', least(at, expanded.deployments_until()), '2000-01-01Z');
BEGIN
    RETURN QUERY
    WITH usual AS (
        SELECT d.gpu_model, percentile_cont(0.5) WITHIN GROUP (ORDER BY d.energy_mj::double precision / d.energy_ms) AS power_w, count(*) AS minutes
        FROM gigawatch.deployment_1m AS d
        WHERE d.time >= until - in_recent - in_past AND d.time < until - in_recent AND d.energy_ms > 0 AND d.energy_mj > 0
            AND d.active_mj = 0 AND d.observed_mj = d.energy_mj
        GROUP BY 1
    ), recent AS (
        SELECT d.site_id, it.name, d.gpu_model, max(d.gpus) AS gpus, sum(d.energy_mj)::double precision AS mj, sum(d.energy_ms)::double precision AS ms,
            sum(d.energy_ms) > 0 AND sum(d.energy_mj) > 0 AND sum(d.observed_mj) = sum(d.energy_mj) AS known
        FROM gigawatch.deployment_1m AS d
        JOIN gigawatch.deployment AS it USING (deployment_id)
        WHERE d.time >= until - in_recent AND d.time < until
        GROUP BY 1, 2, 3
        HAVING sum(d.active_mj) = 0
    )
    SELECT site.name, r.name, r.gpu_model, r.gpus, its.power_w, its.baseline_w, coalesce(u.minutes, 0), its.power_w / nullif(its.baseline_w, 0) - 1,
        CASE WHEN r.known THEN r.mj / 1000 END
    FROM recent AS r
    JOIN gigawatch.site USING (site_id)
    LEFT JOIN usual AS u USING (gpu_model)
    CROSS JOIN LATERAL (SELECT CASE WHEN u.minutes >= 30 THEN u.power_w END AS baseline_w, CASE WHEN r.known THEN r.mj / r.ms END AS power_w) AS its
    ORDER BY 1, 2, 3;
END
$$;
COMMENT ON FUNCTION report.idle_draw IS
    'Power by GPU (W) of deployments that ran no request in the last minutes before a moment, by site and GPU model, the median of such minutes of the last 7 days on GPUs of that model as baseline, from how many '
    'minutes, the excess over it (1) and the energy (J)';
