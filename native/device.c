/*
 * Finds a driver by name and calls it: the simulated device is built in, any other is dlopened as libslr_<name>.so, so
 * that the library builds and runs on a machine that has none of them.
 *
 * The core keeps the list of loaded kernels, so that a stale or foreign kernel never reaches a driver.
 */
#include "device.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "simpler.h"

struct slr_kernel {
    void *loaded; /* the driver's */
    slr_kernel *next;
};

struct slr_device {
    const slr_driver_vtable *driver;
    void *library; /* of a dlopened driver, or NULL */
    void *state;   /* the driver's */
    slr_kernel *kernels;
    const char *error; /* a sentence of the core's, or NULL: the driver has it */
};

static const slr_driver_vtable *const builtin_drivers[] = {&slri_sim_driver};

static int is_driver_name(const char *name) {
    size_t length = strlen(name);
    return length > 0 && length < sizeof((slr_device_info *)0)->driver &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == length;
}

static int is_complete(const slr_driver_vtable *driver) {
    return driver->name && driver->open && driver->close && driver->info && driver->alloc && driver->free &&
           driver->discard && driver->copy_in && driver->copy_out && driver->load && driver->unload && driver->launch &&
           driver->synchronize && driver->error;
}

static int check_driver(const slr_driver_vtable *driver, const char *name, char *why, size_t why_bytes) {
    if (driver->abi != SLR_DRIVER_ABI)
        snprintf(why, why_bytes, "libslr_%s.so is built for driver ABI %u, this library has %u: rebuild the driver",
                 name, driver->abi, SLR_DRIVER_ABI);
    else if (!is_complete(driver))
        snprintf(why, why_bytes, "the driver in libslr_%s.so leaves a function of the vtable empty", name);
    else if (strcmp(driver->name, name) != 0)
        snprintf(why, why_bytes, "the driver in libslr_%s.so calls itself \"%s\"", name, driver->name);
    else
        return SLR_OK;
    return SLR_DEVICE_NO_DRIVER;
}

static int load_driver(slr_device *device, const char *name, char *why, size_t why_bytes) {
    char file[64];
    snprintf(file, sizeof file, "libslr_%s.so", name);
    device->library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (device->library)
        device->driver = dlsym(device->library, "slr_driver");
    if (!device->driver) {
        const char *reason = dlerror();
        snprintf(why, why_bytes, "no device driver \"%s\": %s", name, reason ? reason : "slr_driver is null");
        return SLR_DEVICE_NO_DRIVER;
    }
    return check_driver(device->driver, name, why, why_bytes);
}

static int find_driver(slr_device *device, const char *name, char *why, size_t why_bytes) {
    for (size_t i = 0; i < sizeof builtin_drivers / sizeof *builtin_drivers; i++) {
        if (strcmp(builtin_drivers[i]->name, name) == 0) {
            device->driver = builtin_drivers[i];
            return SLR_OK;
        }
    }
    if (!is_driver_name(name)) {
        snprintf(why, why_bytes,
                 "\"%s\" is not a driver name: it takes 1 to 31 lower-case letters, digits and underscores", name);
        return SLR_DEVICE_NO_DRIVER;
    }
    return load_driver(device, name, why, why_bytes);
}

int slr_driver_check(const char *driver, char *why, size_t why_bytes) {
    if (!driver || !why || !why_bytes)
        return SLR_INVALID;
    why[0] = '\0';
    slr_device device = {0};
    int status = find_driver(&device, driver, why, why_bytes);
    if (device.library)
        dlclose(device.library);
    return status;
}

int slr_device_open(const char *driver, uint32_t device_id, slr_device **out, char *why, size_t why_bytes) {
    if (!driver || !out || !why || !why_bytes)
        return SLR_INVALID;
    why[0] = '\0';
    slr_device *device = calloc(1, sizeof *device);
    if (!device) {
        snprintf(why, why_bytes, "out of host memory");
        return SLR_SYSTEM;
    }
    int status = find_driver(device, driver, why, why_bytes);
    if (!status)
        status = device->driver->open(device_id, &device->state, why, why_bytes);
    if (status) {
        if (device->library)
            dlclose(device->library);
        free(device);
        return status;
    }
    *out = device;
    return SLR_OK;
}

static void forget_kernel(slr_device *device, slr_kernel **link) {
    slr_kernel *kernel = *link;
    *link = kernel->next;
    device->driver->unload(device->state, kernel->loaded);
    free(kernel);
}

void slr_device_close(slr_device *device) {
    if (!device)
        return;
    while (device->kernels)
        forget_kernel(device, &device->kernels);
    device->driver->close(device->state);
    if (device->library)
        dlclose(device->library);
    free(device);
}

