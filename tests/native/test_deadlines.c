/* Deadlines of running tasks: who is late and when, what a condemned worker can still do, when the watcher is told. */
#include <sys/eventfd.h>
#include <time.h>

#include "harness.h"

#define SECOND 1000000000ll

static slr_submission timed(slr_id run, uint32_t worker, int64_t timeout_ns) {
    slr_submission submission = call_of(run, worker);
    submission.timeout_ns = timeout_ns;
    return submission;
}

/* Submits a task for the worker, which takes it. */
static slr_id start(slr_region *region, slr_id run, uint32_t worker, int64_t timeout_ns) {
    slr_id task = submit(region, timed(run, worker, timeout_ns));
    CHECK(take(region, worker) == task);
    return task;
}

static int64_t now_ns(void) {
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return now.tv_sec * SECOND + now.tv_nsec;
}

/* How many are late at that time; the first of them, and when to look again. */
static uint32_t overdue(slr_region *region, int64_t at_ns, slr_overdue *first, int64_t *next_ns) {
    slr_overdue late[WORKERS];
    uint32_t count;
    OK(slr_workers_overdue(region, at_ns, late, WORKERS, &count, next_ns));
    check_graph(region);
    if (count)
        *first = late[0];
    return count;
}

/* What the watcher was told since the last look. */
static uint64_t signals(int fd) {
    uint64_t count;
    return read(fd, &count, sizeof count) == (ssize_t)sizeof count ? count : 0;
}

/* G7 */
static void a_late_task_is_told_once(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region), task;
    slr_overdue late;
    int64_t next_ns, begun_ns = now_ns();
    start(region, run, SUB0, 0);
    CHECK(overdue(region, INT64_MAX - 1, &late, &next_ns) == 0 && next_ns == INT64_MAX);
    task = start(region, run, CHIP, 5 * SECOND);
    CHECK(overdue(region, begun_ns + 4 * SECOND, &late, &next_ns) == 0);
    CHECK(next_ns >= begun_ns + 5 * SECOND && next_ns <= now_ns() + 5 * SECOND);
    CHECK(overdue(region, next_ns, &late, &next_ns) == 1 && next_ns == INT64_MAX);
    CHECK(late.task == task && late.worker == CHIP && late.timeout_ns == 5 * SECOND);
    CHECK(overdue(region, INT64_MAX - 1, &late, &next_ns) == 0);
    drop_region(region);
}

/* G7: nothing that a condemned worker does counts, and its successor begins afresh. */
static void a_condemned_worker_cannot_complete(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region), task = start(region, run, SUB0, 1);
    slr_overdue late;
    slr_task taken;
    int64_t next_ns;
    uint32_t failed;
    CHECK(overdue(region, now_ns() + SECOND, &late, &next_ns) == 1);
    STATUS(SLR_STALE, slr_worker_complete(region, SUB0, task, SLR_TASK_SUCCEEDED, 0, 0));
    STATUS(SLR_STALE, slr_worker_take(region, SUB0, 0, 0, &taken));
    CHECK(state_of(region, task) == SLR_TASK_RUNNING);
    OK(slr_worker_died(region, SUB0, "late", 4, &failed));
    CHECK(failed == 1 && state_of(region, task) == SLR_TASK_FAILED);
    STATUS(SLR_STALE, slr_worker_take(region, SUB0, 0, 0, &taken));
    be_ready(region, SUB0);
    succeed(region, SUB0, start(region, run, SUB0, SECOND));
    CHECK(overdue(region, INT64_MAX - 1, &late, &next_ns) == 0);
    end_run(region, run);
    drop_region(region);
}

/* G7: a task that was completed in time is never late, nor is the next one of its worker. */
static void a_completed_task_has_no_deadline(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region);
    slr_overdue late;
    int64_t next_ns;
    succeed(region, SUB0, start(region, run, SUB0, SECOND));
    fail(region, SUB0, start(region, run, SUB0, SECOND));
    slr_id untimed = start(region, run, SUB0, 0);
    CHECK(overdue(region, INT64_MAX - 1, &late, &next_ns) == 0);
    succeed(region, SUB0, untimed);
    end_run(region, run);
    drop_region(region);
}

