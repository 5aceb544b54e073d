-- report.pue(): power usage effectiveness of any period, by fleet, site or hall, and by category.
-- Definition: pue = E_DC / E_IT over the same hours (ISO/IEC 30134-2); over time and sites a ratio of sums. E_DC is the energy of
-- all sources: utility, generation, and fuel by its volume. E_IT is metered where the category says: 1 UPS output, 2 PDU
-- output, 3 IT equipment input. dcie = E_IT / E_DC. name is by the period: interim PUE, and PUE only over 12 complete months (or more
-- years of them) with at least 99 % of their hours; power ratio is report.power_ratio_now. Of a hall it is a partial PUE: (infrastructure and IT) / IT of the zone, by its
-- own source meters, else its cooling, pumps, lighting and UPS input or IT. Renewable energy lowers no PUE. Unit: 1; energies J.
-- A site whose PUE nobody measured in a bin, but somebody configured, has a row with source configured, without energies: the mean of
-- what is configured by time. It is in no sum of the fleet.
-- Missing data: an hour in which a meter that the sums want is not known for 99 % of it is in neither sum (hours_missing); one in
-- which E_IT is more than E_DC, a meter stood still or ran backwards, or was read twice, is in neither as well
-- (hours_faulty). coverage is the hours in the sums over those of the period up to now, of all sites or halls of the
-- group. Of several sites the sums are of those that have an hour in them: sites says how many, sites_missing which others have the meters. Hours before a site's first are not counted as missing, and lower the coverage.
-- needs: facility_parts
CREATE FUNCTION report.pue(
    start timestamptz,
    stop timestamptz,
    step interval DEFAULT NULL,
    group_by text DEFAULT 'fleet',
    in_site text DEFAULT NULL,
    in_category integer DEFAULT NULL
) RETURNS TABLE (
    "time" timestamptz, label text, category smallint, name text, source text, pue double precision, dcie double precision,
    facility_energy_j numeric, it_energy_j numeric, hours bigint, hours_missing bigint, hours_faulty bigint,
    coverage double precision, source_meters bigint, it_meters bigint, simulated boolean, sites bigint, sites_missing text[]
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog SET plan_cache_mode = force_custom_plan
SET timezone = 'UTC'
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH measured AS MATERIALIZED (
        SELECT * FROM expanded.ratio_sums(start, stop, step, group_by, in_site, ARRAY['pue'], in_category)
    ), configured AS (
        SELECT bin.time, site.name AS label,
            sum(f.value * extract(epoch FROM part.beyond - part.first)) / sum(extract(epoch FROM part.beyond - part.first)) AS pue,
            sum(extract(epoch FROM part.beyond - part.first)) / min(extract(epoch FROM bin.beyond - greatest(bin.time, start))) AS coverage
        FROM expanded.configured_pue AS f
        JOIN gigawatch.site USING (site_id)
        CROSS JOIN LATERAL (
            SELECT it.time, expanded.facility_bin_end(step, it.time, stop) AS beyond
            FROM generate_series(expanded.facility_bin(step, greatest(f.first, start), start), least(f.beyond, stop) - interval '1 us',
                coalesce(step, stop - start)) AS it (time)
        ) AS bin
        CROSS JOIN LATERAL (
            SELECT greatest(f.first, start, bin.time) AS first, least(f.beyond, stop, bin.beyond) AS beyond
        ) AS part
        WHERE group_by = 'site' AND in_category IS NULL AND f.first < stop AND f.beyond > start
            AND (in_site IS NULL OR site.name = in_site)
            AND NOT EXISTS (SELECT FROM measured AS m WHERE m.time = bin.time AND m.label = site.name)
        GROUP BY bin.time, site.name
    )
    SELECT m.time, m.label, m.category,
        CASE WHEN m.is_year THEN '' ELSE 'interim ' END || CASE group_by WHEN 'hall' THEN 'pPUE' ELSE 'PUE' END, 'measured',
        (m.numerator / nullif(m.denominator, 0))::double precision, (m.denominator / nullif(m.numerator, 0))::double precision,
        m.numerator / 1000, m.denominator / 1000, m.hours, m.missing_h, m.faulty_h, m.coverage, m.numerator_meters, m.denominator_meters, m.simulated, m.sites, m.sites_missing
    FROM measured AS m
    UNION ALL
    SELECT c.time, c.label, NULL, 'configured PUE', 'configured', c.pue::double precision, (1 / c.pue)::double precision, NULL,
        NULL, NULL, NULL, NULL, c.coverage::double precision, NULL, NULL, NULL, NULL, NULL
    FROM configured AS c
    ORDER BY 1, 2, 3;
END
$$;
COMMENT ON FUNCTION report.pue IS
    'PUE (1) from start to stop, by step (whole hours or months; NULL: the whole period), by fleet, site or hall, and by category (1 UPS '
    'output, 2 PDU output, 3 IT input), with its name by period and whether it is measured or configured; beside it DCiE (1), both energies (J), the hours in '
    'them, missing and faulty, the coverage (0..1), how many meters each is of, how many sites, and which sites with meters have no hour in it';
