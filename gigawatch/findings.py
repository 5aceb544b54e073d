"""What is wrong with a declared document, all of it at once: where, what, and what to do about it."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Literal

from msgspec import Struct

Path = tuple[str | int, ...]
"""Where in a document: keys, and places in lists from 0."""
MOST_SUGGESTED_FROM = 5_000
MOST_SUGGESTIONS = 20
"""Looking for a close match takes milliseconds: so often, and among so many names."""
MOST_LISTED = 1_000
"""More nobody reads, and no answer should hold."""


class Finding(Struct, frozen=True, kw_only=True):
    """Something wrong in a document."""

    severity: Literal["error", "warning"]
    """A warning keeps nothing from coming into force."""
    line: int | None
    """Of the file, from 1; None where there is no file."""
    place: str
    """Keys that lead there."""
    problem: str
    remedy: str


class Findings:
    """Gathers what is wrong; what is alike at one place, as with ranges, is said once and counted."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, Path, str], tuple[str, str, int]] = {}
        self._suggested = 0

    def error(self, path: Path, problem: str, remedy: str, like: str = "") -> None:
        """Add what keeps the document from coming into force.

        Args:
            path: where.
            problem: what, naming field and value.
            remedy: what to do about it.
            like: what others at this place must say to be counted with it; by default the same remedy.
        """
        self._add("error", path, problem, remedy, like)

    def unknown(self, path: Path, problem: str, name: str, known: Iterable[str], what: str) -> None:
        """Add a name that is not there, with the closest one that is."""
        remedy = ""
        if ("error", path, "unknown") not in self._found:
            self._suggested += 1
            remedy = suggestion(name, known if self._suggested <= MOST_SUGGESTIONS else (), what)
        self._add("error", path, problem, remedy, "unknown")

    def warning(self, path: Path, problem: str, remedy: str) -> None:
        """Add what may be meant, but often is not."""
        self._add("warning", path, problem, remedy, "")

    def _add(self, severity: str, path: Path, problem: str, remedy: str, like: str) -> None:
        key = (severity, path, like or remedy)
        first, advice, count = self._found.get(key, (problem, remedy, 0))
        self._found[key] = (first, advice, count + 1)

    def listed(self, lines: Mapping[Path, int]) -> list[Finding]:
        """What was found, by line: of a path without one that of the path above. Of too much, errors come first."""
        kept = sorted(self._found.items(), key=lambda it: it[0][0])[:MOST_LISTED]
        found = [
            Finding(
                severity="error" if severity == "error" else "warning",
                line=next((lines[path[:end]] for end in range(len(path), -1, -1) if path[:end] in lines), None),
                place=".".join(map(str, path)),
                problem=problem if count == 1 else f"{problem} (and {count - 1} more like it)",
                remedy=remedy,
            )
            for (severity, path, _), (problem, remedy, count) in kept
        ]
        return sorted(found, key=lambda it: it.line or 0)


def suggestion(name: str, known: Iterable[str], what: str) -> str:
    """A remedy for a name that is not known: the closest one, or all there are."""
    names = list(known)
    near = get_close_matches(name, names, n=1) if len(names) <= MOST_SUGGESTED_FROM else []
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"{what} are: {some(names)}." if names else "Is its name spelled as where it is declared?"


def some(names: Iterable[str], most: int = 6) -> str:
    """The first of many names."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
