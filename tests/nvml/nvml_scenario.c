/* Reads the scenario file and answers what a board draws and counts at a given time. */
#define _GNU_SOURCE
#include "nvml_scenario.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_PAIRS = 64, SINE_STEPS = 1440 };

typedef struct {
    char *key, *value;
    bool used;
} Pair;

typedef struct {
    const char *path;
    int line;
    bool failed;
    Pair pairs[MAX_PAIRS];
    int pair_count;
    Scenario *s;
} Parser;

static const char *const call_names[CALL_COUNT] = {
#define X(name) #name,
    CALLS(X)
#undef X
};

const char *call_name(int call) { return call_names[call]; }

static const struct {
    const char *name;
    int code;
} code_names[] = {
    {"UNINITIALIZED", 1}, {"INVALID_ARGUMENT", 2}, {"NOT_SUPPORTED", 3}, {"NO_PERMISSION", 4},
    {"NOT_FOUND", 6}, {"INSUFFICIENT_SIZE", 7}, {"INSUFFICIENT_POWER", 8},
    {"DRIVER_NOT_LOADED", 9}, {"TIMEOUT", 10}, {"IRQ_ISSUE", 11}, {"LIBRARY_NOT_FOUND", 12},
    {"FUNCTION_NOT_FOUND", 13}, {"CORRUPTED_INFOROM", 14}, {"GPU_IS_LOST", 15},
    {"RESET_REQUIRED", 16}, {"OPERATING_SYSTEM", 17}, {"LIB_RM_VERSION_MISMATCH", 18},
    {"IN_USE", 19}, {"MEMORY", 20}, {"NO_DATA", 21}, {"INSUFFICIENT_RESOURCES", 23},
    {"NOT_READY", 27}, {"GPU_NOT_FOUND", 28}, {"INVALID_STATE", 29}, {"UNKNOWN", 999},
};

__attribute__((format(printf, 2, 3))) static void fail(Parser *p, const char *format, ...)
{
    if (p->failed) return; /* the first message is the one that helps */
    p->failed = true;
    va_list args;
    va_start(args, format);
    fprintf(stderr, "nvml stand-in: %s:%d: ", p->path, p->line);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
}

/* --- numbers ------------------------------------------------------------------------------ */

int64_t div_floor(i128 a, i128 b)
{
    i128 q = a / b;
    if ((a % b != 0) && ((a < 0) != (b < 0))) q--;
    return (int64_t)q;
}

static int64_t parse_int(Parser *p, const char *text)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 0);
    if (end == text || *end || errno) fail(p, "'%s' is not a whole number", text);
    return value;
}

/* Decimal seconds to microseconds, digit by digit: a double cannot hold a Unix time to 1 us. */
static int64_t parse_seconds(Parser *p, const char *text)
{
    const char *c = text;
    bool negative = *c == '-';
    if (negative) c++;
    if (!isdigit((unsigned char)*c)) fail(p, "'%s' is not a time in seconds", text);
    int64_t us = 0;
    int digits = 0;
    for (; isdigit((unsigned char)*c); c++) {
        if (++digits > 12) break;
        us = us * 10 + (*c - '0');
    }
    us *= 1000000;
    if (*c == '.') {
        int64_t unit = 100000;
        for (c++; isdigit((unsigned char)*c); c++, unit /= 10) us += unit * (*c - '0');
    }
    if (*c) fail(p, "'%s' is not a time in seconds", text);
    return negative ? -us : us;
}

static int parse_code(Parser *p, const char *text)
{
    for (size_t i = 0; i < sizeof code_names / sizeof *code_names; i++)
        if (!strcmp(text, code_names[i].name)) return code_names[i].code;
    int64_t code = parse_int(p, text);
    if (code < 1 || code > 999) fail(p, "'%s' is not an NVML error code", text);
    return (int)code;
}

/* --- power functions ---------------------------------------------------------------------- */

static i128 segment_nj(const Segment *g, int64_t elapsed_us)
{
    i128 d = elapsed_us;
    return d * g->from_mw +
           div_floor(d * d * (g->to_mw - g->from_mw), (i128)2 * g->length_us);
}

static const Segment *segment_at(const Power *power, int64_t t_us)
{
    int low = 0, high = power->count - 1;
    while (low < high) { /* the last segment which starts at or before t */
        int middle = (low + high + 1) / 2;
        if (power->segments[middle].start_us <= t_us) low = middle;
        else high = middle - 1;
    }
    return &power->segments[low];
}

