-- report.water(): water usage effectiveness of any period, by fleet, site or hall, and by category.
-- Definition: wue = water / E_IT over the same hours (ISO/IEC 30134-9); over time and sites a ratio of sums. Water is that of all meters
-- of role water; wue_potable has that of the meters of drinking water alone, wue_fresh that of the meters of fresh water: those of drinking water, and those said to be. E_IT is metered where the category says, as in
-- report.pue(). Unit: L/kWh, which is m³/MWh; m³; J.
-- Missing data: an hour in which a meter that the sums want is not known for 99 % of it, or cannot be right, is in neither sum. A water meter
-- of which the topology does not say whether it is of drinking water leaves wue_potable unknown, and so is it without such a meter; wue_fresh likewise.
-- needs: facility_parts
CREATE FUNCTION report.water(
    start timestamptz,
    stop timestamptz,
    step interval DEFAULT NULL,
    group_by text DEFAULT 'fleet',
    in_site text DEFAULT NULL,
    in_category integer DEFAULT NULL
) RETURNS TABLE (
    "time" timestamptz, label text, category smallint, wue_l_per_kwh double precision, wue_potable_l_per_kwh double precision,
    water_m3 numeric, potable_m3 numeric, it_energy_j numeric, hours bigint, hours_missing bigint, hours_faulty bigint,
    coverage double precision, coverage_potable double precision, simulated boolean, wue_fresh_l_per_kwh double precision,
    fresh_m3 numeric, coverage_fresh double precision
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH sums AS MATERIALIZED (
        SELECT r.*, (r.numerator * 3600000 / nullif(r.denominator, 0))::double precision AS l_per_kwh
        FROM expanded.ratio_sums(start, stop, step, group_by, in_site, ARRAY['wue', 'wue_potable', 'wue_fresh'], in_category) AS r
    )
    SELECT w.time, w.label, w.category, w.l_per_kwh, p.l_per_kwh, w.numerator / 1000000, p.numerator / 1000000,
        w.denominator / 1000, w.hours, w.missing_h, w.faulty_h, w.coverage, p.coverage, w.simulated, f.l_per_kwh,
        f.numerator / 1000000, f.coverage
    FROM sums AS w
    LEFT JOIN sums AS p ON p.figure = 'wue_potable' AND p.time = w.time AND p.label = w.label AND p.category = w.category
    LEFT JOIN sums AS f ON f.figure = 'wue_fresh' AND f.time = w.time AND f.label = w.label AND f.category = w.category
    WHERE w.figure = 'wue'
    ORDER BY 1, 2, 3;
END
$$;
COMMENT ON FUNCTION report.water IS
    'WUE (L/kWh) of all water, of drinking water and of fresh water, from start to stop, by step (whole hours or months; NULL: the whole period), by '
    'fleet, site or hall, and by category (1 UPS output, 2 PDU output, 3 IT input); beside it the sums (m³, J), the hours in them, missing and faulty, and the coverage (0..1)';
