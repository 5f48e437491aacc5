/*
 * Streams: runs whose every task is retained as it ends, to be looked at and forgotten in that order while others are
 * still being submitted.
 *
 * Rules
 *   1. RETAINED stands in the run's word while there is something to reap, WOKEN while somebody is to return. A spinner
 *      sees either without the lock.
 *   2. What is reaped stays where it is until it is forgotten, so that its record can be read without a copy, and
 *      nothing is gone when whoever reaps dies.
 */
#include "region.h"

typedef struct {
    slr_ended *out;
    uint32_t room;
    uint32_t count;
} reaped;

static bool is_stream(const slri_run *run) {
    return run && run->flags & SLR_RUN_STREAM;
}

static slr_ended ended(const slri_slot *slot, uint32_t index) {
    return (slr_ended){
        .task = slri_id(slot->generation, index),
        .record_offset = slot->record,
        .record_bytes = slot->record_bytes,
        .state = slot->state,
        .worker = slot->taker,
    };
}

static void clear_bits(slri_run *run, uint32_t bits) {
    __atomic_store_n(&run->word, run->word & ~bits, __ATOMIC_RELAXED);
}

static int look_for_ended(const slr_region *region, slri_run *run, void *found) {
    reaped *r = found;
    r->count = 0;
    if (!is_stream(run))
        return run ? SLR_INVALID : SLR_STALE;
    if (run->word & (SLRI_WORD_RETAINED | SLRI_WORD_WOKEN)) {
        for (uint32_t i = run->retained_head; i != SLRI_NONE && r->count < r->room; i = region->slots[i].next)
            r->out[r->count++] = ended(&region->slots[i], i);
        clear_bits(run, SLRI_WORD_WOKEN);
        return SLR_OK;
    }
    if (run->lost)
        return SLR_FAILED;
    return run->state == SLRI_RUN_ENDED || region->header->closed ? SLR_CLOSED : SLR_TIMEOUT;
}

int slr_run_reap(slr_region *region, slr_id id, slr_ended *out, uint32_t room, uint32_t *count, uint32_t spin_us,
                 int64_t timeout_ns) {
    if (!region || !out || !room || !count || (uint32_t)id >= region->header->config.runs)
        return SLR_INVALID;
    reaped found = {.out = out, .room = room};
    int status = slri_run_await(region, id, spin_us, timeout_ns, look_for_ended, &found);
    if (status == SLR_OK)
        *count = found.count;
    return status;
}

static int may_forget(const slr_region *region, const slri_run *run, slr_id first, uint32_t count) {
    if (!run)
        return SLR_STALE;
    if (!is_stream(run) || !count)
        return SLR_INVALID;
    uint32_t head = run->retained_head;
    if (head == SLRI_NONE || slri_id(region->slots[head].generation, head) != first)
        return SLR_STALE;
    return count > run->retained ? SLR_INVALID : SLR_OK;
}

int slr_run_forget(slr_region *region, slr_id id, slr_id first, uint32_t count) {
    if (!region)
        return SLR_INVALID;
    slri_lock(region);
    slri_run *run = slri_run_find(region, id);
    int status = may_forget(region, run, first, count);
    for (uint32_t i = 0; status == SLR_OK && i < count; i++)
        slri_run_drop_first(region, run);
    SLRI_FAULT("stream:forgotten");
    if (status == SLR_OK && !run->retained)
        clear_bits(run, SLRI_WORD_RETAINED);
    slri_unlock(region);
    return status;
}

int slr_run_wake(slr_region *region, slr_id id) {
    if (!region)
        return SLR_INVALID;
    slri_lock(region);
    slri_run *run = slri_run_find(region, id);
    if (is_stream(run))
        slri_run_tell(region, run, SLRI_WORD_WOKEN);
    slri_unlock(region);
    return !run ? SLR_STALE : is_stream(run) ? SLR_OK : SLR_INVALID;
}
