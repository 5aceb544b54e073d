-- Energy times what a kWh costs or emits at that moment; for report.cost() and report.carbon() alone.
-- Definition: Σ over time of energy · factor, by hour where the factor is one through the hour, else by minute. Energy is
-- that of the boundary: the GPUs' alone, with their hosts', or that times the site's PUE: as measured of the day, else as configured. The parts of a period add up to the whole. Unit: kWh times the factor's unit.
-- Missing data: energy without a factor has no share in the amount, and lowers factor_coverage. Of an hour whose minutes
-- are not all kept, or no longer, the energy is spread evenly over it: split_share says how much that is.
-- needs: expanded, power, factors, deployments
-- How far a level is folded, of sites or of deployments.
CREATE FUNCTION expanded.folded_of(in_of text, in_level text) RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT expanded.folded(CASE in_of WHEN 'site' THEN '' ELSE in_of || '_' END || in_level);
END;

-- The energy of a period in pieces of one site (in_of: or one deployment), GPU model and factor, each within an hour; value
-- is NULL without a factor. What is not folded is read from windows, which know of no host, and only of sites.
CREATE FUNCTION expanded.energy_pieces(
    start timestamptz, stop timestamptz, in_kind text, in_site text, in_gpu_model text, in_of text, in_deployment text,
    with_windows boolean
) RETURNS TABLE (
    site_id integer, deployment_id integer, gpu_model text, hour timestamptz, gpus bigint, energy_mj numeric,
    energy_ms numeric, uncounted_mj numeric, host_mj numeric, host_ms numeric, split boolean, value numeric, unit text,
    estimated boolean
)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH factors AS MATERIALIZED (
        -- Hour by hour, so that they are joined by equality.
        SELECT f.site_id, each.hour, greatest(f.first, each.hour) AS first,
            least(f.beyond, each.hour + interval '1 hour') AS beyond, f.value, f.unit, f.estimated
        FROM expanded.factor AS f
        CROSS JOIN LATERAL generate_series(
            date_bin('1 hour', greatest(f.first, start), '2000-01-01Z'), least(f.beyond, stop) - interval '1 us',
            interval '1 hour'
        ) AS each (hour)
        WHERE f.kind = in_kind AND f.first < stop AND f.beyond > start
    ), uneven AS MATERIALIZED (
        SELECT DISTINCT f.site_id, f.hour FROM factors AS f
        WHERE f.first > f.hour OR f.beyond < f.hour + interval '1 hour'
    ), edges AS MATERIALIZED (
        -- Hours that begin before the period or end after it.
        SELECT edge.hour FROM (
            VALUES (date_bin('1 hour', start, '2000-01-01Z')), (date_bin('1 hour', stop, '2000-01-01Z'))
        ) AS edge (hour)
        WHERE edge.hour < stop AND (edge.hour < start OR edge.hour + interval '1 hour' > stop)
    ), wanted AS MATERIALIZED (
        SELECT 0 AS deployment_id WHERE in_of = 'site'
        UNION ALL
        SELECT d.deployment_id FROM gigawatch.deployment AS d
        WHERE in_of = 'deployment' AND (in_deployment IS NULL OR d.name = in_deployment)
    ), places AS MATERIALIZED (
        SELECT site.site_id FROM gigawatch.site WHERE in_site IS NULL OR site.name = in_site
    ), moments AS (
        -- From which minutes of an hour on a factor is another, or it is in the period, or after it.
        SELECT it.hour, array_agg(DISTINCT it.minute ORDER BY it.minute) AS minutes
        FROM (
            SELECT f.hour, f.first AS minute FROM factors AS f UNION SELECT f.hour, f.beyond FROM factors AS f
            UNION
            SELECT date_bin('1 hour', edge.minute, '2000-01-01Z'), edge.minute
            FROM (VALUES (start), (stop)) AS given (moment)
            CROSS JOIN LATERAL (
                SELECT date_bin('1 minute', given.moment + interval '1 minute' - interval '1 us', '2000-01-01Z') AS minute
            ) AS edge
        ) AS it
        GROUP BY it.hour
    ), needed AS MATERIALIZED (
        -- Hours of which minutes are wanted: in which a factor changes, at the edges, and those that are not folded. Minutes are
        -- summed from one moment to the next: rows by the minute took three times as long.
        SELECT it.hour, it.site_ids, it.hour || moments.minutes AS moments
        FROM (
            SELECT each.hour, array_agg(each.site_id) AS site_ids
            FROM (
                SELECT uneven.site_id, uneven.hour FROM uneven JOIN places USING (site_id)
                UNION SELECT places.site_id, edges.hour FROM edges CROSS JOIN places
                UNION SELECT places.site_id, late.hour FROM places CROSS JOIN generate_series(
                    greatest(date_bin('1 hour', start, '2000-01-01Z'), expanded.folded_of(in_of, '1h')),
                    least(stop, expanded.folded_of(in_of, '1m')) - interval '1 us', interval '1 hour') AS late (hour)
            ) AS each
            GROUP BY each.hour
        ) AS it
        LEFT JOIN moments USING (hour)
    ), finer AS (
        SELECT m.*
        FROM needed
        CROSS JOIN LATERAL (
            SELECT it.site_id, it.deployment_id, it.gpu_model,
                needed.moments[width_bucket(it.time, needed.moments)] AS time,
                max(it.gpus) AS gpus, sum(it.energy_mj) AS energy_mj, sum(it.energy_ms) AS energy_ms,
                sum(it.uncounted_mj) AS uncounted_mj, sum(it.host_mj) AS host_mj, sum(it.host_ms) AS host_ms
            FROM expanded.group_bucket AS it
            WHERE it.of = in_of AND it.level = '1m'
                AND it.time >= needed.hour AND it.time < needed.hour + interval '1 hour'
                AND it.time < expanded.folded_of(in_of, '1m') AND it.site_id = ANY (needed.site_ids)
                AND (in_gpu_model IS NULL OR it.gpu_model = in_gpu_model)
                AND (in_deployment IS NULL OR it.deployment_id
                    = ANY (ARRAY(SELECT wanted.deployment_id FROM wanted)))
            GROUP BY 1, 2, 3, 4
        ) AS m
        UNION ALL
        SELECT node.site_id, 0, gpu.model, date_bin('1 minute', b.time, '2000-01-01Z') AS bucket, count(DISTINCT b.gpu_id),
            coalesce(sum(b.energy_mj), 0), coalesce(sum(b.energy_ms), 0),
            coalesce(sum(b.energy_interpolated_mj), 0) + coalesce(sum(b.energy_integrated_mj), 0)
                + coalesce(sum(b.energy_estimated_mj), 0), 0, 0
        FROM expanded.gpu_raw AS b
        JOIN gigawatch.gpu USING (gpu_id)
        JOIN gigawatch.node ON node.node_id = b.node_id
        WHERE with_windows AND NOT expanded.is_large() AND b.time >= greatest(start, expanded.folded('1m')) AND b.time < stop
        GROUP BY node.site_id, gpu.model, bucket
    ), minutes AS MATERIALIZED (
        SELECT m.site_id, m.deployment_id, m.gpu_model, date_bin('1 hour', m.time, '2000-01-01Z') AS hour,
            m.time >= start AND m.time < stop AS inside, f.value, f.unit, f.estimated, max(m.gpus) AS gpus,
            sum(m.energy_mj) AS energy_mj, sum(m.energy_ms) AS energy_ms, sum(m.uncounted_mj) AS uncounted_mj,
            sum(m.host_mj) AS host_mj, sum(m.host_ms) AS host_ms
        FROM finer AS m
        JOIN wanted USING (deployment_id)
        LEFT JOIN factors AS f ON f.site_id = m.site_id AND f.hour = date_bin('1 hour', m.time, '2000-01-01Z')
            AND m.time >= f.first AND m.time < f.beyond
        WHERE (in_site IS NULL OR m.site_id = (SELECT site.site_id FROM gigawatch.site WHERE site.name = in_site))
            AND (in_gpu_model IS NULL OR m.gpu_model = in_gpu_model)
        GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
    ), kept AS (
        SELECT m.site_id, m.deployment_id, m.gpu_model, m.hour, sum(m.energy_ms) AS energy_ms
        FROM minutes AS m GROUP BY 1, 2, 3, 4
    ), hours AS MATERIALIZED (
        SELECT b.site_id, b.deployment_id, b.gpu_model, b.time AS hour, b.gpus, b.energy_mj, b.energy_ms, b.uncounted_mj,
            b.host_mj, b.host_ms,
            CASE
                WHEN NOT EXISTS (SELECT FROM edges WHERE edges.hour = b.time)
                    AND NOT EXISTS (SELECT FROM uneven WHERE uneven.site_id = b.site_id AND uneven.hour = b.time)
                    THEN 'whole'
                -- An hour is the sum of its minutes: where they hold less, some were removed.
                WHEN coalesce(kept.energy_ms, 0) >= b.energy_ms THEN 'minutes'
                ELSE 'split'
            END AS way,
            (extract(epoch FROM least(b.time + interval '1 hour', stop) - greatest(b.time, start)) / 3600) AS share
        FROM (
            -- Of a deployment's rows, whole and not, the sum.
            SELECT it.site_id, it.deployment_id, it.gpu_model, it.time, max(it.gpus) AS gpus, sum(it.energy_mj) AS energy_mj,
                sum(it.energy_ms) AS energy_ms, sum(it.uncounted_mj) AS uncounted_mj, sum(it.host_mj) AS host_mj,
                sum(it.host_ms) AS host_ms
            FROM expanded.group_bucket AS it
            JOIN wanted USING (deployment_id)
            WHERE it.of = in_of AND it.level = '1h'
                AND (in_deployment IS NULL OR it.deployment_id = ANY (ARRAY(SELECT wanted.deployment_id FROM wanted)))
                AND it.time > start - interval '1 hour' AND it.time < stop
                AND it.time < expanded.folded_of(in_of, '1h')
            GROUP BY 1, 2, 3, 4
        ) AS b
        LEFT JOIN kept ON kept.site_id = b.site_id AND kept.deployment_id = b.deployment_id AND kept.gpu_model = b.gpu_model
            AND kept.hour = b.time
        WHERE (in_site IS NULL OR b.site_id = (SELECT site.site_id FROM gigawatch.site WHERE site.name = in_site))
            AND (in_gpu_model IS NULL OR b.gpu_model = in_gpu_model)
    ), shares AS (
        -- Parts of the hours that are split: those with a factor, and what is left without one.
        SELECT h.site_id, h.deployment_id, h.gpu_model, h.hour, f.value, f.unit, f.estimated,
            extract(epoch FROM least(f.beyond, stop) - greatest(f.first, start)) / 3600 AS share
        FROM hours AS h JOIN factors AS f ON f.site_id = h.site_id AND f.hour = h.hour
        WHERE h.way = 'split' AND f.first < stop AND f.beyond > start
    ), rest AS (
        SELECT h.site_id, h.deployment_id, h.gpu_model, h.hour, h.share - coalesce(sum(s.share), 0) AS share
        FROM hours AS h LEFT JOIN shares AS s USING (site_id, deployment_id, gpu_model, hour)
        WHERE h.way = 'split' GROUP BY h.site_id, h.deployment_id, h.gpu_model, h.hour, h.share
    )
    SELECT h.site_id, h.deployment_id, h.gpu_model, h.hour, h.gpus, h.energy_mj, h.energy_ms, h.uncounted_mj, h.host_mj,
        h.host_ms, false, f.value, f.unit, f.estimated
    FROM hours AS h LEFT JOIN factors AS f ON f.site_id = h.site_id AND f.hour = h.hour
    WHERE h.way = 'whole'
    UNION ALL
    SELECT m.site_id, m.deployment_id, m.gpu_model, m.hour, m.gpus, m.energy_mj, m.energy_ms, m.uncounted_mj, m.host_mj,
        m.host_ms, false, m.value, m.unit, m.estimated
    FROM minutes AS m LEFT JOIN hours AS h USING (site_id, deployment_id, gpu_model, hour)
    WHERE m.inside AND (h.way IS NULL OR h.way = 'minutes')
    UNION ALL
    SELECT h.site_id, h.deployment_id, h.gpu_model, h.hour, h.gpus, h.energy_mj * s.share, h.energy_ms * s.share,
        h.uncounted_mj * s.share, h.host_mj * s.share, h.host_ms * s.share, true, s.value, s.unit, s.estimated
    FROM hours AS h JOIN (
        SELECT * FROM shares
        UNION ALL SELECT r.site_id, r.deployment_id, r.gpu_model, r.hour, NULL, NULL, NULL, r.share FROM rest AS r
    ) AS s USING (site_id, deployment_id, gpu_model, hour);
