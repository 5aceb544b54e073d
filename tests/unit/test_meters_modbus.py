"""Registers of every shipped map, and of meters that misbehave, are read over Modbus TCP."""

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from threading import Thread

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.meters import maps
from collector.meters.maps import ModbusMap
from collector.meters.modbus import ModbusDriver
from collector.meters.reading import MeterProblem, Reading
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.settings import Meter
from tests.meters import Image, modbus_server, registers

KWH_MJ = 3_600_000_000
TIMEOUT_S = 0.3


def swapped(kind: str, number: float) -> list[int]:
    """The registers of a number, its least digits first."""
    return registers(kind, number)[::-1]


# By map: registers as its document has them, and what they say.
SHIPPED: dict[str, tuple[Image, Reading]] = {
    # Registers 3204, 3060, 3000 … and 130, counted from 1.
    "schneider-pm5000": (
        {
            ("holding", 3_203): registers("q", 1_234_567_890),
            ("holding", 3_053): [
                *registers("f", 140.25), *registers("f", 137.25), *registers("f", 135.0), *registers("f", 412.5),
            ],
            ("holding", 2_999): registers("f", 600.5) + registers("f", 610.25) + registers("f", 590.0),
            ("holding", 129): registers("I", 3_000_123_456),
        },
        Reading(at_s=0, energy_mj=1_234_567_890 * 3_600_000, power_mw=412_500_000, least_phase_mw=135_000_000,
                current_ma=610_250, identity="3000123456"),
    ),
    "schneider-ion": (
        {
            ("holding", 3_203): registers("q", 9_007_199_254_740_993),
            ("holding", 2_999): [
                *registers("f", 4_000.0) * 3, *[0] * 48, *registers("f", -900.5), *registers("f", -799.5),
                *registers("f", -800.0), *registers("f", -2_500.0),
            ],
        },
        # More Wh than a double can count: 9 007 199 254 740 993 Wh are too much for the store, see below.
        Reading(at_s=0, power_mw=-2_500_000_000, least_phase_mw=-900_500_000, current_ma=4_000_000),
    ),
    # 19012 … 19069, from 0.
    "janitza-umg96": (
        {
            ("holding", 19_012): [
                *registers("f", 12.5), *registers("f", 13.0), *registers("f", 11.75), *[0] * 2,
                *registers("f", 2_876.0), *registers("f", 2_874.25), *registers("f", 2_875.25),
                *registers("f", 8_625.5), *[0] * 40, *registers("f", 16_777_216.0),
            ],
        },
        Reading(at_s=0, energy_mj=16_777_216 * 3_600_000, power_mw=8_625_500, least_phase_mw=2_874_250,
                current_ma=13_000),
    ),
    # The least 16 bits first; 0.1 kWh, 0.1 W, 0.001 A. 1,234,567.8 kWh are 0x00BC614E.
    "carlo-gavazzi-em24": (
        {
            ("input", 0x34): [0x614E, 0x00BC], ("input", 0x28): swapped("i", -123_456),
            ("input", 0x0C): swapped("i", 16_384) + swapped("i", -20_001) + swapped("i", 0),
            ("input", 0x12): swapped("i", 40_000) + swapped("i", -163_456) + swapped("i", 0),
        },
        Reading(at_s=0, energy_mj=12_345_678 * KWH_MJ // 10, power_mw=-12_345_600, least_phase_mw=-16_345_600,
                current_ma=20_001),
    ),
    "carlo-gavazzi-em24-rs485": (
        {
            ("input", 0x42): swapped("i", 7), ("input", 0x28): swapped("i", 70_000),
            ("input", 0x0C): swapped("i", 1) * 3,
            ("input", 0x12): swapped("i", 30_000) + swapped("i", 20_000) + swapped("i", 20_000),
        },
        Reading(at_s=0, energy_mj=7 * KWH_MJ // 10, power_mw=7_000_000, least_phase_mw=2_000_000, current_ma=1),
    ),
    # Eastron's document has 43 66 33 34 (hexadecimal) for 230.2 as its example of a float.
    "eastron-sdm630": (
        {
            ("input", 0x48): registers("f", 1_024.5), ("input", 0x34): [0x4366, 0x3334],
            ("input", 0x06): registers("f", 1.5) + registers("f", 0.0) + registers("f", 2.25),
            ("input", 0x0C): registers("f", 90.0) + registers("f", 0.0) + registers("f", 140.25),
        },
        Reading(at_s=0, energy_mj=round(1_024.5 * KWH_MJ), power_mw=230_200, least_phase_mw=0, current_ma=2_250),
    ),
}  # fmt: skip


def meter(port: int, **changes: object) -> Meter:
    """The settings of a meter on a port of this machine."""
    given = {"name": "m", "driver": "modbus", "address": f"127.0.0.1:{port}", "map": "m", "timeout_s": 5.0, **changes}
    return Meter(**given)


def test_every_shipped_map_is_read() -> None:
    assert set(SHIPPED) == {name for name, it in maps.maps().items() if isinstance(it, ModbusMap)}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_map(name: str) -> None:
    image, expected = SHIPPED[name]
    with modbus_server({1: {("holding", 9): [0]}, 17: image}) as port:
        driver = ModbusDriver(meter(port, index={"unit": 17}), maps.load(name))
        told = driver.read()
        again = driver.read()
        driver.close()
    assert again.at_s >= told.at_s
    assert msgspec.structs.replace(told, at_s=0, refused=(), raws={}) == expected
    too_much = "energy: 9007199254740993: no meter can have that"
    assert told.refused == ((too_much,) if name == "schneider-ion" else ())


FORMATS = {
    "int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "int64": "q", "uint64": "Q", "float32": "f",
    "float64": "d",
}  # fmt: skip


def made(kind: str = "int16", **keys: object) -> ModbusMap:
    """A map whose power is in register 100, in W."""
    power = maps.ModbusValue(register=100, type=kind, unit="W")
    return ModbusMap(name="made", title="Made", sources=("here",), readings={"power": (power,)}, **keys)


@settings(max_examples=30)
@given(data=st.data(), kind=st.sampled_from(sorted(FORMATS)), words=st.booleans(), octets=st.booleans())
def test_orders_and_types(data: st.DataObject, kind: str, words: bool, octets: bool) -> None:
    """In whichever order the bytes of a number come, it is the number that was written."""
    bits = 8 * struct.calcsize(FORMATS[kind])
    number = data.draw(
        st.floats(0, 1e9, width=bits) if "float" in kind else st.integers(0, min(2 ** (bits - 1) - 1, 10**9))
    )
    image = registers(FORMATS[kind], number)
    if octets:
        image = [int.from_bytes(it.to_bytes(2, "big"), "little") for it in image]
    if words:
        image.reverse()
    map_ = made(
        kind, word_order="little" if words else "big", byte_order="little" if octets else "big", first_register=1
    )
    with modbus_server({1: {("holding", 99): image}}) as port:
        assert ModbusDriver(meter(port), map_).read().power_mw == round(number * 1_000)


def test_signs_are_those_of_the_type() -> None:
    for kind, expected in (("int16", -1_000), ("uint16", 65_535_000)):
        with modbus_server({1: {("holding", 100): [0xFFFF]}}) as port:
            assert ModbusDriver(meter(port), made(kind)).read().power_mw == expected


def test_what_is_no_number_is_refused_and_the_rest_read() -> None:
    image = dict(SHIPPED["eastron-sdm630"][0]) | {("input", 0x34): [0x7FC0, 0], ("input", 0x48): registers("f", -1.0)}
    with modbus_server({1: image}) as port:
        told = ModbusDriver(meter(port), maps.load("eastron-sdm630")).read()
    assert (told.energy_mj, told.power_mw, told.current_ma) == (None, None, 2_250)
    assert told.refused == ("energy: -1.0: no meter can have that", "power: 'nan': it is no number")


def test_absent_by_the_document_is_refused() -> None:
    image = dict(SHIPPED["schneider-pm5000"][0]) | {("holding", 3_203): [0x8000, 0, 0, 0]}
    with modbus_server({1: image}) as port:
        told = ModbusDriver(meter(port), maps.load("schneider-pm5000")).read()
    assert told.energy_mj is None
    assert told.refused == ("energy: '-9223372036854775808': the meter says by it that it has no value",)


def test_what_the_rating_excludes_is_refused() -> None:
    with modbus_server({1: SHIPPED["schneider-pm5000"][0]}) as port:
        assert ModbusDriver(meter(port, rated_kw=344.0), maps.load("schneider-pm5000")).read().power_mw == 412_500_000
        told = ModbusDriver(meter(port, rated_kw=343.0), maps.load("schneider-pm5000")).read()
    assert told.power_mw is None
    assert told.refused == ("power: 412.5: 412.5 kW are more than 1.2 times rated_kw, 343",)


def test_a_text_identifies() -> None:
    text = [int.from_bytes(pair, "big") for pair in (b"AB", b"12", b"3\0", b"\xff\xff")]
    map_ = msgspec.structs.replace(
        made(),
        readings={**made().readings, "identity": (maps.ModbusValue(register=200, type="text", length=4),)},
    )
    with modbus_server({1: {("holding", 100): [5], ("holding", 200): text}}) as port:
        assert ModbusDriver(meter(port), map_).read().identity == "AB123"


def test_a_register_that_is_not_there_spoils_no_other() -> None:
    """A meter without the third phase: its registers are asked for alone from then on, and refused by name."""
    image = {("input", 0x48): registers("f", 2.0), ("input", 0x34): registers("f", 3.0), ("input", 0x06): [0] * 4}
    with modbus_server({1: image}) as port:
        driver = ModbusDriver(meter(port), maps.load("eastron-sdm630"))
        for _ in range(2):
            told = driver.read()
            assert (told.energy_mj, told.power_mw, told.current_ma) == (2 * KWH_MJ, 3_000, None)
            (refused,) = told.refused
            assert refused.startswith("currents: register 30011 (input): the meter answers exception 2, illegal addr")


def test_a_meter_with_none_of_the_registers() -> None:
    with modbus_server({1: {("holding", 7): [1]}}) as port:
        driver = ModbusDriver(meter(port), maps.load("schneider-pm5000"))
        with pytest.raises(MeterProblem, match=r"register 3204 \(holding\): .* exception 2, illegal address") as raised:
            driver.read()
    assert "the map schneider-pm5000 is for" in raised.value.remedy


@contextmanager
def peer(answer: Callable[[bytes], bytes | None]) -> Iterator[tuple[int, list[bytes]]]:
    """A meter that answers each request so; None closes the connection. Yields its port and the requests."""
    asked: list[bytes] = []
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    while request := connection.recv(260):
                        asked.append(request)
                        reply = answer(request)
                        if reply is None:
                            break
                        connection.sendall(reply)

        thread = Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], asked
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def frame(request: bytes, pdu: bytes, *, transaction: int = 0, unit: int = 0) -> bytes:
    """An answer with the header that the request wants, but for what is moved on."""
    number = (int.from_bytes(request[:2], "big") + transaction) % 65_536
    return struct.pack(">HHHB", number, 0, len(pdu) + 1, request[6] + unit) + pdu


