-- report.tariffs: price of each site's energy over time.
-- Definition: a row for each stretch of time with one price, from start up to but not including stop; in each moment at most
-- one of a site counts. Unit: the row's currency per kWh.
-- Missing data: a time without a row has no price: it is not taken from its neighbours. A retired row was replaced or
-- removed; it is shown, and counts in no figure.
CREATE VIEW report.tariffs AS
SELECT
    import_id,
    site.name AS site,
    tariff.start,
    tariff.stop,
    tariff.price_per_kwh,
    tariff.currency,
    factor_import.source,
    factor_import.version,
    factor_import.imported,
    tariff.retired
FROM gigawatch.tariff
JOIN gigawatch.factor_import USING (import_id)
JOIN gigawatch.site ON site.site_id = tariff.site_id;
COMMENT ON VIEW report.tariffs IS 'Price of each site''s energy over time';
COMMENT ON COLUMN report.tariffs.import_id IS 'Number of the import that brought it';
COMMENT ON COLUMN report.tariffs.site IS 'Site';
COMMENT ON COLUMN report.tariffs.start IS 'From this moment on, UTC';
COMMENT ON COLUMN report.tariffs.stop IS 'Up to this moment, which is not part of it, UTC';
COMMENT ON COLUMN report.tariffs.price_per_kwh IS 'Price of energy, in the currency per kWh; may be below 0';
COMMENT ON COLUMN report.tariffs.currency IS 'ISO 4217 code';
COMMENT ON COLUMN report.tariffs.source IS 'Where the price comes from';
COMMENT ON COLUMN report.tariffs.version IS 'Version of the source; by default the file''s SHA-256, 12 digits';
COMMENT ON COLUMN report.tariffs.imported IS 'When it was taken in, UTC';
COMMENT ON COLUMN report.tariffs.retired IS 'When it was replaced or removed, UTC; NULL while it counts';
