"""Named reads of the facility: like gigawatch.readings, for topologies and meters."""

from datetime import datetime
from typing import Literal

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, text

from gigawatch.topology.document import Feed, MeterRole, Site

MeterState = Literal["unplaced", "virtual", "planned", "ended", "silent", "reporting"]


class SiteTopology(Struct, frozen=True, kw_only=True):
    """The topology of a site that is in force."""

    site: str
    applied: datetime
    source: str
    """Name of the file."""
    sha256: str
    """Of the file."""
    document: Site


class MeterNow(Struct, frozen=True, kw_only=True):
    """A meter of a site's facility: report.meters."""

    site: str
    meter: str
    hall: str | None
    """None: of the whole site."""
    role: MeterRole | None
    """None: the topology does not name it, and it is in no figure."""
    placed: bool
    virtual: bool
    state: MeterState
    feed: Feed | None
    node: str | None
    feeds: list[str]
    racks: list[str]
    plus: list[str]
    minus: list[str]
    rated_kw: float | None
    breaker_a: float | None
    contract_kw: float | None
    fuel_kwh_per_l: float | None
    potable: bool | None
    backup: bool
    since: datetime | None
    until: datetime | None
    last_seen: datetime | None
    read_by: str | None
    """Node whose agent read it last."""
    simulated: bool


def topologies(connection: Connection, site: str | None = None) -> list[SiteTopology]:
    """Topologies in force, by site."""
    rows = connection.execute(
        text("""
        SELECT site, applied, source, sha256, document FROM report.topologies
        WHERE in_force AND (CAST(:site AS text) IS NULL OR site = :site) ORDER BY site"""),
        {"site": site},
    )
    return [SiteTopology(**{**row._mapping, "document": _site(row.document)}) for row in rows]


def meters(connection: Connection, site: str | None = None, limit: int = 1_000_000, offset: int = 0) -> list[MeterNow]:
    """Meters, those that no topology names too, by site and name."""
    rows = connection.execute(
        text(f"""
        SELECT {", ".join(MeterNow.__struct_fields__)} FROM report.meters
        WHERE CAST(:site AS text) IS NULL OR site = :site
        ORDER BY site, meter LIMIT :limit OFFSET :offset"""),
        {"site": site, "limit": limit, "offset": offset},
    )
    return [MeterNow(**row._mapping) for row in rows]


def _site(document: object) -> Site:
    # JSON's keys are texts, and years are numbers.
    return msgspec.convert(document, Site, str_keys=True)
