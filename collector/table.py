"""Reads recorded CSV files line by line: what is broken is named by its line."""

import csv
import math
from collections.abc import Iterator
from pathlib import Path

from gigawatch.errors import ExitCode, GigawatchError


def lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The header and the rows of a CSV file, each with its line's number; empty lines are passed over.

    Raises:
        GigawatchError: it is not CSV in UTF-8, or a row has not as many cells as the header.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file, strict=True)
            header = [name.strip() for name in next(rows, [])]
            yield rows.line_num, header
            for cells in rows:
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise broken(path, rows.line_num, f"{len(cells)} cells, and the header has {len(header)}")
                yield rows.line_num, cells
    except (UnicodeDecodeError, csv.Error) as error:
        raise GigawatchError(f"{path} is not CSV in UTF-8: {error}", "Save it as plain CSV.", ExitCode.DATA) from error


def number(path: Path, line: int, name: str, text: str) -> float:
    """The finite number that a cell holds.

    Raises:
        GigawatchError: it holds none.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise broken(path, line, f"{name} = {text[:40]!r} is not a number")
    return value


def broken(path: Path, line: int, problem: str) -> GigawatchError:
    """What to raise about a line."""
    return GigawatchError(f"{path}, line {line}: {problem}", "Mend the line or leave it out.", ExitCode.DATA)
