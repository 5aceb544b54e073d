"""Takes the README's picture from a running `make demo`: python docs/images/take.py."""

from pathlib import Path

from playwright.sync_api import sync_playwright

ADDRESS = "http://127.0.0.1:8601/?range=24h"


def main() -> None:
    """Write fleet.png beside this file."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page(viewport={"width": 1440, "height": 1330}, color_scheme="light")
        page.goto(ADDRESS)
        page.wait_for_selector(".js-plotly-plot")
        page.wait_for_timeout(3_000)
        page.screenshot(path=Path(__file__).with_name("fleet.png"))
        browser.close()


if __name__ == "__main__":
    main()
