"""Load swings: power at 1 Hz, how fast it ramps, how far it swings, and how it oscillates."""

from datetime import datetime, timedelta
from typing import Any

from dash import html
from sqlalchemy import Connection

from dashboard import components, figures, quantities, recent, view
from dashboard.components import card, chart, panel
from dashboard.figures import Peak
from dashboard.pages.fleet import BOUNDARY
from dashboard.plots import GOOD_COVERAGE
from dashboard.theme import Theme
from dashboard.view import View
from gigawatch import readings
from gigawatch.readings import LoadSwingSummary, SpectrumLine, Where
from gigawatch.units import WATTS_PER_MEGAWATT

LONGEST = timedelta(hours=6)
"""A longer period is shown by its last part: seconds are many."""
BY_SECOND = timedelta(hours=1)
"""A period so long is drawn second by second, a longer one by the minute."""
OVER = timedelta(seconds=10)


def render(connection: Connection, asked: View, theme: Theme, now: datetime) -> Any:
    """The page."""
    if not recent.read(readings.fleet_summary, connection, Where(site=asked.site)).gpus:
        return components.nothing(asked)
    whole = view.period(asked, now, lambda _start, _stop: 60.0)
    cut = whole.stop - whole.start > LONGEST + whole.step
    start = (whole.stop - LONGEST).replace(second=0, microsecond=0) if cut else whole.start
    period = view.Period(start, whole.stop, timedelta(minutes=1))
    summary = recent.read(readings.load_swing_summary, connection, period.start, period.stop, asked.site, OVER)
    lines: list[SpectrumLine] = []
    if summary.stretch_began is not None and summary.stretch_s is not None:
        # Of the stretch alone: looking for it among hours of seconds took longer than all else.
        stretch_stop = summary.stretch_began + timedelta(seconds=summary.stretch_s)
        lines = recent.read(readings.load_spectrum, connection, summary.stretch_began, stretch_stop, asked.site)
    peak = figures.peak_of(lines)
    if period.stop - period.start <= BY_SECOND + period.step:
        seconds = recent.read(readings.site_seconds, connection, period.start, period.stop, asked.site)
        power, ramp = figures.seconds_power(seconds, period, theme), figures.seconds_ramp(seconds, period, theme)
        power_note, ramp_note = "second by second; gaps: no data", "from one second to the next, with as many nodes"
        last = seconds[-1].time if seconds else None
    else:
        minutes = recent.read(readings.load_swings, connection, period.start, period.stop, asked.site)
        power, ramp = figures.minutes_power(minutes, period, theme), figures.minutes_ramp(minutes, period, theme)
        last = minutes[-1].time + period.step if minutes else None
        power_note = "by site and minute: mean, and band from the least to the greatest second"
        ramp_note = "by site and minute: greatest rise and fall from one second to the next"
    if last is not None and period.stop - last > period.step:
        power_note += f" · summed up to {quantities.clock(last)}"
    return html.Div(
        [
            html.Div(
                [
                    html.H1("Load swings"),
                    html.P(f"{BOUNDARY}. Times are UTC.", className="boundary"),
                    *[html.P(words, className="boundary") for words in _limits(asked, cut)],
                ],
                className="title wide",
            ),
            _cards(summary, peak),
            panel("Power at 1 Hz", chart(power, "swings-power"), note=power_note, wide=True),
            panel("Ramp rate", chart(ramp, "swings-ramp"), note=ramp_note, wide=True),
            panel(
                "Oscillations",
                html.P(_oscillation(lines, peak), id="live-oscillation", className="said"),
                chart(figures.spectrum(lines, theme), "swings-spectrum"),
                note="amplitude by period",
                wide=True,
            ),
        ],
        className="grid",
    )


def _limits(asked: View, cut: bool) -> list[str]:
    """What of the filters and the period does not apply here."""
    limits = []
    if asked.rack or asked.model:
        limits.append("Power at 1 Hz is known by site: the filters for racks and GPU models do not apply here.")
    if cut:
        limits.append("Shown are the last 6 h of the period.")
    return limits


def _cards(summary: LoadSwingSummary, peak: Peak | None) -> html.Dl:
    poor = summary.coverage is not None and summary.coverage < GOOD_COVERAGE
    over = f"{summary.over_s}{quantities.SPACE}s"
    return html.Dl(
        [
            card(
                f"Largest swing in {over}", quantities.power(summary.swing_max_w),
                f"began {quantities.moment(summary.swing_began)}" if summary.swing_began else "nothing to compare",
                boundary=BOUNDARY,
            ),
            card(
                "Largest ramp up", _ramp(summary.ramp_up_max_megawatts_per_s),
                f"in 1{quantities.SPACE}s · {_ramp(summary.ramp_up_over_max_megawatts_per_s)} over {over}",
                boundary=BOUNDARY,
            ),
            card(
                "Largest ramp down", _ramp(summary.ramp_down_max_megawatts_per_s),
                f"in 1{quantities.SPACE}s · {_ramp(summary.ramp_down_over_max_megawatts_per_s)} over {over}",
                boundary=BOUNDARY,
            ),
            card("Mean power", quantities.power(summary.power_mean_w), "of complete seconds", boundary=BOUNDARY),
            card(
                "Coverage at 1 Hz", quantities.share(summary.coverage),
                f"{quantities.count(summary.seconds_comparable)}{quantities.SPACE}s comparable",
                tone="warn" if poor else "", share=summary.coverage,
            ),
            card(
                "Main oscillation", peak.period if peak else quantities.UNKNOWN,
                f"±{quantities.power(peak.amplitude_w)}" if peak else "no peak stands out",
            ),
        ],
        id="live-cards", className="cards",
    )  # fmt: skip


def _ramp(megawatts_per_s: float | None) -> str:
    return quantities.ramp(None if megawatts_per_s is None else megawatts_per_s * WATTS_PER_MEGAWATT)


def _oscillation(lines: list[readings.SpectrumLine], peak: Peak | None) -> str:
    if not lines:
        return "There are no 64 seconds in a row with the same nodes: nothing can be said of oscillations."
    first = lines[0]
    said = (
        f"Power oscillates mostly {peak.words}: that peak holds more than half of the variance. "
        if peak
        else "No peak stands out: none holds more than half of the variance. "
    )
    return (
        f"{said}From {quantities.count(first.seconds)}{quantities.SPACE}s since {quantities.clock(first.began)}, "
        f"frequencies {first.resolution_hz * 1000:.2g}{quantities.SPACE}mHz apart."
    )
