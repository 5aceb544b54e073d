/* The scenario behind the stand-in NVML: what the file says, and the physics that follow from it.
 *
 * Everything is integer arithmetic (microseconds, milliwatts, nanojoules = mW * us), so that the
 * Python twin in standin.py computes the same millijoule at every instant. */
#ifndef GIGAWATCH_NVML_SCENARIO_H
#define GIGAWATCH_NVML_SCENARIO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

__extension__ typedef __int128 i128; /* nanojoules of a 1 kW board pass 2^63 after 107 days */

enum { MAX_GPUS = 64, MAX_MIG = 8, MAX_EVENTS = 4096, MAX_LINKS = 36, FIELD_COUNT = 308 };

typedef enum {
    NVML_SUCCESS = 0,
    NVML_ERROR_UNINITIALIZED = 1,
    NVML_ERROR_INVALID_ARGUMENT = 2,
    NVML_ERROR_NOT_SUPPORTED = 3,
    NVML_ERROR_NO_PERMISSION = 4,
    NVML_ERROR_ALREADY_INITIALIZED = 5,
    NVML_ERROR_NOT_FOUND = 6,
    NVML_ERROR_INSUFFICIENT_SIZE = 7,
    NVML_ERROR_INSUFFICIENT_POWER = 8,
    NVML_ERROR_DRIVER_NOT_LOADED = 9,
    NVML_ERROR_TIMEOUT = 10,
    NVML_ERROR_IRQ_ISSUE = 11,
    NVML_ERROR_LIBRARY_NOT_FOUND = 12,
    NVML_ERROR_FUNCTION_NOT_FOUND = 13,
    NVML_ERROR_CORRUPTED_INFOROM = 14,
    NVML_ERROR_GPU_IS_LOST = 15,
    NVML_ERROR_RESET_REQUIRED = 16,
    NVML_ERROR_OPERATING_SYSTEM = 17,
    NVML_ERROR_LIB_RM_VERSION_MISMATCH = 18,
    NVML_ERROR_IN_USE = 19,
    NVML_ERROR_MEMORY = 20,
    NVML_ERROR_NO_DATA = 21,
    NVML_ERROR_VGPU_ECC_NOT_SUPPORTED = 22,
    NVML_ERROR_INSUFFICIENT_RESOURCES = 23,
    NVML_ERROR_FREQ_NOT_SUPPORTED = 24,
    NVML_ERROR_ARGUMENT_VERSION_MISMATCH = 25,
    NVML_ERROR_DEPRECATED = 26,
    NVML_ERROR_NOT_READY = 27,
    NVML_ERROR_GPU_NOT_FOUND = 28,
    NVML_ERROR_INVALID_STATE = 29,
    NVML_ERROR_RESET_TYPE_NOT_SUPPORTED = 30,
    NVML_ERROR_UNKNOWN = 999,
} nvmlReturn_t;

