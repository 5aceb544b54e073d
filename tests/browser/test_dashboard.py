"""The web app in a real browser, on a real store: pages, filters, themes, narrow screens, access, failures."""

import os
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import flask
import httpx
import pytest
from playwright.sync_api import Browser, expect
from sqlalchemy import text

from dashboard import access
from gigawatch import database, schema, tokens
from gigawatch.embedded import EmbeddedServer, installations
from migrations.run import migrate
from tests.agents import environment
from tests.browser import seed
from tests.browser.watching import Dashboard, Watched, look_at_each, refresh
from tests.processes import GIGAWATCH

UNNAMED = """[...document.querySelectorAll('input:not([type=hidden]), img, button')]
    .filter(it => !it.labels?.length && !it.ariaLabel && !it.alt && !it.title && !it.textContent.trim()
        && !it.getAttribute('aria-labelledby') && it.offsetParent)
    .map(it => it.outerHTML.slice(0, 200))"""
PAGES = (
    "/",
    "/nodes",
    "/nodes?find=none&sort=-power&state=silent",
    "/swings",
    "/swings?range=6h",
    "/store",
    "/nodes/1",
    f"/gpus/{seed.THROTTLED}",
    "/nodes/999999",
    "/gpus/none",
    "/nowhere",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A database server of this module's own, since one test stops it."""
    folder = Path(f"/tmp/gigawatch-browser-{os.getpid()}")  # noqa: S108 # the server's user must come through
    installation = next(it for it in installations() if not it.timescaledb)
    with EmbeddedServer(folder, installation) as server:
        engine = database.engine(server.url)
        migrate(engine)
        with engine.begin() as connection:
            seed.seed(connection, datetime.now(UTC), simulated=True)
        engine.dispose()
        yield server
    subprocess.run(["rm", "-rf", folder], check=True)


@pytest.fixture(autouse=True)
def alive(store: EmbeddedServer) -> None:
    """The nodes were heard of now, however long the tests before took: after a minute all would be silent.

    Their newest windows are there once more, as of now.
    """
    engine = database.engine(store.url)
    columns = [column.name for column in schema.gpu_window.columns if column.name != "time"]
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE gigawatch.node_now SET last_seen = last_seen + since.length, time = time + since.length"
                " FROM (SELECT now() - max(last_seen) AS length FROM gigawatch.node_now) AS since"
            )
        )
        connection.execute(
            text(
                f"INSERT INTO gigawatch.gpu_window (time, {', '.join(columns)})"
                f" SELECT DISTINCT ON (w.node_id) now.time, {', '.join(f'w.{name}' for name in columns)}"
                " FROM gigawatch.gpu_window AS w JOIN gigawatch.node_now AS now USING (node_id)"
                " ORDER BY w.node_id, w.time DESC ON CONFLICT DO NOTHING"
            )
        )
    engine.dispose()


