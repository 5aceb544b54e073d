-- report.heat(): reuse of energy, renewable energy made on site, and efficiency of cooling, by fleet, site or hall.
-- Definition: erf = E_reuse / E_DC (ISO/IEC 30134-6); ere = (1 − erf) × PUE, which is (E_DC − E_reuse) / E_IT where both are of the
-- same hours; ref_on_site = energy made on site by others than backup generators, of each hour as much as the site took, / E_DC (the part of REF, ISO/IEC 30134-3, that meters know: certificates are in
-- report.eu_eed()); cer = heat removed / electricity of cooling and pumps (ISO/IEC 30134-7). Each is a ratio of sums over the hours in which both of its sums are known. Unit: 1; J.
-- Missing data: an hour in which a meter that a ratio wants is not known for 99 % of it, or cannot be right, is in neither of its sums; each
-- has its own coverage. Without a meter of its role a figure is NULL, and not 0.
-- needs: facility_parts
CREATE FUNCTION report.heat(
    start timestamptz,
    stop timestamptz,
    step interval DEFAULT NULL,
    group_by text DEFAULT 'fleet',
    in_site text DEFAULT NULL,
    in_category integer DEFAULT NULL
) RETURNS TABLE (
    "time" timestamptz, label text, category smallint, erf double precision, ere double precision, ref_on_site double precision,
    cer double precision, reuse_energy_j numeric, on_site_energy_j numeric, heat_removed_j numeric, cooling_energy_j numeric,
    erf_coverage double precision, ref_coverage double precision, cer_coverage double precision, simulated boolean
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH sums AS MATERIALIZED (
        SELECT r.*, r.numerator / nullif(r.denominator, 0) AS ratio
        FROM expanded.ratio_sums(start, stop, step, group_by, in_site, ARRAY['pue', 'erf', 'ref', 'cer'], NULL) AS r
    ), groups AS (
        SELECT s.time, s.label, bool_or(s.simulated) AS simulated FROM sums AS s WHERE s.figure <> 'pue' GROUP BY 1, 2
    )
    SELECT g.time, g.label, p.category, erf.ratio::double precision, ((1 - erf.ratio) * p.ratio)::double precision,
        ref.ratio::double precision, cer.ratio::double precision,
        erf.numerator / 1000, ref.numerator / 1000, cer.numerator / 1000, cer.denominator / 1000, erf.coverage, ref.coverage, cer.coverage, g.simulated
    FROM groups AS g
    LEFT JOIN sums AS p ON p.figure = 'pue' AND p.time = g.time AND p.label = g.label
    LEFT JOIN sums AS erf ON erf.figure = 'erf' AND erf.time = g.time AND erf.label = g.label
    LEFT JOIN sums AS ref ON ref.figure = 'ref' AND ref.time = g.time AND ref.label = g.label
    LEFT JOIN sums AS cer ON cer.figure = 'cer' AND cer.time = g.time AND cer.label = g.label
    WHERE in_category IS NULL OR p.category = in_category
    ORDER BY 1, 2, 3;
END
$$;
COMMENT ON FUNCTION report.heat IS
    'ERF, ERE, the part of REF that meters know, and CER (1) from start to stop, by step (whole hours or months; NULL: the whole period), by '
    'fleet, site or hall, and of ERE by the category of its PUE (1 UPS output, 2 PDU output, 3 IT input); beside them the energies (J) and the coverage (0..1) of each';
