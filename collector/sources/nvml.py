"""GPUs through NVML: the one place that calls pynvml, with one border for its errors.

Facts about the calls are from nvml.h and nvidia-ml-py 13.610. What a GPU does not support is asked once and
then left alone until the driver is opened anew; a value that means "blank" is refused, never passed on.
"""

import ctypes
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import pynvml
from msgspec import Struct

from gigawatch.records import Event, Gpu, GpuHealth, MigInstance, Process, Severity
from gigawatch.units import BYTES_PER_KIB, BYTES_PER_MIB

T = TypeVar("T")
log = logging.getLogger(__name__)

SCOPE_GPU, SCOPE_MODULE = 0, 1
ALL_LINKS = 0xFFFFFFFF
POWER_AVERAGE = (pynvml.NVML_FI_DEV_POWER_AVERAGE, SCOPE_GPU)
POWER_INSTANT = (pynvml.NVML_FI_DEV_POWER_INSTANT, SCOPE_GPU)
MODULE_AVERAGE = (pynvml.NVML_FI_DEV_POWER_AVERAGE, SCOPE_MODULE)
ENERGY = (pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, 0)
MEMORY_TEMP = (pynvml.NVML_FI_DEV_MEMORY_TEMP, 0)
PCIE_TX, PCIE_RX = (
    (pynvml.NVML_FI_DEV_PCIE_COUNT_TX_BYTES, 0),
    (pynvml.NVML_FI_DEV_PCIE_COUNT_RX_BYTES, 0),
)
NVLINK_TX = (pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, ALL_LINKS)
NVLINK_RX = (pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX, ALL_LINKS)
RECOVERY_ACTION = pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION
FAST_FIELDS = (
    ENERGY, POWER_AVERAGE, POWER_INSTANT, MODULE_AVERAGE, MEMORY_TEMP, PCIE_TX, PCIE_RX, NVLINK_TX, NVLINK_RX,
)  # fmt: skip

# valueType to the member of the union nvmlValue_t that holds the value.
MEMBERS = {
    pynvml.NVML_VALUE_TYPE_DOUBLE: "dVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal",
    pynvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: "sllVal",
    pynvml.NVML_VALUE_TYPE_SIGNED_INT: "siVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_SHORT: "usVal",
}
# The driver went away under us: all handles are void, and only a new start of NVML helps.
DRIVER_GONE = frozenset({
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
})  # fmt: skip
GPU_GONE = frozenset({pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED})
NEVER = frozenset({pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND})
RESETS = {
    pynvml.NVML_GPU_RECOVERY_ACTION_GPU_RESET: "a reset",
    pynvml.NVML_GPU_RECOVERY_ACTION_NODE_REBOOT: "a reboot of the node",
    pynvml.NVML_GPU_RECOVERY_ACTION_BUS_RESET: "a reset of its bus",
    pynvml.NVML_GPU_RECOVERY_ACTION_SYSTEM_REBOOT: "a reboot of the system",
}
"""Recovery actions without which the GPU is not to be used; with others, as for a row remap that waits, it works on."""
FATAL_XIDS = frozenset({48, 64, 74, 79, 95, 119, 120, 140})
RESET_XIDS = frozenset({46, 62, 109, 110, 136, 143, 155, 156, 158})
NVLINK5_XIDS = frozenset(range(144, 151))
XID_NAMES = {
    13: "graphics engine exception", 31: "memory page fault", 43: "GPU stopped processing", 45: "preemptive cleanup",
    48: "double-bit ECC error", 63: "row remap or page retirement recorded", 64: "row remap or page retirement failed",
    74: "NVLink error", 79: "GPU has fallen off the bus", 92: "high single-bit ECC error rate",
    94: "contained ECC error", 95: "uncontained ECC error", 109: "context switch timeout",
    119: "GSP RPC timeout", 120: "GSP error", 140: "unrecovered ECC error",
}  # fmt: skip


class DriverGone(Exception):
    """NVML cannot be used now: no library, no driver, or the driver was reloaded."""


class GpuLost(Exception):
    """One GPU does not answer any more."""