static int invalid(slr_device *device, const char *sentence) {
    device->error = sentence;
    return SLR_INVALID;
}

/* Before every call of the driver: from now on the last error is the driver's. */
static const slr_driver_vtable *enter(slr_device *device) {
    device->error = NULL;
    return device->driver;
}

int slr_device_query(slr_device *device, slr_device_info *out) {
    if (!device)
        return SLR_INVALID;
    if (!out)
        return invalid(device, "slr_device_query: out is null");
    slr_device_info info = {0};
    int status = enter(device)->info(device->state, &info);
    if (status)
        return status;
    snprintf(info.driver, sizeof info.driver, "%s", device->driver->name);
    *out = info;
    return SLR_OK;
}

int slr_device_alloc(slr_device *device, uint64_t bytes, uint64_t *address) {
    if (!device)
        return SLR_INVALID;
    if (!bytes || !address)
        return invalid(device, "slr_device_alloc: bytes must be above 0 and address not null");
    return enter(device)->alloc(device->state, bytes, address);
}

int slr_device_free(slr_device *device, uint64_t address) {
    if (!device)
        return SLR_INVALID;
    return enter(device)->free(device->state, address);
}

int slr_device_discard(slr_device *device, uint64_t address) {
    if (!device)
        return SLR_INVALID;
    return enter(device)->discard(device->state, address);
}

int slr_device_copy_in(slr_device *device, uint64_t address, const void *source, uint64_t bytes) {
    if (!device)
        return SLR_INVALID;
    if (bytes && !source)
        return invalid(device, "slr_device_copy_in: source is null");
    return enter(device)->copy_in(device->state, address, source, bytes);
}

int slr_device_copy_out(slr_device *device, void *target, uint64_t address, uint64_t bytes) {
    if (!device)
        return SLR_INVALID;
    if (bytes && !target)
        return invalid(device, "slr_device_copy_out: target is null");
    return enter(device)->copy_out(device->state, target, address, bytes);
}

int slr_device_load(slr_device *device, const void *image, uint64_t bytes, const char *symbol, slr_kernel **out) {
    if (!device)
        return SLR_INVALID;
    if (!image || !bytes || !symbol || !symbol[0] || !out)
        return invalid(device, "slr_device_load: image, symbol and out must be given and not empty");
    slr_kernel *kernel = malloc(sizeof *kernel);
    if (!kernel) {
        device->error = "out of host memory";
        return SLR_SYSTEM;
    }
    int status = enter(device)->load(device->state, image, bytes, symbol, &kernel->loaded);
    if (status) {
        free(kernel);
        return status;
    }
    kernel->next = device->kernels;
    device->kernels = kernel;
    *out = kernel;
    return SLR_OK;
}

/* The link that points at the kernel, or NULL. The pointer is compared, never followed: it may be stale. */
static slr_kernel **find_kernel(slr_device *device, const slr_kernel *kernel) {
    for (slr_kernel **link = &device->kernels; *link; link = &(*link)->next)
        if (*link == kernel)
            return link;
    return NULL;
}

int slr_device_unload(slr_device *device, slr_kernel *kernel) {
    if (!device)
        return SLR_INVALID;
    slr_kernel **link = find_kernel(device, kernel);
    if (!link)
        return invalid(device, "slr_device_unload: the kernel is not loaded on this device");
    forget_kernel(device, link);
    return SLR_OK;
}

int slr_device_launch(slr_device *device, slr_kernel *kernel, const slr_tensor *tensors, uint32_t n_tensors,
                      const uint64_t *scalars, uint32_t n_scalars, int *kernel_status) {
    if (!device)
        return SLR_INVALID;
    if ((n_tensors && !tensors) || (n_scalars && !scalars) || !kernel_status)
        return invalid(device, "slr_device_launch: tensors, scalars and kernel_status must be given");
    if (!find_kernel(device, kernel))
        return invalid(device, "slr_device_launch: the kernel is not loaded on this device");
    for (uint32_t i = 0; i < n_tensors; i++)
        if (tensors[i].ndim > SLR_MAX_DIMS)
            return invalid(device, "slr_device_launch: a tensor has more than SLR_MAX_DIMS dimensions");
    return enter(device)->launch(device->state, kernel->loaded, tensors, n_tensors, scalars, n_scalars, kernel_status);
}

int slr_device_synchronize(slr_device *device) {
    if (!device)
        return SLR_INVALID;
    return enter(device)->synchronize(device->state);
}

const char *slr_device_error(slr_device *device) {
    if (!device)
        return "no device";
    return device->error ? device->error : device->driver->error(device->state);
}
