-- report.pue_baseline(): the interim PUE of each site's last day beside what it usually is.
-- Definition: pue is that of report.pue() over the 24 hours before at (or before report.facility_until, which is sooner); baseline is the median of the same
-- figure of each of the days before (in_days whole days, UTC, that ended before these 24 hours began). Only days, and a last day, with a coverage of in_coverage count. drift = pue − baseline. Unit: 1.
-- Missing data: a last day with less coverage has no pue; with fewer than 7 such days there is no baseline.
-- needs: pue
CREATE FUNCTION report.pue_baseline(
    at timestamptz DEFAULT now(),
    in_days integer DEFAULT 28,
    in_coverage double precision DEFAULT 0.9
) RETURNS TABLE (
    site text, category smallint, start timestamptz, stop timestamptz, pue double precision, coverage double precision,
    baseline double precision, days bigint, drift double precision, simulated boolean
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    until constant timestamptz := date_bin('1 hour', least(at, expanded.facility_until()), '2000-01-01Z');
    before constant timestamptz := date_bin('1 day', until - interval '24 hours', '2000-01-01Z');
BEGIN
    RETURN QUERY
    WITH usual AS (
        SELECT p.label, p.category, percentile_cont(0.5) WITHIN GROUP (ORDER BY p.pue) AS pue, count(*) AS days
        FROM report.pue(before - in_days * interval '1 day', before, interval '1 day', 'site') AS p
        WHERE p.source = 'measured' AND p.coverage >= in_coverage AND p.pue IS NOT NULL
        GROUP BY 1, 2
    )
    SELECT p.label, p.category, until - interval '24 hours', until, its.pue, p.coverage,
        CASE WHEN u.days >= 7 THEN u.pue END, coalesce(u.days, 0),
        its.pue - CASE WHEN u.days >= 7 THEN u.pue END, p.simulated
    FROM report.pue(until - interval '24 hours', until, NULL, 'site') AS p
    CROSS JOIN LATERAL (SELECT CASE WHEN p.coverage >= in_coverage THEN p.pue END AS pue) AS its
    LEFT JOIN usual AS u ON u.label = p.label AND u.category = p.category
    WHERE p.source = 'measured'
    ORDER BY 1, 2;
END
$$;
COMMENT ON FUNCTION report.pue_baseline IS
    'Interim PUE (1) of each site over the 24 hours before a moment, by category (1 UPS output, 2 PDU output, 3 IT input), the median of the days before as its baseline, '
    'from how many days, and the difference';
