/*
 * Which lines of the heap begin a used block: a bitmap with summaries, so that the block around any byte is found in a
 * few steps. A bit of level n+1 says whether a word of level n is not zero. Derived: recovery wipes and sets it again.
 */
#include <string.h>
#include <sys/mman.h>

#include "region.h"

void slri_bitmap_set(slr_region *region, uint64_t line) {
    for (uint32_t level = 0; level < region->layout.bitmap_levels; level++, line /= 64) {
        uint64_t *word = &region->bitmap[level][line / 64];
        uint64_t before = *word;
        *word |= 1ull << line % 64;
        if (before)
            return; /* the summaries above know already */
    }
}

void slri_bitmap_clear(slr_region *region, uint64_t line) {
    for (uint32_t level = 0; level < region->layout.bitmap_levels; level++, line /= 64) {
        uint64_t *word = &region->bitmap[level][line / 64];
        *word &= ~(1ull << line % 64);
        if (*word)
            return;
    }
}

bool slri_bitmap_test(const slr_region *region, uint64_t line) {
    return region->bitmap[0][line / 64] >> line % 64 & 1;
}

static uint32_t highest(uint64_t word) {
    return 63 - (uint32_t)__builtin_clzll(word);
}

bool slri_bitmap_last(const slr_region *region, uint64_t line, uint64_t *found) {
    uint32_t level = 0;
    uint64_t at = line + 1; /* looked for: the greatest set bit below `at` */
    for (;; level++, at /= 64) {
        if (level == region->layout.bitmap_levels)
            return false;
        uint64_t word = at % 64 ? region->bitmap[level][at / 64] & ((1ull << at % 64) - 1) : 0;
        if (!word)
            continue;
        at = at / 64 * 64 + highest(word);
        break;
    }
    while (level-- > 0)
        at = at * 64 + highest(region->bitmap[level][at]);
    *found = at;
    return true;
}

void slri_bitmap_wipe(slr_region *region) {
    uint64_t bytes = region->layout.bitmap_end - region->layout.bitmap[0];
    /* Gives the pages back instead of touching every one of a large heap's. */
    if (madvise(region->bitmap[0], bytes, MADV_REMOVE) != 0)
        memset(region->bitmap[0], 0, bytes);
}
