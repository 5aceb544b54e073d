-- report.site_seconds(): power of a site or the fleet by the second. report.load_swings: how it swings, by the minute.
-- report.load_swing_summary(): the largest swing and ramps of a period. report.load_spectrum(): its oscillations.
-- Definition: power of a second is the sum of the nodes' GPU power in it. Two seconds are compared only where as many
-- nodes of each site are in both, so that a node that falls silent or joins is no swing: a ramp is the difference from
-- one second to the next, a swing the greatest less the least power of seconds at most so far apart. The spectrum is
-- the discrete Fourier transform of the longest stretch of such seconds (whole 32 s, 64 s at least, its last 1,024 s at
-- most), mean removed, Hann window: amplitude 2 |Σ w x exp(-2πi k t / n)| / Σ w, so that a sine of amplitude A gives A
-- at its frequency. A peak stands out where the greatest amplitude and its two neighbours hold more than half of the
-- variance and the stretch holds four periods or more. Unit: W.
-- Missing data: a second without any node has no row; one that lacks a node of its minute is not complete. coverage is
-- nodes summed over seconds, over the seconds that were due times the most nodes. One node that leaves in the second
-- in which another of its site joins cannot be told apart. What is not folded yet is not there, and not due.
-- needs: expanded
CREATE FUNCTION expanded.seconds(start timestamptz, stop timestamptz, in_site text)
RETURNS TABLE ("time" timestamptz, power_mw bigint, nodes integer, due integer, run bigint, ramp_mw bigint)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH minutes AS (
        SELECT s.time, s.site_id, s.power_mw, s.nodes, most.nodes AS due
        FROM gigawatch.site
        JOIN gigawatch.site_second AS s USING (site_id)
        CROSS JOIN LATERAL (SELECT max(it.nodes) AS nodes FROM unnest(s.nodes) AS it (nodes)) AS most
        WHERE s.time > start - interval '1 minute' AND s.time < stop AND (in_site IS NULL OR site.name = in_site)
    ), summed AS MATERIALIZED (
        -- By minute and place, so that not each value needs a time of its own, nor a look at whether it is asked for.
        SELECT
            minutes.time AS minute,
            second.place,
            sum(second.mw)::bigint AS power_mw,
            sum(second.nodes)::integer AS nodes,
            sum(minutes.due)::integer AS due,
            -- 64 bits of who is in it: alike in two seconds where each site has as many nodes in both.
            bit_xor(hashint8extended(minutes.site_id::bigint << 32 | second.nodes, 0)) FILTER (WHERE second.nodes > 0)
                AS members
        FROM minutes
        CROSS JOIN LATERAL unnest(minutes.power_mw, minutes.nodes) WITH ORDINALITY AS second (mw, nodes, place)
        GROUP BY 1, 2
    ), timed AS (
        SELECT
            summed.minute + (summed.place - 1) * interval '1 second' AS time,
            summed.power_mw, summed.nodes, summed.due, summed.members
        FROM summed WHERE summed.nodes > 0
    ), compared AS (
        SELECT
            timed.time, timed.power_mw, timed.nodes, timed.due,
            CASE WHEN lag(timed.time) OVER by_time = timed.time - interval '1 second'
                    AND lag(timed.members) OVER by_time = timed.members
                THEN timed.power_mw - lag(timed.power_mw) OVER by_time END AS ramp_mw
        FROM timed
        WHERE timed.time >= start AND timed.time < stop
        WINDOW by_time AS (ORDER BY timed.time)
    )
    SELECT compared.time, compared.power_mw, compared.nodes, compared.due,
        -- A run goes on for as long as each second can be compared with the one before it.
        count(*) FILTER (WHERE compared.ramp_mw IS NULL) OVER (ORDER BY compared.time),
        compared.ramp_mw
    FROM compared;
END;

CREATE FUNCTION report.site_seconds(start timestamptz, stop timestamptz, in_site text DEFAULT NULL)
RETURNS TABLE (
    "time" timestamptz, power_w double precision, ramp_w_per_s double precision, nodes integer, complete boolean
)
LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog
BEGIN ATOMIC
    SELECT s.time, s.power_mw / 1000.0::double precision, s.ramp_mw / 1000.0::double precision, s.nodes,
        s.nodes = s.due
    FROM expanded.seconds(start, stop, in_site) AS s
    ORDER BY s.time;
END;
COMMENT ON FUNCTION report.site_seconds IS
    'Power (W) of a site, or of the fleet, second by second, its difference to the second before (W/s; NULL where the '
    'two cannot be compared), the nodes in it, and whether they are all nodes of their minute';

