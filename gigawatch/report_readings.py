"""Named reads of what a report that people sign rests on: like gigawatch.readings, for gaps, events and versions."""

from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar

from msgspec import Struct
from sqlalchemy import Connection, text

T = TypeVar("T", bound=Struct)
Ratio = Literal["pue", "wue", "wue_potable", "wue_fresh", "erf", "ref", "cer"]


class Gap(Struct, frozen=True, kw_only=True):
    """Hours in a row that a ratio of a site lacks for the same reasons: report.facility_gaps()."""

    time: datetime
    """Start of the first."""
    hours: int
    site: str
    figure: Ratio
    category: int | None
    state: Literal["missing", "faulty", "absent"]
    meters: list[str]
    """That are why; none where a sum as a whole cannot be right, or nothing was there."""
    reasons: list[str]
    """What each of them lacks, else what is wrong with the sum."""

    @property
    def stop(self) -> datetime:
        """End of the last hour."""
        return self.time + timedelta(hours=self.hours)


class MeterEvent(Struct, frozen=True, kw_only=True):
    """What an agent said of a meter: report.events."""

    time: datetime
    hostname: str
    kind: str
    severity: Literal["info", "warning", "critical"]
    message: str


class TopologyInForce(Struct, frozen=True, kw_only=True):
    """The topology that says what a site's meters are: report.topologies."""

    applied: datetime
    source: str
    sha256: str


def gaps(
    connection: Connection, start: datetime, stop: datetime, site: str | None = None, category: int | None = None
) -> list[Gap]:
    """The hours of a period that the ratios of a site, or of all, lack, and why, in order of time."""
    return _rows(
        connection, Gap,
        "SELECT * FROM report.facility_gaps(:start, :stop, CAST(:site AS text), CAST(:category AS integer))"
        " ORDER BY time, site, figure, category",
        start=start, stop=stop, site=site, category=category,
    )  # fmt: skip


def meter_events(
    connection: Connection, site: str, start: datetime, stop: datetime, limit: int
) -> tuple[list[MeterEvent], int]:
    """What agents said of a site's meters, the first in order of time, and how much that is in all."""
    where = r"FROM report.events WHERE site = :site AND time >= :start AND time < :stop AND kind LIKE 'meter\_%'"
    found = _rows(
        connection, MeterEvent, rf"SELECT time, hostname, kind, severity, message {where} ORDER BY time LIMIT :limit",
        site=site, start=start, stop=stop, limit=limit,
    )  # fmt: skip
    count = connection.execute(text(f"SELECT count(*) {where}"), {"site": site, "start": start, "stop": stop})
    return found, count.scalar_one()


def topology(connection: Connection, site: str) -> TopologyInForce | None:
    """The site's topology in force."""
    found = _rows(
        connection, TopologyInForce,
        "SELECT applied, source, sha256 FROM report.topologies WHERE site = :site AND in_force", site=site,
    )  # fmt: skip
    return found[0] if found else None


def definition(connection: Connection) -> str:
    """SHA-256 of the files that define the views of schema report."""
    found = connection.execute(
        text("SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = 'report'")
    )
    return str(found.scalar_one()).rpartition(" ")[2]


def _rows(connection: Connection, kind: type[T], sql: str, **values: Any) -> list[T]:
    return [kind(**row._mapping) for row in connection.execute(text(sql), values)]
