/*
 * Scope-bound clean-up, so that the engine needs neither goto nor repeated
 * frees: VD_AUTO_FREE, VD_AUTO_CLOSE, VD_SCOPED_LOCK; VD_TAKE hands over.
 * With checked.h the only place of GNU extensions.
 */
#ifndef VD_BASE_CLEANUP_H
#define VD_BASE_CLEANUP_H

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static inline void
vd_cleanup_free(void *pointer_to_pointer)
{
    free(*(void **)pointer_to_pointer);
}

/* Keeps errno: the error that made the scope end is still to be read. */
static inline void
vd_cleanup_close(const int *fd)
{
    if (*fd >= 0) {
        int saved = errno;
        close(*fd);
        errno = saved;
    }
}

static inline void
vd_cleanup_unlock(pthread_mutex_t **mutex)
{
    pthread_mutex_unlock(*mutex);
}

static inline pthread_mutex_t *
vd_lock_mutex(pthread_mutex_t *mutex)
{
    pthread_mutex_lock(mutex);
    return mutex;
}

/* VD_AUTO_FREE char *text = NULL;       freed when the scope ends */
#define VD_AUTO_FREE __attribute__((cleanup(vd_cleanup_free)))

/* VD_AUTO_CLOSE int fd = -1;            closed when the scope ends */
#define VD_AUTO_CLOSE __attribute__((cleanup(vd_cleanup_close)))

#define VD_PASTE_(a, b) a##b
#define VD_PASTE(a, b) VD_PASTE_(a, b)

/* VD_SCOPED_LOCK(&table.lock);          held until the scope ends */
#define VD_SCOPED_LOCK(mutex)                                                 \
    __attribute__((cleanup(vd_cleanup_unlock), unused)) pthread_mutex_t *     \
    VD_PASTE(vd_scoped_lock_, __LINE__) = vd_lock_mutex(mutex)

/* Hands a VD_AUTO_FREE pointer to its next owner. */
#define VD_TAKE(pointer)                                                      \
    ({                                                                        \
        __typeof__(pointer) vd_taken = (pointer);                             \
        (pointer) = NULL;                                                     \
        vd_taken;                                                             \
    })

static inline int
vd_take_fd(int *fd)
{
    int taken = *fd;
    *fd = -1;
    return taken;
}

#endif
