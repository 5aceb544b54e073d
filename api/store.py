"""Stores parcels: exactly once, many of them in one transaction, one binary COPY per table."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import psycopg
from msgspec import Struct
from numpy.typing import NDArray
from psycopg import sql
from psycopg.types.json import Jsonb
from sqlalchemy import Engine
from sqlalchemy.dialects import postgresql

from api import copying, deployments, meters
from api.copying import NodeGrid
from api.decode import Parcel, refuse
from api.retention import LONGEST
from api.rollup_sql import THROTTLED
from api.rollups import CLOSE_LOCK
from api.rows import DTYPES, GpuRows, NodeRows, Rows, gpu_rows, node_rows
from gigawatch import schema
from gigawatch.records import Inventory
from gigawatch.units import MILLISECONDS_PER_MINUTE, MILLISECONDS_PER_SECOND
from gigawatch.wire import Receipt, Refusal

log = logging.getLogger(__name__)
HEALTH_COLUMNS = (
    "ecc_volatile_corrected", "ecc_volatile_uncorrected", "ecc_aggregate_corrected", "ecc_aggregate_uncorrected",
    "rows_remapped_corrected", "rows_remapped_uncorrected", "row_remap_pending", "row_remap_failed",
    "pages_retired", "page_retirement_pending", "pcie_replays", "performance_state",
)  # fmt: skip
GPU_COLUMNS = (
    "uuid", "index", "model", "serial", "pci_bus_id", "vbios_version", "mem_total_mib", "power_limit_mw",
    "power_limit_default_mw", "power_limit_min_mw", "power_limit_max_mw", "temp_slowdown_c", "temp_shutdown_c",
    "energy_counter", "power_scope", "mig_enabled", "mig_instances",
)  # fmt: skip
MOST_SLOTS = 1_024
"""GPUs that a node may ever have had."""
MOST_TRIES = 3
MOST_KINDS = 100
"""Of events that are named in one notification to the evaluation of alerts: it may have 8,000 bytes."""
_BY_KEY = "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off"
"""All that we ask for we know by its key. For a hundred keys the planner would rather read whole tables of 75,000."""
SHORT_MS = 10_000


class SequenceGap(Exception):
    """The batch's number is not the one that its spool's cursor waits for."""

    def __init__(self, expected: int) -> None:
        super().__init__(f"the server waits for batch {expected} of this spool")
        self.expected = expected


class ForeignSpool(Exception):
    """The spool is another node's."""


Outcome = Receipt | SequenceGap | ForeignSpool


class _Before:
    """A parcel as it was before a transaction that may be undone."""

    def __init__(self, parcel: Parcel) -> None:
        self._parcel = parcel
        self._refused = list(parcel.refused)
        self._meters = list(parcel.meter_places), list(parcel.meter_windows)

    def restore(self) -> None:
        """Make it so again."""
        self._parcel.refused = list(self._refused)
        self._parcel.meter_places, self._parcel.meter_windows = list(self._meters[0]), list(self._meters[1])


class _Conflict(Exception):
    """Rows are there already: parcels must be stored one by one."""


class _Node(Struct):
    """What we know of a node, so as not to ask for it with each batch."""

    node_id: int
    slots: dict[str, int]
    """Of its GPUs, by UUID."""


