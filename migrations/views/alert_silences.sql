-- report.alert_silences: alerts that nobody is told of for a while.
-- Definition: one row per silence, those that ended too.
-- Missing data: ended_by is NULL where it ended, or will end, by its time.
CREATE VIEW report.alert_silences AS
SELECT
    silence_id,
    kind,
    matchers,
    starts,
    ends,
    author,
    reason,
    created,
    ended_by
FROM gigawatch.alert_silence;
COMMENT ON VIEW report.alert_silences IS 'Alerts that nobody is told of for a while';
COMMENT ON COLUMN report.alert_silences.silence_id IS 'Number of the silence';
COMMENT ON COLUMN report.alert_silences.kind IS 'silence or maintenance';
COMMENT ON COLUMN report.alert_silences.matchers IS 'What it silences: label, operator and value, all of which hold';
COMMENT ON COLUMN report.alert_silences.starts IS 'From when, UTC';
COMMENT ON COLUMN report.alert_silences.ends IS 'Until when, UTC';
COMMENT ON COLUMN report.alert_silences.author IS 'Who made it';
COMMENT ON COLUMN report.alert_silences.reason IS 'Why';
COMMENT ON COLUMN report.alert_silences.created IS 'When it was made, UTC';
COMMENT ON COLUMN report.alert_silences.ended_by IS 'Who ended it before its time; absent where nobody did';
