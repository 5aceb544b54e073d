"""What the registers, OIDs and values of a meter mean, from data files, and how they become the store's units.

The shipped files are maps/*.toml beside this module; docs/meters.md says how one is written. Here is what they have in
common, whatever the driver: each figure has one value, or several that make it up, and each value has a unit.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from difflib import get_close_matches
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from collector.meters.reading import MeterProblem, Reading
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.units import MILLIWATTS_PER_WATT

FOLDER = Path(__file__).parent / "maps"

Figure = Literal["energy", "power", "phases", "currents", "volume", "temperature", "identity"]
Word = Annotated[str, Meta(pattern="^[a-z][a-z0-9_]*$")]
JsonPath = Annotated[str, Meta(pattern=r"^[^.]+(\.[^.]+)*$")]
"""Names of properties and numbers of array elements, from the outside in, with dots between."""
Raw = int | float | Decimal | str
"""A value as a meter tells it."""

POWER_UNITS = {"mW": Fraction(1), "W": Fraction(10**3), "kW": Fraction(10**6), "MW": Fraction(10**9)}
UNITS: dict[str, dict[str, Fraction]] = {
    "energy": {
        **{
            unit: Fraction(3_600 * 10**zeros)
            for unit, zeros in {"mWh": 0, "Wh": 3, "kWh": 6, "MWh": 9, "GWh": 12}.items()
        },
        **{unit: Fraction(10**zeros) for unit, zeros in {"mJ": 0, "J": 3, "kJ": 6, "MJ": 9, "GJ": 12}.items()},
    },
    "power": POWER_UNITS,
    "phases": POWER_UNITS,
    "currents": {"mA": Fraction(1), "A": Fraction(10**3), "kA": Fraction(10**6)},
    # A US liquid gallon is 231 cubic inches of 16.387064 mL.
    "volume": {
        "mL": Fraction(1),
        "L": Fraction(10**3),
        "m3": Fraction(10**6),
        "gal_us": 231 * Fraction("16.387064"),
    },
    "temperature": {"mC": Fraction(1), "C": Fraction(10**3), "K": Fraction(10**3), "F": Fraction(5_000, 9)},
}
"""Of each figure the units, and what one of them is in the store's: mJ, mW, mA, mL, thousandths of 1 °C."""
_ZEROS = {"K": Fraction("-273150"), "F": Fraction(-160_000, 9)}
"""What the store's unit says where a scale of temperature says 0."""
_BOUNDS = {
    "energy": (0, 2**62),
    "power": (-2_400_000 * 10**6, 2_400_000 * 10**6),
    "phases": (-2_400_000 * 10**6, 2_400_000 * 10**6),
    "currents": (0, 10**9),
    "volume": (0, 2**62),
    "temperature": (-100_000, 1_000_000),
}
"""Between what every figure lies, in the store's unit: what its columns take, 1.2 times the greatest rated_kw, 1 MA,
and temperatures that a facility has."""

_TEXT = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_PLACE = re.compile(r"\{([^{}]*)\}")
_DIGITS = 60
"""Numbers with more of them before or after the point are not computed with."""


class Refused(ValueError):
    """A value cannot be: why, in words. Drivers hand one over in place of a value that the meter does not give."""


