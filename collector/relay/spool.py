"""What a relay has acknowledged and the server has not, in an SQLite file, for many agents at once.

A batch is admitted by its spool's cursor as the server admits it, and is on disk when `append` returns. Batches
without a number get one of the relay's own, so that they too go up once. The file has a bound in size and age; what
the bound drops is counted by node, and told as an event once the server takes batches again.
"""

import hashlib
import sqlite3
import threading
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import astuple

from collector.client import SequenceGap, utc_now
from collector.relay.intake import Arrival
from collector.spool import COUNTS, SpoolFull, Windows, connect, count_windows, opening
from gigawatch.records import Event, Severity
from gigawatch.units import BYTES_PER_MIB, SECONDS_PER_HOUR
from gigawatch.wire import Batch, Receipt, encode

SCHEMA = """
CREATE TABLE IF NOT EXISTS spool (spool INTEGER PRIMARY KEY, spool_id TEXT NOT NULL UNIQUE, machine_id TEXT NOT NULL,
    next_seq INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS batch (id INTEGER PRIMARY KEY, spool INTEGER NOT NULL, seq INTEGER NOT NULL,
    received REAL NOT NULL, clock_offset_s REAL NOT NULL, simulated INTEGER NOT NULL, is_event INTEGER NOT NULL,
    bytes INTEGER NOT NULL);
-- Bodies stand apart, so that going through the batches does not read them.
CREATE TABLE IF NOT EXISTS body (id INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS dropped (machine_id TEXT PRIMARY KEY, clock_offset_s REAL NOT NULL,
    simulated INTEGER NOT NULL, batches INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS token (digest BLOB PRIMARY KEY, role TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value NOT NULL);
"""
CACHE_KIB = 8_192
MOST_FREE_PAGES = 4_096
"""Of 4 KiB each; what is free beyond them goes back to the disk, so many at a time."""


class ForeignSpool(Exception):
    """The spool is another node's."""


class Sender(Struct, frozen=True):
    """A node as its batches show it, to send one in its name."""

    machine_id: str
    clock_offset_s: float
    simulated: bool


class Waiting(Struct, frozen=True):
    """A batch in the file."""

    id: int
    spool: int
    sender: Sender
    spool_id: str
    seq: int
    oldest_seq: int
    """The least number that the file has of this spool."""
    is_event: bool
    """It is the relay's own."""
    body: bytes


class Totals(Struct, frozen=True):
    """What waits in the file."""

    batches: int
    bytes: int
    oldest_s: float
    """Age of the oldest batch."""


Outcome = Receipt | SequenceGap | ForeignSpool


