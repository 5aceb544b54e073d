"""The pages of alerts in a real browser: lists, an alert with the series around it, and what people do to alerts."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import Engine, text

from gigawatch import database, tokens
from tests.browser import alert_seed, seed, serving_seed
from tests.browser.alert_seed import MANY, PENDING
from tests.browser.watching import Dashboard, Watched, look_at_each, refresh
from tests.facility import place, send, window

VIEWS = (
    "/alerts", "/alerts?site=oslo&severity=critical", "/alerts?site=nowhere", "/alerts/pending",
    "/alerts/pending?rule=power_cap&page=2", "/alerts/silenced", "/alerts/history", "/alerts/history?range=24h",
    "/alerts/rules", "/alerts/rules/gpu_temperature", "/alerts/rules/nothing", "/alerts/silences",
    "/alerts/silences?like=1", "/alerts/targets", "/alerts/1", "/alerts/3", "/alerts/7", "/alerts/10", "/alerts/999999",
)  # fmt: skip


@pytest.fixture(scope="module")
def filled(embedded_server: Any) -> Iterator[str]:
    """The URL of a store with nodes, a deployment, a meter and alerts of all of them."""
    url: str = embedded_server.create()
    engine = database.engine(url)
    now = datetime.now(UTC)
    with engine.begin() as connection:
        seed.seed(connection, now)
        alert_seed.rules(connection, now)
        alert_seed.alerts(connection, now)
    serving_seed.seed(engine, now, kinds=tuple(it for it in serving_seed.KINDS if it.name == serving_seed.CHAT))
    place(engine, {"pdu-a1": {"role": "pdu", "feed": "A"}})
    minutes = [now - timedelta(minutes=number) for number in range(6, 60)]
    send(engine, [window("pdu-a1", it, covered_ms=60_000, power_mean_mw=81_300_000) for it in minutes])
    engine.dispose()
    yield url
    embedded_server.drop(url)


@pytest.fixture
def engine(filled: str) -> Iterator[Engine]:
    engine = database.engine(filled)
    yield engine
    engine.dispose()


def row(page: Page, words: str) -> Any:
    return page.locator("tbody tr", has_text=words).first


@pytest.mark.parametrize(("width", "scheme"), [(1440, "dark"), (390, "light")])
def test_the_pages_are_clean_wide_and_narrow_light_and_dark(
    browser: Browser, dashboard: Dashboard, width: int, scheme: str
) -> None:
    look_at_each(browser, dashboard, VIEWS, width, scheme)


def test_on_a_telephone_what_acts_on_an_alert_is_in_sight(browser: Browser, dashboard: Dashboard) -> None:
    phone = Watched(browser, dashboard.url, viewport={"width": 390, "height": 844})
    for path in ("/alerts", "/alerts/pending", "/alerts/silences", "/alerts/targets"):
        page = phone.go(path)
        beyond = "(all) => all.filter((it) => it.getBoundingClientRect().right > innerWidth).map((it) => it.outerHTML)"
        acts = page.locator("tbody").locator("button, a.button")
        expect(acts.first).to_be_visible()
        assert acts.evaluate_all(beyond) == [], path
    phone.page.close()


def test_the_worst_come_first_and_what_they_explain_is_below_them(watched: Watched, engine: Engine) -> None:
    page = watched.go("/alerts")
    table = page.get_by_role("region", name="Alerts, the worst first")
    severities = table.locator("tbody tr > td:first-child").all_text_contents()
    assert severities == sorted(severities, key=["critical", "warning", "info"].index)
    assert severities[:2] == ["critical", "critical"]
    feed = row(page, "pdu-a1 at oslo")
    expect(feed).to_contain_text("2\u00a0racks")
    # 240 silent nodes are one line, and nobody's but the feed's.
    expect(page.locator("main")).not_to_contain_text("oslo-x000")
    feed.locator("summary").click()
    explained = [f"{MANY - 2} agent_silent", "2 rack_silent"]
    expect(feed.get_by_role("listitem")).to_have_text(explained)
    # A refresh that brings another list leaves open what is.
    changed = text("UPDATE gigawatch.alert SET summary = :words WHERE rule = 'feed_lost'")
    for words in ("pdu-a1 at oslo: dark as before", "pdu-a1 at oslo: 0 W after 81300 W, racks silent: 2 of 2"):
        with engine.begin() as connection:
            connection.execute(changed, {"words": words})
        expect(feed).to_contain_text(words)
        expect(feed.get_by_role("listitem")).to_have_text(explained)
    feed.get_by_role("link", name="Which they are").click()
    page.locator("summary", has_text=f"Show the first 25 of {MANY}").click()
    expect(page.locator("#live-what-it-explains tbody tr")).to_have_count(25)
    expect(page.locator("#live-what-it-explains")).to_contain_text("rack_silent")


def test_filters_and_tabs_choose_and_many_alerts_of_a_rule_are_one_line(watched: Watched) -> None:
    page = watched.go("/alerts")
    page.locator("#severity").click()
    page.get_by_role("option", name="info").click()
    expect(page).to_have_url(re.compile(r"severity=info"))
    expect(page.locator("tbody tr")).to_have_count(1)
    tabs = page.get_by_role("navigation", name="Parts of alerts")
    tabs.get_by_role("link", name="Pending").click()
    expect(page).to_have_url(re.compile(r"/alerts/pending\?severity=info"))
    line = page.locator("#live-rules-with-many-alerts tbody tr")
    expect(line).to_have_count(1)
    expect(line).to_contain_text(f"{PENDING} info")
    expect(line).to_contain_text("austin, oslo")
    line.get_by_role("link", name="power_cap").click()
    expect(page.locator("tbody tr")).to_have_count(100)
    page.get_by_role("link", name="Next").first.click()
    expect(page.locator("tbody tr")).to_have_count(PENDING - 100)
    page = watched.go("/alerts?site=nowhere")
    page.get_by_role("link", name="Clear filters").click()
    expect(row(page, "pdu-a1")).to_be_visible()
    page = watched.go("/alerts/history")
    expect(row(page, "XID 48")).to_contain_text("acknowledged by grace")
    expect(row(page, "XID 48")).to_contain_text("after 40\u00a0min")
    page = watched.go("/alerts/history?from=2026-01-01&to=2026-01-02")
    expect(page.locator("main")).to_contain_text("No alert ended in this period")


def test_the_navigation_counts_what_fires_and_says_so(watched: Watched, engine: Engine) -> None:
    page = watched.go("/nodes")
    count = page.locator("nav [data-alerts]")
    before = int(count.get_attribute("data-alerts") or 0)
    expect(
        page.get_by_role("navigation", name="Pages").get_by_role("link", name=re.compile("^Alerts"))
    ).to_contain_text(re.compile(rf"{before} alerts fire: 2 critical"))
    assert page.title() == f"({before}) Nodes – Gigawatch"
    with engine.begin() as connection:
        number = alert_seed.alert(connection, "xid_fatal", "critical", {"site": "oslo"}, "another", datetime.now(UTC))
    expect(count).to_have_attribute("data-alerts", str(before + 1))
    expect(page).to_have_title(f"({before + 1}) Nodes – Gigawatch")
    expect(page.locator("#alerts-said")).to_have_text(re.compile(f"^{before + 1} alerts fire: 3 critical"))
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM gigawatch.alert WHERE alert_id = :number"), {"number": number})
    expect(count).to_have_attribute("data-alerts", str(before))


@pytest.mark.parametrize(
    ("number", "title", "figures", "links"),
    [
        (1, "XID 79", ["Power", "Greatest temperature", "Mean clocks"], {"GPU": "/gpus/", "Node": "/nodes?find="}),
        (2, "89 °C", ["Power", "Greatest temperature", "Mean clocks"], {"GPU": "/gpus/"}),
        (3, "pdu-a1", ["Power"], {"Meter": "/facility?site=oslo&find=pdu-a1"}),
        (4, "87 % of its breaker", ["Power over time"], {"Rack": "/nodes?site=austin&rack=a01"}),
        (5, "held down by caps", ["Power over time"], {"Site": "/facility?site=austin"}),
        (6, "silent", ["Power over time"], {"Node": "/nodes?find=oslo-r02-n02"}),
        (
            7,
            "1.4 times",
            ["Energy per generated token", "Generated tokens"],
            {"Deployment": "/tokens?deployment=chat-70b"},
        ),
    ],
)
def test_an_alert_has_the_series_around_it_with_its_moments(
    watched: Watched, number: int, title: str, figures: list[str], links: dict[str, str]
) -> None:
    page = watched.go(f"/alerts/{number}")
    expect(page.locator("h1")).to_contain_text(title)
    for figure in figures:
        expect(page.get_by_role("group", name=re.compile(rf"^{figure}.*The alert .*fired at \d\d:\d\d"))).to_have_count(
            1
        )
    # What is drawn is not an empty frame.
    expect(page.locator(".js-plotly-plot .scatterlayer path.js-line").first).to_be_attached()
    for name, address in links.items():
        link = page.get_by_role("navigation", name="What it is about").get_by_role("link", name=name, exact=True)
        expect(link).to_have_attribute("href", re.compile(f"^{re.escape(address)}"))


def test_an_alert_tells_what_became_of_it_who_was_told_and_what_to_do(watched: Watched) -> None:
    page = watched.go("/alerts/2")
    expect(page.locator("#live-what-became-of-it tbody tr")).to_have_text(
        [re.compile("fired.*the rule"), re.compile("acknowledged.*ada.*A fan is on its way")]
    )
    expect(page.locator("#live-head")).to_contain_text("Threshold margin_k")
    expect(page.locator("#live-what-explains-it")).to_contain_text("temp slowdown")
    page = watched.go("/alerts/1")
    told = page.locator("#live-who-was-told")
    expect(row(page, "pager")).to_contain_text("HTTP 200 in 35\u00a0ms")
    expect(told.locator("tbody tr")).to_have_count(2)
    expect(page.locator("#live-what-to-do")).to_contain_text("Take the node out of scheduling")
    # The alert that a feed explains names it.
    page = watched.go("/alerts/12")
    page.get_by_role("link", name="alert 3", exact=True).click()
    expect(page.locator("h1")).to_contain_text("pdu-a1")


def test_rules_say_how_their_evaluations_went(watched: Watched) -> None:
    page = watched.go("/alerts/rules")
    expect(page.locator("#live-failing")).to_contain_text("statement timeout")
    expect(page.locator("#live-rules tbody tr").first).to_contain_text("idle_draw")
    expect(page.locator("#live-rules tbody tr", has_text="gpu_temperature")).to_contain_text("34\u00a0ms")
    page.locator("#live-rules").get_by_role("link", name="gpu_temperature").click()
    expect(row(page, "margin_k")).to_contain_text("3\u00a0K where gpu_model is NVIDIA B200")
    page.locator("summary", has_text="Show").click()
    expect(page.locator("#live-sql pre")).to_contain_text("FROM report.gpu_conditions")
    expect(page.locator("#live-what-to-do")).to_contain_text("Critical: move the work away")


def test_an_alert_is_acknowledged_with_a_note_and_all_of_a_rule_at_once(watched: Watched, engine: Engine) -> None:
    page = watched.go("/alerts/4")
    page.get_by_label("Note").fill("On my way")
    # Refreshes leave alone what is being written, whatever becomes of the alert.
    with engine.begin() as connection:
        alert_seed.alert(connection, "power_cap", "info", {"site": "austin", "rack": "a01"}, "a01 is held down",
                         datetime.now(UTC), inhibited_by=4)  # fmt: skip
    expect(page.locator("#live-what-it-explains tbody tr")).to_have_count(1)
    refresh(page)
    expect(page.get_by_label("Note")).to_have_value("On my way")
    page.get_by_role("button", name="Acknowledge").click()
    expect(page.locator("#banners .done")).to_have_text("Acknowledged alert 4 as dashboard.")
    expect(page.locator("#live-head")).to_contain_text("On my way")
    expect(page.get_by_label("Note")).to_have_count(0)
    page = watched.go("/alerts/pending?site=oslo")
    expect(page.locator("#banners .done")).to_have_count(0)
    page.get_by_role("button", name="Acknowledge all of power_cap").click()
    expect(page.locator("#banners .done")).to_have_text(
        f"Acknowledged {PENDING // 2} alerts of power_cap as dashboard."
    )
    with engine.connect() as connection:
        sites = connection.scalars(
            text(
                "SELECT DISTINCT labels ->> 'site' FROM report.alerts WHERE state = 'pending' AND acknowledged_by <> ''"
            )
        ).all()
    assert sites == ["oslo"]


def test_a_silence_begins_with_an_alert_s_labels_and_says_what_it_would_silence(
    watched: Watched, engine: Engine
) -> None:
    page = watched.go("/alerts")
    row(page, "XID 79").get_by_role("link", name="Silence").click()
    expect(page).to_have_url(re.compile("like=1$"))
    matchers = page.get_by_label("Alerts with all of these")
    expect(matchers).to_have_value(re.compile('^rule="xid_fatal"\nsite="oslo"\n'))
    expect(page.locator("#silence-preview")).to_have_text("Of the alerts that are open now it would silence 1.")
    matchers.fill('hostname=~"oslo-x.*"\nrule=agent_silent')
    expect(page.locator("#silence-preview")).to_contain_text(f"would silence {MANY - 2}.")
    matchers.fill("oslo")
    expect(page.locator("#silence-preview")).to_contain_text("'oslo' is no matcher")
    matchers.fill("rack!=r99")
    expect(page.locator("#silence-preview")).to_contain_text("name one value")
    page.get_by_label("Why").fill("The node is being replaced")
    # One that was to come begins, and what is being written stays.
    with engine.begin() as connection:
        connection.execute(text("UPDATE gigawatch.alert_silence SET starts = now() WHERE starts > now()"))
    expect(page.locator("#live-to-come tbody tr")).to_have_count(0)
    refresh(page)
    expect(matchers).to_have_value("rack!=r99")
    page.get_by_role("button", name="Silence these alerts").click()
    expect(page.locator("#banners .bad")).to_contain_text("would silence everything that has no such label")
    matchers.fill("hostname=oslo-r01-n01")
    page.get_by_label("For").select_option("4 hours")
    page.get_by_label("Kind").select_option("Maintenance, planned")
    page.wait_for_timeout(1_000)
    page.get_by_role("button", name="Silence these alerts").click()
    expect(page.locator("#banners .done")).to_contain_text(re.compile(r"^Silence \d+ is there, until"))
    made = row(page, 'hostname="oslo-r01-n01"')
    expect(made).to_contain_text("The node is being replaced")
    expect(made).to_contain_text("maintenance")
    expect(made).to_contain_text("dashboard")
    made.get_by_role("button", name="End").click()
    expect(page.locator("#banners .done")).to_contain_text("Ended silence")
    expect(page.locator("#live-in-force")).not_to_contain_text("oslo-r01-n01")


def test_targets_are_tried_and_what_was_given_up_is_sent_again(watched: Watched, engine: Engine) -> None:
    page = watched.go("/alerts/targets")
    chat = row(page, "slack")
    expect(chat).to_contain_text("not asked for a while")
    expect(chat).to_contain_text("HTTP 503: the receiver is being updated")
    expect(row(page, "tickets")).to_contain_text("no route")
    expect(row(page, "pager").get_by_text("no route")).to_have_count(0)
    page.locator("#live-given-up").get_by_role("button", name="Send again").click()
    expect(page.locator("#banners .done")).to_contain_text("goes out again: it waits")
    expect(page.locator("#live-given-up")).to_have_count(0)
    page.get_by_role("button", name="Send a test to pager").click()
    expect(page.locator("#banners .done")).to_contain_text(re.compile(r"^Test \d+ to pager: it waits"))
    with engine.begin() as connection:
        # As a delivery leaves it.
        connection.execute(
            text(
                "UPDATE gigawatch.alert_delivery SET state = 'sent', attempts = 1, tried = now(), status = 202,"
                " duration_ms = 41, answer = 'HTTP 202: accepted' WHERE why = 'test'"
            )
        )
    expect(row(page, "Test of")).to_contain_text("HTTP 202 in 41\u00a0ms")


def test_a_viewer_may_look_and_an_operator_acts_under_his_name(
    browser: Browser, embedded_server: Any, tmp_path: Path
) -> None:
    url = embedded_server.create()
    engine = database.engine(url)
    now = datetime.now(UTC)
    with engine.begin() as connection:
        secrets = {role: tokens.create(connection, f"the {role}", role) for role in ("viewer", "operator")}
    served = Dashboard(url, tmp_path / "log", GIGAWATCH_STORE__DATA_DIR=str(tmp_path / "data"))
    try:
        viewer = Watched(browser, served.url)
        page = viewer.go(f"/alerts?token={secrets['viewer']}")
        # Nothing fires, and it is said that nobody looks and nobody would be told.
        expect(page.locator("#live-firing")).to_contain_text("Nothing is wrong.")
        expect(page.locator("#live-amiss")).to_contain_text("No rule was evaluated yet")
        expect(page.locator("#live-amiss")).to_contain_text("gigawatch alert apply FILE")
        expect(page.locator("nav [data-alerts]")).to_have_count(0)
        with engine.begin() as connection:
            alert_seed.rules(connection, now - timedelta(minutes=9), failing=None)
            number = alert_seed.alert(connection, "xid_fatal", "critical", {"site": "oslo"}, "XID 79", now)
        expect(page.locator("#live-amiss")).to_contain_text(re.compile(r"No rule was evaluated for \d+\sm"))
        press = page.get_by_role("button", name=f"Acknowledge alert {number}")
        expect(press).to_be_disabled()
        expect(press).to_have_attribute("aria-describedby", "may-not")
        expect(page.locator("#may-not")).to_contain_text("gigawatch token create --role operator")
        with page.expect_request(lambda it: '"done.data"' in (it.post_data or "")) as asked:
            page.evaluate(f"dash_clientside.set_props('wanted', {{data: {{act: 'acknowledge', of: '{number}'}}}})")
        expect(page.locator("#banners .bad")).to_contain_text("your token may look and not act")
        viewer.page.close()

        def ask(secret: str, headers: dict[str, str]) -> str:
            with httpx.Client(base_url=served.url, follow_redirects=False) as client:
                client.post("/login", data={"token": secret})
                answer = client.post(
                    "/_dash-update-component",
                    content=asked.value.post_data or "",
                    headers={"Content-Type": "application/json", **headers},
                )
                words: str = answer.json()["response"]["done"]["data"]["words"]
                return words

        assert "may look and not act" in ask(secrets["operator"], {"Sec-Fetch-Site": "cross-site"})
        assert (
            ask(secrets["operator"], {"Sec-Fetch-Site": "same-origin"})
            == f"Acknowledged alert {number} as the operator."
        )
        assert "None of these alerts is open" in ask(secrets["operator"], {})
        with engine.begin() as connection:
            author = connection.scalar(text("SELECT acknowledged_by FROM report.alerts"))
            assert author == "the operator"
            tokens.revoke(connection, "the operator")
        operator = Watched(browser, served.url)
        operator.page.goto("/alerts")
        expect(operator.page).to_have_url(re.compile("/login"))
        operator.page.close()
    finally:
        served.stop()
        engine.dispose()
        embedded_server.drop(url)
