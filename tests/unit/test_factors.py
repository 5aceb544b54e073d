"""Files of prices, intensities and configured PUE: what they mean, and that what is wrong with them is named."""

import contextlib
import csv
import hashlib
import io
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.factors import clocks, files
from api.factors.intervals import Interval
from gigawatch.errors import ExitCode, GigawatchError

BERLIN = ZoneInfo("Europe/Berlin")
HOUR = timedelta(hours=1)
CONTRACT = """
time_zone = "Europe/Berlin"
from = {first}
to = {beyond}
currency = "EUR"
price_per_kwh = 0.11
source = "Contract 7"

[[periods]]
days = ["2026-12-25"]
hours = "00:00-24:00"
price_per_kwh = 0.05

[[periods]]
days = "weekdays"
hours = "07:00-21:00"
price_per_kwh = 0.24
"""


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def prices(text: str, **given: str) -> Sequence[Interval]:
    return files.prices(text.encode(), **given).intervals


def contract(first: str, beyond: str) -> Sequence[Interval]:
    return prices(CONTRACT.format(first=first, beyond=beyond))


def spans(intervals: Sequence[Interval]) -> list[tuple[str, str, str]]:
    return [(f"{it.start:%d %H:%M}", f"{it.stop:%d %H:%M}", str(it.value)) for it in intervals]


def refused(text: str | bytes, **given: str) -> str:
    """The words with which a file of prices is refused."""
    with pytest.raises(GigawatchError) as caught:
        files.prices(text.encode() if isinstance(text, str) else text, **given)
    assert caught.value.exit_code == ExitCode.DATA
    assert caught.value.remedy
    return caught.value.problem


def hours(day: datetime, count: int) -> list[str]:
    return [(day + timedelta(hours=it)).isoformat() for it in range(count)]


def test_weekdays_have_a_price_by_day_and_others_one_price() -> None:
    # A Thursday and Friday in winter, UTC+1, then the week-end.
    assert spans(contract("2026-01-08", "2026-01-12")) == [
        ("07 23:00", "08 06:00", "0.11"), ("08 06:00", "08 20:00", "0.24"), ("08 20:00", "09 06:00", "0.11"),
        ("09 06:00", "09 20:00", "0.24"), ("09 20:00", "11 23:00", "0.11"),
    ]  # fmt: skip


def test_of_several_periods_the_first_that_fits_counts() -> None:
    assert spans(contract("2026-12-25", "2026-12-26")) == [("24 23:00", "25 23:00", "0.05")]


@pytest.mark.parametrize(("day", "length"), [("2026-03-29", 23), ("2026-10-25", 25)])
def test_days_on_which_clocks_are_set_have_23_and_25_hours(day: str, length: int) -> None:
    after = (datetime.fromisoformat(day) + timedelta(days=1)).date().isoformat()
    text = (
        CONTRACT.format(first=day, beyond=after)
        .replace('"weekdays"', '"every day"')
        .replace("07:00-21:00", "02:30-21:00")
    )
    found = prices(text)
    assert found[-1].stop - found[0].start == length * HOUR
    # As a clock on the wall says, minute by minute.
    moment = found[0].start
    while moment < found[-1].stop:
        local = moment.astimezone(BERLIN)
        expected = "0.24" if (2, 30) <= (local.hour, local.minute) < (21, 0) else "0.11"
        (price,) = [it.value for it in found if it.start <= moment < it.stop]
        assert price == Decimal(expected), local
        moment += timedelta(minutes=1)


def test_a_schedule_may_be_json_with_prices_kept_to_the_digit() -> None:
    text = """{"time_zone": "Asia/Kolkata", "from": "2026-01-01", "to": "2026-01-03",
        "currency": "INR", "price_per_kwh": 8.123456}"""
    assert prices(text) == [Interval(utc("2025-12-31 18:30"), utc("2026-01-02 18:30"), Decimal("8.123456"))]


def test_the_examples_of_the_documentation_are_understood() -> None:
    page = (Path(__file__).parents[2] / "docs/tariffs.md").read_text(encoding="utf-8")
    toml, values = re.findall(r"```(?:toml|json)\n(.*?)```", page, re.DOTALL)
    year = files.prices(toml.encode())
    assert (year.intervals[0].start, year.intervals[-1].stop) == (utc("2025-12-31 23:00"), utc("2026-12-31 23:00"))
    assert files.prices(values.encode()).source == "our own exchange feed"


