"""The store's state as `gigawatch db status` shows it to people and to scripts."""

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct
from sqlalchemy import Connection

from gigawatch import database, readings, schema
from gigawatch.readings import StoreJob, StoreRollup, StoreTable
from gigawatch.units import BYTES_PER_MIB

UNKNOWN = "–"


class Status(Struct, frozen=True, kw_only=True):
    """How the store is doing."""

    edition: str
    revision: str
    """Of the schema."""
    problems: list[str]
    """What needs somebody's care; empty where all is well."""
    rollups: list[StoreRollup]
    jobs: list[StoreJob]
    tables: list[StoreTable]


def read(connection: Connection) -> Status:
    """The state of a store that has this version's schema."""
    found = readings.store_status(connection)
    return Status(
        edition=str(database.capabilities(connection)),
        revision=schema.REVISION,
        problems=readings.store_problems(found),
        rollups=found.rollups,
        jobs=found.jobs,
        tables=found.tables,
    )


def text(status: Status) -> str:
    """For people: tables in plain text, times in UTC."""
    rollups = [
        (it.level, _moment(it.folded), _number(it.lag_s), _number(it.dirty_buckets), _moment(it.oldest_dirty))
        for it in status.rollups
    ]
    jobs = [
        (it.name, it.leader, _moment(it.started), "runs" if it.finished is None else _number(it.took_s, 1),
         f"failed: {it.error}" if it.error else it.progress or UNKNOWN)
        for it in status.jobs
    ]  # fmt: skip
    tables = [
        (it.table_name, _number(it.rows), _number(it.total_bytes / BYTES_PER_MIB, 1), _moment(it.oldest),
         _moment(it.newest), _number(it.chunks), _packed(it))
        for it in status.tables
    ]  # fmt: skip
    size_mib = sum(it.total_bytes for it in status.tables) / BYTES_PER_MIB
    return "\n".join(
        [
            f"{status.edition}, schema {status.revision}, {_number(size_mib, 1)} MiB. Times are UTC.",
            "",
            *_table(("level", "folded up to", "lag, s", "buckets waiting", "oldest of them"), rollups, numbers={2, 3}),
            "",
            *(_table(("job", "leader", "last run", "took, s", "result"), jobs, numbers={3}) if jobs
              else ["No job ran yet: `gigawatch serve` runs them."]),
            "",
            *_table(("table", "rows, about", "size, MiB", "oldest", "newest", "chunks", "of them compressed"),
                     tables, numbers={1, 2, 5}),
        ]
    )  # fmt: skip


def _moment(value: datetime | None) -> str:
    return UNKNOWN if value is None else f"{value:%Y-%m-%d %H:%M:%S}"


def _packed(table: StoreTable) -> str:
    """How many of a table's chunks are compressed, and to how much."""
    if table.uncompressed_bytes is None:
        return ""
    return f"{table.compressed_chunks:,}, to {table.compressed_bytes / table.uncompressed_bytes:.0%}"


def _number(value: float | None, decimals: int = 0) -> str:
    return UNKNOWN if value is None else f"{value:,.{decimals}f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: set[int]) -> list[str]:
    """Lines of a table; columns of numbers stand right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place in numbers else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (header, *rows)
    ]
