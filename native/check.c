/*
 * slr_graph_check: every rule of the region, walked under the lock.
 *
 * Each check computes a derived word from primary ones by another way than the code that keeps it, and says in one
 * sentence what does not agree.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"

bool slri_broken(check *c, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(c->why, c->why_bytes, format, arguments);
    va_end(arguments);
    return false;
}

/* ---- heap ---- */

static bool count_kept(check *c, uint64_t offset, const char *by) {
    if (!slri_heap_live(c->region, offset))
        return slri_broken(c, "a %s refers to heap offset %llu, which is not a live block", by,
                           (unsigned long long)offset);
    c->kept[offset / SLRI_LINE]++;
    return true;
}

static bool count_slot_kept(check *c, const slri_slot *slot) {
    if (slot->record && !count_kept(c, slot->record, "record"))
        return false;
    if (!slri_task_live(slot->state) || !slot->args)
        return true;
    const uint64_t *blocks = slri_heap_at(c->region, slot->args);
    for (uint32_t i = 0; i < slot->n_blocks; i++)
        if (!count_kept(c, blocks[i], "task"))
            return false;
    return count_kept(c, slot->args, "task's arguments");
}

static bool count_all_kept(check *c) {
    const slr_region *region = c->region;
    for (uint32_t i = 0; i < region->header->slots_fresh; i++)
        if (region->slots[i].state != SLR_TASK_FREE && !count_slot_kept(c, &region->slots[i]))
            return false;
    for (uint32_t i = 0; i < region->header->config.callables; i++)
        if (region->callables[i].state && !count_kept(c, region->callables[i].content, "callable"))
            return false;
    for (uint32_t i = 0; i < region->header->config.workers; i++)
        if (region->workers[i].abandoned && region->workers[i].record &&
            !count_kept(c, region->workers[i].record, "worker"))
            return false;
    return true;
}

static bool check_used_block(check *c, uint64_t at, const slri_block *block) {
    uint64_t line = at / SLRI_LINE + 1;
    if (!slri_bitmap_test(c->region, line))
        return slri_broken(c, "used block at %llu is not in the bitmap", (unsigned long long)at);
    if (!block->held && !block->kept)
        return slri_broken(c, "used block at %llu has no reference", (unsigned long long)at);
    if (block->kept != c->kept[line])
        return slri_broken(c, "block at %llu is kept %u times, but %u refer to it", (unsigned long long)at, block->kept,
                           c->kept[line]);
    return true;
}

static bool check_blocks(check *c, uint64_t *free_blocks) {
    const slri_header *header = c->region->header;
    uint64_t at = 0, previous = 0, used = 0;
    bool previous_free = false;
    for (uint64_t extent; at < header->config.heap_bytes; at += extent) {
        const slri_block *block = (const slri_block *)(c->region->heap + at);
        bool is_used = block->extent & SLRI_BLOCK_USED;
        extent = block->extent & ~SLRI_BLOCK_USED;
        if (extent < 2 * SLRI_LINE || extent % SLRI_LINE || extent > header->config.heap_bytes - at)
            return slri_broken(c, "block at %llu has the impossible extent %llu", (unsigned long long)at,
                               (unsigned long long)extent);
        if (block->previous != previous)
            return slri_broken(c, "block at %llu does not know the one before it", (unsigned long long)at);
        if (is_used ? !check_used_block(c, at, block) : previous_free)
            return is_used ? false : slri_broken(c, "free blocks side by side at %llu", (unsigned long long)at);
        if (!is_used && slri_bitmap_test(c->region, at / SLRI_LINE + 1))
            return slri_broken(c, "free block at %llu is in the bitmap", (unsigned long long)at);
        used += is_used ? extent : 0;
        *free_blocks += !is_used;
        previous = extent;
        previous_free = !is_used;
    }
    return used == header->heap_used || slri_broken(c, "heap_used is %llu, the blocks add up to %llu",
                                                    (unsigned long long)header->heap_used, (unsigned long long)used);
}

static bool check_bins(check *c, uint64_t free_blocks) {
    const slri_header *header = c->region->header;
    for (uint32_t bin = 0; bin < SLRI_BINS; bin++) {
        if (!header->bins[bin] != !(header->bin_mask >> bin & 1))
            return slri_broken(c, "bin_mask is wrong about bin %u", bin);
        for (uint64_t at = header->bins[bin]; at; free_blocks--) {
            const slri_block *block = (const slri_block *)(c->region->heap + at - 1);
            uint64_t lines = block->extent / SLRI_LINE;
            if (!free_blocks || block->extent & SLRI_BLOCK_USED || lines >> bin != 1)
                return slri_broken(c, "block at %llu does not belong in bin %u", (unsigned long long)at - 1, bin);
            at = block->bin_next;
        }
    }
    return !free_blocks || slri_broken(c, "%llu free blocks are in no bin", (unsigned long long)free_blocks);
}

