/*
 * The task graph: slots, the edges between them, and the end of a task.
 *
 * The life of a slot is slri_transitions; slri_slot_move is the only function that changes slot.state.
 *
 * Rules
 *   1. fan_in counts the edges that lead to a slot. A slot whose last edge is settled goes into a mailbox, or ends at
 *      once: cancelled with its run, poisoned by a producer that failed, or failed because its worker was given up.
 *      It ends no sooner, whatever is known: what comes after it relies on everything before it being over.
 *   2. What ends is put on a worklist, so a chain of a million poisoned tasks needs no stack.
 *   3. A task that succeeded without a record, or was cancelled, frees its slot at once, so its id is stale; the
 *      others are retained by their run until it is released. A stream retains all of them until they are forgotten.
 *   4. A group ends with its last member, in the same hold of the lock: as POISONED by the first of them that failed,
 *      or as they did.
 */
#include "region.h"

#define TO(state) ((state) + 1)

const uint8_t slri_transitions[SLRI_STATES][SLRI_EVENTS] = {
    [SLR_TASK_FREE] = {[SLRI_BUILD] = TO(SLR_TASK_BUILDING)},
    [SLR_TASK_BUILDING] = {[SLRI_WAIT] = TO(SLR_TASK_PENDING), [SLRI_RELEASE] = TO(SLR_TASK_FREE)},
    [SLR_TASK_PENDING] = {[SLRI_QUEUE] = TO(SLR_TASK_READY),
                          [SLRI_POISON] = TO(SLR_TASK_POISONED),
                          [SLRI_CANCEL] = TO(SLR_TASK_CANCELLED),
                          [SLRI_FAIL] = TO(SLR_TASK_FAILED),
                          [SLRI_RELEASE] = TO(SLR_TASK_FREE)},
    [SLR_TASK_READY] = {[SLRI_TAKE] = TO(SLR_TASK_RUNNING),
                        [SLRI_JOIN] = TO(SLR_TASK_GATHERING),
                        [SLRI_SUCCEED] = TO(SLR_TASK_SUCCEEDED),
                        [SLRI_POISON] = TO(SLR_TASK_POISONED),
                        [SLRI_CANCEL] = TO(SLR_TASK_CANCELLED),
                        [SLRI_FAIL] = TO(SLR_TASK_FAILED),
                        [SLRI_RELEASE] = TO(SLR_TASK_FREE)},
    [SLR_TASK_GATHERING] = {[SLRI_TAKE] = TO(SLR_TASK_RUNNING),
                            [SLRI_LEAVE] = TO(SLR_TASK_READY),
                            [SLRI_CANCEL] = TO(SLR_TASK_CANCELLED),
                            [SLRI_FAIL] = TO(SLR_TASK_FAILED),
                            [SLRI_RELEASE] = TO(SLR_TASK_FREE)},
    [SLR_TASK_RUNNING] = {[SLRI_SUCCEED] = TO(SLR_TASK_SUCCEEDED), [SLRI_FAIL] = TO(SLR_TASK_FAILED)},
    [SLR_TASK_SUCCEEDED] = {[SLRI_RELEASE] = TO(SLR_TASK_FREE)},
    [SLR_TASK_FAILED] = {[SLRI_RELEASE] = TO(SLR_TASK_FREE)},
    [SLR_TASK_POISONED] = {[SLRI_RELEASE] = TO(SLR_TASK_FREE)},
    [SLR_TASK_CANCELLED] = {[SLRI_RELEASE] = TO(SLR_TASK_FREE)},
};

void slri_slot_move(slri_slot *slot, slri_event event) {
    uint8_t next = slri_transitions[slot->state][event];
    assert(next);
    slri_commit(&slot->state, next - 1u);
}

slri_slot *slri_slot_find(const slr_region *region, slr_id task) {
    uint32_t index = (uint32_t)task;
    if (index >= region->header->slots_fresh)
        return NULL;
    slri_slot *slot = &region->slots[index];
    return slot->generation == task >> 32 && slot->state != SLR_TASK_FREE ? slot : NULL;
}

/* After 2^32 uses of a slot an id comes again; 0 is left out, so that no id is 0. */
static uint32_t next_generation(uint32_t generation) {
    return generation + 1 ? generation + 1 : 1;
}

uint32_t slri_slots_left(const slr_region *region) {
    return region->header->config.slots - region->header->slots_used;
}

