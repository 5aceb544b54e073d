"""Meters that speak Modbus TCP, themselves or behind a gateway."""

import logging
import struct
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import NamedTuple

from pymodbus.client import ModbusTcpClient
from pymodbus.constants import ExcCodes
from pymodbus.exceptions import ConnectionException, ModbusException
from pymodbus.pdu import ExceptionResponse

from collector.meters.endpoint import endpoint
from collector.meters.maps import Figure, Function, ModbusMap, ModbusValue, Raw, Refused, reading
from collector.meters.reading import MeterProblem, Reading
from collector.names import connect
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.settings import Meter

# What it logs is said by the MeterProblem that follows.
logging.getLogger("pymodbus").setLevel(logging.CRITICAL)

FORMATS = {
    "int16": ">h",
    "uint16": ">H",
    "int32": ">i",
    "uint32": ">I",
    "int64": ">q",
    "uint64": ">Q",
    "float32": ">f",
    "float64": ">d",
}
"""How the module struct calls the types."""
_REMEDIES: dict[int, str] = {
    ExcCodes.ILLEGAL_FUNCTION: "It does not know this function: check its map, and index.unit.",
    ExcCodes.DEVICE_FAILURE: "It says that it failed: look at its own display, and check index.unit.",
    ExcCodes.DEVICE_BUSY: "It will be asked again; if it stays so, ask less often (interval_s) or from fewer places.",
    ExcCodes.GATEWAY_PATH_UNAVIABLE: "Check index.unit, and the line of the gateway.",
    ExcCodes.GATEWAY_NO_RESPONSE: "No meter of this number answers behind the gateway: check index.unit and its line.",
}


class _Part(NamedTuple):
    """A value, and of which figure it is which."""

    figure: Figure
    place: int
    value: ModbusValue


class _Block(NamedTuple):
    """Registers that are read in one go."""

    function: Function
    address: int
    length: int
    parts: tuple[_Part, ...]


class _IllegalError(Exception):
    """The meter has not all of the registers, or does not give so many at a time."""


