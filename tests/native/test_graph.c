/* The order of tasks: what waits for what, what is poisoned, what is refused. One thread plays the parent and the
 * workers. */
#include "harness.h"
#include "region.h"

#define X (1ull << 63 | 1)
#define Y (1ull << 63 | 2)

/* The life of a slot, written down a second time: a row for each state, a column for each event, '.' where it cannot
 * be. */
static void every_event_leads_where_it_should(void) {
    static const char states[] =
        "FBPRGrSXZC"; /* free building pending ready gathering running succeeded failed poisoned cancelled */
    static const char *const life[] = {
        /* BUILD WAIT QUEUE JOIN LEAVE TAKE SUCCEED FAIL POISON CANCEL RELEASE */
        "B..........", /* FREE */
        ".P........F", /* BUILDING */
        "..R....XZCF", /* PENDING */
        "...G.rSXZCF", /* READY */
        "....Rr.X.CF", /* GATHERING */
        "......SX...", /* RUNNING */
        "..........F", /* SUCCEEDED */
        "..........F", /* FAILED */
        "..........F", /* POISONED */
        "..........F", /* CANCELLED */
    };
    for (int state = SLR_TASK_FREE; state <= SLR_TASK_CANCELLED; state++)
        for (int event = 0; event < SLRI_EVENTS; event++) {
            uint8_t next = slri_transitions[state][event];
            CHECK(life[state][event] == (next ? states[next - 1] : '.'));
        }
}

/* Submits two tasks on ranges of one buffer; true when the second waits for the first. */
static int waits(slr_range first, slr_range second) {
    slr_region *region = make_region();
    slr_id run = begin_run(region), a = submit_range(region, run, first), b = submit_range(region, run, second);
    int ordered = state_of(region, b) == SLR_TASK_PENDING;
    check_graph(region);
    CHECK(take(region, SUB0) == a);
    CHECK(take(region, SUB1) == (ordered ? 0 : b));
    succeed(region, SUB0, a);
    if (ordered)
        CHECK(take(region, SUB1) == b);
    succeed(region, SUB1, b);
    end_run(region, run);
    CHECK(stats_of(region).heap_used == 0);
    drop_region(region);
    return ordered;
}

/* G1 */
static void overlapping_ranges_are_ordered_unless_both_read(void) {
    CHECK(waits(range_of(X, 0, 10, SLR_WRITE), range_of(X, 0, 10, SLR_READ)));
    CHECK(waits(range_of(X, 0, 10, SLR_READ), range_of(X, 0, 10, SLR_WRITE)));
    CHECK(waits(range_of(X, 0, 10, SLR_WRITE), range_of(X, 0, 10, SLR_WRITE)));
    CHECK(waits(range_of(X, 0, 10, SLR_READ | SLR_WRITE), range_of(X, 0, 10, SLR_READ | SLR_WRITE)));
    CHECK(!waits(range_of(X, 0, 10, SLR_READ), range_of(X, 0, 10, SLR_READ)));
}

/* G1 */
static void partial_overlap_counts_and_touching_does_not(void) {
    CHECK(waits(range_of(X, 0, 10, SLR_WRITE), range_of(X, 9, 20, SLR_READ)));
    CHECK(waits(range_of(X, 5, 6, SLR_WRITE), range_of(X, 0, 100, SLR_READ)));
    CHECK(waits(range_of(X, 0, 100, SLR_READ), range_of(X, 50, 51, SLR_WRITE)));
    CHECK(!waits(range_of(X, 0, 10, SLR_WRITE), range_of(X, 10, 20, SLR_READ)));
    CHECK(!waits(range_of(X, 0, 10, SLR_WRITE), range_of(Y, 0, 10, SLR_READ)));
    CHECK(!waits(range_of(X, 0, 10, SLR_WRITE), range_of(X, 5, 5, SLR_READ))); /* an empty range touches nothing */
}

/* G1: NO_DEP arguments give no ranges. */
static void tasks_without_ranges_are_not_ordered(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region);
    submit_range(region, run, range_of(X, 0, 10, SLR_WRITE));
    slr_id free_task = submit(region, call_of(run, SLR_ANY_SUB));
    CHECK(state_of(region, free_task) == SLR_TASK_READY);
    OK(slr_run_cancel(region, run));
    end_run(region, run);
    drop_region(region);
}

