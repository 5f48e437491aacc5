/* Workers: their states, their queues, who is woken, what happens when they die or are given up; callables and regions.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "harness.h"

static slr_worker_info info_of(slr_region *region, uint32_t worker) {
    slr_worker_info info;
    OK(slr_worker_query(region, worker, &info));
    return info;
}

static int signalled(int fd) {
    uint64_t count;
    return read(fd, &count, sizeof count) == sizeof count;
}

/* W2: nothing is dispatched before READY; what was queued is there then. */
static void a_starting_worker_gets_nothing(void) {
    slr_config config = small_config();
    slr_region *region;
    slr_task task;
    OK(slr_region_create(&config, &region));
    OK(slr_worker_define(region, SUB0, SLR_WORKER_SUB));
    STATUS(SLR_INVALID, slr_worker_ready(region, SUB0));
    STATUS(SLR_INVALID, slr_worker_attach(region, SUB1, 1)); /* not defined */
    OK(slr_worker_attach(region, SUB0, 77));
    STATUS(SLR_INVALID, slr_worker_attach(region, SUB0, 78));
    STATUS(SLR_INVALID, slr_worker_define(region, SUB0, SLR_WORKER_CHIP));
    CHECK(info_of(region, SUB0).state == SLR_WORKER_STARTING && info_of(region, SUB0).pid == 77);
    slr_id run = begin_run(region), directed = submit(region, call_of(run, SUB0)),
           shared = submit(region, call_of(run, SLR_ANY_SUB));
    STATUS(SLR_INVALID, slr_worker_take(region, SUB0, 0, 0, &task));
    CHECK(info_of(region, SUB0).queued == 1 && stats_of(region).shared_queue == 1);
    OK(slr_worker_ready(region, SUB0));
    CHECK(take(region, SUB0) == directed);
    succeed(region, SUB0, directed);
    CHECK(take(region, SUB0) == shared);
    succeed(region, SUB0, shared);
    CHECK(info_of(region, SUB0).tasks == 2);
    end_run(region, run);
    drop_region(region);
}

static void only_sub_workers_share(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region), shared = submit(region, call_of(run, SLR_ANY_SUB)),
           chip = submit(region, call_of(run, CHIP));
    CHECK(take(region, CHIP) == chip && take(region, REMOTE) == 0 && take(region, SUB1) == shared);
    succeed(region, CHIP, chip);
    succeed(region, SUB1, shared);
    end_run(region, run);
    drop_region(region);
}

static void shared_work_needs_a_sub_worker(void) {
    slr_config config = small_config();
    slr_region *region;
    slr_id task;
    uint64_t conflict;
    OK(slr_region_create(&config, &region));
    OK(slr_worker_define(region, CHIP, SLR_WORKER_CHIP));
    slr_submission submission = call_of(begin_run(region), SLR_ANY_SUB);
    STATUS(SLR_INVALID, slr_submit(region, &submission, &task, &conflict));
    slr_region_detach(region);
}

static void only_the_taker_completes_and_only_once(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region), task = submit(region, call_of(run, SUB0));
    STATUS(SLR_STALE, slr_worker_complete(region, SUB0, task, SLR_TASK_SUCCEEDED, 0, 0));
    CHECK(take(region, SUB0) == task);
    STATUS(SLR_STALE, slr_worker_complete(region, SUB1, task, SLR_TASK_SUCCEEDED, 0, 0));
    STATUS(SLR_INVALID, slr_worker_complete(region, SUB0, task, SLR_TASK_POISONED, 0, 0));
    STATUS(SLR_INVALID, slr_worker_complete(region, SUB0, task, SLR_TASK_SUCCEEDED, 64, 1)); /* no such block */
    succeed(region, SUB0, task);
    STATUS(SLR_STALE, slr_worker_complete(region, SUB0, task, SLR_TASK_SUCCEEDED, 0, 0));
    end_run(region, run);
    drop_region(region);
}

