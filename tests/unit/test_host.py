"""The host's own energy, from a tree like the kernel's."""

from pathlib import Path

import pytest

from collector.sources.host import Host


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="ascii")
    return path


def rapl(root: Path, zone: str, name: str, energy_uj: int) -> Path:
    folder = root / "sys/class/powercap" / zone
    write(folder / "name", name + "\n")
    write(folder / "max_energy_range_uj", "1000000\n")
    return write(folder / "energy_uj", f"{energy_uj}\n")


def test_packages_add_up_and_a_wrapped_register_goes_on(tmp_path: Path) -> None:
    first = rapl(tmp_path, "intel-rapl:0", "package-0", 999_000)
    second = rapl(tmp_path, "intel-rapl:1", "package-1", 10)
    memory = rapl(tmp_path, "intel-rapl:0:0", "dram", 5)
    rapl(tmp_path, "intel-rapl:0:1", "core", 5)
    host = Host(tmp_path)
    first.write_text("499", encoding="ascii")
    second.write_text("110", encoding="ascii")
    memory.write_text("25", encoding="ascii")
    reading = host.read()
    assert reading.cpu_energy_uj == 1_500 + 100
    assert reading.dram_energy_uj == 20


def test_a_package_that_cannot_be_read_makes_the_sum_unknown(tmp_path: Path) -> None:
    rapl(tmp_path, "intel-rapl:0", "package-0", 1)
    second = rapl(tmp_path, "intel-rapl:1", "package-1", 1)
    host = Host(tmp_path)
    second.write_text("garbage", encoding="ascii")
    assert host.read().cpu_energy_uj is None


def test_a_node_without_any_of_it_has_nothing(tmp_path: Path) -> None:
    host = Host(tmp_path)
    reading = host.read()
    assert (reading.cpu_energy_uj, reading.dram_energy_uj, reading.node_power_mw) == (None, None, None)
    assert not (host.has_cpu or host.has_dram or host.has_node_power)
    assert host.boot_id() is None


@pytest.mark.parametrize(("microwatts", "milliwatts"), [("4321000000", 4_321_000), ("0", None), ("x", None)])
def test_node_power_is_that_of_the_acpi_power_meter(tmp_path: Path, microwatts: str, milliwatts: int | None) -> None:
    write(tmp_path / "sys/class/hwmon/hwmon0/name", "coretemp\n")
    write(tmp_path / "sys/class/hwmon/hwmon0/power1_average", "1000000\n")
    write(tmp_path / "sys/class/hwmon/hwmon1/name", "power_meter\n")
    write(tmp_path / "sys/class/hwmon/hwmon1/power1_average", microwatts)
    assert Host(tmp_path).read().node_power_mw == milliwatts


def test_the_machine_id_is_lasting_and_hashed(tmp_path: Path) -> None:
    write(tmp_path / "etc/machine-id", "0123456789abcdef0123456789abcdef\n")
    assert Host(tmp_path).machine_id() == Host(tmp_path).machine_id()
    assert "0123456789abcdef" not in Host(tmp_path).machine_id()
