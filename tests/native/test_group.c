/* Groups: one node of the graph on several workers at once. */
#include "harness.h"

enum { SUBS = 3, CHIP0 = 3, CHIP1 = 4, FAR = 5, ALL = 6 };

static slr_worker_info info_of(slr_region *region, uint32_t worker) {
    slr_worker_info info;
    OK(slr_worker_query(region, worker, &info));
    return info;
}

/* Three SUB workers, two CHIP workers and a REMOTE one, ready and played by this thread. */
static slr_region *make_group_region(void) {
    static const slr_worker_kind kinds[ALL] = {SLR_WORKER_SUB,  SLR_WORKER_SUB,  SLR_WORKER_SUB,
                                               SLR_WORKER_CHIP, SLR_WORKER_CHIP, SLR_WORKER_REMOTE};
    slr_config config = small_config();
    slr_region *region;
    config.workers = ALL;
    OK(slr_region_create(&config, &region));
    for (uint32_t i = 0; i < ALL; i++) {
        OK(slr_worker_define(region, i, kinds[i]));
        be_ready(region, i);
    }
    return region;
}

typedef struct {
    slr_id id;
    slr_id members[SUBS];
} group;

static group submit_members(slr_region *region, const slr_submission *members, uint32_t n) {
    group g;
    uint64_t conflict;
    OK(slr_submit_group(region, members, n, &g.id, g.members, &conflict));
    check_graph(region);
    return g;
}

static group submit_subs(slr_region *region, slr_id run, uint32_t n) {
    slr_submission members[SUBS];
    for (uint32_t i = 0; i < n; i++)
        members[i] = call_of(run, SLR_ANY_SUB);
    return submit_members(region, members, n);
}

static group submit_chips(slr_region *region, slr_id run, uint32_t first, uint32_t second) {
    slr_submission members[2] = {call_of(run, first), call_of(run, second)};
    return submit_members(region, members, 2);
}

static slr_id submit_after(slr_region *region, slr_id run, uint32_t worker, slr_id before) {
    slr_submission submission = call_of(run, worker);
    submission.after = &before;
    submission.n_after = 1;
    return submit(region, submission);
}

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

/* G3, W4: who waited with a member leaves it to another, at the front of the queue. */
static void a_worker_that_dies_waiting_gives_its_place_back(void) {
    slr_region *region = make_group_region();
    slr_id run = begin_run(region);
    group g = submit_subs(region, run, 2);
    slr_id behind = submit(region, call_of(run, SLR_ANY_SUB));
    uint32_t failed;
    CHECK(take(region, 0) == 0);
    OK(slr_worker_died(region, 0, "died", 4, &failed));
    CHECK(failed == 0 && state_of(region, g.members[0]) == SLR_TASK_READY);
    check_graph(region);
    CHECK(take(region, 1) == 0 && take(region, 2) == g.members[1] && take(region, 1) == g.members[0]);
    OK(slr_worker_died(region, 1, "died", 4, &failed)); /* once it runs, it fails as any task does */
    CHECK(failed == 1 && state_of(region, g.members[0]) == SLR_TASK_FAILED);
    succeed(region, 2, g.members[1]);
    CHECK(take(region, 2) == behind);
    succeed(region, 2, behind);
    CHECK(state_of(region, g.id) == SLR_TASK_POISONED && run_info(region, run).failed == 1);
    end_run(region, run);
    drop_region(region);
}

/* G3, W4: also where the group had started and its worker was about to learn of it. */
static void a_started_member_dies_with_its_worker(void) {
    slr_region *region = make_group_region();
    slr_id run = begin_run(region);
    group g = submit_chips(region, run, CHIP0, CHIP1);
    uint32_t failed;
    CHECK(take(region, CHIP0) == 0 && take(region, CHIP1) == g.members[1]);
    OK(slr_worker_died(region, CHIP0, "died", 4, &failed));
    CHECK(failed == 1 && state_of(region, g.members[0]) == SLR_TASK_FAILED);
    be_ready(region, CHIP0);
    CHECK(take(region, CHIP0) == 0);
    succeed(region, CHIP1, g.members[1]);
    end_run(region, run);
    drop_region(region);
}

/* G3, W4: a group that can never be whole fails, wherever its members are, and its workers are free. */
static void a_group_fails_with_a_worker_that_is_given_up(void) {
    slr_region *region = make_group_region();
    slr_id run = begin_run(region), task = submit(region, call_of(run, CHIP1));
    CHECK(take(region, CHIP1) == task);
    group g = submit_chips(region, run, CHIP0, CHIP1);
    slr_id behind = submit(region, call_of(run, CHIP0));
    CHECK(take(region, CHIP0) == 0);
    OK(slr_worker_abandon(region, CHIP1, "gave up", 7));
    check_graph(region);
    CHECK(info_of(region, CHIP0).state == SLR_WORKER_SPINNING && take(region, CHIP0) == behind);
    group later = submit_chips(region, run, CHIP1, CHIP0);
    slr_id failed[4] = {g.members[0], g.members[1], later.members[0], later.members[1]};
    for (int i = 0; i < 4; i++) {
        slr_task_info info;
        OK(slr_task_query(region, failed[i], &info));
        CHECK(info.state == SLR_TASK_FAILED && info.record_bytes == 7);
    }
    succeed(region, CHIP0, behind);
    end_run(region, run);
    drop_region(region);
}

