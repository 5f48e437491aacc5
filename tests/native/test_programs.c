/* Whole programs: any gives what running it in the order of submission would, in memory that does not grow. */
#include "harness.h"

#ifdef __SANITIZE_ADDRESS__
size_t
__sanitizer_get_current_allocated_bytes(void); /* sanitizer/allocator_interface.h, which Debian's gcc leaves out */
#endif

#define X (1ull << 63 | 1)
#define Y (1ull << 63 | 2)

#define TASKS   3000
#define AT_ONCE 60
#define BYTES   90
#define PARTS   6 /* ranges of each of a task's two arguments, as of a view with strides */

/* A task of two arguments, or a group of two members with one each, which is checked as one. */
typedef struct {
    slr_id ids[2];
    uint32_t unended;
    int executed;
    slr_range ranges[2 * PARTS];
    int expected[BYTES]; /* the last writer of each byte before it, in the order of submission; for those it reads */
} planned;

static void plan_argument(slr_range *ranges, uint64_t *random, uint32_t argument) {
    uint64_t begin = next_random(random) % 30, bytes = 1 + next_random(random) % 10, step = next_random(random) % 12;
    uint32_t access = 1 + (uint32_t)(next_random(random) % 3), parts = 1 + (uint32_t)(next_random(random) % PARTS);
    for (uint32_t i = 0; i < PARTS; i++) {
        uint64_t from = begin + i * step < BYTES - bytes ? begin + i * step : BYTES - bytes;
        ranges[i] = range_of(X, from, i < parts ? from + bytes : from, access);
        ranges[i].argument = argument;
    }
}

static int try_to_submit(slr_region *region, slr_id run, planned *task) {
    uint64_t conflict;
    slr_id group;
    slr_submission submissions[2] = {call_of(run, SLR_ANY_SUB), call_of(run, SLR_ANY_SUB)};
    submissions[0].ranges = task->ranges;
    submissions[1].ranges = task->ranges + PARTS;
    submissions[0].n_ranges = submissions[1].n_ranges = PARTS;
    if (task->unended == 2)
        return slr_submit_group(region, submissions, 2, &group, task->ids, &conflict);
    submissions[0].n_ranges = 2 * PARTS;
    return slr_submit(region, submissions, task->ids, &conflict);
}

/* What can be submitted: it is planned again while the two arguments write the same bytes. */
static void submit_planned(slr_region *region, slr_id run, planned *task, uint64_t *random) {
    int status;
    *task = (planned){.unended = 1 + (next_random(random) % 4 == 0)};
    do {
        plan_argument(task->ranges, random, 0);
        plan_argument(task->ranges + PARTS, random, 1);
        status = try_to_submit(region, run, task);
    } while (status == SLR_CONFLICT);
    OK(status);
}

static void expect(planned *task, int number, int *writers) {
    memcpy(task->expected, writers, sizeof task->expected);
    for (int r = 0; r < 2 * PARTS; r++)
        for (uint64_t b = task->ranges[r].begin; b < task->ranges[r].end; b++)
            if (task->ranges[r].access & SLR_WRITE)
                writers[b] = number;
}

/* What the task finds in its bytes is what it would have found alone; then it leaves its mark. A group does so once. */
static void execute(planned *task, int number, int *bytes) {
    if (task->executed++)
        return;
    for (int r = 0; r < 2 * PARTS; r++)
        for (uint64_t b = task->ranges[r].begin; b < task->ranges[r].end; b++)
            CHECK(bytes[b] == task->expected[b]);
    for (int r = 0; r < 2 * PARTS; r++)
        for (uint64_t b = task->ranges[r].begin; b < task->ranges[r].end; b++)
            if (task->ranges[r].access & SLR_WRITE)
                bytes[b] = number;
}

static int number_of(const planned *tasks, int submitted, slr_id id) {
    for (int i = submitted - 1; i >= 0; i--)
        if (tasks[i].ids[0] == id || tasks[i].ids[1] == id)
            return i;
    abort();
}

/* Two workers take and end tasks between submissions, in any order; each task is executed as it is taken, or as it
 * ends. */
