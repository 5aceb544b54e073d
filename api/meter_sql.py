"""Statements that fold meters' windows into hours and days, and those into sums and ratios of the facility.

Hours of meters come from their windows. All else is made of those hours, a day of a site at a time: hours of virtual
meters, days, the facility's energy by role, and both sums of each ratio.
"""

from gigawatch.records import INT4_MAX, MeterDoubt
from gigawatch.units import MILLISECONDS_PER_HOUR, SECONDS_PER_HOUR

MOST_KEYS = 4_000
"""Hours of meters folded again in one transaction."""
MOST_DAYS = 40
"""Days of sites folded in one transaction."""
LONGEST_CHAIN = 20
"""Virtual meters may be sums of virtual meters so deep; a topology with a loop is refused, and would go on for ever."""
STUCK_MJ = 7_200_000_000
"""2 kWh: a register that counts whole kWh may stand still beside a smaller energy."""

_COLUMNS = (
    "covered_ms", "energy_mj", "energy_ms", "energy_interpolated_mj", "energy_integrated_mj", "energy_estimated_mj",
    "polled_mj", "polled_ms", "power_min_mw", "power_max_mw", "current_max_ma", "volume_ml", "volume_ms", "temp_mc_ms",
    "temp_ms", "readings_taken", "readings_expected", "rejected_readings", "stuck_h", "reversed_h",
)  # fmt: skip
_NAMES = ", ".join(_COLUMNS)


def _time_with(column: str) -> str:
    return f"coalesce(sum(w.covered_ms) FILTER (WHERE w.{column} IS NOT NULL), 0)"


def _part(method: int) -> str:
    return f"coalesce(sum(w.energy_mj) FILTER (WHERE w.energy_method = {method}), 0)"


_POLLED_MJ = "sum(w.power_mean_mw::numeric * w.covered_ms / 1000)"
# An agent says that a register stands still, and no later reading made the hour known. Or nobody says it, and it does
# beside a power that is there and never changes: both are what they were long ago.
_KNOWN = f"""{_time_with("energy_mj")} >= {MILLISECONDS_PER_HOUR * 99 // 100}"""
_STUCK = f"""(bool_or(w.doubt = {MeterDoubt.STUCK}) AND NOT {_KNOWN}) IS TRUE
        OR (sum(w.energy_mj) = 0 AND max(w.energy_method) = 1 AND min(w.power_min_mw) = max(w.power_max_mw)
        AND abs({_POLLED_MJ}) >= {STUCK_MJ} AND sum(w.readings_taken) > 1) IS TRUE"""
_OF_WINDOWS = f"""
    sum(w.covered_ms), sum(w.energy_mj), {_time_with("energy_mj")}, {_part(2)}, {_part(3)}, {_part(4)},
    {_POLLED_MJ}, {_time_with("power_mean_mw")}, min(w.power_min_mw), max(w.power_max_mw), max(w.current_max_ma),
    sum(w.volume_ml), {_time_with("volume_ml")},
    sum(w.temp_mean_mc::bigint * w.covered_ms), {_time_with("temp_mean_mc")},
    least(sum(w.readings_taken), {INT4_MAX}), least(sum(w.readings_expected), {INT4_MAX}), sum(w.rejected_readings),
    ({_STUCK})::integer,
    ((bool_or(w.doubt = {MeterDoubt.REVERSED}) AND NOT {_KNOWN}) IS TRUE OR ({_POLLED_MJ} < 0) IS TRUE)::integer"""
_SUMS_OF_HOURS = ", ".join(
    f"{'min' if '_min_' in name else 'max' if '_max_' in name else 'sum'}(h.{name})" for name in _COLUMNS
)
_HOUR = "date_bin('1 hour', w.time, '2000-01-01Z')"

