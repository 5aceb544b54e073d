-- What the facility's figures are made of, for the views of schema report alone.
-- Definition: which roles' meters each ratio adds up, above and below the line; which meter is above which; and the sums of a
-- period. An hour is in both sums of a ratio where each meter that they want is known for 99 % of it and can be right, else
-- in neither. A meter counts once in a sum: not where one that feeds it, or that it is a term of, is in the same sum. Unit: mJ, mL.
-- Missing data: an hour in neither sum is counted as missing or as faulty. Nothing is filled in.
-- needs: expanded, factors
-- Sides: n above the line, d below. Category 0: none. Figure zone is the PUE of a hall without a source of its own.
CREATE VIEW expanded.figure_role AS
WITH it (category, role) AS (
    VALUES (1::smallint, 'ups_out'), (2::smallint, 'pdu'), (3::smallint, 'it')
), source (role) AS (
    VALUES ('utility'), ('generation'), ('fuel')
)
SELECT it_figure.figure, it.category, 'd' AS side, it.role
FROM (VALUES ('pue'), ('wue'), ('wue_potable'), ('wue_fresh'), ('zone')) AS it_figure (figure) CROSS JOIN it
UNION ALL
SELECT 'pue', it.category, 'n', source.role FROM it CROSS JOIN source
UNION ALL
SELECT water_figure.figure, it.category, 'n', 'water'
FROM (VALUES ('wue'), ('wue_potable'), ('wue_fresh')) AS water_figure (figure) CROSS JOIN it
UNION ALL
SELECT 'zone', it.category, 'n', zone.role
FROM it CROSS JOIN LATERAL (VALUES ('cooling'), ('pump'), ('lighting'), ('ups_in'), (it.role)) AS zone (role)
UNION ALL
SELECT of_source.figure, 0::smallint, 'd', source.role FROM (VALUES ('erf'), ('ref')) AS of_source (figure) CROSS JOIN source
UNION ALL
SELECT figure, 0::smallint, side, role
FROM (
    VALUES ('erf', 'n', 'heat_reuse'), ('ref', 'n', 'generation'), ('cer', 'n', 'heat_removed'), ('cer', 'd', 'cooling'),
        ('cer', 'd', 'pump')
) AS other (figure, side, role);

-- Whether a meter of a role counts in a figure; NULL where nobody said of what kind its water is. Drinking water is fresh,
-- unless somebody said that it is not.
CREATE FUNCTION expanded.counts_in(figure text, role text, potable boolean, fresh boolean) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE WHEN role <> 'water' THEN true
        WHEN figure = 'wue_potable' THEN potable
        WHEN figure = 'wue_fresh' THEN coalesce(fresh, nullif(potable, false))
        ELSE true
    END;
END;

-- Each meter with all that feed it, directly or not, or that it is a term of. How many these are cannot be estimated from within: planned
-- for a million, tables of that size cost more than the reading.
CREATE FUNCTION expanded.meter_above() RETURNS TABLE (meter_id integer, above_id integer)
LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER ROWS 5000 SET search_path = pg_catalog SET work_mem = '4MB'
BEGIN ATOMIC
    WITH RECURSIVE edge (meter_id, above_id) AS (
        SELECT feed.fed_id, feed.meter_id FROM gigawatch.meter_feed AS feed
        UNION ALL
        SELECT term.term_id, term.meter_id FROM gigawatch.meter_term AS term
    ), above AS (
        SELECT edge.meter_id, edge.above_id FROM edge
        UNION
        SELECT above.meter_id, edge.above_id FROM above JOIN edge ON edge.meter_id = above.above_id
    )
    SELECT above.meter_id, above.above_id FROM above WHERE above.meter_id <> above.above_id;
END;

-- Meters that are not in a sum, since one above them is: from since up to until.
CREATE VIEW expanded.figure_shadow AS
WITH pair AS MATERIALIZED (
    SELECT own.figure, own.category, own.side, own.role, its.role AS above_role
    FROM expanded.figure_role AS own JOIN expanded.figure_role AS its USING (figure, category, side)
)
SELECT above.meter_id, pair.figure, pair.category, pair.side, upper.since, upper.until
FROM expanded.meter_above() AS above
JOIN gigawatch.meter AS m ON m.meter_id = above.meter_id
JOIN gigawatch.meter AS upper ON upper.meter_id = above.above_id
JOIN pair ON pair.role = m.role AND pair.above_role = upper.role;

-- The newest window of each meter of the last day, and whether it tells what is now: where it ended no longer ago than 5 minutes or three of its length.
CREATE VIEW expanded.meter_newest AS
SELECT m.meter_id, w.time, w.length, w.time + w.length AS ended, w.time + w.length >= now() - greatest(interval '5 minutes', 3 * w.length) AS is_now,
    w.polled_mw, w.power_mw, w.current_max_ma, w.temp_mean_mc, w.doubt
