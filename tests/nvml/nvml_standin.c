/* A stand-in for libnvidia-ml.so.1: sessions, handles, MIG devices, processes and events.
 *
 * The machine that runs our tests has no GPU. This library has NVML's real symbols, structs and
 * return codes, so that the agent and pynvml run against it unchanged; what it answers is told by
 * the scenario file named by GIGAWATCH_NVML_SCENARIO (see README.md). */
#define _GNU_SOURCE
#include "nvml_standin.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    MIG_GENERATIONS = 4, /* how many MIG layouts back a stale handle is still told from a new one */
    MAX_SETS = 64,
    CHECK_FILE_US = 50000,
    EVENT_XID = 8,
    SUPPORTED_EVENTS = 0x1 | 0x2 | 0x8 | 0x100,
    CLAMPED_TEXT = 256
};

struct Handle {
    int gpu, instance, generation; /* instance -1: the whole GPU */
};

typedef struct nvmlEventSet {
    bool used;
    uint64_t types[MAX_GPUS];
    int64_t since_us[MAX_GPUS]; /* registered at; earlier events are not for this set */
    unsigned char delivered[MAX_EVENTS / 8];
} *nvmlEventSet_t;

typedef struct {
    nvmlDevice_t device;
    unsigned long long type, data;
    unsigned instance, compute_instance;
} nvmlEventData_t;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Scenario *scenario;
static struct stat seen;       /* the file as it was when last read */
static int64_t checked_us;     /* when we last looked at it (monotonic) */
static unsigned sessions;      /* nvmlInit calls not yet answered by nvmlShutdown */
static int64_t session_us;     /* scenario time at which the first of them was made */
static int64_t first_init_us;  /* the epoch, where the scenario names none */
static int journal = -1;
static char journal_path[1024];
static struct Handle gpu_handles[MAX_GPUS];
static struct Handle mig_handles[MAX_GPUS][MIG_GENERATIONS][MAX_MIG];
static struct nvmlEventSet sets[MAX_SETS];

/* --- time and the scenario file ------------------------------------------------------------ */

static int64_t clock_us(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static int64_t epoch_us(void) { return scenario->has_epoch ? scenario->epoch_us : first_init_us; }

static int64_t scenario_now(void) { return clock_us(CLOCK_REALTIME) - epoch_us(); }

static void sleep_us(int64_t us)
{
    struct timespec t = {us / 1000000, us % 1000000 * 1000};
    while (us > 0 && nanosleep(&t, &t) != 0) {}
}

static void open_journal(void)
{
    const char *path = scenario->journal[0] ? scenario->journal : getenv("GIGAWATCH_NVML_JOURNAL");
    if (!path) path = "";
    if (!strcmp(path, journal_path)) return;
    if (journal >= 0) close(journal);
    snprintf(journal_path, sizeof journal_path, "%s", path);
    journal = *path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644) : -1;
    if (*path && journal < 0) fprintf(stderr, "nvml stand-in: cannot write journal %s\n", path);
}

static bool load(bool complete)
{
    const char *path = getenv("GIGAWATCH_NVML_SCENARIO");
    if (!path) {
        fprintf(stderr, "nvml stand-in: GIGAWATCH_NVML_SCENARIO is not set\n");
        return false;
    }
    struct stat now;
    if (stat(path, &now)) now = (struct stat){0};
    if (scenario && now.st_ino == seen.st_ino && now.st_size == seen.st_size &&
             now.st_mtim.tv_sec == seen.st_mtim.tv_sec &&
             now.st_mtim.tv_nsec == seen.st_mtim.tv_nsec)
        return true;
    Scenario *read = scenario_load(path, complete);
    seen = now; /* a broken file is reported once, not at every look */
    if (!read) return false;
    scenario_free(scenario);
    scenario = read;
    open_journal();
    return true;
}

/* A file that changed for the worse while running leaves the old scenario in force. */
static void look_at_file(void)
{
    int64_t now = clock_us(CLOCK_MONOTONIC);
    if (now - checked_us < CHECK_FILE_US) return;
    checked_us = now;
    load(false);
}

/* --- how every call begins and ends -------------------------------------------------------- */

nvmlReturn_t leave(nvmlReturn_t code)
{
    pthread_mutex_unlock(&lock);
    return code;
}

