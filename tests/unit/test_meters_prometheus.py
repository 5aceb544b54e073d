"""Meters that somebody serves in Prometheus' format: prometheus_client's own server, and exporters' expositions."""

import base64
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from collector.meters.maps import load
from collector.meters.prometheus import PrometheusDriver
from collector.meters.reader import Reader
from collector.meters.reading import Denied, MeterProblem, Reading
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.settings import Meter


def driver(url: str, map_: str, **more: Any) -> PrometheusDriver:
    return PrometheusDriver(Meter(name="m", driver="prometheus", address=url, map=map_, **more), load(map_))


def read(url: str, map_: str, **index: str | int) -> Reading:
    return driver(url, map_, index=index).read()


@pytest.fixture
def registry() -> Iterator[tuple[str, CollectorRegistry]]:
    """prometheus_client's server, and what it serves."""
    registry = CollectorRegistry()
    server, thread = start_http_server(0, "127.0.0.1", registry)
    yield f"http://127.0.0.1:{server.server_address[1]}/metrics", registry
    server.shutdown()
    server.server_close()
    thread.join()


def test_kepler(registry: tuple[str, CollectorRegistry]) -> None:
    url, served = registry
    # The names and labels of Kepler's docs/user/metrics.md.
    labels = ("zone", "path", "node_name")
    joules = Counter("kepler_node_cpu_joules_total", "Energy", labels, registry=served)
    watts = Gauge("kepler_node_cpu_watts", "Power", labels, registry=served)
    for zone, factor in (("package", 1), ("core", 0.5), ("dram", 0.25)):
        joules.labels(zone, f"/sys/{zone}", "n1").inc(123_456_789.25 * factor)
        watts.labels(zone, f"/sys/{zone}", "n1").set(412.5 * factor)
    meter = driver(url, "kepler")
    began_s = time.monotonic()
    reading = meter.read()
    assert (reading.energy_mj, reading.power_mw, reading.refused) == (123_456_789_250, 412_500, ())
    assert began_s < reading.at_s < time.monotonic()
    joules.labels("package", "/sys/package", "n1").inc(1)
    assert meter.read().energy_mj == 123_456_790_250
    meter.close()
    assert meter.read().energy_mj == 123_456_790_250
    assert read(url, "kepler", zone="dram").power_mw == 103_125
    with pytest.raises(
        MeterProblem, match='no series kepler_node_cpu_joules_total with zone="psys", among 3: node_name="n1", path='
    ):
        read(url, "kepler", zone="psys")
    joules.labels("package", "/sys/package-1", "n1").inc(1)
    with pytest.raises(
        MeterProblem, match='2 series kepler_node_cpu_joules_total with zone="package", among 4'
    ) as caught:
        read(url, "kepler")
    assert "index" in caught.value.remedy
    assert caught.value.exit_code == ExitCode.CONFIGURATION


def test_ipmi_exporter(registry: tuple[str, CollectorRegistry]) -> None:
    url, served = registry
    power = Gauge("ipmi_dcmi_power_consumption_watts", "Current power consumption in Watts.", registry=served)
    power.set(417)
    reading = read(url, "ipmi-exporter")
    assert (reading.power_mw, reading.energy_mj) == (417_000, None)
    power.set(float("nan"))
    with pytest.raises(MeterProblem, match="'nan': it is no number"):
        read(url, "ipmi-exporter")
    power.set(5_000)
    with pytest.raises(MeterProblem, match=r"more than 1\.2 times rated_kw"):
        driver(url, "ipmi-exporter", rated_kw=2).read()


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[str, list[Any]]]]:
    """Serves one answer, and notes what it is asked."""
    servers = []

    def start(content: str, status: int = 200, content_type: str = "text/plain") -> tuple[str, list[Any]]:
        asked: list[Any] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.headers)
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.end_headers()
                self.wfile.write(content.encode())

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/snmp?target=pdu", asked

    yield start
    for it in servers:
        it.shutdown()
        it.server_close()