def test_values_may_be_json() -> None:
    text = """{"currency": "EUR", "source": "feed", "values": [
        {"start": "2026-01-01T01:00:00+01:00", "stop": "2026-01-01T00:15:00Z", "price_per_kwh": 0.0841}]}"""
    found = files.prices(text.encode())
    assert list(found.intervals) == [Interval(utc("2026-01-01 00:00"), utc("2026-01-01 00:15"), Decimal("0.0841"))]
    assert (found.currency, found.source) == ("EUR", "feed")
    assert "Expected `datetime` with a timezone component - at `$.values[0].stop`" in refused(
        text.replace("00:15:00Z", "00:15:00")
    )
    text = text.replace("price_per_kwh", "g_per_kwh").replace('"currency": "EUR", ', "")
    assert files.intensities(text.encode()).intervals[0].value == Decimal("0.0841")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("07:00-21:00", "21:00-07:00"), "hours = '21:00-07:00'"),
        (("07:00-21:00", "07:00-24:30"), "hours = '07:00-24:30'"),
        (('"weekdays"', '"workdays"'), "days has 'workdays'"),
        (("Europe/Berlin", "Berlin"), "time zone 'Berlin'"),
        (("Europe/Berlin", "../../etc/passwd"), "time zone '../../etc/passwd'"),
        (("price_per_kwh = 0.11", "price_per_kwh = nan"), "price = NaN"),
        (("price_per_kwh = 0.11", "price_per_kwh = 240.0"), "price = 240.0 EUR/kWh"),
        (("price_per_kwh = 0.11", "price = 0.11"), "price"),
        (("2026-01-12", "2026-01-08"), "from = 2026-01-08 and to = 2026-01-08"),
        (("2026-01-12", "2126-01-08"), "more than 20 years apart"),
        (('currency = "EUR"', 'currency = "euros"'), "currency = 'EUROS'"),
        (("[[periods]]", "[[periods"), "not TOML"),
    ],
)
def test_what_is_wrong_with_a_schedule_is_named(change: tuple[str, str], words: str) -> None:
    assert words in refused(CONTRACT.format(first="2026-01-08", beyond="2026-01-12").replace(*change))


def entsoe(rows: list[tuple[str, str]], clock: str = "CET/CEST") -> str:
    """The older layout."""
    body = "".join(f'"{mtu}","{price}"\n' for mtu, price in rows)
    return f'"MTU ({clock})","Day-ahead Price [EUR/MWh]"\n{body}'


def day_in_local_hours(day: str, labels: list[int]) -> list[tuple[str, str]]:
    return [
        (f"{day} {it:02}:00 - {day} {it + 1:02}:00".replace("24:00", "23:59"), f"{index}.5")
        for index, it in enumerate(labels)
    ]


def test_the_older_entsoe_layout_has_a_doubled_hour_in_autumn() -> None:
    rows = day_in_local_hours("27.10.2024", [0, 1, 2, 2, 3])
    found = files.prices(entsoe(rows).encode())
    assert (found.currency, found.source) == ("EUR", "ENTSO-E Transparency Platform, day-ahead prices")
    first = utc("2024-10-26 22:00")
    expected = [Interval(first + it * HOUR, first + (it + 1) * HOUR, Decimal(f"{it}.5") / 1000) for it in range(5)]
    assert list(found.intervals) == expected


def test_the_older_entsoe_layout_skips_an_hour_in_spring() -> None:
    rows = day_in_local_hours("31.03.2024", [0, 1, 3, 4])
    skipped = ("31.03.2024 02:00 - 31.03.2024 03:00", "")
    for given_rows in (rows, [*rows[:2], skipped, *rows[2:]]):
        found = prices(entsoe(given_rows))
        assert [it.start for it in found] == [utc("2024-03-30 23:00") + it * HOUR for it in range(4)]
        assert found[-1].stop == utc("2024-03-31 03:00")
    assert "clocks skip" in refused(entsoe([*rows[:2], (skipped[0], "7"), *rows[2:]]))


def test_a_missing_doubled_hour_is_a_hole() -> None:
    problem = refused(entsoe(day_in_local_hours("27.10.2024", [0, 1, 2, 3])))
    assert problem == "Values are missing: 2024-10-27 01:00 UTC to 2024-10-27 02:00 UTC"


NEWER = (
    '"MTU (CET/CEST)","Area","Sequence","Day-ahead Price (EUR/MWh)",'
    '"Intraday Period (CET/CEST)","Intraday Price (EUR/MWh)"\n'
)


