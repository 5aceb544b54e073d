/* A stand-in for libnvidia-ml.so.1: what a board measures, counts and reports about itself.
 *
 * Temperature, clocks, utilisation and traffic are made of the power function, so that a picture
 * of the stand-in looks like one of a real board; only power and energy are meant as truth. */
#define _GNU_SOURCE
#include "nvml_standin.h"

#include <limits.h>
#include <string.h>
#include <time.h>

enum {
    REASON_IDLE = 0x1, REASON_POWER_CAP = 0x4, REASON_SYNC_BOOST = 0x10,
    REASON_SW_THERMAL = 0x20, REASON_HW_THERMAL = 0x40, REASON_POWER_BRAKE = 0x80,
    REASON_BOARD_LIMIT = 0x200, REASON_RELIABILITY = 0x400,
    ARCH_AMPERE = 7
};

static int64_t clamp(int64_t value, int64_t low, int64_t high)
{
    return value < low ? low : value > high ? high : value;
}

static bool in_force(const Context *c, const Action *a)
{
    return (a->gpu == c->index || a->gpu < 0) && a->at_us <= c->now_us && c->now_us < a->end_us;
}

/* nvmlDeviceGetPowerUsage: 1 s mean, or the sensor's own reading on GA100. */
static int64_t power_usage_mw(const Context *c)
{
    return c->gpu->average ? gpu_average_mw(c->gpu, c->now_us) : gpu_instant_mw(c->gpu, c->now_us);
}

static int64_t utilisation_percent(const Context *c)
{
    const Gpu *g = c->gpu;
    int64_t over = gpu_average_mw(g, c->now_us) - g->idle_mw, range = g->limit_mw - g->idle_mw;
    if (over <= 0 || range <= 0) return 0;
    return clamp((100 * over + range / 2) / range, 1, 100);
}

/* Boards warm up and cool down over some 20 s. */
static int64_t temperature_c(const Context *c)
{
    const Gpu *g = c->gpu;
    for (int i = c->s->kind_count[ACT_TEMP] - 1; i >= 0; i--)
        if (in_force(c, c->s->of_kind[ACT_TEMP][i])) return c->s->of_kind[ACT_TEMP][i]->n[0];
    int64_t mean = gpu_mean_mw(g, c->now_us - 20000000, c->now_us);
    return g->ambient_c + (g->limit_mw > 0 ? g->rise_c * mean / g->limit_mw : 0);
}

static uint64_t clock_reasons(const Context *c)
{
    uint64_t mask = utilisation_percent(c) == 0 ? REASON_IDLE : 0;
    for (int i = 0; i < c->s->kind_count[ACT_REASONS]; i++)
        if (in_force(c, c->s->of_kind[ACT_REASONS][i]))
            mask |= (uint64_t)c->s->of_kind[ACT_REASONS][i]->n[0];
    return mask;
}

/* Time since the driver was loaded for which a scenario's clock-event reason was set. */
static int64_t reason_ns(const Context *c, int64_t mask)
{
    int64_t covered = gpu_counter_base_us(c->s, c->index, c->now_us), total = 0;
    for (int i = 0; i < c->s->kind_count[ACT_REASONS]; i++) { /* in order of time */
        const Action *a = c->s->of_kind[ACT_REASONS][i];
        if ((a->gpu != c->index && a->gpu >= 0) || !(a->n[0] & mask)) continue;
        int64_t from = a->at_us > covered ? a->at_us : covered;
        int64_t to = a->end_us < c->now_us ? a->end_us : c->now_us;
        if (to <= from) continue;
        total += to - from;
        covered = to;
    }
    return 1000 * total;
}

enum { CLOCK_GRAPHICS, CLOCK_SM, CLOCK_MEM, CLOCK_VIDEO, CLOCK_COUNT };

static int64_t clock_mhz(const Context *c, unsigned type)
{
    const Gpu *g = c->gpu;
    if (type == CLOCK_MEM) return g->max_mem_mhz;
    int64_t mhz = g->max_sm_mhz;
    uint64_t held = REASON_POWER_CAP | REASON_SW_THERMAL | REASON_HW_THERMAL | REASON_POWER_BRAKE;
    uint64_t reasons = clock_reasons(c);
    if (reasons & held) mhz = mhz * 3 / 4;
    else if (reasons & REASON_IDLE) mhz = mhz / 6;
    return type == CLOCK_VIDEO ? mhz * 9 / 10 : mhz;
}

