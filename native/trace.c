/* The trace ring: the last trace_events tasks that ended; and the tasks that have not. */
#include <string.h>

#include "region.h"

#define COPIED_PER_HOLD    32
#define LOOKED_AT_PER_HOLD 32

void slri_trace_add(slr_region *region, uint32_t index, int64_t ended_ns) {
    slri_header *header = region->header;
    if (!header->config.trace_events)
        return;
    const slri_slot *slot = &region->slots[index];
    slr_trace_event *event = &region->trace[header->trace_count % header->config.trace_events];
    *event = (slr_trace_event){
        .task = slri_id(slot->generation, index),
        .run = slot->run,
        .worker = slot->taker,
        .state = slot->state,
        .op = slot->op,
        .submitted_ns = slot->submitted_ns,
        .ready_ns = slot->ready_ns,
        .started_ns = slot->started_ns,
        .ended_ns = ended_ns,
    };
    memcpy(event->digest, slot->digest, sizeof event->digest);
    slri_commit_wide(&header->trace_count, header->trace_count + 1);
}

int slr_trace_read(slr_region *region, uint64_t *cursor, slr_trace_event *out, uint32_t room, uint32_t *count) {
    if (!region || !cursor || !count || (room && !out))
        return SLR_INVALID;
    const slri_header *header = region->header;
    uint32_t ring = header->config.trace_events, written = 0;
    uint64_t at = *cursor;
    for (bool more = true; more;) {
        slri_lock_to_read(region);
        uint64_t end = header->trace_count;
        if (end > ring && at < end - ring)
            at = end - ring;
        for (int i = 0; i < COPIED_PER_HOLD && ring && at < end && written < room; i++)
            out[written++] = region->trace[at++ % ring];
        more = ring && at < end && written < room;
        slri_unlock(region);
    }
    *cursor = at;
    *count = written;
    return SLR_OK;
}

static slr_live_task live_task(const slri_slot *slot, uint32_t index) {
    bool is_placed = slot->state == SLR_TASK_RUNNING || slot->state == SLR_TASK_GATHERING;
    slr_live_task task = {
        .id = slri_id(slot->generation, index),
        .run = slot->run,
        .worker = is_placed ? slot->taker : slot->target,
        .state = slot->state,
        .op = slot->op,
        .submitted_ns = slot->submitted_ns,
        .ready_ns = slot->state == SLR_TASK_PENDING ? 0 : slot->ready_ns,
        .started_ns = slot->state == SLR_TASK_RUNNING ? slot->started_ns : 0,
        .timeout_ns = slot->timeout_ns,
    };
    memcpy(task.digest, slot->digest, sizeof task.digest);
    return task;
}

int slr_tasks_read(slr_region *region, uint32_t states, uint32_t *cursor, slr_live_task *out, uint32_t room,
                   uint32_t *count) {
    if (!region || !cursor || !count || (room && !out))
        return SLR_INVALID;
    uint32_t index = *cursor, written = 0;
    for (bool more = true; more;) {
        slri_lock_to_read(region);
        uint32_t end = region->header->slots_fresh;
        for (int i = 0; i < LOOKED_AT_PER_HOLD && index < end && written < room; i++, index++) {
            const slri_slot *slot = &region->slots[index];
            if (states >> slot->state & 1 && !slot->members)
                out[written++] = live_task(slot, index);
        }
        more = index < end && written < room;
        slri_unlock(region);
    }
    *cursor = index;
    *count = written;
    return SLR_OK;
}