CREATE VIEW report.load_swings AS
SELECT
    s.time,
    site.name AS site,
    swing.mean_mw / 1000.0::double precision AS power_mean_w,
    swing.min_mw / 1000.0::double precision AS power_min_w,
    swing.max_mw / 1000.0::double precision AS power_max_w,
    (swing.max_mw - swing.min_mw) / 1000.0::double precision AS swing_w,
    swing.up_mw / 1000.0::double precision AS ramp_up_max_w_per_s,
    swing.down_mw / 1000.0::double precision AS ramp_down_max_w_per_s,
    swing.seconds_comparable,
    nullif(most.nodes, 0) AS nodes,
    swing.coverage
FROM gigawatch.site_second AS s
JOIN gigawatch.site USING (site_id)
CROSS JOIN LATERAL (SELECT max(it.nodes) AS nodes FROM unnest(s.nodes) AS it (nodes)) AS most
LEFT JOIN LATERAL (
    SELECT b.power_mw[60] AS mw, b.nodes[60] AS nodes FROM gigawatch.site_second AS b
    WHERE b.site_id = s.site_id AND b.time = s.time - interval '1 minute'
) AS before ON true
CROSS JOIN LATERAL (
    SELECT
        avg(it.mw) FILTER (WHERE it.nodes = most.nodes)::double precision AS mean_mw,
        min(it.mw) FILTER (WHERE it.nodes = most.nodes) AS min_mw,
        max(it.mw) FILTER (WHERE it.nodes = most.nodes) AS max_mw,
        max(greatest(it.mw - it.mw_before, 0)) FILTER (WHERE it.nodes = it.nodes_before) AS up_mw,
        max(greatest(it.mw_before - it.mw, 0)) FILTER (WHERE it.nodes = it.nodes_before) AS down_mw,
        count(*) FILTER (WHERE it.nodes = it.nodes_before)::integer AS seconds_comparable,
        sum(it.nodes)::double precision / (60 * most.nodes) AS coverage
    -- Each second beside the one before it; the first beside the last of the minute before.
    FROM unnest(s.power_mw, s.nodes, before.mw || s.power_mw[1:59], before.nodes || s.nodes[1:59])
        AS it (mw, nodes, mw_before, nodes_before)
    WHERE it.nodes > 0
) AS swing;
COMMENT ON VIEW report.load_swings IS 'How the power of each site swings, by the minute';
COMMENT ON COLUMN report.load_swings.time IS 'Start of the minute, UTC';
COMMENT ON COLUMN report.load_swings.site IS 'Site';
COMMENT ON COLUMN report.load_swings.power_mean_w IS 'Mean power of the seconds that have all nodes of the minute, W';
COMMENT ON COLUMN report.load_swings.power_min_w IS 'Least power of such a second, W';
COMMENT ON COLUMN report.load_swings.power_max_w IS 'Greatest power of such a second, W';
COMMENT ON COLUMN report.load_swings.swing_w IS 'Greatest less least power of such seconds, W';
COMMENT ON COLUMN report.load_swings.ramp_up_max_w_per_s IS
    'Greatest rise from one second to the next with as many nodes, W/s; 0 where it never rose';
COMMENT ON COLUMN report.load_swings.ramp_down_max_w_per_s IS
    'Greatest fall from one second to the next with as many nodes, W/s; 0 where it never fell';
COMMENT ON COLUMN report.load_swings.seconds_comparable IS
    'Seconds that can be compared with the one before, of 60; the first is compared with the minute before';
COMMENT ON COLUMN report.load_swings.nodes IS 'Most nodes in a second of the minute';
COMMENT ON COLUMN report.load_swings.coverage IS 'Nodes summed over the seconds, over 60 times the most nodes, 0 to 1';

