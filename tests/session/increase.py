"""A kernel that several tests have chips run."""

from __future__ import annotations

from simpler import ChipCallable

INCREASE = ChipCallable.from_c_source(
    """
    #include "simpler_kernel.h"
    int increase(const slr_tensor *t, uint32_t n_tensors, const uint64_t *s, uint32_t n_scalars)
    {
        (void)n_tensors, (void)n_scalars;
        for (int64_t i = 0; i < t[0].shape[0]; i++)
            ((int64_t *)t[0].data)[i] += (int64_t)s[0];
        return 0;
    }
    """,
    "increase",
    ["inout", "scalar"],
)
"""Adds scalar 0 to tensor 0."""
