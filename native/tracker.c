/*
 * Dependencies by overlap: which tasks last wrote and since read each byte range of each buffer.
 *
 * Private to the process that submits, guarded by the region's lock. Each buffer has disjoint intervals
 * in order, each with its last writer and the readers since. An id whose task is over says nothing any more, except
 * that a writer that failed poisons readers of its own run while that run takes submissions; such entries are dropped
 * as arrays grow, so the whole stays bounded by what is live, not by what was submitted.
 *
 * A block's place may be given to another block: entries carry the block's serial and are forgotten when it differs.
 * After a recovery the order that dropped tasks had stood for is gone: everything then comes after the tasks that still
 * run.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "intervals.h"

#define FIRST_TABLE 64

typedef struct {
    uint64_t submission; /* the one in which the slot was found ... */
    uint32_t at;         /* ... at this place of `found` */
} stamp;

struct slri_tracker {
    slri_track *table; /* open addressing; entries leave only when it is built anew */
    uint32_t room;
    uint32_t used;
    slri_producer *found;
    uint32_t n_found;
    uint32_t found_room;
    slr_id root;
    stamp *stamps; /* one per slot */
    uint64_t submissions;
    uint32_t recoveries;
    slr_id *barrier; /* what still ran after the last recovery */
    uint32_t n_barrier;
    bool broken; /* memory ran out in the middle of a change: what it knows is not complete */
};

/* ---- the table of buffers ---- */

static slri_track *slot_of(slri_track *table, uint32_t room, uint64_t buffer) {
    uint64_t hash = buffer * 0x9e3779b97f4a7c15ull;
    for (uint32_t at = (uint32_t)(hash >> 32) & (room - 1);; at = (at + 1) & (room - 1))
        if (!table[at].buffer || table[at].buffer == buffer)
            return &table[at];
}

/* Drops the buffers of which nothing is left to know, and makes room for as many again. */
static bool rebuild_table(const slr_region *region, slri_tracker *tracker) {
    uint32_t live = 0, room = FIRST_TABLE;
    for (uint32_t i = 0; i < tracker->room; i++) {
        slri_intervals_prune(region, &tracker->table[i]);
        live += tracker->table[i].n > 0;
    }
    while (room < live * 4)
        room *= 2;
    slri_track *table = calloc(room, sizeof *table);
    if (!table)
        return false;
    for (uint32_t i = 0; i < tracker->room; i++) {
        slri_track *old = &tracker->table[i];
        if (old->n)
            *slot_of(table, room, old->buffer) = *old;
        else
            slri_intervals_forget(old);
    }
    free(tracker->table);
    tracker->table = table;
    tracker->room = room;
    tracker->used = live;
    return true;
}

/* The buffer's entry, with what was known of another block in the same place forgotten; NULL: nothing is known. */
static slri_track *find_track(slr_region *region, uint64_t buffer) {
    slri_tracker *tracker = region->tracker;
    if (!tracker->room)
        return NULL;
    slri_track *t = slot_of(tracker->table, tracker->room, buffer);
    if (!t->buffer)
        return NULL;
    uint64_t serial = buffer & SLRI_NAMED_BUFFER ? 0 : slri_heap_live(region, buffer)->serial;
    if (t->serial != serial) {
        slri_intervals_forget(t);
        t->serial = serial;
    }
    return t;
}

static slri_track *make_track(slr_region *region, uint64_t buffer) {
    slri_tracker *tracker = region->tracker;
    slri_track *t = find_track(region, buffer);
    if (t)
        return t;
    if (tracker->used * 2 >= tracker->room && !rebuild_table(region, tracker))
        return NULL;
    t = slot_of(tracker->table, tracker->room, buffer);
    *t = (slri_track){
        .buffer = buffer,
        .serial = buffer & SLRI_NAMED_BUFFER ? 0 : slri_heap_live(region, buffer)->serial,
        .prune_at = SLRI_PRUNE_FROM,
    };
    tracker->used++;
    return t;
}

/* ---- collecting ---- */

static bool depend(slr_region *region, slr_id run, slr_id id, slri_dependence kind) {
    slri_tracker *tracker = region->tracker;
    const slri_slot *slot = id ? slri_slot_find(region, id) : NULL;
    if (!slot)
        return true;
    if (slot->run != run)
        kind = SLRI_ORDER;
    if (!slri_task_live(slot->state)) {
        if (kind == SLRI_DATA && !tracker->root && slot->state != SLR_TASK_SUCCEEDED)
            tracker->root = slot->state == SLR_TASK_POISONED ? slot->root : id;
        return true;
    }
    stamp *seen = &tracker->stamps[(uint32_t)id];
    if (seen->submission == tracker->submissions) {
        if (kind == SLRI_DATA)
            tracker->found[seen->at].kind = SLRI_DATA;
        return true;
    }
    if (tracker->n_found == tracker->found_room &&
        !slri_grow((void **)&tracker->found, &tracker->found_room, 16, sizeof *tracker->found))
        return false;
    *seen = (stamp){.submission = tracker->submissions, .at = tracker->n_found};
    tracker->found[tracker->n_found++] = (slri_producer){.slot = (uint32_t)id, .kind = kind};
    return true;
}

