-- report.capacity(): limits of feeds, racks, rows, halls and sites, what is drawn, and what is left.
-- Definition: a row for each limit: of a meter (scope feed) its breaker (A), contract and rating (W), and each budget of the topology (W). usable is
-- the limit, of a breaker 80 % of its rating: what a load that lasts may draw (NFPA 70, 210.20). present is of the newest windows, which ended no longer ago than 5 minutes or three of their length, and of GPUs' of the last 5 minutes; peak the
-- greatest from start to stop: of a meter the greatest reading, or where it tells energy alone the greatest hour's mean, as of a sum of meters. headroom = usable −
-- present; stranded = usable − peak: what was never drawn. trend_per_day is the slope of the daily peaks over up to 30 days before stop, by least squares
-- over 7 days at least; days_to_limit = (usable − the line at stop) / slope, where it rises. A budget is compared with the meters that feed its racks and nothing else, of a
-- hall and a site with the meters of its own sources first; without meters with its GPUs alone (basis gpus). in_scopes chooses among site, hall, row, rack and feed; in_most
-- so many parts of which most is used now, and as many of which most was by the greatest readings of their meters on whole days: peak and trend of these alone are read. Unit: A or W, as unit says; days.
-- Missing data: what no meter tells is NULL; a sum lacks no part: where one of its meters is not known, the hour, or the moment, is left out.
-- needs: facility_parts
-- Which meters tell what a part of a site draws.
CREATE VIEW expanded.budget_meter AS
WITH feeding AS (
    -- Of meters that feed racks, in which one hall, row and rack all of them stand.
    SELECT m.site_id, m.meter_id, CASE WHEN count(DISTINCT rack.rack_id) = 1 THEN min(rack.name) END AS rack,
        CASE WHEN count(DISTINCT rack.hall_id) = 1 AND count(rack.hall_id) = count(*) THEN min(hall.name) END AS hall,
        CASE WHEN count(DISTINCT (rack.hall_id, rack.row)) = 1 AND count(rack.row) = count(*) THEN min(hall.name || '/' || rack.row) END AS row
    FROM gigawatch.meter AS m
    JOIN gigawatch.meter_rack AS r USING (meter_id)
    JOIN gigawatch.rack USING (rack_id)
    LEFT JOIN gigawatch.hall ON hall.hall_id = rack.hall_id
    WHERE m.role IN ('pdu', 'it', 'ups_out')
    GROUP BY m.site_id, m.meter_id
), source AS (
    SELECT m.site_id, m.meter_id, hall.name AS hall
    FROM gigawatch.meter AS m LEFT JOIN gigawatch.hall USING (hall_id)
    WHERE m.role IN ('utility', 'generation')
), candidate AS (
    SELECT site_id, 'rack' AS scope, rack AS name, meter_id, 2 AS rank FROM feeding WHERE rack IS NOT NULL
    UNION ALL SELECT site_id, 'row', row, meter_id, 2 FROM feeding WHERE row IS NOT NULL
    UNION ALL SELECT site_id, 'hall', hall, meter_id, 2 FROM feeding WHERE hall IS NOT NULL
    UNION ALL SELECT site_id, 'hall', hall, meter_id, 1 FROM source WHERE hall IS NOT NULL
    UNION ALL SELECT source.site_id, 'site', site.name, meter_id, 1 FROM source JOIN gigawatch.site USING (site_id)
), chosen AS MATERIALIZED (
    SELECT c.site_id, c.scope, c.name, c.meter_id
    FROM candidate AS c
    WHERE c.rank = 1 OR NOT EXISTS (
        SELECT FROM candidate AS own WHERE own.rank = 1 AND own.site_id = c.site_id AND own.scope = c.scope AND own.name = c.name
    )
)
SELECT c.site_id, c.scope, c.name, c.meter_id
FROM chosen AS c
-- As a set: asked of each meter by itself, 20,000 of them took 45 s.
EXCEPT
SELECT c.site_id, c.scope, c.name, c.meter_id
FROM chosen AS upper
JOIN expanded.meter_above() AS above ON above.above_id = upper.meter_id
JOIN chosen AS c ON c.meter_id = above.meter_id AND c.site_id = upper.site_id AND c.scope = upper.scope AND c.name = upper.name;