# As snmp_exporter writes PowerNet-MIB's rPDU2DeviceStatusTable by its module apcups; numbers made up.
RPDU2 = """\
# HELP rPDU2DeviceStatusEnergy A user re-settable energy meter - 1.3.6.1.4.1.318.1.1.26.4.3.1.9
# TYPE rPDU2DeviceStatusEnergy gauge
rPDU2DeviceStatusEnergy{rPDU2DeviceStatusIndex="1"} 170982
rPDU2DeviceStatusEnergy{rPDU2DeviceStatusIndex="2"} -1
# HELP rPDU2DeviceStatusPower The power consumption of the Rack PDU load - 1.3.6.1.4.1.318.1.1.26.4.3.1.5
# TYPE rPDU2DeviceStatusPower gauge
rPDU2DeviceStatusPower{rPDU2DeviceStatusIndex="1"} 538
rPDU2DeviceStatusPower{rPDU2DeviceStatusIndex="2"} 1.234e+03
"""


def test_snmp_exporter(serve: Callable[..., tuple[str, list[Any]]]) -> None:
    url, _ = serve(RPDU2)
    reading = read(url, "snmp-exporter-apc")
    assert (reading.energy_mj, reading.power_mw, reading.refused) == (170_982 * 360_000_000, 5_380_000, ())
    reading = read(url, "snmp-exporter-apc", unit=2)
    assert (reading.energy_mj, reading.power_mw) == (None, 12_340_000)
    assert reading.refused == ("energy: '-1': the meter says by it that it has no value",)


def test_user_and_password(serve: Callable[..., tuple[str, list[Any]]], tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("battery stäple ✓\n", encoding="utf-8")
    url, asked = serve(RPDU2)
    known = {"user": "gateway", "secret_file": str(tmp_path / "secret")}
    driver(url, "snmp-exporter-apc", **known).read()
    assert asked[0]["Authorization"] == f"Basic {base64.b64encode('gateway:battery stäple ✓'.encode()).decode()}"
    assert asked[0]["User-Agent"].startswith("gigawatch/")
    for status in (401, 403):
        url, asked = serve("", status)
        with pytest.raises(Denied, match=f"answers {status}") as caught:
            driver(url, "snmp-exporter-apc", **known).read()
        assert caught.value.of_account == (status == 401)
        assert "battery" not in str(caught.value)
        assert "secret_file" in caught.value.remedy
        with pytest.raises(MeterProblem, match=f"answers {status}") as caught_without:
            driver(url, "snmp-exporter-apc").read()
        assert not isinstance(caught_without.value, Denied), "without a password there is no account to lock"
        its = driver(url, "snmp-exporter-apc", **known)
        reader, before = Reader("exporter", [(its._settings, its)]), len(asked)
        told = [reader._read(its._settings, its).problem for _ in range(3)]
        assert told == [told[0]] * 3
        assert len(asked) == before + 1, "it is left alone"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (("<html>",), "answers with a web page"),
        (("", 404), "answers 404"),
        (("", 503), "answers 503"),
        (("up 1\n",), "serves none of the series of the map snmp-exporter-apc"),
        (("rPDU2DeviceStatusPower{ 5\n",), "is not in Prometheus' format"),
        (('rPDU2DeviceStatusPower{rPDU2DeviceStatusIndex="1"} +Inf\n',), "tells nothing that can be"),
    ],
)
def test_answers_that_cannot_be_are_refused(
    answer: tuple[Any, ...], words: str, serve: Callable[..., tuple[str, list[Any]]]
) -> None:
    with pytest.raises(MeterProblem, match=words) as caught:
        read(serve(*answer)[0], "snmp-exporter-apc")
    assert caught.value.remedy
    assert "engine" not in str(caught.value)


def test_one_that_hangs_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/metrics"
        began_s = time.monotonic()
        with pytest.raises(MeterProblem, match=r"does not answer within 0\.3 s"):
            driver(url, "kepler", timeout_s=0.3).read()
        assert time.monotonic() - began_s < 5
    with pytest.raises(MeterProblem, match="Is the exporter running"):
        read(url, "kepler")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"url": "exporter:9100"}, "is not of the form http://HOST:PORT/PATH"),
        ({"url": "http://admin:battery@exporter/metrics"}, "is not of the form"),
        ({"index": {"unit": 1}}, "no such word"),
        ({"user": "gateway"}, "has user alone"),
    ],
)
def test_settings_that_do_not_fit_are_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(GigawatchError, match=words) as caught:
        driver(**{"url": "http://exporter/metrics", "map_": "kepler", **more})
    assert caught.value.exit_code == ExitCode.CONFIGURATION
    assert "battery" not in str(caught.value)
