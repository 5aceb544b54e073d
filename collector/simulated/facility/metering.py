"""A simulated meter: what it counted, and what its registers say of it by its map."""

import math
import struct
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction

import msgspec
from msgspec import Struct

from collector.meters.maps import (
    UNITS,
    Figure,
    Map,
    ModbusValue,
    Raw,
    RedfishValue,
    SnmpMap,
    SnmpValue,
    Value,
    load,
    reading,
)
from collector.meters.reading import MeterProblem, Reading
from collector.simulated.chance import digest, uniform
from collector.simulated.facility.instruments import Instrument
from collector.simulated.facility.plant import Flows
from collector.simulated.facility.struck import Fault, Kind
from gigawatch.settings import Meter

LINES = 3
"""Phases of everything, and rows of a table of them."""
VOLTS, POWER_FACTOR = 230, 0.97
ROOM_MC = 24_000
"""Of the air at a meter's own sensor."""
BITS = {"int16": 15, "uint16": 16, "int32": 31, "uint32": 32, "int64": 63, "uint64": 64}
"""Of a number that grows."""
DECIMALS = {"energy": 0, "power": 0, "phases": 0, "currents": 3}
"""What an SNMP agent says that it has behind the point, where its map asks for it."""
NOW: frozenset[Figure] = frozenset({"power", "phases", "currents", "temperature"})
"""What is now, and not what was counted."""
MICROLITRES_PER_MILLILITRE = 1_000
MILLIJOULES_PER_WATT_HOUR = 3_600_000
Image = Mapping[Figure, list[Raw]]
"""By figure of the map, its values as the meter tells them."""


class Counted(Struct):
    """What a meter keeps when its power goes."""

    amount: int
    """mJ, or of water µL, since it was mounted, with what it had counted before."""
    serial: int


