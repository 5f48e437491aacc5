/*
 * The heap: blocks with boundary tags, free ones in bins by power of two, merged at once with free neighbours.
 *
 * A block's extent and use stand in one word, changed by one store: whenever a holder of the lock dies, walking from
 * header to header visits every block. A process's references (held) are counted apart from those of slots, callables
 * and abandoned workers (kept), because recovery counts the latter again and can only believe the former. Offsets given
 * out are those of a block's first byte, one line after its header.
 */
#include "region.h"

#define MIN_EXTENT (2 * SLRI_LINE)
#define FIRST_FITS 8 /* how far a bin is searched before a larger one is opened */

static slri_block *block_at(const slr_region *region, uint64_t header) {
    return (slri_block *)(region->heap + header);
}

static uint64_t extent_of(const slri_block *block) {
    return block->extent & ~SLRI_BLOCK_USED;
}

static uint64_t header_of(const slr_region *region, const slri_block *block) {
    return (uint64_t)((const uint8_t *)block - region->heap);
}

static uint32_t bin_of(uint64_t extent) {
    return 63 - (uint32_t)__builtin_clzll(extent / SLRI_LINE);
}

static void bin_add(slr_region *region, uint64_t at) {
    slri_header *header = region->header;
    slri_block *block = block_at(region, at);
    uint32_t bin = bin_of(extent_of(block));
    block->bin_previous = 0;
    block->bin_next = header->bins[bin];
    if (block->bin_next)
        block_at(region, block->bin_next - 1)->bin_previous = at + 1;
    header->bins[bin] = at + 1;
    header->bin_mask |= 1ull << bin;
}

static void bin_remove(slr_region *region, uint64_t at) {
    slri_header *header = region->header;
    slri_block *block = block_at(region, at);
    uint32_t bin = bin_of(extent_of(block));
    if (block->bin_next)
        block_at(region, block->bin_next - 1)->bin_previous = block->bin_previous;
    if (block->bin_previous)
        block_at(region, block->bin_previous - 1)->bin_next = block->bin_next;
    else
        header->bins[bin] = block->bin_next;
    if (!header->bins[bin])
        header->bin_mask &= ~(1ull << bin);
}

/* The first block of the chain, at most `limit` steps along, that is large enough: header offset + 1, or 0. */
static uint64_t first_fit(const slr_region *region, uint64_t chain, uint64_t extent, uint64_t limit) {
    while (chain && limit--) {
        const slri_block *block = block_at(region, chain - 1);
        if (extent_of(block) >= extent)
            return chain;
        chain = block->bin_next;
    }
    return 0;
}

static uint64_t find_free(const slr_region *region, uint64_t extent) {
    const slri_header *header = region->header;
    uint32_t bin = bin_of(extent);
    uint64_t found = first_fit(region, header->bins[bin], extent, FIRST_FITS);
    if (found)
        return found;
    uint64_t larger = header->bin_mask >> bin >> 1;
    if (larger)
        return header->bins[bin + 1 + (uint32_t)__builtin_ctzll(larger)];
    return first_fit(region, header->bins[bin], extent, UINT64_MAX);
}

static void set_previous_of_next(slr_region *region, uint64_t at) {
    uint64_t extent = extent_of(block_at(region, at));
    if (at + extent < region->header->config.heap_bytes)
        block_at(region, at + extent)->previous = extent;
}

static void split(slr_region *region, uint64_t at, uint64_t extent) {
    slri_block *block = block_at(region, at);
    uint64_t rest = extent_of(block) - extent;
    if (rest < MIN_EXTENT)
        return;
    slri_block *remainder = block_at(region, at + extent);
    remainder->extent = rest;
    remainder->previous = extent;
    SLRI_FAULT("heap:split");
    slri_commit_wide(&block->extent, extent); /* still free: from here on there are two */
    set_previous_of_next(region, at + extent);
    bin_add(region, at + extent);
}

