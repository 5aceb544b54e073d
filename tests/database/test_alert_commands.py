"""The verb `gigawatch alert` and the routes /api/v1/alerts against a real store: what they show, do and refuse."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from click.testing import CliRunner, Result
from sqlalchemy import Engine, text

from api.alerts import commands, files
from api.alerts.keeper import bring_into_force
from tests.agents import wait_for
from tests.factory import rows
from tests.receivers import Receiver, answers
from tests.servers import Api, running_api

pytestmark = pytest.mark.parametrize("database_url", ["embedded"], indirect=True)
CONFIGURATION = """
targets:
  chat: {kind: slack, url: "https://hooks.example.com/services/T0/B0/secret"}
route: {target: chat, routes: [{matchers: [severity=critical], group_wait: 0s}]}
rules: {power_cap: {enabled: false}, gpu_temperature: {for: 5m}}
tenants: {acme: [chat-*]}
budgets: {acme: {tenant: acme, energy_mwh: 1.5}}
"""
Run = Callable[..., Result]


@pytest.fixture
def run(database_url: str, tmp_path: Path) -> Run:
    """Runs a verb; FILE among its words is a file of this body."""

    def run(*words: str, body: str = CONFIGURATION) -> Result:
        path = tmp_path / "alerts.yaml"
        path.write_text(body, encoding="utf-8")
        of_store = [] if words[0] in {"check", "test"} else ["--database-url", database_url]
        rest = [str(path) if it == "FILE" else it for it in words[1:]]
        return CliRunner().invoke(commands.alert, [words[0], *of_store, *rest], obj=None)

    return run


@pytest.fixture
def alerts(engine: Engine) -> dict[str, int]:
    """The shipped rules in force and an alert of each state: its number by its name."""
    with engine.begin() as connection:
        bring_into_force(connection, files.shipped(), datetime.now(UTC))
        found = {}
        for name, rule, severity, state in (
            ("hot", "gpu_temperature", "warning", "firing"),
            ("fatal", "xid_fatal", "critical", "firing"),
            ("silent", "agent_silent", "warning", "pending"),
            ("over", "breaker", "warning", "resolved"),
        ):
            found[name] = connection.execute(
                text(
                    "INSERT INTO gigawatch.alert (rule, fingerprint, labels, severity, state, value, summary, details,"
                    " started, held, fired, resolved) VALUES (:rule, :name, CAST(:labels AS jsonb), :severity, :state,"
                    " 79.5, :summary, '{\"gpu_index\": 3, \"message\": null}', now() - interval '5 min', now(),"
                    " CASE WHEN :state <> 'pending' THEN now() END, CASE WHEN :state = 'resolved' THEN now() END)"
                    " RETURNING alert_id"
                ),
                {
                    "rule": rule, "name": name, "severity": severity, "state": state, "summary": f"{name} it is",
                    "labels": json.dumps({"site": "oslo" if name != "hot" else "bergen", "hostname": f"n-{name}"}),
                },
            ).scalar_one()  # fmt: skip
    return found


def test_alerts_are_listed_worst_first_and_shown(run: Run, alerts: Mapping[str, int]) -> None:
    shown = run("list")
    assert shown.exit_code == 0, shown.output
    lines = shown.output.splitlines()
    assert lines[0].split() == ["number", "state", "severity", "since", "rule", "what", "quiet"]
    assert [line.split()[4 + line.count(":")] for line in lines[1:]] == ["xid_fatal", "gpu_temperature", "agent_silent"]
    found = json.loads(run("list", "--json").output)
    assert [(it["alert_id"], it["state"], it["unit"]) for it in found] == [
        (alerts["fatal"], "firing", "XID"), (alerts["hot"], "firing", "K"), (alerts["silent"], "pending", "s"),
    ]  # fmt: skip
    assert found[0]["labels"] == {"site": "oslo", "hostname": "n-fatal"}
    assert [it["rule"] for it in json.loads(run("list", "--state", "resolved", "--json").output)] == ["breaker"]
    assert [it["rule"] for it in json.loads(run("list", "--site", "bergen", "--json").output)] == ["gpu_temperature"]
    assert len(json.loads(run("list", "--limit", "1", "--json").output)) == 1
    assert "There is no site named 'olso'" in run("list", "--site", "olso").output
    assert "There is no rule named 'x'" in run("list", "--rule", "x").output
    loud = run("list", "--loud", "--severity", "critical")
    assert loud.exit_code == 1 and "fatal it is" in loud.output
    quiet = run("list", "--loud", "--rule", "breaker")
    assert (quiet.exit_code, quiet.output) == (0, "No such alerts.\n")
    shown = run("show", str(alerts["fatal"]))
    for words in ("critical xid_fatal: fatal it is\nfiring, XID 79.5; began ", "  hostname: n-fatal\n", "gpu_index: 3",
                  "What to do: docs/runbooks/xid_fatal.md"):  # fmt: skip
        assert words in shown.output
    assert "message" not in shown.output  # it has none
    assert json.loads(run("show", str(alerts["fatal"]), "--json").output)["alert"]["summary"] == "fatal it is"
    missing = run("show", "99999")
    assert missing.exit_code == 1 and "There is no alert 99999" in missing.output


def test_alerts_are_taken_on_and_silenced(run: Run, engine: Engine, alerts: Mapping[str, int]) -> None:
    number = str(alerts["fatal"])
    done = run("ack", number, str(alerts["silent"]), "--note", "on my way", "--author", "ada")
    assert (done.exit_code, done.output) == (0, "ada takes on 2 alerts.\n")
    assert "taken on by ada" in run("list").output
    assert "acknowledged  ada  on my way" in run("show", number).output
    again = run("ack", number, "--author", "bob")
    assert again.exit_code == 7 and "not acknowledged yet" in again.output

    assert run("silences").output == "No silences.\n"
    matcher = 'hostname=~"n-.*"'
    done = run("silence", "rule=xid_fatal", matcher, "--for", "2h", "--reason", "new\n\x1b[31m fans", "--author", "ada")
    assert done.exit_code == 0, done.output
    assert done.output.startswith('Silence 1: rule="xid_fatal", hostname=~"n-.*", ')
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    done = run("silence", "site=oslo", "--from", f"{tomorrow:%Y-%m-%dT%H:%M}", "--for", "3h", "--maintenance",
               "--reason", "UPS")  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(run("silences", "--json").output)
    assert [(it["silence_id"], it["kind"], it["state"], it["reason"]) for it in found] == [
        (2, "maintenance", "to come", "UPS"), (1, "silence", "in force", "new\n\x1b[31m fans"),
    ]  # fmt: skip
    # What somebody wrote is a line, and nothing of it is for the terminal to obey.
    assert "new [31m fans" in run("silences").output
    assert run("unsilence", "1", "--author", "bob").output == "Silence 1 is over.\n"
    assert [it["silence_id"] for it in json.loads(run("silences", "--json").output)] == [2]
    ended = json.loads(run("silences", "--all", "--json").output)
    assert {it["silence_id"]: it["ended_by"] for it in ended} == {2: None, 1: "bob"}
    assert rows(engine, "SELECT author FROM gigawatch.alert_silence WHERE silence_id = 1") == [{"author": "ada"}]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("silence", "site=oslo", "--reason", "x"), "A silence needs an end"),
        (("silence", "site=oslo", "--for", "2h", "--until", "2099-01-01T00:00", "--reason", "x"), "needs an end"),
        (("silence", "site=oslo", "--for", "soon", "--reason", "x"), "--for 'soon' is no length of time"),
        (("silence", "site=oslo", "--for", "0s", "--reason", "x"), "and be over"),
        (("silence", "site=oslo", "--for", "99999999999999d", "--reason", "x"), "is no length of time"),
        (("silence", "site=oslo", "--until", "2020-01-01T00:00", "--reason", "x"), "and be over"),
        (("silence", "site=oslo", "--for", "4000d", "--reason", "x"), "It would last 4000 days"),
        (("silence", "oslo", "--for", "2h", "--reason", "x"), "'oslo' is no matcher: write LABEL=VALUE"),
        (("silence", 'site=~"("', "--for", "2h", "--reason", "x"), "is no regular expression"),
        (("silence", 'site=~".*"', "--for", "2h", "--reason", "x"), "would silence everything"),
        (("silence", "site=oslo", "--for", "2h", "--reason", " "), "The reason is ''"),
        (("unsilence", "17"), "There is no silence 17 in force or to come"),
        (("send-test", "chat"), "No target is named 'chat'"),
        (("resend", "5"), "Notification 5 does not exist"),
        (("ack", "5"), "None of these alerts is open"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_remedy(run: Run, words: tuple[str, ...], problem: str) -> None:
    found = run(*words)
    assert found.exit_code == 7, found.output
    assert problem in found.output
    assert "Traceback" not in found.output


def test_rules_are_listed_with_their_last_evaluation(run: Run, engine: Engine) -> None:
    assert "No rules yet" in run("rules").output
    with engine.begin() as connection:
        bring_into_force(connection, files.shipped(), datetime.now(UTC))
        connection.execute(
            text(
                "UPDATE gigawatch.alert_rule SET evaluated = now(), duration_ms = 12, error = 'syntax error',"
                " failing_since = now() WHERE name = 'pue_drift'"
            )
        )
    found = json.loads(run("rules", "--json").output)
    assert found[0]["name"] == "pue_drift"
    assert {it["name"] for it in found} == set(files.shipped())
    (failing,) = (it for it in run("rules").output.splitlines() if "syntax error" in it)
    assert "12 ms" in failing and "fails since" in failing
    one = run("rules", "xid_fatal").output
    assert "FROM report.events" in one and "kept_min" in one
    assert [it["name"] for it in json.loads(run("rules", "xid_fatal", "--json").output)] == ["xid_fatal"]
    missing = run("rules", "xid")
    assert missing.exit_code == 1 and "There is no rule 'xid'" in missing.output


def test_a_configuration_is_checked_applied_and_shown(run: Run, engine: Engine) -> None:
    good = run("check", "FILE")
    assert (good.exit_code, good.output) == (0, f"Good; targets: 1, rules at work: {len(files.shipped()) - 1}.\n")
    for verb in ("check", "apply"):
        bad = run(verb, "FILE", body=CONFIGURATION.replace("route: {target: chat,", "route: {target: cat,"))
        assert bad.exit_code == 7 and "line 4: there is no target 'cat'" in bad.output, bad.output
    assert rows(engine, "SELECT FROM gigawatch.alert_configuration") == []
    assert run("apply", "FILE", "--dry-run").output.startswith("Would be in force; targets: 1")
    assert rows(engine, "SELECT FROM gigawatch.alert_configuration") == []
    done = run("apply", "FILE", "--author", "ada")
    assert done.output == (
        f"In force; targets: 1, rules: {len(files.shipped()) - 1}, budgets: 1;"
        " otherwise than shipped: gpu_temperature, power_cap.\n"
    )
    (kept,) = rows(engine, "SELECT author, source FROM gigawatch.alert_configuration")
    assert kept == {"author": "ada", "source": "alerts.yaml"}
    (budget,) = rows(engine, "SELECT name, deployments, energy_mj FROM gigawatch.alert_budget")
    assert budget == {"name": "acme", "deployments": ["chat-*"], "energy_mj": 5_400_000_000_000}
    shown = yaml.safe_load(run("config").output)
    assert shown["targets"]["chat"]["url"] == "https://hooks.example.com/…"
    assert shown["rules"] == {"power_cap": {"enabled": False}, "gpu_temperature": {"for": "5m"}}
    assert json.loads(run("config", "--json").output) == shown
    # What is shown can be checked and written again, but for what was hidden.
    assert run("check", "FILE", body=run("config").output).exit_code == 0
    again = json.loads(run("apply", "FILE", "--json", body="{}").output)
    assert (again["targets"], again["budgets"], again["changed_rules"]) == (0, 0, [])
    assert rows(engine, "SELECT FROM gigawatch.alert_budget") == []
    elsewhere = "targets: {chat: {kind: slack, url_file: /etc/passwd}, ours: {kind: slack, url_file: ours}}"
    warned = run("apply", "FILE", "--dry-run", body=elsewhere + "\nroute: {target: chat}").output
    assert warned.count("warning: ") == 1 and "url_file /etc/passwd is not in /etc/gigawatch/alerts" in warned, warned
    assert run("targets").output.startswith("No targets")
    assert run("deliveries").output == "No notifications.\n"


def test_rules_that_fail_at_present_are_taken_and_said(run: Run, engine: Engine, tmp_path: Path) -> None:
    """Broken SQL, a table of the owner's alone, and what would be the owner: none is."""
    path = tmp_path / "own.yaml"
    sql = {
        "broken": "SELECT nothing AS value",
        "peeping": "SELECT name AS site, 1 AS value FROM gigawatch.api_token",
        "rising": "SELECT 'x' AS site, length(set_config('role', 'gigawatch', true)) AS value",
        "good": "SELECT 'x' AS site, 1 AS value",
    }
    rules = {name: {"about": "x", "summary": "x", "labels": ["site"], "sql": it} for name, it in sql.items()}
    path.write_text(json.dumps({"rules": rules}), encoding="utf-8")
    done = run("apply", str(path), "--dry-run")
    assert done.exit_code == 0, done.output
    said = [line for line in done.output.splitlines() if "fails at present" in line]
    assert [line.split()[1] for line in said] == ["broken", "peeping", "rising"]
    assert "permission denied" in said[1] and "permission denied to set role" in said[2]
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM gigawatch.alert_configuration")) == 0
        assert connection.scalar(text("SELECT current_user = session_user")) is True


