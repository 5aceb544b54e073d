-- Values of sites over time, of all kinds; for the views of schema report alone.
-- Definition: the values that count now: prices and, by method, carbon intensities, per kWh; and configured PUEs, apart: among the others
-- they were looked for in each hour's intensity. Unit: the value's.
-- Missing data: a time without a value has no row.
CREATE VIEW expanded.factor AS
SELECT 'price' AS kind, site_id, start AS first, stop AS beyond, price_per_kwh AS value, currency AS unit, false AS estimated
FROM gigawatch.tariff WHERE retired IS NULL
UNION ALL
SELECT method, site_id, start, stop, g_per_kwh, instrument, estimated
FROM gigawatch.grid_intensity WHERE retired IS NULL;

CREATE VIEW expanded.configured_pue AS
SELECT site_id, start AS first, stop AS beyond, pue AS value FROM gigawatch.configured_pue WHERE retired IS NULL;
