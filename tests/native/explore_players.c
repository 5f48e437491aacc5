/*
 * What the explorer plays: a parent that submits small graphs, workers that run them, and one that watches the workers;
 * and what must hold of any order in which they do it. See explore.h.
 */
#include "explore.h"

#define PARENT       0
#define RECORD_BYTES 8
#define TIMEOUT_NS   1000

explored_plan plan;

/* ---- workers ---- */

/* No member begins before all have a worker, each another one. */
static void check_group(uint32_t actor, uint32_t task) {
    uint32_t first = first_of_node(task);
    if (!plan.tasks[first].others)
        return;
    world.seen.by[task] = (uint8_t)actor;
    for (uint32_t i = first; i <= first + plan.tasks[first].others; i++) {
        const slri_slot *slot = &observer->slots[(uint32_t)world.seen.ids[i]];
        bool waits =
            slot->state == SLR_TASK_PENDING || slot->state == SLR_TASK_READY || slot->state == SLR_TASK_GATHERING;
        CHECK(slot->generation != world.seen.ids[i] >> 32 || !waits);
        CHECK(i == task || !world.seen.begun[i] || world.seen.by[i] != world.seen.by[task]);
    }
}

static void begin_task(uint32_t actor, uint32_t task) {
    CHECK(++world.seen.begun[task] == 1);
    world.actors[actor].holds = task + 1;
    check_group(actor, task);
    for (uint32_t other = 0; other < plan.n_tasks; other++) {
        if (other < task && ordered(other, task))
            for (uint32_t i = 0; i < ACTORS; i++)
                CHECK(world.actors[i].holds != other + 1);
        if (other < task && counts_on(task, other))
            CHECK(world.seen.done[other] && plan.tasks[other].ends != FAILS);
        if (other > task && ordered(task, other))
            CHECK(!world.seen.begun[other]);
    }
}

static uint32_t number_of(uint32_t actor, const slr_task *task) {
    uint32_t number;
    memcpy(&number, (char *)slr_region_heap(world_region(actor)) + task->args_offset, sizeof number);
    return number;
}

static uint64_t make_record(uint32_t actor, uint32_t number) {
    uint64_t record = 0;
    if (plan.tasks[number].ends == RETURNS) {
        doing("alloc");
        OK(slr_heap_alloc(world_region(actor), RECORD_BYTES, &record));
    }
    return record;
}

static int end_body(uint32_t actor, uint32_t number) {
    world.seen.done[number] = 1;
    world.actors[actor].holds = 0;
    return plan.tasks[number].ends == FAILS ? SLR_TASK_FAILED : SLR_TASK_SUCCEEDED;
}

/* Until there is nothing to take at the moment: the status that said so. */
static int run_tasks(uint32_t actor) {
    slr_task task = {0};
    slr_region *region = world_region(actor);
    uint32_t worker = actor - FIRST_WORKER;
    doing("take");
    int status = slr_worker_take(region, worker, plan.spin_us, -1, &task);
    while (status == SLR_OK) {
        uint32_t number = number_of(actor, &task);
        begin_task(actor, number);
        uint64_t record = make_record(actor, number);
        doing("complete and take the next");
        int outcome = end_body(actor, number);
        status = slr_worker_next(region, worker, outcome, record, record ? RECORD_BYTES : 0, plan.spin_us, -1, &task);
    }
    return status;
}

static void work(uint32_t actor) {
    slr_region *region = world_region(actor);
    int status;
    if (world.actors[actor].replaces) {
        doing("start");
        OK(slr_worker_attach(region, actor - FIRST_WORKER, 1));
        OK(slr_worker_ready(region, actor - FIRST_WORKER));
    }
    do
        status = run_tasks(actor);
    while (status == SLR_INTERRUPTED);
    if (status == SLR_STALE)
        pause_at(CONDEMNED);
    STATUS(SLR_CLOSED, status);
}

static void complete_remotely(uint32_t actor, const slr_task *task) {
    uint32_t number = number_of(actor, task);
    uint64_t record = make_record(actor, number);
    doing("complete");
    int outcome = end_body(actor, number);
    OK(slr_worker_complete(world_region(actor), task->worker, task->id, outcome, record, record ? RECORD_BYTES : 0));
}

