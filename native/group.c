/*
 * Groups: tasks of one node that run on distinct workers at once.
 *
 * A group is a slot without arguments or worker, which has the edges and the dependencies of all its members. When it
 * arrives its members are pushed together. A worker that pops one joins: it waits, and takes nothing else, until the
 * last that was missing joins too and starts them all.
 *
 * Rules
 *   1. Members of a group lie in queues that no other group's members overtake, because all are pushed under one
 *      hold of the lock, and one that has to go back goes to the front. So two groups that need the same workers
 *      gather one after the other. For this the members are all for the shared queue, or all for workers that do not
 *      use it.
 *   2. What lies before a member is taken first, and what lies behind it waits only until the group has started: nobody
 *      starves.
 *   3. group.missing falls to 0 by one store, and that is the start: a group whose starter dies is started by recovery.
 *   4. A member that has a worker is never without it: a worker that goes leaves its group first.
 */
#include "region.h"

bool slri_group_join(slr_region *region, uint32_t index, uint32_t member, int64_t now_ns) {
    slri_slot *slot = &region->slots[member], *group = &region->slots[slot->leader];
    slot->taker = index;
    slri_slot_move(slot, SLRI_JOIN);
    SLRI_FAULT("group:joined");
    slri_commit(&group->missing, group->missing - 1);
    if (group->missing) {
        region->workers[index].member = member;
        slri_worker_move(region, index, SLR_WORKER_GATHERED);
        return false;
    }
    for (uint32_t i = group->member; i != SLRI_NONE; i = region->slots[i].member) {
        uint32_t taker = region->slots[i].taker;
        slri_task_start(region, i, taker, now_ns);
        SLRI_FAULT("group:started");
        if (taker != index)
            slri_worker_call(region, taker);
    }
    return true;
}

void slri_group_leave(slr_region *region, uint32_t index) {
    slri_worker *worker = &region->workers[index];
    uint32_t member = worker->member;
    worker->member = SLRI_NONE;
    if (member == SLRI_NONE || region->slots[member].state != SLR_TASK_GATHERING)
        return;
    slri_slot *slot = &region->slots[member], *group = &region->slots[slot->leader];
    slri_commit(&group->missing, group->missing + 1);
    slri_slot_move(slot, SLRI_LEAVE);
    SLRI_FAULT("group:left");
    slot->taker = SLR_ANY_SUB;
    slri_mailbox_return(region, member);
}

/* Ends a member before its group has started. */
static void end_member(slr_region *region, uint32_t member, slri_event event, const slri_worker *abandoned,
                       int64_t now_ns) {
    slri_slot *slot = &region->slots[member];
    uint64_t record = abandoned ? abandoned->record : 0;
    if (slot->state == SLR_TASK_GATHERING) {
        region->workers[slot->taker].member = SLRI_NONE;
        slri_worker_wake(region, slot->taker);
        slot->taker = SLR_ANY_SUB;
    } else {
        slri_mailbox_remove(region, member);
    }
    if (record)
        slri_heap_keep(region, record);
    slri_task_end(region, member, event, record, record ? abandoned->record_bytes : 0, now_ns);
}

void slri_group_cancel(slr_region *region, slr_id run, int64_t now_ns) {
    for (uint32_t i = 0; i < region->header->config.workers; i++) {
        uint32_t member = region->workers[i].member;
        if (member != SLRI_NONE && region->slots[member].state == SLR_TASK_GATHERING &&
            region->slots[member].run == run)
            end_member(region, member, SLRI_CANCEL, NULL, now_ns);
    }
}

static const slri_worker *too_few_subs(const slr_region *region, uint32_t wanted) {
    const slri_worker *abandoned = NULL;
    uint32_t left = 0;
    for (uint32_t i = 0; i < region->header->config.workers; i++) {
        const slri_worker *worker = &region->workers[i];
        if (!slri_is_kind(worker, SLR_WORKER_SUB))
            continue;
        left += !worker->abandoned;
        if (worker->abandoned)
            abandoned = worker;
    }
    return left < wanted ? abandoned : NULL;
}

const slri_worker *slri_group_abandoned(const slr_region *region, const slri_slot *group) {
    if (group->target == SLR_ANY_SUB)
        return too_few_subs(region, group->members);
    for (uint32_t i = group->member; i != SLRI_NONE; i = region->slots[i].member)
        if (region->workers[region->slots[i].target].abandoned)
            return &region->workers[region->slots[i].target];
    return NULL;
}

void slri_group_abandon(slr_region *region, int64_t now_ns) {
    for (uint32_t i = 0; i < region->header->slots_fresh; i++) {
        const slri_slot *group = &region->slots[i];
        if (!slri_is_group(group) || group->state != SLR_TASK_READY || !group->missing)
            continue;
        const slri_worker *abandoned = slri_group_abandoned(region, group);
        uint32_t member = abandoned ? group->member : SLRI_NONE;
        while (member != SLRI_NONE) {
            uint32_t next = region->slots[member].member;
            end_member(region, member, SLRI_FAIL, abandoned, now_ns);
            member = next;
        }
    }
}
