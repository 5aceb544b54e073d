"""Which GPUs serve what: by the settings, by trees of /proc that are made up, and by processes that run."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from collector.assignments.assigner import Assigner
from collector.assignments.configured import Configured
from collector.assignments.discovery import Discovery
from collector.assignments.engines import EngineProcesses
from collector.assignments.processes import Processes
from collector.assignments.slurm import SlurmJobs
from collector.engines.scraper import Engines
from gigawatch.errors import GigawatchError
from gigawatch.records import Assignment, Event, Gpu, MigInstance, Role
from gigawatch.settings import Agent, Engine, GpuAssignment, Settings
from tests.vllm import Vllm

MIG = MigInstance(uuid="MIG-1", gpu_instance_id=1)
GPUS = tuple(
    Gpu(uuid=f"GPU-{index}", index=index, model="H100", mig_instances=(MIG,) if index == 1 else ())
    for index in range(4)
)
CHAT = Engine(url="http://127.0.0.1:8000/metrics", deployment="chat")
CODE = Engine(url="http://127.0.0.1:8001/metrics", deployment="code")
BY_CHAT = Assignment(deployment="chat", endpoint="127.0.0.1:8000")
BY_CODE = Assignment(deployment="code", endpoint="127.0.0.1:8001")

LOGIN = "/user.slice/user-0.slice/session-1.scope"
TMUX = "/user.slice/user-0.slice/user@0.service/tmux.scope"


class Proc:
    """A tree like /proc."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "proc/net").mkdir(parents=True)
        self._lines: dict[str, list[str]] = {"tcp": ["  sl  local_address"], "tcp6": ["  sl  local_address"]}
        self.listen("00000000:0016", inode=1)  # sshd

    def listen(self, address: str, inode: int, table: str = "tcp", state: str = "0A") -> None:
        remote = "0" * len(address.partition(":")[0]) + ":0000"
        self._lines[table].append(
            f"   0: {address} {remote} {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0"
        )
        for name, lines in self._lines.items():
            (self.root / "proc/net" / name).write_text("\n".join(lines) + "\n", encoding="ascii")

    def process(
        self, pid: int, parent: int = 1, *, group: int | None = None, cgroup: str = LOGIN,
        sockets: Sequence[int] = (), environment: Mapping[str, str] | None = None, name: str = "python3",
    ) -> None:  # fmt: skip
        folder = self.root / "proc" / str(pid)
        (folder / "fd").mkdir(parents=True)
        (folder / "stat").write_text(f"{pid} ({name}) S {parent} {group or pid} {pid} 0 -1 4194560 1", encoding="utf-8")
        (folder / "cgroup").write_text(f"0::{cgroup}\n", encoding="utf-8")
        (folder / "environ").write_bytes(b"".join(f"{k}={v}\0".encode() for k, v in (environment or {}).items()))
        (folder / "fd/0").symlink_to("/dev/null")
        for place, inode in enumerate(sockets, 3):
            (folder / "fd" / str(place)).symlink_to(f"socket:[{inode}]")

    def find(self, pids: Mapping[str, Sequence[int]], *engines: Engine) -> dict[str, set[Assignment]]:
        way = EngineProcesses(engines or (CHAT, CODE), Processes(self.root))
        found = way.find(GPUS, {uuid: frozenset(on_it) for uuid, on_it in pids.items()})
        return {uuid: assignments for uuid, assignments in found.items() if assignments}


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    """A node with two engines: pid 100 listens on 8000, pid 200 on 8001."""
    proc = Proc(tmp_path)
    proc.listen("0100007F:1F40", inode=8000)
    proc.listen("00000000:1F41", inode=8001)
    proc.process(1, parent=0, sockets=[1])
    proc.process(100, sockets=[77, 8000])
    proc.process(200, sockets=[8001])
    return proc


def configured(settings: Settings) -> tuple[Mapping[str, tuple[Assignment, ...]], Mapping[str, list[int | str]]]:
    return Configured(settings).find(GPUS)


def test_settings_name_gpus_by_index_by_uuid_and_by_their_mig_devices() -> None:
    engine = Engine(url="http://127.0.0.1:8000", deployment="chat", gpus=(0, "GPU-3", "MIG-1"))
    assert configured(Settings(engines=(engine,))) == ({f"GPU-{index}": (BY_CHAT,) for index in (0, 3, 1)}, {})


