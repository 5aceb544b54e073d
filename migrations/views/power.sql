-- report.power: power of each GPU by the minute. report.power_series(): of any group, at any step.
-- report.fleet_energy(): energy of any group over a period.
-- Definition: power_w of a GPU is Σ energy / Σ covered time of its windows in the bucket. Power of a group in a bucket
-- is the sum over its GPUs; over several buckets it is their mean. Unit: W.
-- Missing data: a GPU without energy in a bucket has no share in it; coverage is covered GPU-time over the time of as
-- many GPUs as the group showed at most in a bucket of the period, so that a silent GPU lowers it. What is not
-- folded yet comes from the windows; in fleets beyond 2,000 nodes it is not there yet, and no time is due for it.
-- The functions here are planned for the values asked each time they are called (plpgsql does, SQL does not): of all
-- levels and groups then those are left that the values need, and one node is looked up by its index.
-- needs: expanded
CREATE VIEW report.power AS
SELECT
    minutes.time,
    site.name AS site,
    rack.name AS rack,
    node.node_id,
    node.hostname,
    node.simulated,
    gpu.uuid AS gpu_uuid,
    gpu.index AS gpu_index,
    gpu.model AS gpu_model,
    energy_mj / 1000.0::double precision AS energy_j,
    energy_ms / 1000.0::double precision AS covered_s,
    energy_mj::double precision / energy_ms AS power_w,
    power_min_mw / 1000.0::double precision AS power_min_w,
    power_max_mw / 1000.0::double precision AS power_max_w
FROM (
    SELECT time, node_id, gpu_id, energy_mj::bigint, energy_ms::bigint, power_min_mw, power_max_mw
    FROM expanded.gpu_1m
    WHERE time < (SELECT folded_1m FROM expanded.mark)
    UNION ALL
    SELECT date_bin('1 minute', time, '2000-01-01Z'), node_id, gpu_id, sum(energy_mj), sum(energy_ms),
        min(power_min_mw), max(power_max_mw)
    FROM expanded.gpu_raw
    WHERE time >= (SELECT folded_1m FROM expanded.mark)
    GROUP BY 1, 2, 3
) AS minutes
JOIN gigawatch.gpu USING (gpu_id)
JOIN gigawatch.node ON node.node_id = minutes.node_id
JOIN gigawatch.site USING (site_id)
LEFT JOIN gigawatch.rack USING (rack_id);
COMMENT ON VIEW report.power IS 'Power of each physical GPU by the minute';
COMMENT ON COLUMN report.power.time IS 'Start of the minute, UTC';
COMMENT ON COLUMN report.power.site IS 'Site';
COMMENT ON COLUMN report.power.rack IS 'Rack';
COMMENT ON COLUMN report.power.node_id IS 'Number of the node in this store';
COMMENT ON COLUMN report.power.hostname IS 'Host name of the node';
COMMENT ON COLUMN report.power.simulated IS 'Whether the data are simulated or replayed';
COMMENT ON COLUMN report.power.gpu_uuid IS 'UUID of the physical GPU';
COMMENT ON COLUMN report.power.gpu_index IS 'Index on its node';
COMMENT ON COLUMN report.power.gpu_model IS 'Model, as the driver names it';
COMMENT ON COLUMN report.power.energy_j IS 'Energy in the minute, J';
COMMENT ON COLUMN report.power.covered_s IS 'Time of the minute for which the energy is known, s';
COMMENT ON COLUMN report.power.power_w IS 'Mean power: energy_j / covered_s, W';
COMMENT ON COLUMN report.power.power_min_w IS 'Least polled power, W';
COMMENT ON COLUMN report.power.power_max_w IS 'Greatest polled power, W';

-- Sites', racks' and deployments' buckets together; of those without a deployment its number is 0.
CREATE VIEW expanded.group_bucket AS
SELECT
    'site' AS of, level, time, site_id, NULL::integer AS rack_id, gpu_model, gpus::bigint, gpus_known::bigint, power_mw,
    energy_mj, energy_ms, gpu_util_pm_ms, gpu_util_ms,
    energy_interpolated_mj + energy_integrated_mj + energy_estimated_mj AS uncounted_mj, host_mj, host_ms,
    0 AS deployment_id
