-- report.power_ratio_fleet_now: power of all sites' sources over that of their IT equipment, at this moment; indicative.
-- Definition: power_ratio = Σ power of the sources / Σ power of IT, of the sites that report.power_ratio_now has a ratio of, by
-- category: a ratio of sums, and no mean of the sites' ratios. Unit: W, 1.
-- Missing data: a site without a ratio at this moment is in neither sum; sites says of how many it is, sites_with_meters of how many
-- it could be.
-- needs: power_ratio_now
CREATE VIEW report.power_ratio_fleet_now AS
SELECT
    it.category,
    count(known.power_ratio) AS sites,
    count(*) AS sites_with_meters,
    sum(known.facility_power_w) / sum(known.it_power_w) AS power_ratio,
    sum(known.facility_power_w) AS facility_power_w,
    sum(known.it_power_w) AS it_power_w,
    sum(it.meters_silent)::bigint AS meters_silent,
    min(known.time) AS time,
    bool_or(it.simulated) AS simulated,
    coalesce(array_agg(it.site ORDER BY it.site) FILTER (WHERE known.power_ratio IS NOT NULL), '{}') AS known
FROM report.power_ratio_now AS it
LEFT JOIN LATERAL (
    SELECT it.power_ratio, it.facility_power_w, it.it_power_w, it.time WHERE it.power_ratio IS NOT NULL
) AS known ON true
GROUP BY it.category;
COMMENT ON VIEW report.power_ratio_fleet_now IS 'Power of all sites'' sources over that of their IT equipment at this moment; indicative, and no PUE';
COMMENT ON COLUMN report.power_ratio_fleet_now.category IS 'Where IT is metered: 1 UPS output, 2 PDU output, 3 IT equipment input';
COMMENT ON COLUMN report.power_ratio_fleet_now.sites IS 'Sites that it is of';
COMMENT ON COLUMN report.power_ratio_fleet_now.sites_with_meters IS 'Sites that have the meters for it';
COMMENT ON COLUMN report.power_ratio_fleet_now.power_ratio IS 'Power of the sources over that of IT, 1; below 1 a meter is wrong';
COMMENT ON COLUMN report.power_ratio_fleet_now.facility_power_w IS 'Power of these sites'' sources, W';
COMMENT ON COLUMN report.power_ratio_fleet_now.it_power_w IS 'Power of these sites'' IT, W';
COMMENT ON COLUMN report.power_ratio_fleet_now.meters_silent IS 'Meters without a window of the last 5 minutes, of all sites that have the meters';
COMMENT ON COLUMN report.power_ratio_fleet_now.time IS 'Start of the oldest of the windows, UTC';
COMMENT ON COLUMN report.power_ratio_fleet_now.simulated IS 'Whether a meter of it is simulated';
COMMENT ON COLUMN report.power_ratio_fleet_now.known IS 'Names of the sites that it is of';
