/*
 * The clock, futexes and spinning: everything that waits. Sources: futex(2), clock_gettime(2).
 *
 * Futexes here are shared between processes, so FUTEX_PRIVATE_FLAG is never used. FUTEX_WAIT_BITSET is taken for its
 * absolute deadline on CLOCK_MONOTONIC.
 */
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "region.h"

#define NS_PER_S       1000000000ll
#define SPINS_PER_LOOK 32   /* looks at the words between two looks at the clock */
#define YIELD_AFTER_NS 1000 /* then a spinner lets others have the core: the one it waits for may need it */

int64_t slri_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * NS_PER_S + now.tv_nsec;
}

int64_t slri_deadline_ns(int64_t now_ns, int64_t timeout_ns) {
    return timeout_ns < 0 || timeout_ns > INT64_MAX - now_ns ? INT64_MAX : now_ns + timeout_ns;
}

int slri_sleep(const uint32_t *word, uint32_t value, int64_t deadline_ns) {
    struct timespec until = {.tv_sec = deadline_ns / NS_PER_S, .tv_nsec = deadline_ns % NS_PER_S};
    long rc = syscall(SYS_futex, word, FUTEX_WAIT_BITSET, value, deadline_ns == INT64_MAX ? NULL : &until, NULL,
                      FUTEX_BITSET_MATCH_ANY);
    if (rc == 0 || errno == EAGAIN)
        return SLR_OK;
    assert(errno == ETIMEDOUT || errno == EINTR);
    return errno == EINTR ? SLR_INTERRUPTED : SLR_TIMEOUT;
}

/* Relaxed loads: whoever sees a change takes the lock before it believes anything. */
bool slri_spin(const uint32_t *word, uint32_t value, const uint32_t *length, int64_t until_ns) {
    int64_t begun = slri_now_ns();
    for (;;) {
        for (int i = 0; i < SPINS_PER_LOOK; i++) {
            if (__atomic_load_n(word, __ATOMIC_RELAXED) != value ||
                (length && __atomic_load_n(length, __ATOMIC_RELAXED)))
                return true;
            slri_pause();
        }
        int64_t now = slri_now_ns();
        if (now >= until_ns)
            return false;
        if (now - begun > YIELD_AFTER_NS)
            sched_yield();
    }
}