static i128 power_nj_from_zero(const Power *power, int64_t t_us)
{
    i128 nj = 0;
    if (power->loop) {
        nj = (i128)(t_us / power->total_us) * power->total_nj;
        t_us %= power->total_us;
    } else if (t_us >= power->total_us) {
        int64_t last = power->segments[power->count - 1].to_mw;
        return power->total_nj + (i128)(t_us - power->total_us) * last;
    }
    const Segment *g = segment_at(power, t_us);
    return nj + g->before_nj + segment_nj(g, t_us - g->start_us);
}

static i128 power_nj(const Power *power, int64_t t_us)
{
    return power_nj_from_zero(power, t_us + power->phase_us) -
           power_nj_from_zero(power, power->phase_us);
}

static void power_add(Power *power, int64_t length_us, int64_t from_mw, int64_t to_mw)
{
    if (length_us <= 0) return;
    power->segments = realloc(power->segments, sizeof(Segment) * (size_t)(power->count + 1));
    Segment *g = &power->segments[power->count++];
    *g = (Segment){power->total_us, length_us, from_mw, to_mw, power->total_nj};
    power->total_us += length_us;
    power->total_nj += segment_nj(g, length_us);
}

/* constant:P  square:LOW:HIGH:PERIOD_MS[:DUTY_PERCENT[:PHASE_MS]]  sine:LOW:HIGH:PERIOD_MS[:PHASE_MS]
 * ramp:FROM:TO:DURATION_MS  steps:P@MS,P@MS,..  loop:P@MS,..  idle     (P in mW) */
