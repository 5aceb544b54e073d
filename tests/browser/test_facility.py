"""The page PUE & facility in a real browser, on meters that came through the API's own store and folder."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import text

from api.factors import files, store
from gigawatch import database
from tests.browser import facility_seed, serving_seed
from tests.browser.facility_seed import NEVER, REVERSED, SILENT, STUCK, UNPLACED
from tests.browser.watching import Dashboard, Watched, card, folded_less, look_at_each, without
from tests.facility import HOUR, fold, place, send, window

VIEWS = (
    "/facility",
    "/facility?site=oslo&range=30d",
    "/facility?site=oslo&category=1&meters=-power&find=pdu",
    "/facility?site=austin&range=24h",
    "/facility?site=paris",
    "/facility?site=nowhere",
    "/facility?range=365d&health=stuck",
    "/facility?from=2026-01-01&to=2026-01-02",
)


@pytest.fixture(scope="module")
def filled(embedded_server: Any) -> Iterator[str]:
    """The URL of a store with nodes and a facility."""
    url: str = embedded_server.create()
    engine = database.engine(url)
    now = datetime.now(UTC)
    serving_seed.seed(engine, now)
    facility_seed.seed(engine, now)
    engine.dispose()
    yield url
    embedded_server.drop(url)


@pytest.fixture(autouse=True)
def alive(filled: str) -> None:
    """What meters say at this moment they said a minute ago, however long the tests before took.

    After five minutes all would be silent.
    """
    engine = database.engine(filled)
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE gigawatch.meter_window SET time = now() - interval '1 min' FROM ("
                " SELECT meter_id, max(time) AS newest FROM gigawatch.meter_window WHERE covered_ms = 60000"
                " GROUP BY meter_id) AS moment"
                " WHERE meter_window.meter_id = moment.meter_id AND meter_window.time = moment.newest"
            )
        )
    engine.dispose()


def rows(page: Page) -> Any:
    return page.locator("#live-meters tbody tr")


def row(page: Page, name: str) -> Any:
    return rows(page).filter(has=page.locator("td", has_text=re.compile(rf"^{name}( |$|read)")))


@pytest.mark.parametrize(("width", "scheme"), [(1440, "dark"), (390, "light")])
def test_the_page_is_clean_wide_and_narrow_light_and_dark(
    browser: Browser, dashboard: Dashboard, width: int, scheme: str
) -> None:
    look_at_each(browser, dashboard, VIEWS, width, scheme)


def test_each_figure_bears_its_name_category_and_coverage(watched: Watched) -> None:
    page = watched.go("/")
    link = page.get_by_role("link", name="PUE & facility")
    link.click()
    expect(page).to_have_url(re.compile("/facility$"))
    # The page's filters come with it.
    expect(link).to_have_class("chosen")
    page.locator("#site").click()
    page.get_by_role("option", name="oslo").click()
    expect(page.locator("main h1")).to_contain_text("oslo")
    expect(card(page, "Power ratio now")).to_contain_text(
        re.compile("power ratio, indicative · category 2, PDU output")
    )
    expect(card(page, "Power ratio now").locator(".value")).to_have_text(re.compile(r"^1\.[23]\d$"))
    day = card(page, "24 h")
    expect(day).to_contain_text(re.compile(r"interim PUE · category 2, PDU output · coverage 9\d\.\d"))
    expect(day).to_contain_text("1\u00a0h faulty")
    expect(card(page, "WUE").first).to_contain_text("L/kWh")
    expect(card(page, "CUE")).to_contain_text("100\u00a0% of E_DC has an intensity")
    expect(card(page, "CER")).to_contain_text("no meters of roles heat_removed and cooling")
    expect(page.locator("#live-known")).to_contain_text("known up to")
    expect(page.locator("#live-known .badge")).to_have_count(0)
    ways = page.get_by_role("navigation", name="Category")
    ways.get_by_role("link", name="1 · UPS output").click()
    expect(page).to_have_url(re.compile("category=1"))
    expect(day).to_contain_text("category 1, UPS output")


def test_figures_are_said_in_words_and_periods_are_of_hours(watched: Watched) -> None:
    page = watched.go("/facility?site=oslo")
    for words in (
        r"^PUE by the hour, category 2, IT metered at PDU output\. Latest 1\.",
        r"^Mean power from the sources to the IT equipment.*Nodes to GPUs",
        r"^PUE against the IT load by the hour\. \d+ hours with a PUE; not drawn: 4 h faulty",
        r"^PUE against the outside temperature by the hour",
        r"^Calendar of coverage since .*\d less.*faulty hours",
    ):
        expect(page.get_by_role("group", name=re.compile(words))).to_have_count(1)
    periods = page.get_by_role("navigation", name="Period")
    expect(periods.get_by_role("link")).to_have_text(["24 h", "7 d, chosen", "30 d", "12 months"])
    periods.get_by_role("link", name="12 months").click()
    expect(page.get_by_role("group", name=re.compile("^PUE by the day"))).to_have_count(1)
    # Pages by the minute have other periods, and keep to those.
    page.get_by_role("link", name="Fleet").click()
    expect(page).to_have_url(re.compile(r"/\?site=oslo$"))
    expect(page.get_by_role("navigation", name="Period").get_by_role("link").first).to_have_text("15 min")


def test_faulty_and_missing_hours_are_said_and_where_parts_are_more_than_their_source(watched: Watched) -> None:
    page = watched.go("/facility?site=oslo&range=30d")
    expect(page.locator("#live-limits .banner.bad")).to_contain_text("4 h of this period are faulty")
    expect(page.locator("#live-limits .banner.warn")).to_contain_text("29 h of this period are missing")
    expect(page.locator("#live-facility-load-left-out")).to_contain_text("not drawn: 29 h missing and 4 h faulty")
    page.locator("summary", has_text="Month by month").click()
    expect(page.locator("#live-months tbody tr").first).to_contain_text("interim PUE")
    page.locator("summary", has_text="As a table").click()
    expect(page.locator("#live-flow-table").get_by_role("row", name=re.compile("unexplained: UPS"))).to_be_visible()
    # In the hours that are faulty PDUs counted three times as much.
    page = watched.go("/facility?site=oslo")
    expect(page.locator("#live-flow-contradictions")).to_contain_text("oslo: what UPS output leads to is")
    level = page.get_by_role("region", name=re.compile("^Energy at each level")).get_by_role(
        "row", name=re.compile("^UPS output")
    )
    expect(level.locator(".badge.bad")).to_contain_text("below is more")


def test_sites_stand_side_by_side_and_lead_to_their_own_view(watched: Watched) -> None:
    page = watched.go("/facility")
    table = page.get_by_role("region", name=re.compile("^Sites side by side"))
    expect(table.locator("tbody tr")).to_have_count(3)
    oslo, austin, paris = (table.get_by_role("row", name=re.compile(f"^{it}")) for it in ("oslo", "austin", "paris"))
    expect(oslo).to_contain_text(re.compile(r"1: 1\.\d\d"))
    expect(austin.locator(".badge.simulated")).to_have_text("simulated")
    expect(austin).to_contain_text("1.62")
    expect(paris.locator(".badge")).to_have_text("configured")
    expect(paris).to_contain_text("1.31")
    expect(page.locator("main h1 .badge.simulated")).to_have_count(1)
    expect(page.get_by_role("region", name=re.compile("^The unexplained part"))).to_contain_text("38.3\u00a0%")
    oslo.get_by_role("link").click()
    expect(page.locator("main h1")).to_have_text(re.compile("oslo"))
    halls = page.get_by_role("region", name=re.compile("^Halls"))
    expect(halls.locator("tbody tr")).to_have_text([re.compile("^A.*interim pPUE")])


def test_the_sites_of_a_figure_are_named_and_the_way_to_each_part_of_the_page_is_short(watched: Watched) -> None:
    page = watched.go("/facility")
    # Austin's IT is metered at its PDUs, as oslo's is; of paris there is a number alone.
    expect(page.locator("#live-limits")).to_contain_text("is of 2 of 3 sites, without paris")
    expect(card(page, "24 h")).to_contain_text("of 3 sites, without")
    summary = page.locator("#live-meters-summary")
    expect(summary).to_contain_text(re.compile(r"^\d+ meters: .*1 reversed.*1 stuck"))
    page.get_by_role("navigation", name="On this page").get_by_role("link", name="Capacity").press("Enter")
    expect(page).to_have_url(re.compile("#live-capacity$"))
    expect(page.locator("#live-capacity h2")).to_be_in_viewport()
    summary.get_by_role("link", name="1 stuck").press("Enter")
    expect(page).to_have_url(re.compile("health=stuck"))
    expect(rows(page)).to_have_count(1)


def test_what_is_wrong_with_meters_comes_first_and_the_list_is_used_by_keyboard(watched: Watched) -> None:
    page = watched.go("/facility")
    expect(rows(page).first).to_contain_text(REVERSED)
    for name, state, tone in (
        (REVERSED, "reversed", "bad"), (STUCK, "stuck", "bad"), (SILENT, "silent", "bad"),
        (NEVER, "never heard of", "warn"), (UNPLACED, "not placed", "warn"), ("main-a", "ok", "ok"),
    ):  # fmt: skip
        expect(row(page, name).locator(f".badge.{tone}").first).to_have_text(state)
    page.get_by_role("link", name="Power", exact=True).press("Enter")
    expect(page).to_have_url(re.compile("meters=-power"))
    expect(page.locator("#live-meters th[aria-sort=descending]")).to_have_text("Power")
    expect(rows(page).first).to_contain_text(re.compile("main-a|grid"))
    expect(rows(page).last).to_contain_text("–")
    box = page.get_by_label("Search name, place, role or reader")
    box.fill("AUSTIN")
    box.press("Enter")
    expect(rows(page)).to_have_count(3)
    box.fill("%' OR 1=1")
    box.press("Enter")
    expect(page.get_by_text("No meter with “%' OR 1=1”")).to_be_visible()
    page = watched.go("/facility")
    page.get_by_role("navigation", name="State").get_by_role("link", name=re.compile("^stuck")).click()
    expect(page).to_have_url(re.compile("health=stuck"))
    expect(rows(page)).to_have_count(1)


def test_limits_show_the_tightest_first_with_the_rule_of_breakers(watched: Watched) -> None:
    page = watched.go("/facility?site=oslo")
    first = page.get_by_role("region", name=re.compile("^Limits of feeds")).locator("tbody tr").first
    expect(first).to_contain_text(re.compile(r"oslo / pdu-b1.*16\.0\sA.*80 % rule"))
    expect(first.locator(".badge.warn")).to_have_text(re.compile(r"^9\d\s%$"))


def test_a_configured_pue_is_never_shown_as_measured(watched: Watched) -> None:
    page = watched.go("/facility?site=paris")
    for name in ("24 h", "This year", "Last 12 months"):
        expect(card(page, name)).to_contain_text("configured PUE · not measured")
    expect(page.locator("#live-limits")).to_contain_text("a number that somebody wrote down")
    expect(page.locator("main")).to_contain_text("[[meters]]")
    expect(page.locator("main .js-plotly-plot")).to_have_count(0)


def test_figures_that_do_not_go_on_are_said_to_be_stale(watched: Watched, filled: str) -> None:
    with folded_less(filled, "meter_1h", "5 hours"):
        page = watched.go("/facility?site=oslo&range=24h")
        expect(page.locator("#live-known .badge")).to_have_text("stale")
        expect(page.locator("#live-known")).to_contain_text("does gigawatch serve run")
        expect(card(page, "24 h").locator(".value")).to_have_text(re.compile(r"^1\.\d\d$"))


def test_a_store_of_another_version_is_said(watched: Watched, filled: str) -> None:
    with without(filled, "pue_conditions"):
        watched.page.goto("/facility?from=2026-01-01&to=2026-01-09&site=oslo")
        expect(watched.page.get_by_role("alert").filter(has_text="Not live")).to_contain_text("gigawatch migrate")
        expect(watched.page.locator("main")).to_contain_text("No figures")
    expect(watched.page.locator("main h1")).to_contain_text("PUE & facility")


def test_without_meters_the_page_teaches_how_to_connect_them_and_then_fills(
    browser: Browser, embedded_server: Any, tmp_path: Path
) -> None:
    url = embedded_server.create()
    served = Dashboard(url, tmp_path / "log", GIGAWATCH_DASHBOARD__OPEN_ACCESS="true")
    engine = database.engine(url)
    try:
        watched = Watched(browser, served.url, viewport={"width": 1440, "height": 900})
        page = watched.go("/facility")
        expect(page.locator("main h1")).to_have_text("No meter yet")
        for words in ("[[meters]]", "gigawatch meter probe", "gigawatch topology apply", "gigawatch pue set"):
            expect(page.locator("main")).to_contain_text(words)
        # A meter whose first hour is not over.
        now = datetime.now(UTC)
        place(engine, {"main": {"role": "utility"}, "pdu": {"role": "pdu"}})
        send(engine, [window(it, now - HOUR / 60, kwh=1, covered_ms=60_000) for it in ("main", "pdu")])
        expect(page.locator("main h1")).to_contain_text("PUE & facility · oslo")
        expect(page.locator("#live-known")).to_contain_text("No hour of meters is over yet")
        expect(page.locator("#live-limits")).to_contain_text("Nothing measures a PUE yet")
        expect(card(page, "24 h")).to_contain_text("not measured")
        expect(page.locator("main")).to_contain_text("No power is known in this period")
        # A configured PUE beside meters that measure none.
        pues = files.pues(b"start,stop,pue\n2026-01-01,2036-01-01,1.4\n", time_zone="UTC")
        with engine.begin() as connection:
            store.take(connection, "oslo", store.CONFIGURED_PUE, pues, version="1", source="design", replace=False,
                       dry_run=False)  # fmt: skip
        fold(engine, now)
        assert watched.problems == []
        page.close()
    finally:
        engine.dispose()
        served.stop()
        embedded_server.drop(url)
