"""Meters that speak SNMP, version 2c or 3: PDUs, UPSes and whatever else has an agent."""

import asyncio
import re
import socket
import tomllib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct
from pyasn1.error import PyAsn1Error
from pyasn1.type.univ import Integer, Null, OctetString
from pysnmp.error import PySnmpError
from pysnmp.hlapi.v1arch.asyncio import CommunityData, SnmpDispatcher
from pysnmp.hlapi.v1arch.asyncio import get_cmd as get_by_community
from pysnmp.hlapi.v3arch import asyncio as version_3
from pysnmp.proto import errind
from pysnmp.proto.rfc1905 import EndOfMibView, NoSuchInstance, NoSuchObject

from collector.meters.endpoint import endpoint
from collector.meters.maps import ROW, Figure, Raw, Refused, SnmpMap, SnmpValue, fill, reading
from collector.meters.reading import Denied, MeterProblem, Reading
from collector.names import Place, look_up
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.settings import Meter

OIDS_AT_ONCE = 16
"""In one request: its answer fits a packet of any network."""
MOST_ROWS = 64
"""Of a table that is one figure, such as the lines of a UPS."""
MOST_DECIMALS = 9

_AUTH = {
    "MD5": version_3.USM_AUTH_HMAC96_MD5,
    "SHA": version_3.USM_AUTH_HMAC96_SHA,
    "SHA224": version_3.USM_AUTH_HMAC128_SHA224,
    "SHA256": version_3.USM_AUTH_HMAC192_SHA256,
    "SHA384": version_3.USM_AUTH_HMAC256_SHA384,
    "SHA512": version_3.USM_AUTH_HMAC384_SHA512,
}
# Keys of AES with 192 and 256 bits are made longer in two ways. The names are those of net-snmp, with C for Cisco's.
_PRIV = {
    "DES": version_3.USM_PRIV_CBC56_DES,
    "AES": version_3.USM_PRIV_CFB128_AES,
    "AES192": version_3.USM_PRIV_CFB192_AES_BLUMENTHAL,
    "AES256": version_3.USM_PRIV_CFB256_AES_BLUMENTHAL,
    "AES192C": version_3.USM_PRIV_CFB192_AES,
    "AES256C": version_3.USM_PRIV_CFB256_AES,
}
_REMEDIES: dict[type[errind.ErrorIndication], str] = {
    errind.UnknownUserName: "Check user, and that this agent has it.",
    errind.UnknownSecurityName: "Check user, and that this agent has it.",
    errind.WrongDigest: "Check auth_key and auth_protocol in secret_file.",
    errind.AuthenticationFailure: "Check auth_key and auth_protocol in secret_file.",
    errind.DecryptionError: "Check priv_key and priv_protocol in secret_file.",
    errind.UnsupportedSecurityLevel: "The agent wants another security level of this user: with or without priv_key.",
    errind.NotInTimeWindow: "The agent's engine time jumps: restart its SNMP service.",
}
_DENIED = tuple(it for it in _REMEDIES if it is not errind.NotInTimeWindow)
_OID = re.compile(r"1(\.[0-9]{1,10})+")

Key = Annotated[str, Meta(min_length=8)]
Answer = Mapping[str, Raw | Refused]
"""By OID."""
Words = Mapping[str, str | int]
Command = Callable[..., Awaitable[tuple[Any, Any, Any, Any]]]