class GpuReading(Struct, frozen=True, kw_only=True):
    """What one GPU said at one tick; None is what it does not support or did not answer."""

    uuid: str
    energy_counter_mj: int | None = None
    """Energy since the driver was loaded."""
    power_mw: int | None = None
    """The 1 s average where the GPU has one, else the instantaneous power."""
    power_instant_mw: int | None = None
    power_limit_mw: int | None = None
    gpu_util_pct: int | None = None
    mem_util_pct: int | None = None
    gpu_temp_c: int | None = None
    mem_temp_c: int | None = None
    sm_clock_mhz: int | None = None
    mem_clock_mhz: int | None = None
    mem_used_mib: int | None = None
    clock_event_reasons: int | None = None
    fan_pct: int | None = None
    pcie_tx_kib: int | None = None
    """Counter since some start, as the three below."""
    pcie_rx_kib: int | None = None
    nvlink_tx_kib: int | None = None
    nvlink_rx_kib: int | None = None


class Device:
    """One physical GPU: its handle, what it cannot do, and its calls behind one border."""

    def __init__(self, handle: Any, index: int) -> None:
        self.handle = handle
        self.index = index
        self.uuid = ""
        self.lost = False
        self.latest: dict[tuple[int, int], int] = {}
        """The last answer of fields()."""
        self._unsupported: set[object] = set()
        self._fields: Any = None
        self._field_ids: Sequence[tuple[int, int]] = ()

    def ask(self, call: Callable[..., T], *arguments: object) -> T | None:
        """The call's answer; None where the GPU does not support it or answers with an error of this call only.

        Raises:
            DriverGone: the driver went away.
            GpuLost: this GPU went away.
        """
        return self._try((call, arguments), lambda: call(self.handle, *arguments))

    def _try(self, key: object, call: Callable[[], T]) -> T | None:
        if key in self._unsupported:
            return None
        try:
            return call()
        except pynvml.NVMLError as error:
            code = error.value
            if code in DRIVER_GONE:
                raise DriverGone(str(error)) from error
            if code in GPU_GONE:
                raise GpuLost(str(error)) from error
            if code in NEVER:
                self._unsupported.add(key)
            else:
                log.debug("GPU %d: %s: %s", self.index, key, error)
            return None

    def fields(self, wanted: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
        """Values of the fields that answered, in one call to the driver.

        Each field has its own error and its own type of value.
        """
        if self._fields is None:
            self._field_ids = [it for it in wanted if it not in self._unsupported]
            self._fields = (pynvml.c_nvmlFieldValue_t * len(self._field_ids))()
            for place, (field, scope) in enumerate(self._field_ids):
                self._fields[place].fieldId, self._fields[place].scopeId = field, scope
        values = self._fields
        if not self._field_ids or self._try("fields", lambda: _get_field_values(self.handle, values)) is None:
            return {}
        found = {}
        for field_id, answer in zip(self._field_ids, values, strict=True):
            if answer.nvmlReturn == pynvml.NVML_SUCCESS:
                member = MEMBERS.get(answer.valueType)
                if member is not None:
                    found[field_id] = int(getattr(answer.value, member))
            elif answer.nvmlReturn in GPU_GONE:
                raise GpuLost("field values")
            elif answer.nvmlReturn in NEVER:
                self._unsupported.add(field_id)
                self._fields = None  # ask for fewer the next time
        self.latest = found
        return found

    def reset_needed(self) -> str | None:
        """Which reset the GPU asks for, in words; None: none, or the driver does not tell.

        Raises:
            DriverGone: the driver went away.
            GpuLost: this GPU went away.
        """
        values = (pynvml.c_nvmlFieldValue_t * 1)()
        values[0].fieldId = RECOVERY_ACTION
        if self._try("recovery action", lambda: _get_field_values(self.handle, values)) is None:
            return None
        (answer,) = values
        member = MEMBERS.get(answer.valueType)
        if answer.nvmlReturn != pynvml.NVML_SUCCESS or member is None:
            return None
        return RESETS.get(getattr(answer.value, member))


def _get_field_values(handle: Any, values: Any) -> bool:
    # pynvml's own wrapper makes a new array at each call; ours is kept for the life of the handle.
    function = pynvml._nvmlGetFunctionPointer("nvmlDeviceGetFieldValues")
    pynvml._nvmlCheckReturn(function(handle, ctypes.c_int32(len(values)), ctypes.byref(values)))
    return True


class Nvml:
    """All GPUs of this node. Not safe for use by two threads, but for wait_for_events."""

    def __init__(self) -> None:
        self.devices: list[Device] = []
        self._event_set: Any = None
        self._open = False

    def open(self) -> None:
        """Start NVML and find the GPUs.

        Raises:
            DriverGone: there is no NVIDIA driver, or it cannot be used now.
        """
        try:
            pynvml.nvmlInit()
            self._open = True
            devices = [self._device(index) for index in range(pynvml.nvmlDeviceGetCount())]
        except pynvml.NVMLError as error:
            self.close()
            raise DriverGone(str(error)) from error
        self.devices = [device for device in devices if device is not None]
        self._register_events()

    def close(self) -> None:
        """Stop NVML; handles are void afterwards."""
        if self._event_set is not None:
            self._quietly(pynvml.nvmlEventSetFree, self._event_set)
            self._event_set = None
        if self._open:
            self._quietly(pynvml.nvmlShutdown)
            self._open = False
        self.devices = []

    @property
    def is_open(self) -> bool:
        """Whether NVML was started and not closed."""
        return self._open

    def read(self) -> tuple[list[GpuReading], list[Device]]:
        """Every GPU once, and those that were lost by this very reading.

        Raises:
            DriverGone: the driver went away.
        """
        readings, lost = [], []
        for device in self.devices:
            if device.lost:
                continue
            try:
                readings.append(_reading(device))
            except GpuLost:
                device.lost = True
                lost.append(device)
        return readings, lost

    def health(self, device: Device, time: datetime) -> GpuHealth:
        """The slow readings of one GPU.

        Raises:
            DriverGone: the driver went away.
            GpuLost: the GPU went away.
        """
        corrected, uncorrected = (
            pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED,
            pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
        )
        ecc = pynvml.nvmlDeviceGetTotalEccErrors
        rows = device.ask(pynvml.nvmlDeviceGetRemappedRows) or (None, None, None, None)
        retired = [device.ask(pynvml.nvmlDeviceGetRetiredPages, cause) for cause in (0, 1)]
        pending = device.ask(pynvml.nvmlDeviceGetRetiredPagesPendingStatus)
        state = device.ask(pynvml.nvmlDeviceGetPerformanceState)
        return GpuHealth(
            gpu_uuid=device.uuid,
            time=time,
            ecc_volatile_corrected=device.ask(ecc, corrected, pynvml.NVML_VOLATILE_ECC),
            ecc_volatile_uncorrected=device.ask(ecc, uncorrected, pynvml.NVML_VOLATILE_ECC),
            ecc_aggregate_corrected=device.ask(ecc, corrected, pynvml.NVML_AGGREGATE_ECC),
            ecc_aggregate_uncorrected=device.ask(ecc, uncorrected, pynvml.NVML_AGGREGATE_ECC),
            rows_remapped_corrected=rows[0],
            rows_remapped_uncorrected=rows[1],
            row_remap_pending=None if rows[2] is None else bool(rows[2]),
            row_remap_failed=None if rows[3] is None else bool(rows[3]),
            pages_retired=sum(len(pages) for pages in retired if pages is not None)
            if any(pages is not None for pages in retired)
            else None,
            page_retirement_pending=None if pending is None else bool(pending),
            pcie_replays=device.ask(pynvml.nvmlDeviceGetPcieReplayCounter),
            performance_state=state if state is not None and 0 <= state <= 15 else None,
            processes=_processes(device),
        )

    def inventory(self) -> tuple[Gpu, ...]:
        """What the GPUs are, those included that are lost but were known.

        Raises:
            DriverGone: the driver went away.
        """
        found = []
        for device in self.devices:
            try:
                found.append(_describe(device))
            except GpuLost:
                device.lost = True
        return tuple(found)

    def versions(self) -> dict[str, str | None]:
        """driver_version, cuda_version and nvml_version, as in records.Inventory."""

        def ask(call: Callable[[], Any]) -> Any:
            try:
                return call()
            except pynvml.NVMLError:
                return None

        cuda = ask(pynvml.nvmlSystemGetCudaDriverVersion)
        return {
            "driver_version": ask(pynvml.nvmlSystemGetDriverVersion),
            "nvml_version": ask(pynvml.nvmlSystemGetNVMLVersion),
            "cuda_version": f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else None,
        }

    def count(self) -> int:
        """How many GPUs the driver has now.

        Raises:
            DriverGone: the driver went away.
        """
        try:
            return int(pynvml.nvmlDeviceGetCount())
        except pynvml.NVMLError as error:
            raise DriverGone(str(error)) from error

    def wait_for_events(self, timeout_ms: int) -> tuple[str | None, int, int] | None:
        """The next event as (GPU UUID, event type, data), or None after the timeout. May run in its own thread.

        Raises:
            DriverGone: the driver went away, or no GPU has events.
        """
        if self._event_set is None:
            raise DriverGone("no GPU of this node reports events")
        try:
            event = pynvml.nvmlEventSetWait_v2(self._event_set, timeout_ms)
        except pynvml.NVMLError as error:
            if error.value == pynvml.NVML_ERROR_TIMEOUT:
                return None
            raise DriverGone(str(error)) from error
        address = ctypes.cast(event.device, ctypes.c_void_p).value
        uuid = next(
            (it.uuid for it in self.devices if ctypes.cast(it.handle, ctypes.c_void_p).value == address),
            None,
        )
        return uuid, int(event.eventType), int(event.eventData)

    @property
    def has_events(self) -> bool:
        """Whether some GPU reports events."""
        return self._event_set is not None

    def _device(self, index: int) -> Device | None:
        """A GPU by its index; None where it is there but lost."""
        try:
            device = Device(pynvml.nvmlDeviceGetHandleByIndex(index), index)
            device.uuid = device.ask(pynvml.nvmlDeviceGetUUID) or ""
        except pynvml.NVMLError as error:
            if error.value in DRIVER_GONE:
                raise
            log.warning("GPU %d cannot be opened: %s", index, error)
            return None
        except GpuLost as error:
            log.warning("GPU %d does not answer: %s", index, error)
            return None
        except DriverGone as error:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED) from error
        return device if device.uuid else None

    def _register_events(self) -> None:
        try:
            event_set = pynvml.nvmlEventSetCreate()
        except pynvml.NVMLError as error:
            log.warning("NVML has no events here, XIDs will not be seen: %s", error)
            return
        registered = False
        for device in self.devices:
            try:
                supported = pynvml.nvmlDeviceGetSupportedEventTypes(device.handle)
                wanted = supported & (
                    pynvml.nvmlEventTypeXidCriticalError
                    | pynvml.nvmlEventTypeDoubleBitEccError
                    | pynvml.nvmlEventTypeGpuUnavailableError
                    | pynvml.nvmlEventTypeGpuRecoveryAction
                )
                if wanted:
                    pynvml.nvmlDeviceRegisterEvents(device.handle, wanted, event_set)
                    registered = True
            except pynvml.NVMLError as error:
                log.warning("GPU %d has no events, its XIDs will not be seen: %s", device.index, error)
        if registered:
            self._event_set = event_set
        else:
            self._quietly(pynvml.nvmlEventSetFree, event_set)

    @staticmethod
    def _quietly(call: Callable[..., object], *arguments: object) -> None:
        try:
            call(*arguments)
        except pynvml.NVMLError as error:
            log.debug("%s: %s", call.__name__, error)


