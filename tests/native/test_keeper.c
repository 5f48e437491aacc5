/* What a worker process of an executor puts back between two calls. */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>

#include "harness.h"
#include "keeper.h"

static slr_keeper *make_keeper(void) {
    slr_keeper *keeper;
    OK(slr_keeper_create(&keeper));
    return keeper;
}

static void let_it_be_due(void) {
    struct timespec pause = {.tv_nsec = 2 * SLR_KEEP_DUE_NS};
    nanosleep(&pause, NULL);
}

/* X4 */
static void the_cheap_half_is_put_back_every_time(void) {
    char before[4096], after[4096];
    CHECK(getcwd(before, sizeof before));
    mode_t mask = umask(0);
    umask(mask);
    slr_keeper *keeper = make_keeper();
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    for (int time = 0; time < 3; time++) {
        slr_keeper_begin(keeper);
        CHECK(chdir("/") == 0);
        umask(0123);
        sigprocmask(SIG_BLOCK, &blocked, NULL);
        CHECK(slr_keeper_restore(keeper, 0) == 0);
        CHECK(getcwd(after, sizeof after) && strcmp(before, after) == 0);
        CHECK(umask(mask) == mask);
        sigset_t now;
        sigprocmask(SIG_BLOCK, NULL, &now);
        CHECK(!sigismember(&now, SIGUSR1));
    }
    slr_keeper_destroy(keeper);
}

static void (*handler_of(int number))(int) {
    struct sigaction now;
    CHECK(sigaction(number, NULL, &now) == 0);
    return now.sa_handler;
}

/* X4 */
static void a_changed_disposition_is_seen_when_it_is_due_or_suspected(void) {
    signal(SIGUSR1, SIG_IGN);
    slr_keeper *keeper = make_keeper();
    for (int suspect = 0; suspect < 2; suspect++) {
        slr_keeper_begin(keeper);
        signal(SIGUSR1, SIG_DFL);
        signal(suspect ? SIGRTMAX : SIGUSR2, SIG_IGN);
        if (!suspect)
            let_it_be_due();
        CHECK(slr_keeper_restore(keeper, suspect) == SLR_SIGNALS_CHANGED);
        CHECK(handler_of(SIGUSR1) == SIG_DFL);
        slr_keeper_restore_signals(keeper);
        CHECK(handler_of(SIGUSR1) == SIG_IGN && handler_of(SIGUSR2) == SIG_DFL && handler_of(SIGRTMAX) == SIG_DFL);
        CHECK(slr_keeper_restore(keeper, 1) == 0);
    }
    signal(SIGUSR2, SIG_IGN);
    let_it_be_due();
    CHECK(slr_keeper_begin(keeper) == SLR_SIGNALS_CHANGED);
    slr_keeper_destroy(keeper);
}

static int is_running(int which) {
    struct itimerval now;
    getitimer(which, &now);
    return now.it_value.tv_sec || now.it_value.tv_usec;
}

/* X4 */
static void a_calls_timers_are_stopped_and_no_others(void) {
    struct itimerval hour = {.it_value = {.tv_sec = 3600}};
    setitimer(ITIMER_PROF, &hour, NULL);
    slr_keeper *keeper = make_keeper();
    alarm(3600);
    setitimer(ITIMER_VIRTUAL, &hour, NULL);
    CHECK(slr_keeper_restore(keeper, 1) == 0);
    CHECK(!is_running(ITIMER_REAL) && !is_running(ITIMER_VIRTUAL) && is_running(ITIMER_PROF));
    slr_keeper_destroy(keeper);
}

/* X4 */
static void every_change_of_the_environment_is_seen(void) {
    setenv("KEPT", "1", 1);
    slr_keeper *keeper = make_keeper();
    CHECK(slr_keeper_restore(keeper, 0) == 0);
    setenv("KEPT", "2", 1);
    CHECK(slr_keeper_restore(keeper, 0) == SLR_ENVIRONMENT_CHANGED);
    OK(slr_keeper_remember_environment(keeper));
    CHECK(slr_keeper_restore(keeper, 0) == 0);
    setenv("NEW", "1", 1);
    CHECK(slr_keeper_restore(keeper, 0) == SLR_ENVIRONMENT_CHANGED);
    unsetenv("NEW");
    CHECK(slr_keeper_restore(keeper, 0) == 0);
    unsetenv("KEPT");
    CHECK(slr_keeper_restore(keeper, 0) == SLR_ENVIRONMENT_CHANGED);
    slr_environment_clear();
    CHECK(slr_keeper_restore(keeper, 0) == SLR_ENVIRONMENT_CHANGED);
    OK(slr_keeper_remember_environment(keeper));
    CHECK(slr_keeper_restore(keeper, 0) == 0);
    slr_keeper_destroy(keeper);
}

