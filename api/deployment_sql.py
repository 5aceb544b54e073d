"""The statements that fold what deployments used and served into minutes, hours and days.

Energy may be divided by tokens only where both are of the same GPUs and the same time: of a silent agent's GPUs the
energy is missing while an engine elsewhere goes on counting, and energy per token would look better than it is. So each
minute's rows say whether they are `whole`: GPU by GPU the energy is known for as long as the tokens are. GPUs that work
for an engine on their own node are looked at alone; a deployment that spans nodes, or has several roles, is whole or
not as one. Sums of energy and of tokens alone take all rows.
"""

from api.rollup_sql import WITHIN, bounded, of_slot

TOLERANCE_MS = 3_000
"""How far energy and tokens of a minute may be apart in time, ms: a twentieth of it."""
LONGEST_SILENCE_MIN = 1_440
"""For how long GPUs that nothing is heard of are taken to serve what they served before."""
USED = (
    "expected_ms", "covered_ms", "energy_mj", "energy_ms", "energy_interpolated_mj", "energy_integrated_mj",
    "energy_estimated_mj", "energy_shared_mj", "host_mj", "host_ms", "observed_mj", "active_mj",
)  # fmt: skip
SERVED_SUMS = (
    "covered_ms", "observed_ms", "scrapes_taken", "scrapes_expected", "prompt_tokens", "cached_tokens",
    "generated_tokens", "requests_finished", "running_request_ms", "waiting_request_ms", "active_ms",
)  # fmt: skip
FRONTEND = "dynamo"
"""The engine that counts what others beside it serve, by the name of its file."""
SERVED_MOST = ("running_requests_max", "kv_cache_use_max_pm")
SERVED = (*SERVED_SUMS, *SERVED_MOST)
LATENCY_KEY = "time, deployment_id, site_id, gpu_model, model, latency, bounds_id"
_KEY = "time, deployment_id, site_id, gpu_model"
_ENERGIES = ("energy_mj", "energy_interpolated_mj", "energy_integrated_mj", "energy_estimated_mj", "host_mj")


