/*
 * Submission: all that can be refused is checked before anything is changed.
 *
 * The arguments' block holds the offsets of the blocks kept for the task, then the caller's bytes. Large arguments are
 * copied into a block of the caller's before the lock is taken, so that nobody waits for the copy.
 */
#include <errno.h>
#include <string.h>

#include "region.h"

#define COPIED_UNDER_LOCK 2048

static bool ranges_valid(const slr_submission *submission) {
    for (uint32_t i = 0; i < submission->n_ranges; i++) {
        const slr_range *range = &submission->ranges[i];
        if (!range->access || range->access & ~(uint32_t)(SLR_READ | SLR_WRITE) || range->begin > range->end)
            return false;
    }
    return true;
}

bool slri_submission_valid(const slr_region *region, const slr_submission *submission) {
    if (submission->op > SLR_OP_SUB_CALL || !submission->digest || (submission->args_bytes && !submission->args) ||
        (submission->n_ranges && !submission->ranges) || (submission->n_after && !submission->after) ||
        (submission->n_blocks && !submission->blocks) || submission->timeout_ns < 0)
        return false;
    if (submission->worker != SLR_ANY_SUB && !slri_worker_exists(region, submission->worker))
        return false;
    bool remote =
        submission->worker != SLR_ANY_SUB && slri_is_kind(&region->workers[submission->worker], SLR_WORKER_REMOTE);
    bool sub_call = submission->op == SLR_OP_SUB_CALL;
    if (remote ? submission->timeout_ns && !sub_call : sub_call)
        return false;
    return ranges_valid(submission);
}

static bool has_sub(const slr_region *region) {
    for (uint32_t i = 0; i < region->header->config.workers; i++)
        if (slri_is_kind(&region->workers[i], SLR_WORKER_SUB))
            return true;
    return false;
}

slr_range slri_range_in_block(const slr_region *region, const slr_range *range) {
    if (range->buffer)
        return *range;
    slr_range found = *range;
    found.buffer = slri_heap_start(region, range->begin);
    found.begin -= found.buffer;
    found.end -= found.buffer;
    return found;
}

int slri_submission_check(slr_region *region, const slr_submission *submission) {
    const slri_run *run = slri_run_find(region, submission->run);
    if (!run)
        return SLR_STALE;
    if (run->state != SLRI_RUN_OPEN || run->cancelled || region->header->closed)
        return SLR_CLOSED;
    for (uint32_t i = 0; i < submission->n_blocks; i++)
        if (!slri_heap_start(region, submission->blocks[i]))
            return SLR_STALE;
    for (uint32_t i = 0; i < submission->n_ranges; i++) {
        slr_range range = slri_range_in_block(region, &submission->ranges[i]);
        if (range.buffer & SLRI_NAMED_BUFFER)
            continue;
        const slri_block *block = slri_heap_live(region, range.buffer);
        if (!block)
            return SLR_STALE;
        if (range.end > block->bytes)
            return SLR_INVALID;
    }
    return SLR_OK;
}

static uint64_t head_bytes(const slr_submission *submission) {
    return slri_arguments_head(submission->n_blocks);
}

static void copy_arguments(slr_region *region, const slr_submission *submission, uint64_t block) {
    if (submission->args_bytes)
        memcpy(slri_heap_at(region, block + head_bytes(submission)), submission->args, submission->args_bytes);
}

int slri_submission_room(slr_region *region, const slr_submission *submission, uint32_t slots, slri_dependencies *on) {
    if (slri_slots_left(region) < slots)
        return SLR_SLOTS_FULL;
    int status = slri_tracker_collect(region, submission, on);
    if (status == SLR_OK && on->n_producers > slri_edges_left(region))
        status = SLR_EDGES_FULL;
    return status;
}

static uint64_t take_block(slr_region *region, const slr_submission *submission) {
    if (submission->args_bytes > region->header->config.heap_bytes) /* or the sum below might wrap around */
        return 0;
    return slri_heap_take(region, head_bytes(submission) + submission->args_bytes, SLRI_RESERVE_BYTES);
}

int slri_submission_reserve(slr_region *region, const slr_submission *submission, uint64_t *staged) {
    *staged = 0;
    if (!submission->args_bytes && !submission->n_blocks)
        return SLR_OK;
    uint64_t block = take_block(region, submission);
    if (!block)
        return SLR_HEAP_FULL;
    slri_commit(&slri_heap_live(region, block)->held, 1);
    *staged = block;
    return SLR_OK;
}

void slri_submission_stage(slr_region *region, const slr_submission *submission, uint64_t staged) {
    if (staged)
        copy_arguments(region, submission, staged);
}

