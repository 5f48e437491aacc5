/*
 * One case per function, run by name:  test_device CASE DRIVER KERNELS OTHER_KERNELS
 * DRIVER is "sim" or the same driver dlopened, so that the core's two ways of finding one meet the same checks.
 */
#include <dirent.h>
#include <elf.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "device.h"
#include "simpler.h"

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s is false; last device error: %s\n", __FILE__, __LINE__, #condition,             \
                    slr_device_error(device));                                                                         \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)
#define CHECK_FAILS(call, status, part)                                                                                \
    do {                                                                                                               \
        CHECK((call) == (status));                                                                                     \
        CHECK(strstr(slr_device_error(device), (part)));                                                               \
    } while (0)

static slr_device *device;
static const char *driver;
static const char *kernels[2];

static void open_device(void) {
    char why[1024];
    CHECK(slr_device_open(driver, 3, &device, why, sizeof why) == SLR_OK);
}

static void *read_file(const char *path, uint64_t *bytes) {
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0 && fstat(fd, &status) == 0);
    void *content = malloc((size_t)status.st_size);
    CHECK(read(fd, content, (size_t)status.st_size) == status.st_size);
    close(fd);
    *bytes = (uint64_t)status.st_size;
    return content;
}

static slr_kernel *load(const char *path, const char *symbol) {
    uint64_t bytes;
    void *image = read_file(path, &bytes);
    slr_kernel *kernel;
    CHECK(slr_device_load(device, image, bytes, symbol, &kernel) == SLR_OK);
    free(image);
    return kernel;
}

static uint64_t alloc(uint64_t bytes) {
    uint64_t address = 0;
    CHECK(slr_device_alloc(device, bytes, &address) == SLR_OK);
    CHECK(address != 0 && address % 64 == 0);
    return address;
}

static int status_of(slr_kernel *kernel) {
    int status = -1;
    slr_device_launch(device, kernel, NULL, 0, NULL, 0, &status);
    return status;
}

static slr_tensor vector(uint64_t address, int64_t length) {
    return (slr_tensor){(void *)(uintptr_t)address, (uint64_t)length * 8, 0, 1, {length}, {8}};
}

static int open_descriptors(void) {
    int count = 0;
    DIR *directory = opendir("/proc/self/fd");
    while (readdir(directory))
        count++;
    closedir(directory);
    return count;
}

/* ---- cases ---- */

static void query_describes_the_device(void) {
    slr_device_info info;
    open_device();
    CHECK(slr_device_query(device, &info) == SLR_OK);
    CHECK(strcmp(info.driver, driver) == 0);
    CHECK(strcmp(info.name, "simulated device 3") == 0);
    CHECK(strlen(info.arch) > 0 && info.memory_bytes > 0 && info.memory_used == 0);
    uint64_t address = alloc(1000);
    CHECK(slr_device_query(device, &info) == SLR_OK && info.memory_used == 1000);
    CHECK(slr_device_free(device, address) == SLR_OK);
    CHECK(slr_device_query(device, &info) == SLR_OK && info.memory_used == 0);
    CHECK_FAILS(slr_device_query(device, NULL), SLR_INVALID, "null");
}

static void copies_go_through_device_memory(void) {
    char text[16] = "0123456789abcde", back[16] = "";
    open_device();
    uint64_t address = alloc(sizeof text);
    CHECK(slr_device_copy_in(device, address, text, sizeof text) == SLR_OK);
    memset(text, 0, sizeof text);
    CHECK(slr_device_copy_out(device, back, address + 4, 6) == SLR_OK);
    CHECK(memcmp(back, "456789", 7) == 0);
    CHECK(slr_device_copy_in(device, 0, NULL, 0) == SLR_OK);
    CHECK(slr_device_synchronize(device) == SLR_OK);
}

static void fresh_memory_shows_a_forgotten_copy(void) {
    double values[4] = {0};
    open_device();
    uint64_t address = alloc(sizeof values);
    CHECK(slr_device_copy_out(device, values, address, sizeof values) == SLR_OK);
    CHECK(isnan(values[0]) && isnan(values[3]));
}

static void discarded_memory_shows_a_forgotten_copy(void) {
    double values[4] = {1, 2, 3, 4};
    open_device();
    uint64_t address = alloc(sizeof values);
    CHECK(slr_device_copy_in(device, address, values, sizeof values) == SLR_OK);
    CHECK(slr_device_discard(device, address) == SLR_OK);
    CHECK(slr_device_copy_out(device, values, address, sizeof values) == SLR_OK);
    CHECK(isnan(values[0]) && isnan(values[3]));
    CHECK_FAILS(slr_device_discard(device, address + 8), SLR_DEVICE_ADDRESS, "no allocation that begins at");
    CHECK(slr_device_free(device, address) == SLR_OK);
    CHECK_FAILS(slr_device_discard(device, address), SLR_DEVICE_ADDRESS, "no allocation that begins at");
}

