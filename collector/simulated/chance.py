"""Chance that is the same on every machine and in every run: numbers drawn from a key by hashing."""

from hashlib import blake2b
from statistics import NormalDist

_NORMAL = NormalDist()
_MASK = 0xFFFF_FFFF


def digest(*key: object) -> str:
    """Thirty-two hexadecimal digits for this key."""
    return blake2b("/".join(map(str, key)).encode(), digest_size=16).hexdigest()


def uniform(*key: object) -> float:
    """A number of the open interval (0, 1) for this key."""
    return (int(digest(*key)[:13], 16) + 0.5) / 2**52


def normal(*key: object) -> float:
    """A number of mean 0 and standard deviation 1 for this key, within ±3."""
    return max(-3.0, min(3.0, _NORMAL.inv_cdf(uniform(*key))))


def smooth(seed: int, position: float) -> float:
    """Noise of 0 to 1 that goes straight from one whole position to the next; quick enough for every tick."""
    whole = int(position // 1)
    first = _mixed(seed, whole)
    return first + (_mixed(seed, whole + 1) - first) * (position - whole)


def _mixed(seed: int, index: int) -> float:
    mixed = (index * 0x9E37_79B1 + seed * 0x85EB_CA6B) & _MASK
    mixed = ((mixed ^ mixed >> 15) * 0x2C1B_3C6D) & _MASK
    mixed = ((mixed ^ mixed >> 12) * 0x297A_2D39) & _MASK
    return (mixed ^ mixed >> 15) / 2**32


WHITE = tuple(normal("white noise", index) for index in range(4_096))
"""Noise for the ticks, walked through from a place of each GPU's own."""
