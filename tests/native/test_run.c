/* Runs: their life, waiting for their end, cancelling, what is retained; and the trace. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <time.h>

#include "harness.h"

static uint64_t record_of(slr_region *region, const char *text) {
    uint64_t offset;
    OK(slr_heap_alloc(region, strlen(text), &offset));
    memcpy((char *)slr_region_heap(region) + offset, text, strlen(text));
    return offset;
}

/* G6 */
static void a_run_ends_with_its_last_task_once_sealed(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region), task = submit(region, call_of(run, SUB0));
    STATUS(SLR_TIMEOUT, slr_run_wait(region, run, 0, 0));
    OK(slr_run_seal(region, run));
    STATUS(SLR_TIMEOUT, slr_run_wait(region, run, 10, 1000000));
    STATUS(SLR_INVALID, slr_run_release(region, run));
    STATUS(SLR_TIMEOUT, slr_run_success(region, run, 0, 0));
    slr_submission late = call_of(run, SUB0);
    uint64_t conflict;
    STATUS(SLR_CLOSED, slr_submit(region, &late, &task, &conflict));
    succeed(region, SUB0, take(region, SUB0));
    OK(slr_run_wait(region, run, 0, 0));
    OK(slr_run_wait(region, run, 0, -1)); /* and again: the same answer */
    slr_run_info info = run_info(region, run);
    CHECK(info.ended && info.tasks == 1 && !info.live && !info.failed && info.begun_ns > 0 &&
          info.ended_ns >= info.begun_ns);
    OK(slr_run_success(region, run, 0, -1));
    OK(slr_run_release(region, run));
    STATUS(SLR_STALE, slr_run_success(region, run, 0, -1));
    STATUS(SLR_STALE, slr_run_wait(region, run, 0, -1));
    STATUS(SLR_STALE, slr_run_query(region, run, &info));
    STATUS(SLR_STALE, slr_run_release(region, run));
    drop_region(region);
}

static void an_empty_run_ends_when_sealed(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region);
    end_run(region, run);
    drop_region(region);
}

static void runs_are_a_bounded_number(void) {
    slr_region *region = make_region();
    slr_id runs[8], another;
    for (int i = 0; i < 8; i++)
        runs[i] = begin_run(region);
    STATUS(SLR_RUNS_FULL, slr_run_begin(region, 0, &another));
    end_run(region, runs[3]);
    OK(slr_run_begin(region, 0, &another));
    CHECK((uint32_t)another == (uint32_t)runs[3] && another != runs[3]);
    CHECK(stats_of(region).runs_live == 8);
    slr_region_detach(region);
}

/* G10, G4 */
static void results_and_errors_are_kept_until_release(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region), good = submit(region, call_of(run, SUB0)), bad = submit(region, call_of(run, SUB0));
    CHECK(take(region, SUB0) == good);
    OK(slr_worker_complete(region, SUB0, good, SLR_TASK_SUCCEEDED, record_of(region, "seven"), 5));
    CHECK(take(region, SUB0) == bad);
    OK(slr_worker_complete(region, SUB0, bad, SLR_TASK_FAILED, record_of(region, "no"), 2));
    slr_task_info info;
    OK(slr_task_query(region, good, &info));
    CHECK(info.state == SLR_TASK_SUCCEEDED && info.worker == SUB0 && info.record_bytes == 5);
    CHECK(memcmp((char *)slr_region_heap(region) + info.record_offset, "seven", 5) == 0);
    slr_id failures[4];
    uint32_t count;
    OK(slr_run_failures(region, run, failures, 4, &count));
    CHECK(count == 1 && failures[0] == bad);
    check_graph(region);
    end_run(region, run);
    STATUS(SLR_STALE, slr_task_query(region, good, &info));
    CHECK(stats_of(region).heap_used == 0 && stats_of(region).slots_used == 0);
    drop_region(region);
}

