"""Settings: ranks of their sources, and errors that name the key."""

import os
from pathlib import Path

import pytest

from gigawatch import serving
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.records import Role
from gigawatch.settings import load

ENGINE = "[[engines]]\nurl = 'http://127.0.0.1:8000/metrics'\ndeployment = 'chat'\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "gigawatch.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_flags_outrank_the_environment_which_outranks_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, '[agent]\nsite = "file"\nrack = "file"\ntick_s = 2\n[server]\nport = 1\n')
    loaded = load(
        path,
        {"agent.rack": "flag", "server.port": None},
        {"GIGAWATCH_AGENT__RACK": "environment", "GIGAWATCH_AGENT__TICK_S": "0.5", "HOME": "/"},
    )
    assert (loaded.agent.site, loaded.agent.rack, loaded.agent.tick_s) == ("file", "flag", 0.5)
    assert loaded.server.port == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[agent]\nsites = 'x'", ["unknown key in [agent]: 'sites'", "Did you mean 'site'?"]),
        ("[agents]\nsite = 'x'", ["unknown section: 'agents'", "Did you mean 'agent'?"]),
        ("[agent]\ntick_s = 0", ["agent.tick_s = 0", ">= 0.05"]),
        ("[agent]\nwindow_s = 7", ["window_s must divide a minute"]),
        ("[server]\nport = 'x'", ["server.port = 'x'", "int"]),
        ("[server]\nport = 70000", ["server.port = 70000", "65535"]),
        ("agent = 3", ["[agent] is 3"]),
        ("[agent", ["cannot be read"]),
        ("[engines]\nurl = 'http://h/metrics'", ["engines wants tables", "[[engines]]"]),
        ("engines = ['http://h/metrics']", ["engines wants tables"]),
        ("[[engines]]\nurl = 'http://h/m'", ["[[engines]] number 1", "deployment"]),
        (ENGINE + "[[engines]]\nurl = 'h:1'\ndeployment = 'd'", ["[[engines]] number 2: url = 'h:1'"]),
        ("[[engines]]\nurl = 'http://me:secret@h/m'\ndeployment = 'd'", ["url = (hidden)"]),
        (ENGINE + "modell = 'm'", ["unknown key in [[engines]] number 1: 'modell'", "Did you mean 'model'?"]),
        (ENGINE + "role = 'chief'", ["role = 'chief'", "Invalid enum value"]),
        (ENGINE + "gpus = [-1]", ["gpus = [-1]"]),
        (ENGINE + "interval_s = 0", ["interval_s = 0", ">= 0.1"]),
    ],
)
def test_a_wrong_file_is_refused_with_the_key_named(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(GigawatchError) as caught:
        load(write(tmp_path, text), environment={})
    assert caught.value.exit_code == ExitCode.CONFIGURATION
    for word in words:
        assert word in caught.value.message


def test_engines_are_a_table_each(tmp_path: Path) -> None:
    text = ENGINE + "gpus = [0, 'GPU-8a5d']\nrole = 'decode'\n" + ENGINE + "engine = 'vllm'\nmodel = 'm'\n"
    first, second = load(write(tmp_path, text), environment={}).engines
    assert (first.gpus, first.role, first.engine, first.interval_s) == ((0, "GPU-8a5d"), Role.DECODE, None, 5.0)
    assert (second.gpus, second.role, second.engine, second.model) == ((), Role.BOTH, "vllm", "m")


@pytest.mark.parametrize(
    "name", ["GIGAWATCH_ENGINES__URL", "GIGAWATCH_AGENT__SITES", "GIGAWATCH_NOSUCH__KEY", "GIGAWATCH_SERVER__PORT"]
)
def test_a_wrong_environment_variable_is_named(name: str) -> None:
    with pytest.raises(GigawatchError, match=name):
        load(environment={name: "x"})


def test_secrets_do_not_appear_in_errors(tmp_path: Path) -> None:
    with pytest.raises(GigawatchError) as caught:
        load(write(tmp_path, "[agent]\ntoken = 12345678"), environment={})
    assert "12345678" not in caught.value.message


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(GigawatchError, match=r"none\.toml"):
        load(None, environment={"GIGAWATCH_CONFIG": str(tmp_path / "none.toml")})


def test_serving_processes_get_all_of_a_named_file_and_the_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", given)
    write(tmp_path, '[retention]\nwindows_d = 3\n[alerts]\nallow_targets = ["127.0.0.1"]\n[server]\nport = 8700')
    monkeypatch.chdir(tmp_path)
    config = Path("gigawatch.toml")
    loaded = load(config, {"server.host": "::1", "server.port": 8800}, environment={})
    serving.hand_down(config, loaded, "postgresql://db/gigawatch", "server")
    monkeypatch.chdir("/")
    found = load(environment=given)
    assert (found.alerts, found.retention, found.server) == (loaded.alerts, loaded.retention, loaded.server)
    assert found.alerts.allow_targets == ("127.0.0.1",) and (found.server.host, found.server.port) == ("::1", 8800)