/* The calls a scenario can make slow or failing; the names are the exported symbols. */
#define CALLS(X) \
    X(nvmlInitWithFlags) X(nvmlShutdown) \
    X(nvmlSystemGetDriverVersion) X(nvmlSystemGetNVMLVersion) X(nvmlSystemGetCudaDriverVersion) \
    X(nvmlSystemGetCudaDriverVersion_v2) X(nvmlSystemGetProcessName) \
    X(nvmlDeviceGetCount_v2) X(nvmlDeviceGetHandleByIndex_v2) X(nvmlDeviceGetHandleByUUID) \
    X(nvmlDeviceGetHandleBySerial) X(nvmlDeviceGetHandleByPciBusId_v2) \
    X(nvmlDeviceGetName) X(nvmlDeviceGetUUID) X(nvmlDeviceGetSerial) X(nvmlDeviceGetPciInfo) \
    X(nvmlDeviceGetPciInfo_v3) X(nvmlDeviceGetVbiosVersion) X(nvmlDeviceGetIndex) \
    X(nvmlDeviceGetMinorNumber) X(nvmlDeviceGetBoardPartNumber) X(nvmlDeviceGetArchitecture) \
    X(nvmlDeviceGetCudaComputeCapability) X(nvmlDeviceGetBrand) X(nvmlDeviceGetModuleId) \
    X(nvmlDeviceGetPowerUsage) X(nvmlDeviceGetTotalEnergyConsumption) \
    X(nvmlDeviceGetPowerManagementMode) \
    X(nvmlDeviceGetEnforcedPowerLimit) X(nvmlDeviceGetPowerManagementLimit) \
    X(nvmlDeviceGetPowerManagementLimitConstraints) X(nvmlDeviceGetPowerManagementDefaultLimit) \
    X(nvmlDeviceGetUtilizationRates) X(nvmlDeviceGetTemperature) X(nvmlDeviceGetTemperatureV) \
    X(nvmlDeviceGetTemperatureThreshold) X(nvmlDeviceGetMarginTemperature) \
    X(nvmlDeviceGetClockInfo) X(nvmlDeviceGetMaxClockInfo) \
    X(nvmlDeviceGetMemoryInfo) X(nvmlDeviceGetMemoryInfo_v2) \
    X(nvmlDeviceGetCurrentClocksEventReasons) X(nvmlDeviceGetCurrentClocksThrottleReasons) \
    X(nvmlDeviceGetSupportedClocksEventReasons) X(nvmlDeviceGetSupportedClocksThrottleReasons) \
    X(nvmlDeviceGetViolationStatus) \
    X(nvmlDeviceGetFanSpeed) X(nvmlDeviceGetFanSpeed_v2) X(nvmlDeviceGetNumFans) \
    X(nvmlDeviceGetPerformanceState) X(nvmlDeviceGetPowerState) \
    X(nvmlDeviceGetTotalEccErrors) X(nvmlDeviceGetMemoryErrorCounter) X(nvmlDeviceGetEccMode) \
    X(nvmlDeviceGetRetiredPages) X(nvmlDeviceGetRetiredPages_v2) \
    X(nvmlDeviceGetRetiredPagesPendingStatus) X(nvmlDeviceGetRemappedRows) \
    X(nvmlDeviceGetPcieReplayCounter) X(nvmlDeviceGetPcieThroughput) \
    X(nvmlDeviceGetCurrPcieLinkGeneration) X(nvmlDeviceGetCurrPcieLinkWidth) \
    X(nvmlDeviceGetMaxPcieLinkGeneration) X(nvmlDeviceGetMaxPcieLinkWidth) \
    X(nvmlDeviceGetPersistenceMode) \
    X(nvmlDeviceGetComputeRunningProcesses_v2) X(nvmlDeviceGetComputeRunningProcesses_v3) \
    X(nvmlDeviceGetGraphicsRunningProcesses_v2) X(nvmlDeviceGetGraphicsRunningProcesses_v3) \
    X(nvmlDeviceGetMPSComputeRunningProcesses_v3) \
    X(nvmlDeviceGetMigMode) X(nvmlDeviceGetMaxMigDeviceCount) \
    X(nvmlDeviceGetMigDeviceHandleByIndex) X(nvmlDeviceIsMigDeviceHandle) \
    X(nvmlDeviceGetGpuInstanceId) X(nvmlDeviceGetComputeInstanceId) \
    X(nvmlDeviceGetDeviceHandleFromMigDeviceHandle) X(nvmlDeviceGetAttributes_v2) \
    X(nvmlDeviceGetNvLinkState) X(nvmlDeviceGetNvLinkVersion) \
    X(nvmlDeviceGetSupportedEventTypes) \
    X(nvmlEventSetCreate) X(nvmlDeviceRegisterEvents) X(nvmlEventSetWait_v2) \
    X(nvmlEventSetFree) X(nvmlDeviceGetFieldValues)

typedef enum {
#define X(name) CALL_##name,
    CALLS(X)
#undef X
    CALL_COUNT
} Call;

/* A function of time: linear segments, held at the last value or repeated for ever. */
typedef struct {
    int64_t start_us, length_us, from_mw, to_mw;
    i128 before_nj; /* energy of all earlier segments */
} Segment;

typedef struct {
    Segment *segments;
    int count;
    bool loop;
    int64_t total_us, phase_us;
    i128 total_nj;
} Power;

/* One power function after another: the first from time 0, later ones from `at T power`. */
typedef struct {
    Power power;
    int64_t start_us;
    i128 before_nj;
} Piece;

