"""Bytes to a table of text, and columns of it to numbers: encodings, separators, points and commas."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TypeVar

from msgspec import Struct

from api.factors.intervals import MOST_INTERVALS, unfit

T = TypeVar("T")
DELIMITERS = ",;\t"
EMPTY = frozenset({"", "-", "n/a", "n/e", "na", "nan", "null"})
"""What sources write, in small letters, where they have no value."""
_EXPONENT = r"(?:[eE][+-]?\d{1,2})?"
POINT = re.compile(rf"[+-]?(?:\d{{1,12}}|[1-9]\d{{0,2}}(?:,\d{{3}}){{1,3}})(?:\.\d{{1,12}})?{_EXPONENT}")
COMMA = re.compile(rf"[+-]?(?:\d{{1,12}}|[1-9]\d{{0,2}}(?:\.\d{{3}}){{1,3}})(?:,\d{{1,12}})?{_EXPONENT}")


class Cell(Struct, frozen=True):
    """A text of a column, with its line in the file."""

    line: int
    text: str


class Table(Struct, frozen=True):
    """Rows of text below a header."""

    delimiter: str
    rows: Sequence[tuple[int, list[str]]]
    """Each with its line in the file."""

    def column(self, index: int) -> list[Cell]:
        """A column's cells; a short row has empty ones."""
        return [Cell(line, row[index].strip() if index < len(row) else "") for line, row in self.rows]


def decode(body: bytes) -> str:
    """The text of a file in UTF-8, or in UTF-16 with a byte order mark.

    Raises:
        GigawatchError: it is in neither.
    """
    wide = body.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return body.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise unfit(f"The file is not text in UTF-8 (line {line})", "Save it as “CSV UTF-8”.") from error


PLAIN = "docs/tariffs.md lists them; the plain one has columns start, stop, and price_per_kwh, g_per_kwh or pue."


def read(text: str, recognise: Callable[[list[str]], T | None], known: str = PLAIN) -> tuple[Table, T]:
    """The table, and what recognise() says of its header's names (in small letters, single spaces).

    Args:
        text: of the file.
        recognise: gives None for a header that it does not know.
        known: which there are, in words, for the error.

    Raises:
        GigawatchError: no separator gives a header that is recognised, or the file is not CSV.
    """
    first = text.partition("\n")[0]
    for delimiter in DELIMITERS:
        try:
            header = next(csv.reader([first.strip("\r")], delimiter=delimiter, strict=True), [])
        except csv.Error:
            # Quotes that end where this is no separator.
            continue
        found = recognise([" ".join(name.lower().split()) for name in header])
        if found is None:
            continue
        try:
            rows = list(_rows(text, delimiter))
        except csv.Error as error:
            raise unfit(f"The file is not CSV: {error}", "Is it whole, and are its quotes closed?") from error
        for line, row in rows[1:]:
            # As 0,12 between commas would be: the price 0. Empty cells at the end are what spreadsheets leave.
            if any(cell.strip() for cell in row[len(header) :]):
                raise unfit(
                    f"Line {line} has {len(row)} cells where the header has {len(header)}:"
                    f" {delimiter.join(row)[:80]!r}",
                    "Write numbers with a decimal point, or quote what holds a separator.",
                )
        return Table(delimiter, rows[1:]), found
    raise unfit(
        f"The file's first line is not the header of a known format: {first[:200]!r}",
        known,
    )


def _rows(text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    found = []
    for row in reader:
        if any(cell.strip() for cell in row):
            found.append((reader.line_num, row))
        # The header counts, and sequences that are left out do.
        if len(found) > 4 * MOST_INTERVALS:
            raise unfit(f"The file has more than {4 * MOST_INTERVALS} lines", "Split it by year.")
    return found


def numbers(cells: Sequence[Cell], name: str, delimiter: str) -> list[Decimal | None]:
    """A column's numbers; None where there is none.

    All must be written alike, with a decimal point or with a decimal comma. Which one, the column as a whole must show:
    1,234 alone may be either. Where commas separate the columns a point is taken for what it is.

    Raises:
        GigawatchError: a cell is no number, or the column leaves open what its numbers are.
    """
    texts = [None if cell.text.lower() in EMPTY else cell.text.replace("−", "-") for cell in cells]
    for cell, text in zip(cells, texts, strict=True):
        if text is not None and not POINT.fullmatch(text) and not COMMA.fullmatch(text):
            raise unfit(f"Line {cell.line}: {name} = {text[:40]!r} is not a number", "Write it like -12.34.")
    with_point = _all(texts, POINT, ",", ".")
    with_comma = _all(texts, COMMA, ".", ",")
    if with_point is None and with_comma is None:
        raise unfit(f"Column {name} has numbers with decimal points and with decimal commas", "Write all alike.")
    if with_point is None or with_comma is None or with_point == with_comma or delimiter == ",":
        found = with_point if with_point is not None else with_comma
        assert found is not None
        return found
    index = next(i for i, (a, b) in enumerate(zip(with_point, with_comma, strict=True)) if a != b)
    raise unfit(
        f"Line {cells[index].line}: {name} = {texts[index]!r} is {with_point[index]} or {with_comma[index]},"
        " and no other number of the column tells which",
        "Write the column with a decimal point and separate columns by commas.",
    )


def _all(texts: Sequence[str | None], written: re.Pattern[str], group: str, mark: str) -> list[Decimal | None] | None:
    if not all(text is None or written.fullmatch(text) for text in texts):
        return None
    return [None if text is None else Decimal(text.replace(group, "").replace(mark, ".")) for text in texts]