def test_deployments_that_share_a_gpu_are_all_named_always_in_the_same_order() -> None:
    engines = (Engine(url="http://127.0.0.1:8001", deployment="code", gpus=(0,)),
               Engine(url="http://127.0.0.1:8000", deployment="chat", gpus=(0, 0)))  # fmt: skip
    far = GpuAssignment(deployment="big", role=Role.PREFILL, gpus=(0, 2))
    prefill = Assignment(deployment="big", role=Role.PREFILL)
    expected = {"GPU-0": (prefill, BY_CHAT, BY_CODE), "GPU-2": (prefill,)}
    assert configured(Settings(engines=engines, assignments=(far,))) == (expected, {})
    assert configured(Settings(engines=engines[::-1], assignments=(far,))) == (expected, {})


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000", "http://h:8000/v1/metrics?model=a", "http://[::1]:9/metrics/"]
)
def test_an_assignment_and_a_serving_window_call_an_engine_the_same(url: str) -> None:
    engine = Engine(url=url, deployment="chat", gpus=(0,), engine="vllm")
    windows_name = Engines((engine,), 10_000, 0)._endpoints[0]._address
    assert configured(Settings(engines=(engine,)))[0]["GPU-0"][0].endpoint == windows_name


def test_gpus_that_the_node_does_not_have_are_told() -> None:
    engine = Engine(url="http://127.0.0.1:8000", deployment="chat", gpus=(0, 9, "GPU-x"))
    far = GpuAssignment(deployment="big", gpus=(1, 8))
    serves, missing = configured(Settings(engines=(engine,), assignments=(far,)))
    assert serves.keys() == {"GPU-0", "GPU-1"}
    assert missing == {"[[engines]] 127.0.0.1:8000": [9, "GPU-x"], "[[assignments]] big": [8]}


def test_indexes_stay_with_their_gpus_while_another_is_lost() -> None:
    way = Configured(Settings(assignments=(GpuAssignment(deployment="big", gpus=(2,)),)))
    assert way.find(GPUS)[0].keys() == {"GPU-2"}
    # Without GPU 1 the driver counts GPU-2 as 1 and GPU-3 as 2.
    renumbered = [GPUS[0], GPUS[1], Gpu(uuid="GPU-2", index=1, model="H100"), Gpu(uuid="GPU-3", index=2, model="H100")]
    assert way.find(renumbered)[0].keys() == {"GPU-2"}


def test_workers_that_descend_from_the_server_are_its_own(proc: Proc) -> None:
    proc.process(101, 100, name="VLLM::EngineCore) S 200 (")
    proc.process(102, 101)
    proc.process(103, 101)
    proc.process(300)  # of nobody
    found = proc.find({"GPU-0": [102, 1], "GPU-1": [103], "GPU-2": [200], "GPU-3": [300]})
    assert found == {"GPU-0": {BY_CHAT}, "GPU-1": {BY_CHAT}, "GPU-2": {BY_CODE}}


def test_the_nearest_ancestor_decides(proc: Proc) -> None:
    proc.listen("0100007F:1F42", inode=8002)
    proc.process(101, 100, sockets=[8002])
    proc.process(102, 101)
    inner = Engine(url="http://127.0.0.1:8002", deployment="inner")
    assert proc.find({"GPU-0": [102]}, CHAT, inner) == {
        "GPU-0": {Assignment(deployment="inner", endpoint="127.0.0.1:8002")}
    }


def test_several_engines_on_one_gpu_share_it(proc: Proc) -> None:
    assert proc.find({"GPU-0": [100, 200]}) == {"GPU-0": {BY_CHAT, BY_CODE}}


def test_workers_beside_the_server_are_of_its_job(proc: Proc) -> None:
    """As Dynamo's frontend and workers are, which one script starts."""
    proc.process(301, group=100)
    assert proc.find({"GPU-0": [301]}) == {"GPU-0": {BY_CHAT}}


@pytest.mark.parametrize(
    ("server", "worker", "same"),
    [
        ("/system.slice/docker-" + "a" * 64 + ".scope", "/system.slice/docker-" + "a" * 64 + ".scope/ray", True),
        ("/kubepods/burstable/pod1/" + "a" * 64, "/kubepods/burstable/pod1/" + "b" * 64, False),
        ("/system.slice/vllm.service", "/system.slice/vllm.service", True),
        ("/system.slice/vllm.service", "/system.slice/other.service", False),
        (LOGIN, LOGIN, False),
        (TMUX, TMUX, False),
        ("/", "/", False),
    ],
)  # fmt: skip
def test_workers_beside_the_server_are_of_its_container_or_service(
    tmp_path: Path, server: str, worker: str, same: bool
) -> None:
    proc = Proc(tmp_path)
    proc.listen("00000000:1F40", inode=8000)
    proc.process(100, cgroup=server, sockets=[8000])
    proc.process(300, cgroup=worker)
    assert proc.find({"GPU-0": [300]}, CHAT) == ({"GPU-0": {BY_CHAT}} if same else {})


