"""From the outbox to receivers on loopback, with a real store: in order, at least once, and none waits for another."""

import email.utils
import gzip
import hashlib
import hmac
import json
import logging
import os
import resource
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine, Row, text

from api.alerts import delivery
from api.alerts.configuration import Configuration, Target
from api.alerts.delivery import UNKNOWN_ADDRESS, Deliverer, Pace
from api.alerts.payloads import template
from gigawatch.alerts.sending import resend, send_test
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.settings import Alerts
from tests.alerting import notification
from tests.receivers import (
    Handler,
    Receiver,
    answers,
    breaks_off,
    drips,
    floods,
    hangs,
    in_turn,
    lingers,
    self_signed,
    sends,
)

# What is here does not differ between the store's levels.
pytestmark = pytest.mark.parametrize("database_url", ["embedded"], indirect=True)
QUICK = Pace(look_every_s=0.2, backoff_s=0.01, longest_backoff_s=0.05, breaker_failures=1_000)
ALLOWED = Alerts(allow_targets=("127.0.0.0/8",), delivery_timeout_s=1.0)
PATIENT = msgspec.structs.replace(ALLOWED, delivery_timeout_s=4.0)
"""Longer than a busy machine takes for a notification that nothing keeps waiting."""
log = logging.getLogger(__name__)
OK = answers(200, b"ok")


def reading(folder: Path) -> Alerts:
    """Where targets' files are in a folder."""
    return msgspec.structs.replace(ALLOWED, secrets_dir=str(folder))


def put_out(engine: Engine, target: str, count: int = 1, **more: Any) -> list[str]:
    """Notifications for a target: their keys."""
    keys = []
    with engine.begin() as connection:
        for number in range(count):
            told = notification(target=target, title=f"number {number}", **more)
            keys.append(str(uuid.uuid4()))
            connection.execute(
                text(
                    "INSERT INTO gigawatch.alert_delivery (key, target, group_key, why, notification)"
                    " VALUES (:key, :target, :group_key, :why, :told)"
                ),
                {"key": keys[-1], "target": target, "group_key": told.group_key, "why": told.why}
                | {"told": msgspec.json.encode(told).decode()},
            )
    return keys


def until(condition: Callable[[], bool]) -> None:
    """Wait for it; more closely than others do, since times are measured."""
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def configured(**urls: str) -> Configuration:
    return Configuration(targets={name: Target(kind="alertmanager", url=url) for name, url in urls.items()})


@contextmanager
def delivering(
    engine: Engine, configuration: Configuration, pace: Pace = QUICK, alerts: Alerts = ALLOWED
) -> Iterator[Deliverer]:
    deliverer = Deliverer(engine, alerts, configuration, pace=pace)
    deliverer.start()
    try:
        yield deliverer
    finally:
        began = time.monotonic()
        deliverer.stop()
        assert time.monotonic() - began < 2


def deliveries(engine: Engine, target: str) -> list[Row[Any]]:
    with engine.begin() as connection:
        query = "SELECT *, due - now() AS wait FROM report.alert_deliveries WHERE target = :name ORDER BY delivery_id"
        return list(connection.execute(text(query), {"name": target}))


def target(engine: Engine, name: str) -> Row[Any]:
    with engine.begin() as connection:
        query = text("SELECT *, open_until - now() AS open_for FROM report.alert_targets WHERE name = :name")
        return connection.execute(query, {"name": name}).one()


def settled(engine: Engine, name: str, state: str = "sent") -> Callable[[], bool]:
    return lambda: bool(deliveries(engine, name)) and all(it.state == state for it in deliveries(engine, name))


def latencies_of(good: Receiver, engine: Engine, deliverer: Deliverer, count: int) -> list[float]:
    """How long target good waits for each of some notifications that are put out one after the other."""
    found = []
    for number in range(count):
        began_s = time.monotonic()
        put_out(engine, "good")
        deliverer.wake()
        until(lambda number=number: len(good.received) > number)
        found.append(good.received[-1].time_s - began_s)
    return found