class NoGpus(Nvml):
    """In place of this machine's GPUs, where what is read beside them is simulated."""

    def open(self) -> None:
        """Find none.

        Raises:
            DriverGone: always.
        """
        raise DriverGone("what this agent reads is simulated")


def describe_event(uuid: str | None, kind: int, data: int, time: datetime) -> Event:
    """An NVML event as a record. Severities are those of docs/events.md."""
    if kind == pynvml.nvmlEventTypeXidCriticalError:
        if data in FATAL_XIDS | RESET_XIDS | NVLINK5_XIDS:
            severity = Severity.CRITICAL
        else:
            severity = Severity.INFO if data == 63 else Severity.WARNING
        name = XID_NAMES.get(data, "see NVIDIA's list of XID errors")
        return Event(
            time=time,
            kind="xid",
            severity=severity,
            code=data,
            gpu_uuid=uuid,
            message=f"XID {data}: {name}",
        )
    kinds = {
        pynvml.nvmlEventTypeDoubleBitEccError: ("ecc_double_bit", "Double-bit ECC error"),
        pynvml.nvmlEventTypeGpuUnavailableError: (
            "gpu_unavailable",
            "The driver reports the GPU as unavailable",
        ),
        pynvml.nvmlEventTypeGpuRecoveryAction: (
            "gpu_recovery_action",
            "The GPU asks for a recovery action",
        ),
    }
    name, message = kinds.get(kind, ("nvml_event", f"NVML event of type {kind:#x}"))
    return Event(time=time, kind=name, severity=Severity.CRITICAL, gpu_uuid=uuid, message=message)


