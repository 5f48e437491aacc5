/*
 * What lies in a region, byte for byte: header, workers, runs, callables and their index, slots, edges, trace ring,
 * block bitmap, heap.
 *
 * Every word is guarded by header.lock unless its comment says otherwise. Words marked "primary" are each changed by
 * one store (slri_commit) and are what recover.c trusts after a holder of the lock has died; the rest is derived from
 * them. Links are indices, SLRI_NONE where there is none. Offsets into the heap count from its first byte.
 */
#ifndef SLRI_LAYOUT_H
#define SLRI_LAYOUT_H

#include <pthread.h>
#include <stdalign.h>
#include <stdint.h>

#include "simpler.h"

#define SLRI_MAGIC         0x4652474c504d4953ull /* "SIMPLGRF" on a little-endian machine */
#define SLRI_VERSION       1
#define SLRI_LINE          64
#define SLRI_NONE          0xffffffffu
#define SLRI_MAX_WORKERS   4096
#define SLRI_BINS          48
#define SLRI_BITMAP_LEVELS 7

typedef struct {
    uint32_t head;
    uint32_t tail;
    uint32_t length; /* of the shared queue: also read without the lock, by those who spin */
} slri_queue;

/* A run's word, the space word and the ends word are futexes: a sleeper sets WAITED under the lock and sleeps on the
 * value it then has; whoever changes the word clears WAITED, and wakes only when it was set. */
#define SLRI_WORD_ENDED    1u
#define SLRI_WORD_WAITED   2u
#define SLRI_WORD_RETAINED 4u /* a stream's: it has something to reap */
#define SLRI_WORD_WOKEN    8u /* a stream's: whoever reaps is to return */
#define SLRI_WORD_STEP     16u

typedef struct {
    uint64_t magic; /* stored last at creation */
    uint32_t version;
    uint32_t header_bytes;
    uint64_t region_bytes;
    slr_config config;

    alignas(SLRI_LINE) pthread_mutex_t lock;
    uint32_t changing; /* primary: 1 while the holder of the lock may have left something half changed */
    alignas(SLRI_LINE) uint32_t closed; /* 0 -> 1 once; also read without the lock */
    /* Futexes: SLRI_WORD_STEP more each time anything is freed, and each time a run ends; also read without the lock.
     */
    alignas(SLRI_LINE) uint32_t space;
    alignas(SLRI_LINE) uint32_t ends;

    alignas(SLRI_LINE) slri_queue shared; /* derived */
    uint32_t spinning;                    /* derived: SUB workers in SPINNING */
    uint32_t spinners;                    /* how many SUB workers may spin at once; never changes */
    uint32_t parked;                      /* derived: stack of SUB workers in PARKED, by worker.parked_next */
    uint32_t slots_free;                  /* derived: free list by slot.next */
    uint32_t slots_fresh;                 /* primary: slots from here on have never been used */
    uint32_t slots_used;                  /* derived */
    uint32_t edges_free;                  /* derived: free list by edge.next */
    uint32_t edges_fresh;                 /* derived: edges from here on are not on the free list, and free */
    uint32_t edges_used;                  /* derived */
    uint32_t callables_free;              /* derived: free list by callable.next */
    uint32_t callables_fresh;             /* derived: callables from here on are not on the free list, and empty */
    uint32_t runs_live;                   /* derived: OPEN or SEALED */
    uint32_t runs_next;                   /* where to look first for a free run */
    uint32_t recoveries;
    uint32_t sub_abandoned; /* primary: 1 + the worker that was the last SUB worker to be given up; 0: some are left */
    uint64_t live;          /* derived: tasks that have not ended */
    uint64_t tasks;         /* ended, ever */
    uint64_t failures;      /* of them FAILED */
    uint64_t poisoned;      /* of them POISONED */
    uint64_t cancelled;     /* of them CANCELLED */
    uint64_t trace_count;   /* events ever written */
    int64_t alarm_ns;       /* primary: when the watcher looks next; no later than any deadline of a RUNNING task */

    alignas(SLRI_LINE) uint64_t heap_used; /* derived: bytes of used blocks, headers included */
    uint64_t heap_peak;
    uint64_t heap_serial; /* blocks ever allocated */
    uint64_t bin_mask;    /* derived: bit b: bins[b] is not empty */
    /* Derived: the first free block of 2^b..2^(b+1)-1 lines, as its header's offset + 1; 0: none. */
    uint64_t bins[SLRI_BINS];
} slri_header;

typedef struct {
    alignas(SLRI_LINE) uint32_t doorbell; /* futex; changed under the lock, also read without it by its worker */
    alignas(SLRI_LINE) uint32_t state;    /* primary: slr_worker_state */
    uint32_t kind;                        /* primary: slr_worker_kind + 1; 0: not defined */
    int32_t pid;
    uint32_t deaths;
    uint32_t abandoned;       /* primary: will never be re-attached */
    uint32_t condemned;       /* primary: its task was late; what it does counts no more, until re-attached */
    uint32_t timed;           /* derived: the RUNNING slot with a timeout that it holds, not REMOTE */
    slri_queue queue;         /* derived */
    uint32_t parked_next;     /* derived */
    uint32_t parked_previous; /* derived */
    uint64_t tasks;
    uint64_t failures;
    uint64_t record; /* primary: what tasks for an abandoned worker fail with */
    uint64_t record_bytes;
    uint32_t held;   /* derived: RUNNING tasks that it has taken */
    uint32_t member; /* derived, GATHERED: the slot that it waits with, or that was started for it; else SLRI_NONE */
} slri_worker;

typedef enum { SLRI_RUN_FREE = 0, SLRI_RUN_OPEN = 1, SLRI_RUN_SEALED = 2, SLRI_RUN_ENDED = 3 } slri_run_state;

