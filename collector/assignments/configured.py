"""GPUs that the settings give to deployments."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from collector.engines.address import endpoint_of
from gigawatch.records import Assignment, Gpu, Role
from gigawatch.settings import Settings

Serves = Mapping[str, tuple[Assignment, ...]]
"""What GPUs serve, by UUID; what is found for one GPU is sorted, so that the same is equal."""


def in_order(assignments: Iterable[Assignment]) -> tuple[Assignment, ...]:
    """Each once, and always in the same order."""
    return tuple(sorted(set(assignments), key=lambda it: (it.deployment, it.role, it.endpoint or "")))


def in_words(assignments: Iterable[Assignment]) -> str:
    """What a GPU serves."""
    named = []
    for it in assignments:
        role = "" if it.role is Role.BOTH else f" ({it.role})"
        named.append(it.deployment + role + (f" by {it.endpoint}" if it.endpoint else ""))
    return ", ".join(named) or "nothing"


class Configured:
    """What [[engines]] with `gpus` and [[assignments]] say.

    Args:
        settings: all settings.

    Raises:
        GigawatchError: they name an engine that is not known.
    """

    def __init__(self, settings: Settings) -> None:
        self._wanted: list[tuple[str, Assignment, tuple[int | str, ...]]] = [
            (
                f"[[engines]] {endpoint_of(it)}",
                Assignment(deployment=it.deployment, role=it.role, endpoint=endpoint_of(it)),
                it.gpus,
            )
            for it in settings.engines
        ]
        self._wanted += [
            (f"[[assignments]] {it.deployment}", Assignment(deployment=it.deployment, role=it.role), it.gpus)
            for it in settings.assignments
        ]
        self._by_index: dict[int, str] = {}

    def find(self, gpus: Sequence[Gpu]) -> tuple[Serves, dict[str, list[int | str]]]:
        """What these GPUs serve, and which GPUs are named that are not among them, by who names them."""
        for gpu in gpus:
            # While a GPU is lost the driver numbers the others anew; engines still run where they were started.
            self._by_index.setdefault(gpu.index, gpu.uuid)
        by_uuid = by_any_uuid(gpus)
        serves: dict[str, list[Assignment]] = defaultdict(list)
        missing: dict[str, list[int | str]] = defaultdict(list)
        for whose, assignment, names in self._wanted:
            for name in names:
                uuid = self._by_index.get(name) if isinstance(name, int) else by_uuid.get(name)
                if uuid is None:
                    missing[whose].append(name)
                else:
                    serves[uuid].append(assignment)
        return {uuid: in_order(found) for uuid, found in serves.items()}, missing


def by_any_uuid(gpus: Sequence[Gpu]) -> dict[str, str]:
    """UUIDs of GPUs, by those and by their MIG devices'."""
    return {uuid: gpu.uuid for gpu in gpus for uuid in (gpu.uuid, *(it.uuid for it in gpu.mig_instances))}
