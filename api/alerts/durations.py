"""Durations as people write them: `90s`, `5m`, `1h30m`, `7d`."""

import re

LONGEST_S = 366 * 86_400
_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_PART = re.compile(r"([0-9]+)([smhd])")


def seconds(text: str) -> int:
    """How many seconds a duration of api.alerts.configuration.Duration is."""
    return sum(int(number) * _UNITS_S[unit] for number, unit in _PART.findall(text))