/* G1: a write waits for all readers since the last write; a reader of two parts waits for both their writers. */
static void fan_in_counts_every_producer_once(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region), left = submit_range(region, run, range_of(X, 0, 10, SLR_WRITE));
    slr_id right = submit_range(region, run, range_of(X, 10, 20, SLR_WRITE));
    slr_id both = submit_range(region, run, range_of(X, 5, 15, SLR_READ));
    slr_id after_all = submit_range(region, run, range_of(X, 0, 20, SLR_WRITE));
    CHECK(take(region, SUB0) == left && take(region, SUB1) == right);
    succeed(region, SUB0, left);
    CHECK(take(region, SUB0) == 0);
    succeed(region, SUB1, right);
    CHECK(take(region, SUB0) == both && take(region, SUB1) == 0);
    succeed(region, SUB0, both);
    CHECK(take(region, SUB1) == after_all);
    succeed(region, SUB1, after_all);
    end_run(region, run);
    drop_region(region);
}

/* G1: a place in the heap that another block had before is another buffer. */
static void a_block_in_an_old_place_has_no_past(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region);
    uint64_t first, second;
    OK(slr_heap_alloc(region, 64, &first));
    slr_id task = submit_range(region, run, range_of(first, 0, 64, SLR_WRITE));
    CHECK(take(region, SUB0) == task);
    fail(region, SUB0, task);
    OK(slr_heap_unref(region, first));
    OK(slr_heap_alloc(region, 64, &second));
    CHECK(first == second);
    slr_id reader = submit_range(region, run, range_of(second, 0, 64, SLR_READ));
    CHECK(state_of(region, reader) == SLR_TASK_READY);
    OK(slr_run_cancel(region, run));
    end_run(region, run);
    drop_region(region);
}

/* G4: data dependents of a failure never start, through any distance; what merely came later does. */
static void failure_poisons_what_read_its_data(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region), bad = submit_range(region, run, range_of(X, 0, 10, SLR_WRITE));
    slr_id reader = submit_range(region, run, range_of(X, 0, 5, SLR_READ));
    slr_id update = submit_range(region, run, range_of(X, 5, 10, SLR_READ | SLR_WRITE));
    slr_id second_hand = submit_range(region, run, range_of(X, 9, 10, SLR_READ));
    slr_id overwrite = submit_range(region, run, range_of(X, 0, 10, SLR_WRITE));
    CHECK(take(region, SUB0) == bad);
    fail(region, SUB0, bad);
    CHECK(state_of(region, reader) == SLR_TASK_POISONED && state_of(region, update) == SLR_TASK_POISONED);
    slr_task_info info;
    OK(slr_task_query(region, second_hand, &info));
    CHECK(info.state == SLR_TASK_POISONED && info.root == bad && info.worker == SLR_ANY_SUB);
    CHECK(take(region, SUB1) == overwrite);
    succeed(region, SUB1, overwrite);
    OK(slr_run_seal(region, run));
    slr_run_info sums = run_info(region, run);
    CHECK(sums.ended && sums.tasks == 5 && sums.failed == 1 && sums.poisoned == 3 && sums.first_failed == bad);
    end_run(region, run);
    drop_region(region);
}

/* G4 */
static void later_readers_of_a_failed_writer_are_poisoned_at_submit(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region), bad = submit_range(region, run, range_of(X, 0, 10, SLR_WRITE));
    CHECK(take(region, SUB0) == bad);
    fail(region, SUB0, bad);
    slr_id reader = submit_range(region, run, range_of(X, 0, 1, SLR_READ));
    slr_id elsewhere = submit_range(region, run, range_of(X, 10, 11, SLR_READ));
    CHECK(state_of(region, reader) == SLR_TASK_POISONED && state_of(region, elsewhere) == SLR_TASK_READY);
    slr_submission after = call_of(run, CHIP);
    after.after = &reader;
    after.n_after = 1;
    slr_id named = submit(region, after);
    slr_task_info info;
    OK(slr_task_query(region, named, &info));
    CHECK(info.state == SLR_TASK_POISONED && info.root == bad);
    slr_id again = submit_range(region, run, range_of(X, 0, 10, SLR_WRITE)); /* new data: no longer poisoned */
    slr_id good = submit_range(region, run, range_of(X, 0, 1, SLR_READ));
    CHECK(state_of(region, again) == SLR_TASK_READY && state_of(region, good) == SLR_TASK_PENDING);
    OK(slr_run_cancel(region, run));
    end_run(region, run);
    drop_region(region);
}