FROM expanded.site_bucket
UNION ALL
SELECT
    'rack', level, time, site_id, rack_id, gpu_model, gpus::bigint, gpus_known::bigint, power_mw,
    energy_mj, energy_ms, gpu_util_pm_ms, gpu_util_ms,
    energy_interpolated_mj + energy_integrated_mj + energy_estimated_mj, host_mj, host_ms, 0
FROM expanded.rack_bucket
UNION ALL
SELECT
    'deployment', level, time, site_id, NULL, gpu_model, gpus::bigint, NULL, NULL, energy_mj, energy_ms, NULL, NULL,
    energy_interpolated_mj + energy_integrated_mj + energy_estimated_mj + energy_shared_mj, host_mj, host_ms, deployment_id
FROM expanded.deployment_bucket;

-- The buckets of one rack that begin in a period. It is looked up bucket by bucket, since the index begins with the
-- time: a range of it holds all racks. OFFSET 0 keeps the planner from reading that.
CREATE FUNCTION expanded.rack_buckets(
    first timestamptz, beyond timestamptz, in_level text, length interval, in_site_id integer, in_rack_id integer
) RETURNS SETOF expanded.group_bucket
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT b.*
    FROM generate_series(
        date_bin(length, first, '2000-01-01Z') + CASE WHEN date_bin(length, first, '2000-01-01Z') < first THEN length
            ELSE '0 s' END,
        beyond - interval '1 us', length
    ) AS bucket (start)
    CROSS JOIN LATERAL (
        SELECT it.* FROM expanded.group_bucket AS it
        WHERE it.of = 'rack' AND it.level = in_level AND it.time = bucket.start AND it.site_id = in_site_id
            AND it.rack_id = in_rack_id
        OFFSET 0
    ) AS b;
END;