/* Counted errors at one place (-1: anywhere), since the driver was loaded or since ever. */
static int64_t ecc_count(const Context *c, bool uncorrected, bool aggregate, int location)
{
    int64_t base = gpu_counter_base_us(c->s, c->index, c->now_us), total = 0;
    if (aggregate && (location < 0 || location == 2))
        total = uncorrected ? c->gpu->ecc_uncorrected : c->gpu->ecc_corrected;
    for (int i = 0; i < c->s->kind_count[ACT_ECC]; i++) {
        const Action *a = c->s->of_kind[ACT_ECC][i];
        if ((a->gpu != c->index && a->gpu >= 0) || a->at_us > c->now_us) continue;
        if (!aggregate && a->at_us < base) continue;
        if (location < 0 || location == a->n[2]) total += a->n[uncorrected];
    }
    return total;
}

typedef struct {
    int64_t corrected, uncorrected, pending, failure;
} Remapped;

static Remapped remapped(const Context *c)
{
    Remapped r = {0};
    for (int i = 0; i < c->s->kind_count[ACT_REMAP]; i++) {
        const Action *a = c->s->of_kind[ACT_REMAP][i];
        if ((a->gpu != c->index && a->gpu >= 0) || a->at_us > c->now_us) continue;
        r = (Remapped){r.corrected + a->n[0], r.uncorrected + a->n[1], a->n[2], a->n[3]};
    }
    return r;
}

/* nvmlDeviceGpuRecoveryAction as it was last set. */
static int64_t recovery_action(const Context *c)
{
    int64_t action = 0;
    for (int i = 0; i < c->s->kind_count[ACT_RECOVERY]; i++) {
        const Action *a = c->s->of_kind[ACT_RECOVERY][i];
        if ((a->gpu != c->index && a->gpu >= 0) || a->at_us > c->now_us) continue;
        action = a->n[0];
    }
    return action;
}

/* --- power and energy ---------------------------------------------------------------------- */

#define READING(call, expression)                                    \
    API nvmlReturn_t call(nvmlDevice_t device, unsigned *value)      \
    {                                                                \
        DEVICE_CALL(call, device, 0)                                 \
        NEED(value);                                                 \
        *value = (unsigned)(expression);                             \
        return leave(NVML_SUCCESS);                                  \
    }
READING(nvmlDeviceGetPowerUsage, power_usage_mw(&c))
READING(nvmlDeviceGetEnforcedPowerLimit, c.gpu->limit_mw)
READING(nvmlDeviceGetPowerManagementLimit, c.gpu->limit_mw)
READING(nvmlDeviceGetPowerManagementDefaultLimit, c.gpu->default_limit_mw)
READING(nvmlDeviceGetPowerManagementMode, 1)
READING(nvmlDeviceGetPerformanceState, utilisation_percent(&c) || c.gpu->arch >= 9 ? 0 : 8)
READING(nvmlDeviceGetPowerState, utilisation_percent(&c) || c.gpu->arch >= 9 ? 0 : 8)
READING(nvmlDeviceGetPcieReplayCounter, c.gpu->pcie_replays)
READING(nvmlDeviceGetNumFans, c.gpu->fans)

API nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *mj)
{
    DEVICE_CALL(nvmlDeviceGetTotalEnergyConsumption, device, 0)
    NEED(mj);
    int64_t value = gpu_counter_mj(c.s, c.index, c.now_us);
    *mj = (unsigned long long)value;
    journal_energy(&c, value);
    return leave(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device, unsigned *low,
                                                              unsigned *high)
{
    DEVICE_CALL(nvmlDeviceGetPowerManagementLimitConstraints, device, 0)
    NEED(low && high);
    *low = (unsigned)c.gpu->min_limit_mw;
    *high = (unsigned)c.gpu->max_limit_mw;
    return leave(NVML_SUCCESS);
}

/* --- load, heat, clocks -------------------------------------------------------------------- */

typedef struct {
    unsigned gpu, memory;
} nvmlUtilization_t;

API nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *to)
{
    DEVICE_CALL(nvmlDeviceGetUtilizationRates, device, 0)
    NEED(to);
    SUPPORTED_IF(!c.mig); /* with MIG there is no one number for the board */
    int64_t percent = utilisation_percent(&c);
    *to = (nvmlUtilization_t){(unsigned)percent, (unsigned)(percent * 6 / 10)};
    return leave(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, unsigned sensor, unsigned *c_out)
{
    DEVICE_CALL(nvmlDeviceGetTemperature, device, 0)
    NEED(c_out && sensor == 0);
    *c_out = (unsigned)temperature_c(&c);
    return leave(NVML_SUCCESS);
}

typedef struct {
    unsigned version, sensor;
    int celsius;
} nvmlTemperature_v1_t;

API nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_v1_t *to)
{
    DEVICE_CALL(nvmlDeviceGetTemperatureV, device, 0)
    NEED(to);
    if (to->version != (1u << 24 | sizeof *to)) return leave(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    NEED(to->sensor == 0);
    to->celsius = (int)temperature_c(&c);
    return leave(NVML_SUCCESS);
}

typedef struct {
    unsigned version;
    int celsius;
} nvmlMarginTemperature_v1_t;

API nvmlReturn_t nvmlDeviceGetMarginTemperature(nvmlDevice_t device, nvmlMarginTemperature_v1_t *to)
{
    DEVICE_CALL(nvmlDeviceGetMarginTemperature, device, 0)
    NEED(to);
    if (to->version != (1u << 24 | sizeof *to)) return leave(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    to->celsius = (int)(c.gpu->slowdown_c - 2 - temperature_c(&c));
    return leave(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t device, unsigned kind, unsigned *to)
{
    DEVICE_CALL(nvmlDeviceGetTemperatureThreshold, device, 0)
    NEED(to && kind < 8);
    int64_t slowdown = c.gpu->slowdown_c;
    switch (kind) {
    case 0: *to = (unsigned)slowdown + 3; break; /* shutdown */
    case 1: *to = (unsigned)slowdown; break;
    case 2: *to = (unsigned)slowdown + 6; break; /* memory at most */
    case 3: *to = (unsigned)slowdown - 2; break; /* GPU at most */
    default: return leave(NVML_ERROR_NOT_SUPPORTED);
    }
    return leave(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, unsigned type, unsigned *mhz)
{
    DEVICE_CALL(nvmlDeviceGetClockInfo, device, 0)
    NEED(mhz && type < CLOCK_COUNT);
    *mhz = (unsigned)clock_mhz(&c, type);
    return leave(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, unsigned type, unsigned *mhz)
{
    DEVICE_CALL(nvmlDeviceGetMaxClockInfo, device, 0)
    NEED(mhz && type < CLOCK_COUNT);
    int64_t most = type == CLOCK_MEM ? c.gpu->max_mem_mhz : c.gpu->max_sm_mhz;
    *mhz = (unsigned)(type == CLOCK_VIDEO ? most * 9 / 10 : most);
    return leave(NVML_SUCCESS);
}

#define REASONS_CALL(call, expression)                                    \
    API nvmlReturn_t call(nvmlDevice_t device, unsigned long long *mask)  \
    {                                                                     \
        DEVICE_CALL(call, device, 0)                                      \
        NEED(mask);                                                       \
        *mask = expression;                                               \
        return leave(NVML_SUCCESS);                                       \
    }
REASONS_CALL(nvmlDeviceGetCurrentClocksEventReasons, clock_reasons(&c))
REASONS_CALL(nvmlDeviceGetCurrentClocksThrottleReasons, clock_reasons(&c))
REASONS_CALL(nvmlDeviceGetSupportedClocksEventReasons, 0x1ff)
REASONS_CALL(nvmlDeviceGetSupportedClocksThrottleReasons, 0x1ff)

/* The reasons behind the performance policies 0 to 5, of the violation call and fields 74 to 79. */
static const int64_t policy_reasons[] = {REASON_POWER_CAP, REASON_SW_THERMAL | REASON_HW_THERMAL,
                                         REASON_SYNC_BOOST, REASON_BOARD_LIMIT, REASON_IDLE,
                                         REASON_RELIABILITY};

typedef struct {
    unsigned long long reference_us, violation_ns;
} nvmlViolationTime_t;

API nvmlReturn_t nvmlDeviceGetViolationStatus(nvmlDevice_t device, unsigned policy,
                                              nvmlViolationTime_t *to)
{
    DEVICE_CALL(nvmlDeviceGetViolationStatus, device, 0)
    NEED(to && policy < 12);
    SUPPORTED_IF(policy < 6);
    to->reference_us = (unsigned long long)(c.now_us < 0 ? 0 : c.now_us);
    to->violation_ns = (unsigned long long)reason_ns(&c, policy_reasons[policy]);
    return leave(NVML_SUCCESS);
}

static nvmlReturn_t fan_percent(Call call, nvmlDevice_t device, unsigned fan, unsigned *percent)
{
    Context c;
    nvmlReturn_t code = enter_device(call, device, 0, &c);
    if (code != NVML_SUCCESS) return code;
    NEED(percent);
    SUPPORTED_IF(c.gpu->fans > 0);
    NEED(fan < (unsigned)c.gpu->fans);
    *percent = (unsigned)clamp(30 + 2 * (temperature_c(&c) - 50), 30, 100);
    return leave(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetFanSpeed(nvmlDevice_t device, unsigned *percent)
{
    return fan_percent(CALL_nvmlDeviceGetFanSpeed, device, 0, percent);
}

API nvmlReturn_t nvmlDeviceGetFanSpeed_v2(nvmlDevice_t device, unsigned fan, unsigned *percent)
{
    return fan_percent(CALL_nvmlDeviceGetFanSpeed_v2, device, fan, percent);
}

/* --- memory -------------------------------------------------------------------------------- */

typedef struct {
    unsigned long long total, free, used;
} nvmlMemory_t;

typedef struct {
    unsigned version;
    unsigned long long total, reserved, free, used;
} nvmlMemory_v2_t;

static nvmlMemory_v2_t memory(const Context *c)
{
    nvmlMemory_v2_t m = {.version = 2u << 24 | sizeof m};
    m.total = (unsigned long long)(c->instance ? c->instance->mem_mb : c->gpu->mem_mb) << 20;
    m.reserved = c->instance ? 0 : (unsigned long long)c->gpu->mem_reserved_mb << 20;
    for (int i = 0; i < c->s->process_count; i++) {
        const Process *p = &c->s->processes[i];
        if (p->gpu != c->index || c->now_us < p->from_us || c->now_us >= p->to_us) continue;
        if (!c->instance || p->instance == c->instance_index + 1)
            m.used += (unsigned long long)p->mem_bytes;
    }
    if (m.used > m.total - m.reserved) m.used = m.total - m.reserved;
    m.free = m.total - m.reserved - m.used;
    return m;
}

/* The first version knows nothing of reserved memory and counts it as used. */
API nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *to)
{
    DEVICE_CALL(nvmlDeviceGetMemoryInfo, device, ALLOW_MIG)
    NEED(to);
    nvmlMemory_v2_t m = memory(&c);
    *to = (nvmlMemory_t){m.total, m.free, m.used + m.reserved};
    return leave(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *to)
{
    DEVICE_CALL(nvmlDeviceGetMemoryInfo_v2, device, ALLOW_MIG)
    NEED(to);
    if (to->version != (2u << 24 | sizeof *to)) return leave(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    *to = memory(&c);
    return leave(NVML_SUCCESS);
}

/* --- what is going wrong ------------------------------------------------------------------- */

API nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, unsigned *current, unsigned *pending)
{
    DEVICE_CALL(nvmlDeviceGetEccMode, device, 0)
    NEED(current && pending);
    SUPPORTED_IF(c.gpu->ecc);
    *current = *pending = 1;
    return leave(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, unsigned type, unsigned counter,
                                             unsigned long long *count)
{
    DEVICE_CALL(nvmlDeviceGetTotalEccErrors, device, 0)
    NEED(count && type < 2 && counter < 2);
    SUPPORTED_IF(c.gpu->ecc);
    *count = (unsigned long long)ecc_count(&c, type, counter, -1);
    return leave(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetMemoryErrorCounter(nvmlDevice_t device, unsigned type,
                                                 unsigned counter, unsigned location,
                                                 unsigned long long *count)
{
    DEVICE_CALL(nvmlDeviceGetMemoryErrorCounter, device, 0)
    NEED(count && type < 2 && counter < 2 && location < 8);
    SUPPORTED_IF(c.gpu->ecc);
    *count = (unsigned long long)ecc_count(&c, type, counter, (int)location);
    return leave(NVML_SUCCESS);
}

/* Boards before Ampere retire pages; those since remap rows. */
static int64_t retired(const Context *c, int64_t cause, unsigned room, unsigned long long *addresses,
                       unsigned long long *times, bool *pending)
{
    unsigned found = 0;
    for (int i = 0; i < c->s->kind_count[ACT_RETIRE]; i++) {
        const Action *a = c->s->of_kind[ACT_RETIRE][i];
        if ((a->gpu != c->index && a->gpu >= 0) || a->at_us > c->now_us) continue;
        if (pending) *pending = a->n[2] != 0;
        if (a->n[0] != cause) continue;
        if (found < room) {
            addresses[found] = (unsigned long long)a->n[1];
            if (times) times[found] = (unsigned long long)(c->s->epoch_us + a->at_us);
        }
        found++;
    }
    return found;
}

static nvmlReturn_t retired_pages(Call call, nvmlDevice_t device, unsigned cause, unsigned *count,
                                  unsigned long long *addresses, unsigned long long *times)
{
    Context c;
    nvmlReturn_t code = enter_device(call, device, 0, &c);
    if (code != NVML_SUCCESS) return code;
    NEED(count && cause < 2);
    SUPPORTED_IF(c.gpu->ecc && c.gpu->arch < ARCH_AMPERE);
    unsigned room = addresses ? *count : 0;
    *count = (unsigned)retired(&c, cause, room, addresses, times, NULL);
    return leave(*count > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetRetiredPages(nvmlDevice_t device, unsigned cause, unsigned *count,
                                           unsigned long long *addresses)
{
    return retired_pages(CALL_nvmlDeviceGetRetiredPages, device, cause, count, addresses, NULL);
}

API nvmlReturn_t nvmlDeviceGetRetiredPages_v2(nvmlDevice_t device, unsigned cause, unsigned *count,
                                              unsigned long long *addresses,
                                              unsigned long long *times)
{
    return retired_pages(CALL_nvmlDeviceGetRetiredPages_v2, device, cause, count, addresses, times);
}

API nvmlReturn_t nvmlDeviceGetRetiredPagesPendingStatus(nvmlDevice_t device, unsigned *is_pending)
{
    DEVICE_CALL(nvmlDeviceGetRetiredPagesPendingStatus, device, 0)
    NEED(is_pending);
    SUPPORTED_IF(c.gpu->ecc && c.gpu->arch < ARCH_AMPERE);
    bool pending = false;
    retired(&c, -1, 0, NULL, NULL, &pending);
    *is_pending = pending;
    return leave(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned *corrected,
                                           unsigned *uncorrected, unsigned *pending,
                                           unsigned *failure)
{
    DEVICE_CALL(nvmlDeviceGetRemappedRows, device, 0)
    NEED(corrected && uncorrected && pending && failure);
    SUPPORTED_IF(c.gpu->ecc && c.gpu->arch >= ARCH_AMPERE);
    Remapped r = remapped(&c);
    *corrected = (unsigned)r.corrected;
    *uncorrected = (unsigned)r.uncorrected;
    *pending = (unsigned)r.pending;
    *failure = (unsigned)r.failure;
    return leave(NVML_SUCCESS);
}

/* --- links --------------------------------------------------------------------------------- */

API nvmlReturn_t nvmlDeviceGetPcieThroughput(nvmlDevice_t device, unsigned counter, unsigned *kbs)
{
    DEVICE_CALL(nvmlDeviceGetPcieThroughput, device, 0)
    NEED(kbs && counter < 2);
    int64_t mean = gpu_mean_mw(c.gpu, c.now_us - 20000, c.now_us);
    *kbs = (unsigned)(mean * 10 / (counter ? 8 : 7)); /* some 1 GB/s at 700 W */
    return leave(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned link, unsigned *active)
{
    DEVICE_CALL(nvmlDeviceGetNvLinkState, device, 0)
    NEED(active && link < MAX_LINKS);
    SUPPORTED_IF(c.gpu->links > 0);
    NEED(link < (unsigned)c.gpu->links);
    *active = 1;
    return leave(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetNvLinkVersion(nvmlDevice_t device, unsigned link, unsigned *version)
{
    DEVICE_CALL(nvmlDeviceGetNvLinkVersion, device, 0)
    NEED(version && link < MAX_LINKS);
    SUPPORTED_IF(c.gpu->links > 0);
    NEED(link < (unsigned)c.gpu->links);
    *version = (unsigned)c.gpu->link_version;
    return leave(NVML_SUCCESS);
}

/* --- fields -------------------------------------------------------------------------------- */

enum { TYPE_UINT = 1, TYPE_ULL = 3, TYPE_INT = 5 };

typedef struct {
    uint32_t field, scope;
    int64_t timestamp_us, latency_us;
    unsigned type, code;
    union {
        double d;
        unsigned ui;
        unsigned long ul;
        unsigned long long ull;
        long long sll;
        int si;
        unsigned short us;
    } value;
} nvmlFieldValue_t;

static nvmlReturn_t put_uint(nvmlFieldValue_t *f, int64_t value)
{
    f->type = TYPE_UINT;
    f->value.ui = (unsigned)value;
    return NVML_SUCCESS;
}

static nvmlReturn_t put_ull(nvmlFieldValue_t *f, int64_t value)
{
    f->type = TYPE_ULL;
    f->value.ull = (unsigned long long)value;
    return NVML_SUCCESS;
}

static nvmlReturn_t put_int(nvmlFieldValue_t *f, int64_t value)
{
    f->type = TYPE_INT;
    f->value.si = (int)value;
    return NVML_SUCCESS;
}

/* Scopes: 0 GPU, 1 module (a Grace superchip's GPU and CPU), 2 memory. */
static nvmlReturn_t put_power(const Context *c, nvmlFieldValue_t *f, int64_t mw)
{
    if (f->scope > 3) return NVML_ERROR_INVALID_ARGUMENT;
    if (f->scope == 1 && c->gpu->module_mw >= 0) return put_uint(f, mw + c->gpu->module_mw);
    if (f->scope == 2 && c->gpu->memory_percent > 0)
        return put_uint(f, mw * c->gpu->memory_percent / 100);
    return f->scope == 0 ? put_uint(f, mw) : NVML_ERROR_NOT_SUPPORTED;
}

static nvmlReturn_t put_limit(const Context *c, nvmlFieldValue_t *f, int64_t mw)
{
    if (f->scope > 3) return NVML_ERROR_INVALID_ARGUMENT;
    if (f->scope == 1 && c->gpu->module_mw >= 0) return put_uint(f, mw + 300000);
    return f->scope == 0 ? put_uint(f, mw) : NVML_ERROR_NOT_SUPPORTED;
}

/* Made of the energy, so that it only grows: `nj_per` nJ for one of what is counted. */
static nvmlReturn_t put_traffic(const Context *c, nvmlFieldValue_t *f, int64_t nj_per)
{
    int64_t base = gpu_counter_base_us(c->s, c->index, c->now_us);
    i128 nj = gpu_energy_nj(c->gpu, c->now_us) - gpu_energy_nj(c->gpu, base);
    return put_ull(f, div_floor(nj, nj_per));
}

static nvmlReturn_t put_link_traffic(const Context *c, nvmlFieldValue_t *f, int64_t nj_per_kib)
{
    int links = c->gpu->links;
    if (!links) return NVML_ERROR_NOT_SUPPORTED;
    if (f->scope == UINT_MAX) return put_traffic(c, f, nj_per_kib); /* all links together */
    if (f->scope >= (unsigned)links) return NVML_ERROR_INVALID_ARGUMENT;
    return put_traffic(c, f, nj_per_kib * links);
}

/* Fields 3 to 28 as (uncorrected, aggregate, memory location; -1: all). */
static const struct {
    signed char field, uncorrected, aggregate, location;
} ecc_fields[] = {
    {3, 0, 0, -1}, {4, 1, 0, -1}, {5, 0, 1, -1}, {6, 1, 1, -1}, {7, 0, 0, 0},  {8, 1, 0, 0},
    {9, 0, 0, 1},  {10, 1, 0, 1}, {11, 0, 0, 2}, {12, 1, 0, 2}, {13, 0, 0, 3}, {14, 1, 0, 3},
    {15, 0, 0, 4}, {16, 1, 0, 4}, {17, 1, 0, 6}, {18, 0, 1, 0}, {19, 1, 1, 0}, {20, 0, 1, 1},
    {21, 1, 1, 1}, {22, 0, 1, 2}, {23, 1, 1, 2}, {24, 0, 1, 3}, {25, 1, 1, 3}, {26, 0, 1, 4},
    {27, 1, 1, 4}, {28, 1, 1, 6}};

static nvmlReturn_t read_field(Context *c, nvmlFieldValue_t *f)
{
    const Gpu *g = c->gpu;
    if (f->field == 0 || f->field >= FIELD_COUNT) return NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t code = enter_field(c, f->field);
    if (code != NVML_SUCCESS) return code;
    if (f->field >= 3 && f->field <= 28) {
        if (!g->ecc) return NVML_ERROR_NOT_SUPPORTED;
        int i = (int)f->field - 3;
        return put_ull(f, ecc_count(c, ecc_fields[i].uncorrected, ecc_fields[i].aggregate,
                                    ecc_fields[i].location));
    }
    bool rows = g->ecc && g->arch >= ARCH_AMPERE, pages = g->ecc && g->arch < ARCH_AMPERE;
    bool pending = false;
    switch (f->field) {
    case 1: case 2:
        return g->ecc ? put_uint(f, 1) : NVML_ERROR_NOT_SUPPORTED;
    case 29: case 30:
        return pages ? put_ull(f, retired(c, f->field - 29, 0, NULL, NULL, NULL))
                     : NVML_ERROR_NOT_SUPPORTED;
    case 31:
        if (!pages) return NVML_ERROR_NOT_SUPPORTED;
        retired(c, -1, 0, NULL, NULL, &pending);
        return put_uint(f, pending);
    case 74: case 75: case 76: case 77: case 78: case 79:
        return put_ull(f, reason_ns(c, policy_reasons[f->field - 74]));
    case 82:
        return g->memory_temperature ? put_uint(f, temperature_c(c) + 8) : NVML_ERROR_NOT_SUPPORTED;
    case 83: {
        int64_t mj = gpu_counter_mj(c->s, c->index, c->now_us);
        journal_energy(c, mj);
        return put_ull(f, mj);
    }
    case 91:
        return g->links ? put_uint(f, g->links) : NVML_ERROR_NOT_SUPPORTED;
    case 94:
        return put_uint(f, g->pcie_replays);
    case 138: return put_link_traffic(c, f, 7000); /* some 100 GB/s at 700 W */
    case 139: return put_link_traffic(c, f, 7500);
    case 140: return put_link_traffic(c, f, 6500);
    case 141: return put_link_traffic(c, f, 7000);
    case 142: return rows ? put_uint(f, remapped(c).corrected) : NVML_ERROR_NOT_SUPPORTED;
    case 143: return rows ? put_uint(f, remapped(c).uncorrected) : NVML_ERROR_NOT_SUPPORTED;
    case 144: return rows ? put_uint(f, remapped(c).pending) : NVML_ERROR_NOT_SUPPORTED;
    case 145: return rows ? put_uint(f, remapped(c).failure) : NVML_ERROR_NOT_SUPPORTED;
    case 185: return put_power(c, f, gpu_average_mw(g, c->now_us));
    case 186: return put_power(c, f, gpu_instant_mw(g, c->now_us));
    case 187: return put_limit(c, f, g->min_limit_mw);
    case 188: return put_limit(c, f, g->max_limit_mw);
    case 189: return put_limit(c, f, g->default_limit_mw);
    case 190: case 192: return put_limit(c, f, g->limit_mw);
    case 193: return put_int(f, -5);
    case 194: return put_int(f, -2);
    case 195: return put_int(f, 0);
    case 196: return put_int(f, 0);
    case 197: return put_traffic(c, f, 700);
    case 198: return put_traffic(c, f, 800);
    case 230: return put_uint(f, recovery_action(c));
    case 269: return put_ull(f, reason_ns(c, REASON_SW_THERMAL));
    case 270: return put_ull(f, reason_ns(c, REASON_HW_THERMAL));
    case 271: return put_ull(f, reason_ns(c, REASON_POWER_BRAKE));
    default: return NVML_ERROR_NOT_SUPPORTED;
    }
}

/* The call succeeds; what became of each field is told in the field. */
API nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *values)
{
    DEVICE_CALL(nvmlDeviceGetFieldValues, device, 0)
    NEED(count > 0 && values);
    for (int i = 0; i < count; i++) {
        struct timespec before, after;
        clock_gettime(CLOCK_REALTIME, &before);
        values[i].code = read_field(&c, &values[i]);
        clock_gettime(CLOCK_REALTIME, &after);
        values[i].timestamp_us = (int64_t)after.tv_sec * 1000000 + after.tv_nsec / 1000;
        values[i].latency_us = values[i].timestamp_us - (int64_t)before.tv_sec * 1000000 -
                               before.tv_nsec / 1000;
    }
    return leave(NVML_SUCCESS);
}
