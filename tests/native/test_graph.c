/* The order of tasks: what waits for what, what is poisoned. One thread plays the parent and the workers. */
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

MAIN(CASE(every_event_leads_where_it_should), CASE(overlapping_ranges_are_ordered_unless_both_read),
     CASE(partial_overlap_counts_and_touching_does_not), CASE(tasks_without_ranges_are_not_ordered),
     CASE(fan_in_counts_every_producer_once), CASE(a_block_in_an_old_place_has_no_past),
     CASE(failure_poisons_what_read_its_data), CASE(later_readers_of_a_failed_writer_are_poisoned_at_submit),
     CASE(poison_does_not_overtake_order), CASE(a_long_chain_is_poisoned_at_once), CASE(after_orders_and_poisons),
     CASE(other_runs_are_ordered_but_never_poisoned))