/* The consumer of a REMOTE worker: takes what there is, ends it in the opposite order, then waits for the eventfd. */
static void work_remotely(uint32_t actor) {
    slr_task held[MOST_TASKS];
    slr_region *region = world_region(actor);
    for (;;) {
        uint32_t n = 0;
        int status;
        doing("take");
        while ((status = slr_worker_take(region, actor - FIRST_WORKER, 0, 0, &held[n])) == SLR_OK) {
            begin_task(actor, number_of(actor, &held[n]));
            n++;
        }
        if (status == SLR_CLOSED)
            return;
        STATUS(SLR_TIMEOUT, status);
        while (n-- > 0)
            complete_remotely(actor, &held[n]);
        doing("wait for the eventfd");
        pause_at(AT_EVENT);
        world.event = 0;
    }
}

/* ---- the parent ---- */

typedef struct {
    uint32_t number;
    slr_range ranges[2];
    slr_id after[MOST_TASKS];
} submitted_parts;

static slr_submission submission_of(uint32_t number, submitted_parts *parts) {
    const planned *task = &plan.tasks[number];
    slr_submission submission = call_of(world.seen.run, task->worker ? task->worker - 1 : SLR_ANY_SUB);
    parts->number = number;
    submission.args = &parts->number;
    submission.args_bytes = sizeof parts->number;
    submission.ranges = parts->ranges;
    submission.after = parts->after;
    submission.timeout_ns = task->timed ? TIMEOUT_NS : 0;
    for (int r = 0; r < 2; r++)
        if (task->ranges[r].access)
            parts->ranges[submission.n_ranges++] =
                range_of(1ull << 63 | 1, task->ranges[r].begin, task->ranges[r].end, task->ranges[r].access);
    for (uint32_t i = 0; i < number; i++)
        if (task->after >> i & 1)
            parts->after[submission.n_after++] = world.seen.nodes[i];
    return submission;
}

static int submit_node_at_once(uint32_t first) {
    uint32_t n = plan.tasks[first].others + 1;
    slr_region *region = world_region(PARENT);
    submitted_parts parts[MOST_TASKS];
    slr_submission members[MOST_TASKS];
    uint64_t conflict;
    slr_id node;
    for (uint32_t i = 0; i < n; i++)
        members[i] = submission_of(first + i, &parts[i]);
    slr_id *ids = &world.seen.ids[first];
    int status = n == 1 ? slr_submit(region, members, ids, &conflict)
                        : slr_submit_group(region, members, n, &node, ids, &conflict);
    for (uint32_t i = 0; i < n && status == SLR_OK; i++)
        world.seen.nodes[first + i] = n == 1 ? *ids : node;
    return status;
}

static int submit_node(uint32_t first) {
    slr_region *region = world_region(PARENT);
    for (;;) {
        doing("submit");
        if (plan.slots < MOST_TASKS)
            pause_at(AT_GLANCE);
        uint32_t seen = slr_space_seen(region);
        int status = submit_node_at_once(first);
        if (status != SLR_SLOTS_FULL)
            return status;
        doing("wait for space");
        status = slr_space_wait(region, seen, -1);
        CHECK(status == SLR_OK || status == SLR_INTERRUPTED || (status == SLR_INVALID && world.seen.deaths));
    }
}

static bool ended_badly(uint32_t state) {
    return state == SLR_TASK_FAILED || state == SLR_TASK_POISONED;
}

static void check_task(uint32_t number, const slr_task_info *infos, bool cancelled) {
    const slr_task_info *info = &infos[number];
    bool poisoned = false, rightly = false;
    for (uint32_t i = 0; i < first_of_node(number); i++) {
        poisoned |= counts_on(number, i) && ended_badly(infos[i].state);
        rightly |= info->root == world.seen.ids[i] && infos[i].state == SLR_TASK_FAILED;
    }
    CHECK(!world.seen.late[number] || info->state == SLR_TASK_FAILED);
    uint8_t begun = world.seen.begun[number], done = world.seen.done[number];
    if (info->state == SLR_TASK_POISONED)
        CHECK(!begun && poisoned && rightly);
    else if (info->state == SLR_TASK_FAILED)
        CHECK((plan.tasks[number].ends == FAILS && done) || world.seen.deaths);
    else
        CHECK(begun == done && (begun || cancelled) && (!poisoned || cancelled));
}

