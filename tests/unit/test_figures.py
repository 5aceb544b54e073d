"""Figures from rows: what was not measured is a gap, never a line across and never zero."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import plotly.graph_objects as go
import pytest

from dashboard import figures, plots, theme
from dashboard.theme import LIGHT
from dashboard.view import Heat, Period
from gigawatch.readings import (
    EventRow,
    GpuNow,
    GpuPoint,
    LoadBin,
    LoadSwing,
    NodePoint,
    PowerPoint,
    RackNow,
    SiteSecond,
    SpectrumLine,
    Tick,
)

START = datetime(2026, 11, 23, 8, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
PERIOD = Period(START, START + 6 * MINUTE, MINUTE)


def power_point(minute: int, label: str, power_w: float | None, coverage: float = 1.0, gpus: int = 10) -> PowerPoint:
    return PowerPoint(
        time=START + minute * MINUTE, label=label, power_w=power_w,
        energy_j=None if power_w is None else power_w * 60 * coverage, covered_s=600 * coverage, coverage=coverage,
        gpus=gpus, gpu_util_pct=50.0,
    )  # fmt: skip


def gpu_point(minute: int, **values: Any) -> GpuPoint:
    blank: dict[str, Any] = dict.fromkeys(GpuPoint.__struct_fields__)
    return GpuPoint(**{**blank, "time": START + minute * MINUTE, "gpu_uuid": "GPU-1", **values})


def gpu_now(index: int, *, node_id: int = 1, rack: str = "r1", **values: Any) -> GpuNow:
    blank: dict[str, Any] = dict.fromkeys(GpuNow.__struct_fields__)
    usual = {
        "site": "oslo", "rack": rack, "node_id": node_id, "hostname": f"n{node_id}", "simulated": False,
        "gpu_uuid": f"GPU-{node_id}-{index}", "gpu_index": index, "gpu_model": "H100", "state": "reporting",
        "power_w": 350.0, "power_limit_w": 700.0,
    }  # fmt: skip
    return GpuNow(**{**blank, **usual, **values})


def plotly(chart: plots.Chart) -> go.Figure:
    """The chart as plotly's own figure, which takes no property that plotly does not know."""
    return go.Figure(chart.figure)


def named(chart: plots.Chart, name: str, mode: str = "lines") -> Any:
    return next(it for it in plotly(chart).data if it.name == name and it.fill is None and mode in (it.mode or ""))


def areas(chart: plots.Chart, name: str) -> list[int]:
    """Lengths of the runs of one group's area."""
    area = next(it for it in plotly(chart).data if it.name == name and it.fill == "toself")
    runs, length = [], 0
    for x in area.x:
        if x is None:
            runs.append(length)
            length = 0
        else:
            length += 1
    return runs


def test_a_bin_without_rows_is_a_gap_in_line_and_area() -> None:
    rows = [power_point(minute, "oslo", 6_000.0) for minute in (0, 1, 3, 4, 5)]
    chart = figures.power(rows, PERIOD, theme.LIGHT)
    line = named(chart, "oslo")
    assert list(line.y) == [6.0, 6.0, None, 6.0, 6.0, 6.0]
    assert line.connectgaps is False
    assert len(areas(chart, "oslo")) == 2
    assert plotly(chart).layout.yaxis.title.text == "kW"
    assert "below 95 % in 1 of 6 bins" in chart.summary


def test_groups_are_stacked_and_an_absent_one_leaves_the_others_alone() -> None:
    rows = [power_point(minute, "oslo", 3_000.0) for minute in range(6)]
    rows += [power_point(minute, "austin", 1_000.0) for minute in (0, 1, 5)]
    chart = figures.power(rows, PERIOD, theme.LIGHT)
    assert list(named(chart, "oslo").y) == [3.0] * 6
    assert list(named(chart, "austin").y) == [4.0, 4.0, None, None, None, 4.0]
    # A lone bin has an area of its own width, so that it can be seen.
    assert len(areas(chart, "austin")) == 2


def test_many_groups_become_the_greatest_and_the_others_without_losing_power() -> None:
    rows = [power_point(0, f"rack {number:02d}", 100.0 * (number + 1)) for number in range(20)]
    series = figures.by_label(rows, plots.bins(PERIOD), lambda row: row.power_w)
    assert len(series) == figures.MOST_GROUPS + 1
    assert series[0].label == "rack 19"
    assert series[-1].label == "Others (13)"
    assert figures.totals(series)[0] == pytest.approx(sum(row.power_w or 0 for row in rows))
    assert figures.totals(series)[1] is None