class RelaySpool:
    """The file, for use by several threads.

    Args:
        path: the file; made if absent.
        max_mib: bound of the batches' size.
        max_age_h: bound of a batch's age.

    Raises:
        GigawatchError: the file cannot be opened, or is not a relay's spool.
    """

    def __init__(self, path: Path, max_mib: int, max_age_h: float) -> None:
        self._max_bytes = max_mib * BYTES_PER_MIB
        self._max_age_s = max_age_h * SECONDS_PER_HOUR
        self._lock = threading.Lock()
        self.dropped = 0
        """Batches that the bounds dropped since the file was opened."""
        with opening(path, "relay"):
            self._database = connect(path, SCHEMA, CACHE_KIB)
            for table in ("batch", "dropped"):
                count_windows(self._database, table)
            self._database.execute("INSERT OR IGNORE INTO state VALUES ('relay_id', ?)", (uuid.uuid4().hex,))
            self._relay_id = str(self._state("relay_id"))
            self._batches, self._bytes = self._state("batches") or 0, self._state("bytes") or 0
            self._next_id = self._state("next_id") or 0

    def append(self, arrivals: Sequence[Arrival]) -> list[Outcome]:
        """Admit and store batches durably in one transaction; what to answer to each.

        Raises:
            SpoolFull: the disk takes no more; nothing was stored.
        """
        outcomes: dict[int, Outcome] = {}
        with self._transaction():
            first_id = self._next_id
            for place in sorted(range(len(arrivals)), key=lambda place: arrivals[place].batch.seq or 0):
                outcomes[place] = self._admit(arrivals[place])
            dropped = self._drop(first_id)
        self.dropped += dropped
        return [outcomes[place] for place in range(len(arrivals))]

    def take(
        self, most_batches: int, most_bytes: int, held_back: Collection[int] = (), only: int | None = None
    ) -> list[Waiting]:
        """The oldest batches, at least one if there is any, but none of the spools held back, or of one only."""
        with self._lock:
            rows = self._database.execute(
                "SELECT id, spool, seq, bytes FROM batch WHERE ? IS NULL OR spool = ? ORDER BY id", (only, only)
            )
            left_out = set(held_back)
            first: dict[int, int] = {}
            last: dict[int, int] = {}
            chosen: list[tuple[int, int]] = []
            size = 0
            for id_, spool, seq, length in rows:
                if spool in left_out:
                    continue
                if seq != last.get(spool, seq - 1) + 1:
                    # The agent's own spool had dropped those between. oldest_seq may say so only when what comes
                    # before them is stored: the server would skip that as well.
                    left_out.add(spool)
                    continue
                if chosen and (len(chosen) == most_batches or size + length > most_bytes):
                    break
                first.setdefault(spool, seq)
                last[spool] = seq
                chosen.append((id_, first[spool]))
                size += length
            rows.close()
            return [self._waiting(id_, oldest_seq) for id_, oldest_seq in chosen]

    def settle(self, done: Sequence[Waiting], events: Sequence[tuple[Sender, Event]]) -> None:
        """Forget batches that the server has stored or will never take, and send these events of their nodes.

        Raises:
            SpoolFull: the disk takes no more; nothing was changed.
        """
        with self._transaction():
            self._forget([(it.id, len(it.body)) for it in done])
            for sender, event in events:
                self._add_event(sender, event)
        with self._lock:
            if self._database.execute("PRAGMA freelist_count").fetchone()[0] > MOST_FREE_PAGES:
                # As a script, since execute() ends it after its first page.
                self._database.executescript(f"PRAGMA incremental_vacuum({MOST_FREE_PAGES})")

    def tell_dropped(self) -> None:
        """Turn what the bounds dropped since the last time into an event of each node.

        Raises:
            SpoolFull: the disk takes no more; nothing was changed.
        """
        with self._transaction():
            rows = self._database.execute(
                f"SELECT machine_id, clock_offset_s, simulated, batches, {', '.join(COUNTS)} FROM dropped"
            ).fetchall()
            self._database.execute("DELETE FROM dropped")
            for machine_id, clock_offset_s, simulated, batches, *counts in rows:
                self._add_event(
                    Sender(machine_id, clock_offset_s, bool(simulated)),
                    Event(
                        time=utc_now(),
                        kind="spool_dropped",
                        severity=Severity.WARNING,
                        message=f"The bound of a relay's spool dropped {batches} batches with {Windows(*counts)}"
                        " of this node that the server had not taken",
                    ),
                )

    def totals(self) -> Totals:
        """What waits."""
        with self._lock:
            row = self._database.execute("SELECT received FROM batch ORDER BY id LIMIT 1").fetchone()
            return Totals(self._batches, self._bytes, 0.0 if row is None else max(0.0, time.time() - row[0]))

    def tokens(self) -> dict[bytes, str]:
        """Roles of the tokens that were good, by the SHA-256 of their secrets."""
        with self._lock:
            return dict(self._database.execute("SELECT digest, role FROM token").fetchall())

    def remember_token(self, digest: bytes, role: str | None) -> None:
        """Keep a token that is good, or forget one that is not.

        Raises:
            SpoolFull: the disk takes no more; nothing was changed.
        """
        with self._transaction():
            if role is None:
                self._database.execute("DELETE FROM token WHERE digest = ?", (digest,))
            else:
                self._database.execute("INSERT OR REPLACE INTO token VALUES (?, ?)", (digest, role))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """The lock and a transaction; where it fails, everything is as it was before."""
        with self._lock:
            before = self._batches, self._bytes, self._next_id
            try:
                self._database.execute("BEGIN IMMEDIATE")
                yield
                after = self._batches, self._bytes, self._next_id
                if after != before:
                    self._database.executemany(
                        "INSERT OR REPLACE INTO state VALUES (?, ?)",
                        zip(("batches", "bytes", "next_id"), after, strict=True),
                    )
                self._database.execute("COMMIT")
            except BaseException as error:
                self._batches, self._bytes, self._next_id = before
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise SpoolFull(str(error)) from error
                raise

    def _state(self, name: str) -> Any:
        row = self._database.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def _admit(self, arrival: Arrival) -> Outcome:
        """Store the batch if its turn has come, and move the cursor past it; what to answer."""
        batch = arrival.batch
        sender = Sender(batch.machine_id, arrival.clock_offset_s, batch.simulated)
        next_seq, windows = None, arrival.windows
        if batch.spool_id is None or batch.seq is None:
            self._insert_own(sender, arrival.body, windows, is_event=False)
        else:
            oldest_seq = batch.seq if batch.oldest_seq is None else batch.oldest_seq
            spool, machine_id, expected = self._cursor(batch.spool_id, batch.machine_id, oldest_seq)
            if machine_id != batch.machine_id:
                return ForeignSpool(f"spool_id {batch.spool_id} belongs to another machine_id")
            if batch.seq < expected:
                return Receipt(duplicate=True, next_seq=expected, server_time=utc_now())
            if batch.oldest_seq is not None:
                expected = max(expected, batch.oldest_seq)
            if batch.seq != expected:
                return SequenceGap(expected)
            self._insert(spool, batch.seq, sender, arrival.body, windows, is_event=False)
            next_seq = batch.seq + 1
        return Receipt(
            gpu_windows=windows.gpu,
            node_windows=windows.node,
            serving_windows=windows.serving,
            meter_windows=windows.meter,
            events=len(batch.events),
            health=len(batch.health),
            next_seq=next_seq,
            server_time=utc_now(),
        )

    def _cursor(self, spool_id: str, machine_id: str, first_seq: int) -> tuple[int, str, int]:
        """Our number of the spool, its node and the batch number that comes next; one unknown begins at first_seq."""
        found = "SELECT spool, machine_id, next_seq FROM spool WHERE spool_id = ?"
        row = self._database.execute(found, (spool_id,)).fetchone()
        if row is None:
            made = self._database.execute(
                "INSERT INTO spool (spool_id, machine_id, next_seq) VALUES (?, ?, ?)", (spool_id, machine_id, first_seq)
            )
            assert made.lastrowid is not None
            return made.lastrowid, machine_id, first_seq
        return row[0], row[1], row[2]

    def _insert(self, spool: int, seq: int, sender: Sender, body: bytes, windows: Windows, *, is_event: bool) -> None:
        self._database.execute(
            "INSERT INTO batch (id, spool, seq, received, clock_offset_s, simulated, is_event, bytes,"
            f" {', '.join(COUNTS)}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self._next_id, spool, seq, time.time(), sender.clock_offset_s, sender.simulated, is_event, len(body),
                *astuple(windows),
            ),
        )  # fmt: skip
        self._database.execute("INSERT INTO body VALUES (?, ?)", (self._next_id, body))
        self._database.execute("UPDATE spool SET next_seq = ? WHERE spool = ?", (seq + 1, spool))
        self._next_id += 1
        self._batches += 1
        self._bytes += len(body)

    def _insert_own(self, sender: Sender, body: bytes, windows: Windows, *, is_event: bool) -> None:
        """Store a batch that has no number of its node's."""
        # A spool belongs to one node, here as on the server.
        spool_id = hashlib.sha256(f"{self._relay_id} {sender.machine_id}".encode()).hexdigest()[:32]
        spool, _, seq = self._cursor(spool_id, sender.machine_id, 0)
        self._insert(spool, seq, sender, body, windows, is_event=is_event)

    def _add_event(self, sender: Sender, event: Event) -> None:
        batch = Batch(machine_id=sender.machine_id, sent_at=utc_now(), simulated=sender.simulated)
        self._insert_own(sender, encode(batch, events=[event]), Windows(), is_event=True)

    def _waiting(self, id_: int, oldest_seq: int) -> Waiting:
        spool, machine_id, clock_offset_s, simulated, spool_id, seq, is_event, body = self._database.execute(
            "SELECT spool, machine_id, clock_offset_s, simulated, spool_id, seq, is_event, body"
            " FROM batch JOIN spool USING (spool) JOIN body USING (id) WHERE id = ?",
            (id_,),
        ).fetchone()
        sender = Sender(machine_id, clock_offset_s, bool(simulated))
        return Waiting(id_, spool, sender, spool_id, seq, oldest_seq, bool(is_event), body)

    def _drop(self, before_id: int) -> int:
        """Drop the oldest batches until the bounds hold, but none from before_id on; how many."""
        too_old = time.time() - self._max_age_s
        size = self._bytes
        gone = []
        rows = self._database.execute(
            f"SELECT id, received, bytes, machine_id, clock_offset_s, simulated, {', '.join(COUNTS)}"
            " FROM batch JOIN spool USING (spool) WHERE id < ? ORDER BY id",
            (before_id,),
        )
        for id_, received, length, *counted in rows:
            if received >= too_old and size <= self._max_bytes:
                break
            gone.append(((id_, length), counted))
            size -= length
        rows.close()
        added = ", ".join(f"{name} = {name} + excluded.{name}" for name in COUNTS)
        for _, counted in gone:
            self._database.execute(
                f"INSERT INTO dropped (machine_id, clock_offset_s, simulated, {', '.join(COUNTS)}, batches)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, 1) ON CONFLICT DO UPDATE SET clock_offset_s = excluded.clock_offset_s,"
                f" simulated = excluded.simulated, batches = batches + 1, {added}",
                counted,
            )
        self._forget([batch for batch, _ in gone])
        return len(gone)

    def _forget(self, batches: Sequence[tuple[int, int]]) -> None:
        """Delete these batches, each given with its size."""
        for id_, length in batches:
            # The bound may have dropped it while it was on its way.
            if self._database.execute("DELETE FROM batch WHERE id = ?", (id_,)).rowcount:
                self._database.execute("DELETE FROM body WHERE id = ?", (id_,))
                self._batches -= 1
                self._bytes -= length