/* A hung driver holds its lock: calls pile up behind the one that waits here. */
static int64_t wait_out_hangs(void)
{
    for (;;) {
        look_at_file();
        int64_t now = scenario_now(), until = now;
        for (int i = 0; i < scenario->kind_count[ACT_HANG]; i++) {
            const Action *a = scenario->of_kind[ACT_HANG][i];
            if (a->at_us <= now && a->end_us > until) until = a->end_us;
        }
        if (until <= now) return now;
        sleep_us(until - now < CHECK_FILE_US ? until - now : CHECK_FILE_US);
    }
}

static bool overlaps(const Action *a, int64_t from_us, int64_t to_us)
{
    return a->at_us <= to_us && (a->end_us > from_us || a->at_us > from_us);
}

/* A session that saw the driver go never works again: NVML has to be shut down and initialised. */
static nvmlReturn_t driver_state(int64_t now)
{
    for (int i = 0; i < scenario->kind_count[ACT_RELOAD]; i++) {
        const Action *a = scenario->of_kind[ACT_RELOAD][i];
        if (a->at_us <= now && now < a->end_us) return NVML_ERROR_DRIVER_NOT_LOADED;
    }
    for (int i = 0; sessions && i < scenario->kind_count[ACT_RELOAD]; i++)
        if (overlaps(scenario->of_kind[ACT_RELOAD][i], session_us, now))
            return NVML_ERROR_UNINITIALIZED;
    return NVML_SUCCESS;
}

/* Lost from `lost` to `back`, and for the sessions of that time for ever. */
static bool is_lost(int gpu, int64_t now)
{
    for (int i = 0; i < scenario->kind_count[ACT_LOST]; i++) {
        const Action *lost = scenario->of_kind[ACT_LOST][i];
        if ((lost->gpu != gpu && lost->gpu >= 0) || lost->at_us > now) continue;
        int64_t back_us = lost->end_us;
        for (int j = scenario->kind_count[ACT_BACK] - 1; j >= 0; j--) {
            const Action *back = scenario->of_kind[ACT_BACK][j];
            if ((back->gpu == gpu || back->gpu < 0) && back->at_us >= lost->at_us &&
                back->at_us < back_us)
                back_us = back->at_us;
        }
        if (back_us > session_us) return true;
    }
    return false;
}

/* Sleep as the scenario says, then fail as it says. Timed actions go before the gpu line. `every`:
 * actions for all GPUs count too. */
static nvmlReturn_t apply(Override fixed, int gpu, int call, int field, bool every)
{
    int64_t now = scenario_now(), slow_us = fixed.slow_us;
    int code = fixed.code;
    for (int kind = ACT_ERROR; kind <= ACT_SLOW; kind++)
        for (int i = 0; i < scenario->kind_count[kind]; i++) {
            const Action *a = scenario->of_kind[kind][i];
            if (a->at_us > now || now >= a->end_us) continue;
            if (a->gpu < 0 ? !every : a->gpu != gpu) continue;
            if (a->field >= 0 ? a->field != field : field >= 0) continue;
            if (a->call >= 0 && a->call != call) continue;
            if (kind == ACT_SLOW) slow_us = a->slow_us;
            else code = a->code;
        }
    if (slow_us) sleep_us(slow_us);
    return (nvmlReturn_t)code;
}

nvmlReturn_t enter_system(Call call, Context *c)
{
    pthread_mutex_lock(&lock);
    if (!sessions) return leave(NVML_ERROR_UNINITIALIZED);
    *c = (Context){.s = scenario, .index = -1, .now_us = wait_out_hangs()};
    nvmlReturn_t code = driver_state(c->now_us);
    if (code == NVML_SUCCESS) code = apply(scenario->system[call], -1, call, -1, true);
    c->s = scenario;
    c->now_us = scenario_now();
    return code == NVML_SUCCESS ? code : leave(code);
}

static const Action *mig_layout(int gpu, int64_t now)
{
    const Action *latest = NULL;
    for (int i = 0; i < scenario->kind_count[ACT_MIG]; i++) {
        const Action *a = scenario->of_kind[ACT_MIG][i];
        if (a->gpu == gpu && a->at_us <= now) latest = a;
    }
    return latest && latest->mig_on ? latest : NULL;
}

static bool is_ours(const struct Handle *h)
{
    uintptr_t at = (uintptr_t)h;
    uintptr_t gpus = (uintptr_t)gpu_handles, migs = (uintptr_t)mig_handles;
    if (at >= gpus && at < gpus + sizeof gpu_handles) return (at - gpus) % sizeof *h == 0;
    if (at >= migs && at < migs + sizeof mig_handles) return (at - migs) % sizeof *h == 0;
    return false;
}