static ino_t open_at(int fd) {
    struct stat now = {0};
    fstat(fd, &now);
    return now.st_ino;
}

/* X4 */
static void standard_streams_are_back_before_the_next_call(void) {
    int out = dup(STDOUT_FILENO), null = open("/dev/null", O_WRONLY);
    ino_t before = open_at(STDOUT_FILENO);
    slr_keeper *keeper = make_keeper();
    slr_keeper_begin(keeper);
    close(STDOUT_FILENO);
    slr_keeper_begin(keeper);
    CHECK(open_at(STDOUT_FILENO) == before);
    dup2(null, STDOUT_FILENO);
    CHECK(slr_keeper_restore(keeper, 1) == 0 && open_at(STDOUT_FILENO) == open_at(null));
    slr_keeper_begin(keeper);
    CHECK(open_at(STDOUT_FILENO) == before);
    dup2(null, STDOUT_FILENO);
    for (int fd = null + 1; fd < null + 8; fd++)
        dup2(null, fd); /* a call that took the keeper's own descriptors is not to have its file written to as output */
    slr_keeper_begin(keeper);
    CHECK(open_at(STDOUT_FILENO) == open_at(null));
    dup2(out, STDOUT_FILENO);
    slr_keeper_destroy(keeper);
}

static void a_forked_process_is_told_and_touches_nothing(void) {
    slr_keeper *keeper = make_keeper();
    slr_usage usage;
    slr_keeper_begin(keeper);
    CHECK(slr_keeper_usage(keeper, &usage) == 0);
    pid_t child = fork();
    if (child == 0) {
        int told = slr_keeper_usage(keeper, &usage) == SLR_FORKED && slr_keeper_restore(keeper, 1) == SLR_FORKED;
        _exit(told ? 0 : 1);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(slr_keeper_restore(keeper, 0) == 0);
    slr_keeper_destroy(keeper);
}

static void measure_two(void) {
    enum { BYTES = 64 << 20 };
    slr_keeper *keeper = make_keeper();
    slr_usage large, small;
    slr_keeper_begin(keeper);
    char *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    memset(memory, 1, BYTES);
    munmap(memory, BYTES);
    CHECK(slr_keeper_usage(keeper, &large) == 0);
    slr_keeper_begin(keeper);
    CHECK(slr_keeper_usage(keeper, &small) == 0);
    CHECK(large.peak_rss_bytes >= BYTES && small.peak_rss_bytes <= large.peak_rss_bytes - BYTES / 2);
    CHECK(large.wall_s > 0 && large.user_s + large.system_s > 0 && large.started <= large.ended);
    slr_keeper_destroy(keeper);
}

/* X6. In a process that was forked: of one that was exec'd the kernel counts what the process had before, too. */
static void what_a_call_takes_is_its_own(void) {
    pid_t child = fork();
    if (child == 0) {
        measure_two();
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void memory_is_bounded_until_the_bound_is_lifted(void) {
    enum { BYTES = 64 << 20 };
    OK(slr_memory_limit(BYTES / 2));
    void *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    slr_memory_unlimit();
    CHECK(memory == MAP_FAILED);
    memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    munmap(memory, BYTES);
    slr_memory_unlimit();
}

MAIN(CASE(the_cheap_half_is_put_back_every_time), CASE(a_changed_disposition_is_seen_when_it_is_due_or_suspected),
     CASE(a_calls_timers_are_stopped_and_no_others), CASE(every_change_of_the_environment_is_seen),
     CASE(standard_streams_are_back_before_the_next_call), CASE(a_forked_process_is_told_and_touches_nothing),
     CASE(what_a_call_takes_is_its_own), CASE(memory_is_bounded_until_the_bound_is_lifted))
