"""Many agents, several API processes, and whatever can go wrong between them: each window is stored exactly once."""

import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from sqlalchemy import Engine, text

from gigawatch import database
from gigawatch.connections import allow_open_files
from gigawatch.embedded import EmbeddedServer, installations
from gigawatch.records import EnergyMethod, Gpu, GpuWindow, Inventory, NodeWindow
from gigawatch.wire import BATCHES, MSGPACK, Batch, Outcome, encode
from migrations.run import migrate
from tests.merged import together
from tests.servers import Api, running_api

GPUS = 2
WINDOW_S = 10
MJ = 7_000_000


def minutes_ago(minutes: int) -> datetime:
    return datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=minutes)


class Agent:
    """A node's batches: one for each minute of its past, sent in order until the server has each."""

    def __init__(self, number: int, batches: int) -> None:
        self.machine_id = f"many-{number}"
        self._number = number
        self._start = minutes_ago(batches + 5)
        self.batches = batches
        self.seq = 0

    def body(self, seq: int) -> bytes:
        start = self._start + timedelta(minutes=seq)
        starts = [start + timedelta(seconds=WINDOW_S * place) for place in range(6)]
        uuids = [f"GPU-many-{self._number}-{gpu}" for gpu in range(GPUS)]
        head = Batch(machine_id=self.machine_id, sent_at=datetime.now(UTC), spool_id=f"spool-{self._number}", seq=seq,
                     oldest_seq=0, simulated=True)  # fmt: skip
        return encode(
            head,
            inventory=Inventory(hostname=self.machine_id, site=f"s{self._number % 2}", rack=f"r{self._number % 3}",
                                gpus=tuple(Gpu(uuid=uuid, index=index, model="H100")
                                           for index, uuid in enumerate(uuids))) if seq == 0 else None,
            gpu_windows=[
                GpuWindow(gpu_uuid=uuid, start=at, covered_ms=10_000, ticks_taken=10, ticks_expected=10,
                          energy_mj=MJ + self._number, energy_method=EnergyMethod.COUNTER)
                for at in starts for uuid in uuids
            ],
            node_windows=[
                NodeWindow(start=at, covered_ms=10_000, ticks_taken=10, ticks_expected=10, gpus_read=GPUS,
                           gpus_expected=GPUS, tick_ms=1_000, gpu_power_mw=(1_000,) * 10)
                for at in starts
            ],
        )  # fmt: skip


@contextmanager
def killing(apis: list[Api], chance: random.Random, pause_s: float) -> Iterator[list[Api]]:
    """SIGKILL to one API after another, at any moment, and a new one in its place; those that were killed."""
    ending = threading.Event()
    killed: list[Api] = []

    def run() -> None:
        while not ending.wait(chance.uniform(pause_s / 2, pause_s * 1.5)):
            api = chance.choice(apis)
            api.kill()
            killed.append(api)
            api.start()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield killed
    finally:
        ending.set()
        thread.join()


def post(client: httpx.Client, api: Api, body: bytes, content_type: str = MSGPACK) -> httpx.Response | None:
    headers = {"Authorization": f"Bearer {api.tokens['agent']}", "Content-Type": content_type}
    try:
        return client.post(f"{api.url}/api/v1/batches", content=body, headers=headers)
    except httpx.TransportError:
        return None