def test_rules_are_tried_on_tables(run: Run) -> None:
    good = run("test", str(Path(__file__).parents[1] / "alerts/row_remap_failed.yaml"))
    assert good.exit_code == 0, good.output
    assert all(line.startswith("ok   row_remap_failed: ") for line in good.output.splitlines())
    bad = run(
        "test", "FILE", body="{rule: row_remap_failed, tests: [{name: it fires, expect: [{at: 0s, firing: [{}]}]}]}"
    )
    assert bad.exit_code == 1 and bad.output.startswith("FAIL row_remap_failed: it fires"), bad.output
    assert run("test", "FILE", body="{rule: nothing, tests: []}").exit_code == 7
    twice = "{rule: breaker, tests: [{name: a, rows: [{at: 0s, report.meters_now: [{site: a, site: b}]}], expect: []}]}"
    huge = twice.replace("{site: a, site: b}", "{breaker_a: 1e400}").replace(
        "expect: []", "expect: [{at: 0s, firing: []}]"
    )
    refused = run("test", "FILE", body=huge)
    assert refused.exit_code == 7 and "report.meters_now cannot hold its rows" in refused.output
    assert "'site' is there twice" in run("test", "FILE", body=twice).output


# The same over HTTP, and what needs a running server.


@contextmanager
def serving(database_url: str, folder: Path) -> Iterator[Api]:
    (folder / "gigawatch.toml").write_text('[alerts]\nallow_targets = ["127.0.0.1"]\n', encoding="utf-8")
    with running_api(database_url, folder / "api.log", GIGAWATCH_CONFIG=str(folder / "gigawatch.toml")) as api:
        yield api


