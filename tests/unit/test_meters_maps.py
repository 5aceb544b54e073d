"""Maps of meters are loaded or refused, and what a meter tells becomes the store's units exactly."""

from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.meters import maps
from collector.meters.endpoint import endpoint
from collector.meters.maps import Figure, Raw, Refused, Value, stored
from collector.meters.reading import MeterProblem
from gigawatch.errors import ExitCode, GigawatchError

GOOD = """
title = "Made"
driver = "modbus"
sources = ["here"]

[readings.power]
register = 1
type = "uint16"
unit = "W"
"""


@pytest.mark.parametrize("name", maps.maps())
def test_shipped_maps_say_whence_they_are(name: str) -> None:
    map_ = maps.load(name)
    assert map_.name == name
    assert all(source.strip() for source in map_.sources)
    assert {"energy", "power", "volume", "temperature"} & map_.readings.keys(), "nothing of it would reach a figure"


# From the units' definitions; of a gallon, NIST Handbook 44, appendix C.
@pytest.mark.parametrize(
    ("figure", "unit", "scale", "raw", "expected"),
    [
        ("energy", "kWh", 1, 1, 3_600_000_000),
        ("energy", "kWh", "0.1", 170_982, 61_553_520_000_000),
        ("energy", "Wh", 1, 2**32 - 1, (2**32 - 1) * 3_600_000),
        ("energy", "mWh", 1, 1, 3_600),
        ("energy", "GWh", 1, "1.5", 5_400_000_000_000_000),
        ("energy", "J", 1, Decimal("0.0005"), 0),
        ("energy", "GJ", 1, "0.000e-12", 0),
        ("power", "MW", 1, "1e-999", 0),
        ("power", "MW", 1, 5e-324, 0),
        ("energy", "MJ", 1, 12.5, 12_500_000_000),
        ("power", "W", 1, -1_234, -1_234_000),
        ("power", "kW", "0.01", 412, 4_120_000),
        ("power", "MW", 1, 1.5, 1_500_000_000),
        ("power", "W", "-1", 20, -20_000),
        ("currents", "A", "0.1", -51, 5_100),
        ("currents", "kA", 1, 2, 2_000_000),
        ("volume", "m3", "0.001", 7, 7_000),
        ("volume", "gal_us", 1, 1_000, 3_785_412),
        ("temperature", "C", "0.1", -55, -5_500),
        ("temperature", "K", 1, 300, 26_850),
        ("temperature", "F", 1, 212, 100_000),
        ("temperature", "F", 1, -40, -40_000),
    ],
)
def test_units(figure: Figure, unit: str, scale: int | str, raw: Raw, expected: int) -> None:
    assert stored(figure, Value(unit=unit, scale=Decimal(scale)), raw) == expected


@given(st.integers(0, 2**60))
def test_no_digit_of_a_register_is_lost(number: int) -> None:
    assert stored("energy", Value(unit="mJ"), number) == number
    assert stored("energy", Value(unit="mJ"), str(number)) == number
    assert stored("energy", Value(unit="J"), Decimal(number).scaleb(-3)) == number


@pytest.mark.parametrize(
    "raw",
    [
        float("nan"), float("inf"), Decimal("NaN"), Decimal("Infinity"), True, "", " ", "on", "1_000", "1,5", "٣",
        "0x10", "1e999", 10**61, Decimal("1e80"), 1e300, "9" * 5_000,
    ],
)  # fmt: skip
def test_what_is_no_number(raw: Raw) -> None:
    with pytest.raises(Refused):
        stored("power", Value(unit="W"), raw)


def test_what_the_map_calls_absent() -> None:
    value = Value(unit="W", scale=Decimal("0.1"), absent=(Decimal(-1), Decimal(65_535)))
    for raw in (-1, 65_535, "65535", -1.0):
        with pytest.raises(Refused, match="says by it that it has no value"):
            stored("power", value, raw)
    assert stored("power", value, 1) == 100


@given(st.one_of(st.integers(), st.floats(), st.text(), st.decimals(), st.booleans()))
def test_a_raw_value_is_taken_or_refused(raw: Raw) -> None:
    with suppress(Refused):
        assert isinstance(stored("temperature", Value(unit="F"), raw), int)


def loaded(tmp_path: Path, text: str | bytes) -> maps.Map:
    """The map of this text."""
    path = tmp_path / "own.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return maps.load(str(path))


SEVERAL = """
title = "Three lines"
driver = "modbus"
sources = ["here"]
readings.power = [
  { register = 1, type = "uint16", unit = "W" }, { register = 2, type = "uint16", unit = "kW" },
]
readings.currents = [
  { register = 3, type = "uint16", unit = "A" }, { register = 4, type = "uint16", unit = "mA" },
]
readings.temperature = { register = 5, type = "int16", unit = "C" }
readings.energy = { register = 6, type = "uint32", unit = "kWh", scale = 0.1, wraps_at = 429_496_729.6 }
readings.volume = { register = 8, type = "uint16", unit = "L", wraps_at = 65_536 }
readings.identity = { register = 9, type = "uint16" }
"""


