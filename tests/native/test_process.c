/* Workers in processes of their own: every task is done exactly once, whoever dies, and nobody sleeps while there is
 * work. */
#include <sched.h>
#include <signal.h>
#include <time.h>

#include "harness.h"

#define SUBS      3
#define SPIN_US   20
#define LATEST_NS 20000000000ll

typedef struct {
    uint32_t number;
} job;

static slr_region *region_of_subs(uint32_t subs, uint32_t slots, uint64_t heap_bytes) {
    slr_config config = small_config();
    slr_region *region;
    config.slots = slots;
    config.edges = slots * 4;
    config.heap_bytes = heap_bytes;
    config.workers = subs;
    OK(slr_region_create(&config, &region));
    for (uint32_t i = 0; i < subs; i++)
        OK(slr_worker_define(region, i, SLR_WORKER_SUB));
    return region;
}

/* A worker's process: adds one to the counter that each task names. Its end is the region's. */
static pid_t start_worker(slr_region *inherited, uint32_t worker, uint64_t counters, uint32_t spin_us) {
    pid_t pid = fork_child();
    if (pid)
        return pid;
    slr_region *region;
    slr_task task;
    int status;
    OK(slr_region_attach(slr_region_fd(inherited), &region)); /* at another address */
    uint8_t *heap = slr_region_heap(region);
    uint32_t *counter = (uint32_t *)(heap + counters);
    be_ready(region, worker);
    while ((status = slr_worker_take(region, worker, spin_us, LATEST_NS, &task)) == SLR_OK) {
        job what;
        memcpy(&what, heap + task.args_offset, sizeof what);
        __atomic_fetch_add(&counter[what.number], 1, __ATOMIC_RELAXED);
        for (volatile int i = 0; what.number % 16 == 0 && i < 20000;
             i++) /* now and then a longer one, to be killed in */
            ;
        status = slr_worker_complete(region, worker, task.id, SLR_TASK_SUCCEEDED, 0, 0);
        CHECK(status == SLR_OK || status == SLR_STALE);
    }
    _exit(status == SLR_CLOSED ? 0 : 1);
}

/* Waits for space where something is full. */
static slr_id submit_job(slr_region *region, slr_id run, uint32_t worker, uint32_t number, uint64_t block) {
    job what = {number};
    slr_range range = range_of(1ull << 63, number % 7 * 8, number % 7 * 8 + 8, SLR_READ | SLR_WRITE);
    slr_submission submission = call_of(run, worker);
    submission.args = &what;
    submission.args_bytes = sizeof what;
    submission.blocks = &block;
    submission.n_blocks = 1;
    submission.ranges = &range;
    submission.n_ranges = number % 3 == 0;
    for (;;) {
        slr_id task;
        uint64_t conflict;
        uint32_t seen = slr_space_seen(region);
        int status = slr_submit(region, &submission, &task, &conflict);
        if (status == SLR_OK)
            return task;
        CHECK(status == SLR_SLOTS_FULL || status == SLR_HEAP_FULL || status == SLR_EDGES_FULL);
        OK(slr_space_wait(region, seen, LATEST_NS));
    }
}

/* Jobs number, number + 1, ... on as many SUB workers at once. SLR_CLOSED, SLR_SLOTS_FULL: as slr_submit. */
static int submit_group_of_jobs(slr_region *region, slr_id run, uint32_t n, uint32_t number) {
    slr_submission members[SUBS];
    job what[SUBS];
    slr_id group, ids[SUBS];
    uint64_t conflict;
    for (uint32_t i = 0; i < n; i++) {
        what[i].number = number + i;
        members[i] = call_of(run, SLR_ANY_SUB);
        members[i].args = &what[i];
        members[i].args_bytes = sizeof what[i];
    }
    return slr_submit_group(region, members, n, &group, ids, &conflict);
}

static uint64_t make_counters(slr_region *region, uint32_t n) {
    uint64_t offset;
    OK(slr_heap_alloc(region, n * sizeof(uint32_t), &offset));
    memset((char *)slr_region_heap(region) + offset, 0, n * sizeof(uint32_t));
    return offset;
}

static void stop(slr_region *region, const pid_t *pids, uint32_t n) {
    OK(slr_region_shutdown(region));
    for (uint32_t i = 0; i < n; i++)
        reap(pids[i]);
    drop_region(region);
}