def test_the_newer_entsoe_layout_names_the_time_where_clocks_are_set() -> None:
    body = "".join(
        f'"{mtu}","BZN|DE-LU","Sequence {sequence}","{price}","",""\n'
        for mtu, price in [
            ("26/10/2025 01:45:00 (CEST) - 26/10/2025 02:00:00 (CEST)", "10"),
            ("26/10/2025 02:00:00 (CEST) - 26/10/2025 02:15:00 (CEST)", "20"),
            ("26/10/2025 02:15:00 (CEST) - 26/10/2025 02:30:00 (CEST)", "-500.01"),
            ("26/10/2025 02:30:00 (CEST) - 26/10/2025 02:45:00 (CEST)", "40"),
            ("26/10/2025 02:45:00 (CEST) - 26/10/2025 02:00:00 (CET)", "50"),
            ("26/10/2025 02:00:00 (CET) - 26/10/2025 02:15:00 (CET)", "60"),
        ]
        for sequence in (1, 2)
    )
    found = files.prices((NEWER + body).encode())
    quarter = timedelta(minutes=15)
    assert [it.start for it in found.intervals] == [utc("2025-10-25 23:45") + it * quarter for it in range(6)]
    assert found.intervals[-1].stop == utc("2025-10-26 01:15")
    assert found.intervals[2].value == Decimal("-0.50001")
    assert found.source.endswith("BZN|DE-LU")


def test_a_zone_that_gets_a_second_auction_in_the_middle_of_a_file_keeps_a_price_at_all_times() -> None:
    mtu = "30/09/2025 {}:00 - 30/09/2025 {}:00"
    rows = [
        ("21:00", "22:00", "Without Sequence", "1"),
        # Another auction of the same hour in quarters, as EXAA's beside the single day-ahead coupling.
        *(
            (f"22:{it:02}", f"22:{it + 15:02}" if it < 45 else "23:00", "Sequence Sequence 2", "9")
            for it in (0, 15, 30, 45)
        ),
        ("22:00", "23:00", "Sequence Sequence 1", "2"),
        ("23:00", "23:15", "Sequence Sequence 1", "3"),
        ("23:00", "23:15", "Sequence Sequence 2", "9"),
    ]
    body = "".join(
        f'"{mtu.format(start, stop)}","BZN|DE-LU","{name}","{price}","",""\n' for start, stop, name, price in rows
    )
    found = prices(NEWER.replace("CET/CEST", "UTC") + body)
    assert [(it.start, it.value * 1_000) for it in found] == [
        (utc(f"2025-09-30 {hour}:00"), value) for hour, value in ((21, 1), (22, 2), (23, 3))
    ]


def test_the_newer_entsoe_layout_in_spring_and_unmarked() -> None:
    marked = "30/03/2025 01:45:00 (CET) - 30/03/2025 03:00:00 (CEST)"
    for mtu in (marked, marked.replace(" (CET)", "").replace(" (CEST)", "")):
        (found,) = prices(f'{NEWER}"{mtu}","BZN|FR","Without Sequence","18.92","",""\n')
        assert (found.start, found.stop) == (utc("2025-03-30 00:45"), utc("2025-03-30 01:00"))


def test_entsoe_in_utc_and_rows_that_are_yet_to_come() -> None:
    rows = [(f"01/01/2026 {it:02}:00:00 - 01/01/2026 {it + 1:02}:00:00", "1" if it < 2 else "") for it in range(4)]
    found = files.prices(entsoe(rows, "UTC").encode())
    assert [(it.start, it.stop) for it in found.intervals] == [(utc("2026-01-01 00:00"), utc("2026-01-01 02:00"))]
    assert found.notes == ["2 rows at the end have no value yet and were left out"]


def test_several_areas_are_refused() -> None:
    body = "".join(
        f'"01/01/2025 00:00:00 - 01/01/2025 01:00:00","{area}","","1","",""\n' for area in ("BZN|FR", "BZN|BE")
    )
    assert "2 of column area: BZN|BE, BZN|FR" in refused(NEWER + body)


