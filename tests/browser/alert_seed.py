"""Alerts as the evaluation, people and deliveries leave them, written straight into the store."""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import msgspec
from sqlalchemy import Connection, text

from gigawatch.alerts.notification import AlertTold, Notification
from tests.browser import seed

MANY = 240
"""Alerts that the lost feed explains,"""
PENDING = 130
"""and alerts of one rule that are pending."""
CAPPED = '[{"label": "rule", "operator": "=", "value": "power_cap"}]'
RULES: tuple[tuple[str, str, str, int, str, dict[str, Any]], ...] = (
    # name, severity, unit, for, about, thresholds
    ("xid_fatal", "critical", "XID", 0, "An XID error after which a GPU, or the link to it, cannot be trusted",
     {"kept_min": {"value": 60, "unit": "min", "about": "how long after the last such event the alert stays"}}),
    ("gpu_temperature", "warning", "K", 120, "A GPU is close to, or at, the temperature at which it slows down",
     {"margin_k": {"value": 5, "unit": "K", "about": "margin to the slowdown temperature",
                   "overrides": [{"where": {"gpu_model": "NVIDIA B200"}, "value": 3}]}}),
    ("feed_lost", "critical", "racks", 20, "A feed gives no power, or its racks are silent", {}),
    ("rack_silent", "critical", "1", 20, "Nothing is heard of a fifth of a rack's nodes", {}),
    ("agent_silent", "warning", "s", 0, "Nothing is heard of a node", {}),
    ("breaker", "warning", "1", 300, "A breaker carries more than it should for long",
     {"share": {"value": 0.8, "unit": "1", "about": "of the rating"}}),
    ("energy_per_token_regression", "warning", "J", 1800, "A deployment needs more energy per token than is usual", {}),
    ("power_cap", "info", "1", 3600, "A GPU is held down by its power cap for long", {}),
    ("idle_draw", "info", "W", 1800, "GPUs that serve nothing draw more than is usual", {}),
)  # fmt: skip


def rules(connection: Connection, now: datetime, failing: str | None = "idle_draw") -> None:
    """The rules in force, of which one fails."""
    connection.execute(
        text(
            "INSERT INTO gigawatch.alert_rule (name, origin, enabled, severity, unit, about, summary, runbook, sql,"
            " thresholds, for_s, keep_firing_for_s, interval_s, evaluated, duration_ms, rows, error, failing_since,"
            " evaluations, failures, missed) VALUES (:name, 'shipped', true, :severity, :unit, :about,"
            " '{hostname}: {value}', :runbook, 'SELECT site, value\nFROM report.gpu_conditions',"
            " CAST(:thresholds AS jsonb), :for_s, 120, 15, :evaluated, 34,"
            " CASE WHEN CAST(:error AS text) IS NULL THEN 2 END, :error, :failing, 900, 0, 1)"
        ),
        [
            {
                "name": name, "severity": severity, "unit": unit, "for_s": for_s, "about": about,
                "runbook": f"docs/runbooks/{name}.md", "thresholds": json.dumps(thresholds),
                "evaluated": now - timedelta(seconds=4),
                "error": "canceling statement due to statement timeout" if name == failing else None,
                "failing": now - timedelta(minutes=12) if name == failing else None,
            }
            for name, severity, unit, for_s, about, thresholds in RULES
        ],
    )  # fmt: skip


def alert(
    connection: Connection, rule: str, severity: str, labels: Mapping[str, str], summary: str, started: datetime,
    *, state: str = "firing", fired: datetime | None = None, value: float | None = None, **more: Any,
) -> int:  # fmt: skip
    """An alert, with a change for each thing that became of it."""
    given = {"details": {}, "resolved": None, "inhibited_by": None, "silenced_by": None, "acknowledged": None,
             "acknowledged_by": None, "acknowledgement": None, "unknown_since": None, "simulated": False,
             "fired": fired or (None if state == "pending" else started)} | more  # fmt: skip
    number = connection.scalar(
        text(
            "INSERT INTO gigawatch.alert (rule, fingerprint, labels, severity, state, value, summary, details, started,"
            " held, fired, resolved, inhibited_by, silenced_by, acknowledged, acknowledged_by, acknowledgement,"
            " unknown_since, simulated) VALUES (:rule, :fingerprint, CAST(:labels AS jsonb), :severity, :state, :value,"
            " :summary, CAST(:details AS jsonb), :started, :started, :fired, :resolved, :inhibited_by, :silenced_by,"
            " :acknowledged, :acknowledged_by, :acknowledgement, :unknown_since, :simulated) RETURNING alert_id"
        ),
        given | {
            "rule": rule, "fingerprint": uuid4().hex, "labels": json.dumps(labels), "severity": severity,
            "state": state, "value": value, "summary": summary, "details": json.dumps(given["details"]),
            "started": started,
        },
    )  # fmt: skip
    assert isinstance(number, int)
    for change, time, author, note in (
        ("fired", given["fired"], None, None),
        ("acknowledged", given["acknowledged"], given["acknowledged_by"], given["acknowledgement"]),
        ("resolved", given["resolved"], None, None),
    ):
        if time is not None:
            connection.execute(
                text("INSERT INTO gigawatch.alert_change VALUES (:time, :number, :change, :author, :note)"),
                {"time": time, "number": number, "change": change, "author": author, "note": note},
            )
    return number


