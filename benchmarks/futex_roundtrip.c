/*
 * What the machine itself takes to wake a process that sleeps on a futex, and to be woken by it: the least that a task
 * for a parked worker can cost. Prints one round trip a line, in microseconds. Source: futex(2).
 *
 *   futex_roundtrip ROUNDS GAP_US       GAP_US: how long both sleep before each round
 *
 * Each has a processor of its own, as a program and its worker have on a quiet machine: on one processor it would be a
 * mere switch between two processes, and nobody would have to be woken.
 */
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    uint32_t request;
    uint32_t reply;
} words;

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void stay_on(int cpu) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof one, &one); /* where there is just one, the figures say so */
}

static void set(uint32_t *word, uint32_t value) {
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
    syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void await(uint32_t *word, uint32_t value) {
    uint32_t seen;
    while ((seen = __atomic_load_n(word, __ATOMIC_ACQUIRE)) != value)
        syscall(SYS_futex, word, FUTEX_WAIT, seen, NULL, NULL, 0);
}

static void answer(words *shared, uint32_t rounds) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    stay_on(1);
    for (uint32_t round = 1; round <= rounds; round++) {
        await(&shared->request, round);
        set(&shared->reply, round);
    }
    _exit(0);
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    uint32_t rounds = (uint32_t)strtoul(argv[1], NULL, 10), gap_us = (uint32_t)strtoul(argv[2], NULL, 10);
    words *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return 1;
    pid_t child = fork();
    if (child == 0)
        answer(shared, rounds);
    stay_on(0);
    for (uint32_t round = 1; round <= rounds; round++) {
        usleep(gap_us);
        double began = now_us();
        set(&shared->request, round);
        await(&shared->reply, round);
        printf("%.3f\n", now_us() - began);
    }
    return waitpid(child, NULL, 0) == child ? 0 : 1;
}
