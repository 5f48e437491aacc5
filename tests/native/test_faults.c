/*
 * Death with the lock held, at every fault point: the next process that takes the lock finds a sound region, loses
 * nothing that had ended, and can work on. Built with -DSLR_FAULTS.
 */
#include <sys/ptrace.h>

#include "fault_harness.h"

/* How many deaths are tried after each passing of a fault point, and how many instructions after it at most. */
#ifndef DEATHS_EACH
#define DEATHS_EACH 2
#define STEPS       300
#endif

#define X (1ull << 63 | 1)
#define Y (1ull << 63 | 2)

static uint64_t block_with(slr_region *region, const char *text) {
    uint64_t offset;
    OK(slr_heap_alloc(region, strlen(text), &offset));
    memcpy((char *)slr_region_heap(region) + offset, text, strlen(text));
    return offset;
}

static slr_id submit_with(slr_region *region, slr_id run, uint32_t worker, uint64_t buffer, uint64_t block) {
    slr_range range = range_of(buffer, 0, 8, SLR_READ | SLR_WRITE);
    slr_submission submission = call_of(run, worker);
    submission.args = "arguments";
    submission.args_bytes = 9;
    submission.blocks = &block;
    submission.n_blocks = 1;
    submission.ranges = &range;
    submission.n_ranges = 1;
    return submit(region, submission);
}

static scene set_scene(void) {
    scene s = {.region = make_region()};
    slr_region *parents; /* a mapping in which no worker is attached, so the block is no worker's */
    OK(slr_region_attach(slr_region_fd(s.region), &parents));
    s.held = block_with(parents, "the parent's");
    slr_region_detach(parents);
    OK(slr_callable_put(s.region, a_digest, 2, "code", 4));
    s.ended = begin_run(s.region);
    s.failure = submit(s.region, call_of(s.ended, CHIP));
    CHECK(take(s.region, CHIP) == s.failure);
    OK(slr_worker_complete(s.region, CHIP, s.failure, SLR_TASK_FAILED, block_with(s.region, "error"), 5));
    s.result = submit(s.region, call_of(s.ended, CHIP));
    CHECK(take(s.region, CHIP) == s.result);
    OK(slr_worker_complete(s.region, CHIP, s.result, SLR_TASK_SUCCEEDED, block_with(s.region, "result"), 6));
    OK(slr_run_seal(s.region, s.ended));
    s.dying = begin_run(s.region);
    OK(slr_run_begin(s.region, SLR_RUN_STREAM, &s.stream));
    s.live = begin_run(s.region);
    s.running = submit_with(s.region, s.live, SUB1, X, s.held);
    CHECK(take(s.region, SUB1) == s.running);
    submit_with(s.region, s.live, CHIP, X, s.held);
    submit_with(s.region, s.live, SLR_ANY_SUB, X, s.held);
    return s;
}

/* A task of SUB0 is late, and SUB0 is killed for it and attached anew. */
static void pass_a_deadline(const scene *s) {
    slr_submission submission = call_of(s->dying, SUB0);
    slr_task task;
    slr_overdue late;
    uint32_t count;
    int64_t next_ns;
    submission.timeout_ns = 1;
    submit(s->region, submission);
    OK(slr_worker_take(s->region, SUB0, 0, 0, &task));
    OK(slr_workers_overdue(s->region, INT64_MAX - 1, &late, 1, &count, &next_ns));
    CHECK(count == 1 && late.worker == SUB0);
    OK(slr_worker_died(s->region, SUB0, "late", 4, &count));
    be_ready(s->region, SUB0);
}

/* A worker dies while it waits with a member; its successor and the other then run the group, of which one fails. */
static void run_a_group(slr_region *region, slr_id run, uint64_t block) {
    slr_submission members[2] = {call_of(run, CHIP), call_of(run, REMOTE)};
    uint32_t failed;
    slr_id group, ids[2];
    uint64_t conflict;
    for (int i = 0; i < 2; i++) {
        members[i].args = "arguments";
        members[i].args_bytes = 9;
        members[i].blocks = &block;
        members[i].n_blocks = 1;
    }
    OK(slr_submit_group(region, members, 2, &group, ids, &conflict));
    CHECK(take(region, CHIP) == 0);
    OK(slr_worker_died(region, CHIP, NULL, 0, &failed));
    be_ready(region, CHIP);
    CHECK(take(region, CHIP) == 0 && take(region, REMOTE) == ids[1] && take(region, CHIP) == ids[0]);
    fail(region, CHIP, ids[0]);
    succeed(region, REMOTE, ids[1]);
}

