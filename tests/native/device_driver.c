/*
 * The simulated device once more, as a driver of its own to dlopen; built also with one thing wrong at a time, and as
 * one that can be lost: by a kernel that returns 77, and while the file exists that SLR_TEST_DEVICE_GONE names. It adds
 * a line to the file that SLR_TEST_DEVICE_CLOSED names when it is closed.
 */
#include "device.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

__attribute__((visibility("default"))) slr_driver_vtable slr_driver;

#ifdef LOSES
static int lost;

static int open_unless_gone(uint32_t device_id, void **state, char *why, size_t why_bytes) {
    const char *gone = getenv("SLR_TEST_DEVICE_GONE");
    if (gone && access(gone, F_OK) == 0) {
        snprintf(why, why_bytes, "the device has fallen off the bus");
        return SLR_DEVICE_LOST;
    }
    return slri_sim_driver.open(device_id, state, why, why_bytes);
}

static int launch_and_lose(void *state, void *kernel, const slr_tensor *tensors, uint32_t n_tensors,
                           const uint64_t *scalars, uint32_t n_scalars, int *kernel_status) {
    int status = slri_sim_driver.launch(state, kernel, tensors, n_tensors, scalars, n_scalars, kernel_status);
    lost = status == SLR_DEVICE_LAUNCH && *kernel_status == 77;
    return lost ? SLR_DEVICE_LOST : status;
}

static const char *error_unless_lost(void *state) {
    return lost ? "the device does not answer any more" : slri_sim_driver.error(state);
}

static void close_and_tell(void *state) {
    const char *path = getenv("SLR_TEST_DEVICE_CLOSED");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (file) {
        fputs("closed\n", file);
        fclose(file);
    }
    slri_sim_driver.close(state);
}
#endif

__attribute__((constructor)) static void fill(void) {
    slr_driver = slri_sim_driver;
    slr_driver.name = DRIVER_NAME;
#ifdef WRONG_ABI
    slr_driver.abi++;
#endif
#ifdef INCOMPLETE
    slr_driver.copy_out = 0;
#endif
#ifdef LOSES
    slr_driver.open = open_unless_gone;
    slr_driver.launch = launch_and_lose;
    slr_driver.error = error_unless_lost;
    slr_driver.close = close_and_tell;
#endif
}
