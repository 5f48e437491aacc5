/*
 * Deadlines of running tasks. Whoever watches the worker processes looks for late ones, and kills.
 *
 * Rules
 *   1. header.alarm_ns is when the watcher looks next, and never later than the deadline of a RUNNING task: a take
 *      whose task is due sooner lowers it and signals the watcher's eventfd, both before the slot is RUNNING. One that
 *      dies or is stopped in between holds the lock, or its death makes the watcher look.
 *   2. A worker whose task is late is condemned in the hold of the lock that finds it so. From then on nothing that it
 *      does counts: no task ends well after it was called late. Its death, reported as any other, ends the task.
 *   3. A SLR_OP_SUB_CALL is watched in the session that runs it, not here.
 *   4. A task's time begins when it is taken. With as many tasks of one timeout as you like, the watcher wakes once in
 *      that time; with none that has a timeout, never.
 */
#include <unistd.h>

#include "region.h"

static int64_t deadline_of(const slri_slot *slot) {
    return slri_deadline_ns(slot->started_ns, slot->timeout_ns);
}

static void signal_watcher(const slr_region *region) {
    uint64_t one = 1;
    if (region->alarm_fd < 0)
        return;
    /* EAGAIN: the counter is at its limit, so the watcher has been told. There is nobody to tell anything else. */
    ssize_t written = write(region->alarm_fd, &one, sizeof one);
    (void)written;
}

void slri_deadline_begin(slr_region *region, uint32_t index) {
    const slri_slot *slot = &region->slots[index];
    if (!slri_is_timed(slot))
        return;
    region->workers[slot->taker].timed = index;
    int64_t deadline_ns = deadline_of(slot);
    if (deadline_ns < region->header->alarm_ns) {
        region->header->alarm_ns = deadline_ns;
        SLRI_FAULT("take:alarm");
        signal_watcher(region);
    }
}

int64_t slri_worker_deadline_ns(const slr_region *region, const slri_worker *worker) {
    return worker->timed == SLRI_NONE || worker->condemned ? INT64_MAX : deadline_of(&region->slots[worker->timed]);
}

static void condemn(slr_region *region, uint32_t index, slr_overdue *out) {
    slri_worker *worker = &region->workers[index];
    const slri_slot *slot = &region->slots[worker->timed];
    slri_commit(&worker->condemned, 1);
    SLRI_FAULT("overdue:condemned");
    *out = (slr_overdue){
        .task = slri_id(slot->generation, worker->timed),
        .timeout_ns = slot->timeout_ns,
        .worker = index,
    };
}

int slr_workers_overdue(slr_region *region, int64_t now_ns, slr_overdue *out, uint32_t room, uint32_t *count,
                        int64_t *next_ns) {
    if (!region || !out || !room || !count || !next_ns)
        return SLR_INVALID;
    slri_lock(region);
    uint32_t found = 0;
    if (region->header->alarm_ns <= now_ns) {
        int64_t earliest_ns = INT64_MAX;
        for (uint32_t i = 0; i < region->header->config.workers; i++) {
            int64_t deadline_ns = slri_worker_deadline_ns(region, &region->workers[i]);
            if (deadline_ns <= now_ns && found < room)
                condemn(region, i, &out[found++]);
            else if (deadline_ns < earliest_ns)
                earliest_ns = deadline_ns;
        }
        region->header->alarm_ns = earliest_ns;
    }
    *count = found;
    *next_ns = region->header->alarm_ns;
    slri_unlock(region);
    return SLR_OK;
}
