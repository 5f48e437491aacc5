/*
 * Runs: OPEN for submissions -> SEALED -> ENDED with the last task -> FREE when released.
 *
 * A run's word is what its waiters sleep on: the generation with a few bits, so one word tells a waiter that the run it
 * knows has ended, has something to reap (stream.c), or is not there any more.
 */
#include "region.h"

static uint32_t word_of(uint32_t generation) {
    return generation * SLRI_WORD_STEP;
}

slri_run *slri_run_find(const slr_region *region, slr_id id) {
    uint32_t index = (uint32_t)id;
    if (index >= region->header->config.runs)
        return NULL;
    slri_run *run = &region->runs[index];
    return run->generation == id >> 32 && run->state != SLRI_RUN_FREE ? run : NULL;
}

static uint32_t find_free(const slr_region *region) {
    uint32_t runs = region->header->config.runs;
    for (uint32_t i = 0; i < runs; i++) {
        uint32_t index = (region->header->runs_next + i) % runs;
        if (region->runs[index].state == SLRI_RUN_FREE)
            return index;
    }
    return SLRI_NONE;
}

int slr_run_begin(slr_region *region, uint32_t flags, slr_id *out) {
    if (!region || !out || flags & ~(uint32_t)(SLR_RUN_NOTIFY | SLR_RUN_STREAM))
        return SLR_INVALID;
    int64_t now_ns = slri_now_ns();
    slri_lock(region);
    uint32_t index = find_free(region);
    int status = region->header->closed ? SLR_CLOSED : index == SLRI_NONE ? SLR_RUNS_FULL : SLR_OK;
    if (status == SLR_OK) {
        slri_run *run = &region->runs[index];
        uint32_t generation = run->generation + 1 ? run->generation + 1 : 1;
        *run = (slri_run){
            .generation = generation,
            .flags = flags,
            .retained_head = SLRI_NONE,
            .retained_tail = SLRI_NONE,
            .begun_ns = now_ns,
        };
        __atomic_store_n(&run->word, word_of(generation), __ATOMIC_RELEASE);
        SLRI_FAULT("run:begin");
        slri_commit(&run->state, SLRI_RUN_OPEN);
        region->header->runs_live++;
        region->header->runs_next = index;
        *out = slri_id(generation, index);
    }
    slri_unlock(region);
    return status;
}

bool slri_run_retains(const slri_run *run, const slri_slot *slot) {
    bool ended_well = slot->state == SLR_TASK_SUCCEEDED || slot->state == SLR_TASK_CANCELLED;
    return slot->state == SLR_TASK_FAILED || slot->state == SLR_TASK_POISONED || (ended_well && slot->record) ||
           (ended_well && run->flags & SLR_RUN_STREAM);
}

void slri_run_tell(slr_region *region, slri_run *run, uint32_t bit) {
    uint32_t word = run->word;
    __atomic_store_n(&run->word, (word & ~SLRI_WORD_WAITED) | bit, __ATOMIC_RELEASE);
    if (word & SLRI_WORD_WAITED)
        slri_wake_later(region, &run->word);
}

/* Of a stream: there is something to reap. */
static void announce(slr_region *region, slri_run *run) {
    if (run->word & SLRI_WORD_RETAINED)
        return;
    slri_run_tell(region, run, SLRI_WORD_RETAINED);
    if (run->flags & SLR_RUN_NOTIFY)
        slri_notify_later(region);
}

void slri_run_retain(slr_region *region, slri_run *run, uint32_t index) {
    slri_slot *slot = &region->slots[index];
    slot->next = SLRI_NONE;
    if (run->retained_tail == SLRI_NONE)
        run->retained_head = index;
    else
        region->slots[run->retained_tail].next = index;
    run->retained_tail = index;
    run->retained++;
    if (slot->state == SLR_TASK_FAILED) {
        run->failed++;
        if (!run->first_failed)
            run->first_failed = slri_id(slot->generation, index);
    }
    run->poisoned += slot->state == SLR_TASK_POISONED && !slri_is_group(slot);
    if (run->flags & SLR_RUN_STREAM)
        announce(region, run);
}

