/* Groups: one node of the graph on several workers at once. */
#include "group_harness.h"

/* G3: nobody starts before all can; each then finds the member that it waited with. */
static void a_group_starts_when_all_its_workers_are_there(void) {
    slr_region *region = make_group_region();
    slr_id run = begin_run(region);
    group g = submit_subs(region, run, 3);
    CHECK(take(region, 1) == 0 && take(region, 1) == 0 && take(region, 0) == 0);
    CHECK(info_of(region, 1).state == SLR_WORKER_GATHERED && state_of(region, g.members[0]) == SLR_TASK_GATHERING);
    CHECK(stats_of(region).shared_queue == 1 && run_info(region, run).tasks == 3 && run_info(region, run).live == 3);
    check_graph(region);
    CHECK(take(region, 2) == g.members[2]);
    CHECK(state_of(region, g.members[0]) == SLR_TASK_RUNNING && state_of(region, g.members[1]) == SLR_TASK_RUNNING);
    check_graph(region);
    CHECK(take(region, 0) == g.members[1] && take(region, 1) == g.members[0]);
    slr_id next = submit_after(region, run, SLR_ANY_SUB, g.id);
    succeed(region, 2, g.members[2]);
    succeed(region, 0, g.members[1]);
    CHECK(state_of(region, next) == SLR_TASK_PENDING && state_of(region, g.id) == SLR_TASK_READY);
    succeed(region, 1, g.members[0]);
    CHECK(state_of(region, next) == SLR_TASK_READY && state_of(region, g.id) == SLR_TASK_FREE);
    CHECK(take(region, 0) == next);
    succeed(region, 0, next);
    CHECK(stats_of(region).tasks == 4 && stats_of(region).live == 0);
    end_run(region, run);
    CHECK(stats_of(region).slots_used == 0);
    drop_region(region);
}

/* G3: what one member waits for all wait for, and what one writes is written when all have ended. */
static void members_are_ordered_as_one(void) {
    slr_region *region = make_group_region();
    slr_id run = begin_run(region), writer = submit_range(region, run, range_of(1ull << 63, 0, 8, SLR_WRITE));
    slr_range reads = range_of(1ull << 63, 0, 8, SLR_READ), writes = range_of(1ull << 63, 8, 16, SLR_WRITE);
    slr_submission members[2] = {call_of(run, SLR_ANY_SUB), call_of(run, SLR_ANY_SUB)};
    members[0].ranges = &reads;
    members[1].ranges = &writes;
    members[0].n_ranges = members[1].n_ranges = 1;
    group g = submit_members(region, members, 2);
    slr_id reader = submit_range(region, run, range_of(1ull << 63, 15, 20, SLR_READ));
    slr_id other = submit_range(region, run, range_of(1ull << 63, 16, 20, SLR_READ));
    CHECK(take(region, 0) == writer && take(region, 1) == other && take(region, 2) == 0);
    CHECK(state_of(region, g.members[1]) == SLR_TASK_PENDING);
    succeed(region, 0, writer);
    CHECK(take(region, 2) == 0 && take(region, 0) == g.members[1] && take(region, 2) == g.members[0]);
    succeed(region, 0, g.members[1]);
    CHECK(state_of(region, reader) == SLR_TASK_PENDING);
    succeed(region, 2, g.members[0]);
    CHECK(take(region, 0) == reader);
    succeed(region, 0, reader);
    succeed(region, 1, other);
    end_run(region, run);
    drop_region(region);
}

/* G3, G9 */
static void members_that_write_the_same_bytes_are_refused(void) {
    slr_region *region = make_group_region();
    slr_id run = begin_run(region), id, ids[2];
    uint64_t conflict;
    slr_range ranges[2] = {range_of(1ull << 63, 0, 8, SLR_READ), range_of(1ull << 63, 100, 108, SLR_WRITE)},
              clashing = range_of(1ull << 63, 107, 110, SLR_WRITE);
    ranges[1].argument = 1;
    clashing.argument = 3;
    slr_submission members[2] = {call_of(run, SLR_ANY_SUB), call_of(run, SLR_ANY_SUB)};
    members[0].ranges = ranges;
    members[0].n_ranges = 2;
    members[1].ranges = &clashing;
    members[1].n_ranges = 1;
    STATUS(SLR_CONFLICT, slr_submit_group(region, members, 2, &id, ids, &conflict));
    CHECK(conflict == (1ull << 32 | 3));
    members[1].ranges = ranges; /* reads the same: allowed */
    members[1].n_ranges = 1;
    submit_members(region, members, 2);
    OK(slr_run_cancel(region, run));
    end_run(region, run);
    drop_region(region);
}

