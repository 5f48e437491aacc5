/* The graphs that the explorer plays. See explore.h. */
#include "explore.h"

#define R  SLR_READ
#define W  SLR_WRITE
#define RW (SLR_READ | SLR_WRITE)

#define FREE_TASK {.ends = SUCCEEDS} /* touches nothing */

#define PLAN(...)                                                                                                      \
    memset(&plan, 0, sizeof plan);                                                                                     \
    plan.workers = 2;                                                                                                  \
    plan.runs = 1;                                                                                                     \
    plan.slots = MOST_TASKS + 2; /* groups have one of their own */                                                    \
    const planned tasks[] = {__VA_ARGS__};                                                                             \
    memcpy(plan.tasks, tasks, sizeof tasks);                                                                           \
    plan.n_tasks = sizeof tasks / sizeof *tasks

/* G1: one writes, two read side by side, one writes over parts of what they read. */
#define DIAMOND                                                                                                        \
    {.ranges = {{0, 8, W}}}, {.ranges = {{0, 4, R}}}, {.ranges = {{4, 8, R}}}, {                                       \
        .ranges = {{2, 6, RW}}                                                                                         \
    }

static void a_diamond(void) {
    PLAN(DIAMOND);
    build_world();
}

/* G11: those who spin are not woken, and park when nothing came. */
static void spinners(void) {
    PLAN({.ranges = {{0, 8, W}}}, {.ranges = {{0, 4, R}}}, {.ranges = {{4, 8, R}}});
    plan.spin_us = 50;
    build_world();
}

/* G4: what reads is poisoned, and what reads that; what writes over it, or uses other bytes, is not. */
static void a_failure_poisons(void) {
    PLAN({.ranges = {{0, 8, W}}, .ends = FAILS}, {.ranges = {{0, 1, R}, {1, 2, W}}}, {.after = 1 << 1},
         {.ranges = {{0, 1, W}}, .ends = RETURNS}, {.ranges = {{0, 2, R}}});
    build_world();
}

/* G2: five tasks through two slots. */
static void back_pressure(void) {
    PLAN({.ranges = {{0, 1, W}}}, {.ranges = {{0, 1, R}}}, FREE_TASK, {.ranges = {{0, 1, W}}}, {.after = 1 << 2});
    plan.slots = 2;
    build_world();
}

/* Queues of a worker's own beside the shared one. */
static void directed_tasks(void) {
    PLAN({.worker = 2, .ranges = {{0, 1, W}}}, {.worker = 1, .ranges = {{0, 1, R}}}, {.ranges = {{0, 1, R}}},
         {.worker = 2, .ranges = {{0, 1, W}}});
    plan.kinds[1] = SLR_WORKER_CHIP;
    build_world();
}

/* G5: at any moment, from another thread. */
static void cancelled_at_any_time(void) {
    PLAN({.ranges = {{0, 1, W}}, .ends = FAILS}, {.ranges = {{0, 1, R}}}, {.ranges = {{0, 1, W}}}, FREE_TASK);
    plan.cancels = true;
    build_world();
}

/* W3: from another thread, with tasks in flight: everybody comes to an end. */
static void closed_at_any_time(void) {
    PLAN({.ranges = {{0, 1, W}}}, {.ranges = {{0, 1, R}}}, {.others = 1}, FREE_TASK);
    plan.closes = true;
    build_world();
}

static void signals_arrive(void) {
    PLAN({.ranges = {{0, 1, W}}}, {.ranges = {{0, 1, R}}}, {.ranges = {{0, 1, R}}});
    plan.interrupts = 2;
    build_world();
}

/* A REMOTE worker, whose consumer lives in the parent and is told by the eventfd. */
static void tasks_of_a_remote_worker(void) {
    PLAN({.worker = 2, .ranges = {{0, 1, W}}}, {.worker = 2, .ranges = {{0, 1, R}}}, {.ranges = {{0, 1, R}}},
         {.worker = 2, .after = 1 << 2});
    plan.kinds[1] = SLR_WORKER_REMOTE;
    build_world();
}

/* W4: at any point, with the lock held or not; and then a run in which nobody dies. */
static void a_worker_dies(void) {
    PLAN({.ranges = {{0, 1, W}}}, {.ranges = {{0, 1, R}}}, {.ends = RETURNS});
    plan.deaths = 1;
    build_world();
}

/* W4: and then a run in which nobody dies, with what recovery has left. */
static void work_goes_on_after_a_death(void) {
    PLAN({.ends = RETURNS});
    plan.deaths = 1;
    plan.runs = 2;
    build_world();
}

/* W4: also one that replaces another, and one that recovers. */
static void two_deaths(void) {
    PLAN({.ends = RETURNS});
    plan.deaths = 2;
    build_world();
}

/* W4: given up for ever, the last one with all that was for it. */
static void workers_are_given_up(void) {
    PLAN({.ranges = {{0, 1, W}}}, {.ranges = {{0, 1, R}}}, {.worker = 1});
    plan.deaths = 2;
    plan.gives_up = true;
    build_world();
}

static void death_and_cancellation(void) {
    PLAN({.ranges = {{0, 1, W}}}, {.ranges = {{0, 1, RW}}});
    plan.deaths = 1;
    plan.cancels = true;
    build_world();
}

