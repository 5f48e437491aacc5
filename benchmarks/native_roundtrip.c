/*
 * How long the C core takes by itself, without Python: one process alone, a round trip to a spinning worker, a chain, a
 * flood.
 *
 *   gcc -std=gnu11 -D_GNU_SOURCE -O2 -Inative -Iclient/simpler/include benchmarks/native_roundtrip.c native/[a-ce-z]*.c
 * native/death.c \ -pthread -o /tmp/native_roundtrip && /tmp/native_roundtrip
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "simpler.h"

#define SUBS    2
#define ROUNDS  20000
#define FLOOD   400000
#define SPIN_US 50

static const uint8_t digest[SLR_DIGEST_BYTES];
static const char args[64];

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void must(int status) {
    if (status == SLR_OK)
        return;
    fprintf(stderr, "%s\n", slr_status_name(status));
    exit(1);
}

static void work(slr_region *region, uint32_t worker) {
    slr_task task;
    must(slr_worker_attach(region, worker, (int32_t)getpid()));
    must(slr_worker_ready(region, worker));
    while (slr_worker_take(region, worker, SPIN_US, -1, &task) == SLR_OK)
        must(slr_worker_complete(region, worker, task.id, SLR_TASK_SUCCEEDED, 0, 0));
    _exit(0);
}

static slr_id begin(slr_region *region) {
    slr_id run;
    must(slr_run_begin(region, 0, &run));
    return run;
}

static void end(slr_region *region, slr_id run) {
    must(slr_run_seal(region, run));
    must(slr_run_wait(region, run, SPIN_US, -1));
    must(slr_run_release(region, run));
}

static void submit(slr_region *region, slr_submission *submission) {
    slr_id task;
    uint64_t conflict;
    for (;;) {
        uint32_t seen = slr_space_seen(region);
        int status = slr_submit(region, submission, &task, &conflict);
        if (status != SLR_SLOTS_FULL && status != SLR_HEAP_FULL && status != SLR_EDGES_FULL) {
            must(status);
            return;
        }
        must(slr_space_wait(region, seen, -1));
    }
}

static slr_submission no_op(slr_id run, uint32_t worker) {
    return (slr_submission){.run = run, .worker = worker, .digest = digest, .args = args, .args_bytes = sizeof args};
}

static void alone(slr_region *region) {
    slr_id run = begin(region);
    slr_submission submission = no_op(run, SUBS);
    slr_task task;
    double begun = now_s();
    for (int i = 0; i < FLOOD; i++) {
        submit(region, &submission);
        must(slr_worker_take(region, SUBS, 0, 0, &task));
        must(slr_worker_complete(region, SUBS, task.id, SLR_TASK_SUCCEEDED, 0, 0));
    }
    printf("submit, take, complete in one process: %.0f ns\n", (now_s() - begun) / FLOOD * 1e9);
    end(region, run);
}

static int by_value(const void *a, const void *b) {
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

static void round_trips(slr_region *region) {
    static double took[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        double begun = now_s();
        slr_id run = begin(region);
        slr_submission submission = no_op(run, 0);
        submit(region, &submission);
        end(region, run);
        took[i] = now_s() - begun;
    }
    qsort(took, ROUNDS, sizeof *took, by_value);
    printf("round trip of one task: p50 %.2f us, p90 %.2f us, p99 %.2f us\n", took[ROUNDS / 2] * 1e6,
           took[ROUNDS / 10 * 9] * 1e6, took[ROUNDS / 100 * 99] * 1e6);
}

static void many(slr_region *region, const char *what, uint32_t n_ranges) {
    slr_range range = {.buffer = 1ull << 63, .end = 64, .access = SLR_READ | SLR_WRITE};
    slr_id run = begin(region);
    slr_submission submission = no_op(run, SLR_ANY_SUB);
    submission.ranges = &range;
    submission.n_ranges = n_ranges;
    double begun = now_s();
    for (int i = 0; i < FLOOD; i++)
        submit(region, &submission);
    end(region, run);
    double took = now_s() - begun;
    printf("%s: %.2f us each, %.0f/s\n", what, took / FLOOD * 1e6, FLOOD / took);
}

int main(void) {
    slr_config config = {.heap_bytes = 64 << 20,
                         .slots = 65536,
                         .edges = 65536,
                         .runs = 64,
                         .callables = 1,
                         .workers = SUBS + 1,
                         .trace_events = 65536};
    slr_region *region;
    pid_t children[SUBS];
    must(slr_region_create(&config, &region));
    for (uint32_t i = 0; i < SUBS; i++) {
        must(slr_worker_define(region, i, SLR_WORKER_SUB));
        if ((children[i] = fork()) == 0)
            work(region, i);
    }
    must(slr_worker_define(region, SUBS, SLR_WORKER_REMOTE));
    must(slr_worker_attach(region, SUBS, (int32_t)getpid()));
    must(slr_worker_ready(region, SUBS));
    alone(region);
    round_trips(region);
    many(region, "independent tasks", 0);
    many(region, "dependent chain, per hop", 1);
    must(slr_region_shutdown(region));
    for (int i = 0; i < SUBS; i++)
        waitpid(children[i], NULL, 0);
    slr_region_detach(region);
}
