"""A store whose clock is ours, what agents and meters send to it, and the shipped rules that watch it.

now() of its database is a function that reads a table: hours pass at once, and moments are exact. Batches go through
the API's own decoding and writer, and are folded as the leader folds them.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import psycopg
from sqlalchemy import text

from api.alerts import files, states
from api.alerts.evaluation import evaluate
from api.alerts.rule import Override
from api.decode import Parcel, decode
from api.rollups import SETTLED, Folder
from api.store import Store
from gigawatch import database
from gigawatch.records import (
    Assignment,
    EnergyMethod,
    Gpu,
    GpuWindow,
    Inventory,
    MeterWindow,
    NodeWindow,
    ServingWindow,
)
from gigawatch.settings import Alerts
from gigawatch.wire import MSGPACK, Batch, Receipt, encode
from tests.facility import KWH_MJ

START = datetime(2026, 3, 10, 12, tzinfo=UTC)
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
LONG = timedelta(days=3_650)
H100 = "NVIDIA H100 80GB HBM3"
CLOCK = """
    CREATE SCHEMA clock;
    CREATE TABLE clock.reading (shows timestamptz NOT NULL);
    INSERT INTO clock.reading VALUES ('-infinity');
    CREATE FUNCTION clock.shows() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
        SET search_path = pg_catalog AS 'SELECT shows FROM clock.reading';
    GRANT USAGE ON SCHEMA clock TO PUBLIC;
    CREATE OR REPLACE FUNCTION pg_catalog.now() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
        AS 'SELECT clock.shows()'"""
"""It keeps its number, by which views know it, and the planner puts what it selects in its place."""
Tell = Callable[[], None]
TELLING = ("gpu_uuid", "hostname", "meter", "deployment", "budget", "gpu_model", "rack", "site")
"""Labels that tell alerts of a rule apart, in these tests: the first that there is."""


class Watched:
    """A store whose clock is ours, and the shipped rules that watch it."""

    def __init__(self, url: str) -> None:
        self.engine = database.engine(url)
        self._report_engine = database.engine(url, role=database.REPORT_ROLE, statement_timeout_s=30)
        self._store = Store(self.engine, LONG)
        plain = self.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._folding = psycopg.connect(plain, autocommit=True, options="-c timezone=UTC")
        self._folder = Folder(self._folding)
        self.rules = dict(files.shipped())
        self.run(CLOCK)
        self.now = START
        self.at(START)

    def close(self) -> None:
        """Close its connections."""
        self._store.close()
        self._folding.close()
        for it in (self.engine, self._report_engine):
            it.dispose()

    def run(self, sql: str, **values: Any) -> list[Any]:
        """Rows of a statement of the store's owner."""
        with self.engine.begin() as connection:
            found = connection.execute(text(sql), values)
            return list(found) if found.returns_rows else []

    def at(self, moment: datetime) -> None:
        """Set the clock."""
        self.now = moment
        self.run("UPDATE clock.reading SET shows = :moment", moment=moment)

    def send(self, host: str, inventory: Inventory | None, behind: timedelta = timedelta(), **items: Any) -> Receipt:
        """A batch of a host, whose clock may be behind; it arrives now."""
        body = encode(Batch(machine_id=host, sent_at=self.now - behind), inventory=inventory, **items)
        (parcel,) = decode(body, MSGPACK, self.now, 300)
        assert isinstance(parcel, Parcel)
        (receipt,) = self._store.store([parcel])
        assert isinstance(receipt, Receipt), receipt
        assert receipt.refused == []
        return receipt

    def fold(self) -> None:
        """Fold what is over."""
        self._folder.run(self.now + SETTLED)

    def evaluate(self, *names: str) -> None:
        """Evaluate rules now, and write what becomes of their alerts."""
        for name in names:
            rule = self.rules[name]
            found = evaluate(self._report_engine, rule, self.now, Alerts())
            with self.engine.begin() as connection:
                before = states.read(connection, name, self.now)
                states.write(connection, name, states.advance(rule, before, found, self.now), self.now)

    def go(self, until: datetime, *names: str, tell: Tell | None = None) -> None:
        """Let time pass: tell what is to be told, and evaluate the rules, at their interval and at the end."""
        step = min(self.rules[name].interval_s for name in names) * SECOND
        while self.now < until:
            self.at(min(self.now + step, until))
            if tell is not None:
                tell()
            self.evaluate(*names)

    def alerts(self, rule: str, state: str = "firing") -> dict[str, Any]:
        """Its alerts in a state, by the label that tells them apart."""
        rows = self.run("SELECT * FROM report.alerts WHERE rule = :rule AND state = :state", rule=rule, state=state)
        found = {next(row.labels[name] for name in TELLING if name in row.labels): row for row in rows}
        assert len(found) == len(rows)
        return found

    def overridden(self, rule: str, threshold: str, *overrides: Override) -> None:
        """Let a threshold be another somewhere."""
        thresholds = self.rules[rule].thresholds
        changed = msgspec.structs.replace(thresholds[threshold], overrides=overrides)
        self.rules[rule] = msgspec.structs.replace(self.rules[rule], thresholds=thresholds | {threshold: changed})


