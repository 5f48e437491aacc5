/*
 * One process's mapping of a region, the lock, and the way to each part of it. What each file of the core offers the
 * others.
 *
 * slri_ functions are called with the lock held unless they say otherwise; slr_ functions take it themselves.
 */
#ifndef SLRI_REGION_H
#define SLRI_REGION_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "fault.h"
#include "layout.h"

#define SLRI_MAX_WAKES 32

typedef struct slri_tracker slri_tracker;

struct slr_region {
    uint8_t *base;
    slri_header *header; /* each pointer: this process's address of a part of the region */
    slri_worker *workers;
    slri_run *runs;
    slri_callable *callables;
    uint32_t *buckets;
    slri_slot *slots;
    slri_edge *edges;
    slr_trace_event *trace;
    uint64_t *bitmap[SLRI_BITMAP_LEVELS];
    uint8_t *heap;
    slri_layout layout;
    int fd;
    /* Own, -1: none; set once under the lock, notify_fd also read without it; closed by slr_region_detach. */
    int notify_fd, alarm_fd;
    uint32_t owner; /* worker + 1 that attached in this process; 0: the parent. Stamped on the blocks it allocates */
    uint32_t n_wakes;
    uint32_t *wakes[SLRI_MAX_WAKES]; /* futexes to wake once the lock is free */
    bool notify;                     /* the eventfd is to be signalled once the lock is free */
    bool woke; /* this process has woken somebody since it last waited for a run; any thread's, also without the lock */
    slri_tracker *tracker; /* made by the first submission with ranges */
};

/* Stores a primary word: all that was stored before is there when it is, whenever this process may die. */
static inline void slri_commit(uint32_t *word, uint32_t value) {
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}
static inline void slri_commit_wide(uint64_t *word, uint64_t value) {
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static inline slr_id slri_id(uint32_t generation, uint32_t index) {
    return (uint64_t)generation << 32 | index;
}

/* Lets the other thread of a core run while this one spins. */
static inline void slri_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}

/* ---- lock.c ---- */
int slri_lock_init(slri_header *header);
void slri_lock(slr_region *region);         /* recovers when the last holder died changing something */
void slri_lock_to_read(slr_region *region); /* for who changes nothing: his death is then no harm */
void slri_unlock(slr_region *region);       /* then wakes whom slri_wake_later named */
void slri_wake_later(slr_region *region, uint32_t *word);
void slri_notify_later(slr_region *region);
/* For when somebody may have died between changing a word and waking its sleepers, or all must look up: changes and
 * wakes every doorbell, run word and the counts of progress.c. */
void slri_wake_everyone(slr_region *region);

/* ---- progress.c ---- */
void slri_progress(slr_region *region, uint32_t *word); /* one more on header.space or header.ends */

/* ---- wait.c ---- no lock needed */
int64_t slri_now_ns(void);
int64_t slri_deadline_ns(int64_t now_ns, int64_t timeout_ns);
/* Sleeps while *word == value. SLR_OK: look again; SLR_TIMEOUT, SLR_INTERRUPTED. */
int slri_sleep(const uint32_t *word, uint32_t value, int64_t deadline_ns);
/* Spins while *word == value and *length (NULL: none) is 0; false when until_ns passed first. */
bool slri_spin(const uint32_t *word, uint32_t value, const uint32_t *length, int64_t until_ns);

/* ---- heap.c ---- */
void slri_heap_init(slr_region *region);
/* No reference yet; 0: full. `reserve`: how much of it is kept back. */
uint64_t slri_heap_take(slr_region *region, uint64_t bytes, uint64_t reserve);
void slri_heap_untake(slr_region *region, uint64_t offset); /* in the same hold: nobody has missed it, or is told */
slri_block *slri_heap_live(slr_region *region, uint64_t offset); /* NULL: not the offset of a live block */
/* Of the live block that has this byte; 0: none. */
uint64_t slri_heap_start(const slr_region *region, uint64_t offset);
void slri_heap_keep(slr_region *region, uint64_t offset);
void slri_heap_unkeep(slr_region *region, uint64_t offset);
void slri_heap_adopt(slr_region *region, uint64_t offset); /* a process's reference becomes a kept one */
void slri_heap_disown(slr_region *region, uint32_t owner); /* ends the references of a process that died */
void slri_heap_forget(slr_region *region);                 /* recovery: no block is kept, bitmap rebuilt, ... */
void slri_heap_rebuild(slr_region *region);                /* ... and, kept references counted again, frees and bins */
static inline void *slri_heap_at(const slr_region *region, uint64_t offset) {
    return region->heap + offset;
}

