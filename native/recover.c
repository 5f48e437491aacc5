/*
 * Recovery: the last holder of the lock died, at any instruction. What is derived is built anew from the primary words.
 *
 * Rules
 *   1. Every live run is lost: it is cancelled, and its tasks that had not started are dropped. Order and fan-in that
 *      were half changed need not be understood.
 *   2. A RUNNING task stays RUNNING until its worker completes it or is declared dead: the worker may still write to
 *      its blocks. So do the members of a group that has started, which its other members count on.
 *   3. Retained tasks, their records, callables and the blocks that processes hold survive.
 *   4. Whoever dies recovering leaves the lock marked, and the next locker begins again: each step can be repeated.
 */
#include "region.h"

static void reset_queue(slri_queue *queue) {
    queue->head = queue->tail = SLRI_NONE;
    __atomic_store_n(&queue->length, 0, __ATOMIC_RELAXED);
}

static void lose_runs(slr_region *region) {
    region->header->runs_live = 0;
    for (uint32_t i = 0; i < region->header->config.runs; i++) {
        slri_run *run = &region->runs[i];
        if (run->state == SLRI_RUN_FREE)
            continue;
        if (run->state != SLRI_RUN_ENDED) {
            slri_commit(&run->lost, 1);
            slri_commit(&run->cancelled, 1);
            slri_commit(&run->state, SLRI_RUN_SEALED);
            region->header->runs_live++;
        }
        uint32_t ended = run->state == SLRI_RUN_ENDED ? SLRI_WORD_ENDED : 0;
        __atomic_store_n(&run->word, run->generation * SLRI_WORD_STEP | ended, __ATOMIC_RELEASE);
        run->live = run->failed = run->poisoned = 0;
        run->retained = 0;
        run->first_failed = 0;
        run->retained_head = run->retained_tail = SLRI_NONE;
    }
}

static void keep_arguments(slr_region *region, const slri_slot *slot) {
    if (!slot->args)
        return;
    slri_heap_keep(region, slot->args);
    const uint64_t *blocks = slri_heap_at(region, slot->args);
    for (uint32_t i = 0; i < slot->n_blocks; i++)
        slri_heap_keep(region, blocks[i]);
}

static bool is_retained(const slr_region *region, const slri_slot *slot) {
    const slri_run *run = slri_run_find(region, slot->run);
    return run && slri_run_retains(run, slot);
}

static void hold_again(slri_worker *worker, uint32_t index) {
    worker->held++;
    if (worker->state == SLR_WORKER_GATHERED)
        worker->member = index;
}

/* Of a member whose group has started. */
static void complete_start(slr_region *region, uint32_t index) {
    slri_slot *slot = &region->slots[index];
    slot->started_ns = slri_now_ns();
    slri_deadline_begin(region, index);
    slri_slot_move(slot, SLRI_TAKE);
}

static void sort_out_slot(slr_region *region, uint32_t index, uint32_t *retained) {
    slri_header *header = region->header;
    slri_slot *slot = &region->slots[index];
    if (slot->state == SLR_TASK_GATHERING && !region->slots[slot->leader].missing)
        complete_start(region, index);
    if (slot->state == SLR_TASK_RUNNING) {
        slri_commit(&slot->leader, SLRI_NONE);
        hold_again(&region->workers[slot->taker], index);
        slot->edges = SLRI_NONE;
        slot->fan_in = 0;
        slot->record = slot->record_bytes = 0;
        keep_arguments(region, slot);
        if (slri_is_timed(slot))
            region->workers[slot->taker].timed = index;
        slri_run_find(region, slot->run)->live++;
        header->live++;
        header->slots_used++;
    } else if (is_retained(region, slot)) {
        slri_commit(&slot->leader, SLRI_NONE);
        slot->args = 0;
        slot->edges = SLRI_NONE;
        if (slot->record)
            slri_heap_keep(region, slot->record);
        slot->next = *retained;
        *retained = index;
        header->slots_used++;
    } else {
        if (slot->state != SLR_TASK_FREE)
            slri_slot_move(slot, SLRI_RELEASE);
        slot->next = header->slots_free;
        header->slots_free = index;
    }
}

/* Two lists in the order their tasks ended, as one. */
static uint32_t merge(slri_slot *slots, uint32_t left, uint32_t right) {
    uint32_t first = SLRI_NONE, *end = &first;
    while (left != SLRI_NONE && right != SLRI_NONE) {
        uint32_t *lesser = slots[left].ended_order < slots[right].ended_order ? &left : &right;
        *end = *lesser;
        end = &slots[*lesser].next;
        *lesser = *end;
    }
    *end = left != SLRI_NONE ? left : right;
    return first;
}

/* Bottom-up merge sort: sorted[n] holds a list of 2^n slots, or none. */
static uint32_t sort_by_end(slri_slot *slots, uint32_t list) {
    uint32_t sorted[32], all = SLRI_NONE;
    for (int n = 0; n < 32; n++)
        sorted[n] = SLRI_NONE;
    while (list != SLRI_NONE) {
        uint32_t carry = list;
        list = slots[list].next;
        slots[carry].next = SLRI_NONE;
        int n = 0;
        for (; sorted[n] != SLRI_NONE; n++) {
            carry = merge(slots, sorted[n], carry);
            sorted[n] = SLRI_NONE;
        }
        sorted[n] = carry;
    }
    for (int n = 0; n < 32; n++)
        all = merge(slots, sorted[n], all);
    return all;
}

static void retain_again(slr_region *region, uint32_t retained) {
    uint32_t index = sort_by_end(region->slots, retained);
    while (index != SLRI_NONE) {
        uint32_t next = region->slots[index].next;
        slri_run_retain(region, slri_run_find(region, region->slots[index].run), index);
        index = next;
    }
}

static void sort_out_slots(slr_region *region) {
    slri_header *header = region->header;
    uint32_t retained = SLRI_NONE;
    header->slots_free = SLRI_NONE;
    header->slots_used = 0;
    header->live = 0;
    for (uint32_t i = 0; i < header->config.workers; i++) {
        region->workers[i].held = 0;
        region->workers[i].timed = region->workers[i].member = SLRI_NONE;
    }
    for (uint32_t i = header->slots_fresh; i-- > 0;)
        sort_out_slot(region, i, &retained);
    retain_again(region, retained);
    header->edges_free = SLRI_NONE;
    header->edges_fresh = header->edges_used = 0;
    SLRI_FAULT("recover:slots");
}

static void rebuild_mailboxes(slr_region *region) {
    slri_header *header = region->header;
    reset_queue(&header->shared);
    header->spinning = 0;
    header->parked = SLRI_NONE;
    for (uint32_t i = 0; i < header->config.workers; i++) {
        slri_worker *worker = &region->workers[i];
        reset_queue(&worker->queue);
        slri_mailbox_count(region, i);
        if (worker->abandoned && worker->record)
            slri_heap_keep(region, worker->record);
    }
}

static void end_lost_runs(slr_region *region) {
    int64_t now_ns = slri_now_ns();
    for (uint32_t i = 0; i < region->header->config.runs; i++)
        if (region->runs[i].state == SLRI_RUN_SEALED)
            slri_run_settle(region, &region->runs[i], now_ns);
}

void slri_recover(slr_region *region) {
    region->header->recoveries++;
    slri_heap_forget(region);
    lose_runs(region);
    sort_out_slots(region);
    rebuild_mailboxes(region);
    slri_callables_rebuild(region);
    slri_heap_rebuild(region);
    SLRI_FAULT("recover:heap");
    end_lost_runs(region);
    slri_wake_everyone(region);
}