static bool check_heap(check *c) {
    uint64_t free_blocks = 0;
    return count_all_kept(c) && check_blocks(c, &free_blocks) && check_bins(c, free_blocks);
}

/* ---- lists of slots ---- */

static bool see(check *c, uint32_t slot, const char *list) {
    if (slot >= c->region->header->slots_fresh || c->seen[slot]++)
        return slri_broken(c, "slot %u is twice in lists, or out of range, at %s", slot, list);
    return true;
}

static bool check_queue(check *c, const slri_queue *queue, uint32_t target, const char *name) {
    uint32_t length = 0, last = SLRI_NONE;
    for (uint32_t i = queue->head; i != SLRI_NONE; i = c->region->slots[i].next) {
        if (!see(c, i, name))
            return false;
        const slri_slot *slot = &c->region->slots[i];
        if (slot->state != SLR_TASK_READY || slot->target != target)
            return slri_broken(c, "slot %u in %s is in state %u for worker %u", i, name, slot->state, slot->target);
        if (slri_run_find(c->region, slot->run)->cancelled)
            return slri_broken(c, "slot %u in %s is of a cancelled run", i, name);
        last = i;
        length++;
    }
    return (length == queue->length && last == queue->tail) ||
           slri_broken(c, "%s has %u tasks, not %u", name, length, queue->length);
}

static bool check_queues(check *c) {
    slr_region *region = c->region;
    if (!check_queue(c, &region->header->shared, SLR_ANY_SUB, "the shared queue"))
        return false;
    for (uint32_t i = 0; i < region->header->config.workers; i++)
        if (!check_queue(c, &region->workers[i].queue, i, "a worker's queue"))
            return false;
    return true;
}

static bool check_retained(check *c, const slri_run *run) {
    uint64_t failed = 0, poisoned = 0, order = 0;
    uint32_t retained = 0;
    for (uint32_t i = run->retained_head; i != SLRI_NONE; i = c->region->slots[i].next) {
        if (!see(c, i, "a retained list"))
            return false;
        const slri_slot *slot = &c->region->slots[i];
        if (!slri_run_retains(run, slot))
            return slri_broken(c, "slot %u is retained in state %u", i, slot->state);
        if (slot->ended_order < order)
            return slri_broken(c, "slot %u is retained out of order", i);
        order = slot->ended_order;
        retained++;
        failed += slot->state == SLR_TASK_FAILED;
        poisoned += slot->state == SLR_TASK_POISONED && !slri_is_group(slot);
    }
    bool announced = run->flags & SLR_RUN_STREAM && retained;
    if (retained != run->retained || announced != !!(run->word & SLRI_WORD_RETAINED))
        return slri_broken(c, "a run retains %u tasks, counts %u, and its word is %x", retained, run->retained,
                           run->word);
    return (failed == run->failed && poisoned == run->poisoned) ||
           slri_broken(c, "a run counts %llu failed tasks, not %llu", (unsigned long long)run->failed,
                       (unsigned long long)failed);
}

static uint64_t count_live(const slr_region *region, slr_id run) {
    uint64_t live = 0;
    for (uint32_t i = 0; i < region->header->slots_fresh; i++)
        live += slri_task_live(region->slots[i].state) && !slri_is_group(&region->slots[i]) &&
                (!run || region->slots[i].run == run);
    return live;
}

static bool check_runs(check *c) {
    slr_region *region = c->region;
    uint32_t runs_live = 0;
    for (uint32_t i = 0; i < region->header->config.runs; i++) {
        const slri_run *run = &region->runs[i];
        if (run->state == SLRI_RUN_FREE)
            continue;
        uint64_t live = count_live(region, slri_id(run->generation, i));
        if (live != run->live || (run->state == SLRI_RUN_ENDED && live) || (run->state == SLRI_RUN_SEALED && !live))
            return slri_broken(c, "run %u in state %u counts %llu live tasks, not %llu", i, run->state,
                               (unsigned long long)run->live, (unsigned long long)live);
        if (!(run->word & SLRI_WORD_ENDED) != (run->state != SLRI_RUN_ENDED))
            return slri_broken(c, "run %u's word does not tell that it has ended, or does too soon", i);
        if (!check_retained(c, run))
            return false;
        runs_live += run->state != SLRI_RUN_ENDED;
    }
    return (runs_live == region->header->runs_live && count_live(region, 0) == region->header->live) ||
           slri_broken(c, "the header's count of live runs or tasks is wrong");
}

