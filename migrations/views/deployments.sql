-- What deployments used and served over a period, for the views of schema report alone.
-- Definition: sums of the buckets that make up the period: days, then hours and minutes at its edges, as far as they are
-- folded (about 80 s after a minute's end).
-- Missing data: a bucket without a deployment has no row. GPUs that nothing is heard of are in expected_ms alone.
-- needs: expanded, factors, facility_parts
-- The buckets that make a period up: of days, hours and minutes, as far as steps are made of them, the whole ones that no
-- coarser ones cover. Of each level two spans [from, to), before and after what is covered; where there is none, both infinity.
-- As an array, so that statements have their times as constants: with others they were planned to read whole tables.
CREATE FUNCTION expanded.deployment_spans(start timestamptz, stop timestamptz, step interval) RETURNS timestamptz[]
LANGUAGE plpgsql STABLE PARALLEL SAFE
AS $$
DECLARE
    origin constant timestamptz := '2000-01-01Z';
    none constant timestamptz[] := '{{infinity,infinity}}';
    spans timestamptz[] := '{}';
    covered_first timestamptz;
    covered_beyond timestamptz;
    low timestamptz;
    high timestamptz;
    it record;
BEGIN
    FOR it IN SELECT l.name, l.length FROM expanded.level AS l WHERE l.name <> 'raw' ORDER BY l.place LOOP
        low := date_bin(it.length, start, origin);
        low := CASE WHEN low < start THEN low + it.length ELSE low END;
        high := least(stop, expanded.folded('deployment_' || it.name));
        -- What is not folded has no bucket, and no beginning of one.
        high := CASE WHEN isfinite(high) THEN date_bin(it.length, high, origin) ELSE high END;
        IF low >= high OR mod(extract(epoch FROM step), extract(epoch FROM it.length)) <> 0 THEN
            spans := spans || none || none;
            CONTINUE;
        END IF;
        covered_first := coalesce(covered_first, high);
        covered_beyond := coalesce(covered_beyond, high);
        spans := spans
            || CASE WHEN low < covered_first THEN ARRAY[[low, covered_first]] ELSE none END
            || CASE WHEN covered_beyond < high THEN ARRAY[[covered_beyond, high]] ELSE none END;
        covered_first := least(covered_first, low);
        covered_beyond := greatest(covered_beyond, high);
    END LOOP;
    RETURN spans;
END
$$;

-- Up to when deployments' figures are known now.
CREATE FUNCTION expanded.deployments_until() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT greatest(expanded.folded('deployment_1m'), '2000-01-01Z');
END;

-- A sum of so few that a bigint holds it, as of one bucket: faster than sum(), which gives a numeric.
CREATE AGGREGATE expanded.total(bigint) (SFUNC = int8pl, STYPE = bigint, COMBINEFUNC = int8pl, PARALLEL = SAFE);

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

-- The buckets of a period, of deployments, engines, latencies and sites. These functions, and those of SQL below, are taken apart
-- into the statements that ask them, so that no rows are kept in between and what is not asked for is not worked out.
DO $$
DECLARE
    kind text;
BEGIN
    FOREACH kind IN ARRAY ARRAY['deployment', 'serving', 'latency', 'site'] LOOP
        EXECUTE format(
            'CREATE FUNCTION expanded.%1$s_buckets(spans timestamptz[]) RETURNS SETOF expanded.%1$s_bucket'
            ' LANGUAGE sql STABLE PARALLEL SAFE BEGIN ATOMIC SELECT b.* FROM expanded.%1$s_bucket AS b WHERE %2$s; END',
            kind,
            (SELECT string_agg(
                format(
                    'b.level = %1$L AND ((b.time >= spans[%2$s][1] AND b.time < spans[%2$s][2])'
                    ' OR (b.time >= spans[%3$s][1] AND b.time < spans[%3$s][2]))',
                    of.level, 2 * of.place - 1, 2 * of.place),
                ' OR ' ORDER BY of.place)
            FROM unnest(ARRAY['1d', '1h', '1m']) WITH ORDINALITY AS of (level, place))
        );
    END LOOP;
END $$;

-- Deployments with what they are called in a grouping. Nobody measures how models on one engine share its energy: a
-- deployment that served several in the period is of all of them together.
CREATE FUNCTION expanded.deployment_names(spans timestamptz[], group_by text, in_deployment text)
RETURNS TABLE (deployment_id integer, name text, role text, model text)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT d.deployment_id, d.name, d.role, served.model
    FROM gigawatch.deployment AS d
    LEFT JOIN (
        SELECT of.name, string_agg(DISTINCT b.model, ' + ' ORDER BY b.model) AS model
        FROM (
            SELECT DISTINCT it.deployment_id, it.model FROM expanded.serving_buckets(spans) AS it
            WHERE it.model <> '' AND (in_deployment IS NULL OR it.deployment_id
                = ANY (ARRAY(SELECT d.deployment_id FROM gigawatch.deployment AS d WHERE d.name = in_deployment)))
        ) AS b
        JOIN gigawatch.deployment AS of USING (deployment_id)
        GROUP BY of.name
    ) AS served ON group_by = 'model' AND served.name = d.name
    WHERE in_deployment IS NULL OR d.name = in_deployment;
END;

-- What hosts use beside their GPUs, by GPU model, as far as they are metered: mW for each GPU.
CREATE FUNCTION expanded.host_power(spans timestamptz[]) RETURNS TABLE (gpu_model text, mw numeric)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT b.gpu_model, sum(b.host_mj) * 1000 / sum(b.host_ms)
    FROM expanded.site_buckets(spans) AS b
    GROUP BY b.gpu_model
    HAVING sum(b.host_ms) > 0;
END;

-- Hours and days of some spans in which a site's configured PUE changes, with its mean by time: NULL unless all of the bucket has one.
-- What counts in such a bucket, and not in all of it, begins or ends within it. What changes before the period or after it does not matter.
CREATE FUNCTION expanded.changing_pue(spans timestamptz[])
RETURNS TABLE (site_id integer, level text, "time" timestamptz, value numeric)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 100
BEGIN ATOMIC
    SELECT f.site_id, l.name, b.time, CASE WHEN sum(part.s) = extract(epoch FROM l.length) THEN sum(part.s * f.pue) / sum(part.s) END
    FROM gigawatch.configured_pue AS f
    CROSS JOIN (
        SELECT min(moment) AS first, max(moment) FILTER (WHERE isfinite(moment)) AS beyond FROM unnest(spans) AS moment
    ) AS period
    CROSS JOIN (VALUES ('1h', interval '1 hour'), ('1d', '1 day')) AS l (name, length)
    CROSS JOIN LATERAL (
        SELECT date_bin(l.length, change.moment, '2000-01-01Z') AS time,
            bool_or(change.moment > period.first AND change.moment < period.beyond) AS matters
        FROM (VALUES (f.start), (f.stop)) AS change (moment)
        WHERE change.moment <> date_bin(l.length, change.moment, '2000-01-01Z')
        GROUP BY 1
    ) AS b
    CROSS JOIN LATERAL (
        SELECT extract(epoch FROM least(f.stop, b.time + l.length) - greatest(f.start, b.time)) AS s
    ) AS part
    WHERE f.retired IS NULL AND f.stop > period.first - interval '1 day' AND f.start < period.beyond + interval '1 day'
    GROUP BY f.site_id, l.name, l.length, b.time
    HAVING bool_or(b.matters);
END;

-- Energy by bucket at one boundary: mj is NULL where it is not known there, since neither the hosts nor others with the same GPUs
-- are metered, or the site has no PUE at that time. whole_mj is what the parts by method are parts of: the energy at boundary gpu
-- or it. modelled_mj is what was split among deployments that share GPUs, and what was taken from others' hosts. The PUE is
-- that which was measured of the site and day, at the category nearest to the IT equipment (pue_measured), else the one configured:
-- the mean by time of an hour or day in which it changes, where all of it has one.
CREATE FUNCTION expanded.used_by_deployments(
    spans timestamptz[], host_spans timestamptz[], boundary text, in_site text, in_gpu_model text, in_deployment text
) RETURNS TABLE (
    level text, "time" timestamptz, deployment_id integer, site_id integer, gpu_model text, whole boolean, gpus integer,
    gpus_silent integer, expected_ms bigint, energy_ms bigint, gpu_mj bigint, interpolated_mj bigint, integrated_mj bigint,
    modelled_mj bigint, observed_mj bigint, active_mj bigint, whole_mj bigint, mj bigint, pue_measured boolean
)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT b.level, b.time, b.deployment_id, b.site_id, b.gpu_model, b.whole, b.gpus, b.gpus_silent, b.expected_ms,
        b.energy_ms, b.energy_mj, b.energy_interpolated_mj, b.energy_integrated_mj + b.energy_estimated_mj,
        b.energy_shared_mj + CASE WHEN boundary = 'gpu' THEN 0 ELSE host.modelled_mj END, b.observed_mj, b.active_mj,
        CASE WHEN boundary = 'gpu' THEN b.energy_mj ELSE it.mj END,
        CASE boundary WHEN 'gpu' THEN b.energy_mj WHEN 'it' THEN it.mj ELSE (it.mj * coalesce(measured.value,
            CASE WHEN changing.site_id IS NULL THEN pue.value ELSE changing.value END))::bigint END,
        measured.value IS NOT NULL
    FROM expanded.deployment_buckets(spans) AS b
    -- At boundary gpu nothing of it is asked for, and it is left out.
    LEFT JOIN expanded.host_power(host_spans) AS hosts ON hosts.gpu_model = b.gpu_model
    LEFT JOIN expanded.measured_pue(host_spans) AS measured ON boundary = 'facility' AND measured.site_id = b.site_id
        AND measured.day = date_bin('1 day', b.time, '2000-01-01Z')
    LEFT JOIN expanded.configured_pue AS pue ON boundary = 'facility' AND pue.site_id = b.site_id
        AND b.time >= pue.first AND b.time < pue.beyond
    CROSS JOIN LATERAL (
        SELECT CASE WHEN b.energy_ms <= b.host_ms THEN 0 ELSE ((b.energy_ms - b.host_ms) * hosts.mw / 1000)::bigint END
            AS modelled_mj
    ) AS host
    CROSS JOIN LATERAL (SELECT b.energy_mj + b.host_mj + host.modelled_mj AS mj) AS it
    LEFT JOIN expanded.changing_pue(host_spans) AS changing ON boundary = 'facility' AND changing.site_id = b.site_id
        AND changing.level = b.level AND changing.time = b.time
    WHERE (in_site IS NULL OR b.site_id = (SELECT site.site_id FROM gigawatch.site WHERE site.name = in_site))
        AND (in_gpu_model IS NULL OR b.gpu_model = in_gpu_model)
        AND (in_deployment IS NULL OR b.deployment_id
            = ANY (ARRAY(SELECT d.deployment_id FROM gigawatch.deployment AS d WHERE d.name = in_deployment)));
END;

-- Tokens and requests by bucket.
CREATE FUNCTION expanded.served_by_deployments(
    spans timestamptz[], in_site text, in_gpu_model text, in_deployment text
) RETURNS TABLE (
    level text, "time" timestamptz, deployment_id integer, site_id integer, gpu_model text, role text, name text,
    whole boolean, covered_ms bigint, observed_ms bigint, scrapes_taken bigint, scrapes_expected bigint,
    prompt_tokens bigint, cached_tokens bigint, generated_tokens bigint, requests_finished bigint,
    running_request_ms bigint, waiting_request_ms bigint, active_ms bigint, running_requests_max bigint,
    kv_cache_use_max_pm smallint
)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- Where prefill and decode run apart, both may count the same tokens: prompts are the prefill's, answers the decode's.
    SELECT b.level, b.time, b.deployment_id, b.site_id, b.gpu_model, d.role, d.name,
        b.whole, b.covered_ms, b.observed_ms, b.scrapes_taken::bigint, b.scrapes_expected::bigint,
        CASE WHEN d.role <> 'decode' THEN b.prompt_tokens END, CASE WHEN d.role <> 'decode' THEN b.cached_tokens END,
        CASE WHEN d.role <> 'prefill' THEN b.generated_tokens END,
        CASE WHEN d.role <> 'prefill' THEN b.requests_finished END,
        b.running_request_ms, b.waiting_request_ms, b.active_ms, b.running_requests_max, b.kv_cache_use_max_pm
    FROM expanded.serving_buckets(spans) AS b
    JOIN gigawatch.deployment AS d USING (deployment_id)
    WHERE (in_site IS NULL OR b.site_id = (SELECT site.site_id FROM gigawatch.site WHERE site.name = in_site))
        AND (in_gpu_model IS NULL OR b.gpu_model = in_gpu_model)
        AND (in_deployment IS NULL OR b.deployment_id
            = ANY (ARRAY(SELECT d.deployment_id FROM gigawatch.deployment AS d WHERE d.name = in_deployment)));
END;

-- Latencies' quantiles, s: by histograms added up, with linear interpolation within a bucket. Above the last bound it is that
-- bound, as Prometheus has it. Of histograms with other bounds, each bound says how many were at most that.
CREATE FUNCTION expanded.latency_quantiles(
    start timestamptz, stop timestamptz, step interval, group_by text, in_site text, in_gpu_model text, in_deployment text,
    in_latencies text[]
) RETURNS TABLE (
    bin timestamptz, label text, latency text, count double precision, p50_s double precision, p95_s double precision,
    p99_s double precision
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    buckets integer := (SELECT coalesce(max(cardinality(bounds.bounds_us)), 0) + 1 FROM gigawatch.latency_bounds AS bounds);
BEGIN
    PERFORM expanded.check_grouping(group_by);
    -- Summed bucket by bucket, as many sums as the longest histogram has: rows of a bucket each took ten times as long. Doubles
    -- hold the sums exactly, and take less memory.
    RETURN QUERY EXECUTE format($query$
    WITH histograms AS (
        SELECT CASE WHEN $3 IS NULL THEN $1 ELSE date_bin($3, b.time, '2000-01-01Z') END AS bin,
            expanded.serving_label($4, site.name, b.gpu_model, d.name, d.model) AS label, b.latency, b.bounds_id,
            ARRAY[%s] AS counts
        FROM expanded.latency_buckets($9) AS b
        JOIN expanded.deployment_names($10, $4, $7) AS d USING (deployment_id)
        LEFT JOIN gigawatch.site USING (site_id)
        WHERE ($5 IS NULL OR b.site_id = (SELECT it.site_id FROM gigawatch.site AS it WHERE it.name = $5))
            AND ($6 IS NULL OR b.gpu_model = $6)
            AND ($7 IS NULL OR b.deployment_id
                = ANY (ARRAY(SELECT it.deployment_id FROM gigawatch.deployment AS it WHERE it.name = $7)))
            AND ($8 IS NULL OR b.latency = ANY ($8))
            -- A prefill engine's first token is what users wait for, a decode engine's are those that follow.
            AND NOT (d.role = 'decode' AND b.latency = 'time_to_first_token')
            AND NOT (d.role = 'prefill' AND b.latency <> 'time_to_first_token')
        GROUP BY 1, 2, 3, 4
    ), numbered AS MATERIALIZED (
        SELECT h.*, dense_rank() OVER (ORDER BY h.bin, h.label, h.latency) AS id FROM histograms AS h
    ), bounded AS (
        SELECT n.id, bounds.bounds_us[count.place] AS bound_us, sum(count.of_bucket) AS of_bucket
        FROM numbered AS n
        JOIN gigawatch.latency_bounds AS bounds USING (bounds_id)
        CROSS JOIN LATERAL unnest(n.counts) WITH ORDINALITY AS count (of_bucket, place)
        WHERE count.of_bucket IS NOT NULL
        GROUP BY 1, 2
    ), summed AS (
        SELECT b.*, sum(b.of_bucket) OVER upto AS upto, sum(b.of_bucket) OVER (PARTITION BY b.id) AS total,
            coalesce(lag(b.bound_us) OVER upto, 0) AS lower_us
        FROM bounded AS b
        WINDOW upto AS (PARTITION BY b.id ORDER BY b.bound_us NULLS LAST)
    ), placed AS (
        -- Of each quantile the bucket that it lies in.
        SELECT s.id, s.total, q.quantile, (s.lower_us + (coalesce(s.bound_us, s.lower_us) - s.lower_us)
            * (q.quantile * s.total - (s.upto - s.of_bucket)) / s.of_bucket) / 1000000 AS value_s
        FROM summed AS s CROSS JOIN (VALUES (0.5::double precision), (0.95), (0.99)) AS q (quantile)
        WHERE s.of_bucket > 0 AND s.upto >= q.quantile * s.total AND s.upto - s.of_bucket < q.quantile * s.total
    )
    SELECT n.bin, n.label, n.latency, p.total, p.p50_s, p.p95_s, p.p99_s
    FROM (SELECT DISTINCT it.id, it.bin, it.label, it.latency FROM numbered AS it) AS n
    JOIN (
        SELECT it.id, max(it.total) AS total, max(it.value_s) FILTER (WHERE it.quantile = 0.5) AS p50_s,
            max(it.value_s) FILTER (WHERE it.quantile = 0.95) AS p95_s,
            max(it.value_s) FILTER (WHERE it.quantile = 0.99) AS p99_s
        FROM placed AS it GROUP BY 1
    ) AS p USING (id)$query$, (SELECT string_agg(format('sum(b.counts[%s]::double precision)', place), ', ') FROM generate_series(1, buckets) AS place))
    USING start, stop, step, group_by, in_site, in_gpu_model, in_deployment, in_latencies,
        expanded.deployment_spans(start, stop, step), expanded.deployment_spans(start, stop, NULL);
END
$$;
