"""The pages of alerts at 75,000 nodes with 10,000 open alerts and a long history: python -m bench.alert_pages.

Each page is built by the dashboard's own code as often as is asked for; the time is that of all a request needs of the
server: reads, figures, what goes to the browser. What is above its limit is marked.
"""

import argparse
import gc
import re
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from plotly.io.json import to_json_plotly
from sqlalchemy import Connection, Engine, text

from bench.queries import PAGE_MS, quantile
from dashboard import live, recent, theme, view
from dashboard.app import PAGES, READER, build
from gigawatch import database
from gigawatch.alerts import readings
from gigawatch.embedded import EmbeddedServer, installations
from gigawatch.settings import Dashboard, Settings, Store
from migrations.run import migrate

NODES, OPEN, ENDED, TOLD = 75_000, 10_000, 300_000, 20_000
"""Nodes, open alerts, alerts that have ended, notifications of ten alerts each."""
ADDRESSES = (
    "/alerts", "/alerts?site=site-03", "/alerts?severity=critical", "/alerts?rule=agent_silent",
    "/alerts?rule=agent_silent&page=40", "/alerts/pending", "/alerts/silenced", "/alerts/history",
    "/alerts/history?range=365d", "/alerts/history?range=365d&page=900", "/alerts/rules", "/alerts/rules/rule_07",
    "/alerts/silences", "/alerts/silences?like=2", "/alerts/targets", "/alerts/1", "/alerts/2", "/alerts/9000",
)  # fmt: skip
COUNTS = "the navigation's count, of any page"
FILL = (
    "INSERT INTO gigawatch.site (name) SELECT 'site-' || lpad(n::text, 2, '0') FROM generate_series(1, 20) AS n",
    """INSERT INTO gigawatch.rack (site_id, name)
    SELECT site_id, 'r' || n FROM gigawatch.site, generate_series(1, 400) AS n""",
    """INSERT INTO gigawatch.node (machine_id, site_id, rack_id, hostname, simulated, agent_version, first_seen)
    SELECT md5(n::text), site_id, rack_id, 'node-' || n, true, '1', now() FROM generate_series(1, :nodes) AS n
    JOIN gigawatch.rack ON rack_id = 1 + n % 8000""",
    """INSERT INTO gigawatch.alert_rule (name, origin, enabled, severity, unit, about, summary, sql, thresholds, for_s,
        keep_firing_for_s, interval_s, evaluated, duration_ms, rows)
    SELECT CASE n WHEN 1 THEN 'agent_silent' WHEN 2 THEN 'feed_lost' ELSE 'rule_' || lpad(n::text, 2, '0') END,
        'shipped', true, 'warning', 'W', 'What it is about', '{hostname}', repeat('SELECT 1 ', 200), '{}',
        60, 60, 15, now(), 20, 5
    FROM generate_series(1, 31) AS n""",
    """INSERT INTO gigawatch.alert (rule, fingerprint, labels, severity, state, value, summary, details, started, held,
        fired, inhibited_by, silenced_by)
    SELECT CASE WHEN n = 1 THEN 'feed_lost' WHEN n % 2 = 0 THEN 'agent_silent'
            ELSE 'rule_' || lpad((3 + n % 29)::text, 2, '0') END,
        'open-' || n, jsonb_build_object('site', 'site-' || lpad((1 + n % 20)::text, 2, '0'), 'rack', 'r' || n % 400,
            'hostname', 'node-' || n),
        CASE WHEN n % 50 = 1 THEN 'critical' WHEN n % 3 = 0 THEN 'info' ELSE 'warning' END,
        CASE WHEN n % 11 = 5 THEN 'pending' ELSE 'firing' END, n, 'node-' || n || ' is not as it should be',
        '{"power_w": 512.5, "baseline_w": 401.2, "message": "some words that explain it"}',
        now() - interval '10 min', now(), CASE WHEN n % 11 <> 5 THEN now() - n * interval '10 ms' END,
        CASE WHEN n % 4 = 3 THEN 1 END, CASE WHEN n % 10 = 9 THEN 1 END
    FROM generate_series(1, :open) AS n""",
    """INSERT INTO gigawatch.alert (rule, fingerprint, labels, severity, state, value, summary, details, started, held,
        fired, resolved)
    SELECT 'rule_' || lpad((3 + n % 29)::text, 2, '0'), 'ended-' || n,
        jsonb_build_object('site', 'site-' || lpad((1 + n % 20)::text, 2, '0'), 'hostname', 'node-' || n),
        'warning', 'resolved', n, 'node-' || n || ' was not as it should be', '{"power_w": 512.5}',
        now() - n * interval '100 s', now() - n * interval '100 s', now() - n * interval '100 s',
        now() - n * interval '100 s' + interval '60 s'
    FROM generate_series(1, :ended) AS n""",
    """INSERT INTO gigawatch.alert_change (time, alert_id, change)
    SELECT fired, alert_id, 'fired' FROM gigawatch.alert WHERE fired IS NOT NULL""",
    """INSERT INTO gigawatch.alert_silence (kind, matchers, starts, ends, author, reason)
    SELECT 'silence', '[{"label": "site", "operator": "=", "value": "site-10"}]', now(), now() + n * interval '1 min',
        'ada', 'A reason' FROM generate_series(1, 200) AS n""",
    """INSERT INTO gigawatch.alert_target (name, kind, address)
    SELECT 'target-' || n, 'slack', 'https://example.com' FROM generate_series(1, 8) AS n""",
    """INSERT INTO gigawatch.alert_delivery (key, target, group_key, why, state, created, attempts, status, answer,
        notification)
    SELECT gen_random_uuid(), 'target-' || (1 + n % 8), 'group', 'new',
        CASE WHEN n % 200 = 0 THEN 'dead' ELSE 'sent' END, now() - n * interval '2 min', 1, 200, 'ok',
        jsonb_build_object('title', n || ' alerts', 'alerts', (
            SELECT jsonb_agg(jsonb_build_object('alert_id', n * 10 + it, 'summary', repeat('words ', 40)))
            FROM generate_series(0, 9) AS it))
    FROM generate_series(1, :told) AS n""",
    "ANALYZE",
)  # fmt: skip


