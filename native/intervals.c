/* The intervals of one buffer: see intervals.h. */
#include <stdlib.h>
#include <string.h>

#include "intervals.h"

#define CHUNK_FIRST   4 /* most buffers have few intervals */
#define CHUNK_MOST    128
#define FIRST_CHUNKS  1
#define FIRST_READERS 4

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

/* Keeps of the chunk what still says something. */
static void prune_chunk(const slr_region *region, slri_chunk *chunk) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < chunk->n; i++) {
        slri_interval *it = &chunk->items[i];
        drop_over_readers(region, it);
        if (!it->n_readers && writer_over(region, it->writer))
            free(it->readers);
        else
            chunk->items[kept++] = *it;
    }
    chunk->n = kept;
}

void slri_intervals_prune(const slr_region *region, slri_track *t) {
    uint32_t kept = 0;
    t->n = 0;
    for (uint32_t i = 0; i < t->n_chunks; i++) {
        slri_chunk *chunk = t->chunks[i], *before = kept ? t->chunks[kept - 1] : NULL;
        prune_chunk(region, chunk);
        t->n += chunk->n;
        if (before && chunk->n <= before->room - before->n) { /* also where nothing is left of it */
            memcpy(&before->items[before->n], chunk->items, chunk->n * sizeof *chunk->items);
            before->n += chunk->n;
            free(chunk);
        } else if (chunk->n) {
            t->chunks[kept++] = chunk;
        } else {
            free(chunk);
        }
    }
    t->n_chunks = kept;
    t->prune_at = t->n * 2 > SLRI_PRUNE_FROM ? t->n * 2 : SLRI_PRUNE_FROM;
}

void slri_intervals_forget(slri_track *t) {
    for (uint32_t c = 0; c < t->n_chunks; c++) {
        for (uint32_t i = 0; i < t->chunks[c]->n; i++)
            free(t->chunks[c]->items[i].readers);
        free(t->chunks[c]);
    }
    free(t->chunks);
    t->chunks = NULL;
    t->n_chunks = t->room = t->n = 0;
}

/* ---- places ---- */

static uint32_t chunk_after(const slri_track *t, uint64_t at) {
    uint32_t low = 0, high = t->n_chunks;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const slri_chunk *chunk = t->chunks[middle];
        if (chunk->items[chunk->n - 1].end > at)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

slri_cursor slri_intervals_after(const slri_track *t, uint64_t at) {
    slri_cursor found = {.chunk = chunk_after(t, at)};
    if (found.chunk == t->n_chunks)
        return found;
    const slri_chunk *chunk = t->chunks[found.chunk];
    uint32_t low = 0, high = chunk->n;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (chunk->items[middle].end > at)
            high = middle;
        else
            low = middle + 1;
    }
    found.at = low;
    return found;
}

slri_interval *slri_interval_at(const slri_track *t, slri_cursor cursor) {
    return cursor.chunk < t->n_chunks ? &t->chunks[cursor.chunk]->items[cursor.at] : NULL;
}

slri_cursor slri_interval_next(const slri_track *t, slri_cursor cursor) {
    if (++cursor.at == t->chunks[cursor.chunk]->n)
        cursor = (slri_cursor){.chunk = cursor.chunk + 1};
    return cursor;
}

/* ---- changes ---- */

static slri_chunk *resize(slri_chunk *chunk, uint32_t room) {
    slri_chunk *resized = reallocarray(chunk, 1, sizeof *chunk + room * sizeof *chunk->items);
    if (resized)
        resized->room = room;
    return resized;
}

static bool add_chunk(slri_track *t, uint32_t at, uint32_t room) {
    if (t->n_chunks == t->room && !slri_grow((void **)&t->chunks, &t->room, FIRST_CHUNKS, sizeof(slri_chunk *)))
        return false;
    slri_chunk *chunk = resize(NULL, room);
    if (!chunk)
        return false;
    chunk->n = 0;
    memmove(&t->chunks[at + 1], &t->chunks[at], (t->n_chunks - at) * sizeof(slri_chunk *));
    t->chunks[at] = chunk;
    t->n_chunks++;
    return true;
}

static void drop_chunk(slri_track *t, uint32_t at) {
    free(t->chunks[at]);
    t->n_chunks--;
    memmove(&t->chunks[at], &t->chunks[at + 1], (t->n_chunks - at) * sizeof(slri_chunk *));
}

/* The upper half of a full chunk becomes one of its own. */
static bool halve(slri_track *t, uint32_t at) {
    if (!add_chunk(t, at + 1, CHUNK_MOST))
        return false;
    slri_chunk *lower = t->chunks[at], *upper = t->chunks[at + 1];
    upper->n = lower->n - lower->n / 2;
    lower->n -= upper->n;
    memcpy(upper->items, &lower->items[lower->n], upper->n * sizeof *upper->items);
    return true;
}