/* The block with the arguments, one kept reference the slot's to be; 0 also when there are none. */
static int place_arguments(slr_region *region, const slr_submission *submission, uint64_t staged, uint64_t *block) {
    *block = staged;
    if (staged) {
        slri_heap_adopt(region, staged);
    } else if (submission->args_bytes || submission->n_blocks) {
        *block = take_block(region, submission);
        if (!*block)
            return SLR_HEAP_FULL;
        slri_heap_keep(region, *block);
        copy_arguments(region, submission, *block);
    }
    uint64_t *kept = slri_heap_at(region, *block);
    for (uint32_t i = 0; i < submission->n_blocks; i++) {
        kept[i] = slri_heap_start(region, submission->blocks[i]);
        slri_heap_keep(region, kept[i]);
    }
    return SLR_OK;
}

static uint32_t build(slr_region *region, const slr_submission *submission, uint64_t block, int64_t now_ns) {
    slri_run *run = slri_run_find(region, submission->run);
    uint32_t index = slri_slot_build(region);
    slri_slot *slot = &region->slots[index];
    slot->run = submission->run;
    slot->target = submission->worker;
    slot->op = submission->op;
    slot->timeout_ns = submission->timeout_ns;
    memcpy(slot->digest, submission->digest, SLR_DIGEST_BYTES);
    slot->args_bytes = submission->args_bytes;
    slot->n_blocks = submission->n_blocks;
    slot->args = block;
    slot->submitted_ns = slot->ready_ns = now_ns;
    run->tasks++;
    run->live++;
    region->header->live++;
    return index;
}

uint32_t slri_submission_build(slr_region *region, const slr_submission *submission, uint64_t staged, int64_t now_ns) {
    uint64_t block;
    int status = place_arguments(region, submission, staged, &block);
    assert(status == SLR_OK); /* what is staged needs no more heap */
    return build(region, submission, block, now_ns);
}

void slri_submission_connect(slr_region *region, uint32_t index, const slri_dependencies *on, int64_t now_ns) {
    slri_slot *slot = &region->slots[index];
    slot->root = on->root;
    for (uint32_t i = 0; i < on->n_producers; i++) {
        slri_edge_add(region, on->producers[i].slot, index, on->producers[i].kind);
        SLRI_FAULT("submit:edges");
    }
    slri_slot_move(slot, SLRI_WAIT);
    if (!slot->fan_in)
        slri_task_arrive(region, index, now_ns);
}

static int admit(slr_region *region, const slr_submission *submission, slri_dependencies *dependencies) {
    int status = slri_submission_check(region, submission);
    return status == SLR_OK ? slri_submission_room(region, submission, 1, dependencies) : status;
}

/* A block for large arguments, once all else is there: one that is given back makes others believe there is room. */
static int stage(slr_region *region, const slr_submission *submission, uint64_t *staged) {
    slri_dependencies dependencies;
    slri_lock(region);
    int status = admit(region, submission, &dependencies);
    if (status == SLR_OK)
        status = slri_submission_reserve(region, submission, staged);
    slri_unlock(region);
    if (status == SLR_OK)
        slri_submission_stage(region, submission, *staged);
    return status;
}

static int submit_locked(slr_region *region, const slr_submission *submission, uint64_t staged, int64_t now_ns,
                         slr_id *out) {
    slri_dependencies dependencies;
    int status = admit(region, submission, &dependencies);
    if (status != SLR_OK)
        return status;
    uint64_t block;
    status = place_arguments(region, submission, staged, &block);
    if (status != SLR_OK)
        return status;
    uint32_t index = build(region, submission, block, now_ns);
    *out = slri_id(region->slots[index].generation, index);
    slri_tracker_record(region, submission, *out); /* while the task lives, and its blocks with it */
    slri_submission_connect(region, index, &dependencies, now_ns);
    return SLR_OK;
}

int slr_submit(slr_region *region, const slr_submission *submission, slr_id *out, uint64_t *conflict) {
    if (!region || !submission || !out || !conflict || !slri_submission_valid(region, submission) ||
        (submission->worker == SLR_ANY_SUB && !has_sub(region)))
        return SLR_INVALID;
    int status = slri_conflict_find(submission, conflict);
    if (status != SLR_OK)
        return status;
    uint64_t staged = 0;
    if (submission->args_bytes > COPIED_UNDER_LOCK)
        status = stage(region, submission, &staged);
    if (status != SLR_OK)
        return status;
    int64_t now_ns = slri_now_ns();
    slri_lock(region);
    status = submit_locked(region, submission, staged, now_ns, out);
    slri_unlock(region);
    if (status != SLR_OK && staged)
        slr_heap_unref(region, staged);
    return status;
}
