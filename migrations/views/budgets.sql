-- report.budgets(): what of each budget is used in this month, and where the month will end.
-- Definition: a row for each limit of a budget: energy, cost, carbon. used is the sum from the month's first moment (UTC) to at, of the deployments of the budget, in its site where it names one; of a
-- budget without deployments of all GPUs of its site. At boundary facility where 99 % of the energy since the month's beginning, or of the last 7 days, is known there, else at boundary gpu, as boundary says. Cost is that in the
-- budget's currency by report.cost(), carbon by the location's intensity by report.carbon(). forecast = used + rate · time left, where rate is that of the last 7 days, or of the time since the first energy of
-- them. known is the part of the energy that has a price or an intensity: nothing is scaled up. Unit: kWh, the currency, kgCO2e.
-- Missing data: without any energy used is 0; without any price or intensity it is NULL.
-- needs: cost, carbon
-- What deployments or sites used by the day at a boundary, as report.carbon() or, where in_read is cost, report.cost() has it; energy J.
CREATE FUNCTION expanded.budget_days(
    start timestamptz, stop timestamptz, in_read text, in_grouping text, in_site text, in_boundary text
) RETURNS TABLE (
    "time" timestamptz, label text, currency text, energy_j double precision, known_j double precision, amount double precision, boundary_coverage double precision
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
BEGIN
    IF in_read = 'cost' THEN
        RETURN QUERY
        SELECT c.time, c.label, c.currency, c.energy_j, c.priced_energy_j, c.cost::double precision, c.boundary_coverage
        FROM report.cost(start, stop, interval '1 day', in_grouping, in_site, NULL, in_boundary, NULL, in_grouping = 'deployment') AS c;
    ELSE
        RETURN QUERY
        SELECT c.time, c.label, NULL::text, c.energy_j, c.accounted_energy_j, c.carbon_kg::double precision, c.boundary_coverage
        FROM report.carbon(start, stop, interval '1 day', in_grouping, in_site, NULL, in_boundary, NULL, in_grouping = 'deployment', 'location') AS c;
    END IF;
END
$$;

-- Whether a deployment is one of a budget's, whose names may end in *; a budget without deployments is of all.
CREATE FUNCTION expanded.is_of_budget(deployment text, deployments text[]) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT deployments IS NULL OR EXISTS (
        SELECT FROM unnest(deployments) AS of (pattern)
        WHERE CASE WHEN right(of.pattern, 1) = '*' THEN starts_with(deployment, left(of.pattern, -1)) ELSE deployment = of.pattern END
    );
END;

CREATE FUNCTION report.budgets(
    at timestamptz DEFAULT now(),
    in_quantity text DEFAULT NULL
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
    WITH limits AS MATERIALIZED (
        SELECT b.name, b.site, b.deployments, CASE WHEN b.deployments IS NULL THEN 'site' ELSE 'deployment' END AS grouping, its.*
        FROM gigawatch.alert_budget AS b
        CROSS JOIN LATERAL (
            VALUES ('energy', 'kWh', b.energy_mj / 3.6e9::double precision, 'carbon'), ('cost', b.currency, b.cost::double precision, 'cost'),
                ('carbon', 'kgCO2e', b.co2e_g / 1e3::double precision, 'carbon')
        ) AS its (quantity, unit, limit_value, read_from)
        WHERE its.limit_value IS NOT NULL AND (in_quantity IS NULL OR its.quantity = in_quantity)
    ), facility AS MATERIALIZED (
        SELECT w.*, d.*
        FROM (SELECT DISTINCT l.site, l.grouping, l.read_from FROM limits AS l) AS w
        CROSS JOIN LATERAL expanded.budget_days(since, at, w.read_from, w.grouping, w.site, 'facility') AS d
    ), boundaries AS MATERIALIZED (
        SELECT l.*, CASE WHEN bool_and(coalesce(f.boundary_coverage, 0) >= 0.99) THEN 'facility' ELSE 'gpu' END AS boundary
        FROM limits AS l
        LEFT JOIN facility AS f ON f.site IS NOT DISTINCT FROM l.site AND f.grouping = l.grouping AND f.read_from = l.read_from
            AND expanded.is_of_budget(f.label, l.deployments)
        GROUP BY l.name, l.site, l.deployments, l.grouping, l.quantity, l.unit, l.limit_value, l.read_from
    ), days AS MATERIALIZED (
        SELECT 'facility' AS boundary, f.* FROM facility AS f
        UNION ALL
        -- Each boundary takes seconds in a large fleet: this one is read for budgets that need it.
        SELECT 'gpu', w.*, d.*
        FROM (SELECT DISTINCT b.site, b.grouping, b.read_from FROM boundaries AS b WHERE b.boundary = 'gpu') AS w
        CROSS JOIN LATERAL expanded.budget_days(since, at, w.read_from, w.grouping, w.site, 'gpu') AS d
    ), sums AS (
        SELECT l.*, its.*
        FROM boundaries AS l
        CROSS JOIN LATERAL (
            SELECT sum(amount.value) FILTER (WHERE d.time >= first) AS used, sum(amount.value) FILTER (WHERE d.time >= week) AS of_week,
                min(d.time) FILTER (WHERE d.time >= week) AS week_first,
                CASE WHEN l.quantity = 'energy' THEN 1 ELSE sum(d.known_j) FILTER (WHERE d.time >= first) / nullif(sum(d.energy_j) FILTER (WHERE d.time >= first), 0) END AS known
            FROM days AS d
            CROSS JOIN LATERAL (SELECT CASE WHEN l.quantity = 'energy' THEN d.energy_j / 3.6e6 ELSE d.amount END AS value) AS amount
            WHERE d.boundary = l.boundary AND d.site IS NOT DISTINCT FROM l.site AND d.grouping = l.grouping AND d.read_from = l.read_from
                AND expanded.is_of_budget(d.label, l.deployments) AND (l.quantity <> 'cost' OR d.currency = l.unit OR d.currency IS NULL)
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
    'Of each limit of each budget (energy kWh, cost in its currency, carbon kgCO2e; with in_quantity of that alone): what is used from the month''s beginning to a moment, at which boundary, the rate by day of the last 7 days, '
    'the forecast to the month''s end by it, both over the limit (1), and the part of the energy that has a price or an intensity';
