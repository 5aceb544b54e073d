"""The dashboard's pure parts: addresses, quantities, colours, and what a refresh sends."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from dash import dcc, html

from dashboard import access, live, quantities, recent, theme, view
from dashboard.theme import DARK, LIGHT, Theme
from dashboard.view import View

NOW = datetime(2026, 11, 23, 9, 41, 27, tzinfo=UTC)


@pytest.mark.parametrize(
    "asked",
    [
        View(),
        View(site="oslo & co", rack="r/1", model="NVIDIA H100 80GB HBM3", range="7d", group="rack", heat="temperature"),
        View(find="a&b %", state="gpus_missing", sort="power", descending=True, page=7),
        View(descending=True),
        View(deployment="chat & co", boundary="facility", by="gpu_model", order="j_per_token", rising=True, ttft="p95"),
        View(order="label"),
        View(rule="gpu_temperature", severity="critical", like=17, page=3),
        View(
            against="code",
            against_start=datetime(2026, 1, 31, 8, tzinfo=UTC),
            against_stop=datetime(2026, 1, 31, 9, 30, tzinfo=UTC),
        ),
        View(start=datetime(2026, 1, 31, 8, tzinfo=UTC), stop=datetime(2026, 1, 31, 9, 30, tzinfo=UTC)),
    ],
)
def test_an_address_says_all_that_a_page_shows(asked: View) -> None:
    assert view.parse(view.query(asked)) == (asked, [])


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ("?range=forever", "range='forever'"),
        ("?group=planet&heat=x", "heat='x'"),
        ("?from=2026-01-01", "needs both"),
        ("?from=nonsense&to=2026-01-01", "from='nonsense'"),
        ("?from=2026-01-02&to=2026-01-01", "before"),
        ("?from=2020-01-01&to=2026-01-01", "366 days"),
        ("?from=9999-12-31T23:59:59-14:00&to=2026-01-01", "from="),
        ("?page=0", "page='0'"),
        ("?page=-1", "page='-1'"),
        ("?page=%C2%B2", "page="),
        ("?sort=-nothing", "sort='nothing'"),
        ("?order=-nothing", "order='nothing'"),
        ("?boundary=room", "boundary='room'"),
        ("?by=fleet", "by='fleet'"),
        ("?against_from=2026-01-01", "needs both against_from and against_to"),
        ("?state=gone", "state='gone'"),
        ("?severity=bad", "severity='bad'"),
        ("?like=x", "like='x'"),
        ("?evil=%3Cscript%3E", "'evil'"),
        ("?" + "&".join(f"a{number}=1" for number in range(500)), "'a0'"),
        ("?%ff=%00&site=%00", "parameter"),
    ],
)
def test_what_an_address_means_nothing_by_is_ignored_and_said(search: str, said: str) -> None:
    asked, notices = view.parse(search)
    assert said in "; ".join(notices)
    assert asked.range == "1h"
    assert "\0" not in (asked.site or "")


def test_a_link_elsewhere_leaves_the_list_of_nodes_behind() -> None:
    asked = View(site="oslo", range="7d", find="x", state="silent", sort="power", descending=True, page=3)
    assert view.elsewhere(asked) == "?site=oslo&range=7d"
    asked = View(site="oslo", boundary="it", deployment="chat", by="site", order="label", ttft="p95", against="code")
    assert view.elsewhere(asked) == "?site=oslo&boundary=it"


def test_ten_who_look_at_the_same_ask_the_store_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def slow(_: Any, site: str) -> str:
        asked.append(site)
        time.sleep(0.05)
        if site == "broken":
            raise ValueError(site)
        return site.upper()

    # All that is asked of a connection is which store it is of.
    connection: Any = SimpleNamespace(engine=SimpleNamespace(url=object()))
    with ThreadPoolExecutor(10) as pool:
        found = list(pool.map(lambda site: recent.read(slow, connection, site), ["oslo", "austin"] * 5))
    assert found == ["OSLO", "AUSTIN"] * 5
    assert sorted(asked) == ["austin", "oslo"]
    for _ in range(2):  # a failure is not kept
        with pytest.raises(ValueError, match="broken"):
            recent.read(slow, connection, "broken")
    assert asked.count("broken") == 2
    monkeypatch.setattr(recent, "KEPT_S", -1.0)
    assert recent.read(slow, connection, "oslo") == "OSLO"


def test_a_period_ends_when_its_windows_are_in_and_is_whole_bins() -> None:
    period = view.period(View(range="1h"), NOW, lambda _start, _stop: 10.0)
    assert period.stop == datetime(2026, 11, 23, 9, 41, 0, tzinfo=UTC)
    assert (period.start - datetime(2000, 1, 1, tzinfo=UTC)) % period.step == timedelta(0)
    assert (period.stop - period.start) / period.step <= view.POINTS + 1
    assert view.period(View(range="1h"), NOW, lambda _start, _stop: 60.0).step == timedelta(minutes=1)


def test_today_begins_at_midnight_utc_even_just_after_it() -> None:
    assert view.today(NOW).start == datetime(2026, 11, 23, tzinfo=UTC)
    just_after = view.today(datetime(2026, 11, 23, 0, 0, 5, tzinfo=UTC))
    assert just_after.start < just_after.stop


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "–"), (0.0, "0 W"), (999.0, "999 W"), (1_000.0, "1 kW"), (96_480.0, "96.5 kW"), (1.2e6, "1.2 MW"),
        (999_600.0, "1 MW"), (1.04e9, "1.04 GW"), (123_400.0, "123 kW"),
    ],
)  # fmt: skip
def test_power_is_scaled_to_its_unit(value: float | None, words: str) -> None:
    assert quantities.power(value).replace("\u00a0", " ") == words


@pytest.mark.parametrize(
    ("joules", "words"),
    [(None, "–"), (3_600_000, "1 kWh"), (3.6e9 * 1.14, "1.14 MWh"), (3_600.0, "1 Wh"), (3.6e12 * 24, "24 GWh")],
)
def test_energy_is_shown_in_watt_hours(joules: float | None, words: str) -> None:
    assert quantities.work(joules).replace("\u00a0", " ") == words


@pytest.mark.parametrize(
    ("value", "words"), [(None, "–"), (0.3741, "0.374 J"), (0.0, "0 J"), (12_345.0, "12.3 kJ"), (999.6, "1 kJ")]
)
def test_a_figure_of_any_size_has_three_digits(value: float | None, words: str) -> None:
    assert quantities.digits(value, "J").replace("\u00a0", " ") == words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (quantities.latency(None), "–"), (quantities.latency(0.0341), "34.1 ms"), (quantities.latency(1.234), "1.23 s"),
        (quantities.mass(None), "–"), (quantities.mass(0.0123), "12.3 g"), (quantities.mass(12.0), "12 kg"),
        (quantities.money(0.01234, "EUR"), "0.0123 EUR"), (quantities.money(12_340.0, "EUR"), "12.3 k EUR"),
        (quantities.change(None), "–"), (quantities.change(0.1234), "+12.3 %"), (quantities.change(-0.5), "−50.0 %"),
        (quantities.change(-0.0001), "0.0 %"),
    ],
)  # fmt: skip
def test_times_masses_money_and_changes(words: str, said: str) -> None:
    assert words.replace("\u00a0", " ") == said


@pytest.mark.parametrize(
    ("share", "words"),
    [(None, "–"), (1.0, "100 %"), (0.9999, "99.9 %"), (0.95, "95.0 %"), (1.2, "100 %"), (0.0, "0.0 %")],
)
def test_almost_all_is_not_all(share: float | None, words: str) -> None:
    assert quantities.share(share).replace("\u00a0", " ") == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "–"), (-3, "0 s"), (59, "59 s"), (60, "1 min"), (3_660, "1 h 1 min"), (7_200, "2 h"), (187_200, "2 d 4 h")],
)
def test_durations(seconds: float | None, words: str) -> None:
    assert quantities.duration(seconds).replace("\u00a0", " ") == words


def _luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (it / 12.92 if it <= 0.04045 else ((it + 0.055) / 1.055) ** 2.4 for it in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("chosen", [LIGHT, DARK])
def test_text_has_contrast(chosen: Theme) -> None:
    surfaces = ("canvas", "surface", "surface_raised")
    for token in ("text", "text_muted", "accent", "ok", "warn", "bad", "simulated"):
        for surface in surfaces:
            assert _contrast(getattr(chosen, token), getattr(chosen, surface)) >= 4.5, (token, surface)
    for token in ("accent", "warn", "bad", "simulated"):
        assert _contrast(getattr(chosen, token), getattr(chosen, f"{token}_soft")) >= 4.5, token
    assert _contrast(chosen.accent_text, chosen.accent) >= 4.5
    assert _contrast(chosen.border_strong, chosen.surface) >= 3
    assert _contrast(chosen.text, chosen.absent) >= 4.5  # the cross on what does not report


@pytest.mark.parametrize("chosen", [LIGHT, DARK])
def test_lines_can_be_seen(chosen: Theme) -> None:
    for colour in chosen.series:
        assert _contrast(colour, chosen.surface) >= 2.9, colour
    for scale in (chosen.sequence, chosen.heat):
        luminances = [_luminance(colour) for colour in scale]
        assert luminances == sorted(luminances, reverse=chosen is LIGHT) or scale is chosen.heat


def test_every_token_is_in_the_style_sheet() -> None:
    sheet = theme.style_sheet()
    for token in ("--surface: #ffffff", "--surface: #151a21", "--series-7", '[data-theme="dark"]'):
        assert token in sheet


@pytest.mark.parametrize(
    ("target", "safe"),
    [
        ("/nodes?range=6h", "/nodes?range=6h"), ("//evil.example", "/"), ("https://evil.example", "/"),
        ("/\\evil.example", "/"), ("\\\\evil.example", "/"), ("javascript:alert(1)", "/"), ("", "/"),
        ("/a\nSet-Cookie: x", "/"), ("/%2f/evil.example", "/%2f/evil.example"), ("nodes", "/"),
    ],
)  # fmt: skip
def test_a_login_leads_to_our_own_pages_only(target: str, safe: str) -> None:
    assert access._local(target) == safe


def _page(text: str, *, power_w: int = 1) -> html.Div:
    figure: dict[str, Any] = {"data": [{"y": [power_w]}], "layout": {}}
    return html.Div([html.P(text, id="live-text"), html.P("fixed", id="other"), [dcc.Graph(id="chart", figure=figure)]])


def test_a_refresh_sees_what_is_live_and_whether_it_changed() -> None:
    parts = live.parts(_page("a"))
    assert set(parts) == {"live-text", "chart"}
    before, after = live.digests(parts), live.digests(live.parts(_page("a", power_w=2)))
    assert before["live-text"] == after["live-text"]
    assert before["chart"] != after["chart"]


def test_a_page_that_is_built_otherwise_is_sent_whole() -> None:
    parts = live.parts(_page("a"))
    assert not live.update(parts, live.digests(parts), {})
    assert not live.update(parts, live.digests(parts), {"live-text": "0"})
    assert live.update(parts, live.digests(parts), live.digests(parts))
