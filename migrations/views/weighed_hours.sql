-- Energy of sites and deployments by the hour, weighed by price or carbon intensity; for the fold, which keeps it in weighed_1h, and report.budgets() alone.
-- Definition: sums of expanded.energy_pieces() in the parts that a boundary's energy is made of: what the GPUs used, what metered hosts used beside them, and the GPU-time whose hosts are not metered; with configured PUE
-- (its mean by time where it changes within the hour and all of that has one) and unit of the hour, and each part times the factor. So neither another period, whose hosts are others', nor a PUE that is measured later makes another hour of it. Unit: mJ, ms, those times the factor's unit.
-- Missing data: what has no factor, no configured PUE or no metered host is in rows of its own, the first without weighed sums.
-- needs: weighed_energy
CREATE FUNCTION expanded.weighed_hours(start timestamptz, stop timestamptz, in_kind text, in_of text, in_site text)
RETURNS SETOF gigawatch.weighed_1h
LANGUAGE plpgsql STABLE PARALLEL SAFE SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
BEGIN
    -- Each call is planned with its own constants: as part of another statement it read rows of all groups and took ten times as long.
    RETURN QUERY
    SELECT p.hour, in_kind, p.deployment_id, p.site_id, p.gpu_model, its.pue, p.unit, sum(p.energy_mj), sum(p.host_mj), sum(host.unmetered_ms),
        sum(p.energy_mj * p.value), sum(p.host_mj * p.value), sum(host.unmetered_ms * p.value)
    FROM expanded.energy_pieces(start, stop, in_kind, in_site, NULL, in_of, NULL, false) AS p
    CROSS JOIN LATERAL (SELECT greatest(p.energy_ms - p.host_ms, 0) AS unmetered_ms) AS host
    LEFT JOIN expanded.configured_pue AS pue ON pue.site_id = p.site_id AND p.hour >= pue.first AND p.hour < pue.beyond
    LEFT JOIN expanded.changing_pue(ARRAY[start, stop]) AS changing ON changing.level = '1h' AND changing.site_id = p.site_id AND changing.time = p.hour
    CROSS JOIN LATERAL (SELECT CASE WHEN changing.site_id IS NULL THEN pue.value ELSE changing.value END AS pue) AS its
    GROUP BY p.hour, p.deployment_id, p.site_id, p.gpu_model, its.pue, p.unit, p.value IS NULL, host.unmetered_ms = 0;
END
$$;
