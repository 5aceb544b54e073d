-- report.facility_until: up to when the facility's hours are known now.
-- Definition: the end of the newest hour that is folded of meters' windows; figures of the facility end there. Unit: UTC.
-- Missing data: before the first hour is folded it is the year 2000.
CREATE VIEW report.facility_until AS
SELECT greatest(max(rollup.folded), '2000-01-01Z'::timestamptz) AS until FROM gigawatch.rollup WHERE rollup.level = 'meter_1h';
COMMENT ON VIEW report.facility_until IS 'Up to when the facility''s hours are known';
COMMENT ON COLUMN report.facility_until.until IS 'End of the newest hour of meters that is folded, UTC';
