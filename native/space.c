/* Back-pressure: waiting until a slot, an edge or heap is free again. Whoever frees any changes the space word. */
#include "region.h"

uint32_t slr_space_seen(const slr_region *region) {
    return __atomic_load_n(&region->header->space, __ATOMIC_ACQUIRE) & ~SLRI_WORD_WAITED;
}

int slr_space_wait(slr_region *region, uint32_t seen, int64_t timeout_ns) {
    if (!region)
        return SLR_INVALID;
    slri_header *header = region->header;
    int64_t deadline_ns = slri_deadline_ns(slri_now_ns(), timeout_ns);
    for (int slept = SLR_OK;;) {
        slri_lock(region);
        int status = (header->space & ~SLRI_WORD_WAITED) != seen ? SLR_OK
                     : header->closed                            ? SLR_CLOSED
                     : !header->live                             ? SLR_INVALID
                                                                 : SLR_TIMEOUT;
        bool waits = status == SLR_TIMEOUT && slept == SLR_OK && timeout_ns != 0;
        if (waits)
            __atomic_store_n(&header->space, seen | SLRI_WORD_WAITED, __ATOMIC_RELAXED);
        slri_unlock(region);
        if (!waits)
            return status == SLR_TIMEOUT && slept != SLR_OK ? slept : status;
        slept = slri_sleep(&header->space, seen | SLRI_WORD_WAITED, deadline_ns);
    }
}