FOLD_NEW = f"""
    INSERT INTO gigawatch.meter_1h (time, meter_id, {_NAMES})
    SELECT {_HOUR}, w.meter_id, {_OF_WINDOWS}
    FROM gigawatch.meter_window AS w JOIN gigawatch.meter USING (meter_id)
    WHERE NOT meter.virtual AND w.time >= %(start)s AND w.time < %(stop)s
    GROUP BY 1, 2"""

_MARKED = "SELECT * FROM unnest(%(times)s::timestamptz[], %(ids)s::integer[]) AS marked (time, meter_id)"
# All keys of a step lie between these: chunks beyond are left out once, and not for each key.
_WITHIN = "{table}.time >= %(least)s AND {table}.time < %(most)s"

FORGET_MARKED = f"""
    DELETE FROM gigawatch.meter_1h AS h USING ({_MARKED}) AS keys
    WHERE h.meter_id = keys.meter_id AND h.time = keys.time AND {_WITHIN.format(table="h")}"""

FOLD_MARKED = f"""
    INSERT INTO gigawatch.meter_1h (time, meter_id, {_NAMES})
    SELECT keys.time, keys.meter_id, its.*
    FROM ({_MARKED}) AS keys
    JOIN gigawatch.meter ON meter.meter_id = keys.meter_id AND NOT meter.virtual
    CROSS JOIN LATERAL (
        SELECT {_OF_WINDOWS}
        FROM gigawatch.meter_window AS w
        WHERE w.meter_id = keys.meter_id AND w.time >= keys.time AND w.time < keys.time + interval '1 hour'
            AND {_WITHIN.format(table="w")}
        HAVING count(*) > 0
    ) AS its"""

MARK_SITES = """
    INSERT INTO gigawatch.rollup_dirty (level, time, node_id)
    SELECT DISTINCT 'facility_1d', day, meter.site_id
    FROM generate_series(date_bin('1 day', %(start)s, '2000-01-01Z'), %(stop)s - interval '1 us', '1 day') AS day
    CROSS JOIN gigawatch.meter"""
"""Of new hours all sites: where nothing was heard of a site, its hours are missing."""

MARK_SITES_OF_KEYS = f"""
    INSERT INTO gigawatch.rollup_dirty (level, time, node_id)
    SELECT DISTINCT 'facility_1d', date_bin('1 day', keys.time, '2000-01-01Z'), meter.site_id
    FROM ({_MARKED}) AS keys JOIN gigawatch.meter USING (meter_id)"""

# Days of sites to fold, and the hours of them that are known.
_DAYS = "SELECT * FROM unnest(%(times)s::timestamptz[], %(ids)s::integer[]) AS days (day, site_id)"
_HOURS = """generate_series(days.day, least(days.day + interval '1 day', %(folded)s) - interval '1 us', '1 hour')"""
_OF_DAY = f"""{{table}}.time >= days.day AND {{table}}.time < days.day + interval '1 day'
            AND {_WITHIN.format(table="{table}")}"""
_ACTIVE = """({meter}.since IS NULL OR {meter}.since < {hour} + interval '1 hour')
            AND ({meter}.until IS NULL OR {meter}.until > {hour})"""
"""Whether figures want a meter in an hour, or in a part of it."""


def forget_sql(table: str) -> str:
    """The statement that removes what a table has of the days."""
    return f"""
    DELETE FROM gigawatch.{table} AS old USING ({_DAYS}) AS days
    WHERE old.site_id = days.site_id AND {_OF_DAY.format(table="old")}"""


FORGET_VIRTUAL = f"""
    DELETE FROM gigawatch.meter_1h AS old USING ({_DAYS}) AS days, gigawatch.meter
    WHERE meter.site_id = days.site_id AND old.meter_id = meter.meter_id AND old.readings_expected IS NULL
        AND {_OF_DAY.format(table="old")}"""

