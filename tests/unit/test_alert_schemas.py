"""What targets are sent, against what its receivers publish: schemas, typed models and clients of their own.

Where a vendor publishes no limits in a form that machines read, tests/alerts/schemas restates those of its pages.
"""

import json
import ssl
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import adaptive_cards
import jsonschema
import msgspec
import opsgenie_sdk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pagerduty import EventsApiV2Client
from slack_sdk.errors import SlackObjectFormationError
from slack_sdk.models.attachments import BlockAttachment
from slack_sdk.models.blocks import Block
from slack_sdk.webhook import WebhookClient

from api.alerts.payloads import KINDS, USUAL_URLS
from gigawatch.alerts.notification import Notification
from gigawatch.alerts.sending import notification_of_test
from tests.alerting import NOW, alert, made, notification, telling
from tests.receivers import Received, Receiver, answers, self_signed

SCHEMAS = Path(__file__).parents[1] / "alerts/schemas"
SPOKEN = sorted(KINDS.keys() - {"template"})
# As bad as words of drivers and people get: marks of all formats, wide characters, line ends, and long.
WORDS = st.text(st.sampled_from("a&<>|*_`[]()\"'\\\n\t\0é漢🔥\u202e\u0301\ufeff"), max_size=600).map(lambda it: it * 3)
BYTES = {"pagerduty": 512_000, "teams": 28_000}
OPSGENIE = {
    "hook": opsgenie_sdk.CreateAlertPayload,
    "acknowledge": opsgenie_sdk.AcknowledgeAlertPayload,
    "close": opsgenie_sdk.CloseAlertPayload,
}


@cache
def restated(name: str) -> jsonschema.Draft202012Validator:
    content = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(content, format_checker=jsonschema.FormatChecker())


@cache
def card(version: str) -> jsonschema.Draft6Validator:
    """Microsoft's schema of adaptive cards, from microsoft/AdaptiveCards."""
    content = json.loads((files(adaptive_cards) / f"schemas/schema-{version}.json").read_text(encoding="utf-8"))
    return jsonschema.Draft6Validator(content, format_checker=jsonschema.FormatChecker())


def attachment(content: dict[str, Any]) -> BlockAttachment:
    """Slack's model of our attachment."""
    return BlockAttachment(blocks=Block.parse_all(content["blocks"]), color=content["color"])


def validate(kind: str, path: str, content: Any) -> None:
    """Refuse what a receiver would.

    Raises:
        jsonschema.ValidationError: it breaks a schema.
        SlackObjectFormationError: it breaks Slack's models.
        ValueError, TypeError: it breaks Opsgenie's models, or is too long.
    """
    action = urlsplit(path).path.rpartition("/")[2]
    names = {"alertmanager": "alertmanager_webhook", "alertmanager_api": "alertmanager_postable_alerts"}
    names |= {"pagerduty": "pagerduty_events_v2", "slack": "slack_message", "teams": "teams_message"}
    names |= {"opsgenie": "opsgenie_create" if action == "hook" else "opsgenie_action"}
    restated(names[kind]).validate(content)
    if kind == "slack":
        (ours,) = content["attachments"]
        theirs = attachment(ours)
        for model in (theirs, *theirs.blocks):
            model.validate_json()
        if theirs.to_dict() != ours:
            raise ValueError(f"Slack's models know only {theirs.to_dict()}")
        if (length := sum(len(it["text"]["text"]) for it in ours["blocks"] if "text" in it)) > 12_500:
            raise ValueError(f"{length} characters in all")
    elif kind == "teams":
        ours = content["attachments"][0]["content"]
        card(ours["version"]).validate(ours)
    elif kind == "opsgenie":
        theirs = opsgenie_sdk.ApiClient().sanitize_for_serialization(OPSGENIE[action](**content))
        if theirs != content:
            raise ValueError(f"Opsgenie's models know only {theirs}")
        if (length := sum(len(name) + len(text) for name, text in content.get("details", {}).items())) > 8_000:
            raise ValueError(f"{length} characters of details")
    if (length := len(msgspec.json.encode(content))) > BYTES.get(kind, 10_000_000):
        raise ValueError(f"{length} bytes")


def check(kind: str, told: Notification) -> None:
    request, content = made(kind, told)
    validate(kind, request.url, content)


