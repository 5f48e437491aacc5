/*
 * The simulated device: host memory that behaves like a device's, so that what would fail on a real one fails here.
 *
 *   - Its memory is a mapping of its own, apart from the worker heap, and fresh or discarded memory begins with 0xff
 *     bytes (NaN, -1): a copy that was forgotten shows in the result.
 *   - An address is (device id + 1) << 48 plus an offset. That is no pointer of x86-64 or aarch64, nor an address of
 *     another device: whoever mistakes one for the other is found out.
 *   - Each allocation ends at an inaccessible page, and freed memory is inaccessible: a kernel that leaves its
 *     tensors is killed by SIGSEGV instead of changing somebody's data.
 *   - A kernel is an ELF shared object, written to a sealed memfd and loaded from /proc/self/fd/N.
 *
 * It does not arbitrate between processes: each process that opens device 3 gets a device 3 of its own. One owner at
 * a time is what the daemon's lease is for.
 */
#include "device.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "simpler.h"

#define SIM_DEVICES       1024
#define SIM_MEMORY_BYTES  (UINT64_C(4) << 30) /* virtual until touched */
#define SIM_ALIGNMENT     64                  /* of an address: the widest vector load, and a cache line */
#define SIM_ADDRESS_SHIFT 48
#define SIM_FILL_BYTES    (UINT64_C(1) << 16) /* of fresh memory; large blocks stay untouched behind it */

#if defined(__x86_64__)
#define SIM_ARCH        "x86_64"
#define SIM_ELF_MACHINE EM_X86_64
#elif defined(__aarch64__)
#define SIM_ARCH        "aarch64"
#define SIM_ELF_MACHINE EM_AARCH64
#else
#error "the sim driver knows x86-64 and aarch64"
#endif

typedef int (*kernel_entry)(const slr_tensor *, uint32_t, const uint64_t *, uint32_t);

/* One allocation. Its pages are [first, limit) of the memory; the page at limit is never accessible. */
typedef struct {
    uint64_t first;
    uint64_t begin; /* what its address names; begin + bytes, rounded up to SIM_ALIGNMENT, is limit */
    uint64_t bytes;
    uint64_t limit;
} sim_block;

typedef struct {
    uint32_t device_id;
    uint64_t page;
    uint8_t *memory;
    sim_block *blocks; /* by address */
    size_t n_blocks;
    size_t room;
    uint64_t used; /* bytes asked for */
    char *error;   /* NULL: none yet, or no memory for one */
} sim_device;

/* The descriptor stays open while the object is loaded: the loader knows an object by its path, so that a number used
 * again would give the old object for the new one. */
typedef struct {
    void *object;
    kernel_entry entry;
    int fd;
} sim_kernel;

__attribute__((format(printf, 3, 4))) static int fail(sim_device *sim, int status, const char *format, ...) {
    free(sim->error);
    va_list arguments;
    va_start(arguments, format);
    if (vasprintf(&sim->error, format, arguments) < 0)
        sim->error = NULL;
    va_end(arguments);
    return status;
}

static const char *sim_error(void *state) {
    sim_device *sim = state;
    return sim->error ? sim->error : "no further information";
}

/* ---- open and close ---- */

