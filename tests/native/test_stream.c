/* Streams: tasks that are told one by one as they end, forgotten, and lost with the holder of the lock. */
#include <errno.h>
#include <pthread.h>
#include <sys/eventfd.h>

#include "fault_harness.h"

#define LATEST_NS 20000000000ll
#define ROOM      8

static slr_id begin_stream(slr_region *region) {
    slr_id stream;
    OK(slr_run_begin(region, SLR_RUN_STREAM, &stream));
    return stream;
}

static uint32_t reap_now(slr_region *region, slr_id stream, slr_ended *out) {
    uint32_t count;
    OK(slr_run_reap(region, stream, out, ROOM, &count, 0, 0));
    return count;
}

static int status_now(slr_region *region, slr_id stream) {
    slr_ended out[ROOM];
    uint32_t count;
    return slr_run_reap(region, stream, out, ROOM, &count, 0, 0);
}

static uint64_t record_of(slr_region *region, const char *text) {
    uint64_t offset;
    OK(slr_heap_alloc(region, strlen(text), &offset));
    memcpy((char *)slr_region_heap(region) + offset, text, strlen(text));
    return offset;
}

static void end_stream(slr_region *region, slr_id stream) {
    OK(slr_run_cancel(region, stream));
    OK(slr_run_release(region, stream));
}

/* G10: each as it ended, in the order they ended, until it is forgotten. */
static void what_ends_is_told_until_it_is_forgotten(void) {
    slr_region *region = make_region();
    slr_id stream = begin_stream(region), tasks[3];
    slr_ended ended[ROOM];
    for (int i = 0; i < 3; i++)
        tasks[i] = submit(region, call_of(stream, REMOTE));
    STATUS(SLR_TIMEOUT, status_now(region, stream));
    for (int i = 0; i < 3; i++)
        CHECK(take(region, REMOTE) == tasks[i]);
    succeed(region, REMOTE, tasks[2]);
    OK(slr_worker_complete(region, REMOTE, tasks[0], SLR_TASK_SUCCEEDED, record_of(region, "seven"), 5));
    check_graph(region);
    CHECK(reap_now(region, stream, ended) == 2 && ended[0].task == tasks[2] && !ended[0].record_offset);
    CHECK(ended[0].state == SLR_TASK_SUCCEEDED && ended[0].worker == REMOTE && ended[1].task == tasks[0]);
    CHECK(memcmp((char *)slr_region_heap(region) + ended[1].record_offset, "seven", ended[1].record_bytes) == 0);
    STATUS(SLR_INVALID, slr_run_forget(region, stream, tasks[2], 3));
    STATUS(SLR_STALE, slr_run_forget(region, stream, tasks[0], 1));
    OK(slr_run_forget(region, stream, tasks[2], 1));
    STATUS(SLR_STALE, slr_run_forget(region, stream, tasks[2], 1));
    OK(slr_worker_complete(region, REMOTE, tasks[1], SLR_TASK_FAILED, record_of(region, "no"), 2));
    CHECK(reap_now(region, stream, ended) == 2 && ended[0].task == tasks[0] && ended[1].state == SLR_TASK_FAILED);
    CHECK(run_info(region, stream).failed == 1);
    OK(slr_run_forget(region, stream, tasks[0], 2));
    check_graph(region);
    STATUS(SLR_TIMEOUT, status_now(region, stream));
    CHECK(run_info(region, stream).failed == 0 && run_info(region, stream).first_failed == 0);
    CHECK(stats_of(region).slots_used == 0 && stats_of(region).heap_used == 0);
    end_stream(region, stream);
    drop_region(region);
}

static void only_so_many_as_there_is_room_for(void) {
    slr_region *region = make_region();
    slr_id stream = begin_stream(region), first = 0, task;
    slr_ended ended[ROOM];
    for (int i = 0; i < ROOM + 1; i++) {
        task = submit(region, call_of(stream, SUB0));
        CHECK(take(region, SUB0) == task);
        succeed(region, SUB0, task);
        first = first ? first : task;
    }
    CHECK(reap_now(region, stream, ended) == ROOM && ended[0].task == first);
    OK(slr_run_forget(region, stream, first, ROOM));
    CHECK(reap_now(region, stream, ended) == 1 && ended[0].task == task);
    end_stream(region, stream); /* with one that was not forgotten */
    drop_region(region);
}