Ask = Callable[..., httpx.Response]
OWN = {"about": "Own", "summary": "{host}", "labels": ["host"], "sql": "SELECT 'a' AS host, 1 AS value"}


def test_over_http_each_role_may_do_what_it_may(database_url: str, tmp_path: Path, run: Run, engine: Engine) -> None:
    with serving(database_url, tmp_path) as api, Receiver(answers(200, b"thanks")) as receiver:

        def ask(role: Any, method: str, path: str, **more: Any) -> httpx.Response:
            with api.client(role) as client:
                return client.request(method, f"/api/v1/alerts{path}", **more)

        assert httpx.get(f"{api.url}/api/v1/alerts").status_code == 401
        check_configurations(ask, engine, receiver)
        wait_for("notification", lambda: receiver.received)
        (alert,) = ask("viewer", "GET", "").json()
        check_reads(ask, alert["alert_id"])
        check_acknowledgement(ask, alert["alert_id"])
        check_silences(ask)
        check_deliveries(ask, run, receiver)


def check_configurations(ask: Ask, engine: Engine, receiver: Receiver) -> None:
    rules = {name: {"enabled": False} for name in files.shipped()} | {"own": OWN}
    hook = {"kind": "alertmanager", "url": receiver.url}
    good = {"rules": rules, "targets": {"hook": hook}, "route": {"target": "hook"}}
    wrong = "targets: {}\nroute: {target: h}\n"
    for role in ("viewer", "operator", "agent"):
        assert ask(role, "PUT", "/configuration", content=json.dumps(good)).status_code == 403
    refused = ask("admin", "PUT", "/configuration", content=wrong)
    assert refused.status_code == 422
    assert [(it["line"], it["problem"]) for it in refused.json()["findings"]] == [(2, "there is no target 'h'")]
    assert ask("admin", "PUT", "/configuration", content=b"x" * 6_000_000).status_code == 413
    assert ask("admin", "PUT", "/configuration", content=json.dumps(good), params={"dry_run": True}).json()["dry_run"]
    assert rows(engine, "SELECT FROM gigawatch.alert_configuration") == []
    applied = ask("admin", "PUT", "/configuration", content=json.dumps(good), params={"source": "mine.yaml"})
    assert applied.status_code == 200, applied.text
    assert (applied.json()["targets"], applied.json()["rules"]) == (1, 1)
    (kept,) = rows(engine, "SELECT author, source FROM gigawatch.alert_configuration")
    assert kept["source"] == "mine.yaml" and kept["author"].startswith("test-admin-")
    assert ask("viewer", "GET", "/configuration").json()["targets"]["hook"]["url"].endswith("/…")