class Secret(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a secret_file of SNMP version 3 holds, in TOML."""

    auth_protocol: Literal["MD5", "SHA", "SHA224", "SHA256", "SHA384", "SHA512"] = "SHA"
    auth_key: Key
    """The pass phrase."""
    priv_protocol: Literal["DES", "AES", "AES192", "AES256", "AES192C", "AES256C"] = "AES"
    priv_key: Key | None = None
    """The pass phrase; without one, answers are signed and not encrypted."""


class SnmpDriver:
    """Reads one meter, by version 3 where settings name a user and else by version 2c.

    An engine of version 3 takes 50 ms and 1.5 MiB to make, so that it stays until it is closed; for version 2c there
    is nothing to keep.

    Raises:
        GigawatchError: the settings do not fit the map, or secret_file cannot be used.
    """

    def __init__(self, settings: Meter, map_: SnmpMap) -> None:
        self._map = map_
        self._settings = settings
        self._words = map_.words(settings.index)
        self._endpoint = endpoint(settings.address, 161)
        self._credentials = _credentials(settings)
        self._runner: asyncio.Runner | None = None
        self._engine: Any = None
        # What cannot be an OID is said now, not at every reading.
        for value in map_.values():
            self._oids(value, {**self._words, ROW: 1})

    def read(self) -> Reading:
        """The meter as it is now.

        Raises:
            MeterProblem: it did not answer in time, or what it answered is not its map's.
        """
        asked = monotonic()
        if self._runner is None:
            self._runner = asyncio.Runner()
            # What is no SNMP raises in a callback of pysnmp's: it is left out, and ends as silence.
            self._runner.get_loop().set_exception_handler(lambda _loop, _context: None)
        answered = False
        try:
            place = look_up(*self._endpoint, socket.SOCK_DGRAM, self._settings.timeout_s)[0]
            map_, told = self._runner.run(self._told(place, asked + self._settings.timeout_s - monotonic()))
            answered = True
        except (OSError, PySnmpError, PyAsn1Error) as error:
            raise self._problem(f"it cannot be asked: {error}", "Check its address and its network.") from error
        finally:
            # An agent that was replaced is met by an engine that knows nothing of the one before.
            if not answered or isinstance(self._credentials, CommunityData):
                self.close()
        return reading(map_, told, (asked + monotonic()) / 2, self._settings.rated_kw)

    def close(self) -> None:
        """Give connections back. It may be read again afterwards."""
        if self._runner is not None:
            self._runner.run(self._disconnect())
            self._runner.close()
            self._runner = None

    async def _told(self, place: Place, limit_s: float) -> tuple[SnmpMap, dict[Figure, list[Raw | Refused]]]:
        """The map with a value for each row of its tables, and what the meter tells of each."""
        try:
            async with asyncio.timeout(limit_s):
                command = await self._connect(place)
                tables = {fill(it.rows_oid, self._words) for it in self._map.values() if it.rows_oid}
                rows = await self._get(command, sorted(tables))
                places = {
                    figure: [(value, words) for value in values for words in self._rows(value, rows)]
                    for figure, values in self._map.readings.items()
                }
                wanted = {
                    oid
                    for figure in places.values()
                    for value, words in figure
                    if not isinstance(words, Refused)
                    for oid in self._oids(value, words).values()
                }
                answer = await self._get(command, sorted(wanted))
        except TimeoutError:
            raise self._silent() from None
        readings = {figure: tuple(value for value, _ in it) for figure, it in places.items()}
        told = {
            figure: [words if isinstance(words, Refused) else self._raw(value, words, answer) for value, words in it]
            for figure, it in places.items()
        }
        return msgspec.structs.replace(self._map, readings=readings), told

    def _rows(self, value: SnmpValue, rows: Answer) -> Iterator[Words | Refused]:
        """The words of each row of a value's table, or of itself where it is none."""
        if value.rows_oid is None:
            yield self._words
            return
        oid = fill(value.rows_oid, self._words)
        count = rows[oid]
        if isinstance(count, Refused):
            yield count
        elif not isinstance(count, int) or not 1 <= count <= MOST_ROWS:
            yield Refused(f"OID {oid} says that the table has {str(count)[:40]!r} rows")
        else:
            for row in range(1, count + 1):
                yield {**self._words, ROW: row}

    def _oids(self, value: SnmpValue, words: Words) -> dict[str, str]:
        """By key, the OIDs of a value."""
        oids = {key: fill(text, words) for key in value.PLACES if (text := getattr(value, key)) is not None}
        for oid in oids.values():
            if not _OID.fullmatch(oid) or any(int(part) >= 2**32 for part in oid.split(".")):
                raise GigawatchError(
                    f"The index {self._settings.index} makes the OID {oid}, which is none",
                    "Write whole numbers, or several with points between them.",
                    ExitCode.CONFIGURATION,
                )
        return oids

    def _raw(self, value: SnmpValue, words: Words, answer: Answer) -> Raw | Refused:
        oids = self._oids(value, words)
        if "available_oid" in oids and answer[oids["available_oid"]] != 1:
            return Refused(f"the agent says by OID {oids['available_oid']} that it has no value")
        raw = answer[oids["oid"]]
        if "decimals_oid" not in oids or isinstance(raw, Refused):
            return raw
        decimals = answer[oids["decimals_oid"]]
        if isinstance(decimals, Refused):
            return decimals
        if not isinstance(raw, int) or not isinstance(decimals, int) or not 0 <= decimals <= MOST_DECIMALS:
            return Refused(f"{str(raw)[:40]!r} with {str(decimals)[:40]!r} decimals: it is no number")
        return Decimal(raw).scaleb(-decimals)

    async def _get(self, command: Command, oids: Sequence[str]) -> Answer:
        """What the agent says to these OIDs."""
        answer: dict[str, Raw | Refused] = {}
        for start in range(0, len(oids), OIDS_AT_ONCE):
            asked = oids[start : start + OIDS_AT_ONCE]
            indication, status, place, bindings = await command(*((oid, Null("")) for oid in asked), lookupMib=False)
            if isinstance(indication, errind.RequestTimedOut):
                raise self._silent()
            if isinstance(indication, _DENIED):
                raise Denied(f"SNMP meter {self._endpoint}: {indication}", _REMEDIES[type(indication)])
            if indication:
                raise self._problem(
                    f"{indication}", _REMEDIES.get(type(indication), "Check user and secret_file, and the agent's log.")
                )
            if status:
                raise self._problem(
                    f"error {status.prettyPrint()} is the answer to OID {asked[max(int(place), 1) - 1]}",
                    "Check that it is the map's meter, and that the community, or the user with these keys, may read.",
                )
            got = {str(oid): told for oid, told in bindings}
            if got.keys() != set(asked):
                raise self._problem("its answer is to other OIDs than were asked for", "Restart its SNMP service.")
            answer.update({oid: _raw(oid, got[oid]) for oid in asked})
        return answer

    async def _connect(self, place: Place) -> Command:
        # A datagram may be lost: half of the time is for the second.
        is_v6 = place.family == socket.AF_INET6
        kind = version_3.Udp6TransportTarget if is_v6 else version_3.UdpTransportTarget
        target = await kind.create(place.address[:2], timeout=self._settings.timeout_s / 2, retries=1)
        if isinstance(self._credentials, CommunityData):
            self._engine = SnmpDispatcher()
            return partial(get_by_community, self._engine, self._credentials, target)
        if self._engine is None:
            self._engine = version_3.SnmpEngine()
        return partial(version_3.get_cmd, self._engine, self._credentials, target, version_3.ContextData())

    async def _disconnect(self) -> None:
        if isinstance(self._engine, SnmpDispatcher):
            # Its own close() trips over requests that wait for an answer.
            self._engine.transport_dispatcher.close_dispatcher()
        elif self._engine is not None:
            self._engine.close_dispatcher()
        self._engine = None

    def _silent(self) -> MeterProblem:
        wrong = (
            "community in secret_file" if isinstance(self._credentials, CommunityData) else "priv_key in secret_file"
        )
        return self._problem(
            f"no answer within {self._settings.timeout_s:g} s",
            f"Check that its SNMP agent is on and lets this machine ask; an agent is silent to a wrong {wrong}, too.",
        )

    def _problem(self, problem: str, remedy: str) -> MeterProblem:
        return MeterProblem(f"SNMP meter {self._endpoint}: {problem}", remedy)


def _raw(oid: str, told: object) -> Raw | Refused:
    if isinstance(told, NoSuchObject | NoSuchInstance | EndOfMibView):
        return Refused(
            f"the agent has no OID {oid}; check index and that this model has it, or leave it out in a map of your own"
        )
    if isinstance(told, Integer):
        return int(told)
    if isinstance(told, OctetString):
        return bytes(told).decode("ascii", "replace")
    return Refused(f"OID {oid} is a {type(told).__name__}, which is no number and no text")


def _credentials(settings: Meter) -> Any:
    """The community of version 2c, or the user of version 3 with the keys."""
    text = "public"
    if settings.secret_file is not None:
        text = _secret_text(Path(settings.secret_file))
    if settings.user is None:
        return CommunityData(text, mpModel=1)  # noqa: S508 # most PDUs speak 2c alone as they are delivered
    try:
        secret = msgspec.convert(tomllib.loads(text if settings.secret_file else ""), Secret)
    except ValueError as error:
        # The error names the key and what is wrong with it, and not what stands there.
        raise GigawatchError(
            f"secret_file = {settings.secret_file!r} of SNMP user {settings.user}: "
            f"{error if isinstance(error, msgspec.ValidationError) else 'it is no TOML'}",
            'Write auth_protocol = "SHA", auth_key = "…", priv_protocol = "AES" and priv_key = "…", one on a line.',
            ExitCode.CONFIGURATION,
        ) from None
    return version_3.UsmUserData(
        settings.user,
        authKey=secret.auth_key,
        authProtocol=_AUTH[secret.auth_protocol],
        privKey=secret.priv_key,
        privProtocol=_PRIV[secret.priv_protocol] if secret.priv_key else version_3.USM_PRIV_NONE,
    )


def _secret_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise GigawatchError(
            f"The secret_file {path} of an SNMP meter cannot be read: {error}",
            "Name a file that the agent's user can read.",
            ExitCode.CONFIGURATION,
        ) from error