/* G2, G8: many tasks through few slots and little heap, shared and directed, ordered and not. */
static void every_task_runs_once_under_back_pressure(void) {
    enum { N = 20000 };
    slr_region *region = region_of_subs(SUBS, 64, 1 << 20);
    uint64_t counters = make_counters(region, N);
    pid_t pids[SUBS];
    for (uint32_t i = 0; i < SUBS; i++)
        pids[i] = start_worker(region, i, counters, SPIN_US);
    slr_id run = begin_run(region);
    for (uint32_t i = 0; i < N; i++)
        submit_job(region, run, i % 4 == 3 ? i % SUBS : SLR_ANY_SUB, i, counters);
    OK(slr_run_seal(region, run));
    OK(slr_run_wait(region, run, 50, LATEST_NS));
    const uint32_t *counter = (const uint32_t *)((char *)slr_region_heap(region) + counters);
    for (uint32_t i = 0; i < N; i++)
        CHECK(counter[i] == 1);
    CHECK(run_info(region, run).failed == 0 && stats_of(region).tasks == N);
    OK(slr_run_release(region, run));
    OK(slr_heap_unref(region, counters));
    CHECK(stats_of(region).heap_used == 0);
    stop(region, pids, SUBS);
}

/* One try: what is refused, because everything is full or the run was just lost, is never run. Now and then a group. */
static void try_job(slr_region *region, slr_id run, uint32_t number) {
    job what = {number};
    slr_submission submission = call_of(run, SLR_ANY_SUB);
    submission.args = &what;
    submission.args_bytes = sizeof what;
    slr_id task;
    uint64_t conflict;
    uint32_t seen = slr_space_seen(region);
    int status = number % 20 == 19 ? submit_group_of_jobs(region, run, 2, number - 1)
                                   : slr_submit(region, &submission, &task, &conflict);
    if (status == SLR_SLOTS_FULL)
        status = slr_space_wait(region, seen, LATEST_NS);
    CHECK(status == SLR_OK || status == SLR_CLOSED || (status == SLR_INVALID && run_info(region, run).lost));
}

/* W4, G7: workers are killed at any moment; every task ran once or failed, and the pool goes on. */
static void workers_killed_at_random_lose_only_their_task(void) {
    enum { N = 30000, KILLS = 60 };
    slr_region *region = region_of_subs(SUBS, 256, 4 << 20);
    uint64_t counters = make_counters(region, N), random = 12345, failed_in_all = 0, lost = 0;
    pid_t pids[SUBS];
    slr_id run = begin_run(region);
    for (uint32_t i = 0; i < SUBS; i++)
        pids[i] = start_worker(region, i, counters, SPIN_US);
    for (uint32_t i = 0; i < N; i++) {
        if (run_info(region, run).lost) { /* one was killed with the lock held: what waited was dropped */
            OK(slr_run_wait(region, run, 0, LATEST_NS));
            OK(slr_run_release(region, run));
            run = begin_run(region);
            lost++;
        }
        if (i % 20 != 18)
            try_job(region, run, i); /* 18 is a member of the group of 19 */
        if (i % (N / KILLS) == 0) {
            uint32_t victim = next_random(&random) % SUBS, failed;
            kill(pids[victim], SIGKILL);
            CHECK(waitpid(pids[victim], NULL, 0) == pids[victim]);
            OK(slr_worker_died(region, victim, "killed", 6, &failed));
            CHECK(failed <= 1);
            failed_in_all += failed;
            check_graph(region);
            pids[victim] = start_worker(region, victim, counters, SPIN_US);
        }
    }
    OK(slr_run_seal(region, run));
    OK(slr_run_wait(region, run, 50, LATEST_NS));
    const uint32_t *counter = (const uint32_t *)((char *)slr_region_heap(region) + counters);
    for (uint32_t i = 0; i < N; i++)
        CHECK(counter[i] <= 1);
    CHECK(stats_of(region).recoveries >= lost && stats_of(region).live == 0);
    printf("  %llu tasks failed with their worker, %llu runs were lost\n", (unsigned long long)failed_in_all,
           (unsigned long long)lost);
    OK(slr_run_release(region, run));
    stop(region, pids, SUBS);
}

