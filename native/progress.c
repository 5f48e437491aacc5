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

/* Whether anything may still come: SLR_TIMEOUT if so. */
typedef int prospect(const slri_header *header);

static int wait_for_progress(slr_region *region, uint32_t *word, uint32_t seen, prospect *may_come,
                             int64_t timeout_ns) {
    int64_t deadline_ns = slri_deadline_ns(slri_now_ns(), timeout_ns);
    for (int slept = SLR_OK;;) {
        slri_lock(region);
        int status = count_of(word) != seen ? SLR_OK : may_come(region->header);
        bool waits = status == SLR_TIMEOUT && slept == SLR_OK && timeout_ns != 0;
        if (waits)
            __atomic_store_n(word, seen | SLRI_WORD_WAITED, __ATOMIC_RELAXED);
        slri_unlock(region);
        if (!waits)
            return status == SLR_TIMEOUT && slept != SLR_OK ? slept : status;
        slept = slri_sleep(word, seen | SLRI_WORD_WAITED, deadline_ns);
    }
}

static int space_may_come(const slri_header *header) {
    return header->closed ? SLR_CLOSED : !header->live ? SLR_INVALID : SLR_TIMEOUT;
}

uint32_t slr_space_seen(const slr_region *region) {
    return count_of(&region->header->space);
}

int slr_space_wait(slr_region *region, uint32_t seen, int64_t timeout_ns) {
    return region ? wait_for_progress(region, &region->header->space, seen, space_may_come, timeout_ns) : SLR_INVALID;
}

/* Also after a shutdown: what workers hold is still completed. */
static int run_may_end(const slri_header *header) {
    (void)header;
    return SLR_TIMEOUT;
}

uint32_t slr_runs_seen(const slr_region *region) {
    return count_of(&region->header->ends);
}

int slr_runs_wait(slr_region *region, uint32_t seen, int64_t timeout_ns) {
    return region ? wait_for_progress(region, &region->header->ends, seen, run_may_end, timeout_ns) : SLR_INVALID;
}

int slr_runs_wake(slr_region *region) {
    if (!region)
        return SLR_INVALID;
    slri_lock(region);
    slri_progress(region, &region->header->ends);
    slri_unlock(region);
    return SLR_OK;
}
