-- report.carbon(): what the energy of any group emitted over a period.
-- Definition: carbon_kg = Σ over time of E(t) · intensity(t) / 1000, by hour, and by minute where the intensity changes within
-- the hour. Rows of method location use the grid's intensity; rows of method market, one for each instrument, use that of
-- what was bought: two accounts of the same energy, never added. The boundary is gpu (the GPUs' energy alone), it (with what their nodes use beside them) or
-- facility (that times the site's PUE), as report.energy_per_token() has it. With in_assigned it is the energy of GPUs that are
-- assigned to a deployment alone, as it always is by deployment and model. intensity_coverage
-- is the part of the group's energy that has such an intensity, estimated_share the part of that whose intensity the source
-- calls an estimate; coverage is as that of report.fleet_energy(), of as many GPUs as each site and model showed at most.
-- Unit: kgCO2e.
-- Missing data: what is not known at the boundary is not in energy_j: boundary_coverage says what part of the GPUs' energy is.
-- Energy without an intensity is not in carbon_kg, and nothing is scaled up: intensity_coverage says what part
-- is in it. A group without any has one row of the method without carbon_kg. Of an hour in which the intensity changes
-- and whose minutes are no longer kept, the energy is spread evenly over the hour: split_share is that part of energy_j.
-- Hours that are no longer kept are not in it.
-- needs: weighed_energy
CREATE FUNCTION report.carbon(
    start timestamptz,
    stop timestamptz,
    step interval DEFAULT NULL,
    group_by text DEFAULT 'fleet',
    in_site text DEFAULT NULL,
    in_gpu_model text DEFAULT NULL,
    in_boundary text DEFAULT 'gpu',
    in_deployment text DEFAULT NULL,
    in_assigned boolean DEFAULT false,
    in_method text DEFAULT NULL
) RETURNS TABLE (
    "time" timestamptz, label text, boundary text, method text, instrument text, carbon_kg numeric,
    accounted_energy_j double precision, energy_j double precision, intensity_coverage double precision,
    estimated_share double precision, split_share double precision, coverage double precision, counter_share double precision,
    boundary_coverage double precision, modelled_share double precision, measured_pue_share double precision
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT w.time, w.label, in_boundary, accounts.method, w.unit, w.amount / 1000, w.weighed_j, w.energy_j, w.factor_coverage,
        w.estimated_share, w.split_share, w.coverage, w.counter_share,
        w.boundary_coverage, w.modelled_share, w.measured_pue_share
    FROM unnest(ARRAY['location', 'market']) AS accounts (method)
    CROSS JOIN LATERAL expanded.weighed_energy(start, stop, step, group_by, accounts.method, in_site, in_gpu_model,
        in_boundary, in_deployment, in_assigned) AS w
    WHERE in_method IS NULL OR accounts.method = in_method
    ORDER BY 1, 2, 4, 5;
END
$$;
COMMENT ON FUNCTION report.carbon IS
    'Emissions (kgCO2e) of energy from start to stop, by step (whole hours; NULL: the whole period) and by fleet, site, '
    'gpu_model, deployment or model, and by method (location, market; in_method: one alone) and instrument; beside them the boundary, the energy (J) with an intensity '
    'and in all, and from 0 to 1 the part with an intensity, the part of that which is estimated, the part of hours split '
    'evenly, the coverage of the energy, the part that is a difference of counters, that known at the boundary, that modelled, and at boundary facility that with a measured PUE';
