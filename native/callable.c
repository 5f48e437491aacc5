/*
 * The table of callables: what a re-forked worker loads from. Entries are found by an index of buckets, and empty ones
 * by a free list; both are derived from the entries' state.
 *
 * A bucket holds 1 + the number of an entry, 0: none. An entry is in the first bucket that was empty from its home on,
 * which its digest says; there are at least twice as many buckets as entries, so a search ends soon.
 */
#include <string.h>

#include "region.h"

uint32_t slri_callable_buckets(const slr_config *config) {
    uint32_t buckets = 2;
    while (buckets < 2ull * config->callables)
        buckets *= 2;
    return buckets;
}

static uint32_t last_bucket(const slr_region *region) {
    return slri_callable_buckets(&region->header->config) - 1;
}

static uint32_t home_of(const slr_region *region, const uint8_t *digest) {
    uint32_t bits; /* of a SHA-256: as good as random */
    memcpy(&bits, digest, sizeof bits);
    return bits & last_bucket(region);
}

/* The bucket of the digest, or the empty one in which it would be. */
static uint32_t bucket_of(const slr_region *region, const uint8_t *digest) {
    uint32_t last = last_bucket(region), at = home_of(region, digest);
    for (; region->buckets[at]; at = (at + 1) & last)
        if (memcmp(region->callables[region->buckets[at] - 1].digest, digest, SLR_DIGEST_BYTES) == 0)
            break;
    return at;
}

slri_callable *slri_callable_find(const slr_region *region, const uint8_t *digest) {
    uint32_t found = region->buckets[bucket_of(region, digest)];
    return found ? &region->callables[found - 1] : NULL;
}

/* Empties a bucket, and moves those up that would be searched for across it. */
static void empty_bucket(slr_region *region, uint32_t hole) {
    uint32_t last = last_bucket(region), *buckets = region->buckets;
    for (uint32_t at = (hole + 1) & last; buckets[at]; at = (at + 1) & last) {
        uint32_t home = home_of(region, region->callables[buckets[at] - 1].digest);
        if (((at - home) & last) >= ((at - hole) & last)) {
            buckets[hole] = buckets[at];
            hole = at;
        }
    }
    buckets[hole] = 0;
}

static slri_callable *find_empty(const slr_region *region) {
    const slri_header *header = region->header;
    uint32_t empty = header->callables_free != SLRI_NONE ? header->callables_free : header->callables_fresh;
    return empty < header->config.callables ? &region->callables[empty] : NULL;
}

static uint32_t number_of(const slr_region *region, const slri_callable *entry) {
    return (uint32_t)(entry - region->callables);
}

/* The entry that find_empty found is used from now on. */
static void enter(slr_region *region, slri_callable *entry) {
    slri_header *header = region->header;
    uint32_t number = number_of(region, entry);
    if (header->callables_free == number)
        header->callables_free = entry->next;
    else
        header->callables_fresh++;
    region->buckets[bucket_of(region, entry->digest)] = number + 1;
}

static void leave(slr_region *region, slri_callable *entry) {
    empty_bucket(region, bucket_of(region, entry->digest));
    entry->next = region->header->callables_free;
    region->header->callables_free = number_of(region, entry);
}

void slri_callables_rebuild(slr_region *region) {
    slri_header *header = region->header;
    uint32_t fresh = header->config.callables;
    while (fresh && !region->callables[fresh - 1].state)
        fresh--;
    header->callables_fresh = fresh;
    header->callables_free = SLRI_NONE;
    memset(region->buckets, 0, (last_bucket(region) + 1) * sizeof *region->buckets);
    for (uint32_t i = fresh; i-- > 0;) {
        slri_callable *entry = &region->callables[i];
        if (entry->state) {
            slri_heap_keep(region, entry->content);
            region->buckets[bucket_of(region, entry->digest)] = i + 1;
        } else {
            entry->next = header->callables_free;
            header->callables_free = i;
        }
    }
}

/* SLR_NOT_FOUND where the digest is new. */
static int add_reference(slr_region *region, const uint8_t *digest, uint32_t kind, const void *content,
                         uint64_t bytes) {
    slri_callable *entry = slri_callable_find(region, digest);
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
    SLRI_FAULT("callable:used");
    enter(region, entry);
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
    slri_callable *entry = slri_callable_find(region, digest);
    if (entry) {
        *references_left = entry->references - 1;
        if (entry->references > 1) {
            slri_commit(&entry->references, entry->references - 1);
        } else {
            slri_commit(&entry->state, 0);
            SLRI_FAULT("callable:emptied");
            leave(region, entry);
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
    slri_lock_to_read(region);
    const slri_callable *entry = slri_callable_find(region, digest);
    if (entry)
        copy_out(entry, out);
    slri_unlock(region);
    return entry ? SLR_OK : SLR_NOT_FOUND;
}

int slr_callable_at(slr_region *region, uint32_t index, slr_callable *out) {
    if (!region || !out || index >= region->header->config.callables)
        return SLR_INVALID;
    slri_lock_to_read(region);
    bool used = region->callables[index].state;
    if (used)
        copy_out(&region->callables[index], out);
    slri_unlock(region);
    return used ? SLR_OK : SLR_NOT_FOUND;
}