/* G5 */
static void cancelled_tasks_are_told_then_nothing_more_comes(void) {
    slr_region *region = make_region();
    slr_id stream = begin_stream(region), running = submit(region, call_of(stream, SUB0));
    slr_id queued = submit(region, call_of(stream, SUB0));
    slr_ended ended[ROOM];
    CHECK(take(region, SUB0) == running);
    OK(slr_run_cancel(region, stream));
    CHECK(reap_now(region, stream, ended) == 1 && ended[0].task == queued && ended[0].state == SLR_TASK_CANCELLED);
    CHECK(ended[0].worker == SLR_ANY_SUB);
    OK(slr_run_forget(region, stream, queued, 1));
    STATUS(SLR_TIMEOUT, status_now(region, stream)); /* one still runs */
    succeed(region, SUB0, running);
    CHECK(reap_now(region, stream, ended) == 1 && ended[0].task == running);
    check_graph(region);
    OK(slr_run_forget(region, stream, running, 1));
    STATUS(SLR_CLOSED, status_now(region, stream));
    OK(slr_run_release(region, stream));
    STATUS(SLR_STALE, status_now(region, stream));
    drop_region(region);
}

static void what_is_refused(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region), stream = begin_stream(region), group, ids[2];
    slr_submission members[2] = {call_of(stream, SLR_ANY_SUB), call_of(stream, SLR_ANY_SUB)};
    slr_ended ended[ROOM];
    uint32_t count;
    uint64_t conflict;
    STATUS(SLR_INVALID, status_now(region, run));
    STATUS(SLR_INVALID, slr_run_forget(region, run, 1, 1));
    STATUS(SLR_INVALID, slr_run_wake(region, run));
    STATUS(SLR_INVALID, slr_run_reap(region, stream, ended, 0, &count, 0, 0));
    STATUS(SLR_INVALID, slr_submit_group(region, members, 2, &group, ids, &conflict));
    STATUS(SLR_INVALID, slr_run_begin(region, 4, &group));
    OK(slr_region_shutdown(region));
    STATUS(SLR_CLOSED, status_now(region, stream));
    end_run(region, run);
    end_stream(region, stream);
    drop_region(region);
}

static void the_eventfd_tells_once_that_there_is_something(void) {
    slr_region *region = make_region();
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    uint64_t count;
    slr_id stream;
    OK(slr_region_set_notify_fd(region, fd));
    OK(slr_run_begin(region, SLR_RUN_STREAM | SLR_RUN_NOTIFY, &stream));
    for (int i = 0; i < 2; i++) {
        slr_id first = 0;
        for (int j = 0; j < 2; j++) {
            slr_id task = submit(region, call_of(stream, SUB0));
            first = first ? first : task;
            CHECK(take(region, SUB0) == task);
            CHECK(read(fd, &count, sizeof count) < 0 && errno == EAGAIN);
            succeed(region, SUB0, task);
            CHECK(j ? read(fd, &count, sizeof count) < 0 : read(fd, &count, sizeof count) == sizeof count);
        }
        OK(slr_run_forget(region, stream, first, 2));
    }
    close(fd);
    end_stream(region, stream);
    drop_region(region);
}

static void *complete_all(void *argument) {
    slr_task task;
    while (slr_worker_take(argument, SUB0, 5, LATEST_NS, &task) == SLR_OK)
        succeed(argument, SUB0, task.id);
    return NULL;
}

