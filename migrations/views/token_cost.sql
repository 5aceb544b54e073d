-- report.token_cost(), report.token_carbon(): what a million generated tokens cost and emit, by fleet, site, GPU model,
-- deployment or model.
-- Definition: energy_cost_per_million_tokens = (Σ over time of E(t) · tariff(t) / ΣE of the energy with a price) ·
-- j_per_generated_token, for a million: the price of a kWh is weighed by the energy of the group's assigned GPUs at its own times,
-- and energy per token is over the minutes in which both are known. gpu_cost_per_million_tokens = price_per_gpu_hour · GPU-hours for a million
-- tokens, $/GPU-h ÷ (tokens/s/GPU · 3600) · 10^6. Carbon likewise, by each method; sci_g_per_request = (E · I + M) / R of the
-- Green Software Foundation's SCI, with M = embodied_g_per_gpu_hour · GPU-hours. Source: METHODS of this project. Unit: the
-- row's currency, that of the given price, kgCO2e, gCO2e.
-- Missing data: without a token, or without a price or intensity, there is no figure; price_coverage and intensity_coverage say
-- what part of the energy has one, coverage what part of the GPU-time is in the ratio.
-- needs: energy_per_token, cost, carbon
CREATE FUNCTION report.token_cost(
    start timestamptz,
    stop timestamptz,
    step interval DEFAULT NULL,
    group_by text DEFAULT 'fleet',
    in_boundary text DEFAULT 'gpu',
    price_per_gpu_hour numeric DEFAULT NULL,
    in_site text DEFAULT NULL,
    in_gpu_model text DEFAULT NULL,
    in_deployment text DEFAULT NULL
) RETURNS TABLE (
    "time" timestamptz, label text, boundary text, currency text, energy_cost_per_million_tokens double precision,
    price_coverage double precision, gpu_hours_per_million_tokens double precision,
    gpu_cost_per_million_tokens double precision, coverage double precision
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT e.time, e.label, e.boundary, c.currency,
        -- A million tokens, of so many J each, at the mean price of a J of this group.
        c.cost::double precision / nullif(c.priced_energy_j, 0) * e.j_per_generated_token * 1000000,
        c.price_coverage, hours.per_million, hours.per_million * price_per_gpu_hour::double precision, e.coverage
    FROM report.energy_per_token(start, stop, step, group_by, in_boundary, in_site, in_gpu_model, in_deployment) AS e
    CROSS JOIN LATERAL (SELECT e.gpu_s_per_generated_token * 1000000 / 3600 AS per_million) AS hours
    LEFT JOIN report.cost(start, stop, step, group_by, in_site, in_gpu_model, in_boundary, in_deployment,
        in_assigned => true) AS c
        ON c.time = e.time AND c.label = e.label
    ORDER BY 1, 2, 4;
END
$$;
COMMENT ON FUNCTION report.token_cost IS
    'Cost of a million generated tokens, in the currency for its energy and in that of price_per_gpu_hour for its GPU-hours, from '
    'start to stop, by step (whole hours; NULL: the whole period), by fleet, site, gpu_model, deployment or model, and at a boundary '
    '(gpu, it, facility); from 0 to 1 the part of the energy with a price and the coverage of the ratio';

CREATE FUNCTION report.token_carbon(
    start timestamptz,
    stop timestamptz,
    step interval DEFAULT NULL,
    group_by text DEFAULT 'fleet',
    in_boundary text DEFAULT 'gpu',
    embodied_g_per_gpu_hour numeric DEFAULT NULL,
    in_site text DEFAULT NULL,
    in_gpu_model text DEFAULT NULL,
    in_deployment text DEFAULT NULL
) RETURNS TABLE (
    "time" timestamptz, label text, boundary text, method text, instrument text,
    carbon_kg_per_million_tokens double precision, carbon_g_per_request double precision,
    sci_g_per_request double precision, intensity_coverage double precision, coverage double precision
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT e.time, e.label, e.boundary, c.method, c.instrument, of_j.kg * e.j_per_generated_token * 1000000,
        of_j.kg * e.j_per_request * 1000,
        of_j.kg * e.j_per_request * 1000 + embodied_g_per_gpu_hour::double precision * e.gpu_s_per_request / 3600,
        c.intensity_coverage, e.coverage
    FROM report.energy_per_token(start, stop, step, group_by, in_boundary, in_site, in_gpu_model, in_deployment) AS e
    JOIN report.carbon(start, stop, step, group_by, in_site, in_gpu_model, in_boundary, in_deployment,
        in_assigned => true) AS c
        ON c.time = e.time AND c.label = e.label
    CROSS JOIN LATERAL (SELECT c.carbon_kg::double precision / nullif(c.accounted_energy_j, 0) AS kg) AS of_j
    ORDER BY 1, 2, 4, 5;
END
$$;
COMMENT ON FUNCTION report.token_carbon IS
    'Emissions of a million generated tokens (kgCO2e) and of a request (gCO2e; sci with embodied_g_per_gpu_hour), from start to '
    'stop, by step (whole hours; NULL: the whole period), by fleet, site, gpu_model, deployment or model, at a boundary (gpu, it, '
    'facility), and by method (location, market) and instrument; from 0 to 1 the part of the energy with an intensity and the '
    'coverage of the ratio';

-- report.capex_per_hour(): what owning something costs by the hour.
CREATE FUNCTION report.capex_per_hour(price numeric, yearly_rate numeric, years numeric) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    -- price · CRF / 8760 with CRF = r(1+r)^n / ((1+r)^n − 1), which is 1/n without interest.
    SELECT price / 8760 * CASE yearly_rate
        WHEN 0 THEN 1 / years
        ELSE yearly_rate * power(1 + yearly_rate, years) / (power(1 + yearly_rate, years) - 1)
    END;
END;
COMMENT ON FUNCTION report.capex_per_hour IS
    'Cost of owning by the hour, in the price''s currency: price · CRF / 8760 with the capital recovery factor of a yearly rate '
    '(0.08 is 8 %) and a life in years; for price_per_gpu_hour of report.token_cost()';