nvmlReturn_t enter_device(Call call, nvmlDevice_t device, int flags, Context *c)
{
    pthread_mutex_lock(&lock);
    if (!sessions) return leave(NVML_ERROR_UNINITIALIZED);
    int64_t now = wait_out_hangs();
    nvmlReturn_t code = driver_state(now);
    if (code != NVML_SUCCESS) return leave(code);
    if (!is_ours(device) || device->gpu >= scenario->gpu_count)
        return leave(NVML_ERROR_INVALID_ARGUMENT);
    int index = device->gpu;
    if (is_lost(index, now)) return leave(NVML_ERROR_GPU_IS_LOST);
    code = apply(scenario->gpus[index].calls[call], index, call, -1, true);
    *c = (Context){.s = scenario, .gpu = &scenario->gpus[index], .index = index,
                   .now_us = scenario_now()};
    c->mig = mig_layout(index, c->now_us);
    if (code == NVML_SUCCESS && device->instance >= 0) {
        /* Instances are destroyed when MIG is configured anew; so are their handles. */
        if (!c->mig || c->mig->ordinal != device->generation) code = NVML_ERROR_INVALID_ARGUMENT;
        else if (!(flags & ALLOW_MIG)) code = NVML_ERROR_NOT_SUPPORTED;
        else {
            c->instance = &c->mig->instances[device->instance];
            c->instance_index = device->instance;
        }
    }
    return code == NVML_SUCCESS ? code : leave(code);
}

nvmlReturn_t enter_field(Context *c, unsigned field)
{
    nvmlReturn_t code = apply(c->gpu->fields[field], c->index, -1, (int)field, true);
    c->now_us = scenario_now();
    return code;
}

/* Which values were served, for tests that compare what was measured with the truth. */
void journal_energy(const Context *c, int64_t mj)
{
    if (journal < 0) return;
    char line[96];
    int64_t unix_us = c->now_us + epoch_us();
    int n = snprintf(line, sizeof line, "%lld.%06lld %d %lld\n", (long long)(unix_us / 1000000),
                     (long long)(unix_us % 1000000), c->index, (long long)mj);
    if (write(journal, line, (size_t)n) != n) fprintf(stderr, "nvml stand-in: journal is full\n");
}

static nvmlReturn_t put_text(char *to, unsigned size, const char *text)
{
    if (!to) return NVML_ERROR_INVALID_ARGUMENT;
    if (strlen(text) + 1 > size) return NVML_ERROR_INSUFFICIENT_SIZE;
    memcpy(to, text, strlen(text) + 1);
    return NVML_SUCCESS;
}

/* --- the library and the driver ------------------------------------------------------------ */

API nvmlReturn_t nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    pthread_mutex_lock(&lock);
    if (sessions) { /* counts, and does not heal a session that lost its driver */
        if (driver_state(wait_out_hangs()) == NVML_ERROR_DRIVER_NOT_LOADED)
            return leave(NVML_ERROR_DRIVER_NOT_LOADED);
        sessions++;
        return leave(NVML_SUCCESS);
    }
    if (!first_init_us) first_init_us = clock_us(CLOCK_REALTIME);
    checked_us = clock_us(CLOCK_MONOTONIC);
    if (!load(true)) {
        seen = (struct stat){0}; /* read it again next time */
        return leave(NVML_ERROR_UNKNOWN);
    }
    int64_t now = wait_out_hangs();
    nvmlReturn_t code = driver_state(now);
    Call call = CALL_nvmlInitWithFlags;
    if (code == NVML_SUCCESS) code = apply(scenario->system[call], -1, call, -1, true);
    if (code != NVML_SUCCESS) return leave(code);
    sessions = 1;
    session_us = scenario_now();
    for (int i = 0; i < MAX_GPUS; i++) gpu_handles[i] = (struct Handle){i, -1, 0};
    return leave(NVML_SUCCESS);
}

API nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
API nvmlReturn_t nvmlInit(void) { return nvmlInitWithFlags(0); }

/* Always possible, so that a session that lost its driver can be left. */
API nvmlReturn_t nvmlShutdown(void)
{
    pthread_mutex_lock(&lock);
    if (!sessions) return leave(NVML_ERROR_UNINITIALIZED);
    wait_out_hangs();
    if (--sessions == 0) {
        memset(sets, 0, sizeof sets);
        if (journal >= 0) close(journal);
        journal = -1;
        journal_path[0] = 0;
        scenario_free(scenario);
        scenario = NULL;
    }
    return leave(NVML_SUCCESS);
}

