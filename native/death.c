/*
 * The end of a worker: its tasks fail, what counted on it is woken elsewhere, and when it is given up its queue fails
 * too.
 */
#include <string.h>

#include "region.h"

/* A block with the error, with one kept reference that is the caller's to pass on; 0 where there is none or no room. */
static uint64_t error_block(slr_region *region, const void *error, uint64_t error_bytes) {
    if (!error_bytes)
        return 0;
    uint64_t offset = slri_heap_take(region, error_bytes, 0);
    if (offset) {
        slri_heap_keep(region, offset);
        memcpy(slri_heap_at(region, offset), error, error_bytes);
    }
    return offset;
}

static uint32_t fail_held(slr_region *region, uint32_t index, uint64_t record, uint64_t record_bytes, int64_t now_ns) {
    uint32_t failed = 0;
    for (uint32_t i = 0; i < region->header->slots_fresh && region->workers[index].held; i++) {
        if (region->slots[i].state != SLR_TASK_RUNNING || region->slots[i].taker != index)
            continue;
        if (record)
            slri_heap_keep(region, record);
        failed++;
        region->workers[index].failures++;
        slri_task_end(region, i, SLRI_FAIL, record, record ? record_bytes : 0, now_ns);
    }
    return failed;
}

/* The process is gone: everything but what its successor will find in its queue. */
static uint32_t bury(slr_region *region, uint32_t index, uint64_t record, uint64_t record_bytes) {
    slri_worker *worker = &region->workers[index];
    if (worker->state != SLR_WORKER_DEAD) {
        worker->deaths++;
        slri_worker_move(region, index, SLR_WORKER_DEAD);
        slri_group_leave(region, index);
    }
    uint32_t failed = fail_held(region, index, record, record_bytes, slri_now_ns());
    worker->timed = SLRI_NONE;
    slri_heap_disown(region, index + 1);
    slri_mailbox_kick(region);
    slri_wake_everyone(region); /* it may have died between changing a futex and waking its sleepers */
    return failed;
}

int slr_worker_died(slr_region *region, uint32_t index, const void *error, uint64_t error_bytes, uint32_t *failed) {
    if (!region || !failed || !slri_worker_exists(region, index) || (error_bytes && !error))
        return SLR_INVALID;
    slri_lock(region);
    uint64_t record = error_block(region, error, error_bytes);
    *failed = bury(region, index, record, error_bytes);
    if (record)
        slri_heap_unkeep(region, record);
    slri_unlock(region);
    return SLR_OK;
}

static bool no_sub_left(const slr_region *region) {
    for (uint32_t i = 0; i < region->header->config.workers; i++)
        if (slri_is_kind(&region->workers[i], SLR_WORKER_SUB) && !region->workers[i].abandoned)
            return false;
    return true;
}

const slri_worker *slri_target_abandoned(const slr_region *region, uint32_t target) {
    if (target != SLR_ANY_SUB)
        return region->workers[target].abandoned ? &region->workers[target] : NULL;
    return region->header->sub_abandoned ? &region->workers[region->header->sub_abandoned - 1] : NULL;
}

static void fail_queue(slr_region *region, slri_queue *queue, const slri_worker *worker) {
    uint32_t slot = slri_mailbox_drain(region, queue, 0);
    int64_t now_ns = slri_now_ns();
    while (slot != SLRI_NONE) {
        uint32_t next = region->slots[slot].next;
        if (worker->record)
            slri_heap_keep(region, worker->record);
        slri_task_end(region, slot, SLRI_FAIL, worker->record, worker->record_bytes, now_ns);
        slot = next;
    }
}

int slr_worker_abandon(slr_region *region, uint32_t index, const void *error, uint64_t error_bytes) {
    if (!region || !slri_worker_exists(region, index) || (error_bytes && !error))
        return SLR_INVALID;
    slri_lock(region);
    slri_worker *worker = &region->workers[index];
    if (!worker->abandoned) {
        uint64_t record = error_block(region, error, error_bytes);
        worker->record_bytes = record ? error_bytes : 0;
        slri_commit_wide(&worker->record, record);
        slri_commit(&worker->abandoned, 1);
        SLRI_FAULT("abandon:marked");
    }
    /* Also where it is given up already: who did that may have died before all of it was done. */
    bool last = slri_is_kind(worker, SLR_WORKER_SUB) && no_sub_left(region);
    if (last && !region->header->sub_abandoned)
        slri_commit(&region->header->sub_abandoned, index + 1);
    bury(region, index, worker->record, worker->record_bytes);
    slri_group_abandon(region, slri_now_ns());
    fail_queue(region, &worker->queue, worker);
    if (last)
        fail_queue(region, &region->header->shared, worker);
    slri_unlock(region);
    return SLR_OK;
}
