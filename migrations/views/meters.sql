-- report.meters: the meters of each site's facility: what each counts, what it feeds, and when it was last heard of.
-- Definition: one row per meter that the topology names or that ever sent a window. placed: whether the topology in force names
-- it; what is not placed is in no figure. feeds and racks are what it feeds with no other meter between. state: unplaced,
-- virtual (a sum of others), planned (since lies ahead), ended (until is over), silent (never heard of, or not for 5 minutes and
-- twice the length of its newest window) or reporting; the first that holds. Units: kW, A, kWh/l; in table gigawatch.meter they are integers of mW, mA and J/l.
-- Missing data: what the topology does not say is NULL; a virtual meter is never heard of itself.
CREATE VIEW report.meters AS
SELECT
    site.name AS site,
    meter.name AS meter,
    hall.name AS hall,
    meter.role,
    meter.role IS NOT NULL AS placed,
    meter.virtual,
    CASE
        WHEN meter.role IS NULL THEN 'unplaced'
        WHEN meter.virtual THEN 'virtual'
        WHEN meter.since > now() THEN 'planned'
        WHEN meter.until <= now() THEN 'ended'
        WHEN meter.last_seen IS NULL THEN 'silent'
        WHEN meter.last_seen < now() - interval '5 min' AND meter.last_seen < now() - coalesce((
            SELECT newest.covered_ms * interval '2 ms' FROM gigawatch.meter_window AS newest
            WHERE newest.meter_id = meter.meter_id ORDER BY newest.time DESC LIMIT 1
        ), interval '0') THEN 'silent'
        ELSE 'reporting'
    END AS state,
    meter.feed,
    meter.node,
    ARRAY(
        SELECT fed.name FROM gigawatch.meter_feed JOIN gigawatch.meter AS fed ON fed.meter_id = fed_id
        WHERE meter_feed.meter_id = meter.meter_id ORDER BY 1
    ) AS feeds,
    ARRAY(
        SELECT rack.name FROM gigawatch.meter_rack JOIN gigawatch.rack USING (rack_id)
        WHERE meter_rack.meter_id = meter.meter_id ORDER BY 1
    ) AS racks,
    ARRAY(
        SELECT term.name FROM gigawatch.meter_term JOIN gigawatch.meter AS term ON term.meter_id = term_id
        WHERE meter_term.meter_id = meter.meter_id AND sign = 1 ORDER BY 1
    ) AS plus,
    ARRAY(
        SELECT term.name FROM gigawatch.meter_term JOIN gigawatch.meter AS term ON term.meter_id = term_id
        WHERE meter_term.meter_id = meter.meter_id AND sign = -1 ORDER BY 1
    ) AS minus,
    meter.rated_mw / 1e6::double precision AS rated_kw,
    meter.breaker_ma / 1e3::double precision AS breaker_a,
    meter.contract_mw / 1e6::double precision AS contract_kw,
    meter.fuel_j_per_l / 3.6e6::double precision AS fuel_kwh_per_l,
    meter.potable,
    meter.fresh,
    meter.backup,
    meter.since,
    meter.until,
    meter.last_seen,
    reader.hostname AS read_by,
    meter.simulated
FROM gigawatch.meter
JOIN gigawatch.site USING (site_id)
LEFT JOIN gigawatch.hall USING (hall_id)
LEFT JOIN gigawatch.node AS reader ON reader.node_id = meter.node_id;
COMMENT ON VIEW report.meters IS 'Meters of the facility: what each counts, what it feeds, when it was last heard of';
COMMENT ON COLUMN report.meters.site IS 'Site';
COMMENT ON COLUMN report.meters.meter IS 'Name of the meter, unique within its site';
COMMENT ON COLUMN report.meters.hall IS 'Hall that it is of; NULL where it is of the whole site';
COMMENT ON COLUMN report.meters.role IS 'What it counts: utility, generation, fuel, ups_in, ups_out, pdu, it, cooling, pump, lighting, water, heat_reuse, heat_removed, temperature or other; NULL where the topology does not name it';
COMMENT ON COLUMN report.meters.placed IS 'Whether the topology in force names it; what is not placed is in no figure';
COMMENT ON COLUMN report.meters.virtual IS 'Whether it is a sum of others';
COMMENT ON COLUMN report.meters.state IS
    'unplaced, virtual, planned (since lies ahead), ended (until is over), silent (nothing stored for 5 minutes and two of its windows) or reporting';
COMMENT ON COLUMN report.meters.feed IS 'Of redundant feeds, which: A or B; its own, or that of what feeds it';
COMMENT ON COLUMN report.meters.node IS 'Host name of the node whose power it measures';
COMMENT ON COLUMN report.meters.feeds IS 'Meters that what flows through it reaches next';
COMMENT ON COLUMN report.meters.racks IS 'Racks that it feeds with no other meter between';
COMMENT ON COLUMN report.meters.plus IS 'Of a virtual meter, what it is the sum of';
COMMENT ON COLUMN report.meters.minus IS 'Of a virtual meter, what is subtracted';
COMMENT ON COLUMN report.meters.rated_kw IS 'Most power that can flow through it, kW';
COMMENT ON COLUMN report.meters.breaker_a IS 'Rating of its breaker, A for each phase';
COMMENT ON COLUMN report.meters.contract_kw IS 'Most power by contract, kW';
COMMENT ON COLUMN report.meters.fuel_kwh_per_l IS 'Energy of a litre of fuel, kWh/l';
COMMENT ON COLUMN report.meters.potable IS 'Of a water meter, whether it is drinking water; NULL where nobody said';
COMMENT ON COLUMN report.meters.fresh IS 'Of a water meter, whether it is fresh water; NULL where nobody said: then drinking water is';
COMMENT ON COLUMN report.meters.backup IS 'Whether it is a backup generator''s';
COMMENT ON COLUMN report.meters.since IS 'Figures want it from this moment on, UTC; NULL: always';
COMMENT ON COLUMN report.meters.until IS 'Up to this moment, UTC; NULL: for ever';
COMMENT ON COLUMN report.meters.last_seen IS 'When a window of it was last stored, UTC';
COMMENT ON COLUMN report.meters.read_by IS 'Host name of the node whose agent read it last';
COMMENT ON COLUMN report.meters.simulated IS 'Whether its data are simulated';
