/* The intervals of one buffer: see intervals.h. */
#include <stdlib.h>
#include <string.h>

#include "intervals.h"

#define FIRST_INTERVALS 4
#define FIRST_READERS   4

bool slri_grow(void **array, uint32_t *room, uint32_t first, size_t size) {
    uint32_t wanted = *room ? *room * 2 : first;
    void *larger = reallocarray(*array, wanted, size);
    if (!larger)
        return false;
    *array = larger;
    *room = wanted;
    return true;
}

bool slri_task_over(const slr_region *region, slr_id id) {
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

static void drop_over_readers(const slr_region *region, slri_interval *it) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < it->n_readers; i++)
        if (!slri_task_over(region, it->readers[i]))
            it->readers[kept++] = it->readers[i];
    it->n_readers = kept;
}

void slri_intervals_prune(const slr_region *region, slri_track *t) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < t->n; i++) {
        slri_interval *it = &t->intervals[i];
        drop_over_readers(region, it);
        if (!it->n_readers && writer_over(region, it->writer))
            free(it->readers);
        else
            t->intervals[kept++] = *it;
    }
    t->n = kept;
    t->prune_at = kept * 2 > SLRI_PRUNE_FROM ? kept * 2 : SLRI_PRUNE_FROM;
}

void slri_intervals_forget(slri_track *t) {
    for (uint32_t i = 0; i < t->n; i++)
        free(t->intervals[i].readers);
    t->n = 0;
}

uint32_t slri_intervals_after(const slri_track *t, uint64_t at) {
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

static bool insert(slri_track *t, uint32_t at, slri_interval it) {
    if (t->n == t->room && !slri_grow((void **)&t->intervals, &t->room, FIRST_INTERVALS, sizeof *t->intervals))
        return false;
    memmove(&t->intervals[at + 1], &t->intervals[at], (t->n - at) * sizeof *t->intervals);
    t->intervals[at] = it;
    t->n++;
    return true;
}

static bool add_reader(const slr_region *region, slri_interval *it, slr_id id) {
    if (it->n_readers && it->readers[it->n_readers - 1] == id)
        return true;
    if (it->n_readers == it->room)
        drop_over_readers(region, it);
    if (it->n_readers == it->room && !slri_grow((void **)&it->readers, &it->room, FIRST_READERS, sizeof *it->readers))
        return false;
    it->readers[it->n_readers++] = id;
    return true;
}

/* Cuts interval `i` in two at byte `at`, which is inside it. */
static bool split(slri_track *t, uint32_t i, uint64_t at) {
    slri_interval right = t->intervals[i];
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
static bool cut_out(slri_track *t, uint64_t begin, uint64_t end, uint32_t *first) {
    uint32_t i = slri_intervals_after(t, begin);
    if (i < t->n && t->intervals[i].begin < begin) {
        if (!split(t, i, begin))
            return false;
        i++;
    }
    uint32_t last = slri_intervals_after(t, end);
    if (last < t->n && t->intervals[last].begin < end && !split(t, last, end))
        return false;
    *first = i;
    return true;
}

bool slri_intervals_write(slri_track *t, uint64_t begin, uint64_t end, slr_id id) {
    uint32_t first, beyond;
    if (!cut_out(t, begin, end, &first))
        return false;
    for (beyond = first; beyond < t->n && t->intervals[beyond].begin < end; beyond++)
        if (beyond > first)
            free(t->intervals[beyond].readers);
    if (beyond == first)
        return insert(t, first, (slri_interval){.begin = begin, .end = end, .writer = id});
    slri_interval *it = &t->intervals[first];
    it->begin = begin;
    it->end = end;
    it->writer = id;
    it->n_readers = 0;
    memmove(it + 1, &t->intervals[beyond], (t->n - beyond) * sizeof *it);
    t->n -= beyond - first - 1;
    return true;
}

bool slri_intervals_read(const slr_region *region, slri_track *t, uint64_t begin, uint64_t end, slr_id id) {
    uint32_t i;
    if (!cut_out(t, begin, end, &i))
        return false;
    for (uint64_t at = begin; at < end; at = t->intervals[i].end, i++) {
        if (i == t->n || t->intervals[i].begin > at) {
            uint64_t gap_end = i < t->n && t->intervals[i].begin < end ? t->intervals[i].begin : end;
            if (!insert(t, i, (slri_interval){.begin = at, .end = gap_end}))
                return false;
        }
        if (!add_reader(region, &t->intervals[i], id))
            return false;
    }
    return true;
}