class ModbusDriver:
    """Reads one meter. The connection lasts for a reading: a gateway has few of them, and many meters.

    Raises:
        GigawatchError: the settings do not fit the map.
    """

    def __init__(self, settings: Meter, map_: ModbusMap) -> None:
        self._map = map_
        self._settings = settings
        self._unit = _unit_id(map_.words(settings.index)["unit"])
        self._endpoint = endpoint(settings.address, 502)
        self._blocks = list(_blocks(map_))

    def read(self) -> Reading:
        """The meter as it is now.

        Raises:
            MeterProblem: it did not answer in time, or what it answered is not its map's.
        """
        asked = monotonic()
        told: dict[Figure, list[Raw | Refused]] = {
            figure: [Refused("not read")] * len(values) for figure, values in self._map.readings.items()
        }
        client = ModbusTcpClient(self._endpoint.host, port=self._endpoint.port, retries=0)
        try:
            client.socket = connect(*self._endpoint, self._settings.timeout_s)
            for part, raw in self._values(client, asked + self._settings.timeout_s):
                told[part.figure][part.place] = raw
        except OSError as error:
            raise self._problem(
                f"the connection failed: {error}", "Check its address, its network and that it is on."
            ) from error
        finally:
            client.close()  # type: ignore[no-untyped-call] # pymodbus declares no type for it
        return reading(self._map, told, (asked + monotonic()) / 2, self._settings.rated_kw)

    def close(self) -> None:
        """Nothing is open between readings."""

    def _values(self, client: ModbusTcpClient, deadline_s: float) -> Iterator[tuple[_Part, Raw | Refused]]:
        for block in tuple(self._blocks):
            try:
                yield from self._read(client, block, deadline_s)
            except _IllegalError:
                # From now on it is asked for each of them alone, and one that it does not have spoils no other.
                alone = [_block((part,), self._map) for part in block.parts]
                if len(alone) > 1:
                    place = self._blocks.index(block)
                    self._blocks[place : place + 1] = alone
                for single in alone:
                    yield from self._read_alone(client, single, deadline_s)

    def _read_alone(
        self, client: ModbusTcpClient, block: _Block, deadline_s: float
    ) -> Iterator[tuple[_Part, Raw | Refused]]:
        try:
            yield from self._read(client, block, deadline_s)
        except _IllegalError as error:
            yield (
                block.parts[0],
                Refused(
                    f"register {block.parts[0].value.register} ({block.function}): {error}; "
                    f"check that this model has it, or leave it out in a map of your own"
                ),
            )

    def _read(self, client: ModbusTcpClient, block: _Block, deadline_s: float) -> Iterator[tuple[_Part, Raw | Refused]]:
        registers = self._ask(client, block, deadline_s)
        for part in block.parts:
            start = self._map.address(part.value) - block.address
            yield part, _decoded(registers[start : start + part.value.count], part.value, self._map)

    def _ask(self, client: ModbusTcpClient, block: _Block, deadline_s: float) -> Sequence[int]:
        client.comm_params.timeout_connect = max(deadline_s - monotonic(), 0.01)
        read = client.read_holding_registers if block.function == "holding" else client.read_input_registers
        first = block.parts[0].value.register
        question = f"{block.length} {block.function} registers from {first}"
        try:
            answer = read(block.address, count=block.length, device_id=self._unit)
        except ModbusException as error:
            happened = (
                "it closed the connection when asked for"
                if isinstance(error, ConnectionException)
                else f"within {self._settings.timeout_s:g} s it gave no answer that is Modbus, to"
            )
            raise self._problem(
                f"{happened} {question}",
                "Check that Modbus TCP is served there and that index.unit is its number; a slow line needs a longer "
                "timeout_s.",
            ) from error
        if isinstance(answer, ExceptionResponse):
            code = answer.exception_code
            name = ExcCodes(code).name.lower().replace("_", " ") if code in set(ExcCodes) else "unknown"
            if code in {ExcCodes.ILLEGAL_ADDRESS, ExcCodes.ILLEGAL_VALUE}:
                raise _IllegalError(f"the meter answers exception {code}, {name}")
            raise self._problem(
                f"exception {code}, {name}, is the answer to {question}",
                _REMEDIES.get(code, "Look it up in the meter's document."),
            )
        if len(answer.registers) != block.length:
            raise self._problem(
                f"{len(answer.registers)} registers are the answer to {question}",
                "Check that it is the meter that the map is for, and the gateway before it.",
            )
        return answer.registers

    def _problem(self, problem: str, remedy: str) -> MeterProblem:
        return MeterProblem(f"Modbus meter {self._endpoint}, unit {self._unit}: {problem}", remedy)


def _unit_id(word: str | int) -> int:
    """The number of a meter on its line: 0 to 255, of which many meters of TCP take any."""
    if not str(word).isascii() or not str(word).isdigit() or int(word) > 255:
        raise GigawatchError(
            f"index.unit is {word!r}, and a unit id is 0 to 255",
            "Meters behind a gateway have 1 to 247; one that speaks TCP itself has 1, 255 or any.",
            ExitCode.CONFIGURATION,
        )
    return int(word)


def _blocks(map_: ModbusMap) -> Iterator[_Block]:
    """All values of a map in as few reads as it allows."""
    parts = sorted(
        (_Part(figure, place, value) for figure, values in map_.readings.items() for place, value in enumerate(values)),
        key=lambda part: (part.value.function or map_.function, map_.address(part.value)),
    )
    block: _Block | None = None
    for part in parts:
        longer = _block((*block.parts, part) if block else (part,), map_)
        if block and (
            longer.function != (part.value.function or map_.function)
            or longer.length > map_.registers_per_read
            or map_.address(part.value) - block.address - block.length > map_.gap
        ):
            yield block
            longer = _block((part,), map_)
        block = longer
    if block:
        yield block


def _block(parts: tuple[_Part, ...], map_: ModbusMap) -> _Block:
    address = map_.address(parts[0].value)
    end = max(map_.address(part.value) + part.value.count for part in parts)
    return _Block(parts[0].value.function or map_.function, address, end - address, parts)


def _decoded(registers: Sequence[int], value: ModbusValue, map_: ModbusMap) -> Raw:
    words = [register.to_bytes(2, map_.byte_order) for register in registers]
    if value.type == "text":
        return b"".join(words).split(b"\0", 1)[0].decode("ascii", "replace")
    if map_.word_order == "little":
        words.reverse()
    number: int | float = struct.unpack(FORMATS[value.type], b"".join(words))[0]
    return number
