-- report.facility_carbon(): what the facility's energy emitted over a period, and CUE.
-- Definition: carbon_kg = Σ by hour of E_DC(t) · intensity(t), where the intensity of an hour is its mean by time; cue = carbon_kg / E_IT of
-- the same hours (ISO/IEC 30134-8), a ratio of sums. The hours are those of report.pue(). Rows of method location use the grid's intensity; rows of
-- method market, one for each instrument, that of what was bought: two accounts of the same energy, never added. Unit: kgCO2e, kg/kWh.
-- Missing data: an hour of which a part has no intensity of the row's method and instrument is in neither sum, and nothing is scaled up:
-- intensity_coverage is the part of E_DC that has one, coverage the hours that report.pue() has over those of the period.
-- needs: facility_weighed
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
BEGIN
    RETURN QUERY
    SELECT w.time, w.label, w.category, w.kind, w.unit, w.amount / 1000,
        (w.amount / 1000 / nullif(w.it_mj / 3600000000, 0))::double precision, w.facility_mj / 1000, w.it_mj / 1000,
        (coalesce(w.facility_mj, 0) / nullif(w.pue_mj, 0))::double precision,
        (coalesce(w.estimated_mj, 0) / nullif(w.facility_mj, 0))::double precision, w.coverage, w.simulated
    FROM expanded.facility_weighed(start, stop, step, group_by, in_site, in_category, ARRAY['location', 'market']) AS w
    ORDER BY 1, 2, 3, 4, 5;
END
$$;
COMMENT ON FUNCTION report.facility_carbon IS
    'Emissions (kgCO2e) of the facility''s energy and CUE (kg/kWh) from start to stop, by step (whole hours or months; NULL: the whole period), by '
    'fleet, site or both (of all sites without a label), by category (1 UPS output, 2 PDU output, 3 IT input), and by method (location, market) and instrument; beside them both energies (J), '
    'and from 0 to 1 the part with an intensity, the part of that which is estimated, and the coverage of PUE';