/* Ends its task and takes the next; 0 when there is none. */
static slr_id next_after(slr_region *region, uint32_t worker, slr_id ended, int outcome) {
    slr_task task = {.id = ended};
    int status = slr_worker_next(region, worker, outcome, 0, 0, 0, 0, &task);
    CHECK(status == SLR_OK || status == SLR_TIMEOUT);
    return status == SLR_OK ? task.id : 0;
}

static void a_worker_ends_a_task_and_takes_the_next(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region), first = submit(region, call_of(run, CHIP));
    slr_submission chained = call_of(run, CHIP);
    chained.after = &first;
    chained.n_after = 1;
    slr_id second = submit(region, chained), shared = submit(region, call_of(run, SLR_ANY_SUB));
    CHECK(take(region, CHIP) == first && next_after(region, CHIP, first, SLR_TASK_SUCCEEDED) == second);
    CHECK(next_after(region, CHIP, second, SLR_TASK_FAILED) == 0); /* the shared task is not a chip's */
    CHECK(state_of(region, second) == SLR_TASK_FAILED && take(region, SUB0) == shared);
    slr_task task = {.id = shared};
    STATUS(SLR_INVALID, slr_worker_next(region, SUB0, SLR_TASK_POISONED, 0, 0, 0, 0, &task));
    STATUS(SLR_INVALID, slr_worker_next(region, SUB0, SLR_TASK_SUCCEEDED, 64, 1, 0, 0, &task)); /* no such block */
    STATUS(SLR_INVALID, slr_worker_next(region, REMOTE, SLR_TASK_SUCCEEDED, 0, 0, 0, 0, &task));
    STATUS(SLR_STALE, slr_worker_next(region, SUB1, SLR_TASK_SUCCEEDED, 0, 0, 0, 0, &task));
    CHECK(task.id == shared && next_after(region, SUB0, shared, SLR_TASK_SUCCEEDED) == 0);
    STATUS(SLR_STALE, slr_worker_next(region, SUB0, SLR_TASK_SUCCEEDED, 0, 0, 0, 0, &task));
    end_run(region, run);
    drop_region(region);
}

/* Whatever the task: a worker that took two could end one, and be refused the next with the same answer. */
static void a_worker_holds_one_task_at_a_time(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region);
    for (int timed = 0; timed <= 1; timed++) {
        slr_submission submission = call_of(run, CHIP);
        submission.timeout_ns = timed;
        slr_id first = submit(region, submission), second = submit(region, submission);
        slr_task task;
        CHECK(take(region, CHIP) == first);
        STATUS(SLR_INVALID, slr_worker_take(region, CHIP, 0, 0, &task));
        CHECK(next_after(region, CHIP, first, SLR_TASK_SUCCEEDED) == second);
        succeed(region, CHIP, second);
    }
    end_run(region, run);
    drop_region(region);
}

/* The eventfd is signalled once after the REMOTE worker's consumer has seen its queue empty. */
static void a_remote_worker_is_told_by_eventfd(void) {
    slr_region *region = make_region();
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    OK(slr_region_set_notify_fd(region, fd));
    STATUS(SLR_INVALID, slr_region_set_notify_fd(region, fd)); /* others may be writing to the one it has */
    STATUS(SLR_SYSTEM, slr_region_set_notify_fd(region, -1));
    slr_id run = begin_run(region);
    slr_task never;
    STATUS(SLR_INVALID, slr_worker_take(region, REMOTE, 0, -1, &never)); /* nobody would ring its doorbell */
    CHECK(take(region, REMOTE) == 0 && info_of(region, REMOTE).state == SLR_WORKER_PARKED);
    slr_id first = submit(region, call_of(run, REMOTE));
    CHECK(signalled(fd));
    slr_id second = submit(region, call_of(run, REMOTE));
    CHECK(!signalled(fd)); /* it has not looked yet */
    CHECK(take(region, REMOTE) == first && take(region, REMOTE) == second && take(region, REMOTE) == 0);
    slr_submission chained = call_of(run, REMOTE);
    chained.after = &first;
    chained.n_after = 1;
    slr_id third = submit(region, chained);
    CHECK(!signalled(fd));
    succeed(region, REMOTE, first);
    CHECK(signalled(fd) && take(region, REMOTE) == third);
    succeed(region, REMOTE, second);
    succeed(region, REMOTE, third);
    end_run(region, run);
    close(fd);
    drop_region(region);
}

