"""What the simulated machines are: GPUs and nodes. Sources are in docs/simulate.md."""

from msgspec import Struct


class GpuModel(Struct, frozen=True, kw_only=True):
    """A GPU model. Powers in W, temperatures in °C, clocks in MHz, throughput in GiB/s."""

    name: str
    """As the driver names it."""
    mem_total_mib: int
    limit_w: int
    limit_min_w: int
    idle_w: int
    """Without a process."""
    loaded_w: int
    """With a process that waits: the GPU stays in its fastest state."""
    peak_w: int
    """What the heaviest work would draw were there no limit."""
    thermal_k_per_w: float
    """Rise above the inlet air at a steady power."""
    thermal_lag_s: float
    mem_rise_k: int | None
    """Memory temperature above the GPU's; absent where there is no sensor."""
    slowdown_c: int
    shutdown_c: int
    sm_idle_mhz: int
    sm_max_mhz: int
    mem_mhz: int
    idle_state: int
    """Performance state without a process."""
    pcie_gib_s: int
    nvlink_gib_s: int | None
    energy_counter: bool = True
    cpu_model: str
    board_w: int
    """Switches, network cards, storage and boards of its node."""
    cpu_idle_w: int
    cpu_max_w: int
    dram_idle_w: int
    dram_max_w: int

    def wanted_w(self, draw: float, mem: float) -> float:
        """Power that work would draw were there no limit, by its share of the way from waiting to the peak."""
        floor_w = self.loaded_w if mem else self.idle_w
        return floor_w + (self.peak_w - floor_w) * draw


H100 = GpuModel(
    name="NVIDIA H100 80GB HBM3",
    mem_total_mib=81_559,
    limit_w=700,
    limit_min_w=200,
    idle_w=70,
    loaded_w=120,
    peak_w=735,
    thermal_k_per_w=0.058,
    thermal_lag_s=35,
    mem_rise_k=8,
    slowdown_c=89,
    shutdown_c=92,
    sm_idle_mhz=345,
    sm_max_mhz=1_980,
    mem_mhz=2_619,
    idle_state=0,
    pcie_gib_s=50,
    nvlink_gib_s=380,
    cpu_model="Intel(R) Xeon(R) Platinum 8480C",
    board_w=800,
    cpu_idle_w=150,
    cpu_max_w=700,
    dram_idle_w=45,
    dram_max_w=110,
)
B200 = GpuModel(
    name="NVIDIA B200",
    mem_total_mib=183_359,
    limit_w=1_000,
    limit_min_w=200,
    idle_w=140,
    loaded_w=210,
    peak_w=1_045,
    thermal_k_per_w=0.042,
    thermal_lag_s=45,
    mem_rise_k=9,
    slowdown_c=90,
    shutdown_c=95,
    sm_idle_mhz=120,
    sm_max_mhz=1_965,
    mem_mhz=3_996,
    idle_state=0,
    pcie_gib_s=50,
    nvlink_gib_s=760,
    cpu_model="Intel(R) Xeon(R) Platinum 8570",
    board_w=1_000,
    cpu_idle_w=150,
    cpu_max_w=700,
    dram_idle_w=60,
    dram_max_w=140,
)
L40S = GpuModel(
    name="NVIDIA L40S",
    mem_total_mib=46_068,
    limit_w=350,
    limit_min_w=100,
    idle_w=35,
    loaded_w=85,
    peak_w=365,
    thermal_k_per_w=0.125,
    thermal_lag_s=40,
    mem_rise_k=None,
    slowdown_c=90,
    shutdown_c=95,
    sm_idle_mhz=210,
    sm_max_mhz=2_520,
    mem_mhz=9_001,
    idle_state=8,
    pcie_gib_s=25,
    nvlink_gib_s=None,
    cpu_model="AMD EPYC 9354 32-Core Processor",
    board_w=250,
    cpu_idle_w=120,
    cpu_max_w=560,
    dram_idle_w=35,
    dram_max_w=90,
)
A100 = GpuModel(
    name="NVIDIA A100-SXM4-80GB",
    mem_total_mib=81_920,
    limit_w=400,
    limit_min_w=100,
    idle_w=55,
    loaded_w=85,
    peak_w=425,
    thermal_k_per_w=0.092,
    thermal_lag_s=35,
    mem_rise_k=10,
    slowdown_c=89,
    shutdown_c=92,
    sm_idle_mhz=210,
    sm_max_mhz=1_410,
    mem_mhz=1_593,
    idle_state=0,
    pcie_gib_s=25,
    nvlink_gib_s=250,
    # As if its counter were found to be wrong: the fleet needs a node whose energy is integrated from power.
    energy_counter=False,
    cpu_model="AMD EPYC 7742 64-Core Processor",
    board_w=600,
    cpu_idle_w=130,
    cpu_max_w=450,
    dram_idle_w=40,
    dram_max_w=100,
)

SUPPLY_EFFICIENCY = 0.94
FANS_PER_GPU_W = 0.1
"""Power of the fans over the GPUs' power."""


def cpu_w(model: GpuModel, util: float) -> float:
    """Power of a node's CPU packages while its GPUs are busy for `util` of the time."""
    return model.cpu_idle_w + (model.cpu_max_w - model.cpu_idle_w) * 0.6 * util


def dram_w(model: GpuModel, util: float) -> float:
    """Power of a node's memory while its GPUs are busy for `util` of the time."""
    return model.dram_idle_w + (model.dram_max_w - model.dram_idle_w) * 0.7 * util


def node_w(model: GpuModel, gpus_w: float, util: float) -> float:
    """Power at the node's inlet: GPUs, CPUs, memory, boards, fans and the loss of the supplies."""
    inside_w = gpus_w * (1 + FANS_PER_GPU_W) + cpu_w(model, util) + dram_w(model, util)
    return (inside_w + model.board_w) / SUPPLY_EFFICIENCY