def test_of_two_engines_in_one_container_nobody_is_guessed(tmp_path: Path) -> None:
    proc = Proc(tmp_path)
    proc.listen("00000000:1F40", inode=8000)
    proc.listen("00000000:1F41", inode=8001)
    unit = "/system.slice/models.service"
    proc.process(100, cgroup=unit, sockets=[8000])
    proc.process(200, cgroup=unit, sockets=[8001])
    proc.process(201, 200, cgroup=unit)
    proc.process(300, cgroup=unit)
    assert proc.find({"GPU-0": [300], "GPU-1": [201]}) == {"GPU-1": {BY_CODE}}


@pytest.mark.parametrize(
    ("url", "table", "address", "there"),
    [
        ("http://localhost:8000", "tcp", "0100007F:1F40", True),
        ("http://127.0.0.1:8000", "tcp", "0200007F:1F40", False),
        ("http://127.0.0.1:8000", "tcp6", "00000000000000000000000000000000:1F40", True),
        ("http://127.0.0.1:8000", "tcp6", "0000000000000000FFFF00000100007F:1F40", True),
        ("http://[::1]:8000", "tcp6", "00000000000000000000000001000000:1F40", True),
        ("http://127.0.0.1", "tcp", "00000000:0050", True),
        ("http://198.51.100.7:8000", "tcp", "00000000:1F40", False),
        ("http://no-such-host.invalid:8000", "tcp", "00000000:1F40", False),
    ],
)
def test_whose_port_it_is(tmp_path: Path, url: str, table: str, address: str, there: bool) -> None:
    proc = Proc(tmp_path)
    proc.listen(address, inode=8000, table=table)
    proc.process(100, sockets=[8000])
    assert bool(proc.find({"GPU-0": [100]}, Engine(url=url, deployment="chat"))) == there


def test_a_port_that_is_connected_and_does_not_listen_is_nobodys(tmp_path: Path) -> None:
    proc = Proc(tmp_path)
    proc.listen("0100007F:1F40", inode=8000, state="01")
    proc.process(100, sockets=[8000])
    assert proc.find({"GPU-0": [100]}) == {}


def test_an_engine_whose_gpus_are_set_is_not_looked_for(proc: Proc) -> None:
    assert proc.find({"GPU-0": [100]}, Engine(url=CHAT.url, deployment="chat", gpus=(3,))) == {}


@pytest.fixture
def vllm(tmp_path: Path) -> Iterator[Vllm]:
    engine = Vllm(tmp_path / "tokens", workers=2).start()
    yield engine
    engine.kill()


def test_workers_of_an_engine_that_runs_are_found_and_found_again_when_it_was_restarted(vllm: Vllm) -> None:
    way = EngineProcesses((Engine(url=vllm.url, deployment="chat"),), Processes())
    by_it = {Assignment(deployment="chat", endpoint=vllm.endpoint)}
    for _ in range(2):
        pids = {f"GPU-{index}": frozenset({pid}) for index, pid in enumerate(vllm.workers)}
        assert way.find(GPUS, {**pids, "GPU-3": frozenset({os.getpid()})}) == {
            "GPU-0": by_it,
            "GPU-1": by_it,
            "GPU-3": set(),
        }
        vllm.kill()
        assert not any(way.find(GPUS, pids).values())
        vllm.start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_processes_of_another_user_cannot_be_looked_at_and_it_is_said_what_to_do(vllm: Vllm) -> None:
    discovery = Discovery(Settings(engines=(Engine(url=vllm.url, deployment="chat"),)))
    os.seteuid(65_534)
    try:
        found, problems = discovery.find(GPUS, {"GPU-0": frozenset(vllm.workers)})
    finally:
        os.seteuid(0)
    assert found == {}
    assert problems["processes"] is not None
    assert problems["processes"].problem.startswith("An engine's port is open, and ")
    assert "CAP_SYS_PTRACE" in problems["processes"].remedy


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_two_capabilities_of_the_unit_open_other_users_processes(vllm: Vllm) -> None:
    unit = (Path(__file__).parents[2] / "deploy/gigawatch-agent.service").read_text(encoding="utf-8")
    named = re.findall(r"^#AmbientCapabilities=(.+)$", unit, re.MULTILINE)[0]
    capabilities = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in named.split())
    code = (
        "import sys; from collector.assignments.discovery import Discovery; from gigawatch.settings import *\n"
        f"settings = Settings(engines=(Engine(url={vllm.url!r}, deployment='chat'),))\n"
        f"print(Discovery(settings).find((), {{'GPU-0': frozenset({{{vllm.workers[0]}}})}}))"
    )
    done = subprocess.run(
        ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", f"--inh-caps=-all,{capabilities}",
         f"--ambient-caps=-all,{capabilities}", sys.executable, "-c", code],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("({'GPU-0': (Assignment(deployment='chat'"), done.stdout