def check_reads(ask: Ask, number: int) -> None:
    for path in ("", "/rules", "/silences", "/targets", "/deliveries", "/configuration", f"/{number}"):
        for role, status in (("viewer", 200), ("operator", 200), ("admin", 200), ("agent", 403)):
            assert ask(role, "GET", path).status_code == status, (role, path)
    assert {it["name"] for it in ask("viewer", "GET", "/rules").json()} == {*files.shipped(), "own"}
    assert ask("viewer", "GET", f"/{number}").json()["alert"]["labels"] == {"host": "a"}
    for path, status in (("/99999", 404), ("/x", 422), (f"/{10**12}", 404)):
        assert ask("viewer", "GET", path).status_code == status, path
    for params in ({"state": "sleeping"}, {"severity": "bad"}, {"limit": 0}, {"limit": 10**9}, {"offset": -1},
                   {"since": "yesterday"}, {"quiet": "perhaps"}, {"site": "a\0b"}):  # fmt: skip
        assert ask("viewer", "GET", "", params=params).status_code == 422, params
    assert ask("viewer", "GET", "", params={"state": ["resolved"], "since": "2020-01-01T00:00:00"}).json() == []
    assert ask("viewer", "GET", "/deliveries", params={"alert_id": 10**12}).json() == []
    assert len(ask("viewer", "GET", "/deliveries", params={"alert_id": number}).json()) == 1


