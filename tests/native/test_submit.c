/* Submission: what is refused, and that nothing has changed then; what a task keeps until it has ended. */
#include "harness.h"

#define X (1ull << 63 | 1)
#define Y (1ull << 63 | 2)

static int conflict_of(slr_range a, slr_range b, uint64_t *conflict) {
    slr_region *region = make_region();
    slr_id run = begin_run(region), task;
    slr_range ranges[3] = {range_of(Y, 0, 100, SLR_WRITE), a, b};
    ranges[0].argument = 9;
    slr_submission submission = call_of(run, SLR_ANY_SUB);
    submission.ranges = ranges;
    submission.n_ranges = 3;
    int status = slr_submit(region, &submission, &task, conflict);
    OK(slr_run_cancel(region, run));
    end_run(region, run);
    drop_region(region);
    return status;
}

/* G9 */
static void arguments_that_write_the_same_bytes_are_refused(void) {
    uint64_t conflict = 0;
    slr_range a = range_of(X, 0, 10, SLR_WRITE), b = range_of(X, 9, 12, SLR_READ | SLR_WRITE);
    a.argument = 4;
    b.argument = 2;
    STATUS(SLR_CONFLICT, conflict_of(a, b, &conflict));
    CHECK(conflict == (2ull << 32 | 4));
    b.begin = 10;
    OK(conflict_of(a, b, &conflict));
    b.begin = 0;
    b.argument = 4; /* one argument may overlap itself: a view with strides */
    OK(conflict_of(a, b, &conflict));
    b.argument = 2;
    b.buffer = Y + 1;
    OK(conflict_of(a, b, &conflict));
    a.access = SLR_READ | SLR_WRITE;
    b.access = SLR_READ; /* what the task reads there is its own affair */
    b.buffer = X;
    OK(conflict_of(a, b, &conflict));
}

/* G9: many ranges are compared by sorting. */
static void conflict_is_found_among_many_ranges(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region), task;
    slr_range ranges[100];
    uint64_t conflict;
    for (uint32_t i = 0; i < 100; i++) {
        ranges[i] = range_of(X, i * 37 % 100 * 10, i * 37 % 100 * 10 + 10, SLR_WRITE);
        ranges[i].argument = i;
    }
    slr_submission submission = call_of(run, SLR_ANY_SUB);
    submission.ranges = ranges;
    submission.n_ranges = 100;
    OK(slr_submit(region, &submission, &task, &conflict));
    ranges[50].end++;
    STATUS(SLR_CONFLICT, slr_submit(region, &submission, &task, &conflict));
    CHECK(conflict >> 32 == 50 || (uint32_t)conflict == 50);
    OK(slr_run_cancel(region, run));
    end_run(region, run);
    drop_region(region);
}

static void bad_submissions_are_refused_whole(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region), task;
    uint64_t conflict, gone, block;
    OK(slr_heap_alloc(region, 64, &gone));
    OK(slr_heap_alloc(region, 64, &block));
    OK(slr_heap_unref(region, gone));
    slr_range range = range_of(block, 0, 65, SLR_READ);
    slr_submission submission = call_of(run, SLR_ANY_SUB);
    submission.ranges = &range;
    submission.n_ranges = 1;
    STATUS(SLR_INVALID, slr_submit(region, &submission, &task, &conflict)); /* leaves its block */
    range = range_of(block, 2, 1, SLR_READ);
    STATUS(SLR_INVALID, slr_submit(region, &submission, &task, &conflict));
    range = range_of(block, 0, 1, 4);
    STATUS(SLR_INVALID, slr_submit(region, &submission, &task, &conflict));
    range = range_of(gone == block ? 64000 : gone, 0, 1, SLR_READ);
    STATUS(SLR_STALE, slr_submit(region, &submission, &task, &conflict));
    submission = call_of(run, WORKERS);
    STATUS(SLR_INVALID, slr_submit(region, &submission, &task, &conflict));
    submission = call_of(run + (1ull << 32), SUB0);
    STATUS(SLR_STALE, slr_submit(region, &submission, &task, &conflict));
    submission = call_of(run, SUB0);
    submission.blocks = &gone;
    submission.n_blocks = 1;
    STATUS(SLR_STALE, slr_submit(region, &submission, &task, &conflict));
    CHECK(stats_of(region).live == 0);
    end_run(region, run);
    drop_region(region);
}

