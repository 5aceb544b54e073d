-- What deployments used and served over a period, for the views of schema report alone.
-- Definition: sums of the buckets that make up the period: days, then hours and minutes at its edges, as far as they are
-- folded (about 80 s after a minute's end).
-- Missing data: a bucket without a deployment has no row. GPUs that nothing is heard of are in expected_ms alone.
-- needs: expanded, factors, facility_parts
-- The buckets that make a period up: of each level the whole ones, the coarsest first, that steps are made of.
CREATE FUNCTION expanded.deployment_parts(start timestamptz, stop timestamptz, step interval)
RETURNS TABLE (level text, first timestamptz, beyond timestamptz)
LANGUAGE plpgsql STABLE PARALLEL SAFE
AS $$
DECLARE
    origin constant timestamptz := '2000-01-01Z';
    firsts timestamptz[] := ARRAY[start];
    beyonds timestamptz[] := ARRAY[stop];
    rest_firsts timestamptz[];
    rest_beyonds timestamptz[];
    it record;
    low timestamptz;
    high timestamptz;
BEGIN
    FOR it IN SELECT l.place, l.name, l.length FROM expanded.level AS l WHERE l.name <> 'raw' ORDER BY l.place LOOP
        CONTINUE WHEN step IS NOT NULL AND mod(extract(epoch FROM step), extract(epoch FROM it.length)) <> 0;
        rest_firsts := '{}';
        rest_beyonds := '{}';
        FOR piece IN 1 .. cardinality(firsts) LOOP
            low := date_bin(it.length, firsts[piece], origin);
            low := CASE WHEN low < firsts[piece] THEN low + it.length ELSE low END;
            high := least(beyonds[piece], expanded.folded('deployment_' || it.name));
            -- What is not folded has no bucket, and no beginning of one.
            high := CASE WHEN isfinite(high) THEN date_bin(it.length, high, origin) ELSE high END;
            IF low < high THEN
                level := it.name; first := low; beyond := high;
                RETURN NEXT;
                rest_firsts := rest_firsts || firsts[piece] || high;
                rest_beyonds := rest_beyonds || low || beyonds[piece];
            ELSE
                rest_firsts := rest_firsts || firsts[piece];
                rest_beyonds := rest_beyonds || beyonds[piece];
            END IF;
        END LOOP;
        firsts := rest_firsts;
        beyonds := rest_beyonds;
    END LOOP;
END
$$;

-- Up to when deployments' figures are known now.
CREATE FUNCTION expanded.deployments_until() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT greatest(expanded.folded('deployment_1m'), '2000-01-01Z');
END;

CREATE FUNCTION expanded.check_grouping(group_by text) RETURNS void LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    IF group_by NOT IN ('fleet', 'site', 'gpu_model', 'deployment', 'model') THEN
        RAISE EXCEPTION 'group_by = % is not fleet, site, gpu_model, deployment or model', group_by
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
END
$$;

CREATE FUNCTION expanded.check_boundary(boundary text) RETURNS void LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    IF boundary NOT IN ('gpu', 'it', 'facility') THEN
        RAISE EXCEPTION 'boundary = % is not gpu, it or facility', boundary USING ERRCODE = 'invalid_parameter_value';
    END IF;
END
$$;

CREATE FUNCTION expanded.serving_label(group_by text, site text, gpu_model text, deployment text, model text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE group_by
        WHEN 'site' THEN site
        WHEN 'gpu_model' THEN gpu_model
        WHEN 'deployment' THEN deployment
        WHEN 'model' THEN coalesce(model, 'unknown')
        ELSE 'fleet'
    END;
END;

-- The buckets of a period, of deployments, engines, latencies and sites. Each part is planned for the times asked and the level
-- that it is of: one plan for all of them would read all that there is.
DO $$
DECLARE
    kind text;
BEGIN
    FOREACH kind IN ARRAY ARRAY['deployment', 'serving', 'latency'] LOOP
        EXECUTE format($definition$
            CREATE FUNCTION expanded.%1$s_buckets(start timestamptz, stop timestamptz, step interval, in_deployment text)
            RETURNS SETOF expanded.%1$s_bucket
            LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 10000 SET plan_cache_mode = force_custom_plan
            AS $body$
            DECLARE
                ids integer[] := (
                    SELECT array_agg(d.deployment_id) FROM gigawatch.deployment AS d WHERE d.name = in_deployment
                );
                part record;
            BEGIN
                FOR part IN SELECT * FROM expanded.deployment_parts(start, stop, step) LOOP
                    RETURN QUERY SELECT b.* FROM expanded.%1$s_bucket AS b
                    WHERE b.level = part.level AND b.time >= part.first AND b.time < part.beyond
                        AND (in_deployment IS NULL OR b.deployment_id = ANY (ids));
                END LOOP;
            END
            $body$ $definition$, kind);
    END LOOP;
END $$;

CREATE FUNCTION expanded.site_buckets(start timestamptz, stop timestamptz, step interval)
RETURNS TABLE (level text, "time" timestamptz, site_id integer, gpu_model text, energy_mj bigint, host_mj bigint, host_ms bigint)
LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 1000 SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    part record;
BEGIN
    FOR part IN SELECT * FROM expanded.deployment_parts(start, stop, step) LOOP
        RETURN QUERY SELECT b.level, b.time, b.site_id, b.gpu_model, b.energy_mj, b.host_mj, b.host_ms
        FROM expanded.site_bucket AS b
        WHERE b.level = part.level AND b.time >= part.first AND b.time < part.beyond;
    END LOOP;
END
$$;

-- Deployments with what they are called in a grouping. Nobody measures how models on one engine share its energy: a
-- deployment that served several in the period is of all of them together.
CREATE FUNCTION expanded.deployment_names(start timestamptz, stop timestamptz, group_by text, in_deployment text)
RETURNS TABLE (deployment_id integer, name text, role text, model text)
LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 500 SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
BEGIN
    IF group_by <> 'model' THEN
        RETURN QUERY SELECT d.deployment_id, d.name, d.role, NULL::text FROM gigawatch.deployment AS d
        WHERE in_deployment IS NULL OR d.name = in_deployment;
        RETURN;
    END IF;
    RETURN QUERY
    WITH served AS MATERIALIZED (
        SELECT d.name, string_agg(DISTINCT b.model, ' + ' ORDER BY b.model) AS model
        FROM (
            SELECT DISTINCT it.deployment_id, it.model FROM expanded.serving_buckets(start, stop, NULL, in_deployment) AS it
            WHERE it.model <> ''
        ) AS b
        JOIN gigawatch.deployment AS d USING (deployment_id)
        GROUP BY d.name
    )
    SELECT d.deployment_id, d.name, d.role, served.model
    FROM gigawatch.deployment AS d LEFT JOIN served USING (name)
    WHERE in_deployment IS NULL OR d.name = in_deployment;
END
$$;

-- What hosts use beside their GPUs, by GPU model, as far as they are metered: mW for each GPU.
CREATE FUNCTION expanded.host_power(start timestamptz, stop timestamptz) RETURNS TABLE (gpu_model text, mw numeric)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10
BEGIN ATOMIC
    SELECT b.gpu_model, sum(b.host_mj) * 1000 / sum(b.host_ms)
    FROM expanded.site_buckets(start, stop, NULL) AS b
    GROUP BY b.gpu_model
    HAVING sum(b.host_ms) > 0;
END;

-- Energy by bucket at one boundary: mj is NULL where it is not known there, since neither the hosts nor others with the same GPUs
-- are metered, or the site has no PUE at that time. whole_mj is what the parts by method are parts of: the energy at boundary gpu
-- or it. modelled_mj is what was split among deployments that share GPUs, and what was taken from others' hosts. The PUE is
-- that which was measured of the site and day, at the category nearest to the IT equipment (pue_measured), else the one configured.
CREATE FUNCTION expanded.used_by_deployments(
    start timestamptz, stop timestamptz, step interval, group_by text, boundary text, in_site text, in_gpu_model text,
    in_deployment text
) RETURNS TABLE (
    level text, "time" timestamptz, bin timestamptz, label text, name text, role text, deployment_id integer,
    site_id integer, gpu_model text, whole boolean, gpus integer, gpus_silent integer, expected_ms bigint, energy_ms bigint,
    gpu_mj bigint, interpolated_mj bigint, integrated_mj bigint, modelled_mj bigint, observed_mj bigint, active_mj bigint,
    whole_mj bigint, mj bigint, pue_measured boolean
)
LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 10000 SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
BEGIN
    PERFORM expanded.check_grouping(group_by);
    PERFORM expanded.check_boundary(boundary);
    RETURN QUERY
    WITH hosts AS MATERIALIZED (
        SELECT * FROM expanded.host_power(start, stop) WHERE boundary <> 'gpu'
    ), pues AS MATERIALIZED (
        SELECT f.site_id, f.first, f.beyond, f.value FROM expanded.factor AS f
        WHERE boundary = 'facility' AND f.kind = 'pue' AND f.first < stop AND f.beyond > start
    ), measured AS MATERIALIZED (
        SELECT m.site_id, m.day, m.value FROM expanded.measured_pue(start, stop) AS m WHERE boundary = 'facility'
    )
    SELECT b.level, b.time, CASE WHEN step IS NULL THEN start ELSE date_bin(step, b.time, '2000-01-01Z') END,
        expanded.serving_label(group_by, site.name, b.gpu_model, d.name, d.model), d.name, d.role, b.deployment_id,
        b.site_id, b.gpu_model, b.whole, b.gpus, b.gpus_silent, b.expected_ms, b.energy_ms, b.energy_mj,
        b.energy_interpolated_mj, b.energy_integrated_mj + b.energy_estimated_mj,
        b.energy_shared_mj + CASE WHEN boundary = 'gpu' THEN 0 ELSE host.modelled_mj END, b.observed_mj, b.active_mj,
        CASE WHEN boundary = 'gpu' THEN b.energy_mj ELSE it.mj END,
        CASE boundary WHEN 'gpu' THEN b.energy_mj WHEN 'it' THEN it.mj ELSE (it.mj * coalesce(measured.value, pues.value))::bigint END,
        boundary = 'facility' AND measured.value IS NOT NULL
    FROM expanded.deployment_buckets(start, stop, step, in_deployment) AS b
    JOIN expanded.deployment_names(start, stop, group_by, in_deployment) AS d USING (deployment_id)
    JOIN gigawatch.site USING (site_id)
    LEFT JOIN hosts ON hosts.gpu_model = b.gpu_model
    LEFT JOIN measured ON measured.site_id = b.site_id AND measured.day = date_bin('1 day', b.time, '2000-01-01Z')
    LEFT JOIN pues ON pues.site_id = b.site_id AND b.time >= pues.first AND b.time < pues.beyond
    CROSS JOIN LATERAL (
        SELECT CASE WHEN b.energy_ms <= b.host_ms THEN 0 ELSE ((b.energy_ms - b.host_ms) * hosts.mw / 1000)::bigint END
            AS modelled_mj
    ) AS host
    CROSS JOIN LATERAL (SELECT b.energy_mj + b.host_mj + host.modelled_mj AS mj) AS it
    WHERE (in_site IS NULL OR site.name = in_site) AND (in_gpu_model IS NULL OR b.gpu_model = in_gpu_model);
END
$$;

-- Tokens and requests by bucket.
CREATE FUNCTION expanded.served_by_deployments(
    start timestamptz, stop timestamptz, step interval, group_by text, in_site text, in_gpu_model text, in_deployment text
) RETURNS TABLE (
    level text, "time" timestamptz, bin timestamptz, label text, name text, role text, deployment_id integer,
    whole boolean, covered_ms bigint, observed_ms bigint, scrapes_taken bigint, scrapes_expected bigint,
    prompt_tokens bigint, cached_tokens bigint, generated_tokens bigint, requests_finished bigint,
    running_request_ms bigint, waiting_request_ms bigint, active_ms bigint, running_requests_max bigint,
    kv_cache_use_max_pm smallint
)
LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 10000 SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
BEGIN
    PERFORM expanded.check_grouping(group_by);
    RETURN QUERY
    -- Where prefill and decode run apart, both may count the same tokens: prompts are the prefill's, answers the decode's.
    SELECT b.level, b.time, CASE WHEN step IS NULL THEN start ELSE date_bin(step, b.time, '2000-01-01Z') END,
        expanded.serving_label(group_by, site.name, b.gpu_model, d.name, d.model), d.name, d.role, b.deployment_id,
        b.whole, b.covered_ms, b.observed_ms, b.scrapes_taken::bigint, b.scrapes_expected::bigint,
        CASE WHEN d.role <> 'decode' THEN b.prompt_tokens END, CASE WHEN d.role <> 'decode' THEN b.cached_tokens END,
        CASE WHEN d.role <> 'prefill' THEN b.generated_tokens END,
        CASE WHEN d.role <> 'prefill' THEN b.requests_finished END,
        b.running_request_ms, b.waiting_request_ms, b.active_ms, b.running_requests_max, b.kv_cache_use_max_pm
    FROM expanded.serving_buckets(start, stop, step, in_deployment) AS b
    JOIN expanded.deployment_names(start, stop, group_by, in_deployment) AS d USING (deployment_id)
    JOIN gigawatch.site USING (site_id)
    WHERE (in_site IS NULL OR site.name = in_site) AND (in_gpu_model IS NULL OR b.gpu_model = in_gpu_model);
END
$$;

-- Latencies' quantiles, s: by histograms added up, with linear interpolation within a bucket. Above the last bound it is that
-- bound, as Prometheus has it. Of histograms with other bounds, each bound says how many were at most that.
CREATE FUNCTION expanded.latency_quantiles(
    start timestamptz, stop timestamptz, step interval, group_by text, in_site text, in_gpu_model text, in_deployment text
) RETURNS TABLE (
    bin timestamptz, label text, latency text, count numeric, p50_s double precision, p95_s double precision,
    p99_s double precision
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    buckets integer := (SELECT coalesce(max(cardinality(bounds.bounds_us)), 0) + 1 FROM gigawatch.latency_bounds AS bounds);
BEGIN
    PERFORM expanded.check_grouping(group_by);
    -- Summed bucket by bucket, as many sums as the longest histogram has: rows of a bucket each took ten times as long.
    RETURN QUERY EXECUTE format($query$
    WITH buckets AS (
        SELECT CASE WHEN $3 IS NULL THEN $1 ELSE date_bin($3, b.time, '2000-01-01Z') END AS bin,
            expanded.serving_label($4, site.name, b.gpu_model, d.name, d.model) AS label, b.latency, b.bounds_id,
            ARRAY[%s] AS counts
        FROM expanded.latency_buckets($1, $2, $3, $7) AS b
        JOIN expanded.deployment_names($1, $2, $4, $7) AS d USING (deployment_id)
        JOIN gigawatch.site USING (site_id)
        WHERE ($5 IS NULL OR site.name = $5) AND ($6 IS NULL OR b.gpu_model = $6)
            -- A prefill engine's first token is what users wait for, a decode engine's are those that follow.
            AND NOT (d.role = 'decode' AND b.latency = 'time_to_first_token')
            AND NOT (d.role = 'prefill' AND b.latency <> 'time_to_first_token')
        GROUP BY 1, 2, 3, 4
    ), bounded AS (
        SELECT b.bin, b.label, b.latency, bounds.bounds_us[count.place] AS bound_us, sum(count.of_bucket) AS of_bucket
        FROM buckets AS b
        JOIN gigawatch.latency_bounds AS bounds USING (bounds_id)
        CROSS JOIN LATERAL unnest(b.counts) WITH ORDINALITY AS count (of_bucket, place)
        WHERE count.of_bucket IS NOT NULL
        GROUP BY 1, 2, 3, 4
    ), summed AS (
        SELECT b.*, sum(b.of_bucket) OVER upto AS upto, sum(b.of_bucket) OVER (PARTITION BY b.bin, b.label, b.latency) AS total,
            coalesce(lag(b.bound_us) OVER upto, 0) AS lower_us
        FROM bounded AS b
        WINDOW upto AS (PARTITION BY b.bin, b.label, b.latency ORDER BY b.bound_us NULLS LAST)
    ), placed AS (
        SELECT s.bin, s.label, s.latency, s.total, q.quantile,
            min((s.lower_us + (coalesce(s.bound_us, s.lower_us) - s.lower_us)
                * greatest(0, q.quantile * s.total - (s.upto - s.of_bucket)) / s.of_bucket) / 1000000) AS value_s
        FROM summed AS s CROSS JOIN (VALUES (0.5), (0.95), (0.99)) AS q (quantile)
        WHERE s.of_bucket > 0 AND s.upto >= q.quantile * s.total
        GROUP BY 1, 2, 3, 4, 5
    )
    SELECT p.bin, p.label, p.latency, p.total,
        (min(p.value_s) FILTER (WHERE p.quantile = 0.5))::double precision,
        (min(p.value_s) FILTER (WHERE p.quantile = 0.95))::double precision,
        (min(p.value_s) FILTER (WHERE p.quantile = 0.99))::double precision
    FROM placed AS p
    GROUP BY 1, 2, 3, 4$query$, (SELECT string_agg(format('sum(b.counts[%s])', place), ', ') FROM generate_series(1, buckets) AS place))
    USING start, stop, step, group_by, in_site, in_gpu_model, in_deployment;
END
$$;