def assigned_sql(keys: str) -> str:
    """The statement that folds the nodes' windows of these keys into assigned_1m, in place of what was there.

    What several deployments share at the same time is split evenly in whole millijoules, without remainder. It gives
    the minutes and deployments that changed.
    """
    split = ", ".join(f"{it} * place / sharing - {it} * (place - 1) / sharing AS {it}" for it in _ENERGIES)
    return f"""
    WITH keys AS MATERIALIZED ({bounded(keys)}), gone AS (
        DELETE FROM gigawatch.assigned_1m AS old USING keys
        WHERE old.node_id = keys.node_id AND old.time = keys.time AND {WITHIN.format(table="old")}
        RETURNING old.time, old.deployment_id
    ), slots AS MATERIALIZED (
        SELECT keys.time, keys.node_id, of_node.*
        FROM keys CROSS JOIN LATERAL (
            SELECT slot, assignment_id, sum(covered_ms) AS covered_ms, sum(energy_mj)::bigint AS energy_mj,
                sum(covered_ms) FILTER (WHERE energy_mj IS NOT NULL) AS energy_ms,
                sum(energy_mj) FILTER (WHERE energy_method = 2)::bigint AS energy_interpolated_mj,
                sum(energy_mj) FILTER (WHERE energy_method = 3)::bigint AS energy_integrated_mj,
                sum(energy_mj) FILTER (WHERE energy_method = 4)::bigint AS energy_estimated_mj
            FROM (
                SELECT slot, expanded.at(w.assignment_id, slot) AS assignment_id, {of_slot()}
                FROM gigawatch.gpu_window AS w CROSS JOIN LATERAL generate_series(1, w.slots) AS slot
                WHERE w.node_id = keys.node_id AND w.time >= keys.time AND w.time < keys.time + %(width)s
                    AND w.assignment_id IS NOT NULL AND {WITHIN.format(table="w")}
            ) AS windows
            WHERE assignment_id IS NOT NULL AND covered_ms IS NOT NULL
            GROUP BY slot, assignment_id
        ) AS of_node
    ), parts AS (
        SELECT s.time, s.node_id, s.slot, g.site_id, gpu.model AS gpu_model, member.deployment_id, member.endpoint,
            member.place, cardinality(a.deployment_ids) AS sharing, s.covered_ms,
            -- What of the minute is missing was due as well: the GPU served before and after, as far as anybody knows.
            s.covered_ms + greatest(0, 60000 - known.covered_ms) * s.covered_ms / known.covered_ms AS expected_ms,
            coalesce(s.energy_ms, 0) AS energy_ms, coalesce(s.energy_mj, 0) AS energy_mj,
            coalesce(s.energy_interpolated_mj, 0) AS energy_interpolated_mj,
            coalesce(s.energy_integrated_mj, 0) AS energy_integrated_mj,
            coalesce(s.energy_estimated_mj, 0) AS energy_estimated_mj,
            coalesce(known.host_mj::bigint * s.covered_ms / known.covered_ms, 0) AS host_mj,
            CASE WHEN known.host_mj IS NULL THEN 0 ELSE s.covered_ms END AS host_ms
        FROM slots AS s
        JOIN gigawatch.assignment AS a USING (assignment_id)
        JOIN gigawatch.gpu_slot ON gpu_slot.node_id = s.node_id AND gpu_slot.slot = s.slot
        JOIN gigawatch.gpu USING (gpu_id)
        JOIN gigawatch.gpu_1m AS g ON g.node_id = s.node_id AND g.time = s.time AND {WITHIN.format(table="g")}
        CROSS JOIN LATERAL (
            SELECT expanded.at(g.covered_ms, s.slot) AS covered_ms, expanded.at(g.host_mj, s.slot) AS host_mj
        ) AS known
        CROSS JOIN LATERAL unnest(a.deployment_ids, a.endpoints)
            WITH ORDINALITY AS member (deployment_id, endpoint, place)
    ), split AS (
        SELECT time, node_id, slot, site_id, gpu_model, deployment_id, endpoint, sharing, covered_ms, expected_ms,
            energy_ms, host_ms, {split}
        FROM parts
    ), engines AS MATERIALIZED (
        -- An engine that serves several models runs a request where one of them does.
        SELECT keys.time, keys.node_id, of_engine.deployment_id, of_engine.endpoint,
            sum(of_engine.observed_ms) AS observed_ms, sum(of_engine.active_ms) AS active_ms
        FROM keys CROSS JOIN LATERAL (
            SELECT v.deployment_id, v.endpoint, v.time, max(v.observed_ms) AS observed_ms, max(v.active_ms) AS active_ms
            FROM gigawatch.serving_window AS v
            WHERE v.node_id = keys.node_id AND v.time >= keys.time AND v.time < keys.time + %(width)s
                AND v.active_ms IS NOT NULL AND {WITHIN.format(table="v")}
            GROUP BY v.deployment_id, v.endpoint, v.time
        ) AS of_engine
        GROUP BY 1, 2, 3, 4
    ), used AS (
        SELECT time, node_id, deployment_id, endpoint, site_id, gpu_model,
            array_agg(DISTINCT slot::smallint) AS slots, sum(covered_ms) AS covered_ms,
            sum(expected_ms) AS expected_ms, sum(energy_ms) AS energy_ms, sum(host_ms) AS host_ms,
            coalesce(sum(energy_mj) FILTER (WHERE sharing > 1), 0)::bigint AS energy_shared_mj,
            {", ".join(f"sum({it})::bigint AS {it}" for it in _ENERGIES)}
        FROM split
        GROUP BY time, node_id, deployment_id, endpoint, site_id, gpu_model
    ), made AS (
        INSERT INTO gigawatch.assigned_1m (time, node_id, deployment_id, endpoint, site_id, gpu_model, slots,
            silent_min, {", ".join(USED)})
        SELECT u.time, u.node_id, u.deployment_id, u.endpoint, u.site_id, u.gpu_model, u.slots, 0, u.expected_ms,
            u.covered_ms, u.energy_mj, u.energy_ms, u.energy_interpolated_mj, u.energy_integrated_mj,
            u.energy_estimated_mj, u.energy_shared_mj, u.host_mj, u.host_ms, coalesce(part.observed_mj, 0),
            coalesce(part.observed_mj * e.active_ms / e.observed_ms, 0)::bigint
        FROM used AS u
        LEFT JOIN engines AS e ON e.time = u.time AND e.node_id = u.node_id AND e.deployment_id = u.deployment_id
            AND e.endpoint = u.endpoint AND e.observed_ms > 0
        CROSS JOIN LATERAL (
            SELECT (u.energy_mj * least(1, e.observed_ms * cardinality(u.slots) / nullif(u.covered_ms, 0)))::bigint
                AS observed_mj
        ) AS part
        RETURNING time, deployment_id
    )
    SELECT time, deployment_id FROM gone UNION SELECT time, deployment_id FROM made
    UNION SELECT time, deployment_id FROM engines"""