/* Makes room for one more in the cursor's chunk; the cursor, which may stand at the chunk's end, moves along. */
static bool make_room(slri_track *t, slri_cursor *cursor) {
    if (cursor->chunk == t->n_chunks) { /* past the last: at the end of the last chunk */
        if (!t->n_chunks && !add_chunk(t, 0, CHUNK_FIRST))
            return false;
        cursor->chunk = t->n_chunks - 1;
        cursor->at = t->chunks[cursor->chunk]->n;
    }
    slri_chunk *chunk = t->chunks[cursor->chunk];
    if (chunk->n < chunk->room)
        return true;
    if (chunk->room < CHUNK_MOST) {
        chunk = resize(chunk, chunk->room * 2);
        if (chunk)
            t->chunks[cursor->chunk] = chunk;
        return chunk;
    }
    if (!halve(t, cursor->chunk))
        return false;
    if (cursor->at > chunk->n) {
        cursor->at -= chunk->n;
        cursor->chunk++;
    }
    return true;
}

/* Before the cursor, which then stands at the new one. */
static bool insert(slri_track *t, slri_cursor *cursor, slri_interval it) {
    if (!make_room(t, cursor))
        return false;
    slri_chunk *chunk = t->chunks[cursor->chunk];
    slri_interval *place = &chunk->items[cursor->at];
    memmove(place + 1, place, (chunk->n - cursor->at) * sizeof *place);
    *place = it;
    chunk->n++;
    t->n++;
    return true;
}

/* Removes what begins before `end`, from the cursor on, which may stand at a chunk's end. */
static void remove_until(slri_track *t, slri_cursor cursor, uint64_t end) {
    for (bool more = true; more && cursor.chunk < t->n_chunks; cursor.at = 0) {
        slri_chunk *chunk = t->chunks[cursor.chunk];
        uint32_t beyond = cursor.at;
        while (beyond < chunk->n && chunk->items[beyond].begin < end)
            free(chunk->items[beyond++].readers);
        memmove(&chunk->items[cursor.at], &chunk->items[beyond], (chunk->n - beyond) * sizeof *chunk->items);
        chunk->n -= beyond - cursor.at;
        t->n -= beyond - cursor.at;
        more = chunk->n == cursor.at; /* the chunk's last was among them */
        if (chunk->n)
            cursor.chunk++;
        else
            drop_chunk(t, cursor.chunk);
    }
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

/* Cuts the cursor's interval in two at byte `at`, which is inside it. */
static bool split(slri_track *t, slri_cursor cursor, uint64_t at) {
    slri_interval *left = slri_interval_at(t, cursor), right = *left;
    right.begin = at;
    right.room = right.n_readers;
    right.readers = NULL;
    if (right.n_readers) {
        right.readers = malloc(right.n_readers * sizeof *right.readers);
        if (!right.readers)
            return false;
        memcpy(right.readers, left->readers, right.n_readers * sizeof *right.readers);
    }
    uint64_t end = left->end;
    left->end = at;
    cursor.at++; /* perhaps the chunk's end, which insert takes */
    if (insert(t, &cursor, right))
        return true;
    slri_interval_at(t, slri_intervals_after(t, at - 1))->end = end;
    free(right.readers);
    return false;
}

/* Cuts so that [begin, end) is covered by whole intervals, from *first on. */
static bool cut_out(slri_track *t, uint64_t begin, uint64_t end, slri_cursor *first) {
    slri_cursor cursor = slri_intervals_after(t, begin);
    const slri_interval *it = slri_interval_at(t, cursor);
    *first = cursor;
    if (!it || it->begin >= end || (it->begin == begin && it->end == end)) /* mostly: nothing there, or just that */
        return true;
    if (it->begin < begin && !split(t, cursor, begin))
        return false;
    cursor = slri_intervals_after(t, end);
    it = slri_interval_at(t, cursor);
    if (it && it->begin < end && !split(t, cursor, end))
        return false;
    *first = slri_intervals_after(t, begin);
    return true;
}

bool slri_intervals_write(slri_track *t, uint64_t begin, uint64_t end, slr_id id) {
    slri_cursor cursor;
    if (!cut_out(t, begin, end, &cursor))
        return false;
    slri_interval *it = slri_interval_at(t, cursor);
    if (!it || it->begin >= end)
        return insert(t, &cursor, (slri_interval){.begin = begin, .end = end, .writer = id});
    it->begin = begin;
    it->end = end;
    it->writer = id;
    it->n_readers = 0;
    cursor.at++;
    remove_until(t, cursor, end);
    return true;
}

bool slri_intervals_read(const slr_region *region, slri_track *t, uint64_t begin, uint64_t end, slr_id id) {
    slri_cursor cursor;
    if (!cut_out(t, begin, end, &cursor))
        return false;
    for (uint64_t at = begin; at < end; cursor = slri_interval_next(t, cursor)) {
        slri_interval *it = slri_interval_at(t, cursor);
        if (!it || it->begin > at) {
            uint64_t gap_end = it && it->begin < end ? it->begin : end;
            if (!insert(t, &cursor, (slri_interval){.begin = at, .end = gap_end}))
                return false;
            it = slri_interval_at(t, cursor);
        }
        if (!add_reader(region, it, id))
            return false;
        at = it->end;
    }
    return true;
}
