/* What the C tests of deaths with the lock held share: a child that dies at a fault point. */
#ifndef SIMPLER_TEST_FAULT_HARNESS_H
#define SIMPLER_TEST_FAULT_HARNESS_H

#include <signal.h>
#include <stdbool.h>

#include "fault.h"
#include "harness.h"

/* What the child acts on. */
typedef struct {
    slr_region *region;
    uint64_t held; /* a block of the parent's */
    slr_id ended;  /* a run with a retained failure and a retained result */
    slr_id live;   /* a run with a task RUNNING on SUB1 and others waiting */
    slr_id stream; /* a stream for it */
    slr_id dying;  /* a run for what the process that will die submits */
    slr_id failure;
    slr_id result;
    slr_id running;
} scene;

/* False: the child came past the point at most `skip` times, and lives. */
static inline bool dies_at(const scene *s, const char *point, uint32_t skip, void (*doing)(const scene *)) {
    int status;
    pid_t child = fork_child();
    if (child == 0) {
        slri_fault_arm(point, skip, SIGKILL);
        doing(s);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(status == 0 || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
    return status != 0;
}

#endif