static void run_random_program(uint64_t seed) {
    static planned tasks[TASKS];
    slr_region *region = make_region();
    slr_id run = begin_run(region), held[2] = {0};
    uint64_t random = seed * 977;
    int writers[BYTES], bytes[BYTES], submitted = 0, ended = 0, number[2] = {0}, late = seed % 2;
    memset(writers, -1, sizeof writers);
    memset(bytes, -1, sizeof bytes);
    while (ended < TASKS) {
        if (submitted < TASKS && submitted - ended < AT_ONCE && next_random(&random) % 3) {
            submit_planned(region, run, &tasks[submitted], &random);
            expect(&tasks[submitted], submitted, writers);
            submitted++;
        }
        uint32_t w = next_random(&random) % 2;
        if (!held[w]) {
            held[w] = take(region, w);
            number[w] = held[w] ? number_of(tasks, submitted, held[w]) : -1;
            if (held[w] && !late)
                execute(&tasks[number[w]], number[w], bytes);
        } else if (next_random(&random) % 2) {
            if (late)
                execute(&tasks[number[w]], number[w], bytes);
            succeed(region, w, held[w]);
            held[w] = 0;
            ended += --tasks[number[w]].unended == 0;
        }
        if (ended % 500 == 499)
            check_graph(region);
    }
    CHECK(memcmp(bytes, writers, sizeof bytes) == 0);
    end_run(region, run);
    drop_region(region);
}

/* G1, G3 */
static void any_order_of_execution_gives_the_same_result(void) {
    for (uint64_t seed = 1; seed <= 6; seed++)
        run_random_program(seed);
}

/* G1: arrays are pruned while a task's many ranges are recorded; what it has recorded already is
 * not over. */
static void a_task_of_many_ranges_is_known_by_all_of_them(void) {
    enum { N = 200 };
    slr_region *region = make_region();
    slr_id run = begin_run(region);
    slr_range ranges[N];
    for (uint64_t i = 0; i < N; i++)
        ranges[i] = range_of(X, i * 10, i * 10 + 8, SLR_WRITE);
    slr_submission submission = call_of(run, SLR_ANY_SUB);
    submission.ranges = ranges;
    submission.n_ranges = N;
    slr_id writer = submit(region, submission);
    for (uint64_t i = 0; i < N; i++)
        CHECK(state_of(region, submit_range(region, run, range_of(X, i * 10 + 7, i * 10 + 10, SLR_READ))) ==
              SLR_TASK_PENDING);
    CHECK(take(region, SUB0) == writer);
    succeed(region, SUB0, writer);
    OK(slr_run_cancel(region, run));
    end_run(region, run);
    drop_region(region);
}

static size_t bytes_allocated(void) {
#ifdef __SANITIZE_ADDRESS__
    return __sanitizer_get_current_allocated_bytes();
#else
    return 0;
#endif
}

/* G8: a million tasks, on buffers ever new and with readers ever more, in memory that does not grow. */
static void a_million_tasks_need_bounded_memory(void) {
    slr_region *region = make_region();
    slr_id run = begin_run(region);
    size_t early = 0;
    for (uint64_t i = 0; i < 1000000; i++) {
        slr_range ranges[3] = {range_of(X + 1000 + i, 0, 8, SLR_WRITE), range_of(X, 0, 64, SLR_READ),
                               range_of(Y, i % 5000 * 3, i % 5000 * 3 + 7, SLR_READ | SLR_WRITE)};
        for (uint32_t r = 0; r < 3; r++)
            ranges[r].argument = r;
        slr_submission submission = call_of(run, SLR_ANY_SUB);
        submission.ranges = ranges;
        submission.n_ranges = 3;
        submission.args = ranges;
        submission.args_bytes = sizeof ranges;
        submit(region, submission);
        succeed(region, SUB0, take(region, SUB0));
        if (i == 100000)
            early = bytes_allocated();
    }
    CHECK(bytes_allocated() <= early * 2);
    CHECK(stats_of(region).slots_used == 0 && stats_of(region).heap_used == 0 && stats_of(region).heap_peak < 4096);
    CHECK(stats_of(region).tasks == 1000000);
    end_run(region, run);
    drop_region(region);
}

MAIN(CASE(any_order_of_execution_gives_the_same_result), CASE(a_task_of_many_ranges_is_known_by_all_of_them),
     CASE(a_million_tasks_need_bounded_memory))
