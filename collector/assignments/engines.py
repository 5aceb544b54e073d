"""GPUs of an engine on this node, by the processes on them.

A GPU's process works for an engine if it, or one that it descends from, listens on the engine's port; else if it runs
in the process group, container or service of a process that does, and all that do there are one engine. Workers of
tensor or pipeline parallelism mostly descend from the server; those of Ray, MPI or a launcher's router are beside it.
"""

import ipaddress
import socket
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

from collector.assignments.processes import Address, Listening, Processes
from collector.engines.address import PORTS, endpoint_of, metrics_url
from gigawatch.errors import GigawatchError
from gigawatch.records import Assignment, Gpu
from gigawatch.settings import Engine


class EngineProcesses:
    """Finds GPUs of engines for which the settings name none.

    Args:
        engines: of the settings.
        processes: of this node.
    """

    def __init__(self, engines: Sequence[Engine], processes: Processes) -> None:
        self._engines = {
            endpoint_of(it): (
                metrics_url(it),
                Assignment(deployment=it.deployment, role=it.role, endpoint=endpoint_of(it)),
            )
            for it in engines
            if not it.gpus
        }
        self._processes = processes
        self._holders: dict[int, frozenset[int]] = {}
        """Processes that have a socket open, by its inode, as they were found last."""

    def find(self, gpus: Sequence[Gpu], pids: Mapping[str, frozenset[int]]) -> dict[str, set[Assignment]]:
        """What GPUs serve by the processes on them.

        Raises:
            GigawatchError: processes cannot be looked at.
            OSError, ValueError: /proc cannot be read.
        """
        listening = self._processes.listening() if self._engines and any(pids.values()) else []
        inodes = {endpoint: _sockets(url, listening) for endpoint, (url, _) in self._engines.items()}
        self._find_holders(set().union(*inodes.values()))
        listeners: dict[int, set[str]] = defaultdict(set)
        for endpoint, sockets in inodes.items():
            for inode in sockets:
                for pid in self._holders[inode]:
                    listeners[pid].add(endpoint)
        found: dict[str, set[Assignment]] = defaultdict(set)
        for uuid, on_it in pids.items():
            for pid in on_it:
                found[uuid] |= {self._engines[endpoint][1] for endpoint in self._engines_of(pid, listeners)}
        return found

    def _engines_of(self, pid: int, listeners: Mapping[int, set[str]]) -> set[str]:
        for ancestor in self._processes.ancestry(pid):
            if ancestor in listeners:
                return listeners[ancestor]
        beside: Sequence[Callable[[int], object]] = (self._processes.group, self._processes.unit)
        for kin in beside:
            shared = kin(pid)
            near = [found for listener, found in listeners.items() if kin(listener) == shared]
            if shared is not None and near:
                # Of several nobody can say which one it works for.
                return near[0] if all(it == near[0] for it in near) else set()
        return set()

    def _find_holders(self, inodes: set[int]) -> None:
        """Which processes have these sockets open: all processes are looked at only where those of before do not."""
        if all(
            self._holders.get(inode) and all(inode in self._sockets(pid) for pid in self._holders[inode])
            for inode in inodes
        ):
            return
        holders: dict[int, set[int]] = {inode: set() for inode in inodes}
        closed = 0
        for pid in self._processes.all():
            try:
                for inode in self._processes.sockets(pid) & inodes:
                    holders[inode].add(pid)
            except PermissionError:
                closed += 1
        self._holders = {inode: frozenset(pids) for inode, pids in holders.items()}
        if closed and not all(holders.values()):
            raise GigawatchError(
                f"An engine's port is open, and {closed} processes of other users cannot be looked at for who has it",
                "Name the engine's `gpus` in [[engines]], or let the agent look: CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
                " (deploy/gigawatch-agent.service).",
            )

    def _sockets(self, pid: int) -> set[int]:
        try:
            return self._processes.sockets(pid)
        except PermissionError:
            return set()


def _sockets(url: str, listening: Sequence[Listening]) -> set[int]:
    """Inodes of the sockets of this machine that take connections for a URL."""
    parts = urlsplit(url)
    port = parts.port or PORTS[parts.scheme]
    found: set[int] = set()
    on_port = [it for it in listening if it.port == port]
    for address in _own_addresses(parts.hostname or "") if on_port else ():
        exact = {it.inode for it in on_port if it.address == address}
        found |= exact or {it.inode for it in on_port if it.address.is_unspecified}
    return found


def _own_addresses(host: str) -> set[Address]:
    """Those addresses of a host that are this machine's."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return set()
    return {ipaddress.ip_address(str(place[0])) for family, *_, place in found if _is_own(family, place)}


def _is_own(family: int, place: tuple[object, ...]) -> bool:
    # Only an address of one's own can be bound to.
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((place[0], 0, *place[2:]))
    except OSError:
        return False
    return True
