/* What the two halves of the stand-in share: how every call begins and ends. */
#ifndef GIGAWATCH_NVML_STANDIN_H
#define GIGAWATCH_NVML_STANDIN_H

#include "nvml_scenario.h"

#define API __attribute__((visibility("default")))

typedef struct Handle *nvmlDevice_t; /* opaque to the caller, as in the real library */

typedef struct {
    const Scenario *s;
    const Gpu *gpu;
    int index;
    int64_t now_us;           /* scenario time of this call */
    const Action *mig;        /* the MIG layout in effect; NULL: MIG is off */
    const Instance *instance; /* not NULL where the handle is a MIG device */
    int instance_index;
} Context;

enum { ALLOW_MIG = 1 };

/* Every call takes the one lock, as in the real driver, then meets the driver's state, the GPU's
 * and the scenario's failures in that order. A return other than NVML_SUCCESS has let go of the
 * lock already; otherwise the caller ends with leave(). */
nvmlReturn_t enter_system(Call call, Context *c);
nvmlReturn_t enter_device(Call call, nvmlDevice_t device, int flags, Context *c);
nvmlReturn_t leave(nvmlReturn_t code);
/* The same for one field inside nvmlDeviceGetFieldValues; the lock is held and stays held. */
nvmlReturn_t enter_field(Context *c, unsigned field);
void journal_energy(const Context *c, int64_t mj);

#define SYSTEM_CALL(call)                                           \
    Context c;                                                      \
    {                                                               \
        nvmlReturn_t entered = enter_system(CALL_##call, &c);       \
        if (entered != NVML_SUCCESS) return entered;                \
    }
#define DEVICE_CALL(call, device, flags)                                     \
    Context c;                                                               \
    {                                                                        \
        nvmlReturn_t entered = enter_device(CALL_##call, device, flags, &c); \
        if (entered != NVML_SUCCESS) return entered;                         \
    }
#define NEED(pointer) \
    if (!(pointer)) return leave(NVML_ERROR_INVALID_ARGUMENT)
#define SUPPORTED_IF(condition) \
    if (!(condition)) return leave(NVML_ERROR_NOT_SUPPORTED)

#endif
