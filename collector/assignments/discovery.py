"""What is found on the node of which GPUs serve what, in the order of how sure it is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from collector.assignments.configured import Serves, in_order
from collector.assignments.engines import EngineProcesses
from collector.assignments.processes import Processes
from collector.assignments.slurm import SlurmJobs
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.records import Assignment, Gpu
from gigawatch.settings import Settings


class Way(Protocol):
    """A way to find out."""

    def find(self, gpus: Sequence[Gpu], pids: Mapping[str, frozenset[int]]) -> Mapping[str, set[Assignment]]:
        """What GPUs serve, by UUID.

        Args:
            gpus: of this node.
            pids: of the processes on each of those that it is asked about.

        Raises:
            GigawatchError, OSError, ValueError: it cannot be found out now.
        """


class Discovery:
    """Asks one way after the other, each about the GPUs that the ways before it found nothing for.

    Args:
        settings: all settings; `agent.discover` chooses the ways.
        root: where /proc is found.

    Raises:
        GigawatchError: a way needs what is not installed.
    """

    def __init__(self, settings: Settings, root: Path = Path("/")) -> None:
        processes, chosen = Processes(root), settings.agent.discover
        self._ways: dict[str, Way] = {}
        if "processes" in chosen and any(not engine.gpus for engine in settings.engines):
            self._ways["processes"] = EngineProcesses(settings.engines, processes)
        if "kubernetes" in chosen:
            self._ways["kubernetes"] = _kubernetes()
        if "slurm" in chosen:
            self._ways["slurm"] = SlurmJobs(processes)

    def __bool__(self) -> bool:
        """Whether there is any way to ask."""
        return bool(self._ways)

    def find(
        self, gpus: Sequence[Gpu], pids: Mapping[str, frozenset[int]]
    ) -> tuple[Serves, dict[str, GigawatchError | None]]:
        """What these GPUs serve, and by way what is wrong with it.

        Of GPUs that a failing way might have told of, nothing is said: they are not in the answer.
        """
        problems: dict[str, GigawatchError | None] = {}
        found: dict[str, tuple[Assignment, ...]] = {}
        open_ = dict(pids)
        for name, way in self._ways.items():
            problems[name] = None
            try:
                answer = way.find(gpus, open_)
            except GigawatchError as error:
                problems[name] = error
                break
            except (OSError, ValueError) as error:
                problems[name] = GigawatchError(
                    str(error), f"Look at the node, or leave {name!r} out of agent.discover.", ExitCode.FAILURE
                )
                break
            for uuid, assignments in answer.items():
                if assignments and uuid in open_:
                    found[uuid] = in_order(assignments)
                    del open_[uuid]
        else:
            found |= dict.fromkeys(open_, ())
        return found, problems


def _kubernetes() -> Way:
    try:
        from collector.assignments.kubernetes import Pods  # noqa: PLC0415 # most agents have no grpcio
    except ModuleNotFoundError as error:
        raise GigawatchError(
            f"agent.discover has 'kubernetes', which needs the Python module {error.name!r}",
            "Install it with: pip install 'gigawatch[kubernetes]'",
            ExitCode.CONFIGURATION,
        ) from error
    return Pods()
