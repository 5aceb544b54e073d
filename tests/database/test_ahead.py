"""Figures read ahead: pages go on to another minute or hour when it is read, and wait for nothing."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from dashboard import ahead, theme
from dashboard.ahead import Ahead
from dashboard.pages import facility, tokens
from dashboard.view import View
from gigawatch import facility_readings, token_readings
from gigawatch.records import Assignment
from tests import facility as meters
from tests.agents import wait_for
from tests.factory import MINUTE_MS, Machine, Vllm, fold, now_minute_ms, run, store

DEPLOYMENT = View(deployment="chat")


class Site:
    """A machine that serves, and what is folded of it."""

    def __init__(self, engine: Engine, start_ms: int) -> None:
        self._engine = engine
        self.vllm = Vllm("chat")
        self.machine = Machine("a", 1, engines=[self.vllm])
        serves = [Assignment(deployment="chat", endpoint=self.vllm.address)]
        self.machine.serve(start_ms, {0: serves})
        self.folded_ms = start_ms

    def go_on(self) -> datetime:
        """Work and fold for another minute; up to when figures are known."""

        def work(_before_ms: int, _now_ms: int) -> None:
            self.vllm.running = 4
            self.vllm.generated_tokens += 1_000

        run([self.machine], self.folded_ms, self.folded_ms + MINUTE_MS, lambda *_: 500, work)
        self.folded_ms += MINUTE_MS
        store(self._engine, [self.machine])
        fold(self._engine, self.folded_ms + MINUTE_MS)
        with self._engine.connect() as connection:
            return token_readings.tokens_until(connection)


@pytest.fixture
def site(engine: Engine) -> Site:
    found = Site(engine, now_minute_ms(8))
    found.go_on()
    return found


@pytest.fixture
def reading(report_engine: Engine, site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ahead]:
    monkeypatch.setattr(ahead, "LOOK_EVERY_S", 0.05)
    thread = ahead.start(report_engine, token_readings.tokens_until, page)
    yield thread
    thread.stop()
    thread.join()
    del ahead._of_store[report_engine.url, token_readings.tokens_until]


def page(connection: Connection, asked: View, until: datetime) -> object:
    return tokens.render_until(connection, asked, theme.LIGHT, datetime.now(UTC), until)


def asked_for(report_engine: Engine, asked: View, render: Any = tokens.render) -> tuple[str, int]:
    """The page as words, and how many statements asked the store for its figures."""
    statements = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "report." in statement and "deployment" not in statement.partition("report.")[2][:12]:
            statements.append(statement)

    with report_engine.connect() as connection:
        event.listen(connection, "before_cursor_execute", note)
        found = render(connection, asked, theme.LIGHT, datetime.now(UTC))
    return str(found), len(statements)


def test_who_looks_on_does_not_wait(report_engine: Engine, site: Site, reading: Ahead) -> None:
    first = site.go_on()
    wait_for("the first minute", lambda: reading.until(View()) == first)
    _, cold = asked_for(report_engine, DEPLOYMENT)
    words, warm = asked_for(report_engine, DEPLOYMENT)
    assert (cold > 5, warm) == (True, 0)
    second = site.go_on()
    assert second > first
    wait_for("the second minute", lambda: reading.until(DEPLOYMENT) == second)
    later, statements = asked_for(report_engine, DEPLOYMENT)
    assert statements == 0
    assert f"{first:%H:%M}" in words
    assert f"{second:%H:%M}" in later


def test_the_page_as_it_is_opened_is_read_though_nobody_asked(
    report_engine: Engine, site: Site, reading: Ahead
) -> None:
    known = site.go_on()
    wait_for("the minute", lambda: reading.until(DEPLOYMENT) == known)
    assert asked_for(report_engine, View())[1] == 0


def test_what_nobody_asks_for_any_more_is_not_read(
    report_engine: Engine, site: Site, reading: Ahead, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = site.go_on()
    wait_for("the first minute", lambda: reading.until(View()) == first)
    asked_for(report_engine, DEPLOYMENT)
    monkeypatch.setattr(ahead, "LATELY_S", -1.0)
    second = site.go_on()
    wait_for("the second minute", lambda: reading.until(View()) == second)
    assert asked_for(report_engine, DEPLOYMENT)[1] > 5


def test_a_thread_that_fails_holds_nobody_up(
    report_engine: Engine, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(ahead, "LATE_S", 0.2)

    def fail(connection: Connection, _asked: View, _until: datetime) -> None:
        connection.exec_driver_sql("SELECT 1 / 0")

    first = site.go_on()
    thread = ahead.start(report_engine, token_readings.tokens_until, fail)
    try:
        time.sleep(0.5)
        assert thread.until(DEPLOYMENT) is None
        words, statements = asked_for(report_engine, DEPLOYMENT)
        assert statements > 5
        assert f"{first:%H:%M}" in words
    finally:
        thread.stop()
        thread.join()
        del ahead._of_store[report_engine.url, token_readings.tokens_until]


def test_the_facility_is_read_again_where_no_hour_is_newer(
    engine: Engine, report_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Late data change hours that are known already: they are shown though what was read is kept for longer."""
    monkeypatch.setattr(ahead, "LOOK_EVERY_S", 0.05)
    start = meters.today() - meters.DAY
    meters.place(engine, {"u": {"role": "utility"}, "p": {"role": "pdu"}})
    meters.send(engine, [*meters.hourly("u", start, 24, kwh=150), *meters.hourly("p", start, 23, kwh=100)])
    meters.fold(engine, start + meters.DAY)
    passes = []

    def page(connection: Connection, asked: View, until: datetime) -> None:
        facility.render_until(connection, asked, theme.LIGHT, datetime.now(UTC), until)
        passes.append(until)

    thread = ahead.start(report_engine, facility_readings.facility_until, page, always=[View(range="24h")], again_s=0.2)
    try:
        wait_for("the first pass", lambda: thread.until(View()) is not None)
        words, statements = asked_for(report_engine, View(range="24h"), facility.render)
        # What is of this moment is read again after four seconds, hours are not.
        assert statements <= 3
        assert "1 h of this period are missing" in words
        meters.send(engine, meters.hourly("p", start + 23 * meters.HOUR, 1, kwh=100))
        meters.fold(engine, start + meters.DAY)
        done = len(passes)
        wait_for("another pass", lambda: len(passes) > done + 1)
        words, statements = asked_for(report_engine, View(range="24h"), facility.render)
        assert statements <= 3
        assert "of this period are missing" not in words
    finally:
        thread.stop()
        thread.join()
        del ahead._of_store[report_engine.url, facility_readings.facility_until]
