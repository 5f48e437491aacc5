/* The simulated device once more, as a driver of its own to dlopen; built also with one thing wrong at a time. */
#include "device.h"

__attribute__((visibility("default"))) slr_driver_vtable slr_driver;

__attribute__((constructor)) static void fill(void) {
    slr_driver = slri_sim_driver;
    slr_driver.name = DRIVER_NAME;
#ifdef WRONG_ABI
    slr_driver.abi++;
#endif
#ifdef INCOMPLETE
    slr_driver.copy_out = 0;
#endif
}