static void ranges_are_checked(void) {
    char buffer[101];
    open_device();
    uint64_t address = alloc(100), other = alloc(100);
    CHECK(address != other);
    CHECK_FAILS(slr_device_copy_in(device, address, buffer, 101), SLR_DEVICE_ADDRESS, "it has 100 bytes from there");
    CHECK_FAILS(slr_device_copy_out(device, buffer, address + 50, 51), SLR_DEVICE_ADDRESS, "it has 50 bytes");
    CHECK_FAILS(slr_device_copy_out(device, buffer, address + 100, 1), SLR_DEVICE_ADDRESS, "in no allocation");
    CHECK_FAILS(slr_device_copy_out(device, buffer, address - 1, 1), SLR_DEVICE_ADDRESS, "in no allocation");
    CHECK_FAILS(slr_device_copy_out(device, buffer, address, UINT64_MAX), SLR_DEVICE_ADDRESS, "leave their");
    CHECK_FAILS(slr_device_copy_in(device, (uintptr_t)buffer, buffer, 1), SLR_DEVICE_ADDRESS, "in no allocation");
    CHECK_FAILS(slr_device_copy_in(device, address, NULL, 1), SLR_INVALID, "source is null");
    CHECK_FAILS(slr_device_copy_out(device, NULL, address, 1), SLR_INVALID, "target is null");
}

static void only_an_exact_base_is_freed(void) {
    open_device();
    uint64_t first = alloc(4096), second = alloc(1), third = alloc(5000);
    CHECK_FAILS(slr_device_free(device, first + 64), SLR_DEVICE_ADDRESS, "no allocation that begins at");
    CHECK_FAILS(slr_device_free(device, 0), SLR_DEVICE_ADDRESS, "no allocation that begins at");
    CHECK(slr_device_free(device, second) == SLR_OK);
    CHECK_FAILS(slr_device_free(device, second), SLR_DEVICE_ADDRESS, "no allocation that begins at");
    CHECK_FAILS(slr_device_copy_in(device, second, "", 1), SLR_DEVICE_ADDRESS, "in no allocation");
    CHECK(alloc(1) == second);
    CHECK(slr_device_free(device, third) == SLR_OK && slr_device_free(device, first) == SLR_OK);
}

static void addresses_of_another_device_are_refused(void) {
    char why[1024], byte = 0;
    slr_device *other;
    open_device();
    CHECK(slr_device_open(driver, 4, &other, why, sizeof why) == SLR_OK);
    uint64_t address = alloc(64);
    CHECK(slr_device_copy_in(other, address, &byte, 1) == SLR_DEVICE_ADDRESS);
    CHECK(slr_device_free(other, address) == SLR_DEVICE_ADDRESS);
    slr_device_close(other);
}

static void memory_runs_out_and_comes_back(void) {
    slr_device_info info;
    uint64_t address;
    open_device();
    CHECK(slr_device_query(device, &info) == SLR_OK);
    CHECK_FAILS(slr_device_alloc(device, info.memory_bytes, &address), SLR_DEVICE_MEMORY, "0 of 4294967296 are in use");
    CHECK_FAILS(slr_device_alloc(device, UINT64_MAX, &address), SLR_DEVICE_MEMORY, "cannot allocate");
    CHECK_FAILS(slr_device_alloc(device, 0, &address), SLR_INVALID, "above 0");
    for (int round = 0; round < 3; round++) {
        uint64_t blocks[200];
        for (int i = 0; i < 200; i++)
            blocks[i] = alloc((uint64_t)i * 37 + 1);
        for (int i = 0; i < 200; i++)
            CHECK(slr_device_free(device, blocks[(i * 7) % 200]) == SLR_OK);
    }
    CHECK(slr_device_query(device, &info) == SLR_OK && info.memory_used == 0);
}

static void a_kernel_computes(void) {
    double a[3] = {1, 2, 3}, b[3] = {10, 20, 30}, out[3] = {0}, scale = 0.5;
    uint64_t scalar;
    int status = -1;
    open_device();
    slr_kernel *kernel = load(kernels[0], "scale_add");
    slr_tensor tensors[3] = {vector(alloc(24), 3), vector(alloc(24), 3), vector(alloc(24), 3)};
    memcpy(&scalar, &scale, sizeof scalar);
    CHECK(slr_device_copy_in(device, (uintptr_t)tensors[0].data, a, 24) == SLR_OK);
    CHECK(slr_device_copy_in(device, (uintptr_t)tensors[1].data, b, 24) == SLR_OK);
    CHECK(slr_device_launch(device, kernel, tensors, 3, &scalar, 1, &status) == SLR_OK && status == 0);
    CHECK(slr_device_copy_out(device, out, (uintptr_t)tensors[2].data, 24) == SLR_OK);
    CHECK(out[0] == 10.5 && out[1] == 21 && out[2] == 31.5);
    CHECK_FAILS(slr_device_launch(device, kernel, tensors, 2, &scalar, 1, &status), SLR_DEVICE_LAUNCH, "returned 22");
    CHECK(status == 22);
}