@pytest.fixture(scope="module")
def dashboard(store: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    served = Dashboard(store.url, tmp_path_factory.mktemp("log") / "log", GIGAWATCH_DASHBOARD__OPEN_ACCESS="true")
    yield served
    served.stop()


@pytest.fixture
def watched(browser: Browser, dashboard: Dashboard) -> Iterator[Watched]:
    watched = Watched(browser, dashboard.url, viewport={"width": 1440, "height": 900})
    yield watched
    watched.page.close()


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_each_page_is_clean_wide_and_narrow_light_and_dark(
    browser: Browser, dashboard: Dashboard, width: int, scheme: str
) -> None:
    look_at_each(browser, dashboard, PAGES, width, scheme)


def test_the_fleet_shows_what_matters(watched: Watched) -> None:
    page = watched.go("/")
    expect(page.locator(".card", has_text="Power now").locator(".value")).to_have_text(re.compile(r"^\d"))
    expect(page.get_by_text("Simulated data.")).to_be_visible()
    expect(page.get_by_text("boundary: gpu")).to_be_visible()
    expect(page.locator(".panel", has_text="Silent nodes").get_by_role("link", name=seed.SILENT)).to_be_visible()
    expect(page.locator(".panel", has_text="Throttled GPUs").locator("tbody tr").first).to_be_visible()
    expect(page.locator(".panel", has_text="Events of the last day").locator("tbody")).to_contain_text("XID 79")
    summary = page.get_by_role("group", name=re.compile("^Power over time"))
    expect(summary).to_have_count(1)


def test_load_swings_show_power_at_1_hz_its_ramps_and_its_main_oscillation(watched: Watched) -> None:
    page = watched.go("/")
    page.get_by_role("link", name="Load swings").click()
    expect(page).to_have_url(re.compile("/swings$"))
    for label in ("Largest swing in 10 s", "Largest ramp up", "Largest ramp down", "Mean power", "Coverage at 1 Hz"):
        expect(page.locator(".card", has_text=label).locator(".value")).to_have_text(re.compile(r"^\d"))
    expect(page.locator(".card", has_text="Largest ramp up").locator(".unit")).to_have_text(re.compile("W/s"))
    expect(page.get_by_text("boundary: gpu")).to_be_visible()
    # The seed's nodes swing together every 31 s.
    expect(page.locator("#live-oscillation")).to_contain_text(re.compile(r"mostly every 31\s(\.\d)?s, by ±\d"))
    expect(page.get_by_role("group", name=re.compile("^Power second by second"))).to_have_count(1)
    page.get_by_role("link", name="6 h", exact=True).click()
    expect(page.get_by_role("group", name=re.compile("^Least to greatest power by the minute. oslo"))).to_have_count(1)
    page.get_by_role("link", name="24 h").click()
    expect(page.get_by_text("Shown are the last 6 h")).to_be_visible()
    watched.go("/swings?rack=r01")
    expect(page.get_by_text("do not apply here")).to_be_visible()
    watched.go("/swings?from=2026-01-31T08:00Z&to=2026-01-31T09:00Z")
    expect(page.locator(".card", has_text="Coverage at 1 Hz").locator(".value")).to_have_text("–")
    expect(page.locator("#live-oscillation")).to_contain_text("nothing can be said")
    assert watched.problems == []


def test_filters_live_in_the_address_and_back_goes_back(watched: Watched) -> None:
    page = watched.go("/")
    page.get_by_role("link", name="24 h").click()
    expect(page).to_have_url(re.compile("range=24h"))
    rack = page.get_by_role("link", name="Rack", exact=True)
    expect(rack).to_have_attribute("href", re.compile("range=24h"))
    rack.click()
    expect(page).to_have_url(re.compile("range=24h.*group=rack"))
    page.go_back()
    expect(page).not_to_have_url(re.compile("group=rack"))
    page = watched.go("/?site=oslo")
    expect(page.locator("#filters")).to_contain_text("oslo")
    expect(page.locator("main")).not_to_contain_text("austin-")


def test_a_filter_that_matches_nothing_says_so(watched: Watched) -> None:
    for address, said in (
        ("/facility?site=atlantis", "There is no site named 'atlantis'"),
        ("/nodes?rack=Z-1", "There is no rack named 'Z-1'"),
        ("/?site=atlantis", "There is no site named 'atlantis'"),
    ):
        page = watched.go(address)
        expect(page.get_by_role("heading", name=said)).to_be_visible()
        expect(page.get_by_text("There are: ")).to_be_visible()
    page.get_by_role("link", name="Clear filters").click()
    expect(page.locator(".card").first).to_be_visible()


def test_nonsense_in_the_address_is_ignored_and_said(watched: Watched) -> None:
    page = watched.go("/?range=forever&from=x&to=y&evil=%3Cscript%3E")
    expect(page.locator(".banner.warn")).to_contain_text("range='forever'")
    expect(page.locator(".card").first).to_be_visible()


def test_the_theme_is_kept(watched: Watched) -> None:
    page = watched.go("/")
    page.get_by_role("button", name="Theme").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    watched.go("/nodes")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_the_keyboard_reaches_content_and_navigation(watched: Watched) -> None:
    page = watched.go("/")
    expect(page.get_by_role("navigation", name="Pages").get_by_role("link", name="Nodes")).to_be_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    for _ in range(4):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Nodes":
            break
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/nodes"))


def test_rows_lead_to_nodes_and_gpus(watched: Watched) -> None:
    page = watched.go("/")
    page.locator(".panel", has_text="Hottest GPUs").locator("tbody a").first.click()
    expect(page).to_have_url(re.compile("/gpus/GPU-"))
    expect(page.locator("main")).to_contain_text("Slowdown at")
    page.locator("main h1 a").click()
    expect(page).to_have_url(re.compile(r"/nodes/\d+"))
    expect(page.locator("main")).to_contain_text("Power by part")


def test_access_needs_a_good_token(browser: Browser, store: EmbeddedServer, tmp_path: Path) -> None:
    engine = database.engine(store.url)
    with engine.begin() as connection:
        viewer = tokens.create(connection, "viewer", "viewer")
        agent = tokens.create(connection, "agent", "agent")
    served = Dashboard(store.url, tmp_path / "log")
    try:
        assert httpx.get(served.url + "/").headers["location"] == "/login"
        assert httpx.get(served.url + "/nodes").headers["location"] == "/login?next=%2Fnodes"
        for path in ("/_dash-layout", "/_dash-dependencies"):
            assert httpx.get(served.url + path).status_code == 401
        assert httpx.post(f"{served.url}/_dash-update-component", json={}).status_code == 401
        watched = Watched(browser, served.url)
        page = watched.page
        page.goto("/")
        for wrong in ("nonsense", agent):
            page.get_by_label("Token").fill(wrong)
            with page.expect_navigation():
                page.get_by_role("button", name="Log in").click()
            expect(page.get_by_role("alert")).to_contain_text("not known")
        page.get_by_label("Token").fill(viewer)
        page.get_by_role("button", name="Log in").click()
        expect(page.locator(".card").first).to_be_visible()
        page.close()
        answer = httpx.get(f"{served.url}/?token={viewer}&range=24h")
        assert answer.headers["location"] == "/?range=24h"
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert viewer not in cookie
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    finally:
        served.stop()
        engine.dispose()


AXIS = "document.querySelector('#fleet-power .js-plotly-plot').layout.xaxis"
RANGE = f"{AXIS}.range.join()"


def test_a_refresh_keeps_the_reader_s_zoom_and_focus(watched: Watched) -> None:
    page = watched.go("/")
    area = page.locator("#fleet-power .nsewdrag").first
    area.hover(position={"x": 350, "y": 100})
    page.mouse.down()
    area.hover(position={"x": 550, "y": 105}, force=True)  # what plotly lays over it while one drags takes the mouse
    page.mouse.up()
    page.wait_for_function(f"{AXIS}.autorange === false")
    zoomed = page.evaluate(RANGE)
    link = page.locator(".panel", has_text="Silent nodes").get_by_role("link").first
    link.focus()
    text = link.text_content()
    page.evaluate("document.querySelector('#fleet-power').dataset.mark = 'same'")
    silent = page.locator(".panel", has_text="Silent nodes").locator("td.number").first
    refresh(page)
    assert silent.is_visible()
    assert page.evaluate(RANGE) == zoomed
    assert page.locator("#fleet-power").get_attribute("data-mark") == "same"
    assert page.evaluate("document.activeElement.textContent") == text


def test_a_period_of_one_s_own(watched: Watched) -> None:
    page = watched.go("/")
    page.locator("summary").click()
    page.get_by_label("From (UTC)").fill("2026-01-31 08:00")
    page.get_by_label("To (UTC)").fill("2026-01-31 09:30")
    page.get_by_role("button", name="Show this period").click()
    expect(page).to_have_url(re.compile(r"from=2026-01-31\+08%3A00&to=2026-01-31\+09%3A30"))
    expect(page.locator("summary")).to_have_text("Jan 31 08:00 – Jan 31 09:30")
    expect(page.locator(".panel", has_text="Power").first).to_contain_text("No data in this period")


def test_filters_are_chosen_and_cleared(watched: Watched) -> None:
    page = watched.go("/")
    page.locator("#site").click()
    page.get_by_role("option", name="austin").click()
    expect(page).to_have_url(re.compile(r"site=austin"))
    expect(page.locator("main")).not_to_contain_text("oslo-")
    nodes = page.get_by_role("navigation", name="Pages").get_by_role("link", name="Nodes")
    expect(nodes).to_have_attribute("href", re.compile("site=austin"))
    nodes.click()
    expect(page).to_have_url(re.compile(r"/nodes\?site=austin"))
    expect(page.locator(".nodes-list tbody tr").first).to_contain_text("austin-")
    page.locator(".nodes-list tbody a").first.press("Enter")
    expect(page.locator("main h1")).to_contain_text("austin-")


@pytest.fixture
def long_list(browser: Browser, embedded_server: Any, tmp_path: Path) -> Iterator[Watched]:
    """A dashboard whose list of nodes has three pages."""
    url = embedded_server.create()
    engine = database.engine(url)
    with engine.begin() as connection:
        seed.seed(connection, datetime.now(UTC), nodes_per_rack=32, gpus_per_node=1, history=timedelta(hours=1))
    engine.dispose()
    served = Dashboard(url, tmp_path / "log", GIGAWATCH_DASHBOARD__OPEN_ACCESS="true")
    watched = Watched(browser, served.url, viewport={"width": 1440, "height": 900})
    yield watched
    watched.page.close()
    served.stop()
    embedded_server.drop(url)


def test_nodes_are_sorted_and_paged_in_the_store(long_list: Watched) -> None:
    page = long_list.go("/nodes?site=oslo")
    rows = page.locator(".nodes-list tbody tr")
    pager = page.get_by_role("navigation", name="Pages of the list", exact=True)
    expect(pager).to_contain_text("1 to 100 of 128")
    expect(rows).to_have_count(100)
    # By keyboard: a refresh replaces the rows each second, and a mouse's button that was pressed before it is released
    # on another element after it.
    pager.get_by_role("link", name="Next").press("Enter")
    expect(page).to_have_url(re.compile("page=2"))
    expect(pager).to_contain_text("101 to 128 of 128")
    expect(rows).to_have_count(28)
    # Sorting begins with the first page; once more turns it round.
    page.get_by_role("link", name="Node", exact=True).press("Enter")
    expect(page.locator("th[aria-sort=ascending]")).to_have_text("Node")
    expect(rows.first).to_contain_text("oslo-r01-n01")
    page.get_by_role("link", name="Node", exact=True).press("Enter")
    expect(page.locator("th[aria-sort=descending]")).to_have_text("Node")
    expect(rows.first).to_contain_text("oslo-r04-n32")
    expect(page.locator(":focus")).to_have_text("Node")
    page.go_back()
    expect(rows.first).to_contain_text("oslo-r01-n01")
    long_list.go("/nodes?page=99")
    expect(pager).to_contain_text("201 to 224 of 224")
    assert long_list.problems == []


def test_nodes_are_searched_and_chosen_by_state_and_a_refresh_keeps_that(long_list: Watched) -> None:
    page = long_list.go("/nodes?site=oslo&sort=-power")
    rows = page.locator(".nodes-list tbody tr")
    box = page.get_by_label("Search host name or rack")
    box.fill("N07")
    box.press("Enter")
    expect(rows).to_have_count(4)
    expect(page).to_have_url(re.compile("site=oslo.*find=N07.*sort=-power"))
    refresh(page)
    expect(rows).to_have_count(4)
    expect(page.locator("th[aria-sort=descending]")).to_have_text("Power")
    box.fill("%' OR 1=1 --")
    box.press("Enter")
    expect(page.get_by_text("No node of this part of the fleet whose host name or rack contains")).to_be_visible()
    page.go_back()
    expect(rows).to_have_count(4)
    expect(box).to_have_value("N07")
    long_list.go("/nodes?sort=-silent")
    page.get_by_role("navigation", name="State").get_by_role("link", name=re.compile("^silent ")).click()
    expect(page).to_have_url(re.compile("state=silent"))
    # On a slow machine others may be silent by now as well, but none for so long.
    rows.first.get_by_role("link", name=seed.SILENT).press("Enter")
    expect(page).to_have_url(re.compile(r"/nodes/\d+$"))
    assert long_list.problems == []


def test_racks_are_looked_for_in_the_store_as_one_types(watched: Watched) -> None:
    page = watched.go("/nodes")
    page.locator("#rack").click()
    expect(page.get_by_role("option").first).to_be_visible()
    # What is typed before the field has the focus is lost.
    page.locator("input.dash-dropdown-search").fill("a0")
    expect(page.get_by_role("option")).to_have_text(["a01", "a02", "a03"])
    page.get_by_role("option", name="a02").click()
    expect(page).to_have_url(re.compile("rack=a02"))
    expect(page.locator(".nodes-list tbody tr").first).to_contain_text("austin-a02-n01")
    assert watched.problems == []


def test_a_cell_of_the_heat_map_leads_to_its_gpu(watched: Watched) -> None:
    page = watched.go("/")
    page.locator("#fleet-heat .nsewdrag").first.click(position={"x": 12, "y": 12})
    expect(page).to_have_url(re.compile(r"/gpus/GPU-"))


def test_pause_stops_the_refreshing(watched: Watched) -> None:
    page = watched.go("/")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Resume")).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(1_500)
    # An answer to what was asked before may still come; nothing more is asked.
    asked: list[str] = []
    page.on("request", lambda it: asked.append(it.url))
    page.wait_for_timeout(1_800)
    assert asked == []


def test_sessions_end_and_lead_nowhere_else(browser: Browser, store: EmbeddedServer, tmp_path: Path) -> None:
    engine = database.engine(store.url)
    with engine.begin() as connection:
        secret = tokens.create(connection, "leaver", "admin")
    served = Dashboard(store.url, tmp_path / "log", GIGAWATCH_STORE__DATA_DIR=str(tmp_path / "data"))
    try:
        with httpx.Client(base_url=served.url) as client:
            answer = client.post("/login?next=//evil.example/", data={"token": secret})
            assert answer.headers["location"] == "/"
            assert client.get("/").status_code == 200
            assert client.post("/logout", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
            forged = {"Sec-Fetch-Site": "cross-site"}
            assert client.post("/login", data={"token": secret}, headers=forged).status_code == 403
            assert 'http-equiv="refresh"' in httpx.get(served.url, headers=forged).text
        key = tmp_path / "data" / "dashboard.key"
        assert key.stat().st_mode & 0o777 == 0o600
        watched = Watched(browser, served.url)
        watched.page.goto(f"/?token={secret}&range=6h")
        expect(watched.page).to_have_url(f"{served.url}/?range=6h")
        expect(watched.page.locator(".card").first).to_be_visible()
        watched.page.get_by_role("button", name="Log out").click()
        expect(watched.page).to_have_url(f"{served.url}/login")
        watched.page.close()
        for _ in range(10):
            assert httpx.post(f"{served.url}/login", data={"token": "wrong"}).status_code == 401
        # From here a good one is refused as well, for a minute.
        assert httpx.post(f"{served.url}/login", data={"token": secret}).status_code == 401
    finally:
        served.stop()
        engine.dispose()


def test_a_revoked_token_ends_its_session(store: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = database.engine(store.url)
    with engine.begin() as connection:
        secret = tokens.create(connection, "revoked", "viewer")
    server = flask.Flask("test")
    access.Access(server, engine, open_access=False)
    server.add_url_rule("/", "start", lambda: "in")
    client = server.test_client()
    client.get(f"/?token={secret}")
    assert client.get("/").text == "in"
    with engine.begin() as connection:
        tokens.revoke(connection, "revoked")
    assert client.get("/").text == "in"  # believed for half a minute
    monkeypatch.setattr(access, "BELIEVED_S", 0.0)
    assert client.get("/").headers["location"] == "/login"
    engine.dispose()


def test_open_access_answers_to_this_machine_s_names_only(dashboard: Dashboard) -> None:
    assert httpx.get(dashboard.url, headers={"Host": "evil.example"}).status_code == 403
    assert httpx.get(dashboard.url, headers={"Host": "localhost:8601"}).status_code == 200


def test_open_access_is_refused_beyond_this_machine(tmp_path: Path) -> None:
    done = subprocess.run(
        [*GIGAWATCH, "dashboard", "--open-access", "--host", "0.0.0.0"],  # noqa: S104 # that is what is refused
        env=environment(None), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 3
    assert "would let everybody in" in done.stderr


def test_the_store_shows_its_folding_tables_and_jobs(watched: Watched, store: EmbeddedServer) -> None:
    engine = database.engine(store.url)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO gigawatch.job VALUES ('retain', 'host:1', now(), now(), NULL, 'no room')"))
        connection.execute(
            text(
                "INSERT INTO gigawatch.rollup VALUES"
                " ('1m', now() - interval '9 min', now() - interval '9 min', 0), ('1h', now(), now(), 0)"
            )
        )
    try:
        page = watched.go("/nodes?site=oslo")
        page.get_by_role("link", name="Store").click()
        expect(page.locator("main h1")).to_have_text("Store")
        expect(page.locator("#filters > *")).to_have_count(0)
        for card, value in (("PostgreSQL", r"^\d+$"), ("Minutes folded", r"^\d\d:\d\d"), ("Size on disk", r"^\d"),
                            ("Windows kept", "^7$"), ("Buckets waiting", "^0$")):  # fmt: skip
            expect(page.locator(".card", has_text=card).locator(".value")).to_have_text(re.compile(value))
        expect(page.locator(".card.bad")).to_contain_text(re.compile(r"\b(9|1\d)\smin ago"))
        expect(page.locator("main .banner.bad", has_text="Job retain failed: no room")).to_be_visible()
        expect(page.locator("main .banner.bad", has_text="not folded into minutes")).to_be_visible()
        levels = page.get_by_role("region", name="Levels of folding")
        expect(levels.locator(".badge")).to_have_text(["behind", "up to date", *["nothing folded yet"] * 4])
        expect(page.get_by_role("region", name="Jobs of the scheduler").locator("tbody tr")).to_contain_text(["failed"])
        tables = page.get_by_role("region", name="Tables of the store")
        expect(tables.locator("tbody tr").first).to_contain_text("gpu_window")
        expect(tables.locator(".share").first).to_be_visible()
        # A refresh brings what changed, and leaves the page where it is.
        tables.focus()
        with engine.begin() as connection:
            connection.execute(text("UPDATE gigawatch.job SET error = NULL"))
        expect(page.locator("main .banner.bad", has_text="Job retain failed")).to_have_count(0)
        expect(page.locator(":focus")).to_have_attribute("aria-label", re.compile("^Tables of the store"))
        page.get_by_role("link", name="Fleet").click()
        expect(page.locator("#filters")).to_contain_text("oslo")
        assert watched.problems == []
    finally:
        with engine.begin() as connection:
            # No TRUNCATE: it and a page that is being read would wait for each other.
            connection.execute(text("DELETE FROM gigawatch.job"))
            connection.execute(text("DELETE FROM gigawatch.rollup"))
        engine.dispose()


def test_an_empty_store_says_what_to_do(browser: Browser, embedded_server: Any, tmp_path: Path) -> None:
    url = embedded_server.create()
    served = Dashboard(url, tmp_path / "log", GIGAWATCH_DASHBOARD__OPEN_ACCESS="true")
    try:
        watched = Watched(browser, served.url)
        page = watched.go("/")
        expect(page.get_by_text("No data yet")).to_be_visible()
        expect(page.locator("main")).to_contain_text("gigawatch collect")
        page = watched.go("/store")
        expect(page.get_by_text("nothing folded yet")).to_have_count(6)
        expect(page.get_by_text("No job ran yet")).to_be_visible()
        assert watched.problems == []
        page.close()
    finally:
        served.stop()
        embedded_server.drop(url)


def test_a_database_that_goes_away_is_said_and_comes_back(watched: Watched, store: EmbeddedServer) -> None:
    page = watched.go("/")
    expect(page.locator(".card").first).to_be_visible()
    store.stop()
    try:
        expect(page.get_by_role("alert")).to_contain_text("The database cannot be reached")
        expect(page.locator(".card").first).to_be_visible()  # the last figures stay, and look it
        expect(page.locator("#live")).to_contain_text("not live")
    finally:
        store.start()
    expect(page.locator(".banner.bad")).to_have_count(0)