/* W4, G4: what it held fails with the record, its queue waits for its successor. */
static void a_dead_worker_fails_only_what_it_held(void) {
    slr_region *region = make_region();
    uint32_t failed = 9;
    slr_id run = begin_run(region), held = submit(region, call_of(run, SUB0)),
           queued = submit(region, call_of(run, SUB0));
    CHECK(take(region, SUB0) == held);
    OK(slr_worker_died(region, SUB0, "killed", 6, &failed));
    CHECK(failed == 1 && info_of(region, SUB0).state == SLR_WORKER_DEAD && info_of(region, SUB0).deaths == 1);
    slr_task_info info;
    slr_task task;
    OK(slr_task_query(region, held, &info));
    CHECK(info.state == SLR_TASK_FAILED && info.record_bytes == 6);
    CHECK(memcmp((char *)slr_region_heap(region) + info.record_offset, "killed", 6) == 0);
    STATUS(SLR_STALE, slr_worker_complete(region, SUB0, held, SLR_TASK_SUCCEEDED, 0, 0));
    STATUS(SLR_STALE, slr_worker_take(region, SUB0, 0, -1, &task));
    check_graph(region);
    be_ready(region, SUB0);
    CHECK(take(region, SUB0) == queued);
    succeed(region, SUB0, queued);
    end_run(region, run);
    drop_region(region);
}

/* W4 */
static void the_whole_hand_of_a_remote_worker_fails(void) {
    slr_region *region = make_region();
    uint32_t failed;
    slr_id run = begin_run(region), task;
    for (int i = 0; i < 5; i++) {
        submit(region, call_of(run, REMOTE));
        CHECK((task = take(region, REMOTE)));
    }
    OK(slr_worker_died(region, REMOTE, NULL, 0, &failed));
    CHECK(failed == 5 && run_info(region, run).failed == 5);
    end_run(region, run);
    drop_region(region);
}

/* W4, G11: work that counted on the dead one as a spinner goes to one that is parked. */
static void the_dead_are_not_waited_for(void) {
    slr_region *region = make_region();
    uint32_t failed;
    slr_id run = begin_run(region), task = submit(region, call_of(run, SLR_ANY_SUB));
    CHECK(info_of(region, SUB0).state == SLR_WORKER_SPINNING && info_of(region, SUB1).state == SLR_WORKER_SPINNING);
    check_graph(region);
    OK(slr_worker_died(region, SUB0, "x", 1, &failed));
    CHECK(failed == 0 && take(region, SUB1) == task);
    succeed(region, SUB1, task);
    end_run(region, run);
    drop_region(region);
}

/* W4: given up for ever, with everything that waits or will come for it. */
static void an_abandoned_worker_fails_its_queue_and_what_comes(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region), held = submit(region, call_of(run, CHIP)),
           queued = submit(region, call_of(run, CHIP));
    CHECK(take(region, CHIP) == held);
    slr_submission after = call_of(run, CHIP);
    after.after = &held;
    after.n_after = 1;
    slr_id dependent = submit(region, after);
    OK(slr_worker_abandon(region, CHIP, "gave up", 7));
    OK(slr_worker_abandon(region, CHIP, "again", 5));
    slr_id later = submit(region, call_of(run, CHIP)), all[3] = {held, queued, later};
    for (int i = 0; i < 3; i++) {
        slr_task_info info;
        OK(slr_task_query(region, all[i], &info));
        CHECK(info.state == SLR_TASK_FAILED && info.record_bytes == 7);
    }
    CHECK(state_of(region, dependent) == SLR_TASK_POISONED);
    STATUS(SLR_INVALID, slr_worker_attach(region, CHIP, 5));
    CHECK(info_of(region, CHIP).abandoned && info_of(region, CHIP).deaths == 1);
    end_run(region, run);
    drop_region(region);
}