END;

-- The pieces by group and bin, at a boundary: a row for each unit that some energy of it has a factor in, else one without.
CREATE FUNCTION expanded.weighed_energy(
    start timestamptz, stop timestamptz, step interval, group_by text, in_kind text, in_site text, in_gpu_model text,
    in_boundary text, in_deployment text, in_assigned boolean
) RETURNS TABLE (
    "time" timestamptz, label text, unit text, amount numeric, weighed_j double precision, energy_j double precision,
    factor_coverage double precision, estimated_share double precision, split_share double precision,
    coverage double precision, counter_share double precision, boundary_coverage double precision,
    modelled_share double precision, measured_pue_share double precision
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    chosen text := CASE
        WHEN in_assigned OR in_deployment IS NOT NULL OR group_by IN ('deployment', 'model') THEN 'deployment'
        ELSE 'site'
    END;
    whole_spans timestamptz[] := expanded.deployment_spans(start, stop, NULL);
BEGIN
    PERFORM expanded.check_grouping(group_by);
    PERFORM expanded.check_boundary(in_boundary);
    IF extract(epoch FROM step) <= 0 OR extract(epoch FROM step) % 3600 <> 0 THEN
        RAISE EXCEPTION 'step = % is not a number of whole hours', step USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN QUERY
    WITH pieces AS MATERIALIZED (
        SELECT CASE WHEN step IS NULL THEN start ELSE date_bin(step, p.hour, '2000-01-01Z') END AS bin,
            expanded.serving_label(group_by, site.name, p.gpu_model, d.name, d.model) AS label, p.*,
            CASE in_boundary WHEN 'gpu' THEN p.energy_mj WHEN 'it' THEN it.mj ELSE it.mj * at.pue END AS mj,
            CASE in_boundary WHEN 'gpu' THEN 0 WHEN 'it' THEN host.modelled_mj ELSE host.modelled_mj * at.pue END AS modelled_mj,
            measured.value IS NOT NULL AS pue_measured
        FROM expanded.energy_pieces(start, stop, in_kind, in_site, in_gpu_model, chosen, in_deployment,
            in_boundary = 'gpu' AND chosen = 'site') AS p
        JOIN gigawatch.site USING (site_id)
        LEFT JOIN expanded.deployment_names(whole_spans, group_by, in_deployment) AS d USING (deployment_id)
        LEFT JOIN expanded.host_power(whole_spans) AS others ON in_boundary <> 'gpu' AND others.gpu_model = p.gpu_model
        CROSS JOIN LATERAL (
            SELECT CASE WHEN p.energy_ms <= p.host_ms THEN 0 ELSE (p.energy_ms - p.host_ms) * others.mw / 1000 END AS modelled_mj
        ) AS host
        CROSS JOIN LATERAL (SELECT p.energy_mj + p.host_mj + host.modelled_mj AS mj) AS it
        -- The PUE is that of the beginning of the hour.
        LEFT JOIN expanded.configured_pue AS pue ON in_boundary = 'facility' AND pue.site_id = p.site_id
            AND p.hour >= pue.first AND p.hour < pue.beyond
        LEFT JOIN expanded.measured_pue(whole_spans) AS measured ON in_boundary = 'facility'
            AND measured.site_id = p.site_id AND measured.day = date_bin('1 day', p.hour, '2000-01-01Z')
        -- Where it changes within the hour, it is its mean by time, where all of the hour has one.
        LEFT JOIN expanded.changing_pue(whole_spans) AS changing ON in_boundary = 'facility'
            AND changing.site_id = p.site_id AND changing.level = '1h' AND changing.time = p.hour
        CROSS JOIN LATERAL (
            SELECT coalesce(measured.value, CASE WHEN changing.site_id IS NULL THEN pue.value ELSE changing.value END) AS pue
        ) AS at
    ), members AS (
        SELECT most.label, sum(most.gpus) AS gpus FROM (
            SELECT p.label, max(p.gpus) AS gpus FROM pieces AS p GROUP BY p.label, p.site_id, p.deployment_id, p.gpu_model
        ) AS most GROUP BY 1
    ), known AS MATERIALIZED (
        SELECT least(stop, CASE WHEN chosen = 'site' AND in_boundary = 'gpu' THEN expanded.known_until()
            ELSE expanded.deployments_until() END) AS until
    ), groups AS (
        SELECT p.bin, p.label, sum(p.energy_mj) AS gpu_mj, sum(p.mj) AS mj, sum(p.energy_ms) AS energy_ms,
            sum(p.energy_mj) FILTER (WHERE p.mj IS NOT NULL) AS known_mj, sum(p.modelled_mj) AS modelled_mj,
            sum(p.uncounted_mj) AS uncounted_mj, sum(p.mj) FILTER (WHERE p.split) AS split_mj,
            sum(p.mj) FILTER (WHERE p.pue_measured) AS measured_pue_mj
        FROM pieces AS p GROUP BY 1, 2
    ), weighed AS (
        SELECT p.bin, p.label, p.unit, sum(p.mj * p.value) AS amount, sum(p.mj) AS mj,
            sum(p.mj) FILTER (WHERE p.estimated) AS estimated_mj
        FROM pieces AS p WHERE p.value IS NOT NULL AND p.mj IS NOT NULL GROUP BY 1, 2, 3
    )
    SELECT
        g.bin,
        g.label,
        w.unit,
        w.amount / 3600000000,
        coalesce(w.mj, 0)::double precision / 1000,
        g.mj::double precision / 1000,
        (coalesce(w.mj, 0) / nullif(g.mj, 0))::double precision,
        (coalesce(w.estimated_mj, 0) / nullif(w.mj, 0))::double precision,
        (coalesce(g.split_mj, 0) / nullif(g.mj, 0))::double precision,
        -- A bin at the edge of the period is as long as its part within it.
        (g.energy_ms / 1000 / (members.gpus * nullif(extract(epoch FROM
            least(g.bin + step, known.until) - greatest(g.bin, start)), 0)))::double precision,
        (1 - g.uncounted_mj / nullif(g.gpu_mj, 0))::double precision,
        (coalesce(g.known_mj, 0) / nullif(g.gpu_mj, 0))::double precision,
        (coalesce(g.modelled_mj, 0) / nullif(g.mj, 0))::double precision,
        CASE WHEN in_boundary = 'facility' THEN (coalesce(g.measured_pue_mj, 0) / nullif(g.mj, 0))::double precision END
    FROM groups AS g
    JOIN members USING (label)
    CROSS JOIN known
    LEFT JOIN weighed AS w USING (bin, label);
END
$$;
