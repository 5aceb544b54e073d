-- report.store_rollups, report.store_tables, report.store_jobs: how the store itself is doing.
-- Definition: lag_s is the time since the end of what a level is folded to, behind_s the part of it for which there
-- are windows. weighed_1h are the hours of GPUs weighed by prices and intensities, for budgets. meter_1h are the hours of meters; all that is made of these, a site's day at a time (hours of virtual
-- meters, days, the facility's energy and ratios), is facility_1d: it is folded as far as those hours, or where the day
-- of the newest of them waits, up to that day. The newest window is that of the 50 meters heard of last. Rows are what PostgreSQL last counted when it cleaned or analysed. Oldest and newest are those of up
-- to 500 nodes, of the 250 heard of first and the 250 heard of last, and of the 500 meters heard of last: exact for small fleets,
-- quick for large ones.
-- A hypertable's rows and bytes are those of its chunks together, compressed ones too; heap_bytes hold what is stored
-- aside (TOAST), too. Only TimescaleDB's community edition compresses chunks.
-- Missing data: a level that was never folded has NULL in closed, folded, lag_s and behind_s; a
-- table that PostgreSQL has not counted yet has NULL in rows, an empty one in oldest and newest; a job that runs has
-- NULL in finished and took_s.
-- needs: expanded
CREATE VIEW report.store_rollups AS
WITH newest (of_meters, time) AS (
    SELECT false, max(node_now.time) FROM gigawatch.node_now
    UNION ALL
    SELECT true, max(its.time)
    FROM (SELECT m.meter_id FROM gigawatch.meter AS m ORDER BY m.last_seen DESC NULLS LAST LIMIT 50) AS meter
    CROSS JOIN LATERAL (
        SELECT w.time FROM gigawatch.meter_window AS w WHERE w.meter_id = meter.meter_id ORDER BY w.time DESC LIMIT 1
    ) AS its
)
SELECT
    level.name AS level,
    rollup.closed,
    mark.folded,
    extract(epoch FROM now() - mark.folded)::double precision AS lag_s,
    CASE WHEN mark.folded IS NOT NULL THEN greatest(0, extract(epoch FROM newest.time - mark.folded)) END
        ::double precision AS behind_s,
    dirty.buckets AS dirty_buckets,
    dirty.oldest AS oldest_dirty
FROM (
    VALUES
        ('1m', '1m', false), ('1h', '1h', false), ('1d', '1d', false), ('weighed_1h', 'weighed_1h', false),
        ('meter_1h', 'meter_1h', true), ('facility_1d', 'meter_1h', true)
) AS level (name, follows, of_meters)
JOIN newest ON newest.of_meters = level.of_meters
LEFT JOIN gigawatch.rollup ON rollup.level = level.follows
CROSS JOIN LATERAL (
    SELECT count(*) AS buckets, min(marked.time) AS oldest, max(marked.time) AS newest
    FROM (
        SELECT DISTINCT d.time, d.node_id FROM gigawatch.rollup_dirty AS d
        -- Hours that are not weighed yet are marked with the rest of them, and wait for nothing.
        WHERE d.level = level.name AND (level.name <> 'weighed_1h' OR d.time < rollup.folded)
    ) AS marked
) AS dirty
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN level.name = 'facility_1d' AND dirty.newest < rollup.folded
            AND dirty.newest + interval '1 day' >= rollup.folded THEN dirty.newest
        ELSE rollup.folded
    END AS folded
) AS mark;
COMMENT ON VIEW report.store_rollups IS
    'How far windows are folded into minutes, hours and days, hours weighed by prices and intensities, and meters folded into the facility''s';
COMMENT ON COLUMN report.store_rollups.level IS
    '1m, 1h or 1d of GPUs and nodes; weighed_1h, those hours by prices and intensities, for budgets; meter_1h, hours of meters; facility_1d, all that is made of these';
COMMENT ON COLUMN report.store_rollups.closed IS 'Buckets before it take windows as late ones alone, UTC';
COMMENT ON COLUMN report.store_rollups.folded IS 'Buckets before it are folded, UTC';
COMMENT ON COLUMN report.store_rollups.lag_s IS
    'Time since the end of what is folded, s; up to a bucket and half a minute is as it should be';
COMMENT ON COLUMN report.store_rollups.behind_s IS
    'Time from the end of what is folded to the start of the newest window, s; 0 where nothing newer came';
COMMENT ON COLUMN report.store_rollups.dirty_buckets IS
    'Buckets of nodes or meters that wait to be folded again for late data; of facility_1d days of sites, of weighed_1h hours of sites';
