-- report.alerts: each time that a rule's condition held for one thing.
-- Definition: one row per alert: pending while its condition holds for less than the rule's for, then firing, then resolved. Pending ones that cease leave no row. silenced_by is the newest silence in force whose matchers all hold, as last looked at when its target was to be told.
-- Missing data: value is NULL, and unknown_since is set, while there are no data to tell whether the condition holds: the state stays what it was.
CREATE VIEW report.alerts AS
SELECT
    alert_id,
    rule,
    fingerprint,
    labels,
    severity,
    state,
    value,
    summary,
    details,
    racks,
    simulated,
    started,
    held,
    ceased,
    unknown_since,
    fired,
    resolved,
    flaps,
    inhibited_by,
    silenced_by,
    acknowledged,
    acknowledged_by,
    acknowledgement
FROM gigawatch.alert;
COMMENT ON VIEW report.alerts IS 'Each time that a rule''s condition held for one thing';
COMMENT ON COLUMN report.alerts.alert_id IS 'Number of the alert';
COMMENT ON COLUMN report.alerts.rule IS 'Name of the rule';
COMMENT ON COLUMN report.alerts.fingerprint IS 'Of rule and labels: which thing it is about';
COMMENT ON COLUMN report.alerts.labels IS 'Which thing it is about, by name of the label';
COMMENT ON COLUMN report.alerts.severity IS 'info, warning or critical';
COMMENT ON COLUMN report.alerts.state IS 'pending, firing or resolved';
COMMENT ON COLUMN report.alerts.value IS 'As last measured, in the rule''s unit';
COMMENT ON COLUMN report.alerts.summary IS 'What is wrong, in a sentence';
COMMENT ON COLUMN report.alerts.details IS 'What explains it: the other columns of the rule''s row';
COMMENT ON COLUMN report.alerts.racks IS 'Racks of its site that it covers; absent where it covers none';
COMMENT ON COLUMN report.alerts.simulated IS 'Whether the data are simulated';
COMMENT ON COLUMN report.alerts.started IS 'When its condition first held, UTC';
COMMENT ON COLUMN report.alerts.held IS 'When its condition last held, UTC';
COMMENT ON COLUMN report.alerts.ceased IS 'When its condition was first seen not to hold any more; absent while it holds, UTC';
COMMENT ON COLUMN report.alerts.unknown_since IS 'Since when there are no data to tell; absent where there are, UTC';
COMMENT ON COLUMN report.alerts.fired IS 'When it began to fire; absent while pending, UTC';
COMMENT ON COLUMN report.alerts.resolved IS 'When it ended; absent before, UTC';
COMMENT ON COLUMN report.alerts.flaps IS 'Times that it ceased and came back';
COMMENT ON COLUMN report.alerts.inhibited_by IS 'The firing alert that explains it; absent where none does';
COMMENT ON COLUMN report.alerts.silenced_by IS 'The silence that keeps it quiet; absent where none does';
COMMENT ON COLUMN report.alerts.acknowledged IS 'When somebody took it on; absent where nobody did, UTC';
COMMENT ON COLUMN report.alerts.acknowledged_by IS 'Who';
COMMENT ON COLUMN report.alerts.acknowledgement IS 'What they said';
