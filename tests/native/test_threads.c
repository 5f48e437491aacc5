/* Everything at once from several threads of one process, for the thread sanitizer. */
#include <pthread.h>
#include <stdbool.h>

#include "harness.h"

#define SUBMITTERS 3
#define RUNS_EACH  40
#define TASKS_EACH 30
#define LATEST_NS  20000000000ll

typedef struct {
    slr_region *region;
    uint32_t number;
} player;

/* Plain words that only the order of the graph protects: two for each submitter, the second for members of groups. */
static uint64_t words[2 * SUBMITTERS];

static void *work(void *argument) {
    const player *me = argument;
    slr_task task;
    int status;
    while ((status = slr_worker_take(me->region, me->number, 20, LATEST_NS, &task)) == SLR_OK) {
        uint32_t which;
        memcpy(&which, (char *)slr_region_heap(me->region) + task.args_offset, sizeof which);
        words[which]++;
        int outcome = words[which] % 50 ? SLR_TASK_SUCCEEDED : SLR_TASK_FAILED;
        OK(slr_worker_complete(me->region, me->number, task.id, outcome, 0, 0));
    }
    STATUS(SLR_CLOSED, status);
    return NULL;
}

/* Every fifth a group of two, each with a word. */
static void submit_chain(slr_region *region, slr_id run, uint32_t number) {
    uint32_t which[2] = {number, SUBMITTERS + number};
    slr_range ranges[2] = {range_of(1ull << 63 | number, 0, 8, SLR_WRITE),
                           range_of(1ull << 63 | number, 8, 16, SLR_WRITE)};
    slr_submission members[2] = {call_of(run, SLR_ANY_SUB), call_of(run, SLR_ANY_SUB)};
    for (int i = 0; i < 2; i++) {
        members[i].args = &which[i];
        members[i].args_bytes = sizeof which[i];
        members[i].ranges = &ranges[i];
        members[i].n_ranges = 1;
    }
    for (int i = 0; i < TASKS_EACH;) {
        slr_id task, ids[2];
        uint64_t conflict;
        uint32_t seen = slr_space_seen(region);
        slr_submission single = members[0];
        single.worker = i % 3 ? SLR_ANY_SUB : SUB1;
        int status = i % 5 == 4 ? slr_submit_group(region, members, 2, &task, ids, &conflict)
                                : slr_submit(region, &single, &task, &conflict);
        i += status == SLR_OK;
        if (status != SLR_OK) {
            CHECK(status == SLR_SLOTS_FULL);
            OK(slr_space_wait(region, seen, LATEST_NS));
        }
    }
}

static void *submit_runs(void *argument) {
    const player *me = argument;
    for (uint32_t i = 0; i < RUNS_EACH; i++) {
        slr_id run = begin_run(me->region);
        submit_chain(me->region, run, me->number);
        if (i % 7 == 0)
            OK(slr_run_cancel(me->region, run));
        OK(slr_run_seal(me->region, run));
        OK(slr_run_wait(me->region, run, i % 2 * 50, LATEST_NS));
        OK(slr_run_release(me->region, run));
    }
    return NULL;
}

static void *look_on(void *argument) {
    const player *me = argument;
    uint64_t cursor = 0, offset;
    slr_trace_event events[64];
    uint32_t count, left;
    uint8_t digest[SLR_DIGEST_BYTES] = {5};
    while (stats_of(me->region).tasks < SUBMITTERS * RUNS_EACH * TASKS_EACH / 2) {
        OK(slr_trace_read(me->region, &cursor, events, 64, &count));
        OK(slr_heap_alloc(me->region, 1000, &offset));
        memset((char *)slr_region_heap(me->region) + offset, 1, 1000);
        OK(slr_callable_put(me->region, digest, 1, "content", 7));
        OK(slr_callable_drop(me->region, digest, &left));
        OK(slr_heap_unref(me->region, offset));
        check_graph(me->region);
    }
    return NULL;
}