def test_several_values_make_a_figure(tmp_path: Path) -> None:
    told = maps.reading(
        loaded(tmp_path, SEVERAL),
        {"power": [500, 2], "currents": [3, 9_000], "temperature": [21], "energy": [12], "volume": [4],
         "identity": [" SN\x00 7\t"]},
        at_s=5.0,
    )  # fmt: skip
    assert (told.power_mw, told.current_ma, told.temp_mc) == (2_500_000, 9_000, 21_000)
    assert (told.energy_mj, told.energy_wraps_mj) == (4_320_000_000, 2**32 * 360_000_000)
    assert (told.volume_ml, told.volume_wraps_ml, told.identity) == (4_000, 65_536_000, "SN 7")
    assert (told.at_s, told.refused) == (5.0, ())


def test_a_part_that_is_refused_refuses_the_sum(tmp_path: Path) -> None:
    map_ = loaded(tmp_path, SEVERAL)
    told = maps.reading(map_, {"power": [500, Refused("gone")], "energy": [1], "identity": [""]}, 0.0)
    assert (told.power_mw, told.identity, told.refused) == (None, None, ("power: gone",))
    told = maps.reading(map_, {"temperature": [1_001], "energy": [1]}, 0.0)
    assert told.refused == ("temperature: 1001: no meter can have that",)
    with pytest.raises(MeterProblem, match="tells nothing that can be: energy: -1: no meter can have that"):
        maps.reading(map_, {"energy": [-1], "identity": ["SN"]}, 0.0)


