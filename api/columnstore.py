"""Compresses what will hardly change any more, chunk by chunk, where the database has a columnstore.

We do it ourselves rather than by a policy of TimescaleDB, which goes by age alone: here a chunk waits until it is
folded into the level above it. So what is read and written each second stays as it was written, and only data that come
hours late meet compressed rows.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

import sqlalchemy
from sqlalchemy import Connection, Engine, text

from api.rollups import COMPRESS_LOCK
from gigawatch.database import capabilities, hypertables

LOCK_TIMEOUT_S = 60
"""Longer than the statements of pages, for which a chunk may have to wait."""
SEGMENTS = {
    "gpu_window": "node_id", "node_window": "node_id", "gpu_1m": "node_id", "node_1m": "node_id",
    "gpu_1h": "node_id", "node_1h": "node_id", "gpu_health": "gpu_id", "meter_window": "meter_id",
    "meter_1h": "meter_id",
}  # fmt: skip
"""Whose rows are compressed together, in order of time: it is by them that all rows are looked up."""
FOLDED_INTO = {
    "gpu_window": "1m", "node_window": "1m", "gpu_1m": "1h", "node_1m": "1h", "gpu_1h": "1d", "node_1h": "1d",
    "meter_window": "meter_1h", "meter_1h": "meter_1h",
}  # fmt: skip
"""The level that must have a chunk's rows before it is compressed; meters' hours are whole once they are folded."""


def compress(engine: Engine, after: timedelta, now: datetime, stopping: Callable[[], bool] = lambda: False) -> str:
    """Compress the chunks that ended so long ago; what was compressed, in words, or nothing.

    Raises:
        sqlalchemy.exc.DBAPIError: a table could not be compressed; the others were.
    """
    with engine.connect() as connection:
        if not capabilities(connection).columnstore:
            return ""
        present = hypertables(connection)
        marks = connection.execute(text("SELECT level, folded FROM gigawatch.rollup"))
        folded: dict[str, datetime] = {row.level: row.folded for row in marks}
    done: list[str] = []
    failed: list[sqlalchemy.exc.DBAPIError] = []
    for table, segment in SEGMENTS.items():
        level = FOLDED_INTO.get(table)
        if table not in present or (level is not None and level not in folded):
            continue
        before = now - after if level is None else min(now - after, folded[level])
        try:
            chunks = _compress_table(engine, table, segment, before, stopping)
        except sqlalchemy.exc.DBAPIError as error:
            failed.append(error)
        else:
            done += [f"compressed {chunks} chunks of {table}"] if chunks else []
    if failed:
        raise failed[0]
    return ", ".join(done)


def _compress_table(engine: Engine, table: str, segment: str, before: datetime, stopping: Callable[[], bool]) -> int:
    with engine.begin() as connection:
        _enable(connection, table, segment)
        chunks = connection.execute(
            text(
                "SELECT format('%I.%I', chunk_schema, chunk_name) AS name, is_compressed"
                " FROM timescaledb_information.chunks"
                " WHERE hypertable_schema = 'gigawatch' AND hypertable_name = :table AND range_end <= :before"
                " ORDER BY range_start"
            ),
            {"table": table, "before": before},
        ).all()
    compressed = 0
    for chunk in chunks:
        if stopping():
            break
        with engine.begin() as connection:
            # What came late lies beside what is compressed, and is joined to it.
            if chunk.is_compressed and not connection.scalar(text(f"SELECT EXISTS (SELECT FROM ONLY {chunk.name})")):
                continue
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": COMPRESS_LOCK})
            connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'"))
            connection.execute(text("CALL convert_to_columnstore(CAST(:chunk AS regclass))"), {"chunk": chunk.name})
            compressed += 1
    return compressed


def _enable(connection: Connection, table: str, segment: str) -> None:
    """Say how a table is compressed, if that has not been said yet: it locks the table, if only for a moment."""
    present = connection.scalar(
        text(
            "SELECT segmentby FROM timescaledb_information.hypertable_columnstore_settings"
            " WHERE hypertable = CAST(:table AS regclass)"
        ),
        {"table": f"gigawatch.{table}"},
    )
    if present != segment:
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'"))
        connection.execute(text(enabling(table, segment)))


def enabling(table: str, segment: str) -> str:
    """The statement that says how a table is compressed."""
    return (
        f"ALTER TABLE gigawatch.{table} SET (timescaledb.enable_columnstore,"
        f" timescaledb.segmentby = '{segment}', timescaledb.orderby = 'time')"
    )