def work_off(agents: list[Agent], apis: list[Api], seed: int) -> None:
    """Send everything, with repetitions, gaps, cut bodies and merged posts, each agent to whatever API comes."""
    chance = random.Random(seed)  # noqa: S311 # not a secret
    with httpx.Client(timeout=20) as client:
        while open_agents := [agent for agent in agents if agent.seq < agent.batches]:
            api, agent = chance.choice(apis), chance.choice(open_agents)
            match chance.choices(("next", "again", "ahead", "cut", "merged"), (10, 2, 2, 2, 4))[0]:
                case "again":
                    answer = post(client, api, agent.body(max(0, agent.seq - 1)))
                    # The first may never have come, and is the next then.
                    if answer is not None and answer.status_code == 200:
                        agent.seq = max(agent.seq, answer.json()["next_seq"])
                case "ahead":
                    # By two: the store may have the next already, where its API was killed before it answered.
                    answer = post(client, api, agent.body(agent.seq + 2))
                    assert answer is None or answer.status_code in {409, 503}, answer.text
                case "cut":
                    answer = post(client, api, agent.body(agent.seq)[: chance.randrange(1, 400)])
                    assert answer is None or answer.status_code in {400, 503}, answer.text
                case "merged":
                    chosen = chance.sample(open_agents, min(3, len(open_agents)))
                    body = together([msgspec.msgpack.decode(it.body(it.seq), type=Batch) for it in chosen])
                    answer = post(client, api, body, BATCHES)
                    if answer is not None and answer.status_code == 200:
                        for it, outcome in zip(
                            chosen, msgspec.json.decode(answer.content, type=list[Outcome]), strict=True
                        ):
                            assert outcome.receipt is not None
                            it.seq += 1
                case _:
                    answer = post(client, api, agent.body(agent.seq))
                    if answer is not None and answer.status_code == 200:
                        agent.seq += 1
                    else:
                        assert answer is None or answer.status_code == 503, answer.text


def assert_each_once(engine: Engine, agents: list[Agent]) -> None:
    with engine.connect() as connection:
        rows = connection.execute(
            text("SELECT hostname, gpu_uuid, count(*), count(DISTINCT time), round(sum(energy_j) * 1000)"
                 " FROM report.gpu_windows GROUP BY 1, 2")
        ).all()  # fmt: skip
        found = {(host, uuid): (count, distinct, int(mj)) for host, uuid, count, distinct, mj in rows}
        nodes = connection.scalar(text("SELECT count(*) FROM gigawatch.node_window"))
    assert found == {
        (agent.machine_id, f"GPU-{agent.machine_id}-{gpu}"): (
            6 * agent.batches, 6 * agent.batches, 6 * agent.batches * (MJ + number),
        )
        for number, agent in enumerate(agents)
        for gpu in range(GPUS)
    }  # fmt: skip
    assert nodes == sum(6 * agent.batches for agent in agents)


@pytest.mark.parametrize("seed", range(3))
def test_each_window_is_stored_once_through_two_apis_that_are_killed(
    database_url: str, engine: Engine, tmp_path: Path, seed: int
) -> None:
    """Reordering, duplication, truncation, merging, and SIGKILL at any moment, that between COPY and answer too."""
    agents = [Agent(number, batches=12) for number in range(9)]
    with (
        running_api(database_url, tmp_path / "one.log") as one,
        running_api(database_url, tmp_path / "two.log") as two,
    ):
        # Several senders at once: an agent's batches still come one after the other.
        lanes = [agents[place::3] for place in range(3)]
        failures: list[BaseException] = []

        def run(place: int) -> None:
            try:
                work_off(lanes[place], [one, two], seed * 10 + place)
            except BaseException as error:  # noqa: BLE001 # a thread's failure must reach the test
                failures.append(error)

        threads = [threading.Thread(target=run, args=(place,)) for place in range(3)]
        with killing([one, two], random.Random(seed), 0.4) as killed:  # noqa: S311
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert failures == []
    assert killed
    assert_each_once(engine, agents)


def leader(engine: Engine) -> tuple[int, datetime] | None:
    """Process that led the last fold, and when that began."""
    with engine.connect() as connection:
        row = connection.execute(text("SELECT leader, started FROM gigawatch.job WHERE name = 'fold'")).one_or_none()
    return None if row is None else (int(row.leader.rpartition(":")[2]), row.started)


def sums(engine: Engine) -> dict[str, Any]:
    with engine.connect() as connection:
        return {
            table: connection.scalar(text(f"SELECT sum(energy_mj) FROM {table}"))
            for table in ("expanded.gpu_window", "expanded.gpu_1m", "gigawatch.rack_1m", "gigawatch.site_1m")
        }


