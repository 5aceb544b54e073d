-- report.energy_hourly: energy of each GPU by the hour.
-- Definition: Σ energy of its windows in the hour, exact to the millijoule; beside it the parts by how they
-- were obtained, which add up to it. Unit: J.
-- Missing data: an hour without any window has no row. coverage is known time over the hour's time until now.
-- needs: expanded
CREATE VIEW report.energy_hourly AS
SELECT
    hours.time,
    site.name AS site,
    rack.name AS rack,
    hours.node_id,
    node.hostname,
    node.simulated,
    gpu.uuid AS gpu_uuid,
    gpu.index AS gpu_index,
    gpu.model AS gpu_model,
    energy_mj::numeric / 1000 AS energy_j,
    (coalesce(energy_mj, 0) - coalesce(energy_interpolated_mj, 0) - coalesce(energy_integrated_mj, 0)
        - coalesce(energy_estimated_mj, 0))::numeric / 1000 AS energy_counter_j,
    coalesce(energy_interpolated_mj, 0)::numeric / 1000 AS energy_interpolated_j,
    coalesce(energy_integrated_mj, 0)::numeric / 1000 AS energy_integrated_j,
    coalesce(energy_estimated_mj, 0)::numeric / 1000 AS energy_estimated_j,
    coalesce(energy_ms, 0)::numeric / 1000 AS covered_s,
    (coalesce(energy_ms, 0) / 1000.0 / greatest(1, least(3600, extract(epoch FROM now() - hours.time))))
        ::double precision AS coverage,
    ticks_taken,
    ticks_expected
FROM (
    SELECT time, node_id, gpu_id, energy_mj, energy_ms::bigint, energy_interpolated_mj, energy_integrated_mj,
        energy_estimated_mj, ticks_taken::bigint, ticks_expected::bigint
    FROM expanded.gpu_1h
    WHERE time < (SELECT folded_1h FROM expanded.mark)
    UNION ALL
    -- Hours that are not folded yet, one by one: a condition on the time then spares those that it leaves out.
    SELECT hour.start, of_hour.*
    FROM (
        SELECT generate_series(CASE WHEN mark.folded_1h > '-infinity' THEN mark.folded_1h ELSE (
                SELECT date_bin('1 hour', min(w.time), '2000-01-01Z') FROM gigawatch.gpu_window AS w
            ) END, now() + interval '1 hour', interval '1 hour') AS start
        FROM expanded.mark
    ) AS hour
    CROSS JOIN LATERAL (
        SELECT node_id, gpu_id, sum(energy_mj)::bigint, sum(energy_ms)::bigint,
            sum(energy_interpolated_mj)::bigint, sum(energy_integrated_mj)::bigint, sum(energy_estimated_mj)::bigint,
            sum(ticks_taken)::bigint, sum(ticks_expected)::bigint
        FROM (
            SELECT node_id, gpu_id, energy_mj, energy_ms, energy_interpolated_mj, energy_integrated_mj,
                energy_estimated_mj, ticks_taken, ticks_expected
            FROM expanded.gpu_1m
            WHERE time >= hour.start AND time < hour.start + interval '1 hour'
                AND time < (SELECT folded_1m FROM expanded.mark)
            UNION ALL
            SELECT node_id, gpu_id, energy_mj, energy_ms, energy_interpolated_mj, energy_integrated_mj,
                energy_estimated_mj, ticks_taken, ticks_expected
            FROM expanded.gpu_raw
            WHERE time >= hour.start AND time < hour.start + interval '1 hour'
                AND time >= (SELECT folded_1m FROM expanded.mark)
        ) AS parts
        GROUP BY 1, 2
    ) AS of_hour
) AS hours
-- All of them are there; joined from the left, those that are not asked for are not read.
LEFT JOIN gigawatch.gpu USING (gpu_id)
LEFT JOIN gigawatch.node ON node.node_id = hours.node_id
LEFT JOIN gigawatch.site USING (site_id)
LEFT JOIN gigawatch.rack USING (rack_id);
COMMENT ON VIEW report.energy_hourly IS 'Energy of each physical GPU by the hour';
COMMENT ON COLUMN report.energy_hourly.time IS 'Start of the hour, UTC';
COMMENT ON COLUMN report.energy_hourly.site IS 'Site';
COMMENT ON COLUMN report.energy_hourly.rack IS 'Rack';
COMMENT ON COLUMN report.energy_hourly.node_id IS 'Number of the node in this store';
COMMENT ON COLUMN report.energy_hourly.hostname IS 'Host name of the node';
COMMENT ON COLUMN report.energy_hourly.simulated IS 'Whether the data are simulated or replayed';
COMMENT ON COLUMN report.energy_hourly.gpu_uuid IS 'UUID of the physical GPU';
COMMENT ON COLUMN report.energy_hourly.gpu_index IS 'Index on its node';
COMMENT ON COLUMN report.energy_hourly.gpu_model IS 'Model, as the driver names it';
COMMENT ON COLUMN report.energy_hourly.energy_j IS 'Energy in the hour, J, exact to the millijoule';
COMMENT ON COLUMN report.energy_hourly.energy_counter_j IS 'Part from differences of the energy counter, J';
COMMENT ON COLUMN report.energy_hourly.energy_interpolated_j IS
    'Part from the counter''s difference across gaps in the readings, spread evenly, J';
COMMENT ON COLUMN report.energy_hourly.energy_integrated_j IS
    'Part integrated from polled power, for GPUs without a counter, J';
COMMENT ON COLUMN report.energy_hourly.energy_estimated_j IS
    'Part estimated from polled power where the counter was reset or gave an impossible value, J';
COMMENT ON COLUMN report.energy_hourly.covered_s IS 'Time of the hour for which the energy is known, s';
COMMENT ON COLUMN report.energy_hourly.coverage IS 'covered_s over the time of the hour until now, 0 to 1';
COMMENT ON COLUMN report.energy_hourly.ticks_taken IS 'Readings taken';
COMMENT ON COLUMN report.energy_hourly.ticks_expected IS 'Readings due';
