"""Batches that wait to be sent, in an SQLite file: nothing is lost while the server is away or the agent restarts.

Each batch is committed to disk with its number and with the checkpoint that the next agent goes on from, in one
transaction. The file has a bound in size and age; what the bound drops is counted and reported.
"""

import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import add, sub
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from collector.meters.register import MeterMark
from collector.windows import Mark
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.records import Assignment, Gpu
from gigawatch.units import BYTES_PER_MIB, SECONDS_PER_HOUR

SCHEMA = """
CREATE TABLE IF NOT EXISTS batch (seq INTEGER PRIMARY KEY, created REAL NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value NOT NULL);
"""
COUNTS = ("gpu_windows", "node_windows", "serving_windows", "meter_windows")
"""Columns of a batch, and of what was dropped."""
MOST_FREED_PAGES = 1_024
"""Given back to the disk by one removal: a backlog of any size does not keep the agent waiting."""


class Checkpoint(Struct, frozen=True):
    """What the next agent on this node goes on from."""

    boot_id: str | None
    """The counters' epoch: after a reboot the marks are void."""
    closed_ms: int
    """Up to when windows were handed out."""
    marks: dict[str, Mark]
    """By GPU: up to where its energy was handed out."""
    gpus: tuple[Gpu, ...]
    """GPUs that the node has, the lost ones too."""
    serves: Mapping[str, tuple[Assignment, ...]] = {}
    """By GPU: what it served; so it did, for all that is known, until the next agent looks."""
    meters: Mapping[str, MeterMark] = {}
    """By meter: up to where what it counted was handed out; a reboot of this node is nothing to it."""


class Waiting(Struct, frozen=True):
    """A batch in the spool."""

    seq: int
    oldest_seq: int
    body: bytes


class Windows(Struct, frozen=True):
    """How many windows of each kind."""

    gpu: int = 0
    node: int = 0
    serving: int = 0
    meter: int = 0

    def __add__(self, other: "Windows") -> "Windows":
        """Those of both."""
        return Windows(*map(add, astuple(self), astuple(other)))

    def __sub__(self, other: "Windows") -> "Windows":
        """Those that the other has not."""
        return Windows(*map(sub, astuple(self), astuple(other)))

    def __str__(self) -> str:
        """In words, those that there are."""
        names = ("GPU", "node", "serving", "meter")
        found = [f"{count} {name} windows" for name, count in zip(names, astuple(self), strict=True) if count]
        return ", ".join(found) or "no windows"


class Dropped(Struct, frozen=True):
    """What the bound cost."""

    batches: int
    windows: Windows


class SpoolFull(Exception):
    """The disk takes no more: the batch was not stored."""


@contextmanager
def opening(path: Path, user: str) -> Iterator[None]:
    """Turn what can go wrong with the file of an agent or a relay into an error that says what to do."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        in_use = "locked" in str(error)
        raise GigawatchError(
            f"The spool {path} cannot be opened: {f'another {user} uses it' if in_use else error}",
            f"One {user} runs per node and data directory: stop the other."
            if in_use
            else "Check the folder's owner and free space, or choose another --data-dir.",
            ExitCode.CONFIGURATION,
        ) from error


def count_windows(database: sqlite3.Connection, table: str) -> None:
    """Have a table count windows: one made by an earlier version may have fewer of these columns, or none."""
    known = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
    for name in COUNTS:
        if name not in known:
            database.execute(f"ALTER TABLE {table} ADD COLUMN {name} INTEGER NOT NULL DEFAULT 0")


def connect(path: Path, schema: str, cache_kib: int) -> sqlite3.Connection:
    """A connection for several threads to a durable file that nobody else has open; made if absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=5)
    path.chmod(0o600)
    # First of all: it does nothing once the file has content.
    database.execute("PRAGMA auto_vacuum = INCREMENTAL")
    # One writer: another process on the same spool would number its batches alike.
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("PRAGMA journal_mode = WAL")
    # A number must never be used twice, not after a power failure either.
    database.execute("PRAGMA synchronous = FULL")
    database.execute(f"PRAGMA cache_size = -{cache_kib}")
    database.executescript(schema)
    return database


