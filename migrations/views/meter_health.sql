-- report.meter_health: each meter, whether it is heard of, and whether what it says can be right.
-- Definition: state is the first that holds of: not placed (the topology does not know it; it is in no figure), retired (its time of
-- use is over), never heard of, imported (from files, no agent reads it), silent (its newest window ended longer ago than three of its length,
-- and than 5 min), reversed (its agent does not believe it now since power flows backwards; of other roles than utility and
-- generation also power below 0 now, or in an hour of the last two), stuck (its agent does not believe its register now since it stands still, or did not in an
-- hour of the last two; or power and register did not change in one of them beside an energy above 2 kWh; or power, where it is all there is, did not in
-- hours in which what it alone feeds did), rejected (more than 5 % of the readings of the last 24 h
-- refused as impossible), else ok. Of a virtual meter: ok where the last of its hours is known, else silent. power_w is of the newest
-- window of the last day: the polled mean, without one energy over time. Of the last 24 h that are over: coverage is time of which energy, volume or else temperature is known over 24 h.
-- Unit: W, s, h; the rest counts and shares.
-- Missing data: a meter that nothing was heard of has NULL in what it would say.
-- needs: facility_parts
CREATE VIEW report.meter_health AS
WITH mark AS MATERIALIZED (
    SELECT max(rollup.folded) AS folded FROM gigawatch.rollup WHERE rollup.level = 'meter_1h'
), day AS MATERIALIZED (
    -- Hours of all meters lie together: they are read by their time, and not looked up one by one.
    SELECT h.meter_id, sum(greatest(h.energy_ms, h.volume_ms)) AS counted_ms, sum(h.temp_ms) AS temp_ms, sum(h.readings_taken) AS taken, sum(h.rejected_readings) AS rejected,
        (sum(h.energy_interpolated_mj) / nullif(sum(h.energy_mj), 0))::double precision AS interpolated_share,
        sum(h.stuck_h) AS stuck_h, sum(h.reversed_h) AS reversed_h, count(*) FILTER (WHERE last.yes) AS last_hours,
        sum(h.stuck_h) FILTER (WHERE last.yes) AS last_stuck_h, sum(h.reversed_h) FILTER (WHERE last.yes) AS last_reversed_h
    FROM gigawatch.meter_1h AS h
    CROSS JOIN LATERAL (SELECT h.time >= (SELECT mark.folded FROM mark) - interval '2 hours' AS yes) AS last
    WHERE h.time >= (SELECT mark.folded FROM mark) - interval '24 hours' AND h.time < (SELECT mark.folded FROM mark)
    GROUP BY h.meter_id
)
SELECT
    site.name AS site,
    hall.name AS hall,
    m.name AS meter,
    m.role,
    m.virtual,
    m.feed,
    m.simulated,
    node.hostname AS read_by,
    CASE
        WHEN m.role IS NULL THEN 'not placed'
        WHEN m.until <= now() THEN 'retired'
        WHEN m.virtual THEN CASE WHEN day.last_hours > 0 THEN 'ok' ELSE 'silent' END
        WHEN m.last_seen IS NULL THEN 'never heard of'
        WHEN m.node_id IS NULL THEN 'imported'
        WHEN newest.is_now IS NOT TRUE THEN 'silent'
        WHEN newest.doubt = 2 OR m.role NOT IN ('utility', 'generation') AND (newest.polled_mw < 0 OR day.last_reversed_h > 0)
            THEN 'reversed'
        WHEN newest.doubt = 1 OR day.last_stuck_h > 0 THEN 'stuck'
        WHEN day.rejected > 0.05 * (day.rejected + day.taken) THEN 'rejected'
        ELSE 'ok'
    END AS state,
    m.last_seen,
    newest.ended AS newest,
    newest.power_mw / 1000.0::double precision AS power_w,
    coalesce(CASE m.role WHEN 'temperature' THEN day.temp_ms ELSE day.counted_ms END, 0) / 86400000.0::double precision AS coverage_24h,
    day.taken AS readings_24h,
    day.rejected AS rejected_24h,
    day.interpolated_share AS interpolated_share_24h,
    coalesce(day.stuck_h, 0) AS stuck_hours_24h,
    coalesce(day.reversed_h, 0) AS reversed_hours_24h,
    m.since,
    m.until
FROM gigawatch.meter AS m
JOIN gigawatch.site USING (site_id)
LEFT JOIN gigawatch.hall ON hall.hall_id = m.hall_id
LEFT JOIN gigawatch.node ON node.node_id = m.node_id
LEFT JOIN day ON day.meter_id = m.meter_id
LEFT JOIN expanded.meter_newest AS newest ON newest.meter_id = m.meter_id;
COMMENT ON VIEW report.meter_health IS 'Each meter of the facility, whether it is heard of, and whether what it says can be right';
COMMENT ON COLUMN report.meter_health.site IS 'Site';
COMMENT ON COLUMN report.meter_health.hall IS 'Hall that it is of; NULL: of the whole site';
COMMENT ON COLUMN report.meter_health.meter IS 'Name, unique within its site';
COMMENT ON COLUMN report.meter_health.role IS 'What it counts: utility, generation, fuel, ups_in, ups_out, pdu, it, cooling, pump, lighting, water, heat_reuse, heat_removed, temperature or other; NULL where the topology does not know it';
COMMENT ON COLUMN report.meter_health.virtual IS 'Whether it is a sum of others';
COMMENT ON COLUMN report.meter_health.feed IS 'Of redundant feeds, which: A or B';
COMMENT ON COLUMN report.meter_health.simulated IS 'Whether its data are simulated';
COMMENT ON COLUMN report.meter_health.read_by IS 'Host name of the node whose agent read it last';
COMMENT ON COLUMN report.meter_health.state IS 'ok, silent, never heard of, stuck, reversed, rejected, imported, retired or not placed';
COMMENT ON COLUMN report.meter_health.last_seen IS 'When the server last stored a window of it, UTC';
COMMENT ON COLUMN report.meter_health.newest IS 'End of its newest window of the last day, UTC';
COMMENT ON COLUMN report.meter_health.power_w IS 'Power in its newest window of the last day, W';
COMMENT ON COLUMN report.meter_health.coverage_24h IS 'Known time of the last 24 h that are over, over 24 h, 0 to 1';
COMMENT ON COLUMN report.meter_health.readings_24h IS 'Readings taken in these';
COMMENT ON COLUMN report.meter_health.rejected_24h IS 'Readings refused as impossible in these';
COMMENT ON COLUMN report.meter_health.interpolated_share_24h IS 'Part of their energy that was spread over gaps, 0 to 1';
COMMENT ON COLUMN report.meter_health.stuck_hours_24h IS 'Hours of these in which it stood still, h';
COMMENT ON COLUMN report.meter_health.reversed_hours_24h IS 'Hours of these in which power flowed the other way, h';
COMMENT ON COLUMN report.meter_health.since IS 'Figures want it from this moment on, UTC; NULL: always';
COMMENT ON COLUMN report.meter_health.until IS 'Up to this moment, UTC; NULL: for ever';