/* G3 */
static void impossible_groups_are_refused(void) {
    slr_region *region = make_group_region();
    slr_id run = begin_run(region), id, ids[4];
    uint64_t conflict;
    slr_submission sub = call_of(run, SLR_ANY_SUB), chip = call_of(run, CHIP0),
                   other = call_of(begin_run(region), CHIP1), install = call_of(run, CHIP1);
    install.op = SLR_OP_REGISTER;
    const slr_submission bad[][4] = {
        {chip, chip}, {chip, sub}, {chip, other}, {chip, install}, {chip, call_of(run, 0)}, {chip, call_of(run, ALL)}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        STATUS(SLR_INVALID, slr_submit_group(region, bad[i], 2, &id, ids, &conflict));
    STATUS(SLR_INVALID, slr_submit_group(region, &sub, 0, &id, ids, &conflict));
    STATUS(SLR_INVALID,
           slr_submit_group(region, (slr_submission[]){sub, sub, sub, sub}, 4, &id, ids, &conflict)); /* three SUBs */
    CHECK(run_info(region, run).tasks == 0 && stats_of(region).slots_used == 0);
    slr_region_detach(region);
}

/* G2, G3: all or nothing. */
static void a_group_without_room_changes_nothing(void) {
    slr_config config = small_config();
    config.slots = 4;
    slr_region *region = make_region_of(config);
    slr_id run = begin_run(region), id, ids[2];
    uint64_t conflict;
    slr_submission members[2] = {call_of(run, SLR_ANY_SUB), call_of(run, SLR_ANY_SUB)};
    static char large[1 << 19];
    members[0].args = members[1].args = large;
    members[0].args_bytes = members[1].args_bytes = sizeof large;
    STATUS(SLR_HEAP_FULL, slr_submit_group(region, members, 2, &id, ids, &conflict));
    CHECK(stats_of(region).heap_used == 0);
    members[0].args_bytes = members[1].args_bytes = 100;
    slr_id chips[2] = {submit(region, call_of(run, CHIP)), submit(region, call_of(run, CHIP))};
    STATUS(SLR_SLOTS_FULL, slr_submit_group(region, members, 2, &id, ids, &conflict));
    CHECK(stats_of(region).heap_used == 0 && run_info(region, run).tasks == 2);
    check_graph(region);
    CHECK(take(region, CHIP) == chips[0]);
    succeed(region, CHIP, chips[0]);
    OK(slr_submit_group(region, members, 2, &id, ids, &conflict));
    OK(slr_run_cancel(region, run));
    CHECK(stats_of(region).heap_used == 0);
    end_run(region, run);
    drop_region(region);
}

/* G3, G4: consumers learn of the first member that failed; it is listed, the group is not. */
static void a_group_fails_with_its_first_member(void) {
    slr_region *region = make_group_region();
    slr_id run = begin_run(region), listed[8];
    group g = submit_subs(region, run, 3);
    uint32_t count;
    slr_task_info info;
    slr_id consumer = submit_after(region, run, CHIP0, g.id);
    CHECK(take(region, 0) == 0 && take(region, 1) == 0 && take(region, 2) == g.members[2]);
    CHECK(take(region, 0) == g.members[0] && take(region, 1) == g.members[1]);
    fail(region, 1, g.members[1]);
    fail(region, 0, g.members[0]);
    CHECK(state_of(region, consumer) == SLR_TASK_PENDING);
    succeed(region, 2, g.members[2]);
    OK(slr_task_query(region, consumer, &info));
    CHECK(info.state == SLR_TASK_POISONED && info.root == g.members[1]);
    OK(slr_task_query(region, g.id, &info));
    CHECK(info.state == SLR_TASK_POISONED && info.root == g.members[1]);
    OK(slr_task_query(region, submit_after(region, run, CHIP0, g.id), &info)); /* and who comes later */
    CHECK(info.state == SLR_TASK_POISONED && info.root == g.members[1]);
    check_graph(region);
    OK(slr_run_failures(region, run, listed, 8, &count));
    CHECK(count == 4 && listed[0] == g.members[1] && listed[1] == g.members[0] && listed[2] == consumer);
    slr_run_info ended = run_info(region, run);
    CHECK(ended.failed == 2 && ended.poisoned == 2 && ended.tasks == 5 && stats_of(region).failures == 2);
    end_run(region, run);
    CHECK(stats_of(region).slots_used == 0);
    drop_region(region);
}

/* G3, G4: each member of a group behind a failure is poisoned by it. */
static void a_poisoned_group_never_starts(void) {
    slr_region *region = make_group_region();
    slr_id run = begin_run(region), first = submit(region, call_of(run, CHIP0));
    slr_submission members[2] = {call_of(run, SLR_ANY_SUB), call_of(run, SLR_ANY_SUB)};
    members[1].after = &first;
    members[1].n_after = 1;
    group g = submit_members(region, members, 2);
    slr_id consumer = submit_after(region, run, CHIP1, g.id), chain[3] = {g.members[0], g.members[1], consumer};
    CHECK(take(region, CHIP0) == first);
    fail(region, CHIP0, first);
    for (int i = 0; i < 3; i++) {
        slr_task_info info;
        OK(slr_task_query(region, chain[i], &info));
        CHECK(info.state == SLR_TASK_POISONED && info.root == first);
    }
    CHECK(run_info(region, run).poisoned == 3 && run_info(region, run).failed == 1);
    end_run(region, run);
    drop_region(region);
}

/* G3: what lies before a group goes first; what lies behind waits only until it has started. */
static void a_waiting_group_keeps_its_place(void) {
    slr_region *region = make_group_region();
    slr_id run = begin_run(region), before[3];
    for (int i = 0; i < 3; i++)
        before[i] = submit(region, call_of(run, SLR_ANY_SUB));
    group g = submit_subs(region, run, 2);
    slr_id behind = submit(region, call_of(run, SLR_ANY_SUB));
    for (uint32_t i = 0; i < 3; i++)
        CHECK(take(region, i) == before[i]);
    succeed(region, 0, before[0]);
    CHECK(take(region, 0) == 0 && info_of(region, 0).state == SLR_WORKER_GATHERED);
    succeed(region, 1, before[1]);
    CHECK(take(region, 1) == g.members[1] && take(region, 0) == g.members[0]);
    succeed(region, 2, before[2]);
    CHECK(take(region, 2) == behind);
    succeed(region, 0, g.members[0]);
    succeed(region, 1, g.members[1]);
    succeed(region, 2, behind);
    end_run(region, run);
    drop_region(region);
}

/* G3: groups on the same workers, named in any order, gather one after the other. */
static void two_groups_on_the_same_workers_do_not_hold_each_other_up(void) {
    slr_region *region = make_group_region();
    slr_id run = begin_run(region);
    group g[2] = {submit_chips(region, run, CHIP0, CHIP1), submit_chips(region, run, CHIP1, CHIP0)};
    slr_id chip = submit(region, call_of(run, CHIP0));
    for (int i = 0; i < 2; i++) {
        CHECK(take(region, CHIP1) == 0 && take(region, CHIP0) == g[i].members[i]);
        CHECK(take(region, CHIP1) == g[i].members[1 - i]);
        succeed(region, CHIP0, g[i].members[i]);
        succeed(region, CHIP1, g[i].members[1 - i]);
    }
    CHECK(take(region, CHIP0) == chip);
    succeed(region, CHIP0, chip);
    end_run(region, run);
    drop_region(region);
}

/* G3: it is free once it holds nothing; until then the group waits, and the eventfd tells when to look again. */
static void a_remote_worker_joins_when_its_hand_is_empty(void) {
    slr_region *region = make_group_region();
    slr_id run = begin_run(region), first = submit(region, call_of(run, FAR)),
           second = submit(region, call_of(run, FAR));
    CHECK(take(region, FAR) == first && take(region, FAR) == second);
    group g = submit_chips(region, run, FAR, CHIP0);
    slr_id behind = submit(region, call_of(run, FAR));
    CHECK(take(region, FAR) == 0 && info_of(region, FAR).state == SLR_WORKER_PARKED && take(region, CHIP0) == 0);
    succeed(region, FAR, second);
    CHECK(take(region, FAR) == 0 && info_of(region, FAR).state == SLR_WORKER_PARKED);
    succeed(region, FAR, first);
    CHECK(info_of(region, FAR).state == SLR_WORKER_SPINNING);
    CHECK(take(region, FAR) == g.members[0] && take(region, FAR) == behind && take(region, CHIP0) == g.members[1]);
    check_graph(region);
    succeed(region, FAR, g.members[0]);
    succeed(region, FAR, behind);
    succeed(region, CHIP0, g.members[1]);
    end_run(region, run);
    drop_region(region);
}

/* G3: what a member kept a remote worker from taking is offered to it when the member goes, whatever ends it. */
static void a_member_that_goes_leaves_the_way_free(void) {
    for (int cancelled = 0; cancelled <= 1; cancelled++) {
        slr_region *region = make_group_region();
        slr_id run = begin_run(region), other = begin_run(region), held = submit(region, call_of(other, FAR));
        CHECK(take(region, FAR) == held);
        submit_chips(region, run, FAR, CHIP0);
        slr_id behind = submit(region, call_of(other, FAR));
        CHECK(take(region, FAR) == 0 && info_of(region, FAR).state == SLR_WORKER_PARKED);
        OK(cancelled ? slr_run_cancel(region, run) : slr_worker_abandon(region, CHIP0, "gave up", 7));
        check_graph(region);
        CHECK(info_of(region, FAR).state == SLR_WORKER_SPINNING && take(region, FAR) == behind);
        succeed(region, FAR, held);
        succeed(region, FAR, behind);
        end_run(region, other);
        end_run(region, run);
        drop_region(region);
    }
}

MAIN(CASE(a_group_starts_when_all_its_workers_are_there), CASE(members_are_ordered_as_one),
     CASE(members_that_write_the_same_bytes_are_refused), CASE(impossible_groups_are_refused),
     CASE(a_group_without_room_changes_nothing), CASE(a_group_fails_with_its_first_member),
     CASE(a_poisoned_group_never_starts), CASE(a_waiting_group_keeps_its_place),
     CASE(two_groups_on_the_same_workers_do_not_hold_each_other_up), CASE(a_remote_worker_joins_when_its_hand_is_empty),
     CASE(a_member_that_goes_leaves_the_way_free))
