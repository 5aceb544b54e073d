"""What targets are sent, against the schemas of those who take it."""

import json
import time
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slack_sdk.models.blocks import Block

from api.alerts.payloads import KINDS, alertmanager, alertmanager_api, template
from api.alerts.payloads.request import Impossible, Request, key
from gigawatch.alerts.notification import Notification
from tests.alerting import alert, notification, telling

SCHEMAS = Path(__file__).parents[1] / "alerts/schemas"
# As bad as words of drivers and people get: marks of all formats, wide characters, line ends, and long.
WORDS = st.text(st.sampled_from("a&<>|*_`[]()\"'\\\n\t\0é漢🔥"), max_size=600).map(lambda words: words * 3)


def schema(name: str) -> jsonschema.Draft202012Validator:
    content = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(content, format_checker=jsonschema.FormatChecker())


def made(kind: str, told: Notification) -> tuple[Request, Any]:
    request = KINDS[kind](telling(kind, told))
    return request, json.loads(request.body)


def check(kind: str, told: Notification) -> None:
    """Hold a payload against its receiver's schema and bounds."""
    request, content = made(kind, told)
    if kind == "slack":
        (attachment,) = content["attachments"]
        assert content.keys() == {"text", "attachments"} and attachment.keys() == {"color", "blocks"}
        assert 0 < len(attachment["blocks"]) <= 50 and 0 < len(content["text"]) <= 3_000
        assert sum(len(it["text"]["text"]) for it in attachment["blocks"] if "text" in it) <= 12_500
        for block in Block.parse_all(attachment["blocks"]):
            block.validate_json()
        assert [it.to_dict() for it in Block.parse_all(attachment["blocks"])] == attachment["blocks"]
    elif kind == "opsgenie":
        schema("opsgenie_create" if request.url.endswith("/hook") else "opsgenie_action").validate(content)
        assert sum(len(name) + len(text) for name, text in content.get("details", {}).items()) <= 8_000
    else:
        names = {"pagerduty": "pagerduty_events_v2", "teams": "teams_message"}
        names |= {"alertmanager": "alertmanager_webhook", "alertmanager_api": "alertmanager_postable_alerts"}
        schema(names[kind]).validate(content)
        assert len(request.body) <= {"pagerduty": 512_000, "teams": 28_000}.get(kind, 10_000_000)


SPOKEN = sorted(KINDS.keys() - {"template"})


@pytest.mark.parametrize("kind", SPOKEN)
def test_payloads_are_what_their_receivers_take(kind: str) -> None:
    bare = alert(url=None, runbook=None, value=None, details={})
    check(kind, notification())
    check(kind, notification(bare, external_url=None, group_labels={}, common_labels={}))
    check(kind, notification(alert(1), alert(2, status="resolved")))
    check(kind, notification(alert(status="resolved")))
    check(kind, notification(alert(acknowledged_by="ada"), why="changed"))
    check(kind, notification(*(alert(number) for number in range(100)), left_out=9_900, firing=10_000))


@pytest.mark.parametrize("kind", SPOKEN)
@given(words=WORDS)
@settings(max_examples=25, deadline=None)
def test_payloads_keep_their_bounds_whatever_the_words(kind: str, words: str) -> None:
    worst = [
        alert(
            number,
            summary=words,
            labels={"site": words[:200] or "x", "hostname": words[:200] or "x"},
            details={f"detail {it}": words for it in range(12)},
            url="https://watch.example.com/" + "a&" * 100,
            runbook="https://docs.example.com/" + "b&" * 100,
        )
        for number in range(60)
    ]
    check(kind, notification(*worst, title=words, common_labels={"site": words[:200]}, group_labels={"site": words}))


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
    request, (firing, ended) = made("alertmanager_api", notification(alert(1), alert(2, status="resolved")))
    assert request.url == "https://example.com/hook/api/v2/alerts"
    # Four sendings of five minutes from when it is sent.
    assert firing["endsAt"] == "2026-03-01T12:20:00Z" and alertmanager_api.SEND_AGAIN_S == 300
    assert ended["endsAt"] == "2026-03-01T12:00:00Z"
    there = telling("alertmanager_api", notification())
    again = KINDS["alertmanager_api"](msgspec.structs.replace(there, url=request.url))
    assert again.url == request.url


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
    began = time.monotonic()
    with pytest.raises(Impossible, match="template"):
        rendered(bomb)
    assert time.monotonic() - began < template.TIMEOUT_S + 2


def test_a_template_learns_nothing_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIGAWATCH_STORE__DATABASE_URL", "postgresql://secret")
    for source in ("{{ self }}", "{{ cycler }}", "{{ namespace }}", "{{ lipsum.__globals__ }}"):
        try:
            assert "secret" not in rendered(source)
        except Impossible as error:
            assert "secret" not in str(error)  # noqa: PT017 # either will do
