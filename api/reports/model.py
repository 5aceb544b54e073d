"""A report before it is written in any format: facts, tables and charts."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Literal

from msgspec import Struct

Kind = Literal["text", "number", "ratio", "share", "integer", "time", "date", "yes"]
"""How a column's values are shown: share is 0 to 1 and shown in %, time is UTC, yes is true or false."""
Value = str | int | float | bool | datetime | date | None
"""None is "not known", never zero."""


class Column(Struct, frozen=True):
    """A column of a table."""

    key: str
    """Its name in JSON and CSV, with its unit."""
    title: str
    """Its heading for people, without its unit."""
    kind: Kind = "text"
    unit: str = ""


class Table(Struct, frozen=True, kw_only=True):
    """Figures that belong together."""

    name: str
    title: str
    about: str = ""
    """What is in it: its boundary, and what its columns mean."""
    columns: tuple[Column, ...]
    rows: Sequence[tuple[Value, ...]]
    """Each with a value for each column."""
    empty: str
    """What to say, and what to do, where there is no row."""


class Series(Struct, frozen=True, kw_only=True):
    """Values of one kind, one for each label of a chart; None is a gap."""

    name: str
    values: Sequence[float | None]


class Chart(Struct, frozen=True, kw_only=True):
    """A picture of what a table has."""

    title: str
    kind: Literal["line", "columns", "bars"]
    """line and columns go along the time; bars lie below each other, with one series."""
    unit: str
    labels: Sequence[str]
    series: tuple[Series, ...]
    floor: float = 0
    """Where the axis and columns begin: 1 for a PUE."""


class Missing(Struct, frozen=True, kw_only=True):
    """An input that a report lacks."""

    indicator: str
    lacks: str
    """What is missing: a meter, a field of the topology."""
    remedy: str


class Fact(Struct, frozen=True):
    """Something that a report says of itself."""

    name: str
    value: str


class Report(Struct, frozen=True, kw_only=True):
    """A site's figures of a period."""

    report: Literal["eu-eed", "monthly"]
    title: str
    site: str
    period: str
    """The year or month: 2026, 2026-01."""
    start: datetime
    stop: datetime
    time_zone: str
    """Of the period and of its days; all moments are UTC."""
    made: datetime
    simulated: bool
    """Whether any of its data are simulated."""
    facts: tuple[Fact, ...]
    """Regime, boundary, completeness."""
    headline: tuple[Fact, ...]
    """The few figures that people look for first."""
    missing: tuple[Missing, ...]
    charts: tuple[Chart, ...]
    tables: tuple[Table, ...]
    methods: tuple[Fact, ...]
    versions: tuple[Fact, ...]