FLAG_FLAT = f"""
    WITH days AS MATERIALIZED ({_DAYS}), fed AS MATERIALIZED (
        -- What one meter feeds, and no other does.
        SELECT min(feed.meter_id) AS meter_id, feed.fed_id
        FROM gigawatch.meter_feed AS feed
        JOIN gigawatch.meter AS m ON m.meter_id = feed.meter_id
        WHERE m.site_id IN (SELECT site_id FROM days)
        GROUP BY feed.fed_id HAVING count(*) = 1
    ), polled AS MATERIALIZED (
        SELECT days.day, h.meter_id, h.time, h.power_min_mw, h.power_max_mw
        FROM days
        JOIN gigawatch.meter AS m ON m.site_id = days.site_id AND NOT m.virtual
        JOIN gigawatch.meter_1h AS h ON h.meter_id = m.meter_id AND {_OF_DAY.format(table="h")}
        WHERE h.energy_mj > 0 AND h.energy_mj = h.energy_integrated_mj
    ), flat AS (
        SELECT p.day, p.meter_id, p.time, p.power_min_mw AS power_mw, (
            SELECT CASE WHEN bool_and(coalesce(it.energy_ms, 0) * 100 >= {MILLISECONDS_PER_HOUR * 99})
                THEN sum(it.energy_mj) END
            FROM fed
            LEFT JOIN gigawatch.meter_1h AS it ON it.meter_id = fed.fed_id AND it.time = p.time
                AND {_WITHIN.format(table="it")}
            WHERE fed.meter_id = p.meter_id
        ) AS fed_mj
        FROM polled AS p WHERE p.power_min_mw = p.power_max_mw
    ), stuck AS MATERIALIZED (
        SELECT f.day, f.meter_id, f.power_mw, min(f.time) AS first, max(f.time) AS last
        FROM flat AS f
        GROUP BY f.day, f.meter_id, f.power_mw
        HAVING max(f.fed_mj) - min(f.fed_mj) > {SECONDS_PER_HOUR} * greatest(
            f.power_mw / 100, 2 * 10 ^ (length(f.power_mw::text) - length(rtrim(f.power_mw::text, '0'))))
    )
    UPDATE gigawatch.meter_1h AS h SET stuck_h = its.stuck_h
    FROM (
        SELECT p.meter_id, p.time, EXISTS (
            SELECT FROM stuck AS s
            WHERE s.meter_id = p.meter_id AND s.day = p.day AND s.power_mw BETWEEN p.power_min_mw AND p.power_max_mw
                AND p.time BETWEEN s.first - interval '1 hour' AND s.last + interval '1 hour'
        )::integer AS stuck_h
        FROM polled AS p
    ) AS its
    WHERE h.meter_id = its.meter_id AND h.time = its.time AND h.stuck_h <> its.stuck_h
        AND {_WITHIN.format(table="h")}"""
"""Of meters that tell power alone: one that tells the same to the last digit through hours of a day, while what it
alone feeds changes by a hundredth, and by two of the last digits that it shows, stands still: in these hours, and in
those beside them, in which that began and ended."""

_KNOWN_FOR = {"energy_mj": "energy_ms", "polled_mj": "polled_ms", "volume_ml": "volume_ms"}

