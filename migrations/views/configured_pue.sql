-- report.configured_pue: PUE of each site over time, as somebody configured it.
-- Definition: a row for each stretch of time with one configured PUE, from start up to but not including stop; in each moment
-- at most one of a site counts. PUE is the energy of the facility over that of its IT equipment. It is a number that somebody
-- wrote down, such as a design value, and never a measurement; a figure that rests on it says so. Unit: 1.
-- Missing data: a time without a row has no configured PUE: it is not taken from its neighbours. A retired row was replaced
-- or removed; it is shown, and counts in no figure.
CREATE VIEW report.configured_pue AS
SELECT
    import_id,
    site.name AS site,
    configured_pue.start,
    configured_pue.stop,
    configured_pue.pue,
    factor_import.source,
    factor_import.version,
    factor_import.imported,
    configured_pue.retired
FROM gigawatch.configured_pue
JOIN gigawatch.factor_import USING (import_id)
JOIN gigawatch.site ON site.site_id = configured_pue.site_id;
COMMENT ON VIEW report.configured_pue IS 'PUE of each site over time as somebody configured it; not measured';
COMMENT ON COLUMN report.configured_pue.import_id IS 'Number of the import that brought it';
COMMENT ON COLUMN report.configured_pue.site IS 'Site';
COMMENT ON COLUMN report.configured_pue.start IS 'From this moment on, UTC';
COMMENT ON COLUMN report.configured_pue.stop IS 'Up to this moment, which is not part of it, UTC';
COMMENT ON COLUMN report.configured_pue.pue IS 'Configured PUE, 1 to 5: energy of the facility over that of its IT equipment';
COMMENT ON COLUMN report.configured_pue.source IS 'Where the value comes from';
COMMENT ON COLUMN report.configured_pue.version IS 'Version of the source; by default the file''s SHA-256, 12 digits, or that it was set on the command line';
COMMENT ON COLUMN report.configured_pue.imported IS 'When it was taken in, UTC';
COMMENT ON COLUMN report.configured_pue.retired IS 'When it was replaced or removed, UTC; NULL while it counts';