static int sim_open(uint32_t device_id, void **state, char *why, size_t why_bytes) {
    if (device_id >= SIM_DEVICES) {
        snprintf(why, why_bytes, "the sim driver has devices 0 to %d, not %u", SIM_DEVICES - 1, device_id);
        return SLR_INVALID;
    }
    sim_device *sim = calloc(1, sizeof *sim);
    if (!sim) {
        snprintf(why, why_bytes, "out of host memory");
        return SLR_SYSTEM;
    }
    sim->device_id = device_id;
    sim->page = (uint64_t)sysconf(_SC_PAGESIZE);
    sim->memory = mmap(NULL, SIM_MEMORY_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (sim->memory == MAP_FAILED) {
        snprintf(why, why_bytes, "cannot map the %llu bytes of sim device memory: %s (is RLIMIT_AS below that?)",
                 (unsigned long long)SIM_MEMORY_BYTES, strerror(errno));
        free(sim);
        return SLR_SYSTEM;
    }
    *state = sim;
    return SLR_OK;
}

static void sim_close(void *state) {
    sim_device *sim = state;
    munmap(sim->memory, SIM_MEMORY_BYTES);
    free(sim->blocks);
    free(sim->error);
    free(sim);
}

static int sim_info(void *state, slr_device_info *out) {
    sim_device *sim = state;
    snprintf(out->name, sizeof out->name, "simulated device %u", sim->device_id);
    snprintf(out->arch, sizeof out->arch, "%s", SIM_ARCH);
    out->memory_bytes = SIM_MEMORY_BYTES;
    out->memory_used = sim->used;
    return SLR_OK;
}

/* ---- memory ---- */

static uint64_t round_up(uint64_t value, uint64_t unit) {
    return (value + unit - 1) / unit * unit;
}

static uint64_t address_base(const sim_device *sim) {
    return (uint64_t)(sim->device_id + 1) << SIM_ADDRESS_SHIFT;
}

/* Where a new block goes: its place in blocks, and the first page of a gap that holds `pages` bytes and the page after.
 */
static int find_gap(const sim_device *sim, uint64_t pages, size_t *place, uint64_t *first) {
    uint64_t begin = 0;
    for (size_t i = 0; i <= sim->n_blocks; i++) {
        uint64_t end = i < sim->n_blocks ? sim->blocks[i].first : SIM_MEMORY_BYTES;
        if (end - begin >= pages + sim->page) {
            *place = i;
            *first = begin;
            return 1;
        }
        if (i < sim->n_blocks)
            begin = sim->blocks[i].limit + sim->page;
    }
    return 0;
}

static int make_room(sim_device *sim) {
    if (sim->n_blocks < sim->room)
        return SLR_OK;
    size_t room = sim->room ? 2 * sim->room : 64;
    sim_block *blocks = reallocarray(sim->blocks, room, sizeof *blocks);
    if (!blocks)
        return fail(sim, SLR_SYSTEM, "out of host memory for %zu allocation records", room);
    sim->blocks = blocks;
    sim->room = room;
    return SLR_OK;
}

static void fill(sim_device *sim, const sim_block *block) {
    memset(sim->memory + block->begin, 0xff, block->bytes < SIM_FILL_BYTES ? block->bytes : SIM_FILL_BYTES);
}

static int sim_alloc(void *state, uint64_t bytes, uint64_t *address) {
    sim_device *sim = state;
    size_t place;
    uint64_t first;
    if (make_room(sim))
        return SLR_SYSTEM;
    if (bytes > SIM_MEMORY_BYTES || !find_gap(sim, round_up(bytes, sim->page), &place, &first))
        return fail(sim, SLR_DEVICE_MEMORY, "simulated device %u cannot allocate %llu bytes: %llu of %llu are in use",
                    sim->device_id, (unsigned long long)bytes, (unsigned long long)sim->used,
                    (unsigned long long)SIM_MEMORY_BYTES);
    uint64_t limit = first + round_up(bytes, sim->page);
    if (mprotect(sim->memory + first, limit - first, PROT_READ | PROT_WRITE) != 0)
        return fail(sim, SLR_DEVICE_MEMORY, "simulated device %u cannot make %llu bytes accessible: %s", sim->device_id,
                    (unsigned long long)bytes, strerror(errno));
    sim_block block = {first, limit - round_up(bytes, SIM_ALIGNMENT), bytes, limit};
    fill(sim, &block);
    memmove(sim->blocks + place + 1, sim->blocks + place, (sim->n_blocks - place) * sizeof block);
    sim->blocks[place] = block;
    sim->n_blocks++;
    sim->used += bytes;
    *address = address_base(sim) + block.begin;
    return SLR_OK;
}

/* The last block that begins at or before the offset, or NULL. */
static sim_block *find_block(const sim_device *sim, uint64_t offset) {
    size_t low = 0, high = sim->n_blocks;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (sim->blocks[middle].begin <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low ? &sim->blocks[low - 1] : NULL;
}

/* The block whose base address it is. NULL, with an error, when there is none. */
static sim_block *find_base(sim_device *sim, uint64_t address) {
    uint64_t offset = address - address_base(sim); /* wraps for what is below: no block begins there */
    sim_block *block = find_block(sim, offset);
    if (block && block->begin == offset)
        return block;
    fail(sim, SLR_DEVICE_ADDRESS, "simulated device %u has no allocation that begins at 0x%llx", sim->device_id,
         (unsigned long long)address);
    return NULL;
}

static int sim_discard(void *state, uint64_t address) {
    sim_device *sim = state;
    const sim_block *block = find_base(sim, address);
    if (!block)
        return SLR_DEVICE_ADDRESS;
    fill(sim, block);
    return SLR_OK;
}

static int sim_free(void *state, uint64_t address) {
    sim_device *sim = state;
    sim_block *block = find_base(sim, address);
    if (!block)
        return SLR_DEVICE_ADDRESS;
    /* A fresh mapping over the old pages gives them back and takes the access away, in one step. */
    void *pages = mmap(sim->memory + block->first, block->limit - block->first, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (pages == MAP_FAILED)
        return fail(sim, SLR_SYSTEM, "simulated device %u cannot give back 0x%llx: %s", sim->device_id,
                    (unsigned long long)address, strerror(errno));
    sim->used -= block->bytes;
    sim->n_blocks--;
    memmove(block, block + 1, (size_t)(sim->blocks + sim->n_blocks - block) * sizeof *block);
    return SLR_OK;
}

/* *host: this process's pointer to [address, address + bytes), which must lie in one allocation; NULL when bytes is 0.
 */
static int translate(sim_device *sim, uint64_t address, uint64_t bytes, void **host) {
    if (bytes == 0) {
        *host = NULL;
        return SLR_OK;
    }
    uint64_t offset = address - address_base(sim);
    const sim_block *block = find_block(sim, offset);
    if (!block || offset - block->begin >= block->bytes)
        return fail(sim, SLR_DEVICE_ADDRESS, "0x%llx is in no allocation of simulated device %u",
                    (unsigned long long)address, sim->device_id);
    uint64_t left = block->bytes - (offset - block->begin);
    if (bytes > left)
        return fail(sim, SLR_DEVICE_ADDRESS,
                    "%llu bytes at 0x%llx leave their allocation on simulated device %u: it has %llu bytes from there",
                    (unsigned long long)bytes, (unsigned long long)address, sim->device_id, (unsigned long long)left);
    *host = sim->memory + offset;
    return SLR_OK;
}

static int sim_copy_in(void *state, uint64_t address, const void *source, uint64_t bytes) {
    void *host;
    int status = translate(state, address, bytes, &host);
    if (!status && bytes)
        memcpy(host, source, bytes);
    return status;
}

static int sim_copy_out(void *state, void *target, uint64_t address, uint64_t bytes) {
    void *host;
    int status = translate(state, address, bytes, &host);
    if (!status && bytes)
        memcpy(target, host, bytes);
    return status;
}

/* ---- kernels ---- */

static int check_image(sim_device *sim, const void *image, uint64_t bytes) {
    Elf64_Ehdr header;
    if (bytes < sizeof header || memcmp(image, ELFMAG, SELFMAG) != 0)
        return fail(sim, SLR_DEVICE_KERNEL, "the kernel image (%llu bytes) is not an ELF object",
                    (unsigned long long)bytes);
    memcpy(&header, image, sizeof header);
    if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB)
        return fail(sim, SLR_DEVICE_KERNEL, "the kernel image is not a 64-bit little-endian ELF object");
    if (header.e_machine != SIM_ELF_MACHINE)
        return fail(sim, SLR_DEVICE_KERNEL, "the kernel image is built for ELF machine %u, this device runs %s (%d)",
                    header.e_machine, SIM_ARCH, SIM_ELF_MACHINE);
    if (header.e_type != ET_DYN)
        return fail(sim, SLR_DEVICE_KERNEL,
                    "the kernel image is ELF type %u, not a shared object: link it with -shared", header.e_type);
    return SLR_OK;
}

static int write_all(int fd, const uint8_t *bytes, uint64_t count) {
    while (count) {
        ssize_t written = write(fd, bytes, count);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return -1;
        bytes += written;
        count -= (uint64_t)written;
    }
    return 0;
}

static int sealed_copy(sim_device *sim, const void *image, uint64_t bytes, const char *symbol, int *out) {
    char name[240]; /* memfd names end at 249 bytes; only /proc/PID/maps shows them */
    snprintf(name, sizeof name, "slr-kernel-%.200s", symbol);
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return fail(sim, SLR_SYSTEM, "memfd_create for kernel %s: %s", symbol, strerror(errno));
    if (write_all(fd, image, bytes) != 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) != 0) {
        int status = fail(sim, SLR_SYSTEM, "writing kernel %s (%llu bytes) to a sealed memfd: %s", symbol,
                          (unsigned long long)bytes, strerror(errno));
        close(fd);
        return status;
    }
    *out = fd;
    return SLR_OK;
}

static void sim_unload(void *state, void *loaded) {
    (void)state;
    sim_kernel *kernel = loaded;
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", kernel->fd);
    if (kernel->object)
        dlclose(kernel->object);
    /* An object may refuse to go (DF_1_NODELETE, unique symbols): then its path must stay taken. */
    void *resident = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    if (resident)
        dlclose(resident);
    else
        close(kernel->fd);
    free(kernel);
}

/* The symbol's address, when the object itself defines it: dlsym looks in what the object needs as well. */
static void *own_symbol(void *object, const char *symbol) {
    struct link_map *wanted, *found;
    Dl_info info;
    void *address = dlsym(object, symbol);
    if (!address || dlinfo(object, RTLD_DI_LINKMAP, &wanted) != 0)
        return NULL;
    return dladdr1(address, &info, (void **)&found, RTLD_DL_LINKMAP) && found == wanted ? address : NULL;
}

static int resolve(sim_device *sim, sim_kernel *kernel, const char *symbol) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", kernel->fd);
    kernel->object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!kernel->object)
        return fail(sim, SLR_DEVICE_KERNEL, "kernel %s cannot be loaded: %s", symbol, dlerror());
    void *entry = own_symbol(kernel->object, symbol);
    if (!entry)
        return fail(sim, SLR_DEVICE_KERNEL, "the kernel object does not define the symbol %s", symbol);
    memcpy(&kernel->entry, &entry, sizeof entry); /* ISO C has no conversion from a data pointer to a function's */
    return SLR_OK;
}

