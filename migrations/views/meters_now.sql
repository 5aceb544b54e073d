-- report.meters_now: what each meter tells now, beside its limits.
-- Definition: of each meter that the topology places, that is no sum of others and that was heard of in the last 7 days, the newest window, which ended no longer ago than 5 minutes
-- or three of its length, as in report.meter_health: power_w is the polled mean, without one energy over time. breaker_share is the greatest current of a phase over the breaker's rating. medium says what a meter of role
-- temperature is of: outside air where it is of no hall, node and rack; else by its name: return (return, outlet, exhaust, hot), liquid supply (liquid, water, coolant,
-- cdu, fws, tcs, chw), or inlet air. temp_min_5m_c and temp_min_15m_c are the least of its windows of the last 5 and 15 minutes. Unit: W, A, °C.
-- Missing data: while nothing is heard of a meter its measurements are NULL; the least of a time that its windows do not span is NULL.
CREATE VIEW report.meters_now AS
SELECT
    site.name AS site,
    hall.name AS hall,
    racks.names AS racks,
    m.node,
    m.name AS meter,
    m.role,
    m.feed,
    m.simulated,
    m.last_seen,
    newest.time,
    newest.power_mw / 1000.0::double precision AS power_w,
    newest.current_max_ma / 1000.0::double precision AS current_max_a,
    newest.temp_mean_mc / 1000.0::double precision AS temp_c,
    m.breaker_ma / 1000.0::double precision AS breaker_a,
    newest.current_max_ma::double precision / nullif(m.breaker_ma, 0) AS breaker_share,
    CASE
        WHEN m.role IS DISTINCT FROM 'temperature' THEN NULL
        WHEN m.hall_id IS NULL AND m.node IS NULL AND racks.names = '{}' THEN 'outside air'
        WHEN m.name ~* '(return|outlet|exhaust|hot)' THEN 'return'
        WHEN m.name ~* '(liquid|water|coolant|cdu|fws|tcs|chw)' THEN 'liquid supply'
        ELSE 'inlet air'
    END AS medium,
    CASE WHEN newest.time IS NOT NULL THEN least_of.min_5m END / 1000.0::double precision AS temp_min_5m_c,
    CASE WHEN newest.time IS NOT NULL THEN least_of.min_15m END / 1000.0::double precision AS temp_min_15m_c
FROM gigawatch.meter AS m
JOIN gigawatch.site USING (site_id)
LEFT JOIN gigawatch.hall ON hall.hall_id = m.hall_id
CROSS JOIN LATERAL (
    SELECT ARRAY(
        SELECT rack.name FROM gigawatch.meter_rack AS r JOIN gigawatch.rack USING (rack_id) WHERE r.meter_id = m.meter_id ORDER BY 1
    ) AS names
) AS racks
LEFT JOIN LATERAL (
    SELECT w.time, w.length, coalesce(w.power_mean_mw, w.energy_mj * 1000 / w.covered_ms) AS power_mw, w.current_max_ma, w.temp_mean_mc
    FROM (
        SELECT it.*, it.covered_ms * interval '1 ms' AS length
        FROM gigawatch.meter_window AS it
        WHERE it.meter_id = m.meter_id AND it.time > now() - interval '1 day'
        ORDER BY it.time DESC
        LIMIT 1
    ) AS w
    WHERE w.time + w.length >= now() - greatest(interval '5 minutes', 3 * w.length)
) AS newest ON true
LEFT JOIN LATERAL (
    -- A window counts for the time that it lies in, and one must reach back to the beginning.
    SELECT CASE WHEN min(w.time) <= now() - interval '5 minutes' THEN min(w.temp_mean_mc) FILTER (WHERE w.ended > now() - interval '5 minutes') END AS min_5m,
        CASE WHEN min(w.time) <= now() - interval '15 minutes' THEN min(w.temp_mean_mc) FILTER (WHERE w.ended > now() - interval '15 minutes') END AS min_15m
    FROM (
        SELECT it.time, it.time + it.covered_ms * interval '1 ms' AS ended, it.temp_mean_mc
        FROM gigawatch.meter_window AS it
        WHERE m.role = 'temperature' AND it.meter_id = m.meter_id AND it.temp_mean_mc IS NOT NULL AND it.time > now() - interval '20 minutes' - 2 * newest.length
    ) AS w
) AS least_of ON true
WHERE m.role IS NOT NULL AND NOT m.virtual AND m.last_seen > now() - interval '7 days' AND (m.until IS NULL OR m.until > now());
COMMENT ON VIEW report.meters_now IS 'What each meter tells now, beside its limits';
COMMENT ON COLUMN report.meters_now.site IS 'Name of the site';
COMMENT ON COLUMN report.meters_now.hall IS 'Hall that it is of; absent where it is of the whole site';
COMMENT ON COLUMN report.meters_now.racks IS 'Racks that it feeds with no other meter between';
COMMENT ON COLUMN report.meters_now.node IS 'Host name of the node that it measures';
COMMENT ON COLUMN report.meters_now.meter IS 'Name of the meter within its site';
COMMENT ON COLUMN report.meters_now.role IS 'What it counts';
COMMENT ON COLUMN report.meters_now.feed IS 'Of redundant feeds, which: A or B';
COMMENT ON COLUMN report.meters_now.simulated IS 'Whether its data are simulated';
COMMENT ON COLUMN report.meters_now.last_seen IS 'When the server last stored a window of it, UTC';
COMMENT ON COLUMN report.meters_now.time IS 'Start of its newest window; absent while nothing is heard of it, UTC';
COMMENT ON COLUMN report.meters_now.power_w IS 'Mean power, W';
COMMENT ON COLUMN report.meters_now.current_max_a IS 'Greatest current of a phase, A';
COMMENT ON COLUMN report.meters_now.temp_c IS 'Mean temperature, °C';
COMMENT ON COLUMN report.meters_now.breaker_a IS 'Rating of its breaker, A';
COMMENT ON COLUMN report.meters_now.breaker_share IS 'Greatest current of a phase over that, 1';
COMMENT ON COLUMN report.meters_now.medium IS 'Of a thermometer: outside air, return, liquid supply or inlet air';
COMMENT ON COLUMN report.meters_now.temp_min_5m_c IS 'Least temperature of the last 5 minutes, °C';
COMMENT ON COLUMN report.meters_now.temp_min_15m_c IS 'Least temperature of the last 15 minutes, °C';
