"""Redfish against sushy-tools: its static service of a mockup of our own, and its emulator, which wants HTTP Basic.

Sessions, which sushy-tools does not know, are those of a small service after DSP0266.
"""

import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import bcrypt
import httpx
import msgspec
import pytest

from collector.meters.maps import load
from collector.meters.reader import Meters
from collector.meters.reading import Denied, MeterProblem, Reading
from collector.meters.redfish import RedfishDriver
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.settings import Meter
from tests.agents import wait_for
from tests.processes import free_port

TOOLS = Path(sys.executable).parent
PDU, CHASSIS = "/redfish/v1/PowerEquipment/RackPDUs", "/redfish/v1/Chassis"
ROOM = "/redfish/v1/PowerEquipment/Switchgear"


def collection(path: str, *names: str) -> dict[str, Any]:
    return {path: {"@odata.id": path, "Members": [{"@odata.id": f"{path}/{name}"} for name in names]}}


def sensor(name: str, reading: float | None, **more: object) -> dict[str, object]:
    """An excerpt of a sensor."""
    return {"DataSourceUri": f"{CHASSIS}/1/Sensors/{name}", "Reading": reading, **more}


# After the schemas of DSP8010: what they call things, and whether they are excerpts; numbers made up.
MOCKUP: dict[str, dict[str, Any]] = {
    "/redfish/v1": {"@odata.type": "#ServiceRoot.v1_17_0.ServiceRoot", "RedfishVersion": "1.20.0"},
    **collection(PDU, "1", "2"),
    f"{PDU}/1": {"@odata.type": "#PowerDistribution.v1_4_0.PowerDistribution", "SerialNumber": "29347ZT536"},
    f"{PDU}/1/Metrics": {
        "@odata.type": "#PowerDistributionMetrics.v1_4_0.PowerDistributionMetrics",
        "EnergykWh": sensor("PDUEnergy", 56_438.7),
        "PowerWatts": sensor("PDUPower", 6_438, ApparentVA=6_500, PowerFactor=0.99),
        "TemperatureCelsius": sensor("PDUTemp", 26.3),
    },
    f"{PDU}/1/Outlets/A1": {
        "@odata.type": "#Outlet.v1_4_4.Outlet",
        "EnergykWh": sensor("A1Energy", 12.5, LifetimeReading=36_166.25, SensorResetTime="2026-01-01T00:00:00Z"),
        "PowerWatts": {"@odata.id": f"{PDU}/1/Sensors/PowerA1"},
        "CurrentAmps": sensor("A1Current", 1.68),
    },
    f"{PDU}/1/Sensors/PowerA1": {"@odata.type": "#Sensor.v1_10_0.Sensor", "Reading": 197.4, "ReadingUnits": "W"},
    f"{PDU}/1/Mains/AC1": {
        "@odata.type": "#Circuit.v1_8_0.Circuit",
        "EnergykWh": sensor("MainsEnergy", 9_000),
        "PowerWatts": sensor("MainsPower", None),
        "PolyPhaseCurrentAmps": {f"Line{line}": sensor(f"I{line}", 10 + line) for line in (1, 2, 3)},
    },
    f"{ROOM}/MSB 1/Metrics": {"EnergykWh": sensor("Main", 81_234_567.8), "PowerWatts": sensor("Main", 1.2e6)},
    **collection(CHASSIS, "1", "2", "System.Embedded.1"),
    f"{CHASSIS}/1": {"SerialNumber": "SGH123"},
    f"{CHASSIS}/1/EnvironmentMetrics": {
        "@odata.type": "#EnvironmentMetrics.v1_4_0.EnvironmentMetrics",
        "PowerWatts": sensor("TotalPower", 5_310.5),
        "EnergykWh": {"DataSourceUri": f"{CHASSIS}/1/Sensors/Energy"},
    },
    f"{CHASSIS}/1/Sensors/Energy": {"@odata.type": "#Sensor.v1_10_0.Sensor", "Reading": 4_711.0625},
    f"{CHASSIS}/1/ThermalSubsystem/ThermalMetrics": {"TemperatureSummaryCelsius": {"Intake": sensor("Intake", 24.8)}},
    f"{CHASSIS}/1/PowerSubsystem/PowerSupplies/PS1/Metrics": {
        "@odata.type": "#PowerSupplyMetrics.v1_1_3.PowerSupplyMetrics",
        "InputPowerWatts": sensor("PS1In", 2_655),
        "InputCurrentAmps": sensor("PS1InI", 11.6),
    },
    f"{CHASSIS}/System.Embedded.1/Power": {
        "@odata.type": "#Power.v1_7_3.Power",
        "PowerControl": [{"MemberId": "0", "PowerConsumedWatts": 344, "PowerCapacityWatts": 1_600}],
    },
}


