-- report.topologies: what stands in each site and how power goes through it, as it was declared.
-- Definition: one row per site and topology that was applied to it; the newest is in force. document is the site as the file
-- had it, with its ranges (docs/topology.md); report.meters has its meters one by one.
-- Missing data: a site to which no topology was applied has no row.
CREATE VIEW report.topologies AS
SELECT
    topology_id,
    site.name AS site,
    applied,
    topology_id = max(topology_id) OVER (PARTITION BY site_id) AS in_force,
    source,
    sha256,
    document
FROM gigawatch.topology
JOIN gigawatch.site USING (site_id);
COMMENT ON VIEW report.topologies IS 'What stands in each site and how power goes through it, as it was declared';
COMMENT ON COLUMN report.topologies.topology_id IS 'Number of the topology';
COMMENT ON COLUMN report.topologies.site IS 'Site';
COMMENT ON COLUMN report.topologies.applied IS 'When it came into force, UTC';
COMMENT ON COLUMN report.topologies.in_force IS 'Whether it is the one in force';
COMMENT ON COLUMN report.topologies.source IS 'Name of the file';
COMMENT ON COLUMN report.topologies.sha256 IS 'SHA-256 of the file';
COMMENT ON COLUMN report.topologies.document IS 'The site: halls, meters, budgets and facts for reports, as JSON in the order of the file';
