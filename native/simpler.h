/*
 * Simpler's shared-memory task graph: one memfd region per Worker, mapped by the parent, its supervisor and its
 * workers.
 *
 * Rules that hold everywhere below
 *   1. Everything in a region is an offset or an index, never an address: each process maps it where it likes.
 *   2. One robust process-shared mutex guards every word of a region, except where layout.h says that a word is also
 *      read without it. It is never held across a system call that sleeps, and for tens of nanoseconds only, but that
 *      the end of a worker goes through all slots and blocks in use, and cancelling through all that is queued: a
 *      millisecond or a few for tens of thousands of tasks.
 *   3. A slot, run or block is named by an id that carries a generation; an id whose generation has passed on is
 *      SLR_STALE.
 *   4. The primary words of layout.h (states of slots and workers, block headers and the like) are each changed by a
 *      single store. Queues, free lists, edges, bins and counters are derived: when the lock's holder has died changing
 *      something, the next locker rebuilds them and fails the live runs, so the region stays usable.
 *
 * Functions return SLR_OK (0) or a negative slr_status; out-parameters come last and are assigned only on success.
 * After SLR_SYSTEM, errno says which system call error it was. No function prints, exits or sets a signal handler.
 * Functions may be called from several threads of a process, unless said otherwise.
 *
 * The part between the two markers is read by cffi as it stands: no preprocessor conditionals, no attributes.
 */
#ifndef SIMPLER_H
#define SIMPLER_H

#include <stddef.h>
#include <stdint.h>

/* cffi: begin */

typedef enum {
    SLR_OK = 0,
    SLR_INVALID = -1,         /* an argument is out of range or does not fit the state */
    SLR_SYSTEM = -2,          /* a system call failed: errno says how */
    SLR_TIMEOUT = -3,         /* the deadline passed */
    SLR_STALE = -4,           /* the id's generation has passed on */
    SLR_CLOSED = -5,          /* slr_region_shutdown was called */
    SLR_FORMAT = -6,          /* not a region, or one of another layout version */
    SLR_HEAP_FULL = -7,       /* heap_bytes */
    SLR_SLOTS_FULL = -8,      /* slots */
    SLR_EDGES_FULL = -9,      /* edges */
    SLR_RUNS_FULL = -10,      /* runs */
    SLR_CALLABLES_FULL = -11, /* callables */
    SLR_NOT_FOUND = -12,      /* no callable of that digest */
    SLR_CONFLICT = -13,       /* the digest is there with other content; or two arguments write the same bytes */
    SLR_CORRUPT = -14,        /* slr_graph_check found a broken rule */
    SLR_INTERRUPTED = -15,    /* a signal arrived while parked: see to it, then call again */
    SLR_FAILED = -16          /* the run has ended, and not all of its tasks succeeded */
} slr_status;

typedef enum {
    SLR_WORKER_SUB = 0,    /* also takes from the shared queue */
    SLR_WORKER_CHIP = 1,   /* a process that has a device */
    SLR_WORKER_REMOTE = 2, /* served by a thread of the parent; may hold several tasks at once */
    SLR_WORKER_DIST = 3    /* a process that has a lower Worker */
} slr_worker_kind;

/* Life of a worker record. ABSENT -> STARTING (process attached) -> SPINNING | PARKED | GATHERED | RUNNING; DEAD until
 * re-attached. A SUB, CHIP or DIST worker calls slr_worker_take at once after slr_worker_ready and slr_worker_complete
 * (or instead of the latter slr_worker_next): it counts as SPINNING meanwhile, and nobody else is woken for work that
 * it can do. */
typedef enum {
    SLR_WORKER_ABSENT = 0,
    SLR_WORKER_STARTING = 1,
    SLR_WORKER_SPINNING = 2, /* will look at its queues soon without being woken */
    SLR_WORKER_PARKED = 3,   /* asleep on its doorbell */
    SLR_WORKER_RUNNING = 4,  /* has a task, or slr_worker_take has returned without one */
    SLR_WORKER_GATHERED = 5, /* has a member of a group, which starts when the workers of the others are there too */
    SLR_WORKER_DEAD = 6
} slr_worker_state;

