"""Says what each of this node's GPUs serves: as configured, else as found by the processes that use them.

A GPU's energy is that of the deployment it is assigned to, busy or not. Configuration is exact. What is found follows
the slow readings of the GPUs' processes (agent.health_s), so that a deployment that moves is seen so much later.
"""

import logging
import socket
import threading
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from collector import processes
from collector.engines.address import address
from gigawatch.records import Assignment, Gpu
from gigawatch.settings import Engine, Settings

Serving = Mapping[str, tuple[Assignment, ...]]
"""What GPUs serve, by UUID."""
log = logging.getLogger(__name__)


class Assignments:
    """Keeps up with what the GPUs serve.

    Args:
        settings: sections engines and assignments, and agent.discover.
        proc: where the kernel tells of processes.
    """

    def __init__(self, settings: Settings, proc: Path = Path("/proc")) -> None:
        self._settings = settings
        self._proc = proc
        looks = "processes" in settings.agent.discover
        self._by_process = [it for it in settings.engines if looks and not it.gpus and _is_local(it)]
        self._by_job = "slurm" in settings.agent.discover
        self._asked: tuple[Sequence[Gpu], Mapping[str, Collection[int]]] = ((), {})
        self._wake = threading.Event()
        self._ending = False
        self._found: Serving = {}
        self._thread = threading.Thread(target=self._watch, name="assignments", daemon=True)

    def start(self) -> None:
        """Begin to look, if there is anything to be found: a walk over all processes is nothing for a tick."""
        if self._by_process or self._by_job:
            self._thread.start()

    def stop(self) -> None:
        """Look no more; a walk under way is left to itself."""
        self._ending = True
        self._wake.set()

    def look(self, gpus: Sequence[Gpu], pids: Mapping[str, Collection[int]]) -> Serving:
        """What the GPUs serve as far as it is known now.

        Args:
            gpus: of the node.
            pids: processes on each, by UUID, as they were last read.
        """
        if (gpus, pids) != self._asked:
            self._asked = (gpus, pids)
            self._wake.set()
        configured = self.configured(gpus)
        present = {gpu.uuid for gpu in gpus}
        return {**{uuid: its for uuid, its in self._found.items() if uuid in present}, **configured}

    def configured(self, gpus: Sequence[Gpu]) -> Serving:
        """What the settings say of the node's GPUs."""
        serves: dict[str, set[Assignment]] = defaultdict(set)
        uuids: dict[int | str, str] = {gpu.index: gpu.uuid for gpu in gpus}
        uuids |= {gpu.uuid: gpu.uuid for gpu in gpus}
        for engine in self._settings.engines:
            for name in engine.gpus:
                if name in uuids:
                    serves[uuids[name]].add(_of_engine(engine))
        for lent in self._settings.assignments:
            for name in lent.gpus:
                if name in uuids:
                    serves[uuids[name]].add(Assignment(deployment=lent.deployment, role=lent.role))
        return {uuid: _sorted(its) for uuid, its in serves.items()}

    def unknown(self, gpus: Sequence[Gpu]) -> list[str]:
        """Indexes and UUIDs in the settings that are none of these GPUs."""
        known: set[int | str] = {gpu.index for gpu in gpus} | {gpu.uuid for gpu in gpus}
        named = [name for engine in self._settings.engines for name in engine.gpus]
        named += [name for lent in self._settings.assignments for name in lent.gpus]
        return sorted({str(name) for name in named if name not in known})

    def discovered(self, pids: Mapping[str, Collection[int]]) -> Serving:
        """What the processes on the GPUs say; takes some 20 µs for each process of the node."""
        serves: dict[str, tuple[Assignment, ...]] = {}
        families = {
            _of_engine(engine): processes.family(processes.listeners(_port(engine), self._proc), self._proc)
            for engine in self._by_process
        }
        for uuid, its in pids.items():
            found = _sorted({engine for engine, family in families.items() if family.intersection(its)})
            if not found and self._by_job:
                jobs = {processes.slurm_job(pid, self._proc) for pid in its}
                found = _sorted({Assignment(deployment=job) for job in jobs if job is not None})
            if found:
                serves[uuid] = found
        return serves

    def _watch(self) -> None:
        while True:
            # Engines come and go without the GPUs' processes changing, seldom.
            self._wake.wait(self._settings.agent.health_s)
            self._wake.clear()
            if self._ending:
                return
            try:
                self._found = self.discovered(self._asked[1])
            except OSError as error:
                log.warning("What the GPUs serve cannot be found out: %s", error)


def _of_engine(engine: Engine) -> Assignment:
    return Assignment(deployment=engine.deployment, role=engine.role, endpoint=address(engine))


def _sorted(its: Collection[Assignment]) -> tuple[Assignment, ...]:
    return tuple(sorted(its, key=lambda it: (it.deployment, it.role.value, it.endpoint or "")))


def _port(engine: Engine) -> int:
    parts = urlsplit(engine.url)
    return parts.port or (443 if parts.scheme == "https" else 80)


def _is_local(engine: Engine) -> bool:
    """Whether an engine's address is this node's: one that a socket here can be bound to."""
    host = urlsplit(engine.url).hostname or ""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    for family, kind, protocol, _, place in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.bind((place[0], 0))
        except OSError:
            continue
        return True
    return False