def test_coverage_is_a_ratio_of_sums_and_zero_where_nothing_is() -> None:
    rows = [power_point(0, "a", 1.0), power_point(0, "b", 1.0), power_point(1, "a", 1.0), power_point(2, "a", 1.0, 0.5)]
    assert figures.coverages(rows, plots.bins(PERIOD)) == pytest.approx([1, 0.5, 0.25, 0, 0, 0])


def test_coverage_of_a_short_bin_at_the_edge_is_that_of_its_part() -> None:
    edge = msgspec.structs.replace(power_point(1, "a", 1.0), covered_s=100.0, coverage=1.0)
    rows = [power_point(0, "a", 1.0), edge, power_point(0, "b", 1.0)]
    assert figures.coverages(rows, plots.bins(PERIOD))[:2] == pytest.approx([1, 0.5])


def test_the_reader_s_zoom_outlives_a_refresh() -> None:
    chart = figures.power([power_point(0, "a", 1.0)], PERIOD, theme.LIGHT)
    assert plotly(chart).layout.xaxis.range is None


@pytest.mark.parametrize("name", theme.THEME_NAMES)
def test_no_rows_at_all_are_said(name: theme.ThemeName) -> None:
    chosen = theme.THEMES[name]
    for chart in (
        figures.power([], PERIOD, chosen),
        figures.utilisation([], PERIOD, chosen),
        figures.gpu_power([], [], PERIOD, chosen),
        figures.ticks([], chosen),
        figures.node_parts([], PERIOD, chosen),
        figures.node_gpus([], PERIOD, chosen),
    ):
        assert [note.text for note in plotly(chart).layout.annotations] == ["No data in this period"]
        assert "No data in this period" in chart.summary
    assert plotly(figures.minutes_power([], PERIOD, chosen)).layout.xaxis.showticklabels is False
    # Here the strip of coverage shows the period.
    assert plotly(figures.power([], PERIOD, chosen)).layout.xaxis.showticklabels is True
    assert "no data" in figures.heat_map_gpus([], "power", str, chosen).summary


def test_a_lone_bin_between_gaps_is_a_dot() -> None:
    line = plots.Series("GPU", [None, 5.0, None, 1.0, 2.0, None])
    chart = figures.lines([line], PERIOD, theme.LIGHT, unit="%", words=str, title="x")
    assert list(plotly(chart).data[0].marker.size) == [0, 5, 0, 0, 0, 0]


def test_a_gpu_s_power_has_its_band_limit_marks_and_events() -> None:
    rows = [
        gpu_point(0, power_w=500.0, power_min_w=400.0, power_max_w=600.0, power_limit_w=700.0, energy_method="counter"),
        gpu_point(1, power_w=510.0, power_min_w=None, power_max_w=None, power_limit_w=700.0, energy_method="estimated"),
    ]
    blank: dict[str, Any] = dict.fromkeys(EventRow.__struct_fields__)
    event = EventRow(**{**blank, "time": START + MINUTE, "kind": "xid", "severity": "critical", "code": 79})
    chart = figures.gpu_power(rows, [event], PERIOD, theme.LIGHT)
    assert list(named(chart, "Mean power").y)[:3] == [500.0, 510.0, None]
    assert len(areas(chart, "Least to greatest")) == 1
    assert list(named(chart, "Not from the counter", "markers").customdata) == ["estimated"]
    assert [note.text for note in plotly(chart).layout.annotations] == ["XID 79"]
    assert "In 1 bins not from the energy counter" in chart.summary


def test_temperatures_show_where_the_gpu_slows_down() -> None:
    chart = figures.temperatures([gpu_point(0, gpu_temp_max_c=80)], 87, PERIOD, theme.DARK)
    assert plotly(chart).layout.shapes[0].y0 == 87
    assert "slows down at 87\u00a0°C" in chart.summary
    assert [it.name for it in plotly(chart).data] == ["GPU"]  # no memory temperature was read


def test_clocks_held_down_are_bands_of_like_reasons() -> None:
    cap, heat = ["software power cap"], ["hardware thermal slowdown"]
    rows = [
        gpu_point(0, sm_clock_mhz=1500.0, clock_events=cap),
        gpu_point(1, sm_clock_mhz=1500.0, clock_events=cap),
        gpu_point(2, sm_clock_mhz=1200.0, clock_events=heat),
        gpu_point(3, sm_clock_mhz=1900.0, clock_events=[]),
        gpu_point(5, sm_clock_mhz=1500.0, clock_events=cap),
    ]
    bands = figures.held_down(rows, PERIOD)
    assert [(start, stop) for start, stop, _ in bands] == [
        (START, START + 2 * MINUTE), (START + 2 * MINUTE, START + 3 * MINUTE), (START + 5 * MINUTE, START + 6 * MINUTE),
    ]  # fmt: skip
    chart = figures.clocks(rows, PERIOD, theme.LIGHT)
    assert [shape.fillcolor for shape in plotly(chart).layout.shapes] == [
        theme.LIGHT.warn, theme.LIGHT.bad, theme.LIGHT.warn,
    ]  # fmt: skip
    assert "hardware thermal slowdown" in chart.summary