class Value(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One value that a meter tells, whatever the driver."""

    PLACES: ClassVar[tuple[str, ...]] = ()
    """The keys that may have words of the index in them, such as {outlet}."""

    unit: str | None = None
    scale: Decimal = Decimal(1)
    """What the number is multiplied with to be in the unit."""
    absent: tuple[Decimal, ...] = ()
    """Numbers that say that there is no value, before they are scaled."""
    wraps_at: Decimal | None = None
    """At what a register begins again from zero, in the unit; absent where no document says it."""

    def __post_init__(self) -> None:
        """Check what no type says."""
        for key, number in (("scale", self.scale), ("wraps_at", self.wraps_at)):
            if number is not None and not (
                number.is_finite() and Decimal("1e-15") <= number.copy_abs() <= Decimal("1e24")
            ):
                raise ValueError(f"{key} is {number}, and no meter has that")
        if self.wraps_at is not None and self.wraps_at < 0:
            raise ValueError(f"wraps_at is {self.wraps_at}, and a register grows")


ValueT = TypeVar("ValueT", bound=Value)


class Index(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A word by which settings say which of several a meter is."""

    about: Annotated[str, Meta(min_length=1)]
    default: int | str | None = None
    """Without one, settings must say it."""


class MapOf(Struct, Generic[ValueT], frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="driver"):
    """What the maps of all drivers have."""

    COUNTED: ClassVar[str | None] = None
    """A word of its keys that no index says."""

    name: str
    """The name of its file: what settings call it."""
    title: Annotated[str, Meta(min_length=1)]
    sources: Annotated[tuple[str, ...], Meta(min_length=1)]
    """The documents in which it was read."""
    notes: tuple[str, ...] = ()
    """What people should know who use it, and what could not be verified."""
    index: dict[Word, Index] = {}
    readings: dict[Figure, Annotated[tuple[ValueT, ...], Meta(min_length=1, max_length=64)]]
    """Of several values, energy, power and volume are the sum; of currents the greatest counts, of phases the least."""

    def __post_init__(self) -> None:
        """Check that units fit their figures, and that words are declared."""
        if not self.readings.keys() - {"identity"}:
            raise ValueError("readings has no figure")
        for figure, values in self.readings.items():
            if figure in {"temperature", "identity"} and len(values) > 1:
                raise ValueError(f"readings.{figure} is one value, not {len(values)}")
            for value in values:
                if figure == "identity":
                    if value.unit is not None:
                        raise ValueError("readings.identity has no unit")
                elif value.unit not in UNITS[figure]:
                    units = ", ".join(UNITS[figure])
                    raise ValueError(f"readings.{figure} has unit {value.unit!r}, and is measured in one of {units}")
                if value.wraps_at is not None and (figure not in {"energy", "volume"} or len(values) > 1):
                    raise ValueError(
                        f"readings.{figure} has wraps_at, which only a single register of energy or volume has"
                    )
                self._check_places(figure, value)

    def _check_places(self, figure: Figure, value: Value) -> None:
        for key in value.PLACES:
            held = getattr(value, key) or ""
            for text in held.values() if isinstance(held, dict) else [held]:
                for word in _PLACE.findall(text):
                    if word not in self.index and word != self.COUNTED:
                        raise ValueError(f"readings.{figure}: {key} has {{{word}}}, and [index.{word}] is not there")

    def values(self) -> Iterator[ValueT]:
        """The values of all figures."""
        for values in self.readings.values():
            yield from values

    def words(self, given: Mapping[str, str | int]) -> dict[str, str | int]:
        """What each word of the index is for one meter.

        Args:
            given: the meter's `index` of the settings.

        Raises:
            GigawatchError: a word is not the map's, or one that has no default is missing.
        """
        for word in given:
            if word not in self.index:
                raise _wrong_index(f"index.{word} is given, and the map {self.name} has no such word", self.index)
        words = {word: given.get(word, it.default) for word, it in self.index.items()}
        for word, value in words.items():
            if value is None:
                raise _wrong_index(f"The map {self.name} wants index.{word}: {self.index[word].about}", self.index)
        return {word: value for word, value in words.items() if value is not None}


def _wrong_index(problem: str, index: Mapping[str, Index]) -> GigawatchError:
    known = "; ".join(f"{word} ({it.about})" for word, it in index.items())
    return GigawatchError(
        problem, f"Write index = {{WORD = …}} with: {known}." if known else "Leave index out.", ExitCode.CONFIGURATION
    )


def fill(text: str, words: Mapping[str, str | int]) -> str:
    """A text of a map with each {word} replaced by what it is for one meter."""
    return _PLACE.sub(lambda match: str(words[match[1]]), text)


def stored(figure: Figure, value: Value, raw: Raw) -> int:
    """A number that a meter told, in the store's unit: mJ, mW, mA, mL or thousandths of 1 °C.

    Raises:
        Refused: it is no number, or one that says that there is none.
    """
    number = _number(raw)
    if number in value.absent:
        raise Refused("the meter says by it that it has no value")
    result = round(_in_unit(figure, value, Fraction(number) * Fraction(value.scale)))
    # Some meters give a current the sign of its power, which says by itself where it flows.
    return abs(result) if figure == "currents" else result


def _in_unit(figure: Figure, value: Value, number: Fraction) -> Fraction:
    assert value.unit is not None  # a map with a figure without unit is not loaded
    return number * UNITS[figure][value.unit] + _ZEROS.get(value.unit, 0)


def _number(raw: Raw) -> Decimal:
    """The number that was told, exactly."""
    if isinstance(raw, bool):
        raise Refused("it is no number")
    if isinstance(raw, str):
        if len(raw) > 2 * _DIGITS or not _TEXT.fullmatch(raw.strip()):
            raise Refused("it is no number")
        raw = Decimal(raw.strip())
    if isinstance(raw, int) and raw.bit_length() > 200:
        raise Refused("no meter can have that")
    number = Decimal(raw)
    if not number.is_finite():
        raise Refused("it is no number")
    if number and number.adjusted() > _DIGITS:
        raise Refused("no meter can have that")
    # What is this small is 0 in every unit.
    return number if number.adjusted() > -_DIGITS else Decimal(0)


def reading(
    map_: "Map", raws: Mapping[Figure, Sequence[Raw | Refused]], at_s: float, rated_kw: float | None = None
) -> Reading:
    """What a meter told, in the store's units, without what cannot be.

    Args:
        map_: what its values mean.
        raws: of each of the map's figures, the values in the map's order.
        at_s: when, by the monotonic clock.
        rated_kw: the most power that can flow through it, as settings say.

    Raises:
        MeterProblem: it told nothing that can be.
    """
    figures: dict[Figure, int] = {}
    identity = None
    refused: list[str] = []
    for figure, told in raws.items():
        try:
            if figure == "identity":
                identity = _identity(told[0])
            else:
                figures[figure] = _total(figure, map_.readings[figure], told, rated_kw)
        except Refused as error:
            # Meters that are wired without a neutral have no power of a phase.
            refused += [f"{figure}: {error}"] * (figure != "phases")
    if not figures:
        raise MeterProblem(
            f"The meter tells nothing that can be: {'; '.join(refused)}",
            f"Check that it is what the map {map_.name} is for ({map_.title}), and the index in its settings.",
        )
    return Reading(
        at_s=at_s,
        energy_mj=figures.get("energy"),
        energy_wraps_mj=_wraps(map_, "energy"),
        power_mw=figures.get("power"),
        least_phase_mw=figures.get("phases"),
        current_ma=figures.get("currents"),
        volume_ml=figures.get("volume"),
        volume_wraps_ml=_wraps(map_, "volume"),
        temp_mc=figures.get("temperature"),
        identity=identity,
        refused=tuple(refused),
        raws=dict(raws.items()),
    )


def _total(figure: Figure, values: Sequence[Value], told: Sequence[Raw | Refused], rated_kw: float | None) -> int:
    numbers = []
    for value, raw in zip(values, told, strict=True):
        if isinstance(raw, Refused):
            raise raw
        try:
            numbers.append(stored(figure, value, raw))
        except Refused as error:
            raise Refused(f"{str(raw)[:40]!r}: {error}") from None
    total = {"currents": max, "phases": min}.get(figure, sum)(numbers)
    shown = ", ".join(str(raw)[:40] for raw in told)
    least, most = _BOUNDS[figure]
    if not least <= total <= most:
        raise Refused(f"{shown}: no meter can have that")
    kilowatt = 1_000 * MILLIWATTS_PER_WATT
    if figure == "power" and rated_kw is not None and abs(total) > rated_kw * 1.2 * kilowatt:
        raise Refused(f"{shown}: {total / kilowatt:.6g} kW are more than 1.2 times rated_kw, {rated_kw:g}")
    return total


def _identity(raw: Raw | Refused) -> str | None:
    """What is told for a serial number, without what cannot be seen; absent where nothing is left."""
    if isinstance(raw, Refused):
        raise raw
    return "".join(character for character in str(raw) if character.isprintable()).strip()[:200] or None


def _wraps(map_: "Map", figure: Figure) -> int | None:
    value = map_.readings.get(figure, (None,))[0]
    if value is None or value.wraps_at is None:
        return None
    return round(_in_unit(figure, value, Fraction(value.wraps_at)))


_LENGTHS = {"int16": 1, "uint16": 1, "int32": 2, "uint32": 2, "float32": 2, "int64": 4, "uint64": 4, "float64": 4}
Function = Literal["holding", "input"]
Order = Literal["big", "little"]


class ModbusValue(Value, frozen=True):
    """A value in registers of Modbus."""

    register: Annotated[int, Meta(ge=0, le=500_000)]
    """Its first register, with the number that the document gives it."""
    type: Literal["int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64", "text"]
    length: Annotated[int, Meta(ge=1, le=125)] | None = None
    """How many registers a text has."""
    function: Function | None = None
    """By which function it is read, where that is not the map's."""

    def __post_init__(self) -> None:
        """Check what no type says."""
        super().__post_init__()
        if (self.type == "text") != (self.length is not None):
            raise ValueError(f"register {self.register} is {self.type}: a text has a length, and nothing else has")

    @property
    def count(self) -> int:
        """How many registers it has."""
        return self.length or _LENGTHS[self.type]


class ModbusMap(MapOf[ModbusValue], frozen=True, tag="modbus"):
    """The registers of a meter of Modbus."""

    index: dict[Word, Index] = msgspec.field(
        default_factory=lambda: {"unit": Index(about="its unit id: its number on the line of a gateway", default=1)}
    )
    function: Function = "holding"
    """By which function it is read: 3 reads holding registers, 4 input registers."""
    first_register: Annotated[int, Meta(ge=0, le=400_001)] = 0
    """What the document calls the register with address 0 in the protocol: 0, 1, 30001 or 40001 as a rule."""
    word_order: Order = "big"
    """Which of the registers of a longer number comes first: that of the greatest or of the least digits."""
    byte_order: Order = "big"
    """The same for the two bytes of a register; Modbus itself says big."""
    registers_per_read: Annotated[int, Meta(ge=1, le=125)] = 125
    """The most that it answers in one go."""
    gap: Annotated[int, Meta(ge=0, le=124)] = 0
    """How many registers that are not wanted may lie between two that are read in one go. Many meters refuse a read
    that has a register in it that they do not have."""

    def __post_init__(self) -> None:
        """Check what no type says."""
        super().__post_init__()
        if "unit" not in self.index:
            raise ValueError("index.unit is missing, and every meter of Modbus has a unit id")
        for figure, values in self.readings.items():
            for value in values:
                if not 0 <= self.address(value) <= 65_536 - value.count:
                    raise ValueError(
                        f"readings.{figure}: register {value.register} is no address of Modbus, counted from "
                        f"first_register = {self.first_register}"
                    )
                if value.count > self.registers_per_read:
                    raise ValueError(f"readings.{figure}: register {value.register} is longer than registers_per_read")
                if value.type == "text" and figure != "identity":
                    raise ValueError(f"readings.{figure}: register {value.register} is a text, and a number is wanted")

    def address(self, value: ModbusValue) -> int:
        """The address of a value's first register in the protocol, which counts from 0."""
        return value.register - self.first_register


Oid = Annotated[str, Meta(pattern=r"^1(\.([0-9]+|\{[a-z][a-z0-9_]*\}))+$")]
ROW = "row"
"""The word that counts the rows of an SNMP table."""


class SnmpValue(Value, frozen=True):
    """A value of an SNMP agent."""

    PLACES: ClassVar[tuple[str, ...]] = ("oid", "decimals_oid", "available_oid", "rows_oid")

    oid: Oid
    decimals_oid: Oid | None = None
    """Where the agent says how many of the number's digits are behind the point."""
    available_oid: Oid | None = None
    """Where the agent says whether it has the value: 1, as of a TruthValue."""
    rows_oid: Oid | None = None
    """Where the agent says how many rows the table has. {row} of the others counts from 1 to that; each is a value."""

    def __post_init__(self) -> None:
        """Check what no type says."""
        super().__post_init__()
        row = f"{{{ROW}}}"
        others = (self.decimals_oid or "") + (self.available_oid or "")
        if (row in self.oid) != (self.rows_oid is not None) or (row in others and row not in self.oid):
            raise ValueError(f"oid {self.oid}: {row} and rows_oid go together")
        if row in (self.rows_oid or ""):
            raise ValueError(f"oid {self.oid}: rows_oid has no {row} itself")
        if self.decimals_oid is not None and self.absent:
            raise ValueError(f"oid {self.oid}: a number with decimals_oid has no absent ones; name available_oid")
        if self.rows_oid is not None and self.wraps_at is not None:
            raise ValueError(f"oid {self.oid}: wraps_at is of a single register, not of a table's rows")


class SnmpMap(MapOf[SnmpValue], frozen=True, tag="snmp"):
    """The objects of an SNMP agent."""

    COUNTED: ClassVar[str | None] = ROW

    def __post_init__(self) -> None:
        """Check what no type says."""
        super().__post_init__()
        if ROW in self.index:
            raise ValueError(f"index.{ROW}: this word counts a table's rows")
        if any(value.rows_oid for value in self.readings.get("identity", ()) + self.readings.get("temperature", ())):
            raise ValueError("identity and temperature are one value, and have no rows_oid")


class RedfishValue(Value, frozen=True):
    """A property of a Redfish resource."""

    PLACES: ClassVar[tuple[str, ...]] = ("path", "value")

    path: Annotated[str, Meta(pattern=r"^/redfish/v1/[^?#\s]+$")]
    """Of the resource."""
    value: JsonPath
    """The property in it: a number or text, a sensor's excerpt, or a link to a sensor."""


class RedfishMap(MapOf[RedfishValue], frozen=True, tag="redfish"):
    """The resources of a Redfish service."""


class MqttValue(Value, frozen=True):
    """A value in the messages of a topic."""

    PLACES: ClassVar[tuple[str, ...]] = ("topic", "value")

    topic: Annotated[str, Meta(pattern=r"^[^#+\x00]+$", max_length=1_000)]
    """Of the messages, without wildcards."""
    value: JsonPath | None = None
    """Where it is in a message of JSON; without it the message is the value."""


class MqttMap(MapOf[MqttValue], frozen=True, tag="mqtt"):
    """The messages of a device that speaks MQTT."""


class PrometheusValue(Value, frozen=True):
    """A series of a metrics endpoint."""

    PLACES: ClassVar[tuple[str, ...]] = ("labels",)

    metric: Annotated[str, Meta(pattern=r"^[a-zA-Z_:][a-zA-Z0-9_:]*$")]
    labels: dict[str, str] = {}
    """Series that have another value of such a label are not meant."""


class PrometheusMap(MapOf[PrometheusValue], frozen=True, tag="prometheus"):
    """The series of a metrics endpoint."""


class IpmiValue(Value, frozen=True):
    """A value that a management controller tells by IPMI."""

    PLACES: ClassVar[tuple[str, ...]] = ("sensor",)

    sensor: Annotated[str, Meta(min_length=1, max_length=16)] | None = None
    """Name of a sensor, as `ipmitool sdr list` writes it; without it the power that DCMI tells."""


class IpmiMap(MapOf[IpmiValue], frozen=True, tag="ipmi"):
    """What a management controller tells by IPMI."""


Map = ModbusMap | SnmpMap | RedfishMap | MqttMap | PrometheusMap | IpmiMap


def read(path: Path) -> Map:
    """The map that a file describes.

    Raises:
        GigawatchError: the file cannot be read, or a key is unknown, missing or has an impossible value.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
        readings = content.get("readings")
        if isinstance(readings, dict):
            content["readings"] = {figure: it if isinstance(it, list) else [it] for figure, it in readings.items()}
        map_: Map = msgspec.convert({**content, "name": path.stem}, Map)
    except (OSError, ValueError, RecursionError) as error:
        raise GigawatchError(
            f"The meter map {path} cannot be used: {error}",
            "Mend it after docs/meters.md, which says what each key means.",
            ExitCode.CONFIGURATION,
        ) from error
    return map_


@cache
def maps() -> Mapping[str, Map]:
    """The shipped maps by name."""
    return {path.stem: read(path) for path in sorted(FOLDER.glob("*.toml"), key=lambda it: it.stem)}


def load(name_or_path: str) -> Map:
    """A shipped map by its name, or one of your own by the path of its file.

    Raises:
        GigawatchError: there is none of this name, or the file cannot be used.
    """
    if name_or_path.endswith(".toml"):
        return read(Path(name_or_path))
    known = maps()
    if name_or_path not in known:
        near = get_close_matches(name_or_path, known, n=1)
        raise GigawatchError(
            f"No map is named {name_or_path!r}",
            f"Did you mean {near[0]!r}?"
            if near
            else f"Known are: {', '.join(known)}; or name a file that ends in .toml.",
            ExitCode.CONFIGURATION,
        )
    return known[name_or_path]