static void check_run(void) {
    slr_region *region = world_region(PARENT);
    slr_task_info infos[MOST_TASKS];
    slr_run_info run;
    uint32_t failed = 0, poisoned = 0;
    doing("check");
    OK(slr_run_query(region, world.seen.run, &run));
    CHECK(run.ended && run.live == 0);
    CHECK(!run.lost || world.seen.deaths);
    CHECK(run.cancelled == run.lost || plan.cancels);
    for (uint32_t i = 0; i < ACTORS; i++)
        CHECK(!world.actors[i].holds);
    if (run.lost || plan.streams) /* of a stream all was told, and is forgotten */
        return;
    for (uint32_t i = 0; i < world.seen.submitted; i++) {
        if (slr_task_query(region, world.seen.ids[i], &infos[i]) != SLR_OK)
            infos[i] = (slr_task_info){0};
        check_task(i, infos, run.cancelled);
        failed += infos[i].state == SLR_TASK_FAILED;
        poisoned += infos[i].state == SLR_TASK_POISONED;
    }
    CHECK(run.tasks == world.seen.submitted && run.failed == failed && run.poisoned == poisoned);
}

static void check_told(const slr_ended *ended, bool *told) {
    uint32_t number = 0;
    while (number < world.seen.submitted && world.seen.ids[number] != ended->task)
        number++;
    CHECK(number < world.seen.submitted && !told[number]);
    told[number] = true;
    if (ended->state == SLR_TASK_SUCCEEDED)
        CHECK(world.seen.done[number] && plan.tasks[number].ends != FAILS);
    else if (ended->state == SLR_TASK_FAILED)
        CHECK((world.seen.done[number] && plan.tasks[number].ends == FAILS) || world.seen.deaths);
    else
        CHECK(ended->state == SLR_TASK_CANCELLED && !world.seen.begun[number] && plan.cancels);
}

/* Each task is told once, and forgotten, until all have been or the stream is lost. */
static void reap_all(void) {
    slr_region *region = world_region(PARENT);
    bool told[MOST_TASKS] = {false};
    uint32_t count, left = world.seen.submitted;
    slr_ended ended[2];
    while (left) {
        doing("reap");
        int status = slr_run_reap(region, world.seen.run, ended, 2, &count, plan.spin_us, -1);
        if (status == SLR_INTERRUPTED)
            continue;
        if (status == SLR_FAILED && world.seen.deaths)
            return;
        OK(status);
        CHECK(count && count <= left);
        for (uint32_t i = 0; i < count; i++)
            check_told(&ended[i], told);
        doing("forget");
        status = slr_run_forget(region, world.seen.run, ended[0].task, count);
        OK(status);
        left -= count;
    }
}

static void make_run(bool last) {
    slr_region *region = world_region(PARENT);
    int status;
    memset(world.seen.begun, 0, sizeof world.seen.begun);
    memset(world.seen.done, 0, sizeof world.seen.done);
    memset(world.seen.by, 0, sizeof world.seen.by);
    memset(world.seen.late, 0, sizeof world.seen.late);
    world.seen.submitted = 0;
    doing("begin a run");
    status = slr_run_begin(region, plan.streams ? SLR_RUN_STREAM : 0, &world.seen.run);
    if (status == SLR_CLOSED && plan.closes)
        return;
    OK(status);
    while (world.seen.submitted < plan.n_tasks) {
        status = submit_node(world.seen.submitted);
        if (status == SLR_CLOSED)
            break;
        OK(status);
        world.seen.submitted += plan.tasks[world.seen.submitted].others + 1;
    }
    CHECK(world.seen.submitted == plan.n_tasks || world.seen.deaths || plan.cancels || plan.closes);
    if (last)
        world_forget_private(PARENT);
    if (plan.streams)
        reap_all();
    doing("seal");
    OK(slr_run_seal(region, world.seen.run));
    do {
        doing("wait for the run");
        status = slr_run_wait(region, world.seen.run, plan.spin_us, -1);
    } while (status == SLR_INTERRUPTED);
    if (status == SLR_CLOSED && plan.closes)
        return;
    OK(status);
    check_run();
    doing("release");
    OK(slr_run_release(region, world.seen.run));
}

