"""Files of deployment against the command line and the settings: what they name must exist."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gigawatch.cli import main
from gigawatch.settings import load

PROJECT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((PROJECT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def parses(words: list[str]) -> None:
    """The command line is one that `gigawatch` takes."""
    assert words[0].rpartition("/")[2] == "gigawatch"
    context = main.make_context("gigawatch", words[1:])
    command = main.get_command(context, words[1])
    assert command is not None, words
    command.make_context(words[1], words[2:], parent=context)


def settings(environment: dict[str, Any]) -> None:
    """Every GIGAWATCH_ variable is a setting."""
    load(environment={key: re.sub(r"\$\{.*?\}", "x", str(value)) for key, value in environment.items()})


def test_compose_has_the_store_the_schema_the_api_the_dashboard_and_an_agent() -> None:
    assert set(SERVICES) == {"db", "migrate", "api", "dashboard", "agent"}
    assert re.fullmatch(r"timescale/timescaledb:\d+\.\d+\.\d+-pg17", SERVICES["db"]["image"])
    assert SERVICES["agent"]["profiles"] == ["gpu"]
    assert SERVICES["agent"]["deploy"]["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_checked_and_fits_the_command_line(name: str) -> None:
    service = SERVICES[name]
    assert "healthcheck" in service or name == "migrate", "a service that runs on needs a health check"
    if "command" in service:
        parses(service["command"])
    settings({key: value for key, value in service["environment"].items() if key.startswith("GIGAWATCH_")})
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), "ports are for a reverse proxy on this machine"


def test_no_password_stands_in_the_files() -> None:
    text = (PROJECT / "docker-compose.yml").read_text(encoding="utf-8")
    for value in re.findall(r"(?:PASSWORD: |gigawatch:)(\$\{POSTGRES_PASSWORD:\?|\S*)", text):
        assert value in {"${POSTGRES_PASSWORD:?", ""}, value
    example = (PROJECT / ".env.example").read_text(encoding="utf-8")
    assert "POSTGRES_PASSWORD=\n" in example


def test_what_the_image_copies_is_there() -> None:
    for line in (PROJECT / "Dockerfile").read_text(encoding="utf-8").splitlines():
        if line.startswith("COPY "):
            for source in line.split()[1:-1]:
                assert (PROJECT / source).exists(), line


def test_the_unit_runs_a_command_that_is_there() -> None:
    lines = (PROJECT / "deploy/gigawatch-agent.service").read_text(encoding="utf-8").splitlines()
    parses(next(line for line in lines if line.startswith("ExecStart=")).removeprefix("ExecStart=").split())
    pairs = [line.removeprefix("Environment=").split("=", 1) for line in lines if line.startswith("Environment=")]
    settings(dict(pairs))


def test_the_daemon_set_runs_a_command_that_is_there() -> None:
    document = yaml.safe_load((PROJECT / "deploy/kubernetes/agent.yaml").read_text(encoding="utf-8"))
    container = document["spec"]["template"]["spec"]["containers"][0]
    parses(container["args"])
    settings({it["name"]: it["value"] for it in container["env"] if it["name"].startswith("GIGAWATCH_")})
