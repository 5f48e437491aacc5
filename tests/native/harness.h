/*
 * What the C tests of the graph share: checks that say where they failed, a small region, the shortest way to submit a
 * task. Each test file is a program; it runs the cases of its MAIN, or the one it is given, and exits with 0 when they
 * passed.
 */
#ifndef SIMPLER_TEST_HARNESS_H
#define SIMPLER_TEST_HARNESS_H

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "simpler.h"

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                    \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

#define STATUS(expected, call)                                                                                         \
    do {                                                                                                               \
        int status_ = (call);                                                                                          \
        if (status_ != (expected)) {                                                                                   \
            fprintf(stderr, "%s:%d: %s: %s, expected %s\n", __FILE__, __LINE__, #call, slr_status_name(status_),       \
                    #expected);                                                                                        \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

#define OK(call) STATUS(SLR_OK, call)

typedef struct {
    const char *name;
    void (*run)(void);
} test_case;

#define CASE(function) {#function, function}

/* All of them, or the one that is named. */
static inline int run_cases(int argc, char **argv, const test_case *cases, size_t n) {
    size_t ran = 0;
    for (size_t i = 0; i < n; i++) {
        if (argc > 1 && strcmp(argv[1], cases[i].name) != 0)
            continue;
        cases[i].run();
        printf("%s ok\n", cases[i].name);
        fflush(stdout); /* a later case may fork or abort */
        ran++;
    }
    return ran ? 0 : 2;
}

#define MAIN(...)                                                                                                      \
    int main(int argc, char **argv) {                                                                                  \
        static const test_case cases[] = {__VA_ARGS__};                                                                \
        return run_cases(argc, argv, cases, sizeof cases / sizeof *cases);                                             \
    }

/* Worker ids in make_region's regions. */
enum { SUB0 = 0, SUB1 = 1, CHIP = 2, REMOTE = 3, WORKERS = 4 };

static const uint8_t a_digest[SLR_DIGEST_BYTES] = {1, 2, 3};

static inline slr_config small_config(void) {
    return (slr_config){.heap_bytes = 1 << 20,
                        .slots = 256,
                        .edges = 1024,
                        .runs = 8,
                        .callables = 8,
                        .workers = WORKERS,
                        .trace_events = 64};
}

static inline void check_graph(slr_region *region) {
    char why[256];
    if (slr_graph_check(region, why, sizeof why) != SLR_OK) {
        fprintf(stderr, "slr_graph_check: %s\n", why);
        abort();
    }
}

static inline void be_ready(slr_region *region, uint32_t worker) {
    OK(slr_worker_attach(region, worker, (int32_t)getpid()));
    OK(slr_worker_ready(region, worker));
}

/* All four workers ready, played by this thread. */
static inline slr_region *make_region_of(slr_config config) {
    static const slr_worker_kind kinds[WORKERS] = {SLR_WORKER_SUB, SLR_WORKER_SUB, SLR_WORKER_CHIP, SLR_WORKER_REMOTE};
    slr_region *region;
    OK(slr_region_create(&config, &region));
    for (uint32_t i = 0; i < WORKERS; i++) {
        OK(slr_worker_define(region, i, kinds[i]));
        be_ready(region, i);
    }
    return region;
}

static inline slr_region *make_region(void) {
    return make_region_of(small_config());
}

static inline void drop_region(slr_region *region) {
    check_graph(region);
    slr_region_detach(region);
}

static inline slr_id begin_run(slr_region *region) {
    slr_id run;
    OK(slr_run_begin(region, 0, &run));
    return run;
}

static inline slr_submission call_of(slr_id run, uint32_t worker) {
    return (slr_submission){.run = run, .worker = worker, .op = SLR_OP_CALL, .digest = a_digest};
}

static inline slr_id submit(slr_region *region, slr_submission submission) {
    slr_id task;
    uint64_t conflict;
    OK(slr_submit(region, &submission, &task, &conflict));
    return task;
}

static inline slr_range range_of(uint64_t buffer, uint64_t begin, uint64_t end, uint32_t access) {
    return (slr_range){.buffer = buffer, .begin = begin, .end = end, .access = access};
}

static inline slr_id submit_range(slr_region *region, slr_id run, slr_range range) {
    slr_submission submission = call_of(run, SLR_ANY_SUB);
    submission.ranges = &range;
    submission.n_ranges = 1;
    return submit(region, submission);
}

/* What the worker would take now: 0 when nothing is ready for it. */
static inline slr_id take(slr_region *region, uint32_t worker) {
    slr_task task;
    int status = slr_worker_take(region, worker, 0, 0, &task);
    CHECK(status == SLR_OK || status == SLR_TIMEOUT);
    return status == SLR_OK ? task.id : 0;
}

static inline void succeed(slr_region *region, uint32_t worker, slr_id task) {
    OK(slr_worker_complete(region, worker, task, SLR_TASK_SUCCEEDED, 0, 0));
}

static inline void fail(slr_region *region, uint32_t worker, slr_id task) {
    OK(slr_worker_complete(region, worker, task, SLR_TASK_FAILED, 0, 0));
}

/* The task's state; FREE when its id is stale. */
static inline uint32_t state_of(slr_region *region, slr_id task) {
    slr_task_info info;
    return slr_task_query(region, task, &info) == SLR_OK ? info.state : SLR_TASK_FREE;
}

static inline slr_run_info run_info(slr_region *region, slr_id run) {
    slr_run_info info;
    OK(slr_run_query(region, run, &info));
    return info;
}

static inline slr_stats stats_of(slr_region *region) {
    slr_stats stats;
    OK(slr_region_stats(region, &stats));
    return stats;
}

/* Seals, checks that it has ended, releases. */
static inline void end_run(slr_region *region, slr_id run) {
    OK(slr_run_seal(region, run));
    OK(slr_run_wait(region, run, 0, 0));
    OK(slr_run_release(region, run));
}

/* xorshift64*: the same numbers everywhere. */
static inline uint64_t next_random(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1dull;
}

/* A child that does not outlive this process, whatever a test does. */
static inline pid_t fork_child(void) {
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        CHECK(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
    return pid;
}

static inline void reap(pid_t pid) {
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    if (status != 0)
        fprintf(stderr, "child ended with status %x\n", status);
    CHECK(status == 0);
}

#endif
