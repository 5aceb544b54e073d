"""The web app as a process, and a browser's page that is watched while it is used."""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, Page, expect

from tests.agents import environment
from tests.processes import GIGAWATCH, free_port

LABELLED = """() => [...document.querySelectorAll("input, select, button, a[href], [role=group], [role=region], nav")]
    .filter((it) => it.offsetParent !== null && it.type !== "hidden" && !it.closest(".js-plotly-plot"))
    .filter((it) => !(it.textContent.trim() || it.ariaLabel || it.title || it.labels?.length
        || it.getAttribute("aria-labelledby")))
    .map((it) => it.outerHTML.slice(0, 200))"""
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
        deadline = time.monotonic() + 40
        while True:
            try:
                httpx.get(f"{self.url}/healthz").raise_for_status()
                return
            except httpx.HTTPError:
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)

    def stop(self) -> None:
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(20)


class Watched:
    """A page, with what its console said and what it asked for elsewhere."""

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.base = url
        self.problems: list[str] = []
        self.page: Page = browser.new_page(base_url=url, **options)
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