def write(folder: Path, path: str, content: dict[str, Any]) -> None:
    place = folder / path.removeprefix("/redfish/v1").lstrip("/") / "index.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(content))


@contextmanager
def running(command: list[str], url: str, **more: Any) -> Iterator[None]:
    """A server, from when it answers."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more) as process:
        try:
            for _ in range(400):
                try:
                    # Only whether it is there.
                    httpx.get(url, verify=ssl._create_unverified_context())  # noqa: S323
                    break
                except httpx.TransportError:
                    time.sleep(0.05)
            yield
        finally:
            process.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mockup")
    for path, content in MOCKUP.items():
        write(folder, path.replace(" ", "%20"), content)
    return folder


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[str]:
    """The address of a service of the mockup."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [str(TOOLS / "sushy-static"), "-i", "127.0.0.1", "-p", url.rpartition(":")[2], "-m", str(folder)]
    with running(command, f"{url}/redfish/v1"):
        yield url


def driver(url: str, map_: str, **more: Any) -> RedfishDriver:
    return RedfishDriver(Meter(name="pdu", driver="redfish", address=url, map=map_, **more), load(map_))


def read(url: str, map_: str, **index: str | int) -> Reading:
    return driver(url, map_, index=index).read()


def test_a_power_distribution_unit(service: str) -> None:
    began_s = time.monotonic()
    reading = read(service, "redfish-pdu", pdu=1)
    assert (reading.energy_mj, reading.power_mw) == (56_438_700_000 * 3_600, 6_438_000)
    assert (reading.temp_mc, reading.identity, reading.refused) == (26_300, "29347ZT536", ())
    assert reading.energy_wraps_mj is None
    assert began_s < reading.at_s < time.monotonic()


def test_switchgear_with_a_name_that_is_to_be_quoted(service: str) -> None:
    reading = read(service, "redfish-pdu", equipment="Switchgear", pdu="MSB 1")
    assert (reading.energy_mj, reading.power_mw) == (81_234_567_800_000 * 3_600, 1_200_000_000)
    assert reading.identity is None


def test_an_outlet_by_its_lifetime_and_by_a_link_to_a_sensor(service: str) -> None:
    reading = read(service, "redfish-outlet", pdu=1, outlet="A1")
    assert (reading.energy_mj, reading.power_mw, reading.current_ma) == (36_166_250_000 * 3_600, 197_400, 1_680)


def test_a_circuit_whose_power_is_not_known_now(service: str) -> None:
    reading = read(service, "redfish-circuit", pdu=1, circuit="AC1")
    assert (reading.energy_mj, reading.power_mw, reading.current_ma) == (9_000_000_000 * 3_600, None, 13_000)
    assert reading.refused == ()


def test_a_chassis_by_its_environment(service: str) -> None:
    reading = read(service, "redfish-chassis", chassis=1)
    assert (reading.energy_mj, reading.power_mw, reading.temp_mc) == (4_711_062_500 * 3_600, 5_310_500, 24_800)
    assert reading.identity == "SGH123"


def test_a_power_supply(service: str) -> None:
    reading = read(service, "redfish-power-supply", chassis=1, supply="PS1")
    assert (reading.energy_mj, reading.power_mw, reading.current_ma) == (None, 2_655_000, 11_600)


def test_a_controller_of_before_2020(service: str) -> None:
    assert read(service, "redfish-chassis-power", chassis="System.Embedded.1").power_mw == 344_000


