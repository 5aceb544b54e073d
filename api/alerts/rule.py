"""A rule as it is evaluated."""

from typing import Literal

from msgspec import Struct

from gigawatch.alerts.notification import Severity

By = Literal["site", "rack", "gpu_model", "deployment", "meter"]
"""Columns that a threshold may depend on."""
SPECIAL = ("value", "severity", "summary", "racks", "simulated")
"""Columns of a rule's rows that are neither labels nor details."""


class Override(Struct, frozen=True, kw_only=True):
    """Where a threshold is another."""

    where: dict[By, str]
    """Columns and the values that they must have, all of them."""
    value: float


class Threshold(Struct, frozen=True, kw_only=True):
    """A number that a rule compares with: `:name` in its SQL.

    In the SQL it becomes a CASE over the columns of its overrides, which must be in scope and unambiguous where it
    stands; the override with the most conditions wins, of equals the last.
    """

    value: float
    unit: str
    about: str
    overrides: tuple[Override, ...] = ()


class Rule(Struct, frozen=True, kw_only=True):
    """A rule in force.

    Its SQL is one SELECT over schema `report`. `:now` is the time of the evaluation, and each threshold `:its_name`. It
    gives one row for each thing that is wrong: columns `labels`, which say which thing it is; `value`, and NULL where
    there are no data to tell, upon which an alert stays what it is; if it likes, `severity`, `summary` (in
    place of the rule's), `racks` (text[]: racks of label `site` that the alert covers) and `simulated`. All other
    columns are details, which explain it. A row with the site alone among its labels sums up: its alert explains the
    rule's others there.
    """

    name: str
    origin: Literal["shipped", "own"]
    enabled: bool
    about: str
    """In a sentence, for people."""
    summary: str
    """Of an alert: str.format() with the row's columns, as `{hostname}: {value:.0f} °C`."""
    sql: str
    labels: tuple[str, ...]
    severity: Severity
    unit: str | None
    for_s: int
    keep_firing_for_s: int
    interval_s: int
    group_by: tuple[str, ...]
    """Labels by which its alerts are told together, where the route says nothing else."""
    events: tuple[str, ...] = ()
    """Kinds of events upon which it is evaluated at once."""
    inhibits: tuple[str, ...] = ()
    """Rules whose alerts it explains: those of the same labels `equal`, and where it covers racks, of these."""
    equal: tuple[str, ...] = ("site",)
    thresholds: dict[str, Threshold] = {}
    runbook: str | None = None
    """Address of what to do."""