COMMENT ON COLUMN report.store_rollups.oldest_dirty IS 'Start of the oldest of them, UTC';

-- Of a hypertable with compressed chunks, which are no children of it, what TimescaleDB alone knows: rows in them, their
-- number, what they took before, and the sizes of all that the hypertable has. The report role may not ask for itself.
CREATE FUNCTION expanded.columnstore(hypertable regclass)
RETURNS TABLE (rows bigint, chunks integer, before_bytes bigint, heap_bytes bigint, index_bytes bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT
        (
            SELECT sum(packed.numrows_pre_compression)::bigint
            FROM _timescaledb_catalog.compression_chunk_size AS packed
            JOIN _timescaledb_catalog.chunk ON chunk.id = packed.chunk_id
            JOIN _timescaledb_catalog.hypertable AS h ON h.id = chunk.hypertable_id
            WHERE format('%I.%I', h.schema_name, h.table_name)::regclass = hypertable
        ),
        stats.number_compressed_chunks::integer,
        stats.before_compression_total_bytes,
        size.table_bytes + size.toast_bytes,
        size.index_bytes
    FROM hypertable_columnstore_stats(hypertable) AS stats, hypertable_detailed_size(hypertable) AS size
    WHERE stats.number_compressed_chunks > 0;
END $$;

CREATE VIEW report.store_tables AS
WITH node AS MATERIALIZED (
    (SELECT node_id FROM gigawatch.node ORDER BY node_id LIMIT 250)
    UNION
    (SELECT node_id FROM gigawatch.node_now ORDER BY last_seen DESC LIMIT 250)
), meter AS MATERIALIZED (
    SELECT meter_id FROM gigawatch.meter ORDER BY last_seen DESC NULLS LAST LIMIT 500
), span (table_name, oldest, newest) AS (
    SELECT 'gpu_window', min(edge.first), max(edge.last)
    FROM node, LATERAL (
        SELECT min(f.time) AS first, max(f.time) AS last FROM gigawatch.gpu_window AS f WHERE f.node_id = node.node_id
    ) AS edge
    UNION ALL
    SELECT 'node_window', min(edge.first), max(edge.last)
    FROM node, LATERAL (
        SELECT min(f.time) AS first, max(f.time) AS last FROM gigawatch.node_window AS f WHERE f.node_id = node.node_id
    ) AS edge
    UNION ALL
    SELECT 'gpu_1m', min(edge.first), max(edge.last)
    FROM node, LATERAL (
        SELECT min(f.time) AS first, max(f.time) AS last FROM gigawatch.gpu_1m AS f WHERE f.node_id = node.node_id
    ) AS edge
    UNION ALL
    SELECT 'gpu_1h', min(edge.first), max(edge.last)
    FROM node, LATERAL (
        SELECT min(f.time) AS first, max(f.time) AS last FROM gigawatch.gpu_1h AS f WHERE f.node_id = node.node_id
    ) AS edge
    UNION ALL
    SELECT 'gpu_1d', min(edge.first), max(edge.last)
    FROM node, LATERAL (
        SELECT min(f.time) AS first, max(f.time) AS last FROM gigawatch.gpu_1d AS f WHERE f.node_id = node.node_id
    ) AS edge
    UNION ALL
    SELECT 'node_1m', min(edge.first), max(edge.last)
    FROM node, LATERAL (
        SELECT min(f.time) AS first, max(f.time) AS last FROM gigawatch.node_1m AS f WHERE f.node_id = node.node_id
    ) AS edge
    UNION ALL
    SELECT 'node_1h', min(edge.first), max(edge.last)
    FROM node, LATERAL (
        SELECT min(f.time) AS first, max(f.time) AS last FROM gigawatch.node_1h AS f WHERE f.node_id = node.node_id
    ) AS edge
    UNION ALL
    SELECT 'node_1d', min(edge.first), max(edge.last)
    FROM node, LATERAL (
        SELECT min(f.time) AS first, max(f.time) AS last FROM gigawatch.node_1d AS f WHERE f.node_id = node.node_id
    ) AS edge
    UNION ALL
    SELECT 'gpu_health', min(edge.first), max(edge.last)
    FROM node
    JOIN gigawatch.gpu_slot AS s ON s.node_id = node.node_id AND s.slot = 1
    CROSS JOIN LATERAL (
        SELECT min(f.time) AS first, max(f.time) AS last FROM gigawatch.gpu_health AS f WHERE f.gpu_id = s.gpu_id
    ) AS edge
    UNION ALL
    SELECT 'site_second', min(edge.first), max(edge.last)
    FROM gigawatch.site, LATERAL (
        SELECT min(f.time) AS first, max(f.time) AS last FROM gigawatch.site_second AS f
        WHERE f.site_id = site.site_id
    ) AS edge
    UNION ALL
    SELECT 'rack_1m', min(f.time), max(f.time) FROM gigawatch.rack_1m AS f
    UNION ALL
    SELECT 'rack_1h', min(f.time), max(f.time) FROM gigawatch.rack_1h AS f
    UNION ALL
    SELECT 'rack_1d', min(f.time), max(f.time) FROM gigawatch.rack_1d AS f
    UNION ALL
    SELECT 'site_1m', min(f.time), max(f.time) FROM gigawatch.site_1m AS f
    UNION ALL
    SELECT 'site_1h', min(f.time), max(f.time) FROM gigawatch.site_1h AS f
    UNION ALL
    SELECT 'site_1d', min(f.time), max(f.time) FROM gigawatch.site_1d AS f
    UNION ALL
    SELECT 'serving_window', min(edge.first), max(edge.last)
    FROM node, LATERAL (
        SELECT min(f.time) AS first, max(f.time) AS last FROM gigawatch.serving_window AS f WHERE f.node_id = node.node_id
    ) AS edge
    UNION ALL
    SELECT 'assigned_1m', min(edge.first), max(edge.last)
    FROM node, LATERAL (
        SELECT min(f.time) AS first, max(f.time) AS last FROM gigawatch.assigned_1m AS f WHERE f.node_id = node.node_id
    ) AS edge
    UNION ALL
    SELECT 'deployment_1m', min(f.time), max(f.time) FROM gigawatch.deployment_1m AS f
    UNION ALL
    SELECT 'deployment_1h', min(f.time), max(f.time) FROM gigawatch.deployment_1h AS f
    UNION ALL
    SELECT 'deployment_1d', min(f.time), max(f.time) FROM gigawatch.deployment_1d AS f
    UNION ALL
    SELECT 'serving_1m', min(f.time), max(f.time) FROM gigawatch.serving_1m AS f
    UNION ALL
    SELECT 'serving_1h', min(f.time), max(f.time) FROM gigawatch.serving_1h AS f
    UNION ALL
    SELECT 'serving_1d', min(f.time), max(f.time) FROM gigawatch.serving_1d AS f
    UNION ALL
    SELECT 'latency_1m', min(f.time), max(f.time) FROM gigawatch.latency_1m AS f
    UNION ALL
    SELECT 'latency_1h', min(f.time), max(f.time) FROM gigawatch.latency_1h AS f
    UNION ALL
    SELECT 'latency_1d', min(f.time), max(f.time) FROM gigawatch.latency_1d AS f
    UNION ALL
    SELECT 'meter_window', min(edge.first), max(edge.last)
    FROM meter, LATERAL (
        SELECT min(f.time) AS first, max(f.time) AS last FROM gigawatch.meter_window AS f WHERE f.meter_id = meter.meter_id
    ) AS edge
    UNION ALL
    SELECT 'meter_1h', min(edge.first), max(edge.last)
    FROM meter, LATERAL (
        SELECT min(f.time) AS first, max(f.time) AS last FROM gigawatch.meter_1h AS f WHERE f.meter_id = meter.meter_id
    ) AS edge
    UNION ALL
    SELECT 'meter_1d', min(edge.first), max(edge.last)
    FROM meter, LATERAL (
        SELECT min(f.time) AS first, max(f.time) AS last FROM gigawatch.meter_1d AS f WHERE f.meter_id = meter.meter_id
    ) AS edge
    UNION ALL
    SELECT 'facility_1h', min(f.time), max(f.time) FROM gigawatch.facility_1h AS f
    UNION ALL
    SELECT 'facility_1d', min(f.time), max(f.time) FROM gigawatch.facility_1d AS f
    UNION ALL
    SELECT 'facility_ratio_1h', min(f.time), max(f.time) FROM gigawatch.facility_ratio_1h AS f
    UNION ALL
    SELECT 'facility_ratio_1d', min(f.time), max(f.time) FROM gigawatch.facility_ratio_1d AS f
    UNION ALL
    SELECT 'event', min(f.time), max(f.time) FROM gigawatch.event AS f
), part AS (
    SELECT t.oid AS table_oid, t.oid, 0 AS chunk FROM pg_class AS t
    WHERE t.relnamespace = 'gigawatch'::regnamespace AND t.relkind = 'r'
    UNION ALL
    SELECT inherits.inhparent, inherits.inhrelid, 1 FROM pg_inherits AS inherits
), size AS (
    SELECT
        part.table_oid,
        sum(part.chunk) AS chunks,
        -- The table itself is empty where it has chunks.
        sum(c.reltuples) FILTER (WHERE c.reltuples >= 0 AND (part.chunk = 1 OR NOT c.relhassubclass)) AS rows,
        sum(pg_table_size(c.oid)) AS heap_bytes,
        sum(pg_indexes_size(c.oid)) AS index_bytes
    FROM part
    JOIN pg_class AS c ON c.oid = part.oid
    GROUP BY part.table_oid
)
SELECT
    t.relname::text AS table_name,
    obj_description(t.oid, 'pg_class') AS holds,
    coalesce(size.rows + packed.rows, size.rows, packed.rows)::bigint AS rows,
    coalesce(packed.heap_bytes, size.heap_bytes)::bigint AS heap_bytes,
    coalesce(packed.index_bytes, size.index_bytes)::bigint AS index_bytes,
    (coalesce(packed.heap_bytes, size.heap_bytes) + coalesce(packed.index_bytes, size.index_bytes))::bigint
        AS total_bytes,
    span.oldest,
    span.newest,
    size.chunks::integer AS chunks,
    coalesce(packed.chunks, 0) AS compressed_chunks,
    coalesce(packed.heap_bytes + packed.index_bytes - size.heap_bytes - size.index_bytes, 0)::bigint
        AS compressed_bytes,
    packed.before_bytes AS uncompressed_bytes
FROM pg_class AS t
JOIN size ON size.table_oid = t.oid
LEFT JOIN LATERAL expanded.columnstore(t.oid) AS packed ON size.chunks > 0
LEFT JOIN span ON span.table_name = t.relname
WHERE t.relnamespace = 'gigawatch'::regnamespace AND obj_description(t.oid, 'pg_class') IS NOT NULL;
COMMENT ON VIEW report.store_tables IS 'Tables of the store with their sizes and the times that they hold';
COMMENT ON COLUMN report.store_tables.table_name IS 'Name of the table in schema gigawatch';
COMMENT ON COLUMN report.store_tables.holds IS 'What a row of it is';
COMMENT ON COLUMN report.store_tables.rows IS 'Rows, as PostgreSQL last estimated them';
COMMENT ON COLUMN report.store_tables.heap_bytes IS 'Size on disk without indexes, bytes';
COMMENT ON COLUMN report.store_tables.index_bytes IS 'Size of its indexes on disk, bytes';
COMMENT ON COLUMN report.store_tables.total_bytes IS 'Size on disk, bytes';
COMMENT ON COLUMN report.store_tables.oldest IS 'Time of the oldest row, UTC; NULL as well where rows have no time';
COMMENT ON COLUMN report.store_tables.newest IS 'Time of the newest row, UTC';
COMMENT ON COLUMN report.store_tables.chunks IS 'Chunks of the hypertable; 0 for a plain table';
COMMENT ON COLUMN report.store_tables.compressed_chunks IS 'Those of them that are compressed';
COMMENT ON COLUMN report.store_tables.compressed_bytes IS 'What they take on disk with their indexes, bytes';
COMMENT ON COLUMN report.store_tables.uncompressed_bytes IS
    'What they took before they were compressed, bytes; NULL where none is';

CREATE VIEW report.store_jobs AS
SELECT
    job.name,
    job.leader,
    job.started,
    job.finished,
    extract(epoch FROM job.finished - job.started)::double precision AS took_s,
    job.progress,
    job.error
FROM gigawatch.job;
COMMENT ON VIEW report.store_jobs IS 'Jobs of the scheduler: the last run of each';
COMMENT ON COLUMN report.store_jobs.name IS 'fold or retain';
COMMENT ON COLUMN report.store_jobs.leader IS 'Host and process that ran it';
COMMENT ON COLUMN report.store_jobs.started IS 'When its last run began, UTC';
COMMENT ON COLUMN report.store_jobs.finished IS 'When that run ended, UTC; NULL while it runs';
COMMENT ON COLUMN report.store_jobs.took_s IS 'How long it took, s';
COMMENT ON COLUMN report.store_jobs.progress IS 'What it did';
COMMENT ON COLUMN report.store_jobs.error IS 'Why it failed when it last ended; NULL once it succeeded';