def test_energy_never_changes_from_a_lifetime_to_what_can_be_reset(service: str, folder: Path) -> None:
    path = f"{PDU}/1/Outlets/B1"
    write(folder, path, {"EnergykWh": sensor("B1", 1, LifetimeReading=1_000), "PowerWatts": sensor("B1", 5)})
    meter = driver(service, "redfish-outlet", index={"pdu": 1, "outlet": "B1"})
    assert meter.read().energy_mj == 1_000_000_000 * 3_600
    write(folder, path, {"EnergykWh": sensor("B1", 2, LifetimeReading=None), "PowerWatts": sensor("B1", 5)})
    assert (meter.read().energy_mj, meter.read().power_mw) == (None, 5_000)
    write(folder, path, {"EnergykWh": sensor("B1", 3, LifetimeReading=1_002), "PowerWatts": sensor("B1", 5)})
    assert meter.read().energy_mj == 1_002_000_000 * 3_600


@pytest.mark.parametrize(
    ("map_", "index", "words"),
    [
        ("redfish-pdu", {}, rf"index\.pdu is not given, and {PDU} holds 1, 2$"),
        ("redfish-pdu", {"pdu": 3}, rf"there is no pdu 3, and {PDU} holds 1, 2$"),
        ("redfish-outlet", {"pdu": 1}, rf"index\.outlet is not given, and {PDU}/1/Outlets holds nothing"),
        ("redfish-chassis", {"chassis": "one"}, "there is no chassis 'one', and .* holds 1, 2, System.Embedded.1$"),
        ("redfish-chassis", {"chassis": 2}, "has none of the figures of the map redfish-chassis in .*/2/EnvironmentM"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(service: str, map_: str, index: dict[str, Any], words: str) -> None:
    with pytest.raises(MeterProblem) as caught:
        read(service, map_, **index)
    assert re.search(words, caught.value.problem), caught.value.problem
    assert caught.value.remedy


HOSTILE: dict[str, tuple[str, str]] = {
    "no JSON": ("<html>", "is no JSON"),
    "NaN": ('{"PowerWatts": NaN}', "is no JSON"),
    "deep": ("[" * 100_000, "is no JSON"),
    "another type": ('{"PowerWatts": {"Reading": [1]}}', "is no number"),
    "text": ('{"PowerWatts": {"Reading": "lots"}}', "'lots': it is no number"),
    "true": ('{"PowerWatts": true}', "PowerWatts is True"),
    "absurd": ('{"PowerWatts": {"Reading": 1e300}}', "no meter can have that"),
    "many digits": ('{"PowerWatts": ' + "9" * 5_000 + "}", "is no JSON"),
    "a list": ("[]", "has none of the figures"),
    "elsewhere": ('{"PowerWatts": {"@odata.id": "http://169.254.169.254/"}}', "has none of the figures"),
    "itself": ('{"PowerWatts": {"@odata.id": "/redfish/v1/Chassis/2/EnvironmentMetrics"}}', "has none of the figures"),
    "too long": (json.dumps({"a": "x" * 2_000_000}), "answers more than 1 MiB"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_answers_that_cannot_be_are_refused(kind: str, service: str, folder: Path) -> None:
    content, words = HOSTILE[kind]
    place = folder / "Chassis/2/EnvironmentMetrics/index.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(content)
    try:
        with pytest.raises(MeterProblem, match=words):
            read(service, "redfish-chassis", chassis=2)
    finally:
        place.unlink()


def test_https_with_a_certificate_of_its_own(folder: Path, tmp_path: Path) -> None:
    certificate, key = tmp_path / "pdu.pem", tmp_path / "pdu.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=pdu", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    url = f"https://127.0.0.1:{free_port()}"
    command = [str(TOOLS / "sushy-static"), "-i", "127.0.0.1", "-p", url.rpartition(":")[2], "-m", str(folder),
               "-c", str(certificate), "-k", str(key)]  # fmt: skip
    with running(command, f"{url}/redfish/v1"):
        meter = driver(url, "redfish-pdu", index={"pdu": 1}, ca_file=str(certificate))
        assert meter.read().power_mw == 6_438_000
        with pytest.raises(MeterProblem, match="is not trusted") as caught:
            read(url, "redfish-pdu", pdu=1)
    assert "ca_file" in caught.value.remedy


def secret(folder: Path, password: str) -> str:
    path = folder / password.replace(" ", "-")
    path.write_text(f"{password}\n", encoding="utf-8")
    return str(path)


def test_http_basic_where_there_are_no_sessions(tmp_path: Path) -> None:
    digest = bcrypt.hashpw("battery:stäple ✓".encode(), bcrypt.gensalt(4)).decode()
    (tmp_path / "passwords").write_text(f"admin:{digest}\n")
    (tmp_path / "settings").write_text(
        f"SUSHY_EMULATOR_FAKE_DRIVER = True\nSUSHY_EMULATOR_AUTH_FILE = {str(tmp_path / 'passwords')!r}\n"
        f"SUSHY_EMULATOR_STATE_DIR = {str(tmp_path)!r}\n"
    )
    url = f"http://127.0.0.1:{free_port()}"
    command = [str(TOOLS / "sushy-emulator"), "--config", str(tmp_path / "settings"), "-i", "127.0.0.1",
               "-p", url.rpartition(":")[2]]  # fmt: skip
    with running(command, f"{url}/redfish/v1", cwd=tmp_path, env={**os.environ, "PYTHONWARNINGS": "ignore"}):
        known = {"user": "admin", "secret_file": secret(tmp_path, "battery:stäple ✓")}
        with pytest.raises(MeterProblem, match=r"index\.chassis is not given, and /redfish/v1/Chassis holds") as caught:
            driver(url, "redfish-thermal", index={"sensor": 1}, **known).read()
        chassis = caught.value.problem.rpartition(" ")[2]
        assert driver(url, "redfish-thermal", index={"chassis": chassis, "sensor": 1}, **known).read().temp_mc == 25_000
        with pytest.raises(MeterProblem, match=r"does not let us in \(401\)") as caught:
            driver(url, "redfish-thermal", index={"chassis": chassis, "sensor": 1}).read()
        assert caught.value.remedy == "Set user and secret_file."


class Sessions(ThreadingHTTPServer):
    """A service with sessions, which notes what it is asked."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.tokens: set[str] = set()
        self.forbidden = False
        super().__init__(("127.0.0.1", 0), SessionsHandler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


class SessionsHandler(BaseHTTPRequestHandler):
    server: Sessions
    protocol_version = "HTTP/1.1"

    def answer(self, status: int, content: Any = None, **headers: str) -> None:
        body = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.server.asked.append(f"POST {self.path}")
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if given != {"UserName": "admin", "Password": "battery staple"}:
            self.answer(401)
            return
        token = f"token{len(self.server.asked)}"
        self.server.tokens.add(token)
        self.answer(201, {}, X_Auth_Token=token, Location=f"{self.server.url}{self.path}/{token}")

    def do_GET(self) -> None:
        self.server.asked.append(f"GET {self.path}")
        if self.headers.get("X-Auth-Token") not in self.server.tokens:
            self.answer(401)
        elif self.server.forbidden:
            self.answer(403)
        elif self.path in MOCKUP:
            self.answer(200, MOCKUP[self.path])
        else:
            self.answer(404)

    def do_DELETE(self) -> None:
        self.server.asked.append(f"DELETE {self.path}")
        self.server.tokens.discard(self.path.rpartition("/")[2])
        self.answer(204)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def sessions() -> Iterator[Sessions]:
    with Sessions() as server:
        yield server
        server.shutdown()


def test_one_session_serves_all_readings_and_is_ended(sessions: Sessions, tmp_path: Path) -> None:
    known = {"user": "admin", "secret_file": secret(tmp_path, "battery staple")}
    meter = driver(sessions.url, "redfish-chassis-power", index={"chassis": "System.Embedded.1"}, **known)
    assert [meter.read().power_mw, meter.read().power_mw] == [344_000, 344_000]
    assert [it for it in sessions.asked if not it.startswith("GET")] == ["POST /redfish/v1/SessionService/Sessions"]
    sessions.tokens.clear()
    assert meter.read().power_mw == 344_000, "it logs in anew where the service has forgotten the session"
    meter.close()
    assert sessions.tokens == set()
    assert sessions.asked[-1].startswith("DELETE /redfish/v1/SessionService/Sessions/token")
    assert meter.read().power_mw == 344_000, "it may be read again"


def test_a_wrong_password_is_not_tried_until_the_account_is_locked(sessions: Sessions, tmp_path: Path) -> None:
    known = {"user": "admin", "secret_file": secret(tmp_path, "correct horse")}
    meter = driver(sessions.url, "redfish-chassis-power", index={"chassis": 1}, **known)
    with pytest.raises(Denied, match=r"does not let us in \(401\)") as caught:
        meter.read()
    assert (caught.value.exit_code, caught.value.of_account) == (ExitCode.CONFIGURATION, True)
    assert "horse" not in str(caught.value)
    assert sessions.asked == ["POST /redfish/v1/SessionService/Sessions"], "one failure each time"


def test_that_an_account_is_left_alone_is_told_with_its_remedy(sessions: Sessions, tmp_path: Path) -> None:
    known = {"user": "admin", "secret_file": secret(tmp_path, "correct horse")}
    its = Meter(
        name="pdu", driver="redfish", address=sessions.url, map="redfish-chassis-power", index={"chassis": 1},
        interval_s=1, **known,
    )  # fmt: skip
    meters = Meters((its, msgspec.structs.replace(its, name="other")), 10, 0, {})
    meters.start()
    wait_for("attempt", lambda: sessions.asked)
    time.sleep(1.5)
    meters.tick(60_000)
    meters.shut()
    (event,) = meters.take()
    assert event.kind == "meter_silent"
    for words in (
        "Meters pdu, other",
        "does not let us in (401). Check user and secret_file",
        "not tried again before",
    ):
        assert words in event.message
    assert len(sessions.asked) == 1, "for both meters, and at the second interval no more"


def test_an_account_that_may_not_read_this_is_no_wrong_password(sessions: Sessions, tmp_path: Path) -> None:
    known = {"user": "admin", "secret_file": secret(tmp_path, "battery staple")}
    sessions.forbidden = True
    with pytest.raises(Denied, match=r"does not let us in \(403\)") as caught:
        driver(sessions.url, "redfish-chassis-power", index={"chassis": 1}, **known).read()
    assert not caught.value.of_account
    assert sessions.asked[-1].startswith("DELETE"), "the session is not left open"


def test_one_that_hangs_or_is_not_there_is_given_up_in_time() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as silent:
        # It listens, and nobody answers.
        url = f"http://127.0.0.1:{silent.server_address[1]}"
        began_s = time.monotonic()
        with pytest.raises(MeterProblem, match=r"does not answer within 0\.3 s"):
            driver(url, "redfish-chassis", index={"chassis": 1}, timeout_s=0.3).read()
        assert time.monotonic() - began_s < 5
    with pytest.raises(MeterProblem, match="cannot be reached"):
        read(url, "redfish-chassis", chassis=1)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"address": "https://admin:battery@pdu"}, "is not of the form https://HOST:443 or http://HOST:80"),
        ({"address": "ftp://pdu"}, "is not of the form"),
        ({"address": "https://pdu:port"}, "'pdu:port' of a meter is not HOST or HOST:PORT"),
        ({"user": "admin"}, "has user alone"),
        ({"ca_file": "/nowhere"}, "'/nowhere' of the meter pdu cannot be used: No such file"),
        ({"ca_file": __file__}, "of the meter pdu cannot be used: .*NO_CERTIFICATE"),
        ({"index": {"unit": 1}}, "no such word"),
    ],
)
def test_settings_that_do_not_fit_are_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(GigawatchError, match=words) as caught:
        driver(**{"url": more.pop("address", "https://pdu"), "map_": "redfish-chassis", **more})
    assert caught.value.exit_code == ExitCode.CONFIGURATION
    assert "battery" not in str(caught.value)
