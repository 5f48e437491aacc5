/* States of the explorer's world: what makes two alike, and how one is kept and brought back. See explore.h. */
#include "explore.h"

/* ---- forgetting: what nobody may read any more keeps alike states apart. It becomes garbage, so that who reads it
 * all the same is found out. ---- */

#define GARBAGE(first, beyond) memset(&(first), 0xdb, (size_t)((uint8_t *)&(beyond) - (uint8_t *)&(first)))

static void forget_slots(void) {
    for (uint32_t i = 0; i < observer->header->slots_fresh; i++) {
        slri_slot *slot = &observer->slots[i];
        if (slot->state == SLR_TASK_FREE) {
            GARBAGE(slot->run, slot->next);
            GARBAGE(slot->verdict, slot[1]);
        } else if (slot->state == SLR_TASK_PENDING || slot->state == SLR_TASK_RUNNING) {
            slot->next = SLRI_NONE;
        }
        slot->verdict = SLRI_EVENTS;
    }
}

static void forget_edges(void) {
    for (uint32_t e = observer->header->edges_free; e != SLRI_NONE; e = observer->edges[e].next)
        GARBAGE(observer->edges[e].consumer, observer->edges[e + 1]);
    for (uint32_t e = observer->header->edges_fresh; e < observer->header->config.edges; e++)
        observer->edges[e] = (slri_edge){0};
}

/* The serials too: they tell blocks apart that are buffers, and here none is. */
static void forget_heap(void) {
    uint64_t extent, heap_bytes = observer->header->config.heap_bytes;
    observer->header->heap_serial = observer->header->heap_peak = 0;
    for (uint64_t at = 0; at < heap_bytes; at += extent) {
        slri_block *block = (slri_block *)(observer->heap + at);
        extent = block->extent & ~SLRI_BLOCK_USED;
        block->serial = 0;
        if (block->extent & SLRI_BLOCK_USED)
            continue;
        GARBAGE(block->held, block->bin_next);
        if (at + extent < heap_bytes)
            memset(block + 1, 0xdb, extent - sizeof *block);
    }
}

/* Up to the header of a free block that is the last: what follows that nobody reads. */
void world_measure_heap(void) {
    uint64_t at = 0, end = 0, heap_bytes = observer->header->config.heap_bytes;
    while (end < heap_bytes) {
        const slri_block *block = (const slri_block *)(observer->heap + end);
        at = end;
        end += block->extent & ~SLRI_BLOCK_USED;
        world.heap_bytes = block->extent & SLRI_BLOCK_USED ? end : at + sizeof *block;
    }
}

static void forget_workers(void) {
    for (uint32_t i = 0; i < observer->header->config.workers; i++) {
        slri_worker *worker = &observer->workers[i];
        stand at = world.actors[FIRST_WORKER + i].stand;
        worker->tasks = worker->failures = 0;
        if (at != AT_WAKE && at != AT_SLEEP && at != ASLEEP && at != AT_SPIN)
            worker->doorbell = 0; /* its worker looks at it anew before it sleeps */
        if (worker->state != SLR_WORKER_PARKED)
            worker->parked_next = worker->parked_previous = SLRI_NONE;
    }
}

void world_forget(void) {
    forget_slots();
    forget_edges();
    forget_heap();
    forget_workers();
    for (uint32_t i = 0; i < ACTORS; i++) {
        slr_region *region = world.actors[i].region;
        memset(&region->wakes[region->n_wakes], 0, (SLRI_MAX_WAKES - region->n_wakes) * sizeof *region->wakes);
    }
}

/* ---- states ---- */

typedef struct {
    uint8_t *at;
    uint64_t bytes;
} piece;

#define MOST_PIECES (16 + ACTORS)

static uint32_t pieces(piece *out) {
    const slr_region *r = observer;
    const slr_config *c = &r->header->config;
    uint32_t n = 0;
    out[n++] = (piece){(uint8_t *)&world, sizeof world};
    out[n++] = (piece){arena, world.arena_used};
    out[n++] = (piece){(uint8_t *)r->header, sizeof *r->header};
    out[n++] = (piece){(uint8_t *)r->workers, c->workers * sizeof *r->workers};
    out[n++] = (piece){(uint8_t *)r->runs, c->runs * sizeof *r->runs};
    out[n++] = (piece){(uint8_t *)r->callables, c->callables * sizeof *r->callables};
    out[n++] = (piece){(uint8_t *)r->slots, c->slots * sizeof *r->slots};
    out[n++] = (piece){(uint8_t *)r->edges, (c->edges * sizeof *r->edges + 7) / 8 * 8};
    out[n++] = (piece){(uint8_t *)r->buckets, slri_callable_buckets(c) * sizeof *r->buckets};
    out[n++] = (piece){(uint8_t *)r->bitmap[0], r->layout.bitmap_end - r->layout.bitmap[0]};
    out[n++] = (piece){r->heap, world.heap_bytes};
    for (uint32_t i = 0; i < ACTORS; i++)
        if (stack_bytes(&world.actors[i], i))
            out[n++] = (piece){world.actors[i].top_of_stack, stack_bytes(&world.actors[i], i)};
    return n;
}

uint64_t world_bytes(void) {
    piece all[MOST_PIECES];
    uint64_t bytes = 0;
    for (uint32_t i = 0, n = pieces(all); i < n; i++)
        bytes += all[i].bytes;
    return bytes;
}

void world_save(uint8_t *to) {
    piece all[MOST_PIECES];
    for (uint32_t i = 0, n = pieces(all); i < n; to += all[i++].bytes)
        memcpy(to, all[i].at, all[i].bytes);
}

/* The first piece says how large the others are. */
void world_restore(const uint8_t *from) {
    piece all[MOST_PIECES];
    memcpy(&world, from, sizeof world);
    for (uint32_t i = 0, n = pieces(all); i < n; from += all[i++].bytes)
        memcpy(all[i].at, from, all[i].bytes);
}

static uint64_t mix(uint64_t hash, uint64_t word, uint64_t by) {
    hash = (hash ^ word) * by;
    return hash ^ hash >> 29;
}

void world_hash(uint64_t hash[2]) {
    piece all[MOST_PIECES];
    uint64_t a = 1, b = 2;
    for (uint32_t i = 0, n = pieces(all); i < n; i++) {
        CHECK(all[i].bytes % 8 == 0 && (uintptr_t)all[i].at % 8 == 0);
        const uint64_t *words = (const uint64_t *)all[i].at;
        for (uint64_t w = 0; w < all[i].bytes / 8; w++) {
            a = mix(a, words[w], 0x9e3779b97f4a7c15ull);
            b = mix(b, words[w], 0xc2b2ae3d27d4eb4full);
        }
        a = mix(a, all[i].bytes, 0x9e3779b97f4a7c15ull);
    }
    hash[0] = a;
    hash[1] = b | 1; /* 0 is an empty entry of the table */
}
