"""Stores parcels: exactly once, many of them in one transaction, one binary COPY per table."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import psycopg
from msgspec import Struct
from psycopg import sql
from psycopg.types.json import Jsonb
from sqlalchemy import Engine

from api.copying import COLUMN_NAMES, gpu_windows
from api.decode import GpuRows, Parcel, join
from gigawatch.records import Gpu, Inventory
from gigawatch.wire import Receipt, Refusal

log = logging.getLogger(__name__)
NODE_WINDOW_TYPES = (
    "timestamptz", "int4", "int4", "int4", "int2", "int2", "int2", "int2", "int4[]", "int8", "int8", "int4", "int4",
    "int8",
)  # fmt: skip
NODE_WINDOW_COLUMNS = (
    "time", "node_id", "covered_ms", "tick_ms", "ticks_taken", "ticks_expected", "gpus_read", "gpus_expected",
    "gpu_power_mw", "cpu_energy_mj", "dram_energy_mj", "node_power_mean_mw", "node_power_max_mw", "rejected_readings",
)  # fmt: skip
HEALTH_COLUMNS = (
    "ecc_volatile_corrected", "ecc_volatile_uncorrected", "ecc_aggregate_corrected", "ecc_aggregate_uncorrected",
    "rows_remapped_corrected", "rows_remapped_uncorrected", "row_remap_pending", "row_remap_failed",
    "pages_retired", "page_retirement_pending", "pcie_replays", "performance_state",
)  # fmt: skip


class SequenceGap(Exception):
    """The batch's number is not the one that its spool's cursor waits for."""

    def __init__(self, expected: int) -> None:
        super().__init__(f"the server waits for batch {expected} of this spool")
        self.expected = expected


class ForeignSpool(Exception):
    """The spool is another node's."""


Outcome = Receipt | SequenceGap | ForeignSpool


class _Conflict(Exception):
    """Rows are there already: parcels must be stored one by one."""