/* Life of a slot; graph.c owns the only function that changes it. */
typedef enum {
    SLR_TASK_FREE = 0,
    SLR_TASK_BUILDING = 1,  /* being submitted, under the lock */
    SLR_TASK_PENDING = 2,   /* waits for fan-in */
    SLR_TASK_READY = 3,     /* in a mailbox; a group: its members are, or are GATHERING, or run */
    SLR_TASK_GATHERING = 4, /* a member of a group that waits at its worker for the others' workers */
    SLR_TASK_RUNNING = 5,   /* taken by a worker */
    SLR_TASK_SUCCEEDED = 6, /* retained: it has a result */
    SLR_TASK_FAILED = 7,    /* retained: it has an error record */
    SLR_TASK_POISONED = 8,  /* retained: never started, a task it depends on failed; a group: a member failed */
    SLR_TASK_CANCELLED = 9  /* never started: its run was cancelled */
} slr_task_state;

typedef enum {
    SLR_OP_CALL = 0,
    SLR_OP_REGISTER = 1,
    SLR_OP_UNREGISTER = 2,
    SLR_OP_CONTROL = 3, /* a request to the worker itself; its payload says which, and its digest is all zeros */
    SLR_OP_SUB_CALL = 4 /* for REMOTE workers: the callable itself, run on a SUB worker of the session */
} slr_op;

#define SLR_DIGEST_BYTES 32
#define SLR_ANY_SUB      0xffffffff
#define SLR_READ         1
#define SLR_WRITE        2

typedef uint64_t slr_id; /* generation in the high 32 bits (never 0), index in the low 32; 0 is "none" */

typedef struct slr_region slr_region; /* one process's mapping of a region */

typedef struct {
    uint64_t heap_bytes; /* rounded up to pages; virtual until touched */
    uint32_t slots;
    uint32_t edges;
    uint32_t runs;
    uint32_t callables;
    uint32_t workers;
    uint32_t trace_events; /* a ring: the oldest are overwritten */
} slr_config;

/* ---- region ---- */
int slr_region_create(const slr_config *config, slr_region **out); /* a memfd, sealed against resizing, close-on-exec */
int slr_region_attach(int fd, slr_region **out);                   /* duplicates fd */
void slr_region_detach(slr_region *region);                        /* unmaps; other processes are not affected */
int slr_region_fd(const slr_region *region);
void *slr_region_heap(const slr_region *region);           /* this process's address of heap offset 0 */
uint64_t slr_region_heap_bytes(const slr_region *region);  /* with what is kept back for error records */
uint64_t slr_region_heap_offset(const slr_region *region); /* where heap offset 0 lies in the descriptor's file */
/* This process's descriptor of the eventfd that is signalled when a REMOTE worker gets work and when a run that was
 * begun with SLR_RUN_NOTIFY ends, or being a stream has something to reap; set once, SLR_INVALID after that. A
 * duplicate is kept until slr_region_detach, so the caller may close its own at any time. */
int slr_region_set_notify_fd(slr_region *region, int fd);
/* The same for the eventfd of who watches the worker processes, signalled when a task is taken that may be late before
 * the watcher looks again: see slr_workers_overdue. Without one nobody is told. */
int slr_region_set_alarm_fd(slr_region *region, int fd);
int slr_region_shutdown(slr_region *region); /* every slr_worker_take returns SLR_CLOSED from now on, sleepers woken */
const char *slr_status_name(int status);

/* ---- heap ---- blocks are 64-byte aligned and reference-counted; offset 0 is never a block */
/* One reference, the caller's process's; not zeroed. When a SUB, CHIP or DIST worker dies, the references of the blocks
 * that its process allocated end with it; one process therefore attaches one such worker per slr_region. */
int slr_heap_alloc(slr_region *region, uint64_t bytes, uint64_t *offset);
/* The same for an error record: it may also have the last of the heap, which is kept back for error records. */
int slr_heap_alloc_error(slr_region *region, uint64_t bytes, uint64_t *offset);
/* The same for something large that can be kept elsewhere: SLR_HEAP_FULL unless `spare` bytes stay free. */
int slr_heap_alloc_sparing(slr_region *region, uint64_t bytes, uint64_t spare, uint64_t *offset);
/* One reference more. While a process has one, it counts as one of that process and ends with it too; else, as of a
 * record that a task ended with, it is the caller's process's. */