/* One ends well, without a record, the other badly. */
static void run_a_stream(slr_region *region, slr_id stream) {
    slr_ended ended[2];
    uint32_t count;
    slr_id good = submit(region, call_of(stream, CHIP)), bad = submit(region, call_of(stream, CHIP));
    CHECK(take(region, CHIP) == good);
    succeed(region, CHIP, good);
    CHECK(take(region, CHIP) == bad);
    OK(slr_run_wake(region, stream));
    OK(slr_worker_complete(region, CHIP, bad, SLR_TASK_FAILED, block_with(region, "bad"), 3));
    OK(slr_run_reap(region, stream, ended, 2, &count, 0, 0));
    CHECK(count == 2 && ended[0].task == good && ended[1].task == bad);
    OK(slr_run_forget(region, stream, good, 2));
    slr_id never = submit(region, call_of(stream, CHIP));
    OK(slr_run_cancel(region, stream));
    OK(slr_run_forget(region, stream, never, 1));
}

/* Comes past every fault point that is not recovery's. Plays the parent, and SUB0 and CHIP, which it attaches anew, and
 * REMOTE. */
static void pass_every_point(const scene *s) {
    slr_region *region = s->region;
    uint8_t digest[SLR_DIGEST_BYTES] = {77};
    uint32_t failed;
    slr_task task;
    OK(slr_worker_died(region, SUB0, NULL, 0, &failed));
    be_ready(region, SUB0);
    pass_a_deadline(s);
    uint64_t block = block_with(region, "kept by tasks");
    OK(slr_callable_put(region, digest, 1, "more code", 9));
    OK(slr_callable_drop(region, digest, &failed));
    end_run(region, begin_run(region));
    run_a_group(region, s->dying, block);
    run_a_stream(region, s->stream);
    slr_id run = s->dying, first = submit_with(region, run, SUB0, Y, block);
    submit_with(region, run, CHIP, Y, block);
    submit_with(region, run, SLR_ANY_SUB, Y, block);
    OK(slr_worker_take(region, SUB0, 0, 0, &task));
    CHECK(task.id == first);
    OK(slr_worker_complete(region, SUB0, first, SLR_TASK_FAILED, block_with(region, "it failed"), 9));
    submit(region, call_of(run, SUB0));
    OK(slr_run_cancel(region, run));
    OK(slr_run_wait(region, run, 0, -1));
    OK(slr_run_release(region, run));
    OK(slr_heap_unref(region, block));
    STATUS(SLR_TIMEOUT, slr_worker_take(region, SUB0, 0, 1, &task));
}

/* By pass_every_point, that is. */
static bool is_passed(const char *point) {
    return strncmp(point, "recover:", 8) != 0 && strncmp(point, "abandon:", 8) != 0;
}

static void take_the_lock(const scene *s) {
    stats_of(s->region);
}

static void check_what_had_ended(const scene *s) {
    slr_task_info info;
    const char *heap = slr_region_heap(s->region);
    OK(slr_task_query(s->region, s->failure, &info));
    CHECK(info.state == SLR_TASK_FAILED && memcmp(heap + info.record_offset, "error", 5) == 0);
    OK(slr_task_query(s->region, s->result, &info));
    CHECK(info.state == SLR_TASK_SUCCEEDED && memcmp(heap + info.record_offset, "result", 6) == 0);
    CHECK(run_info(s->region, s->ended).failed == 1 && !run_info(s->region, s->ended).lost);
    CHECK(memcmp(heap + s->held, "the parent's", 12) == 0);
    slr_callable callable;
    OK(slr_callable_get(s->region, a_digest, &callable));
    CHECK(memcmp(heap + callable.content_offset, "code", 4) == 0);
}

static void check_live_run_is_lost(const scene *s) {
    slr_run_info info = run_info(s->region, s->live);
    CHECK(info.lost && info.cancelled && info.live == 1 && !info.ended);
    CHECK(state_of(s->region, s->running) == SLR_TASK_RUNNING && take(s->region, CHIP) == 0);
}

/* What is begun now comes after what still runs from before. */
static void check_new_work(const scene *s) {
    slr_id run = begin_run(s->region), task = submit_with(s->region, run, SLR_ANY_SUB, X, s->held);
    CHECK(take(s->region, SUB0) == 0);
    succeed(s->region, SUB1, s->running);
    OK(slr_run_wait(s->region, s->live, 0, 0));
    CHECK(take(s->region, SUB0) == task);
    succeed(s->region, SUB0, task);
    end_run(s->region, run);
}

static void clean_up(const scene *s) {
    slr_callable callable;
    uint32_t left;
    int status = slr_run_release(s->region, s->dying);
    CHECK(status == SLR_OK || status == SLR_STALE);
    OK(slr_run_release(s->region, s->ended));
    OK(slr_run_release(s->region, s->stream));
    OK(slr_run_release(s->region, s->live));
    OK(slr_heap_unref(s->region, s->held));
    for (uint32_t i = 0; i < small_config().callables; i++)
        if (slr_callable_at(s->region, i, &callable) == SLR_OK)
            OK(slr_callable_drop(s->region, callable.digest, &left));
    slr_stats stats = stats_of(s->region);
    CHECK(stats.slots_used == 0 && stats.live == 0 && stats.heap_used == 0);
    drop_region(s->region);
}

