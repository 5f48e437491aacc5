/*
 * Workers: their records, and the loop each of them runs: take a task, complete it.
 *
 * The hot path is one short hold of the lock for each of the two, and no system call unless somebody is really asleep.
 */
#include <string.h>

#include "region.h"

static bool in_service(const slri_worker *worker) {
    return worker->state == SLR_WORKER_SPINNING || worker->state == SLR_WORKER_PARKED ||
           worker->state == SLR_WORKER_RUNNING || worker->state == SLR_WORKER_GATHERED;
}

static bool is_remote(const slri_worker *worker) {
    return slri_is_kind(worker, SLR_WORKER_REMOTE);
}

int slr_worker_define(slr_region *region, uint32_t worker, slr_worker_kind kind) {
    if (!region || worker >= region->header->config.workers || (uint32_t)kind > SLR_WORKER_DIST)
        return SLR_INVALID;
    slri_lock(region);
    bool absent = region->workers[worker].state == SLR_WORKER_ABSENT;
    if (absent)
        slri_commit(&region->workers[worker].kind, (uint32_t)kind + 1);
    slri_unlock(region);
    return absent ? SLR_OK : SLR_INVALID;
}

int slr_worker_attach(slr_region *region, uint32_t index, int32_t pid) {
    if (!region || !slri_worker_exists(region, index))
        return SLR_INVALID;
    slri_lock(region);
    slri_worker *worker = &region->workers[index];
    bool vacant = !worker->abandoned && (worker->state == SLR_WORKER_ABSENT || worker->state == SLR_WORKER_DEAD);
    if (vacant) {
        worker->pid = pid;
        slri_commit(&worker->condemned, 0);
        slri_worker_move(region, index, SLR_WORKER_STARTING);
        if (!is_remote(worker))
            region->owner = index + 1;
    }
    slri_unlock(region);
    return vacant ? SLR_OK : SLR_INVALID;
}

int slr_worker_ready(slr_region *region, uint32_t index) {
    if (!region || !slri_worker_exists(region, index))
        return SLR_INVALID;
    slri_lock(region);
    bool starting = region->workers[index].state == SLR_WORKER_STARTING;
    if (starting)
        slri_worker_move(region, index, SLR_WORKER_SPINNING);
    if (starting && is_remote(&region->workers[index]) && region->workers[index].queue.length)
        slri_notify_later(region);
    slri_unlock(region);
    return starting ? SLR_OK : SLR_INVALID;
}

int slr_worker_query(slr_region *region, uint32_t index, slr_worker_info *out) {
    if (!region || !out || !slri_worker_exists(region, index))
        return SLR_INVALID;
    slri_lock_to_read(region);
    const slri_worker *worker = &region->workers[index];
    *out = (slr_worker_info){
        .kind = worker->kind - 1,
        .state = worker->state,
        .pid = worker->pid,
        .queued = worker->queue.length,
        .tasks = worker->tasks,
        .failures = worker->failures,
        .deaths = worker->deaths,
        .abandoned = worker->abandoned,
    };
    slri_unlock(region);
    return SLR_OK;
}

void slri_task_start(slr_region *region, uint32_t index, uint32_t worker, int64_t now_ns) {
    slri_slot *slot = &region->slots[index];
    slot->taker = worker;
    slot->started_ns = now_ns;
    region->workers[worker].held++;
    slri_deadline_begin(region, index);
    slri_slot_move(slot, SLRI_TAKE);
    SLRI_FAULT("take:running");
}

static void hand_over(const slr_region *region, uint32_t index, uint32_t taken, slr_task *out) {
    const slri_slot *slot = &region->slots[taken];
    uint64_t head = slri_arguments_head(slot->n_blocks);
    out->id = slri_id(slot->generation, taken);
    out->run = slot->run;
    out->op = slot->op;
    out->worker = index;
    out->args_offset = slot->args_bytes ? slot->args + head : 0;
    out->args_bytes = slot->args_bytes;
    out->timeout_ns = slot->timeout_ns;
    memcpy(out->digest, slot->digest, sizeof out->digest);
}