API const char *nvmlErrorString(nvmlReturn_t code)
{
    switch (code) {
    case NVML_SUCCESS: return "Success";
    case NVML_ERROR_UNINITIALIZED: return "Uninitialized";
    case NVML_ERROR_INVALID_ARGUMENT: return "Invalid Argument";
    case NVML_ERROR_NOT_SUPPORTED: return "Not Supported";
    case NVML_ERROR_NO_PERMISSION: return "Insufficient Permissions";
    case NVML_ERROR_ALREADY_INITIALIZED: return "Already Initialized";
    case NVML_ERROR_NOT_FOUND: return "Not Found";
    case NVML_ERROR_INSUFFICIENT_SIZE: return "Insufficient Size";
    case NVML_ERROR_INSUFFICIENT_POWER: return "Insufficient External Power";
    case NVML_ERROR_DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case NVML_ERROR_TIMEOUT: return "Timeout";
    case NVML_ERROR_IRQ_ISSUE: return "Interrupt Request Issue";
    case NVML_ERROR_LIBRARY_NOT_FOUND: return "NVML Shared Library Not Found";
    case NVML_ERROR_FUNCTION_NOT_FOUND: return "Function Not Found";
    case NVML_ERROR_CORRUPTED_INFOROM: return "Corrupted infoROM";
    case NVML_ERROR_GPU_IS_LOST: return "GPU is lost";
    case NVML_ERROR_RESET_REQUIRED: return "GPU requires restart";
    case NVML_ERROR_OPERATING_SYSTEM: return "The operating system has blocked the request.";
    case NVML_ERROR_LIB_RM_VERSION_MISMATCH: return "Driver/library version mismatch";
    case NVML_ERROR_IN_USE: return "In use by another client";
    case NVML_ERROR_MEMORY: return "Insufficient Memory";
    case NVML_ERROR_NO_DATA: return "No data";
    case NVML_ERROR_VGPU_ECC_NOT_SUPPORTED: return "Virtual GPU ECC not supported";
    case NVML_ERROR_INSUFFICIENT_RESOURCES: return "Insufficient Resources";
    case NVML_ERROR_FREQ_NOT_SUPPORTED: return "Frequency not supported";
    case NVML_ERROR_ARGUMENT_VERSION_MISMATCH: return "Argument version mismatch";
    case NVML_ERROR_DEPRECATED: return "The requested functionality has been deprecated";
    case NVML_ERROR_NOT_READY: return "The system is not ready for the request";
    case NVML_ERROR_GPU_NOT_FOUND: return "GPU not found";
    case NVML_ERROR_INVALID_STATE: return "Resource not in correct state";
    case NVML_ERROR_RESET_TYPE_NOT_SUPPORTED: return "Reset type not supported";
    case NVML_ERROR_UNKNOWN: break;
    }
    return "Unknown Error";
}

API nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned length)
{
    SYSTEM_CALL(nvmlSystemGetDriverVersion)
    return leave(put_text(version, length, c.s->driver_version));
}

API nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned length)
{
    SYSTEM_CALL(nvmlSystemGetNVMLVersion)
    return leave(put_text(version, length, c.s->nvml_version));
}

API nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version)
{
    SYSTEM_CALL(nvmlSystemGetCudaDriverVersion)
    NEED(version);
    *version = c.s->cuda_version;
    return leave(NVML_SUCCESS);
}

API nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    SYSTEM_CALL(nvmlSystemGetCudaDriverVersion_v2)
    NEED(version);
    *version = c.s->cuda_version;
    return leave(NVML_SUCCESS);
}

API nvmlReturn_t nvmlSystemGetProcessName(unsigned pid, char *name, unsigned length)
{
    SYSTEM_CALL(nvmlSystemGetProcessName)
    NEED(name);
    for (int i = 0; i < c.s->process_count; i++) {
        const Process *p = &c.s->processes[i];
        if (p->pid != pid || c.now_us < p->from_us || c.now_us >= p->to_us) continue;
        if (length) snprintf(name, length, "%s", p->name); /* truncates, as the real call does */
        return leave(NVML_SUCCESS);
    }
    return leave(NVML_ERROR_NOT_FOUND);
}

/* --- handles ------------------------------------------------------------------------------- */