static int sim_load(void *state, const void *image, uint64_t bytes, const char *symbol, void **out) {
    sim_device *sim = state;
    int status = check_image(sim, image, bytes);
    if (status)
        return status;
    sim_kernel *kernel = calloc(1, sizeof *kernel);
    if (!kernel)
        return fail(sim, SLR_SYSTEM, "out of host memory");
    status = sealed_copy(sim, image, bytes, symbol, &kernel->fd);
    if (status) {
        free(kernel);
        return status;
    }
    status = resolve(sim, kernel, symbol);
    if (status) {
        sim_unload(sim, kernel);
        return status;
    }
    *out = kernel;
    return SLR_OK;
}

static int sim_launch(void *state, void *loaded, const slr_tensor *tensors, uint32_t n_tensors, const uint64_t *scalars,
                      uint32_t n_scalars, int *kernel_status) {
    sim_device *sim = state;
    sim_kernel *kernel = loaded;
    slr_tensor *seen =
        calloc(n_tensors ? n_tensors : 1, sizeof *seen); /* with host pointers, as the kernel sees them */
    if (!seen)
        return fail(sim, SLR_SYSTEM, "out of host memory");
    for (uint32_t i = 0; i < n_tensors; i++) {
        seen[i] = tensors[i];
        int status = translate(sim, (uint64_t)(uintptr_t)tensors[i].data, tensors[i].bytes, &seen[i].data);
        if (status) {
            free(seen);
            return status;
        }
    }
    *kernel_status = kernel->entry(seen, n_tensors, scalars, n_scalars);
    free(seen);
    if (*kernel_status)
        return fail(sim, SLR_DEVICE_LAUNCH, "the kernel returned %d", *kernel_status);
    return SLR_OK;
}

static int sim_synchronize(void *state) {
    (void)state; /* every call has finished when it returns */
    return SLR_OK;
}

const slr_driver_vtable slri_sim_driver = {
    .abi = SLR_DRIVER_ABI,
    .name = "sim",
    .open = sim_open,
    .close = sim_close,
    .info = sim_info,
    .alloc = sim_alloc,
    .free = sim_free,
    .discard = sim_discard,
    .copy_in = sim_copy_in,
    .copy_out = sim_copy_out,
    .load = sim_load,
    .unload = sim_unload,
    .launch = sim_launch,
    .synchronize = sim_synchronize,
    .error = sim_error,
};
