#include "keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum {
    LAST_STANDARD_SIGNAL = 31,
    LAST_SIGNAL = 64,
    KERNEL_SIGSET_BYTES = 8,
    TIMERS = 3,
    STREAMS = 3,
};

/* struct sigaction as the kernel has it, which is to be compared whole: at most a handler, flags, a restorer, a mask.
 */
typedef struct {
    uint64_t words[4];
} disposition;

/* A standard descriptor: what is open there, and a copy to get it back from; -1 where nothing is. */
typedef struct {
    int copy;
    dev_t device;
    ino_t inode;
} stream;

struct slr_keeper {
    pid_t process;
    stream streams[STREAMS];
    int directory, clear_refs; /* clear_refs: -1 where /proc does not let it be written */
    mode_t umask;
    sigset_t mask;
    disposition dispositions[LAST_SIGNAL + 1];
    int is_timer_set[TIMERS];
    char **environment; /* the pointers in environ: setenv(3) never changes a string in place */
    int64_t due_ns;
    int64_t begun_ns;
    double started;
    struct rusage used;
};

static int64_t now_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* By the system call: libc refuses the signals that it keeps for itself, and would make them look changed. */
static int get_disposition(int number, disposition *out) {
    memset(out, 0, sizeof *out);
    return (int)syscall(SYS_rt_sigaction, number, NULL, out, KERNEL_SIGSET_BYTES);
}

static int is_disposition_changed(const slr_keeper *keeper, int number) {
    disposition now;
    get_disposition(number, &now);
    return memcmp(&now, &keeper->dispositions[number], sizeof now) != 0;
}

static int are_signals_changed(const slr_keeper *keeper, int last) {
    for (int number = 1; number <= last; number++)
        if (number != SIGKILL && number != SIGSTOP && is_disposition_changed(keeper, number))
            return 1;
    return 0;
}

void slr_keeper_restore_signals(slr_keeper *keeper) {
    for (int number = 1; number <= LAST_SIGNAL; number++)
        if (is_disposition_changed(keeper, number))
            syscall(SYS_rt_sigaction, number, &keeper->dispositions[number], NULL, KERNEL_SIGSET_BYTES);
}

static int is_timer_set(int which) {
    struct itimerval timer;
    getitimer(which, &timer);
    return timer.it_value.tv_sec || timer.it_value.tv_usec;
}

void slr_keeper_stop_timers(const slr_keeper *keeper) {
    static const struct itimerval stopped;
    for (int which = 0; which < TIMERS; which++)
        if (!keeper->is_timer_set[which] && is_timer_set(which))
            setitimer(which, &stopped, NULL);
}

static int is_environment_changed(const slr_keeper *keeper) {
    char **now = environ, **then = keeper->environment;
    if (!now)
        return *then != NULL;
    while (*then && *now == *then) {
        now++;
        then++;
    }
    return *now != *then;
}

slr_status slr_keeper_remember_environment(slr_keeper *keeper) {
    size_t count = 0;
    while (environ && environ[count])
        count++;
    char **copy = realloc(keeper->environment, (count + 1) * sizeof *copy);
    if (!copy)
        return SLR_SYSTEM;
    if (count)
        memcpy(copy, environ, count * sizeof *copy);
    copy[count] = NULL;
    keeper->environment = copy;
    return SLR_OK;
}

void slr_environment_clear(void) {
    clearenv();
}

static int is_open_at(const stream *stream, int fd) {
    struct stat now;
    return fstat(fd, &now) == 0 && now.st_dev == stream->device && now.st_ino == stream->inode;
}

static void remember_streams(slr_keeper *keeper) {
    for (int fd = 0; fd < STREAMS; fd++) {
        struct stat now = {0};
        stream *stream = &keeper->streams[fd];
        stream->copy = fstat(fd, &now) < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, STREAMS);
        stream->device = now.st_dev;
        stream->inode = now.st_ino;
    }
}

/* Unless the call has closed the copy as well, whose number may be another file's by now. */
static void restore_streams(const slr_keeper *keeper) {
    for (int fd = 0; fd < STREAMS; fd++) {
        const stream *stream = &keeper->streams[fd];
        if (stream->copy >= 0 && !is_open_at(stream, fd) && is_open_at(stream, stream->copy))
            dup2(stream->copy, fd);
    }
}

static void close_descriptors(const slr_keeper *keeper) {
    for (int fd = 0; fd < STREAMS; fd++)
        if (keeper->streams[fd].copy >= 0)
            close(keeper->streams[fd].copy);
    if (keeper->clear_refs >= 0)
        close(keeper->clear_refs);
    if (keeper->directory >= 0)
        close(keeper->directory);
}

/* Their numbers may be others' by now. */
static void forget_descriptors(slr_keeper *keeper) {
    keeper->directory = keeper->clear_refs = -1;
    for (int fd = 0; fd < STREAMS; fd++)
        keeper->streams[fd].copy = -1;
}

