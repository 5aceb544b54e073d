"""Meters to read: pymodbus' own server, and the SNMP agent of net-snmp."""

import asyncio
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import cast

from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from tests.processes import free_port

Image = Mapping[tuple[str, int], list[int]]
"""Registers by function ("holding" or "input") and the address of the first."""
READY_TIMEOUT_S = 60

# What net-snmp asks of a program that passes values on, on its standard input. It reads the values at every question.
PASS = """
import pathlib, sys
def oids():
    lines = pathlib.Path(sys.argv[1]).read_text().splitlines()
    return {oid: (kind, value) for oid, kind, value in (line.split("|", 2) for line in lines)}
while question := sys.stdin.readline().strip():
    if question == "PING":
        print("PONG", flush=True)
        continue
    oid = sys.stdin.readline().strip().lstrip(".")
    known = oids()
    if question == "getnext":
        order = lambda it: [int(part) for part in it.split(".")]
        oid = next((it for it in sorted(known, key=order) if order(it) > order(oid)), "")
    print("\\n".join(("." + oid, *known[oid])) if oid in known else "NONE", flush=True)
"""


def registers(kind: str, number: float) -> list[int]:
    """The registers of a number, its greatest digits first."""
    encoded = struct.pack(f">{kind}", number)
    return [int.from_bytes(encoded[at : at + 2], "big") for at in range(0, len(encoded), 2)]


@contextmanager
def modbus_server(units: Mapping[int, Image]) -> Iterator[int]:
    """A server of Modbus TCP with these meters, on a port of 127.0.0.1; registers that are in no image are refused."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(_serve(units), loop).result(READY_TIMEOUT_S)
    try:
        yield cast("asyncio.Server", server.transport).sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(_stop(server), loop).result(READY_TIMEOUT_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(READY_TIMEOUT_S)
        loop.close()


async def _serve(units: Mapping[int, Image]) -> ModbusTcpServer:
    # A device wants coils and inputs too.
    bit = [SimData(0, values=[False], datatype=DataType.BITS)]
    devices = []
    for unit, image in units.items():
        blocks: dict[str, list[SimData]] = {"holding": [], "input": []}
        for (function, address), values in sorted(image.items()):
            blocks[function].append(SimData(address, values=values, datatype=DataType.REGISTERS))
        empty = [SimData(65_535, datatype=DataType.INVALID)]
        devices.append(SimDevice(unit, simdata=(bit, bit, blocks["holding"] or empty, blocks["input"] or empty)))
    server = ModbusTcpServer(devices, address=("127.0.0.1", 0))
    await server.serve_forever(background=True)
    return server


async def _stop(server: ModbusTcpServer) -> None:
    await server.shutdown()  # type: ignore[no-untyped-call] # pymodbus declares no type for it


class SnmpAgent:
    """net-snmp's snmpd on a port of 127.0.0.1, whose values are the test's: by OID, the type and the value."""

    def __init__(self, folder: Path, users: str = "", port: int | None = None) -> None:
        self._folder = folder
        self._users = users
        self.port = port or free_port(socket.SOCK_DGRAM)
        self._process: subprocess.Popen[bytes] | None = None

    def serve(self, values: Mapping[str, tuple[str, object]]) -> None:
        """Serve these values from now on."""
        lines = (f"{oid}|{kind}|{value}\n" for oid, (kind, value) in values.items())
        (self._folder / "new").write_text("".join(lines))
        (self._folder / "new").rename(self._folder / "values")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._folder.mkdir(exist_ok=True)
        self.serve({})
        (self._folder / "pass.py").write_text(PASS)
        passes = "".join(
            f"pass_persist .{oid} {sys.executable} {self._folder / 'pass.py'} {self._folder / 'values'}\n"
            for oid in (
                "1.3.6.1.4.1.318",
                "1.3.6.1.4.1.1718",
                "1.3.6.1.4.1.13742",
                "1.3.6.1.4.1.21239",
                "1.3.6.1.2.1.33",
            )
        )
        configuration = self._folder / "snmpd.conf"
        configuration.write_text(f"rocommunity public 127.0.0.1\n{self._users}{passes}")
        with (self._folder / "snmpd.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["/usr/sbin/snmpd", "-f", "-Lo", "-C", "-c", str(configuration), f"udp:127.0.0.1:{self.port}"],
                env={**os.environ, "SNMP_PERSISTENT_DIR": str(self._folder / "persistent"), "MIBS": ""},
                stdout=log,
                stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + READY_TIMEOUT_S
        while b"NET-SNMP version" not in (self._folder / "snmpd.log").read_bytes():
            assert time.monotonic() < deadline and self._process.poll() is None, (
                self._folder / "snmpd.log"
            ).read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop it."""
        if self._process:
            self._process.terminate()
            self._process.wait(READY_TIMEOUT_S)
