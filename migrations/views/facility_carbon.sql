-- report.facility_carbon(): what the facility's energy emitted over a period, and CUE.
-- Definition: carbon_kg = Σ by hour of E_DC(t) · intensity(t), where the intensity of an hour is its mean by time; cue = carbon_kg / E_IT of
-- the same hours (ISO/IEC 30134-8), a ratio of sums. The hours are those of report.pue(). Rows of method location use the grid's intensity; rows of
-- method market, one for each instrument, that of what was bought: two accounts of the same energy, never added. Unit: kgCO2e, kg/kWh.
-- Missing data: an hour of which a part has no intensity of the row's method and instrument is in neither sum, and nothing is scaled up:
-- intensity_coverage is the part of E_DC that has one, coverage the hours that report.pue() has over those of the period.
-- needs: facility_parts
CREATE FUNCTION report.facility_carbon(
    start timestamptz,
    stop timestamptz,
    step interval DEFAULT NULL,
    group_by text DEFAULT 'fleet',
    in_site text DEFAULT NULL,
    in_category integer DEFAULT NULL
) RETURNS TABLE (
    "time" timestamptz, label text, category smallint, method text, instrument text, carbon_kg numeric,
    cue_kg_per_kwh double precision, facility_energy_j numeric, it_energy_j numeric, intensity_coverage double precision,
    estimated_share double precision, coverage double precision, simulated boolean
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    chosen integer := (SELECT site.site_id FROM gigawatch.site WHERE site.name = in_site);
    by_day boolean := step IS NULL OR expanded.months(step) > 0 OR extract(epoch FROM step) % 86400 = 0;
BEGIN
    IF group_by = 'hall' THEN
        RAISE EXCEPTION 'group_by = hall: an intensity is of a whole site' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN QUERY
    WITH pues AS MATERIALIZED (
        SELECT * FROM expanded.ratio_sums(start, stop, step, group_by, in_site, ARRAY['pue'], in_category)
    ), given AS MATERIALIZED (
        -- What is of longer than an hour is weighed by whole days, and by the hours around them.
        SELECT f.site_id, f.kind AS method, f.unit AS instrument, f.value AS g_per_kwh, f.estimated, f.first, f.beyond,
            date_bin('1 hour', greatest(f.first, start), '2000-01-01Z') AS first_hour, days.first AS first_day,
            greatest(days.first, days.beyond) AS beyond_day, least(f.beyond, stop) AS last
        FROM expanded.factor AS f
        CROSS JOIN LATERAL (
            SELECT date_bin('1 day', greatest(f.first, start) + interval '1 day' - interval '1 us', '2000-01-01Z') AS first,
                CASE WHEN by_day THEN date_bin('1 day', least(f.beyond, stop), '2000-01-01Z') END AS beyond
        ) AS days
        WHERE f.kind IN ('location', 'market') AND f.first < stop AND f.beyond > start AND (in_site IS NULL OR f.site_id = chosen)
            AND (f.beyond <> f.first + interval '1 hour' OR date_bin('1 hour', f.first, '2000-01-01Z') <> f.first)
    ), edges AS MATERIALIZED (
        SELECT f.site_id, f.method, f.instrument, each.hour, sum(f.g_per_kwh * extract(epoch FROM part.length)) / 3600 AS g_per_kwh,
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
        SELECT r.time, r.site_id, r.category, f.method, f.instrument, f.g_per_kwh, f.estimated, r.numerator, r.denominator
        FROM gigawatch.facility_ratio_1d AS r
        JOIN given AS f ON f.site_id = r.site_id AND r.time >= f.first_day AND r.time < f.beyond_day
        WHERE r.figure = 'pue' AND r.hall_id IS NULL AND r.hours > 0 AND (in_category IS NULL OR r.category = in_category)
        UNION ALL
        SELECT r.time, r.site_id, r.category, f.kind, f.unit, f.value, f.estimated, r.numerator, r.denominator
        FROM gigawatch.facility_ratio_1h AS r
        JOIN expanded.factor AS f ON f.site_id = r.site_id AND f.first = r.time AND f.beyond = r.time + interval '1 hour'
        WHERE f.kind IN ('location', 'market') AND f.first < stop AND f.beyond > start AND r.figure = 'pue' AND r.hall_id IS NULL AND r.hours > 0 AND (in_category IS NULL OR r.category = in_category)
            AND r.time >= start AND r.time <= stop - interval '1 hour' AND (in_site IS NULL OR r.site_id = chosen)
        UNION ALL
        SELECT r.time, f.site_id, r.category, f.method, f.instrument, f.g_per_kwh, f.estimated, r.numerator, r.denominator
        FROM edges AS f
        CROSS JOIN LATERAL (
            SELECT it.* FROM gigawatch.facility_ratio_1h AS it
            WHERE it.site_id = f.site_id AND it.time = f.hour AND it.figure = 'pue' AND it.hall_id IS NULL AND it.hours > 0
                AND it.time >= start AND it.time <= stop - interval '1 hour' AND (in_category IS NULL OR it.category = in_category)
            OFFSET 0
        ) AS r
    ), weighed AS (
        SELECT its.bin, expanded.facility_label(group_by, site.name, NULL) AS label, its.category, its.method, its.instrument,
            sum(its.amount) / 3600000000 / 1000 AS carbon_kg, sum(its.dc_mj) AS dc_mj, sum(its.it_mj) AS it_mj,
            sum(its.estimated_mj) AS estimated_mj
        FROM (
            SELECT expanded.facility_bin(step, p.time, start) AS bin, p.site_id, p.category, p.method, p.instrument,
                sum(p.numerator * p.g_per_kwh) AS amount, sum(p.numerator) AS dc_mj, sum(p.denominator) AS it_mj,
                sum(p.numerator) FILTER (WHERE p.estimated) AS estimated_mj
            FROM parts AS p
            GROUP BY 1, 2, 3, 4, 5
        ) AS its
        JOIN gigawatch.site USING (site_id)
        GROUP BY 1, 2, 3, 4, 5
    )
    SELECT p.time, p.label, p.category, accounts.method, w.instrument, w.carbon_kg,
        (w.carbon_kg / nullif(w.it_mj / 3600000000, 0))::double precision, w.dc_mj / 1000, w.it_mj / 1000,
        (coalesce(w.dc_mj, 0) / nullif(p.numerator, 0))::double precision,
        (coalesce(w.estimated_mj, 0) / nullif(w.dc_mj, 0))::double precision, p.coverage, p.simulated
    FROM pues AS p
    CROSS JOIN unnest(ARRAY['location', 'market']) AS accounts (method)
    LEFT JOIN weighed AS w ON w.bin = p.time AND w.label = p.label AND w.category = p.category AND w.method = accounts.method
    ORDER BY 1, 2, 3, 4, 5;
END
$$;
COMMENT ON FUNCTION report.facility_carbon IS
    'Emissions (kgCO2e) of the facility''s energy and CUE (kg/kWh) from start to stop, by step (whole hours or months; NULL: the whole period), by '
    'fleet or site, by category (1 UPS output, 2 PDU output, 3 IT input), and by method (location, market) and instrument; beside them both energies (J), '
    'and from 0 to 1 the part with an intensity, the part of that which is estimated, and the coverage of PUE';