/* C6, G6 */
static void submitters_workers_and_onlookers_do_not_race(void) {
    slr_config config = small_config();
    config.slots = 24;
    slr_region *region = make_region_of(config);
    pthread_t workers[2], submitters[SUBMITTERS], onlooker;
    player players[SUBMITTERS];
    for (uint32_t i = 0; i < SUBMITTERS; i++)
        players[i] = (player){region, i};
    for (uint32_t i = 0; i < 2; i++)
        CHECK(pthread_create(&workers[i], NULL, work, &players[i]) == 0);
    for (uint32_t i = 0; i < SUBMITTERS; i++)
        CHECK(pthread_create(&submitters[i], NULL, submit_runs, &players[i]) == 0);
    CHECK(pthread_create(&onlooker, NULL, look_on, &players[0]) == 0);
    for (uint32_t i = 0; i < SUBMITTERS; i++)
        CHECK(pthread_join(submitters[i], NULL) == 0);
    CHECK(pthread_join(onlooker, NULL) == 0);
    OK(slr_region_shutdown(region));
    for (uint32_t i = 0; i < 2; i++)
        CHECK(pthread_join(workers[i], NULL) == 0);
    CHECK(stats_of(region).live == 0 && stats_of(region).heap_used == 0 && stats_of(region).slots_used == 0);
    drop_region(region);
}

#define STREAMED 5000

typedef struct {
    slr_region *region;
    uint32_t number;
    slr_id stream;
} streamer;

/* Each task returns what it was given, in a block of its own. */
static void *echo(void *argument) {
    const streamer *me = argument;
    char *heap = slr_region_heap(me->region);
    slr_task task;
    int status;
    while ((status = slr_worker_take(me->region, me->number, 20, LATEST_NS, &task)) == SLR_OK) {
        uint64_t record;
        OK(slr_heap_alloc(me->region, task.args_bytes, &record));
        memcpy(heap + record, heap + task.args_offset, task.args_bytes);
        OK(slr_worker_complete(me->region, me->number, task.id, SLR_TASK_SUCCEEDED, record, task.args_bytes));
    }
    STATUS(SLR_CLOSED, status);
    return NULL;
}

static void *feed(void *argument) {
    const streamer *me = argument;
    for (uint32_t i = 0; i < STREAMED;) {
        slr_id task;
        uint64_t conflict;
        uint32_t seen = slr_space_seen(me->region);
        slr_submission submission = call_of(me->stream, SLR_ANY_SUB);
        submission.args = &i;
        submission.args_bytes = sizeof i;
        int status = slr_submit(me->region, &submission, &task, &conflict);
        i += status == SLR_OK;
        if (status == SLR_SLOTS_FULL) {
            status = slr_space_wait(me->region, seen, LATEST_NS);
            CHECK(status == SLR_OK || status == SLR_INVALID); /* all have ended: whoever reaps makes room */
        }
    }
    return NULL;
}

static void *wake_often(void *argument) {
    const streamer *me = argument;
    while (stats_of(me->region).tasks < STREAMED)
        OK(slr_run_wake(me->region, me->stream));
    return NULL;
}

static uint32_t reap_some(const streamer *me, bool *told, uint32_t turn) {
    slr_ended ended[16];
    uint32_t count, which;
    OK(slr_run_reap(me->region, me->stream, ended, 1 + turn % 16, &count, turn % 3 * 10, LATEST_NS));
    for (uint32_t i = 0; i < count; i++) {
        memcpy(&which, (char *)slr_region_heap(me->region) + ended[i].record_offset, sizeof which);
        CHECK(which < STREAMED && !told[which]);
        told[which] = true;
    }
    if (count)
        OK(slr_run_forget(me->region, me->stream, ended[0].task, count));
    return count;
}

/* C6, G10, G11: one submits, one reaps, another wakes it all the time: each task is told once, with its own record. */
static void who_submits_and_who_reaps_do_not_race(void) {
    slr_config config = small_config();
    config.slots = 24;
    slr_region *region = make_region_of(config);
    static bool told[STREAMED];
    slr_id stream;
    OK(slr_run_begin(region, SLR_RUN_STREAM, &stream));
    streamer players[2] = {{region, 0, stream}, {region, 1, stream}};
    pthread_t threads[4];
    for (uint32_t i = 0; i < 2; i++)
        CHECK(pthread_create(&threads[i], NULL, echo, &players[i]) == 0);
    CHECK(pthread_create(&threads[2], NULL, feed, &players[0]) == 0);
    CHECK(pthread_create(&threads[3], NULL, wake_often, &players[0]) == 0);
    for (uint32_t left = STREAMED, turn = 0; left > 0; turn++)
        left -= reap_some(&players[0], told, turn);
    OK(slr_region_shutdown(region));
    for (uint32_t i = 0; i < 4; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    OK(slr_run_cancel(region, stream));
    OK(slr_run_release(region, stream));
    CHECK(stats_of(region).heap_used == 0 && stats_of(region).slots_used == 0);
    drop_region(region);
}

MAIN(CASE(submitters_workers_and_onlookers_do_not_race), CASE(who_submits_and_who_reaps_do_not_race))