/* G3: a group waits for what one of its members reads, and what reads one's bytes waits for all. */
static void a_group_starts_together(void) {
    PLAN({.ranges = {{0, 1, W}}}, {.ranges = {{0, 1, R}, {1, 2, W}}, .others = 1}, {.ranges = {{2, 3, W}}},
         {.ranges = {{1, 2, R}}}, FREE_TASK);
    build_world();
}

/* G3: with a task between them that needs only one; nobody waits for ever. */
static void two_groups_on_the_same_workers(void) {
    PLAN({.others = 1}, FREE_TASK, FREE_TASK, {.others = 1}, FREE_TASK);
    build_world();
}

/* G3, G4 */
static void a_member_fails(void) {
    PLAN({.ends = FAILS, .others = 1}, {.ranges = {{0, 1, W}}, .ends = RETURNS}, {.ranges = {{0, 1, R}}}, {.after = 1});
    build_world();
}

static void a_group_on_workers_of_its_choice(void) {
    PLAN({.worker = 2}, {.worker = 2, .others = 1}, {.worker = 3}, {.worker = 3}, {.worker = 2, .after = 1 << 3});
    plan.workers = 3;
    plan.kinds[1] = plan.kinds[2] = SLR_WORKER_CHIP;
    build_world();
}

static void a_group_with_a_remote_worker(void) {
    PLAN({.worker = 1}, {.worker = 1, .others = 1}, {.worker = 2}, {.worker = 1});
    plan.kinds[0] = SLR_WORKER_REMOTE;
    plan.kinds[1] = SLR_WORKER_CHIP;
    build_world();
}

static void a_gathering_group_is_cancelled(void) {
    PLAN({.others = 1}, FREE_TASK, FREE_TASK);
    plan.cancels = true;
    build_world();
}

/* G3, W4: before, while and after the group gathers. */
static void a_worker_of_a_group_dies(void) {
    PLAN({.others = 1}, FREE_TASK);
    plan.deaths = 1;
    build_world();
}

/* G3, W4: one worker is left, which is not enough. */
static void a_worker_of_a_group_is_given_up(void) {
    PLAN({.others = 1}, {.ranges = {{0, 1, W}}}, {.ranges = {{0, 1, R}}});
    plan.deaths = 1;
    plan.gives_up = true;
    build_world();
}

/* G7: at any moment; what was called late never ends well, and the pool is whole again. */
static void tasks_are_late(void) {
    PLAN({.ranges = {{0, 1, W}}, .timed = true}, {.ranges = {{0, 1, R}}}, {.timed = true});
    build_world();
}

/* G3, G7 */
static void a_member_of_a_group_is_late(void) {
    PLAN({.others = 1, .timed = true}, FREE_TASK, {.after = 1});
    build_world();
}

/* G10: what ends is told once, in whatever order the workers come to it. */
static void a_stream(void) {
    PLAN(FREE_TASK, {.ends = RETURNS}, {.ends = FAILS});
    plan.streams = true;
    build_world();
}

static void a_stream_is_watched(void) {
    PLAN(FREE_TASK, {.ends = RETURNS});
    plan.streams = true;
    plan.spin_us = 50;
    build_world();
}

/* G5 */
static void a_stream_is_cancelled(void) {
    PLAN(FREE_TASK, {.ends = RETURNS});
    plan.streams = true;
    plan.cancels = true;
    build_world();
}

/* W4: it may be lost with it. */
static void a_worker_of_a_stream_dies(void) {
    PLAN(FREE_TASK, {.ends = RETURNS});
    plan.streams = true;
    plan.deaths = 1;
    build_world();
}

#define SCENARIO(name) {#name, name}
const scenario scenarios[] = {
    SCENARIO(a_diamond),
    SCENARIO(spinners),
    SCENARIO(a_failure_poisons),
    SCENARIO(back_pressure),
    SCENARIO(directed_tasks),
    SCENARIO(cancelled_at_any_time),
    SCENARIO(closed_at_any_time),
    SCENARIO(signals_arrive),
    SCENARIO(tasks_of_a_remote_worker),
    SCENARIO(a_worker_dies),
    SCENARIO(work_goes_on_after_a_death),
    SCENARIO(two_deaths),
    SCENARIO(workers_are_given_up),
    SCENARIO(death_and_cancellation),
    SCENARIO(a_group_starts_together),
    SCENARIO(two_groups_on_the_same_workers),
    SCENARIO(a_member_fails),
    SCENARIO(a_group_on_workers_of_its_choice),
    SCENARIO(a_group_with_a_remote_worker),
    SCENARIO(a_gathering_group_is_cancelled),
    SCENARIO(a_worker_of_a_group_dies),
    SCENARIO(a_worker_of_a_group_is_given_up),
    SCENARIO(tasks_are_late),
    SCENARIO(a_member_of_a_group_is_late),
    SCENARIO(a_stream),
    SCENARIO(a_stream_is_watched),
    SCENARIO(a_stream_is_cancelled),
    SCENARIO(a_worker_of_a_stream_dies),
};
const size_t n_scenarios = sizeof scenarios / sizeof *scenarios;