class Store:
    """Writes parcels. Used by one thread.

    Args:
        engine: of the store's owner.
        keep: how old a window may be to be taken: as long as windows are kept.
        keep_hours: the same of a meter's window: as long as hours are kept.
    """

    def __init__(self, engine: Engine, keep: timedelta, keep_hours: timedelta = LONGEST) -> None:
        self._engine = engine
        self._keep = keep
        self._keep_hours = keep_hours
        self._nodes: dict[str, _Node] = {}
        self._deployments = deployments.Deployments()
        self._meters = meters.Meters()
        self._connection: psycopg.Connection[Any] | None = None

    def store(self, parcels: Sequence[Parcel]) -> list[Outcome]:
        """Store the parcels and commit; the outcome of each.

        Where rows of one are there already, each is stored on its own, so that it harms no other.

        Raises:
            psycopg.OperationalError, sqlalchemy.exc.OperationalError: the database is out of reach; nothing
                was stored as far as we know.
        """
        kept = self._kept()
        for parcel in parcels:
            deployments.check(parcel, kept.windows)
            meters.check(parcel, kept.hours)
        before = [_Before(parcel) for parcel in parcels]
        try:
            return self._transact(parcels, careful=False)
        except (_Conflict, psycopg.DataError, psycopg.IntegrityError) as error:
            log.info("storing %d batches one by one: %s", len(parcels), error)
        for it in before:
            it.restore()
        return [self._store_alone(parcel) for parcel in parcels]

    def _kept(self) -> meters.Kept:
        now = datetime.now(UTC)
        return meters.Kept(now - self._keep, now - self._keep_hours)

    def _store_alone(self, parcel: Parcel) -> Outcome:
        before = _Before(parcel)
        for _ in range(MOST_TRIES - 1):
            try:
                return self._transact([parcel], careful=True)[0]
            except psycopg.errors.UniqueViolation:
                # Another process stored a row of this node between our look and our write.
                before.restore()
        return self._transact([parcel], careful=True)[0]

    def _transact(self, parcels: Sequence[Parcel], *, careful: bool) -> list[Outcome]:
        connection = self._connect()
        transaction = _Transaction(connection, self._nodes, self._deployments, self._meters, self._kept(), careful)
        try:
            outcomes = transaction.run(parcels)
            connection.commit()
        except BaseException:
            # What was learnt in a transaction that is undone may not exist.
            for machine_id in transaction.learnt:
                self._nodes.pop(machine_id, None)
            self._deployments.forget()
            self._meters.forget()
            self.close()
            raise
        return outcomes

    def _connect(self) -> "psycopg.Connection[Any]":
        """Our own connection, made anew after whatever went wrong with the last."""
        if self._connection is None:
            pooled = self._engine.raw_connection()
            connection = pooled.driver_connection
            assert isinstance(connection, psycopg.Connection)
            pooled.detach()
            connection.execute(_BY_KEY)
            connection.commit()
            self._connection = connection
        return self._connection

    def close(self) -> None:
        """Close the connection; the next transaction makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class _Transaction:
    """One transaction's work."""

    def __init__(
        self,
        connection: "psycopg.Connection[Any]",
        nodes: dict[str, _Node],
        served: deployments.Deployments,
        metered: meters.Meters,
        kept: meters.Kept,
        careful: bool,
    ) -> None:
        self._connection = connection
        self._nodes = nodes
        self._deployments = served
        self._meters = metered
        self._kept = kept
        self._careful = careful
        self.learnt: set[str] = set()
        """Machines whose entry in nodes is of this transaction."""

    def run(self, parcels: Sequence[Parcel]) -> list[Outcome]:
        self._identify(parcels)
        outcomes: dict[int, Outcome] = {}
        next_seqs = self._lock_cursors(parcels)
        taken = []
        for place in sorted(range(len(parcels)), key=lambda place: parcels[place].batch.seq or 0):
            outcome = self._admit(parcels[place], next_seqs)
            if outcome is None:
                taken.append(place)
            else:
                outcomes[place] = outcome
        # In the order in which they came, so that what came merged is written in one piece.
        taken.sort()
        for place, receipt in zip(taken, self._write([parcels[place] for place in taken]), strict=True):
            seq = parcels[place].batch.seq
            outcomes[place] = msgspec.structs.replace(receipt, next_seq=None if seq is None else seq + 1)
        self._move_cursors(next_seqs)
        return [outcomes[place] for place in range(len(parcels))]

    def _lock_cursors(self, parcels: Sequence[Parcel]) -> dict[str, list[int]]:
        """For each spool, its node and the number that comes next, locked until the commit."""
        firsts: dict[str, tuple[int, int]] = {}
        for parcel in parcels:
            batch = parcel.batch
            if batch.spool_id is not None and batch.seq is not None:
                oldest = batch.seq if batch.oldest_seq is None else batch.oldest_seq
                known = firsts.get(batch.spool_id)
                node_id = self._nodes[batch.machine_id].node_id
                firsts[batch.spool_id] = (node_id, oldest if known is None else min(oldest, known[1]))
        if not firsts:
            return {}
        spool_ids = sorted(firsts)
        found = self._cursors(spool_ids)
        new = [spool_id for spool_id in spool_ids if spool_id not in found]
        if new:
            self._connection.execute(
                "INSERT INTO gigawatch.ingest_cursor (spool_id, node_id, next_seq)"
                " SELECT * FROM unnest(%s::text[], %s::integer[], %s::bigint[]) ON CONFLICT DO NOTHING",
                [new, [firsts[it][0] for it in new], [firsts[it][1] for it in new]],
            )
            found |= self._cursors(new)
        return found

    def _cursors(self, spool_ids: Sequence[str]) -> dict[str, list[int]]:
        rows = self._connection.execute(
            "SELECT spool_id, node_id, next_seq FROM gigawatch.ingest_cursor"
            " WHERE spool_id = ANY(%s) ORDER BY spool_id FOR NO KEY UPDATE",
            [spool_ids],
        )
        return {spool_id: [node_id, next_seq] for spool_id, node_id, next_seq in rows}

    def _admit(self, parcel: Parcel, next_seqs: dict[str, list[int]]) -> Outcome | None:
        """None if the parcel's turn has come, and the cursor moved past it; else what to answer."""
        batch = parcel.batch
        if batch.spool_id is None or batch.seq is None:
            return None
        cursor = next_seqs[batch.spool_id]
        if cursor[0] != self._nodes[batch.machine_id].node_id:
            return ForeignSpool(f"spool_id {batch.spool_id} belongs to another machine_id")
        if batch.seq < cursor[1]:
            return Receipt(duplicate=True, next_seq=cursor[1], server_time=datetime.now(UTC))
        # What a spool's bound dropped will never come.
        expected = cursor[1] if batch.oldest_seq is None else max(cursor[1], batch.oldest_seq)
        if batch.seq != expected:
            return SequenceGap(expected)
        cursor[1] = batch.seq + 1
        return None

    def _move_cursors(self, next_seqs: dict[str, list[int]]) -> None:
        if next_seqs:
            self._connection.execute(
                "UPDATE gigawatch.ingest_cursor SET next_seq = new.next_seq, updated = now()"
                " FROM unnest(%s::text[], %s::bigint[]) AS new (spool_id, next_seq)"
                " WHERE ingest_cursor.spool_id = new.spool_id AND ingest_cursor.next_seq <> new.next_seq",
                [list(next_seqs), _array(cursor[1] for cursor in next_seqs.values())],
            )

    def _identify(self, parcels: Sequence[Parcel]) -> None:
        """See to it that the parcels' nodes have rows, and that we know their numbers and their GPUs' slots."""
        told = {it.batch.machine_id: it for it in parcels if it.inventory is not None}
        unknown = sorted({it.batch.machine_id for it in parcels} - self._nodes.keys() - told.keys())
        if unknown:
            found = self._connection.execute(
                "SELECT machine_id, node_id FROM gigawatch.node WHERE machine_id = ANY(%s) ORDER BY machine_id",
                [unknown],
            ).fetchall()
            self._learn(dict(found))
            told |= {
                it.batch.machine_id: it for it in parcels if it.batch.machine_id in set(unknown) - dict(found).keys()
            }
        if told:
            # In the same order in every process, so that none waits for another that waits for it.
            self._take_inventories([told[machine_id] for machine_id in sorted(told)])

    def _learn(self, node_ids: dict[str, int]) -> None:
        """Read the slots of nodes, by machine."""
        machines = {node_id: machine_id for machine_id, node_id in node_ids.items()}
        for machine_id, node_id in node_ids.items():
            self._nodes[machine_id] = _Node(node_id, {})
        rows = self._connection.execute(
            "SELECT gpu_slot.node_id, uuid, slot FROM gigawatch.gpu_slot JOIN gigawatch.gpu USING (gpu_id)"
            " WHERE gpu_slot.node_id = ANY(%s)",
            [list(machines)],
        )
        for node_id, uuid, slot in rows:
            self._nodes[machines[node_id]].slots[uuid] = slot
        self.learnt |= node_ids.keys()

    def _take_inventories(self, parcels: Sequence[Parcel]) -> None:
        """Note what the parcels' nodes are; what says nothing of its node gets a row by its machine_id alone."""
        by_machine = {it.batch.machine_id: it.inventory or Inventory(hostname=it.batch.machine_id) for it in parcels}
        self._take_places({(it.site, it.rack) for it in by_machine.values()})
        nodes = [
            {
                "machine_id": parcel.batch.machine_id,
                "simulated": parcel.batch.simulated,
                **msgspec.to_builtins(msgspec.structs.replace(by_machine[parcel.batch.machine_id], gpus=())),
            }
            for parcel in parcels
        ]
        rows = self._connection.execute(_UPSERT_NODES, [Jsonb(nodes)])
        node_ids = dict(rows.fetchall())
        offsets_ms = {node_ids[it.batch.machine_id]: it.clock_offset_ms for it in parcels}
        self._connection.execute(_INTRODUCE, [list(offsets_ms), list(offsets_ms.values())])
        gpus = [
            {"node_id": node_ids[machine_id], **gpu}
            for machine_id, inventory in by_machine.items()
            for gpu in msgspec.to_builtins(inventory.gpus)
        ]
        self._take_gpus(node_ids, gpus, whole=True)

    def _take_places(self, places: set[tuple[str, str | None]]) -> None:
        """See to it that these sites and racks have rows."""
        run = self._connection.execute
        sites = sorted({site for site, _ in places})
        racks = sorted((site, rack) for site, rack in places if rack is not None)
        run("INSERT INTO gigawatch.site (name) SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING", [sites])
        run(
            "INSERT INTO gigawatch.rack (site_id, name)"
            " SELECT site_id, new.rack FROM unnest(%s::text[], %s::text[]) AS new (site, rack)"
            " JOIN gigawatch.site ON site.name = new.site ORDER BY site_id, new.rack ON CONFLICT DO NOTHING",
            [[site for site, _ in racks], [rack for _, rack in racks]],
        )

    def _take_gpus(self, node_ids: dict[str, int], gpus: Sequence[dict[str, Any]], *, whole: bool) -> None:
        """Note what GPUs nodes have, each with a slot.

        Args:
            node_ids: by machine, in order of the machines.
            gpus: what is known of each, its uuid and its node_id at least.
            whole: whether these are all; if not, what is known of others and of these stays as it is.
        """
        run = self._connection.execute
        ids, uuids = list(node_ids.values()), [gpu["uuid"] for gpu in gpus]
        # Slots are given out by one at a time.
        run("SELECT 1 FROM gigawatch.node WHERE node_id = ANY(%s) ORDER BY machine_id FOR NO KEY UPDATE", [ids])
        before = run(
            "SELECT DISTINCT node_id FROM gigawatch.gpu WHERE uuid = ANY(%s) AND node_id <> ALL(%s)", [uuids, ids]
        )
        changed = [*ids, *(row[0] for row in before)]
        run(_upsert_gpus(replace=whole), [Jsonb(gpus)])
        if whole:
            run(
                "UPDATE gigawatch.gpu SET removed = now()"
                " WHERE node_id = ANY(%s) AND removed IS NULL AND uuid <> ALL(%s)",
                [ids, uuids],
            )
        run(
            "INSERT INTO gigawatch.gpu_slot (node_id, slot, gpu_id)"
            " SELECT new.node_id, coalesce(taken.slot, 0)"
            "     + row_number() OVER (PARTITION BY new.node_id ORDER BY gpu.index NULLS LAST, gpu.gpu_id), gpu.gpu_id"
            " FROM unnest(%(node_ids)s::integer[], %(uuids)s::text[]) AS new (node_id, uuid)"
            " JOIN gigawatch.gpu ON gpu.uuid = new.uuid"
            " LEFT JOIN (SELECT node_id, max(slot) AS slot FROM gigawatch.gpu_slot WHERE node_id = ANY(%(ids)s)"
            "     GROUP BY node_id) AS taken ON taken.node_id = new.node_id"
            " LEFT JOIN gigawatch.gpu_slot AS known ON known.node_id = new.node_id AND known.gpu_id = gpu.gpu_id"
            " WHERE known.gpu_id IS NULL",
            {"node_ids": [gpu["node_id"] for gpu in gpus], "uuids": uuids, "ids": ids},
        )
        run(
            "UPDATE gigawatch.node_now SET gpus_expected = coalesce(its.gpus, 0), gpu_model = its.gpu_model,"
            " temp_slowdown_c = its.temp_slowdown_c"
            " FROM unnest(%(changed)s::integer[]) AS changed (node_id) LEFT JOIN ("
            "     SELECT node_id, count(*) AS gpus, min(temp_slowdown_c) AS temp_slowdown_c,"
            "         CASE WHEN min(model) = max(model) THEN min(model) END AS gpu_model"
            "     FROM gigawatch.gpu WHERE removed IS NULL AND node_id = ANY(%(changed)s) GROUP BY node_id"
            " ) AS its USING (node_id) WHERE node_now.node_id = changed.node_id",
            {"changed": changed},
        )
        self._learn(node_ids)

    def _take_new_gpus(self, by_machine: dict[str, set[str]]) -> None:
        """Note GPUs that no inventory told of, as many as a node may have."""
        node_ids = {machine_id: self._nodes[machine_id].node_id for machine_id in sorted(by_machine)}
        gpus = [
            {"node_id": node_id, "uuid": uuid}
            for machine_id, node_id in node_ids.items()
            for uuid in sorted(by_machine[machine_id])[: MOST_SLOTS - len(self._nodes[machine_id].slots)]
        ]
        self._take_gpus(node_ids, gpus, whole=False)

    def _write(self, parcels: Sequence[Parcel]) -> list[Receipt]:
        """Write the parcels' rows; a receipt for each."""
        gpus = gpu_rows(parcels, self._kept.windows)
        nodes = node_rows(parcels, self._kept.windows)
        served = any(parcel.serving_windows or parcel.meter_windows for parcel in parcels)
        closed_ms = self._closed_ms() if gpus.rows.count or nodes.rows.count or served else 0
        node_ids = np.array([self._nodes[parcel.batch.machine_id].node_id for parcel in parcels], np.int32)
        newest = _Newest(parcels, node_ids, nodes.rows)
        stored = self._write_gpu_windows(parcels, gpus, node_ids, closed_ms, newest)
        stored_nodes = self._write_node_windows(parcels, nodes, node_ids, closed_ms)
        stored_serving = self._write_serving_windows(parcels, node_ids, closed_ms)
        closed = meters.closed_until(self._connection) if any(it.meter_windows for it in parcels) else None
        stored_meters = self._meters.write(self._connection, parcels, node_ids.tolist(), self._kept, closed)
        self._write_events(parcels)
        self._write_health(parcels)
        now = datetime.now(UTC)
        return [
            Receipt(
                gpu_windows=gpu_windows,
                node_windows=node_windows,
                serving_windows=serving_windows,
                meter_windows=meter_windows,
                events=len(parcel.events),
                health=len(parcel.health),
                refused=parcel.refused,
                server_time=now,
            )
            for parcel, gpu_windows, node_windows, serving_windows, meter_windows in zip(
                parcels, stored, stored_nodes, stored_serving, stored_meters, strict=True
            )
        ]

    def _closed_ms(self) -> int:
        """Up to when minutes are closed; none is closed before our commit."""
        self._connection.execute("SELECT pg_advisory_xact_lock_shared(%s)", [CLOSE_LOCK])
        row = self._connection.execute(
            "SELECT extract(epoch FROM closed)::double precision FROM gigawatch.rollup WHERE level = '1m'"
        ).fetchone()
        return 0 if row is None else round(row[0] * MILLISECONDS_PER_SECOND)

    def _mark_late(
        self, level: str, width_ms: int, node_id: NDArray[np.int32], start_ms: NDArray[np.int64], closed_ms: int
    ) -> None:
        """Have buckets folded again that these windows came too late for."""
        late = start_ms < closed_ms
        if late.any():
            buckets = start_ms[late] // width_ms * width_ms
            pairs = np.unique(np.stack([buckets, node_id[late]], axis=1), axis=0)
            self._connection.execute(
                "INSERT INTO gigawatch.rollup_dirty (level, time, node_id)"
                " SELECT %s, to_timestamp(start_ms / 1000.0), node_id FROM unnest(%s::bigint[], %s::integer[])"
                " AS late (start_ms, node_id)",
                [level, pairs[:, 0].tolist(), pairs[:, 1].tolist()],
            )

    def _write_gpu_windows(
        self,
        parcels: Sequence[Parcel],
        gpus: GpuRows,
        node_ids: NDArray[np.int32],
        closed_ms: int,
        newest: "_Newest",
    ) -> list[int]:
        """Write them, and each node as it is now; how many were stored of each parcel."""
        slot = self._slots(parcels, gpus)[gpus.gpu]
        windows = _SlotWindows(self._with_assignments(gpus), node_ids[gpus.rows.parcel], slot)
        if not slot.all():
            places, counts = np.unique(windows.rows.parcel[slot == 0], return_counts=True)
            for place, count in zip(places.tolist(), counts.tolist(), strict=True):
                refuse(parcels[place].refused, _too_many(count))
            windows = windows.chosen(slot > 0)
        windows, repeated = windows.without_repeats()
        if repeated and not self._careful:
            raise _Conflict("a window is there twice")
        self._mark_late("1m", MILLISECONDS_PER_MINUTE, windows.node_id, windows.rows.columns["start"], closed_ms)
        there: list[tuple[Any, ...]] = []
        if self._careful:
            windows, present, there = self._without_present(windows)
            _refuse_repeated(parcels[0], "gpu_windows", repeated + present)
        stored: list[int] = np.bincount(windows.rows.parcel, minlength=len(parcels)).tolist()
        windows = windows.joined(there)

        def pieces() -> Iterator[bytes]:
            for grid in copying.grids(windows.rows, windows.node_id, windows.slot):
                newest.add(grid)
                yield from copying.gpu_windows(grid)

        if windows.rows.count:
            self._copy("gpu_window", copying.GPU_COLUMNS, pieces())
        newest.write(self._connection)
        return stored

    def _with_assignments(self, gpus: GpuRows) -> Rows:
        """The rows with the number of what they served, where any served anything."""
        if not gpus.serves:
            return gpus.rows
        numbers = np.array(self._deployments.assignments(self._connection, gpus.serves), np.int32)
        numbers[numbers == 0] = copying.ABSENT["assignment_id"]
        return Rows(gpus.rows.parcel, {**gpus.rows.columns, "assignment_id": numbers[gpus.gpu]})

    def _slots(self, parcels: Sequence[Parcel], gpus: GpuRows) -> NDArray[np.int16]:
        """The slot of each of gpus.uuids on its parcel's node; 0 for those that no row is about."""
        machines = [parcel.batch.machine_id for parcel in parcels]
        owners = gpus.uuid_parcels.tolist()
        found = [
            self._nodes[machines[owner]].slots.get(uuid, 0) for uuid, owner in zip(gpus.uuids, owners, strict=True)
        ]
        if not all(found):
            used = set(gpus.gpu.tolist())
            new: dict[str, set[str]] = {}
            for index, slot in enumerate(found):
                if not slot and index in used:
                    new.setdefault(machines[owners[index]], set()).add(gpus.uuids[index])
            self._take_new_gpus(new)
            found = [
                self._nodes[machines[owner]].slots.get(uuid, 0) for uuid, owner in zip(gpus.uuids, owners, strict=True)
            ]
        return np.array(found, np.int16)

    def _without_present(self, windows: "_SlotWindows") -> tuple["_SlotWindows", int, list[tuple[Any, ...]]]:
        """One node's windows but those that are stored already; how many these are; what else their rows hold.

        Rows that new windows belong to are taken out of the table, to be written again with both.
        """
        if not windows.rows.count:
            return windows, 0, []
        node_id = int(windows.node_id[0])
        names = sql.SQL(", ").join(map(sql.Identifier, _METRICS))
        stored = self._connection.execute(
            sql.SQL(
                "SELECT round(extract(epoch FROM time) * 1000)::bigint, slot, {} FROM expanded.gpu_window"
                " WHERE node_id = %s AND time = ANY(%s)"
            ).format(names),
            [node_id, _times(windows.rows.columns["start"])],
        ).fetchall()
        there = {(row[0], row[1]) for row in stored}
        keys = zip(windows.rows.columns["start"].tolist(), windows.slot.tolist(), strict=True)
        new = np.array([key not in there for key in keys], bool)
        kept = windows.chosen(new)
        starts = set(kept.rows.columns["start"].tolist())
        again = [row for row in stored if row[0] in starts]
        if again:
            self._connection.execute(
                "DELETE FROM gigawatch.gpu_window WHERE node_id = %s AND time = ANY(%s)",
                [node_id, _times(kept.rows.columns["start"])],
            )
        return kept, int(np.count_nonzero(~new)), again

    def _write_node_windows(
        self, parcels: Sequence[Parcel], nodes: NodeRows, node_ids: NDArray[np.int32], closed_ms: int
    ) -> list[int]:
        """Write them; how many were stored of each parcel."""
        node_id, start_ms = node_ids[nodes.rows.parcel], nodes.rows.columns["start"]
        if self._careful and nodes.rows.count:
            stored = self._connection.execute(
                "SELECT round(extract(epoch FROM time) * 1000)::bigint FROM gigawatch.node_window"
                " WHERE node_id = %s AND time = ANY(%s)",
                [int(node_id[0]), _times(start_ms)],
            )
            there = {row[0] for row in stored}
            new = np.array([start not in there for start in start_ms.tolist()], bool)
            _, first = np.unique(start_ms, return_index=True)
            new &= np.isin(np.arange(len(start_ms)), first)
            _refuse_repeated(parcels[0], "node_windows", int(np.count_nonzero(~new)))
            nodes, node_id = nodes.chosen(new), node_id[new]
        self._mark_late("1m", MILLISECONDS_PER_MINUTE, node_id, nodes.rows.columns["start"], closed_ms)
        # Seconds are summed over the fleet: each late window is added once, by its own start.
        self._mark_late("1s", 1, node_id, nodes.rows.columns["start"], closed_ms)
        if nodes.rows.count:
            self._copy("node_window", copying.NODE_COLUMNS, copying.node_windows(nodes, node_id))
        counts: list[int] = np.bincount(nodes.rows.parcel, minlength=len(parcels)).tolist()
        return counts

    def _write_serving_windows(
        self, parcels: Sequence[Parcel], node_ids: NDArray[np.int32], closed_ms: int
    ) -> list[int]:
        """Write them; how many were stored of each parcel."""
        starts_ms = [
            (node_id, round(window.start.timestamp() * MILLISECONDS_PER_SECOND))
            for parcel, node_id in zip(parcels, node_ids.tolist(), strict=True)
            for window in parcel.serving_windows
        ]
        if starts_ms:
            table = np.array(starts_ms, np.int64)
            self._mark_late("1m", MILLISECONDS_PER_MINUTE, table[:, 0].astype(np.int32), table[:, 1], closed_ms)
        return self._deployments.write(self._connection, parcels, node_ids.tolist())

    def _copy(self, table: str, names: Sequence[str], blocks: Iterable[bytes]) -> None:
        statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
            sql.Identifier("gigawatch", table), sql.SQL(", ").join(map(sql.Identifier, names))
        )
        with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(copying.SIGNATURE)
            for block in blocks:
                copy.write(block)
            copy.write(copying.TRAILER)

    def _write_events(self, parcels: Sequence[Parcel]) -> None:
        if not any(parcel.events for parcel in parcels):
            return
        gpu_ids = self._gpu_ids(
            (parcel, event.gpu_uuid) for parcel in parcels for event in parcel.events if event.gpu_uuid is not None
        )
        rows = [
            (
                event.time,
                self._nodes[parcel.batch.machine_id].node_id,
                None if event.gpu_uuid is None else gpu_ids[event.gpu_uuid],
                event.kind,
                event.severity.value,
                event.code,
                event.message.replace("\0", "�"),
            )
            for parcel in parcels
            for event in parcel.events
        ]
        kinds = {row[3] for row in rows}
        # Sent with the commit. It may not be long: without kinds it means any.
        self._connection.execute(
            "SELECT pg_notify('gigawatch_event', %s)", [",".join(sorted(kinds)) if len(kinds) <= MOST_KINDS else ""]
        )
        with self._connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO gigawatch.event (time, node_id, gpu_id, kind, severity, code, message)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s)",
                rows,
            )

    def _write_health(self, parcels: Sequence[Parcel]) -> None:
        if not any(parcel.health for parcel in parcels):
            return
        gpu_ids = self._gpu_ids((parcel, item.gpu_uuid) for parcel in parcels for item in parcel.health)
        names = sql.SQL(", ").join(map(sql.Identifier, ("time", "gpu_id", *HEALTH_COLUMNS, "processes")))
        places = sql.SQL(", ").join([sql.Placeholder()] * (len(HEALTH_COLUMNS) + 3))
        statement = sql.SQL("INSERT INTO gigawatch.gpu_health ({}) VALUES ({}) ON CONFLICT DO NOTHING")
        rows = [
            (
                item.time,
                gpu_ids[item.gpu_uuid],
                *(getattr(item, name) for name in HEALTH_COLUMNS),
                None if item.processes is None else Jsonb(msgspec.to_builtins(item.processes)),
            )
            for parcel in parcels
            for item in parcel.health
        ]
        with self._connection.cursor() as cursor:
            cursor.executemany(statement.format(names, places), rows)

    def _gpu_ids(self, asked: Iterable[tuple[Parcel, str]]) -> dict[str, int]:
        """Numbers of GPUs by UUID; those that are new get one, on the parcel's node."""
        by_machine: dict[str, set[str]] = {}
        for parcel, uuid in asked:
            by_machine.setdefault(parcel.batch.machine_id, set()).add(uuid)
        new = {it: uuids - self._nodes[it].slots.keys() for it, uuids in by_machine.items()}
        if any(new.values()):
            self._take_new_gpus({machine_id: uuids for machine_id, uuids in new.items() if uuids})
        found = self._connection.execute(
            "SELECT uuid, gpu_id FROM gigawatch.gpu WHERE uuid = ANY(%s)", [sorted(set().union(*by_machine.values()))]
        )
        return dict(found.fetchall())


