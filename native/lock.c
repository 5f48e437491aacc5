/*
 * The one lock of a region, and the wake-ups that its holder owes.
 *
 * It is a robust process-shared mutex (pthread_mutexattr_setrobust(3)): when its holder dies the kernel gives it to the
 * next locker. header.changing tells him whether he has to recover: it stands while a holder may have left something
 * half changed, that is, until whoever changes or recovers is done. A holder that only reads never sets it, so his
 * death costs no run.
 *
 * A holder that has changed a futex names it with slri_wake_later; the system call follows the unlock. One that dies in
 * between leaves its sleepers asleep: slr_worker_died and recovery wake everyone.
 */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "region.h"

#define TRIES 200 /* a holder needs well under a microsecond; sleeping on the mutex costs several */

int slri_lock_init(slri_header *header) {
    pthread_mutexattr_t attributes;
    int rc = pthread_mutexattr_init(&attributes);
    if (rc == 0)
        rc = pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    if (rc == 0)
        rc = pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    if (rc == 0)
        rc = pthread_mutex_init(&header->lock, &attributes);
    pthread_mutexattr_destroy(&attributes);
    errno = rc;
    return rc ? SLR_SYSTEM : SLR_OK;
}

static int acquire(pthread_mutex_t *lock) {
    for (int i = 0; i < TRIES; i++) {
        int rc = pthread_mutex_trylock(lock);
        if (rc != EBUSY)
            return rc;
        slri_pause();
    }
    return pthread_mutex_lock(lock);
}

static void lock(slr_region *region) {
    slri_header *header = region->header;
    int rc = acquire(&header->lock);
    if (rc == EOWNERDEAD)
        rc = pthread_mutex_consistent(&header->lock);
    assert(rc == 0);
    if (header->changing) {
        slri_recover(region);
        slri_commit(&header->changing, 0);
    }
}

void slri_lock_to_read(slr_region *region) {
    lock(region);
    SLRI_FAULT("read:locked");
}

void slri_lock(slr_region *region) {
    lock(region);
    slri_commit(&region->header->changing, 1);
    atomic_signal_fence(memory_order_seq_cst); /* what follows is stored after it, by this process's own order */
}

static void wake(const uint32_t *word) {
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX);
}

static void signal_notify_fd(const slr_region *region) {
    int fd = __atomic_load_n(&region->notify_fd, __ATOMIC_RELAXED);
    uint64_t one = 1;
    if (fd < 0)
        return;
    /* EAGAIN: the counter is at its limit, so the reader has been told. There is nobody to tell anything else. */
    ssize_t written = write(fd, &one, sizeof one);
    (void)written;
}

void slri_unlock(slr_region *region) {
    uint32_t n = region->n_wakes;
    bool notify = region->notify;
    uint32_t *words[SLRI_MAX_WAKES];
    for (uint32_t i = 0; i < n; i++)
        words[i] = region->wakes[i];
    region->n_wakes = 0;
    region->notify = false;
    slri_commit(&region->header->changing, 0);
    int rc = pthread_mutex_unlock(&region->header->lock);
    assert(rc == 0);
    if (n) {
        __atomic_store_n(&region->woke, true, __ATOMIC_RELAXED);
        SLRI_FAULT("unlocked:waking");
    }
    for (uint32_t i = 0; i < n; i++)
        wake(words[i]);
    if (notify)
        signal_notify_fd(region);
}

void slri_wake_later(slr_region *region, uint32_t *word) {
    if (region->n_wakes == SLRI_MAX_WAKES)
        wake(word); /* under the lock: FUTEX_WAKE does not sleep */
    else
        region->wakes[region->n_wakes++] = word;
}

void slri_notify_later(slr_region *region) {
    region->notify = true;
}

static void change_and_wake(uint32_t *word, uint32_t value) {
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
    wake(word);
}

void slri_wake_everyone(slr_region *region) {
    const slr_config *config = &region->header->config;
    for (uint32_t i = 0; i < config->workers; i++)
        if (region->workers[i].kind)
            change_and_wake(&region->workers[i].doorbell, region->workers[i].doorbell + 1);
    for (uint32_t i = 0; i < config->runs; i++)
        if (region->runs[i].state != SLRI_RUN_FREE)
            change_and_wake(&region->runs[i].word, region->runs[i].word & ~SLRI_WORD_WAITED);
    uint32_t *counts[] = {&region->header->space, &region->header->ends};
    for (uint32_t i = 0; i < sizeof counts / sizeof *counts; i++)
        change_and_wake(counts[i], (*counts[i] & ~SLRI_WORD_WAITED) + SLRI_WORD_STEP);
    slri_notify_later(region);
}
