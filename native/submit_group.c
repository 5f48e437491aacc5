/*
 * Submission of a group: as of one task whose ranges and dependencies are those of all members, checked as a whole
 * before anything is changed. The members' arguments are copied into blocks of the caller's before the lock is taken.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "region.h"

typedef struct {
    const slr_submission *members;
    uint32_t n;
    slr_submission whole; /* what orders the group */
    slr_range *ranges;
    slr_id *after;
    uint64_t *staged; /* per member: the block of its arguments, 0: none */
} group;

static bool subs_suffice(const slr_region *region, uint32_t n) {
    uint32_t subs = 0;
    for (uint32_t i = 0; i < region->header->config.workers; i++)
        subs += slri_is_kind(&region->workers[i], SLR_WORKER_SUB);
    return n <= subs;
}

static bool member_valid(const slr_region *region, const slr_submission *first, const slr_submission *member) {
    if (!slri_submission_valid(region, member) || member->op != SLR_OP_CALL || member->run != first->run ||
        (member->worker == SLR_ANY_SUB) != (first->worker == SLR_ANY_SUB))
        return false;
    return member->worker == SLR_ANY_SUB || !slri_is_kind(&region->workers[member->worker], SLR_WORKER_SUB);
}

static bool valid(const slr_region *region, const slr_submission *members, uint32_t n) {
    if (!n || n > SLRI_MAX_WORKERS)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        if (!member_valid(region, members, &members[i]))
            return false;
        for (uint32_t j = 0; j < i && members[i].worker != SLR_ANY_SUB; j++)
            if (members[i].worker == members[j].worker)
                return false;
    }
    return members->worker != SLR_ANY_SUB || subs_suffice(region, n);
}

static bool combine(const slr_submission *members, uint32_t n, group *g) {
    slr_submission whole = {.run = members->run};
    for (uint32_t i = 0; i < n; i++) {
        whole.n_ranges += members[i].n_ranges;
        whole.n_after += members[i].n_after;
    }
    *g = (group){
        .members = members,
        .n = n,
        .ranges = malloc((whole.n_ranges + 1ull) * sizeof *g->ranges),
        .after = malloc((whole.n_after + 1ull) * sizeof *g->after),
        .staged = calloc(n, sizeof *g->staged),
    };
    if (!g->ranges || !g->after || !g->staged)
        return false;
    slr_range *range = g->ranges;
    slr_id *after = g->after;
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t j = 0; j < members[i].n_ranges; j++)
            *range++ = members[i].ranges[j];
        for (uint32_t j = 0; j < members[i].n_after; j++)
            *after++ = members[i].after[j];
    }
    whole.ranges = g->ranges;
    whole.after = g->after;
    g->whole = whole;
    return true;
}

static int admit(slr_region *region, const group *g, slri_dependencies *dependencies) {
    for (uint32_t i = 0; i < g->n; i++) {
        int status = slri_submission_check(region, &g->members[i]);
        if (status != SLR_OK)
            return status;
        if (slri_run_find(region, g->members[i].run)->flags & SLR_RUN_STREAM)
            return SLR_INVALID;
    }
    return slri_submission_room(region, &g->whole, g->n + 1, dependencies);
}

/* Blocks for all members' arguments, or for none. */
static int reserve(slr_region *region, const group *g) {
    int status = SLR_OK;
    for (uint32_t i = 0; i < g->n && status == SLR_OK; i++)
        status = slri_submission_reserve(region, &g->members[i], &g->staged[i]);
    for (uint32_t i = 0; i < g->n && status != SLR_OK; i++) {
        if (g->staged[i])
            slri_heap_untake(region, g->staged[i]);
        g->staged[i] = 0;
    }
    return status;
}

static int stage(slr_region *region, const group *g) {
    slri_dependencies dependencies;
    slri_lock(region);
    int status = admit(region, g, &dependencies);
    if (status == SLR_OK)
        status = reserve(region, g);
    slri_unlock(region);
    for (uint32_t i = 0; i < g->n && status == SLR_OK; i++)
        slri_submission_stage(region, &g->members[i], g->staged[i]);
    return status;
}

static uint32_t build(slr_region *region, const group *g, int64_t now_ns, slr_id *ids) {
    uint32_t index = slri_slot_build(region), *link = &region->slots[index].member;
    slri_slot *slot = &region->slots[index];
    slot->run = g->members->run;
    slot->target = g->members->worker;
    slot->op = SLR_OP_CALL;
    memcpy(slot->digest, g->members->digest, SLR_DIGEST_BYTES);
    slot->members = slot->missing = slot->unended = g->n;
    for (uint32_t i = 0; i < g->n; i++) {
        uint32_t member = slri_submission_build(region, &g->members[i], g->staged[i], now_ns);
        SLRI_FAULT("group:built");
        region->slots[member].leader = index;
        slri_slot_move(&region->slots[member], SLRI_WAIT);
        *link = member;
        link = &region->slots[member].member;
        ids[i] = slri_id(region->slots[member].generation, member);
    }
    return index;
}

static int submit_locked(slr_region *region, const group *g, int64_t now_ns, slr_id *out, slr_id *ids) {
    slri_dependencies dependencies;
    int status = admit(region, g, &dependencies);
    if (status != SLR_OK)
        return status;
    uint32_t index = build(region, g, now_ns, ids);
    *out = slri_id(region->slots[index].generation, index);
    slri_tracker_record(region, &g->whole, *out);
    slri_submission_connect(region, index, &dependencies, now_ns);
    return SLR_OK;
}

static int submit(slr_region *region, const group *g, slr_id *out, slr_id *ids, uint64_t *conflict) {
    int status = slri_conflict_find(&g->whole, conflict);
    if (status != SLR_OK)
        return status;
    status = stage(region, g);
    if (status == SLR_OK) {
        int64_t now_ns = slri_now_ns();
        slri_lock(region);
        status = submit_locked(region, g, now_ns, out, ids);
        slri_unlock(region);
    }
    for (uint32_t i = 0; i < g->n && status != SLR_OK; i++)
        if (g->staged[i])
            slr_heap_unref(region, g->staged[i]);
    return status;
}

int slr_submit_group(slr_region *region, const slr_submission *members, uint32_t n, slr_id *out, slr_id *ids,
                     uint64_t *conflict) {
    if (!region || !members || !out || !ids || !conflict || !valid(region, members, n))
        return SLR_INVALID;
    group g;
    bool combined = combine(members, n, &g);
    int status = combined ? submit(region, &g, out, ids, conflict) : SLR_SYSTEM;
    int error = combined ? errno : ENOMEM;
    free(g.ranges);
    free(g.after);
    free(g.staged);
    errno = error;
    return status;
}