FROM gigawatch.meter AS m
CROSS JOIN LATERAL (
    SELECT it.time, it.covered_ms * interval '1 ms' AS length, it.power_mean_mw AS polled_mw,
        coalesce(it.power_mean_mw, it.energy_mj * 1000 / it.covered_ms) AS power_mw, it.current_max_ma, it.temp_mean_mc, it.doubt
    FROM gigawatch.meter_window AS it
    WHERE it.meter_id = m.meter_id AND it.time > now() - interval '1 day'
    ORDER BY it.time DESC
    LIMIT 1
) AS w;

-- What each meter tells now.
CREATE VIEW expanded.meter_tells_now AS
SELECT newest.* FROM expanded.meter_newest AS newest WHERE newest.is_now;

-- Up to when the facility's hours are known.
CREATE FUNCTION expanded.facility_until() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT greatest(expanded.folded('meter_1h'), '2000-01-01Z');
END;

CREATE FUNCTION expanded.months(step interval) RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT (extract(year FROM step) * 12 + extract(month FROM step))::integer;
END;

CREATE FUNCTION expanded.check_facility(step interval, group_by text) RETURNS void LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    IF group_by NOT IN ('fleet', 'site', 'hall') THEN
        RAISE EXCEPTION 'group_by = % is not fleet, site or hall', group_by USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF step <= interval '0' OR (expanded.months(step) = 0 AND extract(epoch FROM step) % 3600 <> 0)
        OR (expanded.months(step) > 0 AND make_interval(months => expanded.months(step)) <> step) THEN
        RAISE EXCEPTION 'step = % is neither whole hours nor whole months', step USING ERRCODE = 'invalid_parameter_value';
    END IF;
END
$$;

