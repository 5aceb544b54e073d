-- report.budgets(): what of each budget is used in this month, and where the month will end.
-- Definition: a row for each limit of a budget: energy, cost, carbon. used is the sum from the month's first moment, in the budget's time zone, to at, as far as minutes are folded, of the deployments of the budget, in its
-- site where it names one; of a budget without deployments of all GPUs of its site. It is what report.cost() and report.carbon() have of that period, at boundary facility where 99 % of the energy of the month and of the last
-- 7 days is known there, else at boundary gpu, as boundary says; cost in the budget's currency, carbon by the location's intensity. forecast = used + rate · time left, where rate is that of the last 7 days (UTC, with
-- today), or of the time since the first energy of them. known is the part of the energy that has a price or an intensity: nothing is scaled up. Unit: kWh, the currency, kgCO2e.
-- Hours that are over are read from weighed_1h, which the fold keeps for 40 days, and makes again where late data, a price, an intensity or a configured PUE change them; those that it has not, and what is left of this hour, as they are.
-- Missing data: without any energy used is 0 kWh; cost and carbon are NULL without any energy that has a price or an intensity.
-- needs: weighed_hours, facility_parts
-- Sums of the weighed hours of a period by UTC day.
CREATE FUNCTION expanded.budget_days(start timestamptz, stop timestamptz, in_kind text, in_of text) RETURNS TABLE (
    day timestamptz, first_hour timestamptz, deployment_id integer, site_id integer, gpu_model text, pue numeric, unit text, energy_mj numeric,
    host_mj numeric, unmetered_ms numeric, weighed_energy numeric, weighed_host numeric, weighed_unmetered numeric
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    kept constant timestamptz := (SELECT coalesce(min(time), 'infinity') FROM gigawatch.weighed_1h);
    first constant timestamptz := least(stop, greatest(date_bin('1 hour', start + interval '1 hour' - interval '1 us', '2000-01-01Z'), kept));
    beyond constant timestamptz := greatest(first, least(date_bin('1 hour', stop, '2000-01-01Z'), expanded.folded('weighed_1h')));
BEGIN
    RETURN QUERY
    SELECT of_day.*
    -- Summed day by day, a month takes a quarter of the time, and 2 MB whatever the month.
    FROM generate_series(date_bin('1 day', first, '2000-01-01Z'), beyond - interval '1 us', interval '1 day') AS each (day)
    CROSS JOIN LATERAL (
        SELECT each.day, min(w.time), w.deployment_id, w.site_id, w.gpu_model, w.pue, w.unit, sum(w.energy_mj), sum(w.host_mj), sum(w.unmetered_ms),
            sum(w.weighed_energy), sum(w.weighed_host), sum(w.weighed_unmetered)
        FROM gigawatch.weighed_1h AS w
        WHERE w.kind = in_kind AND w.time >= greatest(each.day, first) AND w.time < least(each.day + interval '1 day', beyond)
            AND (w.deployment_id = 0) = (in_of = 'site')
        GROUP BY w.deployment_id, w.site_id, w.gpu_model, w.pue, w.unit, w.weighed_energy IS NULL, w.unmetered_ms = 0
    ) AS of_day
    UNION ALL
    SELECT date_bin('1 day', live.time, '2000-01-01Z'), live.time, live.deployment_id, live.site_id, live.gpu_model, live.pue, live.unit, live.energy_mj, live.host_mj,
        live.unmetered_ms, live.weighed_energy, live.weighed_host, live.weighed_unmetered
    FROM (VALUES (start, first), (beyond, stop)) AS span (first, beyond)
    CROSS JOIN LATERAL expanded.weighed_hours(span.first, span.beyond, in_kind, in_of, NULL) AS live
    WHERE span.first < span.beyond;
END
$$;

-- Whether a deployment is one of a budget's, whose names may end in *.
CREATE FUNCTION expanded.is_of_budget(deployment text, deployments text[]) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT EXISTS (
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
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    week constant timestamptz := date_bin('1 day', at - interval '6 days', '2000-01-01Z');
BEGIN
    RETURN QUERY
    WITH limits AS MATERIALIZED (
        SELECT b.name, b.site, b.deployments, CASE WHEN b.deployments IS NULL THEN 'site' ELSE 'deployment' END AS of, month.first, month.beyond, its.*
        FROM gigawatch.alert_budget AS b
        CROSS JOIN LATERAL (SELECT date_trunc('month', at AT TIME ZONE b.time_zone) AS local) AS calendar
        CROSS JOIN LATERAL (
            SELECT calendar.local AT TIME ZONE b.time_zone AS first, (calendar.local + interval '1 month') AT TIME ZONE b.time_zone AS beyond
        ) AS month
        CROSS JOIN LATERAL (
            VALUES ('energy', 'kWh', b.energy_mj / 3.6e9::double precision, 'location'), ('cost', b.currency, b.cost::double precision, 'price'),
                ('carbon', 'kgCO2e', b.co2e_g / 1e3::double precision, 'location')
        ) AS its (quantity, unit, limit_value, kind)
        WHERE its.limit_value IS NOT NULL AND (in_quantity IS NULL OR its.quantity = in_quantity)
    ), asked AS MATERIALIZED (
        SELECT DISTINCT l.kind, l.of, l.first FROM limits AS l
    ), days AS MATERIALIZED (
        SELECT a.kind, a.of, a.first, span.in_month, d.*
        FROM asked AS a
        CROSS JOIN LATERAL (VALUES (least(week, a.first), a.first, false), (a.first, at, true)) AS span (start, stop, in_month)
        CROSS JOIN LATERAL expanded.budget_days(span.start, span.stop, a.kind, a.of) AS d
    ), periods AS (
        SELECT d.*, 'month' AS period, d.first AS start FROM days AS d WHERE d.in_month
        UNION ALL
        SELECT d.*, 'week', week FROM days AS d WHERE d.day >= week
    ), hosts AS MATERIALIZED (
        SELECT its.start, h.*
        FROM (SELECT a.first AS start FROM asked AS a UNION SELECT week) AS its
        CROSS JOIN LATERAL expanded.host_power(expanded.deployment_spans(its.start, at, NULL)) AS h
    ), measured AS MATERIALIZED (
        SELECT m.* FROM expanded.measured_pue(expanded.deployment_spans(least(week, (SELECT min(a.first) FROM asked AS a)), at, NULL)) AS m
    ), used AS MATERIALIZED (
        SELECT p.kind, p.of, p.first, p.period, p.deployment_id, p.site_id, p.unit, at_boundary.name AS boundary, min(p.first_hour) AS first_hour, sum(p.energy_mj) AS gpu_mj,
            sum(p.energy_mj) FILTER (WHERE sums.mj IS NOT NULL) AS known_mj, sum(sums.mj) AS mj, sum(sums.mj) FILTER (WHERE sums.amount IS NOT NULL) AS weighed_mj,
            sum(sums.amount) AS amount
        FROM periods AS p
        LEFT JOIN hosts ON hosts.start = p.start AND hosts.gpu_model = p.gpu_model
        LEFT JOIN measured ON measured.site_id = p.site_id AND measured.day = p.day
        CROSS JOIN LATERAL (
            VALUES ('gpu', 0, 0::numeric, 1::numeric),
                ('facility', 1, CASE WHEN p.unmetered_ms = 0 THEN 0 ELSE hosts.mw / 1000 END, coalesce(measured.value, p.pue))
        ) AS at_boundary (name, host, others, pue)
        CROSS JOIN LATERAL (
            SELECT (p.energy_mj + p.host_mj * at_boundary.host + p.unmetered_ms * at_boundary.others) * at_boundary.pue AS mj,
                (p.weighed_energy + p.weighed_host * at_boundary.host + p.weighed_unmetered * at_boundary.others) * at_boundary.pue AS amount
        ) AS sums
        GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
    ), members AS MATERIALIZED (
        SELECT l.*, d.deployment_id FROM limits AS l JOIN gigawatch.deployment AS d ON l.of = 'deployment' AND expanded.is_of_budget(d.name, l.deployments)
        UNION ALL
        SELECT l.*, 0 FROM limits AS l WHERE l.of = 'site'
    ), sums AS (
        SELECT m.name, m.quantity, u.boundary, min(u.first_hour) FILTER (WHERE u.period = 'week') AS week_first,
            sum(value.of) FILTER (WHERE u.period = 'month') AS used, sum(value.of) FILTER (WHERE u.period = 'week') AS of_week,
            CASE WHEN m.quantity = 'energy' THEN 1
                ELSE sum(u.weighed_mj) FILTER (WHERE u.period = 'month' AND value.of IS NOT NULL) / nullif(sum(u.mj) FILTER (WHERE u.period = 'month'), 0)
            END AS known,
            least(
                sum(u.known_mj) FILTER (WHERE u.period = 'month') / nullif(sum(u.gpu_mj) FILTER (WHERE u.period = 'month'), 0),
                sum(u.known_mj) FILTER (WHERE u.period = 'week') / nullif(sum(u.gpu_mj) FILTER (WHERE u.period = 'week'), 0)
            ) AS share
        FROM members AS m
        JOIN used AS u ON u.kind = m.kind AND u.of = m.of AND u.first = m.first AND u.deployment_id = m.deployment_id
            AND (m.site IS NULL OR u.site_id = (SELECT site.site_id FROM gigawatch.site WHERE site.name = m.site))
        CROSS JOIN LATERAL (
            SELECT CASE m.quantity
                WHEN 'energy' THEN u.mj / 3600000000
                WHEN 'cost' THEN CASE WHEN u.unit = m.unit THEN u.amount / 3600000000 END
                ELSE u.amount / 3600000000 / 1000
            END AS of
        ) AS value
        GROUP BY 1, 2, 3
    )
    SELECT l.name, l.site, l.deployments, l.quantity, l.unit, coalesce(s.boundary, 'gpu'), l.first, l.beyond, l.limit_value, of.used, of.used / l.limit_value, of.rate, ahead.forecast,
        ahead.forecast / l.limit_value, CASE WHEN l.quantity = 'energy' THEN 1 ELSE s.known::double precision END
    FROM limits AS l
    LEFT JOIN LATERAL (
        -- Facility stands before gpu.
        SELECT its.* FROM sums AS its
        WHERE its.name = l.name AND its.quantity = l.quantity AND (its.boundary = 'gpu' OR its.share >= 0.99)
        ORDER BY its.boundary LIMIT 1
    ) AS s ON true
    CROSS JOIN LATERAL (
        SELECT CASE WHEN l.quantity = 'energy' OR s.known > 0 THEN coalesce(s.used, 0)::double precision END AS used,
            s.of_week::double precision * 86400 / greatest(extract(epoch FROM at - s.week_first)::double precision, 3600) AS rate
    ) AS of
    CROSS JOIN LATERAL (SELECT of.used + coalesce(of.rate, 0) * extract(epoch FROM l.beyond - at)::double precision / 86400 AS forecast) AS ahead
    ORDER BY 1, array_position(ARRAY['energy', 'cost', 'carbon'], l.quantity);
END
$$;
COMMENT ON FUNCTION report.budgets IS
    'Of each limit of each budget (energy kWh, cost in its currency, carbon kgCO2e; with in_quantity of that alone): what is used from the month''s beginning in the budget''s time zone to a moment, at which boundary, '
    'the rate by day of the last 7 days, the forecast to the month''s end by it, both over the limit (1), and the part of the energy that has a price or an intensity';
