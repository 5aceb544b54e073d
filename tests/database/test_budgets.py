"""Budgets through the real path: windows of GPUs, hosts and meters in, fold, what report.budgets() gives out."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Engine, text

from api.alerts import configured
from api.factors import store as factors
from api.factors.intervals import Factors, Interval
from api.retention import retain
from gigawatch.records import Assignment, EnergyMethod, Gpu, GpuWindow, Inventory, NodeWindow
from gigawatch.settings import Alerts, Retention
from gigawatch.wire import Batch, encode
from tests import facility
from tests.factory import rows

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
TURN = (datetime.now(UTC) - DAY / 2).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
"""The month's turn, UTC."""
BEGIN, END, AT = TURN - 6 * HOUR, TURN + 3.5 * HOUR, TURN + 200 * MINUTE
H100, B200 = "NVIDIA H100", "NVIDIA B200"
NODES = {
    "a": ("oslo", H100, "chat"),
    "b": ("oslo", H100, "code"),
    "c": ("oslo", B200, "other"),
    "d": ("oslo", H100, ""),
}
"""Of each the site, the model of its GPU, and the deployment that it serves. The host of a alone is metered."""
LIMITS = {"energy_mwh": 1, "cost": 10, "currency": "EUR", "co2e_t": 1}
DOCUMENT = {
    "tenants": {"both": ["ch*", "code"]},
    "budgets": {
        "both": {"tenant": "both", **LIMITS},
        "other": {"deployment": "other", **LIMITS},
        "kroner": {"deployment": "chat", "cost": 10, "currency": "NOK"},
        "nobody": {"deployment": "nobody", **LIMITS},
        "oslo": {"site": "oslo", **LIMITS},
        # Their month turns earlier, one within an hour of UTC; in the last it is the month before still.
        **{zone: {"tenant": "both", "time_zone": zone, **LIMITS}
           for zone in ("Europe/Oslo", "Asia/Kolkata", "America/New_York")},
    },
}  # fmt: skip
KEEP = 50 * DAY


