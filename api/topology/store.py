"""Topologies in the store: what is declared comes into force whole or not at all, and nothing measured is ever deleted.

A meter, and a rack, that a site's topology no longer names stays with its data; it has no role, and no place, any more.
"""

from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, text

from api.meter_rollups import topology_changed
from api.topology import tables
from api.topology.files import Read
from api.topology.tables import Change, MeterRow, Tables
from gigawatch.findings import Finding, some
from gigawatch.topology.document import Site
from gigawatch.topology.plan import Plan, in_force


class SiteApplied(Struct, frozen=True, kw_only=True):
    """What a topology changes, or changed, of one site."""

    site: str
    changes: list[Change]
    notes: list[str]
    """What the agents know otherwise: nodes in racks that stand nowhere, meters that are not placed, …"""


class Applied(Struct, frozen=True, kw_only=True):
    """What a topology changes, or changed."""

    dry_run: bool
    """Whether it was tried only."""
    sites: list[SiteApplied]
    warnings: list[Finding]


def apply(connection: Connection, found: Read, *, source: str, dry_run: bool) -> Applied:
    """Bring a checked topology into force, in the caller's transaction. Sites that it does not name stay as they are.

    Args:
        connection: of the store's owner.
        found: the file.
        source: its name.
        dry_run: roll back in the end.
    """
    site_ids = _sites(connection, list(found.topology.sites))
    applied = []
    for name, site in found.topology.sites.items():
        site_id, is_new = site_ids[name]
        plan = in_force(name, site)
        before, after = tables.held(connection, site_id), tables.compiled(plan)
        changes = [Change(did="added", what="site", name=name)] if is_new else []
        changes += tables.changes(before, after)
        changes += _of_document(name, _declared(connection, site_id), site, changes)
        if changes and not dry_run:
            _write(connection, site_id, before, after)
            _keep(connection, site_id, site, source, found.sha256)
            topology_changed(connection, [site_id])
        removed = [it.name for it in changes if (it.did, it.what) == ("removed", "meter")]
        notes = _notes(connection, site_id, plan, removed)
        applied.append(SiteApplied(site=name, changes=changes, notes=notes))
    if dry_run:
        connection.rollback()
    return Applied(dry_run=dry_run, sites=applied, warnings=found.checked.findings)


def _sites(connection: Connection, names: list[str]) -> dict[str, tuple[int, bool]]:
    """Each site's number, and whether it is new. Other topologies of these sites now wait for this one to end."""
    new = connection.scalars(
        text("""
        INSERT INTO gigawatch.site (name) SELECT unnest(CAST(:names AS text[])) ORDER BY 1
        ON CONFLICT DO NOTHING RETURNING name"""),
        {"names": names},
    ).all()
    rows = connection.execute(
        text("SELECT name, site_id FROM gigawatch.site WHERE name = ANY (:names) ORDER BY name FOR NO KEY UPDATE"),
        {"names": names},
    )
    return {row.name: (row.site_id, row.name in new) for row in rows}


def _declared(connection: Connection, site_id: int) -> Site | None:
    """The topology that is in force, as it was declared."""
    document = connection.scalar(
        text("SELECT document FROM gigawatch.topology WHERE site_id = :site_id ORDER BY topology_id DESC LIMIT 1"),
        {"site_id": site_id},
    )
    return None if document is None else msgspec.convert(document, Site, str_keys=True)


def _of_document(name: str, before: Site | None, after: Site, changes: list[Change]) -> list[Change]:
    """What is in the document alone."""
    if before is None or before == after:
        return [] if before is not None or changes else [Change(did="added", what="document", name=name)]
    if before.eu_report != after.eu_report:
        return [Change(did="changed", what="eu_report", name=name)]
    return [] if changes else [Change(did="changed", what="document", name=name, details=["other words, same meaning"])]


