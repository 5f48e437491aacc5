/*
 * Named points inside critical sections where a test makes the process die with the lock held. Compiled only with
 * -DSLR_FAULTS; otherwise they are nothing.
 */
#ifndef SLRI_FAULT_H
#define SLRI_FAULT_H

#ifdef SLR_FAULTS
extern const char *const slri_fault_points[]; /* every point there is, NULL last */
void slri_fault_arm(const char *point);       /* the process kills itself when it next comes there; NULL: nowhere */
void slri_fault(const char *point);
#define SLRI_FAULT(point) slri_fault(point)
#else
#define SLRI_FAULT(point) ((void)0)
#endif

#endif