void slri_run_drop_first(slr_region *region, slri_run *run) {
    uint32_t index = run->retained_head;
    const slri_slot *slot = &region->slots[index];
    uint64_t record = slot->record;
    run->failed -= slot->state == SLR_TASK_FAILED;
    run->poisoned -= slot->state == SLR_TASK_POISONED && !slri_is_group(slot);
    if (run->first_failed == slri_id(slot->generation, index))
        run->first_failed = 0;
    run->retained_head = slot->next;
    if (run->retained_head == SLRI_NONE)
        run->retained_tail = SLRI_NONE;
    run->retained--;
    slri_slot_release(region, index);
    SLRI_FAULT("run:release");
    if (record)
        slri_heap_unkeep(region, record);
}

void slri_run_settle(slr_region *region, slri_run *run, int64_t now_ns) {
    if (run->state != SLRI_RUN_SEALED || run->live)
        return;
    run->ended_ns = now_ns;
    slri_commit(&run->state, SLRI_RUN_ENDED);
    region->header->runs_live--;
    slri_run_tell(region, run, SLRI_WORD_ENDED);
    slri_progress(region, &region->header->ends);
    if (run->flags & SLR_RUN_NOTIFY)
        slri_notify_later(region);
}

static void seal(slr_region *region, slri_run *run, int64_t now_ns) {
    if (run->state == SLRI_RUN_OPEN)
        slri_commit(&run->state, SLRI_RUN_SEALED);
    slri_run_settle(region, run, now_ns);
}

int slr_run_seal(slr_region *region, slr_id id) {
    if (!region)
        return SLR_INVALID;
    int64_t now_ns = slri_now_ns();
    slri_lock(region);
    slri_run *run = slri_run_find(region, id);
    if (run)
        seal(region, run, now_ns);
    slri_unlock(region);
    return run ? SLR_OK : SLR_STALE;
}

static void cancel_queue(slr_region *region, slri_queue *queue, slr_id id, int64_t now_ns) {
    uint32_t slot = slri_mailbox_drain(region, queue, id);
    SLRI_FAULT("cancel:drained");
    while (slot != SLRI_NONE) {
        uint32_t next = region->slots[slot].next;
        slri_task_end(region, slot, SLRI_CANCEL, 0, 0, now_ns);
        slot = next;
    }
}

int slr_run_cancel(slr_region *region, slr_id id) {
    if (!region)
        return SLR_INVALID;
    int64_t now_ns = slri_now_ns();
    slri_lock(region);
    slri_run *run = slri_run_find(region, id);
    if (run && run->state != SLRI_RUN_ENDED) {
        slri_commit(&run->cancelled, 1);
        cancel_queue(region, &region->header->shared, id, now_ns);
        for (uint32_t i = 0; i < region->header->config.workers; i++) {
            if (region->workers[i].queue.length)
                cancel_queue(region, &region->workers[i].queue, id, now_ns);
            slri_mailbox_offer(region, i);
        }
        slri_group_cancel(region, id, now_ns);
        seal(region, run, now_ns);
    }
    slri_unlock(region);
    return run ? SLR_OK : SLR_STALE;
}

/* Under the lock: SLR_OK or SLR_FAILED: ended, SLR_TIMEOUT: not yet. */
static int look_for_end(const slr_region *region, slri_run *run, void *found) {
    (void)found;
    if (!run)
        return SLR_STALE;
    if (run->state == SLRI_RUN_ENDED)
        return run->cancelled || run->lost || run->failed || run->poisoned ? SLR_FAILED : SLR_OK;
    return region->header->closed ? SLR_CLOSED : SLR_TIMEOUT;
}

