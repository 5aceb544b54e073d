-- report.eu_eed(): the figures of a site's yearly report to the EU, and what is missing for it.
-- Definition: in_year is the calendar year (UTC) of the figures; they are reported in the next, the reporting year (Article 3), by 15 May. A regime has its formulas.
-- Delegated Regulation (EU) 2024/1364, Annexes II and III, up to reporting year 2026: PUE = EDC / EIT; WUE = WIN / EIT (m³/MWh); ERF = EREUSE / EDC; REF =
-- ERES-TOT / EDC, at most 1. As amended by C(2026) 3472 final of 21.9.2026, from reporting year 2027: WUE = WIN-FRE / EIT, fresh water alone (its Annex III), WIN-FRE
-- instead of WIN-POT, and classes A to G of PUE and WUE (its Annex I); the rest as before. EDC and EIT are both sums of report.pue() at the category asked for, else
-- that nearest to the UPS with any hours: Annex II 1(e) wants category 1, and 2 where there is no UPS. WIN, WIN-POT and WIN-FRE are
-- those of report.water(), EREUSE that of report.heat(). ERES-TOT = ERES-GOO + ERES-PPA + ERES-OS: the first two are what the topology's eu_report declares of the year,
-- ERES-OS the energy made on site by others than backup generators, by its meters, else as declared. EDC-BG is that of backup generators, by their meters, else as declared, and
-- part of EDC where it is metered. PDIT, SDC and SCR are declared. how says which. Unit: as in the column.
-- Missing data: what is not known is NULL, with how = missing, and missing says what would make it known; nothing is taken for 0. Hours that
-- are not in the sums are not scaled up (a site that is not known has no row): coverage says how much of the year is in them, and missing how many hours are not. REF, whose ERES-TOT is of the
-- whole year, is withheld where less than 99 % of the year's hours are in EDC, or the year is not over.
-- needs: facility_parts
CREATE FUNCTION report.eu_eed(
    in_site text,
    in_year integer,
    in_category integer DEFAULT NULL
) RETURNS TABLE (
    regime text, year integer, reporting_year integer, site text, category smallint, place integer, indicator text,
    value double precision, unit text, efficiency_class text, how text, coverage double precision, missing text
)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    chosen integer := (SELECT it.site_id FROM gigawatch.site AS it WHERE it.name = in_site);
    start timestamptz := make_timestamptz(in_year, 1, 1, 0, 0, 0, 'UTC');
    stop timestamptz := make_timestamptz(in_year + 1, 1, 1, 0, 0, 0, 'UTC');
    -- Its first labels are of what is reported in 2027 (Article 3).
    amended boolean := in_year + 1 >= 2027;
