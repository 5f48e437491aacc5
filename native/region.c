/*
 * A region: its layout, its memfd, and one process's mapping of it. Sources: memfd_create(2), fcntl(2) F_ADD_SEALS.
 *
 * The memfd is sealed against resizing before anyone else sees it, so that no mapping can be cut away under a reader.
 * The layout is a function of the configuration in the header; who attaches computes it anew and compares the sizes.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "region.h"

#define PAGE           4096ull
#define SEALS          (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define MAX_HEAP_BYTES (1ull << 44)
#define MAX_ENTRIES    (1u << 28)

static uint64_t round_up(uint64_t value, uint64_t step) {
    return (value + step - 1) / step * step;
}

static bool config_valid(const slr_config *config) {
    return config->heap_bytes >= PAGE && config->heap_bytes <= MAX_HEAP_BYTES + SLRI_RESERVE_BYTES && config->slots &&
           config->slots <= MAX_ENTRIES && config->edges <= MAX_ENTRIES && config->runs &&
           config->runs <= MAX_ENTRIES && config->callables <= MAX_ENTRIES && config->workers &&
           config->workers <= SLRI_MAX_WORKERS && config->trace_events <= MAX_ENTRIES;
}

/* Reserves `bytes` at the next page: the bitmap must begin at one for MADV_REMOVE, the rest gains order. */
static uint64_t place(uint64_t *end, uint64_t bytes) {
    uint64_t begin = round_up(*end, PAGE);
    *end = begin + bytes;
    return begin;
}

static void lay_out(const slr_config *config, slri_layout *layout) {
    uint64_t end = sizeof(slri_header);
    layout->workers = place(&end, config->workers * sizeof(slri_worker));
    layout->runs = place(&end, config->runs * sizeof(slri_run));
    layout->callables = place(&end, config->callables * sizeof(slri_callable));
    layout->buckets = place(&end, slri_callable_buckets(config) * sizeof(uint32_t));
    layout->slots = place(&end, config->slots * sizeof(slri_slot));
    layout->edges = place(&end, config->edges * sizeof(slri_edge));
    layout->trace = place(&end, config->trace_events * sizeof(slr_trace_event));
    end = round_up(end, PAGE);
    uint64_t bits = config->heap_bytes / SLRI_LINE, below;
    layout->bitmap_levels = 0;
    do {
        assert(layout->bitmap_levels < SLRI_BITMAP_LEVELS);
        layout->bitmap[layout->bitmap_levels++] = end;
        below = bits;
        bits = (bits + 63) / 64;
        end += bits * sizeof(uint64_t);
    } while (below > 63); /* a search begins one past a bit, and must still be inside the topmost word */
    layout->bitmap_end = end = round_up(end, PAGE);
    layout->heap = place(&end, config->heap_bytes);
    layout->region_bytes = round_up(end, PAGE);
}

static void set_addresses(slr_region *region) {
    const slri_layout *layout = &region->layout;
    uint8_t *base = region->base;
    region->header = (slri_header *)base;
    region->workers = (slri_worker *)(base + layout->workers);
    region->runs = (slri_run *)(base + layout->runs);
    region->callables = (slri_callable *)(base + layout->callables);
    region->buckets = (uint32_t *)(base + layout->buckets);
    region->slots = (slri_slot *)(base + layout->slots);
    region->edges = (slri_edge *)(base + layout->edges);
    region->trace = (slr_trace_event *)(base + layout->trace);
    for (uint32_t level = 0; level < layout->bitmap_levels; level++)
        region->bitmap[level] = (uint64_t *)(base + layout->bitmap[level]);
    region->heap = base + layout->heap;
}

