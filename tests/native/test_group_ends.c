/* Groups whose workers die or are given up, whose run is cancelled, or whose members are late. */
#include "group_harness.h"

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

MAIN(CASE(a_worker_that_dies_waiting_gives_its_place_back), CASE(a_started_member_dies_with_its_worker),
     CASE(a_group_fails_with_a_worker_that_is_given_up), CASE(a_group_fails_when_too_few_sub_workers_are_left),
     CASE(a_member_may_be_late_before_its_worker_looks), CASE(cancelling_frees_those_who_wait),
     CASE(who_waits_asleep_is_woken))