def _write(connection: Connection, site_id: int, before: Tables, after: Tables) -> None:
    # Agents' batches make racks and meters too, in this order: locked one after the other, neither waits for the other.
    connection.execute(text("LOCK TABLE gigawatch.rack, gigawatch.meter IN SHARE ROW EXCLUSIVE MODE"))

    def run(sql: str, **values: Any) -> None:
        connection.execute(text(sql), {"site_id": site_id, **values})

    run(
        """
        INSERT INTO gigawatch.hall (site_id, name) SELECT :site_id, unnest(CAST(:names AS text[]))
        ON CONFLICT DO NOTHING""",
        names=sorted(after.halls),
    )
    _write_racks(run, before, after)
    _write_meters(run, before, after)
    _write_links(run, after)
    run(
        "DELETE FROM gigawatch.hall WHERE site_id = :site_id AND name = ANY (:names)",
        names=sorted(before.halls - after.halls),
    )
    run("DELETE FROM gigawatch.power_budget WHERE site_id = :site_id")
    run(
        """
        INSERT INTO gigawatch.power_budget (site_id, scope, name, budget_mw)
        SELECT :site_id, * FROM unnest(CAST(:scopes AS text[]), CAST(:names AS text[]), CAST(:budgets AS bigint[]))""",
        scopes=[scope for scope, _ in after.budgets_mw],
        names=[name for _, name in after.budgets_mw],
        budgets=list(after.budgets_mw.values()),
    )


def _write_racks(run: Any, before: Tables, after: Tables) -> None:
    placed = sorted((name, *place) for name, place in after.racks.items() if before.racks.get(name) != place)
    run(
        """
        INSERT INTO gigawatch.rack (site_id, name, hall_id, row)
        SELECT :site_id, it.name, hall_id, it.row
        FROM unnest(CAST(:names AS text[]), CAST(:halls AS text[]), CAST(:rows AS text[])) AS it (name, hall, row)
        JOIN gigawatch.hall ON hall.site_id = :site_id AND hall.name = it.hall
        ON CONFLICT (site_id, name) DO UPDATE SET hall_id = excluded.hall_id, row = excluded.row""",
        names=[name for name, _, _ in placed],
        halls=[hall for _, hall, _ in placed],
        rows=[row for _, _, row in placed],
    )
    run(
        "UPDATE gigawatch.rack SET hall_id = NULL, row = NULL WHERE site_id = :site_id AND name = ANY (:names)",
        names=sorted(before.racks.keys() - after.racks.keys()),
    )


def _write_meters(run: Any, before: Tables, after: Tables) -> None:
    columns = [it for it in MeterRow.__struct_fields__ if it != "hall"]
    rows = [
        {"name": name, **msgspec.structs.asdict(row)}
        for name, row in sorted(after.meters.items())
        if before.meters.get(name) != row
    ]
    run(
        f"""
        INSERT INTO gigawatch.meter (site_id, name, hall_id, {", ".join(columns)})
        SELECT :site_id, it.name, hall.hall_id, {", ".join(f"it.{column}" for column in columns)}
        FROM jsonb_array_elements(CAST(:rows AS jsonb)) AS row
        CROSS JOIN jsonb_populate_record(CAST(NULL AS gigawatch.meter), row) AS it
        LEFT JOIN gigawatch.hall ON hall.site_id = :site_id AND hall.name = row ->> 'hall'
        ON CONFLICT (site_id, name) DO UPDATE
        SET hall_id = excluded.hall_id, {", ".join(f"{column} = excluded.{column}" for column in columns)}""",
        rows=msgspec.json.encode(rows).decode(),
    )
    nothing = ", ".join(f"{it} = {'false' if it in {'virtual', 'backup'} else 'NULL'}" for it in columns)
    run(
        f"UPDATE gigawatch.meter SET hall_id = NULL, {nothing} WHERE site_id = :site_id AND name = ANY (:names)",
        names=sorted(before.meters.keys() - after.meters.keys()),
    )


