-- report.alert_rules: the rules in force, each with its last evaluation.
-- Definition: one row per rule.
-- Missing data: evaluated is NULL before the first evaluation; rows is NULL where the last failed.
CREATE VIEW report.alert_rules AS
SELECT
    name,
    origin,
    enabled,
    severity,
    unit,
    about,
    summary,
    runbook,
    sql,
    thresholds,
    for_s,
    keep_firing_for_s,
    interval_s,
    evaluated,
    duration_ms,
    rows,
    error,
    failing_since,
    evaluations,
    failures,
    missed
FROM gigawatch.alert_rule;
COMMENT ON VIEW report.alert_rules IS 'The rules in force, each with its last evaluation';
COMMENT ON COLUMN report.alert_rules.name IS 'Name of the rule';
COMMENT ON COLUMN report.alert_rules.origin IS 'shipped with Gigawatch, or own';
COMMENT ON COLUMN report.alert_rules.enabled IS 'Whether it is evaluated';
COMMENT ON COLUMN report.alert_rules.severity IS 'info, warning or critical, where its rows say nothing else';
COMMENT ON COLUMN report.alert_rules.unit IS 'Of the value';
COMMENT ON COLUMN report.alert_rules.about IS 'What it is about, in a sentence';
COMMENT ON COLUMN report.alert_rules.summary IS 'Of an alert, with the names of columns in braces';
COMMENT ON COLUMN report.alert_rules.runbook IS 'Where it is told what to do';
COMMENT ON COLUMN report.alert_rules.sql IS 'The SELECT, one row for each thing that is wrong';
COMMENT ON COLUMN report.alert_rules.thresholds IS 'Numbers that the SELECT compares with, by name';
COMMENT ON COLUMN report.alert_rules.for_s IS 'How long it must hold before it fires, s';
COMMENT ON COLUMN report.alert_rules.keep_firing_for_s IS 'How long it fires on after it ceased, s';
COMMENT ON COLUMN report.alert_rules.interval_s IS 'Interval of its evaluations, s';
COMMENT ON COLUMN report.alert_rules.evaluated IS 'Start of its last evaluation; absent before the first, UTC';
COMMENT ON COLUMN report.alert_rules.duration_ms IS 'How long that took, ms';
COMMENT ON COLUMN report.alert_rules.rows IS 'Rows that it gave; absent where it failed';
COMMENT ON COLUMN report.alert_rules.error IS 'Why it failed; absent where it did not';
COMMENT ON COLUMN report.alert_rules.failing_since IS 'First of the failures in a row; absent where the last did not fail, UTC';
COMMENT ON COLUMN report.alert_rules.evaluations IS 'Evaluations so far';
COMMENT ON COLUMN report.alert_rules.failures IS 'Those of them that failed';
COMMENT ON COLUMN report.alert_rules.missed IS 'Evaluations that were due and left out';