def send(engine: Engine, node: str, minutes: Iterable[datetime]) -> None:
    """A window for each minute: some 700 W of its GPU, and of a metered host 300 W beside."""
    _, model, deployment = NODES[node]
    gpus, nodes = [], []
    for start in minutes:
        energy_mj = 42_000_000 + (ord(node) * int(start.timestamp())) % 1_000_003
        gpus.append(GpuWindow(
            gpu_uuid=f"GPU-{node}", start=start, covered_ms=60_000, ticks_taken=1, ticks_expected=1,
            energy_mj=energy_mj, energy_method=EnergyMethod.COUNTER,
            serves=(Assignment(deployment=deployment),) if deployment else (),
        ))  # fmt: skip
        nodes.append(NodeWindow(
            start=start, covered_ms=60_000, ticks_taken=1, ticks_expected=1, gpus_read=1, gpus_expected=1,
            tick_ms=60_000, gpu_power_mw=(energy_mj // 60,),
            node_power_mean_mw=energy_mj // 60 + 300_000 if node == "a" else None,
        ))  # fmt: skip
    now = datetime.now(UTC)
    inventory = Inventory(hostname=node, site="oslo", gpus=(Gpu(uuid=f"GPU-{node}", index=0, model=model),))
    body = encode(
        Batch(machine_id=f"machine-{node}", sent_at=now), inventory=inventory, gpu_windows=gpus, node_windows=nodes
    )
    assert facility.store(engine, body, now, KEEP).refused == []


def span(start: datetime, stop: datetime, step: timedelta = MINUTE) -> list[datetime]:
    return [start + number * step for number in range((stop - start) // step)]


def give(engine: Engine, kind: factors.Kind, start: datetime, stop: datetime, step: timedelta, first: str) -> int:
    """Values that rise with each step, in place of what was there; the import's number."""
    intervals = [
        Interval(at, at + step, Decimal(first) + Decimal(number) / 100)
        for number, at in enumerate(span(start, stop, step))
    ]
    with engine.begin() as connection:
        taken = factors.take(
            connection, "oslo", kind, Factors(intervals=intervals, source="test", version="1"), version=None,
            source=None, replace=True, dry_run=False,
        )  # fmt: skip
    assert taken.import_id is not None
    return taken.import_id


def apply(engine: Engine, document: dict[str, Any]) -> None:
    with engine.begin() as connection:
        found = configured.read(json.dumps(document).encode())
        configured.apply(connection, engine, Alerts(), found, author="test", source="test", dry_run=False)


def fold(engine: Engine) -> None:
    facility.fold(engine, END)


class Reports:
    """What the reports have up to a moment, each asked once."""

    def __init__(self, engine: Engine, at: datetime) -> None:
        self._engine, self._at = engine, at
        self._found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}

    def of(self, function: str, it: dict[str, Any], start: datetime) -> list[dict[str, Any]]:
        """The rows of a report from then on that are of a budget, at its boundary."""
        of = "site" if it["deployments"] is None else "deployment"
        key = (function, start, of, it["boundary"], it["site"])
        if key not in self._found:
            self._found[key] = rows(
                self._engine,
                f"SELECT * FROM report.{function}(:start, :at, group_by => :of, in_boundary => :boundary,"
                " in_site => :site)",
                start=start, at=self._at, of=of, boundary=it["boundary"], site=it["site"],
            )  # fmt: skip
        starts = tuple(name.removesuffix("*") for name in it["deployments"] or [""])
        return [row for row in self._found[key] if row["label"].startswith(starts)]

    def sums(self, it: dict[str, Any], start: datetime) -> tuple[float, float, float]:
        """In the budget's unit, the energy known for that, and all, J."""
        if it["quantity"] == "cost":
            found = self.of("cost", it, start)
            of_unit = [row for row in found if row["currency"] == it["unit"]]
            value, known_j = "cost", "priced_energy_j"
        else:
            found = of_unit = [row for row in self.of("carbon", it, start) if row["method"] == "location"]
            value, known_j = {"energy": "energy_j", "carbon": "carbon_kg"}[it["quantity"]], "accounted_energy_j"
        total = sum(row[value] or 0 for row in of_unit) / (3_600_000 if value == "energy_j" else 1)
        return total, sum(row[known_j] or 0 for row in of_unit), sum(row["energy_j"] or 0 for row in found)


def check(report_engine: Engine, at: datetime = AT, *, by_day: bool = True) -> dict[tuple[str, str], dict[str, Any]]:
    """Each figure is that of the reports for its period, by_day of energy per token as well; by budget and quantity."""
    found = rows(report_engine, "SELECT * FROM report.budgets(:at)", at=at)
    reports = Reports(report_engine, at)
    week = at.replace(hour=0, minute=0) - 6 * DAY
    for it in found:
        total, known_j, all_j = reports.sums(it, it["month"])
        if it["quantity"] == "energy":
            assert it["used"] == pytest.approx(total, rel=1e-12)
            assert it["known"] == 1
            if by_day and it["deployments"] is not None:
                # As it is divided by tokens, which is in whole millijoules at the facility.
                of_tokens_j = sum(row["energy_j"] for row in reports.of("energy_per_token", it, it["month"]))
                assert it["used"] == pytest.approx(of_tokens_j / 3_600_000, rel=1e-9, abs=1e-8)
        elif known_j == 0:
            assert it["used"] is None
            assert not it["known"]
        else:
            assert it["used"] == pytest.approx(total, rel=1e-12)
            assert it["known"] == pytest.approx(known_j / all_j, rel=1e-12)
        if it["rate_per_day"] is not None:
            assert it["rate_per_day"] == pytest.approx(reports.sums(it, week)[0] / ((at - BEGIN) / DAY), rel=1e-12)
            if it["used"] is not None:
                left_d = (it["month_ends"] - at) / DAY
                assert it["forecast"] == pytest.approx(it["used"] + it["rate_per_day"] * left_d)
    return {(it["budget"], it["quantity"]): it for it in found}


def test_budgets_are_what_the_reports_say_whatever_comes_afterwards(engine: Engine, report_engine: Engine) -> None:
    late = span(TURN + HOUR, TURN + 2 * HOUR)
    for node in NODES:
        send(engine, node, [it for it in span(BEGIN, END) if node not in "bd" or it not in late])
    facility.place(engine, {"u": {"role": "utility"}, "i": {"role": "it"}})
    facility.send(engine, [*facility.hourly("u", TURN, 3, kwh=120), *facility.hourly("i", TURN, 3, kwh=100)], keep=KEEP)
    give(engine, factors.price("EUR"), BEGIN, END, HOUR / 4, "0.1")
    give(engine, factors.intensity("location", None), BEGIN, TURN + 2.5 * HOUR, HOUR, "30")
    apply(engine, DOCUMENT)
    fold(engine)
    found = check(report_engine)
    assert {it["boundary"] for it in found.values()} == {"gpu"}, "nobody knows a PUE of the hours before the month"
    give(engine, factors.CONFIGURED_PUE, TURN - DAY, TURN + DAY, 2 * DAY, "1.5")
    fold(engine)
    its_first_figures(check(report_engine))
    # A moment within an hour that is over; and one right after the month's turn.
    check(report_engine, TURN + 67 * MINUTE)
    check(report_engine, TURN + MINUTE)
    what_comes_afterwards(engine, report_engine, late)
    # A budget that is changed in the month is of the new deployments from the month's beginning on.
    before = check(report_engine)
    apply(engine, DOCUMENT | {"tenants": {"both": ["chat"]}})
    found = check(report_engine)
    assert found["both", "energy"]["used"] == pytest.approx(before["both", "energy"]["used"] / 2, rel=0.02)
    # What is kept is what would be summed without it.
    kept = "SELECT min(time) AS first, max(time) AS last FROM gigawatch.weighed_1h"
    assert rows(engine, kept) == [{"first": BEGIN, "last": TURN + 3 * HOUR}]
    assert "rows of weighed_1h" in retain(engine, Retention(), TURN + 40 * DAY)
    assert rows(engine, kept)[0]["first"] == TURN
    assert check(report_engine) == found
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE gigawatch.weighed_1h"))
    assert check(report_engine) == found


def its_first_figures(found: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Of 2 GPUs of 700 W with hosts of 300 W each, one hour of one of them missing, over 200 minutes at PUE 1.2."""
    # Nobody knows what the hosts of a B200 use, which are a quarter of the site's energy.
    assert {name for (name, _), it in found.items() if it["boundary"] == "gpu"} == {"other", "nobody", "oslo"}
    kwh = (2 * 200 - 60) / 60 * 1.2
    assert found["both", "energy"]["used"] == pytest.approx(kwh, rel=0.02)
    # The month begins an hour or two earlier, with the PUE that was configured; or 5:30 hours, or has all of it.
    assert found["Asia/Kolkata", "energy"]["used"] == pytest.approx(kwh + 5.5 * 2 * 1.5, rel=0.02)
    assert found["America/New_York", "energy"]["used"] == pytest.approx(kwh + 6 * 2 * 1.5, rel=0.02)
    oslo = found["Europe/Oslo", "energy"]
    assert TURN - oslo["month"] in {HOUR, 2 * HOUR}
    assert oslo["used"] == pytest.approx(kwh + (TURN - oslo["month"]) / HOUR * 2 * 1.5, rel=0.02)
    assert found["both", "cost"]["known"] == 1
    assert 0.5 < found["both", "carbon"]["known"] < 1
    assert found["kroner", "cost"]["used"] is None
    assert found["nobody", "energy"]["used"] == 0


def what_comes_afterwards(engine: Engine, report_engine: Engine, late: list[datetime]) -> None:
    """Changes the figures it is of, and no others."""
    quantities = {"energy", "cost", "carbon"}
    known = check(report_engine)

    def changes(what: set[str], budget: str = "both") -> None:
        fold(engine)
        after = check(report_engine)
        differ = {
            it for it in quantities if after[budget, it]["used"] != pytest.approx(known[budget, it]["used"], rel=1e-9)
        }
        assert differ == what
        known.update(after)

    send(engine, "b", late)
    changes(quantities)
    # Of a GPU that serves nobody; and of a deployment alone, as of a node that is at another site now.
    send(engine, "d", late)
    changes(quantities, "oslo")
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE gigawatch.deployment_1m SET energy_mj = energy_mj + 1000000"
                " WHERE time >= :turn AND time < :hour"
            ),
            {"hour": TURN + HOUR, "turn": TURN},
        )
        connection.execute(
            text(
                "INSERT INTO gigawatch.rollup_dirty"
                " SELECT 'deployment_1h', CAST(:turn AS timestamptz), deployment_id FROM gigawatch.deployment"
            ),
            {"turn": TURN},
        )
    changes(quantities)
    dear = give(engine, factors.price("EUR"), TURN + HOUR / 2, TURN + 110 * MINUTE, 10 * MINUTE, "2")
    changes({"cost"})
    give(engine, factors.intensity("location", None), TURN, TURN + 3 * HOUR, HOUR, "400")
    changes({"carbon"})
    with engine.begin() as connection:
        factors.remove(connection, "tariff", dear)
    changes({"cost"})
    # A PUE that is measured otherwise afterwards; and one that is configured otherwise where none is measured.
    facility.send(engine, facility.hourly("u", TURN + 3 * HOUR, 1, kwh=130), keep=KEEP)
    facility.send(engine, facility.hourly("i", TURN + 3 * HOUR, 1, kwh=100), keep=KEEP)
    facility.fold(engine, TURN + 4 * HOUR)
    changes(quantities)
    # Within an hour it is the mean; energy per token, which is summed by days, has that of the day.
    give(engine, factors.CONFIGURED_PUE, TURN - 75 * MINUTE, TURN, 75 * MINUTE, "2.5")
    fold(engine)
    dearer = check(report_engine, by_day=False)
    assert dearer["Asia/Kolkata", "cost"]["used"] > known["Asia/Kolkata", "cost"]["used"]
    give(engine, factors.CONFIGURED_PUE, TURN - DAY, TURN, DAY, "1.9")
    changes(quantities, "Asia/Kolkata")
