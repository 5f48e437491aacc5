/* What the C tests of groups share: a region with workers of every kind that groups are for, and ways to submit one. */
#ifndef SIMPLER_TEST_GROUP_HARNESS_H
#define SIMPLER_TEST_GROUP_HARNESS_H

#include "harness.h"

enum { SUBS = 3, CHIP0 = 3, CHIP1 = 4, FAR = 5, ALL = 6 };

static inline slr_worker_info info_of(slr_region *region, uint32_t worker) {
    slr_worker_info info;
    OK(slr_worker_query(region, worker, &info));
    return info;
}

/* Three SUB workers, two CHIP workers and a REMOTE one, ready and played by this thread. */
static inline slr_region *make_group_region(void) {
    static const slr_worker_kind kinds[ALL] = {SLR_WORKER_SUB,  SLR_WORKER_SUB,  SLR_WORKER_SUB,
                                               SLR_WORKER_CHIP, SLR_WORKER_CHIP, SLR_WORKER_REMOTE};
    slr_config config = small_config();
    slr_region *region;
    config.workers = ALL;
    OK(slr_region_create(&config, &region));
    for (uint32_t i = 0; i < ALL; i++) {
        OK(slr_worker_define(region, i, kinds[i]));
        be_ready(region, i);
    }
    return region;
}

typedef struct {
    slr_id id;
    slr_id members[SUBS];
} group;

static inline group submit_members(slr_region *region, const slr_submission *members, uint32_t n) {
    group g;
    uint64_t conflict;
    OK(slr_submit_group(region, members, n, &g.id, g.members, &conflict));
    check_graph(region);
    return g;
}

static inline group submit_subs(slr_region *region, slr_id run, uint32_t n) {
    slr_submission members[SUBS];
    for (uint32_t i = 0; i < n; i++)
        members[i] = call_of(run, SLR_ANY_SUB);
    return submit_members(region, members, n);
}

static inline group submit_chips(slr_region *region, slr_id run, uint32_t first, uint32_t second) {
    slr_submission members[2] = {call_of(run, first), call_of(run, second)};
    return submit_members(region, members, 2);
}

static inline slr_id submit_after(slr_region *region, slr_id run, uint32_t worker, slr_id before) {
    slr_submission submission = call_of(run, worker);
    submission.after = &before;
    submission.n_after = 1;
    return submit(region, submission);
}

#endif
