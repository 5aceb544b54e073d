"""GPUs of Slurm jobs, by the processes on them."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from collector.assignments.processes import Processes
from gigawatch.records import Assignment, Gpu

LONGEST_NAME = 200
JOB = re.compile(r"/(?:[^/]*_)?slurm(?:stepd\.scope|_[^/]*)?/(?:uid_\d+/)?job_(\d{1,19})(?:/|$)", re.MULTILINE)
"""In version 1 …/slurm/uid_1000/job_7/step_0, in version 2 …/slurmstepd.scope/job_7/step_0."""


class SlurmJobs:
    """Finds the jobs whose processes are on GPUs.

    Args:
        processes: of this node.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def find(self, gpus: Sequence[Gpu], pids: Mapping[str, frozenset[int]]) -> dict[str, set[Assignment]]:
        """What GPUs serve by the jobs on them."""
        found: dict[str, set[Assignment]] = defaultdict(set)
        for uuid, on_it in pids.items():
            names = {self._job(pid) for pid in on_it}
            found[uuid] = {Assignment(deployment=name) for name in names if name is not None}
        return found

    def _job(self, pid: int) -> str | None:
        """Name of a process's job, else its number."""
        variables = self._processes.environment(pid)
        by_cgroup = JOB.search(self._processes.cgroup(pid))
        job = by_cgroup[1] if by_cgroup else variables.get("SLURM_JOB_ID", "")
        if not job.isdecimal():
            return None
        name = variables.get("SLURM_JOB_NAME", "")
        return name[:LONGEST_NAME] if name.isprintable() and name else f"slurm-{job}"[:LONGEST_NAME]
