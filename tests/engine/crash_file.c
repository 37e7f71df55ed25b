/*
 * See crash_file.h.  Content is kept in 4 KiB pages, so large files with
 * holes cost little.
 */
#include "crash_file.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "random.h"

#define PAGE 4096
#define SECTOR 512
#define PAGES ((size_t)1 << 16) /* 256 MiB */

enum event_kind { EVENT_WRITE, EVENT_TRUNCATE, EVENT_PUNCH, EVENT_FLUSH };

struct event {
    enum event_kind kind;
    uint64_t offset;
    uint64_t length;
    uint8_t *data; /* EVENT_WRITE */
    size_t time;
};

struct content {
    uint8_t *pages[PAGES];
    uint64_t size;
};

struct crash_file {
    struct vd_file file;    /* first */
    struct content *origin; /* NULL: empty */
    struct crash_file *clock_of;
    size_t clock;
    uint8_t *pages[PAGES];
    uint64_t size;
    struct event *events;
    size_t count, capacity;
    size_t countdown;
    vd_error error;
    bool ordered;
};

/* Memory of the test, which check_fail_allocation leaves alone. */
void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *pointer, size_t size);

static void *
must(void *memory)
{
    if (memory == NULL) {
        check_broken("out of memory");
    }
    return memory;
}

/* ---- content ---- */

static uint8_t *
page_of(struct crash_file *file, uint64_t offset)
{
    size_t number = (size_t)(offset / PAGE);
    if (number >= PAGES) {
        check_broken("the file is too large for the test");
    }
    if (file->pages[number] == NULL) {
        file->pages[number] = must(__real_calloc(1, PAGE));
    }
    return file->pages[number];
}

static void
put(struct crash_file *file, const uint8_t *data, uint64_t offset,
    uint64_t length)
{
    while (length != 0) {
        uint64_t piece = PAGE - offset % PAGE;
        if (piece > length) {
            piece = length;
        }
        uint8_t *to = page_of(file, offset) + offset % PAGE;
        if (data != NULL) {
            memcpy(to, data, (size_t)piece);
            data += piece;
        }
        else {
            memset(to, 0, (size_t)piece);
        }
        offset += piece;
        length -= piece;
    }
}

static void
set_size(struct crash_file *file, uint64_t size)
{
    if (size < file->size) {
        put(file, NULL, size, file->size - size);
    }
    file->size = size;
}

/* ---- events ---- */

static bool
fails(struct crash_file *file)
{
    if (file->countdown == 0 || --file->countdown != 0) {
        return false;
    }
    return true;
}

static void
record(struct crash_file *file, enum event_kind kind, uint64_t offset,
       uint64_t length, const void *data)
{
    if (file->count == file->capacity) {
        file->capacity = file->capacity * 2 + 64;
        file->events = must(__real_realloc(
            file->events, file->capacity * sizeof(*file->events)));
    }
    struct event *event = &file->events[file->count++];
    *event = (struct event){
        .kind = kind,
        .offset = offset,
        .length = length,
        .time = file->clock_of->clock++,
    };
    if (data != NULL) {
        event->data = must(__real_malloc((size_t)length + 1));
        memcpy(event->data, data, (size_t)length);
    }
}

static vd_error
crash_pread(struct vd_file *base, void *buffer, size_t length, uint64_t offset)
{
    struct crash_file *file = (struct crash_file *)base;
    uint8_t *to = buffer;
    if (offset > file->size || length > file->size - offset) {
        return ERROR_HANDLE_EOF;
    }
    while (length != 0) {
        size_t piece = PAGE - (size_t)(offset % PAGE);
        if (piece > length) {
            piece = length;
        }
        const uint8_t *page = file->pages[offset / PAGE];
        if (page != NULL) {
            memcpy(to, page + offset % PAGE, piece);
        }
        else {
            memset(to, 0, piece);
        }
        to += piece;
        offset += piece;
        length -= piece;
    }
    return ERROR_SUCCESS;
}

static vd_error
crash_pwrite(struct vd_file *base, const void *buffer, size_t length,
             uint64_t offset)
{
    struct crash_file *file = (struct crash_file *)base;
    if (fails(file)) {
        return file->error;
    }
    record(file, EVENT_WRITE, offset, length, buffer);
    put(file, buffer, offset, length);
    if (offset + length > file->size) {
        file->size = offset + length;
    }
    return ERROR_SUCCESS;
}

static vd_error
crash_flush(struct vd_file *base)
{
    struct crash_file *file = (struct crash_file *)base;
    if (fails(file)) {
        return file->error;
    }
    record(file, EVENT_FLUSH, 0, 0, NULL);
    return ERROR_SUCCESS;
}

static vd_error
crash_size(struct vd_file *base, uint64_t *size_out)
{
    *size_out = ((struct crash_file *)base)->size;
    return ERROR_SUCCESS;
}

static vd_error
crash_truncate(struct vd_file *base, uint64_t size)
{
    struct crash_file *file = (struct crash_file *)base;
    if (fails(file)) {
        return file->error;
    }
    record(file, EVENT_TRUNCATE, size, 0, NULL);
    set_size(file, size);
    return ERROR_SUCCESS;
}

static vd_error
crash_punch(struct vd_file *base, uint64_t offset, uint64_t length)
{
    struct crash_file *file = (struct crash_file *)base;
    if (fails(file)) {
        return file->error;
    }
    record(file, EVENT_PUNCH, offset, length, NULL);
    if (offset < file->size) {
        uint64_t rest = file->size - offset;
        put(file, NULL, offset, length < rest ? length : rest);
    }
    return ERROR_SUCCESS;
}

/* What a file system may do at once: the length grows, space is only a
 * promise. */