# An hour of a sum is known where it is of all that it is the sum of; each term by the time in which figures want it.
FOLD_VIRTUAL = f"""
    WITH RECURSIVE days AS MATERIALIZED ({_DAYS}), chain AS (
        SELECT t.meter_id, t.term_id, t.sign::integer, 1 AS depth
        FROM gigawatch.meter_term AS t
        JOIN gigawatch.meter AS m ON m.meter_id = t.meter_id AND m.virtual
        WHERE m.site_id IN (SELECT site_id FROM days)
        UNION ALL
        SELECT chain.meter_id, t.term_id, chain.sign * t.sign, chain.depth + 1
        FROM chain
        JOIN gigawatch.meter AS m ON m.meter_id = chain.term_id AND m.virtual
        JOIN gigawatch.meter_term AS t ON t.meter_id = chain.term_id
        WHERE chain.depth < {LONGEST_CHAIN}
    ), terms AS MATERIALIZED (
        SELECT chain.meter_id, chain.term_id, sum(chain.sign)::integer AS sign, m.since, m.until
        FROM chain JOIN gigawatch.meter AS m ON m.meter_id = chain.term_id AND NOT m.virtual
        GROUP BY chain.meter_id, chain.term_id, m.since, m.until
    ), parts AS (
        SELECT terms.meter_id, hour.time, terms.sign, h.*
        FROM days
        JOIN gigawatch.meter AS v ON v.site_id = days.site_id AND v.virtual
        JOIN terms ON terms.meter_id = v.meter_id
        CROSS JOIN LATERAL {_HOURS} AS hour (time)
        LEFT JOIN LATERAL (
            SELECT {_NAMES} FROM gigawatch.meter_1h AS it
            WHERE it.meter_id = terms.term_id AND it.time = hour.time AND {_WITHIN.format(table="it")} OFFSET 0
        ) AS h ON true
        WHERE {_ACTIVE.format(meter="terms", hour="hour.time")}
    ), sums AS (
        SELECT meter_id, time, min(coalesce(covered_ms, 0)) AS covered_ms,
            {
    ", ".join(
        f"CASE WHEN bool_and({it} IS NOT NULL) THEN sum(sign * {it}) END AS {it},"
        f" CASE WHEN bool_and({it} IS NOT NULL) THEN min({ms}) ELSE 0 END AS {ms}"
        for it, ms in _KNOWN_FOR.items()
    )
},
            coalesce(sum(abs(sign) * energy_interpolated_mj), 0) AS energy_interpolated_mj,
            coalesce(sum(abs(sign) * energy_integrated_mj), 0) AS energy_integrated_mj,
            coalesce(sum(abs(sign) * energy_estimated_mj), 0) AS energy_estimated_mj,
            coalesce(least(sum(readings_taken), {INT4_MAX}), 0) AS readings_taken,
            coalesce(sum(rejected_readings), 0) AS rejected_readings,
            coalesce(max(stuck_h), 0) AS stuck_h, coalesce(max(reversed_h), 0) AS reversed_h
        FROM parts GROUP BY meter_id, time
    )
    INSERT INTO gigawatch.meter_1h (time, meter_id, covered_ms, energy_mj, energy_ms, energy_interpolated_mj,
        energy_integrated_mj, energy_estimated_mj, polled_mj, polled_ms, volume_ml, volume_ms, temp_ms, readings_taken,
        rejected_readings, stuck_h, reversed_h)
    SELECT time, meter_id, covered_ms, energy_mj, energy_ms, energy_interpolated_mj, energy_integrated_mj,
        energy_estimated_mj, polled_mj, polled_ms, volume_ml, volume_ms, 0, readings_taken, rejected_readings, stuck_h,
        reversed_h
    FROM sums WHERE energy_mj IS NOT NULL OR polled_mj IS NOT NULL OR volume_ml IS NOT NULL"""

FORGET_METER_DAYS = f"""
    DELETE FROM gigawatch.meter_1d AS old USING ({_DAYS}) AS days, gigawatch.meter
    WHERE meter.site_id = days.site_id AND old.meter_id = meter.meter_id AND old.time = days.day"""

FOLD_METER_DAYS = f"""
    INSERT INTO gigawatch.meter_1d (time, meter_id, {_NAMES})
    SELECT days.day, meter.meter_id, its.*
    FROM ({_DAYS}) AS days
    JOIN gigawatch.meter ON meter.site_id = days.site_id
    CROSS JOIN LATERAL (
        SELECT {_SUMS_OF_HOURS} FROM gigawatch.meter_1h AS h
        WHERE h.meter_id = meter.meter_id AND {_OF_DAY.format(table="h")}
        HAVING count(*) > 0
    ) AS its"""

_IT = "('ups_out', 'pdu', 'it')"

