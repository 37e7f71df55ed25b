/*
 * Detaching, by its owner or by any other process.
 *
 * The device is claimed exclusively, so it is not mounted and cannot become
 * so, and flushed; the record is renamed, which tells the attacher's watcher
 * to let go; and when he has, the kernel is told to free the device, which it
 * does if no other opener is left.  If one is, everything is put back.  All
 * this time others can attach and detach other disks; two who detach the same
 * one take turns (vd_registry_lock_record).  At the end the image is closed:
 * whoever opens it next finds all that was written.
 */
#include "attach/detach.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "attach/closing.h"
#include "attach/held.h"
#include "attach/loop.h"
#include "attach/node.h"
#include "attach/udev.h"
#include "attach/wait.h"
#include "base/cleanup.h"
#include "base/trace.h"

#define DETACH_LIMIT_MS 5000
#define RETURN_LIMIT_MS 5000
/* Another process that looks for a free device may open ours, and to fail in
 * making it its own it claims it for a moment. */
#define STRANGER_LIMIT_MS 250

struct detaching {
    const struct vd_detach *target;
    bool withdrawn; /* its record says that it is being detached */
    bool alive;     /* its attacher was there */
    bool autoclear; /* as it was */
    int claim;      /* -1: no device */
    vd_error lost;  /* why the last writes did not reach the image */
};

static bool
has_device(const struct detaching *detaching)
{
    return vd_record_has_device(detaching->target->record);
}

static bool
has_file(const struct detaching *detaching)
{
    return vd_record_has_file(detaching->target->record);
}

/* What cannot be brought to the image now never will be: the kernel has
 * dropped it.  As close(2) does, detaching tells it and goes on. */
static vd_error
flush(int claim)
{
    if (fsync(claim) < 0) {
        vd_trace(VD_TRACE_ATTACH, "flushing the device: %s", strerror(errno));
        return vd_error_from_errno(errno);
    }
    return ERROR_SUCCESS;
}

static vd_error
claim_patiently(struct detaching *detaching)
{
    struct vd_wait wait = vd_wait_begin(STRANGER_LIMIT_MS);
    vd_error error;
    do {
        error =
            vd_loop_claim(&detaching->target->record->loop, &detaching->claim);
    } while (error == ERROR_BUSY && vd_wait_more(&wait));
    return error;
}

/* Unmounting is the last step already: it is refused while somebody has the
 * file open, and cannot be taken back. */
static vd_error
claim_file(struct detaching *detaching)
{
    const struct vd_record *record = detaching->target->record;
    detaching->lost = vd_shown_flush(&record->shown);
    return vd_shown_end(record, DETACH_LIMIT_MS) ? ERROR_SUCCESS : ERROR_BUSY;
}

static vd_error
claim_device(struct detaching *detaching)
{
    if (has_file(detaching)) {
        return claim_file(detaching);
    }
    if (!has_device(detaching)) {
        return ERROR_SUCCESS;
    }
    vd_error error = claim_patiently(detaching);
    if (error == ERROR_SUCCESS) {
        error = vd_loop_autoclear(detaching->claim, &detaching->autoclear);
    }
    if (error == ERROR_SUCCESS) {
        detaching->lost = flush(detaching->claim);
    }
    return error;
}

/* Renames the record and undoes what others see of it, or the reverse. */
static vd_error
mark_record(const struct detaching *detaching, bool is_detaching)
{
    const struct vd_detach *target = detaching->target;
    VD_AUTO_CLOSE int lock = -1;
    vd_error error = vd_registry_lock(target->dir, &lock);
    if (error == ERROR_SUCCESS) {
        error = vd_registry_set_detaching(target->dir, target->record->name,
                                          is_detaching);
    }
    return error;
}

/* The node while the device is still ours: afterwards it may have a new
 * owner with his own wishes. */
static void
restore_node(const struct detaching *detaching)
{
    const struct vd_record *record = detaching->target->record;
    if (has_device(detaching)) {
        vd_node_restore(record->loop.name, &record->node);
    }
}

static vd_error
withdraw(struct detaching *detaching)
{
    const struct vd_detach *target = detaching->target;
    if (target->dir >= 0) {
        detaching->alive = vd_registry_alive(target->record_fd);
        if (!target->record->detaching) {
            vd_error error = mark_record(detaching, true);
            if (error != ERROR_SUCCESS) {
                return error;
            }
        }
        vd_held_recheck(target->record->name);
    }
    else if (target->own != NULL) {
        vd_held_let_go(target->own);
    }
    detaching->withdrawn = true;
    restore_node(detaching);
    return ERROR_SUCCESS;
}

static vd_error
wait_for_attacher(const struct detaching *detaching, struct vd_wait *wait)
{
    const struct vd_detach *target = detaching->target;
    if (has_file(detaching)) {
        return ERROR_SUCCESS; /* he has nothing any more that he could hold */
    }
    while (target->dir >= 0 && vd_registry_alive(target->record_fd)) {
        if (!vd_wait_more(wait)) {
            vd_trace(VD_TRACE_ATTACH, "process %llu does not let go of %s",
                     (unsigned long long)target->record->pid,
                     target->record->name);
            return ERROR_BUSY;
        }
    }
    return ERROR_SUCCESS;
}

