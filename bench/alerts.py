"""What alerts cost at a gigawatt: python -m bench.alerts [FOLDER], which keeps the store.

75,000 nodes of 8 GPUs at 4 sites, 16 in a rack, and four meters for each rack: two feeds, which a UPS and the grid
feed, its air and its liquid; budgets, 500 deployments, and the events of a usual day. Written by SQL, and no deeper
than rules look: a store of a few GB. Of GPUs, some are hot, held down, missing or ill, as some always are.

Measured: each shipped rule, as the report role evaluates it, against a tenth of its interval; then, with one site dark
and 10,000 alerts open, all that follows upon an evaluation, against a second; then how long a thousand XIDs of one
second take to become alerts, all rules being evaluated meanwhile, against the 5 s in which a target is to hear of one.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from msgspec import Struct
from sqlalchemy import Connection, Engine, text

from api.alerts import configured, files, inhibition, routing, states
from api.alerts.configuration import Configuration, Route, Target
from api.alerts.evaluation import EvaluationError, Observation, evaluate
from api.alerts.keeper import EVENTS, Keeper, bring_into_force
from api.alerts.login import rules_engine
from api.alerts.rule import Rule
from api.alerts.telling import Telling
from api.meter_rollups import topology_changed
from api.rollups import SETTLED, Folder
from api.weighed_rollups import WeighedFolder
from bench.deployed import DEPLOYMENTS, deploy
from bench.facility import owned
from bench.loader import cpu_s
from bench.queries import quantile
from bench.stored import DAY, HOUR, MINUTE, freshen, shorten_chunks, slow_and_events
from gigawatch import database
from gigawatch.embedded import EmbeddedServer, installations
from gigawatch.settings import Alerts
from migrations.run import migrate

NODES, SITES, NODES_PER_RACK, UPS = 75_000, 4, 16, 20
TENANTS = 20
OPEN_EVERY = 8
"""Each such node is silent, two of each rack: 9,375 alerts, about as many as a rule may give."""
XIDS, XID_POSTS = 1_000, 10
DARK_FOR = timedelta(seconds=45)
STEP_MS, STORM_MS = 1_000, 5_000
"""Limits of a step after an evaluation, and of an XID."""
SETTINGS = Alerts()
DEPTHS = {"1m": (MINUTE, 20), "1h": (HOUR, 720), "1d": (DAY, 30)}
"""Of deployments; their minutes of the week before are those of energy alone."""

BITS = """(CASE WHEN n.node_id % 500 = 1 THEN 32 + 4 WHEN n.node_id % 2000 = 2 THEN 64
    WHEN n.node_id % 5000 = 3 THEN 128 WHEN n.node_id % 5 = 4 THEN 4 ELSE 0 END)::bigint"""
HOTTEST_C = "(CASE WHEN n.node_id % 1000 = 5 THEN 84 WHEN n.node_id % 20 = 6 THEN 75 ELSE 60 END)::smallint"
GPUS = "(CASE WHEN n.node_id % 2000 = 7 THEN 7 ELSE 8 END)::smallint"
APART = "n.node_id % 1000 = 8"
"""Clock-event bits and °C of a node's first GPU, how many GPUs report, and whether counter and power are apart."""


def of_8(value: str, kind: str = "integer") -> str:
    """An array of a node's GPUs."""
    return f"array_fill(({value})::{kind}, ARRAY[{GPUS}::integer])"


WINDOWS = f"""
    INSERT INTO gigawatch.gpu_window (time, node_id, covered_ms, slots, ticks_taken, ticks_expected, energy_method,
        energy_mj, power_mean_mw, power_min_mw, power_max_mw, power_limit_mw, mem_used_mib, gpu_util_pm, mem_util_pm,
        gpu_temp_max_c, mem_temp_max_c, sm_clock_mhz, mem_clock_mhz, clock_event_reasons)
    SELECT moment, n.node_id, 10000, {GPUS}, 10, 10, 1,
        {of_8(f"CASE WHEN {APART} THEN 6900000 ELSE 6000000 END")}, {of_8("600000")}, {of_8("550000")},
        {of_8("690000")}, {of_8("700000")}, {of_8("70000")}, {of_8("900", "smallint")}, {of_8("400", "smallint")},
        {HOTTEST_C} || array_fill(60::smallint, ARRAY[{GPUS} - 1]), {of_8("70", "smallint")},
        {of_8("1800", "smallint")}, {of_8("2600", "smallint")}, {BITS} || array_fill(0::bigint, ARRAY[{GPUS} - 1])
    FROM generate_series({{start}}, {{last}}, interval '{{step}}') AS moment
    CROSS JOIN gigawatch.node AS n WHERE {{where}}"""