MAPS_OLD = "Datetime (UTC),Country,Zone Name,Zone Id,Carbon Intensity gCO₂eq/kWh (direct),Carbon Intensity gCO₂eq/kWh (LCA),Low Carbon Percentage,Renewable Percentage,Data Source,Data Estimated,Data Estimation Method"  # noqa: E501
MAPS_NEW = "Datetime (UTC),Country,Zone name,Zone id,Carbon intensity gCO₂eq/kWh (direct),Carbon intensity gCO₂eq/kWh (Life cycle),Carbon-free energy percentage (CFE%),Renewable energy percentage (RE%),Data source,Data estimated,Data estimation method"  # noqa: E501


@pytest.mark.parametrize("header", [MAPS_OLD, MAPS_NEW])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_electricity_maps_in_both_layouts(header: str, bom: str) -> None:
    text = f"""{bom}{header}
2024-01-01 00:00:00,Germany,Germany,DE,380.95,430.1,60,50,entsoe.eu,false,
2024-01-01 01:00:00,Germany,Germany,DE,290.805,330.2,60,50,entsoe.eu,true,TSA
"""
    found = files.intensities(text.encode())
    first = utc("2024-01-01 00:00")
    assert list(found.intervals) == [
        Interval(first, first + HOUR, Decimal("380.95")),
        Interval(first + HOUR, first + 2 * HOUR, Decimal("290.805"), estimated=True),
    ]
    assert found.source == "Electricity Maps, direct emissions, DE, entsoe.eu"
    whole = files.intensities(text.removeprefix("\ufeff").encode("utf-16"), emissions="life-cycle")
    assert [it.value for it in whole.intervals] == [Decimal("430.1"), Decimal("330.2")]


def test_missing_and_doubled_hours_are_all_named() -> None:
    day = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [f"{it},100" for it in hours(day, 24)]
    missing = "start,g_per_kwh\n" + "\n".join(rows[:3] + rows[5:9] + rows[10:])
    with pytest.raises(GigawatchError) as caught:
        files.intensities(missing.encode())
    assert caught.value.problem == (
        "Values are missing: 2026-01-01 03:00 UTC to 2026-01-01 05:00 UTC, 2026-01-01 09:00 UTC to 2026-01-01 10:00 UTC"
    )
    with pytest.raises(GigawatchError, match="Values overlap: 2026-01-01 07:00 UTC to 2026-01-01 08:00 UTC"):
        files.intensities(("start,g_per_kwh\n" + "\n".join([*rows, rows[7]])).encode())
    many = "start,g_per_kwh\n" + "\n".join([rows[0], *rows[1::2]])
    with pytest.raises(GigawatchError, match=r"and 1 more up to 2026-01-01 23:00 UTC \(1 h\)"):
        files.intensities(many.encode())


def test_an_empty_value_in_between_is_a_missing_hour() -> None:
    body = "".join(
        f"{it},{'n/e' if index == 1 else 5}\n" for index, it in enumerate(hours(datetime(2026, 1, 1, tzinfo=UTC), 3))
    )
    problem = refused("start,price_per_mwh\n" + body, currency="EUR")
    assert problem == "Values are missing: 2026-01-01 01:00 UTC to 2026-01-01 02:00 UTC"


def column(*values: str, delimiter: str = ";") -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(["start", "price_per_mwh"])
    writer.writerows(zip(hours(datetime(2026, 1, 1, tzinfo=UTC), len(values)), values, strict=True))
    return text.getvalue()


