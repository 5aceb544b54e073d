-- report.grid_intensity: carbon intensity of each site's energy over time.
-- Definition: a row for each stretch of time with one intensity, from start up to but not including stop; in each moment at
-- most one of a site and method counts. Method location is that of the grid the site is on, market that of what was bought,
-- which instrument names (GHG Protocol, scope 2). Unit: gCO2e/kWh.
-- Missing data: a time without a row has no intensity: it is not taken from its neighbours, nor from the other method. A
-- retired row was replaced or removed; it is shown, and counts in no figure.
CREATE VIEW report.grid_intensity AS
SELECT
    import_id,
    site.name AS site,
    intensity.method,
    intensity.instrument,
    intensity.start,
    intensity.stop,
    intensity.g_per_kwh,
    intensity.estimated,
    factor_import.source,
    factor_import.version,
    factor_import.imported,
    intensity.retired
FROM gigawatch.grid_intensity AS intensity
JOIN gigawatch.factor_import USING (import_id)
JOIN gigawatch.site ON site.site_id = intensity.site_id;
COMMENT ON VIEW report.grid_intensity IS 'Carbon intensity of each site''s energy over time';
COMMENT ON COLUMN report.grid_intensity.import_id IS 'Number of the import that brought it';
COMMENT ON COLUMN report.grid_intensity.site IS 'Site';
COMMENT ON COLUMN report.grid_intensity.method IS 'location: of the grid; market: of what was bought';
COMMENT ON COLUMN report.grid_intensity.instrument IS 'What was bought, for method market; NULL for location';
COMMENT ON COLUMN report.grid_intensity.start IS 'From this moment on, UTC';
COMMENT ON COLUMN report.grid_intensity.stop IS 'Up to this moment, which is not part of it, UTC';
COMMENT ON COLUMN report.grid_intensity.g_per_kwh IS 'Carbon intensity, gCO2e/kWh';
COMMENT ON COLUMN report.grid_intensity.estimated IS 'Whether the source calls the value an estimate';
COMMENT ON COLUMN report.grid_intensity.source IS 'Where the value comes from';
COMMENT ON COLUMN report.grid_intensity.version IS 'Version of the source; by default the file''s SHA-256, 12 digits';
COMMENT ON COLUMN report.grid_intensity.imported IS 'When it was taken in, UTC';
COMMENT ON COLUMN report.grid_intensity.retired IS 'When it was replaced or removed, UTC; NULL while it counts';