/* G4: a poisoned task still waits for the rest of its fan-in, so what follows it is ordered after that too. */
static void poison_does_not_overtake_order(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region), bad = submit_range(region, run, range_of(X, 0, 10, SLR_WRITE));
    slr_id slow = submit_range(region, run, range_of(Y, 0, 10, SLR_WRITE));
    slr_range ranges[2] = {range_of(X, 0, 10, SLR_READ), range_of(Y, 0, 10, SLR_WRITE)};
    slr_submission both = call_of(run, SLR_ANY_SUB);
    both.ranges = ranges;
    both.n_ranges = 2;
    slr_id poisoned = submit(region, both), next = submit_range(region, run, range_of(Y, 0, 10, SLR_WRITE));
    CHECK(take(region, SUB0) == bad && take(region, SUB1) == slow);
    fail(region, SUB0, bad);
    CHECK(state_of(region, poisoned) == SLR_TASK_PENDING && state_of(region, next) == SLR_TASK_PENDING);
    check_graph(region);
    succeed(region, SUB1, slow);
    CHECK(state_of(region, poisoned) == SLR_TASK_POISONED && take(region, SUB0) == next);
    succeed(region, SUB0, next);
    end_run(region, run);
    drop_region(region);
}

/* G4: a long chain needs no stack. */
static void a_long_chain_is_poisoned_at_once(void) {
    slr_config config = small_config();
    config.slots = config.edges = 50000;
    slr_region *region = make_region_of(config);
    slr_id run = begin_run(region), bad = submit_range(region, run, range_of(X, 0, 8, SLR_WRITE));
    for (int i = 1; i < 50000; i++)
        submit_range(region, run, range_of(X, 0, 8, SLR_READ | SLR_WRITE));
    CHECK(take(region, SUB0) == bad);
    fail(region, SUB0, bad);
    OK(slr_run_seal(region, run));
    CHECK(run_info(region, run).poisoned == 49999);
    check_graph(region);
    end_run(region, run);
    CHECK(stats_of(region).slots_used == 0);
    drop_region(region);
}

/* G1, G4 */
static void after_orders_and_poisons(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region), first = submit(region, call_of(run, SLR_ANY_SUB));
    slr_submission then = call_of(run, CHIP);
    slr_id twice[2] = {first, first};
    then.after = twice;
    then.n_after = 2;
    slr_id second = submit(region, then);
    CHECK(state_of(region, second) == SLR_TASK_PENDING && take(region, SUB0) == first);
    succeed(region, SUB0, first);
    slr_id third = submit(region, then); /* a stale id has succeeded */
    CHECK(take(region, CHIP) == second);
    fail(region, CHIP, second);
    then.after = &second;
    then.n_after = 1;
    CHECK(state_of(region, submit(region, then)) == SLR_TASK_POISONED);
    CHECK(take(region, CHIP) == third);
    succeed(region, CHIP, third);
    end_run(region, run);
    drop_region(region);
}

/* G6: runs are ordered by the data they share, and share no errors. */
static void other_runs_are_ordered_but_never_poisoned(void) {
    slr_region *region = make_region();
    slr_id one = begin_run(region), other = begin_run(region);
    slr_id bad = submit_range(region, one, range_of(X, 0, 10, SLR_WRITE));
    slr_id reader = submit_range(region, other, range_of(X, 0, 10, SLR_READ));
    CHECK(take(region, SUB0) == bad && take(region, SUB1) == 0);
    fail(region, SUB0, bad);
    CHECK(take(region, SUB1) == reader);
    succeed(region, SUB1, reader);
    slr_id late = submit_range(region, other, range_of(X, 0, 10, SLR_READ));
    CHECK(take(region, SUB1) == late);
    succeed(region, SUB1, late);
    end_run(region, other);
    end_run(region, one);
    drop_region(region);
}

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

MAIN(CASE(every_event_leads_where_it_should), CASE(overlapping_ranges_are_ordered_unless_both_read),
     CASE(partial_overlap_counts_and_touching_does_not), CASE(tasks_without_ranges_are_not_ordered),
     CASE(fan_in_counts_every_producer_once), CASE(a_block_in_an_old_place_has_no_past),
     CASE(failure_poisons_what_read_its_data), CASE(later_readers_of_a_failed_writer_are_poisoned_at_submit),
     CASE(poison_does_not_overtake_order), CASE(a_long_chain_is_poisoned_at_once), CASE(after_orders_and_poisons),
     CASE(other_runs_are_ordered_but_never_poisoned), CASE(arguments_that_write_the_same_bytes_are_refused),
     CASE(conflict_is_found_among_many_ranges), CASE(bad_submissions_are_refused_whole),
     CASE(arguments_and_blocks_live_as_long_as_the_task), CASE(capacity_is_refused_by_name),
     CASE(a_task_poisoned_at_submit_drops_its_blocks), CASE(a_request_to_a_worker_is_a_task))