static void be_parent(uint32_t actor) {
    for (uint32_t i = 0; i < plan.runs; i++)
        make_run(i + 1 == plan.runs);
    doing("shut down");
    OK(slr_region_shutdown(world_region(actor)));
}

static void cancel(uint32_t actor) {
    doing("cancel");
    pause_at(AT_GLANCE);
    int status = slr_run_cancel(world_region(actor), world.seen.run);
    CHECK(status == SLR_OK || status == SLR_STALE);
}

static void close_region(uint32_t actor) {
    doing("shut down early");
    pause_at(AT_GLANCE);
    OK(slr_region_shutdown(world_region(actor)));
}

/* ---- the watcher of the workers ---- */

static void bury(uint32_t watcher, uint32_t dead) {
    uint32_t failed;
    slr_region *region = world_region(watcher);
    world.actors[dead].holds = 0;
    doing("report a death");
    if (plan.gives_up) {
        OK(slr_worker_abandon(region, dead - FIRST_WORKER, "died", 4));
        world.actors[dead].stand = ENDED;
    } else {
        OK(slr_worker_died(region, dead - FIRST_WORKER, "died", 4, &failed));
        CHECK(failed <= 1);
        world_respawn(dead);
    }
}

/* What is late is killed, in its own time, and reported as any other death. */
static void kill_late_workers(uint32_t watcher, int64_t now_ns) {
    slr_overdue late[2];
    uint32_t n;
    int64_t next_ns;
    doing("look for late tasks");
    world.alarm = 0;
    OK(slr_workers_overdue(world_region(watcher), now_ns, late, 2, &n, &next_ns));
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t task = 0; task < plan.n_tasks; task++)
            world.seen.late[task] |= world.seen.ids[task] == late[i].task;
        doing("kill");
        pause_at(AT_GLANCE);
        world_kill(FIRST_WORKER + late[i].worker);
    }
}

static void watch(uint32_t actor) {
    for (;;) {
        doing("watch");
        pause_at(AT_WATCH);
        if (chosen == IS_LATE || world.alarm)
            kill_late_workers(actor, chosen == IS_LATE ? BEGINNING_NS + 2 * TIMEOUT_NS : BEGINNING_NS);
        uint32_t dead = FIRST_WORKER;
        while (dead < ACTORS && world.actors[dead].stand != KILLED)
            dead++;
        if (dead < ACTORS)
            bury(actor, dead);
        else if (world.actors[PARENT].stand == ENDED)
            return;
    }
}

/* ---- worlds ---- */

void build_world(void) {
    world_create(&(slr_config){
        .heap_bytes = 4096, .slots = plan.slots, .edges = 12, .runs = 1, .callables = 1, .workers = plan.workers});
    world.deaths_left = plan.deaths;
    world.interrupts_left = plan.interrupts;
    for (uint32_t i = 0; i < plan.workers; i++) {
        bool remote = plan.kinds[i] == SLR_WORKER_REMOTE;
        slr_region *region = world_region(FIRST_WORKER + i);
        OK(slr_worker_define(region, i, plan.kinds[i]));
        OK(slr_worker_attach(region, i, 1));
        OK(slr_worker_ready(region, i));
        world_spawn(FIRST_WORKER + i, remote ? work_remotely : work, !remote);
    }
    world_spawn(PARENT, be_parent, false);
    uint32_t next = FIRST_WORKER + plan.workers;
    bool timed = false;
    for (uint32_t i = 0; i < plan.n_tasks; i++)
        timed |= plan.tasks[i].timed;
    if (plan.deaths || timed)
        world_spawn(next++, watch, false);
    if (plan.cancels || plan.closes) {
        world_spawn(next, plan.cancels ? cancel : close_region, false);
        world_share_process(next, PARENT);
    }
}

void scenario_check_end(void) {
    slr_stats stats;
    bool buried = true;
    for (uint32_t i = 0; i < ACTORS; i++)
        buried &= world.actors[i].stand != KILLED;
    OK(slr_region_stats(world_region(NOBODY), &stats));
    if (plan.closes)
        return;
    CHECK(stats.slots_used == 0 && stats.live == 0 && stats.runs_live == 0);
    CHECK(stats.heap_used == 0 || !buried || plan.gives_up);
}