class SimulatedMeter:
    """One meter.

    Args:
        instrument: as it is mounted.
        map_: what its registers mean: a shipped map's name, or the path of a file.
        seed: the fleet's.
        faults: what goes wrong with it.
        counted: what it had counted when it was last looked at.
    """

    def __init__(
        self,
        instrument: Instrument,
        map_: str,
        seed: int,
        faults: tuple[Fault, ...] = (),
        counted: Counted | None = None,
    ) -> None:
        self.instrument = instrument
        self.map = _with_rows(load(map_))
        """With a value for each row of a table."""
        self.counted = counted or self._new(seed)
        self._map_name = map_
        self._faults = faults
        self._key = digest(seed, "meter", instrument.site, instrument.name)
        self._phases = [1 + 0.08 * (uniform(self._key, line) - 0.5) for line in range(LINES)]
        self._power_mw, self._temp_mc = 0, ROOM_MC
        self._shown = (self.counted.amount, self._power_mw, self._temp_mc)
        self._has_measured = False
        """Whether a step was counted: before, it tells its registers alone."""
        self._was_replaced = self.is_struck("replaced", 0)

    def is_struck(self, kind: Kind, time_s: float) -> bool:
        """Whether a fault of this kind is going on."""
        return any(it.kind == kind and it.is_active(time_s) for it in self._faults)

    def count(self, time_s: int, length_s: int, flows: Flows) -> None:
        """Take in a step.

        Args:
            time_s: its start, s since 1970 UTC.
            length_s: its length.
            flows: what flowed in it.
        """
        self._has_measured = True
        replaced = self.is_struck("replaced", time_s)
        if replaced and not self._was_replaced:
            self.counted = Counted(amount=0, serial=self.counted.serial + 1)
        self._was_replaced = replaced
        if "volume" in self.map.readings:
            self.counted.amount += flows.water_ul_s * length_s
        elif (power_mw := flows.mw.get(self.instrument.name)) is not None:
            backwards = self.is_struck("swapped", time_s)
            self._power_mw = -power_mw if backwards else power_mw
            self.counted.amount += 0 if backwards else power_mw * length_s
        self._temp_mc = flows.outside_mc if self.instrument.role == "temperature" else ROOM_MC
        if not self.is_struck("stuck", time_s):
            self._shown = (self.counted.amount, self._power_mw, self._temp_mc)

    def image(self, time_s: float) -> Image:
        """What its registers say."""
        garbled = self.is_struck("garbage", time_s)
        image: dict[Figure, list[Raw]] = {}
        for figure, values in self.map.readings.items():
            if figure in NOW and not self._has_measured:
                continue
            if figure == "identity":
                image[figure] = [self._serial(it) for it in values]
            elif garbled and figure != "power":
                image[figure] = [_garbage(it, f"{self._key}/{time_s}/{place}") for place, it in enumerate(values)]
            else:
                amounts = self._amounts(figure, len(values))
                image[figure] = [_told(figure, it, amount) for it, amount in zip(values, amounts, strict=True)]
        return image

    def read(self, time_s: float) -> Reading | None:
        """What a driver makes of it, at this time in place of the monotonic clock; None while it hangs, or
        tells nothing that can be."""
        if self.is_struck("hung", time_s):
            return None
        try:
            return reading(self.map, self.image(time_s), time_s, self.instrument.rated_kw)
        except MeterProblem:
            return None

    def settings(self, address: str, interval_s: float) -> Meter:
        """As an agent's settings have it."""
        it = self.instrument
        fields = {
            "name": it.name, "driver": self.map.__struct_config__.tag, "address": address, "map": self._map_name,
            "index": it.index, "rated_kw": it.rated_kw, "interval_s": interval_s,
        }  # fmt: skip
        return msgspec.convert(fields, Meter)

    @property
    def name(self) -> str:
        """Its name in the site."""
        return self.instrument.name

    @property
    def has_register(self) -> bool:
        """Whether it counts; else energy is integrated from its power."""
        return not self.map.readings.keys().isdisjoint({"energy", "volume"})

    def _new(self, seed: int) -> Counted:
        """As it was when the simulation began: some months old."""
        key = (seed, self.instrument.site, self.instrument.name)
        months_h = 2_000 + 1_500 * uniform(*key, "age")
        energy_mj = 0.4 * (self.instrument.rated_w or 10_000) * months_h * MILLIJOULES_PER_WATT_HOUR
        return Counted(amount=round(energy_mj), serial=10_000_000 + int(uniform(*key, "serial") * 80_000_000))

    def _amounts(self, figure: Figure, count: int) -> list[Fraction]:
        """A figure's values in the store's units."""
        counted, power_mw, temp_mc = self._shown
        if figure == "currents":
            line_ma = abs(power_mw) / (LINES * VOLTS * POWER_FACTOR)
            # Balanced over the lines, so that they are not all alike.
            return [Fraction(line_ma * share) for share in self._phases[:count]]
        whole = {
            "energy": counted,
            "volume": counted // MICROLITRES_PER_MILLILITRE,
            "power": power_mw,
            "phases": power_mw,
            "temperature": temp_mc,
        }[figure]
        return [Fraction(whole, count)] * count

    def _serial(self, value: Value) -> Raw:
        is_number = isinstance(value, ModbusValue) and value.type != "text"
        return self.counted.serial if is_number else f"SIM{self.counted.serial}"


def _told(figure: Figure, value: Value, amount: Fraction) -> Raw:
    """A value as the meter tells it: in its unit, with its digits, begun again where its register ended."""
    assert value.unit is not None
    number = amount / UNITS[figure][value.unit] / Fraction(value.scale)
    if isinstance(value, ModbusValue) and value.type not in BITS:
        packed: float = struct.unpack(">f", struct.pack(">f", float(number)))[0]
        return packed
    digits = 0
    if isinstance(value, SnmpValue) and value.decimals_oid is not None:
        digits = DECIMALS[figure]
    elif isinstance(value, RedfishValue):
        digits = 3
    shifted = number * 10**digits
    # A register shows what it has counted in full; what is now is rounded.
    whole: int = math.floor(shifted) if figure in {"energy", "volume"} else round(shifted)
    if isinstance(value, ModbusValue) and figure in {"energy", "volume"}:
        whole %= 1 << BITS[value.type]
    return Decimal(whole).scaleb(-digits) if digits else whole


def _garbage(value: Value, key: str) -> Raw:
    if isinstance(value, SnmpValue):
        return int(digest(key), 16) % (1 << BITS["int32"])
    if not isinstance(value, ModbusValue) or value.type not in BITS:
        return float("nan")
    return int(digest(key), 16) % (1 << BITS[value.type])


def _with_rows(map_: Map) -> Map:
    """The map with as many values as its tables have rows, as the driver makes it for a reading."""
    if not isinstance(map_, SnmpMap):
        return map_
    readings = {
        figure: tuple(it for it in values for _ in range(1 if it.rows_oid is None else LINES))
        for figure, values in map_.readings.items()
    }
    return msgspec.structs.replace(map_, readings=readings)