GOOD = b"\x03\x02\x00\x2a"
MISBEHAVING: dict[str, tuple[Callable[[bytes], bytes | None], str]] = {
    "silent": (lambda request: b"", "gave no answer that is Modbus, to 1 holding registers from 100"),
    "closes": (lambda request: None, "closed the connection when asked for 1 holding registers from 100"),
    "garbage": (lambda request: b"HTTP/1.1 400 Bad Request\r\n\r\n", "gave no answer that is Modbus"),
    "half a frame": (lambda request: frame(request, GOOD)[:-1], "gave no answer that is Modbus"),
    "of another question": (lambda request: frame(request, GOOD, transaction=1), "gave no answer that is Modbus"),
    "of another unit": (lambda request: frame(request, GOOD, unit=1), "gave no answer that is Modbus"),
    "of another function": (lambda request: frame(request, b"\x10\x00\x64\x00\x01"), "0 registers are the answer"),
    "no registers": (lambda request: frame(request, b"\x03\x00"), "0 registers are the answer"),
    "too many registers": (lambda request: frame(request, b"\x03\x04\x00\x01\x00\x02"), "2 registers are the answer"),
    "illegal function": (lambda request: frame(request, b"\x83\x01"), "exception 1, illegal function"),
    "failure": (lambda request: frame(request, b"\x83\x04"), "exception 4, device failure"),
    "busy": (lambda request: frame(request, b"\x83\x06"), "exception 6, device busy"),
    "no path": (lambda request: frame(request, b"\x83\x0a"), "exception 10, gateway path"),
    "wrong unit": (lambda request: frame(request, b"\x83\x0b"), "exception 11, gateway no response"),
    "an unknown exception": (lambda request: frame(request, b"\x83\xee"), "exception 238, unknown"),
    "an empty exception": (lambda request: frame(request, b"\x83"), "gave no answer that is Modbus"),
}  # fmt: skip