/* G7, W5: the watcher is told of a deadline before the one that it waits for, and of no other. */
static void the_watcher_is_told_of_an_earlier_deadline_only(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region);
    slr_overdue late;
    int64_t next_ns;
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    CHECK(fd >= 0);
    OK(slr_region_set_alarm_fd(region, fd));
    STATUS(SLR_INVALID, slr_region_set_alarm_fd(region, fd));
    for (int i = 0; i < 10; i++)
        succeed(region, SUB0, start(region, run, SUB0, 9 * SECOND));
    CHECK(signals(fd) == 1);
    succeed(region, SUB0, start(region, run, SUB0, 0));
    start(region, run, SUB1, 10 * SECOND);
    CHECK(signals(fd) == 0);
    start(region, run, CHIP, 2 * SECOND);
    CHECK(signals(fd) == 1);
    CHECK(overdue(region, now_ns() + 3 * SECOND, &late, &next_ns) == 1 && late.worker == CHIP);
    CHECK(next_ns > now_ns() + 8 * SECOND);
    start(region, run, SUB0, 9 * SECOND);
    CHECK(signals(fd) == 1);
    close(fd);
    drop_region(region);
}

/* G7: with room for one, the others are told when asked again. */
static void all_who_are_late_are_told_one_by_one(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region);
    slr_overdue late;
    uint32_t count, told = 0;
    int64_t next_ns;
    for (uint32_t worker = SUB0; worker <= CHIP; worker++)
        start(region, run, worker, SECOND);
    for (uint32_t worker = SUB0; worker <= CHIP; worker++) {
        OK(slr_workers_overdue(region, now_ns() + 2 * SECOND, &late, 1, &count, &next_ns));
        CHECK(count == 1);
        told |= 1u << late.worker;
    }
    CHECK(told == 7 && next_ns == INT64_MAX);
    drop_region(region);
}

/* G7 */
static void a_timeout_must_be_possible(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region), task;
    uint64_t conflict;
    slr_submission negative = timed(run, SUB0, -1), remote = timed(run, REMOTE, 1);
    STATUS(SLR_INVALID, slr_submit(region, &negative, &task, &conflict));
    STATUS(SLR_INVALID, slr_submit(region, &remote, &task, &conflict));
    slr_overdue late;
    int64_t next_ns;
    start(region, run, SUB0, INT64_MAX);
    CHECK(overdue(region, INT64_MAX - 1, &late, &next_ns) == 0);
    drop_region(region);
}

/* X5 */
static void the_session_of_a_sub_call_watches_its_timeout(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region), task;
    uint64_t conflict;
    slr_submission call = timed(run, SUB0, 0);
    call.op = SLR_OP_SUB_CALL;
    STATUS(SLR_INVALID, slr_submit(region, &call, &task, &conflict));
    call.worker = REMOTE;
    call.timeout_ns = SECOND;
    task = submit(region, call);
    slr_task taken;
    OK(slr_worker_take(region, REMOTE, 0, 0, &taken));
    CHECK(taken.id == task && taken.op == SLR_OP_SUB_CALL && taken.timeout_ns == SECOND);
    slr_overdue late;
    int64_t next_ns;
    CHECK(overdue(region, INT64_MAX - 1, &late, &next_ns) == 0 && next_ns == INT64_MAX);
    drop_region(region);
}

MAIN(CASE(a_late_task_is_told_once), CASE(a_condemned_worker_cannot_complete), CASE(a_completed_task_has_no_deadline),
     CASE(the_watcher_is_told_of_an_earlier_deadline_only), CASE(all_who_are_late_are_told_one_by_one),
     CASE(a_timeout_must_be_possible), CASE(the_session_of_a_sub_call_watches_its_timeout))