uint64_t slri_heap_take(slr_region *region, uint64_t bytes, uint64_t reserve) {
    slri_header *header = region->header;
    if (bytes > header->config.heap_bytes)
        return 0;
    uint64_t extent = SLRI_LINE + (bytes + SLRI_LINE - 1) / SLRI_LINE * SLRI_LINE;
    if (extent < MIN_EXTENT)
        extent = MIN_EXTENT;
    if (header->heap_used + extent > header->config.heap_bytes - reserve)
        return 0;
    uint64_t found = find_free(region, extent);
    if (!found)
        return 0;
    uint64_t at = found - 1;
    slri_block *block = block_at(region, at);
    bin_remove(region, at);
    split(region, at, extent);
    block->held = 0;
    block->kept = 0;
    block->owner = region->owner;
    block->bytes = bytes;
    block->serial = ++header->heap_serial;
    slri_commit_wide(&block->extent, block->extent | SLRI_BLOCK_USED);
    SLRI_FAULT("heap:taken");
    slri_bitmap_set(region, at / SLRI_LINE + 1);
    header->heap_used += extent_of(block);
    if (header->heap_used > header->heap_peak)
        header->heap_peak = header->heap_used;
    return at + SLRI_LINE;
}

/* Frees the used block and merges it with its neighbours; the header offset of what it became. */
static uint64_t give_back(slr_region *region, uint64_t at) {
    slri_block *block = block_at(region, at);
    uint64_t extent = extent_of(block), first = at;
    region->header->heap_used -= extent;
    slri_bitmap_clear(region, at / SLRI_LINE + 1);
    if (at + extent < region->header->config.heap_bytes) {
        slri_block *next = block_at(region, at + extent);
        if (!(next->extent & SLRI_BLOCK_USED)) {
            bin_remove(region, at + extent);
            extent += next->extent;
        }
    }
    if (block->previous && !(block_at(region, at - block->previous)->extent & SLRI_BLOCK_USED)) {
        first = at - block->previous;
        bin_remove(region, first);
        extent += block_at(region, first)->extent;
    }
    slri_commit_wide(&block_at(region, first)->extent, extent);
    SLRI_FAULT("heap:merged");
    set_previous_of_next(region, first);
    bin_add(region, first);
    return first;
}

static uint64_t release(slr_region *region, uint64_t at) {
    slri_progress(region, &region->header->space);
    return give_back(region, at);
}

void slri_heap_untake(slr_region *region, uint64_t offset) {
    slri_commit(&slri_heap_live(region, offset)->held, 0);
    give_back(region, offset - SLRI_LINE);
}

static void release_if_unreferenced(slr_region *region, slri_block *block) {
    if (!block->held && !block->kept)
        release(region, header_of(region, block));
}

slri_block *slri_heap_live(slr_region *region, uint64_t offset) {
    if (offset < SLRI_LINE || offset >= region->header->config.heap_bytes || offset % SLRI_LINE ||
        !slri_bitmap_test(region, offset / SLRI_LINE))
        return NULL;
    return block_at(region, offset - SLRI_LINE);
}

uint64_t slri_heap_start(const slr_region *region, uint64_t offset) {
    uint64_t line;
    if (offset >= region->header->config.heap_bytes || !slri_bitmap_last(region, offset / SLRI_LINE, &line))
        return 0;
    uint64_t start = line * SLRI_LINE;
    return offset == start || offset - start < block_at(region, start - SLRI_LINE)->bytes ? start : 0;
}

void slri_heap_keep(slr_region *region, uint64_t offset) {
    slri_block *block = slri_heap_live(region, offset);
    assert(block);
    block->kept++;
}

void slri_heap_unkeep(slr_region *region, uint64_t offset) {
    slri_block *block = slri_heap_live(region, offset);
    assert(block && block->kept);
    block->kept--;
    release_if_unreferenced(region, block);
}

void slri_heap_adopt(slr_region *region, uint64_t offset) {
    slri_block *block = slri_heap_live(region, offset);
    assert(block && block->held);
    block->kept++;
    slri_commit(&block->held, block->held - 1);
}

void slri_heap_disown(slr_region *region, uint32_t owner) {
    for (uint64_t at = 0; at < region->header->config.heap_bytes; at += extent_of(block_at(region, at))) {
        slri_block *block = block_at(region, at);
        if (!(block->extent & SLRI_BLOCK_USED) || block->owner != owner || !block->held)
            continue;
        slri_commit(&block->held, 0);
        if (!block->kept)
            at = release(region, at);
    }
}

void slri_heap_init(slr_region *region) {
    block_at(region, 0)->extent = region->header->config.heap_bytes;
    bin_add(region, 0);
}

void slri_heap_forget(slr_region *region) {
    slri_bitmap_wipe(region);
    uint64_t heap_bytes = region->header->config.heap_bytes;
    for (uint64_t at = 0; at < heap_bytes; at += extent_of(block_at(region, at))) {
        slri_block *block = block_at(region, at);
        if (!(block->extent & SLRI_BLOCK_USED))
            continue;
        block->kept = 0;
        slri_bitmap_set(region, at / SLRI_LINE + 1);
    }
}

