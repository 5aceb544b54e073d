"""What targets are told, kind by kind."""

import resource

import msgspec
import pytest

from api.alerts import rendering
from api.alerts.payloads import KINDS, alertmanager, alertmanager_api, request
from api.alerts.payloads.request import Impossible, NotYet, key
from gigawatch.alerts.notification import Notification
from tests.alerting import alert, made, notification, telling

SPOKEN = sorted(KINDS.keys() - {"template"})


def test_alertmanagers_payloads_name_things_as_prometheus_users_do() -> None:
    told = notification(alert(1), alert(2, severity="warning", status="resolved"), left_out=3)
    content = made("alertmanager", told)[1]
    assert content["groupLabels"] == {"alertname": "xid_fatal", "site": "oslo"}
    assert content["commonLabels"] == {"alertname": "xid_fatal", "site": "oslo"}
    assert content["truncatedAlerts"] == 3 and content["receiver"] == "pager"
    first, second = content["alerts"]
    assert first["labels"] == {
        "alertname": "xid_fatal",
        "severity": "critical",
        "site": "oslo",
        "hostname": "node-1",
        "gpu_uuid": "GPU-1",
    }
    assert (first["startsAt"], first["endsAt"]) == ("2026-03-01T11:58:00Z", "0001-01-01T00:00:00Z")
    assert (second["status"], second["endsAt"]) == ("resolved", "2026-03-01T12:00:00Z")
    assert first["annotations"]["runbook_url"] == "https://docs.example.com/runbooks/xid_fatal"
    assert first["annotations"]["value"] == "79"
    # Summaries differ, what is common does not.
    assert "summary" not in content["commonAnnotations"]
    assert content["commonAnnotations"]["gpu_model"] == "H100 <SXM> & co."
    assert alertmanager.label_name("9 lives-é") == "_9_lives__"


def test_alerts_that_are_pushed_end_after_they_would_have_been_pushed_again() -> None:
    asked, (firing, ended) = made("alertmanager_api", notification(alert(1), alert(2, status="resolved")))
    assert asked.url == "https://example.com/hook/api/v2/alerts"
    # Four sendings of five minutes from when it is sent.
    assert firing["endsAt"] == "2026-03-01T12:20:00Z" and alertmanager_api.SEND_AGAIN_S == 300
    assert ended["endsAt"] == "2026-03-01T12:00:00Z"
    there = telling("alertmanager_api", notification())
    again = KINDS["alertmanager_api"](msgspec.structs.replace(there, url=asked.url))
    assert again.url == asked.url


def test_slack_shows_words_as_they_are_and_links_alone_as_links() -> None:
    content = made("slack", notification(alert(1), *(alert(it) for it in range(2, 60)), left_out=40))[1]
    (attachment,) = content["attachments"]
    assert attachment["color"] == "#d32f2f" and content["text"].startswith("<https://watch.example.com|CRITICAL: 59 ")
    words = attachment["blocks"][0]["text"]["text"]
    assert words.startswith("*<https://watch.example.com/alerts/1|node-1: XID 79")
    assert "gpu_model: H100 &lt;SXM&gt; &amp; co." in words
    assert "<https://docs.example.com/runbooks/xid_fatal|Runbook>" in words
    # 59 + 40 alerts, of which 49 are shown.
    assert attachment["blocks"][-1]["elements"][0]["text"] == "and 50 more"
    assert made("slack", notification(alert(status="resolved")))[1]["attachments"][0]["color"] == "#2e7d32"


def test_teams_shows_as_many_alerts_as_fit() -> None:
    content = made("teams", notification(*(alert(number) for number in range(100)), left_out=900))[1]
    body = content["attachments"][0]["content"]["body"]
    shown = len(body) - 2
    assert 10 < shown < 100 and body[-1]["inlines"][0]["text"] == f"and {1_000 - shown} more"
    assert body[0]["style"] == "attention"
    assert body[1]["items"][0]["inlines"][0]["selectAction"]["url"] == "https://watch.example.com/alerts/0"


