"""Reads the power of servers by IPMI, with ipmitool: Get Power Reading of DCMI 1.5, or a sensor.

IPMI knows no energy: it is integrated from power.
"""

import os
import re
import shutil
import subprocess
import time

from collector.meters.access import login
from collector.meters.endpoint import Endpoint, endpoint
from collector.meters.maps import Figure, IpmiMap, IpmiValue, Raw, Refused, fill, reading
from collector.meters.reading import Denied, MeterProblem, Reading
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.settings import Meter

LOCAL = "local"
PRIVILEGES = ("CALLBACK", "USER", "OPERATOR", "ADMINISTRATOR")
DENIED = re.compile(r"RAKP.*(HMAC is invalid|unauthorized|integrity check)")
"""How ipmitool tells a wrong password, and a user that is not there or has no such rights: IPMI 2.0, 13.20 to 13.24."""
_POWER = re.compile(r"^\s*Instantaneous power reading:\s*([0-9]{1,6}) Watts\s*$", re.MULTILINE)
_STATE = re.compile(r"^\s*Power reading state is:\s*(.{1,40}?)\s*$", re.MULTILINE)


class IpmiDriver:
    """Reads one server's management controller, over the network or of this machine.

    Args:
        settings: of the meter.
        map_: what it tells.

    Raises:
        GigawatchError: settings and map do not fit.
    """

    def __init__(self, settings: Meter, map_: IpmiMap) -> None:
        self._settings = settings
        self._map = map_
        self._words = map_.words(settings.index)
        self._arguments = ["-I", "open"] if settings.address == LOCAL else self._remote(endpoint(settings.address, 623))

    def read(self) -> Reading:
        """The server as it is now.

        Raises:
            MeterProblem: it did not answer in time, or does not tell what its map says.
        """
        began_s = time.monotonic()
        raws: dict[Figure, list[Raw | Refused]] = {
            figure: [self._told(value) for value in values] for figure, values in self._map.readings.items()
        }
        return reading(self._map, raws, (began_s + time.monotonic()) / 2, self._settings.rated_kw)

    def close(self) -> None:
        """Nothing is kept between readings."""

    def _remote(self, at: Endpoint) -> list[str]:
        if login(self._settings) is None:
            raise GigawatchError(
                f"The meter {self._settings.name} has no user",
                "Set user and secret_file: IPMI over the network wants them.",
                ExitCode.CONFIGURATION,
            )
        privilege = str(self._words.get("privilege", "USER")).upper()
        if privilege not in PRIVILEGES:
            raise GigawatchError(
                f"index.privilege of the meter {self._settings.name} is {privilege!r}",
                f"One of {', '.join(PRIVILEGES)}: no more than the account has.",
                ExitCode.CONFIGURATION,
            )
        cipher = str(self._words.get("cipher", "auto"))
        if cipher != "auto" and not cipher.isdecimal():
            raise GigawatchError(
                f"index.cipher of the meter {self._settings.name} is {cipher!r}",
                "The number of a cipher suite of IPMI 2.0, such as 3 or 17, or auto.",
                ExitCode.CONFIGURATION,
            )
        assert self._settings.user is not None
        assert self._settings.secret_file is not None
        # The password goes by its file: anybody on this machine may see a command's arguments.
        return [
            "-I", "lanplus", "-H", at.host, "-p", str(at.port), "-L", privilege, "-U", self._settings.user,
            "-f", self._settings.secret_file, *([] if cipher == "auto" else ["-C", cipher]),
        ]  # fmt: skip

    def _told(self, value: IpmiValue) -> Raw | Refused:
        if value.sensor is not None:
            return self._sensor(fill(value.sensor, self._words))
        told = self._run("dcmi", "power", "reading")
        power, state = _POWER.search(told), _STATE.search(told)
        if power is None:
            return Refused(f"ipmitool answers {told.strip()[:80]!r}")
        if state is None or state[1] != "activated":
            return Refused(f"{power[1]} W: the measurement is {state[1] if state else 'in an unknown state'}")
        return power[1]

    def _sensor(self, name: str) -> Raw | Refused:
        """A sensor's value: its line is the name, the value, the unit and the state, with commas between."""
        told = self._run("-c", "sdr", "get", name)
        for line in told.splitlines():
            cells = line.split(",")
            if len(cells) >= 4 and cells[0].strip() == name:
                return cells[1] if cells[3].strip() == "ok" else Refused(f"{cells[1]!r}: its state is {cells[3]!r}")
        return Refused(f"there is no sensor {name!r}; `ipmitool sdr list` tells which there are")

    def _run(self, *command: str) -> str:
        """What ipmitool prints.

        Raises:
            MeterProblem: it is not there, fails, or does not end in time.
        """
        program = shutil.which("ipmitool")
        if program is None:
            raise MeterProblem(
                "ipmitool is not installed", "Install the system's package ipmitool.", ExitCode.CONFIGURATION
            )
        try:
            done = subprocess.run(
                # -v: it is silent on why there is no session otherwise.
                [program, "-v", *self._arguments, *command], check=False, capture_output=True, stdin=subprocess.DEVNULL,
                timeout=self._settings.timeout_s, env={**os.environ, "LC_ALL": "C"},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise MeterProblem(
                f"{self._settings.address} does not answer ipmitool within {self._settings.timeout_s:g} s",
                "Check the address, and that IPMI over LAN is on; some controllers want a greater timeout_s, or"
                " index.cipher, which spares a question that they leave open.",
            ) from None
        told = done.stdout.decode("utf-8", "replace")
        if done.returncode:
            # What comes before its last line are notes on what it does without.
            lines = [it.strip() for it in (told + done.stderr.decode("utf-8", "replace")).splitlines() if it.strip()]
            last = lines[-1] if lines else f"it ends with {done.returncode}"
            if denied := [line for line in lines if DENIED.search(line)]:
                raise Denied(
                    f"{self._settings.address} does not let ipmitool in: {denied[0][:200]}",
                    "Check user and secret_file, and index.privilege: a controller refuses a session of more rights"
                    " than the account has.",
                )
            raise self._failed(last)
        return told

    def _failed(self, told: str) -> MeterProblem:
        remedy = "Try the same with ipmitool itself; `-v` says more."
        if "Unable to establish" in told:
            remedy = (
                "Check the address, that IPMI over LAN is on, and index.cipher; a controller with too many sessions"
                " refuses more, too."
            )
        elif "Could not open device" in told:
            remedy = "Load ipmi_si and ipmi_devintf, and let this user read and write /dev/ipmi0."
        elif "nsufficient privilege" in told:
            remedy = "It wants more rights: set index.privilege to OPERATOR or ADMINISTRATOR, if the account has them."
        elif "Invalid command" in told:
            remedy = "It knows no DCMI; the map ipmi-sensor may fit it."
        return MeterProblem(f"ipmitool cannot read {self._settings.address}: {told[:200]}", remedy)
