"""Meters that send messages, over a real broker: Debian's mosquitto."""

import gc
import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from collector.meters.maps import load
from collector.meters.mqtt import MqttDriver
from collector.meters.reader import Reader
from collector.meters.reading import Denied, MeterProblem, Reading
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.settings import Meter
from tests.processes import free_port

MOSQUITTO = "/usr/sbin/mosquitto"


class Broker:
    """mosquitto with a configuration, and a device that sends through it."""

    def __init__(self, folder: Path, lines: str, port: int = 0) -> None:
        self.port = port or free_port()
        # As root it would become another user, who cannot read the test's files.
        (folder / "mosquitto.conf").write_text(f"user root\nlistener {self.port} 127.0.0.1\n{lines}\n")
        self._process = subprocess.Popen(
            [MOSQUITTO, "-c", str(folder / "mosquitto.conf")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(1_000):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                time.sleep(0.02)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def send(self, topic: str, content: Any, *, retain: bool = False) -> None:
        """Send a message, as text, bytes or JSON, and wait until the broker has it."""
        device = Client(CallbackAPIVersion.VERSION2)
        device.connect("127.0.0.1", self.port)
        device.loop_start()
        payload = content if isinstance(content, str | bytes) else json.dumps(content)
        device.publish(topic, payload, qos=1, retain=retain).wait_for_publish(5)
        device.disconnect()
        device.loop_stop()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    it = Broker(tmp_path, "allow_anonymous true")
    yield it
    it.stop()


Make = Callable[..., MqttDriver]


@pytest.fixture
def driver() -> Iterator[Make]:
    """Makes drivers, and closes them."""
    drivers = []

    def make(address: str, map_: str, **more: Any) -> MqttDriver:
        settings = Meter(name="m", driver="mqtt", address=address, map=map_, **{"timeout_s": 0.3, **more})
        drivers.append(MqttDriver(settings, load(map_)))
        return drivers[-1]

    yield make
    for it in drivers:
        it.close()


def read(meter: MqttDriver, fits: Callable[[Reading], bool] = lambda _: True) -> Reading:
    """What it tells, as soon as what was sent has come."""
    until_s = time.monotonic() + 30
    while True:
        try:
            reading = meter.read()
        except MeterProblem:
            if time.monotonic() > until_s:
                raise
        else:
            if fits(reading) or time.monotonic() > until_s:
                return reading
        time.sleep(0.02)


def silent(meter: MqttDriver, words: str) -> MeterProblem:
    """Why it tells nothing, as soon as that is so for this reason."""
    until_s = time.monotonic() + 30
    while True:
        with pytest.raises(MeterProblem) as caught:
            meter.read()
        if re.search(words, caught.value.problem) or time.monotonic() > until_s:
            break
        time.sleep(0.02)
    assert re.search(words, caught.value.problem), caught.value.problem
    assert caught.value.remedy
    return caught.value


# tasmota.github.io/docs/MQTT and a message of a plug with Tasmota; numbers made up.
TASMOTA = {
    "Time": "2026-11-28T10:00:00",
    "ENERGY": {
        "TotalStartTime": "2025-10-21T22:15:00", "Total": 3.705, "Yesterday": 0.028, "Today": 0.026, "Period": 1,
        "Power": 1_805, "ApparentPower": 1_850, "ReactivePower": 30, "Factor": 0.97, "Voltage": 233, "Current": 7.742,
    },
}  # fmt: skip


def test_a_plug_with_tasmota(broker: Broker, driver: Make) -> None:
    meter = driver(broker.address, "tasmota", index={"device": "rack-12"})
    silent(meter, "no message came on tele/rack-12/SENSOR in the")
    sent_s = time.monotonic()
    broker.send("tele/rack-12/SENSOR", TASMOTA)
    reading = read(meter)
    assert (reading.energy_mj, reading.power_mw, reading.current_ma) == (3_705_000 * 3_600, 1_805_000, 7_742)
    assert sent_s <= reading.at_s <= time.monotonic()
    assert meter.read() == reading, "nothing new came: it is the same reading, of the same moment"
    broker.send("tele/rack-12/SENSOR", TASMOTA)
    assert read(meter, lambda it: it.at_s > reading.at_s).at_s > reading.at_s


# The names of shelly-api-docs.shelly.cloud, EM and EMData; numbers made up.
EM = {
    "id": 0, "a_current": 4.029, "b_current": 4.027, "c_current": 3.9, "n_current": None, "total_current": 11.083,
    "a_act_power": 951.2, "b_act_power": 951.1, "c_act_power": 582.482, "total_act_power": 2_484.782,
}  # fmt: skip
EMDATA = {"id": 0, "a_total_act_energy": 1.0, "total_act": 73_206.42, "total_act_ret": 5.0}


def test_a_shelly_of_three_phases_whose_energy_and_power_come_apart(broker: Broker, driver: Make) -> None:
    meter = driver(broker.address, "shelly-3em", index={"device": "shellypro3em-0123"})
    silent(meter, "no message came on shellypro3em-0123/status/emdata:0")
    broker.send("shellypro3em-0123/status/em:0", EM)
    silent(meter, "no message came on shellypro3em-0123/status/emdata:0")
    broker.send("shellypro3em-0123/status/emdata:0", EMDATA)
    reading = read(meter, lambda it: it.power_mw is not None)
    assert (reading.energy_mj, reading.power_mw, reading.current_ma) == (73_206_420 * 3_600, 2_484_782, 4_029)
    assert reading.least_phase_mw == 582_482
    broker.send("shellypro3em-0123/status/em:0", {**EM, "total_act_power": 9.0})
    later = read(meter, lambda it: it.power_mw == 9_000)
    assert (later.power_mw, later.at_s) == (9_000, reading.at_s), "a reading is of the moment of its energy"


def test_shellies_of_other_kinds(broker: Broker, driver: Make) -> None:
    switch = driver(broker.address, "shelly-switch", index={"device": "rack/pm", "channel": 3})
    single = driver(broker.address, "shelly-em1", index={"device": "rack/em"})
    silent(switch, "rack/pm/status/switch:3")
    silent(single, "rack/em/status/em1data:0")
    broker.send("rack/pm/status/switch:3", {"apower": 8.9, "current": 0.066, "aenergy": {"total": 6.532}})
    broker.send("rack/em/status/em1:0", {"act_power": -501.8, "current": 2.598})
    broker.send("rack/em/status/em1data:0", {"total_act_energy": 2_776_175.11})
    reading = read(switch)
    assert (reading.energy_mj, reading.power_mw, reading.current_ma) == (6_532 * 3_600, 8_900, 66)
    reading = read(single, lambda it: it.power_mw is not None)
    assert (reading.energy_mj, reading.power_mw) == (2_776_175_110 * 3_600, -501_800)


def test_plain_numbers_on_topics_by_a_map_of_your_own(broker: Broker, driver: Make, tmp_path: Path) -> None:
    path = tmp_path / "heat.toml"
    path.write_text(
        'driver = "mqtt"\ntitle = "Heat"\nsources = ["a test"]\n[index]\nloop = { about = "which loop" }\n[readings]\n'
        'energy = { topic = "hall/{loop}/energy", unit = "MWh" }\n'
        'power = [{ topic = "hall/{loop}/power", value = "0.{loop}", unit = "kW" },'
        ' { topic = "hall/{loop}/power", value = "1.2.kw", unit = "kW" }]\n'
        'identity = { topic = "hall/{loop}/serial" }\n'
    )
    broker.send("hall/a/serial", "4711-08", retain=True)
    meter = driver(broker.address, str(path), index={"loop": "a"})
    silent(meter, "no message came on hall/a/energy")
    broker.send("hall/a/energy", "  1234.5678\n")
    broker.send("hall/a/power", [{"a": "12.5"}, [0, 1, {"kw": 1e1}]])
    reading = read(meter, lambda it: it.power_mw is not None and it.identity is not None)
    assert (reading.energy_mj, reading.power_mw) == (1_234_567_800_000 * 3_600, 22_500_000)
    assert reading.identity == "4711-08", "who it is may be retained"


def test_a_retained_message_is_no_reading(broker: Broker, driver: Make) -> None:
    broker.send("gateway/meter", {"energy_kwh": 100}, retain=True)
    meter = driver(broker.address, "mqtt-json", index={"topic": "gateway/meter"})
    silent(meter, "a retained message alone came on gateway/meter, of an age that nobody knows")
    broker.send("gateway/meter", {"energy_kwh": 148, "volume_m3": 1.25, "temp_c": 21.5}, retain=True)
    reading = read(meter)
    assert (reading.energy_mj, reading.volume_ml, reading.temp_mc) == (148_000_000 * 3_600, 1_250_000, 21_500)


def test_a_meter_that_sends_no_more_is_silent_after_three_intervals(broker: Broker, driver: Make) -> None:
    meter = driver(broker.address, "mqtt-json", index={"topic": "m"}, interval_s=1)
    silent(meter, "no message came")
    broker.send("m", {"energy_kwh": 1})
    assert read(meter).energy_mj == 3_600_000_000
    time.sleep(2.2)
    assert meter.read().energy_mj == 3_600_000_000
    time.sleep(1)
    silent(meter, r"the last message on m came \d s ago")
    broker.send("m", {"energy_kwh": 2})
    assert read(meter).energy_mj == 7_200_000_000


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is no JSON"),
    "no JSON": (b"\xff\xfe\x00", "is no JSON"),
    "deep": (b"[" * 60_000, "is no JSON"),
    "too long": (b'{"energy_kwh": 1, "a": "' + b"x" * 70_000 + b'"}', "longer than 65536 bytes"),
    "NaN": (b'{"energy_kwh": NaN}', "is no JSON"),
    "absurd": (b'{"energy_kwh": 1e999999}', "no meter can have that"),
    "negative": (b'{"energy_kwh": -5}', "no meter can have that"),
    "text": (b'{"energy_kwh": "on"}', "it is no number"),
    "an object": (b'{"energy_kwh": {"a": 1}}', "is no number"),
    "other names": (b'{"kwh": 5}', "have none of the figures of the map mqtt-json"),
    "a number": (b"5", "have none of the figures"),
    "another digit": ('{"energy_kwh": "٣"}'.encode(), "it is no number"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_messages_that_cannot_be_are_refused(kind: str, broker: Broker, driver: Make) -> None:
    content, words = HOSTILE[kind]
    meter = driver(broker.address, "mqtt-json", index={"topic": "m"})
    silent(meter, "no message came")
    broker.send("m", content)
    silent(meter, words)
    broker.send("m", {"energy_kwh": 5, "power_w": "off"})
    reading = read(meter)
    assert reading.energy_mj == 18_000_000_000, "the next message is read as if nothing had been"
    assert reading.refused == ("power: 'off': it is no number",)


def test_user_and_password(tmp_path: Path, driver: Make) -> None:
    passwords = tmp_path / "passwords"
    passwords.touch()
    passwords.chmod(0o600)
    subprocess.run(["mosquitto_passwd", "-b", str(passwords), "gateway", "battery staple"], check=True)
    (tmp_path / "rights").write_text("user gateway\ntopic read hall/#\n")
    (tmp_path / "right").write_text("battery staple\n")
    (tmp_path / "wrong").write_text("correct horse\n")
    broker = Broker(tmp_path, f"allow_anonymous false\npassword_file {passwords}\nacl_file {tmp_path / 'rights'}")
    try:
        known = {"index": {"topic": "hall/m"}, "user": "gateway"}
        silent(driver(broker.address, "mqtt-json", secret_file=str(tmp_path / "right"), **known), "no message came")
        wrong = driver(broker.address, "mqtt-json", secret_file=str(tmp_path / "wrong"), **known)
        problem = silent(wrong, "not let us in")
        assert problem.exit_code == ExitCode.CONFIGURATION
        assert "horse" not in str(problem)
        # Left alone: the next reading does not ask, although the password is right by now.
        its = Reader(broker.address, [(wrong._settings, wrong)])
        told = its._read(wrong._settings, wrong).problem
        assert re.search(r"Check user and secret_file\. Lest the account be locked .* before \d\d:\d\d UTC", told)
        (tmp_path / "wrong").write_text("battery staple\n")
        assert its._read(wrong._settings, wrong).problem == told
        nobody = silent(driver(broker.address, "mqtt-json", index={"topic": "hall/m"}), "not let us in: Not authorized")
        assert not isinstance(nobody, Denied), "without a password there is no account to lock"
        assert nobody.remedy == "Set user and secret_file."
    finally:
        broker.stop()


# paho leaves the socket of a TLS handshake that fails to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning")
def test_mqtts_with_certificates(tmp_path: Path, driver: Make) -> None:
    certificate, key = tmp_path / "broker.pem", tmp_path / "broker.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=mqtt", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    plain = free_port()
    broker = Broker(
        tmp_path, f"certfile {certificate}\nkeyfile {key}\nlistener {plain} 127.0.0.1\nallow_anonymous true"
    )
    try:
        meter = driver(
            f"mqtts://{broker.address}", "mqtt-json", index={"topic": "m"}, ca_file=str(certificate), timeout_s=2
        )
        silent(meter, "no message came")
        broker.port = plain
        broker.send("m", {"power_w": 5})
        assert read(meter).power_mw == 5_000
        tls_port = int(meter._at.port)
        silent(
            driver(f"mqtts://127.0.0.1:{tls_port}", "mqtt-json", index={"topic": "m"}),
            "is not trusted: .*VERIFY_FAILED",
        )
    finally:
        broker.stop()
        gc.collect()


def test_a_broker_that_goes_and_comes_back_is_read_anew(tmp_path: Path, driver: Make) -> None:
    broker = Broker(tmp_path, "allow_anonymous true")
    meter = driver(broker.address, "mqtt-json", index={"topic": "m"})
    silent(meter, "no message came")
    broker.stop()
    silent(meter, "ended the connection")
    silent(meter, "cannot be reached: .*refused")
    again = Broker(tmp_path, "allow_anonymous true", broker.port)
    try:
        silent(meter, "no message came")
        again.send("m", {"energy_kwh": 1})
        assert read(meter).energy_mj == 3_600_000_000
    finally:
        again.stop()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", r"does not answer within 0\.3 s"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", r"does not answer within 0\.3 s"),
        (b"\x20\x02\x00\x00\x30\x03\x00\x09m", "ended the connection: Protocol error"),
        (b"\x20\x02\x00\x00\x30\x05\x00\x01\xffhi", "no message came"),
        (b"\x20\x00", "ended the connection|sends what is no MQTT"),
        (b"\xff" * 200, "ended the connection|sends what is no MQTT"),
    ],
)
def test_one_that_is_no_broker_is_refused_in_time(answer: bytes, words: str, driver: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ending = threading.Event()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1_000)
                connection.sendall(answer)
                ending.wait(5)

        thread = threading.Thread(target=serve)
        thread.start()
        began_s = time.monotonic()
        silent(driver(f"127.0.0.1:{server.getsockname()[1]}", "mqtt-json", index={"topic": "m"}), words)
        assert time.monotonic() - began_s < 4
        ending.set()
        thread.join()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"address": "http://broker"}, "is not of the form mqtt://HOST:1883 or mqtts://HOST:8883"),
        ({"ca_file": __file__}, "has ca_file, and its address is not encrypted"),
        ({"index": {"topic": "hall/+"}}, "makes the topics hall/\\+"),
        ({"index": {}}, "wants index.topic: the topic of the messages"),
        ({"user": "gateway"}, "has user alone"),
        ({"address": "mqtts://broker", "ca_file": __file__}, "cannot be used"),
    ],
)
def test_settings_that_do_not_fit_are_refused(more: dict[str, Any], words: str, driver: Make) -> None:
    with pytest.raises(GigawatchError, match=words) as caught:
        driver(**{"address": "broker", "map_": "mqtt-json", "index": {"topic": "m"}, **more})
    assert caught.value.exit_code == ExitCode.CONFIGURATION
