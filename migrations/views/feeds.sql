-- report.feeds: meters that feed racks, with what flows through them now and what flowed before.
-- Definition: one row per meter of electricity that feeds racks, directly or through others, and is no sum of others; generation, which comes and goes, is none. power_w is of its newest window, which ended no longer ago than 3 minutes or three of its length, and else as
-- report.meters_now has it. power_before_w is the greatest of the mean over the 10 minutes before that window (looked at where power_w is below half of the rest) and
-- the greatest hour's mean of the last 24 h. above names the meters that feed it. Unit: W.
-- Missing data: while nothing is heard of a meter power_w is NULL; power_before_w is NULL where nothing was heard before.
-- needs: facility_parts
CREATE VIEW report.feeds AS
WITH fed AS MATERIALIZED (
    SELECT r.meter_id, r.rack_id FROM gigawatch.meter_rack AS r
    UNION
    SELECT above.above_id, r.rack_id FROM gigawatch.meter_rack AS r JOIN expanded.meter_above() AS above ON above.meter_id = r.meter_id
), racks AS (
    SELECT fed.meter_id, array_agg(rack.name ORDER BY rack.name) AS names FROM fed JOIN gigawatch.rack USING (rack_id) GROUP BY 1
), uppers AS (
    SELECT above.meter_id, array_agg(upper.name ORDER BY upper.name) AS names
    FROM expanded.meter_above() AS above
    JOIN gigawatch.meter AS upper ON upper.meter_id = above.above_id AND NOT upper.virtual
    GROUP BY 1
), hours AS MATERIALIZED (
    -- Hours of all meters lie together: they are read by their time, and not looked up one by one.
    SELECT h.meter_id, max(h.energy_mj::double precision / nullif(h.energy_ms, 0)) AS power_w
    FROM gigawatch.meter_1h AS h
    WHERE h.time > now() - interval '24 hours'
    GROUP BY 1
)
SELECT
    site.name AS site,
    m.name AS meter,
    m.role,
    m.feed,
    m.simulated,
    racks.names AS racks,
    coalesce(uppers.names, '{}') AS above,
    newest.time,
    newest.power_w,
    greatest(before.power_w, hours.power_w) AS power_before_w,
    m.last_seen
FROM gigawatch.meter AS m
JOIN gigawatch.site USING (site_id)
JOIN racks USING (meter_id)
LEFT JOIN uppers USING (meter_id)
LEFT JOIN hours USING (meter_id)
LEFT JOIN LATERAL (
    SELECT it.time, it.power_mw / 1000.0::double precision AS power_w
    FROM expanded.meter_tells_now AS it
    WHERE it.meter_id = m.meter_id AND it.ended >= now() - greatest(interval '3 minutes', 3 * it.length)
) AS newest ON true
LEFT JOIN LATERAL (
    SELECT sum(coalesce(w.power_mean_mw, w.energy_mj * 1000 / w.covered_ms)::double precision * w.covered_ms) / sum(w.covered_ms) / 1000 AS power_w
    FROM gigawatch.meter_window AS w
    WHERE w.meter_id = m.meter_id AND w.time >= newest.time - interval '10 minutes' AND w.time < newest.time
        AND coalesce(newest.power_w < hours.power_w / 2, true)
        AND coalesce(w.power_mean_mw, w.energy_mj) IS NOT NULL
) AS before ON true
WHERE m.role IN ('utility', 'ups_in', 'ups_out', 'pdu', 'it') AND NOT m.virtual
    AND (m.since IS NULL OR m.since <= now()) AND (m.until IS NULL OR m.until > now());
COMMENT ON VIEW report.feeds IS 'Meters that feed racks, with what flows through them now and what flowed before';
COMMENT ON COLUMN report.feeds.site IS 'Name of the site';
COMMENT ON COLUMN report.feeds.meter IS 'Name of the meter within its site';
COMMENT ON COLUMN report.feeds.role IS 'What it counts';
COMMENT ON COLUMN report.feeds.feed IS 'Of redundant feeds, which: A or B';
COMMENT ON COLUMN report.feeds.simulated IS 'Whether its data are simulated';
COMMENT ON COLUMN report.feeds.racks IS 'Racks that it feeds, directly or through others';
COMMENT ON COLUMN report.feeds.above IS 'Meters that feed it, directly or through others';
COMMENT ON COLUMN report.feeds.time IS 'Start of that window, UTC';
COMMENT ON COLUMN report.feeds.power_w IS 'Mean power in it; absent while nothing is heard of it, W';
COMMENT ON COLUMN report.feeds.power_before_w IS 'The greatest of the mean of the 10 minutes before and of the means of the hours of the last day, W';
COMMENT ON COLUMN report.feeds.last_seen IS 'When the server last stored a window of it, UTC';