/* G1, G9: a range may also be given in bytes of the heap, and a block by any of its bytes. */
static void ranges_and_blocks_are_found_by_heap_offset(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region);
    uint64_t conflict, block, next, inside;
    OK(slr_heap_alloc(region, 100, &block));
    OK(slr_heap_alloc(region, 64, &next));
    inside = block + 70;
    slr_range in_block = range_of(block, 60, 80, SLR_WRITE), in_heap = range_of(0, inside, block + 100, SLR_READ);
    slr_range writes = range_of(0, inside, block + 100, SLR_WRITE);
    writes.argument = in_block.argument + 1;
    STATUS(SLR_CONFLICT, conflict_of(in_block, writes, &conflict));
    slr_submission writer = call_of(run, SUB0), reader = call_of(run, SUB0), leaving = call_of(run, SUB0);
    writer.ranges = &in_block;
    reader.ranges = &in_heap;
    reader.blocks = &inside;
    writer.n_ranges = reader.n_ranges = reader.n_blocks = leaving.n_ranges = 1;
    slr_id first = submit(region, writer), second = submit(region, reader), task;
    CHECK(state_of(region, second) == SLR_TASK_PENDING);
    slr_range beyond = range_of(0, inside, block + 101, SLR_READ),
              nowhere = range_of(0, next + 64, next + 65, SLR_READ);
    leaving.ranges = &beyond;
    STATUS(SLR_INVALID, slr_submit(region, &leaving, &task, &conflict));
    leaving.ranges = &nowhere;
    STATUS(SLR_STALE, slr_submit(region, &leaving, &task, &conflict));
    OK(slr_heap_unref(region, block));
    succeed(region, SUB0, take(region, SUB0));
    CHECK(take(region, SUB0) == second && first != second);
    OK(slr_heap_ref(region, block)); /* still there: the reader keeps it */
    OK(slr_heap_unref(region, block));
    succeed(region, SUB0, second);
    STATUS(SLR_STALE, slr_heap_ref(region, block));
    end_run(region, run);
    drop_region(region);
}

/* G2 */
static void arguments_and_blocks_live_as_long_as_the_task(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region);
    uint64_t blocks[3], bytes[] = {0, 1, 100, 2048, 2049, 300000};
    for (int i = 0; i < 3; i++)
        OK(slr_heap_alloc(region, 64, &blocks[i]));
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++) {
        char *args = malloc(bytes[i] + 1);
        memset(args, (int)i + 1, bytes[i]);
        slr_submission submission = call_of(run, CHIP);
        submission.args = args;
        submission.args_bytes = bytes[i];
        submission.blocks = blocks;
        submission.n_blocks = 3;
        submit(region, submission);
        slr_task task;
        OK(slr_worker_take(region, CHIP, 0, 0, &task));
        check_graph(region);
        CHECK(task.args_bytes == bytes[i] && !task.args_offset == !bytes[i] && task.args_offset % 16 == 0);
        CHECK(memcmp(task.digest, a_digest, sizeof a_digest) == 0);
        CHECK(!bytes[i] || memcmp((char *)slr_region_heap(region) + task.args_offset, args, bytes[i]) == 0);
        succeed(region, CHIP, task.id);
        free(args);
    }
    submit(region, (slr_submission){.run = run, .worker = CHIP, .digest = a_digest, .blocks = blocks, .n_blocks = 3});
    for (int i = 0; i < 3; i++)
        OK(slr_heap_unref(region, blocks[i]));
    OK(slr_heap_ref(region, blocks[2])); /* still there: the task keeps it */
    OK(slr_heap_unref(region, blocks[2]));
    succeed(region, CHIP, take(region, CHIP));
    STATUS(SLR_STALE, slr_heap_ref(region, blocks[2]));
    CHECK(stats_of(region).heap_used == 0);
    end_run(region, run);
    drop_region(region);
}

/* G2: what is full is named, nothing has changed, and the space word tells when to try again. */
static void capacity_is_refused_by_name(void) {
    slr_config config = small_config();
    config.slots = 4;
    config.edges = 2;
    slr_region *region = make_region_of(config);
    slr_id run = begin_run(region), task, first[3];
    uint64_t conflict;
    for (int i = 0; i < 3; i++)
        first[i] = submit(region, call_of(run, SLR_ANY_SUB));
    slr_submission submission = call_of(run, SLR_ANY_SUB);
    submission.after = first;
    submission.n_after = 3;
    STATUS(SLR_EDGES_FULL, slr_submit(region, &submission, &task, &conflict));
    submission.n_after = 2;
    submit(region, submission);
    uint32_t seen = slr_space_seen(region);
    STATUS(SLR_SLOTS_FULL, slr_submit(region, &submission, &task, &conflict));
    STATUS(SLR_TIMEOUT, slr_space_wait(region, seen, 0));
    STATUS(SLR_TIMEOUT, slr_space_wait(region, seen, 1000));
    succeed(region, SUB0, take(region, SUB0));
    OK(slr_space_wait(region, seen, -1));
    submission.n_after = 0;
    char large[3000] = {0};
    submission.args = large;
    submission.args_bytes = 2 << 20;
    STATUS(SLR_HEAP_FULL, slr_submit(region, &submission, &task, &conflict));
    check_graph(region);
    OK(slr_run_cancel(region, run));
    STATUS(SLR_INVALID,
           slr_space_wait(region, slr_space_seen(region), -1)); /* nothing lives that could free anything */
    end_run(region, run);
    drop_region(region);
}

