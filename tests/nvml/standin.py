"""Write scenarios for the stand-in NVML, build it, and compute what it must answer.

Units are in the names: ``_mw`` milliwatts, ``_mj`` millijoules, ``_us`` microseconds, ``_ms``
milliseconds, ``_s`` seconds. Times of actions are scenario seconds: 0 is the scenario's epoch.
"""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import tempfile
import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

_SOURCES = ("nvml_standin.c", "nvml_readings.c", "nvml_scenario.c")
_HEADERS = ("nvml_standin.h", "nvml_scenario.h")
_FLAGS = (
    *("-std=c11", "-O2", "-g", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=off"),
    *("-Wall", "-Wextra", "-Werror", "-Wl,-soname,libnvidia-ml.so.1"),
)
_SINE_STEPS = 1440


def build(directory: Path) -> Path:
    """Compile the library below ``directory``, once for each state of its sources.

    Returns the folder that holds ``libnvidia-ml.so.1``, for LD_LIBRARY_PATH.
    """
    here = Path(__file__).parent
    digest = hashlib.sha256(" ".join(_FLAGS).encode())
    for name in _SOURCES + _HEADERS:
        digest.update((here / name).read_bytes())
    folder = directory / f"nvml-{digest.hexdigest()[:16]}"
    library = folder / "libnvidia-ml.so.1"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # Under another name first: two test processes may build at the same time.
        partial = folder / f"partial.{os.getpid()}"
        sources = [str(here / name) for name in _SOURCES]
        subprocess.run(["cc", *_FLAGS, "-o", str(partial), *sources, "-lm", "-lpthread"], check=True)
        partial.replace(library)
    return folder


def environment(library_dir: Path, scenario_path: Path, journal: Path | None = None) -> dict[str, str]:
    """Return the variables that make a subprocess use the stand-in, to add to its environment."""
    before = os.environ.get("LD_LIBRARY_PATH")
    found = {
        "LD_LIBRARY_PATH": f"{library_dir}:{before}" if before else str(library_dir),
        "GIGAWATCH_NVML_SCENARIO": str(scenario_path),
    }
    if journal is not None:
        found["GIGAWATCH_NVML_JOURNAL"] = str(journal)
    return found


def microseconds(seconds: float) -> int:
    """Seconds to the whole microseconds in which the stand-in reckons."""
    return round(seconds * 1_000_000)


def _seconds(us: int) -> str:
    sign = "-" if us < 0 else ""
    return f"{sign}{abs(us) // 1_000_000}.{abs(us) % 1_000_000:06d}"


# --- power over time ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Constant:
    """The same power for ever, mW."""

    mw: int

    def text(self) -> str:
        """Spell it as the scenario file does."""
        return f"constant:{self.mw}"


@dataclass(frozen=True)
class Idle:
    """The GPU's ``idle_mw``."""

    def text(self) -> str:
        """Spell it as the scenario file does."""
        return "idle"


@dataclass(frozen=True)
class Square:
    """High for ``duty_percent`` of each period, then low; starts ``phase_ms`` into the period."""

    low_mw: int
    high_mw: int
    period_ms: int
    duty_percent: int = 50
    phase_ms: int = 0

    def text(self) -> str:
        """Spell it as the scenario file does."""
        shape = f"{self.low_mw}:{self.high_mw}:{self.period_ms}"
        return f"square:{shape}:{self.duty_percent}:{self.phase_ms}"


@dataclass(frozen=True)
class Sine:
    """A sine between low and high, as 1440 steps a period; starts at its middle, rising."""

    low_mw: int
    high_mw: int
    period_ms: int
    phase_ms: int = 0

    def text(self) -> str:
        """Spell it as the scenario file does."""
        return f"sine:{self.low_mw}:{self.high_mw}:{self.period_ms}:{self.phase_ms}"


@dataclass(frozen=True)
class Ramp:
    """A straight line from one power to another, then held."""

    from_mw: int
    to_mw: int
    duration_ms: int

    def text(self) -> str:
        """Spell it as the scenario file does."""
        return f"ramp:{self.from_mw}:{self.to_mw}:{self.duration_ms}"


@dataclass(frozen=True)
class Steps:
    """A table of (mW, ms) steps; the last power is held, or the table is repeated."""

    steps: tuple[tuple[int, int], ...]
    loop: bool = False

    def text(self) -> str:
        """Spell it as the scenario file does."""
        kind = "loop" if self.loop else "steps"
        return f"{kind}:" + ",".join(f"{mw}@{ms}" for mw, ms in self.steps)


Power = Constant | Idle | Square | Sine | Ramp | Steps


class _Segment(NamedTuple):
    start_us: int
    length_us: int
    from_mw: int
    to_mw: int
    before_nj: int

    def nj(self, elapsed_us: int) -> int:
        change = self.to_mw - self.from_mw
        return elapsed_us * self.from_mw + elapsed_us * elapsed_us * change // (2 * self.length_us)


class _Table:
    """A power function as linear segments: the twin of ``Power`` in nvml_scenario.c."""

    def __init__(self, power: Power, idle_mw: int) -> None:
        self.segments: list[_Segment] = []
        self.total_us = 0
        self.total_nj = 0
        self.phase_us = 0
        self.loop = False
        match power:
            case Constant(mw):
                self._add(1_000_000, mw, mw)
            case Idle():
                self._add(1_000_000, idle_mw, idle_mw)
            case Square(low, high, period_ms, duty, phase_ms):
                high_us = 1000 * period_ms * duty // 100
                self.loop, self.phase_us = True, 1000 * phase_ms
                self._add(high_us, high, high)
                self._add(1000 * period_ms - high_us, low, low)
            case Sine(low, high, period_ms, phase_ms):
                self.loop, self.phase_us = True, 1000 * phase_ms
                period = 1000 * period_ms
                for k in range(_SINE_STEPS):
                    length = period * (k + 1) // _SINE_STEPS - period * k // _SINE_STEPS
                    wave = 0.5 + 0.5 * math.sin(2.0 * math.pi * k / _SINE_STEPS)
                    mw = low + math.floor((high - low) * wave + 0.5)
                    self._add(length, mw, mw)
            case Ramp(from_mw, to_mw, duration_ms):
                self._add(1000 * duration_ms, from_mw, to_mw)
            case Steps(steps, loop):
                self.loop = loop
                for mw, ms in steps:
                    self._add(1000 * ms, mw, mw)
        self.starts = [segment.start_us for segment in self.segments]

    def _add(self, length_us: int, from_mw: int, to_mw: int) -> None:
        if length_us > 0:
            segment = _Segment(self.total_us, length_us, from_mw, to_mw, self.total_nj)
            self.segments.append(segment)
            self.total_us += length_us
            self.total_nj += segment.nj(length_us)

    def _from_zero(self, t_us: int) -> int:
        nj = 0
        if self.loop:
            cycles, t_us = divmod(t_us, self.total_us)
            nj = cycles * self.total_nj
        elif t_us >= self.total_us:
            return self.total_nj + (t_us - self.total_us) * self.segments[-1].to_mw
        segment = self.segments[bisect_right(self.starts, t_us) - 1]
        return nj + segment.before_nj + segment.nj(t_us - segment.start_us)

    def nj(self, t_us: int) -> int:
        return self._from_zero(t_us + self.phase_us) - self._from_zero(self.phase_us)


@lru_cache(maxsize=1024)
def _table(power: Power, idle_mw: int) -> _Table:
    return _Table(power, idle_mw)


# --- what a scenario says ----------------------------------------------------------------------


@dataclass(frozen=True)
class Gpu:
    """One board; the defaults are an H100 SXM. Other models: :func:`a100`, :func:`gh200`, ..."""

    uuid: str = "GPU-00000000-0000-0000-0000-000000000000"
    model: str = "NVIDIA H100 80GB HBM3"
    serial: str | None = None  # default: made of the index
    part: str = "692-2G520-0200-000"
    vbios: str = "96.00.89.00.01"
    pci: str | None = None  # domain:bus:device, as 00000000:1B:00; by default a bus a GPU
    device_id: int = 0x233010DE
    arch: int = 9  # NVML_DEVICE_ARCH_HOPPER
    cc: str = "9.0"
    brand: int = 14
    power: Power = Idle()
    idle_mw: int = 70_000
    limit_mw: int = 700_000
    default_limit_mw: int | None = None  # default: limit_mw
    min_limit_mw: int | None = None
    max_limit_mw: int | None = None
    module_mw: int | None = None  # what the Grace CPU adds in the module scope; None: no such scope
    memory_percent: int = 0  # share of memory in the power, memory scope; 0: no such scope
    average: bool = True  # nvmlDeviceGetPowerUsage is the 1 s mean (all but GA100)
    instant_update_ms: int = 100
    instant_window_ms: int = 25
    counter_start_mj: int = 0
    counter_period_ms: int = 20
    counter_scale_ppm: int = 1_000_000  # a counter that is wrong by a factor
    mem_mb: int = 81_559  # MiB
    mem_reserved_mb: int = 600
    ambient_c: int = 28
    rise_c: int = 42  # above ambient at the power limit
    slowdown_c: int = 89
    max_sm_mhz: int = 1980
    max_mem_mhz: int = 2619
    fans: int = 0
    links: int = 18
    link_version: int = 6
    mig_max: int = 7
    pcie_gen: int = 5
    pcie_width: int = 16
    pcie_replays: int = 0
    ecc: bool = True
    ecc_corrected: int = 0  # aggregate, from before the scenario
    ecc_uncorrected: int = 0
    persistence: bool = True
    memory_temperature: bool = True
    unsupported: tuple[str, ...] = ()  # calls by symbol, or field:N
    error: Mapping[str, int | str] = field(default_factory=dict)  # call or field:N -> code
    slow_ms: Mapping[str, int] = field(default_factory=dict)  # call or field:N -> ms

    def without_energy_counter(self) -> Gpu:
        """Return the same board as one of before Volta: neither the call nor field 83 works."""
        calls = ("nvmlDeviceGetTotalEnergyConsumption", "field:83")
        return replace(self, unsupported=self.unsupported + calls)

    def line(self, index: int) -> str:
        """Spell it as the scenario file does."""
        words = [f"gpu {index}"]
        for name, value in self.__dict__.items():
            match value:
                case None:
                    continue
                case Constant() | Idle() | Square() | Sine() | Ramp() | Steps():
                    words.append(f"power={value.text()}")
                case bool():
                    words.append(f"{name}={int(value)}")
                case tuple():
                    if value:
                        words.append(f"{name}={','.join(value)}")
                case Mapping():
                    key = name.removesuffix("_ms")
                    if value:
                        words.append(f"{key}=" + ",".join(f"{k}:{v}" for k, v in value.items()))
                case str():
                    words.append(f'{name}="{value}"')
                case _:
                    words.append(f"{name}={value}")
        return " ".join(words)


def h100(uuid: str, power: Power | None = None) -> Gpu:
    """H100 SXM, 700 W."""
    return Gpu(uuid=uuid, power=power or Idle())


def a100(uuid: str, power: Power | None = None) -> Gpu:
    """A100 SXM 80 GB, 400 W; its power reading is instantaneous."""
    return Gpu(
        uuid=uuid, power=power or Idle(), model="NVIDIA A100-SXM4-80GB", arch=7, cc="8.0",
        device_id=0x20B210DE, idle_mw=60_000, limit_mw=400_000, average=False, mem_mb=81_920,
        max_sm_mhz=1410, max_mem_mhz=1593, links=12, link_version=3, pcie_gen=4,
        unsupported=("nvmlDeviceGetMarginTemperature",),
    )  # fmt: skip


def gh200(uuid: str, power: Power | None = None) -> Gpu:
    """GH200 superchip: the module scope adds 100 W of Grace CPU to the GPU."""
    return Gpu(
        uuid=uuid, power=power or Idle(), model="NVIDIA GH200 480GB", device_id=0x234210DE,
        idle_mw=90_000, limit_mw=700_000, max_limit_mw=900_000, module_mw=100_000,
        memory_percent=15, mem_mb=97_871,
    )  # fmt: skip


def b200(uuid: str, power: Power | None = None) -> Gpu:
    """B200 SXM, 1000 W."""
    return Gpu(
        uuid=uuid, power=power or Idle(), model="NVIDIA B200", arch=10, cc="10.0",
        device_id=0x290110DE, idle_mw=140_000, limit_mw=1_000_000, mem_mb=183_359,
        max_sm_mhz=1965, max_mem_mhz=3996, link_version=7,
    )  # fmt: skip


def l4(uuid: str, power: Power | None = None) -> Gpu:
    """L4, 72 W, without NVLink, MIG or memory temperature."""
    return Gpu(
        uuid=uuid, power=power or Idle(), model="NVIDIA L4", arch=8, cc="8.9",
        device_id=0x27B810DE, idle_mw=13_000, limit_mw=72_000, mem_mb=23_034, max_sm_mhz=2040,
        max_mem_mhz=6251, links=0, mig_max=0, pcie_gen=4, memory_temperature=False,
    )  # fmt: skip


def t4(uuid: str, power: Power | None = None) -> Gpu:
    """T4 (Turing), 70 W: retired pages instead of remapped rows, instantaneous power."""
    fields = ("field:185", "field:186", "field:197", "field:198")
    return Gpu(
        uuid=uuid, power=power or Idle(), model="Tesla T4", arch=6, cc="7.5", brand=2,
        device_id=0x1EB810DE, idle_mw=9_000, limit_mw=70_000, average=False, mem_mb=15_360,
        max_sm_mhz=1590, max_mem_mhz=5001, links=0, mig_max=0, pcie_gen=3,
        memory_temperature=False, unsupported=("nvmlDeviceGetMarginTemperature", *fields),
    )  # fmt: skip


def rtx4090(uuid: str, power: Power | None = None) -> Gpu:
    """RTX 4090: fans, no ECC, no serial number."""
    return Gpu(
        uuid=uuid, power=power or Idle(), model="NVIDIA GeForce RTX 4090", arch=8, cc="8.9",
        brand=5, device_id=0x268410DE, idle_mw=22_000, limit_mw=450_000, max_limit_mw=600_000,
        mem_mb=24_564, max_sm_mhz=3105, max_mem_mhz=10_501, fans=2, links=0, mig_max=0,
        pcie_gen=4, ecc=False, memory_temperature=False,
        unsupported=("nvmlDeviceGetSerial", "nvmlDeviceGetBoardPartNumber"),
    )  # fmt: skip


@dataclass(frozen=True)
class Process:
    """A process on a GPU from ``start_s`` to ``end_s``; ``instance`` is its MIG GPU instance."""

    gpu: int
    pid: int
    name: str = "python"
    mem_mb: int = 1024
    graphics: bool = False
    instance: int | None = None
    start_s: float | None = None
    end_s: float | None = None

    def line(self) -> str:
        """Spell it as the scenario file does."""
        text = f'process gpu={self.gpu} pid={self.pid} name="{self.name}" mem_mb={self.mem_mb}'
        text += " type=graphics" if self.graphics else ""
        text += f" instance={self.instance}" if self.instance is not None else ""
        text += f" from={_seconds(microseconds(self.start_s))}" if self.start_s is not None else ""
        text += f" to={_seconds(microseconds(self.end_s))}" if self.end_s is not None else ""
        return text


@dataclass(frozen=True)
class Action:
    """Something that happens ``at_s``: use the functions below, such as :func:`lost`."""

    at_s: float
    kind: str
    gpu: int | None = None
    for_s: float | None = None
    values: Mapping[str, int | str] = field(default_factory=dict)
    power: Power | None = None

    @property
    def at_us(self) -> int:
        """When it happens, µs after the epoch."""
        return microseconds(self.at_s)

    @property
    def end_us(self) -> int | None:
        """When it ends, µs after the epoch, if it does."""
        return None if self.for_s is None else self.at_us + microseconds(self.for_s)

    def concerns(self, gpu: int) -> bool:
        """Tell whether it is about this GPU (or about all)."""
        return self.gpu is None or self.gpu == gpu

    def line(self) -> str:
        """Spell it as the scenario file does."""
        words = [f"at {_seconds(self.at_us)} {self.kind}"]
        if self.gpu is not None:
            words.append(f"gpu={self.gpu}")
        if self.for_s is not None:
            words.append(f"for={_seconds(microseconds(self.for_s))}")
        words += [f"{key}={value}" for key, value in self.values.items()]
        if self.power is not None:
            words.append(f"power={self.power.text()}")
        return " ".join(words)


def lost(at_s: float, gpu: int, for_s: float | None = None) -> Action:
    """Take the GPU off the bus; after ``for_s`` it is back, reset, for sessions begun later."""
    return Action(at_s, "lost", gpu, for_s)


def back(at_s: float, gpu: int, *, keep_counter: bool = False) -> Action:
    """Bring a lost GPU back, its energy counter at 0."""
    return Action(at_s, "back", gpu, values={"keep_counter": int(keep_counter)})


def reset(at_s: float, gpu: int) -> Action:
    """Set the energy counter back to 0, as a GPU reset does."""
    return Action(at_s, "reset", gpu)


def driver_reload(at_s: float, for_s: float) -> Action:
    """Unload the driver for a while; counters start at 0 when it is loaded again."""
    return Action(at_s, "driver_reload", None, for_s)


def hang(at_s: float, for_s: float) -> Action:
    """Let every call made in this time block until its end."""
    return Action(at_s, "hang", None, for_s)


def error(at_s: float, call: str, code: int | str, gpu: int | None = None, for_s: float | None = None) -> Action:
    """Let a call (symbol, ``field:N`` or ``*``) fail with a code for a while."""
    return Action(at_s, "error", gpu, for_s, {"call": call, "code": code})


def slow(at_s: float, call: str, ms: int, gpu: int | None = None, for_s: float | None = None) -> Action:
    """Let a call (symbol, ``field:N`` or ``*``) take ``ms`` for a while."""
    return Action(at_s, "slow", gpu, for_s, {"call": call, "ms": ms})


def mig(at_s: float, gpu: int, instances: Sequence[str] | None) -> Action:
    """Divide the GPU into instances such as ``1g.10gb``; None turns MIG off."""
    text = "off" if instances is None else ",".join(instances) or "none"
    return Action(at_s, "mig", gpu, values={"instances": text})


def xid(at_s: float, gpu: int, code: int, instance: int | None = None) -> Action:
    """Report an XID error, to those who registered for events."""
    values: dict[str, int | str] = {"code": code}
    if instance is not None:
        values["instance"] = instance
    return Action(at_s, "xid", gpu, values=values)


def reasons(at_s: float, gpu: int, mask: int, for_s: float | None = None) -> Action:
    """Set clock-event reasons (nvmlClocksEventReason...) for a while."""
    return Action(at_s, "reasons", gpu, for_s, {"mask": mask})


def ecc(at_s: float, gpu: int, corrected: int = 0, uncorrected: int = 0, location: str = "dram") -> Action:
    """Count memory errors; they are events too."""
    counts: dict[str, int | str] = {"corrected": corrected, "uncorrected": uncorrected}
    return Action(at_s, "ecc", gpu, values=counts | {"location": location})


def remap(
    at_s: float,
    gpu: int,
    corrected: int = 0,
    uncorrected: int = 0,
    *,
    pending: bool = False,
    failure: bool = False,
) -> Action:
    """Add remapped rows; ``pending`` and ``failure`` hold from then on."""
    values: dict[str, int | str] = {"corrected": corrected, "uncorrected": uncorrected}
    return Action(at_s, "remap", gpu, values=values | {"pending": int(pending), "failure": int(failure)})


def recovery(at_s: float, gpu: int, action: int) -> Action:
    """Ask for a recovery action (nvmlDeviceGpuRecoveryAction) from then on; 0 for none."""
    return Action(at_s, "recovery", gpu, values={"action": action})


def retire(at_s: float, gpu: int, cause: int = 0, address: int = 0x1000, *, pending: bool = False) -> Action:
    """Retire a page (boards before Ampere); cause 1 is a double-bit error."""
    values = {"cause": cause, "address": address, "pending": int(pending)}
    return Action(at_s, "retire", gpu, values=values)


def temperature(at_s: float, gpu: int, celsius: int, for_s: float | None = None) -> Action:
    """Fix the GPU's temperature for a while."""
    return Action(at_s, "temp", gpu, for_s, {"c": celsius})


def spike(at_s: float, gpu: int, mj: int, for_s: float) -> Action:
    """Add ``mj`` to what the energy counter answers for a while (a reading that is wrong)."""
    return Action(at_s, "spike", gpu, for_s, {"mj": mj})


def power(at_s: float, gpu: int, function: Power) -> Action:
    """Change the GPU's power function; the new one begins at its own time 0."""
    return Action(at_s, "power", gpu, power=function)


@dataclass
class Scenario:
    """What the stand-in is to be; ``epoch_s`` (Unix time) is scenario time 0."""

    gpus: list[Gpu]
    actions: list[Action] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    epoch_s: float | None = field(default_factory=time.time)
    journal: Path | None = None
    driver_version: str = "580.95.05"
    nvml_version: str = "13.580.95.05"
    cuda_version: int = 13_000
    system_error: Mapping[str, int | str] = field(default_factory=dict)  # e.g. nvmlInitWithFlags: 9
    system_slow_ms: Mapping[str, int] = field(default_factory=dict)

    @property
    def epoch_us(self) -> int:
        """Scenario time 0, µs of Unix time."""
        if self.epoch_s is None:
            raise ValueError("this scenario begins at each process's first nvmlInit")
        return microseconds(self.epoch_s)

    def now_s(self) -> float:
        """Return the present scenario time."""
        return (time.time_ns() // 1000 - self.epoch_us) / 1_000_000

    def text(self) -> str:
        """Spell it as the scenario file does."""
        lines = []
        if self.epoch_s is not None:
            lines.append(f"epoch={_seconds(self.epoch_us)}")
        if self.journal is not None:
            lines.append(f'journal="{self.journal}"')
        driver = f"driver version={self.driver_version} nvml={self.nvml_version}"
        driver += f" cuda={self.cuda_version}"
        for key, table in (("error", self.system_error), ("slow", self.system_slow_ms)):
            if table:
                driver += f" {key}=" + ",".join(f"{k}:{v}" for k, v in table.items())
        lines.append(driver)
        lines += [gpu.line(index) for index, gpu in enumerate(self.gpus)]
        lines += [process.line() for process in self.processes]
        lines += [action.line() for action in self.actions]
        return "\n".join(lines) + "\n"

    def write(self, path: Path) -> Path:
        """Write the file at once, so that no reader meets half of it."""
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        with os.fdopen(handle, "w") as file:
            file.write(self.text())
        Path(partial).chmod(0o644)  # whoever runs the agent may read it
        Path(partial).replace(path)
        return path

    def append(self, path: Path, *actions: Action) -> None:
        """Add actions to a scenario that is being used; they count within 50 ms."""
        self.actions += actions
        with path.open("a") as file:
            file.write("".join(action.line() + "\n" for action in actions))

    # What the library must answer, to the last digit.

    def energy_nj(self, gpu: int, t_us: int) -> int:
        """Return what the GPU drew from scenario time 0 to ``t_us``: the truth, nJ."""
        board, nj, start_us = self.gpus[gpu], 0, 0
        function = board.power
        changes = [a for a in self.actions if a.kind == "power" and a.gpu == gpu]
        for change in sorted(changes, key=lambda a: a.at_us):
            if change.at_us > t_us or change.power is None:
                break
            nj += _table(function, board.idle_mw).nj(change.at_us - start_us)
            function, start_us = change.power, change.at_us
        return nj + _table(function, board.idle_mw).nj(t_us - start_us) if t_us > 0 else 0

    def counter_base_us(self, gpu: int, t_us: int) -> int:
        """Return the scenario time at which the energy counter last began, 0 if never anew."""
        times = [0]
        for action in self.actions:
            if action.kind == "driver_reload" or (action.kind == "lost" and action.for_s):
                at_us = action.end_us
            elif action.kind == "reset" or (action.kind == "back" and not action.values.get("keep_counter")):
                at_us = action.at_us
            else:
                continue
            if action.concerns(gpu) and at_us is not None and at_us <= t_us:
                times.append(at_us)
        return max(times)

    def energy_mj(self, gpu: int, t_us: int) -> int:
        """Return what the energy counter answers at scenario time ``t_us``, mJ."""
        board = self.gpus[gpu]
        base_us = self.counter_base_us(gpu, t_us)
        at_us = max(_step_down(t_us, 1000 * board.counter_period_ms), base_us)
        nj = self.energy_nj(gpu, at_us) - self.energy_nj(gpu, base_us)
        mj = nj * board.counter_scale_ppm // 10**12
        mj += board.counter_start_mj if base_us == 0 else 0
        for action in self.actions:
            if action.kind == "spike" and action.concerns(gpu) and action.end_us is not None:
                mj += int(action.values["mj"]) if action.at_us <= t_us < action.end_us else 0
        return max(mj, 0)

    def mean_mw(self, gpu: int, from_us: int, to_us: int) -> int:
        """Return the mean power over an interval, which is cut at time 0, mW."""
        from_us = max(from_us, 0)
        to_us = max(to_us, from_us + 1)
        return (self.energy_nj(gpu, to_us) - self.energy_nj(gpu, from_us)) // (to_us - from_us)

    def instant_mw(self, gpu: int, t_us: int) -> int:
        """Return field 186 (and the power usage of an A100) at scenario time ``t_us``, mW."""
        board = self.gpus[gpu]
        at_us = _step_down(t_us, 1000 * board.instant_update_ms)
        return self.mean_mw(gpu, at_us - 1000 * board.instant_window_ms, at_us)

    def average_mw(self, gpu: int, t_us: int) -> int:
        """Return field 185 (and the power usage of most GPUs) at scenario time ``t_us``, mW."""
        at_us = _step_down(t_us, 1000 * self.gpus[gpu].instant_update_ms)
        return self.mean_mw(gpu, at_us - 1_000_000, at_us)


def _step_down(t_us: int, step_us: int) -> int:
    return t_us if t_us < 0 or step_us <= 0 else t_us - t_us % step_us


def energy_mj(gpu: Gpu, t_us: int) -> int:
    """Return what the energy counter of one undisturbed GPU answers at ``t_us``, mJ."""
    return Scenario([gpu], epoch_s=0.0).energy_mj(0, t_us)


def mig_uuid(gpu_uuid: str, profile: str, place: int) -> str:
    """Return the UUID of the MIG device at this place (0 is the first) of a GPU's layout."""
    hashes = []
    for seed in (0xCBF29CE484222325, 0x84222325CBF29CE4):
        value = seed
        for byte in f"{gpu_uuid}/{profile}/{place + 1}".encode():
            value = (value ^ byte) * 0x100000001B3 % 2**64
        hashes.append(f"{value:016x}")
    first, second = hashes
    return f"MIG-{first[:8]}-{first[8:12]}-{first[12:]}-{second[:4]}-{second[4:]}"


class EnergyRead(NamedTuple):
    """One answer of the energy counter, as the journal has it."""

    unix_us: int
    gpu: int
    mj: int


def read_journal(path: Path) -> list[EnergyRead]:
    """Read which energy values were served; a line still being written is left out."""
    reads = []
    for line in path.read_text().splitlines(keepends=True) if path.exists() else []:
        if line.endswith("\n"):
            at, gpu, mj = line.split()
            seconds, micros = at.split(".")
            reads.append(EnergyRead(int(seconds) * 1_000_000 + int(micros), int(gpu), int(mj)))
    return reads