class _SlotWindows(Struct, frozen=True):
    """GPU windows, each with the node and slot that it is about."""

    rows: Rows
    node_id: NDArray[np.int32]
    slot: NDArray[np.int16]

    def chosen(self, good: NDArray[np.bool_]) -> "_SlotWindows":
        """Some of them."""
        return _SlotWindows(self.rows.chosen(good), self.node_id[good], self.slot[good])

    def without_repeats(self) -> tuple["_SlotWindows", int]:
        """The first window of each node, start and slot; and how many others there were."""
        start_ms = self.rows.columns["start"]
        order = np.lexsort((self.slot, start_ms, self.node_id))
        repeat = np.ones(max(0, len(order) - 1), bool)
        for values in (self.node_id, start_ms, self.slot):
            repeat &= values[order[1:]] == values[order[:-1]]
        if not repeat.any():
            return self, 0
        good = np.ones(len(order), bool)
        good[order[1:][repeat]] = False
        return self.chosen(good), int(np.count_nonzero(repeat))

    def joined(self, stored: Sequence[tuple[Any, ...]]) -> "_SlotWindows":
        """These and stored windows of the same node: start, slot and _METRICS of each."""
        if not stored:
            return self
        table = list(zip(*stored, strict=True))
        added = {
            name: [copying.ABSENT[name] if value is None else value for value in table[place]]
            for place, name in enumerate(_METRICS, 2)
        } | {"start": list(table[0])}
        kinds = copying.KINDS
        nothing = np.zeros(self.rows.count, np.int64)
        rows = Rows(
            np.concatenate([self.rows.parcel, np.zeros(len(stored), np.int32)]),
            {
                name: np.concatenate(
                    [
                        self.rows.columns.get(name, nothing + kinds[name].absent).astype(DTYPES[kinds[name].typecode]),
                        np.array(values, DTYPES[kinds[name].typecode]),
                    ]
                )
                for name, values in added.items()
            },
        )
        return _SlotWindows(
            rows,
            np.concatenate([self.node_id, np.full(len(stored), self.node_id[0], np.int32)]),
            np.concatenate([self.slot, np.array(table[1], np.int16)]),
        )


