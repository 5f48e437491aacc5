/* The heap: blocks, references, finding the block around a byte, exhaustion and merging. */
#include "harness.h"

#define BLOCKS 200

static slr_region *heap_of(uint64_t bytes) {
    slr_config config = small_config();
    config.heap_bytes = bytes;
    return make_region_of(config);
}

static uint64_t alloc(slr_region *region, uint64_t bytes) {
    uint64_t offset;
    OK(slr_heap_alloc(region, bytes, &offset));
    return offset;
}

static void blocks_are_aligned_and_writable(void) {
    slr_region *region = make_region();
    for (uint64_t bytes = 0; bytes < 300; bytes += 7) {
        uint64_t offset = alloc(region, bytes);
        CHECK(offset && offset % 64 == 0);
        memset((char *)slr_region_heap(region) + offset, 0xa5, bytes);
        check_graph(region);
    }
    slr_region_detach(region);
}

/* G2 */
static void references_are_counted(void) {
    slr_region *region = make_region();
    uint64_t offset = alloc(region, 100);
    OK(slr_heap_ref(region, offset));
    OK(slr_heap_unref(region, offset));
    OK(slr_heap_ref(region, offset));
    OK(slr_heap_unref(region, offset));
    OK(slr_heap_unref(region, offset));
    STATUS(SLR_STALE, slr_heap_unref(region, offset));
    STATUS(SLR_STALE, slr_heap_ref(region, offset));
    CHECK(stats_of(region).heap_used == 0);
    drop_region(region);
}

static void what_is_to_stay_free_stays_free(void) {
    slr_region *region = heap_of(1 << 20);
    uint64_t offset, block = alloc(region, 256 << 10), spare = 512 << 10;
    STATUS(SLR_HEAP_FULL, slr_heap_alloc_sparing(region, 256 << 10, spare, &offset)); /* its header is too much */
    STATUS(SLR_HEAP_FULL, slr_heap_alloc_sparing(region, 64, UINT64_MAX, &offset));
    OK(slr_heap_alloc_sparing(region, 128 << 10, spare, &offset));
    OK(slr_heap_unref(region, offset));
    OK(slr_heap_unref(region, block));
    OK(slr_heap_alloc_sparing(region, 1000 << 10, 0, &offset));
    OK(slr_heap_unref(region, offset));
    drop_region(region);
}

static void no_block_where_none_begins(void) {
    slr_region *region = make_region();
    uint64_t offset = alloc(region, 500);
    STATUS(SLR_STALE, slr_heap_ref(region, 0));
    STATUS(SLR_STALE, slr_heap_ref(region, offset + 1));
    STATUS(SLR_STALE, slr_heap_ref(region, offset + 64));
    STATUS(SLR_STALE, slr_heap_ref(region, slr_region_heap_bytes(region)));
    STATUS(SLR_STALE, slr_heap_unref(region, UINT64_MAX));
    OK(slr_heap_unref(region, offset));
    drop_region(region);
}

static void finds_the_block_around_a_byte(void) {
    slr_region *region = heap_of(1ull << 30);
    uint64_t start, bytes, first = alloc(region, 1000), large = alloc(region, 900ull << 20), last = alloc(region, 65);
    for (uint64_t at = 0; at < 1000; at++) {
        OK(slr_heap_find(region, first + at, &start, &bytes));
        CHECK(start == first && bytes == 1000);
    }
    OK(slr_heap_find(region, large + (900ull << 20) - 1, &start, &bytes));
    CHECK(start == large && bytes == 900ull << 20);
    OK(slr_heap_find(region, last + 64, &start, &bytes));
    CHECK(start == last && bytes == 65);
    STATUS(SLR_STALE, slr_heap_find(region, first - 1, &start, &bytes)); /* a header */
    STATUS(SLR_STALE, slr_heap_find(region, first + 1000, &start, &bytes));
    STATUS(SLR_STALE, slr_heap_find(region, last + 65, &start, &bytes));
    STATUS(SLR_STALE, slr_heap_find(region, 1ull << 30, &start, &bytes));
    OK(slr_heap_unref(region, large));
    STATUS(SLR_STALE, slr_heap_find(region, large + 5, &start, &bytes));
    drop_region(region);
}

static void tells_where_an_address_is(void) {
    slr_region *region = heap_of(1 << 20);
    uint64_t offset = alloc(region, 100);
    const char *heap = slr_region_heap(region);
    slr_place place;
    OK(slr_heap_locate(region, heap + offset + 99, &place));
    CHECK(place.offset == offset + 99 && place.start == offset && place.bytes == 100);
    STATUS(SLR_STALE, slr_heap_locate(region, heap + offset + 100, &place));
    STATUS(SLR_NOT_FOUND, slr_heap_locate(region, heap - 1, &place));
    STATUS(SLR_NOT_FOUND, slr_heap_locate(region, heap + slr_region_heap_bytes(region), &place));
    STATUS(SLR_NOT_FOUND, slr_heap_locate(region, NULL, &place));
    drop_region(region);
}

