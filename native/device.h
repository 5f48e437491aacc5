/*
 * Devices: the vtable a driver fills, and the small host-side API over it.
 *
 * A device belongs to one process at a time, its chip worker, and every call on it is made from that process's one
 * thread; a driver needs no locks. Calls may block until the device has done the work. Device memory is named by an
 * opaque 64-bit address that only its own device understands. Who may open which device is the lease's business (the
 * daemon's, or the Worker's in a program of its own); a driver that can see another owner answers SLR_DEVICE_BUSY.
 *
 * Status: SLR_OK, SLR_INVALID or SLR_SYSTEM (simpler.h), or a negative slr_device_status. After a failed call
 * slr_device_error has a whole sentence. Out-parameters are assigned on success only, but for *kernel_status.
 */
#ifndef SIMPLER_DEVICE_H
#define SIMPLER_DEVICE_H

#include <stddef.h>
#include <stdint.h>

#include "simpler_kernel.h" /* slr_tensor: shipped with the package, for those who compile kernels */

/* cffi: begin */

typedef enum {
    SLR_DEVICE_NO_DRIVER = -100, /* no driver of that name */
    SLR_DEVICE_BUSY = -101,      /* another process has the device open */
    SLR_DEVICE_MEMORY = -102,    /* out of device memory */
    SLR_DEVICE_ADDRESS = -103,   /* not an address of this device, or the range leaves its allocation */
    SLR_DEVICE_KERNEL = -104,    /* the bytes are not a loadable kernel, or the symbol is not in it */
    SLR_DEVICE_LAUNCH = -105,    /* the kernel returned non-zero: *kernel_status */
    SLR_DEVICE_LOST = -106       /* the device does not answer any more */
} slr_device_status;

typedef struct slr_device slr_device; /* one open device */
typedef struct slr_kernel slr_kernel; /* one loaded kernel */

typedef struct {
    char driver[32];
    char name[64];
    char arch[32]; /* what kernels must be built for, e.g. "x86_64" */
    uint64_t memory_bytes;
    uint64_t memory_used;
} slr_device_info;

/* driver: "sim", or the name of a driver to dlopen as libslr_<driver>.so. why: a sentence for people, NUL-terminated.
 */
int slr_device_open(const char *driver, uint32_t device_id, slr_device **out, char *why, size_t why_bytes);
/* Whether that driver is there and fits, without opening any device: SLR_OK, or SLR_DEVICE_NO_DRIVER and why. It runs
 * what the driver's library does when it is loaded, which may start threads. */
int slr_driver_check(const char *driver, char *why, size_t why_bytes);
void slr_device_close(slr_device *device); /* frees its memory and kernels */
int slr_device_query(slr_device *device, slr_device_info *out);
int slr_device_alloc(slr_device *device, uint64_t bytes, uint64_t *address); /* never 0; contents are undefined */
int slr_device_free(slr_device *device, uint64_t address);                   /* exact base addresses only */
/* What the allocation holds is undefined from now on, as if it were freed and allocated again. Exact base addresses
 * only. */
int slr_device_discard(slr_device *device, uint64_t address);
int slr_device_copy_in(slr_device *device, uint64_t address, const void *source, uint64_t bytes);
int slr_device_copy_out(slr_device *device, void *target, uint64_t address, uint64_t bytes);
int slr_device_load(slr_device *device, const void *image, uint64_t bytes, const char *symbol, slr_kernel **out);
int slr_device_unload(slr_device *device, slr_kernel *kernel); /* SLR_INVALID: not a kernel that is loaded here */
/* tensors[i].data is a device address, of which .bytes bytes must lie in one allocation (any address when .bytes is 0).
 * Blocks until the kernel has returned; *kernel_status is assigned with SLR_OK (0) and with SLR_DEVICE_LAUNCH. */
int slr_device_launch(slr_device *device, slr_kernel *kernel, const slr_tensor *tensors, uint32_t n_tensors,
                      const uint64_t *scalars, uint32_t n_scalars, int *kernel_status);
int slr_device_synchronize(slr_device *device);
const char *slr_device_error(slr_device *device); /* of the last failed call; valid until the next */

/* cffi: end */

/* The vtable. Every slot: called by the chip worker's one thread, never concurrently, may block, returns a status, and
 * leaves a sentence for `error` when it fails. The core checks that pointers are there and that a kernel is loaded and
 * of this device; ranges, exact bases, image and symbol are the driver's to check. */
typedef struct {
    uint32_t abi; /* SLR_DRIVER_ABI */
    const char *name;
    int (*open)(uint32_t device_id, void **state, char *why, size_t why_bytes); /* on failure: why, not `error` */
    void (*close)(void *state); /* frees what open and later calls made; kernels were unloaded before */
    int (*info)(void *state, slr_device_info *out);               /* out is zeroed; .driver is filled by the core */
    int (*alloc)(void *state, uint64_t bytes, uint64_t *address); /* bytes > 0 */
    int (*free)(void *state, uint64_t address);
    int (*discard)(void *state, uint64_t address); /* may do nothing */
    int (*copy_in)(void *state, uint64_t address, const void *source, uint64_t bytes);
    int (*copy_out)(void *state, void *target, uint64_t address, uint64_t bytes);
    int (*load)(void *state, const void *image, uint64_t bytes, const char *symbol, void **kernel);
    void (*unload)(void *state, void *kernel); /* once for each loaded kernel */
    int (*launch)(void *state, void *kernel, const slr_tensor *tensors, uint32_t n_tensors, const uint64_t *scalars,
                  uint32_t n_scalars, int *kernel_status);
    int (*synchronize)(void *state);
    const char *(*error)(void *state); /* of the last failed call; never NULL */
} slr_driver_vtable;

#define SLR_DRIVER_ABI 2

extern const slr_driver_vtable slri_sim_driver; /* built in: device_sim.c */
/* A driver that is not built in is libslr_<name>.so and exports:  const slr_driver_vtable slr_driver; */

#endif
