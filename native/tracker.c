/*
 * Dependencies by overlap: which tasks last wrote and since read each byte range of each buffer.
 *
 * Private to the process that submits, guarded by the region's lock. Each buffer has a sorted array of disjoint
 * intervals, each with its last writer and the readers since. An id whose task is over says nothing any more, except
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

#include "region.h"

#define NAMED_BUFFER    (1ull << 63)
#define FIRST_TABLE     64
#define FIRST_INTERVALS 4
#define FIRST_READERS   4
#define PRUNE_FROM      16

typedef struct {
    uint64_t begin;
    uint64_t end;
    slr_id writer; /* 0: none known */
    slr_id *readers;
    uint32_t n_readers;
    uint32_t room;
} interval;

typedef struct {
    uint64_t buffer; /* 0: empty entry of the table */
    uint64_t serial; /* of the block; 0 for named buffers */
    interval *intervals;
    uint32_t n;
    uint32_t room;
    uint32_t prune_at;
} track;

typedef struct {
    uint64_t submission; /* the one in which the slot was found ... */
    uint32_t at;         /* ... at this place of `found` */
} stamp;

struct slri_tracker {
    track *table; /* open addressing; entries leave only when it is built anew */
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

static bool grow(void **array, uint32_t *room, uint32_t first, size_t size) {
    uint32_t wanted = *room ? *room * 2 : first;
    void *larger = reallocarray(*array, wanted, size);
    if (!larger)
        return false;
    *array = larger;
    *room = wanted;
    return true;
}

/* ---- what is over ---- */

static bool reader_over(const slr_region *region, slr_id id) {
    const slri_slot *slot = slri_slot_find(region, id);
    return !slot || !slri_task_live(slot->state);
}

static bool writer_over(const slr_region *region, slr_id id) {
    const slri_slot *slot = id ? slri_slot_find(region, id) : NULL;
    if (!slot || slot->state == SLR_TASK_SUCCEEDED)
        return true;
    if (slri_task_live(slot->state))
        return false;
    const slri_run *run = slri_run_find(region, slot->run);
    return !run || run->state != SLRI_RUN_OPEN;
}

static void drop_over_readers(const slr_region *region, interval *it) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < it->n_readers; i++)
        if (!reader_over(region, it->readers[i]))
            it->readers[kept++] = it->readers[i];
    it->n_readers = kept;
}

static void prune(const slr_region *region, track *t) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < t->n; i++) {
        interval *it = &t->intervals[i];
        drop_over_readers(region, it);
        if (!it->n_readers && writer_over(region, it->writer))
            free(it->readers);
        else
            t->intervals[kept++] = *it;
    }
    t->n = kept;
    t->prune_at = kept * 2 > PRUNE_FROM ? kept * 2 : PRUNE_FROM;
}

static void forget(track *t) {
    for (uint32_t i = 0; i < t->n; i++)
        free(t->intervals[i].readers);
    t->n = 0;
}

/* ---- the table of buffers ---- */

static track *slot_of(track *table, uint32_t room, uint64_t buffer) {
    uint64_t hash = buffer * 0x9e3779b97f4a7c15ull;
    for (uint32_t at = (uint32_t)(hash >> 32) & (room - 1);; at = (at + 1) & (room - 1))
        if (!table[at].buffer || table[at].buffer == buffer)
            return &table[at];
}

/* Drops the buffers of which nothing is left to know, and makes room for as many again. */
static bool rebuild_table(const slr_region *region, slri_tracker *tracker) {
    uint32_t live = 0, room = FIRST_TABLE;
    for (uint32_t i = 0; i < tracker->room; i++) {
        prune(region, &tracker->table[i]);
        live += tracker->table[i].n > 0;
    }
    while (room < live * 4)
        room *= 2;
    track *table = calloc(room, sizeof *table);
    if (!table)
        return false;
    for (uint32_t i = 0; i < tracker->room; i++) {
        track *old = &tracker->table[i];
        if (old->n)
            *slot_of(table, room, old->buffer) = *old;
        else
            free(old->intervals);
    }
    free(tracker->table);
    tracker->table = table;
    tracker->room = room;
    tracker->used = live;
    return true;
}

/* The buffer's entry, with what was known of another block in the same place forgotten; NULL: nothing is known. */
static track *find_track(slr_region *region, uint64_t buffer) {
    slri_tracker *tracker = region->tracker;
    if (!tracker->room)
        return NULL;
    track *t = slot_of(tracker->table, tracker->room, buffer);
    if (!t->buffer)
        return NULL;
    uint64_t serial = buffer & NAMED_BUFFER ? 0 : slri_heap_live(region, buffer)->serial;
    if (t->serial != serial) {
        forget(t);
        t->serial = serial;
    }
    return t;
}

static track *make_track(slr_region *region, uint64_t buffer) {
    slri_tracker *tracker = region->tracker;
    track *t = find_track(region, buffer);
    if (t)
        return t;
    if (tracker->used * 2 >= tracker->room && !rebuild_table(region, tracker))
        return NULL;
    t = slot_of(tracker->table, tracker->room, buffer);
    *t = (track){
        .buffer = buffer,
        .serial = buffer & NAMED_BUFFER ? 0 : slri_heap_live(region, buffer)->serial,
        .prune_at = PRUNE_FROM,
    };
    tracker->used++;
    return t;
}

/* ---- the intervals of one buffer ---- */

