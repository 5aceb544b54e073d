"""Who listens, who belongs together, and in which job: what the kernel tells of this node's processes."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path

LISTENING = "0A"
_JOB = re.compile(r"/job_(\d+)(?:/|$)")


def listeners(port: int, proc: Path = Path("/proc")) -> set[int]:
    """Processes that listen on a TCP port and may be looked at."""
    inodes = {inode for table in ("tcp", "tcp6") for inode in _listening(proc / "net" / table, port)}
    if not inodes:
        return set()
    wanted = {f"socket:[{inode}]" for inode in inodes}
    return {pid for pid in _pids(proc) if not wanted.isdisjoint(_open_files(proc / str(pid) / "fd"))}


def family(pids: Collection[int], proc: Path = Path("/proc")) -> set[int]:
    """These processes with their process groups, and all that they started.

    The group is what a shell, a service manager or a container began as one: a server's workers may be its siblings.
    """
    if not pids:
        return set()
    groups: dict[int, set[int]] = defaultdict(set)
    children: dict[int, set[int]] = defaultdict(set)
    group_of: dict[int, int] = {}
    for pid in _pids(proc):
        try:
            # The name may hold anything, brackets and blanks too.
            fields = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            parent, group = int(fields[1]), int(fields[2])
        except (OSError, IndexError, ValueError):
            continue
        groups[group].add(pid)
        children[parent].add(pid)
        group_of[pid] = group
    found: set[int] = set()
    waiting = {other for pid in pids for other in (pid, *groups.get(group_of.get(pid, -1), ()))}
    while waiting:
        pid = waiting.pop()
        found.add(pid)
        waiting |= children[pid] - found
    return found


def slurm_job(pid: int, proc: Path = Path("/proc")) -> str | None:
    """What the Slurm job of a process is called: by its name, or `slurm-123` where that may not be read."""
    try:
        groups = (proc / str(pid) / "cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    job = _JOB.search(groups)
    environment = _environment(proc / str(pid) / "environ")
    number = job[1] if job else environment.get("SLURM_JOB_ID", "")
    if not number.isdigit():
        return None
    return environment.get("SLURM_JOB_NAME", "")[:200] or f"slurm-{number}"


def _environment(path: Path) -> dict[str, str]:
    try:
        pairs = path.read_text(encoding="utf-8", errors="replace").split("\0")
    except OSError:
        return {}
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def _listening(path: Path, port: int) -> Iterator[str]:
    """Inodes of the sockets of a table that listen on a port."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return
    for line in lines:
        fields = line.split()
        if len(fields) > 9 and fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
            yield fields[9]


def _open_files(folder: Path) -> Iterator[str]:
    try:
        for path in folder.iterdir():
            try:
                yield str(path.readlink())
            except OSError:
                continue
    except OSError:
        # Another user's, or just ended.
        return


def _pids(proc: Path) -> Iterator[int]:
    return (int(path.name) for path in proc.iterdir() if path.name.isdigit())