/* A name for the MIG device that depends on nothing but GPU, layout and place (twin: mig_uuid). */
static void mig_uuid(const Context *c, int i, char *to, size_t size)
{
    char text[160];
    snprintf(text, sizeof text, "%s/%s/%d", c->gpu->uuid, c->mig->instances[i].profile, i + 1);
    uint64_t h[2] = {0xcbf29ce484222325u, 0x84222325cbf29ce4u}; /* FNV-1a, twice */
    for (int k = 0; k < 2; k++)
        for (const char *t = text; *t; t++) h[k] = (h[k] ^ (unsigned char)*t) * 0x100000001b3u;
    snprintf(to, size, "MIG-%08x-%04x-%04x-%04x-%012llx", (unsigned)(h[0] >> 32),
             (unsigned)(h[0] >> 16 & 0xffff), (unsigned)(h[0] & 0xffff), (unsigned)(h[1] >> 48),
             (unsigned long long)(h[1] & 0xffffffffffff));
}

static nvmlDevice_t mig_handle(const Context *c, int i)
{
    struct Handle *h = &mig_handles[c->index][c->mig->ordinal % MIG_GENERATIONS][i];
    *h = (struct Handle){c->index, i, c->mig->ordinal};
    return h;
}

static nvmlReturn_t hand_out(Context *c, Call call, int index, nvmlDevice_t *device)
{
    if (is_lost(index, c->now_us)) return leave(NVML_ERROR_GPU_IS_LOST);
    nvmlReturn_t code = apply(scenario->gpus[index].calls[call], index, call, -1, false);
    if (code == NVML_SUCCESS) *device = &gpu_handles[index];
    return leave(code);
}

API nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count)
{
    SYSTEM_CALL(nvmlDeviceGetCount_v2)
    NEED(count);
    *count = (unsigned)c.s->gpu_count;
    return leave(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device)
{
    SYSTEM_CALL(nvmlDeviceGetHandleByIndex_v2)
    NEED(device);
    NEED(index < (unsigned)c.s->gpu_count);
    return hand_out(&c, CALL_nvmlDeviceGetHandleByIndex_v2, (int)index, device);
}

API nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    SYSTEM_CALL(nvmlDeviceGetHandleByUUID)
    NEED(uuid && device);
    for (int i = 0; i < c.s->gpu_count; i++) {
        if (!strcmp(uuid, c.s->gpus[i].uuid))
            return hand_out(&c, CALL_nvmlDeviceGetHandleByUUID, i, device);
        c.index = i;
        c.gpu = &c.s->gpus[i];
        c.mig = mig_layout(i, c.now_us);
        for (int j = 0; c.mig && j < c.mig->instance_count; j++) {
            char name[96];
            mig_uuid(&c, j, name, sizeof name);
            if (strcmp(uuid, name)) continue;
            if (is_lost(i, c.now_us)) return leave(NVML_ERROR_GPU_IS_LOST);
            *device = mig_handle(&c, j);
            return leave(NVML_SUCCESS);
        }
    }
    return leave(NVML_ERROR_NOT_FOUND);
}

API nvmlReturn_t nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice_t *device)
{
    SYSTEM_CALL(nvmlDeviceGetHandleBySerial)
    NEED(serial && device);
    for (int i = 0; i < c.s->gpu_count; i++)
        if (!strcmp(serial, c.s->gpus[i].serial))
            return hand_out(&c, CALL_nvmlDeviceGetHandleBySerial, i, device);
    return leave(NVML_ERROR_NOT_FOUND);
}

API nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvmlDevice_t *device)
{
    SYSTEM_CALL(nvmlDeviceGetHandleByPciBusId_v2)
    NEED(bus_id && device);
    unsigned domain, bus, slot;
    NEED(sscanf(bus_id, "%x:%x:%x", &domain, &bus, &slot) == 3);
    for (int i = 0; i < c.s->gpu_count; i++) {
        const Gpu *g = &c.s->gpus[i];
        if (domain == g->domain && bus == g->bus && slot == g->device)
            return hand_out(&c, CALL_nvmlDeviceGetHandleByPciBusId_v2, i, device);
    }
    return leave(NVML_ERROR_NOT_FOUND);
}

/* --- what a board is ----------------------------------------------------------------------- */

API nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned length)
{
    DEVICE_CALL(nvmlDeviceGetName, device, ALLOW_MIG)
    char text[CLAMPED_TEXT];
    snprintf(text, sizeof text, "%s%s%s", c.gpu->model, c.instance ? " MIG " : "",
             c.instance ? c.instance->profile : "");
    return leave(put_text(name, length, text));
}

API nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned length)
{
    DEVICE_CALL(nvmlDeviceGetUUID, device, ALLOW_MIG)
    if (!c.instance) return leave(put_text(uuid, length, c.gpu->uuid));
    char text[96];
    mig_uuid(&c, c.instance_index, text, sizeof text);
    return leave(put_text(uuid, length, text));
}

#define TEXT_CALL(call, member)                                                 \
    API nvmlReturn_t call(nvmlDevice_t device, char *text, unsigned length)     \
    {                                                                           \
        DEVICE_CALL(call, device, 0)                                            \
        return leave(put_text(text, length, c.gpu->member));                    \
    }
TEXT_CALL(nvmlDeviceGetSerial, serial)
TEXT_CALL(nvmlDeviceGetVbiosVersion, vbios)
TEXT_CALL(nvmlDeviceGetBoardPartNumber, part)

#define NUMBER_CALL(call, expression)                                \
    API nvmlReturn_t call(nvmlDevice_t device, unsigned *number)     \
    {                                                                \
        DEVICE_CALL(call, device, 0)                                 \
        NEED(number);                                                \
        *number = (unsigned)(expression);                            \
        return leave(NVML_SUCCESS);                                  \
    }
NUMBER_CALL(nvmlDeviceGetIndex, c.index)
NUMBER_CALL(nvmlDeviceGetMinorNumber, c.gpu->minor)
NUMBER_CALL(nvmlDeviceGetModuleId, c.gpu->module_id)
NUMBER_CALL(nvmlDeviceGetArchitecture, c.gpu->arch)
NUMBER_CALL(nvmlDeviceGetBrand, c.gpu->brand)
NUMBER_CALL(nvmlDeviceGetPersistenceMode, c.gpu->persistence)
NUMBER_CALL(nvmlDeviceGetCurrPcieLinkGeneration, c.gpu->pcie_gen)
NUMBER_CALL(nvmlDeviceGetCurrPcieLinkWidth, c.gpu->pcie_width)
NUMBER_CALL(nvmlDeviceGetMaxPcieLinkGeneration, c.gpu->pcie_gen)
NUMBER_CALL(nvmlDeviceGetMaxPcieLinkWidth, c.gpu->pcie_width)
NUMBER_CALL(nvmlDeviceGetMaxMigDeviceCount, c.gpu->mig_max)

API nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor)
{
    DEVICE_CALL(nvmlDeviceGetCudaComputeCapability, device, ALLOW_MIG)
    NEED(major && minor);
    *major = c.gpu->cc_major;
    *minor = c.gpu->cc_minor;
    return leave(NVML_SUCCESS);
}

typedef struct {
    char legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
} nvmlPciInfo_t;

