-- report.energy_per_token(): energy for each token and request, by fleet, site, GPU model, deployment or model.
-- Definition: ΣE / ΣN, a ratio of sums over the minutes in which energy and tokens are known of the same GPUs for the same
-- time. E is the energy of the GPUs assigned, busy or not, at the boundary: gpu (the GPUs' counters), it (with their share by
-- GPU-time of what their nodes use beside them), facility (that times the site's PUE: that measured of the day, at the category
-- nearest to the IT equipment, else the one configured at that time, in an hour or day in which it changes its mean by time, where
-- all of it has one; measured_pue_share is the part of the energy with the former). N is generated tokens for
-- j_per_generated_token, the headline; prompt and generated tokens for j_per_token; finished requests for j_per_request.
-- tokens_per_s_per_mw = 10^6 / j_per_generated_token. Where prefill and decode run apart, prompt tokens are those of prefill
-- engines and generated tokens those of decode engines, over the energy of both; prefill_j_per_prompt_token and
-- decode_j_per_generated_token are of each role's own energy. Source: METHODS of this project, after ML.ENERGY, MLPerf Power
-- and the GSF's SCI.
-- gpu_s_per_generated_token and gpu_s_per_request are the GPU-time of the same minutes. Unit: J, s. variation is the coefficient of variation of j_per_generated_token over the buckets of the period, 1.
-- Missing data: minutes in which a GPU was silent, or an engine's counts or the boundary's energy are not known, are in neither
-- sum; coverage is the GPU-time that is in the headline over all that the group had, silent GPUs too. A deployment whose engines
-- do not count generated tokens, or prompts, or requests, is in no ratio of these, and neither is one that has GPUs in several
-- groups and its engine among those of one. Rates are over the whole minutes of the period. Without a token the ratio is
-- absent and the energy stays in energy_j. Hosts without a meter are modelled by metered ones with the same GPUs in the same
-- period (modelled_share), and without any there is no figure. A site without a PUE, measured or configured, has no figure at boundary facility.
-- needs: deployments
-- The same at one boundary.
CREATE FUNCTION expanded.energy_per_token_at(
    boundary text, start timestamptz, stop timestamptz, step interval, group_by text, in_site text, in_gpu_model text,
    in_deployment text
) RETURNS TABLE (
    "time" timestamptz, label text, energy_j numeric, prompt_tokens numeric, cached_tokens numeric,
    generated_tokens numeric, requests numeric, generated_tokens_per_s double precision,
    j_per_generated_token double precision, j_per_token double precision, j_per_request double precision,
    tokens_per_s_per_mw double precision, prefill_j_per_prompt_token double precision,
    decode_j_per_generated_token double precision, variation double precision, gpus bigint, gpus_silent bigint,
    coverage double precision, measured_share double precision, interpolated_share double precision,
    integrated_share double precision, modelled_share double precision, gpu_s_per_generated_token double precision,
    gpu_s_per_request double precision, measured_pue_share double precision
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    spans timestamptz[] := expanded.deployment_spans(start, stop, step);
    whole_spans timestamptz[] := expanded.deployment_spans(start, stop, NULL);
BEGIN
    PERFORM expanded.check_grouping(group_by);
    PERFORM expanded.check_boundary(boundary);
    RETURN QUERY
    WITH names AS MATERIALIZED (
        SELECT * FROM expanded.deployment_names(whole_spans, group_by, in_deployment)
    ), used AS NOT MATERIALIZED (
        SELECT expanded.serving_label(group_by, site.name, b.gpu_model, d.name, d.model) AS label, d.name, d.role, b.*
        FROM expanded.used_by_deployments(spans, whole_spans, boundary, in_site, in_gpu_model, in_deployment) AS b
        JOIN names AS d USING (deployment_id)
        LEFT JOIN gigawatch.site USING (site_id)
    ), served AS NOT MATERIALIZED (
        SELECT expanded.serving_label(group_by, site.name, b.gpu_model, d.name, d.model) AS label, b.*
        FROM expanded.served_by_deployments(spans, in_site, in_gpu_model, in_deployment) AS b
        JOIN names AS d USING (deployment_id)
        LEFT JOIN gigawatch.site USING (site_id)
    ), unknown AS MATERIALIZED (
        -- Of a sum without a part, tokens would be too many: a bucket of a deployment counts in a group where all of its energy
        -- there is known.
        SELECT DISTINCT u.level, u.time, u.name, u.label FROM used AS u WHERE boundary <> 'gpu' AND u.whole AND u.mj IS NULL
    ), untold AS MATERIALIZED (
        -- What the engines of a deployment do not count in each group that it has GPUs in: where its engine stands among
        -- others' GPUs, or its prefill apart, nobody can say what of it is whose.
        SELECT name, NOT bool_and(coalesce(it.generated, false)) AS generated, NOT bool_and(coalesce(it.prompts, false)) AS prompts,
            NOT bool_and(coalesce(it.requests, false)) AS requests
        FROM (SELECT DISTINCT u.label, u.name FROM used AS u WHERE u.whole) AS its
        LEFT JOIN (
            SELECT s.label, s.name, count(s.generated_tokens) > 0 AS generated, count(s.prompt_tokens) > 0 AS prompts,
                count(s.requests_finished) > 0 AS requests
            FROM served AS s GROUP BY 1, 2
        ) AS it USING (label, name)
        GROUP BY 1
    ), told AS MATERIALIZED (
        SELECT d.deployment_id, coalesce(n.generated, false) AS no_generated, coalesce(n.prompts, false) AS no_prompts,
            coalesce(n.requests, false) AS no_requests
        FROM names AS d LEFT JOIN untold AS n USING (name)
    ), buckets AS MATERIALIZED (
        -- Energy and tokens are put together by adding them up, which takes a fraction of what joining them does. What is not told
        -- is rare: sums without it are taken from those with it.
        SELECT CASE WHEN step IS NULL THEN start ELSE date_bin(step, b.time, '2000-01-01Z') END AS bin, b.label, b.level,
            expanded.total(b.mj) AS all_mj, expanded.total(b.mj) FILTER (WHERE b.pue_measured) AS measured_pue_mj,
            expanded.total(b.expected_ms) AS expected_ms,
            expanded.total(b.prompt_tokens) AS all_prompt, expanded.total(b.cached_tokens) AS all_cached,
            expanded.total(b.generated_tokens) AS all_generated, expanded.total(b.requests_finished) AS all_requests,
            expanded.total(b.mj) FILTER (WHERE b.counts AND NOT b.no_generated) AS mj,
            expanded.total(b.mj) FILTER (WHERE b.counts AND b.role = 'prefill') AS prefill_mj,
            expanded.total(b.mj) FILTER (WHERE b.counts AND b.role = 'decode') AS decode_mj,
            expanded.total(b.energy_ms) FILTER (WHERE b.counts AND NOT b.no_generated) AS energy_ms,
            expanded.total(b.whole_mj) FILTER (WHERE b.counts AND NOT b.no_generated) AS whole_mj,
            expanded.total(b.interpolated_mj) FILTER (WHERE b.counts AND NOT b.no_generated) AS interpolated_mj,
            expanded.total(b.integrated_mj) FILTER (WHERE b.counts AND NOT b.no_generated) AS integrated_mj,
            expanded.total(b.modelled_mj) FILTER (WHERE b.counts AND NOT b.no_generated) AS modelled_mj,
            expanded.total(b.prompt_tokens) FILTER (WHERE b.counts AND NOT b.no_generated AND NOT b.no_prompts) AS prompt_tokens,
            expanded.total(b.generated_tokens) FILTER (WHERE b.counts AND NOT b.no_generated) AS generated_tokens,
            expanded.total(b.requests_finished) FILTER (WHERE b.counts AND NOT b.no_requests) AS requests,
            expanded.total(b.prompt_tokens) FILTER (WHERE b.counts AND b.role = 'prefill') AS prefill_tokens,
            expanded.total(b.generated_tokens) FILTER (WHERE b.counts AND b.role = 'decode') AS decode_tokens,
            expanded.total(b.mj) FILTER (WHERE b.counts AND NOT b.no_generated AND b.no_prompts) AS promptless_mj,
            expanded.total(b.generated_tokens) FILTER (WHERE b.counts AND NOT b.no_generated AND b.no_prompts) AS promptless_tokens,
            coalesce(expanded.total(b.mj) FILTER (WHERE b.counts AND NOT b.no_generated AND b.no_requests), 0)
                - coalesce(expanded.total(b.mj) FILTER (WHERE b.counts AND b.no_generated AND NOT b.no_requests), 0)
                AS requestless_mj,
            coalesce(expanded.total(b.energy_ms) FILTER (WHERE b.counts AND NOT b.no_generated AND b.no_requests), 0)
                - coalesce(expanded.total(b.energy_ms) FILTER (WHERE b.counts AND b.no_generated AND NOT b.no_requests), 0)
                AS requestless_ms
        FROM (
            SELECT it.*, it.whole AND (it.level, it.time, it.name, it.label) NOT IN (
                    SELECT n.level, n.time, n.name, n.label FROM unknown AS n
                ) AS counts, told.no_generated, told.no_prompts, told.no_requests
            FROM (
                SELECT u.deployment_id, u.label, u.level, u.time, u.name, u.role, u.whole, u.mj, u.expected_ms, u.energy_ms,
                    u.whole_mj, u.interpolated_mj, u.integrated_mj, u.modelled_mj, u.pue_measured, NULL::bigint AS prompt_tokens,
                    NULL::bigint AS cached_tokens, NULL::bigint AS generated_tokens, NULL::bigint AS requests_finished
                FROM used AS u
                UNION ALL
                SELECT s.deployment_id, s.label, s.level, s.time, s.name, s.role, s.whole, NULL, NULL, NULL, NULL, NULL, NULL,
                    NULL, NULL,
                    s.prompt_tokens, s.cached_tokens, s.generated_tokens, s.requests_finished
                FROM served AS s
            ) AS it
            JOIN told USING (deployment_id)
            -- So that it is worked out once for a row whether it counts, and not for each sum.
            OFFSET 0
        ) AS b
        GROUP BY b.label, b.level, b.time
    ), members AS (
        SELECT most.bin, most.label, sum(most.gpus) AS gpus, sum(most.gpus_silent) AS gpus_silent
        FROM (
            SELECT CASE WHEN step IS NULL THEN start ELSE date_bin(step, u.time, '2000-01-01Z') END AS bin, u.label,
                max(u.gpus) AS gpus, max(u.gpus_silent) AS gpus_silent
            FROM used AS u GROUP BY 1, u.label, u.deployment_id, u.site_id, u.gpu_model
        ) AS most
        GROUP BY 1, 2
    ), variations AS (
        -- Of the level with the most buckets: minutes and hours are not to be compared.
        SELECT DISTINCT ON (r.bin, r.label) r.bin, r.label, stddev_samp(r.ratio) / nullif(avg(r.ratio), 0) AS variation
        FROM (
            SELECT b.bin, b.label, b.level,
                b.mj::double precision / nullif(b.generated_tokens, 0)::double precision AS ratio
            FROM buckets AS b
        ) AS r
        GROUP BY r.bin, r.label, r.level
        ORDER BY r.bin, r.label, count(r.ratio) DESC, r.level
    ), sums AS (
        SELECT b.bin, b.label, sum(b.all_mj) AS all_mj, sum(b.measured_pue_mj) AS measured_pue_mj, sum(b.expected_ms) AS expected_ms,
            sum(b.all_prompt) AS all_prompt, sum(b.all_cached) AS all_cached, sum(b.all_generated) AS all_generated,
            sum(b.all_requests) AS all_requests, sum(b.mj) AS mj, sum(b.prefill_mj) AS prefill_mj,
            sum(b.decode_mj) AS decode_mj, sum(b.energy_ms) AS energy_ms, sum(b.whole_mj) AS whole_mj,
            coalesce(sum(b.interpolated_mj), 0) AS interpolated_mj, coalesce(sum(b.integrated_mj), 0) AS integrated_mj,
            coalesce(sum(b.modelled_mj), 0) AS modelled_mj, sum(b.prompt_tokens) AS prompt_tokens,
            sum(b.generated_tokens) AS generated_tokens, sum(b.requests) AS requests,
            sum(b.prefill_tokens) AS prefill_tokens, sum(b.decode_tokens) AS decode_tokens,
            coalesce(sum(b.promptless_mj), 0) AS promptless_mj, coalesce(sum(b.promptless_tokens), 0) AS promptless_tokens,
            sum(b.requestless_mj) AS requestless_mj, sum(b.requestless_ms) AS requestless_ms
        FROM buckets AS b
        GROUP BY 1, 2
    ), until AS MATERIALIZED (
        -- Minutes that begin before the period or end after it are not in it.
        SELECT least(date_bin('1 minute', stop, '2000-01-01Z'), expanded.deployments_until()) AS known,
            date_bin('1 minute', start + interval '1 minute' - interval '1 us', '2000-01-01Z') AS first
    )
    SELECT
        s.bin,
        s.label,
        s.all_mj / 1000,
        s.all_prompt,
        s.all_cached,
        s.all_generated,
        s.all_requests,
        (s.all_generated / nullif(greatest(0, extract(epoch FROM
            least(coalesce(s.bin + step, stop), until.known) - greatest(s.bin, until.first))), 0))::double precision,
        ratio.j_per_generated_token,
        ((s.mj - s.promptless_mj) / 1000 / nullif(s.prompt_tokens + s.generated_tokens - s.promptless_tokens, 0))::double precision,
        ((coalesce(s.mj, 0) - s.requestless_mj) / 1000 / nullif(s.requests, 0))::double precision,
        1000000 / nullif(ratio.j_per_generated_token, 0),
        (s.prefill_mj / 1000 / nullif(s.prefill_tokens, 0))::double precision,
        (s.decode_mj / 1000 / nullif(s.decode_tokens, 0))::double precision,
        v.variation,
        coalesce(m.gpus, 0)::bigint,
        coalesce(m.gpus_silent, 0)::bigint,
        (coalesce(s.energy_ms, 0) / nullif(s.expected_ms, 0))::double precision,
        (1 - (s.interpolated_mj + s.integrated_mj + s.modelled_mj) / nullif(s.whole_mj, 0))::double precision,
        (s.interpolated_mj / nullif(s.whole_mj, 0))::double precision,
        (s.integrated_mj / nullif(s.whole_mj, 0))::double precision,
        (s.modelled_mj / nullif(s.whole_mj, 0))::double precision,
        (s.energy_ms / 1000 / nullif(s.generated_tokens, 0))::double precision,
        ((coalesce(s.energy_ms, 0) - s.requestless_ms) / 1000 / nullif(s.requests, 0))::double precision,
        CASE WHEN boundary = 'facility' THEN (coalesce(s.measured_pue_mj, 0) / nullif(s.all_mj, 0))::double precision END
    FROM sums AS s
    LEFT JOIN members AS m USING (bin, label)
    LEFT JOIN variations AS v USING (bin, label)
    CROSS JOIN until
    CROSS JOIN LATERAL (
        SELECT (s.mj / 1000 / nullif(s.generated_tokens, 0))::double precision AS j_per_generated_token
    ) AS ratio;
END
$$;

CREATE FUNCTION report.energy_per_token(
    start timestamptz,
    stop timestamptz,
    step interval DEFAULT NULL,
    group_by text DEFAULT 'fleet',
    in_boundary text DEFAULT NULL,
    in_site text DEFAULT NULL,
    in_gpu_model text DEFAULT NULL,
    in_deployment text DEFAULT NULL
) RETURNS TABLE (
    "time" timestamptz, label text, boundary text, energy_j numeric, prompt_tokens numeric, cached_tokens numeric,
    generated_tokens numeric, requests numeric, generated_tokens_per_s double precision,
    j_per_generated_token double precision, j_per_token double precision, j_per_request double precision,
    tokens_per_s_per_mw double precision, prefill_j_per_prompt_token double precision,
    decode_j_per_generated_token double precision, variation double precision, gpus bigint, gpus_silent bigint,
    coverage double precision, measured_share double precision, interpolated_share double precision,
    integrated_share double precision, modelled_share double precision, gpu_s_per_generated_token double precision,
    gpu_s_per_request double precision, measured_pue_share double precision
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH asked AS (
        SELECT * FROM unnest(ARRAY['gpu', 'it', 'facility']) WITH ORDINALITY AS it (boundary, place)
        WHERE in_boundary IS NULL OR it.boundary = in_boundary
    )
    SELECT e.time, e.label, asked.boundary, e.energy_j, e.prompt_tokens, e.cached_tokens, e.generated_tokens, e.requests,
        e.generated_tokens_per_s, e.j_per_generated_token, e.j_per_token, e.j_per_request, e.tokens_per_s_per_mw,
        e.prefill_j_per_prompt_token, e.decode_j_per_generated_token, e.variation, e.gpus, e.gpus_silent, e.coverage,
        e.measured_share, e.interpolated_share, e.integrated_share, e.modelled_share, e.gpu_s_per_generated_token,
        e.gpu_s_per_request, e.measured_pue_share
    FROM asked CROSS JOIN LATERAL expanded.energy_per_token_at(
        asked.boundary, start, stop, step, group_by, in_site, in_gpu_model, in_deployment
    ) AS e
    ORDER BY 1, 2, asked.place;
END
$$;
COMMENT ON FUNCTION report.energy_per_token IS
    'Energy (J) for each generated token, token and request from start to stop, by step (whole minutes; NULL: the whole period), '
    'by fleet, site, gpu_model, deployment or model, and by boundary (gpu, it, facility); beside it the sums, tokens/s, '
    'tokens/s/MW, the coefficient of variation, and from 0 to 1 the coverage, how the energy was obtained, and at boundary facility '
    'the part with a measured PUE';