def _reading(device: Device) -> GpuReading:
    fields = device.fields(FAST_FIELDS)
    ask = device.ask
    energy = fields.get(ENERGY)
    if energy is None:
        energy = ask(pynvml.nvmlDeviceGetTotalEnergyConsumption)
    average, instant = fields.get(POWER_AVERAGE), fields.get(POWER_INSTANT)
    # Older drivers have no power fields; this call is the 1 s average from Ampere on, but for A100.
    power = average if average is not None else ask(pynvml.nvmlDeviceGetPowerUsage)
    if power is None:
        power = fields.get(MODULE_AVERAGE)
    utilisation = ask(pynvml.nvmlDeviceGetUtilizationRates)
    temperature = ask(pynvml.nvmlDeviceGetTemperatureV, pynvml.NVML_TEMPERATURE_GPU)
    if temperature is None:
        temperature = ask(pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU)
    memory = ask(pynvml.nvmlDeviceGetMemoryInfo)
    reasons = ask(pynvml.nvmlDeviceGetCurrentClocksEventReasons)
    if reasons is None:
        reasons = ask(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons)
    pcie_tx, pcie_rx = fields.get(PCIE_TX), fields.get(PCIE_RX)
    return GpuReading(
        uuid=device.uuid,
        energy_counter_mj=_within(energy, 1, 2**62),
        power_mw=_within(power, 0, 10_000_000),
        power_instant_mw=_within(instant, 0, 10_000_000),
        power_limit_mw=_within(ask(pynvml.nvmlDeviceGetEnforcedPowerLimit), 1, 10_000_000),
        gpu_util_pct=None if utilisation is None else _within(utilisation.gpu, 0, 100),
        mem_util_pct=None if utilisation is None else _within(utilisation.memory, 0, 100),
        gpu_temp_c=_within(temperature, -50, 250),
        # 0 is what boards without a memory sensor say.
        mem_temp_c=_within(fields.get(MEMORY_TEMP), 1, 250),
        sm_clock_mhz=_within(ask(pynvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_SM), 0, 32_767),
        mem_clock_mhz=_within(ask(pynvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_MEM), 0, 32_767),
        mem_used_mib=None if memory is None else _within(memory.used // BYTES_PER_MIB, 0, 2**31 - 1),
        clock_event_reasons=_within(reasons, 0, 2**62),
        fan_pct=_within(ask(pynvml.nvmlDeviceGetFanSpeed), 0, 200),
        pcie_tx_kib=None if pcie_tx is None else pcie_tx // BYTES_PER_KIB,
        pcie_rx_kib=None if pcie_rx is None else pcie_rx // BYTES_PER_KIB,
        nvlink_tx_kib=fields.get(NVLINK_TX),
        nvlink_rx_kib=fields.get(NVLINK_RX),
    )


def _within(value: int | None, lower: int, upper: int) -> int | None:
    """The value, or None for what a sensor cannot mean: drivers let "blank" values such as 2^63 - 14 through."""
    return value if value is not None and lower <= value <= upper else None


def _processes(device: Device) -> tuple[Process, ...] | None:
    lists = [
        device.ask(pynvml.nvmlDeviceGetComputeRunningProcesses),
        device.ask(pynvml.nvmlDeviceGetGraphicsRunningProcesses),
    ]
    if all(found is None for found in lists):
        return None
    processes = {}
    for entry in (entry for found in lists if found is not None for entry in found):
        used = entry.usedGpuMemory
        processes[entry.pid] = Process(
            pid=entry.pid,
            name=_process_name(entry.pid),
            mem_used_mib=None if used is None else _within(used // BYTES_PER_MIB, 0, 2**31 - 1),
        )
    return tuple(processes[pid] for pid in sorted(processes))[:1_000]


def _process_name(pid: int) -> str | None:
    try:
        name = pynvml.nvmlSystemGetProcessName(pid)
    except (pynvml.NVMLError, UnicodeDecodeError):
        return None
    # Arguments can hold secrets: the program's own name is enough.
    return str(name).split(" ", 1)[0].rpartition("/")[2][:200] or None


def _describe(device: Device) -> Gpu:
    ask = device.ask
    pci = ask(pynvml.nvmlDeviceGetPciInfo)
    memory = ask(pynvml.nvmlDeviceGetMemoryInfo)
    limits = ask(pynvml.nvmlDeviceGetPowerManagementLimitConstraints) or (None, None)
    fields = device.latest or device.fields(FAST_FIELDS)
    gpu_power = POWER_AVERAGE in fields or ask(pynvml.nvmlDeviceGetPowerUsage) is not None
    mig = ask(pynvml.nvmlDeviceGetMigMode)
    return Gpu(
        uuid=device.uuid,
        index=device.index,
        model=ask(pynvml.nvmlDeviceGetName) or "unknown",
        serial=ask(pynvml.nvmlDeviceGetSerial) or None,
        pci_bus_id=None if pci is None else str(pci.busId),
        vbios_version=ask(pynvml.nvmlDeviceGetVbiosVersion) or None,
        mem_total_mib=None if memory is None else memory.total // BYTES_PER_MIB,
        power_limit_mw=ask(pynvml.nvmlDeviceGetEnforcedPowerLimit),
        power_limit_default_mw=ask(pynvml.nvmlDeviceGetPowerManagementDefaultLimit),
        power_limit_min_mw=limits[0],
        power_limit_max_mw=limits[1],
        temp_slowdown_c=ask(pynvml.nvmlDeviceGetTemperatureThreshold, pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN),
        temp_shutdown_c=ask(pynvml.nvmlDeviceGetTemperatureThreshold, pynvml.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN),
        energy_counter=ENERGY in fields or ask(pynvml.nvmlDeviceGetTotalEnergyConsumption) is not None,
        power_scope="gpu" if gpu_power else "module" if MODULE_AVERAGE in fields else None,
        mig_enabled=None if mig is None else mig[0] == pynvml.NVML_DEVICE_MIG_ENABLE,
        mig_instances=_mig_instances(device) if mig is not None and mig[0] else (),
    )


def _mig_instances(device: Device) -> tuple[MigInstance, ...]:
    instances = []
    for index in range(device.ask(pynvml.nvmlDeviceGetMaxMigDeviceCount) or 0):
        try:
            part = Device(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(device.handle, index), device.index)
        except pynvml.NVMLError:
            continue  # a free place
        memory = part.ask(pynvml.nvmlDeviceGetMemoryInfo)
        instances.append(
            MigInstance(
                uuid=part.ask(pynvml.nvmlDeviceGetUUID) or f"MIG-{device.uuid}-{index}",
                gpu_instance_id=part.ask(pynvml.nvmlDeviceGetGpuInstanceId) or 0,
                compute_instance_id=part.ask(pynvml.nvmlDeviceGetComputeInstanceId),
                profile=part.ask(pynvml.nvmlDeviceGetName) or None,
                mem_total_mib=None if memory is None else memory.total // BYTES_PER_MIB,
            )
        )
    return tuple(instances)
