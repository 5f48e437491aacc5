/* The table of callables: what a re-forked worker loads from. Registering is rare, so entries are found by looking at
 * each. */
#include <string.h>

#include "region.h"

static slri_callable *find(const slr_region *region, const uint8_t *digest) {
    for (uint32_t i = 0; i < region->header->config.callables; i++)
        if (region->callables[i].state && memcmp(region->callables[i].digest, digest, SLR_DIGEST_BYTES) == 0)
            return &region->callables[i];
    return NULL;
}

static slri_callable *find_empty(const slr_region *region) {
    for (uint32_t i = 0; i < region->header->config.callables; i++)
        if (!region->callables[i].state)
            return &region->callables[i];
    return NULL;
}

/* SLR_NOT_FOUND where the digest is new. */
static int add_reference(slr_region *region, const uint8_t *digest, uint32_t kind, const void *content,
                         uint64_t bytes) {
    slri_callable *entry = find(region, digest);
    if (!entry)
        return SLR_NOT_FOUND;
    bool same = entry->kind == kind && entry->content_bytes == bytes &&
                (!bytes || memcmp(slri_heap_at(region, entry->content), content, bytes) == 0);
    if (!same)
        return SLR_CONFLICT;
    slri_commit(&entry->references, entry->references + 1);
    return SLR_OK;
}

/* `staged`: a block that holds the content, whose reference passes to the entry when it is used. */
static int fill(slr_region *region, const uint8_t *digest, uint32_t kind, uint64_t staged, uint64_t bytes) {
    slri_callable *entry = find_empty(region);
    if (!entry)
        return SLR_CALLABLES_FULL;
    entry->kind = kind;
    entry->content = staged;
    entry->content_bytes = bytes;
    memcpy(entry->digest, digest, SLR_DIGEST_BYTES);
    slri_commit(&entry->references, 1);
    SLRI_FAULT("callable:filled");
    slri_commit(&entry->state, 1);
    slri_heap_adopt(region, staged);
    return SLR_OK;
}

int slr_callable_put(slr_region *region, const uint8_t *digest, uint32_t kind, const void *content, uint64_t bytes) {
    if (!region || !digest || (bytes && !content))
        return SLR_INVALID;
    slri_lock(region);
    int status = add_reference(region, digest, kind, content, bytes);
    slri_unlock(region);
    if (status != SLR_NOT_FOUND)
        return status;
    uint64_t staged; /* copied without the lock: content may be large */
    status = slr_heap_alloc(region, bytes, &staged);
    if (status != SLR_OK)
        return status;
    if (bytes)
        memcpy(slri_heap_at(region, staged), content, bytes);
    slri_lock(region);
    status = add_reference(region, digest, kind, content, bytes);
    bool used = false;
    if (status == SLR_NOT_FOUND) {
        status = fill(region, digest, kind, staged, bytes);
        used = status == SLR_OK;
    }
    slri_unlock(region);
    if (!used)
        slr_heap_unref(region, staged);
    return status;
}

int slr_callable_drop(slr_region *region, const uint8_t *digest, uint32_t *references_left) {
    if (!region || !digest || !references_left)
        return SLR_INVALID;
    slri_lock(region);
    slri_callable *entry = find(region, digest);
    if (entry) {
        *references_left = entry->references - 1;
        if (entry->references > 1) {
            slri_commit(&entry->references, entry->references - 1);
        } else {
            slri_commit(&entry->state, 0);
            slri_heap_unkeep(region, entry->content);
        }
    }
    slri_unlock(region);
    return entry ? SLR_OK : SLR_NOT_FOUND;
}

static void copy_out(const slri_callable *entry, slr_callable *out) {
    *out = (slr_callable){
        .kind = entry->kind,
        .references = entry->references,
        .content_offset = entry->content,
        .content_bytes = entry->content_bytes,
    };
    memcpy(out->digest, entry->digest, sizeof out->digest);
}

int slr_callable_get(slr_region *region, const uint8_t *digest, slr_callable *out) {
    if (!region || !digest || !out)
        return SLR_INVALID;
    slri_lock(region);
    const slri_callable *entry = find(region, digest);
    if (entry)
        copy_out(entry, out);
    slri_unlock(region);
    return entry ? SLR_OK : SLR_NOT_FOUND;
}

int slr_callable_at(slr_region *region, uint32_t index, slr_callable *out) {
    if (!region || !out || index >= region->header->config.callables)
        return SLR_INVALID;
    slri_lock(region);
    bool used = region->callables[index].state;
    if (used)
        copy_out(&region->callables[index], out);
    slri_unlock(region);
    return used ? SLR_OK : SLR_NOT_FOUND;
}