static Power parse_power(Parser *p, const char *text, int64_t idle_mw)
{
    Power power = {0};
    char kind[16] = "";
    const char *rest = strchr(text, ':');
    size_t length = rest ? (size_t)(rest - text) : strlen(text);
    if (length < sizeof kind) memcpy(kind, text, length);
    rest = rest ? rest + 1 : "";

    if (!strcmp(kind, "steps") || !strcmp(kind, "loop")) {
        power.loop = kind[0] == 'l';
        char *copy = strdup(rest), *save = NULL;
        for (char *item = strtok_r(copy, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
            char *at = strchr(item, '@');
            if (!at) {
                fail(p, "'%s' is not MILLIWATTS@MILLISECONDS", item);
                break;
            }
            *at = 0;
            int64_t mw = parse_int(p, item), ms = parse_int(p, at + 1);
            if (ms <= 0) fail(p, "a step of %lld ms", (long long)ms);
            power_add(&power, 1000 * ms, mw, mw);
        }
        free(copy);
    } else {
        int64_t n[5] = {0};
        int count = 0;
        char *copy = strdup(rest), *save = NULL;
        for (char *item = strtok_r(copy, ":", &save); item && count < 5;
             item = strtok_r(NULL, ":", &save))
            n[count++] = parse_int(p, item);
        free(copy);
        if (!strcmp(kind, "constant") && count == 1) {
            power_add(&power, 1000000, n[0], n[0]);
        } else if (!strcmp(kind, "idle") && count == 0) {
            power_add(&power, 1000000, idle_mw, idle_mw);
        } else if (!strcmp(kind, "square") && count >= 3) {
            int64_t duty = count > 3 ? n[3] : 50, period = 1000 * n[2];
            if (duty < 0 || duty > 100) fail(p, "a duty of %lld %%", (long long)duty);
            int64_t high = period * duty / 100;
            power.loop = true;
            power.phase_us = 1000 * n[4];
            power_add(&power, high, n[1], n[1]);
            power_add(&power, period - high, n[0], n[0]);
        } else if (!strcmp(kind, "sine") && (count == 3 || count == 4) && n[2] > 0) {
            /* A staircase of whole milliwatts: its integral is exact, a cosine's is not. */
            int64_t period = 1000 * n[2];
            power.loop = true;
            power.phase_us = 1000 * n[3];
            for (int64_t k = 0; k < SINE_STEPS; k++) {
                int64_t from = period * k / SINE_STEPS, to = period * (k + 1) / SINE_STEPS;
                double wave = 0.5 + 0.5 * sin(2.0 * 3.14159265358979323846 * (double)k / SINE_STEPS);
                int64_t mw = n[0] + (int64_t)floor((double)(n[1] - n[0]) * wave + 0.5);
                power_add(&power, to - from, mw, mw);
            }
        } else if (!strcmp(kind, "ramp") && count == 3) {
            power_add(&power, 1000 * n[2], n[0], n[1]);
        } else {
            fail(p, "'%s' is not a power function", text);
        }
    }
    if (!power.count && !p->failed) fail(p, "power function '%s' has no duration", text);
    if (power.phase_us < 0) fail(p, "power function '%s' has a negative phase", text);
    for (int i = 0; i < power.count; i++)
        if (power.segments[i].from_mw < 0 || power.segments[i].to_mw < 0)
            fail(p, "power function '%s' goes below zero", text);
    return power;
}

i128 gpu_energy_nj(const Gpu *gpu, int64_t t_us)
{
    if (t_us <= 0) return 0;
    int i = gpu->piece_count - 1;
    while (i > 0 && gpu->pieces[i].start_us > t_us) i--;
    const Piece *piece = &gpu->pieces[i];
    return piece->before_nj + power_nj(&piece->power, t_us - piece->start_us);
}

/* Mean over an interval that is cut at time 0; the power of the first microsecond if nothing is
 * left of it. */
int64_t gpu_mean_mw(const Gpu *gpu, int64_t from_us, int64_t to_us)
{
    if (from_us < 0) from_us = 0;
    if (to_us <= from_us) to_us = from_us + 1;
    return div_floor(gpu_energy_nj(gpu, to_us) - gpu_energy_nj(gpu, from_us), to_us - from_us);
}

static int64_t step_down(int64_t t_us, int64_t step_us)
{
    return t_us < 0 || step_us <= 0 ? t_us : t_us - t_us % step_us;
}

/* A100 and H100 look at 25 ms of every 100 ms, so a reading can miss most of what happens. */
int64_t gpu_instant_mw(const Gpu *gpu, int64_t t_us)
{
    int64_t at = step_down(t_us, gpu->instant_update_us);
    return gpu_mean_mw(gpu, at - gpu->instant_window_us, at);
}

int64_t gpu_average_mw(const Gpu *gpu, int64_t t_us)
{
    int64_t at = step_down(t_us, gpu->instant_update_us);
    return gpu_mean_mw(gpu, at - 1000000, at);
}

/* The counter starts again when the driver is loaded or the GPU is reset. */
int64_t gpu_counter_base_us(const Scenario *s, int gpu, int64_t t_us)
{
    int64_t base = 0;
    for (int i = 0; i < s->kind_count[ACT_RELOAD]; i++) {
        int64_t at = s->of_kind[ACT_RELOAD][i]->end_us;
        if (at <= t_us && at > base) base = at;
    }
    for (int kind = ACT_BACK; kind <= ACT_RESET; kind++)
        for (int i = 0; i < s->kind_count[kind]; i++) {
            const Action *a = s->of_kind[kind][i];
            if ((a->gpu == gpu || a->gpu < 0) && a->at_us <= t_us && a->at_us > base && !a->n[0])
                base = a->at_us;
        }
    for (int i = 0; i < s->kind_count[ACT_LOST]; i++) { /* `lost for=`: comes back by a reset */
        const Action *a = s->of_kind[ACT_LOST][i];
        if ((a->gpu == gpu || a->gpu < 0) && a->end_us <= t_us && a->end_us > base)
            base = a->end_us;
    }
    return base;
}

int64_t gpu_counter_mj(const Scenario *s, int index, int64_t t_us)
{
    const Gpu *gpu = &s->gpus[index];
    int64_t base = gpu_counter_base_us(s, index, t_us);
    int64_t at = step_down(t_us, gpu->counter_period_us);
    if (at < base) at = base;
    i128 nj = gpu_energy_nj(gpu, at) - gpu_energy_nj(gpu, base);
    int64_t mj = div_floor(nj * gpu->counter_scale_ppm, 1000000000000);
    if (base == 0) mj += gpu->counter_start_mj;
    for (int i = 0; i < s->kind_count[ACT_SPIKE]; i++) {
        const Action *a = s->of_kind[ACT_SPIKE][i];
        if ((a->gpu == index || a->gpu < 0) && a->at_us <= t_us && t_us < a->end_us) mj += a->n[0];
    }
    return mj < 0 ? 0 : mj;
}

/* --- one line ----------------------------------------------------------------------------- */

/* Splits `word key=value key="two words" # comment` in place. */
static void split(Parser *p, char *line)
{
    p->pair_count = 0;
    char *c = line;
    for (;;) {
        while (isspace((unsigned char)*c)) c++;
        if (!*c || *c == '#') return;
        if (p->pair_count == MAX_PAIRS) {
            fail(p, "more than %d words", MAX_PAIRS);
            return;
        }
        Pair *pair = &p->pairs[p->pair_count++];
        *pair = (Pair){.key = c};
        while (*c && *c != '=' && !isspace((unsigned char)*c)) c++;
        if (*c == '=') {
            *c++ = 0;
            if (*c == '"') {
                pair->value = ++c;
                while (*c && *c != '"') c++;
                if (!*c) {
                    fail(p, "quote of '%s' is not closed", pair->key);
                    return;
                }
            } else {
                pair->value = c;
                while (*c && !isspace((unsigned char)*c)) c++;
            }
        }
        if (*c) *c++ = 0;
    }
}

static const char *take(Parser *p, const char *key)
{
    for (int i = 0; i < p->pair_count; i++)
        if (p->pairs[i].value && !strcmp(p->pairs[i].key, key)) {
            p->pairs[i].used = true;
            return p->pairs[i].value;
        }
    return NULL;
}

static const char *need(Parser *p, const char *key)
{
    const char *value = take(p, key);
    if (!value) fail(p, "%s= is missing", key);
    return value ? value : "0";
}

static int64_t take_int(Parser *p, const char *key, int64_t otherwise)
{
    const char *value = take(p, key);
    return value ? parse_int(p, value) : otherwise;
}

static void take_text(Parser *p, const char *key, char *to, size_t size)
{
    const char *value = take(p, key);
    if (!value) return;
    if (strlen(value) >= size) fail(p, "%s= is longer than %zu characters", key, size - 1);
    snprintf(to, size, "%s", value);
}

static void check_all_used(Parser *p, int first)
{
    for (int i = first; i < p->pair_count; i++)
        if (!p->pairs[i].used) fail(p, "unknown word '%s'", p->pairs[i].key);
}

/* Calls by their symbol; a name without _v2, _v3 means every version unless it is itself a symbol. */
static bool call_matches(const char *name, int call)
{
    const char *symbol = call_names[call];
    if (!strcmp(name, "*") || !strcmp(name, symbol)) return true;
    for (int i = 0; i < CALL_COUNT; i++)
        if (!strcmp(name, call_names[i])) return false;
    size_t n = strlen(name);
    return !strncmp(name, symbol, n) && symbol[n] == '_' && symbol[n + 1] == 'v';
}

/* list: call[:number],field:N[:number],... ; what: 'u'nsupported, 'e'rror or 's'low */
static void parse_overrides(Parser *p, const char *list, char what, Override *calls, Override *fields)
{
    if (!list) return;
    char *copy = strdup(list), *save = NULL;
    for (char *item = strtok_r(copy, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
        bool is_field = !strncmp(item, "field:", 6);
        char *name = is_field ? item + 6 : item, *number = strchr(name, ':');
        if (number) *number++ = 0;
        if ((what == 'u') != !number) {
            fail(p, what == 'u' ? "'%s' takes no number" : "'%s' needs a number", item);
            break;
        }
        Override o = {.code = what == 'u' ? NVML_ERROR_NOT_SUPPORTED : 0};
        if (what == 'e') o.code = parse_code(p, number);
        if (what == 's') o.slow_us = 1000 * parse_int(p, number);
        int matched = 0, count = is_field ? FIELD_COUNT : CALL_COUNT;
        int64_t field = is_field && strcmp(name, "*") ? parse_int(p, name) : -1;
        if (is_field && !fields) count = 0;
        for (int i = 0; i < count; i++) {
            if (is_field ? field >= 0 && field != i : !call_matches(name, i)) continue;
            Override *to = is_field ? &fields[i] : &calls[i];
            if (what == 's') to->slow_us = o.slow_us;
            else to->code = o.code;
            matched++;
        }
        if (!matched) fail(p, "no such call or field '%s'", name);
    }
    free(copy);
}

static int parse_gpu_index(Parser *p, const char *text)
{
    int64_t index = parse_int(p, text);
    if (index < 0 || index >= MAX_GPUS) {
        fail(p, "GPU index %s is outside 0..%d", text, MAX_GPUS - 1);
        return 0;
    }
    return (int)index;
}

static void parse_gpu(Parser *p)
{
    if (p->pair_count < 2 || p->pairs[1].value) {
        fail(p, "gpu needs an index");
        return;
    }
    int index = parse_gpu_index(p, p->pairs[1].key);
    if (p->failed) return;
    Gpu *g = &p->s->gpus[index];
    if (g->defined) {
        fail(p, "GPU %d is described twice", index);
        return;
    }
    /* An H100 SXM, unless the line says otherwise. */
    g->defined = true;
    snprintf(g->model, sizeof g->model, "NVIDIA H100 80GB HBM3");
    snprintf(g->uuid, sizeof g->uuid, "GPU-00000000-0000-0000-0000-%012x", index);
    snprintf(g->serial, sizeof g->serial, "16500230%05d", index);
    snprintf(g->part, sizeof g->part, "692-2G520-0200-000");
    snprintf(g->vbios, sizeof g->vbios, "96.00.89.00.01");
    take_text(p, "model", g->model, sizeof g->model);
    take_text(p, "uuid", g->uuid, sizeof g->uuid);
    take_text(p, "serial", g->serial, sizeof g->serial);
    take_text(p, "part", g->part, sizeof g->part);
    take_text(p, "vbios", g->vbios, sizeof g->vbios);

    g->bus = (unsigned)(0x10 + index);
    const char *pci = take(p, "pci");
    if (pci && sscanf(pci, "%x:%x:%x", &g->domain, &g->bus, &g->device) != 3)
        fail(p, "'%s' is not a PCI address like 00000000:1B:00.0", pci);
    g->device_id = (unsigned)take_int(p, "device_id", 0x233010DE);
    g->subsystem_id = (unsigned)take_int(p, "subsystem_id", 0x16C110DE);
    g->minor = (unsigned)take_int(p, "minor", index);
    g->module_id = (unsigned)take_int(p, "module_id", index + 1);
    g->arch = (int)take_int(p, "arch", 9);
    const char *cc = take(p, "cc");
    if (sscanf(cc ? cc : "9.0", "%d.%d", &g->cc_major, &g->cc_minor) != 2)
        fail(p, "'%s' is not a compute capability", cc);
    g->brand = (int)take_int(p, "brand", 14);

    g->idle_mw = take_int(p, "idle_mw", 70000);
    g->limit_mw = take_int(p, "limit_mw", 700000);
    g->default_limit_mw = take_int(p, "default_limit_mw", g->limit_mw);
    g->max_limit_mw = take_int(p, "max_limit_mw", g->default_limit_mw);
    g->min_limit_mw = take_int(p, "min_limit_mw", g->max_limit_mw * 2 / 7);
    g->module_mw = take_int(p, "module_mw", -1);
    g->memory_percent = take_int(p, "memory_percent", 0);
    g->average = take_int(p, "average", 1) != 0;
    g->instant_update_us = 1000 * take_int(p, "instant_update_ms", 100);
    g->instant_window_us = 1000 * take_int(p, "instant_window_ms", 25);
    g->counter_start_mj = take_int(p, "counter_start_mj", 0);
    g->counter_period_us = 1000 * take_int(p, "counter_period_ms", 20);
    g->counter_scale_ppm = take_int(p, "counter_scale_ppm", 1000000);
    const char *power = take(p, "power");
    g->pieces = calloc(1, sizeof(Piece));
    g->piece_count = 1;
    g->pieces[0].power = parse_power(p, power ? power : "idle", g->idle_mw);

    g->mem_mb = take_int(p, "mem_mb", 81559);
    g->mem_reserved_mb = take_int(p, "mem_reserved_mb", 600);
    g->ambient_c = take_int(p, "ambient_c", 28);
    g->rise_c = take_int(p, "rise_c", 42);
    g->slowdown_c = take_int(p, "slowdown_c", 89);
    g->max_sm_mhz = take_int(p, "max_sm_mhz", 1980);
    g->max_mem_mhz = take_int(p, "max_mem_mhz", 2619);
    g->fans = (int)take_int(p, "fans", 0);
    g->links = (int)take_int(p, "links", 18);
    if (g->links < 0 || g->links > MAX_LINKS) fail(p, "links= is outside 0..%d", MAX_LINKS);
    g->link_version = (int)take_int(p, "link_version", 6);
    g->mig_max = (int)take_int(p, "mig_max", 7);
    g->pcie_gen = (int)take_int(p, "pcie_gen", 5);
    g->pcie_width = (int)take_int(p, "pcie_width", 16);
    g->pcie_replays = take_int(p, "pcie_replays", 0);
    g->ecc = take_int(p, "ecc", 1) != 0;
    g->ecc_corrected = take_int(p, "ecc_corrected", 0);
    g->ecc_uncorrected = take_int(p, "ecc_uncorrected", 0);
    g->persistence = take_int(p, "persistence", 1) != 0;
    g->memory_temperature = take_int(p, "memory_temperature", 1) != 0;
    g->calls[CALL_nvmlDeviceGetPcieThroughput].slow_us = 20000; /* it measures for 20 ms */
    parse_overrides(p, take(p, "unsupported"), 'u', g->calls, g->fields);
    parse_overrides(p, take(p, "error"), 'e', g->calls, g->fields);
    parse_overrides(p, take(p, "slow"), 's', g->calls, g->fields);
    check_all_used(p, 2);
}

static void parse_process(Parser *p)
{
    Scenario *s = p->s;
    s->processes = realloc(s->processes, sizeof(Process) * (size_t)(s->process_count + 1));
    Process *q = &s->processes[s->process_count++];
    *q = (Process){.to_us = INT64_MAX};
    q->gpu = parse_gpu_index(p, need(p, "gpu"));
    q->pid = (unsigned)parse_int(p, need(p, "pid"));
    q->instance = (int)take_int(p, "instance", -1);
    take_text(p, "name", q->name, sizeof q->name);
    q->mem_bytes = take_int(p, "mem_mb", 0) << 20;
    const char *from = take(p, "from"), *to = take(p, "to"), *type = take(p, "type");
    if (from) q->from_us = parse_seconds(p, from);
    if (to) q->to_us = parse_seconds(p, to);
    q->graphics = type && !strcmp(type, "graphics");
    if (type && !q->graphics && strcmp(type, "compute")) fail(p, "type=%s", type);
    check_all_used(p, 1);
}

static void parse_driver(Parser *p)
{
    Scenario *s = p->s;
    take_text(p, "version", s->driver_version, sizeof s->driver_version);
    take_text(p, "nvml", s->nvml_version, sizeof s->nvml_version);
    s->cuda_version = (int)take_int(p, "cuda", s->cuda_version);
    parse_overrides(p, take(p, "unsupported"), 'u', s->system, NULL);
    parse_overrides(p, take(p, "error"), 'e', s->system, NULL);
    parse_overrides(p, take(p, "slow"), 's', s->system, NULL);
    check_all_used(p, 1);
}

static void parse_instances(Parser *p, Action *a, const char *text)
{
    a->mig_on = strcmp(text, "off") != 0;
    if (!a->mig_on || !strcmp(text, "none")) return;
    char *copy = strdup(text), *save = NULL;
    for (char *item = strtok_r(copy, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
        int slices = 0, gb = 0, used = 0;
        if (a->instance_count == MAX_MIG || strlen(item) >= sizeof a->instances->profile ||
            sscanf(item, "%dg.%dgb%n", &slices, &gb, &used) != 2 || item[used]) {
            fail(p, "'%s' is not a MIG profile like 1g.10gb (at most %d of them)", item, MAX_MIG);
            break;
        }
        Instance *i = &a->instances[a->instance_count++];
        snprintf(i->profile, sizeof i->profile, "%s", item);
        i->slices = slices;
        i->mem_mb = (int64_t)gb * 1024;
    }
    free(copy);
}

static void parse_error_target(Parser *p, Action *a)
{
    const char *call = need(p, "call");
    a->call = a->field = -1;
    if (!strcmp(call, "*")) return;
    if (!strncmp(call, "field:", 6)) {
        a->field = (int)parse_int(p, call + 6);
        return;
    }
    for (int i = 0; i < CALL_COUNT; i++)
        if (call_matches(call, i)) {
            a->call = i;
            return;
        }
    fail(p, "no such call '%s'", call);
}

/* at SECONDS KIND [gpu=N] [for=SECONDS] ... */
static void parse_action(Parser *p)
{
    static const char *const kinds[ACT_COUNT] = {
        "lost", "back", "reset", "driver_reload", "hang", "error", "slow", "mig", "event",
        "reasons", "ecc", "remap", "retire", "temp", "spike", "power",
        "recovery"};
    if (p->pair_count < 3 || p->pairs[1].value || p->pairs[2].value) {
        fail(p, "expected: at SECONDS KIND key=value ...");
        return;
    }
    Scenario *s = p->s;
    const char *word = p->pairs[2].key;
    Action a = {.gpu = -1, .end_us = INT64_MAX, .kind = ACT_COUNT, .ordinal = s->action_count};
    a.at_us = parse_seconds(p, p->pairs[1].key);
    for (int kind = 0; kind < ACT_COUNT; kind++)
        if (!strcmp(word, kinds[kind])) a.kind = (ActionKind)kind;
    bool xid = !strcmp(word, "xid");
    if (xid) a.kind = ACT_EVENT;
    const char *gpu = take(p, "gpu"), *duration = take(p, "for");
    if (gpu && strcmp(gpu, "*")) a.gpu = parse_gpu_index(p, gpu);
    if (duration) a.end_us = a.at_us + parse_seconds(p, duration);

    switch (a.kind) {
    case ACT_LOST:
        break;
    case ACT_BACK: /* a GPU that was lost has been reset, and counts from 0 */
        a.n[0] = take_int(p, "keep_counter", 0);
        break;
    case ACT_RESET:
        break;
    case ACT_RELOAD:
        if (a.gpu >= 0) fail(p, "a driver is reloaded for all GPUs");
        if (!duration) a.end_us = a.at_us;
        break;
    case ACT_HANG:
        need(p, "for");
        break;
    case ACT_ERROR:
        parse_error_target(p, &a);
        a.code = parse_code(p, need(p, "code"));
        break;
    case ACT_SLOW:
        parse_error_target(p, &a);
        a.slow_us = 1000 * parse_int(p, need(p, "ms"));
        break;
    case ACT_MIG:
        need(p, "gpu");
        parse_instances(p, &a, need(p, "instances"));
        a.event_type = 0x100; /* nvmlEventMigConfigChange */
        break;
    case ACT_EVENT:
        need(p, "gpu");
        a.event_type = xid ? 8 : (uint64_t)parse_int(p, need(p, "type"));
        a.event_data = (uint64_t)(xid ? parse_int(p, need(p, "code")) : take_int(p, "data", 0));
        a.n[0] = take_int(p, "instance", -1);
        break;
    case ACT_REASONS:
        a.n[0] = parse_int(p, need(p, "mask"));
        break;
    case ACT_ECC: { /* n: corrected, uncorrected, memory location */
        static const char *const places[] = {"l1", "l2", "dram", "register", "texture", "shm",
                                             "cbu", "sram"};
        a.n[0] = take_int(p, "corrected", 0);
        a.n[1] = take_int(p, "uncorrected", 0);
        const char *place = take(p, "location");
        a.n[2] = place ? -1 : 2;
        for (int i = 0; place && i < 8; i++)
            if (!strcmp(place, places[i])) a.n[2] = i;
        if (a.n[2] < 0) fail(p, "no such memory location '%s'", place);
        a.event_type = (a.n[0] ? 1u : 0u) | (a.n[1] ? 2u : 0u);
        break;
    }
    case ACT_REMAP: /* n: rows added for corrected, for uncorrected; pending, failure as they are */
        a.n[0] = take_int(p, "corrected", 0);
        a.n[1] = take_int(p, "uncorrected", 0);
        a.n[2] = take_int(p, "pending", 0);
        a.n[3] = take_int(p, "failure", 0);
        break;
    case ACT_RETIRE:
        a.n[0] = take_int(p, "cause", 0);
        a.n[1] = take_int(p, "address", 0x1000 * (s->action_count + 1));
        a.n[2] = take_int(p, "pending", 0);
        break;
    case ACT_TEMP:
        a.n[0] = parse_int(p, need(p, "c"));
        break;
    case ACT_RECOVERY:
        a.n[0] = parse_int(p, need(p, "action"));
        break;
    case ACT_SPIKE:
        a.n[0] = parse_int(p, need(p, "mj"));
        break;
    case ACT_POWER: {
        int index = parse_gpu_index(p, need(p, "gpu"));
        if (!s->gpus[index].defined) fail(p, "describe GPU %d before its power changes", index);
        if (a.at_us <= 0) fail(p, "power changes after time 0; before that use the gpu line");
        if (!p->failed) a.power = parse_power(p, need(p, "power"), s->gpus[index].idle_mw);
        break;
    }
    case ACT_COUNT:
        fail(p, "unknown action '%s'", word);
        break;
    }
    if (a.ordinal >= MAX_EVENTS) fail(p, "more than %d actions", MAX_EVENTS);
    check_all_used(p, 3);
    s->actions = realloc(s->actions, sizeof(Action) * (size_t)(s->action_count + 1));
    s->actions[s->action_count++] = a;
}

static void parse_line(Parser *p, char *line)
{
    split(p, line);
    if (p->failed || !p->pair_count) return;
    Pair *first = &p->pairs[0];
    if (first->value) { /* a line of settings */
        const char *epoch = take(p, "epoch");
        if (epoch) {
            p->s->epoch_us = parse_seconds(p, epoch);
            p->s->has_epoch = true;
        }
        take_text(p, "journal", p->s->journal, sizeof p->s->journal);
        check_all_used(p, 0);
    } else if (!strcmp(first->key, "gpu")) parse_gpu(p);
    else if (!strcmp(first->key, "process")) parse_process(p);
    else if (!strcmp(first->key, "driver")) parse_driver(p);
    else if (!strcmp(first->key, "at") || !strcmp(first->key, "event")) parse_action(p);
    else fail(p, "unknown line '%s'", first->key);
}

/* --- the whole file ----------------------------------------------------------------------- */

static int by_time(const void *left, const void *right)
{
    const Action *a = left, *b = right;
    if (a->at_us != b->at_us) return a->at_us < b->at_us ? -1 : 1;
    return a->ordinal - b->ordinal;
}

static void finish(Parser *p)
{
    Scenario *s = p->s;
    p->line = 0;
    for (int i = 0; i < MAX_GPUS; i++)
        if (s->gpus[i].defined) {
            if (i != s->gpu_count) fail(p, "GPU %d is described, but not GPU %d", i, s->gpu_count);
            s->gpu_count++;
        }
    for (int i = 0; i < s->action_count; i++)
        if (s->actions[i].gpu >= s->gpu_count)
            fail(p, "an action names GPU %d, which is not described", s->actions[i].gpu);
    if (p->failed) return;
    if (s->action_count)
        qsort(s->actions, (size_t)s->action_count, sizeof(Action), by_time);
    for (int kind = 0; kind < ACT_COUNT; kind++) {
        s->of_kind[kind] = calloc((size_t)s->action_count + 1, sizeof(Action *));
        for (int i = 0; i < s->action_count; i++)
            if ((int)s->actions[i].kind == kind)
                s->of_kind[kind][s->kind_count[kind]++] = &s->actions[i];
    }
    for (int i = 0; i < s->kind_count[ACT_POWER]; i++) {
        Action *a = s->of_kind[ACT_POWER][i];
        Gpu *g = &s->gpus[a->gpu];
        i128 before = gpu_energy_nj(g, a->at_us);
        g->pieces = realloc(g->pieces, sizeof(Piece) * (size_t)(g->piece_count + 1));
        g->pieces[g->piece_count++] = (Piece){a->power, a->at_us, before};
        a->power.segments = NULL; /* the piece owns them now */
    }
}

Scenario *scenario_load(const char *path, bool complete)
{
    FILE *file = fopen(path, "re");
    if (!file) {
        fprintf(stderr, "nvml stand-in: cannot read scenario %s: %s\n", path, strerror(errno));
        return NULL;
    }
    Parser p = {.path = path, .s = calloc(1, sizeof(Scenario))};
    snprintf(p.s->driver_version, sizeof p.s->driver_version, "580.95.05");
    snprintf(p.s->nvml_version, sizeof p.s->nvml_version, "13.580.95.05");
    p.s->cuda_version = 13000;
    char *line = NULL;
    size_t size = 0;
    ssize_t length;
    while (!p.failed && (length = getline(&line, &size, file)) > 0) {
        p.line++;
        if (line[length - 1] != '\n' && !complete) break;
        parse_line(&p, line);
    }
    free(line);
    fclose(file);
    if (!p.failed) finish(&p);
    if (p.failed) {
        scenario_free(p.s);
        return NULL;
    }
    return p.s;
}

void scenario_free(Scenario *s)
{
    if (!s) return;
    for (int i = 0; i < MAX_GPUS; i++) {
        for (int j = 0; j < s->gpus[i].piece_count; j++) free(s->gpus[i].pieces[j].power.segments);
        free(s->gpus[i].pieces);
    }
    for (int i = 0; i < s->action_count; i++) free(s->actions[i].power.segments);
    for (int kind = 0; kind < ACT_COUNT; kind++) free(s->of_kind[kind]);
    free(s->processes);
    free(s->actions);
    free(s);
}