def check_acknowledgement(ask: Ask, number: int) -> None:
    wanted = {"alert_ids": [number], "note": "mine"}
    assert "it needs operator" in ask("viewer", "POST", "/acknowledge", json=wanted).json()["detail"]
    assert ask("operator", "POST", "/acknowledge", json=wanted).json() == {"number": 1}
    assert ask("operator", "POST", "/acknowledge", json=wanted).status_code == 422
    (done,) = (it for it in ask("viewer", "GET", f"/{number}").json()["changes"] if it["change"] == "acknowledged")
    assert done["author"].startswith("test-operator-") and done["note"] == "mine"
    wrong: list[dict[str, Any]] = [
        {"alert_ids": []},
        {"alert_ids": [10**19]},
        {"alert_ids": ["1"]},
        {},
        {**wanted, "a": 1},
        {**wanted, "note": "a\0b"},
        {**wanted, "note": "x" * 2_000},
    ]
    for body in wrong:
        assert ask("operator", "POST", "/acknowledge", json=body).status_code == 422, body


def check_silences(ask: Ask) -> None:
    wanted = {
        "matchers": [{"label": "host", "operator": "=", "value": "a"}], "reason": "fans",
        "ends": f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}",
    }  # fmt: skip
    assert ask("viewer", "POST", "/silences", json=wanted).status_code == 403
    made = ask("operator", "POST", "/silences", json=wanted)
    assert made.status_code == 200, made.text
    (silence,) = ask("viewer", "GET", "/silences").json()
    assert (silence["silence_id"], silence["reason"]) == (made.json()["number"], "fans")
    assert silence["author"].startswith("test-operator-")
    wait_for("silence", lambda: ask("viewer", "GET", "", params={"quiet": True}).json())
    wrong: list[dict[str, Any]] = [
        {"ends": "2020-01-01T00:00:00Z"}, {"ends": "soon"}, {"matchers": []}, {"reason": ""}, {"who": "me"},
        {"matchers": [{"label": "a", "operator": "=~", "value": "("}]},
        {"matchers": [{"label": "a", "operator": "=", "value": "b\0"}]}, {"reason": "a\0b"},
    ]  # fmt: skip
    for change in wrong:
        assert ask("operator", "POST", "/silences", json=wanted | change).status_code == 422, change
    assert ask("operator", "POST", "/silences", content=b"{").status_code == 422
    assert ask("viewer", "DELETE", f"/silences/{silence['silence_id']}").status_code == 403
    assert ask("operator", "DELETE", f"/silences/{silence['silence_id']}").status_code == 200
    for number in (silence["silence_id"], 77, 10**12):
        assert ask("operator", "DELETE", f"/silences/{number}").status_code == 422
    wait_for("its end", lambda: ask("viewer", "GET", "", params={"quiet": False}).json())