def tried(engine: Engine, name: str, times: int = 1) -> Callable[[], bool]:
    return lambda: deliveries(engine, name)[0].attempts >= times and deliveries(engine, name)[0].answer is not None


def test_notifications_arrive_once_in_order_signed_and_are_noted(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret-key\n")
    (tmp_path / "token").write_text("t0ken-of-it")
    with Receiver(OK) as receiver:
        keys = put_out(engine, "pager", 5)
        secret, bearer = str(tmp_path / "secret"), str(tmp_path / "token")
        pager = Target(kind="alertmanager", url=receiver.url, secret_file=secret, bearer_file=bearer)
        with delivering(engine, Configuration(targets={"pager": pager}), alerts=reading(tmp_path)) as deliverer:
            until(settled(engine, "pager"))
            # What comes later, too, and without anybody's waiting for the next look.
            keys += put_out(engine, "pager")
            deliverer.wake()
            until(lambda: len(receiver.received) == 6)
            until(settled(engine, "pager"))
    assert [it.key for it in receiver.received] == keys == [it.headers["idempotency-key"] for it in receiver.received]
    for request in receiver.received:
        stamp = request.headers["x-gigawatch-timestamp"]
        assert abs(int(stamp) - time.time()) < 60
        digest = hmac.new(b"s3cret-key", stamp.encode() + b"." + request.body, hashlib.sha256).hexdigest()
        assert request.headers["x-gigawatch-signature"] == f"sha256={digest}"
        assert request.headers["authorization"] == "Bearer t0ken-of-it"
    rows = deliveries(engine, "pager")
    assert {(it.attempts, it.status, it.answer) for it in rows} == {(1, 200, "ok")}
    assert all(0 <= it.duration_ms < 5_000 for it in rows)
    row = target(engine, "pager")
    assert (row.kind, row.address) == ("alertmanager", receiver.url.removesuffix("/hook"))
    assert row.failures == 0 and row.succeeded is not None and row.error is None


def test_bad_receivers_keep_no_other_waiting(engine: Engine, tmp_path: Path) -> None:
    certificate = self_signed(tmp_path, "127.0.0.1")
    with ExitStack() as stack:

        def receiver(behaviour: Any, certificate: Path | None = None) -> Receiver:
            return stack.enter_context(Receiver(behaviour, certificate))

        flood = receiver(floods)
        metadata = "http://169.254.169.254/latest/meta-data/"
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        closed = stack.enter_context(socket.socket())
        closed.bind(("127.0.0.1", 0))
        bad = {
            "hangs": receiver(hangs).url,
            "fails": receiver(answers(500, b"out of order\0")).url,
            "throttles": receiver(answers(429, Retry_After="120")).url,
            "redirects": receiver(answers(302, Location=metadata)).url,
            "floods": flood.url,
            "breaks_off": receiver(breaks_off).url,
            "drips": receiver(drips).url,
            "untrusted": receiver(OK, certificate).url,
            "no_tls": receiver(OK).url.replace("http:", "https:"),
            "silent_tls": f"https://127.0.0.1:{silent.getsockname()[1]}/",
            "refuses": f"http://127.0.0.1:{closed.getsockname()[1]}/",
            "metadata": metadata,
            "nowhere": "http://nowhere.invalid/",
        }
        good = receiver(OK)
        for name in bad:
            put_out(engine, name, 2)
        with delivering(engine, configured(**bad, good=good.url), alerts=PATIENT) as deliverer:
            until(lambda: all(tried(engine, name)() for name in bad))
            # Each is to be there long before a hanging one's time is over.
            latencies_s = latencies_of(good, engine, deliverer, 20)
        log.info("the good one: median %.3f s, longest %.3f s", sorted(latencies_s)[10], max(latencies_s))
        assert max(latencies_s) < PATIENT.delivery_timeout_s
    answered = {name: (rows[0].status, rows[0].answer) for name in bad for rows in [deliveries(engine, name)]}
    assert {status for name, (status, _) in answered.items() if name in {"hangs", "drips", "metadata"}} == {None}
    assert answered["fails"] == (500, "HTTP 500: out of order")
    assert answered["throttles"] == (429, "HTTP 429")
    assert answered["redirects"][0] == 302 and "redirects to 169.254.169.254" in answered["redirects"][1]
    assert answered["floods"] == (500, "HTTP 500: " + "x" * 500)
    # What buffers between us hold, and no gigabyte.
    assert flood.sent_bytes / len(flood.received) < 16 << 20
    for name, words in {
        "hangs": "127.0.0.1 did not answer within 4 s (alerts.delivery_timeout_s)",
        "drips": "127.0.0.1 did not answer within 4 s (alerts.delivery_timeout_s)",
        "silent_tls": "did not answer within 4 s",
        "breaks_off": "could not be asked",
        "untrusted": "no TLS with 127.0.0.1: [SSL: CERTIFICATE_VERIFY_FAILED]",
        "no_tls": "no TLS with 127.0.0.1",
        "refuses": "could not be asked",
        "metadata": "is a cloud's metadata address",
        "nowhere": "nowhere.invalid could not be asked: its name cannot be looked up",
    }.items():
        assert words in answered[name][1], name
    # Whatever they did, the second waits for the first.
    assert all([it.state for it in deliveries(engine, name)] == ["waiting"] * 2 for name in bad)
    assert all(deliveries(engine, name)[1].attempts == 0 for name in bad)
    assert target(engine, "redirects").error == answered["redirects"][1]
    throttled = deliveries(engine, "throttles")[0]
    assert throttled.attempts == 1 and 60 < throttled.wait.total_seconds() <= 120


def test_answers_that_are_made_to_do_harm_do_none(
    engine: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # There is no proxy: it would be an address that nobody judged.
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    bomb = gzip.compress(bytes(64 << 20))
    head = b"HTTP/1.1 500 No\r\n"
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    bad = {
        "escapes": sends(head + b"\r\n\x1b]0;mine\x07\x1b[2Jout\r\nof \x9b order \xe2\x80\xae\xc2\x9b31m\0"),
        "line": sends(b"HTTP/1.1 " + b"\x1b[31m" * 18_000 + b"\r\n\r\n"),
        "header": sends(b"HTTP/1.1 200 OK\r\n" + b"bad header " * 8_000 + b"\r\n\r\n"),
        "headers": sends(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n" * 10_000),
        "place": sends(b"HTTP/1.1 302 No\r\nLocation: http://" + b"a" * 90_000 + b"/\r\nContent-Length: 0\r\n\r\n"),
        "wait": answers(429, Retry_After="9" * 60_000),
        "date": answers(503, Retry_After="Mon, 01 Jan 0001 00:00:00 +2359"),
        "preludes": sends(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000),
        "crumbs": sends(chunked, b"1\r\nx\r\n" * 10_000),
        "extended": sends(chunked + b"1;", b"x" * 60_000),
        "zipped": answers(500, bomb, Content_Encoding="gzip"),
        "switched": sends(b"HTTP/1.1 101 Yes\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n"),
    }
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with ExitStack() as stack:
        receivers = {name: stack.enter_context(Receiver(it)) for name, it in bad.items()}
        good = stack.enter_context(Receiver(OK))
        urls = {name: it.url for name, it in receivers.items()}
        for name in bad:
            put_out(engine, name)
        pace = msgspec.structs.replace(QUICK, backoff_s=2, longest_backoff_s=2)
        # None of them lasts so long; a busy machine takes seconds for what they send.
        alerts = msgspec.structs.replace(ALLOWED, delivery_timeout_s=30)
        with delivering(engine, configured(**urls, good=good.url), pace, alerts) as deliverer:
            latencies_s = latencies_of(good, engine, deliverer, 10)
            until(lambda: all(tried(engine, name)() for name in bad))
        for name in ("headers", "preludes", "crumbs", "extended"):
            # What lies in buffers between us is sent as well.
            assert receivers[name].sent_bytes / len(receivers[name].received) < 16 << 20, name
    log.info("beside harmful ones: median %.3f s, longest %.3f s", sorted(latencies_s)[5], max(latencies_s))
    assert max(latencies_s) < 15.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 100 << 10
    answered = {name: deliveries(engine, name)[0].answer for name in bad}
    assert all(len(it) <= 1_000 and it.isprintable() for it in answered.values()), answered
    assert "\x1b" not in caplog.text
    assert answered["escapes"] == "HTTP 500: ]0;mine[2Jout of \ufffd order 31m"
    assert "illegal status line" in answered["line"] and "illegal header line" in answered["header"]
    assert "Receive buffer too long" in answered["headers"]
    assert answered["place"].startswith("it redirects to aaa")
    assert "it sends more than 256 KiB" in answered["preludes"]
    assert answered["crumbs"].startswith("HTTP 500: xxx") and answered["extended"] == "HTTP 500"
    assert 0 < deliveries(engine, "wait")[0].wait.total_seconds() <= 3_600
    assert {deliveries(engine, name)[0].state for name in bad} == {"waiting"}


def test_certificates_that_are_named_are_trusted(engine: Engine, tmp_path: Path) -> None:
    certificate = self_signed(tmp_path, "127.0.0.1")
    with Receiver(OK, certificate) as receiver:
        pager = Target(kind="alertmanager", url=receiver.url, ca_file=str(certificate))
        put_out(engine, "pager")
        with delivering(engine, Configuration(targets={"pager": pager}), alerts=reading(tmp_path)):
            until(settled(engine, "pager"))


def test_whoever_says_that_it_took_something_has_taken_it(engine: Engine) -> None:
    with Receiver(lingers) as receiver:
        put_out(engine, "pager")
        with delivering(engine, configured(pager=receiver.url)):
            until(settled(engine, "pager"))
    (row,) = deliveries(engine, "pager")
    assert len(receiver.received) == 1 and row.status == 200 and row.answer.startswith("xxx")
    assert 1_000 <= row.duration_ms < 5_000


def test_failures_are_tried_again_with_the_same_key_before_what_came_later(engine: Engine) -> None:
    fails = answers(503, Retry_After="0")

    def date(handler: Handler) -> None:
        answers(429, Retry_After=email.utils.formatdate(time.time() + 1.5, usegmt=True))(handler)

    with Receiver(in_turn(answers(500), breaks_off, fails, answers(408), date, OK)) as receiver:
        first, second = put_out(engine, "pager", 2)
        with delivering(engine, configured(pager=receiver.url)):
            until(settled(engine, "pager"))
    assert [it.key for it in receiver.received] == [first] * 6 + [second]
    # The date has whole seconds.
    assert receiver.received[5].time_s - receiver.received[4].time_s > 0.3
    assert [(it.attempts, it.status) for it in deliveries(engine, "pager")] == [(6, 200), (1, 200)]
    assert target(engine, "pager").failures == 0 and target(engine, "pager").failed is not None


def test_what_never_can_succeed_is_put_aside_and_can_be_sent_again(engine: Engine) -> None:
    with Receiver(in_turn(answers(400, b"no such field"), OK)) as receiver:
        put_out(engine, "pager", 2)
        with delivering(engine, configured(pager=receiver.url)) as deliverer:
            until(lambda: deliveries(engine, "pager")[1].state == "sent")
            dead, sent = deliveries(engine, "pager")
            assert (dead.state, dead.attempts, dead.answer) == ("dead", 1, "HTTP 400: no such field")
            with engine.begin() as connection:
                with pytest.raises(GigawatchError, match=f"Notification {sent.delivery_id} is sent") as error:
                    resend(connection, sent.delivery_id)
                assert error.value.exit_code == ExitCode.DATA
                with pytest.raises(GigawatchError, match="Notification 999999 does not exist"):
                    resend(connection, 999_999)
                resend(connection, dead.delivery_id)
            deliverer.wake()
            until(settled(engine, "pager"))
    assert [it.key for it in receiver.received] == [str(dead.key), str(sent.key), str(dead.key)]


def test_what_fails_for_too_long_is_given_up(engine: Engine) -> None:
    with Receiver(answers(500)) as receiver:
        put_out(engine, "pager")
        alerts = msgspec.structs.replace(ALLOWED, give_up_after_h=3 / 3600)
        with delivering(engine, configured(pager=receiver.url), alerts=alerts):
            until(settled(engine, "pager", "dead"))
    assert len(receiver.received) > 1 and deliveries(engine, "pager")[0].answer == "HTTP 500"


def test_a_circuit_breaker_opens_and_closes(engine: Engine) -> None:
    pace = msgspec.structs.replace(QUICK, breaker_failures=3, breaker_s=1, longest_breaker_s=60)
    with Receiver(in_turn(*[answers(500)] * 5, OK)) as receiver:
        put_out(engine, "pager", 3)
        with delivering(engine, configured(pager=receiver.url), pace):
            until(lambda: len(receiver.received) >= 4)
            assert target(engine, "pager").failures >= 3
            until(settled(engine, "pager"))
    times_s = [it.time_s for it in receiver.received]
    gaps_s = [after - before for before, after in zip(times_s, times_s[1:], strict=False)]
    # Two quick ones, then a second, two and four; then all that waits.
    assert max(gaps_s[:2]) < 1.0 <= gaps_s[2] and gaps_s[3] >= 2.0 and gaps_s[4] >= 4.0 > max(gaps_s[5:])
    row = target(engine, "pager")
    assert row.failures == 0 and row.open_until is None


def test_back_off_doubles_to_its_bound_with_full_jitter(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = []

    def uniform(low: float, high: float) -> float:
        bounds.append((low, high))
        return 0.0

    monkeypatch.setattr("random.uniform", uniform)
    pace = Pace(look_every_s=0.2, breaker_failures=1_000)
    with Receiver(in_turn(*[answers(500)] * 10, OK)) as receiver:
        put_out(engine, "pager")
        with delivering(engine, configured(pager=receiver.url), pace):
            until(settled(engine, "pager"))
    assert bounds == [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (0, 32), (0, 64), (0, 128), (0, 256), (0, 300), (0, 300)]


def test_secrets_stand_in_no_row_and_no_log(engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    def echoes(handler: Any) -> None:
        words = f"no {handler.path} for {handler.headers.get('Authorization')} by {handler.server.received[-1].body!r}"
        answers(500, words.encode())(handler)

    with Receiver(echoes) as receiver:
        base = receiver.url.removesuffix("/hook")
        for name, words in {
            "url": f"{base}/services/T0PSECRET?sig=S1GNED99",
            "key": "R0UTINGKEY",
            "b": "BEARER77",
        }.items():
            (tmp_path / name).write_text(words)
        files = {name: str(tmp_path / name) for name in ("url", "key", "b")}
        targets = {
            "slack": Target(kind="slack", url_file=files["url"]),
            "pagerduty": Target(kind="pagerduty", url=base, secret_file=files["key"]),
            "opsgenie": Target(kind="opsgenie", url=base, secret_file=files["key"]),
            "alertmanager": Target(kind="alertmanager", url_file=files["url"], bearer_file=files["b"]),
            "gone": Target(kind="slack", url_file=str(tmp_path / "gone")),
            "binary": Target(kind="slack", url_file=str(tmp_path / "binary")),
            "no_key": Target(kind="opsgenie"),
            "no_url": Target(kind="slack"),
            "no_urls": Target(kind="slack", url_file=files["key"]),
            "no_ca": Target(kind="slack", url="https://127.0.0.1/", ca_file=str(tmp_path / "gone")),
            "bad_ca": Target(kind="slack", url="https://127.0.0.1/", ca_file="key"),
        }
        (tmp_path / "binary").write_bytes(b"\xff\xfe\n\x00")
        for name in targets:
            put_out(engine, name)
        with delivering(engine, Configuration(targets=targets), alerts=reading(tmp_path)) as deliverer:
            until(lambda: all(tried(engine, name)() for name in targets))
            assert target(engine, "slack").address == base and target(engine, "gone").address == UNKNOWN_ADDRESS
            told = {name: deliveries(engine, name)[0].answer for name in targets}
            # A file is read when it is needed: once it is there nobody needs to tell.
            receiver.behaviour = OK
            (tmp_path / "gone").write_text(receiver.url)
            until(settled(engine, "gone"))
            assert target(engine, "gone").address == base
            deliverer.reload(Configuration())
    with engine.begin() as connection:
        rows = connection.execute(text("SELECT d::text FROM gigawatch.alert_delivery AS d")).scalars().all()
        rows += connection.execute(text("SELECT t::text FROM gigawatch.alert_target AS t")).scalars().all()
    everything = "\n".join([*rows, caplog.text])
    assert "HTTP 500: no *** for None" in told["slack"] and "GenieKey ***" in told["opsgenie"]
    for secret in ("T0PSECRET", "S1GNED99", "R0UTINGKEY", "BEARER77"):
        assert secret not in everything, secret
    assert told["gone"].startswith(f"url_file {tmp_path / 'gone'} cannot be read: No such file or directory; the user")
    assert "must hold one line of printable ASCII" in told["binary"]
    assert "needs its key: name the file that holds it as secret_file" in told["no_key"]
    assert "give it url or url_file" in told["no_url"]
    assert told["no_urls"] == f"the URL must begin with http:// or https:// (file {tmp_path / 'key'})"
    assert told["no_ca"].startswith(f"ca_file {tmp_path / 'gone'} cannot be read: No such file")
    assert "must hold certificates as PEM" in told["bad_ca"]


def test_files_elsewhere_are_not_read_whatever_leads_there(engine: Engine, tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "alerts", tmp_path / "alerts-of-others"
    for it in (folder, elsewhere):
        it.mkdir()
    (elsewhere / "key").write_text("0THERS")
    (folder / "inside").write_text("0URS")
    (folder / "good").symlink_to("inside")
    (folder / "out").symlink_to(elsewhere / "key")
    (folder / "folder").symlink_to(elsewhere)
    (folder / "round").symlink_to("round")
    os.mkfifo(folder / "pipe")
    (folder / "great").write_bytes(b"x" * (17 << 10))
    refused = f"is not in {folder}, the folder of targets' files (alerts.secrets_dir)"
    wrong = {
        str(elsewhere / "key"): refused,
        f"{folder}/../alerts-of-others/key": refused,
        "../alerts-of-others/key": refused,
        "out": refused,
        "folder/key": refused,
        "/etc/passwd": refused,
        "/proc/self/environ": refused,
        "/nowhere": refused,
        "round": "cannot be read",
        "pipe": "is no file",
        ".": "is no file",
        "great": "has more than 16,384 bytes",
    }
    with Receiver(OK) as receiver:
        targets = {
            f"{field} {path}": Target(**{"kind": "alertmanager", "url": receiver.url, field: path})
            for path in wrong
            for field in ("secret_file", "bearer_file")
        }
        targets["url"] = Target(kind="slack", url_file=str(elsewhere / "key"))
        targets["certificates"] = Target(kind="alertmanager", url=receiver.url, ca_file="out")
        targets["good"] = Target(kind="alertmanager", url=receiver.url, bearer_file="good")
        targets["whole"] = Target(kind="alertmanager", url=receiver.url, bearer_file=str(folder / "inside"))
        for name in targets:
            put_out(engine, name)
        with delivering(engine, Configuration(targets=targets), alerts=reading(folder)):
            until(lambda: all(tried(engine, name)() for name in targets))
        answered = {name: deliveries(engine, name)[0].answer for name in targets}
        assert [it.headers["authorization"] for it in receiver.received] == ["Bearer 0URS"] * 2
    for name in targets.keys() - {"url", "certificates", "good", "whole"}:
        field, _, path = name.partition(" ")
        assert answered[name].startswith(f"{field} {path} ")
        assert wrong[path] in answered[name], (name, answered[name])
    assert refused in answered["url"] and refused in answered["certificates"]


def test_a_template_that_a_busy_machine_does_not_render_is_tried_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template, "TIMEOUT_S", 0.001)
    with Receiver(OK) as receiver:
        busy = Target(kind="template", url=receiver.url, template="{{ notification.title }}")
        put_out(engine, "busy")
        with delivering(engine, Configuration(targets={"busy": busy})):
            until(tried(engine, "busy"))
            (row,) = deliveries(engine, "busy")
            assert row.state == "waiting" and row.answer.startswith("the template was not rendered within")
            monkeypatch.undo()
            until(settled(engine, "busy"))


def test_a_template_that_fails_is_put_aside_with_its_reason(engine: Engine) -> None:
    with Receiver(OK) as receiver:
        bad = Target(kind="template", url=receiver.url, template="{{ notification.nothing }}")
        good = Target(kind="template", url=receiver.url, template="{{ notification.title }}", content_type="text/plain")
        put_out(engine, "bad")
        put_out(engine, "good")
        with delivering(engine, Configuration(targets={"bad": bad, "good": good})):
            until(settled(engine, "bad", "dead"))
            until(settled(engine, "good"))
    (row,) = deliveries(engine, "bad")
    assert row.answer == "the template failed: line 1: 'dict object' has no attribute 'nothing'"
    (request,) = receiver.received
    assert (request.body, request.headers["content-type"]) == (b"number 0", "text/plain")


def test_a_notification_that_cannot_be_read_keeps_nothing_back(engine: Engine) -> None:
    with Receiver(OK) as receiver:
        put_out(engine, "pager", 2)
        with engine.begin() as connection:
            connection.execute(
                text(
                    "UPDATE gigawatch.alert_delivery SET notification = '{}'"
                    " WHERE delivery_id = (SELECT min(delivery_id) FROM gigawatch.alert_delivery)"
                )
            )
        with delivering(engine, configured(pager=receiver.url)):
            until(lambda: [it.state for it in deliveries(engine, "pager")] == ["dead", "sent"])
    assert deliveries(engine, "pager")[0].answer == "no alertmanager payload could be made: ValidationError"


def test_whatever_goes_wrong_a_target_is_served_on(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    judge, wrong = delivery._judge, iter([RuntimeError("nobody thought of it")])

    def judged(*answered: Any) -> Any:
        for error in wrong:
            raise error
        return judge(*answered)

    monkeypatch.setattr(delivery, "_judge", judged)
    with Receiver(OK) as receiver, delivering(engine, configured(pager=receiver.url)):
        (key,) = put_out(engine, "pager")
        until(settled(engine, "pager"))
        assert [it.key for it in receiver.received] == [key, key]


def test_targets_are_kept_in_step_with_the_configuration(engine: Engine) -> None:
    pace = msgspec.structs.replace(QUICK, backoff_s=600, longest_backoff_s=600, breaker_failures=1, breaker_s=600)
    with Receiver(hangs) as hanging, Receiver(answers(500)) as failing, Receiver(OK) as good:
        keys = [*put_out(engine, "mended"), *put_out(engine, "hanging")]
        put_out(engine, "removed")
        urls = {"mended": failing.url, "hanging": hanging.url, "removed": hanging.url}
        with delivering(
            engine, configured(**urls), pace, msgspec.structs.replace(ALLOWED, delivery_timeout_s=60)
        ) as it:
            until(lambda: len(failing.received) == 1 and len(hanging.received) == 2)
            until(lambda: target(engine, "mended").failures == 1)
            # Whose URL is mended is tried at once, however long its breaker were open; amid an attempt, too.
            it.reload(configured(mended=good.url, hanging=good.url))
            until(settled(engine, "mended"))
            until(settled(engine, "hanging"))
            until(settled(engine, "removed", "dead"))
            assert target(engine, "mended").failures == 0
            names = text("SELECT name FROM report.alert_targets ORDER BY name")
            with engine.connect() as connection:
                assert connection.execute(names).scalars().all() == ["hanging", "mended"]
            it.reload(Configuration())

            def nobody_is_left() -> bool:
                with engine.connect() as connection:
                    return not connection.execute(names).all()

            until(nobody_is_left)
    assert sorted(it.key for it in good.received) == sorted(keys)
    assert deliveries(engine, "removed")[0].answer == "the target is no longer configured"


def test_a_test_is_sent_as_anything_else(engine: Engine) -> None:
    with Receiver(OK) as receiver, delivering(engine, configured(pager=receiver.url)) as deliverer:
        until(lambda: target_known(engine, "pager"))
        with engine.begin() as connection, pytest.raises(GigawatchError, match="No target is named 'nobody'"):
            send_test(connection, "nobody", "ada")
        with engine.connect() as listening:
            listening.execute(text("LISTEN gigawatch_delivery"))
            listening.commit()
            with engine.begin() as connection:
                delivery_id = send_test(connection, "pager", "ada")
            driver: Any = listening.connection.driver_connection
            assert [it.channel for it in driver.notifies(timeout=30, stop_after=1)] == ["gigawatch_delivery"]
        deliverer.wake()
        until(settled(engine, "pager"))
    (row,) = deliveries(engine, "pager")
    assert (row.delivery_id, row.why) == (delivery_id, "test")
    (alert,) = json.loads(receiver.received[0].body)["alerts"]
    assert alert["annotations"]["summary"] == "This is a test of target pager, sent by ada: nothing is wrong"


def test_a_test_tries_a_target_that_was_given_time(engine: Engine) -> None:
    pace = msgspec.structs.replace(QUICK, backoff_s=600, longest_backoff_s=600, breaker_failures=1, breaker_s=600)
    with Receiver(in_turn(answers(500), OK)) as receiver:
        put_out(engine, "pager")
        with delivering(engine, configured(pager=receiver.url), pace) as deliverer:
            until(lambda: target_known(engine, "pager") and target(engine, "pager").failures == 1)
            assert target(engine, "pager").open_for.total_seconds() > 500
            with engine.begin() as connection:
                send_test(connection, "pager", "ada")
            deliverer.wake()
            until(settled(engine, "pager"))
    assert [it.why for it in deliveries(engine, "pager")] == ["new", "test"] and len(receiver.received) == 3


def target_known(engine: Engine, name: str) -> bool:
    with engine.begin() as connection:
        query = text("SELECT count(*) FROM report.alert_targets WHERE name = :name")
        return bool(connection.scalar(query, {"name": name}))


KILLED = """
import sys, time
from api.alerts.configuration import Configuration, Target
from api.alerts.delivery import Deliverer
from gigawatch import database
from gigawatch.settings import Alerts
targets = {"pager": Target(kind="alertmanager", url=sys.argv[2])}
Deliverer(database.engine(sys.argv[1]), Alerts(allow_targets=("127.0.0.1",)), Configuration(targets=targets)).start()
time.sleep(60)
"""


def test_killed_between_attempt_and_answer_the_next_has_the_same_key(engine: Engine, database_url: str) -> None:
    with Receiver(in_turn(hangs, OK)) as receiver:
        keys = put_out(engine, "pager", 2)
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, engine.url.render_as_string(False), receiver.url]
        ) as process:
            until(lambda: len(receiver.received) == 1)
            process.kill()
        # The attempt is written, and nothing says how it went.
        (row, _) = deliveries(engine, "pager")
        assert (row.state, row.attempts, row.answer) == ("waiting", 1, None) and row.tried is not None
        with delivering(engine, configured(pager=receiver.url)):
            until(settled(engine, "pager"))
    assert [it.key for it in receiver.received] == [keys[0], *keys]
    assert receiver.received[0].body == receiver.received[1].body
    assert [it.attempts for it in deliveries(engine, "pager")] == [2, 1]


def test_it_goes_on_when_the_store_comes_back(engine: Engine) -> None:
    with Receiver(OK) as receiver:
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE gigawatch.alert_delivery RENAME TO away"))
        with delivering(engine, configured(pager=receiver.url)):
            time.sleep(0.3)
            with engine.begin() as connection:
                connection.execute(text("ALTER TABLE gigawatch.away RENAME TO alert_delivery"))
            put_out(engine, "pager")
            until(settled(engine, "pager"))


def test_a_setting_that_allows_nonsense_is_refused(engine: Engine) -> None:
    with pytest.raises(GigawatchError, match=r"alerts\.allow_targets has '10\.0\.0\.1/8'"):
        Deliverer(engine, Alerts(allow_targets=("10.0.0.1/8",)), Configuration())
