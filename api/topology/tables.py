"""A topology in the store's tables: what they should hold, what they hold, and how the two differ."""

from collections.abc import Iterator
from datetime import datetime
from typing import Literal

import msgspec
from msgspec import Struct, field
from sqlalchemy import Connection, text

from gigawatch.topology.document import DIESEL_KWH_PER_L
from gigawatch.topology.flow import Flow
from gigawatch.topology.plan import Plan
from gigawatch.units import JOULES_PER_KWH, MILLIAMPERES_PER_AMPERE, MILLIWATTS_PER_KILOWATT

AS_WRITTEN = {
    "rated_mw": ("rated_kw", MILLIWATTS_PER_KILOWATT),
    "contract_mw": ("contract_kw", MILLIWATTS_PER_KILOWATT),
    "budget_mw": ("budget_kw", MILLIWATTS_PER_KILOWATT),
    "breaker_ma": ("breaker_a", MILLIAMPERES_PER_AMPERE),
    "fuel_j_per_l": ("fuel_kwh_per_l", JOULES_PER_KWH),
}
"""Key in the file and what of a column is one of its unit, where they differ."""


class MeterRow(Struct, frozen=True, kw_only=True):
    """A row of gigawatch.meter, as far as a topology says it; its columns by their names."""

    role: str
    virtual: bool
    hall: str | None
    node: str | None
    feed: str | None
    rated_mw: int | None
    breaker_ma: int | None
    contract_mw: int | None
    fuel_j_per_l: int | None
    potable: bool | None
    fresh: bool | None
    backup: bool
    since: datetime | None
    until: datetime | None


class Tables(Struct, kw_only=True):
    """What of the tables is of one site."""

    halls: set[str] = field(default_factory=set)
    racks: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    """By name: hall and row."""
    meters: dict[str, MeterRow] = field(default_factory=dict)
    feeds: set[tuple[str, str]] = field(default_factory=set)
    meter_racks: set[tuple[str, str]] = field(default_factory=set)
    terms: dict[tuple[str, str], int] = field(default_factory=dict)
    budgets_mw: dict[tuple[str, str], int] = field(default_factory=dict)


class Change(Struct, frozen=True, kw_only=True):
    """What a topology changes."""

    did: Literal["added", "changed", "removed"]
    what: Literal["site", "hall", "rack", "meter", "budget", "eu_report", "document"]
    name: str
    details: list[str] = []
    """Of what is changed: what was, and what is."""


def compiled(plan: Plan) -> Tables:
    """What the tables should hold of a site whose topology has no errors."""
    handed_down = Flow(plan).feeds
    tables = Tables(
        halls=set(plan.halls),
        racks={name: (rack.hall, rack.row) for name, rack in plan.racks.items()},
        budgets_mw={it: round(budget * MILLIWATTS_PER_KILOWATT) for it, budget in plan.budgets_kw.items()},
    )
    for name, meter in plan.meters.items():
        it = meter.declared
        of_litre = it.fuel_kwh_per_l or DIESEL_KWH_PER_L
        tables.meters[name] = MeterRow(
            role=it.role,
            virtual=meter.virtual,
            hall=meter.hall,
            node=meter.node,
            feed=handed_down[name],
            rated_mw=_whole(it.rated_kw, MILLIWATTS_PER_KILOWATT),
            breaker_ma=_whole(it.breaker_a, MILLIAMPERES_PER_AMPERE),
            contract_mw=_whole(it.contract_kw, MILLIWATTS_PER_KILOWATT),
            fuel_j_per_l=round(of_litre * JOULES_PER_KWH) if it.role == "fuel" else None,
            potable=it.potable,
            fresh=it.fresh,
            backup=it.backup,
            since=it.since,
            until=it.until,
        )
        tables.feeds |= {(name, fed) for fed in meter.feeds}
        tables.meter_racks |= {(name, rack) for rack in meter.racks}
        tables.terms |= {(name, term): sign for term, sign in meter.terms.items()}
    return tables


