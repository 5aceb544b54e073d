"""From the register to the store, while the API, the agent and the meters are killed: the energy of a meter's windows
in the store is its register's difference, to the millijoule."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import Engine, text

from gigawatch import database
from tests.agents import environment, running_agent, spooled, wait_for
from tests.modbus_meter import ModbusMeters
from tests.processes import GIGAWATCH
from tests.servers import running_api

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = (1, 2)


def configured(meters: ModbusMeters) -> str:
    tables = [
        f'[[meters]]\nname = "m{unit}"\ndriver = "modbus"\naddress = "{meters.address}"\nindex = {{unit = {unit}}}\n'
        f"map = {json.dumps(str(meters.map))}\ninterval_s = 1.0\ntimeout_s = 0.5\nrated_kw = 200.0\n"
        for unit in UNITS
    ]
    return '[agent]\nsite = "oslo"\n' + "".join(tables)


def stored_mj(engine: Engine) -> dict[str, int]:
    query = "SELECT name, sum(energy_mj) FROM gigawatch.meter_window JOIN gigawatch.meter USING (meter_id) GROUP BY 1"
    with engine.connect() as connection:
        return {name: int(energy_mj) for name, energy_mj in connection.execute(text(query))}


def test_meters_energy_arrives_once_whatever_is_killed(database_url: str, engine: Engine, tmp_path: Path) -> None:
    meters = ModbusMeters(tmp_path / "meters")
    for unit in UNITS:
        meters.set(unit, watts=50_000.0 * unit, first_mwh=10**9)
    (tmp_path / "gigawatch.toml").write_text(configured(meters), encoding="utf-8")
    meters.start()
    with running_api(database_url, tmp_path / "api.log") as api:
        (tmp_path / "token").write_text(api.tokens["agent"], encoding="ascii")
        options = (
            "--server-url",
            api.url,
            "--token-file",
            str(tmp_path / "token"),
            "--tick-s",
            "0.2",
            "--window-s",
            "1",
        )
        settings = {"GIGAWATCH_CONFIG": str(tmp_path / "gigawatch.toml")}
        with running_agent(None, tmp_path / "data", *options, **settings) as agent:
            time.sleep(4)
            api.kill()
            time.sleep(4)
            agent.kill()
            meters.kill()
            time.sleep(3)
            meters.start()
            agent.start()
            time.sleep(3)
            api.start()
            time.sleep(4)
            api.kill()
            api.start()
            # Between two readings, so that the agent took in all that the meters told.
            time.sleep(3 - time.time() % 1 + 0.6)
            meters.kill()
            assert agent.stop() == 0, agent.words()

        def is_stored() -> bool:
            stored = stored_mj(engine)
            return all(stored.get(f"m{unit}") in meters.counted_mj(unit) for unit in UNITS)

        # What the agent could not send in its last seconds waits in its spool for the next, which has no meters.
        with running_agent(None, tmp_path / "data", *options):
            wait_for("energy", is_stored)
        assert is_stored()
    assert spooled(tmp_path / "data").meter_windows == []


def test_the_gateway_runs_as_systemd_and_kubernetes_start_it(embedded_server: Any, tmp_path: Path) -> None:
    """Command, environment and settings are the unit's and the manifest's; folders, meter and server the test's."""
    database_url = embedded_server.create()
    engine = database.engine(database_url)
    unit = (DEPLOY / "gigawatch-gateway.service").read_text(encoding="utf-8")
    manifest = yaml.safe_load_all((DEPLOY / "kubernetes/gateway.yaml").read_text(encoding="utf-8"))
    kinds = {it["kind"]: it for it in manifest}
    (container,) = kinds["Deployment"]["spec"]["template"]["spec"]["containers"]
    meters = ModbusMeters(tmp_path / "meters")
    meters.set(1, watts=50_000.0, first_mwh=10**9)
    meters.start()
    with running_api(database_url, tmp_path / "api.log") as api:
        settings = kinds["ConfigMap"]["data"]["gigawatch.toml"]
        for key, value in (("server_url", api.url), ("address", meters.address), ("map", str(meters.map))):
            settings, times = re.subn(rf"^(\s*{key} = ).*$", rf"\1{json.dumps(value)}", settings, flags=re.MULTILINE)
            assert times == 1
        # Under systemd the same meter by another name, and no machine_id.
        by_systemd = re.sub(r"^\s*(machine_id|tick_s) = .*$", "", settings, flags=re.MULTILINE)
        settings_of = {"pod": settings, "unit": by_systemd.replace("hall-1-main", "hall-2-main")}

        def placed(text_: str, kind: str) -> str:
            """Paths of the host or the container as paths of the test."""
            text_ = text_.replace("%d", "/run/credentials")
            return re.sub(r"/(?:etc|var/lib|run)/", lambda found: f"{tmp_path / kind}{found[0]}", text_)

        commands = {
            "pod": container["args"][1:],
            "unit": re.findall(r"^ExecStart=/opt/gigawatch/bin/gigawatch (.*)$", unit, re.MULTILINE)[0].split(),
        }
        variables = {
            "pod": {it["name"]: placed(it["value"], "pod") for it in container["env"]},
            "unit": dict(
                placed(it, "unit").split("=", 1) for it in re.findall(r"^Environment=(.*)$", unit, re.MULTILINE)
            ),
        }
        running = []
        for kind, words in commands.items():
            config = Path(placed("/etc/gigawatch/settings/gigawatch.toml", kind))
            token, data = (Path(variables[kind][f"GIGAWATCH_{it}"]) for it in ("AGENT__TOKEN_FILE", "STORE__DATA_DIR"))
            for folder in (config.parent, token.parent, data):
                folder.mkdir(parents=True, exist_ok=True)
            config.write_text(settings_of[kind], encoding="utf-8")
            token.write_text(api.tokens["agent"], encoding="ascii")
            token.chmod(0o440)
            # The unit's settings are at their usual place.
            usual = {"GIGAWATCH_CONFIG": str(config)} if kind == "unit" else {}
            with (tmp_path / f"{kind}.log").open("wb") as log:
                running.append(
                    subprocess.Popen(
                        [*GIGAWATCH, *(placed(it, kind) for it in words)],
                        env=environment(None, **variables[kind], **usual), stderr=log,
                    )
                )  # fmt: skip
        try:
            wait_for("energy of both", lambda: stored_mj(engine).keys() == {"hall-1-main", "hall-2-main"}, 60)
            probe = [placed(it, "pod") for it in container["livenessProbe"]["exec"]["command"]]
            assert probe[0] == "python"
            assert subprocess.run([sys.executable, *probe[1:]], check=False).returncode == 0
            written = Path(placed("/var/lib/gigawatch/spool.sqlite-wal", "pod"))
            # It hangs.
            running[0].send_signal(signal.SIGSTOP)
            os.utime(written, (time.time() - 200,) * 2)
            assert subprocess.run([sys.executable, *probe[1:]], check=False, capture_output=True).returncode == 1
        finally:
            for its in running:
                its.terminate()
                its.send_signal(signal.SIGCONT)
            codes = [its.wait(60) for its in running]
            meters.kill()
        engine.dispose()
        assert codes == [0, 0], [(tmp_path / f"{kind}.log").read_text() for kind in commands]