/* ---- bitmap.c ---- bit n: the block whose bytes begin at line n of the heap is used */
void slri_bitmap_set(slr_region *region, uint64_t line);
void slri_bitmap_clear(slr_region *region, uint64_t line);
bool slri_bitmap_test(const slr_region *region, uint64_t line);
bool slri_bitmap_last(const slr_region *region, uint64_t line, uint64_t *found); /* the greatest set one <= line */
void slri_bitmap_wipe(slr_region *region);

/* ---- mailbox.c ---- */
void slri_mailbox_push(slr_region *region, uint32_t slot);
void slri_mailbox_return(slr_region *region, uint32_t slot); /* to the front of the queue that it was popped from */
void slri_mailbox_remove(slr_region *region, uint32_t slot);
void slri_mailbox_offer(slr_region *region, uint32_t worker); /* wakes it, if it sleeps and its queue has work for it */
uint32_t slri_mailbox_pop(slr_region *region, uint32_t worker);
void slri_mailbox_count(slr_region *region, uint32_t worker);            /* recovery: once for each worker */
bool slri_may_spin(const slr_region *region, const slri_worker *worker); /* or has to park at once */
void slri_mailbox_kick(slr_region *region);                              /* after a SUB worker stopped spinning */
/* Unlinks the slots of the run (0: of all), and returns them as a list by next. */
uint32_t slri_mailbox_drain(slr_region *region, slri_queue *queue, slr_id run);
void slri_worker_move(slr_region *region, uint32_t worker, slr_worker_state state);
void slri_worker_wake(slr_region *region, uint32_t worker); /* it counts as SPINNING from here on */
void slri_worker_call(slr_region *region, uint32_t worker); /* it has to look again, and stays what it is */
static inline bool slri_is_kind(const slri_worker *worker, slr_worker_kind kind) {
    return worker->kind == (uint32_t)kind + 1;
}
bool slri_worker_exists(const slr_region *region, uint32_t worker); /* no lock needed */

/* ---- worker.c ---- */
void slri_task_start(slr_region *region, uint32_t slot, uint32_t worker, int64_t now_ns); /* READY or GATHERING */

/* ---- death.c ---- */
/* The abandoned worker with whose error tasks for `target` fail; NULL while somebody may still take them. */
const slri_worker *slri_target_abandoned(const slr_region *region, uint32_t target);

/* ---- deadline.c ---- */
void slri_deadline_begin(slr_region *region, uint32_t slot); /* taken, about to be RUNNING */
/* INT64_MAX: its worker has no task with a timeout, or is condemned. */
int64_t slri_worker_deadline_ns(const slr_region *region, const slri_worker *worker);

/* ---- graph.c ---- */
typedef enum {
    SLRI_BUILD,
    SLRI_WAIT,
    SLRI_QUEUE,
    SLRI_JOIN,
    SLRI_LEAVE,
    SLRI_TAKE,
    SLRI_SUCCEED,
    SLRI_FAIL,
    SLRI_POISON,
    SLRI_CANCEL,
    SLRI_RELEASE,
    SLRI_EVENTS
} slri_event;
#define SLRI_STATES (SLR_TASK_CANCELLED + 1)
/* The next slr_task_state + 1; 0: no such transition. */
extern const uint8_t slri_transitions[SLRI_STATES][SLRI_EVENTS];
void slri_slot_move(slri_slot *slot, slri_event event);
slri_slot *slri_slot_find(const slr_region *region, slr_id task); /* NULL: stale */
uint32_t slri_slots_left(const slr_region *region);
uint32_t slri_slot_build(slr_region *region);
void slri_slot_release(slr_region *region, uint32_t slot);
void slri_edge_add(slr_region *region, uint32_t producer, uint32_t consumer, slri_dependence kind);
uint32_t slri_edges_left(const slr_region *region);
/* A group's slot has no arguments, worker or verdict of its own; run counters and traces are about its members. */
static inline bool slri_is_group(const slri_slot *slot) {
    return slot->members > 0;
}
/* Whether the watcher of this region's workers is to end it when it is late: see deadline.c. */
static inline bool slri_is_timed(const slri_slot *slot) {
    return slot->timeout_ns && slot->op != SLR_OP_SUB_CALL;
}
/* The last of the slot's fan-in is done: into a mailbox, or ended as its run, its root or its worker's end decide. */
void slri_task_arrive(slr_region *region, uint32_t slot, int64_t now_ns);
/* Ends a slot, and with it whatever that decides; the record's kept reference passes to the slot. */
void slri_task_end(slr_region *region, uint32_t slot, slri_event event, uint64_t record, uint64_t record_bytes,
                   int64_t now_ns);