typedef struct {
    /* Derived, futex: generation * SLRI_WORD_STEP | flags; also read without the lock. */
    alignas(SLRI_LINE) uint32_t word;
    alignas(SLRI_LINE) uint32_t state; /* primary: slri_run_state */
    uint32_t generation;               /* primary: changed while FREE */
    uint32_t flags;                    /* primary: changed while FREE */
    uint32_t cancelled;                /* primary */
    uint32_t lost;                     /* primary */
    /* Derived: slots that slri_run_retains, by slot.next, in the order they ended. */
    uint32_t retained_head;
    uint32_t retained_tail;
    uint32_t retained; /* derived: how many there are */
    uint64_t tasks;
    uint64_t live;       /* derived */
    uint64_t failed;     /* derived */
    uint64_t poisoned;   /* derived */
    slr_id first_failed; /* derived */
    int64_t begun_ns;
    int64_t ended_ns;
} slri_run;

typedef struct {
    uint32_t state;      /* primary: slr_task_state */
    uint32_t generation; /* primary: changed while FREE */
    slr_id run;          /* primary */
    uint32_t target;     /* primary: worker or SLR_ANY_SUB */
    uint32_t taker;      /* primary: SLR_ANY_SUB until it is taken, or a worker waits with it */
    uint32_t op;
    uint32_t fan_in;   /* derived: edges that lead here */
    uint32_t edges;    /* derived: first edge to a consumer */
    uint32_t next;     /* derived: in a free list, a queue, a worklist or a run's retained list */
    uint32_t verdict;  /* derived: on a worklist: the event that ends it */
    uint32_t n_blocks; /* primary: how many block offsets stand at the start of the arguments' block */
    uint64_t args;     /* primary: the arguments' block, 0: none */
    uint64_t args_bytes;

    uint64_t record; /* primary */
    uint64_t record_bytes;
    slr_id root;          /* FAILED task that poisons this one, 0: none */
    uint64_t ended_order; /* header.tasks when it ended */
    int64_t submitted_ns;
    int64_t ready_ns;
    int64_t started_ns;
    int64_t timeout_ns; /* 0: none */

    uint8_t digest[SLR_DIGEST_BYTES];
    uint32_t leader;  /* primary: a live member's: the slot of its group; SLRI_NONE: is no member */
    uint32_t members; /* primary: a group's: how many it was submitted with; 0: is no group */
    uint32_t member;  /* derived, until it starts: a group's first member, a member's next */
    uint32_t missing; /* primary in that 0 says that a group has started: its members that have no worker yet */
    uint32_t unended; /* derived: a group's members that are live */
    uint8_t pad[12];
} slri_slot;

typedef enum { SLRI_ORDER = 0, SLRI_DATA = 1 } slri_dependence; /* DATA: the producer's failure poisons the consumer */

typedef struct {
    uint32_t next;
    uint32_t consumer;
    uint32_t kind; /* slri_dependence */
} slri_edge;

typedef struct {
    uint32_t state; /* primary: 0 empty, 1 used */
    uint32_t kind;
    uint32_t references; /* primary */
    uint32_t next;       /* derived: in the free list */
    uint64_t content;    /* primary */
    uint64_t content_bytes;
    uint8_t digest[SLR_DIGEST_BYTES];
} slri_callable;

/* Stands before every block of the heap, used or free; blocks follow one another without gaps. */
typedef struct {
    uint64_t extent;   /* primary: bytes up to the next header, a multiple of SLRI_LINE, | SLRI_BLOCK_USED */
    uint64_t previous; /* derived: bytes back to the previous header, 0 for the first */
    uint32_t held;     /* primary: references that processes hold */
    uint32_t owner;    /* primary: worker + 1 whose process has the references, which end with it. 0: the parent */
    uint32_t kept;     /* derived: references of slots, callables and abandoned workers */
    uint32_t reserved;
    uint64_t serial;   /* tells blocks apart that had the same place */
    uint64_t bytes;    /* as asked for */
    uint64_t bin_next; /* derived: header offset + 1, 0: none; free blocks only */
    uint64_t bin_previous;
} slri_block;

#define SLRI_BLOCK_USED 1ull

/* Part of every heap, on top of what was asked for: for error records alone, so that a full heap hides no failure. */
#define SLRI_RESERVE_BYTES (64ull << 10)

_Static_assert(sizeof(slri_slot) == 3 * SLRI_LINE, "a slot is three cache lines");
_Static_assert(sizeof(slri_block) == SLRI_LINE, "a block header is one cache line");
_Static_assert(sizeof(slri_worker) == 3 * SLRI_LINE, "the doorbell has a line of its own");
_Static_assert(sizeof(slri_run) == 3 * SLRI_LINE, "a run's word has a line of its own");
_Static_assert(sizeof(slri_edge) == 12, "edges are small");
_Static_assert(sizeof(slr_trace_event) == 96, "a trace event has no hidden padding");
_Static_assert(sizeof(pthread_mutex_t) + sizeof(uint32_t) <= SLRI_LINE, "the lock has a line of its own");

/* Where each part begins, counted from the region's first byte. A function of the configuration alone. */
typedef struct {
    uint64_t workers;
    uint64_t runs;
    uint64_t callables;
    uint64_t buckets; /* of the index of callables */
    uint64_t slots;
    uint64_t edges;
    uint64_t trace;
    uint64_t bitmap[SLRI_BITMAP_LEVELS]; /* level 0: a bit per heap line; each further one: a bit per word of the one
                                            before */
    uint64_t bitmap_end;
    uint64_t heap;
    uint64_t region_bytes;
    uint32_t bitmap_levels;
} slri_layout;

#endif