CREATE FUNCTION report.capacity(
    start timestamptz DEFAULT now() - interval '7 days',
    stop timestamptz DEFAULT now(),
    in_site text DEFAULT NULL,
    in_scopes text[] DEFAULT NULL,
    in_most integer DEFAULT NULL
) RETURNS TABLE (
    site text, scope text, name text, feed text, kind text, unit text, basis text, limit_value double precision,
    usable double precision, present double precision, peak double precision, use_share double precision,
    peak_share double precision, headroom double precision, stranded double precision, trend_per_day double precision,
    days_to_limit double precision
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    chosen integer := (SELECT site.site_id FROM gigawatch.site WHERE site.name = in_site);
    trend_from constant timestamptz := date_bin('1 day', stop, '2000-01-01Z') - interval '30 days';
    last_day constant timestamptz := date_bin('1 day', stop, '2000-01-01Z');
    first_day constant timestamptz := date_bin('1 day', start + interval '1 day' - interval '1 us', '2000-01-01Z');
    -- The day that is not over yet has the hours so far.
    beyond_days constant timestamptz := CASE WHEN stop < expanded.facility_until() THEN last_day ELSE stop END;
BEGIN
    RETURN QUERY
    WITH told AS (
        SELECT m.site_id, 'feed' AS scope, m.name, m.feed, its.kind, its.unit, its.value, its.usable, m.meter_id
        FROM gigawatch.meter AS m
        CROSS JOIN LATERAL (
            VALUES ('breaker', 'A', m.breaker_ma / 1000.0, m.breaker_ma * 0.8 / 1000), ('contract', 'W', m.contract_mw / 1000.0, m.contract_mw / 1000.0),
                ('rated', 'W', m.rated_mw / 1000.0, m.rated_mw / 1000.0)
        ) AS its (kind, unit, value, usable)
        WHERE its.value IS NOT NULL AND m.role IS NOT NULL AND (m.until IS NULL OR m.until > now())
            AND (in_site IS NULL OR m.site_id = chosen) AND (in_scopes IS NULL OR 'feed' = ANY (in_scopes))
        UNION ALL
        SELECT b.site_id, b.scope, b.name, NULL, 'budget', 'W', b.budget_mw / 1000.0, b.budget_mw / 1000.0, NULL
        FROM gigawatch.power_budget AS b
        WHERE (in_site IS NULL OR b.site_id = chosen) AND (in_scopes IS NULL OR b.scope = ANY (in_scopes))
    ), limits AS MATERIALIZED (
        -- A part is a number below: by three names all sums took half as long again.
        SELECT t.*, dense_rank() OVER (ORDER BY t.site_id, t.scope, t.name)::integer AS part FROM told AS t
    ), members AS MATERIALIZED (
        SELECT DISTINCT l.part, true AS of_feed, l.meter_id FROM limits AS l WHERE l.scope = 'feed'
        UNION ALL
        SELECT l.part, false, m.meter_id FROM limits AS l
        JOIN expanded.budget_meter AS m ON m.site_id = l.site_id AND m.scope = l.scope AND m.name = l.name
    ), counts AS (
        SELECT m.part, count(*) AS meters FROM members AS m GROUP BY 1
    ), now_of AS (
        SELECT m.part, sum(w.power_mw) / 1000.0 AS power_w, max(w.current_max_ma) / 1000.0 AS current_a,
            count(w.power_mw) AS known
        FROM members AS m
        JOIN expanded.meter_tells_now AS w ON w.meter_id = m.meter_id
        GROUP BY 1
    ), racks AS (
        SELECT l.part, l.site_id, rack.rack_id
        FROM limits AS l
        JOIN gigawatch.rack ON rack.site_id = l.site_id
        LEFT JOIN gigawatch.hall ON hall.hall_id = rack.hall_id
        WHERE l.scope <> 'feed' AND l.part NOT IN (SELECT c.part FROM counts AS c)
            AND CASE l.scope WHEN 'rack' THEN rack.name = l.name WHEN 'row' THEN hall.name || '/' || rack.row = l.name
                WHEN 'hall' THEN hall.name = l.name ELSE true END
    ), gpus_now AS (
        SELECT r.part, sum(n.power_mw) / 1000.0 AS power_w
        FROM racks AS r JOIN gigawatch.node_now AS n ON n.rack_id = r.rack_id AND n.time > now() - interval '5 minutes'
        GROUP BY 1
    ), greatest_of AS (
        -- Of a feed its peak, of a sum of meters no less than it: enough to choose by.
        SELECT m.part, CASE WHEN count(d.power_mw) = count(*) THEN sum(d.power_mw) / 1000.0 END AS power_w, max(d.current_ma) / 1000.0 AS current_a
        FROM members AS m
        CROSS JOIN LATERAL (
            SELECT max(it.power_max_mw) AS power_mw, max(it.current_max_ma) AS current_ma FROM gigawatch.meter_1d AS it
            WHERE it.meter_id = m.meter_id AND it.time >= first_day AND it.time < beyond_days
        ) AS d
        WHERE in_most IS NOT NULL
        GROUP BY 1
    ), used AS MATERIALIZED (
        SELECT l.part,
            max(CASE WHEN l.unit = 'A' THEN n.current_a WHEN c.meters IS NULL THEN g.power_w WHEN n.known = c.meters THEN n.power_w END / l.usable) AS present,
            max(CASE l.unit WHEN 'A' THEN d.current_a ELSE d.power_w END / l.usable) AS peak
        FROM limits AS l
        LEFT JOIN counts AS c USING (part)
        LEFT JOIN now_of AS n USING (part)
        LEFT JOIN gpus_now AS g USING (part)
        LEFT JOIN greatest_of AS d USING (part)
        GROUP BY 1
    ), tightest AS MATERIALIZED (
        (SELECT u.part FROM used AS u ORDER BY u.present DESC NULLS LAST, 1 LIMIT in_most)
        UNION
        (SELECT u.part FROM used AS u WHERE u.peak IS NOT NULL ORDER BY u.peak DESC, 1 LIMIT in_most)
    ), asked AS MATERIALIZED (
        SELECT m.part, m.of_feed, m.meter_id FROM members AS m JOIN tightest USING (part)
    ), feed_days AS MATERIALIZED (
        -- The greatest reading of a day is that of its hours.
        SELECT m.part, d.time, d.power_max_mw / 1000.0::double precision AS most_w,
            d.current_max_ma / 1000.0::double precision AS most_a
        FROM asked AS m
        JOIN gigawatch.meter_1d AS d USING (meter_id)
        WHERE m.of_feed AND d.time >= least(first_day, trend_from) AND d.time < beyond_days
    ), feed_edges AS MATERIALIZED (
        SELECT m.part, h.time, h.power_max_mw / 1000.0::double precision AS most_w,
            h.current_max_ma / 1000.0::double precision AS most_a
        FROM asked AS m
        JOIN (
            SELECT * FROM gigawatch.meter_1h AS it
            WHERE it.time >= date_bin('1 hour', start, '2000-01-01Z') AND it.time < least(first_day, stop)
            UNION ALL
            SELECT * FROM gigawatch.meter_1h AS it WHERE it.time >= greatest(first_day, beyond_days) AND it.time < stop
        ) AS h USING (meter_id)
        WHERE m.of_feed
    ), read_power AS (
        SELECT DISTINCT f.part FROM (SELECT * FROM feed_days UNION ALL SELECT * FROM feed_edges) AS f
        WHERE f.most_w IS NOT NULL
    ), hours AS (
        SELECT m.part, h.time, sum(h.energy_mj::double precision / nullif(h.energy_ms, 0)) AS mean_w, count(*) AS known
        FROM asked AS m
        CROSS JOIN LATERAL (
            SELECT it.time, it.energy_mj, it.energy_ms FROM gigawatch.meter_1h AS it
            WHERE it.meter_id = m.meter_id AND it.time >= least(start, trend_from) AND it.time < stop AND it.covered_ms > 0 OFFSET 0
        ) AS h
        WHERE NOT m.of_feed OR m.part NOT IN (SELECT f.part FROM read_power AS f)
        GROUP BY 1, 2
    ), of_hours AS MATERIALIZED (
        SELECT h.part, h.time, h.mean_w AS power_w
        FROM hours AS h JOIN counts AS c USING (part) WHERE h.known = c.meters
    ), of_gpus AS MATERIALIZED (
        SELECT r.part, b.time, sum(b.power_mw)::double precision / 1000 AS power_w
        FROM racks AS r
        JOIN tightest USING (part)
        CROSS JOIN LATERAL expanded.rack_buckets(least(start, trend_from), stop, '1h', interval '1 hour', r.site_id, r.rack_id) AS b
        GROUP BY 1, 2
    ), series AS (
        SELECT o.part, o.time, o.power_w, NULL::double precision AS most_a FROM of_hours AS o
        UNION ALL
        SELECT f.part, f.time, f.most_w, f.most_a
        FROM (SELECT * FROM feed_days UNION ALL SELECT * FROM feed_edges) AS f
        UNION ALL
        SELECT g.part, g.time, g.power_w, NULL FROM of_gpus AS g
    ), peaks AS (
        SELECT s.part, max(s.power_w) AS power_w, max(s.most_a) AS current_a FROM series AS s
        WHERE s.time >= date_bin('1 hour', start, '2000-01-01Z') GROUP BY 1
    ), days AS (
        SELECT s.part, date_bin('1 day', s.time, '2000-01-01Z') AS day, max(s.power_w)::double precision AS power_w,
            max(s.most_a) AS current_a
        FROM series AS s WHERE s.time >= trend_from AND s.time < last_day GROUP BY 1, 2
    ), trends AS (
        SELECT d.part, count(d.power_w) AS power_days, regr_slope(d.power_w, d.x) AS power_slope,
            regr_intercept(d.power_w, d.x) AS power_at_stop, count(d.current_a) AS current_days,
            regr_slope(d.current_a, d.x) AS current_slope, regr_intercept(d.current_a, d.x) AS current_at_stop
        FROM (
            SELECT its.*, extract(epoch FROM its.day - stop)::double precision / 86400 AS x FROM days AS its
        ) AS d
        GROUP BY 1
    )
    SELECT site.name, l.scope, l.name, l.feed, l.kind, l.unit,
        CASE WHEN c.meters > 0 THEN 'meters' WHEN p.power_w IS NOT NULL OR g.power_w IS NOT NULL THEN 'gpus' END,
        l.value::double precision, l.usable::double precision, at.present::double precision, at.peak::double precision,
        (at.present / l.usable)::double precision, (at.peak / l.usable)::double precision, (l.usable - at.present)::double precision,
        (l.usable - at.peak)::double precision, trend.slope,
        CASE WHEN trend.slope > 0 THEN greatest(0, (l.usable::double precision - trend.at_stop) / trend.slope) END
    FROM limits AS l
    JOIN tightest USING (part)
    LEFT JOIN counts AS c USING (part)
    LEFT JOIN now_of AS n USING (part)
    LEFT JOIN gpus_now AS g USING (part)
    LEFT JOIN peaks AS p USING (part)
    LEFT JOIN trends AS t USING (part)
    JOIN gigawatch.site ON site.site_id = l.site_id
    CROSS JOIN LATERAL (
        SELECT CASE WHEN l.unit = 'A' THEN n.current_a WHEN c.meters IS NULL THEN g.power_w WHEN n.known = c.meters THEN n.power_w END AS present,
            CASE l.unit WHEN 'A' THEN p.current_a ELSE p.power_w END AS peak
    ) AS at
    CROSS JOIN LATERAL (
        SELECT CASE WHEN l.unit = 'A' AND t.current_days >= 7 THEN t.current_slope WHEN l.unit = 'W' AND t.power_days >= 7 THEN t.power_slope END AS slope,
            CASE l.unit WHEN 'A' THEN t.current_at_stop ELSE t.power_at_stop END AS at_stop
    ) AS trend
    ORDER BY 1, array_position(ARRAY['site', 'hall', 'row', 'rack', 'feed'], l.scope), 3, 5;
END
$$;
COMMENT ON FUNCTION report.capacity IS
    'Limits of feeds (breakers, contracts, ratings) and budgets of racks, rows, halls and sites (A or W, as unit says): what of them is usable, what is '
    'drawn now, the peak from start to stop, headroom and stranded power, the trend by day and the days to the limit';