# Of a period, %(start)s to %(stop)s: all deployments, or those of %(ids)s. Minutes are folded one by one.
_OF_PERIOD = "{table}.time >= %(start)s AND {table}.time < %(stop)s"
_OF_IDS = "(%(ids)s::integer[] IS NULL OR {table}.deployment_id = ANY (%(ids)s))"

FORGET_SILENT = f"""
    DELETE FROM gigawatch.assigned_1m AS a
    WHERE {_OF_PERIOD.format(table="a")} AND a.silent_min > 0 AND {_OF_IDS.format(table="a")}"""

# GPUs that have no window in the minute go on serving what they served in the minute before, until they are heard of
# or taken out of their node: what is missing of a deployment lowers its coverage, and nothing else.
FIND_SILENT = f"""
    INSERT INTO gigawatch.assigned_1m (time, node_id, deployment_id, endpoint, site_id, gpu_model, slots, silent_min,
        {", ".join(USED)})
    SELECT %(start)s, p.node_id, p.deployment_id, p.endpoint, p.site_id, p.gpu_model, silent.slots, p.silent_min + 1,
        60000 * cardinality(silent.slots), {", ".join("0" for _ in USED[1:])}
    FROM gigawatch.assigned_1m AS p
    LEFT JOIN gigawatch.gpu_1m AS g ON g.node_id = p.node_id AND g.time = %(start)s
    CROSS JOIN LATERAL (
        SELECT array_agg(s.slot ORDER BY s.slot) AS slots
        FROM gigawatch.gpu_slot AS s
        JOIN gigawatch.gpu ON gpu.gpu_id = s.gpu_id AND gpu.node_id = p.node_id AND gpu.removed IS NULL
        WHERE s.node_id = p.node_id AND s.slot = ANY (p.slots)
            AND (g.node_id IS NULL OR s.slot > g.slots OR expanded.at(g.covered_ms, s.slot) IS NULL)
    ) AS silent
    WHERE p.time = %(start)s - interval '1 minute' AND p.silent_min < {LONGEST_SILENCE_MIN}
        AND {_OF_IDS.format(table="p")} AND silent.slots IS NOT NULL"""


def clear_sql(table: str) -> str:
    """The statement that removes buckets that are to be made anew."""
    return f"""
    DELETE FROM gigawatch.{table} AS old WHERE {_OF_PERIOD.format(table="old")} AND {_OF_IDS.format(table="old")}"""


# A window of a frontend in whose deployment its workers are read as well: all of its tokens would be counted twice.
_TWICE = f"{{table}}.engine = '{FRONTEND}' AND {{table}}.deployment_id IN (SELECT twice.deployment_id FROM twice)"