-- What a group is called.
CREATE FUNCTION expanded.label(group_by text, site text, rack text, hostname text, gpu_model text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE group_by
        WHEN 'site' THEN site
        WHEN 'rack' THEN coalesce(site || ' / ' || rack, site)
        WHEN 'node' THEN hostname
        WHEN 'gpu_model' THEN gpu_model
        ELSE 'fleet'
    END;
END;

-- What the buckets of a period are made of, by group: rollups as far as they are folded, then windows; with most_racks
-- of those racks alone that had the most power in the last bucket. A statement is planned only where it is needed, with
-- the level and times of its part as constants: to plan one for all took several times as long as to run it.
CREATE FUNCTION expanded.group_parts(
    start timestamptz, stop timestamptz, step interval, group_by text, in_site text, in_rack text,
    in_node_id integer, in_gpu_model text, most_racks integer
) RETURNS TABLE (
    "time" timestamptz, label text, gpus bigint, gpus_known bigint, power_mw bigint, energy_mj bigint, energy_ms bigint,
    gpu_util_pm_ms bigint, gpu_util_ms bigint, uncounted_mj bigint
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    chosen text := expanded.level_for(step);
    of_nodes boolean := most_racks IS NULL AND (group_by IS NOT DISTINCT FROM 'node' OR in_node_id IS NOT NULL);
    of_windows boolean := most_racks IS NULL AND (chosen = 'raw' OR in_node_id IS NOT NULL OR NOT expanded.is_large());
    some_racks integer[];
    part record;
BEGIN
    IF most_racks IS NOT NULL THEN
        some_racks := ARRAY(
            SELECT b.rack_id FROM expanded.rack_bucket AS b
            WHERE b.level = CASE chosen WHEN '1m' THEN '1m' ELSE '1h' END
                AND b.time = (
                    SELECT max(it.time) FROM expanded.rack_bucket AS it
                    WHERE it.level = CASE chosen WHEN '1m' THEN '1m' ELSE '1h' END
                        AND it.time >= start AND it.time < stop
                )
                AND b.rack_id IS NOT NULL
                AND (in_site IS NULL OR b.site_id = (SELECT site.site_id FROM gigawatch.site WHERE site.name = in_site))
                AND (in_gpu_model IS NULL OR b.gpu_model = in_gpu_model)
            GROUP BY b.site_id, b.rack_id ORDER BY sum(b.power_mw) DESC, b.site_id, b.rack_id LIMIT most_racks
        );
    ELSIF in_rack IS NOT NULL THEN
        some_racks := ARRAY(SELECT rack.rack_id FROM gigawatch.rack WHERE rack.name = in_rack);
    END IF;

    FOR part IN SELECT it.* FROM expanded.parts(start, stop, chosen) AS it LOOP
        IF part.level <> 'raw' AND NOT of_nodes AND some_racks IS NULL THEN
            -- Sites, or all racks.
            RETURN QUERY
            SELECT
                b.time, expanded.label(group_by, site.name, rack.name, NULL, b.gpu_model),
                b.gpus, b.gpus_known, b.power_mw, b.energy_mj, b.energy_ms, b.gpu_util_pm_ms, b.gpu_util_ms,
                b.uncounted_mj
            FROM expanded.group_bucket AS b
            JOIN gigawatch.site USING (site_id)
            LEFT JOIN gigawatch.rack USING (rack_id)
            WHERE b.of = CASE group_by WHEN 'rack' THEN 'rack' ELSE 'site' END
                AND b.level = part.level AND b.time >= part.first AND b.time < part.beyond
                AND (in_site IS NULL OR site.name = in_site)
                AND (in_gpu_model IS NULL OR b.gpu_model = in_gpu_model);
        ELSIF part.level <> 'raw' AND NOT of_nodes THEN
            RETURN QUERY
            SELECT
                b.time,
                expanded.label(CASE WHEN most_racks IS NULL THEN group_by ELSE 'rack' END, site.name, rack.name, NULL,
                    b.gpu_model),
                b.gpus, b.gpus_known, b.power_mw, b.energy_mj, b.energy_ms, b.gpu_util_pm_ms, b.gpu_util_ms,
                b.uncounted_mj
            FROM gigawatch.rack
            JOIN gigawatch.site USING (site_id)
            CROSS JOIN LATERAL expanded.rack_buckets(part.first, part.beyond, part.level, part.length, rack.site_id,
                rack.rack_id) AS b
            WHERE rack.rack_id = ANY (some_racks)
                AND (in_site IS NULL OR site.name = in_site)
                AND (in_gpu_model IS NULL OR b.gpu_model = in_gpu_model);
        ELSIF part.level <> 'raw' OR of_windows THEN
            -- GPU by GPU: of nodes, and where there are but windows.
            RETURN QUERY
            -- Names are joined from the left: where none is asked for, they are not read.
            WITH wanted AS NOT MATERIALIZED (
                SELECT node.node_id, node.hostname, site.name AS site, rack.name AS rack
                FROM gigawatch.node
                LEFT JOIN gigawatch.site ON site.site_id = node.site_id
                LEFT JOIN gigawatch.rack ON rack.rack_id = node.rack_id
                WHERE (in_site IS NULL OR site.name = in_site)
                    AND (in_rack IS NULL OR rack.name = in_rack)
                    AND (in_node_id IS NULL OR node.node_id = in_node_id)
            ), of_gpu AS (
                -- Doubles hold the sums exactly, and are added faster than bigint is.
                SELECT wanted.hostname, wanted.site, wanted.rack, b.time AS bucket,
                    b.gpu_id, b.energy_ms, b.gpu_util_ms,
                    b.energy_mj::double precision, b.gpu_util_pm_ms::double precision,
                    (coalesce(b.energy_interpolated_mj, 0) + coalesce(b.energy_integrated_mj, 0)
                        + coalesce(b.energy_estimated_mj, 0))::double precision AS uncounted_mj
                FROM wanted
                CROSS JOIN LATERAL (
                    SELECT it.* FROM expanded.gpu_bucket AS it
                    WHERE it.level = part.level AND it.level <> 'raw' AND it.node_id = wanted.node_id
                        AND it.time >= part.first AND it.time < part.beyond
                    OFFSET 0
                ) AS b
                UNION ALL
                -- Windows of many nodes are read faster by their time.
                SELECT wanted.hostname, wanted.site, wanted.rack,
                    date_bin(CASE chosen WHEN 'raw' THEN step ELSE '1 minute' END, b.time, '2000-01-01Z'),
                    b.gpu_id, b.energy_ms, b.gpu_util_ms,
                    b.energy_mj::double precision, b.gpu_util_pm_ms::double precision,
                    (coalesce(b.energy_interpolated_mj, 0) + coalesce(b.energy_integrated_mj, 0)
                        + coalesce(b.energy_estimated_mj, 0))::double precision
                FROM wanted
                JOIN expanded.gpu_raw AS b ON b.node_id = wanted.node_id
                WHERE part.level = 'raw' AND b.time >= part.first AND b.time < part.beyond
            )
            SELECT
                b.bucket,
                expanded.label(group_by, b.site, b.rack, b.hostname, gpu.model) AS group_label,
                1::bigint,
                (sum(b.energy_ms) > 0)::integer::bigint,
                sum(b.energy_mj)::bigint * 1000 / nullif(sum(b.energy_ms), 0),
                sum(b.energy_mj)::bigint,
                sum(b.energy_ms),
                sum(b.gpu_util_pm_ms)::bigint,
                sum(b.gpu_util_ms),
                sum(b.uncounted_mj)::bigint
            FROM of_gpu AS b
            LEFT JOIN gigawatch.gpu USING (gpu_id)
            WHERE in_gpu_model IS NULL OR gpu.model = in_gpu_model
            GROUP BY b.bucket, group_label, b.gpu_id;
        END IF;
    END LOOP;
END
$$;

-- The same added up.
CREATE FUNCTION expanded.group_buckets(
    start timestamptz, stop timestamptz, step interval, group_by text, in_site text, in_rack text,
    in_node_id integer, in_gpu_model text, most_racks integer DEFAULT NULL
) RETURNS TABLE (
    "time" timestamptz, label text, gpus bigint, gpus_known bigint, power_mw bigint, energy_mj bigint, energy_ms bigint,
    gpu_util_pm_ms bigint, gpu_util_ms bigint, energy_uncounted_mj bigint
)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT
        parts.time, parts.label, sum(parts.gpus)::bigint, sum(parts.gpus_known)::bigint, sum(parts.power_mw)::bigint,
        sum(parts.energy_mj)::bigint, sum(parts.energy_ms)::bigint, sum(parts.gpu_util_pm_ms)::bigint,
        sum(parts.gpu_util_ms)::bigint, sum(parts.uncounted_mj)::bigint
    FROM expanded.group_parts(
        start, stop, step, group_by, in_site, in_rack, in_node_id, in_gpu_model, most_racks
    ) AS parts
    GROUP BY 1, 2;
END;

CREATE FUNCTION report.power_series(
    start timestamptz,
    stop timestamptz,
    step interval DEFAULT '1 minute',
    group_by text DEFAULT 'fleet',
    in_site text DEFAULT NULL,
    in_rack text DEFAULT NULL,
    in_node_id integer DEFAULT NULL,
    in_gpu_model text DEFAULT NULL,
    most_racks integer DEFAULT NULL
) RETURNS TABLE (
    "time" timestamptz, label text, power_w double precision, energy_j double precision,
    covered_s double precision, coverage double precision, gpus bigint, gpu_util_pct double precision
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH buckets AS MATERIALIZED (
        SELECT date_bin(step, b.time, '2000-01-01Z') AS bin, b.*
        FROM expanded.group_buckets(start, stop, step, group_by, in_site, in_rack, in_node_id, in_gpu_model,
            most_racks) AS b
    ), members AS (
        SELECT buckets.label, max(buckets.gpus) AS gpus FROM buckets GROUP BY 1
    ), known AS MATERIALIZED (
        -- Asked once, not for each row.
        SELECT expanded.known_until() AS until
    )
    SELECT
        buckets.bin,
        buckets.label,
        avg(buckets.power_mw)::double precision / 1000,
        sum(buckets.energy_mj)::double precision / 1000,
        sum(buckets.energy_ms)::double precision / 1000,
        -- A bin at the edge of the period is as long as its part within it.
        sum(buckets.energy_ms)::double precision / 1000 / (members.gpus * nullif(extract(epoch FROM
            least(buckets.bin + step, stop, known.until) - greatest(buckets.bin, start)), 0))::double precision,
        max(buckets.gpus_known),
        sum(buckets.gpu_util_pm_ms)::double precision / nullif(sum(buckets.gpu_util_ms), 0) / 10
    FROM buckets
    JOIN members USING (label)
    CROSS JOIN known
    GROUP BY buckets.bin, buckets.label, members.gpus, known.until
    ORDER BY 1, 2;
END
$$;
COMMENT ON FUNCTION report.power_series IS
    'Power (W), energy (J), covered GPU-time (s), coverage (0..1), reporting GPUs and mean utilisation (%) '
    'from start to stop, by step and by fleet, site, rack, node or gpu_model; with most_racks of so many racks alone, '
    'those with the most power at the end';

CREATE FUNCTION report.fleet_energy(
    start timestamptz,
    stop timestamptz,
    in_site text DEFAULT NULL,
    in_rack text DEFAULT NULL,
    in_node_id integer DEFAULT NULL,
    in_gpu_model text DEFAULT NULL
) RETURNS TABLE (
    energy_j double precision, covered_s double precision, gpus bigint, coverage double precision,
    counter_share double precision
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH edges AS (
        -- Whole hours within the period, and what is before and after them.
        SELECT least(date_bin('1 hour', start + interval '1 hour' - interval '1 us', '2000-01-01Z'), stop) AS first,
            greatest(date_bin('1 hour', stop, '2000-01-01Z'), start) AS beyond
    ), parts AS (
        SELECT b.*
        FROM edges
        CROSS JOIN LATERAL (
            VALUES
                (start, least(edges.first, stop), interval '1 minute'),
                (edges.first, greatest(edges.first, edges.beyond), '1 hour'),
                (greatest(edges.first, edges.beyond), stop, '1 minute')
        ) AS span (start, stop, step)
        CROSS JOIN LATERAL expanded.group_buckets(span.start, span.stop, span.step, 'fleet', in_site, in_rack,
            in_node_id, in_gpu_model) AS b
    )
    SELECT
        sum(parts.energy_mj)::double precision / 1000,
        coalesce(sum(parts.energy_ms), 0)::double precision / 1000,
        coalesce(max(parts.gpus), 0),
        sum(parts.energy_ms)::double precision / 1000 / (max(parts.gpus)
            * nullif(extract(epoch FROM least(stop, expanded.known_until()) - start), 0))::double precision,
        1 - sum(parts.energy_uncounted_mj)::double precision / nullif(sum(parts.energy_mj), 0)
    FROM parts;
END
$$;
COMMENT ON FUNCTION report.fleet_energy IS
    'Energy (J) of a part of the fleet from start to stop, covered GPU-time (s), GPUs, coverage (0..1) and the part of '
    'the energy that is a difference of counters (0..1)';

CREATE FUNCTION report.known_until() RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog
BEGIN ATOMIC
    SELECT expanded.known_until();
END;
COMMENT ON FUNCTION report.known_until IS
    'Up to when power_series() and fleet_energy() know a fleet: now, or beyond 2,000 nodes up to where minutes are folded';

CREATE FUNCTION report.longest_window_s(
    start timestamptz, stop timestamptz, in_node_id integer DEFAULT NULL
) RETURNS double precision
LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog
BEGIN ATOMIC
    SELECT CASE
        WHEN in_node_id IS NOT NULL THEN (
            SELECT max(w.covered_ms) / 1000.0 FROM gigawatch.gpu_window AS w
            WHERE w.time >= start AND w.time < stop AND w.node_id = in_node_id
        )
        WHEN expanded.is_large() THEN 60
        ELSE (SELECT max(w.covered_ms) / 1000.0 FROM gigawatch.gpu_window AS w WHERE w.time >= start AND w.time < stop)
    END;
END;
COMMENT ON FUNCTION report.longest_window_s IS
    'Length (s) of the longest window from start to stop; 60 for a whole fleet beyond 2,000 nodes';
