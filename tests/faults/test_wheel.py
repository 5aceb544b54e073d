"""The wheel, installed as on a GPU node: a handful of packages, and the agent runs."""

import json
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.agents import environment
from tests.nvml import standin as nvml

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, PROJECT], check=True
    )
    return next(folder.glob("*.whl"))


def install(folder: Path, wheel: Path, extra: str) -> Path:
    """A new environment with the wheel and an extra; its bin folder."""
    venv.create(folder, with_pip=True)
    subprocess.run(
        [folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check",
         "--constraint", PROJECT / "requirements.lock", f"{wheel}[{extra}]"],
        check=True,
    )  # fmt: skip
    return folder / "bin"


def test_a_gpu_node_installs_few_packages_and_the_agent_runs(tmp_path: Path, wheel: Path) -> None:
    commands = install(tmp_path / "venv", wheel, "collector")
    listed = json.loads(subprocess.check_output([commands / "pip", "list", "--format", "json"]))
    names = {found["name"] for found in listed} - {"pip", "setuptools", "wheel"}
    assert "nvidia-ml-py" in names
    assert "pynvml" not in names
    assert len(names) < 15, names

    scenario = tmp_path / "scenario"
    gpu = nvml.h100("GPU-00000000-1111-2222-3333-444444444444", nvml.Constant(400_000))
    nvml.Scenario([gpu], journal=tmp_path / "journal").write(scenario)
    done = subprocess.run(
        [commands / "gigawatch", "collect", "--once", "--json", "--window-s", "1", "--tick-s", "0.2"],
        env=environment(scenario), capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    read = nvml.read_journal(tmp_path / "journal")
    # It may lie in two windows of a second each.
    assert sum(it["energy_mj"] for it in json.loads(done.stdout)["gpu_windows"]) == read[-1].mj - read[0].mj > 0

    for words in (["serve", "--port", "1"], ["meter", "import", "meters.csv", "--site", "oslo"]):
        missing = subprocess.run(
            [commands / "gigawatch", *words], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert missing.returncode == 3
        assert f"`gigawatch {words[0] if words[0] == 'serve' else 'meter import'}` needs" in missing.stderr
        assert "pip install 'gigawatch[server]'" in missing.stderr
    said = subprocess.check_output([commands / "gigawatch", "meter", "--help"], text=True, cwd=tmp_path)
    assert re.search(r"import +Not installed: pip install 'gigawatch\[server\]'", said)
    assert re.search(r"maps +List the maps", said)


def test_the_wheel_has_the_files_that_are_not_python(wheel: Path) -> None:
    import zipfile

    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (
        *PROJECT.glob("migrations/views/*.sql"),
        *PROJECT.glob("dashboard/assets/*"),
        *PROJECT.glob("collector/engines/*.toml"),
        *PROJECT.glob("api/reports/*.css"),
        *PROJECT.glob("api/alerts/rules/*.yaml"),
    ):
        assert str(path.relative_to(PROJECT)) in names
    for path in PROJECT.glob("docs/runbooks/*.md"):
        assert f"gigawatch/alerts/runbooks/{path.name}" in names