uint32_t slri_slot_build(slr_region *region) {
    slri_header *header = region->header;
    uint32_t index = header->slots_free;
    if (index != SLRI_NONE) {
        header->slots_free = region->slots[index].next;
    } else {
        index = header->slots_fresh;
        assert(index < header->config.slots);
        slri_commit(&header->slots_fresh, index + 1);
    }
    slri_slot *slot = &region->slots[index];
    slot->generation = next_generation(slot->generation);
    slot->fan_in = 0;
    slot->edges = slot->next = SLRI_NONE;
    slot->root = 0;
    slot->record = slot->record_bytes = 0;
    slot->args = slot->args_bytes = 0;
    slot->n_blocks = 0;
    slot->taker = SLR_ANY_SUB;
    slot->started_ns = 0;
    slot->leader = slot->member = SLRI_NONE;
    slot->members = slot->missing = slot->unended = 0;
    slri_slot_move(slot, SLRI_BUILD);
    SLRI_FAULT("submit:slot");
    header->slots_used++;
    return index;
}

void slri_slot_release(slr_region *region, uint32_t index) {
    slri_header *header = region->header;
    slri_slot *slot = &region->slots[index];
    slri_slot_move(slot, SLRI_RELEASE);
    slot->next = header->slots_free;
    header->slots_free = index;
    header->slots_used--;
    slri_progress(region, &header->space);
}

uint32_t slri_edges_left(const slr_region *region) {
    return region->header->config.edges - region->header->edges_used;
}

void slri_edge_add(slr_region *region, uint32_t producer, uint32_t consumer, slri_dependence kind) {
    slri_header *header = region->header;
    uint32_t index = header->edges_free;
    if (index != SLRI_NONE)
        header->edges_free = region->edges[index].next;
    else
        index = header->edges_fresh++;
    assert(index < header->config.edges);
    region->edges[index] = (slri_edge){.next = region->slots[producer].edges, .consumer = consumer, .kind = kind};
    region->slots[producer].edges = index;
    region->slots[consumer].fan_in++;
    header->edges_used++;
}

static void edge_release(slr_region *region, uint32_t index) {
    region->edges[index].next = region->header->edges_free;
    region->header->edges_free = index;
    region->header->edges_used--;
}

static void worklist_add(slr_region *region, uint32_t *worklist, uint32_t index, slri_event verdict) {
    region->slots[index].verdict = verdict;
    region->slots[index].next = *worklist;
    *worklist = index;
}

static void queue(slr_region *region, uint32_t index, int64_t now_ns) {
    slri_slot *slot = &region->slots[index];
    slot->ready_ns = now_ns;
    slri_slot_move(slot, SLRI_QUEUE);
    if (!slri_is_group(slot)) {
        slri_mailbox_push(region, index);
        SLRI_FAULT("submit:queued");
    }
}

static void fail_unstarted(slr_region *region, uint32_t index, const slri_worker *abandoned, uint32_t *worklist) {
    slri_slot *slot = &region->slots[index];
    if (abandoned->record)
        slri_heap_keep(region, abandoned->record);
    slot->record_bytes = abandoned->record_bytes;
    slot->record = abandoned->record;
    worklist_add(region, worklist, index, SLRI_FAIL);
}

/* Rule 1: a PENDING slot whose fan-in is done. Of a group, its members: it ends with them. */
static void arrive(slr_region *region, uint32_t index, int64_t now_ns, uint32_t *worklist) {
    slri_slot *slot = &region->slots[index];
    bool group = slri_is_group(slot), cancelled = slri_run_find(region, slot->run)->cancelled;
    const slri_worker *abandoned =
        group ? slri_group_abandoned(region, slot) : slri_target_abandoned(region, slot->target);
    if (group && !cancelled && !slot->root && !abandoned)
        queue(region, index, now_ns);
    for (uint32_t i = group ? slot->member : index; i != SLRI_NONE; i = region->slots[i].member) {
        region->slots[i].root = slot->root;
        if (cancelled)
            worklist_add(region, worklist, i, SLRI_CANCEL);
        else if (slot->root)
            worklist_add(region, worklist, i, SLRI_POISON);
        else if (abandoned)
            fail_unstarted(region, i, abandoned, worklist);
        else
            queue(region, i, now_ns);
    }
}

/* What a task that has ended poisons its consumers with; 0: nothing. */
static slr_id poison_of(const slr_region *region, uint32_t index) {
    const slri_slot *slot = &region->slots[index];
    return slot->state == SLR_TASK_FAILED     ? slri_id(slot->generation, index)
           : slot->state == SLR_TASK_POISONED ? slot->root
                                              : 0;
}