def delivery(
    connection: Connection, target: str, title: str, created: datetime, alert_id: int, state: str = "sent",
    status: int | None = 200, answer: str = "ok", attempts: int = 1, due: datetime | None = None,
) -> int:  # fmt: skip
    """A notification of one alert."""
    key = uuid4()
    told = AlertTold(
        alert_id=alert_id, fingerprint=key.hex, rule="xid_fatal", status="firing", severity="critical", labels={},
        summary=title, value=79, unit="XID", details={}, started=created, fired=created, resolved=None, runbook=None,
        url=None, acknowledged_by=None, simulated=False,
    )  # fmt: skip
    notification = Notification(
        group_key=key.hex, target=target, status="firing", why="new", severity="critical", title=title, group_labels={},
        common_labels={}, firing=1, resolved=0, alerts=(told,), left_out=0, external_url=None,
    )  # fmt: skip
    number = connection.scalar(
        text(
            "INSERT INTO gigawatch.alert_delivery (key, target, group_key, why, state, created, due, attempts, tried,"
            " duration_ms, status, answer, notification) VALUES (:key, :target, :group, 'new', :state, :created, :due,"
            " :attempts, :created, 35, :status, :answer, CAST(:notification AS jsonb)) RETURNING delivery_id"
        ),
        {
            "key": key, "target": target, "group": key.hex, "state": state, "created": created, "due": due or created,
            "attempts": attempts, "status": status, "answer": answer,
            "notification": msgspec.json.encode(notification).decode(),
        },
    )  # fmt: skip
    assert isinstance(number, int)
    return number


def target(connection: Connection, name: str, kind: str, now: datetime, *, failures: int = 0) -> None:
    """A target, whose circuit breaker is open where it failed."""
    connection.execute(
        text(
            "INSERT INTO gigawatch.alert_target (name, kind, address, failures, open_until, succeeded, failed, error)"
            " VALUES (:name, :kind, :address, :failures, :open, :succeeded, :failed, :error)"
        ),
        {
            "name": name, "kind": kind, "address": f"https://{name}.example.com", "failures": failures,
            "open": now + timedelta(hours=1) if failures else None, "succeeded": now - timedelta(minutes=2 + failures),
            "failed": now - timedelta(seconds=40) if failures else None,
            "error": "HTTP 503: the receiver is being updated" if failures else None,
        },
    )  # fmt: skip