static void launch_checks_its_tensors(void) {
    int status = -1;
    open_device();
    slr_kernel *kernel = load(kernels[0], "is_null");
    slr_tensor tensor = vector(alloc(24), 4);
    CHECK_FAILS(slr_device_launch(device, kernel, &tensor, 1, NULL, 0, &status), SLR_DEVICE_ADDRESS, "has 24 bytes");
    tensor = vector(12345, 0); /* an empty tensor has no memory */
    CHECK(slr_device_launch(device, kernel, &tensor, 1, NULL, 0, &status) == SLR_OK);
    tensor.ndim = 9;
    CHECK_FAILS(slr_device_launch(device, kernel, &tensor, 1, NULL, 0, &status), SLR_INVALID, "SLR_MAX_DIMS");
    CHECK_FAILS(slr_device_launch(device, kernel, NULL, 1, NULL, 0, &status), SLR_INVALID, "must be given");
}

static void a_kernel_takes_parts_of_allocations(void) {
    double values[6] = {1, 2, 3, 4, 5, 6}, scale = 1;
    uint64_t scalar;
    int status = -1;
    open_device();
    slr_kernel *kernel = load(kernels[0], "scale_add");
    uint64_t address = alloc(sizeof values);
    slr_tensor tensors[3] = {vector(address, 2), vector(address + 16, 2), vector(address + 32, 2)};
    memcpy(&scalar, &scale, sizeof scalar);
    CHECK(slr_device_copy_in(device, address, values, sizeof values) == SLR_OK);
    CHECK(slr_device_launch(device, kernel, tensors, 3, &scalar, 1, &status) == SLR_OK);
    CHECK(slr_device_copy_out(device, values, address, sizeof values) == SLR_OK);
    CHECK(values[3] == 4 && values[4] == 1 + 3 && values[5] == 2 + 4);
    tensors[2] = vector(address + 40, 2);
    CHECK_FAILS(slr_device_launch(device, kernel, tensors, 3, &scalar, 1, &status), SLR_DEVICE_ADDRESS,
                "it has 8 bytes");
    CHECK_FAILS(slr_device_free(device, address + 16), SLR_DEVICE_ADDRESS, "no allocation that begins at");
}

static void an_overrun_ends_the_process(void) {
    open_device();
    slr_kernel *kernel = load(kernels[0], "overrun");
    slr_tensor tensor = vector(alloc(24), 3);
    pid_t child = fork();
    if (child == 0) {
        int status;
        signal(SIGSEGV, SIG_DFL);
        slr_device_launch(device, kernel, &tensor, 1, NULL, 0, &status);
        _exit(0);
    }
    int ended;
    CHECK(waitpid(child, &ended, 0) == child);
    CHECK(WIFSIGNALED(ended) && WTERMSIG(ended) == SIGSEGV);
}

static void images_are_checked(void) {
    uint64_t bytes;
    slr_kernel *kernel;
    open_device();
    int before = open_descriptors();
    Elf64_Ehdr *image = read_file(kernels[0], &bytes);
    CHECK_FAILS(slr_device_load(device, image, bytes, "absent", &kernel), SLR_DEVICE_KERNEL, "the symbol absent");
    CHECK_FAILS(slr_device_load(device, image, bytes, "memset", &kernel), SLR_DEVICE_KERNEL, "the symbol memset");
    CHECK_FAILS(slr_device_load(device, image, 10, "answer", &kernel), SLR_DEVICE_KERNEL, "(10 bytes) is not an ELF");
    CHECK_FAILS(slr_device_load(device, "text", 4, "answer", &kernel), SLR_DEVICE_KERNEL, "not an ELF object");
    CHECK_FAILS(slr_device_load(device, image, bytes, "", &kernel), SLR_INVALID, "must be given");
    image->e_type = ET_REL;
    CHECK_FAILS(slr_device_load(device, image, bytes, "answer", &kernel), SLR_DEVICE_KERNEL, "-shared");
    image->e_machine = EM_S390;
    CHECK_FAILS(slr_device_load(device, image, bytes, "answer", &kernel), SLR_DEVICE_KERNEL, "ELF machine 22");
    image->e_ident[EI_CLASS] = ELFCLASS32;
    CHECK_FAILS(slr_device_load(device, image, bytes, "answer", &kernel), SLR_DEVICE_KERNEL, "64-bit");
    free(image);
    CHECK(open_descriptors() == before);
}

