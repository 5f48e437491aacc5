/*
 * The exhaustive explorer: the real core of native/, with the operating system under it replaced by one whose every
 * choice is enumerated.
 *
 * Processes are *actors*, coroutines of one program with a mapping of the region each. What the core asks of the system
 * (mutex, futex, clock, memory, eventfd) is redirected here when the program is linked (ld --wrap), and an actor stands
 * still wherever another may come between: before it gets the lock, before each futex call, while it spins, and, where
 * it may die, at each fault point. explore.c goes through every order of such steps depth first; states that are the
 * same byte for byte (region, stacks, private memory) are entered once.
 *
 * What is not explored: the order of memory accesses under the lock, and of the few words read without it (the thread
 * sanitizer sees those), and time, which stands still but where a deadline passes.
 */
#ifndef SIMPLER_TEST_EXPLORE_H
#define SIMPLER_TEST_EXPLORE_H

#include <setjmp.h>

#include "harness.h"
#include "region.h"

#define ACTORS       5
#define FIRST_WORKER 1      /* the actor that is worker 0 */
#define NOBODY       ACTORS /* the explorer itself: setting up, and looking on */
#define MOST_TASKS   6
#define STACK_BYTES  65536

/* Where an actor stands. */
typedef enum {
    ABSENT,
    FRESH,     /* its process has just begun */
    AT_LOCK,   /* before it gets the lock */
    AT_WAKE,   /* before FUTEX_WAKE */
    AT_SLEEP,  /* before FUTEX_WAIT */
    ASLEEP,    /* in it */
    AWOKEN,    /* and somebody has woken it */
    AT_SPIN,   /* watching a word */
    AT_FAULT,  /* holds the lock, and might die here */
    AT_EVENT,  /* waits for the eventfd */
    AT_WATCH,  /* waits for a worker to die */
    AT_GLANCE, /* before it does something without the lock */
    CONDEMNED, /* has to be killed */
    ENDED,
    KILLED,
} stand;

typedef enum { GOES_ON, SEES_A_CHANGE, IS_LATE, IS_INTERRUPTED, DIES } choice;

typedef struct {
    uint32_t stand; /* `stand` */
    uint32_t mortal;
    uint32_t replaces; /* one that died */
    uint32_t reserved;
    uint32_t value; /* asleep: what the word was */
    uint32_t holds; /* 1 + the task that it executes */
    uint64_t word;  /* asleep or waking: offset in the region */
    const uint32_t *watched;
    const uint32_t *length;
    int64_t until_ns;
    int64_t now_ns; /* its clock */
    const char *doing;
    void (*script)(uint32_t actor);
    slr_region *region;
    uint8_t *top_of_stack; /* the lowest byte in use */
    jmp_buf jump;
} actor;

/* What the tasks were seen to do: what the checks go by. */
typedef struct {
    uint8_t begun[MOST_TASKS]; /* how often */
    uint8_t done[MOST_TASKS];
    uint8_t by[MOST_TASKS];   /* which actor */
    uint8_t late[MOST_TASKS]; /* called so by the watcher */
    uint32_t submitted;
    uint32_t deaths;
    slr_id run;
    slr_id ids[MOST_TASKS];
    slr_id nodes[MOST_TASKS]; /* the same, or the group's */
} witness;

/* Everything that changes, but for the region, the stacks and the core's private memory. */
typedef struct {
    actor actors[ACTORS];
    uint32_t lock_owner;  /* actor + 1 */
    uint32_t lock_marked; /* its holder has died */
    uint32_t event;       /* the eventfd of the parent is readable */
    uint32_t alarm;       /* the watcher's */
    uint32_t deaths_left;
    uint32_t interrupts_left;
    uint32_t arena_used;
    uint64_t heap_bytes; /* of the heap: what is not one free block at its end */
    witness seen;
} explored_world;

extern explored_world world;

#define BEGINNING_NS 1000000000ll
#define ARENA_BYTES  (256u << 10)

/* ---- explore_world.c ---- */
extern uint32_t current; /* the actor that takes a step, or NOBODY */
extern choice chosen;    /* what happens to it */
extern jmp_buf scheduler;
extern bool failed; /* it has broken a rule */
extern slr_region *observer;
extern uint8_t stacks[ACTORS][STACK_BYTES];
uint64_t stack_bytes(const actor *a, uint32_t index); /* in use */
bool sees_change(const actor *a);
void world_create(const slr_config *config); /* the region, and a mapping of it for each actor */
void world_spawn(uint32_t actor, void (*script)(uint32_t actor), bool mortal);
void world_share_process(uint32_t actor, uint32_t with); /* a second thread of that actor's process */
void world_respawn(uint32_t actor);                      /* the same script from its beginning, in a new process */
void world_kill(uint32_t actor);                         /* it dies here, if it lives */
void world_forget_private(uint32_t actor);               /* what its process knows of what it has submitted */
slr_region *world_region(uint32_t actor);
uint32_t world_choices(uint32_t actor, choice *out);
bool world_is_local(uint32_t actor); /* what it does next nobody else can see, or prevent */
void world_step(uint32_t actor, choice chosen);
void pause_at(stand where); /* by a script */
void doing(const char *what);

/* ---- explore_states.c ---- */
void world_forget(void); /* the lock is free */
void world_measure_heap(void);
uint64_t world_bytes(void);
void world_save(uint8_t *to);
void world_restore(const uint8_t *from);
void world_hash(uint64_t hash[2]);

/* ---- explore_system.c ---- */
extern uint8_t arena[ARENA_BYTES];  /* the actors' private memory */
void *explorer_alloc(size_t bytes); /* memory that is not part of the world */
void explorer_free(void *bytes);

/* ---- plans ---- */
enum { SUCCEEDS, FAILS, RETURNS };

typedef struct {
    uint8_t begin, end, access; /* bytes of the one buffer */
} touched;

typedef struct {
    touched ranges[2];
    uint32_t after;  /* a bit for each task */
    uint32_t worker; /* 1 + the worker it is for; 0: any */
    uint32_t others; /* this and so many next ones are a group */
    int ends;
    bool timed; /* has a timeout, which may pass at any time */
} planned;

/* One scenario's settings; the same in every world of it. */
typedef struct {
    planned tasks[MOST_TASKS];
    uint32_t n_tasks;
    slr_worker_kind kinds[3];
    uint32_t workers;
    uint32_t runs;
    uint32_t slots;
    uint32_t spin_us;
    uint32_t deaths;
    uint32_t interrupts;
    bool gives_up; /* a worker that died is abandoned, not replaced */
    bool cancels;  /* a thread of the parent, at any time */
    bool closes;   /* the same */
    bool streams;  /* the runs are streams: their tasks are reaped one by one */
} explored_plan;

extern explored_plan plan;

/* ---- explore_reference.c ---- */
uint32_t first_of_node(uint32_t task); /* the first member of its group, or itself */
bool ordered(uint32_t first, uint32_t second);
bool counts_on(uint32_t task, uint32_t producer);

/* ---- explore_players.c ---- */
void build_world(void);
void scenario_check_end(void); /* of a world in which every actor has ended */

/* ---- explore_scenarios.c ---- */
typedef struct {
    const char *name;
    void (*set_up)(void);
} scenario;
extern const scenario scenarios[];
extern const size_t n_scenarios;

/* ---- explore.c ---- */
_Noreturn void explorer_failed(void); /* says by which steps it came here */

#endif