int slr_heap_ref(slr_region *region, uint64_t offset);
/* Frees at the last. SLR_STALE: offset is not a live block's; SLR_INVALID: no process holds a reference to it. */
int slr_heap_unref(slr_region *region, uint64_t offset);
/* The live block that holds byte `offset`: its start and size. For views into arrays. */
int slr_heap_find(slr_region *region, uint64_t offset, uint64_t *start, uint64_t *bytes);

typedef struct {
    uint64_t offset;
    uint64_t start; /* of the block that it is in */
    uint64_t bytes; /* of that block */
} slr_place;
/* Where in the heap an address of this process is. SLR_NOT_FOUND: outside; SLR_STALE: inside, but in no live block. */
int slr_heap_locate(slr_region *region, const void *address, slr_place *out);

/* ---- workers ---- ids are 0..workers-1 */
int slr_worker_define(slr_region *region, uint32_t worker, slr_worker_kind kind);
int slr_worker_attach(slr_region *region, uint32_t worker, int32_t pid); /* by the worker's process: STARTING */
int slr_worker_ready(slr_region *region, uint32_t worker);               /* STARTING -> SPINNING: may be given work */
/* By whoever watches the process, once it is gone: every task it held (*failed of them) fails with the error record
 * (copied; when the heap is full, retained without one), the worker is DEAD, and what counted on it goes to others. */
int slr_worker_died(slr_region *region, uint32_t worker, const void *error, uint64_t error_bytes, uint32_t *failed);
/* Gives the worker up for ever: what slr_worker_died does, and everything queued for it, now and in later submissions
 * (for the last SUB worker: the shared queue too), fails with the error record. It cannot be attached again. */
int slr_worker_abandon(slr_region *region, uint32_t worker, const void *error, uint64_t error_bytes);

typedef struct {
    slr_id task;
    int64_t timeout_ns;
    uint32_t worker;
} slr_overdue;
/* By whoever watches the processes: the workers whose task has run for longer than its timeout at now_ns
 * (CLOCK_MONOTONIC), each told once. They are condemned: take and complete give them SLR_STALE until they have been
 * killed and slr_worker_died was called. *next_ns: when to look again, at the latest; INT64_MAX: once the eventfd says
 * so. */
int slr_workers_overdue(slr_region *region, int64_t now_ns, slr_overdue *out, uint32_t room, uint32_t *count,
                        int64_t *next_ns);

typedef struct {
    uint32_t kind;   /* slr_worker_kind */
    uint32_t state;  /* slr_worker_state */
    int32_t pid;     /* 0: none */
    uint32_t queued; /* length of its own queue */
    uint64_t tasks;  /* completed by this id, over all its processes */
    uint64_t failures;
    uint32_t deaths;
    uint32_t abandoned;
} slr_worker_info;
int slr_worker_query(slr_region *region, uint32_t worker, slr_worker_info *out);

typedef struct {
    slr_id id;
    slr_id run;
    uint32_t op;          /* slr_op */
    uint32_t worker;      /* the taker */
    uint64_t args_offset; /* heap; valid until the task is completed */
    uint64_t args_bytes;  /* 0: none */
    int64_t timeout_ns;   /* as it was submitted with */
    uint8_t digest[32];
} slr_task;

/* Next task for the worker: its own queue first, then (SUB) the shared one. Spins up to spin_us, then parks up to
 * timeout_ns (< 0: without end; 0: neither spins nor parks). Tasks of cancelled runs are never returned. Where the next
 * is a member of a group that cannot start yet, the worker is GATHERED: it takes nothing else, in this call and later
 * ones, until the group has started and the member is returned, or the group has ended without.
 * A REMOTE worker may hold several tasks at once; its timeout is 0, and the eventfd is signalled for it once after each
 * SLR_TIMEOUT. It joins a group only when it holds none.
 * SLR_OK, SLR_TIMEOUT, SLR_CLOSED, SLR_INTERRUPTED; SLR_STALE: the worker was declared dead, or condemned;
 * SLR_INVALID: it is not ready, or not REMOTE and holds a task. */
