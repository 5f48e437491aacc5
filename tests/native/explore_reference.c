/*
 * What the explorer expects: which tasks of a plan are ordered, and which count on each other. See explore.h.
 *
 * It is read from the plan byte by byte in the order of submission: two tasks that touch a byte, one of them writing,
 * keep their order; a task that reads a byte counts on its last writer.
 */
#include "explore.h"

#define BYTES 8

static bool touches(const planned *task, uint32_t byte, uint8_t access) {
    for (int r = 0; r < 2; r++)
        if (task->ranges[r].access & access && byte >= task->ranges[r].begin && byte < task->ranges[r].end)
            return true;
    return false;
}

uint32_t first_of_node(uint32_t task) {
    for (uint32_t i = 0; i < task; i++)
        if (i + plan.tasks[i].others >= task)
            return i;
    return task;
}

/* Of tasks, without regard to the groups they are in. */
static bool overlap(const planned *a, const planned *b) {
    for (uint32_t byte = 0; byte < BYTES; byte++)
        if ((touches(a, byte, SLR_WRITE) && touches(b, byte, SLR_READ | SLR_WRITE)) ||
            (touches(a, byte, SLR_READ) && touches(b, byte, SLR_WRITE)))
            return true;
    return false;
}

static bool member_counts_on(uint32_t task, uint32_t producer) {
    for (uint32_t byte = 0; byte < BYTES; byte++) {
        uint32_t writer = first_of_node(task);
        while (writer-- > 0 && !touches(&plan.tasks[writer], byte, SLR_WRITE))
            ;
        if (writer == producer && touches(&plan.tasks[task], byte, SLR_READ))
            return true;
    }
    return plan.tasks[task].after >> producer & 1;
}

/* What one member of a group waits for all do, and who waits for one waits for all. */
static bool related(uint32_t first, uint32_t second, bool (*relation)(uint32_t first, uint32_t second)) {
    uint32_t a = first_of_node(first), b = first_of_node(second);
    for (uint32_t i = a; a != b && i <= a + plan.tasks[a].others; i++)
        for (uint32_t j = b; j <= b + plan.tasks[b].others; j++)
            if (relation(i, j))
                return true;
    return false;
}

static bool member_ordered(uint32_t first, uint32_t second) {
    return overlap(&plan.tasks[first], &plan.tasks[second]) || plan.tasks[second].after >> first & 1;
}

bool ordered(uint32_t first, uint32_t second) {
    return related(first, second, member_ordered);
}

bool counts_on(uint32_t task, uint32_t producer) {
    return related(task, producer, member_counts_on);
}