static void finds_blocks_at_every_distance(void) {
    slr_region *region = heap_of(1 << 24); /* distances over several levels of the bitmap */
    uint64_t start, bytes;
    for (uint64_t size = 1; size <= 1 << 22; size = size * 3 + 1) {
        uint64_t offset = alloc(region, size);
        OK(slr_heap_find(region, offset + size - 1, &start, &bytes));
        CHECK(start == offset && bytes == size);
        OK(slr_heap_find(region, offset + size / 2, &start, &bytes));
        CHECK(start == offset);
    }
    drop_region(region);
}

/* G2: when it is full it says so, and freeing everything in any order leaves one block of it all. */
static void full_heap_merges_into_one_block(void) {
    slr_region *region = make_region();
    static uint64_t blocks[1 << 15];
    uint64_t random = 7, whole = small_config().heap_bytes - 64;
    uint32_t n = 0;
    while (slr_heap_alloc(region, next_random(&random) % 300, &blocks[n]) == SLR_OK)
        n++;
    CHECK(n > 2000);
    check_graph(region);
    for (uint32_t left = n; left > 0; left--) {
        uint32_t i = next_random(&random) % left;
        OK(slr_heap_unref(region, blocks[i]));
        blocks[i] = blocks[left - 1];
    }
    STATUS(SLR_HEAP_FULL, slr_heap_alloc(region, whole + 1, blocks));
    STATUS(SLR_HEAP_FULL, slr_heap_alloc(region, UINT64_MAX, blocks));
    OK(slr_heap_unref(region, alloc(region, whole)));
    CHECK(stats_of(region).heap_peak <= slr_region_heap_bytes(region));
    drop_region(region);
}

/* G4: what fails when nothing is left still says why. */
static void a_full_heap_has_room_for_errors(void) {
    slr_region *region = make_region();
    uint64_t all = alloc(region, small_config().heap_bytes - 64), error;
    char record[1000] = "why";
    uint32_t failed;
    STATUS(SLR_HEAP_FULL, slr_heap_alloc(region, 1, &error));
    OK(slr_heap_alloc_error(region, sizeof record, &error));
    slr_id run = begin_run(region), task = submit(region, call_of(run, SUB0));
    CHECK(take(region, SUB0) == task);
    OK(slr_worker_died(region, SUB0, record, sizeof record, &failed));
    slr_task_info info;
    OK(slr_task_query(region, task, &info));
    CHECK(failed == 1 && info.record_bytes == sizeof record);
    STATUS(SLR_HEAP_FULL, slr_heap_alloc_error(region, 1 << 20, &error));
    OK(slr_heap_unref(region, error));
    OK(slr_heap_unref(region, all));
    CHECK(stats_of(region).heap_bytes == small_config().heap_bytes);
    end_run(region, run);
    drop_region(region);
}

/* G2: against a model that knows what each block must hold: no two overlap, none is lost. */
static void random_use_agrees_with_a_model(void) {
    slr_region *region = make_region();
    uint8_t *heap = slr_region_heap(region);
    struct {
        uint64_t offset, bytes;
        uint8_t fill;
    } model[BLOCKS] = {0};
    uint64_t random = 42;
    for (int step = 0; step < 40000; step++) {
        uint32_t i = next_random(&random) % BLOCKS;
        if (model[i].offset) {
            for (uint64_t b = 0; b < model[i].bytes; b += 61)
                CHECK(heap[model[i].offset + b] == model[i].fill);
            OK(slr_heap_unref(region, model[i].offset));
            model[i].offset = 0;
        } else {
            uint64_t bytes = next_random(&random) % (step % 50 ? 2000 : 200000);
            if (slr_heap_alloc(region, bytes, &model[i].offset) != SLR_OK)
                continue;
            model[i].bytes = bytes;
            model[i].fill = (uint8_t)step;
            memset(heap + model[i].offset, model[i].fill, bytes);
        }
        if (step % 500 == 0)
            check_graph(region);
    }
    drop_region(region);
}

/* W4 */
static void a_dead_workers_blocks_are_freed(void) {
    slr_region *region = make_region(), *child;
    uint32_t failed;
    uint64_t mine = alloc(region, 100);
    OK(slr_worker_died(region, SUB1, NULL, 0, &failed));
    OK(slr_region_attach(slr_region_fd(region), &child));
    OK(slr_worker_attach(child, SUB1, (int32_t)getpid()));
    uint64_t theirs[3] = {alloc(child, 100), alloc(child, 100), alloc(child, 5000)};
    OK(slr_heap_ref(child, theirs[1]));
    uint64_t before = stats_of(region).heap_used;
    OK(slr_worker_died(region, SUB1, NULL, 0, &failed));
    CHECK(stats_of(region).heap_used < before);
    for (int i = 0; i < 3; i++)
        STATUS(SLR_STALE, slr_heap_ref(region, theirs[i]));
    OK(slr_heap_unref(region, mine));
    CHECK(stats_of(region).heap_used == 0);
    slr_region_detach(child);
    drop_region(region);
}

MAIN(CASE(blocks_are_aligned_and_writable), CASE(references_are_counted), CASE(what_is_to_stay_free_stays_free),
     CASE(no_block_where_none_begins), CASE(finds_the_block_around_a_byte), CASE(tells_where_an_address_is),
     CASE(finds_blocks_at_every_distance), CASE(full_heap_merges_into_one_block), CASE(a_full_heap_has_room_for_errors),
     CASE(random_use_agrees_with_a_model), CASE(a_dead_workers_blocks_are_freed))