/* Takes over fd, which it closes when it fails. */
static int map(int fd, const slri_layout *layout, slr_region **out) {
    slr_region *region = calloc(1, sizeof *region);
    void *base = region ? mmap(NULL, layout->region_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0)
                        : MAP_FAILED;
    if (base == MAP_FAILED) {
        int error = errno;
        free(region);
        close(fd);
        errno = error;
        return SLR_SYSTEM;
    }
    region->base = base;
    region->layout = *layout;
    region->fd = fd;
    region->notify_fd = region->alarm_fd = -1;
    set_addresses(region);
    *out = region;
    return SLR_OK;
}

/* The same file under a number above those of the standard streams: a process that was started without one of them
 * would write what is meant for it into the region. Takes `fd`; gives -1, with errno, for -1 or when it cannot. */
static int above_streams(int fd) {
    if (fd < 0 || fd > STDERR_FILENO)
        return fd;
    int above = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    int error = errno;
    close(fd);
    errno = error;
    return above;
}

static int make_memfd(uint64_t bytes) {
    int fd = above_streams(memfd_create("simpler-region", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (fd < 0)
        return -1;
    if (ftruncate(fd, (off_t)bytes) == 0 && fcntl(fd, F_ADD_SEALS, SEALS) == 0)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

/* One core is the submitter's. Sources: sched_getaffinity(2), CPU_COUNT(3). */
static uint32_t spinners(void) {
    cpu_set_t cores;
    int count = sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
    return count > 2 ? (uint32_t)count - 1 : 1;
}

/* Everything that does not begin as zero. */
static int initialise(slr_region *region, const slr_config *config) {
    slri_header *header = region->header;
    header->version = SLRI_VERSION;
    header->header_bytes = sizeof *header;
    header->region_bytes = region->layout.region_bytes;
    header->config = *config;
    header->shared.head = header->shared.tail = SLRI_NONE;
    header->spinners = spinners();
    header->alarm_ns = INT64_MAX;
    header->parked = header->slots_free = header->edges_free = header->callables_free = SLRI_NONE;
    for (uint32_t i = 0; i < config->workers; i++) {
        slri_worker *worker = &region->workers[i];
        worker->queue.head = worker->queue.tail = SLRI_NONE;
        worker->parked_next = worker->parked_previous = worker->timed = worker->member = SLRI_NONE;
    }
    slri_heap_init(region);
    int status = slri_lock_init(header);
    if (status == SLR_OK)
        slri_commit_wide(&header->magic, SLRI_MAGIC);
    return status;
}

int slr_region_create(const slr_config *config, slr_region **out) {
    if (!config || !out || config->heap_bytes > MAX_HEAP_BYTES)
        return SLR_INVALID;
    slr_config rounded = *config;
    rounded.heap_bytes = config->heap_bytes ? round_up(config->heap_bytes, PAGE) + SLRI_RESERVE_BYTES : 0;
    if (!config_valid(&rounded))
        return SLR_INVALID;
    slri_layout layout;
    lay_out(&rounded, &layout);
    int fd = make_memfd(layout.region_bytes);
    if (fd < 0)
        return SLR_SYSTEM;
    slr_region *region;
    int status = map(fd, &layout, &region);
    if (status != SLR_OK)
        return status;
    status = initialise(region, &rounded);
    if (status != SLR_OK)
        slr_region_detach(region);
    else
        *out = region;
    return status;
}

/* The layout of the region behind fd, or SLR_FORMAT where it is none that this library may map. */
static int read_layout(int fd, slri_layout *layout) {
    struct stat file;
    if (fstat(fd, &file) != 0)
        return SLR_SYSTEM;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & SEALS) != SEALS || (uint64_t)file.st_size < sizeof(slri_header))
        return SLR_FORMAT;
    slri_header *header = mmap(NULL, sizeof *header, PROT_READ, MAP_SHARED, fd, 0);
    if (header == MAP_FAILED)
        return SLR_SYSTEM;
    int status = SLR_FORMAT;
    if (__atomic_load_n(&header->magic, __ATOMIC_ACQUIRE) == SLRI_MAGIC && header->version == SLRI_VERSION &&
        header->header_bytes == sizeof *header && config_valid(&header->config)) {
        lay_out(&header->config, layout);
        if (layout->region_bytes == header->region_bytes && layout->region_bytes == (uint64_t)file.st_size)
            status = SLR_OK;
    }
    munmap(header, sizeof *header);
    return status;
}

int slr_region_attach(int fd, slr_region **out) {
    if (!out)
        return SLR_INVALID;
    slri_layout layout;
    int status = read_layout(fd, &layout);
    if (status != SLR_OK)
        return status;
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    return own < 0 ? SLR_SYSTEM : map(own, &layout, out);
}

void slr_region_detach(slr_region *region) {
    if (!region)
        return;
    slri_tracker_free(region->tracker);
    munmap(region->base, region->layout.region_bytes);
    if (region->notify_fd >= 0)
        close(region->notify_fd);
    if (region->alarm_fd >= 0)
        close(region->alarm_fd);
    close(region->fd);
    free(region);
}

int slr_region_fd(const slr_region *region) {
    return region ? region->fd : -1;
}

void *slr_region_heap(const slr_region *region) {
    return region ? region->heap : NULL;
}

uint64_t slr_region_heap_bytes(const slr_region *region) {
    return region ? region->header->config.heap_bytes : 0;
}

uint64_t slr_region_heap_offset(const slr_region *region) {
    return region ? region->layout.heap : 0;
}

/* Keeps a duplicate of fd in *kept, once. */
static int keep_fd(slr_region *region, int *kept, int fd) {
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0)
        return SLR_SYSTEM;
    slri_lock(region);
    bool first = *kept < 0;
    if (first)
        __atomic_store_n(kept, own, __ATOMIC_RELAXED);
    slri_unlock(region);
    if (!first)
        close(own);
    return first ? SLR_OK : SLR_INVALID;
}