/* G4: all failures, in the order they ended. */
static void failures_are_listed_in_order(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region), tasks[5], listed[5];
    for (int i = 0; i < 5; i++)
        tasks[i] = submit(region, call_of(run, REMOTE));
    for (int i = 0; i < 5; i++)
        CHECK(take(region, REMOTE) == tasks[i]); /* several at once */
    for (int i = 4; i >= 0; i--)
        fail(region, REMOTE, tasks[i]);
    uint32_t count;
    OK(slr_run_failures(region, run, listed, 3, &count));
    CHECK(count == 3 && listed[0] == tasks[4] && listed[2] == tasks[2]);
    CHECK(run_info(region, run).first_failed == tasks[4]);
    STATUS(SLR_TIMEOUT, slr_run_success(region, run, 0, 0));
    OK(slr_run_seal(region, run));
    STATUS(SLR_FAILED, slr_run_success(region, run, 0, -1));
    end_run(region, run);
    drop_region(region);
}

/* G5: what has not started never will; what runs is waited for, and what depends on it is then ended. */
static void cancel_ends_what_has_not_started(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region), other = begin_run(region), running = submit(region, call_of(run, SUB0));
    CHECK(take(region, SUB0) == running);
    slr_submission after = call_of(run, CHIP);
    after.after = &running;
    after.n_after = 1;
    slr_id pending = submit(region, after);
    submit(region, call_of(run, SUB0));
    submit(region, call_of(run, SLR_ANY_SUB));
    slr_id others = submit(region, call_of(other, SLR_ANY_SUB));
    OK(slr_run_cancel(region, run));
    check_graph(region);
    CHECK(state_of(region, pending) == SLR_TASK_PENDING && take(region, SUB1) == others);
    STATUS(SLR_TIMEOUT, slr_run_wait(region, run, 0, 0));
    succeed(region, SUB0, running);
    CHECK(state_of(region, pending) == SLR_TASK_FREE && take(region, CHIP) == 0);
    OK(slr_run_wait(region, run, 0, 0));
    CHECK(run_info(region, run).cancelled && !run_info(region, other).cancelled && run_info(region, run).failed == 0);
    OK(slr_run_cancel(region, run));
    OK(slr_run_release(region, run));
    succeed(region, SUB1, others);
    end_run(region, other);
    drop_region(region);
}

/* G6: a cancelled task still stands between what was before and what comes after it. */
static void cancelling_one_run_keeps_the_order_of_another(void) {
    slr_region *region = make_region();
    uint64_t x = 1ull << 63;
    slr_id one = begin_run(region), other = begin_run(region);
    slr_id first = submit_range(region, one, range_of(x, 0, 8, SLR_WRITE));
    submit_range(region, one, range_of(x, 0, 8, SLR_WRITE));
    slr_id last = submit_range(region, other, range_of(x, 0, 8, SLR_WRITE));
    CHECK(take(region, SUB0) == first);
    OK(slr_run_cancel(region, one));
    CHECK(take(region, SUB1) == 0);
    succeed(region, SUB0, first);
    CHECK(take(region, SUB1) == last);
    succeed(region, SUB1, last);
    end_run(region, one);
    end_run(region, other);
    drop_region(region);
}

static void the_eventfd_tells_of_ends_that_asked_for_it(void) {
    slr_region *region = make_region();
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    uint64_t count;
    slr_id run;
    OK(slr_region_set_notify_fd(region, fd));
    end_run(region, begin_run(region));
    CHECK(read(fd, &count, sizeof count) < 0 && errno == EAGAIN);
    OK(slr_run_begin(region, SLR_RUN_NOTIFY, &run));
    OK(slr_run_seal(region, run));
    CHECK(read(fd, &count, sizeof count) == sizeof count && count == 1);
    OK(slr_run_release(region, run));
    STATUS(SLR_INVALID, slr_run_begin(region, 4, &run));
    close(fd);
    drop_region(region);
}

static void *complete_one(void *argument) {
    slr_task task;
    OK(slr_worker_take(argument, SUB0, 0, -1, &task));
    succeed(argument, SUB0, task.id);
    return NULL;
}

