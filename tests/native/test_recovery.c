/* After a death with the lock held: who is woken, what is completed, what keeps its order. Built with -DSLR_FAULTS. */
#include <sched.h>

#include "fault_harness.h"

#define LATEST_NS 20000000000ll

static void submit_to_sub1(const scene *s) {
    submit(s->region, call_of(s->dying, SUB1));
}

/* W4: those who sleep when the holder dies are woken by the recovery. */
static void sleepers_learn_that_their_run_was_lost(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region);
    submit(region, call_of(run, CHIP));
    pid_t waiter = fork_child();
    if (waiter == 0)
        _exit(slr_run_wait(region, run, 0, LATEST_NS) == SLR_OK ? 0 : 1);
    CHECK(dies_at(&(scene){.region = region, .dying = run}, "submit:slot", 0, submit_to_sub1));
    CHECK(stats_of(region).recoveries == 1);
    reap(waiter);
    CHECK(run_info(region, run).lost && run_info(region, run).ended);
    drop_region(region);
}

/* The group {CHIP, REMOTE} of s.dying, with CHIP waiting; for take_remote to start. */
static void gather(slr_region *region, slr_id run, slr_id ids[2]) {
    slr_submission members[2] = {call_of(run, CHIP), call_of(run, REMOTE)};
    slr_id group;
    uint64_t conflict;
    OK(slr_submit_group(region, members, 2, &group, ids, &conflict));
    CHECK(take(region, CHIP) == 0);
}

static void take_remote(const scene *s) {
    take(s->region, REMOTE);
}

/* G3, W4: once the last worker has joined, the others count on each other, so recovery starts all or none. */
static void a_group_is_started_whole_or_not_at_all(void) {
    static const struct {
        const char *point;
        uint32_t skip;
        int starts;
    } deaths[] = {{"take:popped", 0, 0}, {"group:joined", 0, 0}, {"take:running", 0, 1}, {"group:started", 1, 1}};
    for (size_t i = 0; i < sizeof deaths / sizeof *deaths; i++) {
        slr_region *region = make_region();
        slr_id run = begin_run(region), ids[2];
        uint32_t failed;
        gather(region, run, ids);
        CHECK(dies_at(&(scene){.region = region}, deaths[i].point, deaths[i].skip, take_remote));
        CHECK(take(region, CHIP) == (deaths[i].starts ? ids[0] : 0));
        check_graph(region);
        CHECK(stats_of(region).recoveries == 1 && run_info(region, run).lost);
        OK(slr_worker_died(region, REMOTE, NULL, 0, &failed));
        CHECK(failed == (uint32_t)deaths[i].starts);
        if (deaths[i].starts)
            succeed(region, CHIP, ids[0]);
        end_run(region, run);
        drop_region(region);
    }
}

/* A process of SUB1 that sleeps until it gets one task, which it completes; it never spins. */
static pid_t start_sleeper(slr_region *region) {
    uint32_t failed;
    slr_worker_info info;
    slr_task task;
    OK(slr_worker_died(region, SUB1, NULL, 0, &failed));
    pid_t sleeper = fork_child();
    if (sleeper == 0) {
        be_ready(region, SUB1);
        OK(slr_worker_take(region, SUB1, 0, -1, &task));
        succeed(region, SUB1, task.id);
        _exit(0);
    }
    do {
        sched_yield();
        OK(slr_worker_query(region, SUB1, &info));
    } while (info.state != SLR_WORKER_PARKED);
    return sleeper;
}

/* W4, G11: who was to be woken by one that died first sleeps on, counts as awake, and must be reached all the same. */
static void recovery_wakes_who_was_to_be_woken(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region);
    pid_t sleeper = start_sleeper(region);
    CHECK(dies_at(&(scene){.region = region, .dying = run}, "submit:queued", 0, submit_to_sub1));
    slr_id again = begin_run(region);
    submit(region, call_of(again, SUB1));
    OK(slr_run_seal(region, again));
    OK(slr_run_wait(region, again, 0, LATEST_NS));
    reap(sleeper);
    drop_region(region);
}

/* W4, G11: the same of one that died after it had given back the lock: nobody recovers, but its death is reported. */
static void a_reported_death_wakes_who_was_to_be_woken(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region);
    uint32_t failed;
    pid_t sleeper = start_sleeper(region);
    CHECK(dies_at(&(scene){.region = region, .dying = run}, "unlocked:waking", 0, submit_to_sub1));
    OK(slr_worker_died(region, SUB0, NULL, 0, &failed));
    OK(slr_run_seal(region, run));
    OK(slr_run_wait(region, run, 0, LATEST_NS));
    CHECK(stats_of(region).recoveries == 0);
    reap(sleeper);
    drop_region(region);
}

static void abandon_both_subs(const scene *s) {
    OK(slr_worker_abandon(s->region, SUB0, "gave up", 7));
    OK(slr_worker_abandon(s->region, SUB1, "gave up", 7));
}

/* W4: who gives up the last SUB worker may die in the middle; whoever does it again completes it. */
static void giving_up_a_worker_is_completed_by_who_does_it_again(void) {
    slr_region *region = make_region();
    slr_id before = begin_run(region), held = submit(region, call_of(before, SUB1));
    CHECK(take(region, SUB1) == held);
    CHECK(dies_at(&(scene){.region = region}, "abandon:marked", 1, abandon_both_subs));
    check_graph(region);
    CHECK(state_of(region, held) == SLR_TASK_RUNNING);
    abandon_both_subs(&(scene){.region = region});
    CHECK(state_of(region, held) == SLR_TASK_FAILED);
    slr_id after = begin_run(region), later = submit(region, call_of(after, SLR_ANY_SUB));
    CHECK(state_of(region, later) == SLR_TASK_FAILED);
    end_run(region, before);
    end_run(region, after);
    drop_region(region);
}

/* G4: many tasks retained by a lost run keep the order in which they ended. */
static void retained_tasks_keep_their_order(void) {
    enum { N = 100 };
    slr_region *region = make_region();
    slr_id run = begin_run(region), tasks[N], listed[N];
    uint64_t random = 3;
    uint32_t count;
    for (int i = 0; i < N; i++) {
        tasks[i] = submit(region, call_of(run, REMOTE));
        CHECK(take(region, REMOTE) == tasks[i]);
    }
    for (int i = N - 1; i > 0; i--) {
        int other = (int)(next_random(&random) % (uint64_t)(i + 1));
        slr_id swapped = tasks[i];
        tasks[i] = tasks[other];
        tasks[other] = swapped;
    }
    for (int i = 0; i < N; i++)
        fail(region, REMOTE, tasks[i]);
    CHECK(dies_at(&(scene){.region = region, .dying = run}, "submit:slot", 0, submit_to_sub1));
    OK(slr_run_failures(region, run, listed, N, &count));
    CHECK(count == N && memcmp(listed, tasks, sizeof tasks) == 0);
    drop_region(region);
}

MAIN(CASE(sleepers_learn_that_their_run_was_lost), CASE(recovery_wakes_who_was_to_be_woken),
     CASE(a_reported_death_wakes_who_was_to_be_woken), CASE(giving_up_a_worker_is_completed_by_who_does_it_again),
     CASE(retained_tasks_keep_their_order), CASE(a_group_is_started_whole_or_not_at_all))
