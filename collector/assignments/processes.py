"""Processes of this node, as /proc tells of them. They come and go meanwhile: one that is gone has nothing."""

import ipaddress
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
LISTENS = "0A"
MOST_ANCESTORS = 1_000
CONTAINER = re.compile(r"[0-9a-f]{64}")
SERVICE = re.compile(r"/(?!user@)[^/]+\.service(?=/|$)")


class Listening(Struct, frozen=True):
    """A TCP socket that takes connections."""

    address: Address
    port: int
    inode: int


class Processes:
    """Reads of /proc.

    Args:
        root: where it is found; tests give a tree of their own.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._proc = root / "proc"

    def all(self) -> list[int]:
        """Process ids of all that run."""
        return [int(path.name) for path in self._proc.iterdir() if path.name.isdecimal()]

    def listening(self) -> list[Listening]:
        """All sockets of this network namespace that take connections.

        Raises:
            OSError, ValueError: the kernel's tables cannot be read.
        """
        found = []
        for table in ("tcp", "tcp6"):
            path = self._proc / "net" / table
            if not path.exists():  # a kernel without IPv6
                continue
            for line in path.read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENS:
                    address, _, port = fields[1].partition(":")
                    found.append(Listening(_address(address), int(port, 16), int(fields[9])))
        return found

    def sockets(self, pid: int) -> set[int]:
        """Inodes of the sockets that a process has open.

        Raises:
            PermissionError: it is another user's.
        """
        inodes = set()
        try:
            for path in (self._proc / str(pid) / "fd").iterdir():
                target = str(path.readlink())
                if target.startswith("socket:["):
                    inodes.add(int(target[8:-1]))
        except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
            pass
        return inodes

    def ancestry(self, pid: int) -> Iterator[int]:
        """The process, its parent, and so on."""
        for _ in range(MOST_ANCESTORS):
            stat = self._stat(pid)
            if stat is None:
                return
            yield pid
            pid = stat[0]

    def group(self, pid: int) -> int | None:
        """Its process group: what a shell started as one job."""
        stat = self._stat(pid)
        return None if stat is None else stat[1]

    def cgroup(self, pid: int) -> str:
        """Paths of its control groups, one a line."""
        return self._read(pid, "cgroup")

    def unit(self, pid: int) -> str | None:
        """The container or service that it runs in; None in a login's session."""
        cgroup = self.cgroup(pid)
        container = CONTAINER.findall(cgroup)
        if container:
            return str(container[-1])
        services = SERVICE.findall(cgroup)
        return services[-1] if services else None

    def environment(self, pid: int) -> dict[str, str]:
        """The variables that it was started with; none where it is another user's."""
        pairs = (entry.partition("=") for entry in self._read(pid, "environ").split("\0"))
        return {name: value for name, _, value in pairs}

    def _stat(self, pid: int) -> tuple[int, int] | None:
        """Parent and process group."""
        # The name, in brackets, may hold anything.
        fields = self._read(pid, "stat").rpartition(")")[2].split()
        return (int(fields[1]), int(fields[2])) if len(fields) > 2 else None

    def _read(self, pid: int, name: str) -> str:
        try:
            return (self._proc / str(pid) / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""


def _address(text: str) -> Address:
    """An address as the kernel's tables have it: words of four bytes in the machine's own order."""
    octets = bytes.fromhex(text)
    if sys.byteorder == "little":
        octets = b"".join(octets[at : at + 4][::-1] for at in range(0, len(octets), 4))
    address = ipaddress.ip_address(octets)
    return getattr(address, "ipv4_mapped", None) or address
