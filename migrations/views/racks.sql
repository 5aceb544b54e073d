-- report.racks: what racks each site has.
-- Definition: one row per site and rack that a node or a topology ever named.
-- Missing data: a site of which no rack was named has one row, with NULL.
CREATE VIEW report.racks AS
SELECT site.name AS site, rack.name AS rack
FROM gigawatch.site
LEFT JOIN gigawatch.rack USING (site_id);
COMMENT ON VIEW report.racks IS 'Sites and their racks';
COMMENT ON COLUMN report.racks.site IS 'Site';
COMMENT ON COLUMN report.racks.rack IS 'Rack within the site; NULL where the site names none';
