-- report.facility_gaps(): which hours the facility's ratios lack, and which meters are why.
-- Definition: of each ratio of a whole site (pue, wue, wue_potable, wue_fresh, erf, ref, cer, by category where it has one) that has any hour in the period,
-- the hours that are not in its sums, joined where they follow each other for the same reasons: time is the start of the first, hours how many.
-- state is missing (a meter that the sums want is not known for 99 % of the hour), faulty (all are known, and what they say cannot be right) or absent (meters for
-- both sums were not there yet, or no more). meters names those that are why, reasons says of each what it lacks. Unit: h.
-- Missing data: hours after report.facility_until are in no row. With those in the sums the rows of a ratio are the whole hours of the period up to then.
-- needs: facility_parts
CREATE FUNCTION report.facility_gaps(
    start timestamptz,
    stop timestamptz,
    in_site text DEFAULT NULL,
    in_category integer DEFAULT NULL
) RETURNS TABLE (
    "time" timestamptz, hours bigint, site text, figure text, category smallint, state text, meters text[], reasons text[]
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    chosen integer := (SELECT it.site_id FROM gigawatch.site AS it WHERE it.name = in_site);
    first timestamptz := date_bin('1 hour', start + interval '1 hour' - interval '1 us', '2000-01-01Z');
    beyond timestamptz := least(date_bin('1 hour', stop, '2000-01-01Z'), expanded.facility_until());
BEGIN
    RETURN QUERY
    WITH ratio AS MATERIALIZED (
        SELECT r.time, r.site_id, r.figure, coalesce(r.category, 0::smallint) AS category, r.hours, r.missing_h
        FROM gigawatch.facility_ratio_1h AS r
        WHERE r.hall_id IS NULL AND r.time >= first AND r.time < beyond AND (in_site IS NULL OR r.site_id = chosen)
            AND (in_category IS NULL OR r.category IS NULL OR r.category = in_category)
    ), dropped AS MATERIALIZED (
        SELECT r.site_id, r.figure, r.category, r.time, CASE WHEN r.missing_h > 0 THEN 'missing' ELSE 'faulty' END AS state
        FROM ratio AS r WHERE r.hours = 0
        UNION ALL
        SELECT t.site_id, t.figure, t.category, hour.time, 'absent'
        FROM (
            SELECT it.site_id, it.figure, it.category FROM ratio AS it GROUP BY 1, 2, 3
            HAVING count(*) < extract(epoch FROM beyond - first) / 3600
        ) AS t
        CROSS JOIN LATERAL (
            SELECT it.time FROM generate_series(first, beyond - interval '1 us', interval '1 hour') AS it (time)
            EXCEPT
            SELECT r.time FROM ratio AS r WHERE r.site_id = t.site_id AND r.figure = t.figure AND r.category = t.category
        ) AS hour
    ), said AS MATERIALIZED (
        -- Of each meter and such an hour what the fold of the hour judged: the same bounds.
        SELECT m.site_id, m.meter_id, m.name, m.role, m.potable, m.fresh, m.backup, d.time, what.lack, what.fault
        FROM (
            SELECT it.site_id, array_agg(DISTINCT it.time) AS times FROM dropped AS it WHERE it.state <> 'absent' GROUP BY 1
        ) AS hours
        JOIN gigawatch.meter AS m ON m.site_id = hours.site_id AND m.role IN (SELECT it.role FROM expanded.figure_role AS it)
        CROSS JOIN LATERAL (
            -- A meter's hours at once: looked up one by one they take ten times as long.
            SELECT hour.time, its.energy_mj, its.energy_ms, its.volume_ms, its.stuck_h, its.reversed_h
            FROM unnest(hours.times) AS hour (time)
            LEFT JOIN (
                SELECT it.* FROM gigawatch.meter_1h AS it
                WHERE it.meter_id = m.meter_id AND it.time = ANY (hours.times) AND it.time >= first AND it.time < beyond OFFSET 0
            ) AS its ON its.time = hour.time
        ) AS d
        CROSS JOIN LATERAL (
            SELECT (1000 * extract(epoch FROM least(d.time + interval '1 hour', m.until) - greatest(d.time, m.since)))::integer AS ms
        ) AS need
        CROSS JOIN LATERAL (
            SELECT coalesce(CASE
                WHEN m.role = 'water' OR (m.role = 'fuel' AND d.energy_mj IS NULL AND m.fuel_j_per_l IS NOT NULL) THEN d.volume_ms
                ELSE d.energy_ms
            END, 0) AS known_ms
        ) AS its
        CROSS JOIN LATERAL (
            SELECT CASE
                    WHEN its.known_ms * 100 < need.ms * 99 THEN
                        CASE its.known_ms WHEN 0 THEN 'no data' ELSE 'known in part' END
                            || CASE WHEN d.stuck_h > 0 THEN ': it stood still' WHEN d.reversed_h > 0 THEN ': power flowed backwards' ELSE '' END
                    WHEN need.ms < 3600000 AND its.known_ms > need.ms + 36000 THEN 'measured more than its part of the hour'
                END AS lack,
                CASE
                    WHEN d.stuck_h > 0 THEN 'it stood still'
                    WHEN d.reversed_h > 0 AND m.role NOT IN ('utility', 'generation') THEN 'power flowed backwards'
                    WHEN its.known_ms > need.ms + 36000 THEN 'read twice'
                END AS fault
        ) AS what
        WHERE need.ms > 0 AND (what.lack IS NOT NULL OR what.fault IS NOT NULL OR (m.role = 'water' AND m.potable IS NULL))
    ), shadows AS MATERIALIZED (
        SELECT s.* FROM expanded.figure_shadow AS s
    ), because AS (
        SELECT d.site_id, d.figure, d.category, d.time, d.state, s.name, its.reason
        FROM dropped AS d
        JOIN expanded.figure_role AS f USING (figure, category)
        JOIN said AS s ON s.site_id = d.site_id AND s.time = d.time AND s.role = f.role
        CROSS JOIN LATERAL (SELECT expanded.counts_in(f.figure, s.role, s.potable, s.fresh) AS it) AS counted
        CROSS JOIN LATERAL (
            SELECT CASE d.state
                WHEN 'faulty' THEN s.fault
                WHEN 'missing' THEN CASE
                    WHEN counted.it IS NULL THEN format('nobody said whether it is %s water',
                        CASE f.figure WHEN 'wue_potable' THEN 'drinking' ELSE 'fresh' END)
                    ELSE s.lack
                END
            END AS reason
        ) AS its
        WHERE its.reason IS NOT NULL
            AND counted.it IS NOT FALSE
            AND NOT (f.figure = 'ref' AND f.side = 'n' AND s.backup)
            -- What is behind another of the same sum is not in it.
            AND NOT EXISTS (
                SELECT FROM shadows AS upper
                WHERE upper.meter_id = s.meter_id AND upper.figure = f.figure AND upper.category = f.category AND upper.side = f.side
                    AND (upper.since IS NULL OR upper.since < d.time + interval '1 hour')
                    AND (upper.until IS NULL OR upper.until > d.time)
            )
    ), each AS (
        SELECT d.site_id, d.figure, d.category, d.time, d.state,
            coalesce(array_agg(b.name ORDER BY b.name) FILTER (WHERE b.name IS NOT NULL), '{}') AS meters,
            coalesce(array_agg(b.reason ORDER BY b.name) FILTER (WHERE b.name IS NOT NULL), CASE d.state
                WHEN 'absent' THEN ARRAY['no meters for both sums']
                WHEN 'faulty' THEN CASE d.figure
                    WHEN 'pue' THEN ARRAY['energy of IT above that of the sources']
                    WHEN 'erf' THEN ARRAY['reused energy above that of the sources']
                    ELSE ARRAY['a sum below 0']
                END
                ELSE '{}'
            END) AS reasons
        FROM dropped AS d
        LEFT JOIN because AS b USING (site_id, figure, category, time)
        GROUP BY 1, 2, 3, 4, 5
    ), runs AS (
        SELECT e.*, e.time - row_number() OVER (
            PARTITION BY e.site_id, e.figure, e.category, e.state, e.meters, e.reasons ORDER BY e.time
        ) * interval '1 hour' AS run
        FROM each AS e
    )
    SELECT min(r.time), count(*), site.name, r.figure, nullif(r.category, 0::smallint), r.state, r.meters, r.reasons
    FROM runs AS r
    JOIN gigawatch.site USING (site_id)
    GROUP BY site.name, r.figure, r.category, r.state, r.meters, r.reasons, r.run
    ORDER BY 3, 1, 4, 5;
END
$$;
COMMENT ON FUNCTION report.facility_gaps IS
    'The hours from start to stop that the ratios of whole sites lack, as ranges (start of the first, number of hours), by figure and category: '
    'missing, faulty or absent, and the meters that are why, with what each lacks';