"""Windows of a node's GPUs."""
ROLLUP = f"""
    INSERT INTO gigawatch.gpu_{{level}} (time, node_id, site_id, rack_id, slots, covered_ms, energy_mj, energy_ms,
        power_min_mw, power_max_mw, power_limit_mw, gpu_util_pm_ms, gpu_util_ms, gpu_temp_max_c, mem_temp_max_c,
        clock_event_reasons, throttled_ms, ticks_taken, ticks_expected)
    SELECT moment, n.node_id, n.site_id, n.rack_id, 8, {of_8("{ms}")},
        {of_8(f"{{ms}} * (CASE WHEN {APART} THEN 690 ELSE 600 END)::bigint", "bigint")}, {of_8("{ms}")},
        {of_8("550000")}, {of_8("690000")}, {of_8("700000")}, {of_8("{ms} * 900::bigint", "bigint")}, {of_8("{ms}")},
        {of_8("75", "smallint")}, {of_8("80", "smallint")}, {BITS} || array_fill(0::bigint, ARRAY[{GPUS} - 1]),
        CASE WHEN {BITS} & 4 <> 0 AND n.node_id % 25 < 5 THEN {{ms}} * 2 / 3 ELSE 0 END
            || array_fill(0, ARRAY[{GPUS} - 1]), {of_8("{ms} / 1000")}, {of_8("{ms} / 1000")}
    FROM generate_series({{start}}, {{last}}, interval '{{step}}') AS moment
    CROSS JOIN gigawatch.node AS n WHERE {{where}}"""
"""Minutes or hours of a node's GPUs."""
FLEET = (
    "INSERT INTO gigawatch.site (name) SELECT 'site-' || n FROM generate_series(1, {sites}) AS n",
    """INSERT INTO gigawatch.rack (site_id, name) SELECT 1 + (r - 1) * {sites} / {racks}, 'rack-' || r
    FROM generate_series(1, {racks}) AS r""",
    """INSERT INTO gigawatch.node (machine_id, site_id, rack_id, hostname, simulated, agent_version)
    SELECT md5(n::text), site_id, rack_id, 'node-' || n, true, '1' FROM generate_series(1, {nodes}) AS n
    JOIN gigawatch.rack ON rack_id = 1 + (n - 1) / {per_rack} ORDER BY n""",
    """INSERT INTO gigawatch.gpu (node_id, uuid, index, model, serial, pci_bus_id, power_limit_mw, temp_slowdown_c)
    SELECT node_id, 'GPU-' || md5(node_id || '/' || slot), slot - 1, (ARRAY['NVIDIA H200', 'NVIDIA B200',
        'NVIDIA GB200'])[1 + rack_id % 3], node_id || '-' || slot, '0000:0' || slot || ':00.0', 700000, 87
    FROM gigawatch.node, generate_series(1, 8) AS slot ORDER BY node_id, slot""",
    """INSERT INTO gigawatch.gpu_slot (node_id, slot, gpu_id)
    SELECT node_id, index + 1, gpu_id FROM gigawatch.gpu ORDER BY gpu_id""",
)
NOW = f"""
    INSERT INTO gigawatch.node_now (node_id, last_seen, clock_offset_ms, site_id, rack_id, simulated, gpus_expected,
        gpu_model, temp_slowdown_c, time, gpus, gpus_throttled, power_mw, power_limit_mw, gpu_util_pm, gpu_util_gpus,
        gpu_temp_max_c, gpu_power_max_mw, gpu_util_max_pm, clock_event_reasons, mem_temp_max_c)
    SELECT n.node_id, now(), 0, n.site_id, n.rack_id, true, 8, gpu.model, 87, {{mark}} - interval '10 s',
        {GPUS}, sign({BITS}), 4800000, 5600000, 7200, 8, {HOTTEST_C}, 690000, 900, {BITS}, 70
    FROM gigawatch.node AS n JOIN gigawatch.gpu ON gpu.node_id = n.node_id AND gpu.index = 0"""
