-- report.pue_conditions(): PUE of each site beside its IT load and the air outside, bin by bin.
-- Definition: pue and both sums are those of report.pue() by site; it_power_w = E_IT / time of the hours in the sums, facility_power_w likewise;
-- outside_temp_c is the mean by time of the meters of role temperature that are of no hall. Unit: 1, W, °C.
-- Missing data: a bin none of whose hours is in the sums has hours = 0 and no PUE, and hours_missing and hours_faulty say why. Without
-- a meter of the air outside, or while it is silent, outside_temp_c is NULL.
-- needs: facility_parts
CREATE FUNCTION report.pue_conditions(
    start timestamptz,
    stop timestamptz,
    step interval,
    in_site text DEFAULT NULL,
    in_category integer DEFAULT NULL
) RETURNS TABLE (
    "time" timestamptz, site text, category smallint, pue double precision, it_power_w double precision,
    facility_power_w double precision, outside_temp_c double precision, hours bigint, hours_missing bigint, hours_faulty bigint
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog SET plan_cache_mode = force_custom_plan
SET timezone = 'UTC'
AS $$
#variable_conflict use_column
DECLARE
    chosen integer := (SELECT site.site_id FROM gigawatch.site WHERE site.name = in_site);
BEGIN
    RETURN QUERY EXECUTE (
        SELECT format($query$
            WITH outside AS (
                SELECT expanded.facility_bin($3, b.time, $1) AS bin, b.site_id,
                    (sum(b.temp_mc_ms) / nullif(sum(b.temp_ms), 0) / 1000)::double precision AS temp_c
                FROM (%s) AS b
                GROUP BY 1, 2
            )
            SELECT r.time, r.label, r.category, (r.numerator / nullif(r.denominator, 0))::double precision,
                (r.denominator / nullif(r.hours, 0) / 3600000)::double precision,
                (r.numerator / nullif(r.hours, 0) / 3600000)::double precision, o.temp_c, r.hours, r.missing_h, r.faulty_h
            FROM expanded.ratio_sums($1, $2, $3, 'site', $4, ARRAY['pue'], $6) AS r
            JOIN gigawatch.site ON site.name = r.label
            LEFT JOIN outside AS o ON o.site_id = site.site_id AND o.bin = r.time
            ORDER BY 1, 2, 3
            $query$, coalesce(string_agg(format($part$
                SELECT it.time, it.site_id, it.temp_mc_ms, it.temp_ms FROM gigawatch.facility_%s AS it
                WHERE it.role = 'temperature' AND it.hall_id IS NULL AND it.time >= %L AND it.time < %L
                    AND ($4 IS NULL OR it.site_id = $5)
                $part$, part.level, part.first, part.beyond), ' UNION ALL '),
                'SELECT it.time, it.site_id, it.temp_mc_ms, it.temp_ms FROM gigawatch.facility_1h AS it WHERE false'))
        FROM expanded.facility_spans(start, stop, step) AS part
    ) USING start, stop, step, in_site, chosen, in_category;
END
$$;
COMMENT ON FUNCTION report.pue_conditions IS
    'PUE (1) of each site from start to stop by step (whole hours or months) and by category (1 UPS output, 2 PDU output, 3 IT input), beside the mean power of IT '
    'and of the facility (W) and the temperature outside (°C); and the hours in the sums, missing and faulty';