class Store:
    """Writes parcels. Used by one thread.

    Args:
        engine: of the store's owner.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._node_ids: dict[str, int] = {}
        self._gpu_ids: dict[str, int] = {}

    def store(self, parcels: Sequence[Parcel]) -> list[Outcome]:
        """Store the parcels and commit; the outcome of each.

        Where rows of one are there already, each is stored on its own, so that it harms no other.

        Raises:
            psycopg.OperationalError, sqlalchemy.exc.OperationalError: the database is out of reach; nothing
                was stored as far as we know.
        """
        try:
            return self._transact(parcels, careful=False)
        except (_Conflict, psycopg.DataError, psycopg.IntegrityError) as error:
            log.info("storing %d batches one by one: %s", len(parcels), error)
        return [self._transact([parcel], careful=True)[0] for parcel in parcels]

    def _transact(self, parcels: Sequence[Parcel], *, careful: bool) -> list[Outcome]:
        pooled = self._engine.raw_connection()
        connection = pooled.driver_connection
        assert isinstance(connection, psycopg.Connection)
        try:
            outcomes = _Transaction(connection, dict(self._node_ids), dict(self._gpu_ids), careful).run(parcels)
            connection.commit()
        except BaseException:
            # What was learnt in a transaction that is undone may not exist.
            self._node_ids.clear()
            self._gpu_ids.clear()
            if not connection.closed:
                connection.rollback()
            raise
        finally:
            pooled.close()
        self._node_ids, self._gpu_ids = outcomes.node_ids, outcomes.gpu_ids
        return outcomes.outcomes


class _Result(Struct, frozen=True):
    outcomes: list[Outcome]
    node_ids: dict[str, int]
    gpu_ids: dict[str, int]


class _Transaction:
    """One transaction's work."""

    def __init__(
        self,
        connection: "psycopg.Connection[Any]",
        node_ids: dict[str, int],
        gpu_ids: dict[str, int],
        careful: bool,
    ) -> None:
        self._connection = connection
        self._node_ids = node_ids
        self._gpu_ids = gpu_ids
        self._careful = careful

    def run(self, parcels: Sequence[Parcel]) -> _Result:
        # In the same order in every process, so that none waits for another that waits for it.
        order = sorted(range(len(parcels)), key=lambda place: parcels[place].batch.machine_id)
        for place in order:
            self._identify(parcels[place])
        outcomes: dict[int, Outcome] = {}
        next_seqs = self._lock_cursors(parcels)
        taken = []
        by_seq = sorted(range(len(parcels)), key=lambda place: parcels[place].batch.seq or 0)
        for place in by_seq:
            outcome = self._admit(parcels[place], next_seqs)
            if outcome is None:
                taken.append(place)
            else:
                outcomes[place] = outcome
        stored = self._write([parcels[place] for place in taken])
        for place, receipt in zip(taken, stored, strict=True):
            seq = parcels[place].batch.seq
            outcomes[place] = msgspec.structs.replace(receipt, next_seq=None if seq is None else seq + 1)
        self._move_cursors(next_seqs)
        self._touch_nodes([parcels[place] for place in taken])
        return _Result([outcomes[place] for place in range(len(parcels))], self._node_ids, self._gpu_ids)

    def _lock_cursors(self, parcels: Sequence[Parcel]) -> dict[str, list[int]]:
        """For each spool, its node and the number that comes next, locked until the commit."""
        firsts: dict[str, tuple[int, int]] = {}
        for parcel in parcels:
            batch = parcel.batch
            if batch.spool_id is not None and batch.seq is not None:
                oldest = batch.seq if batch.oldest_seq is None else batch.oldest_seq
                known = firsts.get(batch.spool_id)
                node_id = self._node_ids[batch.machine_id]
                firsts[batch.spool_id] = (node_id, oldest if known is None else min(oldest, known[1]))
        if not firsts:
            return {}
        spool_ids = sorted(firsts)
        self._connection.execute(
            "INSERT INTO gigawatch.ingest_cursor (spool_id, node_id, next_seq)"
            " SELECT * FROM unnest(%s::text[], %s::integer[], %s::bigint[]) ON CONFLICT DO NOTHING",
            [spool_ids, [firsts[it][0] for it in spool_ids], [firsts[it][1] for it in spool_ids]],
        )
        rows = self._connection.execute(
            "SELECT spool_id, node_id, next_seq FROM gigawatch.ingest_cursor"
            " WHERE spool_id = ANY(%s) ORDER BY spool_id FOR UPDATE",
            [spool_ids],
        )
        return {spool_id: [node_id, next_seq] for spool_id, node_id, next_seq in rows}

    def _admit(self, parcel: Parcel, next_seqs: dict[str, list[int]]) -> Outcome | None:
        """None if the parcel's turn has come, and the cursor moved past it; else what to answer."""
        batch = parcel.batch
        if batch.spool_id is None or batch.seq is None:
            return None
        cursor = next_seqs[batch.spool_id]
        if cursor[0] != self._node_ids[batch.machine_id]:
            return ForeignSpool(f"spool_id {batch.spool_id} belongs to another machine_id")
        if batch.seq < cursor[1]:
            return Receipt(duplicate=True, next_seq=cursor[1], server_time=datetime.now(UTC))
        expected = max(cursor[1], batch.seq if batch.oldest_seq is None else batch.oldest_seq)
        if batch.oldest_seq is None:
            expected = cursor[1]
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
                [list(next_seqs), [cursor[1] for cursor in next_seqs.values()]],
            )

    def _touch_nodes(self, parcels: Sequence[Parcel]) -> None:
        """Note when each node was last heard of, and how its clock goes."""
        last = {self._node_ids[parcel.batch.machine_id]: parcel for parcel in parcels}
        node_ids = sorted(last)
        if node_ids:
            self._connection.execute(
                "SELECT 1 FROM gigawatch.node WHERE node_id = ANY(%s) ORDER BY node_id FOR NO KEY UPDATE",
                [node_ids],
            )
            self._connection.execute(
                "UPDATE gigawatch.node SET last_seen = now(), clock_offset_ms = new.clock_offset_ms,"
                " simulated = new.simulated"
                " FROM unnest(%s::integer[], %s::integer[], %s::boolean[]) AS new (node_id, clock_offset_ms, simulated)"
                " WHERE node.node_id = new.node_id",
                [
                    node_ids,
                    [last[node_id].clock_offset_ms for node_id in node_ids],
                    [last[node_id].batch.simulated for node_id in node_ids],
                ],
            )

    def _identify(self, parcel: Parcel) -> None:
        """See to it that the parcel's node and GPUs have rows, and that we know their numbers."""
        machine_id = parcel.batch.machine_id
        if parcel.inventory is not None:
            self._take_inventory(machine_id, parcel.inventory)
        elif machine_id not in self._node_ids:
            found = self._connection.execute(
                "SELECT node_id FROM gigawatch.node WHERE machine_id = %s", [machine_id]
            ).fetchone()
            if found is None:
                self._take_inventory(machine_id, Inventory(hostname=machine_id))
            else:
                self._node_ids[machine_id] = found[0]
        uuids = {
            *parcel.gpu_rows.uuids,
            *(item.gpu_uuid for item in parcel.health),
            *(event.gpu_uuid for event in parcel.events if event.gpu_uuid is not None),
        }
        unknown = sorted(uuids - self._gpu_ids.keys())
        if not unknown:
            return
        self._connection.execute(
            "INSERT INTO gigawatch.gpu (uuid, node_id) SELECT unnest(%s::text[]), %s ON CONFLICT DO NOTHING",
            [unknown, self._node_ids[machine_id]],
        )
        rows = self._connection.execute("SELECT uuid, gpu_id FROM gigawatch.gpu WHERE uuid = ANY(%s)", [unknown])
        self._gpu_ids.update(rows.fetchall())

    def _take_inventory(self, machine_id: str, inventory: Inventory) -> None:
        run = self._connection.execute
        run("INSERT INTO gigawatch.site (name) VALUES (%s) ON CONFLICT DO NOTHING", [inventory.site])
        site_id = _one(run("SELECT site_id FROM gigawatch.site WHERE name = %s", [inventory.site]))
        rack_id = None
        if inventory.rack is not None:
            key = [site_id, inventory.rack]
            run("INSERT INTO gigawatch.rack (site_id, name) VALUES (%s, %s) ON CONFLICT DO NOTHING", key)
            rack_id = _one(run("SELECT rack_id FROM gigawatch.rack WHERE site_id = %s AND name = %s", key))
        values = {
            "machine_id": machine_id,
            "site_id": site_id,
            "rack_id": rack_id,
            "labels": Jsonb(inventory.labels),
            **{
                name: getattr(inventory, name)
                for name in (
                    "hostname",
                    "agent_version",
                    "driver_version",
                    "cuda_version",
                    "nvml_version",
                    "cpu_model",
                )
            },
        }
        node_id = _one(run(_upsert("node", values, "machine_id", "node_id"), values))
        self._node_ids[machine_id] = node_id
        for gpu in sorted(inventory.gpus, key=lambda gpu: gpu.uuid):
            self._gpu_ids[gpu.uuid] = self._take_gpu(node_id, gpu)
        run(
            "UPDATE gigawatch.gpu SET removed = now() WHERE node_id = %s AND removed IS NULL AND uuid <> ALL(%s)",
            [node_id, [gpu.uuid for gpu in inventory.gpus]],
        )

    def _take_gpu(self, node_id: int, gpu: Gpu) -> int:
        values = {
            **{name: getattr(gpu, name) for name in gpu.__struct_fields__},
            "mig_instances": Jsonb(msgspec.to_builtins(gpu.mig_instances)),
            "node_id": node_id,
            "removed": None,
        }
        return _one(self._connection.execute(_upsert("gpu", values, "uuid", "gpu_id"), values))

    def _write(self, parcels: Sequence[Parcel]) -> list[Receipt]:
        """Write the parcels' rows; a receipt for each."""
        present = self._write_gpu_windows(parcels), self._write_node_windows(parcels)
        self._write_events(parcels)
        healths = self._write_health(parcels)
        now = datetime.now(UTC)
        receipts = []
        for parcel, health in zip(parcels, healths, strict=True):
            refused = list(parcel.refused)
            # Only where parcels come one by one are rows counted that were there already.
            for name, count in zip(("gpu_windows", "node_windows"), present, strict=True):
                if count:
                    refused.append(
                        Refusal(
                            where=name,
                            error="windows of the same start are stored already",
                            remedy="Do two agents run for one node, or was a recording sent twice?",
                            count=count,
                        )
                    )
            receipts.append(
                Receipt(
                    gpu_windows=parcel.gpu_rows.count - present[0],
                    node_windows=len(parcel.node_windows) - present[1],
                    events=len(parcel.events),
                    health=health,
                    refused=refused,
                    server_time=now,
                )
            )
        return receipts

    def _write_gpu_windows(self, parcels: Sequence[Parcel]) -> int:
        parts = [parcel.gpu_rows for parcel in parcels if parcel.gpu_rows.count]
        if not parts:
            return 0
        rows: GpuRows = join(parts)
        gpu_ids = np.array([self._gpu_ids[uuid] for uuid in rows.uuids], np.int32)[rows.gpu]
        with self._target("gpu_window") as table, self._connection.cursor() as cursor:
            columns = sql.SQL(", ").join(map(sql.Identifier, COLUMN_NAMES))
            statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(table.name, columns)
            with cursor.copy(statement) as copy:
                for block in gpu_windows(rows, gpu_ids):
                    copy.write(block)
        return table.present

    def _write_node_windows(self, parcels: Sequence[Parcel]) -> int:
        if not any(parcel.node_windows for parcel in parcels):
            return 0
        with self._target("node_window") as table, self._connection.cursor() as cursor:
            columns = sql.SQL(", ").join(map(sql.Identifier, NODE_WINDOW_COLUMNS))
            statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(table.name, columns)
            with cursor.copy(statement) as copy:
                copy.set_types(NODE_WINDOW_TYPES)
                for parcel in parcels:
                    node_id = self._node_ids[parcel.batch.machine_id]
                    for window in parcel.node_windows:
                        values = [getattr(window, name) for name in NODE_WINDOW_COLUMNS[2:]]
                        values[NODE_WINDOW_COLUMNS.index("gpu_power_mw") - 2] = list(window.gpu_power_mw)
                        copy.write_row((window.start, node_id, *values))
        return table.present

    def _write_events(self, parcels: Sequence[Parcel]) -> None:
        rows = [
            (
                event.time,
                self._node_ids[parcel.batch.machine_id],
                None if event.gpu_uuid is None else self._gpu_ids[event.gpu_uuid],
                event.kind,
                event.severity.value,
                event.code,
                event.message.replace("\0", "�"),
            )
            for parcel in parcels
            for event in parcel.events
        ]
        if rows:
            with self._connection.cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO gigawatch.event (time, node_id, gpu_id, kind, severity, code, message)"
                    " VALUES (%s, %s, %s, %s, %s, %s, %s)",
                    rows,
                )

    def _write_health(self, parcels: Sequence[Parcel]) -> list[int]:
        counts = []
        names = sql.SQL(", ").join(map(sql.Identifier, ("time", "gpu_id", *HEALTH_COLUMNS, "processes")))
        places = sql.SQL(", ").join([sql.Placeholder()] * (len(HEALTH_COLUMNS) + 3))
        statement = sql.SQL("INSERT INTO gigawatch.gpu_health ({}) VALUES ({}) ON CONFLICT DO NOTHING")
        with self._connection.cursor() as cursor:
            for parcel in parcels:
                if parcel.health:
                    cursor.executemany(
                        statement.format(names, places),
                        [
                            (
                                item.time,
                                self._gpu_ids[item.gpu_uuid],
                                *(getattr(item, name) for name in HEALTH_COLUMNS),
                                None if item.processes is None else Jsonb(msgspec.to_builtins(item.processes)),
                            )
                            for item in parcel.health
                        ],
                    )
                counts.append(len(parcel.health))
        return counts

    def _target(self, table: str) -> "_Target":
        return _Target(self._connection, table, careful=self._careful)