# The rows of the minute, and which of them are whole.
_RULED = f"""
    twice AS MATERIALIZED (
        SELECT d.deployment_id FROM gigawatch.deployment AS d JOIN (
            SELECT its.name FROM gigawatch.serving_window AS v JOIN gigawatch.deployment AS its USING (deployment_id)
            WHERE {_OF_PERIOD.format(table="v")} AND {_OF_IDS.format(table="v")}
            GROUP BY its.name
            HAVING bool_or(v.engine = '{FRONTEND}') AND bool_or(v.engine <> '{FRONTEND}')
        ) AS of_both USING (name)
    ), used AS MATERIALIZED (
        SELECT a.*, d.name FROM gigawatch.assigned_1m AS a JOIN gigawatch.deployment AS d USING (deployment_id)
        WHERE {_OF_PERIOD.format(table="a")} AND {_OF_IDS.format(table="a")}
    ), engines AS MATERIALIZED (
        -- For how long an engine's counts are known; of several models, the longest.
        SELECT node_id, deployment_id, endpoint, max(covered_ms) AS covered_ms
        FROM (
            SELECT v.node_id, v.deployment_id, v.endpoint, v.model, sum(v.covered_ms) AS covered_ms
            FROM gigawatch.serving_window AS v
            WHERE {_OF_PERIOD.format(table="v")} AND {_OF_IDS.format(table="v")} AND NOT ({_TWICE.format(table="v")})
            GROUP BY 1, 2, 3, 4
        ) AS of_model
        GROUP BY 1, 2, 3
    ), longest AS (
        SELECT deployment_id, max(covered_ms) AS covered_ms FROM engines GROUP BY 1
    ), judged AS MATERIALIZED (
        SELECT u.*, coalesce(
            u.silent_min = 0 AND tokens.known_ms > 0
                AND abs(u.energy_ms - tokens.known_ms * cardinality(u.slots)) <= {TOLERANCE_MS} * cardinality(u.slots),
            false) AS fits
        FROM used AS u
        LEFT JOIN engines AS e USING (node_id, deployment_id, endpoint)
        LEFT JOIN longest AS l ON l.deployment_id = u.deployment_id
        CROSS JOIN LATERAL (
            SELECT CASE u.endpoint WHEN '' THEN l.covered_ms ELSE e.covered_ms END AS known_ms
        ) AS tokens
    ), joint AS MATERIALIZED (
        SELECT d.name, coalesce(bool_and(j.fits), false) AS fits
        FROM (SELECT DISTINCT name FROM used) AS n
        JOIN gigawatch.deployment AS d USING (name)
        LEFT JOIN judged AS j ON j.deployment_id = d.deployment_id
        GROUP BY d.name
        HAVING count(DISTINCT d.deployment_id) FILTER (WHERE j.fits IS NOT NULL) > 1 OR bool_or(j.endpoint = '')
    ), ruled AS MATERIALIZED (
        SELECT j.*, coalesce(joint.fits, j.fits) AS whole FROM judged AS j LEFT JOIN joint USING (name)
    )"""

# An engine's row stands where its GPUs do: those that work for it on its node, else the deployment's, else its node.
_PLACED = f"""
    {_RULED}, placed AS MATERIALIZED (
        SELECT v.*, date_bin('1 minute', v.time, '2000-01-01Z') AS minute,
            coalesce(own.site_id, others.site_id, node.site_id) AS site_id,
            coalesce(own.gpu_model, others.gpu_model, now.gpu_model, 'unknown') AS gpu_model,
            coalesce(joint.fits, own.whole, false) AS whole
        FROM gigawatch.serving_window AS v
        JOIN gigawatch.deployment AS d USING (deployment_id)
        JOIN gigawatch.node USING (node_id)
        LEFT JOIN gigawatch.node_now AS now USING (node_id)
        LEFT JOIN (
            SELECT node_id, deployment_id, endpoint, min(site_id) AS site_id, min(gpu_model) AS gpu_model,
                bool_and(whole) AS whole
            FROM ruled GROUP BY 1, 2, 3
        ) AS own USING (node_id, deployment_id, endpoint)
        LEFT JOIN (
            SELECT deployment_id, min(site_id) AS site_id, min(gpu_model) AS gpu_model FROM ruled GROUP BY 1
        ) AS others USING (deployment_id)
        LEFT JOIN joint ON joint.name = d.name
        WHERE {_OF_PERIOD.format(table="v")} AND {_OF_IDS.format(table="v")} AND NOT ({_TWICE.format(table="v")})
    )"""

SUM_MINUTE = f"""
    WITH {_PLACED}, sums_used AS (
        INSERT INTO gigawatch.deployment_1m ({_KEY}, whole, gpus, gpus_silent, {", ".join(USED)})
        -- Its GPUs are those of both rows, whole and not: elsewhere the most count, which must not miss any.
        SELECT {_KEY}, whole, sum(sum(cardinality(slots))) OVER its,
            sum(coalesce(sum(cardinality(slots)) FILTER (WHERE silent_min > 0), 0)) OVER its,
            {", ".join(f"sum({it})" for it in USED)}
        FROM ruled GROUP BY {_KEY}, whole WINDOW its AS (PARTITION BY {_KEY})
    ), sums_served AS (
        INSERT INTO gigawatch.serving_1m ({_KEY}, engine, model, whole, {", ".join(SERVED)})
        SELECT minute, deployment_id, site_id, gpu_model, engine, model, whole,
            {", ".join(f"sum({it})" for it in SERVED_SUMS)}, {", ".join(f"max({it})" for it in SERVED_MOST)}
        FROM placed GROUP BY 1, 2, 3, 4, 5, 6, 7
    ), counts AS (
        SELECT minute AS time, deployment_id, site_id, gpu_model, model, told.latency, told.bounds_id, count.place,
            sum(count.of_bucket)::bigint AS of_bucket
        FROM placed AS p
        CROSS JOIN LATERAL (
            VALUES ('time_to_first_token', p.time_to_first_token_bounds_id, p.time_to_first_token_counts),
                ('inter_token_latency', p.inter_token_latency_bounds_id, p.inter_token_latency_counts),
                ('end_to_end_latency', p.end_to_end_latency_bounds_id, p.end_to_end_latency_counts)
        ) AS told (latency, bounds_id, counts)
        CROSS JOIN LATERAL unnest(told.counts) WITH ORDINALITY AS count (of_bucket, place)
        WHERE told.bounds_id IS NOT NULL
        GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
    )
    INSERT INTO gigawatch.latency_1m ({LATENCY_KEY}, counts)
    SELECT {LATENCY_KEY}, array_agg(of_bucket ORDER BY place) FROM counts GROUP BY {LATENCY_KEY}"""