/* G11: whoever sleeps is woken by an end, and by slr_run_wake, also by one that came before. */
static void a_sleeping_reaper_is_woken(void) {
    slr_region *region = make_region();
    slr_id stream = begin_stream(region);
    slr_ended ended[ROOM];
    uint32_t count;
    pthread_t worker;
    CHECK(pthread_create(&worker, NULL, complete_all, region) == 0);
    for (int i = 0; i < 2000; i++) {
        slr_id task = submit(region, call_of(stream, SUB0));
        OK(slr_run_reap(region, stream, ended, ROOM, &count, 0, LATEST_NS));
        CHECK(count == 1 && ended[0].task == task);
        OK(slr_run_forget(region, stream, task, 1));
    }
    OK(slr_run_wake(region, stream));
    OK(slr_run_reap(region, stream, ended, ROOM, &count, 0, LATEST_NS));
    CHECK(count == 0);
    STATUS(SLR_TIMEOUT, slr_run_reap(region, stream, ended, ROOM, &count, 0, 1000));
    STATUS(SLR_TIMEOUT, slr_run_reap(region, stream, ended, ROOM, &count, 1, 1000));
    OK(slr_region_shutdown(region));
    CHECK(pthread_join(worker, NULL) == 0);
    end_stream(region, stream);
    drop_region(region);
}

static void die_submitting(const scene *s) {
    submit(s->region, call_of(s->dying, SUB1));
}

/* W4: what had ended before is told, then that the rest is lost. */
static void a_lost_stream_says_so(void) {
    slr_region *region = make_region();
    scene s = {.region = region, .dying = begin_stream(region)};
    slr_id done = submit(region, call_of(s.dying, SUB0)), running = submit(region, call_of(s.dying, SUB0));
    slr_ended ended[ROOM];
    CHECK(take(region, SUB0) == done);
    OK(slr_worker_complete(region, SUB0, done, SLR_TASK_SUCCEEDED, record_of(region, "kept"), 4));
    CHECK(take(region, SUB0) == running);
    submit(region, call_of(s.dying, SUB0));
    CHECK(dies_at(&s, "submit:queued", 0, die_submitting));
    CHECK(reap_now(region, s.dying, ended) == 1 && ended[0].task == done);
    CHECK(memcmp((char *)slr_region_heap(region) + ended[0].record_offset, "kept", 4) == 0);
    check_graph(region);
    OK(slr_run_forget(region, s.dying, done, 1));
    STATUS(SLR_FAILED, status_now(region, s.dying));
    succeed(region, SUB0, running);
    CHECK(run_info(region, s.dying).lost);
    OK(slr_run_release(region, s.dying));
    drop_region(region);
}

/* G10: a record that is taken over is the taker's, whatever becomes of the process that wrote it. */
static void a_record_outlives_its_writer_with_who_refers_to_it(void) {
    slr_region *parent = make_region(), *writer;
    slr_id stream = begin_stream(parent), task = submit(parent, call_of(stream, SUB0));
    slr_region *reader; /* attached to no worker, as the program is */
    slr_ended ended[ROOM];
    uint32_t failed;
    OK(slr_region_attach(slr_region_fd(parent), &reader));
    OK(slr_region_attach(slr_region_fd(parent), &writer));
    OK(slr_worker_died(parent, SUB0, NULL, 0, &failed));
    be_ready(writer, SUB0);
    CHECK(take(writer, SUB0) == task);
    OK(slr_worker_complete(writer, SUB0, task, SLR_TASK_SUCCEEDED, record_of(writer, "mine"), 4));
    CHECK(reap_now(reader, stream, ended) == 1);
    OK(slr_heap_ref(reader, ended[0].record_offset));
    OK(slr_run_forget(reader, stream, task, 1));
    OK(slr_worker_died(reader, SUB0, NULL, 0, &failed));
    CHECK(memcmp((char *)slr_region_heap(reader) + ended[0].record_offset, "mine", 4) == 0);
    OK(slr_heap_unref(reader, ended[0].record_offset));
    STATUS(SLR_STALE, slr_heap_unref(reader, ended[0].record_offset));
    end_stream(parent, stream);
    slr_region_detach(writer);
    slr_region_detach(reader);
    drop_region(parent);
}

MAIN(CASE(what_ends_is_told_until_it_is_forgotten), CASE(only_so_many_as_there_is_room_for),
     CASE(cancelled_tasks_are_told_then_nothing_more_comes), CASE(what_is_refused),
     CASE(the_eventfd_tells_once_that_there_is_something), CASE(a_sleeping_reaper_is_woken),
     CASE(a_lost_stream_says_so), CASE(a_record_outlives_its_writer_with_who_refers_to_it))