/* The first interval that ends after `at`. */
static uint32_t first_after(const track *t, uint64_t at) {
    uint32_t low = 0, high = t->n;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (t->intervals[middle].end > at)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static bool insert(track *t, uint32_t at, interval it) {
    if (t->n == t->room && !grow((void **)&t->intervals, &t->room, FIRST_INTERVALS, sizeof *t->intervals))
        return false;
    memmove(&t->intervals[at + 1], &t->intervals[at], (t->n - at) * sizeof *t->intervals);
    t->intervals[at] = it;
    t->n++;
    return true;
}

static bool add_reader(const slr_region *region, interval *it, slr_id id) {
    if (it->n_readers && it->readers[it->n_readers - 1] == id)
        return true;
    if (it->n_readers == it->room)
        drop_over_readers(region, it);
    if (it->n_readers == it->room && !grow((void **)&it->readers, &it->room, FIRST_READERS, sizeof *it->readers))
        return false;
    it->readers[it->n_readers++] = id;
    return true;
}

/* Cuts interval `i` in two at byte `at`, which is inside it. */
static bool split(track *t, uint32_t i, uint64_t at) {
    interval right = t->intervals[i];
    right.begin = at;
    right.room = right.n_readers;
    right.readers = NULL;
    if (right.n_readers) {
        right.readers = malloc(right.n_readers * sizeof *right.readers);
        if (!right.readers)
            return false;
        memcpy(right.readers, t->intervals[i].readers, right.n_readers * sizeof *right.readers);
    }
    if (!insert(t, i + 1, right)) {
        free(right.readers);
        return false;
    }
    t->intervals[i].end = at;
    return true;
}

/* Cuts so that [begin, end) is covered by whole intervals, from *first on. */
static bool cut_out(track *t, uint64_t begin, uint64_t end, uint32_t *first) {
    uint32_t i = first_after(t, begin);
    if (i < t->n && t->intervals[i].begin < begin) {
        if (!split(t, i, begin))
            return false;
        i++;
    }
    uint32_t last = first_after(t, end);
    if (last < t->n && t->intervals[last].begin < end && !split(t, last, end))
        return false;
    *first = i;
    return true;
}

static bool record_write(track *t, uint64_t begin, uint64_t end, slr_id id) {
    uint32_t first, beyond;
    if (!cut_out(t, begin, end, &first))
        return false;
    for (beyond = first; beyond < t->n && t->intervals[beyond].begin < end; beyond++)
        if (beyond > first)
            free(t->intervals[beyond].readers);
    if (beyond == first)
        return insert(t, first, (interval){.begin = begin, .end = end, .writer = id});
    interval *it = &t->intervals[first];
    it->begin = begin;
    it->end = end;
    it->writer = id;
    it->n_readers = 0;
    memmove(it + 1, &t->intervals[beyond], (t->n - beyond) * sizeof *it);
    t->n -= beyond - first - 1;
    return true;
}

static bool record_read(const slr_region *region, track *t, uint64_t begin, uint64_t end, slr_id id) {
    uint32_t i;
    if (!cut_out(t, begin, end, &i))
        return false;
    for (uint64_t at = begin; at < end; at = t->intervals[i].end, i++) {
        if (i == t->n || t->intervals[i].begin > at) {
            uint64_t gap_end = i < t->n && t->intervals[i].begin < end ? t->intervals[i].begin : end;
            if (!insert(t, i, (interval){.begin = at, .end = gap_end}))
                return false;
        }
        if (!add_reader(region, &t->intervals[i], id))
            return false;
    }
    return true;
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
        !grow((void **)&tracker->found, &tracker->found_room, 16, sizeof *tracker->found))
        return false;
    *seen = (stamp){.submission = tracker->submissions, .at = tracker->n_found};
    tracker->found[tracker->n_found++] = (slri_producer){.slot = (uint32_t)id, .kind = kind};
    return true;
}

static bool depend_on_range(slr_region *region, slr_id run, const slr_range *range) {
    const track *t = range->begin < range->end ? find_track(region, range->buffer) : NULL;
    if (!t)
        return true;
    for (uint32_t i = first_after(t, range->begin); i < t->n && t->intervals[i].begin < range->end; i++) {
        interval *it = &t->intervals[i];
        if (!depend(region, run, it->writer, range->access & SLR_READ ? SLRI_DATA : SLRI_ORDER))
            return false;
        if (!(range->access & SLR_WRITE))
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
        forget(&tracker->table[i]);
    for (uint32_t i = 0; i < region->header->slots_fresh; i++) {
        if (region->slots[i].state != SLR_TASK_RUNNING)
            continue;
        if (tracker->n_barrier == room && !grow((void **)&tracker->barrier, &room, 16, sizeof *tracker->barrier))
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
        if (reader_over(region, tracker->barrier[i]))
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
        if (!depend_on_range(region, submission->run, &submission->ranges[i]))
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

static bool record_range(slr_region *region, const slr_range *range, bool write, slr_id task) {
    track *t = make_track(region, range->buffer);
    if (!t)
        return false;
    if (t->n >= t->prune_at)
        prune(region, t);
    return write ? record_write(t, range->begin, range->end, task)
                 : record_read(region, t, range->begin, range->end, task);
}

/* Reads first: where a task reads and writes the same bytes it is remembered as their writer. */
void slri_tracker_record(slr_region *region, const slr_submission *submission, slr_id task) {
    for (int write = 0; write <= 1; write++) {
        for (uint32_t i = 0; i < submission->n_ranges; i++) {
            const slr_range *range = &submission->ranges[i];
            bool writes = range->access & SLR_WRITE;
            if (range->begin == range->end || writes != (bool)write)
                continue;
            if (!record_range(region, range, writes, task))
                region->tracker->broken = true;
        }
    }
}

void slri_tracker_free(slri_tracker *tracker) {
    if (!tracker)
        return;
    for (uint32_t i = 0; i < tracker->room; i++) {
        forget(&tracker->table[i]);
        free(tracker->table[i].intervals);
    }
    free(tracker->table);
    free(tracker->found);
    free(tracker->stamps);
    free(tracker->barrier);
    free(tracker);
}
