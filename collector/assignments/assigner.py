"""Says what each GPU serves, for the agent's thread: what it looks at on the node may take its time."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from collector.assignments.configured import Configured, Serves
from collector.assignments.discovery import Discovery
from collector.client import utc_now
from gigawatch.records import MOST_SHARING, Event, Gpu, Severity
from gigawatch.settings import Settings

log = logging.getLogger(__name__)


class Assigner:
    """What GPUs serve: by the settings at once, by discovery when a look at the node is done.

    Args:
        settings: all settings.
        discovery: how to look at the node.
        before: what an earlier agent said; it holds for a GPU until the node was looked at.
        report: takes events, from any thread.

    Raises:
        GigawatchError: settings name an engine that is not known.
    """

    def __init__(
        self, settings: Settings, discovery: Discovery, before: Serves, report: Callable[[Event], None]
    ) -> None:
        self._configured = Configured(settings)
        self._discovery = discovery
        self._interval_s = settings.agent.health_s
        self._report = report
        self._found = dict(before) if discovery else {}
        self._looking: threading.Thread | None = None
        self._looked_at: Mapping[str, frozenset[int]] = {}
        self._looked_s = 0.0
        self._told: set[str] = set()
        """What was reported on, and is still so."""

    def find(self, gpus: Sequence[Gpu], pids: Mapping[str, frozenset[int]]) -> Serves:
        """What GPUs serve, by UUID; never waits.

        Args:
            gpus: of this node.
            pids: of the processes on each, where they are known.
        """
        configured, missing = self._configured.find(gpus)
        self._start_to_look(gpus, {uuid: on_it for uuid, on_it in pids.items() if uuid not in configured})
        for whose, names in missing.items() if gpus else ():
            self._tell(
                "assignment_gpu_missing", Severity.WARNING, whose,
                f"{whose} names GPUs that this node does not have: {', '.join(map(str, names))}; it has 0 to"
                f" {max(gpu.index for gpu in gpus)}. Correct `gpus`: indexes or UUIDs as `nvidia-smi -L` lists them",
            )  # fmt: skip
        serves = {**self._found, **configured}
        for uuid, assignments in serves.items():
            if len(assignments) > MOST_SHARING:
                self._tell(
                    "assignment_crowded", Severity.WARNING, uuid,
                    f"GPU {uuid} is shared by {len(assignments)} deployments: the first {MOST_SHARING} are named, and"
                    " the others get no energy",
                )  # fmt: skip
        return {uuid: assignments[:MOST_SHARING] for uuid, assignments in serves.items() if assignments}

    def _start_to_look(self, gpus: Sequence[Gpu], pids: Mapping[str, frozenset[int]]) -> None:
        """Look at the node if what is on the GPUs changed, or some time has passed: a port may have opened since."""
        now_s = time.monotonic()
        due = pids != self._looked_at or now_s - self._looked_s >= self._interval_s
        if self._discovery and pids and due and not (self._looking and self._looking.is_alive()):
            self._looked_at, self._looked_s = pids, now_s
            self._looking = threading.Thread(target=self._look, args=(gpus, pids), name="discovery", daemon=True)
            self._looking.start()

    def _look(self, gpus: Sequence[Gpu], pids: Mapping[str, frozenset[int]]) -> None:
        found, problems = self._discovery.find(gpus, pids)
        # Replaced whole, since the agent's thread reads it.
        self._found = {**self._found, **found}
        for way, problem in problems.items():
            if problem is None:
                self._told.discard(way)
            else:
                self._tell(
                    "discovery_failed", Severity.WARNING, way,
                    f"What GPUs serve cannot be found by {way}: {problem.problem}. {problem.remedy} Until then what was"
                    " found last holds",
                )  # fmt: skip

    def _tell(self, kind: str, severity: Severity, about: str, message: str) -> None:
        """Report it once."""
        if about not in self._told:
            self._told.add(about)
            log.warning(message)
            self._report(Event(time=utc_now(), kind=kind, severity=severity, message=message[:1_000]))