def _write_links(run: Any, after: Tables) -> None:
    """What meters feed and are made of."""
    for table in ("meter_feed", "meter_rack", "meter_term"):
        run(
            f"""
            DELETE FROM gigawatch.{table} USING gigawatch.meter
            WHERE meter.meter_id = {table}.meter_id AND meter.site_id = :site_id"""
        )
    given = "unnest(CAST(:a AS text[]), CAST(:b AS text[])) AS it (a, b)"
    of_meter = "JOIN gigawatch.meter AS a ON a.site_id = :site_id AND a.name = it.a"
    run(
        f"""
        INSERT INTO gigawatch.meter_feed (meter_id, fed_id) SELECT a.meter_id, b.meter_id
        FROM {given} {of_meter} JOIN gigawatch.meter AS b ON b.site_id = :site_id AND b.name = it.b""",
        a=[a for a, _ in sorted(after.feeds)],
        b=[b for _, b in sorted(after.feeds)],
    )
    run(
        f"""
        INSERT INTO gigawatch.meter_rack (meter_id, rack_id) SELECT a.meter_id, b.rack_id
        FROM {given} {of_meter} JOIN gigawatch.rack AS b ON b.site_id = :site_id AND b.name = it.b""",
        a=[a for a, _ in sorted(after.meter_racks)],
        b=[b for _, b in sorted(after.meter_racks)],
    )
    terms = sorted(after.terms.items())
    run(
        f"""
        INSERT INTO gigawatch.meter_term (meter_id, term_id, sign) SELECT a.meter_id, b.meter_id, it.sign
        FROM unnest(CAST(:a AS text[]), CAST(:b AS text[]), CAST(:signs AS smallint[])) AS it (a, b, sign)
        {of_meter} JOIN gigawatch.meter AS b ON b.site_id = :site_id AND b.name = it.b""",
        a=[a for (a, _), _ in terms],
        b=[b for (_, b), _ in terms],
        signs=[sign for _, sign in terms],
    )


def _keep(connection: Connection, site_id: int, site: Site, source: str, sha256: str) -> None:
    connection.execute(
        text("""
        INSERT INTO gigawatch.topology (site_id, source, sha256, document)
        VALUES (:site_id, :source, :sha256, CAST(:document AS json))"""),
        {
            "site_id": site_id,
            "source": source,
            "sha256": sha256,
            "document": msgspec.json.encode(site).decode(),
        },
    )


def _notes(connection: Connection, site_id: int, plan: Plan, removed: list[str]) -> list[str]:
    """Where what the agents know of the site differs."""

    def names(sql: str, **values: Any) -> list[str]:
        return list(connection.scalars(text(sql), {"site_id": site_id, **values}))

    nodes = sorted({meter.node for meter in plan.meters.values() if meter.node is not None})
    racks = names(
        """
        SELECT DISTINCT rack.name FROM gigawatch.node JOIN gigawatch.rack USING (rack_id)
        WHERE node.site_id = :site_id AND rack.name <> ALL (CAST(:racks AS text[])) ORDER BY 1""",
        racks=list(plan.racks),
    )
    unheard = names(
        """
        SELECT it FROM unnest(CAST(:nodes AS text[])) AS it
        WHERE it NOT IN (SELECT hostname FROM gigawatch.node WHERE site_id = :site_id) ORDER BY 1""",
        nodes=nodes,
    )
    unplaced = names(
        """
        SELECT name FROM gigawatch.meter
        WHERE site_id = :site_id AND last_seen IS NOT NULL AND name <> ALL (CAST(:meters AS text[])) ORDER BY 1""",
        meters=[*plan.meters, *removed],
    )
    gone = names(
        """
        SELECT name FROM gigawatch.meter
        WHERE site_id = :site_id AND last_seen IS NOT NULL AND name = ANY (CAST(:removed AS text[])) ORDER BY 1""",
        removed=removed,
    )
    told = (
        (gone, "Removed meters are in no figure of the past either; to keep them there, name them with `until`"),
        (racks, "Racks in which agents run, and which stand in no hall"),
        (unheard, "Nodes that meters name, and of which no agent was heard"),
        (unplaced, "Meters that are read, and are not placed"),
    )
    return [f"{words}: {some(found)}." for found, words in told if found]
