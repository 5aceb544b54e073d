"""The ports at which a site's meters answer: Modbus TCP, SNMP version 2c and Redfish, each as its devices do."""

import asyncio
import json
import logging
import struct
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from functools import partial
from http import HTTPStatus
from typing import Any, cast

from pyasn1.codec.ber import decoder, encoder
from pyasn1.error import PyAsn1Error
from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice
from pysnmp.proto import api

from collector.meters.maps import ROW, Figure, ModbusMap, ModbusValue, Raw, RedfishMap, SnmpMap, fill
from collector.meters.modbus import FORMATS
from collector.simulated.facility.metering import LINES, SimulatedMeter
from gigawatch.errors import ExitCode, GigawatchError

HOST = "127.0.0.1"
HUNG_S = 60.0
"""A meter that hangs answers after so long that nobody waits for it."""
LAST_PORT = 65_535
V2C = api.PROTOCOL_MODULES[api.SNMP_VERSION_2C]

# What is said to clients that went away concerns nobody.
logging.getLogger("pymodbus").setLevel(logging.CRITICAL)

Close = Callable[[], Awaitable[None]]


class Ports:
    """Serves meters, those of one port of their site together.

    Args:
        first: the least port number; those that are in use are passed over.
    """

    def __init__(self, first: int) -> None:
        self._next = first
        self._closes: list[Close] = []

    async def serve(self, meters: Sequence[SimulatedMeter]) -> str:
        """Serve the meters of one port. Their address, as settings have it.

        Raises:
            GigawatchError: no port is free.
        """
        map_ = meters[0].map
        start = _modbus if isinstance(map_, ModbusMap) else _snmp if isinstance(map_, SnmpMap) else _redfish
        while self._next <= LAST_PORT:
            port = self._next
            self._next += 1
            with suppress(OSError, RuntimeError):  # RuntimeError: pymodbus could not listen
                self._closes.append(await start(meters, port))
                return f"http://{HOST}:{port}" if start is _redfish else f"{HOST}:{port}"
        raise GigawatchError("No port is free for a simulated meter", "Choose a lower --port.", ExitCode.CONFIGURATION)

    async def close(self) -> None:
        """Serve no more."""
        for close in self._closes:
            await close()


async def _modbus(meters: Sequence[SimulatedMeter], port: int) -> Close:
    server = ModbusTcpServer([_device(it) for it in meters], address=(HOST, port))
    await server.serve_forever(background=True)

    async def close() -> None:
        await server.shutdown()  # type: ignore[no-untyped-call] # pymodbus declares no type for it

    return close


def _device(meter: SimulatedMeter) -> SimDevice:
    map_ = meter.map
    assert isinstance(map_, ModbusMap)
    registers = sorted({map_.address(value) + place for value in map_.values() for place in range(value.count)})
    none = [SimData(65_535, datatype=DataType.INVALID)]
    blocks = {"holding": none, "input": none}
    # One block from the first register to the last, as many meters have it.
    first, last = registers[0], registers[-1]
    blocks[map_.function] = [SimData(first, values=[0] * (last - first + 1), datatype=DataType.REGISTERS)]
    bits = [SimData(0, values=[False], datatype=DataType.BITS)]
    action = partial(_fill_registers, meter, map_)
    return SimDevice(
        int(meter.instrument.index["unit"]), simdata=(bits, bits, blocks["holding"], blocks["input"]), action=action
    )


async def _fill_registers(
    meter: SimulatedMeter,
    map_: ModbusMap,
    _function: int,
    first: int,
    _address: int,
    _count: int,
    registers: list[int],
    _written: list[int] | list[bool] | None,
) -> ExcCodes | None:
    """Write what the meter says into a device's registers before they are read."""
    now_s = time.time()
    if meter.is_struck("hung", now_s):
        await asyncio.sleep(HUNG_S)
        return ExcCodes.DEVICE_BUSY
    image = meter.image(now_s)
    if image.keys() != map_.readings.keys():
        return ExcCodes.DEVICE_BUSY
    for figure, raws in image.items():
        for value, raw in zip(map_.readings[figure], raws, strict=True):
            start = map_.address(value) - first
            registers[start : start + value.count] = _words(map_, value, raw)
    return None


def _words(map_: ModbusMap, value: ModbusValue, raw: Raw) -> list[int]:
    data = struct.pack(FORMATS[value.type], raw)
    words = [int.from_bytes(data[at : at + 2], map_.byte_order) for at in range(0, len(data), 2)]
    return words if map_.word_order == "big" else words[::-1]


async def _snmp(meters: Sequence[SimulatedMeter], port: int) -> Close:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _SnmpAgent(meters), local_addr=(HOST, port))

    async def close() -> None:
        transport.close()

    return close