static void settle_consumers(slr_region *region, uint32_t index, int64_t now_ns, uint32_t *worklist) {
    slri_slot *slot = &region->slots[index];
    slr_id root = poison_of(region, index);
    while (slot->edges != SLRI_NONE) {
        uint32_t edge = slot->edges, consumer = region->edges[edge].consumer;
        slri_slot *waiting = &region->slots[consumer];
        if (root && region->edges[edge].kind == SLRI_DATA && !waiting->root)
            waiting->root = root;
        slot->edges = region->edges[edge].next;
        edge_release(region, edge);
        SLRI_FAULT("end:edges");
        if (--waiting->fan_in == 0)
            arrive(region, consumer, now_ns, worklist);
    }
}

static void release_arguments(slr_region *region, slri_slot *slot) {
    if (!slot->args)
        return;
    const uint64_t *blocks = slri_heap_at(region, slot->args);
    for (uint32_t i = 0; i < slot->n_blocks; i++)
        slri_heap_unkeep(region, blocks[i]);
    slri_heap_unkeep(region, slot->args);
    slot->args = 0;
}

static void retain_or_release(slr_region *region, uint32_t index) {
    const slri_slot *slot = &region->slots[index];
    slri_run *run = slri_run_find(region, slot->run);
    if (slri_run_retains(run, slot))
        slri_run_retain(region, run, index);
    else
        slri_slot_release(region, index);
    SLRI_FAULT("end:retained");
}

/* Rule 4. */
static void leave_group(slr_region *region, uint32_t index, int64_t now_ns, uint32_t *worklist) {
    slri_slot *member = &region->slots[index], *group = &region->slots[member->leader];
    uint32_t leader = member->leader;
    slri_commit(&member->leader, SLRI_NONE);
    if (!group->root)
        group->root = poison_of(region, index);
    if (--group->unended)
        return;
    group->ended_order = member->ended_order;
    slri_slot_move(group, member->state == SLR_TASK_CANCELLED ? SLRI_CANCEL : group->root ? SLRI_POISON : SLRI_SUCCEED);
    SLRI_FAULT("group:ended");
    settle_consumers(region, leader, now_ns, worklist);
    retain_or_release(region, leader);
}

static void finish(slr_region *region, uint32_t index, int64_t now_ns, uint32_t *worklist) {
    slri_header *header = region->header;
    slri_slot *slot = &region->slots[index];
    slri_run *run = slri_run_find(region, slot->run);
    if (slot->state == SLR_TASK_RUNNING)
        region->workers[slot->taker].held--;
    slot->ended_order = header->tasks; /* before it has ended: recovery goes by it */
    slri_slot_move(slot, slot->verdict);
    SLRI_FAULT("complete:moved");
    header->tasks++;
    header->failures += slot->state == SLR_TASK_FAILED;
    header->poisoned += slot->state == SLR_TASK_POISONED;
    header->cancelled += slot->state == SLR_TASK_CANCELLED;
    slri_trace_add(region, index, now_ns);
    release_arguments(region, slot);
    if (slot->leader != SLRI_NONE)
        leave_group(region, index, now_ns, worklist);
    settle_consumers(region, index, now_ns, worklist);
    retain_or_release(region, index);
    header->live--;
    run->live--;
    slri_run_settle(region, run, now_ns);
}

static void finish_all(slr_region *region, uint32_t worklist, int64_t now_ns) {
    while (worklist != SLRI_NONE) {
        uint32_t index = worklist;
        worklist = region->slots[index].next;
        finish(region, index, now_ns, &worklist);
    }
}

void slri_task_arrive(slr_region *region, uint32_t index, int64_t now_ns) {
    uint32_t worklist = SLRI_NONE;
    arrive(region, index, now_ns, &worklist);
    finish_all(region, worklist, now_ns);
}

void slri_task_end(slr_region *region, uint32_t index, slri_event event, uint64_t record, uint64_t record_bytes,
                   int64_t now_ns) {
    uint32_t worklist = SLRI_NONE;
    region->slots[index].record_bytes = record_bytes;
    slri_commit_wide(&region->slots[index].record, record);
    worklist_add(region, &worklist, index, event);
    finish_all(region, worklist, now_ns);
}

int slr_task_query(slr_region *region, slr_id task, slr_task_info *out) {
    if (!region || !out)
        return SLR_INVALID;
    slri_lock_to_read(region);
    const slri_slot *slot = slri_slot_find(region, task);
    if (slot) {
        *out = (slr_task_info){
            .state = slot->state,
            .worker = slot->taker,
            .record_offset = slot->record,
            .record_bytes = slot->record_bytes,
            .root = slot->root,
        };
        __builtin_memcpy(out->digest, slot->digest, sizeof out->digest);
    }
    slri_unlock(region);
    return slot ? SLR_OK : SLR_STALE;
}
