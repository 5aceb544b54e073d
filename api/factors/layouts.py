"""What the columns of known CSV files mean: our own plain ones, ENTSO-E's prices, Electricity Maps' intensities.

ENTSO-E's older exports have `MTU (CET/CEST)` with intervals like `01.01.2020 00:00 - 01.01.2020 01:00`, and
`Day-ahead Price [EUR/MWh]`; the newer ones slashes, seconds, the name of the time where clocks are set, `Area`,
`Sequence` and `Day-ahead Price (EUR/MWh)`. Electricity Maps' older ones have `Carbon Intensity gCO₂eq/kWh (direct)` and
`(LCA)`, the newer ones `Carbon intensity …` and `(Life cycle)`.
"""

import re
from typing import Literal
from zoneinfo import ZoneInfo

from msgspec import Struct

from api.factors import clocks
from api.factors.intervals import unfit

Emissions = Literal["direct", "life-cycle"]
"""Of which emissions an intensity of Electricity Maps is: of burning the fuel, or of the plant's whole life too."""
_MTU = re.compile(r"(?:mtu|time)(?: \((?P<clock>[a-z/]+)\))?")
_DAY_AHEAD = re.compile(r"day-ahead price [\[(](?P<currency>[a-z]{3}|currency)/mwh[\])]")
_CLOCKS = {
    "utc": "UTC", "cet/cest": "Europe/Brussels", "cet": "Europe/Brussels", "wet/west": "Europe/Lisbon",
    "eet/eest": "Europe/Helsinki",
}  # fmt: skip
_INTENSITY = re.compile(r"carbon intensity gco.{1,3}/kwh \((?P<emissions>direct|lca|life cycle)\)")
_EXPONENTS = {"price_per_kwh": 0, "price_per_mwh": -3, "g_per_kwh": 0, "kg_per_mwh": 0, "pue": 0}
"""Our own columns of values, with the power of ten that turns them into what is stored."""


class Layout(Struct, frozen=True, kw_only=True):
    """Where in a row stands what; None: nowhere."""

    source: str
    start: int
    """If stop is the same, the cell holds both: `start - stop`."""
    stop: int | None = None
    value: int
    value_name: str
    exponent: int = 0
    """Power of ten that turns a value into what is stored."""
    zone: ZoneInfo | None = None
    slashes: bool = False
    currency: str | None = None
    currency_at: int | None = None
    place_at: int | None = None
    """Area or zone: a file must have one."""
    sequence_at: int | None = None
    """Auction of the same hour: the first one counts."""
    origin_at: int | None = None
    """Where the source has the value from."""
    estimated_at: int | None = None


def of_prices(names: list[str]) -> Layout | None:
    """The layout of a file of prices by its header's names; None: it is not known."""
    value = next(((i, it) for i, name in enumerate(names) if (it := _DAY_AHEAD.fullmatch(name))), None)
    time = _MTU.fullmatch(names[0]) if names else None
    if value is None or time is None:
        return _plain(names, "price_per_kwh", "price_per_mwh")
    if time["clock"] is not None and time["clock"] not in _CLOCKS:
        raise unfit(f"Column {names[0]!r} is in a time that is not known", "Export it in UTC.")
    named = value[1]["currency"]
    return Layout(
        source="ENTSO-E Transparency Platform, day-ahead prices",
        start=0,
        stop=0,
        value=value[0],
        value_name=names[value[0]],
        exponent=-3,
        zone=clocks.zone(_CLOCKS[time["clock"]]) if time["clock"] else None,
        slashes=True,
        currency=None if named == "currency" else named.upper(),
        currency_at=_at(names, "currency"),
        place_at=_at(names, "area"),
        sequence_at=_at(names, "sequence"),
    )


def of_intensities(names: list[str], emissions: Emissions) -> Layout | None:
    """The layout of a file of carbon intensities by its header's names; None: it is not known."""
    found = {it["emissions"] == "direct": i for i, name in enumerate(names) if (it := _INTENSITY.fullmatch(name))}
    start = _at(names, "datetime (utc)")
    if start is None or not found:
        return _plain(names, "g_per_kwh", "kg_per_mwh")
    if (emissions == "direct") not in found:
        raise unfit(f"The file has no column of {emissions} emissions", "Choose with --emissions direct or life-cycle.")
    value = found[emissions == "direct"]
    return Layout(
        source=f"Electricity Maps, {emissions} emissions",
        start=start,
        value=value,
        value_name=names[value],
        zone=clocks.zone("UTC"),
        place_at=_at(names, "zone id"),
        origin_at=_at(names, "data source"),
        estimated_at=_at(names, "data estimated"),
    )


def of_pue(names: list[str]) -> Layout | None:
    """The layout of a file of configured PUE by its header's names; None: it is not known."""
    return _plain(names, "pue")


def _plain(names: list[str], *values: str) -> Layout | None:
    """Our own format: start, stop (or not), and one column of values."""
    present = [name for name in values if name in names]
    if "start" not in names or len(present) != 1:
        return None
    return Layout(
        source="",
        start=names.index("start"),
        stop=_at(names, "stop"),
        value=names.index(present[0]),
        value_name=present[0],
        exponent=_EXPONENTS[present[0]],
        currency_at=_at(names, "currency"),
        origin_at=_at(names, "source"),
        estimated_at=_at(names, "estimated"),
    )


def _at(names: list[str], name: str) -> int | None:
    return names.index(name) if name in names else None
