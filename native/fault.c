/* Fault points: see fault.h. */
#include "fault.h"

#ifdef SLR_FAULTS
#include <assert.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

const char *const slri_fault_points[] = {
    "submit:slot",     "submit:edges",     "submit:queued",
    "take:popped",     "take:alarm",       "overdue:condemned",
    "take:running",    "complete:record",  "complete:moved",
    "end:edges",       "end:retained",     "heap:split",
    "heap:taken",      "heap:merged",      "run:begin",
    "run:release",     "cancel:drained",   "callable:filled",
    "callable:used",   "callable:emptied", "park:parked",
    "abandon:marked",  "group:built",      "group:joined",
    "group:started",   "group:left",       "group:ended",
    "recover:slots",   "recover:heap",     "read:locked",
    "unlocked:waking", "stream:forgotten", NULL,
};

static const char *armed;
static uint32_t left;
static int fatal;

static bool known(const char *point) {
    for (size_t i = 0; slri_fault_points[i]; i++)
        if (strcmp(slri_fault_points[i], point) == 0)
            return true;
    return false;
}

void slri_fault_arm(const char *point, uint32_t skip, int signal) {
    assert(known(point));
    armed = point;
    left = skip;
    fatal = signal;
}

void slri_fault(const char *point) {
    assert(known(point));
    if (armed && strcmp(armed, point) == 0 && left-- == 0)
        kill(getpid(), fatal);
}
#endif