static vd_error
clear_device(const struct detaching *detaching, struct vd_wait *wait)
{
    if (!has_device(detaching)) {
        return ERROR_SUCCESS;
    }
    for (;;) {
        bool cleared;
        vd_error error = vd_loop_clear(detaching->claim, &cleared);
        if (error != ERROR_SUCCESS || cleared) {
            return error;
        }
        if (!vd_wait_more(wait)) {
            vd_trace(VD_TRACE_ATTACH, "%s is open elsewhere",
                     detaching->target->record->name);
            return ERROR_BUSY;
        }
    }
}

static void
close_claim(struct detaching *detaching)
{
    if (detaching->claim >= 0) {
        close(detaching->claim);
        detaching->claim = -1;
    }
}

/* Who opened the device just before it was cleared is the one whose close
 * frees it. */
static void
wait_for_strangers(const struct detaching *detaching)
{
    struct vd_wait wait = vd_wait_begin(DETACH_LIMIT_MS);
    while (has_device(detaching) &&
           vd_loop_bound(&detaching->target->record->loop) &&
           vd_wait_more(&wait)) {
    }
}

/* The device is free, and its name may be another's already: he has removed
 * what was left of ours. */
static void
forget(const struct vd_detach *target)
{
    VD_AUTO_CLOSE int lock = -1;
    bool is_detaching;
    if (vd_record_has_device(target->record)) {
        vd_udev_remove(&target->record->loop);
    }
    if (target->dir >= 0 &&
        vd_registry_lock(target->dir, &lock) == ERROR_SUCCESS &&
        vd_registry_current(target->dir, target->record->name,
                            target->record_fd, &is_detaching)) {
        vd_registry_remove(target->dir, target->record->name, is_detaching);
    }
}

/* A device with autoclear that nobody holds would go after all. */
static void
wait_for_return(const struct detaching *detaching)
{
    struct vd_wait wait = vd_wait_begin(RETURN_LIMIT_MS);
    while (detaching->alive &&
           !vd_registry_alive(detaching->target->record_fd) &&
           vd_wait_more(&wait)) {
    }
}

static void
return_to_attacher(const struct detaching *detaching)
{
    const struct vd_detach *target = detaching->target;
    if (target->dir >= 0) {
        if (mark_record(detaching, false) == ERROR_SUCCESS) {
            vd_held_recheck(target->record->name);
            wait_for_return(detaching);
        }
    }
    else if (target->own != NULL) {
        vd_held_take_up_again(target->own);
    }
}

static void
put_back(const struct detaching *detaching)
{
    const struct vd_record *record = detaching->target->record;
    if (!detaching->withdrawn) {
        return;
    }
    if (has_device(detaching)) {
        struct vd_node_change again = vd_node_reversed(&record->node);
        vd_node_restore(record->loop.name, &again);
        if (vd_loop_set_autoclear(detaching->claim, detaching->autoclear) !=
            ERROR_SUCCESS) {
            vd_trace(VD_TRACE_ATTACH, "%s will go with its last opener",
                     record->name);
        }
    }
    return_to_attacher(detaching);
}

static vd_error
take_away(struct detaching *detaching)
{
    struct vd_wait wait = vd_wait_begin(DETACH_LIMIT_MS);
    vd_error error = wait_for_attacher(detaching, &wait);
    if (error == ERROR_SUCCESS) {
        error = clear_device(detaching, &wait);
    }
    return error;
}

vd_error
vd_detach(const struct vd_detach *target)
{
    struct detaching detaching = {.target = target, .claim = -1};
    vd_error error = claim_device(&detaching);
    if (error == ERROR_SUCCESS) {
        error = withdraw(&detaching);
    }
    if (error == ERROR_SUCCESS) {
        error = take_away(&detaching);
    }
    if (error != ERROR_SUCCESS) {
        put_back(&detaching);
    }
    close_claim(&detaching); /* which is what frees the device */
    if (error == ERROR_SUCCESS) {
        wait_for_strangers(&detaching);
        forget(target);
        vd_closing_wait(target->record);
        if (has_file(&detaching)) {
            vd_shown_wait(target->record);
        }
        error = detaching.lost;
    }
    return error;
}

vd_error
vd_detach_entry(int dir, struct vd_entry *entry)
{
    struct vd_detach target = {
        .dir = dir,
        .record = &entry->record,
        .record_fd = entry->fd,
    };
    vd_error error = vd_registry_lock_record(entry->fd);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (!vd_registry_current(dir, entry->record.name, entry->fd,
                             &entry->record.detaching)) {
        vd_trace(VD_TRACE_ATTACH, "%s was detached by somebody else",
                 entry->record.name);
        return ERROR_NOT_READY;
    }
    return vd_detach(&target);
}