class _Target:
    """Where rows are copied to: the table itself, or with care by way of a temporary one."""

    def __init__(self, connection: "psycopg.Connection[Any]", table: str, *, careful: bool) -> None:
        self._connection = connection
        self._table = sql.Identifier("gigawatch", table)
        self._temporary = sql.Identifier(f"incoming_{table}")
        self._careful = careful
        self.name = self._temporary if careful else self._table
        self.present = 0
        """Rows that were there already; known after the exit."""

    def __enter__(self) -> "_Target":
        if self._careful:
            self._connection.execute(
                sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {}) ON COMMIT DROP").format(self._temporary, self._table)
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: object) -> None:
        if isinstance(value, psycopg.errors.UniqueViolation):
            raise _Conflict(str(value)) from value
        if kind is None and self._careful:
            counted = self._connection.execute(
                sql.SQL(
                    "WITH stored AS (INSERT INTO {} SELECT * FROM {} ON CONFLICT DO NOTHING RETURNING 1)"
                    " SELECT (SELECT count(*) FROM {}) - (SELECT count(*) FROM stored)"
                ).format(self._table, self._temporary, self._temporary)
            )
            self.present = _one(counted)


def _one(cursor: "psycopg.Cursor[Any]") -> int:
    row = cursor.fetchone()
    assert row is not None
    return int(row[0])


def _upsert(table: str, values: dict[str, Any], key: str, returning: str) -> sql.Composed:
    """An INSERT that updates the row of the same key and returns its number."""
    return sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT ({}) DO UPDATE SET {} RETURNING {}").format(
        sql.Identifier("gigawatch", table),
        sql.SQL(", ").join(map(sql.Identifier, values)),
        sql.SQL(", ").join(map(sql.Placeholder, values)),
        sql.Identifier(key),
        sql.SQL(", ").join(
            sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(name)) for name in values if name != key
        ),
        sql.Identifier(returning),
    )
