"""The node itself: who it is, and its CPU, memory and whole-node energy where the kernel tells them."""

import hashlib
import logging
import os
import platform
import socket
from pathlib import Path

from msgspec import Struct

log = logging.getLogger(__name__)


class HostReading(Struct, frozen=True, kw_only=True):
    """What the node said at one tick; None is what it cannot tell."""

    cpu_energy_uj: int | None = None
    """Energy of all CPU packages since this source was opened, µJ."""
    dram_energy_uj: int | None = None
    node_power_mw: int | None = None


class Zone:
    """One RAPL counter, made steady: the register wraps at max_energy_range_uj."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._range_uj = int((path / "max_energy_range_uj").read_text(encoding="ascii"))
        self._last_uj = self._read()
        self._total_uj = 0

    def total_uj(self) -> int:
        """Energy since this object was made, µJ.

        Raises:
            OSError, ValueError: it cannot be read now.
        """
        now_uj = self._read()
        self._total_uj += (now_uj - self._last_uj) % (self._range_uj + 1)
        self._last_uj = now_uj
        return self._total_uj

    def _read(self) -> int:
        return int((self.path / "energy_uj").read_text(encoding="ascii"))


class Host:
    """RAPL by powercap and the node's power by hwmon.

    Args:
        root: where /sys, /proc and /etc are found; tests give a tree of their own.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self.unreadable: list[str] = []
        """What is there but closed to us, for `gigawatch doctor`."""
        self._cpu = self._zones("package-", "intel-rapl:*")
        self._dram = self._zones("dram", "intel-rapl:*:*")
        self._power_meter = self._find_power_meter()

    @property
    def has_cpu(self) -> bool:
        """Whether the CPU packages' energy can be read."""
        return bool(self._cpu)

    @property
    def has_dram(self) -> bool:
        """Whether the memory's energy can be read."""
        return bool(self._dram)

    @property
    def has_node_power(self) -> bool:
        """Whether there is a meter of the whole node."""
        return self._power_meter is not None

    def read(self) -> HostReading:
        """What can be read now."""
        return HostReading(
            cpu_energy_uj=_sum(self._cpu),
            dram_energy_uj=_sum(self._dram),
            node_power_mw=self._node_power_mw(),
        )

    def machine_id(self) -> str:
        """The machine's own lasting identity, hashed: systemd asks not to send the bare one over networks."""
        for name in ("etc/machine-id", "var/lib/dbus/machine-id", "sys/class/dmi/id/product_uuid"):
            try:
                text = (self._root / name).read_text(encoding="ascii").strip()
            except (OSError, UnicodeDecodeError):
                continue
            if text:
                return hashlib.sha256(b"gigawatch:" + text.encode()).hexdigest()[:32]
        return f"host-{socket.gethostname()}"[:96]

    def boot_id(self) -> str | None:
        """Identity of this boot: across it no counter goes on."""
        try:
            return (self._root / "proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError:
            return None

    def cpu_model(self) -> str | None:
        """Model of the CPU."""
        try:
            lines = (self._root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return None
        named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        return next(named, None) or platform.processor() or None

    def _zones(self, name: str, pattern: str) -> list[Zone]:
        zones = []
        for path in sorted((self._root / "sys/class/powercap").glob(pattern)):
            try:
                if (path / "name").read_text(encoding="ascii").strip().startswith(name):
                    zones.append(Zone(path))
            except PermissionError:
                self.unreadable.append(str(path / "energy_uj"))
            except (OSError, ValueError) as error:
                log.debug("%s: %s", path, error)
        return zones

    def _find_power_meter(self) -> Path | None:
        for path in sorted((self._root / "sys/class/hwmon").glob("hwmon*")):
            try:
                # The name of the ACPI power meter's driver: other hwmon powers are of single parts.
                if (path / "name").read_text(encoding="ascii").strip() != "power_meter":
                    continue
            except OSError:
                continue
            for sensor in ("power1_average", "power1_input"):
                if os.access(path / sensor, os.R_OK):
                    return path / sensor
                if (path / sensor).exists():
                    self.unreadable.append(str(path / sensor))
        return None

    def _node_power_mw(self) -> int | None:
        if self._power_meter is None:
            return None
        try:
            power_mw = int(self._power_meter.read_text(encoding="ascii")) // 1_000  # hwmon gives µW
        except (OSError, ValueError):
            return None
        return power_mw if 0 < power_mw < 2**31 else None


def _sum(zones: list[Zone]) -> int | None:
    # A sum that lacks a package would look like a fall: all or nothing.
    if not zones:
        return None
    try:
        return sum(zone.total_uj() for zone in zones)
    except (OSError, ValueError):
        return None
