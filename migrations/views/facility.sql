-- report.facility(): what the facility's meters counted over a period, by role.
-- Definition: sums of the meters' energies and volumes, of each role, of hours that are over. A meter behind another of the same
-- role is not added: what flows through both counts once. Energy of fuel is its volume times its energy by litre. power_w is energy over the time for
-- which it is known, times the meters that are wanted, in the mean by time; temp_c is the mean by time. Unit: J, m³, W, °C. Halls' rows have the meters of the hall, and those of the site without a hall the site's name.
-- Missing data: what is not known is in no sum; coverage is the meter-time that is known over that which is wanted. Rows are of
-- meters that the topology places: report.meter_health has the others.
-- needs: facility_parts
CREATE FUNCTION report.facility(
    start timestamptz,
    stop timestamptz,
    step interval DEFAULT NULL,
    group_by text DEFAULT 'fleet',
    in_site text DEFAULT NULL
) RETURNS TABLE (
    "time" timestamptz, label text, role text, energy_j numeric, power_w double precision, volume_m3 numeric,
    temp_c double precision, meters bigint, coverage double precision, interpolated_share double precision,
    integrated_share double precision, estimated_share double precision
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog SET plan_cache_mode = force_custom_plan
SET timezone = 'UTC'
AS $$
#variable_conflict use_column
DECLARE
    chosen integer := (SELECT site.site_id FROM gigawatch.site WHERE site.name = in_site);
BEGIN
    PERFORM expanded.check_facility(step, group_by);
    RETURN QUERY EXECUTE (
        SELECT format($query$
            WITH sums AS MATERIALIZED (
                SELECT expanded.facility_bin($3, b.time, $1) AS bin, b.site_id, b.hall_id, b.role, max(b.meters) AS meters,
                    sum(b.wanted_ms) AS wanted_ms, sum(b.energy_mj) AS energy_mj, sum(b.energy_ms) AS energy_ms,
                    sum(b.energy_mj::double precision * b.wanted_ms / nullif(b.energy_ms, 0))
                        / nullif(sum(b.wanted_ms::double precision / b.meters) FILTER (WHERE b.energy_ms > 0), 0) AS power_w,
                    sum(b.energy_interpolated_mj) AS interpolated_mj, sum(b.energy_integrated_mj) AS integrated_mj,
                    sum(b.energy_estimated_mj) AS estimated_mj, sum(b.volume_ml) AS volume_ml, sum(b.volume_ms) AS volume_ms,
                    sum(b.temp_mc_ms) AS temp_mc_ms, sum(b.temp_ms) AS temp_ms
                FROM (%s) AS b
                GROUP BY 1, 2, 3, 4
            )
            SELECT s.bin, expanded.facility_label($4, site.name, hall.name), s.role, sum(s.energy_mj) / 1000,
                sum(s.power_w), sum(s.volume_ml) / 1000000,
                (sum(s.temp_mc_ms) / nullif(sum(s.temp_ms), 0) / 1000)::double precision, sum(s.meters)::bigint,
                (CASE s.role
                    WHEN 'water' THEN sum(s.volume_ms)
                    WHEN 'temperature' THEN sum(s.temp_ms)
                    ELSE sum(s.energy_ms)
                END / nullif(sum(s.wanted_ms), 0))::double precision,
                (sum(s.interpolated_mj) / nullif(sum(s.energy_mj), 0))::double precision,
                (sum(s.integrated_mj) / nullif(sum(s.energy_mj), 0))::double precision,
                (sum(s.estimated_mj) / nullif(sum(s.energy_mj), 0))::double precision
            FROM sums AS s
            JOIN gigawatch.site ON site.site_id = s.site_id
            LEFT JOIN gigawatch.hall ON hall.hall_id = s.hall_id
            GROUP BY 1, 2, 3
            ORDER BY 1, 2, 3
            $query$, coalesce(string_agg(format($part$
                SELECT it.* FROM gigawatch.facility_%s AS it
                WHERE it.time >= %L AND it.time < %L AND ($5 IS NULL OR it.site_id = $6)
                $part$, part.level, part.first, part.beyond), ' UNION ALL '),
                'SELECT it.* FROM gigawatch.facility_1h AS it WHERE false'))
        FROM expanded.facility_spans(start, stop, step) AS part
    ) USING start, stop, step, group_by, in_site, chosen;
END
$$;
COMMENT ON FUNCTION report.facility IS
    'Energy (J), mean power (W), volume (m³) and mean temperature (°C) of the facility''s meters by role, from start to stop, by step '
    '(whole hours or months; NULL: the whole period) and by fleet, site or hall; beside them how many meters, the coverage, and what '
    'of the energy is interpolated, integrated and estimated (0..1)';
