-- report.cost(): what the energy of any group cost over a period.
-- Definition: cost = Σ over time of E(t) · tariff(t), by hour, and by minute where the price changes within the hour: never a
-- mean price times a total. The boundary is gpu (the GPUs' energy alone), it (with what their nodes use beside them) or
-- facility (that times the site's PUE), as report.energy_per_token() has it.
-- With in_assigned it is the energy of GPUs that are assigned to a deployment alone, as it always is by deployment and model.
-- A row for each currency: they are never added.
-- price_coverage is the part of the group's energy that has a price in that currency; coverage is as that of
-- report.fleet_energy(), of as many GPUs as each site and model showed at most. Unit: the row's currency.
-- Missing data: what is not known at the boundary is not in energy_j: boundary_coverage says what part of the GPUs' energy is.
-- Energy without a price is not in cost, and nothing is scaled up: price_coverage says what part is in it. A
-- group without any price has one row without cost. Of an hour in which the price changes and whose minutes are no longer
-- kept, the energy is spread evenly over the hour: split_share is that part of energy_j. Hours that are no longer kept are
-- not in it.
-- needs: weighed_energy
CREATE FUNCTION report.cost(
    start timestamptz,
    stop timestamptz,
    step interval DEFAULT NULL,
    group_by text DEFAULT 'fleet',
    in_site text DEFAULT NULL,
    in_gpu_model text DEFAULT NULL,
    in_boundary text DEFAULT 'gpu',
    in_deployment text DEFAULT NULL,
    in_assigned boolean DEFAULT false
) RETURNS TABLE (
    "time" timestamptz, label text, boundary text, currency text, cost numeric, priced_energy_j double precision,
    energy_j double precision, price_coverage double precision, split_share double precision, coverage double precision,
    counter_share double precision,
    boundary_coverage double precision, modelled_share double precision, measured_pue_share double precision
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT w.time, w.label, in_boundary, w.unit, w.amount, w.weighed_j, w.energy_j, w.factor_coverage, w.split_share, w.coverage,
        w.counter_share,
        w.boundary_coverage, w.modelled_share, w.measured_pue_share
    FROM expanded.weighed_energy(start, stop, step, group_by, 'price', in_site, in_gpu_model,
        in_boundary, in_deployment, in_assigned) AS w
    ORDER BY 1, 2, 4;
END
$$;
COMMENT ON FUNCTION report.cost IS
    'Cost of energy (in the currency) from start to stop, by step (whole hours; NULL: the whole period) and by fleet, site, '
    'gpu_model, deployment or model, and by currency; beside it the boundary, the energy (J) with a price and in all, and from 0 to 1 the part '
    'with a price, the part of hours split evenly, the coverage of the energy, the part that is a difference of counters, that known at the boundary, that modelled, and at boundary facility that with a measured PUE';