@pytest.mark.parametrize(
    ("told", "event", "path"),
    [
        (notification(alert(1), alert(2, status="resolved")), "trigger", ""),
        (notification(alert(1, acknowledged_by="ada")), "acknowledge", "acknowledge"),
        (notification(alert(1, acknowledged_by="ada"), alert(2)), "trigger", ""),
        # Those that are left out may be anybody's.
        (notification(alert(1, acknowledged_by="ada"), firing=2, left_out=1), "trigger", ""),
        (notification(alert(1, status="resolved")), "resolve", "close"),
    ],
)
def test_incidents_open_are_taken_on_and_end_by_one_key(told: Notification, event: str, path: str) -> None:
    content = made("pagerduty", told)[1]
    assert (content["event_action"], content["dedup_key"]) == (event, key(told.group_key))
    assert content["routing_key"] == "k3y" and content["payload"]["source"] == "node-1"
    request, content = made("opsgenie", told)
    assert request.headers == {"Authorization": "GenieKey k3y"}
    if path:
        assert request.url == f"https://example.com/hook/{key(told.group_key)}/{path}?identifierType=alias"
    else:
        assert request.url == "https://example.com/hook"
        assert (content["alias"], content["priority"]) == (key(told.group_key), "P1")


def test_what_is_simulated_says_so() -> None:
    for kind in SPOKEN:
        assert b"imulated" in KINDS[kind](telling(kind, notification(alert(simulated=True)))).body.lower()


def rendered(source: str) -> str:
    told = notification(alert(1), alert(2))
    return KINDS["template"](telling("template", told, template=source)).body.decode()


def test_a_template_sees_the_notification() -> None:
    source = (
        "{% for alert in notification.alerts %}{{ alert.labels.hostname }} {{ alert.details | tojson }};{% endfor %}"
        "{{ notification.title | upper }}"
    )
    details = '{"gpu_model": "H100 <SXM> & co.", "message": "*not* [bold](https://example.com)"}'
    assert rendered(source) == f"node-1 {details};node-2 {details};2 XID_FATAL AT OSLO"
    request = KINDS["template"](telling("template", notification(), template="x", content_type="text/plain"))
    assert request.content_type == "text/plain" and request.url == "https://example.com/hook"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{\n{% if %}", "line 2: Expected an expression"),
        ("a\n\n{{ notification.titel }}", "line 3: 'dict object' has no attribute 'titel'"),
        ("{{ 1 / 0 }}", "line 1: division by zero"),
        ("{{ notification.__class__.__mro__ }}", "line 1: access to attribute '__class__'"),
        ("{{ ''.join(open('/etc/passwd')) }}", "line 1: 'open' is undefined"),
        ("{% for a in range(10 ** 9) %}x{% endfor %}", "line 1: Range too big"),
        ("{% for a in range(10000) %}{{ 'x' * 100 }}{% endfor %}", "longer than 262144 characters"),
        ("{{ 'x' * 10 ** 12 }}", "more memory than it may"),
        ("{% set n = notification %}{% include 'x' %}", "line 1: no loader"),
    ],
)
def test_a_templates_errors_name_line_and_reason(source: str, words: str) -> None:
    with pytest.raises(Impossible, match="the template failed") as error:
        rendered(source)
    assert words in str(error.value)


@pytest.mark.parametrize(
    "bomb",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = a * b %}{% endfor %}{% endfor %}",
        # No bytecode runs amid this, so that no check of ours would.
        "{{ 9 ** (9 ** 9) }}",
    ],
)
def test_a_template_that_would_not_end_is_ended(bomb: str) -> None:
    before_s = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    with pytest.raises((Impossible, NotYet), match="template"):
        rendered(bomb)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before_s < rendering.CPU_S + 1


def test_a_template_learns_nothing_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIGAWATCH_STORE__DATABASE_URL", "postgresql://secret")
    for source in ("{{ self }}", "{{ cycler }}", "{{ namespace }}", "{{ lipsum.__globals__ }}"):
        try:
            assert "secret" not in rendered(source)
        except Impossible as error:
            assert "secret" not in str(error)  # noqa: PT017 # either will do


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (None, "W", None), (0.82, "1", "0.82"), (0.82, None, "0.82"), (1.0, "errors", "1 error"),
        (2.0, "errors", "2 errors"), (1.0, "s", "1 s"), (1.0, "GPUs", "1 GPU"), (79.0, "XID", "XID 79"),
    ],
)  # fmt: skip
def test_values_are_said_with_their_unit(value: float | None, unit: str | None, said: str | None) -> None:
    assert request.value(msgspec.structs.replace(alert(1), value=value, unit=unit)) == said
