"""Reads meters that speak Redfish: power distribution units, and servers by their management controllers.

Redfish Specification, DSP0266, for sessions and errors; Redfish Schema Bundle, DSP8010, for what resources hold. A
reading of energy is a float of kWh since somebody reset it, its LifetimeReading is what nobody can reset.
"""

import json
import time
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import urllib3

from collector.answers import TooLong, TooSlow, body, connections
from collector.meters.access import certificates, http_basic, login, place
from collector.meters.document import decode, find, scalar
from collector.meters.maps import Figure, Raw, RedfishMap, RedfishValue, Refused, fill, reading
from collector.meters.reading import Denied, MeterProblem, Reading
from gigawatch import __version__
from gigawatch.errors import ExitCode
from gigawatch.settings import Meter
from gigawatch.units import BYTES_PER_MIB

SESSIONS = "/redfish/v1/SessionService/Sessions"
MOST_BYTES = BYTES_PER_MIB
MOST_SHOWN = 40
HEADERS = {"Accept": "application/json", "OData-Version": "4.0", "User-Agent": f"gigawatch/{__version__}"}


class _Status(Exception):
    """The service answers with a status that is no success."""

    def __init__(self, status: int) -> None:
        super().__init__(f"answers {status}")
        self.status = status


class RedfishDriver:
    """Reads one meter over Redfish.

    It logs in by a session, which it ends on closing; with HTTP Basic where the service has no sessions.

    Args:
        settings: of the meter.
        map_: what its resources mean.

    Raises:
        GigawatchError: settings and map do not fit, or a file that they name cannot be read.
    """

    def __init__(self, settings: Meter, map_: RedfishMap) -> None:
        scheme, at = place(settings, {"https": 443, "http": 80})
        self._url = f"{scheme}://{at}"
        self._settings = settings
        self._map = map_
        paths = {value.path for values in map_.readings.values() for value in values}
        # Of resources that settings do not name the service tells, when it is first read, which there are.
        self._missing = [
            word
            for word, it in map_.index.items()
            if it.default is None and word not in settings.index and any(f"{{{word}}}" in path for path in paths)
        ]
        words = map_.words({**settings.index, **dict.fromkeys(self._missing, "")})
        self._words = {word: quote(str(it), safe="") for word, it in words.items()}
        self._login = login(settings)
        self._pool = connections(ca_certs=certificates(settings))
        self._headers: dict[str, str] | None = None
        """What lets us in; None: we have not logged in."""
        self._session: str | None = None
        """Path of the session that is to be ended."""
        self._lifetime: dict[RedfishValue, bool] = {}
        """Whether a register of energy is read by its LifetimeReading: it never changes from one to the other."""

    def read(self) -> Reading:
        """The meter as it is now.

        Raises:
            MeterProblem: it did not answer in time, or what it answered is not its map's.
        """
        if self._headers is not None and "X-Auth-Token" in self._headers:
            try:
                return self._read()
            except _Status as error:
                if error.status != 401:
                    raise self._refused(error.status) from None
            # Sessions are forgotten after a while, and when the service restarts.
            self._headers = None
        if self._headers is None:
            self._log_in()
        try:
            return self._read()
        except _Status as error:
            raise self._refused(error.status) from None

    def close(self) -> None:
        """Give connections back. It may be read again afterwards."""
        if self._session is not None:
            # One that cannot be ended ends by itself after a while.
            with suppress(MeterProblem, _Status):
                self._request("DELETE", self._session)
        self._session = self._headers = None
        self._pool.clear()

    def _read(self) -> Reading:
        if self._missing:
            raise self._which(self._missing[0])
        began_s = time.monotonic()
        resources: dict[str, Any] = {}
        raws: dict[Figure, list[Raw | Refused]] = {}
        for figure, values in self._map.readings.items():
            told = [self._told(figure, value, resources) for value in values]
            if all(it is not None for it in told):
                raws[figure] = [it for it in told if it is not None]
        at_s = (began_s + time.monotonic()) / 2
        if not raws.keys() - {"identity"}:
            raise self._nothing(resources)
        return reading(self._map, raws, at_s, self._settings.rated_kw)

    def _told(self, figure: Figure, value: RedfishValue, resources: dict[str, Any]) -> Raw | Refused | None:
        """What a property says; None where it is not there."""
        try:
            path = fill(value.value, self._words)
            found = find(self._resource(fill(value.path, self._words), resources), path)
            if isinstance(found, dict):
                found = self._excerpt(figure, value, found, resources)
            return None if found is None else scalar(found, path)
        except Refused as error:
            return error

    def _excerpt(self, figure: Figure, value: RedfishValue, sensor: dict[str, Any], resources: dict[str, Any]) -> Any:
        """The reading of a sensor, of which an excerpt, or a link to it, was found."""
        if sensor.get("Reading") is None and sensor.get("LifetimeReading") is None:
            link = sensor.get("DataSourceUri") or sensor.get("@odata.id")
            if not isinstance(link, str) or not link.startswith("/redfish/v1/"):
                return None
            sensor = self._resource(link.partition("#")[0], resources)
            if not isinstance(sensor, dict):
                return None
        if figure not in {"energy", "volume"}:
            return sensor.get("Reading")
        lifetime = self._lifetime.setdefault(value, sensor.get("LifetimeReading") is not None)
        return sensor.get("LifetimeReading" if lifetime else "Reading")

    def _resource(self, path: str, resources: dict[str, Any]) -> Any:
        """A resource, read once in a reading; None where it is not there."""
        if path not in resources:
            try:
                resources[path] = decode(self._request("GET", path)[0])
            except _Status as error:
                if error.status != 404:
                    raise
                resources[path] = None
        return resources[path]

    def _log_in(self) -> None:
        self._headers, self._session = {}, None
        if self._login is None:
            return
        user, password = self._login
        content = json.dumps({"UserName": user, "Password": password}).encode()
        # Both ways to say who we are in one go: a service that wants the other one counts no failure.
        self._headers = http_basic(user, password)
        try:
            _, headers = self._request("POST", SESSIONS, content)
        except _Status as error:
            if error.status == 401:
                raise self._refused(401) from None
            # It has no sessions, or none for us.
            return
        except MeterProblem:
            self._headers = None
            raise
        if token := headers.get("X-Auth-Token"):
            self._headers = {"X-Auth-Token": token}
            # Location is a path, or a whole address.
            _, slash, member = headers.get("Location", "").rpartition(f"{SESSIONS}/")
            self._session = f"{SESSIONS}/{member}" if slash else None

    def _request(self, method: str, path: str, content: bytes | None = None) -> tuple[bytes, dict[str, str]]:
        """The body and the heads of an answer."""
        limit_s = self._settings.timeout_s
        deadline_s = time.monotonic() + limit_s
        headers = {**HEADERS, **(self._headers or {}), **({"Content-Type": "application/json"} if content else {})}
        try:
            response = self._pool.request(
                method, self._url + path, headers=headers, body=content, preload_content=False, redirect=False,
                retries=False, timeout=urllib3.Timeout(total=limit_s),
            )  # fmt: skip
            try:
                told = body(response, deadline_s, MOST_BYTES)
            except BaseException:
                # What is left of it must not be taken for the next answer.
                response.close()
                raise
            response.release_conn()
        except urllib3.exceptions.SSLError as error:
            raise MeterProblem(
                f"{self._url} is not trusted: {error}",
                "Set ca_file to the certificate of its issuer, or of itself where it is self-signed; the address must"
                " be one that the certificate names.",
                ExitCode.CONFIGURATION,
            ) from None
        except TooLong:
            raise MeterProblem(
                f"{self._url}{path} answers more than {MOST_BYTES // BYTES_PER_MIB} MiB",
                "No Redfish resource is that long: check the address.",
                ExitCode.DATA,
            ) from None
        except (urllib3.exceptions.HTTPError, TooSlow, ValueError) as error:
            raise self._unreachable(error) from None
        if not 200 <= response.status < 300:
            raise _Status(response.status)
        return told, {name: response.headers[name] for name in ("X-Auth-Token", "Location") if name in response.headers}

    def _unreachable(self, error: Exception) -> MeterProblem:
        refused = isinstance(error, urllib3.exceptions.NewConnectionError)
        if isinstance(error, urllib3.exceptions.TimeoutError | TooSlow) and not refused:
            return MeterProblem(
                f"{self._url} does not answer within {self._settings.timeout_s:g} s",
                "Management controllers are slow: a greater timeout_s and interval_s may help. A firewall that drops"
                " packets looks the same.",
            )
        # Of a connection that was refused, urllib3 says first which object it was.
        reason = str(error).partition(": ")[2] if refused else error
        return MeterProblem(f"{self._url} cannot be reached: {reason}", "Check the address, and that Redfish is on.")

    def _refused(self, status: int) -> MeterProblem:
        if status in {401, 403}:
            problem = f"{self._url} does not let us in ({status})"
            if self._login is None:
                return MeterProblem(problem, "Set user and secret_file.", ExitCode.CONFIGURATION)
            self.close()
            remedy = "Check user and secret_file, and that the account may read Redfish."
            return Denied(problem, remedy, of_account=status == 401)
        if 300 <= status < 400:
            return MeterProblem(
                f"{self._url} leads elsewhere ({status})",
                "Name the address where it is itself; https in place of http, perhaps.",
                ExitCode.CONFIGURATION,
            )
        return MeterProblem(f"{self._url} answers {status}", "See its log; a retry may help.")

    def _nothing(self, resources: dict[str, Any]) -> MeterProblem:
        """Why none of the map's figures is there."""
        if all(it is None for it in resources.values()):
            for word, name in self._words.items():
                if word in self._settings.index and name not in self._members(self._collection(word)):
                    return self._which(word)
        return MeterProblem(
            f"{self._url} has none of the figures of the map {self._map.name} in {', '.join(resources)}",
            "Another map may fit it: `gigawatch meter maps` lists them.",
            ExitCode.DATA,
        )

    def _which(self, word: str) -> MeterProblem:
        """That a word of the index is missing or wrong, and what there is."""
        collection = self._collection(word)
        members = self._members(collection)
        shown = ", ".join(members[:MOST_SHOWN]) or "nothing"
        more = f" and {len(members) - MOST_SHOWN} more" if len(members) > MOST_SHOWN else ""
        given = self._settings.index.get(word)
        problem = f"index.{word} is not given" if given is None else f"there is no {word} {given!r}"
        return MeterProblem(
            f"{self._url}: {problem}, and {collection} holds {shown}{more}",
            f"Set index = {{{word} = …}} to one of these, or take another map.",
            ExitCode.CONFIGURATION,
        )

    def _collection(self, word: str) -> str:
        """Path of the collection one of whose members a word of the index names."""
        paths = (value.path for values in self._map.readings.values() for value in values)
        path = next(path for path in paths if f"{{{word}}}" in path)
        return fill(path.partition(f"{{{word}}}")[0], self._words).rstrip("/")

    def _members(self, collection: str) -> list[str]:
        """Names of the members of a collection, as they stand in paths."""
        try:
            members = find(self._resource(collection, {}), "Members")
        except Refused:
            members = None
        members = members if isinstance(members, list) else []
        links = [member.get("@odata.id") for member in members if isinstance(member, dict)]
        return [link.rstrip("/").rpartition("/")[2] for link in links if isinstance(link, str)]
