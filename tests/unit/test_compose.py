"""Files of deployment against the specification, the command line, the settings and one another."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import jsonschema
import msgspec
import pytest
import yaml

from collector.assignments.kubernetes import KUBELET
from collector.meters.drivers import driver
from gigawatch.cli import main
from gigawatch.errors import ExitCode
from gigawatch.settings import load
from tests.agents import running_agent, wait_for

PROJECT = Path(__file__).parents[2]
COMPOSE_TEXT = (PROJECT / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (PROJECT / "Dockerfile").read_text(encoding="utf-8")
UNITS = {path.name: path.read_text(encoding="utf-8") for path in (PROJECT / "deploy").glob("*.service")}
UNIT = UNITS["gigawatch-agent.service"]
DAEMON_SET = yaml.safe_load((PROJECT / "deploy/kubernetes/agent.yaml").read_text(encoding="utf-8"))
GATEWAY = {
    it["kind"]: it
    for it in yaml.safe_load_all((PROJECT / "deploy/kubernetes/gateway.yaml").read_text(encoding="utf-8"))
}
# What compose puts in the place of ${NAME:-default} and ${NAME:?message}.
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def parses(words: list[str]) -> None:
    """The command line is one that `gigawatch` takes, options and arguments included."""
    context = main.make_context("gigawatch", words)
    command: click.Command = main
    rest = words
    while isinstance(command, click.Group):
        assert rest, f"{words} stops at a group"
        found = command.get_command(context, rest[0])
        assert found is not None, words
        assert "Not installed" not in (found.help or ""), words
        command, rest = found, rest[1:]
    command.make_context(words[0], list(rest), parent=context)


def gigawatch_settings(environment: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in environment.items() if name.startswith("GIGAWATCH_")}


def commands_in(text: str) -> list[list[str]]:
    """Every command line of gigawatch in comments and code blocks, without what goes before and after it."""
    line = r"^[#\s]*(?:docker compose exec -T api |/opt/gigawatch/bin/)?gigawatch ([a-z][^\n#>|]*)"
    return [shlex.split(words) for words in re.findall(line, text, re.MULTILINE)]


def test_compose_file_is_valid_by_the_specification() -> None:
    # compose-spec.json: the schema of github.com/compose-spec/compose-spec, Apache-2.0, unchanged.
    schema = msgspec.json.decode((PROJECT / "tests/unit/compose-spec.json").read_bytes())
    validator = jsonschema.Draft202012Validator(schema)
    assert [error.message for error in validator.iter_errors(COMPOSE)] == []
    broken = {"services": {"db": {"image": "x", "healthchek": {}}}}
    assert not validator.is_valid(broken), "the schema must refuse unknown keys"


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_watched_or_runs_to_its_end(name: str) -> None:
    service = SERVICES[name]
    waited_for = {
        other
        for it in SERVICES.values()
        for other, how in it.get("depends_on", {}).items()
        if how["condition"] == "service_completed_successfully"
    }
    if name in waited_for:
        assert service["restart"] == "no"
    else:
        assert service["restart"] == "unless-stopped"
        check = service["healthcheck"]
        assert {"test", "interval", "timeout", "retries"} <= set(check)
    assert "no-new-privileges:true" in service["security_opt"]
    if "build" in service:
        assert service["cap_drop"] == ["ALL"]
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), "other machines come through a reverse proxy"
    for volume in service.get("volumes", []):
        if isinstance(volume, dict):
            assert volume["type"] != "bind" or volume["read_only"]
        else:
            assert volume.split(":")[0] in COMPOSE["volumes"]


@pytest.mark.parametrize("name", [name for name, service in SERVICES.items() if "command" in service])
def test_commands_and_settings_are_real(name: str) -> None:
    service = SERVICES[name]
    assert service["command"][0] == "gigawatch"
    parses(service["command"][1:])
    environment = gigawatch_settings(service["environment"])
    # With every variable of .env empty, and with every variable set.
    load(environment={key: VARIABLE.sub(lambda it: it[3] or "", value) for key, value in environment.items()})
    load(environment={key: VARIABLE.sub("x", value) for key, value in environment.items()})


def test_health_checks_ask_what_the_commands_serve() -> None:
    for name, port, path in (("api", 8600, "/readyz"), ("dashboard", 8601, "/healthz")):
        assert f"http://127.0.0.1:{port}{path}" in SERVICES[name]["healthcheck"]["test"][-1]
        assert SERVICES[name]["ports"] == [f"127.0.0.1:{port}:{port}"]
    loaded = load(environment={})
    assert (loaded.server.port, loaded.dashboard.port) == (8600, 8601)


def test_the_agents_health_check_tells_a_live_agent_from_a_dead_one(tmp_path: Path) -> None:
    check = SERVICES["agent"]["healthcheck"]["test"]
    assert check[:3] == ["CMD", "python", "-c"]
    for pods in (DAEMON_SET, GATEWAY["Deployment"]):
        assert container_of(pods)["livenessProbe"]["exec"]["command"] == check[1:]
    code = check[3].replace("/var/lib/gigawatch", str(tmp_path))

    def alive() -> bool:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0

    spool = tmp_path / "spool.sqlite-wal"
    # No server, and no driver needed: it spools node windows all the same.
    with running_agent(None, tmp_path, "--window-s", "1", "--server-url", "http://127.0.0.1:9"):
        wait_for("live agent", alive)
        written = spool.stat().st_mtime
        wait_for("next window", lambda: spool.stat().st_mtime > written)
    if spool.exists():
        os.utime(spool, (written - 200, written - 200))
    assert not alive()


def test_no_secret_stands_in_a_file_and_every_variable_is_explained() -> None:
    example = (PROJECT / ".env.example").read_text(encoding="utf-8")
    assigned = dict(line.split("=", 1) for line in example.splitlines() if line and not line.startswith("#"))
    assert set(assigned.values()) == {""}
    assert set(assigned) == {it[1] for it in VARIABLE.finditer(COMPOSE_TEXT)}
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            if re.search("PASSWORD|TOKEN|SECRET", key) and not key.endswith("_FILE"):
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), f"{name}: {key} must be required, without a default"
            assert not re.search(r"://[^/@]*:[^/@]*@", str(value)), f"{name}: {key} holds a password"
    ignored = (PROJECT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {".env", "*.token"} <= set(ignored)


def test_the_image_is_made_of_what_is_there() -> None:
    copied = [source for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE) for source in line.split()[:-1]]
    ignore = (PROJECT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for source in copied:
        assert (PROJECT / source).exists()
        assert f"!{source}" in ignore
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= set(copied)
    assert {project["project"]["readme"], *project["project"]["license-files"], "requirements.lock"} <= set(copied)
    for extras in re.findall(r"\[([a-z,]+)\]'", DOCKERFILE):
        assert set(extras.split(",")) <= set(project["project"]["optional-dependencies"])
    stages = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE)
    for target in {service["build"]["target"] for service in SERVICES.values() if "build" in service}:
        body = re.split(rf"^FROM \S+ AS {target}$", DOCKERFILE, flags=re.MULTILINE)[1].partition("\nFROM ")[0]
        assert "\nUSER 10001\n" in body
        assert set(re.findall(r"from=([\w-]+)", body)) <= set(stages)
        command = re.search(r"^CMD (\[.+\])$", body, re.MULTILINE)
        assert command is not None
        parses(msgspec.json.decode(command[1], type=list[str])[1:])


@pytest.mark.parametrize("name", UNITS)
def test_the_unit_fits_the_command_line_and_the_exit_codes(name: str) -> None:
    pairs = [line.split("=", 1) for line in UNITS[name].splitlines() if re.match(r"\w+=", line)]
    found = dict(pairs)
    assert found["ExecStart"].split() == ["/opt/gigawatch/bin/gigawatch", "collect"]
    loaded = load(environment=dict(value.split("=", 1) for key, value in pairs if key == "Environment"))
    assert loaded.store.data_dir == f"/var/lib/{found['StateDirectory']}"
    assert ["RestartPreventExitStatus", f"{ExitCode.USAGE:d} {ExitCode.CONFIGURATION:d}"] in pairs
    # They would take /dev/nvidia* away, or the names of the processes on a GPU.
    hiding = {"PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock", "ProtectProc"} & found.keys()
    assert not hiding or name == "gigawatch-gateway.service"


@pytest.mark.parametrize("name", UNITS)
def test_systemd_takes_the_unit(name: str, tmp_path: Path) -> None:
    unit = tmp_path / name
    unit.write_text(re.sub("^ExecStart=.*$", "ExecStart=/bin/true", UNITS[name], flags=re.MULTILINE), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    # Units that this one is ordered after may have faults of their own.
    assert [line for line in done.stderr.splitlines() if unit.name in line] == []


def test_the_udev_rule_gives_what_the_agent_reads_to_the_group_that_the_unit_names() -> None:
    rules = (PROJECT / "deploy/99-gigawatch-powercap.rules").read_text(encoding="utf-8")
    rule = next(line for line in rules.splitlines() if not line.startswith("#"))
    group = re.search(r"chgrp (\w+) /sys%p/energy_uj", rule)
    assert group is not None
    assert f"#SupplementaryGroups={group[1]}" in UNIT
    assert 'KERNEL=="intel-rapl:*"' in rule


def test_the_daemon_set_fits_the_command_line_and_the_image() -> None:
    pod = DAEMON_SET["spec"]["template"]["spec"]
    (agent,) = pod["containers"]
    assert agent["args"][0] == "gigawatch"
    parses(agent["args"][1:])
    environment = {it["name"]: it["value"] for it in agent["env"]}
    loaded = load(environment=gigawatch_settings(environment))
    mounts = {mount["name"]: mount["mountPath"] for mount in agent["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    assert loaded.store.data_dir == mounts["spool"]
    assert loaded.agent.token_file == f"{mounts['token']}/token"
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 10001
    assert pod["hostNetwork"], "the node must have its own name, not the pod's"
    labels = DAEMON_SET["spec"]["template"]["metadata"]["labels"]
    assert DAEMON_SET["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_the_gateway_fits_the_command_line_the_settings_and_itself(tmp_path: Path) -> None:
    pod = GATEWAY["Deployment"]["spec"]["template"]["spec"]
    agent, mounts = container_of(GATEWAY["Deployment"]), mounts_of(pod)
    assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
    parses(agent["args"][1:])
    path = Path(agent["args"][2])
    assert str(path.parent) == mounts["settings"]
    (tmp_path / path.name).write_text(GATEWAY["ConfigMap"]["data"][path.name], encoding="utf-8")
    environment = {it["name"]: it["value"] for it in agent["env"]}
    loaded = load(tmp_path / path.name, environment=gigawatch_settings(environment))
    assert loaded.store.data_dir == mounts["spool"]
    assert loaded.agent.token_file == f"{mounts['token']}/token"
    assert loaded.agent.machine_id == pod["hostname"], "its pod runs here and there, and its node stays the same"
    for meter in loaded.meters:
        driver(meter)
    assert {it["metadata"]["name"] for it in GATEWAY.values()} == {"gigawatch-gateway"}
    volumes = {it["name"]: it for it in pod["volumes"]}
    assert volumes["spool"]["persistentVolumeClaim"]["claimName"] == "gigawatch-gateway"
    assert volumes["settings"]["configMap"]["name"] == "gigawatch-gateway"
    spec = GATEWAY["Deployment"]["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"}), "two would share a spool"
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 10001


@pytest.mark.parametrize(
    "path",
    ["docker-compose.yml", *(f"deploy/{name}" for name in UNITS), "deploy/kubernetes/agent.yaml",
     "deploy/kubernetes/gateway.yaml", "docs/operations.md"],
)  # fmt: skip
def test_commands_in_comments_and_instructions_are_real(path: str) -> None:
    commands = commands_in((PROJECT / path).read_text(encoding="utf-8"))
    assert commands or path.endswith(".service")
    for words in commands:
        parses(words)


def test_discovery_in_kubernetes_fits_the_daemon_set_the_settings_and_what_is_read(tmp_path: Path) -> None:
    folder = PROJECT / "deploy/kubernetes"
    kinds = {it["kind"]: it for it in yaml.safe_load_all((folder / "discovery.yaml").read_text(encoding="utf-8"))}
    patch = yaml.safe_load((folder / "discovery-patch.yaml").read_text(encoding="utf-8"))["spec"]["template"]["spec"]
    pod = DAEMON_SET["spec"]["template"]["spec"]
    (agent,), (chown,) = patch["containers"], patch["initContainers"]
    assert [agent["name"], chown["name"]] == [pod["containers"][0]["name"], pod["initContainers"][0]["name"]]
    mounts = {it["name"]: it["mountPath"] for it in agent["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in patch["volumes"]}
    assert mounts["pod-resources"] == str(KUBELET.parent)
    variables = {it["name"]: it.get("value") for it in agent["env"]}
    settings = tmp_path / Path(variables["GIGAWATCH_CONFIG"]).relative_to(mounts["settings"])
    settings.write_text(kinds["ConfigMap"]["data"][settings.name], encoding="utf-8")
    assert load(settings).agent.discover == ("kubernetes",)
    assert "NODE_NAME" in variables
    names = {it["metadata"]["name"] for it in kinds.values()} | {patch["serviceAccountName"]}
    assert names == {"gigawatch-agent"}
    # Root without capabilities: the spool, which the first container hands over, must be its own.
    assert chown["command"][-2:] == [f"{patch['securityContext']['runAsUser']}:0", mounts_of(pod)["spool"]]


def container_of(pods: dict[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = pods["spec"]["template"]["spec"]["containers"][0]
    return container


def mounts_of(pod: dict[str, Any]) -> dict[str, str]:
    return {it["name"]: it["mountPath"] for it in pod["containers"][0]["volumeMounts"]}