GROUPS = """
    INSERT INTO gigawatch.site_{level} (time, site_id, gpu_model, gpus, gpus_known, power_mw, covered_ms, energy_mj,
        energy_ms, energy_interpolated_mj, energy_integrated_mj, energy_estimated_mj, gpu_util_pm_ms, gpu_util_ms,
        throttled_ms)
    SELECT moment, site_id, model, gpus, gpus, gpus * 600000, gpus * {ms}, gpus * 600 * {ms}, gpus * {ms}, 0, 0, 0,
        gpus * 900 * {ms}, gpus * {ms}, 0
    FROM generate_series({start}, {last}, interval '{step}') AS moment
    CROSS JOIN (
        SELECT site_id, model, count(*) AS gpus FROM gigawatch.gpu JOIN gigawatch.node USING (node_id) GROUP BY 1, 2
    ) AS its"""
METERS = (
    """INSERT INTO gigawatch.meter (site_id, name, role, feed, breaker_ma, rated_mw, simulated, last_seen)
    SELECT site_id, its.name, its.role, its.feed, CASE its.role WHEN 'pdu' THEN 250000 END, its.mw, true, now()
    FROM gigawatch.site
    CROSS JOIN LATERAL (
        SELECT 'utility-' || feed AS name, 'utility' AS role, feed, 250000000000 AS mw
        FROM unnest('{{A,B}}'::text[]) AS feed
        UNION ALL
        SELECT role || '-' || feed || n, role, feed, 8000000000
        FROM unnest('{{ups_in,ups_out}}'::text[]) AS role, unnest('{{A,B}}'::text[]) AS feed,
            generate_series(1, {ups}) AS n
        UNION ALL SELECT 'cooling-' || n, 'cooling', NULL, 4000000000 FROM generate_series(1, {ups}) AS n
        UNION ALL
        SELECT 'pdu-' || feed || '-' || rack.name, 'pdu', feed, 150000000
        FROM gigawatch.rack, unnest('{{A,B}}'::text[]) AS feed WHERE rack.site_id = site.site_id
        UNION ALL
        SELECT kind || '-' || rack.name, 'temperature', NULL, NULL
        FROM gigawatch.rack, unnest('{{inlet,liquid}}'::text[]) AS kind WHERE rack.site_id = site.site_id
    ) AS its""",
    """INSERT INTO gigawatch.meter_rack (meter_id, rack_id)
    SELECT meter_id, rack_id FROM gigawatch.meter AS m
    JOIN gigawatch.rack ON rack.site_id = m.site_id AND m.name LIKE '%-' || rack.name
        AND m.name = split_part(m.name, '-rack-', 1) || '-' || rack.name
    WHERE m.role IN ('pdu', 'temperature')""",
    """INSERT INTO gigawatch.meter_feed (meter_id, fed_id)
    SELECT upper.meter_id, fed.meter_id
    FROM (VALUES ('utility', 'ups_in'), ('ups_in', 'ups_out'), ('utility', 'cooling')) AS its (upper, fed)
    JOIN gigawatch.meter AS upper ON upper.role = its.upper
    JOIN gigawatch.meter AS fed ON fed.role = its.fed AND fed.site_id = upper.site_id
        AND coalesce(fed.feed, 'A') = upper.feed
        AND (its.upper = 'utility' OR substr(fed.name, 9) = substr(upper.name, 8))
    UNION ALL
    SELECT upper.meter_id, fed.meter_id
    FROM gigawatch.meter AS fed JOIN gigawatch.meter_rack USING (meter_id)
    JOIN gigawatch.meter AS upper ON upper.site_id = fed.site_id
        AND upper.name = 'ups_out-' || fed.feed || (1 + rack_id % {ups})
    WHERE fed.role = 'pdu'""",
    """INSERT INTO gigawatch.power_budget (site_id, scope, name, budget_mw)
    SELECT site_id, 'rack', name, 150000000 FROM gigawatch.rack
    UNION ALL SELECT site_id, 'site', name, 250000000000 FROM gigawatch.site""",
    # Of the power of a rack, 110 kW, each of its feeds carries half.
    """CREATE TABLE public.bench_meter AS
    SELECT m.meter_id, m.site_id, CASE m.role WHEN 'temperature' THEN NULL WHEN 'pdu' THEN 55 WHEN 'cooling' THEN 800
        WHEN 'utility' THEN 80000 ELSE 3300 END * 1000000::bigint AS mw,
        CASE WHEN m.name LIKE 'inlet%' THEN 22000 WHEN m.name LIKE 'liquid%' THEN 35000 END AS mc
    FROM gigawatch.meter AS m""",
    "ALTER TABLE public.bench_meter ADD PRIMARY KEY (meter_id)",
)
METER_WINDOWS = """
    INSERT INTO gigawatch.meter_window (time, meter_id, covered_ms, readings_taken, readings_expected, energy_method,
        energy_mj, power_mean_mw, power_min_mw, power_max_mw, current_max_ma, temp_mean_mc, rejected_readings)
    SELECT moment, meter_id, 10000, 1, 1, CASE WHEN flows.mw IS NOT NULL THEN 1 END, flows.mw * 10, flows.mw,
        flows.mw, flows.mw, CASE WHEN flows.mw < 100000000 THEN flows.mw / 700 END, mc, 0
    FROM generate_series({start}, {last}, interval '10 s') AS moment CROSS JOIN public.bench_meter AS its
    CROSS JOIN LATERAL (SELECT CASE WHEN its.site_id = {dark} THEN its.mw * 0 ELSE its.mw END AS mw) AS flows
    ON CONFLICT (meter_id, time) DO UPDATE SET energy_mj = excluded.energy_mj, power_mean_mw = excluded.power_mean_mw"""