/* G11, W5: rounds with pauses of every length, so that workers are met spinning, parking, parked and waking. */
static void no_wake_up_is_lost(void) {
    enum { ROUNDS = 3000 };
    slr_region *region = region_of_subs(SUBS, 64, 1 << 20);
    uint64_t counters = make_counters(region, 8), random = 99;
    pid_t pids[SUBS];
    for (uint32_t i = 0; i < SUBS; i++)
        pids[i] = start_worker(region, i, counters, i * 10);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        slr_id run = begin_run(region);
        uint32_t tasks = 1 + next_random(&random) % 5;
        for (uint32_t i = 0; i < tasks; i++)
            submit_job(region, run, next_random(&random) % 3 ? SLR_ANY_SUB : next_random(&random) % SUBS, i, counters);
        if (round % 3 == 0)
            OK(submit_group_of_jobs(region, run, 1 + round % SUBS, 0));
        for (uint32_t i = 0; round % 6 == 0 && i < tasks; i++)
            submit_job(region, run, SLR_ANY_SUB, i, counters);
        OK(slr_run_seal(region, run));
        OK(slr_run_wait(region, run, next_random(&random) % 30, LATEST_NS));
        OK(slr_run_release(region, run));
        struct timespec pause = {.tv_nsec = (long)(next_random(&random) % 4 * (next_random(&random) % 30000))};
        nanosleep(&pause, NULL);
        if (round % 500 == 0)
            check_graph(region);
    }
    stop(region, pids, SUBS);
}

static int parked(slr_region *region, uint32_t subs) {
    int n = 0;
    for (uint32_t i = 0; i < subs; i++) {
        slr_worker_info info;
        OK(slr_worker_query(region, i, &info));
        n += info.state == SLR_WORKER_PARKED;
    }
    return n;
}

/* G11: one task wakes one worker, and the others sleep on. */
static void no_more_are_woken_than_there_is_work(void) {
    slr_region *region = region_of_subs(SUBS, 64, 1 << 20);
    uint64_t counters = make_counters(region, 8);
    pid_t pids[SUBS];
    for (uint32_t i = 0; i < SUBS; i++)
        pids[i] = start_worker(region, i, counters, 0);
    for (int round = 0; round < 100; round++) {
        while (parked(region, SUBS) < SUBS)
            sched_yield();
        slr_id run = begin_run(region);
        submit_job(region, run, SLR_ANY_SUB, 0, counters);
        CHECK(parked(region, SUBS) >= SUBS - 1);
        OK(slr_run_seal(region, run));
        OK(slr_run_wait(region, run, 0, LATEST_NS));
        OK(slr_run_release(region, run));
    }
    stop(region, pids, SUBS);
}

/* SUB1 sleeps in a process of its own; this process plays SUB0, which counts as a spinner. */
static slr_region *one_sleeps_and_one_spins(uint64_t *counters, pid_t *sleeper) {
    slr_region *region = region_of_subs(2, 64, 1 << 20);
    *counters = make_counters(region, 8);
    *sleeper = start_worker(region, SUB1, *counters, 0);
    while (!parked(region, 2))
        sched_yield();
    be_ready(region, SUB0);
    return region;
}

/* G11: a spinner that takes a task of its own leaves the shared one to a sleeper. */
static void a_spinner_that_turns_away_wakes_another(void) {
    uint64_t counters;
    pid_t sleeper;
    slr_region *region = one_sleeps_and_one_spins(&counters, &sleeper);
    slr_id own = begin_run(region), shared = begin_run(region);
    submit_job(region, own, SUB0, 1, counters);
    submit_job(region, shared, SLR_ANY_SUB, 2, counters);
    CHECK(parked(region, 2) == 1);
    slr_id task = take(region, SUB0);
    OK(slr_run_seal(region, shared));
    OK(slr_run_wait(region, shared, 0, LATEST_NS));
    succeed(region, SUB0, task);
    end_run(region, own);
    CHECK(take(region, SUB0) == 0);
    stop(region, &sleeper, 1);
}

/* W4: what counted on a spinner that died goes to a sleeper. */
static void a_spinner_that_dies_is_replaced_at_once(void) {
    uint64_t counters;
    uint32_t failed;
    pid_t sleeper;
    slr_region *region = one_sleeps_and_one_spins(&counters, &sleeper);
    slr_id run = begin_run(region);
    submit_job(region, run, SLR_ANY_SUB, 2, counters);
    CHECK(parked(region, 2) == 1);
    OK(slr_worker_died(region, SUB0, NULL, 0, &failed));
    CHECK(parked(region, 2) == 0 || stats_of(region).live == 0);
    OK(slr_run_seal(region, run));
    OK(slr_run_wait(region, run, 0, LATEST_NS));
    stop(region, &sleeper, 1);
}

MAIN(CASE(every_task_runs_once_under_back_pressure), CASE(workers_killed_at_random_lose_only_their_task),
     CASE(no_wake_up_is_lost), CASE(no_more_are_woken_than_there_is_work),
     CASE(a_spinner_that_turns_away_wakes_another), CASE(a_spinner_that_dies_is_replaced_at_once))