int slr_worker_take(slr_region *region, uint32_t worker, uint32_t spin_us, int64_t timeout_ns, slr_task *out);
/* outcome: SLR_TASK_SUCCEEDED or SLR_TASK_FAILED. record: a heap block holding the result or error record, whose
 * reference passes to the slot (0: none). The slot of a success without record is free at once. SLR_STALE: the task was
 * taken away from the worker meanwhile; the record's reference then stays the caller's. */
int slr_worker_complete(slr_region *region, uint32_t worker, slr_id task, int outcome, uint64_t record,
                        uint64_t record_bytes);
/* slr_worker_complete of *task, and slr_worker_take of the next into *task, in one hold of the lock. Not for REMOTE
 * workers. SLR_STALE, SLR_INVALID: as of slr_worker_complete, nothing was changed. SLR_TIMEOUT, SLR_CLOSED and
 * SLR_INTERRUPTED: the task is completed, and *task as it was; go on with slr_worker_take. */
int slr_worker_next(slr_region *region, uint32_t worker, int outcome, uint64_t record, uint64_t record_bytes,
                    uint32_t spin_us, int64_t timeout_ns, slr_task *task);

/* ---- runs ---- */
#define SLR_RUN_NOTIFY 1
#define SLR_RUN_STREAM 2 /* retains every task that ends, for slr_run_reap; takes no groups */
int slr_run_begin(slr_region *region, uint32_t flags, slr_id *out);
int slr_run_seal(slr_region *region, slr_id run);   /* no more submissions; the run ends with its last task */
int slr_run_cancel(slr_region *region, slr_id run); /* what has not started never will; also seals */
/* Until the run has ended: spins up to spin_us, or twice that when this process has woken somebody since it last
 * waited, then parks up to timeout_ns (< 0: without end; 0: neither). SLR_CLOSED: the region was shut down before it
 * ended. */
int slr_run_wait(slr_region *region, slr_id run, uint32_t spin_us, int64_t timeout_ns);
/* The same, and SLR_FAILED where it has ended, but was cancelled, or not all its tasks succeeded: see slr_run_query. */
int slr_run_success(slr_region *region, slr_id run, uint32_t spin_us, int64_t timeout_ns);
int slr_run_release(slr_region *region, slr_id run); /* ended runs only; frees what its tasks retained */
/* ---- streams ---- runs whose tasks are looked at one by one as they end, by one thread at a time */
typedef struct {
    slr_id task;
    uint64_t record_offset; /* result or error record, 0: none; valid until the task is forgotten */
    uint64_t record_bytes;
    uint32_t state;  /* slr_task_state: SUCCEEDED, FAILED, POISONED or CANCELLED */
    uint32_t worker; /* that ran it; SLR_ANY_SUB when none did */
} slr_ended;
/* The first `room` tasks of the stream that have ended, in that order; while there are none, waits as slr_run_wait
 * does. They are given again until slr_run_forget. SLR_OK and *count 0: slr_run_wake was called since the last SLR_OK.
 * Once nothing is left to give: SLR_CLOSED: nothing more comes, the run has ended or the region was shut down;
 * SLR_FAILED: the run is lost, what it has not given was dropped or is not told. SLR_TIMEOUT, SLR_INTERRUPTED. */
int slr_run_reap(slr_region *region, slr_id run, slr_ended *out, uint32_t room, uint32_t *count, uint32_t spin_us,
                 int64_t timeout_ns);
/* Frees the first `count` tasks that slr_run_reap gives, and their records; the first of them is `first`, or SLR_STALE:
 * somebody else has forgotten it meanwhile. SLR_INVALID: there are not so many. */
int slr_run_forget(slr_region *region, slr_id run, slr_id first, uint32_t count);
/* Has slr_run_reap return, the one that waits or the next: there is something else to see to. */
int slr_run_wake(slr_region *region, slr_id run);
/* For who waits for several: take `seen`, look at each run, then wait until any run has ended since. SLR_OK (look
 * again), SLR_TIMEOUT, SLR_INTERRUPTED. */