@pytest.mark.parametrize(
    ("values", "delimiter", "expected"),
    [
        (("45,12", "1.045,10"), ";", ("0.04512", "1.0451")),
        (("0,123", "45,123"), ";", ("0.000123", "0.045123")),
        (("45.12", "1,045.1"), ";", ("0.04512", "1.0451")),
        (("45,12", "-7"), "\t", ("0.04512", "-0.007")),
        (("45.123", "45.124"), ",", ("0.045123", "0.045124")),
        (("45,12", "−3,5"), ",", ("0.04512", "-0.0035")),
        (("12", "13"), ";", ("0.012", "0.013")),
        (("1.5E+2", "1"), ",", ("0.15", "0.001")),
    ],
)
def test_points_and_commas(values: tuple[str, ...], delimiter: str, expected: tuple[str, ...]) -> None:
    found = prices(column(*values, delimiter=delimiter), currency="EUR")
    assert [it.value for it in found] == [Decimal(it) for it in expected]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_what_a_german_spreadsheet_saves_of_entsoe_is_understood(separator: str) -> None:
    """Every cell in quotes, decimal commas, quarters of an hour on the day on which clocks are set back."""
    begin = datetime(2025, 10, 25, 22, tzinfo=UTC)
    brussels = [(begin + timedelta(minutes=15 * it)).astimezone(ZoneInfo("Europe/Brussels")) for it in range(101)]
    rows = [("MTU (CET/CEST)", "Day-ahead Price [EUR/MWh]", "Currency", "BZN|DE-LU")] + [
        (f"{start:%d.%m.%Y %H:%M} - {stop:%d.%m.%Y %H:%M}", f"{number},25", "EUR", "")
        for number, (start, stop) in enumerate(pairwise(brussels))
    ]
    text = "\r\n".join(separator.join(f'"{cell}"' for cell in row) for row in rows)
    found = prices("\ufeff" + text)
    assert (found[0].start, found[-1].stop) == (begin, begin + timedelta(hours=25))
    assert [it.value for it in found] == [Decimal(f"{number}.25") / 1_000 for number in range(100)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (column("45,123", "45,124"), "Line 2: price_per_mwh = '45,123' is 45123 or 45.123"),
        (column("45.123", "7"), "Line 2: price_per_mwh = '45.123' is 45.123 or 45123"),
        (column("45,12", "45.12"), "decimal points and with decimal commas"),
        (column("1", "abc"), "Line 3: price_per_mwh = 'abc' is not a number"),
        (column("1", "1.2.3"), "Line 3: price_per_mwh = '1.2.3'"),
        (column("1", "99999999"), "price = 99999.999 EUR/kWh from 2026-01-01 01:00 UTC on is beyond ±20"),
        (column("1", "1E-30"), "more than 15 decimals"),
        ("start,price_per_kwh\n2026-01-01T00:00,1\n", "does not say its offset from UTC"),
        ("start,price_per_kwh\n2026-01-01T00:00Z,1\n", "one value only"),
        ("start,stop,price_per_kwh\n2026-01-01T00:00Z,2026-01-01T00:00Z,1\n", "is not before stop"),
        ("start,stop,price_per_kwh\n2026-01-01T00:00:30Z,2026-01-01T01:00Z,1\n", "not a whole minute"),
        ("start,stop,price_per_kwh\n1970-01-01T00:00Z,2026-01-01T01:00Z,1\n", "not between 2000 and 2100"),
        ("start,stop,price_per_kwh\n0001-01-01T00:00+02:00,2026-01-01T01:00Z,1\n", "Line 2: start = 0001-01-01T00:00"),
        ("start,stop,price_per_kwh\n2026-01-01T00:00Z,9999-12-31T23:00-02:00,1\n", "Line 2: stop = 9999-12-31T23"),
        ("start,price_per_kwh\n9999-12-30T00:00Z,1\n9999-12-31T00:00Z,1\n", "Line 2: start = 9999-12-30T00:00"),
        (
            '{"values": [{"start": "0001-01-01T00:00:00+02:00", "stop": "2026-01-01T00:00:00Z", "price_per_kwh": 1}]}',
            "start = 0001-01-01T00:00:00+02:00 is not between 2000 and 2100",
        ),
        ("start,stop,price_per_kwh\n01/02/2026 00:00,01/02/2026 01:00,1\n", "start = '01/02/2026 00:00'"),
        ("start,stop,price_per_kwh\n", "holds no values"),
        ("a,b\n1,2\n", "first line is not the header of a known format: 'a,b'"),
        ("", "first line is not the header"),
        ('start,price_per_kwh\n"2026', "not CSV"),
        (b"start,price_per_kwh\n2026-01-01T00:00Z,\xff\n", "not text in UTF-8 (line 2)"),
        (b"\xff\xfe\x00", "not text"),
        ('{"a": ' * 100_000, "not JSON"),
        ("a = " + "[" * 90_000, "not TOML"),
        ("a = " + "[" * 100_000, "more than 100000"),
        ('start,stop,price_per_kwh,currency\n2026-01-01T00:00Z,2026-01-01T01:00Z,1,USD\n', "currency = 'EUR or USD'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(text: str | bytes, words: str) -> None:
    assert words in refused(text, currency="EUR")


def test_a_decimal_comma_between_commas_is_no_price_of_zero() -> None:
    rows = "start,stop,price_per_kwh\n2026-01-01T00:00Z,2026-01-01T01:00Z,0,12\n"
    assert "Line 2 has 4 cells where the header has 3" in refused(rows, currency="EUR")
    blank = rows.replace(",0,12", ",0.12,,")
    assert [str(it.value) for it in prices(blank, currency="EUR")] == ["0.12"]


def test_prices_without_a_currency_are_refused() -> None:
    assert refused(column("1", "2")) == "The file does not say its currency"


def test_absurd_intensities_are_refused() -> None:
    for value in ("-1", "2501"):
        with pytest.raises(GigawatchError, match=f"intensity = {value} gCO2e/kWh"):
            files.intensities(f"start,stop,g_per_kwh\n2026-01-01T00:00Z,2026-01-01T01:00Z,{value}\n".encode())


def test_configured_pue_is_read_from_columns_with_months_of_any_length() -> None:
    text = "start,stop,pue\n01.01.2026 00:00,01.02.2026 00:00,1.18\n01.02.2026 00:00,01.04.2026 00:00,1.21\n"
    found = files.pues(text.encode(), time_zone="Europe/Berlin")
    assert list(found.intervals) == [
        Interval(utc("2025-12-31 23:00"), utc("2026-01-31 23:00"), Decimal("1.18")),
        Interval(utc("2026-01-31 23:00"), utc("2026-03-31 22:00"), Decimal("1.21")),
    ]
    assert found.version == hashlib.sha256(text.encode()).hexdigest()[:12]
    with pytest.raises(GigawatchError, match="Values are missing: 2026-01-31 23:00 UTC to 2026-02-01 23:00 UTC"):
        files.pues(text.replace("\n01.02.", "\n02.02.").encode(), time_zone="Europe/Berlin")


@pytest.mark.parametrize("value", ["1", "1.0", "5"])
def test_the_least_and_the_greatest_pue_are_taken(value: str) -> None:
    found = files.pues(f"start,stop,pue\n2026-01-01T00:00Z,2027-01-01T00:00Z,{value}\n".encode())
    assert [it.value for it in found.intervals] == [Decimal(value)]


@pytest.mark.parametrize("value", ["0.999", "5.01", "0.2", "-1.2", "120"])
def test_a_pue_that_is_none_is_refused_with_the_remedy(value: str) -> None:
    with pytest.raises(
        GigawatchError, match=f"pue = {value} from 2026-01-01 00:00 UTC on is not between 1 and 5"
    ) as it:
        files.pues(f"start,stop,pue\n2026-01-01T00:00Z,2027-01-01T00:00Z,{value}\n".encode())
    assert it.value.exit_code == ExitCode.DATA
    assert "write 1.2 where a fifth comes on top" in it.value.remedy


def test_a_file_of_another_kind_is_no_file_of_pue() -> None:
    with pytest.raises(GigawatchError, match="not the header of a known format") as it:
        files.pues(b"start,stop,g_per_kwh\n2026-01-01T00:00Z,2027-01-01T00:00Z,2\n")
    assert "or pue" in it.value.remedy


def test_a_moment_alone_is_in_its_own_zone_or_in_the_one_that_is_named() -> None:
    for text, expected in (("2026-07-01", "2026-06-30 22:00"), ("2026-07-01T00:00Z", "2026-07-01 00:00")):
        assert clocks.moment(text, BERLIN, "--from") == utc(expected)
    # The hour comes twice.
    assert clocks.moment("25.10.2026 02:30", BERLIN, "--from") == utc("2026-10-25 00:30")
    for text, words in (
        ("2026-03-29T02:30", "--from = 2026-03-29T02:30 is a local time that clocks skip"),
        ("tomorrow", "--from = 'tomorrow' is not a date and time"),
        ("0001-01-01", "--from = 0001-01-01T00:00:00"),
    ):
        with pytest.raises(GigawatchError, match=re.escape(words)):
            clocks.moment(text, BERLIN, "--from")


def test_local_times_of_the_plain_format_need_their_zone() -> None:
    text = "start,price_per_kwh\n" + "".join(
        f"2024-10-27T{it:02}:00,{index}\n" for index, it in enumerate([1, 2, 2, 3])
    )
    found = prices(text, currency="EUR", time_zone="Europe/Berlin")
    assert [it.start for it in found] == [utc("2024-10-26 23:00") + it * HOUR for it in range(4)]


LIKE_CSV = st.text('0123456789-:,;.TZ \n"', max_size=200).map(lambda it: f"start,stop,price_per_kwh\n{it}".encode())


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode) | LIKE_CSV)
def test_no_input_does_more_than_be_refused(body: bytes) -> None:
    with contextlib.suppress(GigawatchError):
        files.prices(body, currency="EUR", time_zone="Europe/Berlin")