/* How the worker leaves a look that found nothing. A REMOTE one is told by the eventfd from then on. */
static slr_worker_state idle_state(const slr_region *region, const slri_worker *worker, bool over, bool spins) {
    if (!over)
        return spins && slri_may_spin(region, worker) ? SLR_WORKER_SPINNING : SLR_WORKER_PARKED;
    return is_remote(worker) ? SLR_WORKER_PARKED : SLR_WORKER_RUNNING;
}

/* The member of a group that the worker waits with: SLR_TIMEOUT until all have been started. */
static int look_at_group(slr_region *region, uint32_t index, uint32_t *taken) {
    slri_worker *worker = &region->workers[index];
    if (region->slots[worker->member].state == SLR_TASK_GATHERING)
        return SLR_TIMEOUT;
    *taken = worker->member;
    worker->member = SLRI_NONE;
    return SLR_OK;
}

static int look_at_queues(slr_region *region, uint32_t index, int64_t now_ns, slr_worker_state idle, uint32_t *taken) {
    *taken = slri_mailbox_pop(region, index);
    SLRI_FAULT("take:popped");
    if (*taken == SLRI_NONE) {
        slri_worker_move(region, index, idle);
        return SLR_TIMEOUT;
    }
    if (region->slots[*taken].leader != SLRI_NONE)
        return slri_group_join(region, index, *taken, now_ns) ? SLR_OK : SLR_TIMEOUT;
    slri_task_start(region, *taken, index, now_ns);
    return SLR_OK;
}

static int look(slr_region *region, uint32_t index, int64_t now_ns, slr_worker_state idle, slr_task *out) {
    const slri_worker *worker = &region->workers[index];
    bool gathered = worker->member != SLRI_NONE;
    if (worker->condemned || worker->state == SLR_WORKER_DEAD)
        return SLR_STALE;
    if (!in_service(worker) || (worker->held && !is_remote(worker) && !gathered))
        return SLR_INVALID;
    if (region->header->closed) {
        if (!gathered)
            slri_worker_move(region, index, SLR_WORKER_RUNNING);
        return SLR_CLOSED;
    }
    uint32_t taken;
    int status = gathered ? look_at_group(region, index, &taken) : look_at_queues(region, index, now_ns, idle, &taken);
    if (status != SLR_OK)
        return status;
    slri_worker_move(region, index, is_remote(worker) ? SLR_WORKER_SPINNING : SLR_WORKER_RUNNING);
    hand_over(region, index, taken, out);
    slri_mailbox_kick(region);
    return SLR_OK;
}

static bool is_outcome(int outcome) {
    return outcome == SLR_TASK_SUCCEEDED || outcome == SLR_TASK_FAILED;
}

/* Under the lock: ends a task that the worker has. */
static int complete(slr_region *region, uint32_t index, slr_id task, int outcome, uint64_t record,
                    uint64_t record_bytes, int64_t now_ns) {
    slri_worker *worker = &region->workers[index];
    const slri_slot *slot = slri_slot_find(region, task);
    if (!slot || slot->state != SLR_TASK_RUNNING || slot->taker != index || worker->condemned)
        return SLR_STALE;
    if (record) {
        const slri_block *block = slri_heap_live(region, record);
        if (!block || !block->held || record_bytes > block->bytes)
            return SLR_INVALID;
        slri_heap_adopt(region, record);
    }
    SLRI_FAULT("complete:record");
    worker->tasks++;
    worker->failures += outcome == SLR_TASK_FAILED;
    if (worker->timed == (uint32_t)task)
        worker->timed = SLRI_NONE;
    if (!is_remote(worker) && in_service(worker)) /* before anything is pushed: it will take that itself */
        slri_worker_move(region, index, SLR_WORKER_SPINNING);
    slri_task_end(region, (uint32_t)task, outcome == SLR_TASK_FAILED ? SLRI_FAIL : SLRI_SUCCEED, record, record_bytes,
                  now_ns);
    slri_mailbox_offer(region, index); /* a REMOTE one: a member of a group waits until it holds nothing */
    return SLR_OK;
}