-- The bin of a moment, UTC; without a step that of the period.
CREATE FUNCTION expanded.facility_bin(step interval, moment timestamptz, start timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE
        WHEN step IS NULL THEN start
        WHEN expanded.months(step) = 0 THEN date_bin(step, moment, '2000-01-01Z')
        ELSE ('2000-01-01'::timestamp + make_interval(months => (
            (extract(year FROM moment AT TIME ZONE 'UTC')::integer - 2000) * 12
                + extract(month FROM moment AT TIME ZONE 'UTC')::integer - 1
            ) / expanded.months(step) * expanded.months(step))) AT TIME ZONE 'UTC'
    END;
END;

-- When a bin ends, or the period within it.
CREATE FUNCTION expanded.facility_bin_end(step interval, bin timestamptz, stop timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE WHEN step IS NULL THEN stop ELSE least(stop, (bin AT TIME ZONE 'UTC' + step) AT TIME ZONE 'UTC') END;
END;

-- Whole hours of a period, and of these whole days: what it is read from.
CREATE FUNCTION expanded.facility_spans(start timestamptz, stop timestamptz, step interval)
RETURNS TABLE (level text, first timestamptz, beyond timestamptz)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH hours AS (
        SELECT date_bin('1 hour', start + interval '1 hour' - interval '1 us', '2000-01-01Z') AS first,
            date_bin('1 hour', stop, '2000-01-01Z') AS beyond
    ), days AS (
        SELECT date_bin('1 day', h.first + interval '1 day' - interval '1 us', '2000-01-01Z') AS first,
            date_bin('1 day', h.beyond, '2000-01-01Z') AS beyond,
            step IS NULL OR expanded.months(step) > 0 OR extract(epoch FROM step) % 86400 = 0 AS fits
        FROM hours AS h
    )
    SELECT span.level, span.first, span.beyond
    FROM hours AS h
    CROSS JOIN days AS d
    CROSS JOIN LATERAL (
        VALUES
            ('1d', CASE WHEN d.fits THEN d.first END, d.beyond),
            ('1h', h.first, CASE WHEN d.fits AND d.first < d.beyond THEN d.first ELSE h.beyond END),
            ('1h', CASE WHEN d.fits AND d.first < d.beyond THEN d.beyond END, h.beyond)
    ) AS span (level, first, beyond)
    WHERE span.first < span.beyond;
END;

CREATE FUNCTION expanded.facility_label(group_by text, site text, hall text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE group_by WHEN 'fleet' THEN 'fleet' WHEN 'site' THEN site ELSE coalesce(site || ' / ' || hall, site) END;
END;

-- Both sums of ratios over a period by bin and group, NULL where no hour is in them. Of fleet and site those of whole sites, of hall those of halls. is_year:
-- the bin is of whole years of complete months, of which 99 % of the hours are in the sums. sites is how many have an hour in the sums; sites_missing those that
-- have the meters in the period, and no such hour in the bin.
CREATE FUNCTION expanded.ratio_sums(
    start timestamptz, stop timestamptz, step interval, group_by text, in_site text, in_figures text[], in_category integer
) RETURNS TABLE (
    "time" timestamptz, label text, figure text, category smallint, numerator numeric, denominator numeric, hours bigint,
    missing_h bigint, faulty_h bigint, coverage double precision, numerator_meters bigint, denominator_meters bigint,
    simulated boolean, is_year boolean, sites bigint, sites_missing text[]
)
LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 1000 SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    chosen integer := (SELECT site.site_id FROM gigawatch.site WHERE site.name = in_site);
    until timestamptz := expanded.facility_until();
BEGIN
    PERFORM expanded.check_facility(step, group_by);
    RETURN QUERY EXECUTE (
        SELECT format($query$
            WITH sums AS MATERIALIZED (
                SELECT expanded.facility_bin($3, b.time, $1) AS bin, b.site_id, b.hall_id, b.figure, b.category,
                    sum(b.numerator) AS numerator, sum(b.denominator) AS denominator, sum(b.hours) AS hours,
                    sum(b.missing_h) AS missing_h, sum(b.faulty_h) AS faulty_h,
                    max(b.numerator_meters) AS numerator_meters, max(b.denominator_meters) AS denominator_meters
                FROM (%s) AS b
                GROUP BY 1, 2, 3, 4, 5
            ), named AS MATERIALIZED (
                SELECT s.*, expanded.facility_label($4, site.name, hall.name) AS label, site.name AS site
                FROM sums AS s
                JOIN gigawatch.site ON site.site_id = s.site_id
                LEFT JOIN gigawatch.hall ON hall.hall_id = s.hall_id
            ), members AS (
                SELECT n.label, n.figure, n.category, count(*) AS count, array_agg(n.site ORDER BY n.site) AS sites, bool_or(EXISTS (
                    SELECT FROM gigawatch.meter AS m WHERE m.site_id = n.site_id AND m.role IS NOT NULL AND m.simulated
                )) AS simulated
                FROM (SELECT DISTINCT it.label, it.figure, it.category, it.site, it.site_id, it.hall_id FROM named AS it) AS n
                GROUP BY 1, 2, 3
            ), groups AS (
                SELECT n.bin, n.label, n.figure, n.category, sum(n.numerator) FILTER (WHERE n.hours > 0) AS numerator,
                    sum(n.denominator) FILTER (WHERE n.hours > 0) AS denominator, sum(n.hours)::bigint AS hours, sum(n.missing_h)::bigint AS missing_h, sum(n.faulty_h)::bigint AS faulty_h,
                    sum(n.numerator_meters)::bigint AS numerator_meters, sum(n.denominator_meters)::bigint AS denominator_meters,
                    coalesce(array_agg(n.site) FILTER (WHERE n.hours > 0), '{}') AS sites
                FROM named AS n GROUP BY 1, 2, 3, 4
            )
            SELECT g.bin, g.label, g.figure, g.category, g.numerator, g.denominator, g.hours, g.missing_h, g.faulty_h,
                known.coverage, g.numerator_meters, g.denominator_meters, m.simulated,
                known.coverage >= 0.99 AND span.beyond <= $7 AND span.beyond >= span.first + interval '12 months'
                    AND date_trunc('month', span.first, 'UTC') = span.first AND date_trunc('month', span.beyond, 'UTC') = span.beyond,
                cardinality(g.sites)::bigint,
                ARRAY(SELECT it FROM unnest(m.sites) AS it WHERE it <> ALL (g.sites))
            FROM groups AS g
            JOIN members AS m ON m.label = g.label AND m.figure = g.figure AND m.category IS NOT DISTINCT FROM g.category
            CROSS JOIN LATERAL (
                SELECT greatest(g.bin, $1) AS first, expanded.facility_bin_end($3, g.bin, $2) AS beyond
            ) AS span
            CROSS JOIN LATERAL (
                SELECT (g.hours / nullif(m.count * extract(epoch FROM least(span.beyond, $7) - span.first) / 3600, 0))
                    ::double precision AS coverage
            ) AS known
            $query$, coalesce(string_agg(format($part$
                SELECT it.* FROM gigawatch.facility_ratio_%s AS it
                WHERE it.figure = ANY ($5) AND it.time >= %L AND it.time < %L AND it.hall_id IS %s
                    AND ($6 IS NULL OR it.category = $6) AND ($8 IS NULL OR it.site_id = $9)
                $part$, part.level, part.first, part.beyond, CASE group_by WHEN 'hall' THEN 'NOT NULL' ELSE 'NULL' END), ' UNION ALL '),
                'SELECT it.* FROM gigawatch.facility_ratio_1h AS it WHERE false'))
        FROM expanded.facility_spans(start, stop, step) AS part
    ) USING start, stop, step, group_by, in_figures, in_category, until, in_site, chosen;
END
$$;

-- The interim PUE of each site and day of some spans, measured at the category nearest to the IT equipment that has one.
CREATE FUNCTION expanded.measured_pue(spans timestamptz[])
RETURNS TABLE (site_id integer, day timestamptz, value numeric)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 100
BEGIN ATOMIC
    SELECT DISTINCT ON (r.site_id, r.time) r.site_id, r.time, r.numerator::numeric / r.denominator
    FROM gigawatch.facility_ratio_1d AS r
    WHERE r.figure = 'pue' AND r.hall_id IS NULL AND r.denominator > 0
        AND r.time >= date_bin('1 day', (SELECT min(moment) FROM unnest(spans) AS moment), '2000-01-01Z')
        AND r.time < (SELECT max(moment) FROM unnest(spans) AS moment WHERE isfinite(moment))
    ORDER BY r.site_id, r.time, r.category DESC;
END;
