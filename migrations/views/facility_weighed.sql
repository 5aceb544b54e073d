-- The facility's energy times what a kWh costs or emits at that hour; for report.facility_cost() and report.facility_carbon() alone.
-- Definition: Σ by hour of E_DC(t) · factor(t), where the factor of an hour is its mean by time; the hours are those of report.pue(). A row for
-- each kind and unit that some hour has, else one of the kind without. Of group_by both: of each site, and without a label of all of them. Unit: kWh times the factor's unit; mJ.
-- Missing data: an hour of which a part has no factor of the row's kind and unit is in none of its sums; pue_mj has all hours.
-- needs: facility_parts
CREATE FUNCTION expanded.facility_weighed(
    start timestamptz, stop timestamptz, step interval, group_by text, in_site text, in_category integer, in_kinds text[]
) RETURNS TABLE (
    "time" timestamptz, label text, category smallint, kind text, unit text, amount numeric, facility_mj numeric,
    it_mj numeric, estimated_mj numeric, pue_mj numeric, coverage double precision, simulated boolean
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    chosen integer := (SELECT site.site_id FROM gigawatch.site WHERE site.name = in_site);
    groups text[] := CASE group_by WHEN 'both' THEN ARRAY['fleet', 'site'] ELSE ARRAY[group_by] END;
    by_day boolean := step IS NULL OR expanded.months(step) > 0 OR extract(epoch FROM step) % 86400 = 0;
BEGIN
    IF 'hall' = ANY (groups) THEN
        RAISE EXCEPTION 'group_by = hall: a price or an intensity is of a whole site' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN QUERY
    WITH pues AS MATERIALIZED (
        SELECT asked.grouped, its.* FROM unnest(groups) AS asked (grouped)
        CROSS JOIN LATERAL expanded.ratio_sums(start, stop, step, asked.grouped, in_site, ARRAY['pue'], in_category) AS its
    ), factors AS MATERIALIZED (
        SELECT f.*, f.beyond = f.first + interval '1 hour' AND date_bin('1 hour', f.first, '2000-01-01Z') = f.first AS of_hour
        FROM expanded.factor AS f
        WHERE f.kind = ANY (in_kinds) AND f.first < stop AND f.beyond > start AND (in_site IS NULL OR f.site_id = chosen)
    ), given AS MATERIALIZED (
        -- What is of longer than an hour is weighed by whole days, and by the hours around them.
        SELECT f.site_id, f.kind, f.unit, f.value, f.estimated, f.first, f.beyond,
            date_bin('1 hour', greatest(f.first, start), '2000-01-01Z') AS first_hour, days.first AS first_day,
            greatest(days.first, days.beyond) AS beyond_day, least(f.beyond, stop) AS last
        FROM factors AS f
        CROSS JOIN LATERAL (
            SELECT date_bin('1 day', greatest(f.first, start) + interval '1 day' - interval '1 us', '2000-01-01Z') AS first,
                CASE WHEN by_day THEN date_bin('1 day', least(f.beyond, stop), '2000-01-01Z') END AS beyond
        ) AS days
        WHERE NOT f.of_hour
    ), edges AS MATERIALIZED (
        SELECT f.site_id, f.kind, f.unit, each.hour, sum(f.value * extract(epoch FROM part.length)) / 3600 AS value,
            bool_or(f.estimated) AS estimated
        FROM given AS f
        CROSS JOIN LATERAL (
            VALUES (f.first_hour, least(f.first_day, f.last)), (greatest(f.beyond_day, f.first_hour), f.last)
        ) AS edge (first, beyond)
        CROSS JOIN LATERAL generate_series(edge.first, edge.beyond - interval '1 us', interval '1 hour') AS each (hour)
        CROSS JOIN LATERAL (
            SELECT least(f.beyond, each.hour + interval '1 hour') - greatest(f.first, each.hour) AS length
        ) AS part
        GROUP BY 1, 2, 3, 4
        HAVING sum(extract(epoch FROM part.length)) = 3600
    ), parts AS (
        SELECT r.time, r.site_id, r.category, f.kind, f.unit, f.value, f.estimated, r.numerator, r.denominator
        FROM gigawatch.facility_ratio_1d AS r
        JOIN given AS f ON f.site_id = r.site_id AND r.time >= f.first_day AND r.time < f.beyond_day
        WHERE r.figure = 'pue' AND r.hall_id IS NULL AND r.hours > 0 AND (in_category IS NULL OR r.category = in_category)
        UNION ALL
        SELECT r.time, r.site_id, r.category, f.kind, f.unit, f.value, f.estimated, r.numerator, r.denominator
        FROM gigawatch.facility_ratio_1h AS r
        JOIN factors AS f ON f.site_id = r.site_id AND f.first = r.time AND f.of_hour
        WHERE r.figure = 'pue' AND r.hall_id IS NULL AND r.hours > 0 AND (in_category IS NULL OR r.category = in_category)
            AND r.time >= start AND r.time <= stop - interval '1 hour' AND (in_site IS NULL OR r.site_id = chosen)
        UNION ALL
        SELECT r.time, f.site_id, r.category, f.kind, f.unit, f.value, f.estimated, r.numerator, r.denominator
        FROM edges AS f
        CROSS JOIN LATERAL (
            SELECT it.* FROM gigawatch.facility_ratio_1h AS it
            WHERE it.site_id = f.site_id AND it.time = f.hour AND it.figure = 'pue' AND it.hall_id IS NULL AND it.hours > 0
                AND it.time >= start AND it.time <= stop - interval '1 hour' AND (in_category IS NULL OR it.category = in_category)
            OFFSET 0
        ) AS r
    ), weighed AS (
        SELECT its.bin, asked.grouped, expanded.facility_label(asked.grouped, site.name, NULL) AS label, its.category, its.kind, its.unit,
            sum(its.amount) / 3600000000 AS amount, sum(its.dc_mj) AS dc_mj, sum(its.it_mj) AS it_mj,
            sum(its.estimated_mj) AS estimated_mj
        FROM (
            SELECT expanded.facility_bin(step, p.time, start) AS bin, p.site_id, p.category, p.kind, p.unit,
                sum(p.numerator * p.value) AS amount, sum(p.numerator) AS dc_mj, sum(p.denominator) AS it_mj,
                sum(p.numerator) FILTER (WHERE p.estimated) AS estimated_mj
            FROM parts AS p
            GROUP BY 1, 2, 3, 4, 5
        ) AS its
        JOIN gigawatch.site USING (site_id)
        CROSS JOIN unnest(groups) AS asked (grouped)
        GROUP BY 1, 2, 3, 4, 5, 6
    )
    SELECT p.time, CASE WHEN group_by <> 'both' OR p.grouped = 'site' THEN p.label END, p.category, asked.kind, w.unit, w.amount, w.dc_mj, w.it_mj, w.estimated_mj, p.numerator, p.coverage,
        p.simulated
    FROM pues AS p
    CROSS JOIN unnest(in_kinds) AS asked (kind)
    LEFT JOIN weighed AS w ON w.bin = p.time AND w.grouped = p.grouped AND w.label = p.label AND w.category = p.category AND w.kind = asked.kind;
END
$$;