class _SnmpAgent(asyncio.DatagramProtocol):
    """Answers Get and GetNext of version 2c with community public, by RFC 3416; all else with silence."""

    def __init__(self, meters: Sequence[SimulatedMeter]) -> None:
        self._meters = meters
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Answer."""
        with suppress(PyAsn1Error):
            message, _ = decoder.decode(data, asn1Spec=V2C.Message())
            if (answer := self._answer(message)) is not None and self._transport is not None:
                self._transport.sendto(encoder.encode(answer), addr)

    def _answer(self, message: Any) -> Any:
        now_s = time.time()
        question = V2C.apiMessage.get_pdu(message)
        is_next = question.isSameTypeWith(V2C.GetNextRequestPDU())
        if bytes(V2C.apiMessage.get_community(message)) != b"public" or not (
            is_next or question.isSameTypeWith(V2C.GetRequestPDU())
        ):
            return None
        if any(it.is_struck("hung", now_s) for it in self._meters):
            return None
        known = {oid: it for meter in self._meters for oid, it in _objects(meter, now_s)}
        answer = V2C.apiMessage.get_response(message)
        bindings = []
        for oid, _ in V2C.apiPDU.get_varbinds(question):
            asked = tuple(oid)
            if is_next:
                asked = min((it for it in known if it > asked), default=asked)
                missing = V2C.EndOfMibView("")
            else:
                missing = V2C.NoSuchInstance("")
            found = known.get(asked) if not is_next or asked != tuple(oid) else None
            bindings.append((asked, missing if found is None else found))
        V2C.apiPDU.set_varbinds(V2C.apiMessage.get_pdu(answer), bindings)
        return answer


def _objects(meter: SimulatedMeter, now_s: float) -> Iterator[tuple[tuple[int, ...], Any]]:
    """The objects of a meter's agent, by OID."""
    map_ = meter.map
    assert isinstance(map_, SnmpMap)
    for figure, raws in meter.image(now_s).items():
        for row, (value, raw) in enumerate(zip(map_.readings[figure], raws, strict=True), 1):
            words = {**map_.words(meter.instrument.index), ROW: row}
            number = raw
            if value.decimals_oid is not None:
                digits = -int(raw.as_tuple().exponent) if isinstance(raw, Decimal) else 0
                number = int(Decimal(raw).scaleb(digits))
                yield _oid(value.decimals_oid, words), V2C.Integer(digits)
            if value.available_oid is not None:
                yield _oid(value.available_oid, words), V2C.Integer(1)
            if value.rows_oid is not None:
                yield _oid(value.rows_oid, words), V2C.Integer(LINES)
            kind = V2C.OctetString if isinstance(number, str) else V2C.Unsigned32 if figure == "energy" else V2C.Integer
            yield _oid(value.oid, words), kind(number)


def _oid(text: str, words: Mapping[str, str | int]) -> tuple[int, ...]:
    return tuple(map(int, fill(text, words).split(".")))


async def _redfish(meters: Sequence[SimulatedMeter], port: int) -> Close:
    server = await asyncio.start_server(partial(_answer_http, meters), HOST, port)

    async def close() -> None:
        server.close()
        await server.wait_closed()

    return close


async def _answer_http(
    meters: Sequence[SimulatedMeter], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Answer one GET with a resource, after DSP0266 as far as a reader of meters needs it."""
    with suppress(OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        head = await reader.readuntil(b"\r\n\r\n")
        method, path, _ = head.decode("ascii").split(" ", 2)
        now_s, path = time.time(), path.rstrip("/")
        found = _resources(meters, now_s).get(path)
        if path in _hung(meters, now_s):
            await asyncio.sleep(HUNG_S)
        status = HTTPStatus.OK if found is not None else HTTPStatus.NOT_FOUND
        if method != "GET":
            status, found = HTTPStatus.METHOD_NOT_ALLOWED, None
        body = json.dumps(found if found is not None else {"error": {"message": status.phrase}}).encode()
        writer.write(
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\nOData-Version: 4.0\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
            + body
        )
        await writer.drain()
    writer.close()


def _hung(meters: Sequence[SimulatedMeter], now_s: float) -> set[str]:
    """Paths of the resources that do not answer: of meters that hang, and of no other."""
    sound = [it for it in meters if not it.is_struck("hung", now_s)]
    return _resources(meters, now_s).keys() - _resources(sound, now_s).keys()


def _resources(meters: Sequence[SimulatedMeter], now_s: float) -> dict[str, dict[str, Any]]:
    """All resources by their paths."""
    found: dict[str, dict[str, Any]] = {
        "/redfish/v1": {"@odata.type": "#ServiceRoot.v1_17_0.ServiceRoot", "RedfishVersion": "1.20.0"}
    }
    for meter in meters:
        map_ = meter.map
        assert isinstance(map_, RedfishMap)
        words = map_.words(meter.instrument.index)
        for figure, raws in meter.image(now_s).items():
            for value, raw in zip(map_.readings[figure], raws, strict=True):
                path = fill(value.path, words)
                resource = found.setdefault(path, {"@odata.id": path})
                resource[value.value] = _excerpt(figure, raw)
    pdus = sorted({path.rpartition("/Metrics")[0] for path in found if path.endswith("/Metrics")})
    for collection in {path.rpartition("/")[0] for path in pdus}:
        members = [{"@odata.id": path} for path in pdus if path.startswith(f"{collection}/")]
        found[collection] = {"@odata.id": collection, "Members": members, "Members@odata.count": len(members)}
    return found


def _excerpt(figure: Figure, raw: Raw) -> object:
    """A sensor's excerpt, of a number; a serial number stands for itself."""
    return raw if figure == "identity" else {"Reading": float(raw)}
