-- report.budgets(): what of each budget is used in this month, and where the month will end.
-- Definition: a row for each limit of a budget: energy, cost, carbon. used is the sum from the month's first moment (UTC) to at, of the deployments of the budget, in its site where it names one; of a
-- budget without deployments of all GPUs of its site. At boundary facility where 99 % of the energy since the month's beginning, or of the last 7 days, is known there, else at boundary gpu, as boundary says. Cost is that in the
-- budget's currency by report.cost(), carbon by the location's intensity by report.carbon(). forecast = used + rate · time left, where rate is that of the last 7 days, or of the time since the first energy of
-- them. known is the part of the energy that has a price or an intensity: nothing is scaled up. Unit: kWh, the currency, kgCO2e.
-- Missing data: without any energy used is 0; without any price or intensity it is NULL.
-- needs: cost, carbon
CREATE FUNCTION report.budgets(
    at timestamptz DEFAULT now()
) RETURNS TABLE (
    budget text, site text, deployments text[], quantity text, unit text, boundary text, month timestamptz, month_ends timestamptz,
    limit_value double precision, used double precision, used_share double precision, rate_per_day double precision, forecast double precision,
    forecast_share double precision, known double precision
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog SET plan_cache_mode = force_custom_plan SET timezone = 'UTC'
AS $$
#variable_conflict use_column
DECLARE
    first constant timestamptz := date_trunc('month', at);
    beyond constant timestamptz := first + interval '1 month';
    week constant timestamptz := date_bin('1 day', at - interval '6 days', '2000-01-01Z');
    since constant timestamptz := least(first, week);
BEGIN
    RETURN QUERY
    WITH wanted AS MATERIALIZED (
        SELECT DISTINCT b.site, CASE WHEN b.deployments IS NULL THEN 'site' ELSE 'deployment' END AS grouping FROM gigawatch.alert_budget AS b
    ), days AS MATERIALIZED (
        SELECT w.site, w.grouping, of.boundary, 'carbon' AS quantity, c.time, c.label, NULL::text AS currency, c.energy_j, c.accounted_energy_j AS known_j,
            c.carbon_kg::double precision AS amount, c.boundary_coverage
        FROM wanted AS w
        CROSS JOIN (VALUES ('facility'), ('gpu')) AS of (boundary)
        CROSS JOIN LATERAL report.carbon(since, at, interval '1 day', w.grouping, w.site, NULL, of.boundary, NULL, w.grouping = 'deployment', 'location') AS c
        UNION ALL
        SELECT w.site, w.grouping, of.boundary, 'cost', c.time, c.label, c.currency, c.energy_j, c.priced_energy_j, c.cost::double precision, c.boundary_coverage
        FROM wanted AS w
        CROSS JOIN (VALUES ('facility'), ('gpu')) AS of (boundary)
        CROSS JOIN LATERAL report.cost(since, at, interval '1 day', w.grouping, w.site, NULL, of.boundary, NULL, w.grouping = 'deployment') AS c
        WHERE EXISTS (SELECT FROM gigawatch.alert_budget AS b WHERE b.cost IS NOT NULL)
    ), mine AS MATERIALIZED (
        SELECT b.name, d.*
        FROM gigawatch.alert_budget AS b
        JOIN days AS d ON d.site IS NOT DISTINCT FROM b.site AND d.grouping = CASE WHEN b.deployments IS NULL THEN 'site' ELSE 'deployment' END
        WHERE b.deployments IS NULL OR EXISTS (
            SELECT FROM unnest(b.deployments) AS of (pattern)
            WHERE CASE WHEN right(of.pattern, 1) = '*' THEN starts_with(d.label, left(of.pattern, -1)) ELSE d.label = of.pattern END
        )
    ), boundaries AS (
        -- Rows of one quantity have each energy once.
        SELECT m.name, CASE WHEN bool_and(coalesce(m.boundary_coverage, 0) >= 0.99) THEN 'facility' ELSE 'gpu' END AS boundary
        FROM mine AS m WHERE m.quantity = 'carbon' AND m.boundary = 'facility' GROUP BY 1
    ), limits AS (
        SELECT b.name, b.site, b.deployments, its.*, coalesce(boundaries.boundary, 'gpu') AS boundary
        FROM gigawatch.alert_budget AS b
        LEFT JOIN boundaries USING (name)
        CROSS JOIN LATERAL (
            VALUES ('energy', 'kWh', b.energy_mj / 3.6e9::double precision, 'carbon'), ('cost', b.currency, b.cost::double precision, 'cost'),
                ('carbon', 'kgCO2e', b.co2e_g / 1e3::double precision, 'carbon')
        ) AS its (quantity, unit, limit_value, read_from)
        WHERE its.limit_value IS NOT NULL
    ), sums AS (
        SELECT l.*, its.*
        FROM limits AS l
        CROSS JOIN LATERAL (
            SELECT sum(amount.value) FILTER (WHERE m.time >= first) AS used, sum(amount.value) FILTER (WHERE m.time >= week) AS of_week,
                min(m.time) FILTER (WHERE m.time >= week) AS week_first,
                CASE WHEN l.quantity = 'energy' THEN 1 ELSE sum(m.known_j) FILTER (WHERE m.time >= first) / nullif(sum(m.energy_j) FILTER (WHERE m.time >= first), 0) END AS known
            FROM mine AS m
            CROSS JOIN LATERAL (SELECT CASE WHEN l.quantity = 'energy' THEN m.energy_j / 3.6e6 ELSE m.amount END AS value) AS amount
            WHERE m.name = l.name AND m.boundary = l.boundary AND m.quantity = l.read_from AND (l.quantity <> 'cost' OR m.currency = l.unit OR m.currency IS NULL)
        ) AS its
    )
    SELECT s.name, s.site, s.deployments, s.quantity, s.unit, s.boundary, first, beyond, s.limit_value, of.used, of.used / s.limit_value, of.rate, ahead.forecast,
        ahead.forecast / s.limit_value, s.known
    FROM sums AS s
    CROSS JOIN LATERAL (
        SELECT CASE WHEN s.quantity = 'energy' OR s.known > 0 THEN coalesce(s.used, 0) END AS used,
            s.of_week * 86400 / greatest(extract(epoch FROM at - s.week_first)::double precision, 3600) AS rate
    ) AS of
    CROSS JOIN LATERAL (SELECT of.used + coalesce(of.rate, 0) * extract(epoch FROM beyond - at)::double precision / 86400 AS forecast) AS ahead
    ORDER BY 1, array_position(ARRAY['energy', 'cost', 'carbon'], s.quantity);
END
$$;
COMMENT ON FUNCTION report.budgets IS
    'Of each limit of each budget (energy kWh, cost in its currency, carbon kgCO2e): what is used from the month''s beginning to a moment, at which boundary, the rate by day of the last 7 days, '
    'the forecast to the month''s end by it, both over the limit (1), and the part of the energy that has a price or an intensity';
