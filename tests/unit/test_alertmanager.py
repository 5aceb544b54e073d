"""What we push is taken, listed and passed on by a real Alertmanager, whose webhook has what ours has."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import jsonschema
import msgspec
import pytest

from api.alerts.payloads import KINDS
from api.alerts.payloads.alertmanager_api import LASTS
from gigawatch.alerts.notification import Notification
from gigawatch.alerts.sending import notification_of_test
from tests.agents import wait_for
from tests.alerting import alert, notification, telling
from tests.processes import free_port
from tests.receivers import Receiver, answers

WEBHOOK = Path(__file__).parents[1] / "alerts/schemas/alertmanager_webhook.json"
CONFIGURATION = """
route: {receiver: pager, group_by: [alertname, site], group_wait: 500ms, group_interval: 500ms}
receivers: [{name: pager, webhook_configs: [{url: "%s"}]}]
"""


@pytest.fixture
def now() -> datetime:
    """Of each test: Alertmanager forgets what ended, and a run of all tests lasts longer than what we push."""
    return datetime.now(UTC).replace(microsecond=0)


def fired(now: datetime) -> dict[str, Any]:
    return {"started": now - timedelta(minutes=2), "fired": now - timedelta(minutes=1)}


@contextmanager
def alertmanager(folder: Path, webhook: str) -> Iterator[httpx.Client]:
    (folder / "alertmanager.yml").write_text(CONFIGURATION % webhook)
    address = f"127.0.0.1:{free_port()}"
    command = ["prometheus-alertmanager", f"--config.file={folder / 'alertmanager.yml'}", "--cluster.listen-address="]
    command += [f"--storage.path={folder / 'data'}", f"--web.listen-address={address}"]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            with httpx.Client(base_url=f"http://{address}", trust_env=False) as client:

                def ready() -> bool:
                    try:
                        return client.get("/-/ready").status_code == 200
                    except httpx.TransportError:
                        return False

                wait_for("Alertmanager", ready)
                yield client
        finally:
            process.kill()


def push(client: httpx.Client, told: Notification, now: datetime) -> None:
    request = KINDS["alertmanager_api"](
        msgspec.structs.replace(telling("alertmanager_api", told), url=str(client.base_url), now=now)
    )
    answer = client.post(request.url, content=request.body, headers={"Content-Type": request.content_type})
    assert answer.status_code == 200, answer.text


def listed(client: httpx.Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get("/api/v2/alerts").json()
    return sorted(found, key=lambda it: str(it["labels"]["hostname"]))


def shape(content: object) -> object:
    """Names and types of what JSON holds; of lists that of the first element."""
    if isinstance(content, dict):
        return {name: shape(it) for name, it in content.items()}
    if isinstance(content, list):
        return [shape(content[0])] if content else []
    return type(content).__name__


@pytest.mark.parametrize("bare", [False, True])
def test_pushes_are_listed_and_passed_on_as_our_own_webhook_tells_them(
    tmp_path: Path, now: datetime, bare: bool
) -> None:
    less: dict[str, Any] = {"url": None, "runbook": None, "value": None, "details": {}} if bare else {}
    firing = notification(alert(1, **fired(now), **less), alert(2, severity="warning", **fired(now), **less))
    with Receiver(answers(200)) as receiver, alertmanager(tmp_path, receiver.url) as client:
        push(client, firing, now)
        first, second = listed(client)
        assert first["labels"] == {
            "alertname": "xid_fatal",
            "severity": "critical",
            "site": "oslo",
            "hostname": "node-1",
            "gpu_uuid": "GPU-1",
        }
        assert first["annotations"]["summary"] == "node-1: XID 79, the GPU has fallen off the bus"
        assert second["labels"]["severity"] == "warning" and first["status"]["state"] in {"active", "unprocessed"}
        # By our word, and not by its resolve_timeout of 5 minutes.
        assert datetime.fromisoformat(first["endsAt"]) == now + LASTS
        wait_for("notification", lambda: receiver.received)
        theirs = json.loads(receiver.received[0].body)
        ours = json.loads(KINDS["alertmanager"](telling("alertmanager", firing)).body)
        validator = jsonschema.Draft202012Validator(json.loads(WEBHOOK.read_text(encoding="utf-8")))
        validator.validate(theirs)
        validator.validate(ours)
        assert shape(ours) == shape(theirs)
        for name in ("version", "status", "receiver", "groupLabels", "truncatedAlerts", "commonAnnotations"):
            assert ours[name] == theirs[name], name
        by_host = {it["labels"]["hostname"]: it for it in theirs["alerts"]}
        for alert_told in ours["alerts"]:
            same = by_host[alert_told["labels"]["hostname"]]
            for name in ("status", "labels", "annotations", "endsAt", "generatorURL"):
                assert alert_told[name] == same[name], name
            assert datetime.fromisoformat(alert_told["startsAt"]) == datetime.fromisoformat(same["startsAt"])

        # The end of one, and then of all.
        over = {"status": "resolved", "resolved": now - timedelta(seconds=1)}
        push(
            client,
            notification(alert(1, **fired(now), **less, **over), alert(2, severity="warning", **fired(now), **less)),
            now,
        )
        assert [it["labels"]["hostname"] for it in listed(client)] == ["node-2"]
        push(client, notification(alert(2, severity="warning", **fired(now), **less, **over)), now)
        assert listed(client) == []
        wait_for("end", lambda: json.loads(receiver.received[-1].body)["status"] == "resolved")
        theirs = json.loads(receiver.received[-1].body)
        validator.validate(theirs)
        # Theirs may still have the other one, which ended before.
        ended = notification(alert(2, severity="warning", **fired(now), **less, **over))
        (told,) = json.loads(KINDS["alertmanager"](telling("alertmanager", ended)).body)["alerts"]
        (same,) = (it for it in theirs["alerts"] if it["labels"]["hostname"] == "node-2")
        assert (told["status"], told["endsAt"]) == (same["status"], same["endsAt"]) and shape(told) == shape(same)


def test_a_test_and_words_of_any_kind_are_taken(tmp_path: Path, now: datetime) -> None:
    words = "a&<>|*_`[]()\"'\\\n\té漢🔥" * 20
    odd = alert(
        1,
        summary=words,
        labels={"hostname": words, "9 lives-é": "x", "empty": ""},
        details={"x y": words},
        **fired(now),
    )
    with Receiver(answers(200)) as receiver, alertmanager(tmp_path, receiver.url) as client:
        push(client, notification(odd), now)
        push(client, notification_of_test("pager", "ada", uuid4(), now), now)
        found = client.get("/api/v2/alerts").json()
        assert {it["labels"]["alertname"] for it in found} == {"test", "xid_fatal"}
        (kept,) = (it for it in found if it["labels"]["alertname"] == "xid_fatal")
        assert kept["labels"]["hostname"] == words and kept["labels"]["_9_lives__"] == "x"
