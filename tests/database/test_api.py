"""Reads over real HTTP: every endpoint needs its role, and OpenAPI says what is answered."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from click.testing import CliRunner
from openapi_spec_validator import validate
from sqlalchemy import Connection, Engine, text

from api.alerts import configured
from api.alerts.login import rules_engine
from api.factors import files, store
from api.reports.commands import report as report_command
from api.reports.formats import FORMATS
from api.topology import files as topology_files
from api.topology import store as topology_store
from gigawatch import database
from gigawatch.alerts import actions, sending
from gigawatch.alerts.matchers import parse
from gigawatch.settings import Alerts
from gigawatch.tokens import ROLES
from tests.agents import wait_for
from tests.browser import seed, serving_seed
from tests.facility import HOUR, fold, hourly, place, send
from tests.servers import Api, running_api

OPEN = {"/healthz", "/readyz"}
MEASURED = datetime.now(UTC) - 3 * HOUR
"""When meters of oslo's facility counted."""
THIS_MONTH = MEASURED.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
"""They counted in the last hours before it, too."""
NEEDED = {
    "/api/v1/eu-eed": {"site": "oslo", "year": "2026"},
    "/api/v1/reports/eu-eed": {"site": "oslo", "year": f"{MEASURED:%Y}"},
    "/api/v1/reports/monthly": {"site": "oslo", "month": f"{MEASURED:%Y-%m}"},
}
"""Parameters without which a path answers nothing."""
PLAIN = {"/metrics"}
"""Paths that answer text."""
READERS = {"viewer", "operator", "admin"}
SENDERS = {"/api/v1/batches": {"agent", "admin"}, "/api/v1/hello": {"agent", *READERS}}
ADMINS_OWN = "/api/v1/alerts/configuration"
"""Of alerts, what operators may not change."""
CHANGES = ("post", "put", "patch", "delete")
"""Methods that are for admins alone, but for SENDERS, and of alerts for operators too."""
ALERTS = b"""
targets: {hook: {kind: alertmanager, url: "http://127.0.0.1:9/"}}
route: {target: hook}
rules:
  always: {about: It is so, summary: "It is so at {site}", labels: [site], sql: "SELECT 'oslo' AS site, 1 AS value"}
"""


