/*
 * Mailboxes: a queue for each directed worker and one shared by the SUB workers, and who is woken for what is pushed.
 *
 * Rules
 *   1. While a task waits in the shared queue, either as many workers spin as tasks wait, or none is parked
 *      (slri_mailbox_kick makes it so). Spinners find work by themselves and are never woken.
 *   2. A worker that is being woken counts as SPINNING from the moment it is chosen, so nobody is chosen for the same
 *      task.
 *   3. slri_worker_move is the only function that changes a worker's state; it keeps the count of spinners and the
 *      stack of parked ones, whose top (the one asleep for the shortest time) is woken first.
 *   4. A REMOTE worker's consumer is a task of the parent's event loop: PARKED means that it has seen nothing to take
 *      and relies on the eventfd. It never spins and never takes from the shared queue. A member of a group is popped
 *      for it only when it holds no task; whatever ends that wait, or takes the member away, offers it what is next
 *      (slri_mailbox_offer).
 */
#include "region.h"

static void queue_append(slr_region *region, slri_queue *queue, uint32_t slot) {
    region->slots[slot].next = SLRI_NONE;
    if (queue->tail == SLRI_NONE)
        queue->head = slot;
    else
        region->slots[queue->tail].next = slot;
    queue->tail = slot;
    __atomic_store_n(&queue->length, queue->length + 1, __ATOMIC_RELAXED);
}

static uint32_t queue_take(slr_region *region, slri_queue *queue) {
    uint32_t slot = queue->head;
    if (slot == SLRI_NONE)
        return SLRI_NONE;
    queue->head = region->slots[slot].next;
    if (queue->head == SLRI_NONE)
        queue->tail = SLRI_NONE;
    __atomic_store_n(&queue->length, queue->length - 1, __ATOMIC_RELAXED);
    return slot;
}

static slri_queue *queue_of(slr_region *region, uint32_t slot) {
    uint32_t target = region->slots[slot].target;
    return target == SLR_ANY_SUB ? &region->header->shared : &region->workers[target].queue;
}

void slri_mailbox_return(slr_region *region, uint32_t slot) {
    slri_queue *queue = queue_of(region, slot);
    region->slots[slot].next = queue->head;
    queue->head = slot;
    if (queue->tail == SLRI_NONE)
        queue->tail = slot;
    __atomic_store_n(&queue->length, queue->length + 1, __ATOMIC_RELAXED);
}

void slri_mailbox_remove(slr_region *region, uint32_t slot) {
    slri_queue *queue = queue_of(region, slot);
    uint32_t before = SLRI_NONE, *link = &queue->head;
    for (; *link != slot; link = &region->slots[before].next)
        before = *link;
    *link = region->slots[slot].next;
    if (queue->tail == slot)
        queue->tail = before;
    __atomic_store_n(&queue->length, queue->length - 1, __ATOMIC_RELAXED);
    if (region->slots[slot].target != SLR_ANY_SUB)
        slri_mailbox_offer(region, region->slots[slot].target);
}

bool slri_worker_exists(const slr_region *region, uint32_t worker) {
    return worker < region->header->config.workers && region->workers[worker].kind;
}

static void park(slr_region *region, uint32_t index) {
    slri_header *header = region->header;
    slri_worker *worker = &region->workers[index];
    worker->parked_previous = SLRI_NONE;
    worker->parked_next = header->parked;
    if (header->parked != SLRI_NONE)
        region->workers[header->parked].parked_previous = index;
    header->parked = index;
}

static void unpark(slr_region *region, uint32_t index) {
    slri_worker *worker = &region->workers[index];
    if (worker->parked_next != SLRI_NONE)
        region->workers[worker->parked_next].parked_previous = worker->parked_previous;
    if (worker->parked_previous != SLRI_NONE)
        region->workers[worker->parked_previous].parked_next = worker->parked_next;
    else
        region->header->parked = worker->parked_next;
}