static bool depend_on_range(slr_region *region, slr_id run, slr_range range) {
    const slri_track *t = range.begin < range.end ? find_track(region, range.buffer) : NULL;
    if (!t)
        return true;
    slri_cursor cursor = slri_intervals_after(t, range.begin);
    const slri_interval *it;
    for (; (it = slri_interval_at(t, cursor)) && it->begin < range.end; cursor = slri_interval_next(t, cursor)) {
        if (!depend(region, run, it->writer, range.access & SLR_READ ? SLRI_DATA : SLRI_ORDER))
            return false;
        if (!(range.access & SLR_WRITE))
            continue;
        for (uint32_t r = 0; r < it->n_readers; r++)
            if (!depend(region, run, it->readers[r], SLRI_ORDER))
                return false;
    }
    return true;
}

static slri_tracker *make_tracker(const slr_region *region) {
    slri_tracker *tracker = calloc(1, sizeof *tracker);
    stamp *stamps = tracker ? calloc(region->header->config.slots, sizeof *stamps) : NULL;
    if (!stamps) {
        free(tracker);
        return NULL;
    }
    tracker->stamps = stamps;
    tracker->recoveries = region->header->recoveries;
    return tracker;
}

static bool raise_barrier(const slr_region *region, slri_tracker *tracker) {
    uint32_t room = 0;
    free(tracker->barrier);
    tracker->barrier = NULL;
    tracker->n_barrier = 0;
    for (uint32_t i = 0; i < tracker->room; i++)
        slri_intervals_forget(&tracker->table[i]);
    for (uint32_t i = 0; i < region->header->slots_fresh; i++) {
        if (region->slots[i].state != SLR_TASK_RUNNING)
            continue;
        if (tracker->n_barrier == room && !slri_grow((void **)&tracker->barrier, &room, 16, sizeof *tracker->barrier))
            return false;
        tracker->barrier[tracker->n_barrier++] = slri_id(region->slots[i].generation, i);
    }
    tracker->recoveries = region->header->recoveries;
    return true;
}

static bool depend_on_barrier(slr_region *region, slr_id run) {
    slri_tracker *tracker = region->tracker;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < tracker->n_barrier; i++) {
        if (slri_task_over(region, tracker->barrier[i]))
            continue;
        if (!depend(region, run, tracker->barrier[i], SLRI_ORDER))
            return false;
        tracker->barrier[kept++] = tracker->barrier[i];
    }
    tracker->n_barrier = kept;
    return true;
}

static bool collect(slr_region *region, const slr_submission *submission) {
    slri_tracker *tracker = region->tracker;
    if (tracker->recoveries != region->header->recoveries && !raise_barrier(region, tracker))
        return false;
    if (submission->n_ranges && !depend_on_barrier(region, submission->run))
        return false;
    for (uint32_t i = 0; i < submission->n_after; i++)
        if (!depend(region, submission->run, submission->after[i], SLRI_DATA))
            return false;
    for (uint32_t i = 0; i < submission->n_ranges; i++)
        if (!depend_on_range(region, submission->run, slri_range_in_block(region, &submission->ranges[i])))
            return false;
    return true;
}

int slri_tracker_collect(slr_region *region, const slr_submission *submission, slri_dependencies *out) {
    *out = (slri_dependencies){0};
    if (!submission->n_ranges && !submission->n_after)
        return SLR_OK;
    if (!region->tracker)
        region->tracker = make_tracker(region);
    slri_tracker *tracker = region->tracker;
    if (!tracker || tracker->broken)
        goto no_memory;
    tracker->submissions++;
    tracker->n_found = 0;
    tracker->root = 0;
    if (!collect(region, submission))
        goto no_memory;
    *out = (slri_dependencies){.producers = tracker->found, .n_producers = tracker->n_found, .root = tracker->root};
    return SLR_OK;
no_memory:
    errno = ENOMEM;
    return SLR_SYSTEM;
}

static bool record_range(slr_region *region, slr_range range, bool write, slr_id task) {
    slri_track *t = make_track(region, range.buffer);
    if (!t)
        return false;
    if (t->n >= t->prune_at)
        slri_intervals_prune(region, t);
    return write ? slri_intervals_write(t, range.begin, range.end, task)
                 : slri_intervals_read(region, t, range.begin, range.end, task);
}

/* Reads first: where a task reads and writes the same bytes it is remembered as their writer. */
void slri_tracker_record(slr_region *region, const slr_submission *submission, slr_id task) {
    for (int write = 0; write <= 1; write++) {
        for (uint32_t i = 0; i < submission->n_ranges; i++) {
            const slr_range *range = &submission->ranges[i];
            bool writes = range->access & SLR_WRITE;
            if (range->begin == range->end || writes != (bool)write)
                continue;
            if (!record_range(region, slri_range_in_block(region, range), writes, task))
                region->tracker->broken = true;
        }
    }
}

void slri_tracker_free(slri_tracker *tracker) {
    if (!tracker)
        return;
    for (uint32_t i = 0; i < tracker->room; i++)
        slri_intervals_forget(&tracker->table[i]);
    free(tracker->table);
    free(tracker->found);
    free(tracker->stamps);
    free(tracker->barrier);
    free(tracker);
}
