/* What the files of slr_graph_check share. */
#ifndef SLRI_CHECK_H
#define SLRI_CHECK_H

#include "region.h"

typedef struct {
    slr_region *region;
    char *why;
    size_t why_bytes;
    uint8_t *seen;    /* per slot: how many lists it is on */
    uint32_t *fan_in; /* per slot: edges that lead to it; then of a group: members that have no worker */
    uint32_t *alive;  /* per slot, of a group: members that are live */
    uint32_t *kept;   /* per heap line: references to the block that begins there */
} check;

/* Says why; false. */
__attribute__((format(printf, 2, 3))) bool slri_broken(check *c, const char *format, ...);

/* ---- check_group.c ---- after the edges were checked */
bool slri_check_groups(check *c);

#endif