@pytest.fixture(scope="module")
def api(embedded_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    url = embedded_server.create()
    engine = database.engine(url)
    with engine.begin() as connection:
        seed.seed(connection, datetime.now(UTC))
    serving_seed.seed(engine, datetime.now(UTC), minutes=5)
    with engine.begin() as connection:
        year = f"2026-01-01,{datetime.now(UTC) + timedelta(days=1):%Y-%m-%d}"
        prices = files.prices(f"start,stop,price_per_kwh\n{year},0.1\n".encode(), currency="EUR", time_zone="UTC")
        factors = files.intensities(f"start,stop,g_per_kwh\n{year},50\n".encode(), time_zone="UTC")
        pue = files.pues(f"start,stop,pue\n{year},1.2\n".encode(), time_zone="UTC")
        for kind, found in (
            (store.price("EUR"), prices),
            (store.intensity("location", None), factors),
            (store.CONFIGURED_PUE, pue),
        ):
            store.take(connection, "oslo", kind, found, version="1", source="test", replace=False, dry_run=False)
        topology = topology_files.read(b"sites: {oslo: {meters: {grid: {role: utility}}}}")
        topology_store.apply(connection, topology, source="test", dry_run=False)
        _alert(engine, connection)
    _measure(engine)
    engine.dispose()
    with running_api(url, tmp_path_factory.mktemp("api") / "log") as api:
        yield api
    embedded_server.drop(url)


def _alert(engine: Engine, connection: Connection) -> None:
    """Something of each kind that there is of alerts; the first alert has ended."""
    rules = rules_engine(engine, Alerts())
    configured.apply(connection, rules, Alerts(), configured.read(ALERTS), author="ada", source="test", dry_run=False)
    rules.dispose()
    for statement in (
        "INSERT INTO gigawatch.alert_target (name, kind, address) VALUES ('hook', 'alertmanager', 'http://127.0.0.1:9')",
        """INSERT INTO gigawatch.alert (rule, fingerprint, labels, severity, state, summary, details, started, held,
           fired, resolved)
           VALUES ('always', 'x', '{}', 'info', 'resolved', 'was so', '{}', now(), now(), now(), now())""",
    ):
        connection.execute(text(statement))
    now = datetime.now(UTC)
    actions.silence(connection, [parse("site=nowhere")], starts=now, ends=now + HOUR, author="ada", reason="a test")
    sending.send_test(connection, "hook", "ada")


def _measure(engine: Engine) -> None:
    """Let meters of oslo's facility have counted for some hours."""
    roles: dict[str, dict[str, Any]] = {
        "utility": {"contract_mw": 10**9}, "generation": {}, "pdu": {"breaker_ma": 32_000}, "cooling": {},
        "heat_removed": {}, "heat_reuse": {}, "water": {"potable": True},
    }  # fmt: skip
    place(engine, {role: {"role": role, **values} for role, values in roles.items()})
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    for role in roles:
        amount = {"volume_ml": 50_000} if role == "water" else {"kwh": 100 if role == "utility" else 20}
        for start in (THIS_MONTH - 4 * HOUR, now - 4 * HOUR):
            send(engine, hourly(role, start, 4, current_max_ma=10_000, **amount))
    fold(engine)


@pytest.fixture(scope="module")
def document(api: Api) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{api.url}/openapi.json").json()
    return found


def paths(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Each route as (path in the document, method, a path to ask for)."""
    named = {
        "{node_id}": "1", "{gpu_uuid}": seed.THROTTLED, "{import_id}": "999", "{alert_id}": "1", "{silence_id}": "999",
        "{delivery_id}": "999", "{name}": "nobody",
    }  # fmt: skip
    found = []
    for path, operations in document["paths"].items():
        asked = path
        for name, value in named.items():
            asked = asked.replace(name, value)
        found += [(path, method, asked) for method in operations]
    return found


def test_the_document_is_openapi(document: dict[str, Any]) -> None:
    validate(document)
    assert len(document["paths"]) > 15


def test_every_route_needs_a_token_of_its_role(api: Api, document: dict[str, Any]) -> None:
    for path, method, asked in paths(document):
        if path in OPEN:
            assert httpx.request(method, api.url + asked).status_code == 200
            continue
        for headers in ({}, {"Authorization": "Bearer gw_admin_wrong"}, {"Authorization": "Basic eDp5"}):
            answer = httpx.request(method, api.url + asked, headers=headers)
            assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer"), path
        allowed = SENDERS.get(path, {"admin"} if method in CHANGES else READERS)
        if path.startswith("/api/v1/alerts") and method in CHANGES and path != ADMINS_OWN:
            allowed = {"operator", "admin"}
        for role in ROLES:
            with api.client(role) as client:
                status = client.request(method, asked).status_code
            assert (status != 403) == (role in allowed), (path, role, status)


WIDE = """
    WITH place AS (INSERT INTO gigawatch.site (name) VALUES ('wide') RETURNING site_id), racks AS (
        INSERT INTO gigawatch.rack (site_id, name) SELECT site_id, 'r' || n FROM place, generate_series(1, 25) AS n
        RETURNING site_id, rack_id
    ), mark AS (INSERT INTO gigawatch.rollup VALUES ('1h', '2021-01-01Z', '2021-01-01Z', 0))
    INSERT INTO gigawatch.rack_1h
    SELECT '2020-01-01Z'::timestamptz + n * interval '1 h', site_id, rack_id, 'H100', 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0
    FROM racks, generate_series(0, 4199) AS n"""


def test_what_would_fill_the_memory_is_refused_with_what_to_ask_for(embedded_server: Any, tmp_path: Path) -> None:
    """25 racks by the hour for half a year: 105,000 points."""
    url = embedded_server.create()
    engine = database.engine(url)
    with engine.begin() as connection:
        connection.execute(text(WIDE))
    engine.dispose()
    path = "/api/v1/power?group_by=rack&start=2020-01-01&stop=2020-06-24&step_s="
    with running_api(url, tmp_path / "log", GIGAWATCH_SERVER__SCHEDULER="false") as api, api.client() as client:
        refused, answered = client.get(f"{path}3600"), client.get(f"{path}7200")
    embedded_server.drop(url)
    assert (refused.status_code, refused.json()["detail"]) == (
        422, "There are more than 100000 rows. Ask for a shorter period, a longer step, or less of the fleet",
    )  # fmt: skip
    assert len(answered.json()) == 25 * 2_100


def test_answers_are_what_the_document_says(api: Api, document: dict[str, Any]) -> None:
    with api.client("viewer") as client:
        wait_for("an alert", lambda: client.get("/api/v1/alerts").json())
        for path, method, asked in paths(document):
            if method != "get" or path in OPEN | PLAIN:
                continue
            # In the last hour, the default, begins none whose windows are there if it has just struck.
            since = {"start": f"{datetime.now(UTC) - timedelta(hours=2)}"} if path.endswith("/hourly") else {}
            answer = client.get(asked, params=since | NEEDED.get(path, {}))
            assert answer.status_code == 200, (asked, answer.text)
            schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
            found = answer.json()
            assert found, asked
            jsonschema.validate(found, {**schema, "components": document["components"]})


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ("/api/v1/power?start=yesterday", 422, "start = 'yesterday'"),
        ("/api/v1/power?start=2026-02-01&stop=2026-01-01", 422, "is not before stop"),
        ("/api/v1/power?stop=0001-01-01", 422, "0001-01-01T00:00:00 is out of range"),
        ("/api/v1/pue?start=0001-01-01T00:00:00%2B14:00", 422, "is out of range: ask for years from 2000"),
        ("/api/v1/capacity?stop=9999-12-31T23:59:59-12:00", 422, "is out of range"),
        ("/api/v1/power?group_by=planet", 422, "group_by = 'planet'"),
        ("/api/v1/power?start=2020-01-01&step_s=1", 422, "step_s = 1"),
        ("/api/v1/site-seconds?start=2026-01-01&stop=2026-01-02", 422, "start and stop are more than 6 h apart"),
        ("/api/v1/load-swings?start=2026-01-01&stop=2026-01-09", 422, "start and stop are more than 7 days apart"),
        ("/api/v1/load-swings/summary?over_s=0", 422, "over_s = '0'"),
        ("/api/v1/energy-per-token?step_s=90", 422, "step_s = '90'"),
        ("/api/v1/energy-per-token?boundary=room", 422, "boundary = 'room'"),
        ("/api/v1/serving?group_by=rack", 422, "group_by = 'rack'"),
        ("/api/v1/idle?start=2020-01-01&step_s=60", 422, "step_s = 60"),
        ("/api/v1/ramp-up?since=lately", 422, "since = 'lately'"),
        (
            "/api/v1/load-swings/spectrum?start=2026-01-01&stop=2026-01-02",
            422,
            "start and stop are more than 6 h apart",
        ),
        ("/api/v1/cost?step_s=5400", 422, "step_s = '5400'"),
        ("/api/v1/pue?step=fortnight", 422, "step = 'fortnight'"),
        ("/api/v1/pue?group_by=rack", 422, "group_by = 'rack'"),
        ("/api/v1/pue?category=4", 422, "category = '4'"),
        ("/api/v1/eu-eed?year=2026", 422, "site"),
        # A mistyped name would look like a quiet site.
        ("/api/v1/eu-eed?year=2026&site=bergen", 404, "There is no site named 'bergen'. There are: "),
        ("/api/v1/fleet?site=bergen", 404, "There is no site named 'bergen'. There are: "),
        ("/api/v1/tariffs?site=", 404, "There is no site named ''. There are: "),
        ("/api/v1/meters/health?site=bergen", 404, "There is no site named 'bergen'"),
        ("/api/v1/pue?site=OSLO", 404, "There is no site named 'OSLO'"),
        ("/api/v1/nodes?site=oslo&rack=Z", 404, "There is no rack named 'Z' in site 'oslo'. There are: "),
        ("/api/v1/power?rack=Z", 404, "There is no rack named 'Z'. There are: "),
        ("/api/v1/energy?gpu_model=B900", 404, "There is no GPU model named 'B900'. There are: "),
        ("/api/v1/serving?deployment=x", 404, "There is no deployment named 'x'. There are: "),
        ("/api/v1/events?gpu_uuid=x", 404, "There is no GPU named 'x'. There are: "),
        ("/api/v1/gpus/none/series", 404, "There is no GPU named 'none'"),
        ("/api/v1/nodes/999999/series", 404, "no such thing"),
        ("/api/v1/nodes/999999/ticks", 404, "no such thing"),
        ("/api/v1/alerts?site=bergen", 404, "There is no site named 'bergen'"),
        ("/api/v1/alerts?rule=x", 404, "There is no rule named 'x'. There are: agent_silent, always, "),
        # It would be a figure of the fleet that somebody takes for one of each site.
        ("/api/v1/pue?group=site", 422, "Parameter group = 'site' is not known: leave it out, or name one of "),
        ("/api/v1/carbon?method=market", 422, "Parameter method = 'market' is not known"),
        ("/api/v1/sites?site=oslo", 422, "Parameter site = 'oslo' is not known: leave it out"),
        ("/api/v1/facility-gaps?start=2024-01-01", 422, "start and stop are more than 366 days apart"),
        ("/api/v1/reports/monthly?site=oslo&month=2026-13", 422, "month = '2026-13' is not a month"),
        ("/api/v1/reports/monthly?site=oslo&month=2026-01&time_zone=Mars", 422, "time zone 'Mars' is not known"),
        ("/api/v1/reports/monthly?site=bergen&month=2026-01", 404, "There is no site named 'bergen'"),
        ("/api/v1/reports/eu-eed?site=oslo&year=2099", 422, "No hour of 2099 is over"),
        ("/api/v1/reports/eu-eed?site=oslo&year=2026&format=pdf", 422, "format = 'pdf'"),
        ("/api/v1/meters/health?state=fine", 422, "state = 'fine'"),
        ("/api/v1/carbon?start=2020-01-01&step_s=3600", 422, "step_s = 3600 gives more than 5000 bins"),
        ("/api/v1/cost?group_by=rack", 422, "group_by = 'rack'"),
        ("/api/v1/token-cost?price_per_gpu_hour=-1", 422, "price_per_gpu_hour = '-1'"),
        ("/api/v1/gpus?limit=0", 422, "limit = '0'"),
        ("/api/v1/nodes/0", 404, "no such thing"),
        ("/api/v1/nodes/99999999999999999999", 404, "no such thing"),
        ("/api/v1/gpus/none", 404, "There is no GPU named 'none'. There are: "),
        ("/api/v1/nothing", 404, "Not Found"),
    ],
)
def test_wrong_parameters_are_named(api: Api, asked: str, status: int, words: str) -> None:
    with api.client("viewer") as client:
        answer = client.get(asked)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]


def test_reports_in_each_format_are_those_of_the_command(api: Api, tmp_path: Path) -> None:
    # Of a month that is over: of one that is not, another hour may be over when it is asked for again.
    month = f"{THIS_MONTH - HOUR:%Y-%m}"
    url = api.environment["GIGAWATCH_STORE__DATABASE_URL"]
    arguments = ["monthly", "--site", "oslo", "--month", month, "--database-url", url, "--output", str(tmp_path)]
    formats = [it for name in FORMATS for it in ("--format", name)]
    assert CliRunner().invoke(report_command, [*arguments, *formats]).exit_code == 0
    with api.client("viewer") as client:
        answers = {
            name: client.get("/api/v1/reports/monthly", params={"site": "oslo", "month": month, "format": name})
            for name in FORMATS
        }
    for name, answer in answers.items():
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, FORMATS[name].media_type)
        path = tmp_path / answer.headers["Content-Disposition"].removeprefix("inline; filename*=UTF-8''")
        # All but the moment in which it was made is the same.
        assert len(answer.content) == pytest.approx(path.stat().st_size, rel=0.01)
        if name == "json":
            assert answer.json()["tables"] == json.loads(path.read_text())["tables"]


def test_a_revoked_token_is_refused_within_ten_seconds(api: Api, embedded_server: Any) -> None:
    from gigawatch import tokens

    url = api.environment["GIGAWATCH_STORE__DATABASE_URL"]
    engine = database.engine(url)
    with engine.begin() as connection:
        secret = tokens.create(connection, "short-lived", "viewer")
        stored = connection.scalar(text("SELECT secret_sha256 FROM gigawatch.api_token WHERE name = 'short-lived'"))
        assert secret not in str(stored)
        tokens.revoke(connection, "short-lived")
    engine.dispose()
    answer = httpx.get(f"{api.url}/api/v1/fleet", headers={"Authorization": f"Bearer {secret}"})
    assert answer.status_code == 401
