-- report.power: power of each GPU by the minute. report.power_series(): of any group, at any step.
-- Definition: power_w of a GPU is Σ energy / Σ covered time of its windows that start in the bin. Power of a
-- group is the sum over its GPUs. Unit: W.
-- Missing data: a GPU without energy in a bin has no share in it; coverage is covered GPU-time over the time
-- of all GPUs that the group showed in the whole period, so that a silent GPU lowers it.
-- needs: gpu_windows
CREATE VIEW report.power AS
SELECT
    date_bin('1 minute', time, '2000-01-01Z') AS time,
    site,
    rack,
    node_id,
    hostname,
    simulated,
    gpu_uuid,
    gpu_index,
    gpu_model,
    sum(energy_j) AS energy_j,
    sum(covered_s) FILTER (WHERE energy_j IS NOT NULL) AS covered_s,
    sum(energy_j) / sum(covered_s) FILTER (WHERE energy_j IS NOT NULL) AS power_w,
    min(power_min_w) AS power_min_w,
    max(power_max_w) AS power_max_w
FROM report.gpu_windows
GROUP BY 1, site, rack, node_id, hostname, simulated, gpu_uuid, gpu_index, gpu_model;
COMMENT ON VIEW report.power IS 'Power of each physical GPU by the minute';
COMMENT ON COLUMN report.power.time IS 'Start of the minute, UTC';
COMMENT ON COLUMN report.power.site IS 'Site';
COMMENT ON COLUMN report.power.rack IS 'Rack';
COMMENT ON COLUMN report.power.node_id IS 'Number of the node in this store';
COMMENT ON COLUMN report.power.hostname IS 'Host name of the node';
COMMENT ON COLUMN report.power.simulated IS 'Whether the data are simulated or replayed';
COMMENT ON COLUMN report.power.gpu_uuid IS 'UUID of the physical GPU';
COMMENT ON COLUMN report.power.gpu_index IS 'Index on its node';
COMMENT ON COLUMN report.power.gpu_model IS 'Model, as the driver names it';
COMMENT ON COLUMN report.power.energy_j IS 'Energy in the minute, J';
COMMENT ON COLUMN report.power.covered_s IS 'Time of the minute for which the energy is known, s';
COMMENT ON COLUMN report.power.power_w IS 'Mean power: energy_j / covered_s, W';
COMMENT ON COLUMN report.power.power_min_w IS 'Least polled power, W';
COMMENT ON COLUMN report.power.power_max_w IS 'Greatest polled power, W';

CREATE FUNCTION report.power_series(
    start timestamptz,
    stop timestamptz,
    step interval DEFAULT '1 minute',
    group_by text DEFAULT 'fleet',
    in_site text DEFAULT NULL,
    in_rack text DEFAULT NULL,
    in_node_id integer DEFAULT NULL,
    in_gpu_model text DEFAULT NULL
) RETURNS TABLE (
    "time" timestamptz, label text, power_w double precision, energy_j double precision,
    covered_s double precision, coverage double precision, gpus bigint, gpu_util_pct double precision
)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH per_gpu AS (
        SELECT
            date_bin(step, w.time, '2000-01-01Z') AS bin,
            CASE group_by
                WHEN 'site' THEN w.site
                WHEN 'rack' THEN coalesce(w.site || ' / ' || w.rack, w.site)
                WHEN 'node' THEN w.hostname
                WHEN 'gpu_model' THEN w.gpu_model
                ELSE 'fleet'
            END AS label,
            w.gpu_uuid,
            sum(w.energy_j) AS energy_j,
            sum(w.covered_s) FILTER (WHERE w.energy_j IS NOT NULL) AS covered_s,
            sum(w.gpu_util_pct * w.covered_s) AS util_pct_s,
            sum(w.covered_s) FILTER (WHERE w.gpu_util_pct IS NOT NULL) AS util_s
        FROM report.gpu_windows AS w
        WHERE w.time >= start AND w.time < stop
            AND (in_site IS NULL OR w.site = in_site)
            AND (in_rack IS NULL OR w.rack = in_rack)
            AND (in_node_id IS NULL OR w.node_id = in_node_id)
            AND (in_gpu_model IS NULL OR w.gpu_model = in_gpu_model)
        GROUP BY 1, 2, 3
    ), members AS (
        SELECT per_gpu.label, count(DISTINCT per_gpu.gpu_uuid) AS gpus FROM per_gpu GROUP BY 1
    )
    SELECT
        per_gpu.bin,
        per_gpu.label,
        sum(per_gpu.energy_j / per_gpu.covered_s),
        sum(per_gpu.energy_j),
        sum(per_gpu.covered_s),
        -- A bin at the edge of the period is as long as its part within it.
        sum(per_gpu.covered_s) / (members.gpus * extract(epoch FROM
            least(per_gpu.bin + step, stop, now()) - greatest(per_gpu.bin, start)))::double precision,
        count(*) FILTER (WHERE per_gpu.energy_j IS NOT NULL),
        sum(per_gpu.util_pct_s) / sum(per_gpu.util_s)
    FROM per_gpu
    JOIN members USING (label)
    GROUP BY per_gpu.bin, per_gpu.label, members.gpus
    ORDER BY 1, 2;
END;
COMMENT ON FUNCTION report.power_series IS
    'Power (W), energy (J), covered GPU-time (s), coverage (0..1), reporting GPUs and mean utilisation (%) '
    'from start to stop, by step and by fleet, site, rack, node or gpu_model';