/* W4 */
static void shared_work_fails_with_the_last_sub_worker(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region), waiting = submit(region, call_of(run, SLR_ANY_SUB));
    OK(slr_worker_abandon(region, SUB1, "one", 3));
    CHECK(state_of(region, waiting) == SLR_TASK_READY);
    OK(slr_worker_abandon(region, CHIP, "not a sub", 9));
    CHECK(state_of(region, waiting) == SLR_TASK_READY);
    OK(slr_worker_abandon(region, SUB0, "both", 4));
    slr_id later = submit(region, call_of(run, SLR_ANY_SUB));
    CHECK(state_of(region, waiting) == SLR_TASK_FAILED && state_of(region, later) == SLR_TASK_FAILED);
    check_graph(region);
    end_run(region, run);
    drop_region(region);
}

/* W3 */
static void shutdown_ends_every_take(void) {
    slr_region *region = make_region();
    slr_task task;
    slr_id run = begin_run(region), other;
    pid_t child = fork_child();
    if (child == 0)
        _exit(slr_worker_take(region, SUB0, 0, -1, &task) == SLR_CLOSED ? 0 : 1);
    OK(slr_region_shutdown(region));
    reap(child);
    STATUS(SLR_CLOSED, slr_worker_take(region, SUB1, 0, -1, &task));
    STATUS(SLR_CLOSED, slr_run_wait(region, run, 0, -1));
    STATUS(SLR_CLOSED, slr_run_begin(region, 0, &other));
    slr_submission submission = call_of(run, SUB0);
    uint64_t conflict;
    STATUS(SLR_CLOSED, slr_submit(region, &submission, &other, &conflict));
    drop_region(region);
}

/* C3, C6 */
static void callables_are_counted_by_digest(void) {
    slr_region *region = make_region();
    uint8_t other[SLR_DIGEST_BYTES] = {9};
    uint32_t left;
    slr_callable found;
    STATUS(SLR_NOT_FOUND, slr_callable_get(region, a_digest, &found));
    OK(slr_callable_put(region, a_digest, 2, "code", 4));
    OK(slr_callable_put(region, a_digest, 2, "code", 4));
    STATUS(SLR_CONFLICT, slr_callable_put(region, a_digest, 2, "Code", 4));
    STATUS(SLR_CONFLICT, slr_callable_put(region, a_digest, 3, "code", 4));
    OK(slr_callable_put(region, other, 1, NULL, 0));
    check_graph(region);
    OK(slr_callable_get(region, a_digest, &found));
    CHECK(found.references == 2 && found.kind == 2 && found.content_bytes == 4);
    CHECK(memcmp((char *)slr_region_heap(region) + found.content_offset, "code", 4) == 0);
    OK(slr_callable_at(region, 1, &found));
    CHECK(found.digest[0] == 9);
    STATUS(SLR_NOT_FOUND, slr_callable_at(region, 7, &found));
    STATUS(SLR_INVALID, slr_callable_at(region, 8, &found));
    OK(slr_callable_drop(region, a_digest, &left));
    CHECK(left == 1);
    OK(slr_callable_drop(region, a_digest, &left));
    CHECK(left == 0);
    STATUS(SLR_NOT_FOUND, slr_callable_drop(region, a_digest, &left));
    for (uint8_t i = 0; i < 7; i++)
        OK(slr_callable_put(region, (uint8_t[SLR_DIGEST_BYTES]){100, i}, 1, "x", 1));
    STATUS(SLR_CALLABLES_FULL, slr_callable_put(region, a_digest, 1, "x", 1));
    drop_region(region);
}

