/* The operating system that the actors of the explorer see: each function stands for one that ld --wrap takes from the
 * core. See explore.h. */
#include <errno.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <time.h>

#include "explore.h"

#define ARENA_ALIGNMENT 16

void __wrap_abort(void);
void *__real_malloc(size_t bytes);
void __real_free(void *bytes);

uint8_t arena[ARENA_BYTES] __attribute__((aligned(ARENA_ALIGNMENT)));

int __wrap_pthread_mutex_trylock(pthread_mutex_t *lock) {
    (void)lock;
    pause_at(AT_LOCK);
    CHECK(world.lock_owner == 0);
    world.lock_owner = current + 1;
    return world.lock_marked ? EOWNERDEAD : 0;
}

int __wrap_pthread_mutex_lock(pthread_mutex_t *lock) {
    (void)lock;
    CHECK(!"the lock was not free when it was tried");
    return EINVAL;
}

int __wrap_pthread_mutex_consistent(pthread_mutex_t *lock) {
    (void)lock;
    CHECK(world.lock_owner == current + 1 && world.lock_marked);
    world.lock_marked = 0;
    return 0;
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *lock) {
    (void)lock;
    CHECK(world.lock_owner == current + 1 && !world.lock_marked);
    world.lock_owner = 0;
    return 0;
}

static uint64_t offset_of(const uint32_t *word) {
    return (uint64_t)((const uint8_t *)word - world_region(current)->base);
}

static void stand_at_word(stand where, const uint32_t *word, uint32_t value, int64_t until_ns) {
    actor *me = &world.actors[current];
    me->word = offset_of(word);
    me->value = value;
    me->until_ns = until_ns;
    pause_at(where);
}

static long futex_wait(const uint32_t *word, uint32_t value, const struct timespec *until) {
    CHECK(current != NOBODY);
    int64_t until_ns = until ? until->tv_sec * 1000000000ll + until->tv_nsec : INT64_MAX;
    stand_at_word(AT_SLEEP, word, value, until_ns);
    if (*word != value) {
        errno = EAGAIN;
        return -1;
    }
    stand_at_word(ASLEEP, word, value, until_ns);
    if (chosen == GOES_ON)
        return 0;
    errno = chosen == IS_LATE ? ETIMEDOUT : EINTR;
    if (chosen == IS_LATE)
        world.actors[current].now_ns = until_ns;
    else
        world.interrupts_left--;
    return -1;
}

/* One that holds the lock wakes without a stop: nobody could do anything meanwhile that he could not before or after.
 */
static long futex_wake(const uint32_t *word) {
    uint64_t offset = offset_of(word);
    if (current != NOBODY && world.lock_owner != current + 1) {
        world.actors[current].word = offset;
        pause_at(AT_WAKE);
    }
    for (uint32_t i = 0; i < ACTORS; i++)
        if (world.actors[i].stand == ASLEEP && world.actors[i].word == offset)
            world.actors[i].stand = AWOKEN;
    return 0;
}

long __wrap_syscall(long number, ...) {
    va_list arguments;
    va_start(arguments, number);
    const uint32_t *word = va_arg(arguments, const uint32_t *);
    int operation = va_arg(arguments, int);
    uint32_t value = va_arg(arguments, uint32_t);
    const struct timespec *until = operation == FUTEX_WAIT_BITSET ? va_arg(arguments, const struct timespec *) : NULL;
    va_end(arguments);
    CHECK(number == SYS_futex && (operation == FUTEX_WAKE || operation == FUTEX_WAIT_BITSET));
    return operation == FUTEX_WAKE ? futex_wake(word) : futex_wait(word, value, until);
}

bool __wrap_slri_spin(const uint32_t *word, uint32_t value, const uint32_t *length, int64_t until_ns) {
    CHECK(current != NOBODY);
    actor *me = &world.actors[current];
    me->watched = word;
    me->length = length;
    me->value = value;
    me->until_ns = until_ns;
    if (until_ns <= me->now_ns)
        return sees_change(me);
    pause_at(AT_SPIN);
    if (chosen == IS_LATE)
        me->now_ns = until_ns;
    return chosen == SEES_A_CHANGE;
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *out) {
    int64_t now_ns = current == NOBODY ? BEGINNING_NS : world.actors[current].now_ns;
    CHECK(clock == CLOCK_MONOTONIC);
    *out = (struct timespec){.tv_sec = now_ns / 1000000000, .tv_nsec = now_ns % 1000000000};
    return 0;
}

ssize_t __wrap_write(int fd, const void *bytes, size_t n) {
    (void)bytes;
    *(fd == world_region(current)->notify_fd ? &world.event : &world.alarm) = 1;
    return (ssize_t)n;
}

/* Makes the core wipe by hand: giving pages back costs a system call. */
int __wrap_madvise(void *at, size_t bytes, int advice) {
    (void)at;
    (void)bytes;
    (void)advice;
    return -1;
}

void slri_fault(const char *point) {
    bool locked = strncmp(point, "unlocked:", 9) != 0;
    if (current == NOBODY || !locked || !world.actors[current].mortal || !world.deaths_left)
        return;
    const char *was_doing = world.actors[current].doing;
    world.actors[current].doing = point;
    pause_at(AT_FAULT);
    world.actors[current].doing = was_doing;
}

/* The explorer's own stack is left to tell of it. */
void __wrap_abort(void) {
    failed = true;
    if (current == NOBODY)
        explorer_failed();
    longjmp(scheduler, 1);
}

void __wrap___assert_fail(const char *condition, const char *file, unsigned line, const char *function) {
    fprintf(stderr, "%s:%u: %s: not so: %s\n", file, line, function, condition);
    __wrap_abort();
}

/* ---- private memory: never given back, since a path is short ---- */

void *__wrap_calloc(size_t n, size_t bytes) {
    uint32_t at = world.arena_used;
    CHECK(n * bytes < ARENA_BYTES - at - ARENA_ALIGNMENT);
    world.arena_used += (uint32_t)(n * bytes + ARENA_ALIGNMENT - 1) / ARENA_ALIGNMENT * ARENA_ALIGNMENT;
    memset(arena + at, 0, world.arena_used - at);
    return arena + at;
}

void *__wrap_malloc(size_t bytes) {
    return __wrap_calloc(1, bytes);
}

/* The old bytes are followed by others of the arena: what is copied too much is overwritten before it is read. */
void *__wrap_reallocarray(void *old, size_t n, size_t bytes) {
    uint8_t *grown = __wrap_calloc(n, bytes);
    size_t behind = old ? (size_t)(grown - (uint8_t *)old) : 0;
    if (old)
        memcpy(grown, old, n * bytes < behind ? n * bytes : behind);
    return grown;
}

void __wrap_free(void *bytes) {
    (void)bytes;
}

void *explorer_alloc(size_t bytes) {
    void *got = __real_malloc(bytes);
    CHECK(got);
    return got;
}

void explorer_free(void *bytes) {
    __real_free(bytes);
}