@pytest.mark.parametrize("behaviour", MISBEHAVING)
def test_a_meter_that_misbehaves(behaviour: str) -> None:
    answer, expected = MISBEHAVING[behaviour]
    with peer(answer) as (port, _):
        # Only what gives no answer has its time limit to wait for.
        waits = {"timeout_s": TIMEOUT_S} if "no answer" in expected else {}
        driver = ModbusDriver(meter(port, **waits), made())
        with pytest.raises(MeterProblem, match=expected) as raised:
            driver.read()
    assert raised.value.problem.startswith(f"Modbus meter 127.0.0.1:{port}, unit 1: ")
    assert raised.value.remedy
    assert raised.value.exit_code == ExitCode.UNREACHABLE


def test_a_meter_that_sends_a_byte_at_a_time_for_ever() -> None:
    def drip(connection: socket.socket) -> None:
        with connection:
            try:
                while True:
                    connection.sendall(b"\0")
            except OSError:
                return

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = Thread(target=lambda: drip(listener.accept()[0]), daemon=True)
        thread.start()
        driver = ModbusDriver(meter(listener.getsockname()[1], timeout_s=TIMEOUT_S), made())
        with pytest.raises(MeterProblem, match="gave no answer that is Modbus"):
            driver.read()
        thread.join()


