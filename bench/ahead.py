"""Energy per token as who looks on gets it: python -m bench.ahead FOLDER, of bench.stored and bench.deployed.

Ten views are shown over and over by the dashboard's own code while another minute becomes known and is read ahead.
The time of a page is that of all a request needs of the server: reads, figures, what goes to the browser.
"""

import argparse
import gc
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, Engine, text

from bench.queries import PAGE, PAGE_MS, TIMEOUT_S, opened, quantile
from dashboard import ahead, theme
from dashboard.pages import tokens
from dashboard.view import View
from gigawatch import database, token_readings

NAMES = (
    "energy per token", "energy per token, facility", "energy per token by model, facility", "energy per token by site",
    "energy per token, 15 min", "energy per token, 6 h", "energy per token, 24 h", "energy per token, 30 d",
    "energy per token of a deployment", "energy per token of a deployment, 30 d",
)  # fmt: skip
ROUNDS = 10
"""Of all views, before and after the other minute is known."""


def known(owner: Engine, by: timedelta) -> datetime:
    """Let figures of deployments be known for so much longer; up to when."""
    with owner.begin() as connection:
        until = connection.scalar(
            text("UPDATE gigawatch.rollup SET folded = folded + :by WHERE level = 'deployment_1m' RETURNING folded"),
            {"by": by},
        )
    assert isinstance(until, datetime)
    return until


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    took_s: list[float] = []
    times_ms: dict[str, list[float]] = {name: [] for name in NAMES}

    def read(connection: Connection, asked: View, until: datetime) -> None:
        began_s = time.perf_counter()
        tokens.render_until(connection, asked, theme.LIGHT, datetime.now(UTC), until)
        took_s.append(time.perf_counter() - began_s)

    with opened(options.folder, 1) as (owner, url, works, _):
        reader = database.engine(url, statement_timeout_s=TIMEOUT_S, role=database.REPORT_ROLE)

        def ask(name: str) -> float:
            began_s = time.perf_counter()
            with reader.connect() as connection:
                works[f"{PAGE}{name}"](connection)
            return (time.perf_counter() - began_s) * 1_000

        def look_on(rounds: int) -> None:
            for _ in range(rounds):
                for name in NAMES:
                    times_ms[name].append(ask(name))

        before = known(owner, -timedelta(minutes=1))
        gc.freeze()
        thread = ahead.start(reader, token_readings.tokens_until, read)
        while thread.until(View()) != before:
            time.sleep(0.1)
        first_ms = {name: ask(name) for name in NAMES}
        look_on(ROUNDS)
        took_s.clear()
        after = known(owner, timedelta(minutes=1))
        began_s = time.monotonic()
        while thread.until(View()) != after:
            look_on(1)
        late_s = time.monotonic() - began_s
        look_on(ROUNDS)
        thread.stop()
        thread.join()
        reader.dispose()
    print("| | asked first, ms | looked on, median, ms | p95, ms | limit |\n| --- | ---: | ---: | ---: | --- |")
    for name, found in times_ms.items():
        p95_ms = quantile(found, 0.95)
        limit = "within" if p95_ms <= PAGE_MS else "**above**"
        print(f"| {name} | {first_ms[name]:.0f} | {quantile(found, 0.5):.0f} | {p95_ms:.0f} | {limit} |")
    every_ms = [it for found in times_ms.values() for it in found]
    print(f"\n{len(every_ms)} pages: p95 {quantile(every_ms, 0.95):.0f} ms, the longest {max(every_ms):.0f} ms.")
    print(f"{len(took_s)} views were read ahead in {sum(took_s):.1f} s, and shown {late_s:.1f} s after they were due.")


if __name__ == "__main__":
    main()