BEGIN
    IF chosen IS NULL THEN
        RETURN;
    END IF;
    IF in_year < 2023 OR in_year > 2100 THEN
        RAISE EXCEPTION 'in_year = %: the regulation knows figures of the years from 2023 on', in_year
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN QUERY
    WITH sums AS MATERIALIZED (
        SELECT * FROM expanded.ratio_sums(start, stop, NULL, 'site', in_site,
            ARRAY['pue', 'wue', 'wue_potable', 'wue_fresh', 'erf', 'ref'], NULL)
    ), best AS MATERIALIZED (
        SELECT coalesce(in_category, (SELECT min(s.category) FROM sums AS s WHERE s.figure = 'pue' AND s.hours > 0),
            (SELECT min(s.category) FROM sums AS s WHERE s.figure = 'pue'))::smallint AS category
    ), of_figure AS MATERIALIZED (
        SELECT s.figure, s.numerator, s.denominator, s.coverage, s.is_year,
            CASE WHEN s.missing_h + s.faulty_h > 0 THEN format('%s h are missing and %s h faulty: report.facility_gaps() names the meters',
                s.missing_h, s.faulty_h) END AS gaps
        FROM sums AS s CROSS JOIN best WHERE s.category IS NULL OR s.category = best.category
    ), declared AS MATERIALIZED (
        SELECT (facts.it ->> 'pdit_kw')::numeric AS pdit_kw, (facts.it ->> 'sdc_m2')::numeric AS sdc_m2,
            (facts.it ->> 'scr_m2')::numeric AS scr_m2, (of_year.it ->> 'guarantees_of_origin_kwh')::numeric AS goo_kwh,
            (of_year.it ->> 'ppa_kwh')::numeric AS ppa_kwh, (of_year.it ->> 'on_site_renewable_kwh')::numeric AS os_kwh,
            (of_year.it ->> 'backup_generators_kwh')::numeric AS bg_kwh
        FROM (VALUES (1)) AS always (it)
        LEFT JOIN (
            SELECT t.document -> 'eu_report' AS it FROM gigawatch.topology AS t WHERE t.site_id = chosen
            ORDER BY t.topology_id DESC LIMIT 1
        ) AS facts ON true
        LEFT JOIN LATERAL (SELECT facts.it -> 'years' -> in_year::text AS it) AS of_year ON true
    ), backup AS MATERIALIZED (
        SELECT sum(CASE WHEN m.role = 'fuel' AND d.energy_mj IS NULL THEN d.volume_ml * m.fuel_j_per_l ELSE d.energy_mj END)
            / 3600000000 AS kwh,
            sum(CASE WHEN m.role = 'fuel' AND d.energy_mj IS NULL THEN d.volume_ms ELSE d.energy_ms END)
            / (count(DISTINCT m.meter_id) * extract(epoch FROM least(stop, expanded.facility_until()) - start) * 1000) AS coverage
        FROM gigawatch.meter AS m
        JOIN gigawatch.meter_1d AS d ON d.meter_id = m.meter_id AND d.time >= start AND d.time < stop
        WHERE m.site_id = chosen AND m.backup AND m.role IN ('generation', 'fuel')
            AND NOT EXISTS (
                SELECT FROM expanded.meter_above() AS above
                JOIN gigawatch.meter AS upper ON upper.meter_id = above.above_id AND upper.backup
                    AND upper.role IN ('generation', 'fuel')
                WHERE above.meter_id = m.meter_id
            )
    ), energies AS MATERIALIZED (
        SELECT pue.numerator / 3600000000 AS edc, pue.denominator / 3600000000 AS eit, pue.coverage, pue.gaps, pue.is_year,
            wue.numerator / 1000000 AS win, wue.coverage AS wue_coverage, wue.gaps AS wue_gaps,
            pot.numerator / 1000000 AS win_pot, pot.coverage AS pot_coverage, pot.gaps AS pot_gaps,
            fresh.numerator / 1000000 AS win_fre, fresh.coverage AS fre_coverage, fresh.gaps AS fre_gaps,
            -- The water of the regime's WUE, over the IT of the same hours.
            CASE WHEN amended THEN fresh.numerator * 3600000 / nullif(fresh.denominator, 0)
                ELSE wue.numerator * 3600000 / nullif(wue.denominator, 0) END AS wue,
            erf.numerator / 3600000000 AS ereuse, erf.denominator / 3600000000 AS edc_of_reuse, erf.coverage AS erf_coverage,
            erf.gaps AS erf_gaps, ref.numerator / 3600000000 AS on_site, ref.coverage AS ref_coverage, ref.gaps AS ref_gaps, d.*,
            backup.kwh AS backup_kwh, backup.coverage AS backup_coverage,
            d.goo_kwh + d.ppa_kwh + coalesce(ref.numerator / 3600000000, d.os_kwh) AS eres
        FROM declared AS d
        CROSS JOIN backup
        LEFT JOIN of_figure AS pue ON pue.figure = 'pue'
        LEFT JOIN of_figure AS wue ON wue.figure = 'wue'
        LEFT JOIN of_figure AS pot ON pot.figure = 'wue_potable'
        LEFT JOIN of_figure AS fresh ON fresh.figure = 'wue_fresh'
        LEFT JOIN of_figure AS erf ON erf.figure = 'erf'
        LEFT JOIN of_figure AS ref ON ref.figure = 'ref'
    ), words AS MATERIALIZED (
        SELECT
            'no hour has meters of the sources (utility, generation, fuel) and of IT (ups_out, pdu or it)' AS pue,
            'no hour has meters of role water and of IT' AS win,
            'each meter of role water needs potable: true or false in the topology' AS pot,
            'no hour has meters of fresh water and of IT: each meter of role water needs fresh: true or false in the topology' AS fre,
            'no hour has meters of role heat_reuse and of the sources; where nothing is reused, there is no figure without one' AS reuse,
            format('declare eu_report.years.%s in the topology: %%s', in_year) AS of_year,
            format('declare eu_report.years.%s.backup_generators_kwh in the topology, or mark their meters with backup', in_year) AS bg,
            'declare eu_report.%s in the topology' AS fact,
            concat_ws(', ', CASE WHEN e.goo_kwh IS NULL THEN 'guarantees_of_origin_kwh' END,
                CASE WHEN e.ppa_kwh IS NULL THEN 'ppa_kwh' END,
                CASE WHEN e.on_site IS NULL AND e.os_kwh IS NULL THEN 'on_site_renewable_kwh' END) AS eres,
            concat_ws('; ', format('ERES-TOT is of the whole year, and EDC of %s %% of the hours%s: over unlike periods there is no REF',
                trunc((100 * e.coverage)::numeric, 2), CASE WHEN now() < stop THEN ' so far, as the year is not over' END), e.gaps) AS unlike
        FROM energies AS e
    ), ceiling (figure, class, most) AS (
        -- Annex I of C(2026) 3472 final: a class reaches up to and with its value.
        VALUES ('PUE', 'A', 1.15), ('PUE', 'B', 1.25), ('PUE', 'C', 1.35), ('PUE', 'D', 1.5), ('PUE', 'E', 1.7), ('PUE', 'F', 1.9),
            ('PUE', 'G', 'Infinity'::numeric), ('WUE', 'A', 0.1), ('WUE', 'B', 0.2), ('WUE', 'C', 0.4), ('WUE', 'D', 0.6), ('WUE', 'E', 0.8),
            ('WUE', 'F', 1.0), ('WUE', 'G', 'Infinity'::numeric)
    )
    SELECT 'Delegated Regulation (EU) 2024/1364' || CASE WHEN amended THEN ' as amended by C(2026) 3472 final' ELSE '' END, in_year,
        in_year + 1, in_site, best.category, f.place, f.indicator, f.value::double precision, f.unit,
        (SELECT min(c.class) FROM ceiling AS c WHERE amended AND c.figure = f.indicator AND f.value <= c.most),
        CASE WHEN f.value IS NULL THEN 'missing' ELSE f.how END, f.coverage::double precision,
        CASE WHEN f.value IS NULL THEN f.lacks ELSE f.gaps END
    FROM energies AS e
    CROSS JOIN words AS w
    CROSS JOIN best
    CROSS JOIN LATERAL (
        VALUES
            (1, 'PUE', e.edc / nullif(e.eit, 0), '1', 'measured', e.coverage, w.pue, e.gaps),
            (2, 'WUE', e.wue, 'm³/MWh', 'measured', CASE WHEN amended THEN e.fre_coverage ELSE e.wue_coverage END,
                CASE WHEN amended AND e.win IS NOT NULL THEN w.fre ELSE w.win END, CASE WHEN amended THEN e.fre_gaps ELSE e.wue_gaps END),
            (3, 'ERF', e.ereuse / nullif(e.edc_of_reuse, 0), '1', 'measured', e.erf_coverage, w.reuse, e.erf_gaps),
            (4, 'REF', CASE WHEN NOT e.is_year THEN NULL WHEN e.eres > e.edc THEN 1 ELSE e.eres / nullif(e.edc, 0) END, '1',
                CASE WHEN e.on_site IS NULL THEN 'declared over measured' ELSE 'measured and declared' END, e.coverage,
                CASE WHEN e.eres IS NULL THEN format(w.of_year, w.eres) WHEN e.edc IS NULL THEN w.pue ELSE w.unlike END, e.gaps),
            (5, 'EDC', e.edc, 'kWh', 'measured', e.coverage, w.pue, e.gaps),
            (6, 'EDC-BG', coalesce(e.backup_kwh, e.bg_kwh), 'kWh', CASE WHEN e.backup_kwh IS NULL THEN 'declared' ELSE 'measured' END,
                e.backup_coverage, w.bg, NULL),
            (7, 'EIT', e.eit, 'kWh', 'measured', e.coverage, w.pue, e.gaps),
            (8, 'WIN', e.win, 'm³', 'measured', e.wue_coverage, w.win, e.wue_gaps),
            (9, CASE WHEN amended THEN 'WIN-FRE' ELSE 'WIN-POT' END, CASE WHEN amended THEN e.win_fre ELSE e.win_pot END, 'm³', 'measured',
                CASE WHEN amended THEN e.fre_coverage ELSE e.pot_coverage END,
                CASE WHEN e.win IS NULL THEN w.win WHEN amended THEN w.fre ELSE w.pot END, CASE WHEN amended THEN e.fre_gaps ELSE e.pot_gaps END),
            (10, 'EREUSE', e.ereuse, 'kWh', 'measured', e.erf_coverage, w.reuse, e.erf_gaps),
            (11, 'ERES-TOT', e.eres, 'kWh', CASE WHEN e.on_site IS NULL THEN 'declared' ELSE 'measured and declared' END, e.ref_coverage,
                format(w.of_year, w.eres), e.ref_gaps),
            (12, 'ERES-GOO', e.goo_kwh, 'kWh', 'declared', NULL, format(w.of_year, 'guarantees_of_origin_kwh'), NULL),
            (13, 'ERES-PPA', e.ppa_kwh, 'kWh', 'declared', NULL, format(w.of_year, 'ppa_kwh'), NULL),
            (14, 'ERES-OS', coalesce(e.on_site, e.os_kwh), 'kWh', CASE WHEN e.on_site IS NULL THEN 'declared' ELSE 'measured' END, e.ref_coverage,
                format(w.of_year, 'on_site_renewable_kwh'), e.ref_gaps),
            (15, 'PDIT', e.pdit_kw, 'kW', 'declared', NULL, format(w.fact, 'pdit_kw'), NULL),
            (16, 'SDC', e.sdc_m2, 'm²', 'declared', NULL, format(w.fact, 'sdc_m2'), NULL),
            (17, 'SCR', e.scr_m2, 'm²', 'declared', NULL, format(w.fact, 'scr_m2'), NULL)
    ) AS f (place, indicator, value, unit, how, coverage, lacks, gaps)
    ORDER BY f.place;
END
$$;
COMMENT ON FUNCTION report.eu_eed IS
    'The yearly report of a site under Delegated Regulation (EU) 2024/1364, from reporting year 2027 as amended by C(2026) 3472 final: a row for each indicator with its unit, its class (A to G), how it is known (measured, '
    'declared, missing), the coverage of the year (0..1), and what is missing';