def fill(owner: Engine) -> None:
    """Nodes, and alerts of all kinds."""
    for sql in FILL:
        with owner.begin() as connection:
            connection.execute(
                text(sql),
                {
                    name: number
                    for name, number in (("nodes", NODES), ("open", OPEN), ("ended", ENDED), ("told", TOLD))
                    if f":{name}" in sql
                },
            )


def ask(connection: Connection, address: str) -> int:
    """Build a page as a request does; the bytes that go to the browser."""
    path, _, query = address.partition("?")
    asked, notices = view.parse(query)
    assert not notices, notices
    recent.read(readings.counts, connection)
    for page in PAGES:
        if found := re.fullmatch(page.pattern, path):
            content = page.render(connection, asked, theme.LIGHT, datetime.now(UTC), *found.groups())
            live.digests(live.parts(content))
            return len(to_json_plotly(content))
    assert address == COUNTS, address
    return 0


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--times", type=int, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder), installations()[0]) as server:
        owner = database.engine(server.url)
        migrate(owner)
        fill(owner)
        # Each request asks the store itself.
        recent.KEPT_S = 0.0
        app = build(Settings(store=Store(database_url=server.url), dashboard=Dashboard(open_access=True)))
        gc.freeze()
        print("| page | p50 ms | p95 ms | KB |\n| --- | --- | --- | --- |")
        late = False
        for address in (COUNTS, *ADDRESSES):
            took_ms, size = [], 0
            for _ in range(options.times):
                with app.test_request_context("/"), app.config[READER].connect() as connection:
                    began_s = time.perf_counter()
                    size = ask(connection, address)
                    took_ms.append((time.perf_counter() - began_s) * 1_000)
            p95_ms = quantile(took_ms, 0.95)
            late |= p95_ms > PAGE_MS
            mark = " **above its limit**" if p95_ms > PAGE_MS else ""
            print(f"| {address} | {quantile(took_ms, 0.5):.0f} | {p95_ms:.0f}{mark} | {size / 1e3:.0f} |", flush=True)
        owner.dispose()
    sys.exit(1 if late else 0)


if __name__ == "__main__":
    main()