int slri_run_await(slr_region *region, slr_id id, uint32_t spin_us, int64_t timeout_ns, slri_run_look *look,
                   void *found) {
    int64_t now_ns = slri_now_ns(), deadline_ns = slri_deadline_ns(now_ns, timeout_ns);
    /* Whoever was just woken needs about as long to get going as sleeping and being woken would cost here. */
    int64_t spin_ns = spin_us * (__atomic_exchange_n(&region->woke, false, __ATOMIC_RELAXED) ? 2000ll : 1000ll);
    int64_t spin_until_ns = slri_deadline_ns(now_ns, spin_ns);
    uint32_t *word = &region->runs[(uint32_t)id].word;
    uint32_t value = __atomic_load_n(word, __ATOMIC_RELAXED);
    if ((value & ~SLRI_WORD_WAITED) == word_of((uint32_t)(id >> 32)))
        slri_spin(word, value, NULL, spin_until_ns < deadline_ns ? spin_until_ns : deadline_ns);
    for (int slept = SLR_OK;;) {
        slri_lock(region);
        int status = look(region, slri_run_find(region, id), found);
        bool waits = status == SLR_TIMEOUT && slept == SLR_OK && timeout_ns != 0;
        if (waits) {
            value = *word | SLRI_WORD_WAITED;
            __atomic_store_n(word, value, __ATOMIC_RELAXED);
        }
        slri_unlock(region);
        if (!waits)
            return status == SLR_TIMEOUT && slept != SLR_OK ? slept : status;
        slept = slri_sleep(word, value, deadline_ns);
    }
}

int slr_run_success(slr_region *region, slr_id id, uint32_t spin_us, int64_t timeout_ns) {
    if (!region || (uint32_t)id >= region->header->config.runs)
        return SLR_INVALID;
    return slri_run_await(region, id, spin_us, timeout_ns, look_for_end, NULL);
}

int slr_run_wait(slr_region *region, slr_id id, uint32_t spin_us, int64_t timeout_ns) {
    int status = slr_run_success(region, id, spin_us, timeout_ns);
    return status == SLR_FAILED ? SLR_OK : status;
}

int slr_run_release(slr_region *region, slr_id id) {
    if (!region)
        return SLR_INVALID;
    slri_lock(region);
    slri_run *run = slri_run_find(region, id);
    int status = !run ? SLR_STALE : run->state != SLRI_RUN_ENDED ? SLR_INVALID : SLR_OK;
    if (status == SLR_OK) {
        while (run->retained)
            slri_run_drop_first(region, run);
        slri_commit(&run->state, SLRI_RUN_FREE);
    }
    slri_unlock(region);
    return status;
}

int slr_run_query(slr_region *region, slr_id id, slr_run_info *out) {
    if (!region || !out)
        return SLR_INVALID;
    slri_lock_to_read(region);
    const slri_run *run = slri_run_find(region, id);
    if (run)
        *out = (slr_run_info){
            .ended = run->state == SLRI_RUN_ENDED,
            .cancelled = run->cancelled,
            .lost = run->lost,
            .tasks = run->tasks,
            .live = run->live,
            .failed = run->failed,
            .poisoned = run->poisoned,
            .first_failed = run->first_failed,
            .begun_ns = run->begun_ns,
            .ended_ns = run->ended_ns,
        };
    slri_unlock(region);
    return run ? SLR_OK : SLR_STALE;
}

static bool is_failure(const slri_slot *slot) {
    return (slot->state == SLR_TASK_FAILED || slot->state == SLR_TASK_POISONED) && !slri_is_group(slot);
}

int slr_run_failures(slr_region *region, slr_id id, slr_id *out, uint32_t room, uint32_t *count) {
    if (!region || !count || (room && !out))
        return SLR_INVALID;
    slri_lock_to_read(region);
    const slri_run *run = slri_run_find(region, id);
    uint32_t written = 0;
    for (uint32_t i = run ? run->retained_head : SLRI_NONE; i != SLRI_NONE && written < room; i = region->slots[i].next)
        if (is_failure(&region->slots[i]))
            out[written++] = slri_id(region->slots[i].generation, i);
    slri_unlock(region);
    if (!run)
        return SLR_STALE;
    *count = written;
    return SLR_OK;
}
