"""A browser for the tests of the web app."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.watching import Dashboard, Watched

CHROMIUM = "/usr/bin/chromium"
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run"]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def dashboard(filled: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    """The web app over the store that a module fills."""
    served = Dashboard(filled, tmp_path_factory.mktemp("log") / "log", GIGAWATCH_DASHBOARD__OPEN_ACCESS="true")
    yield served
    served.stop()


@pytest.fixture
def watched(browser: Browser, dashboard: Dashboard) -> Iterator[Watched]:
    """A page of it, whose console says nothing."""
    watched = Watched(browser, dashboard.url, viewport={"width": 1440, "height": 900})
    yield watched
    assert watched.problems == []
    watched.page.close()
