-- report.serving(): what deployments served, and how long their users waited, by fleet, site, GPU model, deployment or model.
-- Definition: rates are counts over the whole minutes of the period; batch is Σ running requests · time / Σ observed time of the engines,
-- the mean of what an engine runs at once; active_share is the part of that time in which requests ran. Latencies are quantiles
-- of the engines' histograms added up, with linear interpolation within a bucket: right over any period and group. Where prefill
-- and decode run apart, prompts and the first token are those of prefill engines, all else those of decode engines.
-- Unit: 1/s, s. Source: METHODS of this project.
-- Missing data: what an engine does not tell is absent. interpolated_share is the part of the time whose counts were spread over
-- a gap in the readings, scrape_coverage the readings taken over those due.
-- needs: deployments
CREATE FUNCTION report.serving(
    start timestamptz,
    stop timestamptz,
    step interval DEFAULT NULL,
    group_by text DEFAULT 'fleet',
    in_site text DEFAULT NULL,
    in_gpu_model text DEFAULT NULL,
    in_deployment text DEFAULT NULL,
    in_latencies text[] DEFAULT NULL
) RETURNS TABLE (
    "time" timestamptz, label text, prompt_tokens_per_s double precision, generated_tokens_per_s double precision,
    requests_per_s double precision, batch double precision, waiting double precision, running_requests_max bigint,
    active_share double precision, kv_cache_use_max double precision, ttft_p50_s double precision,
    ttft_p95_s double precision, ttft_p99_s double precision, itl_p50_s double precision, itl_p95_s double precision,
    e2e_p50_s double precision, e2e_p95_s double precision, interpolated_share double precision,
    scrape_coverage double precision
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
    WITH sums AS (
        SELECT CASE WHEN step IS NULL THEN start ELSE date_bin(step, s.time, '2000-01-01Z') END AS bin,
            expanded.serving_label(group_by, site.name, s.gpu_model, d.name, d.model) AS label, sum(s.prompt_tokens) AS prompt_tokens, sum(s.generated_tokens) AS generated_tokens,
            sum(s.requests_finished) AS requests, sum(s.covered_ms) AS covered_ms, sum(s.observed_ms) AS observed_ms,
            sum(s.running_request_ms) FILTER (WHERE s.role <> 'prefill') AS running_request_ms,
            sum(s.observed_ms) FILTER (WHERE s.role <> 'prefill' AND s.running_request_ms IS NOT NULL) AS running_ms,
            sum(s.waiting_request_ms) AS waiting_request_ms,
            sum(s.observed_ms) FILTER (WHERE s.waiting_request_ms IS NOT NULL) AS waiting_ms,
            max(s.running_requests_max) AS running_requests_max, sum(s.active_ms) AS active_ms,
            sum(s.observed_ms) FILTER (WHERE s.active_ms IS NOT NULL) AS active_of_ms,
            max(s.kv_cache_use_max_pm) AS kv_cache_use_max_pm, sum(s.scrapes_taken) AS scrapes_taken,
            sum(s.scrapes_expected) AS scrapes_expected
        FROM expanded.served_by_deployments(spans, in_site, in_gpu_model, in_deployment) AS s
        JOIN expanded.deployment_names(whole_spans, group_by, in_deployment) AS d USING (deployment_id)
        LEFT JOIN gigawatch.site USING (site_id)
        GROUP BY 1, 2
    ), quantiles AS MATERIALIZED (
        SELECT * FROM expanded.latency_quantiles(start, stop, step, group_by, in_site, in_gpu_model, in_deployment,
            in_latencies)
    ), known AS MATERIALIZED (
        -- Minutes that begin before the period or end after it are not in it.
        SELECT least(date_bin('1 minute', stop, '2000-01-01Z'), expanded.deployments_until()) AS until,
            date_bin('1 minute', start + interval '1 minute' - interval '1 us', '2000-01-01Z') AS first
    )
    SELECT
        s.bin,
        s.label,
        (s.prompt_tokens / length.s)::double precision,
        (s.generated_tokens / length.s)::double precision,
        (s.requests / length.s)::double precision,
        (s.running_request_ms / nullif(s.running_ms, 0))::double precision,
        (s.waiting_request_ms / nullif(s.waiting_ms, 0))::double precision,
        s.running_requests_max,
        (s.active_ms / nullif(s.active_of_ms, 0))::double precision,
        s.kv_cache_use_max_pm / 1000.0::double precision,
        ttft.p50_s, ttft.p95_s, ttft.p99_s, itl.p50_s, itl.p95_s, e2e.p50_s, e2e.p95_s,
        (1 - s.observed_ms / nullif(s.covered_ms, 0))::double precision,
        s.scrapes_taken::double precision / nullif(s.scrapes_expected, 0)
    FROM sums AS s
    CROSS JOIN known
    CROSS JOIN LATERAL (
        SELECT nullif(greatest(0, extract(epoch FROM
            least(coalesce(s.bin + step, stop), known.until) - greatest(s.bin, known.first))), 0) AS s
    ) AS length
    LEFT JOIN quantiles AS ttft ON ttft.bin = s.bin AND ttft.label = s.label AND ttft.latency = 'time_to_first_token'
    LEFT JOIN quantiles AS itl ON itl.bin = s.bin AND itl.label = s.label AND itl.latency = 'inter_token_latency'
    LEFT JOIN quantiles AS e2e ON e2e.bin = s.bin AND e2e.label = s.label AND e2e.latency = 'end_to_end_latency'
    ORDER BY 1, 2;
END
$$;
COMMENT ON FUNCTION report.serving IS
    'Tokens and requests (1/s), batch, waiting requests, use of the KV cache (0 to 1) and quantiles of the time to first token '
    '(ttft), between tokens (itl) and end to end (e2e), s, from start to stop, by step (whole minutes; NULL: the whole '
    'period) and by fleet, site, gpu_model, deployment or model; in_latencies (time_to_first_token, inter_token_latency, '
    'end_to_end_latency) leaves out the others, which saves a third of the time each';

-- report.deployments: what is served.
-- Definition: a row for each role of each deployment that an agent or an engine ever named. Missing data: none.
CREATE VIEW report.deployments AS
SELECT deployment.name AS deployment, deployment.role FROM gigawatch.deployment;
COMMENT ON VIEW report.deployments IS 'What GPUs serve: deployments and their roles';
COMMENT ON COLUMN report.deployments.deployment IS 'Deployment';
COMMENT ON COLUMN report.deployments.role IS 'both, or prefill or decode where these run apart';

-- report.ramp_up: how long each node took from being heard of in a deployment to its first token.
-- Definition: first_token is the start of the first window of 10 s with a generated token: of the node's own engine, or of the
-- deployment's where the node has none. ramp_up_s = first_token − first_seen. Unit: s.
-- Missing data: before the first token, first_token and ramp_up_s are absent. first_seen is the start of a minute.
CREATE VIEW report.ramp_up AS
SELECT
    deployment.name AS deployment,
    deployment.role,
    site.name AS site,
    rack.name AS rack,
    its.node_id,
    node.hostname,
    node.simulated,
    its.first_seen,
    its.first_token,
    extract(epoch FROM its.first_token - its.first_seen)::double precision AS ramp_up_s
FROM gigawatch.deployment_node AS its
JOIN gigawatch.deployment USING (deployment_id)
JOIN gigawatch.node USING (node_id)
JOIN gigawatch.site USING (site_id)
LEFT JOIN gigawatch.rack USING (rack_id);
COMMENT ON VIEW report.ramp_up IS 'How long each node took from being heard of in a deployment to its first token';
COMMENT ON COLUMN report.ramp_up.deployment IS 'Deployment';
COMMENT ON COLUMN report.ramp_up.role IS 'both, or prefill or decode where these run apart';
COMMENT ON COLUMN report.ramp_up.site IS 'Site';
COMMENT ON COLUMN report.ramp_up.rack IS 'Rack';
COMMENT ON COLUMN report.ramp_up.node_id IS 'Number of the node in this store';
COMMENT ON COLUMN report.ramp_up.hostname IS 'Host name of the node';
COMMENT ON COLUMN report.ramp_up.simulated IS 'Whether the data are simulated or replayed';
COMMENT ON COLUMN report.ramp_up.first_seen IS 'Minute in which the node was first heard of in the deployment, UTC';
COMMENT ON COLUMN report.ramp_up.first_token IS 'Start of the first window with a generated token, UTC';
COMMENT ON COLUMN report.ramp_up.ramp_up_s IS 'first_token minus first_seen, s';

-- report.tokens_until: up to when the figures of deployments are known now.
CREATE VIEW report.tokens_until AS
SELECT greatest(coalesce(max(folded), '2000-01-01Z'), '2000-01-01Z') AS until
FROM gigawatch.rollup WHERE level = 'deployment_1m';
COMMENT ON VIEW report.tokens_until IS 'Up to when the figures of deployments are known';
COMMENT ON COLUMN report.tokens_until.until IS 'End of the newest minute of which they are, UTC';
