"""The spool: durable, numbered, bounded, and honest about what it dropped."""

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from collector.meters.register import Mark as MeterReading
from collector.meters.register import MeterMark
from collector.spool import Checkpoint, Dropped, Spool, SpoolFull, Windows
from collector.windows import Mark
from gigawatch.errors import GigawatchError
from gigawatch.records import Gpu

CHECKPOINT = Checkpoint("boot-1", 12_345, {"GPU-1": Mark(12_000, 99)}, (Gpu(uuid="GPU-1", index=0, model="H100"),))
COUNTED = Windows(gpu=8, node=1, serving=2, meter=40)


def test_batches_come_out_in_order_and_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.sqlite", 512, 72)
    spool_id = spool.spool_id
    for body in (b"a", b"b"):
        assert spool.append(body, Windows(1), CHECKPOINT) is None
    spool.remove(0)
    spool.close()

    spool = Spool(tmp_path / "spool.sqlite", 512, 72)
    assert spool.spool_id == spool_id
    assert spool.checkpoint() == CHECKPOINT
    spool.append(b"c", Windows(1), None)
    assert spool.checkpoint() == CHECKPOINT
    taken = []
    while (waiting := spool.first()) is not None:
        assert waiting.oldest_seq == waiting.seq
        taken.append((waiting.seq, waiting.body))
        spool.remove(waiting.seq)
    assert taken == [(1, b"b"), (2, b"c")]
    spool.close()


def test_a_checkpoint_is_read_by_the_version_before_and_the_one_after() -> None:
    class Before(msgspec.Struct, frozen=True):
        boot_id: str | None
        closed_ms: int
        marks: dict[str, Mark]
        gpus: tuple[Gpu, ...]

    before = Before("boot-1", 12_345, {"GPU-1": Mark(12_000, 99)}, CHECKPOINT.gpus)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(before), type=Checkpoint) == CHECKPOINT
    meters = {"main": MeterMark(MeterReading(12_000, 10**15, -5, 3_600), None, "serial 7")}
    after = msgspec.structs.replace(CHECKPOINT, meters=meters)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(after), type=Checkpoint) == after
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(after), type=Before) == before


def test_an_emptied_spool_does_not_number_from_the_start(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.sqlite", 512, 72)
    spool.append(b"a", Windows(1), None)
    spool.remove(0)
    spool.close()
    spool = Spool(tmp_path / "spool.sqlite", 512, 72)
    spool.append(b"b", Windows(1), None)
    waiting = spool.first()
    assert waiting is not None
    assert waiting.seq == 1
    spool.close()


def test_the_file_shrinks_as_batches_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite"
    spool = Spool(path, 512, 72)
    for _ in range(50):
        spool.append(bytes(100_000), Windows(1), None)
    spool.close()
    assert path.stat().st_size > 5_000_000
    spool = Spool(path, 512, 72)
    for seq in range(50):
        spool.remove(seq)
    spool.close()
    assert path.stat().st_size < 50_000


def test_the_bound_in_size_drops_the_oldest_and_counts(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.sqlite", 1, 72)
    body = bytes(300_000)
    assert [spool.append(body, COUNTED, None) for _ in range(4)] == [None, None, None, Dropped(1, COUNTED)]
    waiting = spool.first()
    assert waiting is not None
    assert waiting.seq == waiting.oldest_seq == 1
    assert spool.waiting() == 3
    spool.close()


def test_the_bound_in_age_drops_the_oldest(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.sqlite", 512, 1e-9)
    assert spool.append(b"a", COUNTED, None) is None
    assert spool.append(b"b", COUNTED, None) == Dropped(1, COUNTED)
    spool.close()


def test_what_was_dropped_is_told_kind_by_kind() -> None:
    assert str(COUNTED + Windows(meter=2)) == "8 GPU windows, 1 node windows, 2 serving windows, 42 meter windows"
    assert str(Windows(meter=2)) == "2 meter windows"
    assert str(Windows()) == "no windows"


def test_a_spool_of_the_version_before_goes_on(tmp_path: Path) -> None:
    before = sqlite3.connect(tmp_path / "spool.sqlite")
    before.executescript("""
        CREATE TABLE batch (seq INTEGER PRIMARY KEY, created REAL NOT NULL, gpu_windows INTEGER NOT NULL,
            body BLOB NOT NULL);
        CREATE TABLE state (name TEXT PRIMARY KEY, value NOT NULL);
        INSERT INTO batch VALUES (0, 0, 8, x'00');
        INSERT INTO state VALUES ('spool_id', 'before'), ('next_seq', '1');""")
    before.close()
    spool = Spool(tmp_path / "spool.sqlite", 512, 72)
    assert spool.spool_id == "before"
    assert spool.append(b"b", COUNTED, None) == Dropped(1, Windows(gpu=8))
    spool.close()


def test_a_batch_survives_sigkill_the_moment_append_returns(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from collector.spool import Spool, Windows\n"
        "spool = Spool(Path(sys.argv[1]), 512, 72); spool.append(b'kept', Windows(1), None)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "spool.sqlite"
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False, cwd=Path.cwd())
    assert done.returncode == -signal.SIGKILL
    waiting = Spool(path, 512, 72).first()
    assert waiting is not None
    assert waiting.body == b"kept"


def test_a_second_agent_on_the_same_spool_is_refused(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.sqlite", 512, 72)
    spool.append(b"a", Windows(1), None)
    program = "import sys; from pathlib import Path; from collector.spool import Spool; Spool(Path(sys.argv[1]), 1, 1)"
    second = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "spool.sqlite")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode != 0
    assert "another agent uses it" in second.stderr
    spool.close()


def test_a_full_disk_is_told_and_nothing_is_half_stored(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.sqlite", 512, 72)
    spool.append(b"a", Windows(1), None)
    spool._database.execute("PRAGMA max_page_count = 1")  # what SQLite itself offers to be full
    with pytest.raises(SpoolFull, match="full"):
        spool.append(bytes(1_000_000), Windows(1), CHECKPOINT)
    assert spool.waiting() == 1
    assert spool.checkpoint() is None
    spool._database.execute("PRAGMA max_page_count = 1000000")
    spool.append(b"b", Windows(1), CHECKPOINT)
    assert spool.waiting() == 2
    spool.close()


def test_a_file_that_is_no_spool_is_named(tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite"
    path.write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(GigawatchError, match="cannot be opened"):
        Spool(path, 512, 72)


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.sqlite", 512, 72)
    assert spool.path.stat().st_mode & 0o077 == 0
    spool.close()
