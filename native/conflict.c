/*
 * Two arguments of one submission that write the same bytes: refused, since which of them is last is nobody's to say.
 * One that reads what another writes is not: the task itself knows what it reads before it writes.
 */
#include <errno.h>
#include <stdlib.h>

#include "region.h"

#define ON_STACK 32

/* Where it is in the heap, whichever way that was said. */
static slr_range in_heap(slr_range range) {
    if (range.buffer & SLRI_NAMED_BUFFER)
        return range;
    range.begin += range.buffer;
    range.end += range.buffer;
    range.buffer = 0;
    return range;
}

static int by_place(const void *left, const void *right) {
    const slr_range *a = left, *b = right;
    if (a->buffer != b->buffer)
        return a->buffer < b->buffer ? -1 : 1;
    return (a->begin > b->begin) - (a->begin < b->begin);
}

static bool clash(const slr_range *a, const slr_range *b) {
    return a->argument != b->argument && a->access & b->access & SLR_WRITE;
}

/* Sorted: only ranges that begin before this one ends can overlap it. */
static int sweep(const slr_range *ranges, uint32_t n, uint64_t *conflict) {
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t j = i + 1; j < n; j++) {
            const slr_range *a = &ranges[i], *b = &ranges[j];
            if (b->buffer != a->buffer || b->begin >= a->end)
                break;
            if (b->begin < b->end && clash(a, b)) {
                uint32_t low = a->argument < b->argument ? a->argument : b->argument;
                *conflict = (uint64_t)low << 32 | (a->argument ^ b->argument ^ low);
                return SLR_CONFLICT;
            }
        }
    }
    return SLR_OK;
}

int slri_conflict_find(const slr_submission *submission, uint64_t *conflict) {
    uint32_t n = submission->n_ranges;
    if (n < 2)
        return SLR_OK;
    slr_range on_stack[ON_STACK], *ranges = on_stack;
    if (n > ON_STACK && !(ranges = malloc(n * sizeof *ranges)))
        return SLR_SYSTEM;
    for (uint32_t i = 0; i < n; i++)
        ranges[i] = in_heap(submission->ranges[i]);
    qsort(ranges, n, sizeof *ranges, by_place);
    int status = sweep(ranges, n, conflict);
    if (ranges != on_stack)
        free(ranges);
    return status;
}