# What each meter has in each hour, and whether it can be right. A meter counts once in a sum: not where one that feeds
# it, or that it is a term of, is in the same sum. One wanted for a part of an hour must not have measured more of it.
FOLD_HOURS = f"""
    WITH days AS MATERIALIZED ({_DAYS}), begun AS MATERIALIZED (
        -- Before its first hour a site has no meters.
        SELECT its.site_id, min(first.time) AS time
        FROM (SELECT DISTINCT site_id FROM days) AS its
        JOIN gigawatch.meter AS m ON m.site_id = its.site_id AND m.role IS NOT NULL
        CROSS JOIN LATERAL (
            SELECT h.time FROM gigawatch.meter_1h AS h WHERE h.meter_id = m.meter_id ORDER BY h.time LIMIT 1
        ) AS first
        GROUP BY its.site_id
    ), ancestors AS MATERIALIZED (
        SELECT above.meter_id, m.role, m.hall_id, m.since, m.until
        FROM expanded.meter_above() AS above
        JOIN gigawatch.meter AS m ON m.meter_id = above.above_id AND m.role IS NOT NULL
        WHERE m.site_id IN (SELECT site_id FROM days)
    ), wanted AS MATERIALIZED (
        SELECT m.site_id, m.hall_id, m.meter_id, m.role, m.potable, m.fresh, m.backup, h.time, need.ms AS need_ms,
            its.value, its.known_ms,
            its.known_ms * 100 >= need.ms * 99 AND (need.ms = 3600000 OR its.known_ms <= need.ms + 36000) AS ok,
            coalesce(h.stuck_h > 0 OR (h.reversed_h > 0 AND m.role NOT IN ('utility', 'generation'))
                OR its.known_ms > need.ms + 36000, false) AS fault,
            CASE WHEN m.role <> 'water' THEN its.value END AS energy_mj, h.energy_interpolated_mj,
            h.energy_integrated_mj, h.energy_estimated_mj, h.volume_ml, h.volume_ms, h.temp_mc_ms, h.temp_ms
        FROM days
        JOIN begun ON begun.site_id = days.site_id
        JOIN gigawatch.meter AS m ON m.site_id = days.site_id AND m.role IS NOT NULL
        CROSS JOIN LATERAL (
            SELECT hour.time AS time, {", ".join(f"of_day.{it}" for it in _COLUMNS)}
            FROM {_HOURS} AS hour (time)
            LEFT JOIN (
                SELECT it.* FROM gigawatch.meter_1h AS it
                WHERE it.meter_id = m.meter_id AND {_OF_DAY.format(table="it")} OFFSET 0
            ) AS of_day ON of_day.time = hour.time
            WHERE hour.time >= begun.time
        ) AS h
        CROSS JOIN LATERAL (
            -- A meter whose time of use is long over, or far ahead, is wanted for no part of it.
            SELECT (1000 * greatest(0, extract(epoch FROM least(h.time + interval '1 hour', m.until)
                - greatest(h.time, m.since))))::integer AS ms
        ) AS need
        CROSS JOIN LATERAL (
            SELECT CASE
                    WHEN m.role = 'water' THEN h.volume_ml
                    WHEN m.role = 'fuel' AND h.energy_mj IS NULL THEN h.volume_ml * m.fuel_j_per_l
                    ELSE h.energy_mj
                END AS value,
                coalesce(CASE
                    WHEN m.role = 'water' THEN h.volume_ms
                    WHEN m.role = 'fuel' AND h.energy_mj IS NULL AND m.fuel_j_per_l IS NOT NULL THEN h.volume_ms
                    ELSE h.energy_ms
                END, 0) AS known_ms
        ) AS its
        WHERE need.ms > 0
    ), by_role AS (
        SELECT w.site_id, w.hall_id, w.role, w.time, count(*) AS meters, sum(w.need_ms) AS wanted_ms,
            sum(w.energy_mj) AS energy_mj,
            coalesce(sum(w.known_ms) FILTER (WHERE w.energy_mj IS NOT NULL), 0) AS energy_ms,
            coalesce(sum(w.energy_interpolated_mj), 0) AS energy_interpolated_mj,
            coalesce(sum(w.energy_integrated_mj), 0) AS energy_integrated_mj,
            coalesce(sum(w.energy_estimated_mj), 0) AS energy_estimated_mj,
            sum(w.volume_ml) AS volume_ml, coalesce(sum(w.volume_ms), 0) AS volume_ms,
            sum(w.temp_mc_ms) AS temp_mc_ms, coalesce(sum(w.temp_ms), 0) AS temp_ms
        FROM wanted AS w
        WHERE NOT EXISTS (
            SELECT FROM ancestors AS a
            WHERE a.meter_id = w.meter_id AND a.role = w.role AND {_ACTIVE.format(meter="a", hour="w.time")}
        )
        GROUP BY w.site_id, w.hall_id, w.role, w.time
    ), of_roles AS (
        INSERT INTO gigawatch.facility_1h (time, site_id, hall_id, role, meters, wanted_ms, energy_mj, energy_ms,
            energy_interpolated_mj, energy_integrated_mj, energy_estimated_mj, volume_ml, volume_ms, temp_mc_ms,
            temp_ms)
        SELECT time, site_id, hall_id, role, meters, wanted_ms, energy_mj, energy_ms, energy_interpolated_mj,
            energy_integrated_mj, energy_estimated_mj, volume_ml, volume_ms, temp_mc_ms, temp_ms
        FROM by_role
    ), shadows AS MATERIALIZED (
        SELECT a.meter_id, f.figure, f.category, f.side, a.hall_id, a.since, a.until
        FROM ancestors AS a JOIN expanded.figure_role AS f USING (role)
    ), members AS (
        SELECT w.site_id, part.hall_id, w.time, f.figure, f.category, f.side, w.role, w.value, w.fault,
            w.ok AND counted.it IS NOT NULL AS ok
        FROM wanted AS w
        JOIN expanded.figure_role AS f USING (role)
        CROSS JOIN LATERAL (SELECT expanded.counts_in(f.figure, w.role, w.potable, w.fresh) AS it) AS counted
        CROSS JOIN LATERAL (
            SELECT NULL::integer AS hall_id WHERE f.figure <> 'zone'
            UNION ALL SELECT w.hall_id WHERE w.hall_id IS NOT NULL
        ) AS part
        WHERE counted.it IS NOT FALSE
            AND NOT (f.figure = 'ref' AND f.side = 'n' AND w.backup)
            AND NOT EXISTS (
            SELECT FROM shadows AS s
            WHERE s.meter_id = w.meter_id AND s.figure = f.figure AND s.category = f.category AND s.side = f.side
                AND (part.hall_id IS NULL OR s.hall_id = part.hall_id) AND {_ACTIVE.format(meter="s", hour="w.time")}
        )
    ), supplied AS MATERIALIZED (
        SELECT DISTINCT w.hall_id, w.time FROM wanted AS w WHERE w.role = 'ups_in' AND w.hall_id IS NOT NULL
    ), sums AS (
        SELECT m.site_id, m.hall_id, m.time, m.figure, m.category,
            sum(m.value) FILTER (WHERE m.side = 'n') AS numerator,
            sum(m.value) FILTER (WHERE m.side = 'd') AS denominator,
            count(*) FILTER (WHERE m.side = 'n') AS numerator_meters,
            count(*) FILTER (WHERE m.side = 'd') AS denominator_meters,
            bool_and(m.ok) AS ok, bool_or(m.fault) AS fault
        FROM members AS m
        LEFT JOIN supplied ON m.figure = 'zone' AND supplied.hall_id = m.hall_id AND supplied.time = m.time
        -- What a UPS takes in holds what IT takes from it.
        WHERE NOT (m.figure = 'zone' AND m.side = 'n' AND supplied.hall_id IS NOT NULL
            AND m.role IN {_IT})
        GROUP BY m.site_id, m.hall_id, m.time, m.figure, m.category
        HAVING bool_or(m.side = 'n' AND (m.figure <> 'zone' OR m.role NOT IN {_IT}))
            AND bool_or(m.side = 'd')
    ), told AS (
        -- A hall with a source of its own has its PUE from that.
        SELECT s.*, CASE s.figure WHEN 'zone' THEN 'pue' ELSE s.figure END AS name FROM sums AS s
        WHERE s.figure <> 'zone' OR NOT EXISTS (
            SELECT FROM sums AS own
            WHERE own.figure = 'pue' AND own.hall_id = s.hall_id AND own.time = s.time AND own.category = s.category
        )
    ), judged AS (
        SELECT t.*, t.fault OR t.numerator < 0 OR t.denominator < 0
            OR (t.name = 'pue' AND t.numerator < t.denominator)
            OR (t.name = 'erf' AND t.numerator > t.denominator) AS faulty
        FROM told AS t
    )
    INSERT INTO gigawatch.facility_ratio_1h (time, site_id, hall_id, figure, category, numerator, denominator, hours,
        missing_h, faulty_h, numerator_meters, denominator_meters)
    -- What is made on site beyond what the site takes is exported.
    SELECT time, site_id, hall_id, name, nullif(category, 0),
        CASE WHEN NOT ok OR faulty THEN 0 WHEN name = 'ref' THEN least(numerator, denominator) ELSE numerator END,
        CASE WHEN ok AND NOT faulty THEN denominator ELSE 0 END, (ok AND NOT faulty)::integer, (NOT ok)::integer,
        (ok AND faulty)::integer, numerator_meters, denominator_meters
    FROM judged"""