/* ---- slots and edges ---- */

static bool check_edges(check *c) {
    const slr_region *region = c->region;
    const slri_header *header = region->header;
    uint32_t used = 0, unused = 0;
    for (uint32_t i = 0; i < header->slots_fresh; i++) {
        if (region->slots[i].state == SLR_TASK_FREE)
            continue;
        for (uint32_t e = region->slots[i].edges; e != SLRI_NONE; e = region->edges[e].next, used++) {
            if (used > header->edges_used || region->slots[region->edges[e].consumer].state != SLR_TASK_PENDING)
                return slri_broken(c, "an edge of slot %u leads to slot %u, which waits for nothing", i,
                                   region->edges[e].consumer);
            c->fan_in[region->edges[e].consumer]++;
        }
    }
    for (uint32_t e = header->edges_free; e != SLRI_NONE && unused <= header->edges_fresh; e = region->edges[e].next)
        unused++;
    return (used == header->edges_used && used + unused == header->edges_fresh) ||
           slri_broken(c, "%u edges used and %u free of %u", used, unused, header->edges_fresh);
}

static bool check_slot(check *c, uint32_t i) {
    const slri_slot *slot = &c->region->slots[i];
    bool member = slot->state == SLR_TASK_PENDING && slot->leader != SLRI_NONE;
    bool listed = slot->state != SLR_TASK_PENDING && slot->state != SLR_TASK_GATHERING &&
                  slot->state != SLR_TASK_RUNNING && !(slot->state == SLR_TASK_READY && slri_is_group(slot));
    if (slot->state == SLR_TASK_BUILDING || slot->state > SLR_TASK_CANCELLED)
        return slri_broken(c, "slot %u is in state %u outside the lock", i, slot->state);
    if (c->seen[i] != listed)
        return slri_broken(c, "slot %u in state %u is on %u lists", i, slot->state, c->seen[i]);
    if (slot->state == SLR_TASK_PENDING && (!slot->fan_in != member || slot->fan_in != c->fan_in[i]))
        return slri_broken(c, "slot %u has fan-in %u but %u edges lead to it", i, slot->fan_in, c->fan_in[i]);
    if (slot->state != SLR_TASK_FREE && !slri_run_find(c->region, slot->run))
        return slri_broken(c, "slot %u is of a run that is not there", i);
    return true;
}

static bool check_slots(check *c) {
    const slr_region *region = c->region;
    uint32_t used = 0;
    for (uint32_t i = region->header->slots_free; i != SLRI_NONE; i = region->slots[i].next)
        if (!see(c, i, "the free list"))
            return false;
    for (uint32_t i = 0; i < region->header->slots_fresh; i++) {
        if (!check_slot(c, i))
            return false;
        used += region->slots[i].state != SLR_TASK_FREE;
    }
    return used == region->header->slots_used ||
           slri_broken(c, "%u slots are used, not %u", used, region->header->slots_used);
}

/* Of tasks that run with a timeout. */
static bool check_deadlines(check *c) {
    const slr_region *region = c->region;
    uint32_t timed = 0;
    for (uint32_t i = 0; i < region->header->slots_fresh; i++) {
        const slri_slot *slot = &region->slots[i];
        if (slot->state != SLR_TASK_RUNNING || !slri_is_timed(slot))
            continue;
        if (region->workers[slot->taker].timed != i)
            return slri_broken(c, "slot %u has a timeout that worker %u does not know", i, slot->taker);
        timed++;
    }
    for (uint32_t i = 0; i < region->header->config.workers; i++) {
        const slri_worker *worker = &region->workers[i];
        if (slri_worker_deadline_ns(region, worker) < region->header->alarm_ns)
            return slri_broken(c, "worker %u is late before the watcher looks", i);
        if (worker->condemned && worker->timed == SLRI_NONE && worker->state != SLR_WORKER_DEAD)
            return slri_broken(c, "worker %u is condemned without a late task", i);
        timed -= worker->timed != SLRI_NONE;
    }
    return !timed || slri_broken(c, "workers hold %u tasks with a timeout too many", -timed);
}

/* ---- workers ---- */

