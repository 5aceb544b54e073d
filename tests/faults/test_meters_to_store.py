"""From the register to the store, while the API, the agent and the meters are killed: the energy of a meter's windows
in the store is its register's difference, to the millijoule."""

import json
import time
from pathlib import Path

from sqlalchemy import Engine, text

from tests.agents import running_agent, spooled, wait_for
from tests.modbus_meter import ModbusMeters
from tests.servers import running_api

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
        told = {f"m{unit}": [mj for _, mj in meters.told_mj(unit)] for unit in UNITS}
        counted = {name: registers[-1] - registers[0] for name, registers in told.items()}
        wait_for("energy", lambda: stored_mj(engine) == counted, 15)
    assert spooled(tmp_path / "data").meter_windows == []