/* G2: what an attempt has taken for itself and gives back makes no room: who waits for some would try again at once. */
static void a_refused_submission_frees_nothing(void) {
    static const char large[600000]; /* of 1 MiB: one has room, two have not */
    slr_config config = small_config();
    config.slots = 4;
    slr_region *region = make_region_of(config);
    slr_id run = begin_run(region), id, ids[2];
    uint64_t conflict;
    slr_submission members[2] = {call_of(run, SLR_ANY_SUB), call_of(run, SLR_ANY_SUB)};
    for (int i = 0; i < 2; i++) {
        members[i].args = large;
        members[i].args_bytes = sizeof large;
    }
    submit(region, call_of(run, SUB0));
    uint32_t seen = slr_space_seen(region);
    STATUS(SLR_HEAP_FULL, slr_submit_group(region, members, 2, &id, ids, &conflict));
    STATUS(SLR_TIMEOUT, slr_space_wait(region, seen, 0));
    for (int i = 0; i < 3; i++)
        submit(region, call_of(run, SUB0));
    members[0].args_bytes = members[1].args_bytes = sizeof large / 4;
    STATUS(SLR_SLOTS_FULL, slr_submit(region, members, &id, &conflict));
    STATUS(SLR_SLOTS_FULL, slr_submit_group(region, members, 2, &id, ids, &conflict));
    STATUS(SLR_TIMEOUT, slr_space_wait(region, seen, 0));
    CHECK(stats_of(region).heap_used == 0);
    OK(slr_run_cancel(region, run));
    OK(slr_space_wait(region, seen, 0));
    end_run(region, run);
    drop_region(region);
}

/* G2, G4: a task that ends in its own submission, poisoned, gives up its blocks there and then. */
static void a_task_poisoned_at_submit_drops_its_blocks(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region), bad = submit(region, call_of(run, SUB0));
    uint64_t block;
    OK(slr_heap_alloc(region, 64, &block));
    slr_range range = range_of(block, 0, 64, SLR_WRITE);
    slr_submission submission = call_of(run, SUB0);
    submission.after = &bad;
    submission.n_after = submission.n_blocks = submission.n_ranges = 1;
    submission.blocks = &block;
    submission.ranges = &range;
    CHECK(take(region, SUB0) == bad);
    fail(region, SUB0, bad);
    CHECK(state_of(region, submit(region, submission)) == SLR_TASK_POISONED);
    OK(slr_heap_unref(region, block));
    CHECK(stats_of(region).heap_used == 0);
    end_run(region, run);
    drop_region(region);
}

/* A request to the worker itself goes the way of every other task. */
static void a_request_to_a_worker_is_a_task(void) {
    static const uint8_t nothing[SLR_DIGEST_BYTES];
    slr_region *region = make_region();
    slr_id run = begin_run(region), id;
    uint64_t conflict;
    slr_task task;
    slr_submission submission = call_of(run, CHIP);
    submission.op = SLR_OP_CONTROL + 1;
    STATUS(SLR_INVALID, slr_submit(region, &submission, &id, &conflict));
    submission.op = SLR_OP_CONTROL;
    submission.digest = nothing;
    id = submit(region, submission);
    OK(slr_worker_take(region, CHIP, 0, 0, &task));
    CHECK(task.id == id && task.op == SLR_OP_CONTROL && memcmp(task.digest, nothing, sizeof nothing) == 0);
    succeed(region, CHIP, id);
    end_run(region, run);
    drop_region(region);
}

MAIN(CASE(arguments_that_write_the_same_bytes_are_refused), CASE(conflict_is_found_among_many_ranges),
     CASE(bad_submissions_are_refused_whole), CASE(ranges_and_blocks_are_found_by_heap_offset),
     CASE(arguments_and_blocks_live_as_long_as_the_task), CASE(capacity_is_refused_by_name),
     CASE(a_refused_submission_frees_nothing), CASE(a_task_poisoned_at_submit_drops_its_blocks),
     CASE(a_request_to_a_worker_is_a_task))
