-- report.facility_cost(): what the facility's energy cost over a period, at its sites' prices.
-- Definition: cost = Σ by hour of E_DC(t) · price(t), where the price of an hour is its mean by time; cost_per_it_kwh = cost / E_IT of the same
-- hours, a ratio of sums. The hours are those of report.pue(), and E_DC is all of it: what is made on site is priced as what is bought. A row for each currency: they are
-- never added. Unit: the row's currency, and that per kWh; J.
-- Missing data: an hour of which a part has no price in the row's currency is in none of the sums, and nothing is scaled up: price_coverage
-- is the part of E_DC that has one, coverage the hours that report.pue() has over those of the period. Without any price there is one row without a currency.
-- needs: facility_weighed
CREATE FUNCTION report.facility_cost(
    start timestamptz,
    stop timestamptz,
    step interval DEFAULT NULL,
    group_by text DEFAULT 'fleet',
    in_site text DEFAULT NULL,
    in_category integer DEFAULT NULL
) RETURNS TABLE (
    "time" timestamptz, label text, category smallint, currency text, cost numeric, cost_per_it_kwh double precision,
    facility_energy_j numeric, it_energy_j numeric, price_coverage double precision, coverage double precision, simulated boolean
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT w.time, w.label, w.category, w.unit, w.amount, (w.amount / nullif(w.it_mj / 3600000000, 0))::double precision,
        w.facility_mj / 1000, w.it_mj / 1000, (coalesce(w.facility_mj, 0) / nullif(w.pue_mj, 0))::double precision, w.coverage,
        w.simulated
    FROM expanded.facility_weighed(start, stop, step, group_by, in_site, in_category, ARRAY['price']) AS w
    ORDER BY 1, 2, 3, 4;
END
$$;
COMMENT ON FUNCTION report.facility_cost IS
    'Cost (in the currency) of the facility''s energy and that over the energy of IT (per kWh) from start to stop, by step (whole hours or months; NULL: the whole '
    'period), by fleet, site or both (of all sites without a label), by category (1 UPS output, 2 PDU output, 3 IT input), and by currency; beside them both energies (J), and from 0 to 1 the '
    'part with a price and the coverage of PUE';