int slr_worker_complete(slr_region *region, uint32_t index, slr_id task, int outcome, uint64_t record,
                        uint64_t record_bytes) {
    if (!region || !slri_worker_exists(region, index) || !is_outcome(outcome))
        return SLR_INVALID;
    int64_t now_ns = slri_now_ns();
    slri_lock(region);
    int status = complete(region, index, task, outcome, record, record_bytes, now_ns);
    slri_unlock(region);
    return status;
}

typedef struct {
    slr_id task; /* 0: none */
    int outcome;
    uint64_t record;
    uint64_t record_bytes;
} completion;

/* Ends the task that `done` names, and takes the next, in the first hold of the lock. */
static int take(slr_region *region, uint32_t index, completion done, uint32_t spin_us, int64_t timeout_ns,
                slr_task *out) {
    slri_worker *worker = &region->workers[index];
    const uint32_t *shared = slri_is_kind(worker, SLR_WORKER_SUB) ? &region->header->shared.length : NULL;
    int64_t now_ns = slri_now_ns(), deadline_ns = slri_deadline_ns(now_ns, timeout_ns);
    int64_t spin_until_ns = slri_deadline_ns(now_ns, spin_us * 1000ll);
    for (int slept = SLR_OK;; now_ns = slri_now_ns()) {
        bool over = slept == SLR_INTERRUPTED || now_ns >= deadline_ns, spins = now_ns < spin_until_ns;
        int status = SLR_OK;
        slri_lock(region);
        if (done.task)
            status = complete(region, index, done.task, done.outcome, done.record, done.record_bytes, now_ns);
        done.task = 0;
        uint32_t doorbell = worker->doorbell;
        slr_worker_state idle = idle_state(region, worker, over, spins);
        if (status == SLR_OK)
            status = look(region, index, now_ns, idle, out);
        const uint32_t *watched = worker->member == SLRI_NONE ? shared : NULL;
        slri_unlock(region);
        if (status != SLR_TIMEOUT)
            return status;
        if (over)
            return slept == SLR_INTERRUPTED ? slept : SLR_TIMEOUT;
        int64_t until_ns = spin_until_ns < deadline_ns ? spin_until_ns : deadline_ns;
        if (idle == SLR_WORKER_PARKED)
            slept = slri_sleep(&worker->doorbell, doorbell, deadline_ns);
        else if (slri_spin(&worker->doorbell, doorbell, watched, until_ns))
            spin_until_ns = slri_deadline_ns(slri_now_ns(), spin_us * 1000ll); /* work came, perhaps not for us */
    }
}

int slr_worker_take(slr_region *region, uint32_t index, uint32_t spin_us, int64_t timeout_ns, slr_task *out) {
    if (!region || !out || !slri_worker_exists(region, index) ||
        (is_remote(&region->workers[index]) && timeout_ns != 0))
        return SLR_INVALID;
    return take(region, index, (completion){0}, spin_us, timeout_ns, out);
}

int slr_worker_next(slr_region *region, uint32_t index, int outcome, uint64_t record, uint64_t record_bytes,
                    uint32_t spin_us, int64_t timeout_ns, slr_task *task) {
    if (!region || !task || !task->id || !slri_worker_exists(region, index) || !is_outcome(outcome) ||
        is_remote(&region->workers[index]))
        return SLR_INVALID;
    completion done = {.task = task->id, .outcome = outcome, .record = record, .record_bytes = record_bytes};
    return take(region, index, done, spin_us, timeout_ns, task);
}