METER_HOURS = """
    INSERT INTO gigawatch.meter_1h (time, meter_id, covered_ms, energy_mj, energy_ms, energy_interpolated_mj,
        energy_integrated_mj, energy_estimated_mj, polled_mj, polled_ms, power_min_mw, power_max_mw, volume_ms,
        temp_mc_ms, temp_ms, readings_taken, readings_expected, rejected_readings, stuck_h, reversed_h)
    SELECT hour, meter_id, 3600000, mw * 3600, CASE WHEN mw IS NULL THEN 0 ELSE 3600000 END, 0, 0, 0, mw * 3600,
        CASE WHEN mw IS NULL THEN 0 ELSE 3600000 END, mw, mw, 0, mc * 3600000::bigint,
        CASE WHEN mc IS NULL THEN 0 ELSE 3600000 END, 360, 360, 0, 0, 0
    FROM generate_series({first}, {hour} - interval '1 hour', interval '1 hour') AS hour
    CROSS JOIN public.bench_meter"""


class Took(Struct, frozen=True, kw_only=True):
    """What was measured."""

    name: str
    all_ms: list[float]
    cpu_ms: float | None = None
    """Of the database's process and this one, each time, if measured."""
    gives: str
    limit_ms: float

    @property
    def is_above(self) -> bool:
        """Whether the longest took more than it may."""
        return not self.all_ms or max(self.all_ms) > self.limit_ms

    def row(self) -> str:
        """Of a table: median, longest, CPU, what it gives, limit, longest over limit."""
        cpu = "" if self.cpu_ms is None else f"{self.cpu_ms:,.0f}"
        if not self.all_ms:
            return f"| {self.name} | | | {cpu} | {self.gives} | {self.limit_ms:,.0f} | **above** |"
        ratio = max(self.all_ms) / self.limit_ms
        share = f"**{ratio:.2f}**" if self.is_above else f"{ratio:.2f}"
        return (
            f"| {self.name} | {quantile(self.all_ms, 0.5):,.0f} | {max(self.all_ms):,.0f} | {cpu} | {self.gives} |"
            f" {self.limit_ms:,.0f} | {share} |"
        )


HEAD = (
    "| | median, ms | longest, ms | CPU, ms | gives | limit, ms | longest / limit |\n"
    "| --- | ---: | ---: | ---: | --- | ---: | ---: |"
)