static void remember_signals(slr_keeper *keeper) {
    pthread_sigmask(SIG_SETMASK, NULL, &keeper->mask);
    for (int number = 1; number <= LAST_SIGNAL; number++)
        get_disposition(number, &keeper->dispositions[number]);
    for (int which = 0; which < TIMERS; which++)
        keeper->is_timer_set[which] = is_timer_set(which);
}

slr_status slr_keeper_create(slr_keeper **out) {
    slr_keeper *keeper = calloc(1, sizeof *keeper);
    if (!keeper)
        return SLR_SYSTEM;
    keeper->process = getpid();
    remember_streams(keeper);
    keeper->clear_refs = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    keeper->directory = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (keeper->directory < 0 || slr_keeper_remember_environment(keeper) != SLR_OK) {
        int error = errno;
        slr_keeper_destroy(keeper);
        errno = error;
        return SLR_SYSTEM;
    }
    keeper->umask = umask(0);
    umask(keeper->umask);
    remember_signals(keeper);
    *out = keeper;
    return SLR_OK;
}

void slr_keeper_destroy(slr_keeper *keeper) {
    close_descriptors(keeper);
    free(keeper->environment);
    free(keeper);
}

/* The signals up to `last` and the timers. */
static int look(slr_keeper *keeper, int64_t now, int last) {
    keeper->due_ns = now + SLR_KEEP_DUE_NS;
    slr_keeper_stop_timers(keeper);
    return are_signals_changed(keeper, last) ? SLR_SIGNALS_CHANGED : 0;
}

int slr_keeper_begin(slr_keeper *keeper) {
    restore_streams(keeper);
    int64_t now = now_ns(CLOCK_MONOTONIC);
    int changes = now < keeper->due_ns ? 0 : look(keeper, now, LAST_STANDARD_SIGNAL);
    if (keeper->clear_refs >= 0 && pwrite(keeper->clear_refs, "5", 1, 0) < 0)
        keeper->clear_refs = -1;
    getrusage(RUSAGE_SELF, &keeper->used);
    keeper->started = (double)now_ns(CLOCK_REALTIME) / 1e9;
    keeper->begun_ns = now_ns(CLOCK_MONOTONIC);
    return changes;
}

static double seconds_between(struct timeval begin, struct timeval end) {
    return (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_usec - begin.tv_usec) / 1e6;
}

int slr_keeper_usage(slr_keeper *keeper, slr_usage *usage) {
    if (getpid() != keeper->process)
        return SLR_FORKED;
    struct rusage now;
    getrusage(RUSAGE_SELF, &now);
    usage->wall_s = (double)(now_ns(CLOCK_MONOTONIC) - keeper->begun_ns) / 1e9;
    usage->started = keeper->started;
    usage->ended = (double)now_ns(CLOCK_REALTIME) / 1e9;
    usage->user_s = seconds_between(keeper->used.ru_utime, now.ru_utime);
    usage->system_s = seconds_between(keeper->used.ru_stime, now.ru_stime);
    usage->peak_rss_bytes = (double)now.ru_maxrss * 1024;
    return 0;
}

int slr_keeper_restore(slr_keeper *keeper, int suspect) {
    if (getpid() != keeper->process)
        return SLR_FORKED;
    int changes = is_environment_changed(keeper) ? SLR_ENVIRONMENT_CHANGED : 0;
    if (fchdir(keeper->directory) < 0) {
        forget_descriptors(keeper);
        changes |= SLR_DIRECTORY_LOST;
        suspect = 1; /* a keeper of how the process is then will take this one's place */
    }
    int64_t now = now_ns(CLOCK_MONOTONIC);
    if (suspect || now >= keeper->due_ns)
        changes |= look(keeper, now, suspect ? LAST_SIGNAL : LAST_STANDARD_SIGNAL);
    umask(keeper->umask);
    pthread_sigmask(SIG_SETMASK, &keeper->mask, NULL);
    return changes;
}

/* Not in a keeper, since a limit is the process's, and is taken back where there may be no memory left to find one. */
static struct rlimit unlimited;
static int is_limited;

/* Pages of data and stack: the sixth number of /proc/self/statm, proc(5). */
static int64_t data_pages(void) {
    unsigned long pages;
    FILE *statm = fopen("/proc/self/statm", "re");
    if (!statm)
        return -1;
    int found = fscanf(statm, "%*u %*u %*u %*u %*u %lu", &pages);
    fclose(statm);
    return found == 1 ? (int64_t)pages : -1;
}

slr_status slr_memory_limit(uint64_t more_bytes) {
    int64_t pages = data_pages();
    if (pages < 0 || getrlimit(RLIMIT_DATA, &unlimited) < 0)
        return SLR_SYSTEM;
    struct rlimit limit = unlimited;
    rlim_t bytes = (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + more_bytes;
    if (bytes < limit.rlim_cur) /* RLIM_INFINITY is the largest number */
        limit.rlim_cur = bytes;
    if (setrlimit(RLIMIT_DATA, &limit) < 0)
        return SLR_SYSTEM;
    is_limited = 1;
    return SLR_OK;
}

void slr_memory_unlimit(void) {
    if (is_limited)
        setrlimit(RLIMIT_DATA, &unlimited);
    is_limited = 0;
}
