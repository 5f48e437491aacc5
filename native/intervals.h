/*
 * What is known of one buffer: disjoint intervals in order, each with its last writer and the readers since.
 *
 * They stand in chunks of a bounded size, so that one is inserted among hundreds of thousands without moving them all:
 * the tiles of a large array are that many runs. Private to the process that submits; called with the region's lock
 * held. bool: false when memory ran out, and then what the track says may be incomplete.
 */
#ifndef SLRI_INTERVALS_H
#define SLRI_INTERVALS_H

#include "region.h"

typedef struct {
    uint64_t begin;
    uint64_t end;
    slr_id writer; /* 0: none known */
    slr_id *readers;
    uint32_t n_readers;
    uint32_t room;
} slri_interval;

typedef struct {
    uint32_t n; /* never 0 but while the chunk is being filled or emptied */
    uint32_t room;
    slri_interval items[];
} slri_chunk;

typedef struct {
    uint64_t buffer; /* 0: empty entry of the tracker's table */
    uint64_t serial; /* of the block; 0 for named buffers */
    slri_chunk **chunks;
    uint32_t n_chunks;
    uint32_t room;
    uint32_t n;        /* intervals in all chunks */
    uint32_t prune_at; /* prune when n has come here */
} slri_track;

typedef struct {
    uint32_t chunk;
    uint32_t at;
} slri_cursor; /* good until the next change */

#define SLRI_PRUNE_FROM 16

slri_cursor slri_intervals_after(const slri_track *t, uint64_t at);       /* at the first that ends after byte `at` */
slri_interval *slri_interval_at(const slri_track *t, slri_cursor cursor); /* NULL: past the last */
slri_cursor slri_interval_next(const slri_track *t, slri_cursor cursor);
bool slri_intervals_write(slri_track *t, uint64_t begin, uint64_t end, slr_id task);
bool slri_intervals_read(const slr_region *region, slri_track *t, uint64_t begin, uint64_t end, slr_id task);
/* Drops what says nothing any more: ids of tasks that are over, but for writers that still poison. */
void slri_intervals_prune(const slr_region *region, slri_track *t);
void slri_intervals_forget(slri_track *t); /* and gives the memory back */
bool slri_task_over(const slr_region *region, slr_id task);
bool slri_grow(void **array, uint32_t *room, uint32_t first, size_t size);

#endif