def fill(engine: Engine, connection: "psycopg.Connection[Any]", nodes: int, now: datetime) -> None:
    """Fill a new store, up to the minute.

    Args:
        engine: of the store's owner.
        connection: the same, in autocommit.
        nodes: how many, of 8 GPUs.
        now: the time.
    """
    began_s = time.monotonic()
    mark = now.replace(second=0, microsecond=0)
    hour = mark.replace(minute=0)
    midnight = hour.replace(hour=0)
    values = {
        "nodes": nodes, "sites": SITES, "per_rack": NODES_PER_RACK, "racks": -(-nodes // NODES_PER_RACK), "ups": UPS,
        "mark": _said(mark), "hour": _said(hour), "first": _said(midnight - DAY),
    }  # fmt: skip

    def run(*statements: str, **more: Any) -> None:
        for statement in statements:
            connection.execute(statement.format(**values, **more))

    def tell(words: str) -> None:
        print(f"{time.monotonic() - began_s:6.0f} s  {words}", file=sys.stderr, flush=True)

    tell("meters and their hours")
    run(*FLEET[:2], *METERS, METER_HOURS)
    connection.execute(
        "INSERT INTO gigawatch.rollup (level, closed, folded, node_id) VALUES ('meter_1h', %(it)s, %(it)s, 0)",
        {"it": hour},
    )
    connection.execute("VACUUM (ANALYZE)")
    with engine.begin() as topology:
        topology_changed(topology, list(topology.scalars(text("SELECT site_id FROM gigawatch.site"))))
    tell("folding two days of meters")
    Folder(connection).run(hour + SETTLED)
    connection.execute("RESET ALL")
    for table in ("facility_1d", "facility_ratio_1d"):
        _copy_days(connection, table, midnight - DAY)
    tell("nodes and GPUs")
    run(*FLEET[2:], NOW)
    shorten_chunks(engine, nodes)
    tell("windows and hours of GPUs")
    for start, last, step, where in (
        # In as many chunks as there are of a week.
        (mark - 7 * DAY, mark - 2 * HOUR, "1 hour", "n.node_id = 1"),
        # The hour that is over: its quarters, and all of it where they show a difference.
        (hour - HOUR, hour - timedelta(minutes=15), "15 min", f"NOT ({APART})"),
        (hour - HOUR, hour - timedelta(seconds=20), "10 s", APART),
        (mark - timedelta(seconds=10), mark - timedelta(seconds=10), "10 s", "true"),
    ):
        run(WINDOWS, start=_said(start), last=_said(last), step=step, where=where)
    for level, ms, start, step, where in (
        ("1m", 60_000, hour - HOUR, "1 min", f"{BITS} & 32 <> 0"),
        ("1h", 3_600_000, hour - HOUR, "1 hour", "true"),
    ):
        last = hour - timedelta(milliseconds=ms)
        run(ROLLUP, level=level, ms=ms, start=_said(start), last=_said(last), step=step, where=where)
    for level, ms, start, stop, step in (
        ("1h", 3_600_000, hour - 30 * DAY, hour, "1 hour"),
        ("1d", 86_400_000, midnight - 30 * DAY, midnight, "1 day"),
    ):
        last = stop - timedelta(milliseconds=ms)
        run(GROUPS, level=level, ms=ms, start=_said(start), last=_said(last), step=step)
    for level, folded in (("1m", mark), ("1h", hour), ("1d", midnight)):
        connection.execute(
            "INSERT INTO gigawatch.rollup (level, closed, folded, node_id) VALUES (%(level)s, %(it)s, %(it)s, 0)"
            " ON CONFLICT (level) DO UPDATE SET closed = excluded.closed, folded = excluded.folded",
            {"level": level, "it": folded},
        )
    tell("slow readings and events")
    slow_and_events(connection, mark, "false")
    run(
        "UPDATE gigawatch.event SET received = time",
        "UPDATE gigawatch.gpu_health SET ecc_volatile_uncorrected = 1 WHERE gpu_id % 2000 = 1",
    )
    tell("deployments, tenants and budgets")
    deploy(connection, DEPLOYMENTS, mark, DEPTHS, latencies=())
    _minutes_of_a_week(connection, mark)
    _apply_budgets(engine)
    tell("prices and intensities of a month's hours")
    pids = [os.getpid(), connection.info.backend_pid]
    used_s = -cpu_s(pids)
    Folder(connection)  # Sets what it needs to.
    WeighedFolder(connection, lambda _: None).run(lambda: False)
    connection.execute("RESET ALL")
    print(f"Hours weighed for budgets, of all that is kept: {used_s + cpu_s(pids):.0f} s (CPU)\n", flush=True)
    tell("statistics")
    connection.execute("VACUUM (ANALYZE)")
    tell("filled")


def _said(moment: datetime) -> str:
    return f"'{moment.isoformat()}'::timestamptz"


def _copy_days(connection: "psycopg.Connection[Any]", table: str, day: datetime) -> None:
    """The same day as it was, 30 times over."""
    names = connection.execute(
        "SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
        " AND NOT attisdropped AND attname <> 'time'",
        [f"gigawatch.{table}"],
    ).fetchone()
    assert names is not None
    connection.execute(
        f"INSERT INTO gigawatch.{table} (time, {names[0]}) SELECT time - back * interval '1 day', {names[0]}"
        f" FROM gigawatch.{table}, generate_series(1, 30) AS back WHERE time = %s",
        [day],
    )


def _minutes_of_a_week(connection: "psycopg.Connection[Any]", mark: datetime) -> None:
    """Energy of deployments by the minute: in a twentieth of them no request ran."""
    connection.execute("UPDATE gigawatch.deployment_1m SET active_mj = 0 WHERE deployment_id % 20 = 7")
    names = [
        row[0]
        for row in connection.execute(
            "SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = 'gigawatch.deployment_1m'::regclass"
            " AND attnum > 0 AND NOT attisdropped AND attname <> 'time'"
        )
    ]
    listed = ", ".join(names)
    connection.execute(
        f"INSERT INTO gigawatch.deployment_1m (time, {listed}) SELECT time - back * %(step)s, {listed}"
        " FROM generate_series(%(most)s::integer, 1, -1) AS back CROSS JOIN gigawatch.deployment_1m"
        " WHERE time < %(mark)s",
        {"step": DEPTHS["1m"][1] * MINUTE, "most": 7 * DAY // (DEPTHS["1m"][1] * MINUTE), "mark": mark},
    )


def _apply_budgets(engine: Engine) -> None:
    """Budgets of energy, cost and emissions of each tenant and each site."""
    limits = {"energy_mwh": 100_000, "cost": 10_000_000, "currency": "EUR", "co2e_t": 100_000}
    each = DEPLOYMENTS // TENANTS
    document = {
        "tenants": {
            f"tenant-{tenant}": [f"deployment-{tenant * each + place}" for place in range(1, each + 1)]
            for tenant in range(TENANTS)
        },
        "budgets": {
            **{f"tenant-{tenant}": {"tenant": f"tenant-{tenant}", **limits} for tenant in range(TENANTS)},
            **{f"site-{site}": {"site": f"site-{site}", **limits} for site in range(1, SITES + 1)},
        },
    }
    # JSON is YAML.
    found = configured.read(msgspec.json.encode(document))
    rules = rules_engine(engine, SETTINGS)
    with engine.begin() as connection:
        configured.apply(connection, rules, SETTINGS, found, author="bench", source="bench", dry_run=False)
    rules.dispose()


def keep_coming(engine: Engine, *, silent: str = "false", dark: int = 0) -> None:
    """Have all nodes and meters heard of now, but for the nodes that are silent; of a dark site no power flows."""
    freshen(engine)
    with engine.begin() as connection:
        connection.execute(
            text(f"UPDATE gigawatch.node_now SET last_seen = now() - :for_ WHERE {silent} OR site_id = :dark"),
            {"for_": DARK_FOR, "dark": dark},
        )
        moment = "date_bin('10 s', now(), '2000-01-01Z')"
        last = connection.scalar(text(f"SELECT {moment} - interval '10 s'"))
        first = connection.scalar(
            text(f"SELECT greatest(max(time), {moment} - interval '20 min') FROM gigawatch.meter_window")
        )
        # What was not read meanwhile is read now, of the last minutes.
        connection.execute(text(METER_WINDOWS.format(start=_said(first), last=_said(last), dark=dark)))
        connection.execute(text("UPDATE gigawatch.meter SET last_seen = now()"))


def timed(name: str, limit_ms: float, times: int, work: Callable[[], object], gives: str = "") -> Took:
    """Do it so often."""
    all_ms = []
    found: object = None
    for _ in range(times):
        began_s = time.perf_counter()
        found = work()
        all_ms.append((time.perf_counter() - began_s) * 1_000)
    return Took(name=name, all_ms=all_ms, gives=gives or f"{found:,}", limit_ms=limit_ms)


def rule_cost(reader: Engine, rule: Rule, times: int) -> tuple[Took, list[Observation]]:
    """What an evaluation takes, and what it gives."""
    limit_ms = min(rule.interval_s * 100, SETTINGS.rule_timeout_s * 1_000)
    found: list[Observation] = []
    all_ms = []
    with reader.connect() as connection:
        pids = [os.getpid(), connection.scalar(text("SELECT pg_backend_pid()"))]
    used_s = -cpu_s(pids)
    for _ in range(times):
        began_s = time.perf_counter()
        try:
            found = evaluate(reader, rule, datetime.now(UTC), SETTINGS)
        except EvaluationError as error:
            cpu_ms = (used_s + cpu_s(pids)) * 1_000
            return Took(name=rule.name, all_ms=[], cpu_ms=cpu_ms, gives=str(error), limit_ms=limit_ms), []
        all_ms.append((time.perf_counter() - began_s) * 1_000)
    used_s += cpu_s(pids)
    cpu_ms = used_s * 1_000 / times
    return Took(name=rule.name, all_ms=all_ms, cpu_ms=cpu_ms, gives=f"{len(found):,} rows", limit_ms=limit_ms), found


def measure_rules(owner: Engine, reader: Engine, rules: Sequence[Rule], times: int) -> list[Took]:
    """Each rule on a usual day, and what all of them come to."""
    found = []
    share = 0.0
    for rule in rules:
        keep_coming(owner)
        took, _ = rule_cost(reader, rule, times)
        print(took.row(), flush=True)
        found.append(took)
        share += (took.cpu_ms or 0) / 1_000 / rule.interval_s
    print(f"\nAll rules at their intervals: {share:.2f} of a core (CPU)\n", flush=True)
    return found


def measure_worst(owner: Engine, reader: Engine, rules: dict[str, Rule], times: int) -> list[Took]:
    """One site goes dark where 10,000 alerts are open."""
    found: list[Took] = []

    def add(took: Took) -> None:
        print(took.row(), flush=True)
        found.append(took)

    def step(name: str, work: Callable[[Connection], object], gives: str = "") -> None:
        """Measure it in transactions that come to nothing, and do it."""
        with owner.connect() as connection:

            def tried() -> object:
                result = work(connection)
                connection.rollback()
                return result

            add(timed(name, STEP_MS, times, tried, gives))
        with owner.begin() as connection:
            work(connection)

    def written(rule: Rule, observations: list[Observation], now: datetime, words: str) -> None:
        def work(connection: Connection) -> object:
            before = states.read(connection, rule.name, now)
            changes = states.advance(rule, before, observations, now)
            states.write(connection, rule.name, changes, now)
            return len(changes.written) + len(changes.gone)

        step(f"{rule.name}: states, {words}", work)

    def explained(connection: Connection) -> object:
        return inhibition.apply(connection, rules)

    with owner.begin() as connection:
        bring_into_force(connection, rules, datetime.now(UTC))
    silent = f"node_id % {OPEN_EVERY} = 0"
    rule = rules["agent_silent"]
    keep_coming(owner, silent=silent)
    took, observations = rule_cost(reader, rule, times)
    add(took)
    now = datetime.now(UTC)
    for after_s, words in ((0, "all new"), (rule.for_s, "all begin to fire"), (rule.for_s + 10, "all fire on")):
        written(rule, observations, now + timedelta(seconds=after_s), words)
    now += timedelta(seconds=rule.for_s + 10)
    for name in ("site_silent", "feed_lost", "rack_silent", "agent_silent"):
        keep_coming(owner, silent=silent, dark=1)
        took, observations = rule_cost(reader, rules[name], times)
        add(took)
        written(rules[name], observations, now + timedelta(seconds=10), "a site goes dark")
        if name != "agent_silent":
            written(rules[name], observations, now + timedelta(seconds=40), "it fires")
    now += timedelta(seconds=40)
    step("inhibition, a site is dark", explained)
    step("inhibition, nothing new", explained)
    configuration = Configuration(
        targets={
            "chat": Target(kind="slack", url_file="chat.url"),
            "calls": Target(kind="pagerduty", secret_file="calls.key"),
        },
        route=Route(
            target="chat",
            routes=(
                Route(target="calls", matchers=("severity=critical",), continue_=True),
                Route(target="chat", group_by=("rule", "site", "rack")),
            ),
        ),
    )
    for after_s, words in ((0, "groups begin"), (2, "all are told"), (3, "nothing new")):
        moment = now + timedelta(seconds=after_s)
        step(
            f"routing, {words}",
            lambda it, moment=moment: routing.route(it, configuration, rules, moment, "https://gigawatch.example"),
        )
    with owner.connect() as connection:
        rows = connection.execute(
            text("SELECT state, count(*), count(inhibited_by) FROM gigawatch.alert GROUP BY 1 ORDER BY 1")
        ).all()
    print(
        "\nAlerts: "
        + ", ".join(f"{count:,} {state}, {quiet:,} of them explained" for state, count, quiet in rows)
        + "\n"
    )
    return found


def measure_storm(owner: Engine, reader: Engine, rules: dict[str, Rule], times: int) -> Took:
    """XIDs of a thousand GPUs within a second, while all rules are evaluated: until all alerts are stored."""
    all_ms = [_storm_ms(owner, reader, rules) for _ in range(times)]
    return Took(name="XID storm: alerts after the last insert", all_ms=all_ms, gives=f"{XIDS:,}", limit_ms=STORM_MS)


def _storm_ms(owner: Engine, reader: Engine, rules: dict[str, Rule]) -> float:
    keep_coming(owner)
    with owner.begin() as connection:
        connection.execute(text("TRUNCATE gigawatch.alert CASCADE"))
        connection.execute(text("DELETE FROM gigawatch.event WHERE code = 79"))
        connection.execute(text("DELETE FROM gigawatch.alert_rule"))
    keeper = Keeper(owner, reader, SETTINGS, lambda _: rules, Telling(owner, SETTINGS))
    keeper.start()
    try:
        # All rules were evaluated once.
        _wait(owner, "SELECT count(evaluated) FROM gigawatch.alert_rule", len(rules))
        keep_coming(owner)
        with owner.connect() as connection:
            gpus = connection.scalar(text("SELECT count(*) FROM gigawatch.gpu"))
        began_s = time.perf_counter()
        for post in range(XID_POSTS):
            with owner.begin() as connection:
                connection.execute(
                    text(
                        "INSERT INTO gigawatch.event (time, node_id, gpu_id, kind, severity, code, message)"
                        " SELECT now(), node_id, gpu_id, 'xid', 'critical', 79, 'XID 79' FROM gigawatch.gpu"
                        # All over the fleet: of a site with more than 400 the site is told of.
                        " WHERE gpu_id % :every = 0 AND gpu_id / :every % :posts = :post"
                    ),
                    {"posts": XID_POSTS, "post": post, "every": gpus // XIDS},
                )
                connection.execute(text("SELECT pg_notify(:channel, 'xid')"), {"channel": EVENTS})
            last_s = time.perf_counter()
            if post < XID_POSTS - 1:
                time.sleep(max(0.0, began_s + (post + 1) / XID_POSTS - last_s))
        _wait(owner, "SELECT count(*) FROM gigawatch.alert WHERE rule = 'xid_fatal' AND state = 'firing'", XIDS)
        took_ms = (time.perf_counter() - last_s) * 1_000
    finally:
        keeper.stop()
    return took_ms


def _wait(engine: Engine, sql: str, wanted: int) -> None:
    """Until a count is as it is wanted."""
    end_s = time.monotonic() + 300
    while time.monotonic() < end_s:
        with engine.connect() as connection:
            if connection.scalar(text(sql)) == wanted:
                return
        time.sleep(0.02)
    raise TimeoutError(sql)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", help="of a store; it is filled where there is none")
    parser.add_argument("--nodes", type=int, default=NODES)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--only", nargs="+", metavar="RULE", help="these rules, and no more")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary).chmod(0o711)
        folder = given.folder or Path(temporary) / "store"
        is_new = not folder.exists()
        with EmbeddedServer(folder, installations()[0]) as server:
            owner = database.engine(server.url)
            migrate(owner)
            if is_new:
                with owned(owner) as connection:
                    fill(owner, connection, given.nodes, datetime.now(UTC))
            reader = rules_engine(owner, SETTINGS)
            rules = dict(files.shipped())
            print(f"Load {os.getloadavg()[0]:.1f}\n\n{HEAD}", flush=True)
            found = measure_rules(
                owner, reader, [it for it in rules.values() if it.name in (given.only or rules)], given.times
            )
            if not given.only:
                with owner.begin() as connection:
                    connection.execute(text("TRUNCATE gigawatch.alert, gigawatch.alert_group CASCADE"))
                print(HEAD, flush=True)
                found += measure_worst(owner, reader, rules, given.times)
                found.append(measure_storm(owner, reader, rules, given.times))
                print(found[-1].row())
            reader.dispose()
            owner.dispose()
    above = [it.name for it in found if it.is_above]
    print(f"\nAbove their limit: {', '.join(above) or 'none'}; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