SLURM_V1 = "/slurm/uid_1000/job_4711/step_0/task_0"
SLURM_V2 = "/system.slice/slurmstepd.scope/job_4711/step_batch/user/task_0"


@pytest.mark.parametrize(
    ("cgroup", "environment", "deployment"),
    [
        (SLURM_V1, {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "llama-serve"}, "llama-serve"),
        (SLURM_V2, {"SLURM_JOB_NAME": "llama-serve"}, "llama-serve"),
        ("/system.slice/node1_slurmstepd.scope/job_4711/step_0", {}, "slurm-4711"),
        ("/slurm_node1/uid_0/job_4711", {}, "slurm-4711"),
        (SLURM_V2, {"SLURM_JOB_NAME": "a\nb"}, "slurm-4711"),
        (SLURM_V2, {"SLURM_JOB_NAME": "x" * 300}, "x" * 200),
        ("/system.slice/slurmd.service", {"SLURM_JOB_ID": "12", "SLURM_JOB_NAME": "train"}, "train"),
        ("/system.slice/slurmd.service", {"SLURM_JOB_ID": "12"}, "slurm-12"),
        ("/system.slice/slurmd.service", {"SLURM_JOB_ID": "twelve", "SLURM_JOB_NAME": "train"}, None),
        ("/user.slice/job_4711", {}, None),
        ("/slurm/uid_1000/job_4711x", {}, None),
    ],
)
def test_slurm_jobs(tmp_path: Path, cgroup: str, environment: Mapping[str, str], deployment: str | None) -> None:
    proc = Proc(tmp_path)
    proc.process(100, cgroup=cgroup, environment=environment)
    found = SlurmJobs(Processes(tmp_path)).find(GPUS, {"GPU-0": frozenset({100, 999})})
    assert found["GPU-0"] == ({Assignment(deployment=deployment)} if deployment else set())


def settings(*engines: Engine, discover: tuple[str, ...] = ("processes", "slurm"), health_s: float = 3_600) -> Settings:
    return Settings(engines=engines, agent=Agent(discover=discover, health_s=health_s))


def test_a_gpu_that_an_engine_was_found_on_is_not_a_jobs(proc: Proc) -> None:
    proc.process(300, cgroup=SLURM_V2, environment={"SLURM_JOB_NAME": "train"})
    (proc.root / "proc/100/cgroup").write_text(f"0::{SLURM_V2}\n", encoding="utf-8")
    pids = {"GPU-0": frozenset({100}), "GPU-1": frozenset({300}), "GPU-2": frozenset()}
    found, problems = Discovery(settings(CHAT), proc.root).find(GPUS, pids)
    assert found == {"GPU-0": (BY_CHAT,), "GPU-1": (Assignment(deployment="train"),), "GPU-2": ()}
    assert problems == {"processes": None, "slurm": None}


def test_what_cannot_be_found_out_is_left_out_and_told(proc: Proc) -> None:
    (proc.root / "proc/net/tcp").write_text("head\ngarbage 1 2 0A\n", encoding="ascii")
    found, problems = Discovery(settings(CHAT), proc.root).find(GPUS, {"GPU-0": frozenset({100})})
    assert found == {}
    assert problems["processes"] is not None and problems["processes"].remedy


class Node:
    """What an agent would do every second, with what it was told."""

    def __init__(
        self, settings: Settings, root: Path, before: Mapping[str, tuple[Assignment, ...]] | None = None
    ) -> None:
        self.events: list[Event] = []
        self.pids: dict[str, frozenset[int]] = {}
        self.assigner = Assigner(settings, Discovery(settings, root), before or {}, self.events.append)

    def find(self) -> dict[str, tuple[Assignment, ...]]:
        return dict(self.assigner.find(GPUS, self.pids))

    def until(self, expected: object) -> None:
        deadline_s = time.monotonic() + 30
        while self.find() != expected:
            assert time.monotonic() < deadline_s, self.find()
            time.sleep(0.005)


