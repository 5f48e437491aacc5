/*
 * How fast the machine itself moves bytes over TCP, from the memory of one process into that of another: the most that
 * a copy to or from a session can reach. Prints one transfer a line, in MiB/s. Source: tcp(7).
 *
 *   tcp_bulk ROUNDS BYTES
 *
 * A transfer ends with one byte back, when all has arrived.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MIB 1048576.0

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static bool read_all(int fd, char *into, size_t bytes) {
    size_t have = 0;
    while (have < bytes) {
        ssize_t n = read(fd, into + have, bytes - have);
        if (n <= 0)
            return false;
        have += (size_t)n;
    }
    return true;
}

static bool write_all(int fd, const char *from, size_t bytes) {
    size_t sent = 0;
    while (sent < bytes) {
        ssize_t n = write(fd, from + sent, bytes - sent);
        if (n <= 0)
            return false;
        sent += (size_t)n;
    }
    return true;
}

static void take(int listener, size_t bytes) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    char *memory = malloc(bytes);
    int fd = accept(listener, NULL, NULL);
    if (!memory || fd < 0)
        _exit(1);
    memset(memory, 1, bytes); /* so that no page is touched for the first time while it is measured */
    while (read_all(fd, memory, bytes) && write_all(fd, memory, 1))
        ;
    _exit(0);
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    unsigned long rounds = strtoul(argv[1], NULL, 10), bytes = strtoul(argv[2], NULL, 10);
    char *memory = malloc(bytes), done;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof at;
    if (!memory || bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 1) ||
        getsockname(listener, (struct sockaddr *)&at, &length))
        return 1;
    memset(memory, 1, bytes);
    pid_t child = fork();
    if (child == 0)
        take(listener, bytes);
    int fd = socket(AF_INET, SOCK_STREAM, 0); /* here, so that the child has none of it: it sees its end */
    if (connect(fd, (struct sockaddr *)&at, length))
        return 1;
    for (unsigned long round = 0; round < rounds; round++) {
        double began = now_s();
        if (!write_all(fd, memory, bytes) || !read_all(fd, &done, 1))
            return 1;
        printf("%.1f\n", (double)bytes / MIB / (now_s() - began));
    }
    close(fd);
    return waitpid(child, NULL, 0) == child ? 0 : 1;
}
