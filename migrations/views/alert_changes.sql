-- report.alert_changes: what became of each alert.
-- Definition: one row per change of an alert.
-- Missing data: author is NULL where the rule did it.
CREATE VIEW report.alert_changes AS
SELECT
    time,
    alert_id,
    change,
    author,
    note
FROM gigawatch.alert_change;
COMMENT ON VIEW report.alert_changes IS 'What became of each alert';
COMMENT ON COLUMN report.alert_changes.time IS 'When, UTC';
COMMENT ON COLUMN report.alert_changes.alert_id IS 'Number of the alert';
COMMENT ON COLUMN report.alert_changes.change IS 'fired, severity, flapped, resolved, acknowledged, …';
COMMENT ON COLUMN report.alert_changes.author IS 'Who did it; absent where the rule did';
COMMENT ON COLUMN report.alert_changes.note IS 'What there is to say of it';
