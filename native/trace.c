/* The trace ring: the last trace_events tasks that ended. */
#include <string.h>

#include "region.h"

#define COPIED_PER_HOLD 32

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