uint32_t slr_runs_seen(const slr_region *region);
int slr_runs_wait(slr_region *region, uint32_t seen, int64_t timeout_ns);
/* Has whoever waits so look again, as if a run had ended: there is something else for them to see. */
int slr_runs_wake(slr_region *region);

typedef struct {
    uint32_t ended;
    uint32_t cancelled;
    uint32_t lost; /* a holder of the lock died: tasks of this run were dropped */
    uint64_t tasks;
    uint64_t live;
    uint64_t failed; /* FAILED, without POISONED and CANCELLED */
    uint64_t poisoned;
    slr_id first_failed; /* the first task that FAILED, or 0 */
    int64_t begun_ns;
    int64_t ended_ns;
} slr_run_info;
int slr_run_query(slr_region *region, slr_id run, slr_run_info *out);
/* The retained FAILED and POISONED tasks of a run, in the order they ended. *count: how many were written (<= room). */
int slr_run_failures(slr_region *region, slr_id run, slr_id *out, uint32_t room, uint32_t *count);

/* ---- submission ---- by the parent only */
typedef struct {
    /* What the range is in: a live block's offset; 0: the heap, of which it has bytes of one live block; or any 64-bit
     * name with the top bit set. */
    uint64_t buffer;
    uint64_t begin; /* bytes [begin, end) of it */
    uint64_t end;
    uint32_t access;   /* SLR_READ | SLR_WRITE */
    uint32_t argument; /* ranges of one argument never conflict with each other */
} slr_range;

typedef struct {
    slr_id run;
    uint32_t worker; /* or SLR_ANY_SUB */
    uint32_t op;
    const uint8_t *digest; /* SLR_DIGEST_BYTES */
    const void *args;      /* copied into the heap */
    uint64_t args_bytes;
    const slr_range *ranges; /* ordered against every earlier submission by overlap */
    uint32_t n_ranges;
    uint32_t n_after;
    const slr_id *after;    /* explicit dependencies: a failure of one poisons this task */
    const uint64_t *blocks; /* heap blocks, each by any of its bytes, kept referenced until the task has ended */
    uint32_t n_blocks;
    int64_t timeout_ns; /* how long it may run from when it is taken; 0: as long as it takes. For REMOTE
                         * workers with SLR_OP_SUB_CALL only: their sessions see to it */
} slr_submission;

/* Read after write and `after` are data dependencies (a failure poisons) when both tasks are of one run; write after
 * read, write after write and everything across runs is order only. SLR_*_FULL: nothing was changed; see
 * slr_space_wait. SLR_CONFLICT: two arguments write the same bytes; *conflict is their numbers (first << 32 | second).
 * SLR_CLOSED: the run was sealed or cancelled, or the region shut down. SLR_STALE: the run, or a block of `blocks` or
 * `ranges`, is not there any more. The arguments are handed to the worker at an address that is a multiple of 16. */
int slr_submit(slr_region *region, const slr_submission *submission, slr_id *out, uint64_t *conflict);

/* A group: one node of the graph whose members run on `n` distinct workers at once. It starts when all of them are
 * free, ends with its last member, and has failed when one has. A timeout of a member begins with the group. The
 * members are all of one run and of op SLR_OP_CALL, and all for SLR_ANY_SUB, or for workers that are not SUB ones. What
 * one waits for all wait for, and what comes after one comes after all: the group's id goes into `after` of others. All
 * or nothing; errors as slr_submit. Arguments are numbered over the whole group: two of one number are one argument,
 * whichever members they are of. */
int slr_submit_group(slr_region *region, const slr_submission *members, uint32_t n, slr_id *group, slr_id *ids,
                     uint64_t *conflict);

/* Back-pressure: take `seen` before submitting; after SLR_*_FULL wait until anything was freed since (SLR_OK),
 * SLR_TIMEOUT, or SLR_INVALID at once when no task is live, so that nothing can free anything. */
