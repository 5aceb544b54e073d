"""The web app as a process, and a browser's page that is watched while it is used."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import text

from gigawatch import database
from tests.agents import environment
from tests.processes import GIGAWATCH, free_port

WAIT_MS = 60_000
"""For what is to come: a machine that does much else may take ten seconds to draw a page."""
expect.set_options(timeout=WAIT_MS)
LABELLED = """() => [...document.querySelectorAll("input, select, button, a[href], [role=group], [role=region], nav")]
    .filter((it) => it.offsetParent !== null && it.type !== "hidden" && !it.closest(".js-plotly-plot"))
    .filter((it) => !(it.textContent.trim() || it.ariaLabel || it.title || it.labels?.length
        || it.getAttribute("aria-labelledby")))
    .map((it) => it.outerHTML.slice(0, 200))"""
FAINT = """() => {
    const rgba = (text) => {
        const [r, g, b, a = 1] = (text.match(/rgba?\\(([^)]+)\\)/) || [0, "0,0,0,0"])[1].split(/[ ,/]+/).map(Number);
        return [r, g, b, a];
    };
    const over = (top, under) => [0, 1, 2].map((it) => top[it] * top[3] + under[it] * (1 - top[3]));
    const behind = (it) => {
        if (!it) return [255, 255, 255];
        const own = rgba(getComputedStyle(it).backgroundColor);
        return own[3] === 1 ? own : over(own, behind(it.parentElement));
    };
    const light = (colour) => colour.slice(0, 3).map((it) => it / 255)
        .map((it) => it <= 0.03928 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4)
        .reduce((sum, it, place) => sum + it * [0.2126, 0.7152, 0.0722][place], 0);
    const found = [];
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const it = texts.currentNode.parentElement;
        if (!texts.currentNode.data.trim() || !it.offsetParent || it.closest(".screen-reader")) continue;
        const under = behind(it);
        const [low, high] = [light(under), light(over(rgba(getComputedStyle(it).color), under))].sort((a, b) => a - b);
        if ((high + 0.05) / (low + 0.05) < 4.5) found.push(it.outerHTML.slice(0, 200));
    }
    return found;
}"""
"""Text whose contrast with what is behind it is less than 4.5:1."""
DRAWN = """() => document.querySelector("nav a") && !document.querySelector(".dash-graph--pending")
    && [...document.querySelectorAll(".drawn")].every((it) => it.querySelector(".main-svg"))"""
"""Whether the navigation is there and all charts are."""
HEADINGS = """() => [...document.querySelectorAll("h1, h2, h3, h4")].map((it) => Number(it.tagName[1]))"""


class Dashboard:
    """`gigawatch dashboard` as a process."""

    def __init__(self, database_url: str, log: Path, **settings: str) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [*GIGAWATCH, "dashboard", "--port", str(port)],
                env=environment(None, GIGAWATCH_STORE__DATABASE_URL=database_url,
                                GIGAWATCH_DASHBOARD__REFRESH_S="1", **settings),
                stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + WAIT_MS / 1000
        while True:
            try:
                httpx.get(f"{self.url}/healthz").raise_for_status()
                return
            except httpx.HTTPError:
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)

    def stop(self) -> None:
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(WAIT_MS / 1000)


class Watched:
    """A page, with what its console said and what it asked for elsewhere."""

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.base = url
        self.problems: list[str] = []
        self.page: Page = browser.new_page(base_url=url, **options)
        self.page.set_default_timeout(WAIT_MS)
        self.page.on("console", lambda it: self.problems.append(it.text) if it.type in {"error", "warning"} else None)
        self.page.on("pageerror", lambda it: self.problems.append(str(it)))
        self.page.on("request", lambda it: self._look_at(it.url))

    def _look_at(self, url: str) -> None:
        if not url.startswith((self.base, "data:", "blob:")):
            self.problems.append(f"asked for {url}")

    def go(self, path: str) -> Page:
        self.page.goto(path)
        self.page.wait_for_selector("main h1")
        expect(self.page.locator("main [aria-busy=true]")).to_have_count(0)
        return self.page


def card(page: Page, name: str) -> Any:
    """The card of a figure."""
    return page.locator(".card", has=page.locator("dt", has_text=re.compile(f"^{name}$")))


def refresh(page: Page) -> None:
    """Wait until a page was refreshed: the next is asked for once it shows what the one before brought."""
    for _ in range(2):
        with page.expect_response(lambda it: "page.children" in (it.request.post_data or "")):
            pass


def look_at_each(browser: Browser, dashboard: Dashboard, paths: Iterable[str], width: int, scheme: str) -> None:
    """Look at pages as those who see them do, and as those who do not: they fit, and all has a name and a contrast."""
    watched = Watched(browser, dashboard.url, viewport={"width": width, "height": 844}, color_scheme=scheme)
    for path in paths:
        page = watched.go(path)
        page.wait_for_function(DRAWN)
        assert page.locator("html").get_attribute("data-theme") == scheme
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0, path
        assert page.evaluate(LABELLED) == []
        assert page.evaluate(FAINT) == [], path
        assert page.evaluate("document.title").endswith(" – Gigawatch"), path
        levels = page.evaluate(HEADINGS)
        assert (levels[0], levels.count(1)) == (1, 1)
        assert all(later - earlier <= 1 for earlier, later in pairwise(levels)), (path, levels)
        assert page.locator("table:not(:has(caption)), th:not([scope]), img:not([alt])").count() == 0
        assert page.locator("main").count() == page.locator("nav[aria-label=Pages]").count() == 1
        for link in page.locator("nav[aria-label='On this page'] a").all():
            assert page.locator(link.get_attribute("href") or "").count() == 1
        assert watched.problems == []
    watched.page.close()


@contextmanager
def without(url: str, function: str) -> Iterator[None]:
    """A store of another version: it has no such function."""
    rename = "ALTER FUNCTION report.{} RENAME TO {}"
    with _changed(url, rename.format(function, f"{function}_before"), rename.format(f"{function}_before", function)):
        yield


@contextmanager
def folded_less(url: str, level: str, by: str) -> Iterator[None]:
    """A store whose folding came less far, by an interval of SQL; or further, by one below 0."""
    move = f"UPDATE gigawatch.rollup SET folded = folded {{}} interval '{by}' WHERE level = '{level}'"  # ours
    with _changed(url, move.format("-"), move.format("+")):
        yield


@contextmanager
def _changed(url: str, change: str, back: str) -> Iterator[None]:
    engine = database.engine(url)
    with engine.begin() as connection:
        connection.execute(text(change))
    try:
        yield
    finally:
        with engine.begin() as connection:
            connection.execute(text(back))
        engine.dispose()