/* G3, W4 */
static void a_group_fails_when_too_few_sub_workers_are_left(void) {
    slr_region *region = make_group_region();
    slr_id run = begin_run(region);
    group three = submit_subs(region, run, 3), two = submit_subs(region, run, 2);
    CHECK(take(region, 0) == 0 && take(region, 1) == 0);
    OK(slr_worker_abandon(region, 1, "gave up", 7));
    check_graph(region);
    CHECK(state_of(region, three.members[0]) == SLR_TASK_FAILED &&
          state_of(region, three.members[2]) == SLR_TASK_FAILED);
    CHECK(take(region, 0) == 0 && take(region, 2) == two.members[1] && take(region, 0) == two.members[0]);
    group late = submit_subs(region, run, 3);
    CHECK(state_of(region, late.members[1]) == SLR_TASK_FAILED);
    succeed(region, 0, two.members[0]);
    succeed(region, 2, two.members[1]);
    CHECK(run_info(region, run).failed == 6);
    end_run(region, run);
    drop_region(region);
}

/* G3, G5: a cancelled run lets go of the workers that wait with its members, and of no others. */
static void cancelling_frees_those_who_wait(void) {
    slr_region *region = make_group_region();
    slr_id run = begin_run(region), other = begin_run(region);
    group cancelled = submit_subs(region, run, 2), kept = submit_chips(region, other, CHIP0, CHIP1);
    group pending;
    uint64_t conflict;
    slr_submission members[2] = {call_of(run, SLR_ANY_SUB), call_of(run, SLR_ANY_SUB)};
    members[0].after = &cancelled.id;
    members[0].n_after = 1;
    OK(slr_submit_group(region, members, 2, &pending.id, pending.members, &conflict));
    CHECK(take(region, 0) == 0 && take(region, CHIP0) == 0);
    OK(slr_run_cancel(region, run));
    check_graph(region);
    CHECK(run_info(region, run).ended && run_info(region, run).failed == 0);
    CHECK(info_of(region, 0).state == SLR_WORKER_SPINNING && info_of(region, CHIP0).state == SLR_WORKER_GATHERED);
    CHECK(take(region, CHIP1) == kept.members[1] && take(region, CHIP0) == kept.members[0]);
    succeed(region, CHIP0, kept.members[0]);
    succeed(region, CHIP1, kept.members[1]);
    end_run(region, other);
    end_run(region, run);
    drop_region(region);
}

/* G3, G7: a member's time begins with its group's, whether its worker has looked yet or not. */
static void a_member_may_be_late_before_its_worker_looks(void) {
    slr_region *region = make_group_region();
    slr_id run = begin_run(region);
    slr_submission members[2] = {call_of(run, CHIP0), call_of(run, CHIP1)};
    slr_overdue late[2];
    slr_task task;
    uint32_t count, failed;
    int64_t next_ns;
    members[0].timeout_ns = members[1].timeout_ns = 1000;
    group g = submit_members(region, members, 2);
    CHECK(take(region, CHIP0) == 0);
    OK(slr_workers_overdue(region, INT64_MAX - 1, late, 2, &count, &next_ns));
    CHECK(count == 0); /* gathering takes as long as it takes */
    CHECK(take(region, CHIP1) == g.members[1]);
    OK(slr_workers_overdue(region, INT64_MAX - 1, late, 2, &count, &next_ns));
    CHECK(count == 2 && late[0].worker == CHIP0 && late[0].task == g.members[0]);
    STATUS(SLR_STALE, slr_worker_take(region, CHIP0, 0, 0, &task));
    check_graph(region);
    OK(slr_worker_died(region, CHIP0, "late", 4, &failed));
    CHECK(failed == 1);
    OK(slr_worker_died(region, CHIP1, "late", 4, &failed));
    CHECK(failed == 1 && run_info(region, run).failed == 2);
    end_run(region, run);
    drop_region(region);
}

/* G3, G11: a worker that sleeps with its member is woken by the last to join. */
static void who_waits_asleep_is_woken(void) {
    slr_region *region = make_group_region();
    slr_id run = begin_run(region);
    group g = submit_chips(region, run, CHIP0, CHIP1);
    slr_task task;
    pid_t child = fork_child();
    if (child == 0) {
        OK(slr_worker_take(region, CHIP0, 0, -1, &task));
        CHECK(task.id == g.members[0]);
        succeed(region, CHIP0, task.id);
        _exit(0);
    }
    while (info_of(region, CHIP0).state != SLR_WORKER_GATHERED)
        usleep(100);
    OK(slr_worker_take(region, CHIP1, 0, -1, &task));
    reap(child);
    succeed(region, CHIP1, task.id);
    end_run(region, run);
    drop_region(region);
}

MAIN(CASE(a_group_starts_when_all_its_workers_are_there), CASE(members_are_ordered_as_one),
     CASE(members_that_write_the_same_bytes_are_refused), CASE(impossible_groups_are_refused),
     CASE(a_group_without_room_changes_nothing), CASE(a_group_fails_with_its_first_member),
     CASE(a_poisoned_group_never_starts), CASE(a_waiting_group_keeps_its_place),
     CASE(two_groups_on_the_same_workers_do_not_hold_each_other_up), CASE(a_remote_worker_joins_when_its_hand_is_empty),
     CASE(a_member_that_goes_leaves_the_way_free), CASE(a_worker_that_dies_waiting_gives_its_place_back),
     CASE(a_started_member_dies_with_its_worker), CASE(a_group_fails_with_a_worker_that_is_given_up),
     CASE(a_group_fails_when_too_few_sub_workers_are_left), CASE(a_member_may_be_late_before_its_worker_looks),
     CASE(cancelling_frees_those_who_wait), CASE(who_waits_asleep_is_woken))