def test_a_missed_tick_is_a_gap() -> None:
    second = timedelta(seconds=1)
    rows = [
        Tick(time=START + number * second, gpu_power_w=None if number == 2 else 4_000.0) for number in (0, 1, 2, 6, 7)
    ]
    line = plotly(figures.ticks(rows, theme.LIGHT)).data[0]
    assert [y is None for y in line.y].count(True) == 2
    assert line.connectgaps is None


def test_parts_that_a_node_cannot_read_are_left_out() -> None:
    row = NodePoint(
        time=START, gpu_power_w=4_000.0, gpu_power_min_w=None, gpu_power_max_w=None, cpu_power_w=None,
        dram_power_w=None, node_power_w=5_000.0, ticks_taken=60, ticks_expected=60, rejected_readings=0,
    )  # fmt: skip
    chart = figures.node_parts([row], PERIOD, theme.LIGHT)
    assert [it.name for it in plotly(chart).data] == ["Whole node", "GPUs"]


def test_the_heat_map_crosses_out_what_does_not_report_and_leads_to_each_gpu() -> None:
    gpus = [
        gpu_now(0), gpu_now(1, state="missing", power_w=None, power_limit_w=None),
        gpu_now(0, node_id=2, power_w=700.0), gpu_now(0, node_id=3, rack="r2", power_w=70.0),
    ]  # fmt: skip
    chart = figures.heat_map_gpus(gpus, "power", lambda gpu: f"/gpus/{gpu.gpu_uuid}", theme.LIGHT)
    values, absent = plotly(chart).data
    assert [list(row) for row in values.z] == [[50.0, None, None, 100.0], [10.0, None, None, None]]
    assert [list(row) for row in absent.z] == [[None, 1, None, None], [None] * 4]
    assert values.customdata[0][3] == "/gpus/GPU-2-0"
    # A narrow column parts the nodes; x names the cells' edges.
    assert list(values.x) == pytest.approx([0, 1, 2, 2.3, 3.3])
    assert "1 not reporting" in chart.summary


def test_racks_are_cells_in_rows_of_their_site_and_lead_to_themselves() -> None:
    racks = [
        RackNow(
            site=site, rack=f"r{number}", gpus=8, gpus_reporting=0 if number == 2 else 8, gpus_throttled=0,
            power_w=None if number == 2 else 2_800.0, power_limit_w=5_600.0, gpu_util_pct=50.0, gpu_temp_max_c=60,
        )
        for site in ("oslo", "paris") for number in range(3)
    ]  # fmt: skip
    chart = figures.heat_map_racks(racks, "power", lambda rack: f"/?rack={rack.rack}", theme.DARK, columns=2)
    values, absent = plotly(chart).data
    assert list(values.y) == ["oslo", "oslo +2", "paris", "paris +2"]
    assert [list(row) for row in values.z] == [[50.0, 50.0], [None, None]] * 2
    assert [list(row) for row in absent.z] == [[None, None], [1, None]] * 2
    assert values.customdata[2][1] == "/?rack=r1"


def test_each_gpu_of_a_node_and_each_group_has_its_line() -> None:
    rows = [gpu_point(minute, gpu_uuid=f"GPU-{index}", gpu_index=index, power_w=100.0 * (index + 1))
            for index in (1, 0) for minute in (0, 1)]  # fmt: skip
    lines = plotly(figures.node_gpus(rows, PERIOD, theme.DARK)).data
    assert [(it.name, it.y[0], it.y[2]) for it in lines] == [("GPU 0", 100, None), ("GPU 1", 200, None)]
    used = figures.utilisation([power_point(0, "oslo", 1.0), power_point(2, "austin", 2.0)], PERIOD, theme.LIGHT)
    assert [(it.name, list(it.y)[:3]) for it in plotly(used).data] == [
        ("austin", [None, None, 50.0]), ("oslo", [50.0, None, None]),
    ]  # fmt: skip


def test_a_value_that_is_zero_is_not_absent() -> None:
    chart = figures.heat_map_gpus([gpu_now(0, power_w=0.0)], "power", str, theme.LIGHT)
    assert len(plotly(chart).data) == 1
    assert plotly(chart).data[0].z[0][0] == 0