/* G11 */
static void a_sleeping_waiter_is_woken(void) {
    slr_region *region = make_region();
    CHECK(take(region, SUB1) == 0); /* it has looked, and is busy elsewhere from now on */
    for (int i = 0; i < 200; i++) {
        slr_id run = begin_run(region);
        pthread_t worker;
        CHECK(pthread_create(&worker, NULL, complete_one, region) == 0);
        submit(region, call_of(run, SLR_ANY_SUB));
        OK(slr_run_seal(region, run));
        OK(slr_run_wait(region, run, 0, -1));
        CHECK(pthread_join(worker, NULL) == 0);
        OK(slr_run_release(region, run));
    }
    drop_region(region);
}

static void *end_one(void *argument) {
    slr_region *region = argument;
    end_run(region, begin_run(region));
    return NULL;
}

/* G6: one waiter for many runs; an end between its look and its sleep is not missed. */
static void the_end_of_any_run_is_told(void) {
    slr_region *region = make_region();
    slr_id open = begin_run(region);
    for (int i = 0; i < 200; i++) {
        uint32_t seen = slr_runs_seen(region);
        pthread_t other;
        CHECK(pthread_create(&other, NULL, end_one, region) == 0);
        OK(slr_runs_wait(region, seen, -1));
        CHECK(pthread_join(other, NULL) == 0);
        CHECK(slr_runs_seen(region) != seen);
    }
    STATUS(SLR_TIMEOUT, slr_runs_wait(region, slr_runs_seen(region), 1000000));
    STATUS(SLR_TIMEOUT, slr_runs_wait(region, slr_runs_seen(region), 0));
    uint32_t seen = slr_runs_seen(region);
    OK(slr_region_shutdown(region));
    OK(slr_runs_wait(region, seen, -1)); /* whoever sleeps is woken to look */
    seen = slr_runs_seen(region);
    OK(slr_run_seal(region, open));
    OK(slr_runs_wait(region, seen, -1)); /* a run that ends after the shutdown is told, too */
    OK(slr_run_release(region, open));
    drop_region(region);
}

static void nothing(int signal) {
    (void)signal;
}

/* A signal gets out of every wait, so that the caller can see to it. */
static void a_signal_interrupts_waiting(void) {
    slr_region *region = make_region();
    struct sigaction action = {.sa_handler = nothing};
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    struct itimerspec often = {.it_value.tv_nsec = 1000000, .it_interval.tv_nsec = 1000000};
    slr_id run = begin_run(region);
    slr_task task;
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0 && timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    CHECK(timer_settime(timer, 0, &often, NULL) == 0);
    STATUS(SLR_INTERRUPTED, slr_run_wait(region, run, 0, -1));
    STATUS(SLR_INTERRUPTED, slr_worker_take(region, SUB0, 0, -1, &task));
    submit(region, call_of(run, CHIP));
    STATUS(SLR_INTERRUPTED, slr_space_wait(region, slr_space_seen(region), -1));
    STATUS(SLR_INTERRUPTED, slr_runs_wait(region, slr_runs_seen(region), -1));
    CHECK(timer_delete(timer) == 0);
    OK(slr_run_cancel(region, run));
    end_run(region, run);
    drop_region(region);
}

static uint32_t tasks_in(slr_region *region, uint32_t states, slr_live_task *out, uint32_t room) {
    uint32_t cursor = 0, count;
    OK(slr_tasks_read(region, states, &cursor, out, room, &count));
    return count;
}