def test_nobody_listens() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(MeterProblem, match=r"the connection failed: .*refused"):
        ModbusDriver(meter(port), made()).read()
    with pytest.raises(MeterProblem, match="the connection failed"):
        ModbusDriver(meter(port, address="no-such-host.invalid"), made()).read()


@settings(max_examples=60)
@given(answer=st.binary(max_size=40), as_frame=st.booleans())
def test_no_answer_breaks_the_driver(answer: bytes, as_frame: bool) -> None:
    """Whatever comes back, it is a reading or a MeterProblem."""
    with peer(lambda request: frame(request, answer) if as_frame else answer) as (port, _):
        driver = ModbusDriver(meter(port, timeout_s=0.02), made())
        with suppress(MeterProblem):
            assert driver.read().power_mw is not None


def test_neighbours_are_read_together() -> None:
    """As many as the map lets into one read: by function, length and what lies between."""

    def answer(request: bytes) -> bytes:
        return frame(request, bytes([request[7], 2 * request[11]]) + bytes(2 * request[11]))

    def asked_for(name: str) -> list[tuple[int, int, int]]:
        with peer(answer) as (port, requests):
            ModbusDriver(meter(port), maps.load(name)).read()
        return [struct.unpack(">BHH", request[7:12]) for request in requests]

    assert asked_for("janitza-umg96") == [(3, 19_012, 58)]
    assert asked_for("schneider-ion") == [(3, 2_999, 62), (3, 3_203, 4)]
    assert asked_for("schneider-pm5000") == [(3, 129, 2), (3, 2_999, 6), (3, 3_053, 8), (3, 3_203, 4)]
    assert asked_for("eastron-sdm630") == [(4, 6, 12), (4, 52, 2), (4, 72, 2)]
    assert asked_for("carlo-gavazzi-em24") == [(4, 0x0C, 12), (4, 0x28, 2), (4, 0x34, 2)]


def test_a_meter_is_read_again_after_it_was_away() -> None:
    with modbus_server({1: {("holding", 100): [1]}}) as port:
        driver = ModbusDriver(meter(port), made())
        assert driver.read().power_mw == 1_000
    with pytest.raises(MeterProblem):
        driver.read()
    with modbus_server({1: {("holding", 100): [2]}}) as port:
        driver = ModbusDriver(meter(port), made())
        assert driver.read().power_mw == 2_000
        driver.close()
        assert driver.read().power_mw == 2_000


@pytest.mark.parametrize(
    ("index", "problem"),
    [
        ({"unit": 256}, "index.unit is 256"),
        ({"unit": "one"}, "index.unit is 'one'"),
        ({"unit": -1}, "index.unit is -1"),
        ({"outlet": 1}, "index.outlet is given"),
    ],
)
def test_settings_that_do_not_fit(index: dict[str, str | int], problem: str) -> None:
    with pytest.raises(GigawatchError) as raised:
        ModbusDriver(meter(502, index=index), made())
    assert raised.value.problem.startswith(problem)
    assert raised.value.exit_code == ExitCode.CONFIGURATION
