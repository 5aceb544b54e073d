-- report.token_baseline(): energy per token of each deployment now, beside what is usual for the same model, GPU and batch.
-- Definition: j_per_generated_token is that of report.energy_per_token() at boundary gpu over the in_recent before at, as far as it is known, and batch that of report.serving(). baseline is
-- the median of the same figure over the hours of the in_past before, of all deployments of the same model on the same GPUs in the same band of batch; bands double: 1 to 2, 2 to 4, 4 to 8, …
-- A deployment's model is that of which its engines generated the most tokens in these hours. excess = j_per_generated_token / baseline − 1. Unit: J, 1.
-- Missing data: hours with fewer than 1,000 generated tokens or without a batch are not looked at; of such a recent time, as where nothing is heard of the GPUs, which are taken to serve what they served for a
-- day, j_per_generated_token and excess are NULL. With fewer than 6 hours there is no baseline.
-- needs: energy_per_token, serving
CREATE FUNCTION report.token_baseline(
    at timestamptz DEFAULT now(),
    in_recent interval DEFAULT '15 minutes',
    in_past interval DEFAULT '7 days'
) RETURNS TABLE (
    deployment text, model text, gpu_model text, generated_tokens numeric, batch double precision, band_from double precision, band_to double precision,
    j_per_generated_token double precision, coverage double precision, baseline double precision, hours bigint, excess double precision
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    until constant timestamptz := date_bin('1 minute', least(at, expanded.deployments_until()), '2000-01-01Z');
    past_stop constant timestamptz := date_bin('1 hour', until - in_recent, '2000-01-01Z');
    past_start constant timestamptz := past_stop - in_past;
BEGIN
    RETURN QUERY
    WITH gpu_models AS MATERIALIZED (
        SELECT DISTINCT s.gpu_model FROM gigawatch.serving_1h AS s WHERE s.time >= past_start AND s.generated_tokens > 0
        UNION
        SELECT DISTINCT s.gpu_model FROM gigawatch.serving_1m AS s WHERE s.time >= until - in_recent AND s.generated_tokens > 0
    ), models AS MATERIALIZED (
        SELECT DISTINCT ON (d.name) d.name, s.model
        FROM (
            SELECT h.deployment_id, h.model, sum(h.generated_tokens) AS tokens FROM gigawatch.serving_1h AS h WHERE h.time >= past_start GROUP BY 1, 2
            UNION ALL
            SELECT m.deployment_id, m.model, sum(m.generated_tokens) FROM gigawatch.serving_1m AS m WHERE m.time >= until - in_recent GROUP BY 1, 2
        ) AS s
        JOIN gigawatch.deployment AS d USING (deployment_id)
        WHERE s.tokens > 0
        ORDER BY d.name, s.tokens DESC
    ), figures AS MATERIALIZED (
        SELECT part.recent, g.gpu_model, e.label AS deployment, m.model, e.generated_tokens, e.j_per_generated_token, e.coverage, s.batch,
            floor(log(2, greatest(s.batch, 1)::numeric)) AS band,
            e.generated_tokens >= 1000 AND s.batch IS NOT NULL AND e.j_per_generated_token IS NOT NULL AS known
        FROM gpu_models AS g
        CROSS JOIN (
            VALUES (true, until - in_recent, until, NULL::interval), (false, past_start, past_stop, interval '1 hour')
        ) AS part (recent, first, beyond, step)
        CROSS JOIN LATERAL report.energy_per_token(part.first, part.beyond, part.step, 'deployment', 'gpu', NULL, g.gpu_model) AS e
        LEFT JOIN LATERAL report.serving(part.first, part.beyond, part.step, 'deployment', NULL, g.gpu_model, NULL, '{}') AS s
            ON s.time = e.time AND s.label = e.label
        JOIN models AS m ON m.name = e.label
    ), usual AS (
        SELECT f.model, f.gpu_model, f.band, percentile_cont(0.5) WITHIN GROUP (ORDER BY f.j_per_generated_token) AS median, count(*) AS hours
        FROM figures AS f WHERE NOT f.recent AND f.known GROUP BY 1, 2, 3
    )
    SELECT f.deployment, f.model, f.gpu_model, f.generated_tokens, f.batch, power(2, f.band)::double precision, power(2, f.band + 1)::double precision,
        its.j_per_generated_token, f.coverage, its.baseline, coalesce(u.hours, 0), its.j_per_generated_token / nullif(its.baseline, 0) - 1
    FROM figures AS f
    LEFT JOIN usual AS u USING (model, gpu_model, band)
    CROSS JOIN LATERAL (SELECT CASE WHEN u.hours >= 6 THEN u.median END AS baseline, CASE WHEN f.known THEN f.j_per_generated_token END AS j_per_generated_token) AS its
    WHERE f.recent
    ORDER BY 1, 2, 3;
END
$$;
COMMENT ON FUNCTION report.token_baseline IS
    'J per generated token of each deployment, by GPU model, over the last quarter of an hour before a moment, with its batch, and the median of the last 7 days of the same model, GPU and '
    'band of batch as its baseline, from how many hours, and the excess over it (1)';
