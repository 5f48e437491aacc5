/*
 * Named points where a test makes the process die: with the lock held and something half changed, but for those named
 * read:, where nothing is changed, and unlocked:. Compiled only with -DSLR_FAULTS; otherwise they are nothing.
 */
#ifndef SLRI_FAULT_H
#define SLRI_FAULT_H

#ifdef SLR_FAULTS
#include <stdint.h>

/* Also for the tests in Python, which find the two by name in the built extension. */
#define SLRI_FOR_TESTS __attribute__((visibility("default")))
extern SLRI_FOR_TESTS const char *const slri_fault_points[]; /* every point there is, NULL last */
/* The process sends itself the signal when it comes there after passing `skip` times. */
SLRI_FOR_TESTS void slri_fault_arm(const char *point, uint32_t skip, int signal);
void slri_fault(const char *point);
#define SLRI_FAULT(point) slri_fault(point)
#else
#define SLRI_FAULT(point) ((void)0)
#endif

#endif
