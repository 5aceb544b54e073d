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
BEGIN
    IF group_by = 'hall' THEN
        RAISE EXCEPTION 'group_by = hall: an intensity is of a whole site' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN QUERY
    WITH pues AS MATERIALIZED (
        SELECT * FROM expanded.ratio_sums(start, stop, step, group_by, in_site, ARRAY['pue'], in_category)
    ), factors AS MATERIALIZED (
        -- Hour by hour, so that they are joined by equality.
        SELECT f.site_id, f.kind AS method, f.unit AS instrument, each.hour,
            sum(f.value * extract(epoch FROM part.length)) / 3600 AS g_per_kwh,
            sum(extract(epoch FROM part.length)) AS known_s, bool_or(f.estimated) AS estimated
        FROM expanded.factor AS f
        CROSS JOIN LATERAL generate_series(
            date_bin('1 hour', greatest(f.first, start), '2000-01-01Z'), least(f.beyond, stop) - interval '1 us', interval '1 hour'
        ) AS each (hour)
        CROSS JOIN LATERAL (
            SELECT least(f.beyond, each.hour + interval '1 hour') - greatest(f.first, each.hour) AS length
        ) AS part
        WHERE f.kind IN ('location', 'market') AND f.first < stop AND f.beyond > start AND (in_site IS NULL OR f.site_id = chosen)
        GROUP BY 1, 2, 3, 4
    ), weighed AS (
        SELECT expanded.facility_bin(step, r.time, start) AS bin, expanded.facility_label(group_by, site.name, NULL) AS label,
            r.category, f.method, f.instrument, sum(r.numerator * f.g_per_kwh) / 3600000000 / 1000 AS carbon_kg,
            sum(r.numerator) AS dc_mj, sum(r.denominator) AS it_mj, sum(r.numerator) FILTER (WHERE f.estimated) AS estimated_mj
        FROM gigawatch.facility_ratio_1h AS r
        JOIN gigawatch.site USING (site_id)
        JOIN factors AS f ON f.site_id = r.site_id AND f.hour = r.time AND f.known_s = 3600
        WHERE r.figure = 'pue' AND r.hall_id IS NULL AND r.hours > 0 AND r.time >= start AND r.time <= stop - interval '1 hour'
            AND (in_site IS NULL OR r.site_id = chosen) AND (in_category IS NULL OR r.category = in_category)
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
