-- report.reconciliation(): what is measured at each step from the GPUs to the grid, and what of each step the one below it does not explain.
-- Definition: for each site, rack or node, a row for each level that is known: gpu (the GPUs' counters), host (with CPUs and memory by RAPL), node (the
-- whole node: meters that the topology says measure it, such as its BMC, else hwmon), pdu (meters of role pdu and it that feed racks; of a site those of role pdu), and of sites ups_out,
-- ups_in and facility (all sources). unexplained_j = Σ (its energy − that of the nearest level below) over the hours in which both are
-- known for 99 % of the time of all that they add up: of node to host it is fans, boards and losses, of facility to ups_in cooling and the rest. Below 0, a meter is
-- wrong or the topology is. Unit: J.
-- Missing data: an hour in which a part of a level is not known is not in it; hours and hours_compared say how many are. Levels that are
-- never known have no row. A meter that feeds several racks tells nothing of each.
-- needs: facility_parts
CREATE FUNCTION report.reconciliation(
    start timestamptz,
    stop timestamptz,
    group_by text DEFAULT 'site',
    in_site text DEFAULT NULL
) RETURNS TABLE (
    label text, place integer, level text, energy_j numeric, hours bigint, below text, hours_compared bigint,
    compared_energy_j numeric, below_energy_j numeric, unexplained_j numeric, unexplained_share double precision
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    chosen integer := (SELECT site.site_id FROM gigawatch.site WHERE site.name = in_site);
    of_nodes boolean := group_by = 'node';
    of_racks boolean := group_by = 'rack';
BEGIN
    IF group_by NOT IN ('site', 'rack', 'node') THEN
        RAISE EXCEPTION 'group_by = % is not site, rack or node', group_by USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN QUERY
    WITH places AS MATERIALIZED (
        -- What a label stands for: its number is that of the site, the rack or the node.
        SELECT node.node_id, node.hostname, node.site_id, CASE WHEN of_nodes THEN node.node_id WHEN of_racks THEN node.rack_id ELSE node.site_id END AS id,
            CASE WHEN of_nodes THEN node.hostname WHEN of_racks THEN site.name || ' / ' || rack.name ELSE site.name END AS label
        FROM gigawatch.node
        JOIN gigawatch.site USING (site_id)
        LEFT JOIN gigawatch.rack USING (rack_id)
        WHERE (in_site IS NULL OR node.site_id = chosen) AND (NOT of_racks OR node.rack_id IS NOT NULL)
    ), labels AS (
        SELECT DISTINCT p.id, p.label FROM places AS p
        UNION
        SELECT site.site_id, site.name FROM gigawatch.site WHERE group_by = 'site' AND (in_site IS NULL OR site.site_id = chosen)
    ), gpu AS (
        SELECT b.site_id AS id, b.time, sum(b.energy_mj) AS mj, sum(b.energy_ms) >= 0.99 * 3600000 * sum(b.gpus) AS whole
        FROM gigawatch.site_1h AS b
        WHERE group_by = 'site' AND b.time >= start AND b.time <= stop - interval '1 hour' AND (in_site IS NULL OR b.site_id = chosen)
        GROUP BY 1, 2
        UNION ALL
        SELECT b.rack_id, b.time, sum(b.energy_mj), sum(b.energy_ms) >= 0.99 * 3600000 * sum(b.gpus)
        FROM gigawatch.rack_1h AS b
        WHERE of_racks AND b.rack_id IS NOT NULL AND b.time >= start AND b.time <= stop - interval '1 hour'
            AND (in_site IS NULL OR b.site_id = chosen)
        GROUP BY 1, 2
        UNION ALL
        SELECT p.node_id, b.time, gpus.mj, gpus.whole
        FROM places AS p
        CROSS JOIN LATERAL (
            SELECT it.time, it.slots, it.covered_ms, it.energy_mj, it.energy_ms FROM gigawatch.gpu_1h AS it
            WHERE it.node_id = p.node_id AND it.time >= start AND it.time <= stop - interval '1 hour' OFFSET 0
        ) AS b
        CROSS JOIN LATERAL (
            -- A node's GPUs are one row, and summed within it.
            SELECT sum(expanded.at(b.energy_mj, slot)) AS mj, bool_and(coalesce(expanded.at(b.energy_ms, slot), 0) >= 0.99 * 3600000) AS whole
            FROM generate_series(1, b.slots) AS slot WHERE expanded.at(b.covered_ms, slot) IS NOT NULL
        ) AS gpus
        WHERE of_nodes AND gpus.whole IS NOT NULL
    ), by_meter AS (
        -- Nodes with meters of their own: two feeds are added.
        SELECT p.node_id, h.time, sum(h.energy_mj) AS mj, count(*) AS known, meters.count
        FROM (
            SELECT m.site_id, m.node, array_agg(m.meter_id) AS ids, count(*) AS count FROM gigawatch.meter AS m
            WHERE m.node IS NOT NULL AND m.role IS NOT NULL GROUP BY 1, 2
        ) AS meters
        JOIN places AS p ON p.site_id = meters.site_id AND p.hostname = meters.node
        JOIN gigawatch.meter_1h AS h ON h.meter_id = ANY (meters.ids) AND h.energy_ms >= 0.99 * 3600000
            AND h.time >= start AND h.time <= stop - interval '1 hour'
        GROUP BY p.node_id, h.time, meters.count
    ), of_node AS (
        SELECT p.id, n.time, (n.cpu_energy_mj + coalesce(n.dram_energy_mj, 0)) AS host_mj,
            coalesce(n.cpu_energy_ms >= 0.99 * 3600000, false) AS host_whole,
            coalesce(CASE WHEN b.known = b.count THEN b.mj END,
                CASE WHEN n.node_power_ms >= 0.99 * 3600000 THEN n.node_power_mw_ms / 1000 END) AS node_mj
        FROM places AS p
        CROSS JOIN LATERAL (
            SELECT it.* FROM gigawatch.node_1h AS it
            WHERE it.node_id = p.node_id AND it.time >= start AND it.time <= stop - interval '1 hour' AND it.tick_power_mw IS NOT NULL
            OFFSET 0
        ) AS n
        LEFT JOIN by_meter AS b ON b.node_id = p.node_id AND b.time = n.time
    ), nodes AS (
        SELECT n.id, n.time, sum(n.host_mj) AS host_mj, bool_and(n.host_whole) AS host_whole, sum(n.node_mj) AS node_mj,
            bool_and(n.node_mj IS NOT NULL) AS node_whole
        FROM of_node AS n GROUP BY 1, 2
    ), at_racks AS (
        SELECT r.rack_id, m.meter_id
        FROM gigawatch.meter AS m
        JOIN gigawatch.meter_rack AS r USING (meter_id)
        WHERE of_racks AND m.role IN ('pdu', 'it') AND (in_site IS NULL OR m.site_id = chosen)
    ), pdus AS (
        -- A rack is known where each meter that feeds it feeds nothing else.
        SELECT its.rack_id AS id, h.time, sum(h.energy_mj) AS mj
        FROM (
            SELECT a.rack_id, array_agg(a.meter_id) AS ids FROM at_racks AS a GROUP BY 1
            HAVING bool_and((SELECT count(*) FROM gigawatch.meter_rack AS o WHERE o.meter_id = a.meter_id) = 1)
        ) AS its
        JOIN gigawatch.meter_1h AS h ON h.meter_id = ANY (its.ids) AND h.energy_ms >= 0.99 * 3600000
            AND h.time >= start AND h.time <= stop - interval '1 hour'
        GROUP BY its.rack_id, its.ids, h.time
        HAVING count(*) = cardinality(its.ids)
    ), of_roles AS (
        SELECT f.site_id AS id, f.time, CASE WHEN f.role IN ('pdu', 'ups_out', 'ups_in') THEN f.role ELSE 'facility' END AS role,
            sum(f.energy_mj) AS mj, sum(f.energy_ms) >= 0.99 * sum(f.wanted_ms) AS whole
        FROM gigawatch.facility_1h AS f
        WHERE group_by = 'site' AND f.role IN ('pdu', 'ups_out', 'ups_in', 'utility', 'generation', 'fuel')
            AND f.time >= start AND f.time <= stop - interval '1 hour' AND (in_site IS NULL OR f.site_id = chosen)
        GROUP BY 1, 2, 3
    ), levels AS (
        SELECT g.id, g.time, 1 AS place, 'gpu' AS level, g.mj FROM gpu AS g WHERE g.whole
        UNION ALL
        SELECT n.id, n.time, 2, 'host', n.host_mj + g.mj FROM nodes AS n JOIN gpu AS g USING (id, time) WHERE n.host_whole AND g.whole
        UNION ALL
        SELECT n.id, n.time, 3, 'node', n.node_mj FROM nodes AS n WHERE n.node_whole
        UNION ALL
        SELECT p.id, p.time, 4, 'pdu', p.mj FROM pdus AS p
        UNION ALL
        SELECT r.id, r.time, CASE r.role WHEN 'pdu' THEN 4 WHEN 'ups_out' THEN 5 WHEN 'ups_in' THEN 6 ELSE 7 END, r.role, r.mj
        FROM of_roles AS r WHERE r.whole
    ), steps AS MATERIALIZED (
        -- Each hour of a level with the nearest that is known below it then: each is read once.
        SELECT l.id, l.place, l.level, l.lower_place, count(*) AS hours, sum(l.mj) AS mj, sum(l.lower_mj) AS lower_mj
        FROM (
            SELECT it.*, lag(it.place) OVER own_hour AS lower_place, lag(it.mj) OVER own_hour AS lower_mj
            FROM levels AS it WINDOW own_hour AS (PARTITION BY it.id, it.time ORDER BY it.place)
        ) AS l
        GROUP BY 1, 2, 3, 4
    ), known AS (
        SELECT s.id, s.place, s.level, sum(s.mj) AS mj, sum(s.hours)::bigint AS hours,
            lag(s.place) OVER its AS below_place, lag(s.level) OVER its AS below
        FROM steps AS s GROUP BY s.id, s.place, s.level
        WINDOW its AS (PARTITION BY s.id ORDER BY s.place)
    )
    SELECT labels.label, k.place, k.level, k.mj / 1000, k.hours, k.below, coalesce(c.hours, 0), c.mj / 1000, c.lower_mj / 1000,
        (c.mj - c.lower_mj) / 1000, ((c.mj - c.lower_mj) / nullif(c.mj, 0))::double precision
    FROM known AS k
    JOIN labels ON labels.id = k.id
    LEFT JOIN steps AS c ON c.id = k.id AND c.place = k.place AND c.lower_place = k.below_place
    ORDER BY 1, 2;
END
$$;
COMMENT ON FUNCTION report.reconciliation IS
    'Energy (J) at each level from the GPUs to the grid, from start to stop (whole hours), by site, rack or node; and over the hours in which '
    'the level below is known too, both energies and what of it is unexplained (J, 0..1)';
