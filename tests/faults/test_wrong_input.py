"""Wrong input gets a clear message with its remedy, and an exit status that scripts can tell apart."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from gigawatch import database
from gigawatch.errors import ExitCode
from tests.agents import environment
from tests.processes import GIGAWATCH, free_port
from tests.servers import running_api


def run(*arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*GIGAWATCH, *arguments], env=environment(None, **settings), capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip


def refused(done: "subprocess.CompletedProcess[str]", code: ExitCode, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize("verb", ["up", "collect", "serve", "dashboard", "migrate"])
def test_an_unknown_key_is_named(verb: str, tmp_path: Path) -> None:
    path = tmp_path / "gigawatch.toml"
    path.write_text("[agent]\ntick_ms = 5\n", encoding="utf-8")
    refused(run("--config", str(path), verb), ExitCode.CONFIGURATION, "'tick_ms'", "Did you mean 'tick_s'?", str(path))


@pytest.mark.parametrize("verb", ["serve", "dashboard", "migrate"])
def test_an_unreachable_database_is_told_without_its_password(verb: str) -> None:
    url = f"postgresql://ada:geheim@127.0.0.1:{free_port()}/nowhere"
    settings = {"GIGAWATCH_SERVER__PORT": str(free_port()), "GIGAWATCH_DASHBOARD__PORT": str(free_port())}
    done = run(verb, "--database-url", url, **settings)
    refused(done, ExitCode.UNREACHABLE, "cannot be reached", "127.0.0.1", "Is it running")
    assert "geheim" not in done.stderr + done.stdout


def test_a_url_that_is_not_postgresqls_is_told() -> None:
    refused(run("migrate", "--database-url", "mysql://root:geheim@x/y"), ExitCode.CONFIGURATION, "postgresql://user")


@pytest.mark.parametrize("verb", ["serve", "dashboard", "migrate"])
def test_a_database_of_a_newer_schema_is_refused(embedded_server: Any, verb: str) -> None:
    url = embedded_server.create()
    engine = database.engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE gigawatch.alembic_version SET version_num = '9999'"))
    engine.dispose()
    settings = {"GIGAWATCH_SERVER__PORT": str(free_port()), "GIGAWATCH_DASHBOARD__PORT": str(free_port())}
    refused(run(verb, "--database-url", url, **settings), ExitCode.SCHEMA, "newer Gigawatch", "'9999'")
    embedded_server.drop(url)


def test_a_database_without_schema_says_to_migrate(embedded_server: Any) -> None:
    url = embedded_server.create("template0")
    refused(
        run("serve", "--database-url", url, GIGAWATCH_SERVER__PORT=str(free_port())),
        ExitCode.SCHEMA, "schema is missing", "gigawatch migrate",
    )  # fmt: skip
    embedded_server.drop(url)


@pytest.mark.parametrize(("verb", "flag"), [("serve", "--port"), ("dashboard", "--port"), ("up", "--api-port")])
def test_an_occupied_port_is_named(verb: str, flag: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run(verb, flag, str(port), "--data-dir", str(tmp_path))
    refused(done, ExitCode.FAILURE, str(port), "another process listens on it", flag)


def test_a_bad_token_ends_the_agent_with_the_remedy(embedded_server: Any, tmp_path: Path) -> None:
    url = embedded_server.create()
    with running_api(url, tmp_path / "api.log") as api:
        for token in ("gw_agent_wrong", api.tokens["viewer"]):
            done = run("collect", "--server-url", api.url, "--data-dir", str(tmp_path / "data"),
                       GIGAWATCH_AGENT__TOKEN=token)  # fmt: skip
            refused(done, ExitCode.CONFIGURATION, "refuses the token", "gigawatch token create --role agent")
            assert token not in done.stderr + done.stdout + api.log.read_text()
    embedded_server.drop(url)


def test_a_token_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = run("collect", "--token-file", str(tmp_path / "none"), "--data-dir", str(tmp_path))
    refused(done, ExitCode.CONFIGURATION, str(tmp_path / "none"))


AHEAD = """
import sys
from datetime import timedelta
from collector import client
real = client.utc_now
client.utc_now = lambda: real() + timedelta(minutes=10)
from gigawatch.cli import main
main(sys.argv[1:], prog_name="gigawatch")
"""


def test_a_clock_ten_minutes_off_ends_the_agent(embedded_server: Any, tmp_path: Path) -> None:
    url = embedded_server.create()
    with running_api(url, tmp_path / "api.log") as api:
        done = subprocess.run(
            [sys.executable, "-c", AHEAD, "collect", "--server-url", api.url, "--data-dir", str(tmp_path / "data")],
            env=environment(None, GIGAWATCH_AGENT__TOKEN=api.tokens["agent"]),
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
    refused(done, ExitCode.CLOCK, "clock is +600 s off", "chrony")
    embedded_server.drop(url)


def test_a_data_directory_in_use_is_named_with_its_owner(public_dir: Path) -> None:
    from gigawatch.embedded import EmbeddedServer

    with EmbeddedServer(public_dir / "store"):
        done = run("migrate", "--data-dir", str(public_dir / "store"))
    refused(done, ExitCode.CONFIGURATION, f"in use by process {os.getpid()}")


def test_a_data_directory_that_is_not_ours_is_named(public_dir: Path) -> None:
    # Root may open what belongs to others, and no folder as a file.
    (public_dir / "store" / "lock").mkdir(parents=True)
    done = run("migrate", "--data-dir", str(public_dir / "store"))
    refused(done, ExitCode.CONFIGURATION, "store/lock cannot be opened", "Be the user whose store it is")


def test_an_interrupted_server_stops_cleanly(embedded_server: Any, tmp_path: Path) -> None:
    url = embedded_server.create()
    with running_api(url, tmp_path / "api.log") as api:
        began = time.monotonic()
        assert api.stop() == 0
        assert time.monotonic() - began < 30
    embedded_server.drop(url)
