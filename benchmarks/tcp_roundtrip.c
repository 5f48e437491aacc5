/*
 * What the machine itself takes to send a message the size of a task over TCP to a process that waits for it, and to
 * hear from it: the least that a task of a session can cost. Prints one round trip a line, in microseconds. Source:
 * tcp(7).
 *
 *   tcp_roundtrip ROUNDS BYTES
 *
 * Each has a processor of its own, as a program and a session have on a quiet machine.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

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

static bool exchange(int fd, char *message, size_t bytes, bool speaks_first) {
    bool sent = !speaks_first || write(fd, message, bytes) == (ssize_t)bytes;
    bool heard = sent && recv(fd, message, bytes, MSG_WAITALL) == (ssize_t)bytes;
    return heard && (speaks_first || write(fd, message, bytes) == (ssize_t)bytes);
}

static void send_at_once(int fd) {
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static void answer(int listener, char *message, size_t bytes) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    stay_on(1);
    int fd = accept(listener, NULL, NULL);
    if (fd < 0)
        _exit(1);
    send_at_once(fd);
    while (exchange(fd, message, bytes, false))
        ;
    _exit(0);
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    unsigned long rounds = strtoul(argv[1], NULL, 10), bytes = strtoul(argv[2], NULL, 10);
    char *message = calloc(1, bytes);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof at;
    if (!message || bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 1) ||
        getsockname(listener, (struct sockaddr *)&at, &length))
        return 1;
    pid_t child = fork();
    if (child == 0)
        answer(listener, message, bytes);
    stay_on(0);
    int fd = socket(AF_INET, SOCK_STREAM, 0); /* here, so that the child has none of it: it sees its end */
    if (connect(fd, (struct sockaddr *)&at, length))
        return 1;
    send_at_once(fd);
    for (unsigned long round = 0; round < rounds; round++) {
        double began = now_us();
        if (!exchange(fd, message, bytes, true))
            return 1;
        printf("%.3f\n", now_us() - began);
    }
    close(fd);
    return waitpid(child, NULL, 0) == child ? 0 : 1;
}
