-- report.alert_deliveries: what targets were told, or are to be told.
-- Definition: one row per notification and target; waiting until it is sent, or dead where it was given up.
-- Missing data: status is NULL where the target did not answer.
CREATE VIEW report.alert_deliveries AS
SELECT
    delivery_id,
    key,
    target,
    group_key,
    why,
    state,
    created,
    due,
    attempts,
    tried,
    duration_ms,
    status,
    answer,
    notification
FROM gigawatch.alert_delivery;
COMMENT ON VIEW report.alert_deliveries IS 'What targets were told, or are to be told';
COMMENT ON COLUMN report.alert_deliveries.delivery_id IS 'Number of the notification';
COMMENT ON COLUMN report.alert_deliveries.key IS 'The same at each attempt: receivers know duplicates by it';
COMMENT ON COLUMN report.alert_deliveries.target IS 'Whom it is for';
COMMENT ON COLUMN report.alert_deliveries.group_key IS 'Of the group that it tells of';
COMMENT ON COLUMN report.alert_deliveries.why IS 'new, changed, resolved, repeat or test';
COMMENT ON COLUMN report.alert_deliveries.state IS 'waiting, sent or dead';
COMMENT ON COLUMN report.alert_deliveries.created IS 'When it was put out, UTC';
COMMENT ON COLUMN report.alert_deliveries.due IS 'No attempt before then, UTC';
COMMENT ON COLUMN report.alert_deliveries.attempts IS 'Attempts so far';
COMMENT ON COLUMN report.alert_deliveries.tried IS 'When the last attempt began, UTC';
COMMENT ON COLUMN report.alert_deliveries.duration_ms IS 'How long that took, ms';
COMMENT ON COLUMN report.alert_deliveries.status IS 'What it answered: HTTP status; absent where it did not';
COMMENT ON COLUMN report.alert_deliveries.answer IS 'The first of what it answered, or why it could not be asked';
COMMENT ON COLUMN report.alert_deliveries.notification IS 'What to tell';