CREATE FUNCTION report.load_swing_summary(
    start timestamptz, stop timestamptz, in_site text DEFAULT NULL, over interval DEFAULT '10 s'
) RETURNS TABLE (
    over_s integer, swing_max_w double precision, swing_began timestamptz, ramp_up_max_megawatts_per_s double precision,
    ramp_down_max_megawatts_per_s double precision, ramp_up_over_max_megawatts_per_s double precision,
    ramp_down_over_max_megawatts_per_s double precision, power_mean_w double precision, seconds_comparable bigint,
    coverage double precision, stretch_began timestamptz, stretch_s integer
)
LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog
BEGIN ATOMIC
    WITH length AS (
        SELECT greatest(1, round(extract(epoch FROM over)))::integer AS s
    ), seconds AS MATERIALIZED (
        SELECT it.* FROM expanded.seconds(start, stop, in_site) AS it
    ), swings AS (
        -- Rows of a run are a second apart each, so that rows count seconds.
        SELECT
            seconds.time, seconds.run, seconds.power_mw,
            max(seconds.power_mw) OVER recent - min(seconds.power_mw) OVER recent AS swing_mw,
            seconds.power_mw - lag(seconds.power_mw, length.s) OVER in_run AS ramp_over_mw
        FROM seconds CROSS JOIN length
        WINDOW
            in_run AS (PARTITION BY seconds.run ORDER BY seconds.time),
            recent AS (PARTITION BY seconds.run ORDER BY seconds.time
                ROWS BETWEEN floor(extract(epoch FROM over))::bigint PRECEDING AND CURRENT ROW)
    ), largest AS (
        SELECT swings.* FROM swings
        WHERE swings.run IN (SELECT seconds.run FROM seconds WHERE seconds.ramp_mw IS NOT NULL)
        ORDER BY swings.swing_mw DESC, swings.time LIMIT 1
    ), over_length AS (
        SELECT max(greatest(swings.ramp_over_mw, 0)) AS up, max(greatest(-swings.ramp_over_mw, 0)) AS down
        FROM swings WHERE swings.ramp_over_mw IS NOT NULL
    ), due AS (
        -- Of each site the most nodes of a second, for as long as the period is folded.
        SELECT sum(of_site.nodes) * extract(epoch FROM greatest(start, least(stop, greatest(
            expanded.folded('1m'), (SELECT max(seconds.time) FROM seconds) + interval '1 second'))) - start) AS node_s
        FROM (
            SELECT max(it.nodes) AS nodes
            FROM gigawatch.site
            JOIN gigawatch.site_second AS s USING (site_id)
            CROSS JOIN LATERAL unnest(s.nodes[
                greatest(1, ceil(extract(epoch FROM start - s.time)) + 1)::integer
                : least(60, ceil(extract(epoch FROM stop - s.time)))::integer
            ]) AS it (nodes)
            WHERE s.time > start - interval '1 minute' AND s.time < stop AND (in_site IS NULL OR site.name = in_site)
            GROUP BY s.site_id
        ) AS of_site
    ), whole AS (
        SELECT
            max(greatest(seconds.ramp_mw, 0)) FILTER (WHERE seconds.ramp_mw IS NOT NULL) AS up,
            max(greatest(-seconds.ramp_mw, 0)) FILTER (WHERE seconds.ramp_mw IS NOT NULL) AS down,
            count(seconds.ramp_mw) AS comparable,
            avg(seconds.power_mw) FILTER (WHERE seconds.nodes = seconds.due)::double precision AS mean_mw,
            sum(seconds.nodes) AS node_s
        FROM seconds
    ), longest AS (
        -- As load_spectrum() chooses it.
        SELECT max(seconds.time) AS last, least(count(*) / 32 * 32, 1024)::integer AS n
        FROM seconds GROUP BY seconds.run HAVING count(*) >= 64 ORDER BY 2 DESC, 1 DESC LIMIT 1
    )
    SELECT
        length.s,
        largest.swing_mw / 1000.0::double precision,
        -- The window ends with one extreme; the swing began with the last second of the other.
        (
            SELECT max(swings.time) FROM swings
            WHERE swings.run = largest.run AND swings.time BETWEEN largest.time - over AND largest.time
                AND abs(swings.power_mw - largest.power_mw) = largest.swing_mw
        ),
        whole.up / 1e9::double precision,
        whole.down / 1e9::double precision,
        over_length.up / 1e9::double precision / length.s,
        over_length.down / 1e9::double precision / length.s,
        whole.mean_mw / 1000,
        whole.comparable,
        (CASE WHEN whole.node_s > due.node_s THEN 1 ELSE whole.node_s / nullif(due.node_s, 0) END)::double precision,
        longest.last - (longest.n - 1) * interval '1 second',
        longest.n
    FROM length CROSS JOIN whole CROSS JOIN over_length CROSS JOIN due LEFT JOIN largest ON true
    LEFT JOIN longest ON true;
END;
COMMENT ON FUNCTION report.load_swing_summary IS
    'Largest swing (W) of a site, or of the fleet, between seconds at most `over` apart, and when it began; greatest '
    'rise and fall (MW/s) from one second to the next, and over `over`; mean power (W), seconds that can be compared '
    'with the one before, and coverage (0..1); beginning and length (s) of the stretch that load_spectrum() transforms';