/* The arguments' block begins with the offsets of the blocks kept for the task; this many bytes of it. */
static inline uint64_t slri_arguments_head(uint32_t n_blocks) {
    return ((uint64_t)n_blocks * sizeof(uint64_t) + 15) / 16 * 16;
}
static inline bool slri_task_live(uint32_t state) {
    return state >= SLR_TASK_BUILDING && state <= SLR_TASK_RUNNING;
}

/* ---- run.c ---- */
slri_run *slri_run_find(const slr_region *region, slr_id run); /* NULL: stale */
/* Whether a slot of the run stays, now that it has ended: with a record, unhappily, or in a stream. */
bool slri_run_retains(const slri_run *run, const slri_slot *slot);
void slri_run_retain(slr_region *region, slri_run *run, uint32_t slot);
void slri_run_tell(slr_region *region, slri_run *run, uint32_t bit); /* sets it in the run's word, wakes who waits */
void slri_run_drop_first(slr_region *region, slri_run *run);         /* of those that it retains */
/* What a waiter looks for, under the lock: SLR_TIMEOUT while there is nothing. run: NULL, stale. */
typedef int slri_run_look(const slr_region *region, slri_run *run, void *found);
/* No lock needed: waits as slr_run_success says, until `look` gives anything else. */
int slri_run_await(slr_region *region, slr_id run, uint32_t spin_us, int64_t timeout_ns, slri_run_look *look,
                   void *found);
void slri_run_settle(slr_region *region, slri_run *run, int64_t now_ns); /* ends it when sealed and nothing is live */

/* ---- group.c ---- */
/* A worker has popped a member: true when it was the last that was missing, and all of them are started. */
bool slri_group_join(slr_region *region, uint32_t worker, uint32_t member, int64_t now_ns);
/* A GATHERED worker is gone: another is to take its member. */
void slri_group_leave(slr_region *region, uint32_t worker);
void slri_group_cancel(slr_region *region, slr_id run, int64_t now_ns); /* the members that workers wait with */
void slri_group_abandon(slr_region *region, int64_t now_ns); /* fails the groups that lack workers for ever */
/* The abandoned worker with whose error a group fails; NULL while all its members may still be taken. */
const slri_worker *slri_group_abandoned(const slr_region *region, const slri_slot *group);

/* ---- tracker.c ---- */
typedef struct {
    uint32_t slot;
    slri_dependence kind;
} slri_producer;
typedef struct {
    const slri_producer *producers; /* distinct live slots */
    uint32_t n_producers;
    slr_id root; /* a task that already failed and poisons this one; 0: none */
} slri_dependencies;
int slri_tracker_collect(slr_region *region, const slr_submission *submission, slri_dependencies *out);
void slri_tracker_record(slr_region *region, const slr_submission *submission, slr_id task);
void slri_tracker_free(slri_tracker *tracker);

/* ---- submit.c ---- */
/* No lock needed: what can be told from the submission alone, and whose worker is defined. */
bool slri_submission_valid(const slr_region *region, const slr_submission *submission);
int slri_submission_check(slr_region *region, const slr_submission *submission); /* its run is open, its blocks live */
#define SLRI_NAMED_BUFFER (1ull << 63)
/* The range, as one of its block or named buffer; of no block where there is none. */
slr_range slri_range_in_block(const slr_region *region, const slr_range *range);
/* Whether there are so many slots for it, and edges; and what it depends on. */
int slri_submission_room(slr_region *region, const slr_submission *submission, uint32_t slots, slri_dependencies *on);
/* A block of the caller's for the arguments, 0 where there are none. */
int slri_submission_reserve(slr_region *region, const slr_submission *submission, uint64_t *staged);
/* No lock needed: copies them into it. */
void slri_submission_stage(slr_region *region, const slr_submission *submission, uint64_t staged);
/* A BUILDING slot that has the staged block (0: none) from here on, and its run's count. */
uint32_t slri_submission_build(slr_region *region, const slr_submission *submission, uint64_t staged, int64_t now_ns);
/* The slot waits for what it depends on, or arrives. */
void slri_submission_connect(slr_region *region, uint32_t slot, const slri_dependencies *on, int64_t now_ns);

/* ---- conflict.c ---- no lock needed
 * SLR_CONFLICT, and which two arguments of one submission write the same bytes. */
int slri_conflict_find(const slr_submission *submission, uint64_t *conflict);

/* ---- callable.c ---- */
uint32_t slri_callable_buckets(const slr_config *config);                           /* no lock needed */
slri_callable *slri_callable_find(const slr_region *region, const uint8_t *digest); /* NULL: none of that digest */
void slri_callables_rebuild(slr_region *region); /* recovery: contents kept again, index and free list rebuilt */

/* ---- trace.c ---- */
void slri_trace_add(slr_region *region, uint32_t slot, int64_t ended_ns);

/* ---- recover.c ---- */
void slri_recover(slr_region *region);

#endif
