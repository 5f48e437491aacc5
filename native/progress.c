/*
 * Waiting for what anybody may bring about: space that is freed (back-pressure), and runs that end.
 *
 * Each has a word in the header that counts it. Who waits takes the count, looks for what it needs, and sleeps until
 * the count has changed; so nothing that happens in between is missed.
 */
#include "region.h"

static uint32_t count_of(const uint32_t *word) {
    return __atomic_load_n(word, __ATOMIC_ACQUIRE) & ~SLRI_WORD_WAITED;
}

void slri_progress(slr_region *region, uint32_t *word) {
    uint32_t before = *word;
    __atomic_store_n(word, (before & ~SLRI_WORD_WAITED) + SLRI_WORD_STEP, __ATOMIC_RELEASE);
    if (before & SLRI_WORD_WAITED)
        slri_wake_later(region, word);
}

/* needs_live: SLR_INVALID at once when no task is live. */
static int wait_for_progress(slr_region *region, uint32_t *word, uint32_t seen, bool needs_live, int64_t timeout_ns) {
    const slri_header *header = region->header;
    int64_t deadline_ns = slri_deadline_ns(slri_now_ns(), timeout_ns);
    for (int slept = SLR_OK;;) {
        slri_lock(region);
        int status = count_of(word) != seen        ? SLR_OK
                     : header->closed              ? SLR_CLOSED
                     : needs_live && !header->live ? SLR_INVALID
                                                   : SLR_TIMEOUT;
        bool waits = status == SLR_TIMEOUT && slept == SLR_OK && timeout_ns != 0;
        if (waits)
            __atomic_store_n(word, seen | SLRI_WORD_WAITED, __ATOMIC_RELAXED);
        slri_unlock(region);
        if (!waits)
            return status == SLR_TIMEOUT && slept != SLR_OK ? slept : status;
        slept = slri_sleep(word, seen | SLRI_WORD_WAITED, deadline_ns);
    }
}

uint32_t slr_space_seen(const slr_region *region) {
    return count_of(&region->header->space);
}

int slr_space_wait(slr_region *region, uint32_t seen, int64_t timeout_ns) {
    return region ? wait_for_progress(region, &region->header->space, seen, true, timeout_ns) : SLR_INVALID;
}

uint32_t slr_runs_seen(const slr_region *region) {
    return count_of(&region->header->ends);
}

int slr_runs_wait(slr_region *region, uint32_t seen, int64_t timeout_ns) {
    return region ? wait_for_progress(region, &region->header->ends, seen, false, timeout_ns) : SLR_INVALID;
}