/* Digests that share few homes in the index come and go; a plain count of references says what must be there. */
static void callables_that_collide_are_told_apart(void) {
    enum { DIGESTS = 12, STEPS = 4000 };
    slr_region *region = make_region();
    uint32_t counts[DIGESTS] = {0}, used = 0, left, seed = 1;
    slr_callable found;
    for (int step = 0; step < STEPS; step++) {
        seed = seed * 1664525 + 1013904223;
        uint32_t which = (seed >> 8) % DIGESTS;
        uint8_t digest[SLR_DIGEST_BYTES] = {(uint8_t)(13 + which % 3)}; /* their homes are next to the table's end */
        digest[31] = (uint8_t)which;
        if (seed >> 31) {
            int expected = counts[which] || used < small_config().callables ? SLR_OK : SLR_CALLABLES_FULL;
            STATUS(expected, slr_callable_put(region, digest, 1, digest, sizeof digest));
            used += expected == SLR_OK && !counts[which]++;
        } else {
            STATUS(counts[which] ? SLR_OK : SLR_NOT_FOUND, slr_callable_drop(region, digest, &left));
            used -= counts[which] && !--counts[which];
        }
        STATUS(counts[which] ? SLR_OK : SLR_NOT_FOUND, slr_callable_get(region, digest, &found));
        CHECK(!counts[which] || found.references == counts[which]);
        check_graph(region);
    }
    drop_region(region);
}

static void only_a_sealed_region_of_this_version_is_mapped(void) {
    slr_region *region = make_region(), *again;
    int fd = slr_region_fd(region), other = memfd_create("other", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(ftruncate(fd, 4096) < 0 && errno == EPERM && (fcntl(fd, F_GETFD) & FD_CLOEXEC));
    OK(slr_region_attach(fd, &again));
    CHECK(slr_region_fd(again) != fd && slr_region_heap(again) != slr_region_heap(region));
    slr_region_detach(again);
    STATUS(SLR_SYSTEM, slr_region_attach(-1, &again));
    STATUS(SLR_FORMAT, slr_region_attach(other, &again));
    CHECK(ftruncate(other, 1 << 20) == 0 && fcntl(other, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0);
    STATUS(SLR_FORMAT, slr_region_attach(other, &again));
    close(other);
    drop_region(region);
}

static void impossible_configurations_are_refused(void) {
    slr_region *region;
    slr_config config = small_config();
    config.slots = 0;
    STATUS(SLR_INVALID, slr_region_create(&config, &region));
    config = small_config();
    config.heap_bytes = UINT64_MAX;
    STATUS(SLR_INVALID, slr_region_create(&config, &region));
    config = small_config();
    config.workers = 1 << 20;
    STATUS(SLR_INVALID, slr_region_create(&config, &region));
    config = small_config();
    config.heap_bytes = 4097;
    OK(slr_region_create(&config, &region));
    CHECK(stats_of(region).heap_bytes == 8192);
    drop_region(region);
}

static void every_status_has_its_name(void) {
    CHECK(strcmp(slr_status_name(SLR_OK), "SLR_OK") == 0);
    CHECK(strcmp(slr_status_name(SLR_CORRUPT), "SLR_CORRUPT") == 0);
    CHECK(strcmp(slr_status_name(SLR_INTERRUPTED), "SLR_INTERRUPTED") == 0);
    CHECK(strcmp(slr_status_name(SLR_FAILED), "SLR_FAILED") == 0);
    CHECK(strcmp(slr_status_name(-17), "unknown status") == 0 && strcmp(slr_status_name(1), "unknown status") == 0);
}

MAIN(CASE(a_starting_worker_gets_nothing), CASE(only_sub_workers_share), CASE(shared_work_needs_a_sub_worker),
     CASE(only_the_taker_completes_and_only_once), CASE(a_worker_ends_a_task_and_takes_the_next),
     CASE(a_worker_holds_one_task_at_a_time), CASE(a_remote_worker_is_told_by_eventfd),
     CASE(a_dead_worker_fails_only_what_it_held), CASE(the_whole_hand_of_a_remote_worker_fails),
     CASE(the_dead_are_not_waited_for), CASE(an_abandoned_worker_fails_its_queue_and_what_comes),
     CASE(shared_work_fails_with_the_last_sub_worker), CASE(shutdown_ends_every_take),
     CASE(callables_are_counted_by_digest), CASE(callables_that_collide_are_told_apart),
     CASE(only_a_sealed_region_of_this_version_is_mapped), CASE(impossible_configurations_are_refused),
     CASE(every_status_has_its_name))