class _Newest:
    """Each node as it is now: its newest window in this transaction, and up to when it tells of itself."""

    def __init__(self, parcels: Sequence[Parcel], node_ids: NDArray[np.int32], nodes: Rows) -> None:
        self._offsets = dict(zip(node_ids.tolist(), (parcel.clock_offset_ms for parcel in parcels), strict=True))
        ends_ms = nodes.columns["start"] + nodes.columns["covered_ms"]
        order = np.argsort(ends_ms, kind="stable")
        # In order of time, so that the last of a node is its newest.
        self._told_ms = dict(zip(node_ids[nodes.parcel][order].tolist(), ends_ms[order].tolist(), strict=True))
        self._summaries: list[NDArray[np.int64]] = []

    def add(self, grid: NodeGrid) -> None:
        """Look at windows, whose rows are in order of node and time."""
        last = np.flatnonzero(np.concatenate((grid.node_id[1:] != grid.node_id[:-1], [True])))
        summaries = _summaries(grid)
        # Where one GPU comes in within a window, the row of the others is what the node does now.
        before = np.maximum(last - 1, 0)
        node_id, start_ms, gpus = summaries[:3]
        fewer = (node_id[before] == node_id[last]) & (gpus[before] > gpus[last])
        fewer &= start_ms[last] - start_ms[before] < SHORT_MS
        self._summaries.append(summaries[:, np.where(fewer, before, last)])

    def write(self, connection: "psycopg.Connection[Any]") -> None:
        """Write what is newer than what the store has."""
        newest: dict[int, list[int]] = {}
        for summaries in self._summaries:
            # In order of node and time, so that the last of a node is its newest.
            newest |= {row[0]: row[1:] for row in summaries.T.tolist()}
        nothing = [None] * 12
        rows = [
            (node_id, offset_ms, self._told_ms.get(node_id), *newest.get(node_id, nothing))
            for node_id, offset_ms in sorted(self._offsets.items())
        ]
        if rows:
            connection.execute(_UPDATE_NOW, [_array(column) for column in zip(*rows, strict=True)])


