"""Meters behind a Modbus TCP gateway: a process of its own that counts energy and can be hung, killed and replaced.

    python -m tests.modbus_meter PORT FOLDER

What each meter is and does stands in FOLDER/UNIT.json, as the test writes it; each answer with its register goes to
FOLDER/UNIT.journal, with the meter's serial number. Registers are those of FOLDER/map.toml.
"""

import json
import os
import signal
import socketserver
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.processes import free_port

MAP = """\
title = "A meter of the tests"
driver = "modbus"
sources = ["tests/modbus_meter.py"]
[readings.energy]
register = 0
type = "uint32"
unit = "mWh"
wraps_at = 4_294_967_296
[readings.power]
register = 2
type = "float32"
unit = "W"
[readings.identity]
register = 4
type = "uint32"
"""
MJ_PER_MWH = 3_600


class ModbusMeters:
    """The gateway as a test starts, hangs and kills it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.map = folder / "map.toml"
        self.map.write_text(MAP, encoding="utf-8")
        self._process: subprocess.Popen[str] | None = None

    def set(self, unit: int, **state: Any) -> None:
        """Let a meter be so from now on: watts, serial, first_mwh (its register when it began), began_s, fault (garbage
        or silent)."""
        path = self.folder / f"{unit}.json"
        known = json.loads(path.read_text()) if path.exists() else {"serial": 1, "first_mwh": 0, "began_s": time.time()}
        (self.folder / "new").write_text(json.dumps({**known, **state}), encoding="ascii")
        (self.folder / "new").rename(path)

    def start(self) -> "ModbusMeters":
        """Start it and wait until it takes connections."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.modbus_meter", str(self.port), str(self.folder)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None and self._process.stdout.readline()
        return self

    def signal(self, number: int) -> None:
        """SIGSTOP: its port takes connections, and nothing is answered; SIGCONT goes on."""
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None and self._process.stdout is not None
        if self._process.poll() is None:
            self.signal(signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()

    def told_mj(self, unit: int) -> list[tuple[int, int]]:
        """Serial number and register of each answer, in order."""
        lines = (self.folder / f"{unit}.journal").read_text(encoding="ascii").splitlines()
        answers = [tuple(map(int, line.split())) for line in lines]
        return [(serial, mwh * MJ_PER_MWH) for serial, mwh in answers]

    def counted_mj(self, unit: int) -> frozenset[int]:
        """What a meter counted between its first answer and its last: a busy machine's may have come too late."""
        told = [mj for _, mj in self.told_mj(unit)]
        return frozenset(last - first for first in told[:4] for last in told[-2:])


class Handler(socketserver.BaseRequestHandler):
    folder: Path

    def handle(self) -> None:
        while header := self.request.recv(7, 0x100):  # MSG_WAITALL
            transaction, _, length, unit = struct.unpack(">HHHB", header)
            _, address, count = struct.unpack(">BHH", self.request.recv(length - 1, 0x100))
            path = self.folder / f"{unit}.json"
            state = json.loads(path.read_text()) if path.exists() else {"fault": "silent"}
            if state.get("fault") == "silent":
                time.sleep(60)
            registers = self.registers(state, unit)[address : address + count]
            body = struct.pack(f">BB{count}H", 3, 2 * count, *registers)
            if state.get("fault") == "garbage":
                body = bytes(byte ^ 0xA5 for byte in body)
            self.request.sendall(struct.pack(">HHHB", transaction, 0, len(body) + 1, unit) + body)

    def registers(self, state: dict[str, Any], unit: int) -> tuple[int, ...]:
        mwh = state["first_mwh"] + round(state["watts"] * (time.time() - state["began_s"]) / 3.6)
        if state.get("fault") != "garbage":
            with (self.folder / f"{unit}.journal").open("a", encoding="ascii") as file:
                file.write(f"{state['serial']} {mwh}\n")
        return struct.unpack(">6H", struct.pack(">IfI", mwh % 2**32, state["watts"], state["serial"]))


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def main() -> None:
    Handler.folder = Path(sys.argv[2])
    with Server(("127.0.0.1", int(sys.argv[1])), Handler) as server:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    main()