def alerts(connection: Connection, now: datetime) -> dict[str, int]:
    """Alerts of every state, by a name of each."""

    def ago(minutes: float) -> datetime:
        return now - timedelta(minutes=minutes)

    def silence(starts: datetime, ends: datetime, reason: str, kind: str = "silence", by: str | None = None) -> int:
        number = connection.scalar(
            text(
                "INSERT INTO gigawatch.alert_silence (kind, matchers, starts, ends, author, reason, ended_by)"
                " VALUES (:kind, CAST(:matchers AS jsonb), :starts, :ends, 'ada', :reason, :by) RETURNING silence_id"
            ),
            {"kind": kind, "starts": starts, "ends": ends, "reason": reason, "by": by, "matchers": CAPPED},
        )
        assert isinstance(number, int)
        return number

    quiet = silence(ago(30), ago(-90), "Capped on purpose while a transformer is replaced")
    silence(ago(-600), ago(-720), "Firmware of the rack PDUs", "maintenance")
    silence(ago(900), ago(800), "A test that is over", by="grace")
    gpu = {"site": "oslo", "rack": "r01", "hostname": "oslo-r01-n01", "gpu_uuid": seed.LOST}
    hot = {"site": "oslo", "rack": "r03", "hostname": "oslo-r03-n01", "gpu_uuid": seed.THROTTLED,
           "gpu_model": "NVIDIA B200"}  # fmt: skip
    found = {
        "xid": alert(connection, "xid_fatal", "critical", gpu, "oslo-r01-n01, GPU 3: XID 79: off the bus",
                     ago(25), value=79, details={"gpu_index": 3, "message": "XID 79: GPU has fallen off the bus",
                                                 "first_event": ago(25).isoformat(), "events": 1}),
        "hot": alert(connection, "gpu_temperature", "warning", hot, "oslo-r03-n01, GPU 0: 89 °C, 1 K below slowdown",
                     ago(19), fired=ago(17), value=1, acknowledged=ago(9), acknowledged_by="ada",
                     acknowledgement="A fan is on its way",
                     details={"gpu_temp_max_c": 89, "temp_slowdown_c": 90, "power_w": 812.4}),
        "feed": alert(connection, "feed_lost", "critical", {"site": "oslo", "meter": "pdu-a1", "feed": "A"},
                      "pdu-a1 at oslo: 0 W after 81300 W, racks silent: 2 of 2", ago(6), fired=ago(5.6), value=2,
                      details={"racks_silent": 2, "power_w": 0.0, "power_before_w": 81_300.0}),
        "rack": alert(connection, "breaker", "warning", {"site": "austin", "rack": "a01"},
                      "austin a01: 87 % of its breaker", ago(40), fired=ago(35), value=0.87, unknown_since=ago(3)),
        "site": alert(connection, "power_cap", "info", {"site": "austin"}, "austin: held down by caps", ago(80),
                      fired=ago(20), value=0.6, simulated=True),
        "node": alert(connection, "agent_silent", "warning", {"site": "oslo", "rack": "r02", "hostname": seed.SILENT},
                      f"{seed.SILENT}: silent", ago(42), value=2_520),
        "tokens": alert(connection, "energy_per_token_regression", "warning",
                        {"deployment": "chat-70b", "model": "llama", "gpu_model": "NVIDIA H100 80GB HBM3"},
                        "chat-70b: 0.51 J per token, 1.4 times what is usual", ago(50), fired=ago(20), value=0.51,
                        details={"baseline_j_per_token": 0.36, "ratio": 1.42}),
        "pending": alert(connection, "gpu_temperature", "warning", {**hot, "gpu_uuid": "GPU-oslo-r03-n02-1"},
                         "oslo-r03-n02, GPU 1: 86 °C", ago(0.6), state="pending", value=4),
        "silenced": alert(connection, "power_cap", "info", {"site": "oslo", "rack": "r04"}, "oslo r04: held down",
                          ago(70), fired=ago(10), value=0.9, silenced_by=quiet),
        "ended": alert(connection, "xid_fatal", "critical", {**gpu, "gpu_uuid": seed.MIG}, "austin-a03-n01: XID 48",
                       ago(600), state="resolved", resolved=ago(560), value=48, acknowledged=ago(590),
                       acknowledged_by="grace"),
    }  # fmt: skip
    for number in range(MANY):
        rule = "rack_silent" if number < 2 else "agent_silent"
        alert(connection, rule, "critical" if number < 2 else "warning",
              {"site": "oslo", "rack": f"r{number % 20:02}", "hostname": f"oslo-x{number:03}"},
              f"oslo-x{number:03}: silent for 5 min", ago(5), value=300, inhibited_by=found["feed"])  # fmt: skip
    for number in range(PENDING):
        alert(connection, "power_cap", "info", {"site": ("oslo", "austin")[number % 2], "rack": f"p{number:03}"},
              f"rack p{number:03} is held down by its cap", ago(3), state="pending", value=0.7)  # fmt: skip
    route = {"target": "pager", "routes": [{"matchers": ["severity=warning"], "target": "chat"}]}
    connection.execute(
        text(
            "INSERT INTO gigawatch.alert_configuration (author, source, sha256, document) VALUES ('ada', 'a', 'a', :it)"
        ),
        {"it": json.dumps({"route": route})},
    )
    target(connection, "pager", "pagerduty", now)
    target(connection, "chat", "slack", now, failures=7)
    target(connection, "tickets", "alertmanager", now)
    delivery(connection, "pager", "1 xid_fatal at oslo", ago(24.9), found["xid"])
    found["dead"] = delivery(
        connection, "chat", "1 xid_fatal at oslo", ago(24.9), found["xid"], "dead", 410, "HTTP 410: gone"
    )
    delivery(connection, "chat", "1 feed_lost at oslo", ago(5), found["feed"], "waiting", 503,
             "HTTP 503: the receiver is being updated", 7, due=ago(-3))  # fmt: skip
    return found