def second(place: int, power_w: float, *, complete: bool = True, ramp: float | None = None) -> SiteSecond:
    return SiteSecond(time=START + timedelta(seconds=place), power_w=power_w, ramp_w_per_s=ramp, nodes=3,
                      complete=complete)  # fmt: skip


def test_a_second_that_is_missing_is_a_gap_and_one_that_lacks_a_node_stands_apart() -> None:
    rows = [second(0, 5_000), second(1, 6_000, ramp=1_000), second(5, 4_000, complete=False), second(6, 6_000)]
    chart = figures.seconds_power(rows, PERIOD, theme.LIGHT)
    assert named(chart, "All nodes").y == (None, 5, 6, None, None, 6, None)
    assert named(chart, "Some nodes missing").y == (None, None, None, None, 4, None, None)
    assert "1 s lack a node" in chart.summary
    ramps = figures.seconds_ramp(rows, PERIOD, theme.LIGHT)
    assert named(ramps, "Ramp rate").y == (None, None, 1, None, None, None, None)


def test_a_site_s_minutes_are_a_band_with_a_gap_where_one_is_missing() -> None:
    rows = [
        LoadSwing(
            time=START + minute * MINUTE, site=site, power_mean_w=2_000, power_min_w=1_000, power_max_w=3_000,
            swing_w=2_000, ramp_up_max_w_per_s=500, ramp_down_max_w_per_s=None, seconds_comparable=9, nodes=2,
            coverage=0.5,
        )
        for site in ("oslo", "paris") for minute in (0, 1, 3)
    ]  # fmt: skip
    chart = figures.minutes_power(rows, PERIOD, theme.DARK)
    assert areas(chart, "oslo") == [8, 6]
    assert named(chart, "paris").y == (2, 2, None, 2, None, None)
    ramps = figures.minutes_ramp(rows, PERIOD, theme.DARK)
    assert named(ramps, "oslo, up").y == (500, 500, None, 500, None, None)
    assert named(ramps, "oslo, down").y == (None,) * 6


def test_a_spectrum_names_the_peak_that_stands_out_and_no_other() -> None:
    def line(k: int, peak_w: float | None) -> SpectrumLine:
        return SpectrumLine(
            frequency_hz=k / 64, amplitude_w=120_000 if k == 2 else 10, variance_share=0.5, resolution_hz=1 / 64,
            peak_frequency_hz=None if peak_w is None else 1 / 31, peak_amplitude_w=peak_w, began=START, seconds=64,
        )  # fmt: skip

    plain = figures.spectrum([line(k, None) for k in range(1, 33)], theme.LIGHT)
    assert "No peak stands out" in plain.summary
    found = figures.spectrum([line(k, 121_000 if k == 2 else None) for k in range(1, 33)], theme.LIGHT)
    assert "every 31 s, by ±121 kW" in found.summary.replace("\u00a0", " ")
    assert len(plotly(found).layout.annotations) == len(plotly(plain).layout.annotations) + 1
    assert "No stretch" in figures.spectrum([], theme.LIGHT).summary


@pytest.mark.parametrize("heat", ["power", "temperature", "utilisation"])
def test_loads_are_counted_in_bins_without_losing_a_node(heat: Heat) -> None:
    bins = [
        LoadBin(site="oslo", low=None, nodes=3), LoadBin(site="oslo", low=-20.0, nodes=1),
        LoadBin(site="oslo", low=70.0, nodes=1_234), LoadBin(site="oslo", low=500.0, nodes=2),
        LoadBin(site="austin", low=0.0, nodes=7),
    ]  # fmt: skip
    drawn = figures.heat_map_loads(bins, heat, lambda site: f"/nodes?site={site}", LIGHT)
    cells = plotly(drawn).data[0]
    assert list(cells.y) == ["oslo", "austin"]
    assert [cells.text[0][0], *filter(None, cells.text[0][1:])] == ["3", "1", "1.23k", "2"]
    assert list(filter(None, cells.text[1])) == ["7"]
    assert {target for row in cells.customdata for target in row} == {"/nodes?site=oslo", "/nodes?site=austin"}
    assert "oslo: 1\u202f240 nodes" in drawn.summary
    assert "3 without data" in drawn.summary
    few = figures.heat_map_loads(bins, heat, lambda site: site, LIGHT, most_sites=1)
    assert "Not shown: 1 smaller sites" in few.summary


def test_power_that_is_not_summed_yet_is_no_gap() -> None:
    figure = plotly(figures.power([], PERIOD, LIGHT, PERIOD.start + 2 * PERIOD.step))
    assert len(next(trace for trace in figure.data if trace.name == "Coverage").x) == 2
