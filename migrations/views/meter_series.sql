-- report.meter_series(): what one meter told over time.
-- Definition: of its windows in each bin of step: power_w is the polled mean, without one energy over the time for which it is known,
-- weighted by that time; current_max_a the greatest current of a phase; temp_c the mean temperature. Unit: W, A, °C.
-- Missing data: what its windows do not tell is NULL; a bin without windows has no row. Windows are kept retention.windows_d.
CREATE FUNCTION report.meter_series(
    in_site text,
    in_meter text,
    start timestamptz,
    stop timestamptz,
    step interval DEFAULT '1 minute'
) RETURNS TABLE ("time" timestamptz, power_w double precision, current_max_a double precision, temp_c double precision)
LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog
BEGIN ATOMIC
    SELECT
        date_bin(step, w.time, '2000-01-01Z'),
        sum(coalesce(w.power_mean_mw::double precision * w.covered_ms / 1000, w.energy_mj))
            / nullif(sum(w.covered_ms) FILTER (WHERE w.power_mean_mw IS NOT NULL OR w.energy_mj IS NOT NULL), 0),
        max(w.current_max_ma) / 1000.0::double precision,
        avg(w.temp_mean_mc)::double precision / 1000
    FROM gigawatch.site
    JOIN gigawatch.meter ON meter.site_id = site.site_id AND meter.name = in_meter
    JOIN gigawatch.meter_window AS w ON w.meter_id = meter.meter_id AND w.time >= start AND w.time < stop
    WHERE site.name = in_site
    GROUP BY 1
    ORDER BY 1;
END;
COMMENT ON FUNCTION report.meter_series IS
    'Power (W), greatest current (A) and temperature (°C) of a meter, from start to stop by step';