static void the_tasks_that_have_not_ended_are_told(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region), first = submit(region, call_of(run, CHIP)), after[1] = {first};
    slr_id second = submit(region, call_of(run, CHIP));
    slr_submission dependent = call_of(run, SLR_ANY_SUB);
    slr_live_task tasks[8];
    dependent.after = after;
    dependent.n_after = 1;
    slr_id third = submit(region, dependent);
    take(region, CHIP);
    CHECK(tasks_in(region, 1 << SLR_TASK_RUNNING, tasks, 8) == 1);
    CHECK(tasks[0].id == first && tasks[0].run == run && tasks[0].worker == CHIP &&
          tasks[0].started_ns >= tasks[0].ready_ns && tasks[0].ready_ns >= tasks[0].submitted_ns &&
          memcmp(tasks[0].digest, a_digest, sizeof a_digest) == 0);
    CHECK(tasks_in(region, 1 << SLR_TASK_READY, tasks, 8) == 1);
    CHECK(tasks[0].id == second && tasks[0].ready_ns && !tasks[0].started_ns);
    CHECK(tasks_in(region, 1 << SLR_TASK_PENDING | 1 << SLR_TASK_READY, tasks, 8) == 2);
    CHECK(tasks[1].id == third && tasks[1].worker == SLR_ANY_SUB && !tasks[1].ready_ns && !tasks[1].started_ns);
    uint32_t cursor = 0, count;
    OK(slr_tasks_read(region, ~0u, &cursor, tasks, 2, &count));
    CHECK(count == 2);
    OK(slr_tasks_read(region, ~0u, &cursor, tasks, 2, &count));
    CHECK(count == 1 && tasks[0].id == third);
    STATUS(SLR_INVALID, slr_tasks_read(region, 1, NULL, tasks, 2, &count));
    OK(slr_run_cancel(region, run));
    succeed(region, CHIP, first);
    CHECK(tasks_in(region, 1 << SLR_TASK_RUNNING | 1 << SLR_TASK_READY | 1 << SLR_TASK_PENDING, tasks, 8) == 0);
    end_run(region, run);
    drop_region(region);
}

static void the_trace_holds_the_last_tasks(void) {
    slr_region *region = make_region(); /* with room for 64 events */
    slr_id run = begin_run(region), last = 0;
    slr_trace_event events[100];
    uint64_t cursor = 0;
    uint32_t count;
    for (int i = 0; i < 50; i++) {
        last = submit(region, call_of(run, CHIP));
        take(region, CHIP);
        succeed(region, CHIP, last);
    }
    OK(slr_trace_read(region, &cursor, events, 20, &count));
    CHECK(count == 20 && cursor == 20 && events[0].run == run && events[0].worker == CHIP &&
          events[0].state == SLR_TASK_SUCCEEDED);
    CHECK(events[0].submitted_ns && events[0].submitted_ns <= events[0].ready_ns &&
          events[0].ready_ns <= events[0].started_ns && events[0].started_ns <= events[0].ended_ns &&
          memcmp(events[0].digest, a_digest, sizeof a_digest) == 0);
    for (int i = 0; i < 50; i++)
        submit(region, call_of(run, CHIP));
    OK(slr_run_cancel(region, run));
    OK(slr_trace_read(region, &cursor, events, 100, &count));
    CHECK(count == 64 && cursor == 100); /* 16 were overwritten before they were read */
    CHECK(events[13].task == last && events[14].state == SLR_TASK_CANCELLED && events[14].worker == SLR_ANY_SUB &&
          !events[14].started_ns);
    OK(slr_trace_read(region, &cursor, events, 100, &count));
    CHECK(count == 0 && cursor == 100);
    end_run(region, run);
    drop_region(region);
}

MAIN(CASE(a_run_ends_with_its_last_task_once_sealed), CASE(an_empty_run_ends_when_sealed),
     CASE(runs_are_a_bounded_number), CASE(results_and_errors_are_kept_until_release),
     CASE(failures_are_listed_in_order), CASE(cancel_ends_what_has_not_started),
     CASE(cancelling_one_run_keeps_the_order_of_another), CASE(the_eventfd_tells_of_ends_that_asked_for_it),
     CASE(a_sleeping_waiter_is_woken), CASE(the_end_of_any_run_is_told), CASE(a_signal_interrupts_waiting),
     CASE(the_tasks_that_have_not_ended_are_told), CASE(the_trace_holds_the_last_tasks))