def test_folding_goes_on_when_the_leader_is_killed(database_url: str, engine: Engine, tmp_path: Path) -> None:
    agents = [Agent(number, batches=20) for number in range(4)]
    with (
        running_api(database_url, tmp_path / "one.log") as one,
        running_api(database_url, tmp_path / "two.log") as two,
        httpx.Client(timeout=20) as client,
    ):
        for agent in agents:
            for seq in range(agent.batches // 2):
                answer = post(client, one, agent.body(seq))
                assert answer is not None and answer.status_code == 200
        first = wait_for_leader(engine, None)
        os.kill(first, signal.SIGKILL)
        killed = datetime.now(UTC)
        for agent in agents:
            for seq in range(agent.batches // 2, agent.batches):
                answer = post(client, two, agent.body(seq)) or post(client, one, agent.body(seq))
                assert answer is not None and answer.status_code == 200
        second = wait_for_leader(engine, killed)
        assert second != first
        expected = sum(6 * agent.batches * GPUS * (MJ + number) for number, agent in enumerate(agents))
        deadline = time.monotonic() + 60
        while set(sums(engine).values()) != {expected} and time.monotonic() < deadline:
            time.sleep(0.5)
        assert sums(engine) == dict.fromkeys(sums(engine), expected)


def wait_for_leader(engine: Engine, since: datetime | None) -> int:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = leader(engine)
        if found is not None and (since is None or found[1] > since):
            return found[0]
        time.sleep(0.2)
    raise AssertionError("nobody folds")


AWAY_S = 60


def test_a_database_that_is_away_for_a_minute_costs_no_row_and_no_memory(public_dir: Path, tmp_path: Path) -> None:
    installation = next(it for it in installations() if not it.timescaledb)
    agents = [Agent(number, batches=120) for number in range(60)]
    with EmbeddedServer(public_dir / "store", installation) as server:
        engine = database.engine(server.url)
        migrate(engine)
        with running_api(server.url, tmp_path / "api.log") as api:
            threads = [
                threading.Thread(target=persist, args=(agents[place::12], api, place), daemon=True)
                for place in range(12)
            ]
            for thread in threads:
                thread.start()
            time.sleep(3)
            server.stop()
            before_mib = worker_mib(api)
            most_mib = before_mib
            until = time.monotonic() + AWAY_S
            while time.monotonic() < until:
                most_mib = max(most_mib, worker_mib(api))
                time.sleep(1)
            stored = sum(agent.seq for agent in agents)
            assert stored < sum(agent.batches for agent in agents), "all was sent before the database went away"
            server.start()
            for thread in threads:
                thread.join(400)
        assert [agent.seq for agent in agents] == [agent.batches for agent in agents]
        assert_each_once(engine, agents)
        engine.dispose()
    # 64 MiB of batches may wait (server.max_waiting_mib), besides what the process is.
    assert most_mib - before_mib < 100


def persist(agents: list[Agent], api: Api, seed: int) -> None:
    """Send as agents do: the next batch until it is taken, as often as the server asks."""
    chance = random.Random(seed)  # noqa: S311
    with httpx.Client(timeout=60) as client:
        while open_agents := [agent for agent in agents if agent.seq < agent.batches]:
            for agent in open_agents:
                answer = post(client, api, agent.body(agent.seq))
                if answer is not None and answer.status_code == 200:
                    agent.seq += 1
                else:
                    assert answer is None or (answer.status_code == 503 and answer.headers["Retry-After"])
                    time.sleep(chance.uniform(0.05, 0.2))


def worker_mib(api: Api) -> float:
    """Memory of the API's processes."""
    children = Path(f"/proc/{api.pid}/task/{api.pid}/children").read_text(encoding="ascii").split()
    total_kib = 0
    for pid in (str(api.pid), *children):
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        total_kib += int(status.partition("RssAnon:")[2].split()[0])
    return total_kib / 1024


def test_each_of_many_agents_keeps_its_connection(database_url: str, tmp_path: Path) -> None:
    """A server that holds a thousand connections at most would leave the next agents waiting for ever."""
    agents = 1_500
    allow_open_files()
    with running_api(database_url, tmp_path / "api.log") as api, ExitStack() as kept:
        connections = [
            kept.enter_context(socket.create_connection(("127.0.0.1", api.port), timeout=60)) for _ in range(agents)
        ]
        for _ in range(2):
            for connection in connections:
                connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            for connection in connections:
                assert connection.recv(1_000).startswith(b"HTTP/1.1 200")