static vd_error
crash_allocate(struct vd_file *base, uint64_t offset, uint64_t length)
{
    struct crash_file *file = (struct crash_file *)base;
    if (fails(file)) {
        return file->error;
    }
    if (offset + length > file->size) {
        record(file, EVENT_TRUNCATE, offset + length, 0, NULL);
        set_size(file, offset + length);
    }
    return ERROR_SUCCESS;
}

static const struct vd_file_ops crash_ops = {
    .pread = crash_pread,
    .pwrite = crash_pwrite,
    .flush = crash_flush,
    .size = crash_size,
    .truncate = crash_truncate,
    .punch = crash_punch,
    .allocate = crash_allocate,
};

struct crash_file *
crash_file_new(void)
{
    struct crash_file *file = must(__real_calloc(1, sizeof(*file)));
    file->file.ops = &crash_ops;
    file->clock_of = file;
    return file;
}

static void
forget_events(struct crash_file *file)
{
    for (size_t i = 0; i < file->count; i++) {
        free(file->events[i].data);
    }
    file->count = 0;
}

static void
forget_origin(struct crash_file *file)
{
    for (size_t i = 0; file->origin != NULL && i < PAGES; i++) {
        free(file->origin->pages[i]);
    }
    free(file->origin);
    file->origin = NULL;
}

void
crash_file_free(struct crash_file *file)
{
    for (size_t i = 0; i < PAGES; i++) {
        free(file->pages[i]);
    }
    forget_events(file);
    forget_origin(file);
    free(file->events);
    free(file);
}

static void
copy_pages(uint8_t *const from[PAGES], uint8_t *to[PAGES])
{
    for (size_t i = 0; i < PAGES; i++) {
        if (from[i] != NULL) {
            to[i] = must(malloc(PAGE));
            memcpy(to[i], from[i], PAGE);
        }
    }
}

void
crash_file_settle(struct crash_file *file)
{
    forget_events(file);
    forget_origin(file);
    file->origin = must(calloc(1, sizeof(*file->origin)));
    file->origin->size = file->size;
    copy_pages(file->pages, file->origin->pages);
}

void
crash_file_share_clock(struct crash_file *file, struct crash_file *with)
{
    file->clock_of = with->clock_of;
}

size_t
crash_file_clock(const struct crash_file *file)
{
    return file->clock_of->clock;
}

size_t
crash_file_events_before(const struct crash_file *file, size_t time)
{
    size_t events = 0;
    while (events < file->count && file->events[events].time < time) {
        events++;
    }
    return events;
}

struct vd_file *
crash_file_of(struct crash_file *file)
{
    return &file->file;
}

size_t
crash_file_events(const struct crash_file *file)
{
    return file->count;
}

void
crash_file_fail(struct crash_file *file, size_t countdown, vd_error error)
{
    file->countdown = countdown;
    file->error = error;
}

bool
crash_file_waits(const struct crash_file *file)
{
    return file->countdown != 0;
}

void
crash_file_order_appends(struct crash_file *file)
{
    file->ordered = true;
}

/* ---- power cuts ---- */

static void
apply_whole(struct crash_file *medium, const struct event *event)
{
    switch (event->kind) {
    case EVENT_WRITE:
        put(medium, event->data, event->offset, event->length);
        if (event->offset + event->length > medium->size) {
            medium->size = event->offset + event->length;
        }
        break;
    case EVENT_PUNCH:
        if (event->offset < medium->size) {
            uint64_t rest = medium->size - event->offset;
            put(medium, NULL, event->offset,
                event->length < rest ? event->length : rest);
        }
        break;
    case EVENT_TRUNCATE:
        set_size(medium, event->offset);
        break;
    case EVENT_FLUSH:
        break;
    }
}

/* All, nothing, or each sector by the toss of a coin, in runs: most of what is
 * written together also reaches the medium together. */
static void
apply_some(struct crash_file *medium, const struct event *event,
           struct random *random)
{
    uint64_t end = event->offset + event->length;
    bool taken = random_below(random, 2) == 0;
    bool whole =
        medium->ordered && event->kind == EVENT_WRITE && end > medium->size;
    if (!whole && event->kind == EVENT_WRITE && end > medium->size &&
        random_below(random, 2) == 0) {
        medium->size = end; /* whatever of the content comes with it */
    }
    if (whole || event->kind == EVENT_TRUNCATE || event->kind == EVENT_FLUSH ||
        random_below(random, 3) != 0) {
        if (taken) {
            apply_whole(medium, event);
        }
        return;
    }
    for (uint64_t at = event->offset; at < end;) {
        uint64_t next = (at / SECTOR + 1) * SECTOR;
        if (next > end) {
            next = end;
        }
        if (random_below(random, 8) == 0) {
            taken = !taken;
        }
        struct event part = {
            .kind = event->kind,
            .offset = at,
            .length = next - at,
            .data = event->data != NULL ? event->data + (at - event->offset)
                                        : NULL,
        };
        if (taken) {
            apply_whole(medium, &part);
        }
        at = next;
    }
}

struct crash_file *
crash_file_image(const struct crash_file *file, size_t events, uint64_t seed)
{
    struct crash_file *medium = crash_file_new();
    medium->ordered = file->ordered;
    if (file->origin != NULL) {
        medium->size = file->origin->size;
        copy_pages(file->origin->pages, medium->pages);
    }
    struct random random = {seed};
    size_t durable = 0;
    for (size_t i = 0; i < events; i++) {
        if (file->events[i].kind == EVENT_FLUSH) {
            durable = i + 1;
        }
    }
    for (size_t i = 0; i < events; i++) {
        if (i < durable || seed == 0) {
            apply_whole(medium, &file->events[i]);
        }
        else {
            apply_some(medium, &file->events[i], &random);
        }
    }
    return medium;
}
