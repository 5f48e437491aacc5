/* The actors of the explorer: coroutines, and the processes they stand for. See explore.h. */
#include <sys/eventfd.h>
#include <ucontext.h>

#include "explore.h"

#define CLEARED_BELOW 4096 /* of a stack, so that what a call leaves behind makes no two states differ */

explored_world world;
uint32_t current = NOBODY;
choice chosen;
jmp_buf scheduler;
static ucontext_t beginning;
bool failed;
static uint32_t first_arena_used;
uint8_t stacks[ACTORS][STACK_BYTES] __attribute__((aligned(64)));
slr_region *observer;
static slr_region pristine[ACTORS]; /* each actor's mapping as a new process has it */

/* ---- coroutines ---- */

__attribute__((noinline)) static uint8_t *stack_pointer(void) {
    return __builtin_frame_address(0);
}

void pause_at(stand where) {
    if (current == NOBODY)
        return;
    actor *me = &world.actors[current];
    me->stand = where;
    me->top_of_stack = stack_pointer();
    if (_setjmp(me->jump) == 0)
        longjmp(scheduler, 1);
    me->word = me->until_ns = me->value = 0;
    me->watched = me->length = NULL;
}

static void begin(void) {
    actor *me = &world.actors[current];
    me->script(current);
    me->stand = ENDED;
    me->doing = "nothing more";
    longjmp(scheduler, 1);
}

/* Always with the same registers, which its first frames save. */
static void start(uint32_t index) {
    ucontext_t context = beginning;
    memset(stacks[index], 0, STACK_BYTES);
    context.uc_stack.ss_sp = stacks[index];
    context.uc_stack.ss_size = STACK_BYTES;
    makecontext(&context, begin, 0);
    setcontext(&context);
}

uint64_t stack_bytes(const actor *a, uint32_t index) {
    bool has = a->stand > FRESH && a->stand < ENDED;
    return has ? (uint64_t)(stacks[index] + STACK_BYTES - a->top_of_stack) : 0;
}

static void leave_no_traces(uint32_t index) {
    actor *a = &world.actors[index];
    if (stack_bytes(a, index)) {
        uint64_t below = (uint64_t)(a->top_of_stack - stacks[index]);
        CHECK(below > CLEARED_BELOW);
        memset(a->top_of_stack - CLEARED_BELOW, 0, CLEARED_BELOW);
    } else {
        memset(a->jump, 0, sizeof a->jump);
        a->top_of_stack = NULL;
    }
}

/* Frees what the process has of its own, as at its end. */
void world_forget_private(uint32_t index) {
    world.actors[index].region->tracker = NULL;
    world.arena_used = first_arena_used;
}

void world_step(uint32_t index, choice what) {
    actor *a = &world.actors[index];
    if (what == DIES) {
        world.deaths_left--;
        world_kill(index);
    } else {
        current = index;
        chosen = what;
        if (_setjmp(scheduler) == 0) {
            if (a->stand == FRESH)
                start(index);
            else
                longjmp(a->jump, 1);
        }
    }
    current = NOBODY;
    if (failed)
        explorer_failed();
    leave_no_traces(index);
    if (!world.lock_owner && !world.lock_marked)
        world_forget();
    world_measure_heap();
}

/* ---- processes ---- */

/* Zeroes the stack below its caller, where a call is about to lay its frames over those of the one before. */
__attribute__((noinline)) static void scrub_stack(void) {
    uint8_t below[CLEARED_BELOW];
    memset(below, 0, sizeof below);
    __asm__ volatile("" : : "r"(below) : "memory");
}

void doing(const char *what) {
    if (current == NOBODY)
        return;
    scrub_stack();
    world.actors[current].doing = what;
    world.actors[current].now_ns = BEGINNING_NS; /* only what passes during a call counts */
}

slr_region *world_region(uint32_t index) {
    return index == NOBODY ? observer : world.actors[index].region;
}

void world_create(const slr_config *config) {
    world = (explored_world){0};
    CHECK(!config->trace_events); /* they tell time */
    OK(slr_region_create(config, &observer));
    observer->header->spinners = 1; /* whatever machine this is */
    getcontext(&beginning);
    int fd = eventfd(0, EFD_CLOEXEC);
    for (uint32_t i = 0; i < ACTORS; i++) {
        OK(slr_region_attach(slr_region_fd(observer), &world.actors[i].region));
        OK(slr_region_set_notify_fd(world.actors[i].region, fd));
        OK(slr_region_set_alarm_fd(world.actors[i].region, fd));
        pristine[i] = *world.actors[i].region;
    }
    first_arena_used = world.arena_used;
    world_measure_heap();
}

void world_spawn(uint32_t index, void (*script)(uint32_t), bool mortal) {
    actor *a = &world.actors[index];
    a->script = script;
    a->mortal = mortal;
    a->stand = FRESH;
    a->now_ns = BEGINNING_NS;
    a->doing = "nothing yet";
}

void world_share_process(uint32_t index, uint32_t with) {
    world.actors[index].region = world.actors[with].region;
}

void world_respawn(uint32_t index) {
    actor *a = &world.actors[index];
    *a->region = pristine[index];
    world_spawn(index, a->script, a->mortal);
    a->replaces = 1;
}

void world_kill(uint32_t index) {
    actor *a = &world.actors[index];
    if (a->stand >= ENDED)
        return;
    a->stand = KILLED;
    a->doing = "its last moments";
    a->word = a->until_ns = a->value = 0;
    a->watched = a->length = NULL;
    a->now_ns = BEGINNING_NS;
    world.seen.deaths++;
    if (world.lock_owner != index + 1)
        return;
    world.lock_owner = 0;
    world.lock_marked = 1;
}

static bool somebody_to_bury(void) {
    for (uint32_t i = 0; i < ACTORS; i++)
        if (world.actors[i].stand == KILLED)
            return true;
    return world.actors[0].stand == ENDED;
}

bool sees_change(const actor *a) {
    return *a->watched != a->value || (a->length && *a->length);
}

/* Beginning, and returning from a system call that is over. The words slept on never come back to an old value. */
bool world_is_local(uint32_t index) {
    const actor *a = &world.actors[index];
    if (a->stand == AT_SLEEP)
        return *(const uint32_t *)(a->region->base + a->word) != a->value;
    return a->stand == FRESH || a->stand == AWOKEN;
}

/* What may happen to an actor now. */
uint32_t world_choices(uint32_t index, choice *out) {
    const actor *a = &world.actors[index];
    uint32_t n = 0;
    bool stays = a->stand == ABSENT || a->stand >= ENDED || a->stand == ASLEEP || a->stand == AT_SPIN ||
                 (a->stand == AT_LOCK && world.lock_owner) || (a->stand == AT_EVENT && !world.event) ||
                 (a->stand == AT_WATCH && !somebody_to_bury() && !world.alarm) || a->stand == CONDEMNED;
    if (!stays)
        out[n++] = GOES_ON;
    if (a->stand == AT_SPIN && sees_change(a))
        out[n++] = SEES_A_CHANGE;
    bool tasks_may_be_late = a->stand == AT_WATCH && observer->header->alarm_ns != INT64_MAX;
    if (a->stand == AT_SPIN || (a->stand == ASLEEP && a->until_ns != INT64_MAX) || tasks_may_be_late)
        out[n++] = IS_LATE;
    if (a->stand == ASLEEP && world.interrupts_left)
        out[n++] = IS_INTERRUPTED;
    if (a->mortal && a->stand != ABSENT && a->stand < ENDED && world.deaths_left)
        out[n++] = DIES;
    return n;
}