def _summaries(grid: NodeGrid) -> NDArray[np.int64]:
    """Of each row: node, start in ms, then the columns of _NOW."""

    def sums(values: NDArray[Any], where: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.add.reduceat(np.where(where, values, 0).astype(np.int64), grid.first)

    def present(name: str) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = column[name] != copying.ABSENT[name]
        return found

    column = {name: grid.column(name) for name in _SUMMED}
    covered_ms = np.maximum(column["covered_ms"], 1).astype(np.int64)
    power_mw = column["energy_mj"].astype(np.int64) * MILLISECONDS_PER_SECOND // covered_ms
    reasons, has_reasons = column["clock_event_reasons"], present("clock_event_reasons")
    # Absent where no GPU tells its own: then nothing is known of the node.
    union = np.bitwise_or.reduceat(np.where(has_reasons, reasons, 0), grid.first)
    union[~np.logical_or.reduceat(has_reasons, grid.first)] = copying.ABSENT["clock_event_reasons"]
    return np.stack(
        [
            grid.node_id.astype(np.int64),
            grid.start_ms,
            sums(grid.present, grid.present),
            sums(reasons & THROTTLED != 0, has_reasons),
            sums(power_mw, present("energy_mj")),
            sums(column["power_limit_mw"], present("power_limit_mw")),
            sums(column["gpu_util_pm"], present("gpu_util_pm")),
            sums(present("gpu_util_pm"), grid.present),
            np.maximum.reduceat(column["gpu_temp_max_c"], grid.first).astype(np.int64),
            np.maximum.reduceat(np.where(present("energy_mj"), power_mw, 0), grid.first),
            np.maximum.reduceat(column["gpu_util_pm"], grid.first).astype(np.int64),
            union,
            np.maximum.reduceat(column["mem_temp_max_c"], grid.first).astype(np.int64),
        ]
    )


# A node whose spool is being emptied is as its newest window says, not as its last batch does.
_NOW = (
    "gpus", "gpus_throttled", "power_mw", "power_limit_mw", "gpu_util_pm", "gpu_util_gpus", "gpu_temp_max_c",
    "gpu_power_max_mw", "gpu_util_max_pm", "clock_event_reasons", "mem_temp_max_c",
)  # fmt: skip
_SUMMED = (
    "covered_ms", "energy_mj", "power_limit_mw", "gpu_util_pm", "gpu_temp_max_c", "clock_event_reasons",
    "mem_temp_max_c",
)  # fmt: skip
_IS_NEWER = (
    "now.time IS NULL OR new.time >= now.time AND (new.gpus >= now.gpus OR new.time - now.time >= interval '10 s')"
)
_UPDATE_NOW = f"""
    UPDATE gigawatch.node_now AS now SET last_seen = now(), clock_offset_ms = new.clock_offset_ms,
        told_until = greatest(now.told_until, to_timestamp(new.told_ms / 1000.0)),
        {", ".join(f"{it} = CASE WHEN {_IS_NEWER} THEN new.{it} ELSE now.{it} END" for it in ("time", *_NOW))}
    FROM (
        SELECT node_id, clock_offset_ms, told_ms, to_timestamp(start_ms / 1000.0) AS time, gpus, gpus_throttled,
            power_mw, power_limit_mw, gpu_util_pm, gpu_util_gpus,
            nullif(gpu_temp_max_c, {copying.ABSENT["gpu_temp_max_c"]}) AS gpu_temp_max_c, gpu_power_max_mw,
            nullif(gpu_util_max_pm, {copying.ABSENT["gpu_util_pm"]}) AS gpu_util_max_pm,
            nullif(clock_event_reasons, {copying.ABSENT["clock_event_reasons"]}) AS clock_event_reasons,
            nullif(mem_temp_max_c, {copying.ABSENT["mem_temp_max_c"]}) AS mem_temp_max_c
        FROM unnest(%s::integer[], %s::integer[], %s::bigint[], %s::bigint[], %s::smallint[], %s::smallint[],
            %s::bigint[], %s::bigint[], %s::integer[], %s::smallint[], %s::smallint[], %s::integer[], %s::smallint[],
            %s::bigint[], %s::smallint[])
            AS its (node_id, clock_offset_ms, told_ms, start_ms, gpus, gpus_throttled, power_mw, power_limit_mw,
                gpu_util_pm, gpu_util_gpus, gpu_temp_max_c, gpu_power_max_mw, gpu_util_max_pm, clock_event_reasons,
                mem_temp_max_c)
    ) AS new WHERE now.node_id = new.node_id"""
_INTRODUCE = """
    INSERT INTO gigawatch.node_now (node_id, last_seen, clock_offset_ms, site_id, rack_id, simulated)
    SELECT node_id, now(), clock_offset_ms, site_id, rack_id, simulated
    FROM unnest(%s::integer[], %s::integer[]) AS new (node_id, clock_offset_ms) JOIN gigawatch.node USING (node_id)
    ON CONFLICT (node_id) DO UPDATE SET site_id = excluded.site_id, rack_id = excluded.rack_id,
        simulated = excluded.simulated"""


_NODE_VALUES = (
    "hostname", "simulated", "agent_version", "driver_version", "cuda_version", "nvml_version", "cpu_model",
)  # fmt: skip
_UPSERT_NODES = f"""
    INSERT INTO gigawatch.node (machine_id, site_id, rack_id, labels, {", ".join(_NODE_VALUES)})
    SELECT it.machine_id, site.site_id, rack.rack_id, coalesce(it.labels, '{{}}'),
        {", ".join(f"it.{name}" for name in _NODE_VALUES)}
    FROM jsonb_to_recordset(%s) AS it (machine_id text, site text, rack text, labels jsonb, hostname text,
        simulated boolean, agent_version text, driver_version text, cuda_version text, nvml_version text,
        cpu_model text)
    JOIN gigawatch.site ON site.name = coalesce(it.site, 'default')
    LEFT JOIN gigawatch.rack ON rack.site_id = site.site_id AND rack.name = it.rack
    ORDER BY it.machine_id
    ON CONFLICT (machine_id) DO UPDATE SET site_id = excluded.site_id, rack_id = excluded.rack_id,
        labels = excluded.labels, {", ".join(f"{name} = excluded.{name}" for name in _NODE_VALUES)}
    RETURNING machine_id, node_id"""


def _upsert_gpus(*, replace: bool) -> sql.Composed:
    """An INSERT of GPUs from JSON; those that are there are replaced, or stay as they are."""
    kinds = {column.name: column.type.compile(dialect=_DIALECT) for column in schema.gpu.columns}
    names = sql.SQL(", ").join(map(sql.Identifier, GPU_COLUMNS))
    values = sql.SQL(", ").join(
        # What has a default in the table may be missing in the JSON.
        sql.SQL("coalesce(it.{}, {})").format(sql.Identifier(name), sql.SQL(_DEFAULTS[name]))
        if name in _DEFAULTS
        else sql.SQL("it.{}").format(sql.Identifier(name))
        for name in GPU_COLUMNS
    )
    typed = sql.SQL(", ").join(sql.SQL("{} {}").format(sql.Identifier(it), sql.SQL(kinds[it])) for it in GPU_COLUMNS)
    update = sql.SQL("UPDATE SET node_id = EXCLUDED.node_id, removed = NULL, {}").format(
        sql.SQL(", ").join(sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(name)) for name in GPU_COLUMNS)
    )
    return sql.SQL(
        "INSERT INTO gigawatch.gpu (node_id, {}) SELECT DISTINCT ON (it.uuid) it.node_id, {}"
        " FROM jsonb_to_recordset(%s) AS it (node_id integer, {}) ORDER BY it.uuid ON CONFLICT (uuid) DO {}"
    ).format(names, values, typed, update if replace else sql.SQL("NOTHING"))


