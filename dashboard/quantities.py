"""Numbers as people read them: with their unit, scaled to it, and a dash where nothing is known."""

from datetime import UTC, datetime

from gigawatch.units import JOULES_PER_KWH

UNKNOWN = "–"
SPACE = "\u00a0"
"""Between number and unit, so that no line breaks there."""


def watts(value: float | None) -> tuple[str, str]:
    """Power and its unit: ("1.24", "MW")."""
    return _scaled(value, "W")


def energy(joules: float | None) -> tuple[str, str]:
    """Energy and its unit: ("21.3", "MWh")."""
    return _scaled(None if joules is None else joules / JOULES_PER_KWH * 1000, "Wh")


def power(value: float | None) -> str:
    """Power in words: 1.24 MW."""
    return _joined(watts(value))


def ramp(watts_per_s: float | None) -> str:
    """How fast power changes, in words: 1.24 MW/s."""
    return UNKNOWN if watts_per_s is None else f"{power(watts_per_s)}/s"


def work(joules: float | None) -> str:
    """Energy in words: 21.3 MWh."""
    return _joined(energy(joules))


def percent(value: float | None) -> str:
    """Per cent: 97.3 %, 71 % from ten up without decimals."""
    return UNKNOWN if value is None else f"{_plain(value)}{SPACE}%"


def share(value: float | None) -> str:
    """A share of one, in per cent; never rounded up to all."""
    if value is None:
        return UNKNOWN
    pct = min(100.0, value * 100)
    return f"{min(pct, 99.9) if pct < 100 else 100:.1f}{SPACE}%".replace("100.0", "100")


def celsius(value: float | None) -> str:
    """A temperature."""
    return UNKNOWN if value is None else f"{value:.0f}{SPACE}°C"


def with_unit(value: float | None, unit: str) -> str:
    """A number that is not scaled."""
    return UNKNOWN if value is None else f"{_plain(value)}{SPACE}{unit}"


def digits(value: float | None, unit: str) -> str:
    """A number of any size in three digits: 0.374 J, 12.3 kJ."""
    if value is None:
        return UNKNOWN
    value = float(f"{value:.3g}")
    factor, scaled_unit = scale(value, unit)
    return f"{value / factor:.3g}{SPACE}{scaled_unit}".rstrip(SPACE)


def ratio(value: float | None) -> str:
    """A ratio such as PUE in two decimals: 1.25; what is below 1 never looks like it."""
    if value is None:
        return UNKNOWN
    return f"{min(value, 0.994) if value < 1 else value:.2f}"


def signed(value: float, unit: str) -> str:
    """A change in three digits with its sign: +12.3 W, −0.013 A."""
    sign = "\u2212" if value < 0 else "+"
    return f"{sign if value else ''}{digits(abs(value), unit)}"


def volume(cubic_metres: float | None) -> str:
    """A volume: 12.3 m³."""
    return UNKNOWN if cubic_metres is None else f"{_thousands(cubic_metres)}{SPACE}m³"


def current(amperes: float | None) -> str:
    """A current: 63.2 A."""
    return UNKNOWN if amperes is None else f"{amperes:.1f}{SPACE}A"


def latency(seconds: float | None) -> str:
    """A short time: 34 ms, 1.23 s."""
    return digits(seconds, "s") if seconds is None or seconds >= 1 else digits(seconds * 1000, "ms")


def mass(kilograms: float | None) -> str:
    """A mass: 34 g, 1.23 kg, 12.3 t."""
    if kilograms is None:
        return UNKNOWN
    return digits(kilograms * 1000, "g") if abs(kilograms) < 1000 else digits(kilograms / 1000, "t")


def money(amount: float | None, currency: str) -> str:
    """An amount in three digits: 0.123 EUR."""
    return UNKNOWN if amount is None else f"{digits(amount, '')}{SPACE}{currency}"


def change(part: float | None) -> str:
    """A difference as a part of what it is from: +12.3 %."""
    if part is None:
        return UNKNOWN
    # Not -0.0: a difference so small has no direction.
    pct = round(part * 100, 1) or 0.0
    return f"{pct:+.1f}{SPACE}%".replace("-", "\u2212") if pct else f"0.0{SPACE}%"


def mebibytes(value: float | None) -> str:
    """Memory: 61.2 GiB."""
    if value is None:
        return UNKNOWN
    return f"{value / 1024:.1f}{SPACE}GiB" if value >= 1024 else f"{value:.0f}{SPACE}MiB"


def size(value_bytes: int) -> str:
    """Room on disk: 1.2 TiB."""
    for exponent, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB")):
        if value_bytes >= 1024**exponent:
            return with_unit(value_bytes / 1024**exponent, unit)
    return f"{value_bytes / 1024:.0f}{SPACE}KiB"


def count(value: int | None) -> str:
    """A number of things."""
    return UNKNOWN if value is None else f"{value:,}".replace(",", "\u202f")


def duration(seconds: float | None) -> str:
    """A length of time, in its two greatest units: 42 s, 12 min, 3 h 5 min, 2 d 4 h."""
    if seconds is None:
        return UNKNOWN
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}{SPACE}s"
    minutes = whole // 60
    if minutes < 60:
        return f"{minutes}{SPACE}min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}{SPACE}h" + (f" {minutes}{SPACE}min" if minutes else "")
    days, hours = divmod(hours, 24)
    return f"{days}{SPACE}d" + (f" {hours}{SPACE}h" if hours else "")


def moment(value: datetime | None) -> str:
    """A time in UTC: 2026-11-23 09:41:20."""
    return UNKNOWN if value is None else f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def clock(value: datetime | None) -> str:
    """A time of the day in UTC: 09:41:20."""
    return UNKNOWN if value is None else f"{value.astimezone(UTC):%H:%M:%S}"


def scale(greatest: float, unit: str) -> tuple[float, str]:
    """What to divide by, and the unit then, for an axis that goes so far."""
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(greatest) >= factor:
            return factor, prefix + unit
    return 1.0, unit


def _scaled(value: float | None, unit: str) -> tuple[str, str]:
    if value is None:
        return UNKNOWN, ""
    value = float(f"{value:.3g}")  # 999.6 kW is 1 MW, not 1000 kW
    factor, scaled_unit = scale(value, unit)
    shown = value / factor
    return (f"{shown:.0f}" if factor == 1 or shown >= 100 else f"{shown:.3g}"), scaled_unit


def _thousands(value: float) -> str:
    return f"{value:,.0f}".replace(",", "\u202f") if abs(value) >= 1000 else f"{value:.3g}"


def _joined(parts: tuple[str, str]) -> str:
    return SPACE.join(part for part in parts if part)


def _plain(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 10 or value == 0 else f"{value:.1f}"
