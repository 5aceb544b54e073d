-- report.meter_faults: meters that cannot be right or are not read as they should be, and sites whose sums cannot be.
-- Definition: a row for each fault. Of meters, by report.meter_health: reversed, stuck, rejected; coverage: the known time over the time of the last 24 hours that are over,
-- from the first of these hours with data of the meter on; of one without any, from the first of them. Of sites: an hour of the last three in which the energy of IT was above that of
-- all sources (a PUE below 1), by report.facility_gaps(); meter is then 'all'. coverage is given with every meter. Unit: 1.
-- Missing data: meters that the topology does not place, that are retired, sums of others, imported or never heard of have no row.
-- needs: meter_health, facility_gaps
CREATE VIEW report.meter_faults AS
WITH mark AS MATERIALIZED (
    SELECT max(rollup.folded) AS folded FROM gigawatch.rollup WHERE rollup.level = 'meter_1h'
), day AS MATERIALIZED (
    SELECT site.name AS site, m.name AS meter, min(h.time) AS first, sum(h.covered_ms) AS covered_ms
    FROM gigawatch.meter_1h AS h
    JOIN gigawatch.meter AS m USING (meter_id)
    JOIN gigawatch.site USING (site_id)
    WHERE h.time >= (SELECT mark.folded FROM mark) - interval '24 hours' AND h.time < (SELECT mark.folded FROM mark)
    GROUP BY 1, 2
), health AS MATERIALIZED (
    SELECT it.site, it.meter, it.role, it.state, it.simulated, it.last_seen,
        coalesce(day.covered_ms, 0) / nullif(1000 * extract(epoch FROM mark.folded - greatest(coalesce(day.first, mark.folded - interval '24 hours'), it.since)), 0)
            AS coverage
    FROM report.meter_health AS it
    CROSS JOIN mark
    LEFT JOIN day USING (site, meter)
    WHERE NOT it.virtual AND it.state NOT IN ('not placed', 'retired', 'never heard of', 'imported')
)
SELECT
    health.site,
    health.meter,
    health.role,
    CASE WHEN health.state IN ('reversed', 'stuck', 'rejected') THEN health.state ELSE 'coverage' END AS fault,
    least(health.coverage, 1)::double precision AS coverage,
    health.last_seen,
    health.simulated
FROM health
WHERE health.state IN ('reversed', 'stuck', 'rejected') OR health.coverage < 1
UNION ALL
SELECT gaps.site, 'all', NULL, 'IT above its sources', NULL, max(gaps.time + gaps.hours * interval '1 hour'),
    coalesce((SELECT bool_or(m.simulated) FROM gigawatch.meter AS m JOIN gigawatch.site USING (site_id) WHERE site.name = gaps.site), false)
FROM report.facility_gaps((SELECT mark.folded FROM mark) - interval '3 hours', (SELECT mark.folded FROM mark)) AS gaps
WHERE gaps.figure = 'pue' AND gaps.state = 'faulty' AND 'energy of IT above that of the sources' = ANY (gaps.reasons)
GROUP BY gaps.site;
COMMENT ON VIEW report.meter_faults IS 'Meters that cannot be right or are not read as they should be, and sites whose sums cannot be';
COMMENT ON COLUMN report.meter_faults.site IS 'Name of the site';
COMMENT ON COLUMN report.meter_faults.meter IS 'Name of the meter within its site; all: the sums of the site';
COMMENT ON COLUMN report.meter_faults.role IS 'What it counts';
COMMENT ON COLUMN report.meter_faults.fault IS 'reversed, stuck, rejected, coverage, or IT above its sources';
COMMENT ON COLUMN report.meter_faults.coverage IS 'Known time over the time of the last 24 hours, 1';
COMMENT ON COLUMN report.meter_faults.last_seen IS 'When the server last stored a window of it, or the end of the faulty hour, UTC';
COMMENT ON COLUMN report.meter_faults.simulated IS 'Whether its data are simulated';