class Node:
    """An agent and its GPUs, each of which is in all its windows as we say."""

    def __init__(
        self,
        watched: Watched,
        name: str,
        gpus: dict[str, dict[str, Any]],
        *,
        rack: str | None = "A1",
        site: str = "oslo",
        length: timedelta = 10 * SECOND,
        what: dict[str, dict[str, Any]] | None = None,
        told: bool = True,
        behind: timedelta = timedelta(),
    ) -> None:
        self._watched = watched
        self.name = name
        self.gpus = gpus
        self._length = length
        self._behind = behind
        self._sent = watched.now - behind
        self._inventory = None
        if told:
            its = what or {}
            self._inventory = Inventory(
                hostname=name, site=site, rack=rack,
                gpus=tuple(
                    Gpu(**{"uuid": uuid, "index": index, "model": H100, "temp_slowdown_c": 87} | its.get(uuid, {}))
                    for index, uuid in enumerate(gpus)
                ),
            )  # fmt: skip

    def send(self, **items: Any) -> None:
        """A batch without windows."""
        self._watched.send(self.name, self._inventory, self._behind, **items)

    def forget(self) -> None:
        """Have nothing to send of the time until now: it was off."""
        self._sent = self._watched.now - self._behind

    def report(self, most: timedelta = LONG) -> None:
        """Send the windows that ended since, the oldest first, of so much time at most."""
        until = min(self._watched.now - self._behind, self._sent + most)
        starts = []
        while self._sent + self._length <= until:
            starts.append(self._sent)
            self._sent += self._length
        ms, ticks = self._length // timedelta(milliseconds=1), self._length // SECOND
        whole = {"covered_ms": ms, "ticks_taken": ticks, "ticks_expected": ticks}
        usual = {"energy_mj": 300 * ms, "energy_method": EnergyMethod.COUNTER}
        windows = [
            GpuWindow(gpu_uuid=uuid, start=start, **whole, **{**usual, **values, **self.differs(uuid, start)})
            for start in starts for uuid, values in self.gpus.items()
        ]  # fmt: skip
        polled = [it.get("power_mean_mw", 300_000) for it in self.gpus.values()]
        of_node = [
            NodeWindow(start=start, **whole, gpus_read=len(self.gpus), gpus_expected=len(self.gpus), tick_ms=1_000,
                       gpu_power_mw=(None if None in polled else sum(polled),) * ticks)
            for start in starts
        ]  # fmt: skip
        self.send(gpu_windows=windows, node_windows=of_node, **self.told(starts))

    def differs(self, _uuid: str, _start: datetime) -> dict[str, Any]:
        """What is not the same in all windows of a GPU."""
        return {}

    def told(self, _starts: Sequence[datetime]) -> dict[str, Any]:
        """What else it sends of these windows."""
        return {}


class Gateway:
    """An agent that reads a site's meters, each of which tells in all its windows what we say."""

    def __init__(
        self,
        watched: Watched,
        meters: dict[str, dict[str, Any]],
        *,
        site: str = "oslo",
        length: timedelta = 30 * SECOND,
    ) -> None:
        self._watched = watched
        self.meters = meters
        self._site = site
        self._length = length
        self._sent = watched.now

    def report(self) -> None:
        """Send the windows that ended since."""
        starts = []
        while self._sent + self._length <= self._watched.now:
            starts.append(self._sent)
            self._sent += self._length
        self.send([self.window(name, start) for start in starts for name in self.meters])

    def window(self, name: str, start: datetime) -> MeterWindow:
        """A meter's window."""
        ms = self._length // timedelta(milliseconds=1)
        whole = {"covered_ms": ms, "readings_taken": 3, "readings_expected": 3}
        return MeterWindow(meter=name, start=start, **{**whole, **self.meters[name]})

    def send(self, windows: Sequence[MeterWindow]) -> None:
        """A batch of windows."""
        host = f"gateway-{self._site}"
        self._watched.send(host, Inventory(hostname=host, site=self._site), meter_windows=windows)


def kwh(value: float, **more: Any) -> dict[str, Any]:
    """Energy of an hour, with the power that it was."""
    return {
        "energy_mj": round(value * KWH_MJ), "energy_method": EnergyMethod.COUNTER,
        "power_mean_mw": round(value * 1_000_000), **more,
    }  # fmt: skip


def drawing(
    counter_w: float, polled_w: float | None = None, method: EnergyMethod = EnergyMethod.COUNTER
) -> dict[str, Any]:
    """A GPU's windows of a minute."""
    return {
        "energy_mj": round(counter_w * 60_000), "energy_method": method,
        "power_mean_mw": None if polled_w is None else round(polled_w * 1_000),
    }  # fmt: skip


class Serving(Node):
    """A node of one GPU that serves a deployment, whose engine does in all windows of a minute what we say."""

    def __init__(self, watched: Watched, name: str, watts: float, tokens: int, batch: int) -> None:
        at = f"{name}:8000"
        super().__init__(watched, f"node-{name}", {f"GPU-{name}": {}}, length=MINUTE)
        self._serves = Assignment(deployment=name, endpoint=at)
        self._at = at
        self.does(watts, tokens, batch)

    def does(self, watts: float, tokens: int, batch: int) -> None:
        """What it does from now on: its power, tokens a minute and running requests."""
        (uuid,) = self.gpus
        self.gpus[uuid] = {**drawing(watts), "serves": (self._serves,)}
        self._tokens, self._batch = tokens, batch

    def engine(self, start: datetime) -> ServingWindow:
        """Its engine's window."""
        return ServingWindow(
            deployment=self._serves.deployment, endpoint=self._at, engine="vllm", model="llama", start=start,
            covered_ms=60_000, observed_ms=60_000, scrapes_taken=12, scrapes_expected=12,
            generated_tokens=self._tokens, prompt_tokens=0, running_request_ms=60_000 * self._batch,
            active_ms=60_000 if self._batch else 0,
        )  # fmt: skip

    def told(self, starts: Sequence[datetime]) -> dict[str, Any]:
        """Its engine's windows."""
        return {"serving_windows": [self.engine(start) for start in starts]}
