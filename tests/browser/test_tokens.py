"""The page Energy per token in a real browser, on figures that came through the API's own store and folder."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import text

from api.factors import files, store
from gigawatch import database
from tests.browser import serving_seed
from tests.browser.serving_seed import CHAT, IDLE, SILENT, STARTING, UNSTEADY
from tests.browser.watching import Dashboard, Watched, card, folded_less, look_at_each, without

PLACE = """(it) => {
    const [point, area] = [it, it.closest(".js-plotly-plot").querySelector(".nsewdrag")]
        .map((it) => it.getBoundingClientRect());
    return {x: point.x + point.width / 2 - area.x, y: point.y + point.height / 2 - area.y};
}"""
"""Of a point within the area that takes the mouse."""
VIEWS = (
    "/tokens",
    "/tokens?boundary=facility&by=gpu_model",
    f"/tokens?deployment={CHAT}&against={UNSTEADY}&range=15m",
    "/tokens?deployment=none",
    "/tokens?from=2026-01-01&to=2026-01-02",
)


@pytest.fixture(scope="module")
def filled(embedded_server: Any) -> Iterator[str]:
    """The URL of a store with deployments, prices and intensities."""
    url: str = embedded_server.create()
    engine = database.engine(url)
    now = datetime.now(UTC)
    serving_seed.seed(engine, now)
    with engine.begin() as connection:
        year = f"2026-01-01,{now + timedelta(days=1):%Y-%m-%d}"
        prices = files.prices(f"start,stop,price_per_kwh\n{year},0.11\n".encode(), currency="EUR", time_zone="UTC")
        factors = files.intensities(f"start,stop,g_per_kwh\n{year},50\n".encode(), time_zone="UTC")
        for kind, found in ((store.price("EUR"), prices), (store.intensity("location", None), factors)):
            store.take(connection, "oslo", kind, found, version="1", source="test", replace=False, dry_run=False)
    engine.dispose()
    yield url
    embedded_server.drop(url)


def rows(page: Page) -> Any:
    return page.locator("#live-token-table tbody tr")


def row(page: Page, name: str) -> Any:
    return rows(page).filter(has=page.get_by_role("link", name=name, exact=True))


@pytest.mark.parametrize(("width", "scheme"), [(1440, "dark"), (390, "light")])
def test_the_page_is_clean_wide_and_narrow_light_and_dark(
    browser: Browser, dashboard: Dashboard, width: int, scheme: str
) -> None:
    look_at_each(browser, dashboard, VIEWS, width, scheme)


def test_the_headline_names_its_boundary_and_what_qualifies_it(watched: Watched) -> None:
    page = watched.go("/")
    page.get_by_role("link", name="Energy per token").click()
    expect(page).to_have_url(re.compile("/tokens$"))
    headline = card(page, "J per generated token")
    expect(headline.locator(".value")).to_have_text(re.compile(r"^0\.\d+$"))
    expect(headline).to_contain_text(re.compile(r"boundary: gpu · varies by .*coverage 9\d\.\d"))
    expect(card(page, "Energy measured")).to_contain_text("interpolated")
    expect(card(page, "GPUs assigned")).to_contain_text("4 of them silent")
    expect(page.get_by_text("Simulated data.")).to_be_visible()
    expect(page.locator("#live-known")).to_contain_text("Figures are known up to")
    expect(
        page.get_by_role("group", name=re.compile("^Energy per generated token over time, boundary gpu"))
    ).to_have_count(1)
    expect(page.get_by_role("group", name=re.compile("^GPU power by what it was for.*unallocated"))).to_have_count(1)
    # Prices are known in oslo alone.
    expect(page.locator("#live-idle-words")).to_contain_text(re.compile(r"of which .* cost 0\.0.*\sEUR"))


def test_what_is_unsteady_or_incomplete_looks_so_in_words(watched: Watched) -> None:
    page = watched.go("/tokens")
    expect(row(page, UNSTEADY).locator(".badge.warn")).to_have_text("not stable")
    expect(row(page, SILENT).locator(".badge.warn").first).to_have_text("incomplete")
    expect(row(page, SILENT).locator(".badge.bad")).to_have_text("4 silent")
    expect(row(page, CHAT).locator(".badge")).to_have_count(0)
    # Nothing generated: no figure, and its energy is idle.
    expect(row(page, IDLE).locator("td").nth(2)).to_have_text("–")
    expect(row(page, IDLE)).to_contain_text("100")
    page = watched.go(f"/tokens?deployment={UNSTEADY}")
    expect(card(page, "J per generated token")).to_have_class(re.compile("warn"))
    expect(card(page, "J per generated token")).to_contain_text("not stable")


def test_the_table_is_sorted_searched_and_grouped_by_keyboard(watched: Watched) -> None:
    page = watched.go("/tokens")
    expect(rows(page)).to_have_count(7)
    heading = page.get_by_role("link", name="J/token", exact=True)
    heading.press("Enter")
    expect(page).to_have_url(re.compile("order=j_per_token"))
    expect(page.locator("th[aria-sort=ascending]")).to_have_text("J/token")
    expect(rows(page).first).to_contain_text("summary-8b")
    expect(rows(page).last).to_contain_text(IDLE)  # without the figure, last either way
    heading.press("Enter")
    expect(page.locator("th[aria-sort=descending]")).to_have_text("J/token")
    expect(rows(page).first).to_contain_text(STARTING)
    expect(rows(page).last).to_contain_text(IDLE)
    box = page.get_by_label("Search by name")
    box.fill("CHAT")
    box.press("Enter")
    expect(rows(page)).to_have_count(2)
    box.fill("%' OR 1=1")
    box.press("Enter")
    expect(page.get_by_text("No deployment with “%' OR 1=1” in its name")).to_be_visible()
    page = watched.go("/tokens")
    page.get_by_role("navigation", name="Group by").get_by_role("link", name="Model", exact=True).click()
    expect(page).to_have_url(re.compile("by=model"))
    expect(rows(page)).to_have_count(6)  # two deployments serve the same
    page.get_by_role("navigation", name="Group by").get_by_role("link", name="Site").click()
    expect(rows(page)).to_have_count(2)
    page.get_by_role("link", name="austin", exact=True).click()
    expect(page).to_have_url(re.compile("site=austin"))


def test_boundaries_are_in_the_address_and_what_one_lacks_is_said(watched: Watched, filled: str) -> None:
    page = watched.go("/tokens")
    at_gpu = float(card(page, "J per generated token").locator(".value").inner_text())
    boundaries = page.get_by_role("navigation", name="Boundary")
    boundaries.get_by_role("link", name="IT", exact=True).click()
    expect(page).to_have_url(re.compile("boundary=it"))
    expect(card(page, "J per generated token")).to_contain_text("boundary: it")
    expect(card(page, "Energy measured")).to_contain_text("modelled")  # austin's nodes have no meter
    at_it = float(card(page, "J per generated token").locator(".value").inner_text())
    assert at_it > at_gpu
    boundaries.get_by_role("link", name="Facility").click()
    expect(card(page, "J per generated token").locator(".value")).to_have_text("–")
    expect(page.locator("#live-limits")).to_contain_text("gigawatch pue set")
    expect(page.locator("main")).to_contain_text("No figure at boundary facility")
    engine = database.engine(filled)
    pues = files.pues(b"start,stop,pue\n2026-01-01,2036-01-01,1.25\n", time_zone="UTC")
    with engine.begin() as connection:
        for site in ("oslo", "austin"):
            store.take(
                connection, site, store.CONFIGURED_PUE, pues, version="1", source="test", replace=False, dry_run=False
            )
    engine.dispose()
    watched.go("/tokens?boundary=facility&range=6h")
    expect(card(page, "J per generated token").locator(".value")).not_to_have_text("–")
    expect(page.locator("#live-limits")).to_be_empty()
    page.go_back()
    expect(page).to_have_url(re.compile("boundary=facility$"))


def test_a_deployment_has_a_view_of_its_own(watched: Watched) -> None:
    page = watched.go("/tokens")
    row(page, CHAT).get_by_role("link").click()
    expect(page.locator("main h1")).to_contain_text(CHAT)
    for name in (
        "Generated tokens",
        "Time to first token",
        "Requests that an engine ran at once",
        "Time in which requests ran",
    ):
        expect(page.get_by_role("group", name=re.compile(f"^{name}"))).to_have_count(1)
    expect(page.locator("#tokens-trade-off")).to_have_count(0)
    expect(rows(page)).to_have_count(1)
    expect(page.locator("#deployment")).to_contain_text(CHAT)
    page.go_back()
    expect(rows(page)).to_have_count(7)


def test_a_point_of_the_trade_off_leads_to_its_deployment(watched: Watched) -> None:
    page = watched.go("/tokens")
    page.wait_for_selector("#tokens-trade-off .main-svg")
    expect(
        page.get_by_role("group", name=re.compile("^Energy per token against.*chat-8b: 0.*summary-8b: 0"))
    ).to_have_count(1)
    page.get_by_role("link", name="p95", exact=True).click()
    expect(page).to_have_url(re.compile("ttft=p95"))
    expect(page.get_by_role("group", name=re.compile(r"^Energy per token against.*\(p95\)"))).to_have_count(1)
    drawn = page.locator("#tokens-trade-off")
    expect(drawn.locator(".xtitle")).to_contain_text("p95")
    point = drawn.locator(".trace.scatter").nth(1).locator("path.point").first.evaluate(PLACE)
    drawn.locator(".nsewdrag").click(position=point)
    expect(page).to_have_url(re.compile("deployment=chat-8b"))


def test_periods_and_deployments_are_compared_and_doubts_are_said(watched: Watched) -> None:
    page = watched.go("/tokens")
    table = page.locator("#live-comparison")
    expect(table.get_by_role("row", name=re.compile("^J per generated token, gpu"))).to_contain_text(
        "within what it varies by"
    )
    expect(table.locator("tbody tr")).to_have_count(6)
    # A period that begins long before the first data: rates are over the whole of it.
    now = datetime.now(UTC)
    watched.go(f"/tokens?against_from={now - timedelta(hours=10):%Y-%m-%dT%H:%M}&against_to={now:%Y-%m-%dT%H:%M}")
    for name in ("J per generated token", "Generated tokens", "Provisioned idle"):
        expect(table.get_by_role("row", name=re.compile(f"^{name}"))).to_contain_text("not known all the time")
    expect(table).to_contain_text(re.compile(r"Known part of the time: 100\s% and 2\d"))
    watched.go(f"/tokens?deployment={CHAT}&range=15m")
    expect(table.locator("tbody tr")).to_have_count(10)
    page.locator("#against").evaluate("it => it.scrollIntoView({block: 'center'})")
    page.locator("#against").click()
    page.get_by_role("option", name="chat-8b").click()
    expect(page).to_have_url(re.compile("against=chat-8b"))
    figure = table.get_by_role("row", name=re.compile("^J per generated token"))
    expect(figure).to_contain_text(re.compile(r"\+3\d\d\.\d"))
    expect(figure.locator(".badge")).to_have_count(0)
    watched.go(f"/tokens?deployment={CHAT}&against={SILENT}&range=15m")
    expect(figure).to_contain_text("coverage is too low")
    page.get_by_role("link", name="The period before").click()
    expect(page).not_to_have_url(re.compile("against"))
    # Until the new page is there, the old one is what one would open.
    expect(figure).not_to_contain_text("coverage is too low")
    page.locator("summary", has_text="Another period").click()
    page.locator("#against-from").fill("2026-01-31 08:00")
    page.locator("#against-to").fill("2026-01-31 08:15")
    page.locator("#against-apply").click()
    expect(page).to_have_url(re.compile(r"against_from=2026-01-31\+08%3A00"))
    expect(table).to_contain_text("There is nothing to compare: Jan 31 08:00 – 08:15 has no figures")


def test_nodes_without_a_token_come_first(watched: Watched) -> None:
    page = watched.go("/tokens")
    ramp = page.get_by_role("region", name=re.compile("^Nodes that were lately first seen")).locator("tbody tr")
    expect(ramp.first).to_contain_text(f"{STARTING}-n2")
    expect(ramp.first).to_contain_text("no token yet")
    ramp.first.get_by_role("link").click()
    expect(page.locator("main h1")).to_contain_text(f"{STARTING}-n2")


def test_figures_that_do_not_go_on_are_said_to_be_stale(watched: Watched, filled: str) -> None:
    engine = database.engine(filled)
    lag = "SELECT date_trunc('minute', folded - now())::text FROM gigawatch.rollup WHERE level = 'deployment_1m'"
    with engine.connect() as connection:
        to_now = connection.scalar(text(lag))
    engine.dispose()
    page = watched.go("/tokens?range=15m")
    with folded_less(filled, "deployment_1m", to_now):
        expect(page.locator("#live-known .badge")).to_have_count(0)
        expect(page.locator("#live-known")).to_contain_text("Figures are known up to")
    with folded_less(filled, "deployment_1m", "20 min"):
        page = watched.go("/tokens?range=15m")
        expect(page.locator("#live-known .badge")).to_have_text("stale")
        expect(page.locator("#live-known")).to_contain_text("does gigawatch serve run")
        expect(card(page, "J per generated token").locator(".value")).to_have_text(re.compile(r"^0\.\d+$"))


def test_before_anything_is_folded_the_page_says_that_figures_are_on_their_way(watched: Watched, filled: str) -> None:
    """As a new store, or a demo in its first minute, is looked at."""
    engine = database.engine(filled)
    rename = "UPDATE gigawatch.rollup SET level = :now WHERE level = :before"
    with engine.begin() as connection:
        connection.execute(text(rename), {"before": "deployment_1m", "now": "hidden"})
    try:
        page = watched.go("/tokens?range=24h")
        expect(page.locator("main h1")).to_have_text("No figures yet")
        expect(page.locator("main")).to_contain_text("about 80 s")
        assert watched.problems == []
    finally:
        with engine.begin() as connection:
            connection.execute(text(rename), {"before": "hidden", "now": "deployment_1m"})
        engine.dispose()


def test_a_store_of_another_version_is_said(watched: Watched, filled: str) -> None:
    with without(filled, "serving"):
        watched.page.goto("/tokens?range=24h")
        # What was read ahead or a moment ago is shown for some seconds.
        expect(watched.page.get_by_role("alert").filter(has_text="Not live")).to_contain_text("gigawatch migrate")
        expect(watched.page.locator("main")).to_contain_text("No figures")
    expect(watched.page.locator("main h1")).to_have_text("Energy per token")


def test_without_deployments_the_page_teaches_how_to_have_some(
    browser: Browser, embedded_server: Any, tmp_path: Path
) -> None:
    url = embedded_server.create()
    served = Dashboard(url, tmp_path / "log", GIGAWATCH_DASHBOARD__OPEN_ACCESS="true")
    try:
        watched = Watched(browser, served.url)
        page = watched.go("/tokens")
        expect(page.locator("main h1")).to_have_text("No deployment yet")
        expect(page.locator("main")).to_contain_text("[[engines]]")
        expect(page.locator("main")).to_contain_text("docs/engines.md")
        assert watched.problems == []
        page.close()
    finally:
        served.stop()
        embedded_server.drop(url)