def held(connection: Connection, site_id: int) -> Tables:
    """What the tables hold of a site now; meters without a role are in no topology."""

    def rows(sql: str) -> list[tuple[object, ...]]:
        return [tuple(row) for row in connection.execute(text(sql), {"site_id": site_id})]

    of_meters = "JOIN gigawatch.meter AS a USING (meter_id) {} WHERE a.site_id = :site_id"
    fed = of_meters.format("JOIN gigawatch.meter AS b ON b.meter_id = fed_id")
    racks = of_meters.format("JOIN gigawatch.rack AS b USING (rack_id)")
    terms = of_meters.format("JOIN gigawatch.meter AS b ON b.meter_id = term_id")
    columns = ", ".join("hall.name AS hall" if it == "hall" else f"meter.{it}" for it in MeterRow.__struct_fields__)
    meters = connection.execute(
        text(f"""
        SELECT meter.name AS of_name, {columns} FROM gigawatch.meter LEFT JOIN gigawatch.hall USING (hall_id)
        WHERE meter.site_id = :site_id AND meter.role IS NOT NULL"""),
        {"site_id": site_id},
    )
    return msgspec.convert(
        {
            "halls": [name for (name,) in rows("SELECT name FROM gigawatch.hall WHERE site_id = :site_id")],
            "racks": {
                name: (hall, row)
                for name, hall, row in rows("""
                    SELECT rack.name, hall.name, row FROM gigawatch.rack JOIN gigawatch.hall USING (hall_id)
                    WHERE rack.site_id = :site_id""")
            },
            "meters": {row.of_name: {it: row._mapping[it] for it in MeterRow.__struct_fields__} for row in meters},
            "feeds": rows(f"SELECT a.name, b.name FROM gigawatch.meter_feed {fed}"),
            "meter_racks": rows(f"SELECT a.name, b.name FROM gigawatch.meter_rack {racks}"),
            "terms": {
                (name, term): sign
                for name, term, sign in rows(f"SELECT a.name, b.name, sign FROM gigawatch.meter_term {terms}")
            },
            "budgets_mw": {
                (scope, name): budget_mw
                for scope, name, budget_mw in rows(
                    "SELECT scope, name, budget_mw FROM gigawatch.power_budget WHERE site_id = :site_id"
                )
            },
        },
        Tables,
    )


def changes(before: Tables, after: Tables) -> Iterator[Change]:
    """What must be done to one to have the other."""
    for name in sorted(after.halls - before.halls):
        yield Change(did="added", what="hall", name=name)
    for name in sorted(before.halls - after.halls):
        yield Change(did="removed", what="hall", name=name)
    yield from _compared("rack", _racks(before), _racks(after))
    yield from _compared("meter", _meters(before), _meters(after))
    yield from _compared("budget", _budgets(before), _budgets(after))


def _racks(tables: Tables) -> dict[str, dict[str, str]]:
    return {name: {"hall": hall, "row": row or ""} for name, (hall, row) in tables.racks.items()}


def _meters(tables: Tables) -> dict[str, dict[str, str]]:
    """Each meter's columns, and what it feeds and is made of."""
    of: dict[str, dict[str, list[str]]] = {name: {"feeds": [], "racks": [], "terms": []} for name in tables.meters}
    for name, fed in tables.feeds:
        of[name]["feeds"].append(fed)
    for name, rack in tables.meter_racks:
        of[name]["racks"].append(rack)
    for (name, term), sign in tables.terms.items():
        of[name]["terms"].append(f"{'-' if sign < 0 else '+'}{term}")
    return {
        name: {
            **dict(_shown(it, getattr(row, it)) for it in MeterRow.__struct_fields__),
            **{key: ", ".join(sorted(names)) for key, names in of[name].items()},
        }
        for name, row in tables.meters.items()
    }


def _budgets(tables: Tables) -> dict[str, dict[str, str]]:
    return {f"{scope} {name}": dict([_shown("budget_mw", it)]) for (scope, name), it in tables.budgets_mw.items()}


def _shown(column: str, value: object) -> tuple[str, str]:
    """A column as people write it, with its key in the file."""
    key, unit = AS_WRITTEN.get(column, (column, 1))
    if isinstance(value, bool) or not isinstance(value, int):
        return key, "" if value is None else str(value)
    return key, f"{value / unit:.12g}"


def _compared(
    what: Literal["rack", "meter", "budget"], before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]
) -> Iterator[Change]:
    for name, values in after.items():
        if name not in before:
            yield Change(did="added", what=what, name=name)
        elif before[name] != values:
            was = before[name]
            details = [f"{key}: {_short(was[key])} → {_short(it)}" for key, it in values.items() if was[key] != it]
            yield Change(did="changed", what=what, name=name, details=details)
    for name in before:
        if name not in after:
            yield Change(did="removed", what=what, name=name)


def _short(value: str) -> str:
    return (value if len(value) <= 60 else f"{value[:60]}…") or "nothing"


def _whole(value: float | None, times: int) -> int | None:
    return None if value is None else round(value * times)
