-- The facility's energy times what a kWh costs or emits at that hour; for report.facility_cost() and report.facility_carbon() alone.
-- Definition: Σ by hour of E_DC(t) · factor(t), where the factor of an hour is its mean by time; the hours are those of report.pue(). A row for
-- each kind and unit that some hour has, else one of the kind without. Unit: kWh times the factor's unit; mJ.
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
BEGIN
    IF group_by = 'hall' THEN
        RAISE EXCEPTION 'group_by = hall: a price or an intensity is of a whole site' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN QUERY
    WITH pues AS MATERIALIZED (
        SELECT * FROM expanded.ratio_sums(start, stop, step, group_by, in_site, ARRAY['pue'], in_category)
    ), factors AS MATERIALIZED (
        -- Hour by hour, so that they are joined by equality.
        SELECT f.site_id, f.kind, f.unit, each.hour, sum(f.value * extract(epoch FROM part.length)) / 3600 AS value,
            sum(extract(epoch FROM part.length)) AS known_s, bool_or(f.estimated) AS estimated
        FROM expanded.factor AS f
        CROSS JOIN LATERAL generate_series(
            date_bin('1 hour', greatest(f.first, start), '2000-01-01Z'), least(f.beyond, stop) - interval '1 us', interval '1 hour'
        ) AS each (hour)
        CROSS JOIN LATERAL (
            SELECT least(f.beyond, each.hour + interval '1 hour') - greatest(f.first, each.hour) AS length
        ) AS part
        WHERE f.kind = ANY (in_kinds) AND f.first < stop AND f.beyond > start AND (in_site IS NULL OR f.site_id = chosen)
        GROUP BY 1, 2, 3, 4
    ), weighed AS (
        SELECT expanded.facility_bin(step, r.time, start) AS bin, expanded.facility_label(group_by, site.name, NULL) AS label,
            r.category, f.kind, f.unit, sum(r.numerator * f.value) / 3600000000 AS amount,
            sum(r.numerator) AS dc_mj, sum(r.denominator) AS it_mj, sum(r.numerator) FILTER (WHERE f.estimated) AS estimated_mj
        FROM gigawatch.facility_ratio_1h AS r
        JOIN gigawatch.site USING (site_id)
        JOIN factors AS f ON f.site_id = r.site_id AND f.hour = r.time AND f.known_s = 3600
        WHERE r.figure = 'pue' AND r.hall_id IS NULL AND r.hours > 0 AND r.time >= start AND r.time <= stop - interval '1 hour'
            AND (in_site IS NULL OR r.site_id = chosen) AND (in_category IS NULL OR r.category = in_category)
        GROUP BY 1, 2, 3, 4, 5
    )
    SELECT p.time, p.label, p.category, asked.kind, w.unit, w.amount, w.dc_mj, w.it_mj, w.estimated_mj, p.numerator, p.coverage,
        p.simulated
    FROM pues AS p
    CROSS JOIN unnest(in_kinds) AS asked (kind)
    LEFT JOIN weighed AS w ON w.bin = p.time AND w.label = p.label AND w.category = p.category AND w.kind = asked.kind;
END
$$;