int slr_region_set_notify_fd(slr_region *region, int fd) {
    return region ? keep_fd(region, &region->notify_fd, fd) : SLR_INVALID;
}

int slr_region_set_alarm_fd(slr_region *region, int fd) {
    return region ? keep_fd(region, &region->alarm_fd, fd) : SLR_INVALID;
}

int slr_region_shutdown(slr_region *region) {
    if (!region)
        return SLR_INVALID;
    slri_lock(region);
    slri_commit(&region->header->closed, 1);
    slri_wake_everyone(region);
    slri_unlock(region);
    return SLR_OK;
}

int slr_region_stats(slr_region *region, slr_stats *out) {
    if (!region || !out)
        return SLR_INVALID;
    slri_lock_to_read(region);
    const slri_header *header = region->header;
    *out = (slr_stats){
        .tasks = header->tasks,
        .failures = header->failures,
        .poisoned = header->poisoned,
        .cancelled = header->cancelled,
        .live = header->live,
        .heap_bytes = header->config.heap_bytes - SLRI_RESERVE_BYTES,
        .heap_used = header->heap_used,
        .heap_peak = header->heap_peak,
        .shared_queue = header->shared.length,
        .runs_live = header->runs_live,
        .recoveries = header->recoveries,
        .slots_used = header->slots_used,
    };
    slri_unlock(region);
    return SLR_OK;
}

const char *slr_status_name(int status) {
    static const char *const names[] = {
        "SLR_OK",        "SLR_INVALID",   "SLR_SYSTEM",     "SLR_TIMEOUT",     "SLR_STALE",     "SLR_CLOSED",
        "SLR_FORMAT",    "SLR_HEAP_FULL", "SLR_SLOTS_FULL", "SLR_EDGES_FULL",  "SLR_RUNS_FULL", "SLR_CALLABLES_FULL",
        "SLR_NOT_FOUND", "SLR_CONFLICT",  "SLR_CORRUPT",    "SLR_INTERRUPTED", "SLR_FAILED",
    };
    size_t index = (size_t)-(long)status;
    return status <= 0 && index < sizeof names / sizeof names[0] ? names[index] : "unknown status";
}