typedef struct {
    int code;        /* 0: none */
    int64_t slow_us; /* 0: none */
} Override;

typedef struct {
    bool defined;
    char model[96], uuid[96], serial[30], part[80], vbios[32];
    unsigned domain, bus, device, device_id, subsystem_id, minor, module_id;
    int arch, cc_major, cc_minor, brand;
    Piece *pieces;
    int piece_count;
    int64_t idle_mw, limit_mw, default_limit_mw, min_limit_mw, max_limit_mw, module_mw, memory_percent;
    bool average; /* nvmlDeviceGetPowerUsage is the 1 s average (all but GA100) */
    int64_t instant_update_us, instant_window_us;
    int64_t counter_start_mj, counter_period_us, counter_scale_ppm;
    int64_t mem_mb, mem_reserved_mb;
    int64_t ambient_c, rise_c, slowdown_c;
    int64_t max_sm_mhz, max_mem_mhz;
    int fans, links, link_version, mig_max, pcie_gen, pcie_width;
    int64_t pcie_replays;
    bool ecc, persistence, memory_temperature;
    int64_t ecc_corrected, ecc_uncorrected;
    Override calls[CALL_COUNT], fields[FIELD_COUNT];
} Gpu;

typedef struct {
    int gpu, instance; /* instance: GPU instance id, -1 outside MIG */
    unsigned pid;
    char name[256];
    int64_t mem_bytes, from_us, to_us;
    bool graphics;
} Process;

typedef enum {
    ACT_LOST, ACT_BACK, ACT_RESET, ACT_RELOAD, ACT_HANG, ACT_ERROR, ACT_SLOW, ACT_MIG, ACT_EVENT,
    ACT_REASONS, ACT_ECC, ACT_REMAP, ACT_RETIRE, ACT_TEMP, ACT_SPIKE, ACT_POWER, ACT_RECOVERY,
    ACT_COUNT
} ActionKind;

typedef struct {
    char profile[32];
    int slices;
    int64_t mem_mb;
} Instance;

typedef struct {
    ActionKind kind;
    int64_t at_us, end_us; /* end_us: INT64_MAX where no `for=` is given */
    int gpu;               /* -1: the whole driver */
    int ordinal;           /* place in the file: what an event set remembers as delivered */
    uint64_t event_type, event_data;
    int call, field; /* ACT_ERROR, ACT_SLOW: either may be -1; both -1 means every call */
    int code;
    int64_t slow_us;
    int64_t n[4]; /* the kind's numbers, see parse_action() */
    bool mig_on;
    int instance_count;
    Instance instances[MAX_MIG];
    Power power;
} Action;

typedef struct {
    bool has_epoch;
    int64_t epoch_us;
    char journal[1024];
    char driver_version[80], nvml_version[80];
    int cuda_version;
    Override system[CALL_COUNT];
    int gpu_count;
    Gpu gpus[MAX_GPUS];
    Process *processes;
    int process_count;
    Action *actions; /* ordered by time, ties in file order */
    int action_count;
    Action **of_kind[ACT_COUNT]; /* the same, one list a kind */
    int kind_count[ACT_COUNT];
} Scenario;

/* Parse a scenario; NULL, with a message on stderr naming the line, where it is wrong. A last line
 * without newline is still being written when `complete` is false, and is then left out. */
Scenario *scenario_load(const char *path, bool complete);
void scenario_free(Scenario *scenario);

int64_t div_floor(i128 a, i128 b);
i128 gpu_energy_nj(const Gpu *gpu, int64_t t_us);      /* integral of power from 0 to t */
int64_t gpu_mean_mw(const Gpu *gpu, int64_t from_us, int64_t to_us);
int64_t gpu_instant_mw(const Gpu *gpu, int64_t t_us);  /* as the board's sensor samples it */
int64_t gpu_average_mw(const Gpu *gpu, int64_t t_us);  /* over the last second */
int64_t gpu_counter_mj(const Scenario *s, int gpu, int64_t t_us);
int64_t gpu_counter_base_us(const Scenario *s, int gpu, int64_t t_us); /* last reset, 0: none */
const char *call_name(int call);
#endif
