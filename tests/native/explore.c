/*
 * explore SCENARIO: goes through every order of steps of a scenario, depth first, and checks each state. See explore.h.
 *
 * Exits with 1, and says by which steps it came there, at the first state that breaks a rule: one that slr_graph_check
 * or the scenario refuses, or one in which nobody can go on though not all have ended, a lost wake-up. A way that comes
 * back to a state on itself would be one that never ends; there must be none.
 *
 * States are told apart by 128 bits of hash. With n states the chance that one was passed over is below n^2 / 2^127.
 */
#include "explore.h"

#define MOST_DEPTH   1000
#define FIRST_TABLE  (1u << 16)
#define MOST_CHOICES (ACTORS * 4)

typedef struct {
    uint32_t actor;
    choice chosen;
} step;

typedef struct {
    uint64_t hash[2]; /* hash[1] is never 0 but in an empty entry */
    uint64_t on_path;
} met;

typedef struct {
    uint8_t *saved;
    uint64_t room;
    uint64_t hash[2];
    step steps[MOST_CHOICES];
    uint32_t n_steps;
    uint32_t next;
} frame;

static frame path[MOST_DEPTH];
static uint32_t depth;
static met *table;
static uint32_t room, states;
static uint64_t steps_taken, ends;
static uint32_t deepest;

/* ---- telling what went wrong ---- */

static void tell_stand(const char *indent, uint32_t index) {
    static const char *const stands[] = {
        "is absent",       "is new",           "wants the lock",   "wakes others",
        "goes to sleep",   "sleeps",           "was woken",        "spins",
        "may die",         "waits for events", "waits for deaths", "acts without the lock",
        "is to be killed", "has ended",        "is dead",
    };
    const actor *a = &world.actors[index];
    fprintf(stderr, "%sactor %u, in \"%s\", %s", indent, index, a->doing ? a->doing : "", stands[a->stand]);
}

void explorer_failed(void) {
    static const char *const choices[] = {"goes on", "sees a change", "is late", "is interrupted", "dies"};
    for (uint32_t i = 0; i < ACTORS; i++, fputc('\n', stderr))
        tell_stand("now ", i);
    fprintf(stderr, "after %u steps:\n", depth);
    for (uint32_t i = 0; i < depth; i++) {
        const step *taken = &path[i].steps[path[i].next - 1];
        world_restore(path[i].saved);
        tell_stand("  ", taken->actor);
        fprintf(stderr, ": %s\n", choices[taken->chosen]);
    }
    _exit(1);
}

static void fail_here(const char *why) {
    fprintf(stderr, "%s\n", why);
    explorer_failed();
}

/* ---- states met before ---- */

static met *find(met *entries, uint32_t n, const uint64_t hash[2]) {
    for (uint64_t at = hash[0] & (n - 1);; at = (at + 1) & (n - 1))
        if (!entries[at].hash[1] || (entries[at].hash[0] == hash[0] && entries[at].hash[1] == hash[1]))
            return &entries[at];
}

static void grow_table(void) {
    uint32_t n = room ? room * 2 : FIRST_TABLE;
    met *entries = explorer_alloc(n * sizeof *entries);
    memset(entries, 0, n * sizeof *entries);
    for (uint32_t i = 0; i < room; i++)
        if (table[i].hash[1])
            *find(entries, n, table[i].hash) = table[i];
    explorer_free(table);
    table = entries;
    room = n;
}

/* False where it was met before. */
static bool is_new(const uint64_t hash[2]) {
    if (states * 2 >= room)
        grow_table();
    met *entry = find(table, room, hash);
    if (entry->hash[1]) {
        if (entry->on_path)
            fail_here("this state was on the way here: it may go round for ever");
        return false;
    }
    *entry = (met){.hash = {hash[0], hash[1]}, .on_path = 1};
    states++;
    return true;
}

/* ---- the search ---- */

static void check_state(void) {
    char why[256];
    uint32_t arena_used = world.arena_used;
    if (world.lock_owner || world.lock_marked)
        return; /* recovery comes first */
    if (slr_graph_check(world_region(NOBODY), why, sizeof why) != SLR_OK)
        fail_here(why);
    world.arena_used = arena_used;
}

/* One whose step is of no consequence to the others, or who holds the lock and might die, goes on alone: every order
 * with the others' steps comes to the same. */
static void list_steps(frame *f) {
    choice choices[4];
    uint32_t only = NOBODY;
    f->n_steps = f->next = 0;
    for (uint32_t i = 0; i < ACTORS; i++)
        if (world.actors[i].stand == AT_FAULT || (only == NOBODY && world_is_local(i)))
            only = i;
    for (uint32_t i = 0; i < ACTORS; i++) {
        if (only != NOBODY && only != i)
            continue;
        for (uint32_t c = 0, n = world_choices(i, choices); c < n; c++)
            f->steps[f->n_steps++] = (step){i, choices[c]};
    }
}

static void check_end(void) {
    for (uint32_t i = 0; i < ACTORS; i++)
        if (world.actors[i].stand != ABSENT && world.actors[i].stand < ENDED)
            fail_here("nobody can go on, and not all have ended");
    scenario_check_end();
    ends++;
}

static void enter_state(void) {
    uint64_t hash[2];
    world_hash(hash);
    if (!is_new(hash))
        return;
    check_state();
    if (depth == MOST_DEPTH)
        fail_here("too many steps");
    frame *f = &path[depth];
    uint64_t bytes = world_bytes();
    if (bytes > f->room) {
        explorer_free(f->saved);
        f->saved = explorer_alloc(bytes * 2);
        f->room = bytes * 2;
    }
    world_save(f->saved);
    memcpy(f->hash, hash, sizeof hash);
    list_steps(f);
    if (!f->n_steps)
        check_end();
    depth++;
    deepest = depth > deepest ? depth : deepest;
}

static void explore(void) {
    enter_state();
    while (depth) {
        frame *f = &path[depth - 1];
        if (f->next == f->n_steps) {
            find(table, room, f->hash)->on_path = 0;
            depth--;
            continue;
        }
        const step *taken = &f->steps[f->next++];
        world_restore(f->saved);
        steps_taken++;
        world_step(taken->actor, taken->chosen);
        enter_state();
    }
}

int main(int argc, char **argv) {
    for (size_t i = 0; i < n_scenarios; i++) {
        if (argc != 2 || strcmp(argv[1], scenarios[i].name) != 0)
            continue;
        scenarios[i].set_up();
        explore();
        printf("%s: %u states, %llu steps between them, %llu ends, at most %u steps deep\n", argv[1], states,
               (unsigned long long)steps_taken, (unsigned long long)ends, deepest);
        return 0;
    }
    fprintf(stderr, "explore SCENARIO: one of\n");
    for (size_t i = 0; i < n_scenarios; i++)
        fprintf(stderr, "  %s\n", scenarios[i].name);
    return 2;
}