def check_deliveries(ask: Ask, run: Run, receiver: Receiver) -> None:
    assert ask("viewer", "POST", "/targets/hook/test").status_code == 403
    assert ask("operator", "POST", "/targets/other/test").status_code == 422
    tested = ask("operator", "POST", "/targets/hook/test")
    assert tested.status_code == 200, tested.text
    wait_for("test", lambda: any(b"This is a test" in it.body for it in receiver.received))
    wait_for("answer", lambda: ask("viewer", "GET", "/deliveries").json()[0]["state"] == "sent")
    delivery = ask("viewer", "GET", "/deliveries", params={"target": "hook", "limit": 1}).json()[0]
    assert (delivery["status"], delivery["answer"], delivery["why"]) == (200, "thanks", "test")
    assert delivery["delivery_id"] == tested.json()["number"]
    assert ask("viewer", "POST", "/deliveries/1/resend").status_code == 403
    resent = ask("operator", "POST", f"/deliveries/{delivery['delivery_id']}/resend")
    assert resent.status_code == 422 and "is sent" in resent.text
    done = run("send-test", "hook", "--author", "ada")
    assert (done.exit_code, done.output) == (0, "sent (attempts: 1): thanks\n")
    assert b"sent by ada" in receiver.received[-1].body
    assert "hook" in run("targets").output and "thanks" in run("deliveries").output

    # What a target refuses for good is dead, and can be sent again.
    receiver.behaviour = answers(404, b"gone")
    dead = run("send-test", "hook")
    assert dead.exit_code == 1 and "dead (attempts: 1): HTTP 404: gone" in dead.output
    receiver.behaviour = answers(200, b"thanks")
    (last,) = json.loads(run("deliveries", "--state", "dead", "--json").output)
    assert run("resend", str(last["delivery_id"])).output == "1 to be sent again.\n"
    wait_for("it", lambda: [it.key for it in receiver.received[-2:]] == [last["key"]] * 2)