# A node whose GPUs work for an engine elsewhere serves its first token with the deployment.
NOTE_FIRST = f"""
    WITH tokens AS MATERIALIZED (
        SELECT v.deployment_id, v.node_id, min(v.time) FILTER (WHERE v.generated_tokens > 0) AS first
        FROM gigawatch.serving_window AS v
        WHERE {_OF_PERIOD.format(table="v")} AND {_OF_IDS.format(table="v")}
        GROUP BY 1, 2
    ), found AS (
        SELECT deployment_id, node_id, bool_or(endpoint <> '') AS own FROM gigawatch.assigned_1m AS a
        WHERE {_OF_PERIOD.format(table="a")} AND a.silent_min = 0 AND {_OF_IDS.format(table="a")}
        GROUP BY 1, 2
    )
    INSERT INTO gigawatch.deployment_node AS known (deployment_id, node_id, first_seen, first_token)
    SELECT deployment_id, node_id, %(start)s,
        CASE WHEN coalesce(found.own, true) THEN tokens.first
            ELSE (SELECT min(it.first) FROM tokens AS it WHERE it.deployment_id = found.deployment_id) END AS first
    FROM found FULL JOIN tokens USING (deployment_id, node_id)
    ON CONFLICT (node_id, deployment_id) DO UPDATE SET first_seen = least(known.first_seen, excluded.first_seen),
        first_token = least(known.first_token, excluded.first_token)
    WHERE excluded.first_seen < known.first_seen
        OR excluded.first_token < coalesce(known.first_token, 'infinity')"""


def above_sql(level: str, below: str) -> tuple[str, ...]:
    """The statements that sum buckets of the level below into those of a level."""
    bucket = "date_bin(%(width)s, b.time, '2000-01-01Z')"
    of_period = f"{_OF_PERIOD.format(table='b')} AND {_OF_IDS.format(table='b')}"
    key = f"{bucket}, {_KEY.removeprefix('time, ')}"
    return (
        f"""
        INSERT INTO gigawatch.deployment_{level} ({_KEY}, whole, gpus, gpus_silent, {", ".join(USED)})
        SELECT {key}, whole, max(gpus), max(gpus_silent), {", ".join(f"sum({it})" for it in USED)}
        FROM gigawatch.deployment_{below} AS b WHERE {of_period}
        GROUP BY 1, 2, 3, 4, 5""",
        f"""
        INSERT INTO gigawatch.serving_{level} ({_KEY}, engine, model, whole, {", ".join(SERVED)})
        SELECT {key}, engine, model, whole, {", ".join(f"sum({it})" for it in SERVED_SUMS)},
            {", ".join(f"max({it})" for it in SERVED_MOST)}
        FROM gigawatch.serving_{below} AS b WHERE {of_period}
        GROUP BY 1, 2, 3, 4, 5, 6, 7""",
        f"""
        INSERT INTO gigawatch.latency_{level} ({LATENCY_KEY}, counts)
        SELECT time, deployment_id, site_id, gpu_model, model, latency, bounds_id, array_agg(of_bucket ORDER BY place)
        FROM (
            SELECT {bucket} AS time, deployment_id, site_id, gpu_model, model, latency, bounds_id, count.place,
                sum(count.of_bucket)::bigint AS of_bucket
            FROM gigawatch.latency_{below} AS b
            CROSS JOIN LATERAL unnest(b.counts) WITH ORDINALITY AS count (of_bucket, place)
            WHERE {of_period}
            GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
        ) AS counts
        GROUP BY 1, 2, 3, 4, 5, 6, 7""",
    )
