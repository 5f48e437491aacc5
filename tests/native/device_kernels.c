/* Kernels for test_device.c. ANSWER differs between two builds, so that a test can tell them apart. */
#include <stddef.h>
#include <string.h>

#include "simpler_kernel.h"

/* out[i] = a[i] * scale + b[i], float64 */
int scale_add(const slr_tensor *tensors, uint32_t n_tensors, const uint64_t *scalars, uint32_t n_scalars) {
    if (n_tensors != 3 || n_scalars != 1 || tensors[0].ndim != 1)
        return 22;
    double scale;
    memcpy(&scale, &scalars[0], sizeof scale);
    const double *a = tensors[0].data, *b = tensors[1].data;
    double *out = tensors[2].data;
    for (int64_t i = 0; i < tensors[0].shape[0]; i++)
        out[i] = a[i] * scale + b[i];
    return 0;
}

int answer(const slr_tensor *tensors, uint32_t n_tensors, const uint64_t *scalars, uint32_t n_scalars) {
    (void)tensors, (void)n_tensors, (void)scalars, (void)n_scalars;
    return ANSWER;
}

/* Writes one 64-byte line behind its tensor. */
int overrun(const slr_tensor *tensors, uint32_t n_tensors, const uint64_t *scalars, uint32_t n_scalars) {
    (void)n_tensors, (void)scalars, (void)n_scalars;
    memset((char *)tensors[0].data + tensors[0].bytes, 0, 64);
    return 0;
}

int is_null(const slr_tensor *tensors, uint32_t n_tensors, const uint64_t *scalars, uint32_t n_scalars) {
    (void)n_tensors, (void)scalars, (void)n_scalars;
    return tensors[0].data == NULL ? 0 : 1;
}