static void a_kernel_lives_in_a_sealed_memfd(void) {
    char path[64], target[256];
    int sealed = 0;
    open_device();
    load(kernels[0], "answer");
    for (int fd = 3; fd < 256; fd++) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(path, target, sizeof target - 1);
        target[length < 0 ? 0 : length] = '\0';
        if (!strstr(target, "memfd:slr-kernel-answer"))
            continue;
        CHECK(fcntl(fd, F_GET_SEALS) == (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE));
        CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        sealed++;
    }
    CHECK(sealed == 1);
}

static void kernels_of_one_symbol_stay_apart(void) {
    open_device();
    int before = open_descriptors();
    slr_kernel *first = load(kernels[0], "answer"), *second = load(kernels[1], "answer");
    CHECK(status_of(first) == 41 && status_of(second) == 42 && status_of(first) == 41);
    CHECK(slr_device_unload(device, first) == SLR_OK);
    CHECK(slr_device_unload(device, second) == SLR_OK);
    first = load(kernels[1], "answer"); /* the descriptor's number is one that the other kernel had */
    CHECK(status_of(first) == 42);
    CHECK(slr_device_unload(device, first) == SLR_OK);
    CHECK(open_descriptors() == before);
}

static void a_stale_kernel_is_refused(void) {
    int status = -1;
    open_device();
    slr_kernel *kernel = load(kernels[0], "answer");
    CHECK(slr_device_unload(device, kernel) == SLR_OK);
    CHECK_FAILS(slr_device_unload(device, kernel), SLR_INVALID, "not loaded on this device");
    CHECK_FAILS(slr_device_launch(device, kernel, NULL, 0, NULL, 0, &status), SLR_INVALID, "not loaded");
    CHECK(status == -1);
}

static void close_takes_everything_along(void) {
    int before = open_descriptors();
    open_device();
    alloc(1 << 20);
    load(kernels[0], "answer");
    load(kernels[1], "answer");
    slr_device_close(device);
    slr_device_close(NULL);
    device = NULL;
    CHECK(open_descriptors() == before);
}

static void drivers_are_checked(void) {
    static const struct {
        const char *driver;
        const char *why;
    } wrong[] = {
        {"absent", "libslr_absent.so"},       {"wrong_abi", "rebuild the driver"}, {"incomplete", "empty"},
        {"misnamed", "calls itself \"sim\""}, {"nodriver", "slr_driver"},          {"../sim", "is not a driver name"},
        {"", "is not a driver name"},
    };
    char why[1024];
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        CHECK(slr_device_open(wrong[i].driver, 0, &device, why, sizeof why) == SLR_DEVICE_NO_DRIVER);
        CHECK(strstr(why, wrong[i].why));
        CHECK(device == NULL);
        CHECK(slr_driver_check(wrong[i].driver, why, sizeof why) == SLR_DEVICE_NO_DRIVER);
        CHECK(strstr(why, wrong[i].why));
    }
    CHECK(slr_device_open(driver, 1024, &device, why, sizeof why) == SLR_INVALID);
    CHECK(strstr(why, "devices 0 to 1023, not 1024"));
    CHECK(slr_device_open(NULL, 0, &device, why, sizeof why) == SLR_INVALID);
    CHECK(slr_driver_check(driver, why, sizeof why) == SLR_OK);
    CHECK(slr_driver_check(NULL, why, sizeof why) == SLR_INVALID);
}

#define CASE(name) {#name, name}
static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    CASE(query_describes_the_device),
    CASE(copies_go_through_device_memory),
    CASE(fresh_memory_shows_a_forgotten_copy),
    CASE(discarded_memory_shows_a_forgotten_copy),
    CASE(ranges_are_checked),
    CASE(only_an_exact_base_is_freed),
    CASE(addresses_of_another_device_are_refused),
    CASE(memory_runs_out_and_comes_back),
    CASE(a_kernel_computes),
    CASE(launch_checks_its_tensors),
    CASE(a_kernel_takes_parts_of_allocations),
    CASE(an_overrun_ends_the_process),
    CASE(images_are_checked),
    CASE(a_kernel_lives_in_a_sealed_memfd),
    CASE(kernels_of_one_symbol_stay_apart),
    CASE(a_stale_kernel_is_refused),
    CASE(close_takes_everything_along),
    CASE(drivers_are_checked),
};

int main(int count, char **arguments) {
    if (count != 5)
        return 2;
    driver = arguments[2], kernels[0] = arguments[3], kernels[1] = arguments[4];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (strcmp(cases[i].name, arguments[1]) == 0) {
            cases[i].run();
            slr_device_close(device);
            return 0;
        }
    }
    fprintf(stderr, "no case %s\n", arguments[1]);
    return 2;
}
