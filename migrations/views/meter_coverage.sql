-- report.meter_coverage(): how much of a period each meter of the facility is known for, and what it counted.
-- Definition: coverage = known time / the whole hours of the period that are over and in the meter's time of use. Known is the time for which its quantity is: of role
-- water its volume, of temperature that, of fuel its volume or energy, of all else energy. Sums of hours and days as they are folded. Unit: h, 1, J, m³; the rest counts.
-- Missing data: a meter that nothing is known of has coverage 0 and no energy; one that no hour wants has NULL. Rows are of meters that the topology places.
-- needs: facility_parts
CREATE FUNCTION report.meter_coverage(
    start timestamptz,
    stop timestamptz,
    in_site text DEFAULT NULL
) RETURNS TABLE (
    site text, meter text, role text, hours_wanted double precision, hours_known double precision, coverage double precision,
    energy_j numeric, volume_m3 numeric, interpolated_share double precision, rejected_readings numeric, stuck_hours bigint,
    reversed_hours bigint
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT site.name, m.name, m.role, wanted.h, known.h, known.h / nullif(wanted.h, 0), its.energy_mj / 1000,
        its.volume_ml / 1000000, (its.interpolated_mj / nullif(its.energy_mj, 0))::double precision, its.rejected, its.stuck_h, its.reversed_h
    FROM gigawatch.meter AS m
    JOIN gigawatch.site USING (site_id)
    CROSS JOIN LATERAL (
        SELECT greatest(start, m.since) AS first, least(stop, m.until, expanded.facility_until()) AS beyond
    ) AS own
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(extract(epoch FROM part.beyond - part.first)) / 3600, 0)::double precision AS h
        FROM expanded.facility_spans(own.first, own.beyond, NULL) AS part
    ) AS wanted
    CROSS JOIN LATERAL (
        SELECT sum(b.energy_mj) AS energy_mj, sum(b.energy_interpolated_mj) AS interpolated_mj, sum(b.volume_ml) AS volume_ml,
            sum(b.energy_ms) AS energy_ms, sum(b.volume_ms) AS volume_ms, sum(b.temp_ms) AS temp_ms,
            sum(b.rejected_readings) AS rejected, sum(b.stuck_h) AS stuck_h, sum(b.reversed_h) AS reversed_h
        FROM expanded.facility_spans(own.first, own.beyond, NULL) AS part
        CROSS JOIN LATERAL (
            SELECT d.* FROM gigawatch.meter_1d AS d
            WHERE part.level = '1d' AND d.meter_id = m.meter_id AND d.time >= part.first AND d.time < part.beyond
            UNION ALL
            SELECT h.* FROM gigawatch.meter_1h AS h
            WHERE part.level = '1h' AND h.meter_id = m.meter_id AND h.time >= part.first AND h.time < part.beyond
        ) AS b
    ) AS its
    CROSS JOIN LATERAL (
        SELECT coalesce(CASE m.role
            WHEN 'water' THEN its.volume_ms
            WHEN 'temperature' THEN its.temp_ms
            WHEN 'fuel' THEN greatest(its.energy_ms, its.volume_ms)
            ELSE its.energy_ms
        END / 3600000, 0)::double precision AS h
    ) AS known
    WHERE m.role IS NOT NULL AND (in_site IS NULL OR site.name = in_site)
    ORDER BY 1, 2;
END
$$;
COMMENT ON FUNCTION report.meter_coverage IS
    'Each meter of the facility from start to stop: the hours that are wanted of it and known (h), the coverage (0..1), what it counted (J, m³), the part of it that '
    'is interpolated (0..1), readings refused as impossible, and hours in which it stood still or ran backwards';
