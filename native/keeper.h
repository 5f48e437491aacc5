/*
 * What a worker process of an executor puts back between two calls, and what a call took. It is about this process
 * alone, and knows no region. For the process's main thread.
 *
 * Rules
 *   1. Working directory, umask and signal mask are put back after every call, and the environment is compared: a
 *      microsecond. To look at 31 dispositions and 3 timers takes five; that is done when SLR_KEEP_DUE_NS have passed
 *      since the last time, before a call as well as after it, and always after a call that is suspect, because it
 *      asked Python for a change. So what C code changes behind Python's back is met by quick calls of the same few
 *      moments at most.
 *   2. What is open as standard input, output and error is put back before the next call, not after each: while a call
 *      runs its output may be led elsewhere.
 *   3. What Python has a copy of, the caller puts back: its own handlers, then slr_keeper_restore_signals; os.environ,
 *      then slr_keeper_remember_environment.
 *
 * The part between the two markers is read by cffi as it stands.
 */
#ifndef SLR_KEEPER_H
#define SLR_KEEPER_H

#include <stdint.h>

#include "simpler.h"

/* cffi: begin */

/* What the functions below tell, as bits. */
typedef enum {
    SLR_ENVIRONMENT_CHANGED = 1,
    SLR_SIGNALS_CHANGED = 2, /* dispositions; still as the call has left them */
    SLR_DIRECTORY_LOST = 4,  /* the descriptor of the working directory was closed */
    SLR_FORKED = 8,          /* this is a process that the call has forked, and which came out of it as well */
} slr_changes;

enum { SLR_KEEP_DUE_NS = 100000 };

typedef struct slr_keeper slr_keeper;

typedef struct {
    double started, ended;           /* seconds since the epoch */
    double wall_s, user_s, system_s; /* seconds */
    double peak_rss_bytes;
} slr_usage;

/* Remembers how this process is now. */
slr_status slr_keeper_create(slr_keeper **keeper);
void slr_keeper_destroy(slr_keeper *keeper);

/* Before a call: puts back what is open as 0, 1 and 2, looks at what is due, and measures from now on. Returns
 * slr_changes. */
int slr_keeper_begin(slr_keeper *keeper);

/* What was used since slr_keeper_begin. Returns slr_changes, SLR_FORKED or none. */
int slr_keeper_usage(slr_keeper *keeper, slr_usage *usage);

/* After a call. `suspect`: looks at all signals, the real-time ones too. Returns slr_changes. */
int slr_keeper_restore(slr_keeper *keeper, int suspect);

/* Stops those that did not run when the keeper was made. */
void slr_keeper_stop_timers(const slr_keeper *keeper);

/* Gives every signal the disposition that was remembered. */
void slr_keeper_restore_signals(slr_keeper *keeper);

/* Empties the environment, of what Python does not know of, too. */
void slr_environment_clear(void);

/* The environment is to be as it is now. */
slr_status slr_keeper_remember_environment(slr_keeper *keeper);

/* Lets the process have `more_bytes` of private memory beyond what it has: the soft RLIMIT_DATA of setrlimit(2). */
slr_status slr_memory_limit(uint64_t more_bytes);

/* Gives back what was possible before; nothing when there is no limit. It needs no memory itself. */
void slr_memory_unlimit(void);

/* cffi: end */

#endif
