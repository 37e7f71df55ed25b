/*
 * The handle table, and CloseHandle.
 *
 * A handle is (generation << 16 | index) << 2: never NULL, as generations
 * start at 1, never INVALID_HANDLE_VALUE, and a multiple of 4 as on Windows.
 * Closing moves the slot's generation on.  The slot keeps its object until
 * the last reference is gone, so that fork() finds every object here.
 *
 * The lock is held for a few instructions only, never across a call out of
 * this file but in the forked child, which has no other thread.
 */
#include "api/handles.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "api/refuse.h"
#include "base/cleanup.h"

#define TAG_BITS 2
#define INDEX_BITS 16
#define SLOTS_MAX ((size_t)1 << INDEX_BITS)
#define SLOTS_FIRST 64
#define GENERATION_MAX (UINTPTR_MAX >> (TAG_BITS + INDEX_BITS))
#define NO_SLOT SIZE_MAX

struct slot {
    struct vd_object *object; /* NULL: free */
    bool closed;              /* only running calls still refer to it */
    uintptr_t generation;     /* 1.. */
    size_t next_free;
};

static struct {
    pthread_mutex_t lock;
    pthread_once_t fork_once;
    vd_error fork_error;
    /* all guarded by lock */
    struct slot *slots;
    size_t slot_count;
    size_t first_free;
    size_t object_count;
} table = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .fork_once = PTHREAD_ONCE_INIT,
    .first_free = NO_SLOT,
};

static HANDLE
encode(size_t index)
{
    uintptr_t generation = table.slots[index].generation;
    return (HANDLE)((generation << INDEX_BITS | index) << TAG_BITS);
}

static void
free_slot(size_t index)
{
    struct slot *slot = &table.slots[index];
    slot->object = NULL;
    slot->next_free = table.first_free;
    table.first_free = index;
}

static void
retire_generation(struct slot *slot)
{
    slot->generation =
        slot->generation == GENERATION_MAX ? 1 : slot->generation + 1;
}

static void
lock_before_fork(void)
{
    pthread_mutex_lock(&table.lock);
}

static void
unlock_in_parent(void)
{
    pthread_mutex_unlock(&table.lock);
}

/* The objects' memory is given up: a thread that is not in this process may
 * have been half-way through changing it. */
static void
empty_in_child(void)
{
    for (size_t i = 0; i < table.slot_count; i++) {
        struct slot *slot = &table.slots[i];
        if (slot->object != NULL) {
            slot->object->type->abandon(slot->object);
            retire_generation(slot);
            free_slot(i);
        }
    }
    table.object_count = 0;
    pthread_mutex_unlock(&table.lock);
}

static void
watch_fork(void)
{
    int failed =
        pthread_atfork(lock_before_fork, unlock_in_parent, empty_in_child);
    table.fork_error = failed ? ERROR_NOT_ENOUGH_MEMORY : ERROR_SUCCESS;
}

/* Called with the lock held. */
static vd_error
add_slots(void)
{
    size_t old_count = table.slot_count;
    size_t count = old_count == 0 ? SLOTS_FIRST : 2 * old_count;
    if (count > SLOTS_MAX) {
        return vd_refuse(ERROR_NO_SYSTEM_RESOURCES, "%zu open handles",
                         old_count);
    }
    struct slot *slots = realloc(table.slots, count * sizeof(*slots));
    if (slots == NULL) {
        return vd_refuse(ERROR_NOT_ENOUGH_MEMORY, "no memory for handles");
    }
    table.slots = slots;
    table.slot_count = count;
    for (size_t i = count; i-- > old_count;) {
        slots[i] = (struct slot){.generation = 1};
        free_slot(i);
    }
    return ERROR_SUCCESS;
}

vd_error
vd_handle_prepare(void)
{
    pthread_once(&table.fork_once, watch_fork);
    return table.fork_error;
}

vd_error
vd_handle_create(const struct vd_object_type *type, struct vd_object *object,
                 HANDLE *out)
{
    vd_error prepared = vd_handle_prepare();
    if (prepared) {
        return prepared;
    }
    VD_SCOPED_LOCK(&table.lock);
    if (table.first_free == NO_SLOT) {
        vd_error error = add_slots();
        if (error) {
            return error;
        }
    }
    size_t index = table.first_free;
    struct slot *slot = &table.slots[index];
    table.first_free = slot->next_free;
    table.object_count++;
    *object =
        (struct vd_object){.type = type, .index = index, .references = 1};
    slot->object = object;
    slot->closed = false;
    *out = encode(index);
    return ERROR_SUCCESS;
}

/* The slot of an open handle, NULL if it is none.  With the lock held. */
static struct slot *
find(HANDLE handle)
{
    size_t index = ((uintptr_t)handle >> TAG_BITS) & (SLOTS_MAX - 1);
    if (index >= table.slot_count) {
        return NULL;
    }
    struct slot *slot = &table.slots[index];
    bool open = slot->object != NULL && !slot->closed;
    return open && encode(index) == handle ? slot : NULL;
}

vd_error
vd_handle_acquire(HANDLE handle, struct vd_object **out)
{
    VD_SCOPED_LOCK(&table.lock);
    struct slot *slot = find(handle);
    if (slot == NULL) {
        return vd_refuse(ERROR_INVALID_HANDLE, "handle %p is not open",
                         handle);
    }
    slot->object->references++;
    *out = slot->object;
    return ERROR_SUCCESS;
}

void
vd_object_retain(struct vd_object *object)
{
    VD_SCOPED_LOCK(&table.lock);
    object->references++;
}

/* Whether that was the last reference. */
static bool
drop_reference(struct vd_object *object)
{
    VD_SCOPED_LOCK(&table.lock);
    if (--object->references > 0) {
        return false;
    }
    free_slot(object->index);
    table.object_count--;
    return true;
}

void
vd_object_release(struct vd_object *object)
{
    if (drop_reference(object)) {
        object->type->destroy(object);
    }
}

/* The object whose handle this was, NULL if it was none. */
static struct vd_object *
invalidate(HANDLE handle)
{
    VD_SCOPED_LOCK(&table.lock);
    struct slot *slot = find(handle);
    if (slot == NULL) {
        return NULL;
    }
    slot->closed = true;
    retire_generation(slot);
    return slot->object;
}

vd_error
vd_handle_close(HANDLE handle)
{
    struct vd_object *object = invalidate(handle);
    if (object == NULL) {
        return vd_refuse(ERROR_INVALID_HANDLE, "handle %p is not open",
                         handle);
    }
    if (object->type->close != NULL) {
        object->type->close(object);
    }
    vd_object_release(object);
    return ERROR_SUCCESS;
}

size_t
vd_handle_count(void)
{
    VD_SCOPED_LOCK(&table.lock);
    return table.object_count;
}

BOOL WINAPI
CloseHandle(HANDLE hObject)
{
    vd_error error = vd_handle_close(hObject);
    if (error) {
        SetLastError(error);
        return FALSE;
    }
    return TRUE;
}