LONG = "ſ" * 30_000
VARIANTS = {
    "test": notification_of_test("pager", "ada", UUID(int=1), NOW),
    "firing": notification(),
    "warning": notification(alert(severity="warning"), severity="warning"),
    "info": notification(alert(severity="info"), severity="info"),
    "resolved": notification(alert(status="resolved")),
    "mixed": notification(alert(1), alert(2, status="resolved")),
    "acknowledged": notification(alert(acknowledged_by="ada"), why="changed"),
    "50 alerts": notification(*(alert(number) for number in range(50))),
    "10,000 alerts": notification(*(alert(number) for number in range(10_000))),
    "10,000 alerts, 100 told": notification(*(alert(it) for it in range(100)), left_out=9_900, firing=10_000),
    "10,000 resolved": notification(*(alert(it, status="resolved") for it in range(100)), left_out=9_900),
    "bare": notification(
        alert(url=None, runbook=None, value=None, details={}, labels={}),
        external_url=None, group_labels={}, common_labels={},
    ),
    "empty words": notification(
        alert(summary="", labels={"site": "", "hostname": ""}, details={"message": ""}, unit=""),
        title="", group_labels={"site": ""}, common_labels={"site": ""},
    ),
    "long": notification(alert(summary=LONG, details={LONG: LONG}, labels={"site": LONG}), title=LONG),
    "long, resolved": notification(alert(status="resolved", summary=LONG), title=LONG),
    "long, acknowledged": notification(alert(acknowledged_by=LONG), title=LONG),
    "long labels": notification(
        group_labels={f"label {it}": LONG for it in range(3)}, common_labels={f"label {it}": LONG for it in range(60)}
    ),
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", SPOKEN)
def test_payloads_are_what_their_receivers_take(kind: str, variant: str) -> None:
    check(kind, VARIANTS[variant])


@pytest.mark.parametrize("kind", SPOKEN)
@given(words=WORDS)
@settings(max_examples=25)
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


def run(content: Any) -> Any:
    """The first words of a card."""
    return content["attachments"][0]["content"]["body"][0]["items"][0]["inlines"][0]


def block(content: Any) -> Any:
    """The first of Slack's."""
    return content["attachments"][0]["blocks"][0]


@pytest.mark.parametrize(
    ("kind", "spoil", "words"),
    [
        ("pagerduty", lambda it: it.pop("routing_key"), "'routing_key' is a required property"),
        ("pagerduty", lambda it: it.update(event_action="close"), "'close' is not one of"),
        ("pagerduty", lambda it: it.update(dedup_key="x" * 256), "is too long"),
        ("pagerduty", lambda it: it.update(links=[{"text": "Alert"}]), "'href' is a required property"),
        ("pagerduty", lambda it: it.update(client_url="watch.example.com"), "does not match"),
        ("pagerduty", lambda it: it.pop("payload"), "'payload' is a required property"),
        ("pagerduty", lambda it: it["payload"].update(summary="x" * 1_025), "is too long"),
        ("pagerduty", lambda it: it["payload"].update(severity="fatal"), "'fatal' is not one of"),
        ("pagerduty", lambda it: it["payload"].pop("source"), "'source' is a required property"),
        ("pagerduty", lambda it: it["payload"].update(timestamp="now"), "'now' is not a 'date-time'"),
        ("pagerduty", lambda it: it["payload"]["custom_details"].update(more="x" * 512_000), "bytes"),
        ("opsgenie", lambda it: it.pop("message"), "'message' is a required property"),
        ("opsgenie", lambda it: it.update(message="x" * 131), "is too long"),
        ("opsgenie", lambda it: it.update(alias="x" * 513), "is too long"),
        ("opsgenie", lambda it: it.update(description="x" * 15_001), "is too long"),
        ("opsgenie", lambda it: it.update(entity="x" * 513), "is too long"),
        ("opsgenie", lambda it: it.update(tags=["x"] * 21), "is too long"),
        ("opsgenie", lambda it: it.update(tags=["x" * 51]), "is too long"),
        ("opsgenie", lambda it: it.update(priority="critical"), "'critical' is not one of"),
        ("opsgenie", lambda it: it.update(details={"count": 3}), "3 is not of type 'string'"),
        ("opsgenie", lambda it: it.update(details={"message": "x" * 8_000}), "characters of details"),
        ("slack", lambda it: it.update(text=""), "should be non-empty|is too short"),
        ("slack", lambda it: it["attachments"][0].update(blocks=[]), "should be non-empty|is too short"),
        ("slack", lambda it: it["attachments"][0].update(blocks=[block(it)] * 51), "is too long"),
        ("slack", lambda it: it["attachments"][0].update(blocks=[block(it)] * 50), "characters in all"),
        ("slack", lambda it: it["attachments"][0].update(color="reddish"), "color attribute must be"),
        ("slack", lambda it: block(it)["text"].update(text="x" * 3_001), "text attribute cannot exceed 3000"),
        ("slack", lambda it: block(it).pop("text"), "text or fields attribute must be specified"),
        ("slack", lambda it: block(it).update(title="x"), "Slack's models know only"),
        ("teams", lambda it: it.update(type="card"), "'message' was expected"),
        ("teams", lambda it: it["attachments"][0].update(contentType="application/json"), "was expected"),
        ("teams", lambda it: it["attachments"][0]["content"].pop("version"), "'version' is a required property"),
        ("teams", lambda it: it["attachments"][0]["content"].update(title="x"), "is not valid under"),
        ("teams", lambda it: it["attachments"][0]["content"]["body"][0].update(style="critical"), "is not valid under"),
        ("teams", lambda it: it["attachments"][0]["content"]["actions"][0].pop("url"), "is not valid under"),
        ("teams", lambda it: run(it).pop("text"), "is not valid under"),
        ("teams", lambda it: run(it).update(size="huge"), "is not valid under"),
        ("teams", lambda it: run(it).update(wrap=True), "is not valid under"),
        ("teams", lambda it: run(it).update(text="x" * 28_000), "bytes"),
        ("alertmanager", lambda it: it.update(version="3"), "'4' was expected"),
        ("alertmanager_api", lambda it: it[0].pop("labels"), "'labels' is a required property"),
    ],
)
def test_what_their_receivers_refuse_is_refused_here(kind: str, spoil: Callable[[Any], object], words: str) -> None:
    request, content = made(kind, notification(alert(details={"message": "x" * 200})))
    spoil(content)
    with pytest.raises((jsonschema.ValidationError, SlackObjectFormationError, ValueError, TypeError), match=words):
        validate(kind, request.url, content)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ({"message": None}, "`message`, must not be `None`"),
        ({"priority": "critical"}, r"`priority` \(critical\)"),
        ({"group": "oslo"}, "unexpected keyword argument 'group'"),
    ],
)
def test_opsgenies_models_refuse_what_is_wrong_by_themselves(spoil: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        opsgenie_sdk.CreateAlertPayload(**made("opsgenie", notification())[1] | spoil)


STAGES = {
    "trigger": notification(alert(1), alert(2, status="resolved")),
    "acknowledge": notification(alert(1, acknowledged_by="ada")),
    "resolve": notification(alert(1, status="resolved")),
}


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def received(receiver: Receiver) -> tuple[Received, Any]:
    (came,) = receiver.received
    return came, json.loads(came.body)


@pytest.mark.usefixtures("no_proxy")
@pytest.mark.parametrize("stage", STAGES)
def test_pagerdutys_own_client_sends_the_same(stage: str, tmp_path: Path) -> None:
    content = made("pagerduty", STAGES[stage])[1]
    answer = answers(202, b'{"status": "success", "message": "Event processed", "dedup_key": "x"}')
    certificate = self_signed(tmp_path, "127.0.0.1")
    trusted = ssl.create_default_context(cafile=certificate)
    with Receiver(answer, certificate) as receiver:
        base = receiver.url.removesuffix("/hook")
        with EventsApiV2Client(content["routing_key"], base_url=base, verify=trusted) as client:
            if stage == "trigger":
                # Of its own it fills in these three, from its arguments' names.
                names = {name: content["payload"].pop(name) for name in ("summary", "source", "severity")}
                client.trigger(
                    **names, dedup_key=content["dedup_key"], links=content["links"], payload=content["payload"]
                )
                content["payload"] |= names
            else:
                getattr(client, stage)(content["dedup_key"])
        came, sent = received(receiver)
    assert came.path == urlsplit(USUAL_URLS["pagerduty"]).path
    # What it has no argument for is allowed by the schema, and what it sends we send.
    assert sent | content == content | sent
    assert content.keys() - sent.keys() == {"client", "client_url"} | (
        set() if stage == "trigger" else {"payload", "links"}
    )


@pytest.mark.usefixtures("no_proxy")
@pytest.mark.parametrize("stage", STAGES)
def test_opsgenies_own_client_sends_the_same(stage: str) -> None:
    there = msgspec.structs.replace(telling("opsgenie", STAGES[stage]), url=USUAL_URLS["opsgenie"])
    request = KINDS["opsgenie"](there)
    content = json.loads(request.body)
    address = urlsplit(request.url)
    configuration = opsgenie_sdk.Configuration()
    configuration.api_key, configuration.api_key_prefix = {"Authorization": "k3y"}, {"Authorization": "GenieKey"}
    with Receiver(answers(202, b'{"result": "queued", "took": 0.1, "requestId": "x"}')) as receiver:
        configuration.host = receiver.url.removesuffix("/hook")
        api = opsgenie_sdk.AlertApi(opsgenie_sdk.ApiClient(configuration))
        if stage == "trigger":
            api.create_alert(opsgenie_sdk.CreateAlertPayload(**content))
        else:
            *_, alias, action = address.path.split("/")
            (identifier_type,) = parse_qs(address.query)["identifierType"]
            body = {f"{action}_alert_payload": OPSGENIE[action](**content)}
            getattr(api, f"{action}_alert")(alias, identifier_type=identifier_type, **body)
        came, sent = received(receiver)
    assert came.path == address._replace(scheme="", netloc="").geturl()
    assert came.headers["authorization"] == request.headers["Authorization"]
    assert sent == content


@pytest.mark.usefixtures("no_proxy")
def test_slacks_own_client_sends_the_same() -> None:
    content = made("slack", notification(*(alert(it) for it in range(60))))[1]
    with Receiver(answers(200, b"ok")) as receiver:
        attachments = [attachment(it) for it in content["attachments"]]
        WebhookClient(receiver.url).send(text=content["text"], attachments=attachments)
        _, sent = received(receiver)
    assert sent == content
