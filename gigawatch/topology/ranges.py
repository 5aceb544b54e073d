"""Names with ranges: `A1-[01-24]`, `pdu-[A-D]-[1-4,7]`, and `[*]` for what the ranges of another name give."""

import re
from itertools import product
from math import prod

_RANGE = re.compile(r"\[([^\[\]]*)\]")
_PART = re.compile(r"(?P<first>[0-9]{1,9}|[A-Za-z])(?:-(?P<last>[0-9]{1,9}|[A-Za-z]))?")
MOST_NAMES = 20_000
"""Names that one text may make."""
LONGEST = 200


class WrongRange(ValueError):
    """A range is none: the message says why."""


class Pattern:
    """A name in which ranges may stand.

    Raises:
        WrongRange: a range is none, or it makes too many names.
    """

    def __init__(self, text: str) -> None:
        pieces = _RANGE.split(text)
        self.fixed = pieces[0::2]
        """What stands before, between and after the ranges."""
        if any(it for piece in self.fixed for it in piece if it in "[]"):
            raise WrongRange("a bracket has no partner")
        self.sizes = [1 if it == "*" else _size(it) for it in pieces[1::2]]
        if prod(self.sizes) > MOST_NAMES:
            raise WrongRange(f"it makes {prod(self.sizes)} names, and {MOST_NAMES} are the most")
        self.values = [["*"] if it == "*" else _values(it) for it in pieces[1::2]]
        """What each range gives, in order; of [*] the star alone."""
        self.stars = [it == "*" for it in pieces[1::2]]

    def names(self, given: tuple[str, ...] = ()) -> list[tuple[str, tuple[str, ...]]]:
        """The names in order, each with what its ranges gave.

        Args:
            given: what stands for [*]: one value for each, or one for all of them.

        Raises:
            WrongRange: there are more or fewer [*] than values, or a name is too long or empty.
        """
        stars = sum(self.stars)
        if stars and len(given) not in {1, stars}:
            raise WrongRange(
                f"it has {stars} [*], and the name that it goes by has {len(given)} range{'s' * (len(given) != 1)}"
            )
        left = iter(given * stars if len(given) == 1 else given)
        choices = [[next(left)] if star else values for star, values in zip(self.stars, self.values, strict=True)]
        found = []
        for chosen in product(*choices):
            name = self.fixed[0] + "".join(a + b for a, b in zip(chosen, self.fixed[1:], strict=True))
            if not name or name != name.strip() or len(name) > LONGEST:
                raise WrongRange(f"{name[:40]!r} is no name: 1 to {LONGEST} characters, no space before or after")
            found.append((name, chosen))
        return found


def _size(text: str) -> int:
    return sum(_length(part) for part in text.split(","))


def _length(part: str) -> int:
    first, last = _ends(part)
    if last is None:
        return 1
    # Letters count as they follow each other.
    return int(last) - int(first) + 1 if first.isdecimal() else ord(last) - ord(first) + 1


def _values(text: str) -> list[str]:
    values: list[str] = []
    for part in text.split(","):
        first, last = _ends(part)
        if last is None:
            values.append(first)
        elif first.isdecimal():
            values += [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
        else:
            values += [chr(it) for it in range(ord(first), ord(last) + 1)]
    if len(set(values)) < len(values):
        raise WrongRange(f"[{text[:40]}] gives {next(it for it in values if values.count(it) > 1)!r} twice")
    return values


def _ends(part: str) -> tuple[str, str | None]:
    found = _PART.fullmatch(part.strip())
    if found is None:
        raise WrongRange(f"[{part[:40]}] is no range: write [1-24], [01-24], [A-D], [1,3,7-9] or [*]")
    first, last = found["first"], found["last"]
    if last is None:
        return first, None
    alike = first.isdecimal() == last.isdecimal() and (first.isdecimal() or first.isupper() == last.isupper())
    padded = len(first) > 1 and first.startswith("0")
    if not alike or (first.isdecimal() and len(first) != len(last) and padded):
        raise WrongRange(f"[{part[:40]}] begins and ends unlike: write [01-24], [1-24] or [A-D]")
    if (int(first) > int(last)) if first.isdecimal() else first > last:
        raise WrongRange(f"[{part[:40]}] runs backwards")
    return first, last