/* Those that pass_every_point plays. */
static void report_deaths(const scene *s) {
    static const uint32_t played[] = {SUB0, CHIP, REMOTE};
    uint32_t failed;
    for (size_t i = 0; i < 3; i++)
        OK(slr_worker_died(s->region, played[i], "died", 4, &failed));
    be_ready(s->region, CHIP);
}

static void survive(const scene *s, uint32_t recoveries) {
    check_graph(s->region);
    CHECK(stats_of(s->region).recoveries == recoveries);
    report_deaths(s);
    check_what_had_ended(s);
    check_live_run_is_lost(s);
    be_ready(s->region, SUB0);
    check_new_work(s);
    check_graph(s->region);
    clean_up(s);
}

/* W4 */
static void death_with_the_lock_held_is_survived_at_every_point(void) {
    for (const char *const *point = slri_fault_points; *point; point++) {
        if (!is_passed(*point) || strncmp(*point, "unlocked:", 9) == 0 || strncmp(*point, "read:", 5) == 0)
            continue;
        uint32_t skip = 0;
        scene s = set_scene();
        for (; dies_at(&s, *point, skip, pass_every_point); skip++) {
            survive(&s, 1);
            s = set_scene();
        }
        CHECK(skip > 0 && stats_of(s.region).recoveries == 0);
        slr_region_detach(s.region);
        printf("  %s: %u deaths\n", *point, skip);
    }
}

/* Kills a child some instructions after it has passed the point. False: the child does not pass it so often. */
static bool dies_after(const scene *s, const char *point, uint32_t skip, uint64_t steps) {
    int status;
    pid_t child = fork_child();
    if (child == 0) {
        CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0);
        slri_fault_arm(point, skip, SIGSTOP);
        pass_every_point(s);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    if (WIFEXITED(status))
        return false;
    for (; steps > 0 && WIFSTOPPED(status); steps--) {
        CHECK(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) == 0);
        CHECK(waitpid(child, &status, 0) == child);
    }
    if (WIFSTOPPED(status))
        CHECK(kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child);
    return true;
}

/* The same when the lock was free at that moment: nothing is lost, and what lives can be ended in the usual way. */
static void carry_on(const scene *s) {
    report_deaths(s);
    check_graph(s->region);
    check_what_had_ended(s);
    OK(slr_run_cancel(s->region, s->live));
    OK(slr_run_cancel(s->region, s->stream));
    slr_run_cancel(s->region, s->dying); /* it may be over and released */
    succeed(s->region, SUB1, s->running);
    OK(slr_run_wait(s->region, s->live, 0, 0));
    clean_up(s);
}

static bool survives_instruction(const char *point, uint32_t skip, uint64_t steps, uint32_t *locked) {
    scene s = set_scene();
    if (!dies_after(&s, point, skip, steps)) {
        slr_region_detach(s.region);
        return false;
    }
    check_graph(s.region);
    uint32_t recoveries = stats_of(s.region).recoveries;
    *locked += recoveries;
    if (recoveries)
        survive(&s, 1);
    else
        carry_on(&s);
    return true;
}

/* W4: at instructions all over what the core does, most of them with the lock held. */
static void death_at_any_instruction_is_survived(void) {
    uint32_t locked = 0, died = 0;
    uint64_t random = 11;
    for (const char *const *point = slri_fault_points; *point; point++)
        for (uint32_t skip = 0, more = 1; more && is_passed(*point); skip++)
            for (uint32_t i = 0; i < DEATHS_EACH && more; i++, died += more)
                more = survives_instruction(*point, skip, next_random(&random) % STEPS, &locked);
    printf("  %u deaths, %u with the lock held\n", died, locked);
    CHECK(died > 50 && locked > 20);
}

/* W4 */
static void death_while_recovering_is_survived(void) {
    const char *const points[] = {"recover:slots", "recover:heap"};
    for (size_t i = 0; i < 2; i++) {
        scene s = set_scene();
        CHECK(dies_at(&s, "submit:edges", 0, pass_every_point));
        CHECK(dies_at(&s, points[i], 0, take_the_lock));
        CHECK(dies_at(&s, points[i], 0, take_the_lock));
        survive(&s, 3);
    }
}

static void look_around(const scene *s) {
    uint64_t start, bytes;
    OK(slr_heap_find(s->region, s->held, &start, &bytes));
}

/* W4: who dies with the lock held, but has only read, costs no run; nothing is dropped. */
static void death_of_a_reader_is_no_harm(void) {
    scene s = set_scene();
    CHECK(dies_at(&s, "read:locked", 0, look_around));
    check_graph(s.region);
    CHECK(stats_of(s.region).recoveries == 0 && !run_info(s.region, s.live).lost);
    CHECK(dies_at(&s, "submit:edges", 0, pass_every_point)); /* nor does it hide a later one that does */
    CHECK(dies_at(&s, "read:locked", 0, look_around));       /* who has recovered, and then only reads */
    survive(&s, 1);
}

MAIN(CASE(death_with_the_lock_held_is_survived_at_every_point), CASE(death_at_any_instruction_is_survived),
     CASE(death_of_a_reader_is_no_harm), CASE(death_while_recovering_is_survived))