void slri_worker_move(slr_region *region, uint32_t index, slr_worker_state state) {
    slri_worker *worker = &region->workers[index];
    if (worker->state == (uint32_t)state)
        return;
    if (slri_is_kind(worker, SLR_WORKER_SUB)) {
        if (worker->state == SLR_WORKER_PARKED)
            unpark(region, index);
        region->header->spinning += (state == SLR_WORKER_SPINNING) - (worker->state == SLR_WORKER_SPINNING);
    }
    slri_commit(&worker->state, state);
    if (state == SLR_WORKER_PARKED && slri_is_kind(worker, SLR_WORKER_SUB))
        park(region, index);
    SLRI_FAULT("park:parked");
}

/* Counts the worker again by its state, which recovery believes. */
void slri_mailbox_count(slr_region *region, uint32_t index) {
    const slri_worker *worker = &region->workers[index];
    if (!slri_is_kind(worker, SLR_WORKER_SUB))
        return;
    region->header->spinning += worker->state == SLR_WORKER_SPINNING;
    if (worker->state == SLR_WORKER_PARKED)
        park(region, index);
}

/* SUB workers that spin take turns on the cores that the submitter, spinning too, leaves them: more would only hold up
 * the one that has work. */
bool slri_may_spin(const slr_region *region, const slri_worker *worker) {
    uint32_t others = region->header->spinning - (worker->state == SLR_WORKER_SPINNING);
    return !slri_is_kind(worker, SLR_WORKER_SUB) || others < region->header->spinners;
}

static void ring(slri_worker *worker) {
    __atomic_store_n(&worker->doorbell, worker->doorbell + 1, __ATOMIC_RELEASE);
}

void slri_worker_call(slr_region *region, uint32_t index) {
    slri_worker *worker = &region->workers[index];
    ring(worker);
    if (slri_is_kind(worker, SLR_WORKER_REMOTE))
        slri_notify_later(region);
    else
        slri_wake_later(region, &worker->doorbell);
}

void slri_worker_wake(slr_region *region, uint32_t index) {
    slri_worker_move(region, index, SLR_WORKER_SPINNING);
    slri_worker_call(region, index);
}

void slri_mailbox_kick(slr_region *region) {
    slri_header *header = region->header;
    while (header->shared.length > header->spinning && header->parked != SLRI_NONE)
        slri_worker_wake(region, header->parked);
}

static bool must_be_free_first(const slr_region *region, const slri_worker *worker) {
    uint32_t first = worker->queue.head;
    return worker->held && first != SLRI_NONE && region->slots[first].leader != SLRI_NONE;
}

void slri_mailbox_offer(slr_region *region, uint32_t index) {
    const slri_worker *worker = &region->workers[index];
    if (worker->state == SLR_WORKER_PARKED && worker->queue.length && !must_be_free_first(region, worker))
        slri_worker_wake(region, index);
}

void slri_mailbox_push(slr_region *region, uint32_t slot) {
    uint32_t target = region->slots[slot].target;
    if (target == SLR_ANY_SUB) {
        queue_append(region, &region->header->shared, slot);
        slri_mailbox_kick(region);
        return;
    }
    slri_worker *worker = &region->workers[target];
    queue_append(region, &worker->queue, slot);
    if (worker->state == SLR_WORKER_SPINNING)
        ring(worker);
    else
        slri_mailbox_offer(region, target);
}

uint32_t slri_mailbox_pop(slr_region *region, uint32_t index) {
    slri_worker *worker = &region->workers[index];
    if (must_be_free_first(region, worker))
        return SLRI_NONE;
    uint32_t slot = queue_take(region, &worker->queue);
    if (slot == SLRI_NONE && slri_is_kind(worker, SLR_WORKER_SUB))
        slot = queue_take(region, &region->header->shared);
    return slot;
}

uint32_t slri_mailbox_drain(slr_region *region, slri_queue *queue, slr_id run) {
    uint32_t drained = SLRI_NONE, last = SLRI_NONE;
    for (uint32_t left = queue->length; left > 0; left--) {
        uint32_t slot = queue_take(region, queue);
        if (run && region->slots[slot].run != run) {
            queue_append(region, queue, slot);
            continue;
        }
        region->slots[slot].next = SLRI_NONE;
        if (last == SLRI_NONE)
            drained = slot;
        else
            region->slots[last].next = slot;
        last = slot;
    }
    return drained;
}