FOLD_FACILITY_DAYS = f"""
    INSERT INTO gigawatch.facility_1d (time, site_id, hall_id, role, meters, wanted_ms, energy_mj, energy_ms,
        energy_interpolated_mj, energy_integrated_mj, energy_estimated_mj, volume_ml, volume_ms, temp_mc_ms, temp_ms)
    SELECT days.day, h.site_id, h.hall_id, h.role, max(h.meters), sum(h.wanted_ms), sum(h.energy_mj), sum(h.energy_ms),
        sum(h.energy_interpolated_mj), sum(h.energy_integrated_mj), sum(h.energy_estimated_mj), sum(h.volume_ml),
        sum(h.volume_ms), sum(h.temp_mc_ms), sum(h.temp_ms)
    FROM ({_DAYS}) AS days
    JOIN gigawatch.facility_1h AS h ON h.site_id = days.site_id AND {_OF_DAY.format(table="h")}
    GROUP BY 1, 2, 3, 4"""

FOLD_RATIO_DAYS = f"""
    INSERT INTO gigawatch.facility_ratio_1d (time, site_id, hall_id, figure, category, numerator, denominator, hours,
        missing_h, faulty_h, numerator_meters, denominator_meters)
    SELECT days.day, h.site_id, h.hall_id, h.figure, h.category, sum(h.numerator), sum(h.denominator), sum(h.hours),
        sum(h.missing_h), sum(h.faulty_h), max(h.numerator_meters), max(h.denominator_meters)
    FROM ({_DAYS}) AS days
    JOIN gigawatch.facility_ratio_1h AS h ON h.site_id = days.site_id AND {_OF_DAY.format(table="h")}
    GROUP BY 1, 2, 3, 4, 5"""

OF_DAYS = (
    FORGET_VIRTUAL, FLAG_FLAT, FOLD_VIRTUAL, FORGET_METER_DAYS, FOLD_METER_DAYS,
    *(forget_sql(f"{table}_{level}") for table in ("facility", "facility_ratio") for level in ("1h", "1d")),
    FOLD_HOURS, FOLD_FACILITY_DAYS, FOLD_RATIO_DAYS,
)  # fmt: skip
"""What folds days of sites, in order."""