_METRICS = tuple(name for name in copying.KINDS if name != "start")
_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
_DEFAULTS = {"model": "'unknown'", "energy_counter": "true", "mig_instances": "'[]'"}


def _refuse_repeated(parcel: Parcel, name: str, count: int) -> None:
    if count:
        there = Refusal(
            where=name,
            error="windows of the same start are stored already",
            remedy="Do two agents run for one node, or was a recording sent twice?",
            count=count,
        )
        refuse(parcel.refused, there)


def _too_many(count: int) -> Refusal:
    return Refusal(
        where="gpu_windows",
        error=f"the node has had {MOST_SLOTS} GPUs, and more are not taken",
        remedy="Is the machine_id that of several machines?",
        count=count,
    )


def _array(values: Iterable[int | None]) -> str:
    """An array of integers as PostgreSQL reads it, a tenth of the time that the driver takes for a list."""
    return f"{{{','.join(['NULL' if value is None else str(value) for value in values])}}}"


def _times(start_ms: NDArray[np.int64]) -> list[datetime]:
    return [datetime.fromtimestamp(it / MILLISECONDS_PER_SECOND, UTC) for it in np.unique(start_ms).tolist()]


def _one(cursor: "psycopg.Cursor[Any]") -> int:
    row = cursor.fetchone()
    assert row is not None
    return int(row[0])