def test_the_settings_hold_at_once_and_discovery_when_it_has_looked(proc: Proc) -> None:
    node = Node(settings(CHAT, Engine(url=CODE.url, deployment="code", gpus=(1,))), proc.root)
    assert node.find() == {"GPU-1": (BY_CODE,)}
    node.pids = {"GPU-0": frozenset({100}), "GPU-1": frozenset({100})}
    node.until({"GPU-0": (BY_CHAT,), "GPU-1": (BY_CODE,)})
    node.pids = {"GPU-0": frozenset(), "GPU-1": frozenset({100}), "GPU-2": frozenset({100})}
    node.until({"GPU-2": (BY_CHAT,), "GPU-1": (BY_CODE,)})
    assert node.events == []


def test_a_port_that_opens_late_is_found_without_a_change_of_processes(tmp_path: Path) -> None:
    proc = Proc(tmp_path)
    proc.process(100, sockets=[8000])
    node = Node(settings(CHAT, health_s=1), tmp_path)
    node.pids = {"GPU-0": frozenset({100})}
    node.until({})
    proc.listen("00000000:1F40", inode=8000)
    node.until({"GPU-0": (BY_CHAT,)})


def test_what_an_earlier_agent_found_holds_until_the_node_was_looked_at(proc: Proc) -> None:
    before = {"GPU-0": (BY_CHAT,), "GPU-1": (BY_CODE,)}
    node = Node(settings(CHAT), proc.root, before)
    assert node.find() == before
    node.pids = {"GPU-0": frozenset({100})}
    node.until(before)
    node.pids |= {"GPU-1": frozenset()}
    node.until({"GPU-0": (BY_CHAT,)})


def test_what_an_earlier_agent_found_is_nothing_where_nothing_is_discovered(proc: Proc) -> None:
    assert Node(settings(CHAT, discover=()), proc.root, {"GPU-0": (BY_CHAT,)}).find() == {}


def test_a_look_that_fails_is_told_once_and_changes_nothing(proc: Proc) -> None:
    node = Node(settings(CHAT, health_s=1), proc.root)
    node.pids = {"GPU-0": frozenset({100})}
    node.until({"GPU-0": (BY_CHAT,)})
    good = (proc.root / "proc/net/tcp").read_text(encoding="ascii")
    (proc.root / "proc/net/tcp").write_text("head\ngarbage 1 2 0A\n", encoding="ascii")
    for pid in range(400, 420):
        node.pids = {"GPU-0": frozenset({pid})}
        node.until({"GPU-0": (BY_CHAT,)})
        time.sleep(0.005)
    assert [event.kind for event in node.events] == ["discovery_failed"]
    (proc.root / "proc/net/tcp").write_text(good, encoding="ascii")
    node.until({})


def test_gpus_that_are_not_there_are_told_once(tmp_path: Path) -> None:
    node = Node(Settings(assignments=(GpuAssignment(deployment="big", gpus=(1, 7)),)), tmp_path)
    assert node.assigner.find((), {}) == {}
    assert node.events == []  # without a driver nobody knows yet
    for _ in range(3):
        assert node.find().keys() == {"GPU-1"}
    (event,) = node.events
    assert (event.kind, event.severity) == ("assignment_gpu_missing", "warning")
    assert "7" in event.message and "0 to 3" in event.message and "nvidia-smi -L" in event.message


def test_more_deployments_than_a_window_can_name_are_told(tmp_path: Path) -> None:
    many = tuple(GpuAssignment(deployment=f"d{index:02}", gpus=(0,)) for index in range(20))
    node = Node(Settings(assignments=many), tmp_path)
    assert [it.deployment for it in node.find()["GPU-0"]] == [f"d{index:02}" for index in range(16)]
    assert [event.kind for event in node.events] == ["assignment_crowded"]


def test_a_look_that_takes_its_time_keeps_nobody_waiting(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(proc.root / "slow")
    (proc.root / "proc/net/tcp").unlink()
    (proc.root / "proc/net/tcp").symlink_to(proc.root / "slow")
    node = Node(settings(CHAT), proc.root)
    node.pids = {"GPU-0": frozenset({100})}
    began_s = time.monotonic()
    for _ in range(100):
        assert node.find() == {}
    assert time.monotonic() - began_s < 5
    assert sum(thread.name == "discovery" for thread in threading.enumerate()) == 1
    (proc.root / "slow").write_text("head\n", encoding="ascii")


def test_kubernetes_without_its_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    monkeypatch.delitem(sys.modules, "collector.assignments.kubernetes", raising=False)
    with pytest.raises(GigawatchError, match="'grpc'") as caught:
        Discovery(settings(discover=("kubernetes",)))
    assert "gigawatch[kubernetes]" in caught.value.remedy
