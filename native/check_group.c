/* Part of slr_graph_check: groups, their members, and the workers that wait with one. */
#include <string.h>

#include "check.h"

static bool count_member(check *c, uint32_t i) {
    const slri_slot *slot = &c->region->slots[i], *group = &c->region->slots[slot->leader];
    bool waits = slot->state == SLR_TASK_PENDING || slot->state == SLR_TASK_READY;
    if (slot->leader >= c->region->header->slots_fresh || !slri_is_group(group) || group->run != slot->run)
        return slri_broken(c, "slot %u is a member of slot %u, which is no group of its run", i, slot->leader);
    if (!slri_task_live(slot->state) || (slot->state == SLR_TASK_PENDING) != (group->state == SLR_TASK_PENDING))
        return slri_broken(c, "slot %u is in state %u, its group in state %u", i, slot->state, group->state);
    if ((slot->state == SLR_TASK_RUNNING) != !group->missing)
        return slri_broken(c, "slot %u is in state %u, but %u members of its group are missing", i, slot->state,
                           group->missing);
    c->fan_in[slot->leader] += waits;
    c->alive[slot->leader]++;
    return true;
}

static bool check_gathered(check *c, uint32_t i) {
    const slri_slot *slot = &c->region->slots[i];
    const slri_worker *taker = slot->state == SLR_TASK_GATHERING ? &c->region->workers[slot->taker] : NULL;
    return !taker || (taker->state == SLR_WORKER_GATHERED && taker->member == i) ||
           slri_broken(c, "slot %u waits at worker %u, which does not wait with it", i, slot->taker);
}

bool slri_check_groups(check *c) {
    const slr_region *region = c->region;
    uint32_t fresh = region->header->slots_fresh;
    memset(c->fan_in, 0, fresh * sizeof *c->fan_in);
    for (uint32_t i = 0; i < fresh; i++) {
        bool member = region->slots[i].state != SLR_TASK_FREE && region->slots[i].leader != SLRI_NONE;
        if ((member && !count_member(c, i)) || !check_gathered(c, i))
            return false;
    }
    for (uint32_t i = 0; i < fresh; i++) {
        const slri_slot *group = &region->slots[i];
        if (slri_is_group(group) && slri_task_live(group->state) &&
            (!group->unended || group->unended != c->alive[i] || group->missing != c->fan_in[i]))
            return slri_broken(c, "group %u counts %u live members and %u missing, not %u and %u", i, group->unended,
                               group->missing, c->alive[i], c->fan_in[i]);
    }
    return true;
}
