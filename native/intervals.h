/*
 * What is known of one buffer: a sorted array of disjoint intervals, each with its last writer and the readers since.
 *
 * Private to the process that submits; called with the region's lock held. bool: false when memory ran out, and then
 * what the array says may be incomplete.
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
    uint64_t buffer; /* 0: empty entry of the tracker's table */
    uint64_t serial; /* of the block; 0 for named buffers */
    slri_interval *intervals;
    uint32_t n;
    uint32_t room;
    uint32_t prune_at; /* prune when n has come here */
} slri_track;

#define SLRI_PRUNE_FROM 16

uint32_t slri_intervals_after(const slri_track *t, uint64_t at); /* the first one that ends after byte `at` */
bool slri_intervals_write(slri_track *t, uint64_t begin, uint64_t end, slr_id task);
bool slri_intervals_read(const slr_region *region, slri_track *t, uint64_t begin, uint64_t end, slr_id task);
/* Drops what says nothing any more: ids of tasks that are over, but for writers that still poison. */
void slri_intervals_prune(const slr_region *region, slri_track *t);
void slri_intervals_forget(slri_track *t);
bool slri_task_over(const slr_region *region, slr_id task);
bool slri_grow(void **array, uint32_t *room, uint32_t first, size_t size);

#endif
