/*
 * What a kernel for the sim driver includes. A kernel is a function of this type in an ELF shared object:
 *
 *     int kernel(const slr_tensor *tensors, uint32_t n_tensors, const uint64_t *scalars, uint32_t n_scalars);
 *
 * 0 is success; anything else fails the task and is reported as the kernel's status. Tensors come in the order of the
 * task's tensor arguments, scalars in the order of its scalar arguments: an integer or bool as its 64-bit value, a
 * float as the bits of a double (memcpy it out).
 */
#ifndef SIMPLER_KERNEL_H
#define SIMPLER_KERNEL_H

#include <stdint.h>

/* cffi: begin */

#define SLR_MAX_DIMS 8

/* A tensor as a kernel sees it: device memory, row-major unless strides say otherwise. */
typedef struct {
    void *data;
    uint64_t bytes;
    uint32_t dtype; /* simpler.DataType */
    uint32_t ndim;
    int64_t shape[8];
    int64_t strides[8]; /* bytes */
} slr_tensor;

/* cffi: end */

#endif