static nvmlReturn_t pci_info(Call call, nvmlDevice_t device, nvmlPciInfo_t *pci)
{
    Context c;
    nvmlReturn_t code = enter_device(call, device, 0, &c);
    if (code != NVML_SUCCESS) return code;
    NEED(pci);
    const Gpu *g = c.gpu;
    *pci = (nvmlPciInfo_t){.domain = g->domain, .bus = g->bus, .device = g->device,
                           .device_id = g->device_id, .subsystem_id = g->subsystem_id};
    snprintf(pci->legacy, sizeof pci->legacy, "%04X:%02X:%02X.0", g->domain & 0xffff,
             g->bus & 0xff, g->device & 0xff);
    snprintf(pci->bus_id, sizeof pci->bus_id, "%08X:%02X:%02X.0", g->domain, g->bus, g->device);
    return leave(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetPciInfo(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
    return pci_info(CALL_nvmlDeviceGetPciInfo, device, pci);
}

API nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
    return pci_info(CALL_nvmlDeviceGetPciInfo_v3, device, pci);
}

/* --- MIG ----------------------------------------------------------------------------------- */

API nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned *current, unsigned *pending)
{
    DEVICE_CALL(nvmlDeviceGetMigMode, device, 0)
    NEED(current && pending);
    SUPPORTED_IF(c.gpu->mig_max > 0);
    *current = *pending = c.mig != NULL;
    return leave(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned index,
                                                     nvmlDevice_t *mig)
{
    DEVICE_CALL(nvmlDeviceGetMigDeviceHandleByIndex, device, 0)
    NEED(mig);
    SUPPORTED_IF(c.gpu->mig_max > 0);
    NEED(index < (unsigned)c.gpu->mig_max);
    if (!c.mig || index >= (unsigned)c.mig->instance_count) return leave(NVML_ERROR_NOT_FOUND);
    *mig = mig_handle(&c, (int)index);
    return leave(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned *is_mig)
{
    DEVICE_CALL(nvmlDeviceIsMigDeviceHandle, device, ALLOW_MIG)
    NEED(is_mig);
    *is_mig = c.instance != NULL;
    return leave(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, unsigned *id)
{
    DEVICE_CALL(nvmlDeviceGetGpuInstanceId, device, ALLOW_MIG)
    NEED(id);
    if (!c.instance) return leave(NVML_ERROR_INVALID_ARGUMENT);
    *id = (unsigned)c.instance_index + 1;
    return leave(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, unsigned *id)
{
    DEVICE_CALL(nvmlDeviceGetComputeInstanceId, device, ALLOW_MIG)
    NEED(id);
    if (!c.instance) return leave(NVML_ERROR_INVALID_ARGUMENT);
    *id = 0;
    return leave(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t mig,
                                                              nvmlDevice_t *device)
{
    DEVICE_CALL(nvmlDeviceGetDeviceHandleFromMigDeviceHandle, mig, ALLOW_MIG)
    NEED(device);
    if (!c.instance) return leave(NVML_ERROR_INVALID_ARGUMENT);
    *device = &gpu_handles[c.index];
    return leave(NVML_SUCCESS);
}

typedef struct {
    unsigned multiprocessors, copy_engines, decoders, encoders, jpegs, ofas, gpu_slices,
        compute_slices;
    unsigned long long memory_mb;
} nvmlDeviceAttributes_t;

API nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *to)
{
    DEVICE_CALL(nvmlDeviceGetAttributes_v2, device, ALLOW_MIG)
    NEED(to);
    if (!c.instance) return leave(NVML_ERROR_NOT_SUPPORTED); /* only MIG devices have them */
    unsigned slices = (unsigned)c.instance->slices;
    *to = (nvmlDeviceAttributes_t){
        .multiprocessors = 16 * slices, .copy_engines = slices, .decoders = slices,
        .jpegs = slices, .ofas = slices == 7, .gpu_slices = slices, .compute_slices = slices,
        .memory_mb = (unsigned long long)c.instance->mem_mb};
    return leave(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetAttributes(nvmlDevice_t device, nvmlDeviceAttributes_t *to)
{
    return nvmlDeviceGetAttributes_v2(device, to);
}

/* --- processes ----------------------------------------------------------------------------- */

typedef struct { /* _v2 and _v3 alike */
    unsigned pid;
    unsigned long long used;
    unsigned instance, compute_instance;
} nvmlProcessInfo_t;

static nvmlReturn_t processes(Call call, nvmlDevice_t device, unsigned *count,
                              nvmlProcessInfo_t *to, bool graphics)
{
    Context c;
    nvmlReturn_t code = enter_device(call, device, ALLOW_MIG, &c);
    if (code != NVML_SUCCESS) return code;
    NEED(count);
    unsigned room = to ? *count : 0, found = 0;
    for (int i = 0; i < c.s->process_count; i++) {
        const Process *p = &c.s->processes[i];
        if (p->gpu != c.index || p->graphics != graphics) continue;
        if (c.now_us < p->from_us || c.now_us >= p->to_us) continue;
        if (c.instance && p->instance != c.instance_index + 1) continue;
        bool in_mig = c.mig && p->instance >= 0;
        if (found < room)
            to[found] = (nvmlProcessInfo_t){p->pid, (unsigned long long)p->mem_bytes,
                                            in_mig ? (unsigned)p->instance : 0xffffffffu,
                                            in_mig ? 0 : 0xffffffffu};
        found++;
    }
    *count = found;
    return leave(found > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS);
}

#define PROCESS_CALL(call, graphics)                                                      \
    API nvmlReturn_t call(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_t *to)    \
    {                                                                                     \
        return processes(CALL_##call, device, count, to, graphics);                       \
    }
PROCESS_CALL(nvmlDeviceGetComputeRunningProcesses_v2, false)
PROCESS_CALL(nvmlDeviceGetComputeRunningProcesses_v3, false)
PROCESS_CALL(nvmlDeviceGetGraphicsRunningProcesses_v2, true)
PROCESS_CALL(nvmlDeviceGetGraphicsRunningProcesses_v3, true)

API nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t device, unsigned *count,
                                                            nvmlProcessInfo_t *to)
{
    (void)to;
    DEVICE_CALL(nvmlDeviceGetMPSComputeRunningProcesses_v3, device, ALLOW_MIG)
    NEED(count);
    *count = 0;
    return leave(NVML_SUCCESS);
}

/* --- events -------------------------------------------------------------------------------- */

static bool is_set(nvmlEventSet_t set)
{
    return set >= sets && set < sets + MAX_SETS && set->used;
}

API nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, unsigned long long *types)
{
    DEVICE_CALL(nvmlDeviceGetSupportedEventTypes, device, 0)
    NEED(types);
    *types = SUPPORTED_EVENTS;
    return leave(NVML_SUCCESS);
}

API nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set)
{
    SYSTEM_CALL(nvmlEventSetCreate)
    NEED(set);
    for (int i = 0; i < MAX_SETS; i++)
        if (!sets[i].used) {
            sets[i] = (struct nvmlEventSet){.used = true};
            *set = &sets[i];
            return leave(NVML_SUCCESS);
        }
    return leave(NVML_ERROR_MEMORY);
}

API nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types,
                                          nvmlEventSet_t set)
{
    DEVICE_CALL(nvmlDeviceRegisterEvents, device, 0)
    NEED(is_set(set));
    SUPPORTED_IF(!(types & ~(unsigned long long)SUPPORTED_EVENTS));
    if (!set->types[c.index]) set->since_us[c.index] = c.now_us;
    set->types[c.index] |= types;
    return leave(NVML_SUCCESS);
}

static const Action *next_event(const struct nvmlEventSet *set, int64_t now, int64_t *next_us)
{
    for (int i = 0; i < scenario->action_count; i++) {
        const Action *a = &scenario->actions[i];
        if (!a->event_type || a->gpu < 0 || !(set->types[a->gpu] & a->event_type)) continue;
        if (a->at_us < set->since_us[a->gpu]) continue;
        if (set->delivered[a->ordinal / 8] >> (a->ordinal % 8) & 1) continue;
        if (a->at_us <= now) return a;
        if (a->at_us < *next_us) *next_us = a->at_us;
        break; /* actions are in order of time */
    }
    return NULL;
}

/* Waits without the lock, in short naps: the scenario may change meanwhile. */
API nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned timeout_ms)
{
    int64_t deadline = clock_us(CLOCK_MONOTONIC) + (int64_t)timeout_ms * 1000;
    for (bool first = true;; first = false) {
        Context c = {0};
        if (first) {
            nvmlReturn_t code = enter_system(CALL_nvmlEventSetWait_v2, &c);
            if (code != NVML_SUCCESS) return code;
        } else {
            pthread_mutex_lock(&lock);
            if (!sessions) return leave(NVML_ERROR_UNINITIALIZED);
            look_at_file();
            c.now_us = scenario_now();
            nvmlReturn_t code = driver_state(c.now_us);
            if (code != NVML_SUCCESS) return leave(code);
        }
        NEED(data && is_set(set));
        int64_t next_us = INT64_MAX;
        const Action *event = next_event(set, c.now_us, &next_us);
        if (event) {
            set->delivered[event->ordinal / 8] |= (unsigned char)(1u << (event->ordinal % 8));
            int instance = event->kind == ACT_EVENT ? (int)event->n[0] : -1;
            uint64_t type = event->event_type & set->types[event->gpu];
            *data = (nvmlEventData_t){&gpu_handles[event->gpu], type, event->event_data,
                                      (unsigned)instance, instance < 0 ? 0xffffffffu : 0};
            return leave(NVML_SUCCESS);
        }
        for (int i = 0; i < scenario->gpu_count; i++)
            if (set->types[i] && is_lost(i, c.now_us)) return leave(NVML_ERROR_GPU_IS_LOST);
        int64_t left = deadline - clock_us(CLOCK_MONOTONIC);
        if (left <= 0) return leave(NVML_ERROR_TIMEOUT);
        int64_t nap = next_us == INT64_MAX ? CHECK_FILE_US : next_us - c.now_us;
        leave(NVML_SUCCESS);
        if (nap > CHECK_FILE_US) nap = CHECK_FILE_US;
        sleep_us(nap < left ? nap : left);
    }
}

API nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set)
{
    SYSTEM_CALL(nvmlEventSetFree)
    NEED(is_set(set));
    set->used = false;
    return leave(NVML_SUCCESS);
}
