"""Meters and engines named by a name server that hangs: a real look-up, by a resolver that is told a silent server."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from collector.names import connect, look_up

NAME_SERVER = "127.83.83.83"
SCRIPT = """
import json, sys, time
from gigawatch.errors import GigawatchError
from gigawatch.settings import Meter
from collector.meters.drivers import driver

took = {}
for kind, map_, address in (
    ("modbus", "schneider-pm5000", "meter.example"),
    ("snmp", "ups-rfc1628", "meter.example"),
    ("redfish", "redfish-pdu", "https://meter.example"),
    ("prometheus", "kepler", "http://meter.example/metrics"),
    ("mqtt", "tasmota", "mqtts://meter.example"),
    ("ipmi", "ipmi-dcmi", "meter.example"),
):
    index = {"redfish": {"pdu": "1"}, "mqtt": {"device": "d"}, "prometheus": {"zone": "package"}}.get(kind, {})
    login = {"user": "u", "secret_file": sys.argv[1]} if kind == "ipmi" else {}
    its = driver(Meter(name="m", driver=kind, map=map_, address=address, index=index, timeout_s=0.5, **login))
    for turn in ("first", "again"):
        began_s = time.monotonic()
        try:
            its.read()
            said = "read"
        except GigawatchError as error:
            said = error.problem
        took[f"{kind} {turn}"] = (time.monotonic() - began_s, said)
    its.close()
print(json.dumps(took))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a process a resolver of its own")
def test_a_name_server_that_hangs_costs_a_meter_its_time_limit_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text(f"nameserver {NAME_SERVER}\n")
    (tmp_path / "secret").write_text("pass\n")
    (tmp_path / "script.py").write_text(SCRIPT)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((NAME_SERVER, 53))
        bind = f'mount --bind {tmp_path}/resolv.conf /etc/resolv.conf && exec "$@"'
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", bind, "sh", sys.executable, tmp_path / "script.py", tmp_path / "secret"],
            capture_output=True, text=True, check=False, timeout=60, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert silent.recv(512), "it was asked"
    assert done.returncode == 0, done.stderr
    took = json.loads(done.stdout.splitlines()[-1])
    assert len(took) == 12
    for which, (seconds, said) in took.items():
        assert seconds < 3, f"{which} took {seconds} s: {said}"
        # ipmitool is ended; what reads a broker's messages may be asked before its look-up is given up.
        if not which.startswith(("ipmi", "mqtt")):
            assert "no name server told the address of meter.example within 0.5 s" in said, which


def test_those_who_ask_for_the_same_name_wait_for_one_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, ending, real = [], threading.Event(), socket.getaddrinfo

    def hang(host: str, *more: object, flags: int = 0, **named: object) -> object:
        if not flags:
            asked.append(host)
            ending.wait(10)
            host = "127.0.0.1"
        return real(host, *more, flags=flags, **named)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    began_s = time.monotonic()
    for _ in range(3):
        with pytest.raises(socket.gaierror, match=r"within 0\.05 s"):
            look_up("meter.example", 502, socket.SOCK_STREAM, 0.05)
    assert time.monotonic() - began_s < 1
    assert asked == ["meter.example"]
    ending.set()
    assert [it.address for it in look_up("meter.example", 502, socket.SOCK_STREAM, 5)] == [("127.0.0.1", 502)]


def test_the_first_address_that_takes_the_connection_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port, real = server.getsockname()[1], socket.getaddrinfo

        def two(host: str, *more: object, flags: int = 0, **named: object) -> object:
            if flags:
                return real(host, *more, flags=flags, **named)
            return [it for host in ("127.0.0.9", "127.0.0.1") for it in real(host, *more, **named)]

        monkeypatch.setattr(socket, "getaddrinfo", two)
        with connect("meter.example", port, 1) as its:
            assert its.getpeername() == ("127.0.0.1", port)
    with pytest.raises(ConnectionRefusedError):
        connect("meter.example", port, 1)