class Spool:
    """The file, for use by several threads.

    Args:
        path: the file; made if absent.
        max_mib: bound of its size.
        max_age_h: bound of a batch's age.

    Raises:
        GigawatchError: the file cannot be opened, or is not a spool.
    """

    def __init__(self, path: Path, max_mib: int, max_age_h: float) -> None:
        self.path = path
        self._max_bytes = max_mib * BYTES_PER_MIB
        self._max_age_s = max_age_h * SECONDS_PER_HOUR
        self._lock = threading.Lock()
        with opening(path, "agent"):
            self._database = connect(path, SCHEMA, cache_kib=512)
            count_windows(self._database, "batch")
            self.spool_id = self._state("spool_id") or self._begin()
            self._next_seq = int(self._state("next_seq") or 0)

    def append(self, body: bytes, windows: Windows, checkpoint: Checkpoint | None) -> Dropped | None:
        """Store a batch durably, with the checkpoint if one is given; returns what had to go for it.

        Raises:
            SpoolFull: the disk takes no more.
        """
        with self._lock:
            try:
                self._database.execute("BEGIN IMMEDIATE")
                seq = self._next_seq
                self._database.execute(
                    f"INSERT INTO batch (seq, created, body, {', '.join(COUNTS)}) VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (seq, time.time(), body, *astuple(windows)),
                )
                self._database.execute("INSERT OR REPLACE INTO state VALUES ('next_seq', ?)", (str(seq + 1),))
                if checkpoint is not None:
                    self._database.execute(
                        "INSERT OR REPLACE INTO state VALUES ('checkpoint', ?)",
                        (msgspec.msgpack.encode(checkpoint),),
                    )
                dropped = self._drop()
                self._database.execute("COMMIT")
            except sqlite3.Error as error:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise SpoolFull(str(error)) from error
            self._next_seq = seq + 1
            return dropped

    def first(self) -> Waiting | None:
        """The oldest batch."""
        with self._lock:
            row = self._database.execute("SELECT seq, body FROM batch ORDER BY seq LIMIT 1").fetchone()
        return None if row is None else Waiting(row[0], row[0], row[1])

    def remove(self, seq: int) -> None:
        """Forget a batch that the server has stored, or will never take."""
        with self._lock:
            self._database.execute("DELETE FROM batch WHERE seq = ?", (seq,))
            # As a script, since execute() ends it after its first page.
            self._database.executescript(f"PRAGMA incremental_vacuum({MOST_FREED_PAGES})")

    def waiting(self) -> int:
        """How many batches wait."""
        with self._lock:
            return int(self._database.execute("SELECT count(*) FROM batch").fetchone()[0])

    def checkpoint(self) -> Checkpoint | None:
        """What an earlier agent left; None if there was none, or one of another version."""
        with self._lock:
            value = self._state("checkpoint")
        try:
            return None if value is None else msgspec.msgpack.decode(value, type=Checkpoint)
        except msgspec.DecodeError:
            return None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def _state(self, name: str) -> Any:
        row = self._database.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def _begin(self) -> str:
        spool_id = uuid.uuid4().hex
        self._database.execute("INSERT INTO state VALUES ('spool_id', ?)", (spool_id,))
        return spool_id

    def _drop(self) -> Dropped | None:
        """Drop the oldest batches until the bounds hold, but never the newest."""
        oldest = time.time() - self._max_age_s
        size = self._database.execute("SELECT coalesce(sum(length(body)), 0) FROM batch").fetchone()[0]
        rows = self._database.execute(
            f"SELECT seq, created, length(body), {', '.join(COUNTS)} FROM batch WHERE seq < ? ORDER BY seq",
            (self._next_seq,),
        )
        gone, windows = [], Windows()
        for seq, created, length, *counts in rows:
            if created >= oldest and size <= self._max_bytes:
                break
            gone.append((seq,))
            size -= length
            windows += Windows(*counts)
        self._database.executemany("DELETE FROM batch WHERE seq = ?", gone)
        return Dropped(len(gone), windows) if gone else None
