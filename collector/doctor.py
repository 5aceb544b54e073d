"""What the agent can and cannot read on this node, and what to do about it."""

import shutil
from pathlib import Path
from typing import Literal

import pynvml

from collector.client import Client, ServerUnreachable, utc_now
from collector.finding import Finding
from collector.sources.host import Host
from collector.sources.nvml import DriverGone, GpuLost, GpuReading, Nvml
from gigawatch.errors import GigawatchError
from gigawatch.records import Gpu
from gigawatch.settings import Settings
from gigawatch.units import BYTES_PER_MIB

FLAGGED_OFFSET_S = 2.0


def examine(settings: Settings, host: Host, nvml: Nvml) -> list[Finding]:
    """Look at everything that the agent uses."""
    findings = [*_driver(nvml, is_gateway=bool(settings.meters)), *_host(host), *_spool(settings), *_server(settings)]
    if settings.engines or settings.assignments or {"slurm", "kubernetes"} & {*settings.agent.discover}:
        from collector.assignments.doctor import examine_assignments  # noqa: PLC0415 # it loads the engines' parser

        findings += examine_assignments(settings, nvml)
    if settings.meters:
        from collector.meters.doctor import examine_meters  # noqa: PLC0415 # it loads the meters' libraries

        findings += examine_meters(settings.meters)
    return findings


def format_findings(findings: list[Finding]) -> str:
    """The findings for a terminal."""
    signs = {"good": "ok  ", "note": "note", "bad": "BAD "}
    lines = []
    for finding in findings:
        lines.append(f"{signs[finding.level]}  {finding.subject}: {finding.text}")
        if finding.remedy:
            lines.append(f"      → {finding.remedy}")
    return "\n".join(lines)


def _driver(nvml: Nvml, *, is_gateway: bool) -> list[Finding]:
    try:
        nvml.open()
    except DriverGone as error:
        if is_gateway:
            return [Finding("NVIDIA driver", "note", "there is none: this machine reads meters alone")]
        return [
            Finding(
                "NVIDIA driver", "bad", f"cannot be used: {error}",
                "Install the driver, or give the container access (--gpus all, or the NVIDIA runtime). Without it"
                " the agent runs, reports this, and looks again every 2 s.",
            )
        ]  # fmt: skip
    try:
        versions = nvml.versions()
        findings = [
            Finding(
                "NVIDIA driver",
                "good",
                f"{versions['driver_version']}, {len(nvml.devices)} GPUs can be opened",
            )
        ]
        if nvml.count() != len(nvml.devices):
            findings.append(
                Finding(
                    "GPUs", "bad", f"the driver counts {nvml.count()} GPUs and {len(nvml.devices)} can be opened",
                    "One fell off the bus or is reserved: see `nvidia-smi` and `dmesg`.",
                )
            )  # fmt: skip
        if not nvml.has_events:
            findings.append(Finding("XID events", "note", "no GPU reports them", "XIDs are then in `dmesg` only."))
        readings, lost = nvml.read()
        described = {gpu.uuid: gpu for gpu in nvml.inventory()}
        findings += [Finding(f"GPU {device.index}", "bad", "does not answer", "Reset it or reboot.") for device in lost]
        findings += [_gpu(described[reading.uuid], reading) for reading in readings if reading.uuid in described]
    except (DriverGone, GpuLost, pynvml.NVMLError) as error:
        findings = [Finding("NVIDIA driver", "bad", f"went away while it was read: {error}", "Try again.")]
    finally:
        nvml.close()
    return findings


def _gpu(gpu: Gpu, reading: GpuReading) -> Finding:
    """One GPU: what it does not give is named, since it will be absent in every figure."""
    missing = [
        name
        for name, value in (
            ("energy counter", reading.energy_counter_mj),
            ("power", reading.power_mw),
            ("instantaneous power", reading.power_instant_mw),
            ("power limit", reading.power_limit_mw),
            ("utilisation", reading.gpu_util_pct),
            ("temperature", reading.gpu_temp_c),
            ("memory temperature", reading.mem_temp_c),
            ("clocks", reading.sm_clock_mhz),
            ("memory in use", reading.mem_used_mib),
            ("clock-event reasons", reading.clock_event_reasons),
            ("PCIe throughput", reading.pcie_tx_kib),
            ("NVLink throughput", reading.nvlink_tx_kib),
        )
        if value is None
    ]
    subject = f"GPU {gpu.index}"
    text = gpu.model + (f"; does not give: {', '.join(missing)}" if missing else "; gives everything")
    if gpu.power_scope == "module":
        text += "; its power is that of the whole module, CPU included"
    if reading.energy_counter_mj is None and reading.power_mw is None:
        return Finding(
            subject,
            "bad",
            text,
            "Without counter and power it has no energy; a newer driver may give them.",
        )
    if reading.energy_counter_mj is None:
        return Finding(subject, "note", text, "Energy will be integrated from polled power and marked so.")
    if gpu.mig_enabled:
        return Finding(subject, "note", text, "MIG is on: the driver gives no utilisation of the whole GPU.")
    return Finding(subject, "good", text)


def _host(host: Host) -> list[Finding]:
    findings = [
        Finding(
            subject,
            "good" if present else "note",
            "can be read" if present else "cannot be read; these figures will be absent",
        )
        for subject, present in (
            ("CPU energy (RAPL)", host.has_cpu),
            ("memory energy (RAPL)", host.has_dram),
            ("node power (hwmon power_meter)", host.has_node_power),
        )
    ]
    if host.unreadable:
        findings.append(
            Finding(
                "permissions", "note", f"closed to this user: {', '.join(host.unreadable)}",
                "Run the agent as root, or give its group read access by a udev rule"
                " (deploy/99-gigawatch-powercap.rules).",
            )
        )  # fmt: skip
    return findings


def _spool(settings: Settings) -> list[Finding]:
    folder = Path(settings.store.data_dir).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".doctor"
        probe.write_bytes(b"x")
        probe.unlink()
        free_mib = shutil.disk_usage(folder).free // BYTES_PER_MIB
    except OSError as error:
        return [
            Finding(
                "spool",
                "bad",
                f"{folder} cannot be written: {error.strerror}",
                "Choose another with --data-dir.",
            )
        ]
    if free_mib < settings.agent.spool_max_mib:
        return [
            Finding(
                "spool", "note", f"{folder} has {free_mib} MiB free, less than agent.spool_max_mib"
                f" = {settings.agent.spool_max_mib}", "Free some, or lower the bound.",
            )
        ]  # fmt: skip
    return [Finding("spool", "good", f"{folder}, {free_mib} MiB free")]


def _server(settings: Settings) -> list[Finding]:
    url = settings.agent.server_url
    try:
        client = Client(settings.agent)
        answer = client.hello()
    except ServerUnreachable as error:
        return [
            Finding(
                "server",
                "bad",
                str(error),
                "Start it with `gigawatch serve`, or set agent.server_url.",
            )
        ]
    except GigawatchError as error:
        return [Finding("server", "bad", error.problem, error.remedy)]
    offset_s = (utc_now() - answer.server_time).total_seconds()
    findings = [Finding("server", "good", f"{url} takes batches from this node")]
    if abs(offset_s) > FLAGGED_OFFSET_S:
        level: Literal["note", "bad"] = "bad" if abs(offset_s) > answer.max_clock_offset_s else "note"
        findings.append(
            Finding(
                "clock",
                level,
                f"{offset_s:+.1f} s off the server's",
                "Set it right, e.g. with chrony.",
            )
        )
    return findings
