-- report.energy_per_token(): energy for each token and request, by fleet, site, GPU model, deployment or model.
-- Definition: ΣE / ΣN, a ratio of sums over the minutes in which energy and tokens are known of the same GPUs for the same
-- time. E is the energy of the GPUs assigned, busy or not, at the boundary: gpu (the GPUs' counters), it (with their share by
-- GPU-time of what their nodes use beside them), facility (that times the site's PUE at that time). N is generated tokens for
-- j_per_generated_token, the headline; prompt and generated tokens for j_per_token; finished requests for j_per_request.
-- tokens_per_s_per_mw = 10^6 / j_per_generated_token. Where prefill and decode run apart, prompt tokens are those of prefill
-- engines and generated tokens those of decode engines, over the energy of both; prefill_j_per_prompt_token and
-- decode_j_per_generated_token are of each role's own energy. Source: METHODS of this project, after ML.ENERGY, MLPerf Power
-- and the GSF's SCI.
-- gpu_s_per_generated_token and gpu_s_per_request are the GPU-time of the same minutes. Unit: J, s. variation is the coefficient of variation of j_per_generated_token over the buckets of the period, 1.
-- Missing data: minutes in which a GPU was silent, or an engine's counts or the boundary's energy are not known, are in neither
-- sum; coverage is the GPU-time that is in them over all that the group had, silent GPUs too. Without a token the ratio is
-- absent and the energy stays in energy_j. Hosts without a meter are modelled by metered ones with the same GPUs in the same
-- period (modelled_share), and without any there is no figure. A site without a PUE has no figure at boundary facility.
-- needs: deployments
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
    gpu_s_per_request double precision
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
BEGIN
    PERFORM expanded.check_boundary(in_boundary);
    RETURN QUERY
    WITH used AS MATERIALIZED (
        SELECT it.boundary, CASE it.boundary WHEN 'gpu' THEN u.energy_mj WHEN 'it' THEN u.it_mj ELSE u.facility_mj END AS mj, u.*
        FROM unnest(ARRAY['gpu', 'it', 'facility']) AS it (boundary)
        CROSS JOIN expanded.used_by_deployments(start, stop, step, group_by, in_site, in_gpu_model, in_deployment) AS u
        WHERE in_boundary IS NULL OR it.boundary = in_boundary
    ), served AS MATERIALIZED (
        SELECT * FROM expanded.served_by_deployments(start, stop, step, group_by, in_site, in_gpu_model, in_deployment)
    ), known AS MATERIALIZED (
        -- Buckets of a deployment whose energy is known at the boundary: of a sum without a part, tokens would be too many.
        SELECT u.boundary, u.level, u.time, u.name FROM used AS u WHERE u.whole
        GROUP BY 1, 2, 3, 4 HAVING bool_and(u.mj IS NOT NULL)
    ), energy AS MATERIALIZED (
        SELECT u.boundary, u.bin, u.label, sum(u.mj) AS all_mj, sum(u.expected_ms) AS expected_ms,
            sum(u.mj) FILTER (WHERE k.name IS NOT NULL) AS mj,
            sum(u.mj) FILTER (WHERE k.name IS NOT NULL AND u.role = 'prefill') AS prefill_mj,
            sum(u.mj) FILTER (WHERE k.name IS NOT NULL AND u.role = 'decode') AS decode_mj,
            sum(u.energy_ms) FILTER (WHERE k.name IS NOT NULL) AS energy_ms,
            -- Parts of the GPUs' energy, brought to the boundary as the whole of it is.
            sum(u.interpolated_mj::numeric * u.mj / nullif(u.energy_mj, 0)) FILTER (WHERE k.name IS NOT NULL) AS interpolated_mj,
            sum(u.integrated_mj::numeric * u.mj / nullif(u.energy_mj, 0)) FILTER (WHERE k.name IS NOT NULL) AS integrated_mj,
            sum((u.shared_mj + CASE u.boundary WHEN 'gpu' THEN 0 ELSE u.modelled_mj END)::numeric
                * CASE u.boundary WHEN 'facility' THEN u.mj::numeric / nullif(u.it_mj, 0) ELSE 1 END)
                FILTER (WHERE k.name IS NOT NULL) AS modelled_mj
        FROM used AS u
        LEFT JOIN known AS k ON u.whole AND k.boundary = u.boundary AND k.level = u.level AND k.time = u.time AND k.name = u.name
        GROUP BY 1, 2, 3
    ), members AS MATERIALIZED (
        SELECT most.bin, most.label, sum(most.gpus) AS gpus, sum(most.gpus_silent) AS gpus_silent FROM (
            SELECT u.bin, u.label, max(u.gpus) AS gpus, max(u.gpus_silent) AS gpus_silent
            FROM used AS u GROUP BY u.bin, u.label, u.deployment_id, u.site_id, u.gpu_model
        ) AS most GROUP BY 1, 2
    ), totals AS MATERIALIZED (
        SELECT s.bin, s.label, sum(s.prompt_tokens) AS prompt_tokens, sum(s.cached_tokens) AS cached_tokens,
            sum(s.generated_tokens) AS generated_tokens, sum(s.requests_finished) AS requests
        FROM served AS s GROUP BY 1, 2
    ), tokens AS MATERIALIZED (
        SELECT k.boundary, s.bin, s.label, sum(s.prompt_tokens) AS prompt_tokens,
            sum(s.generated_tokens) AS generated_tokens, sum(s.requests_finished) AS requests,
            sum(s.prompt_tokens) FILTER (WHERE s.role = 'prefill') AS prefill_tokens,
            sum(s.generated_tokens) FILTER (WHERE s.role = 'decode') AS decode_tokens
        FROM served AS s JOIN known AS k ON s.whole AND k.level = s.level AND k.time = s.time AND k.name = s.name
        GROUP BY 1, 2, 3
    ), ratios AS MATERIALIZED (
        SELECT e.boundary, e.bin, e.label, e.level, e.mj / nullif(t.generated_tokens, 0) AS ratio
        FROM (
            SELECT u.boundary, u.bin, u.label, u.level, u.time, sum(u.mj) AS mj
            FROM used AS u JOIN known AS k USING (boundary, level, "time", name) WHERE u.whole GROUP BY 1, 2, 3, 4, 5
        ) AS e
        JOIN (
            SELECT s.bin, s.label, s.level, s.time, sum(s.generated_tokens) AS generated_tokens
            FROM served AS s WHERE s.whole GROUP BY 1, 2, 3, 4
        ) AS t USING (bin, label, level, "time")
    ), variations AS MATERIALIZED (
        -- Of the level with the most buckets: minutes and hours are not to be compared.
        SELECT DISTINCT ON (r.boundary, r.bin, r.label) r.boundary, r.bin, r.label,
            (stddev_samp(r.ratio) / nullif(avg(r.ratio), 0))::double precision AS variation
        FROM ratios AS r GROUP BY r.boundary, r.bin, r.label, r.level
        ORDER BY r.boundary, r.bin, r.label, count(r.ratio) DESC, r.level
    ), known_until AS MATERIALIZED (
        SELECT least(stop, expanded.deployments_until()) AS until
    )
    SELECT
        e.bin,
        e.label,
        e.boundary,
        e.all_mj / 1000,
        a.prompt_tokens,
        a.cached_tokens,
        a.generated_tokens,
        a.requests,
        (a.generated_tokens / nullif(greatest(0, extract(epoch FROM
            least(coalesce(e.bin + step, stop), known_until.until) - greatest(e.bin, start))), 0))::double precision,
        ratio.j_per_generated_token,
        (e.mj / 1000 / nullif(t.prompt_tokens + t.generated_tokens, 0))::double precision,
        (e.mj / 1000 / nullif(t.requests, 0))::double precision,
        1000000 / nullif(ratio.j_per_generated_token, 0),
        (e.prefill_mj / 1000 / nullif(t.prefill_tokens, 0))::double precision,
        (e.decode_mj / 1000 / nullif(t.decode_tokens, 0))::double precision,
        v.variation,
        m.gpus::bigint,
        m.gpus_silent::bigint,
        (coalesce(e.energy_ms, 0) / nullif(e.expected_ms, 0))::double precision,
        (1 - (coalesce(e.interpolated_mj, 0) + coalesce(e.integrated_mj, 0) + coalesce(e.modelled_mj, 0)) / nullif(e.mj, 0))
            ::double precision,
        (coalesce(e.interpolated_mj, 0) / nullif(e.mj, 0))::double precision,
        (coalesce(e.integrated_mj, 0) / nullif(e.mj, 0))::double precision,
        (coalesce(e.modelled_mj, 0) / nullif(e.mj, 0))::double precision,
        (e.energy_ms / 1000 / nullif(t.generated_tokens, 0))::double precision,
        (e.energy_ms / 1000 / nullif(t.requests, 0))::double precision
    FROM energy AS e
    JOIN members AS m USING (bin, label)
    CROSS JOIN known_until
    LEFT JOIN totals AS a USING (bin, label)
    LEFT JOIN tokens AS t ON t.boundary = e.boundary AND t.bin = e.bin AND t.label = e.label
    LEFT JOIN variations AS v ON v.boundary = e.boundary AND v.bin = e.bin AND v.label = e.label
    CROSS JOIN LATERAL (
        SELECT (e.mj / 1000 / nullif(t.generated_tokens, 0))::double precision AS j_per_generated_token
    ) AS ratio
    ORDER BY 1, 2, array_position(ARRAY['gpu', 'it', 'facility'], e.boundary);
END
$$;
COMMENT ON FUNCTION report.energy_per_token IS
    'Energy (J) for each generated token, token and request from start to stop, by step (whole minutes; NULL: the whole period), '
    'by fleet, site, gpu_model, deployment or model, and by boundary (gpu, it, facility); beside it the sums, tokens/s, '
    'tokens/s/MW, the coefficient of variation, and from 0 to 1 the coverage and how the energy was obtained';
