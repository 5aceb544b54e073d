-- report.power_ratio_now: power of each site's sources over that of its IT equipment, at this moment; indicative.
-- Definition: power_ratio = Σ power of the sources / Σ power of the meters of the category, each by its newest window, which
-- ended no longer ago than 5 minutes or three of its length: the polled mean, without one energy over time (a register's steps may be longer than a window). A moment's power ratio is no PUE, which is of energies over time
-- (ISO/IEC 30134-2): it is shown to see whether things are as usual. Meters count as in report.pue(). Unit: W, 1.
-- Missing data: where one of the meters has no such window, or one whose agent does not believe it (it stands still, or its power flows backwards), or one of the sums is no power above 0, there is no ratio: meters_silent says how many
-- are missing. Virtual meters have no windows, and their terms stand for them. Fuel has no power of its own; while it flows the ratio is without it.
-- needs: facility_parts
CREATE VIEW report.power_ratio_now AS
WITH RECURSIVE chain AS (
    SELECT m.meter_id AS top_id, m.meter_id, 1 AS sign, m.virtual, 1 AS depth
    FROM gigawatch.meter AS m
    WHERE m.virtual AND m.role IN ('utility', 'generation', 'ups_out', 'pdu', 'it')
    UNION ALL
    SELECT chain.top_id, t.term_id, chain.sign * t.sign, term.virtual, chain.depth + 1
    FROM chain
    JOIN gigawatch.meter_term AS t ON t.meter_id = chain.meter_id
    JOIN gigawatch.meter AS term ON term.meter_id = t.term_id
    WHERE chain.virtual AND chain.depth < 20
), terms AS MATERIALIZED (
    SELECT chain.top_id, chain.meter_id, chain.sign FROM chain WHERE NOT chain.virtual
), shadows AS MATERIALIZED (
    SELECT s.meter_id, s.category, s.side FROM expanded.figure_shadow AS s
    WHERE s.figure = 'pue' AND (s.since IS NULL OR s.since <= now()) AND (s.until IS NULL OR s.until > now())
), members AS (
    -- By the name of the site, so that one site is read alone.
    SELECT site.name AS site, m.meter_id, m.role, m.simulated, p.power_mw, coalesce(p.known, false) AS known, p.time
    FROM gigawatch.site
    JOIN gigawatch.meter AS m USING (site_id)
    CROSS JOIN LATERAL (
        SELECT sum(own.sign * newest.power_mw) FILTER (WHERE newest.doubt IS NULL) AS power_mw,
            bool_and(newest.power_mw IS NOT NULL AND newest.doubt IS NULL) AS known, min(newest.time) AS time
        FROM (
            SELECT m.meter_id, 1 AS sign WHERE NOT m.virtual
            UNION ALL
            SELECT t.meter_id, t.sign FROM terms AS t WHERE m.virtual AND t.top_id = m.meter_id
        ) AS own
        LEFT JOIN expanded.meter_tells_now AS newest ON newest.meter_id = own.meter_id
    ) AS p
    WHERE (m.since IS NULL OR m.since <= now()) AND (m.until IS NULL OR m.until > now())
        AND m.role IN ('utility', 'generation', 'ups_out', 'pdu', 'it')
), sums AS (
    SELECT m.site, f.category, bool_or(m.simulated) AS simulated, min(m.time) AS time,
        count(*) FILTER (WHERE NOT m.known) AS meters_silent,
        sum(m.power_mw) FILTER (WHERE f.side = 'n') AS facility_mw, sum(m.power_mw) FILTER (WHERE f.side = 'd') AS it_mw
    FROM members AS m
    JOIN expanded.figure_role AS f ON f.figure = 'pue' AND f.role = m.role
    WHERE NOT EXISTS (
        SELECT FROM shadows AS s WHERE s.meter_id = m.meter_id AND s.category = f.category AND s.side = f.side
    )
    GROUP BY m.site, f.category
    HAVING bool_or(f.side = 'n') AND bool_or(f.side = 'd')
)
SELECT
    sums.site,
    sums.category,
    CASE WHEN meters_silent = 0 AND facility_mw > 0 AND it_mw > 0 THEN (facility_mw / it_mw)::double precision END AS power_ratio,
    CASE WHEN meters_silent = 0 THEN (facility_mw / 1000)::double precision END AS facility_power_w,
    CASE WHEN meters_silent = 0 THEN (it_mw / 1000)::double precision END AS it_power_w,
    meters_silent,
    sums.time,
    sums.simulated
FROM sums;
COMMENT ON VIEW report.power_ratio_now IS 'Power of each site''s sources over that of its IT equipment at this moment; indicative, and no PUE';
COMMENT ON COLUMN report.power_ratio_now.site IS 'Site';
COMMENT ON COLUMN report.power_ratio_now.category IS 'Where IT is metered: 1 UPS output, 2 PDU output, 3 IT equipment input';
COMMENT ON COLUMN report.power_ratio_now.power_ratio IS 'Power of the sources over that of IT, 1; below 1 a meter is wrong';
COMMENT ON COLUMN report.power_ratio_now.facility_power_w IS 'Power of all sources, W; NULL where a meter is not known now';
COMMENT ON COLUMN report.power_ratio_now.it_power_w IS 'Power of IT, W; NULL where a meter is not known now';
COMMENT ON COLUMN report.power_ratio_now.meters_silent IS 'Meters of both that tell nothing now that is believed';
COMMENT ON COLUMN report.power_ratio_now.time IS 'Start of the oldest of the windows, UTC';
COMMENT ON COLUMN report.power_ratio_now.simulated IS 'Whether a meter of it is simulated';
