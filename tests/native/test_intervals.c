/* The intervals of one buffer, thousands of them, against an array with an entry for each byte. */
#include "harness.h"

#include "intervals.h"

#define BYTES 20000
#define STEPS 40000

typedef struct {
    slr_id writer;
    slr_id reader; /* the last one since */
} byte_state;

static byte_state expected[BYTES];

/* In order, apart, counted, and of each byte what is expected. */
static void compare(const slri_track *t) {
    uint64_t at = 0;
    uint32_t n = 0;
    const slri_interval *it;
    for (slri_cursor c = {0}; (it = slri_interval_at(t, c)); c = slri_interval_next(t, c), n++) {
        CHECK(it->begin >= at && it->begin < it->end);
        for (; at < it->begin; at++)
            CHECK(!expected[at].writer && !expected[at].reader);
        for (; at < it->end; at++) {
            CHECK(it->writer == expected[at].writer);
            CHECK((it->n_readers ? it->readers[it->n_readers - 1] : 0) == expected[at].reader);
        }
    }
    for (; at < BYTES; at++)
        CHECK(!expected[at].writer && !expected[at].reader);
    CHECK(n == t->n);
}

static void check_search(const slri_track *t, uint64_t at) {
    slri_cursor found = slri_intervals_after(t, at), first = {0};
    const slri_interval *it;
    while ((it = slri_interval_at(t, first)) && it->end <= at)
        first = slri_interval_next(t, first);
    CHECK(slri_interval_at(t, found) == it);
}

static void step(const slr_region *region, slri_track *t, uint64_t *random, slr_id id) {
    uint64_t begin = next_random(random) % BYTES, most = next_random(random) % 500 ? 8 : BYTES / 2;
    uint64_t end = begin + 1 + next_random(random) % most;
    end = end > BYTES ? BYTES : end;
    bool writes = next_random(random) % 2;
    CHECK(writes ? slri_intervals_write(t, begin, end, id) : slri_intervals_read(region, t, begin, end, id));
    for (uint64_t at = begin; at < end; at++)
        expected[at] = (byte_state){.writer = writes ? id : expected[at].writer, .reader = writes ? 0 : id};
}

/* G1: whatever is written and read, in thousands of parts. */
static void thousands_of_parts_are_told_apart(void) {
    slr_region *region = make_region();
    slri_track track = {.buffer = 1, .prune_at = SLRI_PRUNE_FROM};
    uint64_t random = 4711;
    uint32_t most = 0;
    for (uint32_t i = 1; i <= STEPS; i++) {
        step(region, &track, &random, (slr_id)i << 32);
        most = track.n > most ? track.n : most;
        if (i % 500 == 0) {
            compare(&track);
            check_search(&track, next_random(&random) % (BYTES + 10));
        }
    }
    CHECK(most > 2000);                   /* many chunks */
    slri_intervals_prune(region, &track); /* no task of these ids is there */
    CHECK(track.n == 0 && !slri_interval_at(&track, slri_intervals_after(&track, 0)));
    slri_intervals_forget(&track);
    drop_region(region);
}

/* Pruning leaves what still matters, in order, however many chunks lose how much. */
static void pruning_keeps_the_tasks_that_live(void) {
    slr_region *region = make_region();
    slri_track track = {.buffer = 1, .prune_at = SLRI_PRUNE_FROM};
    slr_id run = begin_run(region), live = submit(region, call_of(run, SUB0));
    memset(expected, 0, sizeof expected);
    for (uint64_t at = 0; at < BYTES; at += 4) {
        bool keeps = at % (4 * 37) == 0 || (at > 8000 && at < 9000);
        CHECK(slri_intervals_write(&track, at, at + 4, keeps ? live : (slr_id)9 << 32 | 9));
        for (int i = 0; keeps && i < 4; i++)
            expected[at + (uint64_t)i].writer = live;
    }
    slri_intervals_prune(region, &track);
    compare(&track);
    CHECK(slri_intervals_write(&track, 0, BYTES, live) && track.n == 1);
    slri_intervals_forget(&track);
    succeed(region, SUB0, take(region, SUB0));
    end_run(region, run);
    drop_region(region);
}

MAIN(CASE(thousands_of_parts_are_told_apart), CASE(pruning_keeps_the_tasks_that_live))