/* Makes one free block of every run of free and unreferenced ones. */
void slri_heap_rebuild(slr_region *region) {
    slri_header *header = region->header;
    uint64_t previous = 0, used = 0, heap_bytes = header->config.heap_bytes;
    header->bin_mask = 0;
    for (uint32_t bin = 0; bin < SLRI_BINS; bin++)
        header->bins[bin] = 0;
    for (uint64_t at = 0; at < heap_bytes;) {
        slri_block *block = block_at(region, at);
        if (block->extent & SLRI_BLOCK_USED && !block->held && !block->kept) {
            slri_bitmap_clear(region, at / SLRI_LINE + 1);
            slri_commit_wide(&block->extent, extent_of(block));
        }
        uint64_t extent = extent_of(block), next = at + extent;
        bool merges = !(block->extent & SLRI_BLOCK_USED) && previous &&
                      !(block_at(region, at - previous)->extent & SLRI_BLOCK_USED);
        if (merges) {
            at -= previous;
            bin_remove(region, at);
            extent += previous;
            slri_commit_wide(&block_at(region, at)->extent, extent);
            block = block_at(region, at);
        } else {
            block->previous = previous;
        }
        if (block->extent & SLRI_BLOCK_USED)
            used += extent;
        else
            bin_add(region, at);
        previous = extent;
        at = next;
    }
    header->heap_used = used;
}

static int alloc(slr_region *region, uint64_t bytes, uint64_t reserve, uint64_t *offset) {
    if (!region || !offset)
        return SLR_INVALID;
    slri_lock(region);
    uint64_t taken = slri_heap_take(region, bytes, reserve);
    if (taken)
        slri_commit(&slri_heap_live(region, taken)->held, 1);
    slri_unlock(region);
    if (!taken)
        return SLR_HEAP_FULL;
    *offset = taken;
    return SLR_OK;
}

int slr_heap_alloc(slr_region *region, uint64_t bytes, uint64_t *offset) {
    return alloc(region, bytes, SLRI_RESERVE_BYTES, offset);
}

int slr_heap_alloc_error(slr_region *region, uint64_t bytes, uint64_t *offset) {
    return alloc(region, bytes, 0, offset);
}

int slr_heap_alloc_sparing(slr_region *region, uint64_t bytes, uint64_t spare, uint64_t *offset) {
    if (!region)
        return SLR_INVALID;
    uint64_t most = region->header->config.heap_bytes - SLRI_RESERVE_BYTES;
    return alloc(region, bytes, SLRI_RESERVE_BYTES + (spare < most ? spare : most), offset);
}

int slr_heap_ref(slr_region *region, uint64_t offset) {
    if (!region)
        return SLR_INVALID;
    slri_lock(region);
    slri_block *block = slri_heap_live(region, offset);
    if (block && !block->held)
        slri_commit(&block->owner, region->owner);
    if (block)
        slri_commit(&block->held, block->held + 1);
    slri_unlock(region);
    return block ? SLR_OK : SLR_STALE;
}

int slr_heap_unref(slr_region *region, uint64_t offset) {
    if (!region)
        return SLR_INVALID;
    slri_lock(region);
    slri_block *block = slri_heap_live(region, offset);
    int status = !block ? SLR_STALE : !block->held ? SLR_INVALID : SLR_OK;
    if (status == SLR_OK) {
        slri_commit(&block->held, block->held - 1);
        release_if_unreferenced(region, block);
    }
    slri_unlock(region);
    return status;
}

int slr_heap_find(slr_region *region, uint64_t offset, uint64_t *start, uint64_t *bytes) {
    if (!region || !start || !bytes)
        return SLR_INVALID;
    slri_lock_to_read(region);
    uint64_t found = slri_heap_start(region, offset);
    if (found) {
        *start = found;
        *bytes = block_at(region, found - SLRI_LINE)->bytes;
    }
    slri_unlock(region);
    return found ? SLR_OK : SLR_STALE;
}

int slr_heap_locate(slr_region *region, const void *address, slr_place *out) {
    if (!region || !out)
        return SLR_INVALID;
    uint64_t offset = (uint64_t)((uintptr_t)address - (uintptr_t)region->heap); /* a lower address wraps around */
    if (offset >= region->header->config.heap_bytes)
        return SLR_NOT_FOUND;
    int status = slr_heap_find(region, offset, &out->start, &out->bytes);
    if (status == SLR_OK)
        out->offset = offset;
    return status;
}
