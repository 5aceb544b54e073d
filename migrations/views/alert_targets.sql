-- report.alert_targets: whom alerts are sent to, and how that goes.
-- Definition: one row per target of the configuration in force; of its address the scheme and host alone. routed: whether a route of it
-- leads there.
-- Missing data: succeeded and failed are NULL where that never happened.
CREATE VIEW report.alert_targets AS
SELECT
    name,
    kind,
    address,
    failures,
    open_until,
    succeeded,
    failed,
    error,
    coalesce((
        SELECT jsonb_path_exists(document::jsonb, '$.route.**.target ? (@ == $name)', jsonb_build_object('name', name))
        FROM gigawatch.alert_configuration ORDER BY configuration_id DESC LIMIT 1
    ), false) AS routed
FROM gigawatch.alert_target;
COMMENT ON VIEW report.alert_targets IS 'Whom alerts are sent to, and how that goes';
COMMENT ON COLUMN report.alert_targets.name IS 'Name of the target';
COMMENT ON COLUMN report.alert_targets.kind IS 'What it speaks: alertmanager, slack, …';
COMMENT ON COLUMN report.alert_targets.address IS 'Scheme and host of it: paths may be secret';
COMMENT ON COLUMN report.alert_targets.failures IS 'Attempts in a row that failed';
COMMENT ON COLUMN report.alert_targets.open_until IS 'No attempt before then: its circuit breaker is open; absent where it is not, UTC';
COMMENT ON COLUMN report.alert_targets.succeeded IS 'When it last took something, UTC';
COMMENT ON COLUMN report.alert_targets.failed IS 'When an attempt last failed, UTC';
COMMENT ON COLUMN report.alert_targets.error IS 'Why';
COMMENT ON COLUMN report.alert_targets.routed IS 'Whether a route leads to it: else it is told of tests alone';
