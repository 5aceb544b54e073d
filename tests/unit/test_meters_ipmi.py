"""Power by IPMI, through ipmitool itself: DCMI from pyghmi's RMCP+ server, sensors from OpenIPMI's ipmi_sim."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from collector.meters import reader
from collector.meters.ipmi import IpmiDriver
from collector.meters.maps import load
from collector.meters.reader import Reader
from collector.meters.reading import Denied, MeterProblem
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.settings import Meter
from tests.processes import free_port

PASSWORD = "correct-horse"
SENSOR = b"Pwr Consumption"
# IPMI 2.0, table 43-1: a full sensor record of sensor 1, whose byte counts steps of 4 W from 0 W on.
RECORD = bytes([
    0, 0, 0x51, 1, 43 + len(SENSOR),
    0x20, 0, 1, 0x13, 1, 0x7F, 0, 0x0B, 1, *[0] * 6, 0, 6, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0, *[0] * 11,
    0xC0 | len(SENSOR), *SENSOR,
])  # fmt: skip


@pytest.fixture
def secret_file(tmp_path: Path) -> str:
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    path.chmod(0o600)
    return str(path)


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[tuple[int, Callable[..., None]]]:
    """The port of a controller that knows DCMI, and how to say what it tells."""
    port, path = free_port(socket.SOCK_DGRAM), tmp_path / "told.json"

    def tell(watts: int = 412, state: int = 0x40, code: int = 0) -> None:
        path.write_text(json.dumps({"watts": watts, "state": state, "code": code}))

    tell()
    command = [sys.executable, "-m", "tests.bmc", str(port), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield port, tell
        process.kill()


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[int]:
    """The port of a controller without DCMI, that has a sensor of power."""
    port = free_port(socket.SOCK_DGRAM)
    (tmp_path / "lan.conf").write_text(
        f"""name "gigawatch"
        set_working_mc 0x20
        startlan 1
          addr 127.0.0.1 {port}
          priv_limit admin
          allowed_auths_user none md2 md5 straight
          allowed_auths_admin none md2 md5 straight
          guid a123456789abcdefa123456789abcdef
        endlan
        user 2 true "admin" "{PASSWORD}" admin 10 none md2 md5 straight
        """
    )
    (tmp_path / "commands").write_text(
        f"""mc_setbmc 0x20
        mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
        sel_enable 0x20 1000 0x0a
        main_sdr_add 0x20 {" ".join(hex(it) for it in RECORD)}
        sensor_add 0x20 0 1 0x0b 0x01
        sensor_set_value 0x20 0 1 103 0
        mc_enable 0x20
        """
    )
    command = ["ipmi_sim", "-c", "lan.conf", "-f", "commands", "-n", "-s", str(tmp_path / "state")]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=tmp_path) as process:
        ping = b"\x06\x00\xff\x06\x00\x00\x11\xbe\x80\x01\x00\x00"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as it:
            it.settimeout(0.1)
            for _ in range(100):
                it.sendto(ping, ("127.0.0.1", port))
                try:
                    it.recv(100)
                    break
                except OSError:
                    time.sleep(0.05)
        yield port
        process.kill()


def driver(port: int, secret_file: str, map_: str = "ipmi-dcmi", **more: object) -> IpmiDriver:
    settings = Meter(
        name="node",
        driver="ipmi",
        address=f"127.0.0.1:{port}",
        map=map_,
        **{"user": "admin", "secret_file": secret_file, **more},
    )
    return IpmiDriver(settings, load(map_))


def test_power_by_dcmi(controller: tuple[int, Callable[..., None]], secret_file: str) -> None:
    port, tell = controller
    meter = driver(port, secret_file)
    began_s = time.monotonic()
    reading = meter.read()
    assert (reading.power_mw, reading.energy_mj, reading.refused) == (412_000, None, ())
    assert began_s < reading.at_s < time.monotonic()
    tell(watts=5_301)
    assert meter.read().power_mw == 5_301_000
    meter.close()
    assert meter.read().power_mw == 5_301_000


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"state": 0}, "412 W: the measurement is deactivated"),
        ({"watts": 0}, "the meter says by it that it has no value"),
        ({"watts": 65_535}, "more than 1.2 times rated_kw"),
        ({"code": 0xC1}, "Invalid command"),
        ({"code": 0xD4}, "Insufficient privilege"),
    ],
)
def test_what_is_no_power_is_refused(
    told: dict[str, int], words: str, controller: tuple[int, Callable[..., None]], secret_file: str
) -> None:
    port, tell = controller
    tell(**told)
    with pytest.raises(MeterProblem, match=words) as caught:
        driver(port, secret_file, rated_kw=10).read()
    assert caught.value.remedy


def test_a_sensor_tells_power_where_there_is_no_dcmi(simulator: int, secret_file: str) -> None:
    # Asked for its cipher suites, the simulator is silent for 10 s.
    assert driver(simulator, secret_file, "ipmi-sensor", index={"cipher": 3}).read().power_mw == 412_000
    with pytest.raises(MeterProblem, match="there is no sensor 'PSU1'"):
        driver(simulator, secret_file, "ipmi-sensor", index={"cipher": 3, "sensor": "PSU1"}).read()
    with pytest.raises(MeterProblem, match="nsufficient privilege") as caught:
        driver(simulator, secret_file, index={"cipher": 3}).read()
    assert "index.privilege" in caught.value.remedy


def test_a_wrong_password_is_told_without_it(
    controller: tuple[int, Callable[..., None]], secret_file: str, tmp_path: Path
) -> None:
    (tmp_path / "wrong").write_text("battery staple\n")
    with pytest.raises(Denied, match="does not let ipmitool in: > RAKP 2 HMAC is invalid") as caught:
        driver(controller[0], str(tmp_path / "wrong")).read()
    assert "battery" not in str(caught.value)
    assert "secret_file" in caught.value.remedy


def test_a_user_that_is_not_there_is_no_silence(simulator: int, secret_file: str) -> None:
    with pytest.raises(Denied, match="does not let ipmitool in: RAKP 2 message indicates an error : unauthorized name"):
        driver(simulator, secret_file, "ipmi-sensor", index={"cipher": 3}, user="nobody").read()


def test_a_password_that_is_wrong_is_tried_ever_more_seldom(
    controller: tuple[int, Callable[..., None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries, secret, real = tmp_path / "tries", tmp_path / "secret", shutil.which("ipmitool")
    (tmp_path / "ipmitool").write_text(f'#!/bin/sh\necho >> {tries}\nexec {real} "$@"\n')
    (tmp_path / "ipmitool").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(reader, "LEAST_PAUSE_S", 1.0)
    secret.write_text("battery staple\n")
    meters = [(it._settings, it) for it in (driver(controller[0], str(secret), timeout_s=10.0) for _ in range(2))]
    its = Reader("bmc", meters)

    def problems() -> list[str]:
        return [its._read(*meter).problem for meter in meters]

    told = problems()
    assert problems() == told, "of the one that was tried, and of the one that has the same account"
    assert "HMAC is invalid. Check user and secret_file" in told[0]
    assert re.search(r"not tried again before \d\d:\d\d UTC", told[0])
    assert tries.read_text().count("\n") == 1
    time.sleep(1)
    problems()
    time.sleep(1)
    problems()
    assert tries.read_text().count("\n") == 2, "the second pause is twice as long"
    secret.write_text(f"{PASSWORD}\n")
    time.sleep(1)
    assert problems() == ["", ""]
    assert problems() == ["", ""]


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a program in ipmitool's place, that prints a line and fails."""

    def show(line: str) -> None:
        program = tmp_path / "ipmitool"
        program.write_text(f'#!/bin/sh\necho "{line}" >&2\nexit 1\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return show


def test_the_password_is_in_no_command_line(shown: Callable[[str], None], secret_file: str) -> None:
    shown("$LC_ALL $*")
    with pytest.raises(MeterProblem, match=r"C -v -I lanplus -H 127\.0\.0\.1 -p 623 -L OPERATOR -U admin -f") as caught:
        driver(623, secret_file, index={"privilege": "operator"}).read()
    assert PASSWORD not in str(caught.value)


def test_one_that_does_not_answer_is_given_up_in_time(secret_file: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        began_s = time.monotonic()
        with pytest.raises(MeterProblem, match=r"does not answer ipmitool within 0\.3 s"):
            driver(silent.getsockname()[1], secret_file, timeout_s=0.3).read()
        assert time.monotonic() - began_s < 5


def test_this_machine_without_a_controller_says_what_is_missing(shown: Callable[[str], None]) -> None:
    # As ipmitool 1.8.19 says it; the machine that runs the tests may have a controller.
    shown("$3: Could not open device at /dev/ipmi0 or /dev/ipmi/0 or /dev/ipmidev/0: No such file or directory")
    meter = IpmiDriver(Meter(name="node", driver="ipmi", address="local", map="ipmi-dcmi"), load("ipmi-dcmi"))
    with pytest.raises(MeterProblem, match="open: Could not open device") as caught:
        meter.read()
    assert "ipmi_devintf" in caught.value.remedy


def test_a_machine_without_ipmitool_says_so(secret_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MeterProblem, match="ipmitool is not installed"):
        driver(623, secret_file).read()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"user": None}, "has secret_file alone"),
        ({"secret_file": None}, "has user alone"),
        ({"user": None, "secret_file": None}, "has no user"),
        ({"secret_file": "/nowhere"}, "cannot be read: No such file"),
        ({"address": "https://bmc"}, "'https://bmc' of a meter is not HOST or HOST:PORT"),
        ({"index": {"privilege": "root"}}, "index.privilege of the meter node is 'ROOT'"),
        ({"index": {"cipher": "best"}}, "index.cipher of the meter node is 'best'"),
        ({"index": {"unit": 3}}, "no such word"),
    ],
)
def test_settings_that_do_not_fit_are_refused(more: dict[str, object], words: str, secret_file: str) -> None:
    given = {"name": "node", "driver": "ipmi", "address": "bmc", "map": "ipmi-dcmi", "user": "admin"}
    with pytest.raises(GigawatchError, match=words) as caught:
        IpmiDriver(Meter(**{**given, "secret_file": secret_file, **more}), load("ipmi-dcmi"))
    assert caught.value.exit_code == ExitCode.CONFIGURATION