static bool check_hand(check *c, uint32_t worker) {
    const slr_region *region = c->region;
    const slri_worker *w = &region->workers[worker];
    uint32_t held = 0;
    for (uint32_t i = 0; i < region->header->slots_fresh; i++)
        held += region->slots[i].state == SLR_TASK_RUNNING && region->slots[i].taker == worker;
    if (held != w->held)
        return slri_broken(c, "worker %u has %u tasks, not %u", worker, held, w->held);
    return w->member == SLRI_NONE || (w->state == SLR_WORKER_GATHERED && region->slots[w->member].taker == worker) ||
           slri_broken(c, "worker %u in state %u waits with slot %u of another", worker, w->state, w->member);
}

static bool check_callables(check *c) {
    const slr_region *region = c->region;
    const slri_header *header = region->header;
    uint32_t used = 0, empty = 0, indexed = 0;
    for (uint32_t i = 0; i < header->config.callables; i++)
        if (region->callables[i].state) {
            used++;
            if (slri_callable_find(region, region->callables[i].digest) != &region->callables[i])
                return slri_broken(c, "callable %u is not found by its digest", i);
        }
    for (uint32_t i = 0; i < slri_callable_buckets(&header->config); i++)
        indexed += region->buckets[i] != 0;
    for (uint32_t i = header->callables_free; i != SLRI_NONE; i = region->callables[i].next)
        if (i >= header->callables_fresh || region->callables[i].state || ++empty > header->callables_fresh)
            return slri_broken(c, "callable %u is not empty, but on the free list", i);
    return (indexed == used && used + empty == header->callables_fresh) ||
           slri_broken(c, "of %u callables %u are used, %u free and %u in the index", header->callables_fresh, used,
                       empty, indexed);
}

/* Who sleeps has nothing that it could take: see rule 4 of mailbox.c. */
static bool check_asleep(check *c, uint32_t worker) {
    const slri_worker *w = &c->region->workers[worker];
    if (w->state != SLR_WORKER_PARKED || !w->queue.length)
        return true;
    return (slri_is_kind(w, SLR_WORKER_REMOTE) && w->held && c->region->slots[w->queue.head].leader != SLRI_NONE) ||
           slri_broken(c, "worker %u sleeps while %u tasks wait in its queue", worker, w->queue.length);
}

static bool check_workers(check *c) {
    const slr_region *region = c->region;
    const slri_header *header = region->header;
    uint32_t spinning = 0, parked = 0;
    for (uint32_t i = 0; i < header->config.workers; i++) {
        bool sub = slri_is_kind(&region->workers[i], SLR_WORKER_SUB);
        spinning += sub && region->workers[i].state == SLR_WORKER_SPINNING;
        parked += sub && region->workers[i].state == SLR_WORKER_PARKED;
        if (!check_hand(c, i) || !check_asleep(c, i))
            return false;
    }
    if (spinning != header->spinning)
        return slri_broken(c, "%u workers spin, not %u", spinning, header->spinning);
    for (uint32_t i = header->parked; i != SLRI_NONE; i = region->workers[i].parked_next, parked--)
        if (!parked || region->workers[i].state != SLR_WORKER_PARKED)
            return slri_broken(c, "worker %u is on the stack of parked ones in state %u", i, region->workers[i].state);
    if (parked)
        return slri_broken(c, "%u parked workers are not on the stack", parked);
    /* Once the region is closed nobody takes, and each who sleeps has been woken, though not yet looked. */
    return header->closed || header->shared.length <= spinning || header->parked == SLRI_NONE ||
           slri_broken(c, "%u tasks wait, %u workers spin, and others sleep", header->shared.length, spinning);
}

static int run_checks(check *c) {
    bool sound = check_heap(c) && check_queues(c) && check_runs(c) && check_edges(c) && check_slots(c) &&
                 slri_check_groups(c) && check_workers(c) && check_deadlines(c) && check_callables(c);
    return sound ? SLR_OK : SLR_CORRUPT;
}

int slr_graph_check(slr_region *region, char *why, size_t why_bytes) {
    if (!region || !why || !why_bytes)
        return SLR_INVALID;
    const slr_config *config = &region->header->config;
    check c = {
        .region = region,
        .why = why,
        .why_bytes = why_bytes,
        .seen = calloc(config->slots, sizeof *c.seen),
        .fan_in = calloc(config->slots, sizeof *c.fan_in),
        .alive = calloc(config->slots, sizeof *c.alive),
        .kept = calloc(config->heap_bytes / SLRI_LINE, sizeof *c.kept),
    };
    int status = SLR_SYSTEM;
    why[0] = '\0';
    if (c.seen && c.fan_in && c.alive && c.kept) {
        slri_lock_to_read(region);
        status = run_checks(&c);
        slri_unlock(region);
    }
    free(c.seen);
    free(c.fan_in);
    free(c.alive);
    free(c.kept);
    return status;
}