CREATE FUNCTION report.load_spectrum(start timestamptz, stop timestamptz, in_site text DEFAULT NULL)
RETURNS TABLE (
    frequency_hz double precision, amplitude_w double precision, variance_share double precision,
    peak_frequency_hz double precision, peak_amplitude_w double precision, began timestamptz, seconds integer,
    resolution_hz double precision
)
LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog
BEGIN ATOMIC
    WITH found AS MATERIALIZED (
        SELECT it.time, it.power_mw, it.run FROM expanded.seconds(start, stop, in_site) AS it
    ), longest AS (
        SELECT found.run, max(found.time) AS last, least(count(*) / 32 * 32, 1024)::integer AS n
        FROM found GROUP BY found.run HAVING count(*) >= 64 ORDER BY 3 DESC, 2 DESC LIMIT 1
    ), stretch AS (
        SELECT
            longest.n,
            longest.n - 1 - extract(epoch FROM longest.last - found.time)::integer AS t,
            found.power_mw / 1000.0::double precision AS power_w
        FROM longest JOIN found USING (run)
        WHERE found.time > longest.last - longest.n * interval '1 second'
    ), windowed AS (
        SELECT
            stretch.n, stretch.n / 32 AS m, stretch.t,
            (stretch.power_w - avg(stretch.power_w) OVER ()) * (0.5 - 0.5 * cos(2 * pi() * stretch.t / stretch.n)) AS y
        FROM stretch
    ), combed AS MATERIALIZED (
        -- In two steps (Cooley and Tukey), n = 32 m: each m-th second first, then those sums.
        SELECT
            windowed.n, windowed.m, windowed.t % windowed.m AS t, k,
            sum(windowed.y * cos(2 * pi() * (windowed.t / windowed.m * k % 32) / 32)) AS re,
            sum(-windowed.y * sin(2 * pi() * (windowed.t / windowed.m * k % 32) / 32)) AS im
        FROM windowed CROSS JOIN generate_series(0, 31) AS k
        GROUP BY 1, 2, 3, 4
    ), turned AS (
        SELECT
            combed.n, combed.k + 32 * high AS k, combed.re, combed.im,
            -2 * pi() * (combed.t * (combed.k + 32 * high) % combed.n) / combed.n AS angle
        FROM combed CROSS JOIN LATERAL generate_series(0, (combed.n / 2 - combed.k) / 32) AS high
    ), transformed AS (
        SELECT
            turned.n, turned.k,
            -- The window adds up to n / 2. Frequencies but the first and last stand for their negatives as well.
            (CASE WHEN 2 * turned.k IN (0, turned.n) THEN 2 ELSE 4 END) / turned.n::double precision
                * sqrt(sum(turned.re * cos(turned.angle) - turned.im * sin(turned.angle)) ^ 2
                    + sum(turned.re * sin(turned.angle) + turned.im * cos(turned.angle)) ^ 2) AS amplitude_w
        FROM turned
        GROUP BY 1, 2
    ), lobes AS (
        -- What a sine gives, a Hann window spreads over its bin and both neighbours: 1.5 times its square.
        SELECT
            transformed.*,
            lag(transformed.amplitude_w) OVER by_k AS below_w,
            lead(transformed.amplitude_w) OVER by_k AS above_w,
            sum(transformed.amplitude_w ^ 2) OVER (
                ORDER BY transformed.k ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING
            ) AS lobe,
            sum(transformed.amplitude_w ^ 2) OVER () AS whole,
            max(transformed.amplitude_w) FILTER (WHERE transformed.k > 0) OVER () AS greatest_w
        FROM transformed
        WINDOW by_k AS (ORDER BY transformed.k)
    ), peaks AS (
        SELECT lobes.*,
            lobes.amplitude_w = lobes.greatest_w AND lobes.k >= 4 AND 2 * lobes.k < lobes.n
                AND lobes.lobe > 0.5 * lobes.whole AS is_peak
        FROM lobes
    )
    SELECT
        peaks.k / peaks.n::double precision,
        peaks.amplitude_w,
        peaks.lobe / nullif(peaks.whole, 0),
        CASE WHEN peaks.is_peak THEN (peaks.k + CASE WHEN peaks.above_w > peaks.below_w
            THEN (2 * peaks.above_w - peaks.amplitude_w) / (peaks.amplitude_w + peaks.above_w)
            ELSE -(2 * peaks.below_w - peaks.amplitude_w) / (peaks.amplitude_w + peaks.below_w)
        END) / peaks.n END,
        CASE WHEN peaks.is_peak THEN sqrt(peaks.lobe / 1.5) END,
        longest.last - (peaks.n - 1) * interval '1 second',
        peaks.n,
        1 / peaks.n::double precision
    FROM peaks CROSS JOIN longest
    WHERE peaks.k > 0
    ORDER BY peaks.k;
END;
COMMENT ON FUNCTION report.load_spectrum IS
    'Amplitude (W) by frequency (Hz) of the oscillations of a site''s power, or the fleet''s; the part of the variance '
    'that is in the frequency and its two neighbours (0..1); where a peak stands out, its frequency (Hz) and amplitude '
    '(W); when the stretch began, its seconds, and the distance of frequencies (Hz)';