# What stands in the place of the good map's power, or is added to the map, and what is said of it.
HOSTILE = {
    "no TOML": ("title = ", "Invalid value"),
    "bytes": (b"\xff\xfe", "codec can't decode"),
    "deep": ("x = " + "[" * 100_000, "cannot be used"),
    "long number": (GOOD.replace("register = 1", f"register = {'9' * 5_000}"), "cannot be used"),
    "no driver": (GOOD.replace('driver = "modbus"', ""), "driver"),
    "unknown driver": (GOOD.replace("modbus", "dlms"), "dlms"),
    "unknown key": (GOOD.replace("title", "titel"), "titel"),
    "unknown key of a value": (GOOD + "skale = 2\n", "skale"),
    "unknown figure": (GOOD.replace("readings.power", "readings.voltage"), "voltage"),
    "no source": (GOOD.replace('["here"]', "[]"), "sources"),
    "no readings": (GOOD.partition("[readings")[0] + "[readings]\n", "readings has no figure"),
    "identity alone": (GOOD.replace("power", "identity").replace('unit = "W"', ""), "readings has no figure"),
    "identity with a unit": (GOOD + "[readings.identity]\nregister = 2\ntype = 'int16'\nunit = 'W'\n", "has no unit"),
    "no unit": (GOOD.replace('unit = "W"', ""), "has unit None"),
    "unit of another figure": (GOOD.replace('"W"', '"kWh"'), "is measured in one of mW, W, kW, MW"),
    "no value": (GOOD.partition("[readings")[0] + "readings.power = []\n", "length >= 1"),
    "scale 0": (GOOD + "scale = 0\n", "scale is 0"),
    "scale nan": (GOOD + "scale = nan\n", "scale is NaN"),
    "scale without end": (GOOD + "scale = 1e999999999\n", "scale is 1E"),
    "wraps below 0": (GOOD.replace("power", "energy").replace('"W"', '"Wh"') + "wraps_at = -1\n", "a register grows"),
    "power that wraps": (GOOD + "wraps_at = 65_536\n", "only a single register"),
    "two temperatures": (
        GOOD + "[[readings.temperature]]\nregister=2\ntype='int16'\nunit='C'\n" * 2, "is one value, not 2"
    ),
    "a float register": (GOOD.replace("register = 1", "register = 1.5"), "register"),
    "no such register": (GOOD.replace("register = 1", "register = 70_000"), "is no address of Modbus"),
    "before the first": ("first_register = 2\n" + GOOD, "is no address of Modbus"),
    "beyond the last": (GOOD.replace("register = 1", "register = 65_535").replace("uint16", "int32"), "no address of"),
    "text as power": (GOOD.replace('"uint16"', '"text"') + "length = 2\n", "a number is wanted"),
    "text without length": (GOOD.replace('"uint16"', '"text"'), "a text has a length"),
    "number with length": (GOOD + "length = 2\n", "a text has a length"),
    "longer than a read": ("registers_per_read = 1\n" + GOOD.replace("uint16", "int64"), "longer than registers_per"),
    "no unit id": (GOOD + "[index.circuit]\nabout = 'x'\n", "index.unit is missing"),
    "index with capitals": (GOOD + "[index.Unit]\nabout = 'x'\n", "index"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_map(what: str, tmp_path: Path) -> None:
    text, problem = HOSTILE[what]
    with pytest.raises(GigawatchError) as raised:
        loaded(tmp_path, text)
    assert problem in raised.value.problem
    assert str(tmp_path / "own.toml") in raised.value.problem
    assert "docs/meters.md" in raised.value.remedy
    assert raised.value.exit_code == ExitCode.CONFIGURATION


SNMP = """
title = "Made"
driver = "snmp"
sources = ["here"]
[index.outlet]
about = "number of the outlet"
[readings.power]
unit = "W"
"""


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ('oid = "sysDescr.0"', "oid"),
        ('oid = "1.3.6.1.{inlet}"', "[index.inlet] is not there"),
        ('oid = "1.3.6.1.{outlet.__class__}"', "oid"),
        ('oid = "1.3.6.1.{row}"', "{row} and rows_oid go together"),
        ('oid = "1.3.6.1.1"\nrows_oid = "1.3.6.2"', "{row} and rows_oid go together"),
        ('oid = "1.3.6.1.{row}"\nrows_oid = "1.3.6.{row}"', "rows_oid has no {row} itself"),
        ('oid = "1.3.6.1.1"\ndecimals_oid = "1.3.6.{row}"', "{row} and rows_oid go together"),
        ('oid = "1.3.6.1.1"\ndecimals_oid = "1.3.6.2"\nabsent = [-1]', "has no absent ones"),
        ('oid = "1.3.6.1.{row}"\nrows_oid = "1.3.6.2"\nwraps_at = 5', "wraps_at"),
        ('oid = "1.3.6.1"\n[index.row]\nabout = "x"', "this word counts a table's rows"),
        ('oid = "1.3"\n[readings.temperature]\nunit="C"\noid="1.3.{row}"\nrows_oid="1.3"', "have no rows_oid"),
    ],
)
def test_a_hostile_map_of_snmp(value: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(GigawatchError) as raised:
        loaded(tmp_path, SNMP + value)
    assert problem in raised.value.problem


@given(cut=st.integers(0, len(SEVERAL)), junk=st.text(max_size=20))
def test_a_map_with_junk_is_loaded_or_refused(cut: int, junk: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "junk.toml"
    path.write_bytes((SEVERAL[:cut] + junk + SEVERAL[cut + len(junk) :]).encode("utf-8", "surrogatepass"))
    with suppress(GigawatchError):
        assert maps.load(str(path)).readings


def test_a_map_is_found_by_name_or_path(tmp_path: Path) -> None:
    assert loaded(tmp_path, GOOD).name == "own"
    with pytest.raises(GigawatchError, match="No map is named 'schneider-pm500'") as raised:
        maps.load("schneider-pm500")
    assert raised.value.remedy == "Did you mean 'schneider-pm5000'?"
    with pytest.raises(GigawatchError) as raised:
        maps.load("etwas ganz anderes")
    assert raised.value.remedy.startswith("Known are: apc-rpdu2, ")
    with pytest.raises(GigawatchError, match=r"cannot be used: .*No such file"):
        maps.load(str(tmp_path / "absent.toml"))


def test_words_of_the_index() -> None:
    map_ = maps.load("raritan-px-outlet")
    assert map_.words({"outlet": 12}) == {"pdu": 1, "outlet": 12}
    assert map_.words({"outlet": 12, "pdu": 2}) == {"pdu": 2, "outlet": 12}
    with pytest.raises(GigawatchError, match=r"wants index\.outlet: number of the outlet"):
        map_.words({})
    with pytest.raises(GigawatchError, match=r"index\.inlet is given, and the map raritan-px-outlet has no") as raised:
        map_.words({"inlet": 1})
    assert "pdu (number of the PDU in a chain of linked ones); outlet (number of the outlet)" in raised.value.remedy


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.20.0.5", "10.20.0.5:502"),
        ("meter-7.example.net:1502", "meter-7.example.net:1502"),
        ("[2001:db8::5]:1502", "[2001:db8::5]:1502"),
        ("[2001:db8::5]", "[2001:db8::5]:502"),
    ],
)
def test_endpoints(address: str, expected: str) -> None:
    assert str(endpoint(address, 502)) == expected


@pytest.mark.parametrize(
    "address",
    ["", ":502", "host:", "host:0", "host:70000", "host:port", "2001:db8::5", "http://host", "host/x", "a b", "u@host",
     "host?x", "a..b", "[::1"],
)  # fmt: skip
def test_no_endpoints(address: str) -> None:
    with pytest.raises(GigawatchError, match="is not HOST or HOST:PORT"):
        endpoint(address, 502)


@given(st.text(max_size=30))
def test_an_address_is_an_endpoint_or_refused(address: str) -> None:
    with suppress(GigawatchError):
        host, port = endpoint(address, 502)
        assert host and 0 < port < 65_536