uint32_t slr_space_seen(const slr_region *region);
int slr_space_wait(slr_region *region, uint32_t seen, int64_t timeout_ns);

typedef struct {
    uint32_t state;         /* slr_task_state */
    uint32_t worker;        /* that ran it; SLR_ANY_SUB when none did */
    uint64_t record_offset; /* result or error record, 0: none; valid until its run is released */
    uint64_t record_bytes;
    slr_id root; /* POISONED: the FAILED task it goes back to, which may be a member of the group that this is */
    uint8_t digest[32];
} slr_task_info;
/* SLR_STALE also for tasks that succeeded without a record: their slot is free again. */
int slr_task_query(slr_region *region, slr_id task, slr_task_info *out);

/* ---- callables ---- the table a re-forked worker loads from */
typedef struct {
    uint32_t kind; /* descriptor kind: 1 chip, 2 serialized Python, 3 imported Python */
    uint32_t references;
    uint64_t content_offset; /* heap: the encoded descriptor and payload; valid while referenced */
    uint64_t content_bytes;
    uint8_t digest[32];
} slr_callable;
/* Adds a reference, storing the content at the first. SLR_CONFLICT: same digest, other kind or content. */
int slr_callable_put(slr_region *region, const uint8_t *digest, uint32_t kind, const void *content, uint64_t bytes);
int slr_callable_drop(slr_region *region, const uint8_t *digest, uint32_t *references_left);
int slr_callable_get(slr_region *region, const uint8_t *digest, slr_callable *out);
/* Entry `index` of 0..callables-1; SLR_NOT_FOUND where it is empty. */
int slr_callable_at(slr_region *region, uint32_t index, slr_callable *out);

/* ---- observation ---- */
typedef struct {
    slr_id task;
    slr_id run;
    uint32_t worker; /* SLR_ANY_SUB: none */
    uint32_t state;  /* as it ended: slr_task_state */
    uint32_t op;
    uint32_t reserved;
    int64_t submitted_ns; /* CLOCK_MONOTONIC */
    int64_t ready_ns;
    int64_t started_ns; /* 0: never */
    int64_t ended_ns;
    uint8_t digest[32];
} slr_trace_event;
/* Ended tasks in order from *cursor (a count since creation; overwritten ones are left out), and the cursor after. */
int slr_trace_read(slr_region *region, uint64_t *cursor, slr_trace_event *out, uint32_t room, uint32_t *count);

typedef struct {
    slr_id id;
    slr_id run;
    uint32_t worker; /* that has it, or that it is for; SLR_ANY_SUB: whichever is free */
    uint32_t state;  /* slr_task_state */
    uint32_t op;
    uint32_t reserved;
    int64_t submitted_ns; /* CLOCK_MONOTONIC */
    int64_t ready_ns;     /* 0: not yet */
    int64_t started_ns;   /* 0: not yet */
    int64_t timeout_ns;   /* 0: none */
    uint8_t digest[32];
} slr_live_task;
/* Tasks in one of `states` (1 << slr_task_state, or-ed), in no order; of a group its members. *cursor: 0, then where to
 * go on; *count < room: there are no more. Tasks that change meanwhile may be left out, or be there twice. */
int slr_tasks_read(slr_region *region, uint32_t states, uint32_t *cursor, slr_live_task *out, uint32_t room,
                   uint32_t *count);

typedef struct {
    uint64_t tasks; /* ended, ever */
    uint64_t failures;
    uint64_t poisoned; /* never started, like the cancelled ones */
    uint64_t cancelled;
    uint64_t live;
    uint64_t heap_bytes;
    uint64_t heap_used;
    uint64_t heap_peak;
    uint32_t shared_queue; /* length of the SUB queue */
    uint32_t runs_live;
    uint32_t recoveries; /* how often a holder of the lock had died */
    uint32_t slots_used;
} slr_stats;
int slr_region_stats(slr_region *region, slr_stats *out);
/* Walks everything under the lock and checks each rule: derived agrees with primary. For tests. why: NUL-terminated. */
int slr_graph_check(slr_region *region, char *why, size_t why_bytes);

/* cffi: end */

#endif
